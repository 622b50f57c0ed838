"""Networks: parameters and wiring, and no gradient code at all."""

from scratchdiff.nn.layers import Conv2d, GroupNorm, GroupNormSiLU, Linear, SelfAttention, SiLULinear, TimestepMLP
from scratchdiff.nn.mlp import MLP
from scratchdiff.nn.module import Module
from scratchdiff.nn.unet import ResBlock, UNet

__all__ = ["Conv2d", "GroupNorm", "GroupNormSiLU", "Linear", "MLP", "Module", "ResBlock", "SelfAttention", "SiLULinear",
           "TimestepMLP", "UNet"]  # fmt: skip
