"""The diffusion Transformer, DiT (Peebles & Xie 2023): the image as a sequence of patches, the time in the norms."""

import numpy as np

from scratchdiff import ops
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.nn.layers import Linear, SiLULinear, TimestepMLP, as_input, check_input, check_labels, zeros
from scratchdiff.nn.module import Module
from scratchdiff.nn.transformer import FeedForward, MultiHeadAttention


class DiTBlock(Module):
    """x + g₁ · attention(m₁(x)), then x + g₂ · feed_forward(m₂(x)), with m(x) = (1 + scale) · LN(x) + shift.

    This is adaLN-zero (Peebles & Xie 2023, section 3.2). One linear layer of the condition c (N, width) gives each image its
    scales, shifts and gates g. It starts at zero, so the block starts as the identity.   x: (N, L, width) → same."""

    def __init__(self, width, heads, hidden, *, rng, dtype=np.float32):
        self.modulation = SiLULinear(width, 6 * width, rng=rng, dtype=dtype, zero=True)
        self.attention = MultiHeadAttention(width, heads, rng=rng, dtype=dtype)
        self.feed_forward = FeedForward(width, hidden, ops.gelu, rng=rng, dtype=dtype)

    def __call__(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = split(self.modulation(c), 6)
        x = x + gate1 * self.attention(modulated_norm(x, scale1, shift1))
        return x + gate2 * self.feed_forward(modulated_norm(x, scale2, shift2))


def split(c, parts: int) -> list:
    """(N, parts · width) → that many (N, 1, width), ready to meet a sequence (N, L, width)."""
    width = c.shape[1] // parts
    return [c[:, None, i * width : (i + 1) * width] for i in range(parts)]


def modulated_norm(x, scale, shift):
    """(1 + scale) · LN(x) + shift, where LN has no parameters of its own."""
    width = x.shape[-1]
    return (1 + scale) * ops.layer_norm(x, np.ones(width, x.dtype), np.zeros(width, x.dtype)) + shift


class DiT(Module):
    """A Transformer as the denoiser for images: model(xt, t, labels=) → (N, image_size, image_size, out_channels).

    Each patch_size × patch_size patch is one position; sines and cosines of its row and column say where it lies. Time and
    class enter every block through its norms. image_size, in_channels, out_channels, num_classes, xt, t, labels: as `UNet`.
    width: of the sequence; depth: number of blocks; heads: of each attention; mlp_ratio: hidden units of the feed-forward
    network per unit of width. The last layer starts at zero, so the untrained network returns 0.
    Raises ValueError for sizes that are not positive integers or do not divide, and for inputs of other shapes.
    """

    def __init__(self, image_size, in_channels, out_channels, width=128, depth=4, heads=4, patch_size=4, mlp_ratio=4,
                 dtype=np.float32, *, rng, num_classes=None):  # fmt: skip
        sizes = dict(image_size=image_size, in_channels=in_channels, out_channels=out_channels, width=width, depth=depth,
                     patch_size=patch_size, mlp_ratio=mlp_ratio)  # fmt: skip
        require_positive_integers("DiT", **sizes, num_classes=1 if num_classes is None else num_classes)
        require(image_size % patch_size == 0, f"DiT: patches of {patch_size} do not tile images of {image_size} pixels")
        require(width >= 8, "DiT: the sines of rows and columns need a width of at least 8", width=width)
        self.image_size, self.in_channels, self.patch_size = image_size, in_channels, patch_size
        self.num_classes, self.dtype = num_classes, dtype
        kw = dict(rng=rng, dtype=dtype)

        self.temb = TimestepMLP(width, width, **kw)
        self.class_emb = zeros((num_classes + 1, width), dtype) if num_classes else None
        self.patch_in = Linear(in_channels * patch_size**2, width, **kw)
        self.positions = patch_positions(image_size // patch_size, width).astype(dtype)
        self.blocks = [DiTBlock(width, heads, mlp_ratio * width, **kw) for _ in range(depth)]
        self.modulation_out = SiLULinear(width, 2 * width, zero=True, **kw)
        self.patch_out = Linear(width, out_channels * patch_size**2, zero=True, **kw)

    def __call__(self, xt, t, labels=None):
        check_input("DiT", xt, t, (self.image_size, self.image_size, self.in_channels))
        c = self.temb(t)
        if (labels := check_labels("DiT", labels, self.num_classes, len(c))) is not None:
            c = c + self.class_emb[labels]

        patches = ops.space_to_depth(as_input(xt, self.dtype), block=self.patch_size)  # (N, rows, columns, numbers)
        N, rows, columns, numbers = patches.shape
        h = self.patch_in(patches.reshape(N, rows * columns, numbers)) + self.positions
        for block in self.blocks:
            h = block(h, c)
        shift, scale = split(self.modulation_out(c), 2)
        y = self.patch_out(modulated_norm(h, scale, shift))
        return ops.depth_to_space(y.reshape(N, rows, columns, y.shape[2]), block=self.patch_size)


def patch_positions(size: int, width: int) -> np.ndarray:
    """(size², width): for each patch the sines and cosines of its row, then those of its column."""
    row, column = np.divmod(np.arange(size**2), size)
    half = width // 2
    return np.concatenate([ops.timestep_embedding(row, half).data, ops.timestep_embedding(column, width - half).data], 1)
