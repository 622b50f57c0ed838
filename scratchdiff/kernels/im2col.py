"""Any convolution as one matrix product, in Numba. Optional to read.

Once the window that each output pixel sees is laid out as a row (im2col, "image to columns"), a convolution is

    cols: (pixels, kh·kw·Cin)    y = cols w      dw = colsᵀ dy

The whole `cols` would be kh·kw times the image, so each thread lays out a block of rows that fits its cache, multiplies
it with BLAS, and goes on to the next block in the same buffer.
"""

import numba
import numpy as np
from numba import njit, prange

BLOCK_PIXELS = 512  # output pixels laid out at a time, at most
QUICK_PRODUCT = 10**6  # OpenBLAS does products of up to a million multiplications without rearranging them first


def conv2d(x, w, b, s, pads):
    """See reference.conv2d."""
    (top, bottom), (left, right) = pads
    N, H, W, _ = x.shape
    Ho, Wo = (H + top + bottom - w.shape[0]) // s + 1, (W + left + right - w.shape[1]) // s + 1
    y = np.empty((N, Ho, Wo, w.shape[3]), x.dtype)
    forward(x, w, b, y, s, top, left, numba.get_num_threads())
    return y


def conv2d_dw(x, dy, w_shape, s, pads):
    """See reference.conv2d_dw."""
    parts = np.zeros((numba.get_num_threads(), *w_shape), x.dtype)
    backward_w(x, dy, parts, s, pads[0][0], pads[1][0])
    return parts.sum(0)


@njit(cache=True, parallel=True)
def forward(x, w, b, y, s, top, left, threads):
    """y = cols w + b, the lines of y shared out to the threads."""
    for thread in prange(threads):
        forward_blocks(x, w, b, y, s, top, left, thread, threads)


@njit(cache=True)
def forward_blocks(x, w, b, y, s, top, left, thread, threads):
    """The share of one of `threads` threads, a block of lines at a time."""
    kh, kw, C, Co = w.shape
    N, Ho, Wo, _ = y.shape
    wm, ym = w.reshape(kh * kw * C, Co), y.reshape(N * Ho * Wo, Co)
    lines = block_lines(Wo, w.size)
    cols = np.empty((lines * Wo, kh * kw * C), x.dtype)
    begin, end = thread * N * Ho // threads, (thread + 1) * N * Ho // threads
    for first in range(begin, end, lines):
        last = min(first + lines, end)
        rows = windows(x, cols, first, last, kh, kw, s, top, left, Ho, Wo)
        np.dot(rows, wm, ym[first * Wo : last * Wo])
        for row in range(first * Wo, last * Wo):
            pixel, bias = ym[row], b[row // (Ho * Wo) % len(b)]
            for d in range(Co):
                pixel[d] += bias[d]


@njit(cache=True, parallel=True)
def backward_w(x, dy, parts, s, top, left):
    """parts[i] = colsᵀ dy over the blocks of thread i; their sum is dw."""
    for thread in prange(len(parts)):  # each adds up its own blocks, so the order of the sum, and its bits, are fixed
        backward_w_blocks(x, dy, parts[thread], s, top, left, thread, len(parts))


@njit(cache=True)
def backward_w_blocks(x, dy, dw, s, top, left, thread, threads):
    """dw += colsᵀ dy over the share of one of `threads` threads."""
    kh, kw, C, Co = dw.shape
    N, Ho, Wo, _ = dy.shape
    dwm, dym = dw.reshape(kh * kw * C, Co), dy.reshape(N * Ho * Wo, Co)
    lines = block_lines(Wo, dw.size)
    cols, product = np.empty((lines * Wo, kh * kw * C), x.dtype), np.empty((kh * kw * C, Co), x.dtype)
    begin, end = thread * N * Ho // threads, (thread + 1) * N * Ho // threads
    for first in range(begin, end, lines):
        last = min(first + lines, end)
        rows = windows(x, cols, first, last, kh, kw, s, top, left, Ho, Wo)
        np.dot(rows.T, dym[first * Wo : last * Wo], product)
        for k in range(len(dwm)):
            for d in range(Co):
                dwm[k, d] += product[k, d]


@njit(cache=True)
def block_lines(Wo, weights):
    """How many lines of Wo output pixels are laid out at a time, for a product with that many weights."""
    return max(1, min(BLOCK_PIXELS, QUICK_PRODUCT // weights) // Wo)


@njit(cache=True)
def windows(x, cols, first, last, kh, kw, s, top, left, Ho, Wo):
    """The rows of output lines first..last−1: laid out in cols, or, where a window is one pixel, x itself as it lies."""
    N, H, W, C = x.shape
    if kh == kw == s == 1 and Ho == H and Wo == W:
        return x.reshape(N * H * W, C)[first * W : last * W]
    gather(x, cols, first, last, kh, kw, s, top, left, Ho, Wo)
    return cols[: (last - first) * Wo]


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
                    out = cols[row, k : k + C]
                    if 0 <= r < H and 0 <= c < W:
                        pixel = x[n, r, c]
                        for a in range(C):
                            out[a] = pixel[a]
                    else:
                        for a in range(C):
                            out[a] = 0
                    k += C
            row += 1
