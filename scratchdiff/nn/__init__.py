"""Networks: parameters and wiring, and no gradient code at all."""

from scratchdiff.nn.dit import DiT
from scratchdiff.nn.layers import Conv2d, GroupNorm, GroupNormSiLU, Linear, SelfAttention, SiLULinear, TimestepMLP
from scratchdiff.nn.mlp import MLP
from scratchdiff.nn.module import Module
from scratchdiff.nn.transformer import FeedForward, LayerNorm, MultiHeadAttention, TransformerBlock, causal_mask
from scratchdiff.nn.unet import ResBlock, UNet

__all__ = ["Conv2d", "DiT", "FeedForward", "GroupNorm", "GroupNormSiLU", "LayerNorm", "Linear", "MLP", "Module",
           "MultiHeadAttention", "ResBlock", "SelfAttention", "SiLULinear", "TimestepMLP", "TransformerBlock",
           "UNet", "causal_mask"]  # fmt: skip
