"""A small example of each op, with unequal odd sizes. `scratchdiff gradcheck` and the tests go through them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scratchdiff import ops


class Example(NamedTuple):
    """`f` takes float64 arrays or Tensors of the given shapes and uses the op `name` on them. `positive`: keep them > 0."""

    name: str
    f: Callable
    shapes: tuple[tuple[int, ...], ...]
    positive: bool = False

    def inputs(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Random inputs, normal or (where `positive`) uniform in [0.5, 2]."""
        draw = (lambda shape: rng.uniform(0.5, 2, shape)) if self.positive else rng.standard_normal
        return [draw(shape) for shape in self.shapes]


def dropout_with_one_mask(x):
    """Drop the same numbers at each call: finite differences need a fixed function."""
    return ops.dropout(x, rate=0.4, rng=np.random.default_rng(3))


def pixels_log_prob(mean, logvar):
    """The log-probability of pixels inside the range of 256 values and at both of its ends."""
    x = np.array([[0, 100, 128, 255, 255], [255, 0, 153, 254, 1]], mean.dtype) / 127.5 - 1
    return ops.discretized_normal_log_prob(x, mean, logvar)


SEEN = np.array([[True, False, True, False, True], [False] * 5, [True] * 5])  # the second query sees nothing

EXAMPLES = [
    Example("add", ops.add, ((2, 1, 3), (5, 1))),
    Example("sub", ops.sub, ((2, 1, 3), (5, 1))),
    Example("mul", ops.mul, ((2, 1, 3), (5, 1))),
    Example("div", ops.div, ((2, 1, 3), (5, 1)), positive=True),
    Example("neg", ops.neg, ((2, 5),)),
    Example("power", lambda x: ops.power(x, 2.5), ((2, 5),), positive=True),
    Example("exp", ops.exp, ((2, 5),)),
    Example("log", ops.log, ((2, 5),), positive=True),
    Example("sum", lambda x: ops.sum(x, axis=(0, 2)), ((2, 3, 5),)),
    Example("mean", lambda x: ops.mean(x, axis=1, keepdims=True), ((2, 3, 5),)),
    Example("matmul", ops.matmul, ((3, 1, 2, 5), (4, 5, 3))),
    Example("reshape", lambda x: ops.reshape(x, 5, -1), ((2, 3, 5),)),
    Example("transpose", lambda x: ops.transpose(x, 2, 0, 1), ((2, 3, 5),)),
    Example("concat", lambda a, b: ops.concat([a, b, a], axis=1), ((2, 3, 2), (2, 1, 2))),
    Example("getitem", lambda x: ops.getitem(x, (slice(None, None, -2), [0, 2, 2])), ((5, 3, 2),)),
    Example("space_to_depth", lambda x: ops.space_to_depth(x, block=2), ((2, 4, 6, 3),)),
    Example("depth_to_space", lambda x: ops.depth_to_space(x, block=2), ((2, 2, 3, 8),)),
    Example("sigmoid", ops.sigmoid, ((2, 5),)),
    Example("tanh", ops.tanh, ((2, 5),)),
    Example("relu", ops.relu, ((2, 5),)),
    Example("clip", lambda x: ops.clip(x, -0.5, 0.7), ((4, 5),)),
    Example("silu", ops.silu, ((2, 5),)),
    Example("gelu", ops.gelu, ((2, 5),)),
    Example("softmax", ops.softmax, ((2, 3, 5),)),
    Example("linear", ops.linear, ((2, 3, 5), (5, 4), (4,))),
    Example("silu_linear", ops.silu_linear, ((2, 3, 5), (5, 4), (4,))),
    Example("dropout", dropout_with_one_mask, ((2, 5),)),
    Example("conv2d", ops.conv2d, ((2, 6, 5, 3), (3, 3, 3, 4), (4,))),
    Example("conv2d", lambda x, w, b: ops.conv2d(x, w, b, stride=2), ((2, 6, 5, 3), (3, 3, 3, 2), (2,))),
    Example("conv2d", lambda x, w: ops.conv2d(x, w, None, 3, ((2, 0), (1, 3))), ((2, 7, 6, 2), (4, 2, 2, 3))),
    Example("conv2d", ops.conv2d, ((2, 5, 3, 4), (1, 1, 4, 3), (2, 3))),  # a bias for each image
    Example("group_norm", lambda x, a, b: ops.group_norm(x, a, b, groups=3), ((2, 3, 2, 6), (6,), (6,))),
    Example("group_norm_silu", lambda x, a, b: ops.group_norm_silu(x, a, b, groups=2), ((2, 5, 6), (6,), (6,))),
    Example("layer_norm", ops.layer_norm, ((2, 3, 5), (5,), (5,))),
    Example("upsample_nearest", ops.upsample_nearest, ((2, 3, 2, 4),)),
    Example("upsample_nearest", lambda x: ops.upsample_nearest(x, (1, 3)), ((2, 3, 2, 4),)),
    Example("attention", ops.attention, ((2, 1, 3, 4), (2, 1, 5, 4), (2, 1, 5, 3))),
    Example("attention", ops.attention, ((2, 3, 4, 2), (2, 3, 4, 2), (2, 3, 4, 2))),
    Example("attention", lambda *qkv: ops.attention(*qkv, mask=SEEN), ((2, 1, 3, 4), (2, 1, 5, 4), (2, 1, 5, 3))),
    Example("embedding", lambda w: ops.embedding(w, [[0, 3], [3, 3]]), ((4, 5),)),
    Example("timestep_embedding", lambda t: ops.timestep_embedding(t, 7), ((3,),)),
    Example("timestep_embedding", lambda t: ops.timestep_embedding(t, 6, freq_shift=0, cos_first=True), ((3,),)),
    Example("sinusoids", ops.sinusoids, ((3,), (2,))),
    Example("mse", ops.mse, ((2, 3, 5), (2, 3, 5))),
    Example("huber", lambda x, y: ops.huber(x, y, delta=0.7), ((2, 3, 5), (2, 3, 5))),
    Example("bernoulli_log_prob", ops.bernoulli_log_prob, ((2, 5), (2, 5))),
    Example("normal_kl", ops.normal_kl, ((2, 5), (2, 5), (2, 5), (2, 5))),
    Example("normal_log_prob", ops.normal_log_prob, ((2, 5), (2, 5), (2, 5))),
    Example("discretized_normal_log_prob", pixels_log_prob, ((2, 5), (2, 5))),
    Example("cross_entropy", lambda x: ops.cross_entropy(x, [4, 0, 4]), ((3, 5),)),
]
