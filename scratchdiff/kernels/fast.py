"""The kernels of `reference.py`, fast: same names, same signatures, same numbers. This file chooses; the loops are in

winograd.py     3×3 convolutions with stride 1, which are nearly all of a U-Net's work
im2col.py       every other convolution
norm.py         group normalisation, with SiLU in the same pass
dense.py        the affine map, with SiLU in the same pass, channels side by side, and Adam's step
scores.py       attention
exponential.py  eᵃ and σ(v) for the others
"""

import numpy as np
from numba.core import event

from scratchdiff.kernels import compiling

compiling.keep_compiled_somewhere()  # before the first @njit below asks where that is
event.register("numba:compile", compiling.announce)

from scratchdiff.kernels import im2col, winograd  # noqa: E402
from scratchdiff.kernels.dense import adam, join, linear, linear_backward, split  # noqa: E402
from scratchdiff.kernels.memory import keep_freed_memory, prepare  # noqa: E402
from scratchdiff.kernels.norm import group_norm, group_norm_backward  # noqa: E402
from scratchdiff.kernels.scores import attention, attention_backward  # noqa: E402
from scratchdiff.kernels.threads import keep_blas_to_one_thread  # noqa: E402

__all__ = [
    "adam", "attention", "attention_backward", "conv2d", "conv2d_dw", "conv2d_dx", "group_norm", "group_norm_backward",
    "join", "linear", "linear_backward", "split", "sum_pixels",
]  # fmt: skip

keep_blas_to_one_thread()
keep_freed_memory()


def conv2d(x, w, b, s, pads):
    """See reference.conv2d."""
    x, w, b = prepare(x, w, b)
    return winograd.conv2d(x, w, b, pads) if winograd_pays(x.shape, w.shape, s) else im2col.conv2d(x, w, b, s, pads)


def conv2d_dx(dy, w, x_shape, s, pads):
    """See reference.conv2d_dx.

    dx is itself a convolution with stride 1: each pixel collects from the outputs that it took part in. So the filter is
    turned by 180°, its channels change places, dy is laid out s pixels apart with zeros between, and k − 1 − p pixels of
    padding undo p (where that is negative, pixels are passed over)."""
    turned = w[::-1, ::-1].swapaxes(2, 3)
    if s > 1:
        N, Ho, Wo, Co = dy.shape
        spread = np.zeros((N, s * (Ho - 1) + 1, s * (Wo - 1) + 1, Co), dy.dtype)
        spread[:, ::s, ::s] = dy
        dy = spread
    before = [k - 1 - p[0] for k, p in zip(w.shape, pads)]
    after = [size + k - 1 - b - out for size, k, b, out in zip(x_shape[1:3], w.shape, before, dy.shape[1:3])]
    nothing = np.zeros((1, w.shape[2]), dy.dtype)
    return conv2d(dy, turned, nothing, 1, list(zip(before, after)))


def conv2d_dw(x, dy, w_shape, s, pads):
    """See reference.conv2d_dw."""
    compiling.wait_for_gradients()
    x, dy = prepare(x, dy)
    if winograd_pays(x.shape, w_shape, s):
        return winograd.conv2d_dw(x, dy, pads)
    return im2col.conv2d_dw(x, dy, w_shape, s, pads)


def sum_pixels(dy):
    """See reference.sum_pixels. A product with a row of ones: BLAS adds up several times as fast as `sum`."""
    (dy,) = prepare(dy)
    N, H, W, C = dy.shape
    return (np.ones((1, H * W), dy.dtype) @ dy.reshape(N, H * W, C))[:, 0]


def winograd_pays(x_shape, w_shape, s):
    """Whether there are enough pixels for the transform of the filter to be worth while (measured: 12 a channel), images
    large enough for tiles of 4 × 4 outputs, and no more channels than a line of its buffers holds."""
    N, H, W, _ = x_shape
    enough_pixels = min(H, W) >= 3 and N * H * W >= 12 * max(w_shape[2:])
    return w_shape[:2] == (3, 3) and s == 1 and enough_pixels and max(w_shape[2:]) <= winograd.MOST_CHANNELS
