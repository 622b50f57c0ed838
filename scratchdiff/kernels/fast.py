"""The kernels of `reference.py` in Numba: same names, same signatures, same numbers. Optional to read.

A convolution is one matrix product once the window of each output pixel is laid out as a row (im2col):

    cols: (pixels, kh·kw·Cin)    y = cols w      dw = colsᵀ dy      dcols = dy wᵀ, added back where each entry came from

The whole `cols` would be kh·kw times the image, so each thread lays out a block of rows that fits its cache, multiplies
it with BLAS, and goes on to the next block in the same buffer.
"""

import numba
import numpy as np
from numba import njit, prange

from scratchdiff.kernels.norm import group_norm, group_norm_backward
from scratchdiff.kernels.threads import keep_blas_to_one_thread, prepare

__all__ = ["conv2d", "conv2d_dw", "conv2d_dx", "group_norm", "group_norm_backward"]

keep_blas_to_one_thread()

BLOCK_PIXELS = 512  # output pixels laid out at a time


def conv2d(x, w, s, pads):
    """See reference.conv2d."""
    x, w = prepare(x, w)
    (top, bottom), (left, right) = pads
    N, H, W, _ = x.shape
    Ho, Wo = (H + top + bottom - w.shape[0]) // s + 1, (W + left + right - w.shape[1]) // s + 1
    y = np.empty((N, Ho, Wo, w.shape[3]), x.dtype)
    forward(x, w, y, s, top, left, numba.get_num_threads())
    return y


def conv2d_dx(dy, w, x_shape, s, pads):
    """See reference.conv2d_dx."""
    dy, w = prepare(dy, w)
    dx = np.zeros(x_shape, dy.dtype)
    backward_x(dy, w, dx, s, pads[0][0], pads[1][0], numba.get_num_threads())
    return dx


def conv2d_dw(x, dy, w_shape, s, pads):
    """See reference.conv2d_dw."""
    x, dy = prepare(x, dy)
    parts = np.zeros((numba.get_num_threads(), w_shape[0] * w_shape[1] * w_shape[2], w_shape[3]), x.dtype)
    backward_w(x, dy, parts, w_shape[0], w_shape[1], s, pads[0][0], pads[1][0])
    return parts.sum(0).reshape(w_shape)


@njit(cache=True)
def gather(x, cols, first, last, kh, kw, s, top, left, Ho, Wo):
    """cols[row of output pixel (n, i, j)] = the kh × kw × Cin window it sees, for output lines first..last−1 (n·Ho + i)."""
    N, H, W, C = x.shape
    row = 0
    for line in range(first, last):
        n, i = line // Ho, line % Ho
        for j in range(Wo):
            k = 0
            for u in range(kh):
                r = s * i + u - top
                for v in range(kw):
                    c = s * j + v - left
                    if 0 <= r < H and 0 <= c < W:
                        for a in range(C):
                            cols[row, k + a] = x[n, r, c, a]
                    else:
                        for a in range(C):
                            cols[row, k + a] = 0
                    k += C
            row += 1


@njit(cache=True)
def scatter_add(dcols, dx, first, last, kh, kw, s, top, left, Ho, Wo):
    """The adjoint of `gather`: each entry of dcols is added to the pixel of dx that it was copied from."""
    N, H, W, C = dx.shape
    row = 0
    for line in range(first, last):
        n, i = line // Ho, line % Ho
        for j in range(Wo):
            k = 0
            for u in range(kh):
                r = s * i + u - top
                for v in range(kw):
                    c = s * j + v - left
                    if 0 <= r < H and 0 <= c < W:
                        for a in range(C):
                            dx[n, r, c, a] += dcols[row, k + a]
                    k += C
            row += 1


@njit(cache=True, parallel=True)
def forward(x, w, y, s, top, left, threads):
    kh, kw, C, Co = w.shape
    N, Ho, Wo, _ = y.shape
    wm, ym = w.reshape(kh * kw * C, Co), y.reshape(N * Ho * Wo, Co)
    lines = max(1, BLOCK_PIXELS // Wo)
    for thread in prange(threads):
        cols = np.empty((lines * Wo, kh * kw * C), x.dtype)
        for first in range(thread * lines, N * Ho, threads * lines):
            last = min(first + lines, N * Ho)
            gather(x, cols, first, last, kh, kw, s, top, left, Ho, Wo)
            np.dot(cols[: (last - first) * Wo], wm, ym[first * Wo : last * Wo])


@njit(cache=True, parallel=True)
def backward_x(dy, w, dx, s, top, left, threads):
    kh, kw, C, Co = w.shape
    N, Ho, Wo, _ = dy.shape
    wm, dym = w.reshape(kh * kw * C, Co), dy.reshape(N * Ho * Wo, Co)
    lines = min(Ho, max(1, BLOCK_PIXELS // Wo))
    for thread in prange(threads):  # windows overlap, but never those of two images
        dcols = np.empty((lines * Wo, kh * kw * C), dy.dtype)
        for n in range(thread, N, threads):
            for first in range(n * Ho, (n + 1) * Ho, lines):
                last = min(first + lines, (n + 1) * Ho)
                block = dcols[: (last - first) * Wo]
                np.dot(dym[first * Wo : last * Wo], wm.T, block)
                scatter_add(block, dx, first, last, kh, kw, s, top, left, Ho, Wo)


@njit(cache=True, parallel=True)
def backward_w(x, dy, parts, kh, kw, s, top, left):
    C = x.shape[3]
    N, Ho, Wo, Co = dy.shape
    dym = dy.reshape(N * Ho * Wo, Co)
    lines = max(1, BLOCK_PIXELS // Wo)
    threads = len(parts)
    for thread in prange(threads):  # each thread sums its own blocks, so the order of the sum, and its bits, are fixed
        cols = np.empty((lines * Wo, kh * kw * C), x.dtype)
        product = np.empty((kh * kw * C, Co), x.dtype)
        for first in range(thread * lines, N * Ho, threads * lines):
            last = min(first + lines, N * Ho)
            gather(x, cols, first, last, kh, kw, s, top, left, Ho, Wo)
            np.dot(cols[: (last - first) * Wo].T, dym[first * Wo : last * Wo], product)
            parts[thread] += product
