"""The U-Net of Nichol & Dhariwal 2021 in PyTorch, with the names of openai/improved-diffusion: a twin for our loader.

Written from the paper and the published names; the layers stand in `Sequential`s whose numbers make up those names.
"""

import math

import torch
from torch import nn
from torch.nn.functional import interpolate


class Block(nn.Module):
    def __init__(self, c_in, c_out, width, scale_shift):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * c_out if scale_shift else c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        self.scale_shift = scale_shift

    def forward(self, x, emb):
        h, emb = self.in_layers(x), self.emb_layers(emb)[..., None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.norm, self.qkv, self.proj_out = nn.GroupNorm(32, c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)
        self.heads = heads

    def forward(self, x, emb):
        flat = x.flatten(2)
        q, k, v = self.qkv(self.norm(flat)).reshape(len(x) * self.heads, -1, flat.shape[2]).chunk(3, dim=1)
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(q.shape[1]), dim=-1)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(flat.shape)
        return (flat + self.proj_out(h)).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.op = nn.Conv2d(c, c, 3, stride=2, padding=1)

    def forward(self, x, emb):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x, emb):
        return self.conv(interpolate(x, scale_factor=2.0))


class First(nn.Conv2d):
    def forward(self, x, emb):
        return super().forward(x)


class Layers(nn.Sequential):
    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb)
        return x


class ImprovedUNet(nn.Module):
    """model(x, t, y): x (N, C, H, W), t (N,) timesteps as they are embedded, y (N,) classes."""

    def __init__(self, in_channels, out_channels, ch, ch_mult, blocks, attention, heads, scale_shift, classes):
        super().__init__()
        width = 4 * ch
        self.time_embed = nn.Sequential(nn.Linear(ch, width), nn.SiLU(), nn.Linear(width, width))
        self.label_emb = nn.Embedding(classes, width)
        self.input_blocks, skips, c = nn.ModuleList([Layers(First(in_channels, ch, 3, padding=1))]), [ch], ch
        for level, mult in enumerate(ch_mult):
            for _ in range(blocks):
                attend = [Attention(ch * mult, heads)] if level in attention else []
                self.input_blocks.append(Layers(Block(c, ch * mult, width, scale_shift), *attend))
                c = ch * mult
                skips.append(c)
            if level < len(ch_mult) - 1:
                self.input_blocks.append(Layers(Down(c)))
                skips.append(c)
        self.middle_block = Layers(Block(c, c, width, scale_shift), Attention(c, heads), Block(c, c, width, scale_shift))
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(ch_mult))):
            for i in range(blocks + 1):
                rest = [Attention(ch * mult, heads)] if level in attention else []
                rest += [Up(ch * mult)] if level and i == blocks else []
                self.output_blocks.append(Layers(Block(c + skips.pop(), ch * mult, width, scale_shift), *rest))
                c = ch * mult
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, out_channels, 3, padding=1))
        self.ch = ch

    def forward(self, x, t, y):
        omega = 10_000 ** (-torch.arange(self.ch // 2, dtype=x.dtype) / (self.ch // 2))
        angle = t[:, None].to(x.dtype) * omega
        emb = self.time_embed(torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)) + self.label_emb(y)
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)
