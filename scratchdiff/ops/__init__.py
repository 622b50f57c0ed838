"""The ops: plain functions on arrays, each with its hand-derived backward beside its forward, lifted to Tensors by `@op`."""

from scratchdiff.ops.activations import clip, gelu, relu, sigmoid, silu, tanh
from scratchdiff.ops.arithmetic import add, div, exp, log, matmul, mean, mul, neg, power, sub, sum
from scratchdiff.ops.attention import attention, softmax
from scratchdiff.ops.conv import conv2d, upsample_nearest
from scratchdiff.ops.embedding import embedding, sinusoids, timestep_embedding
from scratchdiff.ops.likelihoods import (
    bernoulli_log_prob,
    discretized_normal_log_prob,
    normal_kl,
    normal_log_prob,
)
from scratchdiff.ops.linear import dropout, linear, silu_linear
from scratchdiff.ops.losses import cross_entropy, huber, mse
from scratchdiff.ops.norm import group_norm, group_norm_silu, layer_norm
from scratchdiff.ops.shape import concat, depth_to_space, getitem, reshape, space_to_depth, transpose

__all__ = [
    "add", "attention", "bernoulli_log_prob", "clip", "concat", "conv2d", "cross_entropy", "depth_to_space",
    "discretized_normal_log_prob", "div", "dropout", "embedding", "exp", "gelu", "getitem", "group_norm",
    "group_norm_silu", "huber", "layer_norm", "linear", "log", "matmul", "mean", "mse", "mul", "neg", "normal_kl",
    "normal_log_prob", "power", "relu", "reshape", "sigmoid", "silu", "silu_linear", "sinusoids", "softmax",
    "space_to_depth", "sub", "sum", "tanh", "timestep_embedding", "transpose", "upsample_nearest",
]  # fmt: skip
