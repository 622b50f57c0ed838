"""The U-Net and the MLP of scratchdiff/nn once more, in plain PyTorch: what its numbers and its speed are compared with.

Images are (N, C, H, W) and a convolution's weight is (out, in, kh, kw), as PyTorch likes them. Layers have the names
that they have in scratchdiff, so `torch_name` and `torch_layout` carry weights and gradients across.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def torch_name(name: str) -> str:
    """What PyTorch calls the scratchdiff parameter "down.0.conv1.w": "down.0.conv1.weight"."""
    layer, _, last = name.rpartition(".")
    return f"{layer}.{dict(w='weight', b='bias', scale='weight', shift='bias')[last]}"


def torch_layout(array: np.ndarray, shape) -> torch.Tensor:
    """A parameter of scratchdiff, (kh, kw, in, out) or (in, out), with PyTorch's order of axes, as that `shape`.

    What is a linear layer there and a 1×1 convolution here gets its two further axes."""
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    if array.ndim == 2:
        array = array.T.reshape(shape)
    assert array.shape == tuple(shape)
    return torch.from_numpy(array.copy())


def timestep_embedding(t, dim):
    """sin ‖ cos with frequencies exp(−ln 10⁴ · i/(dim/2 − 1)).   (N,) → (N, dim) in float64."""
    half = dim // 2
    omega = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / (half - 1))
    angle = t[:, None].to(torch.float64) * omega
    return F.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, dim % 2))


class SelfAttention(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        N, C, H, W = x.shape
        h = self.norm(x)
        q, k, v = (layer(h).reshape(N, 1, C, H * W).transpose(2, 3) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)  # (N, 1, H W, C)
        return x + self.proj(y.transpose(2, 3).reshape(N, C, H, W))


class ResBlock(nn.Module):
    def __init__(self, in_channels, out_channels, temb_width, groups, attention, dropout):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.temb_proj = nn.Linear(temb_width, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.attn = SelfAttention(out_channels, groups) if attention else nn.Identity()

    def forward(self, x, temb):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.attn(h + self.shortcut(x))


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x, temb):
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class TimestepMLP(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.dim = dim
        self.dense1 = nn.Linear(dim, width)
        self.dense2 = nn.Linear(width, width)

    def forward(self, t):
        temb = timestep_embedding(t, self.dim).to(self.dense1.weight.dtype)
        return self.dense2(F.silu(self.dense1(temb)))


class TorchUNet(nn.Module):
    """xt: (N, in_channels, image_size, image_size), t: (N,) → (N, out_channels, image_size, image_size).

    The arguments of sd.UNet, without patches. Weights start as PyTorch's do, but those of last layers at zero."""

    def __init__(self, image_size, in_channels, out_channels, ch, ch_mult, num_res_blocks, attn_resolutions, groups=32,
                 dropout=0.0, dtype=torch.float32):  # fmt: skip
        super().__init__()
        levels = len(ch_mult)

        def block(c_in, c_out, attention):
            return ResBlock(c_in, c_out, 4 * ch, groups, attention, dropout)

        self.temb = TimestepMLP(ch, 4 * ch)
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)

        size, c, skips = image_size, ch, [ch]
        self.down = nn.ModuleList()
        for level, mult in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.down.append(block(c, ch * mult, size in attn_resolutions))
                c = ch * mult
                skips.append(c)
            if level < levels - 1:
                self.down.append(Downsample(c))
                size //= 2
                skips.append(c)

        self.mid = nn.ModuleList([block(c, c, False), block(c, c, False)])
        self.mid_attn = SelfAttention(c, groups)

        self.up = nn.ModuleList()
        for level, mult in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.up.append(block(c + skips.pop(), ch * mult, size in attn_resolutions))
                c = ch * mult
            if level > 0:
                self.up.append(Upsample(c))
                size *= 2

        self.norm_out = nn.GroupNorm(groups, c, eps=1e-6)
        self.conv_out = nn.Conv2d(c, out_channels, 3, padding=1)

        for layer in self.modules():
            last = {ResBlock: "conv2", SelfAttention: "proj", TorchUNet: "conv_out"}.get(type(layer))
            if last:
                nn.init.zeros_(getattr(layer, last).weight)
                nn.init.zeros_(getattr(layer, last).bias)
        self.to(dtype)

    def load_scratchdiff(self, arrays: dict[str, np.ndarray]) -> None:
        """Take the weights of an sd.UNet with the same arguments: {name: array}."""
        shapes = {name: p.shape for name, p in self.named_parameters()}
        names = {name: torch_name(name) for name in arrays}
        self.load_state_dict({new: torch_layout(arrays[old], shapes[new]) for old, new in names.items()})

    def forward(self, xt, t):
        temb = self.temb(t)
        h = self.conv_in(xt)

        skips = [h]
        for layer in self.down:
            h = layer(h, temb)
            skips.append(h)

        h = self.mid[0](h, temb)
        h = self.mid_attn(h)
        h = self.mid[1](h, temb)

        for layer in self.up:
            h = layer(h) if isinstance(layer, Upsample) else layer(torch.cat([h, skips.pop()], dim=1), temb)
        assert not skips
        return self.conv_out(F.silu(self.norm_out(h)))


class MLPBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dense1, self.temb_proj, self.dense2 = (nn.Linear(width, width) for _ in range(3))

    def forward(self, h, temb):
        inner = self.dense1(F.silu(h)) + self.temb_proj(temb)
        return h + self.dense2(F.silu(inner))


class TorchMLP(nn.Module):
    """The arguments of sd.MLP. xt: (N, dim), t: (N,) → (N, dim)."""

    def __init__(self, dim=2, width=128, num_blocks=3):
        super().__init__()
        self.temb = TimestepMLP(width, width)
        self.dense_in = nn.Linear(dim, width)
        self.blocks = nn.ModuleList([MLPBlock(width) for _ in range(num_blocks)])
        self.dense_out = nn.Linear(width, dim)

    def forward(self, xt, t):
        temb = F.silu(self.temb(t))
        h = self.dense_in(xt)
        for block in self.blocks:
            h = block(h, temb)
        return self.dense_out(F.silu(h))
