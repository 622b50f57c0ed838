"""Any convolution as matrix products, in Numba. Optional to read.

Once the window that each output pixel sees is laid out as a row (im2col, "image to columns"), a convolution is

    cols: (pixels, kh·kw·Cin)    y = cols w      dw = colsᵀ dy      dcols = dy wᵀ

and dx is the sum of what dcols holds for each pixel of x, since a pixel stands in several windows. The whole `cols` would be
kh·kw times the image. So each thread lays out a block of rows, multiplies it, and goes on to the next in the same buffer.
"""

import numpy as np
from numba import njit, prange

from scratchdiff.kernels.products import multiply, narrow, transposed, vectors, whole, widen
from scratchdiff.kernels.threads import share, thread_count

BLOCK = 2**16  # numbers in a block of rows: they should stay in the cache
MOST_ROWS = 64  # in a block, found by trying


def convolution(x, w, b, s, pads):
    """y = cols w + b.   b: (1, Cout) or (N, Cout)."""
    (top, bottom), (left, right) = pads
    N, H, W, _ = x.shape
    kh, kw, _, Co = w.shape
    y = np.empty((N, (H + top + bottom - kh) // s + 1, (W + left + right - kw) // s + 1, whole(Co, x)), x.dtype)
    convolve_parallel(x, widen(w.reshape(-1, Co)), widen(b), y, kh, kw, s, top, left, thread_count())
    return narrow(y, Co)


def weight_gradient(x, dy, w_shape, s, pads):
    """dw = colsᵀ dy."""
    kh, kw, C, Co = w_shape
    parts = np.zeros((thread_count(), kh * kw * C, whole(Co, x)), x.dtype)
    gradient_parallel(x, widen(dy), parts, kh, kw, s, pads[0][0], pads[1][0])
    return narrow(parts.sum(0), Co).reshape(w_shape)


def input_gradient(dy, w, x_shape, s, pads):
    """dx, the sum of dcols = dy wᵀ over the windows."""
    kh, kw, _, Co = w.shape
    dx = np.zeros(x_shape, dy.dtype)
    collect_parallel(dy, transposed(w.reshape(-1, Co)), dx, kh, kw, s, pads[0][0], pads[1][0], thread_count())
    return dx


@njit(cache=True, parallel=True)
def convolve_parallel(x, w, b, y, kh, kw, s, top, left, threads):
    """y = cols w + b, with a share of the pixels of y for each thread."""
    for thread in prange(threads):
        begin, end = share(len(y) * y.shape[1] * y.shape[2], thread, threads)
        convolve_pixels(x, w, b, y, kh, kw, s, top, left, begin, end)


@njit(cache=True)
def convolve_pixels(x, w, b, y, kh, kw, s, top, left, begin, end):
    """Pixels begin..end−1, counted through all images, a block at a time."""
    N, Ho, Wo, width = y.shape
    terms, pixels, ym = len(w), Ho * Wo, y.reshape(N * Ho * Wo, width)
    rows = block(terms)
    cols, first = np.empty((rows, terms), x.dtype), begin
    while first < end:
        n, last = first // pixels, min(first + rows, end)
        if len(b) > 1:  # each image has a bias of its own
            last = min(last, (n + 1) * pixels)
        some = windows(x, cols, first, last, kh, kw, s, top, left, Ho, Wo)
        multiply(some, vectors(w), ym[first:last], b[n % len(b)], False)
        first = last


@njit(cache=True, parallel=True)
def gradient_parallel(x, dy, parts, kh, kw, s, top, left):
    """parts[i] = colsᵀ dy over the pixels of thread i; their sum is dw."""
    for i in prange(len(parts)):  # each adds up its own pixels, so the order of the sum, and its bits, are fixed
        begin, end = share(len(dy) * dy.shape[1] * dy.shape[2], i, len(parts))
        gradient_pixels(x, dy, parts[i], kh, kw, s, top, left, begin, end)


@njit(cache=True)
def gradient_pixels(x, dy, dw, kh, kw, s, top, left, begin, end):
    """dw += colsᵀ dy over pixels begin..end−1."""
    N, Ho, Wo, width = dy.shape
    rows, dym = block(len(dw)), dy.reshape(N * Ho * Wo, width)
    cols, zeros = np.empty((rows, len(dw)), x.dtype), np.zeros(width, x.dtype)
    for first in range(begin, end, rows):
        last = min(first + rows, end)
        some = windows(x, cols, first, last, kh, kw, s, top, left, Ho, Wo)
        multiply(some.T, vectors(dym[first:last]), dw, zeros, True)


@njit(cache=True, parallel=True)
def collect_parallel(dy, w_transposed, dx, kh, kw, s, top, left, threads):
    """dx += dcols for every window. Each thread has images of its own, because the windows of one image overlap."""
    for thread in prange(threads):
        begin, end = share(len(dy), thread, threads)
        pixels = dy.shape[1] * dy.shape[2]
        collect_pixels(dy, w_transposed, dx, kh, kw, s, top, left, begin * pixels, end * pixels)


@njit(cache=True)
def collect_pixels(dy, w_transposed, dx, kh, kw, s, top, left, begin, end):
    """The windows of output pixels begin..end−1."""
    N, Ho, Wo, Co = dy.shape
    width = w_transposed.shape[1]
    rows, dym = block(width), dy.reshape(N * Ho * Wo, Co)
    dcols, zeros = np.empty((rows, width), dy.dtype), np.zeros(width, dy.dtype)
    for first in range(begin, end, rows):
        last = min(first + rows, end)
        multiply(dym[first:last], vectors(w_transposed), dcols[: last - first], zeros, False)
        add_up(dcols[: last - first], dx, first, kh, kw, s, top, left, Ho, Wo)


@njit(cache=True)
def block(terms):
    """How many rows of so many numbers are laid out at a time."""
    return max(1, min(MOST_ROWS, BLOCK // max(1, terms)))


@njit(cache=True)
def windows(x, cols, first, last, kh, kw, s, top, left, Ho, Wo):
    """The windows of output pixels first..last−1: in cols, or, where a window is one pixel, x itself."""
    N, H, W, C = x.shape
    if kh == kw == s == 1 and Ho == H and Wo == W:
        return x.reshape(N * H * W, C)[first:last]
    lay_out(x, cols[: last - first], first, kh, kw, s, top, left, Ho, Wo)
    return cols[: last - first]


@njit(cache=True, error_model="numpy")
def lay_out(x, cols, first, kh, kw, s, top, left, Ho, Wo):
    """cols[row] = the window of output pixel first + row, which is pixel (i, j) of image n."""
    _, H, W, C = x.shape
    for row in range(len(cols)):
        n, i, j = (first + row) // (Ho * Wo), (first + row) // Wo % Ho, (first + row) % Wo
        for u in range(kh):
            for v in range(kw):
                r, c = s * i + u - top, s * j + v - left
                out = cols[row, (u * kw + v) * C : (u * kw + v + 1) * C]
                if 0 <= r < H and 0 <= c < W:
                    pixel = x[n, r, c]
                    for a in range(C):
                        out[a] = pixel[a]
                else:
                    for a in range(C):
                        out[a] = 0


@njit(cache=True, error_model="numpy")
def add_up(dcols, dx, first, kh, kw, s, top, left, Ho, Wo):
    """dx += dcols, window by window: `lay_out` backwards."""
    _, H, W, C = dx.shape
    for row in range(len(dcols)):
        n, i, j = (first + row) // (Ho * Wo), (first + row) // Wo % Ho, (first + row) % Wo
        for u in range(kh):
            for v in range(kw):
                r, c = s * i + u - top, s * j + v - left
                if 0 <= r < H and 0 <= c < W:
                    pixel, more = dx[n, r, c], dcols[row, (u * kw + v) * C : (u * kw + v + 1) * C]
                    for a in range(C):
                        pixel[a] += more[a]
