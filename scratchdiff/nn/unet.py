"""The U-Net of Ho et al. 2020 (Appendix B): down to a few pixels and up again, with skip connections at every level."""

import numpy as np

from scratchdiff import ops
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.nn.layers import (
    Conv2d,
    GroupNormSiLU,
    SelfAttention,
    SiLULinear,
    TimestepMLP,
    as_input,
    check_input,
    check_labels,
    zeros,
)
from scratchdiff.nn.module import Module


class ResBlock(Module):
    """shortcut(x) + conv2(dropout(SiLU(GN(conv1(SiLU(GN(x))) + temb)))), then self-attention where `attention` is True.

    x: (N, H, W, in_channels), temb: (N, temb_width) → (N, H, W, out_channels). conv2 starts at zero. The shortcut is a
    1×1 convolution where the channels change, else the identity. The timestep enters as conv1's bias, one per image, which
    is the same as adding it to every pixel.
    """

    def __init__(
        self, in_channels, out_channels, temb_width, *, groups, attention=False, dropout=0.0, rng, dtype=np.float32
    ):
        kw = dict(rng=rng, dtype=dtype)
        require(0 <= dropout < 1, "ResBlock: dropout must be in [0, 1)", dropout=dropout)
        self.norm1 = GroupNormSiLU(in_channels, groups, dtype=dtype)
        self.conv1 = Conv2d(in_channels, out_channels, **kw)
        self.temb_proj = SiLULinear(temb_width, out_channels, **kw)
        self.norm2 = GroupNormSiLU(out_channels, groups, dtype=dtype)
        self.conv2 = Conv2d(out_channels, out_channels, zero=True, **kw)
        self.shortcut = Conv2d(in_channels, out_channels, 1, **kw) if in_channels != out_channels else None
        self.attn = SelfAttention(out_channels, groups, **kw) if attention else None
        self.dropout = dropout

    def __call__(self, x, temb, dropout_rng=None):
        h = self.conv1(self.norm1(x), image_bias=self.temb_proj(temb))
        h = self.norm2(h)
        if dropout_rng is not None and self.dropout > 0:
            h = ops.dropout(h, rate=self.dropout, rng=dropout_rng)
        h = self.conv2(h) + (x if self.shortcut is None else self.shortcut(x))
        return h if self.attn is None else self.attn(h)


class Downsample(Module):
    """A 3×3 convolution with stride 2, padded right and bottom.   (N, H, W, C) → (N, ⌈H/2⌉, ⌈W/2⌉, C) for even H, W."""

    def __init__(self, channels, *, rng, dtype=np.float32):
        self.conv = Conv2d(channels, channels, stride=2, rng=rng, dtype=dtype)

    def __call__(self, x, temb, dropout_rng=None):
        return self.conv(x)


class Upsample(Module):
    """Nearest ×2, then a 3×3 convolution.   (N, H, W, C) → (N, 2H, 2W, C)."""

    def __init__(self, channels, *, rng, dtype=np.float32):
        self.conv = Conv2d(channels, channels, rng=rng, dtype=dtype)

    def __call__(self, x):
        return self.conv(ops.upsample_nearest(x))


class UNet(Module):
    """The denoiser for images: model(xt, t) → (N, image_size, image_size, out_channels).

    image_size, in_channels, out_channels: of the images. ch: channels at full resolution; ch_mult: their multiple at each
    level; the resolution halves between levels. num_res_blocks: per level, this many blocks on the way down and one more
    on the way up. attn_resolutions: the sizes at which each block ends in self-attention (the middle always has it).
    groups: of every group norm; dropout: its rate in training. patch_size p: the network sees p × p patches as pixels with
    p² channels (image_size/p is then the full resolution), which makes a step about p² times cheaper. num_classes: if
    given, the network takes the class of each image: it learns a vector per class, and one more for "any class", and adds
    the right one to temb.

    xt: (N, H, W, in_channels), t: (N,) integers 1..T. An array is cast to the network's dtype. labels: (N,) integers
    0..num_classes; num_classes itself, like None, means any class. dropout_rng draws the dropout masks; without it nothing
    is dropped. Skips are concatenated as [h, skip]; every last convolution starts at zero, so the untrained network
    returns 0. Raises ValueError for sizes that are not positive integers or do not divide, and for inputs of other shapes.
    """

    def __init__(self, image_size, in_channels, out_channels, ch, ch_mult, num_res_blocks, attn_resolutions, groups=32,
                 dropout=0.0, dtype=np.float32, *, rng, patch_size=1, num_classes=None):  # fmt: skip
        sizes = dict(image_size=image_size, in_channels=in_channels, out_channels=out_channels, ch=ch, groups=groups,
                     num_res_blocks=num_res_blocks, patch_size=patch_size, levels=len(ch_mult))  # fmt: skip
        require_positive_integers("UNet", **sizes, num_classes=1 if num_classes is None else num_classes)
        require_positive_integers("UNet", **{f"ch_mult[{i}]": mult for i, mult in enumerate(ch_mult)})
        levels = len(ch_mult)
        require(image_size % (patch_size * 2 ** (levels - 1)) == 0,
                f"UNet: {levels} levels on patches of {patch_size} do not divide images of {image_size} pixels")  # fmt: skip
        channels = [ch * mult for mult in ch_mult]
        require(all(c % groups == 0 for c in channels), f"UNet: {groups} groups do not divide the channels {channels}")
        self.image_size, self.in_channels, self.patch_size = image_size, in_channels, patch_size
        self.dropout, self.dtype, self.num_classes = dropout, dtype, num_classes
        kw = dict(rng=rng, dtype=dtype)
        width = 4 * ch

        def block(c_in, c_out, size):
            return ResBlock(c_in, c_out, width, groups=groups, attention=size in attn_resolutions, dropout=dropout, **kw)

        self.temb = TimestepMLP(ch, width, **kw)
        self.class_emb = zeros((num_classes + 1, width), dtype) if num_classes else None
        self.conv_in = Conv2d(in_channels * patch_size**2, ch, **kw)

        size, c, skips = image_size // patch_size, ch, [ch]  # skips: the channels of each skip connection
        self.down = []
        for level, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.down.append(block(c, ch * mult, size))
                c = ch * mult
                skips.append(c)
            if level < levels - 1:
                self.down.append(Downsample(c, **kw))
                size //= 2
                skips.append(c)

        self.mid = [block(c, c, None), block(c, c, None)]
        self.mid_attn = SelfAttention(c, groups, **kw)

        self.up = []
        for level, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.up.append(block(c + skips.pop(), ch * mult, size))
                c = ch * mult
            if level > 0:
                self.up.append(Upsample(c, **kw))
                size *= 2
        assert not skips and size == image_size // patch_size

        self.norm_out = GroupNormSiLU(c, groups, dtype=dtype)
        self.conv_out = Conv2d(c, out_channels * patch_size**2, zero=True, **kw)

    def __call__(self, xt, t, labels=None, dropout_rng=None):
        check_input("UNet", xt, t, (self.image_size, self.image_size, self.in_channels))
        temb = self.temb(t)
        if (labels := check_labels("UNet", labels, self.num_classes, len(temb))) is not None:
            temb = temb + self.class_emb[labels]
        h = as_input(xt, self.dtype)
        if self.patch_size > 1:
            h = ops.space_to_depth(h, block=self.patch_size)
        h = self.conv_in(h)

        skips = [h]
        for layer in self.down:
            h = layer(h, temb, dropout_rng)
            skips.append(h)

        h = self.mid[0](h, temb, dropout_rng)
        h = self.mid_attn(h)
        h = self.mid[1](h, temb, dropout_rng)

        for layer in self.up:
            h = layer(h) if isinstance(layer, Upsample) else layer(ops.concat([h, skips.pop()]), temb, dropout_rng)
        assert not skips

        h = self.conv_out(self.norm_out(h))
        return ops.depth_to_space(h, block=self.patch_size) if self.patch_size > 1 else h
