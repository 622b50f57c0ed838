"""Any convolution as matrix products, in Numba. Optional to read.

Once the window that each output pixel sees is laid out as a row (im2col, "image to columns"), a convolution is

    cols: (pixels, kh·kw·Cin)    y = cols w      dw = colsᵀ dy

The whole `cols` would be kh·kw times the image. So each thread lays out a block of rows, and of those some taps of the
window at a time, multiplies them with BLAS, adds up the products, and goes on to the next block in the same buffer.
"""

import numba
import numpy as np
from numba import njit, prange

from scratchdiff.kernels.products import FEW_ROWS, MOST_ROWS, QUICK_PRODUCT, add_rows, quick_rows


def convolution(x, w, b, s, pads):
    """y = cols w + b.   b: (1, Cout) or (N, Cout)."""
    (top, bottom), (left, right) = pads
    N, H, W, _ = x.shape
    Ho, Wo = (H + top + bottom - w.shape[0]) // s + 1, (W + left + right - w.shape[1]) // s + 1
    y = np.empty((N, Ho, Wo, w.shape[3]), x.dtype)
    convolve_parallel(x, w, b, y, s, top, left, numba.get_num_threads())
    return y


def weight_gradient(x, dy, w_shape, s, pads):
    """dw = colsᵀ dy."""
    parts = np.zeros((numba.get_num_threads(), *w_shape), x.dtype)
    gradient_parallel(x, dy, parts, s, pads[0][0], pads[1][0])
    return parts.sum(0)


@njit(cache=True, parallel=True)
def convolve_parallel(x, w, b, y, s, top, left, threads):
    """y = cols w + b, with a share of the lines of y for each thread."""
    for thread in prange(threads):
        convolve_blocks(x, w, b, y, s, top, left, thread, threads)


@njit(cache=True)
def convolve_blocks(x, w, b, y, s, top, left, thread, threads):
    """The share of one of `threads` threads, a block of lines at a time."""
    kh, kw, C, Co = w.shape
    N, Ho, Wo, _ = y.shape
    wm, ym = w.reshape(kh * kw * C, Co), y.reshape(N * Ho * Wo, Co)
    lines, taps = block(w.shape, Wo)
    cols, product = np.empty(lines * Wo * taps * C, x.dtype), np.empty((lines * Wo, Co), x.dtype)
    begin, end = thread * N * Ho // threads, (thread + 1) * N * Ho // threads
    for first in range(begin, end, lines):
        last = min(first + lines, end)
        out, more = ym[first * Wo : last * Wo], product[: (last - first) * Wo]
        for tap in range(0, kh * kw, taps):
            rows = windows(x, cols, first, last, tap, min(tap + taps, kh * kw), kh, kw, s, top, left, Ho, Wo)
            np.dot(rows, wm[tap * C : tap * C + rows.shape[1]], more if tap else out)
            if tap:
                add_rows(out, more)
        for line in range(first, last):
            bias = b[line // Ho % len(b)]
            for row in range((line - first) * Wo, (line - first + 1) * Wo):
                pixel = out[row]
                for d in range(Co):
                    pixel[d] += bias[d]


@njit(cache=True, parallel=True)
def gradient_parallel(x, dy, parts, s, top, left):
    """parts[i] = colsᵀ dy over the blocks of thread i; their sum is dw."""
    for thread in prange(len(parts)):  # each adds up its own blocks, so the order of the sum, and its bits, are fixed
        gradient_blocks(x, dy, parts[thread], s, top, left, thread, len(parts))


@njit(cache=True)
def gradient_blocks(x, dy, dw, s, top, left, thread, threads):
    """dw += colsᵀ dy over the share of one of `threads` threads."""
    kh, kw, C, Co = dw.shape
    N, Ho, Wo, _ = dy.shape
    dwm, dym = dw.reshape(kh * kw * C, Co), dy.reshape(N * Ho * Wo, Co)
    lines, taps = block(dw.shape, Wo)
    cols, product = np.empty(lines * Wo * taps * C, x.dtype), np.empty((taps * C, Co), x.dtype)
    begin, end = thread * N * Ho // threads, (thread + 1) * N * Ho // threads
    for first in range(begin, end, lines):
        last = min(first + lines, end)
        for tap in range(0, kh * kw, taps):
            rows = windows(x, cols, first, last, tap, min(tap + taps, kh * kw), kh, kw, s, top, left, Ho, Wo)
            more = product[: rows.shape[1]]
            np.dot(rows.T, dym[first * Wo : last * Wo], more)
            add_rows(dwm[tap * C : tap * C + len(more)], more)


@njit(cache=True)
def block(w_shape, Wo):
    """(lines, taps): how many lines of Wo output pixels are laid out at a time, and how many taps of each window."""
    kh, kw, C, Co = w_shape
    rows = QUICK_PRODUCT // max(1, kh * kw * C * Co)
    lines = max(1, (min(MOST_ROWS, rows) if rows >= FEW_ROWS else quick_rows(C * Co)) // Wo)
    return lines, min(kh * kw, max(1, QUICK_PRODUCT // max(1, lines * Wo * C * Co)))


@njit(cache=True)
def windows(x, cols, first, last, tap, end, kh, kw, s, top, left, Ho, Wo):
    """Taps tap..end−1 of the rows of output lines first..last−1: in cols, or, where a window is one pixel, x itself."""
    N, H, W, C = x.shape
    if kh == kw == s == 1 and Ho == H and Wo == W:
        return x.reshape(N * H * W, C)[first * W : last * W]
    rows, width = (last - first) * Wo, (end - tap) * C
    laid_out = cols[: rows * width].reshape(rows, width)
    gather(x, laid_out, first, last, tap, end, kw, s, top, left, Ho, Wo)
    return laid_out


@njit(cache=True)
def gather(x, cols, first, last, tap, end, kw, s, top, left, Ho, Wo):
    """cols[row of output pixel (n, i, j)] = taps tap..end−1 of its window, for output lines first..last−1 (n·Ho + i)."""
    N, H, W, C = x.shape
    row = 0
    for line in range(first, last):
        n, i = line // Ho, line % Ho
        for j in range(Wo):
            k = 0
            for uv in range(tap, end):
                r, c = s * i + uv // kw - top, s * j + uv % kw - left
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
