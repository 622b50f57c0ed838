"""The denoiser for points in the plane: residual blocks of two linear layers, each given the timestep."""

import numpy as np

from scratchdiff.checks import require, require_positive_integers
from scratchdiff.nn.layers import Linear, SiLULinear, TimestepMLP, as_input, check_input
from scratchdiff.nn.module import Module


class MLPBlock(Module):
    """h + dense2(SiLU(dense1(SiLU(h)) + temb_proj(SiLU(temb)))); dense2 starts at zero: at first h."""

    def __init__(self, width, *, rng, dtype=np.float32):
        self.dense1 = SiLULinear(width, width, rng=rng, dtype=dtype)
        self.temb_proj = SiLULinear(width, width, rng=rng, dtype=dtype)
        self.dense2 = SiLULinear(width, width, rng=rng, dtype=dtype, zero=True)

    def __call__(self, h, temb):
        return h + self.dense2(self.dense1(h) + self.temb_proj(temb))


class MLP(Module):
    """The toy denoiser: model(xt, t), called like the U-Net.

    dim: coordinates of a point; width, num_blocks: of the residual trunk; out_dim: size of the output, if not dim.
    xt: (N, dim), t: (N,) integers → (N, out_dim). The last layer starts at zero.
    Raises ValueError for sizes out of range (width ≥ 4) and for inputs of other shapes.
    """

    def __init__(self, dim=2, width=128, num_blocks=3, out_dim=None, *, rng, dtype=np.float32):
        require_positive_integers("MLP", dim=dim, width=width, num_blocks=num_blocks)
        require(width >= 4, "MLP: the timestep's sines and cosines need a width of at least 4", width=width)
        self.dim, self.dtype = dim, dtype
        self.temb = TimestepMLP(width, width, rng=rng, dtype=dtype)
        self.dense_in = Linear(dim, width, rng=rng, dtype=dtype)
        self.blocks = [MLPBlock(width, rng=rng, dtype=dtype) for _ in range(num_blocks)]
        self.dense_out = SiLULinear(width, out_dim or dim, rng=rng, dtype=dtype, zero=True)

    def __call__(self, xt, t):
        check_input("MLP", xt, t, (self.dim,))
        temb = self.temb(t)
        h = self.dense_in(as_input(xt, self.dtype))
        for block in self.blocks:
            h = block(h, temb)
        return self.dense_out(h)
