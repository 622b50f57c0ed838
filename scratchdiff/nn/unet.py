"""The U-Net of Ho et al. 2020 (Appendix B): down to a few pixels and up again, with skip connections at every level."""

import numpy as np

from scratchdiff import ops
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.nn.layers import (
    Conv2d,
    GroupNorm,
    GroupNormSiLU,
    SelfAttention,
    SiLULinear,
    TimestepMLP,
    as_input,
    check_cond,
    check_input,
    check_labels,
    zeros,
)
from scratchdiff.nn.module import Module


class ResBlock(Module):
    """shortcut(x) + conv2(dropout(SiLU(GN(conv1(SiLU(GN(x))) + temb)))), then self-attention of `heads` heads, if any.

    x: (N, H, W, in_channels), temb: (N, temb_width) → (N, H, W, out_channels). conv2 starts at zero. The shortcut is a
    1×1 convolution where the channels change, else the identity. The timestep enters as conv1's bias, one per image, which
    is the same as adding it to every pixel. scale_shift: it becomes a scale s and a shift b of the second norm instead,
    SiLU((1 + s) GN(h) + b)   (Nichol & Dhariwal 2021, Appendix A). kernel: that of conv1 and conv2.
    """

    def __init__(
        self, in_channels, out_channels, temb_width, *, groups, eps=1e-6, heads=0, scale_shift=False, dropout=0.0,
        kernel=3, rng, dtype=np.float32,
    ):  # fmt: skip
        kw, norm_kw = dict(rng=rng, dtype=dtype), dict(eps=eps, dtype=dtype)
        require(0 <= dropout < 1, "ResBlock: dropout must be in [0, 1)", dropout=dropout)
        self.norm1 = GroupNormSiLU(in_channels, groups, **norm_kw)
        self.conv1 = Conv2d(in_channels, out_channels, kernel, **kw)
        self.temb_proj = SiLULinear(temb_width, 2 * out_channels if scale_shift else out_channels, **kw)
        self.norm2 = (GroupNorm if scale_shift else GroupNormSiLU)(out_channels, groups, **norm_kw)
        self.conv2 = Conv2d(out_channels, out_channels, kernel, zero=True, **kw)
        self.shortcut = Conv2d(in_channels, out_channels, 1, **kw) if in_channels != out_channels else None
        self.attn = SelfAttention(out_channels, groups, heads, eps=eps, **kw) if heads else None
        self.scale_shift, self.dropout = scale_shift, dropout

    def __call__(self, x, temb, dropout_rng=None):
        h, temb = self.norm1(x), self.temb_proj(temb)
        if self.scale_shift:
            s, b = temb.reshape(len(temb), 2, 1, 1, -1).transpose(1, 0, 2, 3, 4)  # (N, 2C) → two of (N, 1, 1, C)
            h = ops.silu((1 + s) * self.norm2(self.conv1(h)) + b)
        else:
            h = self.norm2(self.conv1(h, image_bias=temb))
        if dropout_rng is not None and self.dropout > 0:
            h = ops.dropout(h, rate=self.dropout, rng=dropout_rng)
        h = self.conv2(h) + (x if self.shortcut is None else self.shortcut(x))
        return h if self.attn is None else self.attn(h)


class Downsample(Module):
    """A 3×3 convolution with stride 2, padded right and bottom, or as `padding` says.   (N, H, W, C) → (N, H/2, W/2, C)."""

    def __init__(self, channels, padding="same", *, kernel=3, rng, dtype=np.float32):
        self.conv = Conv2d(channels, channels, kernel, stride=2, padding=padding, rng=rng, dtype=dtype)

    def __call__(self, x, temb, dropout_rng=None):
        return self.conv(x)


class Upsample(Module):
    """Nearest ×2, then a 3×3 convolution.   (N, H, W, C) → (N, 2H, 2W, C); H stays for the kernel (1, 3)."""

    def __init__(self, channels, *, kernel=3, rng, dtype=np.float32):
        self.conv = Conv2d(channels, channels, kernel, rng=rng, dtype=dtype)
        self.factor = 2 if kernel == 3 else (1, 2)

    def __call__(self, x):
        return self.conv(ops.upsample_nearest(x, self.factor))


class UNet(Module):
    """The denoiser for images: model(xt, t) → (N, image_size, image_size, out_channels).

    image_size, in_channels, out_channels: of the images. ch: channels at full resolution; ch_mult: their multiple at each
    level, rounded to whole channels; the resolution halves between levels. num_res_blocks: per level, this many blocks on
    the way down and one more on the way up. attn_resolutions: the sizes at which each block ends in self-attention (the
    middle always has it). groups: of every group norm; dropout: its rate in training. patch_size p: the network sees p × p
    patches as pixels with p² channels (image_size/p is then the full resolution), which makes a step about p² times
    cheaper. num_classes: if given, the network takes the class of each image: it learns a vector per class, and one more
    for "any class", and adds the right one to temb. cond_channels: if given, the network also takes an image `cond`, which
    joins xt as that many more channels (see `self_conditioning.py` and `super_resolution.py`). dims: 2 for images; 1 for
    signals xt (N, image_size, in_channels), whose kernels are 3 long.

    xt: (N, H, W, in_channels), t: (N,) integers 1..T. An array is cast to the network's dtype. labels: (N,) integers
    0..num_classes; num_classes itself, like None, means any class. cond: (N, H, W, cond_channels); None means zeros, that
    is nothing known. dropout_rng draws the dropout masks; without it nothing is dropped. Skips are concatenated as
    [h, skip]; every last convolution starts at zero, so the untrained network returns 0.
    Raises ValueError for sizes that are not positive integers or do not divide, and for inputs of other shapes.

    The other settings are those in which published networks differ (`weights/`). up_attn_resolutions: as
    attn_resolutions, on the way up. heads: of each self-attention; head_dim: the channels of one head, in place of heads.
    mid_groups: of the norm before the middle's attention, "same" as groups, or None for no norm. norm_eps: of every group
    norm. down_padding: of the convolutions that halve, "same" (right and bottom) or 1 (all around). scale_shift: as
    `ResBlock`. time: how t is embedded, a dictionary of `TimestepMLP`'s settings.
    """

    def __init__(self, image_size, in_channels, out_channels, ch, ch_mult, num_res_blocks, attn_resolutions, groups=32,
                 dropout=0.0, dtype=np.float32, *, rng, patch_size=1, num_classes=None, up_attn_resolutions=None, heads=1,
                 head_dim=None, mid_groups="same", norm_eps=1e-6, down_padding="same", scale_shift=False,
                 time=None, cond_channels=0, dims=2):  # fmt: skip
        sizes = dict(image_size=image_size, in_channels=in_channels, out_channels=out_channels, ch=ch, groups=groups,
                     num_res_blocks=num_res_blocks, patch_size=patch_size, levels=len(ch_mult))  # fmt: skip
        require_positive_integers("UNet", **sizes, num_classes=1 if num_classes is None else num_classes)
        levels, channels = len(ch_mult), [round(ch * mult) for mult in ch_mult]
        require_positive_integers("UNet", **{f"ch · ch_mult[{i}]": c for i, c in enumerate(channels)})
        require(dims in (1, 2), "UNet: dims must be 1 or 2", dims=dims)
        require(dims == 2 or down_padding == "same", "UNet: signals need down_padding='same'", down_padding=down_padding)
        whole = isinstance(cond_channels, (int, np.integer)) and cond_channels >= 0
        require(whole, "UNet: cond_channels must be an integer of at least 0", cond_channels=cond_channels)
        require(image_size % (patch_size * 2 ** (levels - 1)) == 0,
                f"UNet: {levels} levels on patches of {patch_size} do not divide images of {image_size} pixels")  # fmt: skip
        require(all(c % groups == 0 for c in channels), f"UNet: {groups} groups do not divide the channels {channels}")
        self.image_size, self.in_channels, self.patch_size = image_size, in_channels, patch_size
        self.cond_channels, self.dims = cond_channels, dims
        self.dropout, self.dtype, self.num_classes = dropout, dtype, num_classes
        kw = dict(rng=rng, dtype=dtype)
        width, kernel, patch = 4 * ch, 3 if dims == 2 else (1, 3), patch_size**dims
        up_attn_resolutions = attn_resolutions if up_attn_resolutions is None else up_attn_resolutions

        def heads_of(c):
            require(head_dim is None or c % head_dim == 0, f"UNet: head_dim {head_dim} does not divide {c} channels")
            return heads if head_dim is None else c // head_dim

        def block(c_in, c_out, attention=False):
            return ResBlock(c_in, c_out, width, groups=groups, eps=norm_eps, heads=heads_of(c_out) if attention else 0,
                            scale_shift=scale_shift, dropout=dropout, kernel=kernel, **kw)  # fmt: skip

        self.temb = TimestepMLP(ch, width, **(time or {}), **kw)
        self.class_emb = zeros((num_classes + 1, width), dtype) if num_classes else None
        self.conv_in = Conv2d((in_channels + cond_channels) * patch, ch, kernel, **kw)

        size, c, skips = image_size // patch_size, ch, [ch]  # skips: the channels of each skip connection
        self.down = []
        for level, c_out in enumerate(channels):
            for _ in range(num_res_blocks):
                self.down.append(block(c, c_out, size in attn_resolutions))
                c = c_out
                skips.append(c)
            if level < levels - 1:
                self.down.append(Downsample(c, down_padding, kernel=kernel, **kw))
                size //= 2
                skips.append(c)

        self.mid = [block(c, c), block(c, c)]
        self.mid_attn = SelfAttention(c, groups if mid_groups == "same" else mid_groups, heads_of(c), eps=norm_eps, **kw)

        self.up = []
        for level, c_out in reversed(list(enumerate(channels))):
            for _ in range(num_res_blocks + 1):
                self.up.append(block(c + skips.pop(), c_out, size in up_attn_resolutions))
                c = c_out
            if level > 0:
                self.up.append(Upsample(c, kernel=kernel, **kw))
                size *= 2
        assert not skips and size == image_size // patch_size

        self.norm_out = GroupNormSiLU(c, groups, eps=norm_eps, dtype=dtype)
        self.conv_out = Conv2d(c, out_channels * patch, kernel, zero=True, **kw)

    def __call__(self, xt, t, labels=None, dropout_rng=None, cond=None):
        check_input("UNet", xt, t, (self.image_size,) * self.dims + (self.in_channels,))
        temb = self.temb(t)
        if (labels := check_labels("UNet", labels, self.num_classes, len(temb))) is not None:
            temb = temb + self.class_emb[labels]
        h = as_input(xt, self.dtype)
        if self.cond_channels or cond is not None:
            h = ops.concat([h, check_cond("UNet", cond, (*h.shape[:-1], self.cond_channels), self.dtype)])
        h = self.conv_in(self.to_patches(h))

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

        return self.from_patches(self.conv_out(self.norm_out(h)))

    def to_patches(self, x):
        """(N, H, W, C) → (N, H/p, W/p, p² C); a signal (N, L, C) → (N, 1, L/p, p C), an image of one row."""
        if self.dims == 1:
            return x.reshape(len(x), 1, x.shape[1] // self.patch_size, x.shape[2] * self.patch_size)
        return x if self.patch_size == 1 else ops.space_to_depth(x, block=self.patch_size)

    def from_patches(self, h):
        """The inverse of `to_patches`."""
        if self.dims == 1:
            return h.reshape(len(h), h.shape[2] * self.patch_size, h.shape[3] // self.patch_size)
        return h if self.patch_size == 1 else ops.depth_to_space(h, block=self.patch_size)
