"""Convolution in Numba: the twin of `convolve` in ops/conv.py. It chooses between two ways. Optional to read.

winograd.py     3×3 convolutions with stride 1, except on few pixels: nearly all of a U-Net's work
im2col.py       every other convolution
"""

import numpy as np
from numba import njit, prange

from scratchdiff.kernels import im2col, winograd
from scratchdiff.kernels.memory import prepare

# Measured with 32 to 256 channels. With fewer pixels the transform of the filter costs more than it saves: its cost grows
# with Cin·Cout, as that of the products does.
ENOUGH_PIXELS = 400


def convolve(x, w, b, s, pads):
    """See ops.conv.convolve."""
    bias = np.zeros(w.shape[3], x.dtype) if b is None else b
    x, w, bias = prepare(x, w, bias[None] if bias.ndim == 1 else bias)
    y = convolution(x, w, bias, s, pads)

    def backward(dy, x):
        dy, x = (np.require(a, w.dtype, "CW") for a in (dy, x))
        dx = input_gradient(dy, w, x.shape, s, pads)
        if winograd_pays(x.shape, w.shape, s):
            dw = winograd.weight_gradient(x, dy, pads)
        else:
            dw = im2col.weight_gradient(x, dy, w.shape, s, pads)
        if b is None:
            return dx, dw, None
        db = sum_pixels(dy.reshape(len(dy), dy.shape[1] * dy.shape[2], dy.shape[3]))
        return dx, dw, db if b.ndim == 2 else db.sum(0)

    return y, backward


def convolution(x, w, bias, s, pads):
    """y, by the way that is faster for these shapes."""
    if winograd_pays(x.shape, w.shape, s):
        return winograd.convolution(x, w, bias, pads)
    return im2col.convolution(x, w, bias, s, pads)


def input_gradient(dy, w, x_shape, s, pads):
    """dx. With stride 1 it is itself a convolution: each input pixel collects from the outputs that it moved.

    The filter is turned by 180° and its channels change places, and a padding of k − 1 − p undoes the padding p (where that
    is negative, pixels are left out)."""
    if s > 1:
        return im2col.input_gradient(dy, w, x_shape, s, pads)
    turned = np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))
    before = [k - 1 - p[0] for k, p in zip(w.shape, pads)]
    after = [size + k - 1 - b - out for size, k, b, out in zip(x_shape[1:3], w.shape, before, dy.shape[1:3])]
    return convolution(dy, turned, np.zeros((1, w.shape[2]), dy.dtype), 1, list(zip(before, after)))


@njit(cache=True, parallel=True)
def sum_pixels(dy):
    """Σ_i dy[n,i] for the pixels i of each image: (N, Cout)."""
    N, L, C = dy.shape
    db = np.empty((N, C), dy.dtype)
    for n in prange(N):
        total = np.zeros(C)  # in float64, which is exact enough for an image of any size
        for i in range(L):
            pixel = dy[n, i]
            for c in range(C):
                total[c] += pixel[c]
        for c in range(C):  # db[n] = total would take Numba seconds to compile
            db[n, c] = total[c]
    return db


def winograd_pays(x_shape, w_shape, s):
    """Whether Winograd is faster: there are enough pixels for the filter's transform to pay, the images are no smaller than
    a tile of 3 × 3 outputs, and a line of its buffers holds the channels."""
    N, H, W, _ = x_shape
    large = min(H, W) >= 3 and N * H * W >= ENOUGH_PIXELS
    return w_shape[:2] == (3, 3) and s == 1 and large and max(w_shape[2:]) <= winograd.MOST_CHANNELS
