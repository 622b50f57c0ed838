"""The denoiser for points in the plane: residual blocks of two linear layers, each told the timestep."""

import numpy as np

from scratchdiff.nn.layers import Linear, TimestepMLP, as_input, check_input, check_sizes
from scratchdiff.nn.module import Module


class MLPBlock(Module):
    """h + dense2(SiLU(dense1(SiLU(h)) + temb_proj(SiLU(temb)))); dense2 starts at zero, so the block as identity."""

    def __init__(self, width, *, rng, dtype=np.float32):
        self.dense1 = Linear(width, width, silu=True, rng=rng, dtype=dtype)
        self.temb_proj = Linear(width, width, silu=True, rng=rng, dtype=dtype)
        self.dense2 = Linear(width, width, silu=True, rng=rng, dtype=dtype, zero=True)

    def __call__(self, h, temb):
        return h + self.dense2(self.dense1(h) + self.temb_proj(temb))


class MLP(Module):
    """The toy denoiser: model(xt, t) → what `predict` names, as the U-Net.

    dim: coordinates of a point; width, num_blocks: of the residual trunk; out_dim: numbers it puts out, if not dim.
    xt: (N, dim), t: (N,) integers → (N, out_dim). The last layer starts at zero.
    Raises ValueError for sizes out of range (width ≥ 4) and for inputs of other shapes.
    """

    def __init__(self, dim=2, width=128, num_blocks=3, out_dim=None, *, rng, dtype=np.float32):
        check_sizes("MLP", dim=dim, width=width, num_blocks=num_blocks)
        if width < 4:
            raise ValueError(f"MLP: the timestep's sines and cosines need a width of at least 4, got {width}")
        self.dim, self.dtype = dim, dtype
        self.temb = TimestepMLP(width, width, rng=rng, dtype=dtype)
        self.dense_in = Linear(dim, width, rng=rng, dtype=dtype)
        self.blocks = [MLPBlock(width, rng=rng, dtype=dtype) for _ in range(num_blocks)]
        self.dense_out = Linear(width, out_dim or dim, silu=True, rng=rng, dtype=dtype, zero=True)

    def __call__(self, xt, t):
        check_input("MLP", xt, t, (self.dim,))
        temb = self.temb(t)
        h = self.dense_in(as_input(xt, self.dtype))
        for block in self.blocks:
            h = block(h, temb)
        return self.dense_out(h)
