"""Group normalisation, with or without SiLU after it, in Numba: the same as in `reference.py`. Optional to read.

In NumPy each step of the formula is a trip through memory, and the trips cost more than the arithmetic. Here an image
comes from memory once, stays in the cache for the three passes over it (means, variances, output), and y is written once.
The backward pass is given x, not x̂: computing it again is cheaper than fetching it.

Sums are kept one a channel (channels lie side by side, so the compiler adds up 8 or 16 at once) and in float64, which is
exact enough for an image of any size.
"""

import math

import numba
import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from scratchdiff.kernels.memory import prepare


def group_norm(x, scale, shift, groups, eps, silu):
    """See reference.group_norm."""
    x, scale, shift = prepare(x, scale, shift)
    y = np.empty_like(x)
    mean, rstd = np.empty((2, len(x), groups), x.dtype)
    forward(x, scale, shift, float(eps), bool(silu), y, mean, rstd, parts(len(x), groups))
    return y, mean, rstd


def group_norm_backward(dy, x, mean, rstd, scale, shift, groups, silu):
    """See reference.group_norm_backward."""
    dy, x, mean, rstd, scale, shift = prepare(dy, x, mean, rstd, scale, shift)
    dx = np.empty_like(x)
    sums = np.empty((2, len(x), len(scale)))  # one an image, added in their order: the bits do not depend on the threads
    backward(dy, x, mean, rstd, scale, shift, bool(silu), dx, sums[0], sums[1], parts(len(x), groups))
    dscale, dshift = sums.sum(1).astype(x.dtype)
    return dx, dscale, dshift


def sum_pixels(dy):
    """See reference.sum_pixels."""
    (dy,) = prepare(dy)
    N, H, W, C = dy.shape
    db = np.empty((N, C), dy.dtype)
    add_up(dy.reshape(N, H * W, C), db)
    return db


@njit(cache=True, parallel=True)
def add_up(dy, db):
    """db[n] = Σ_l dy[n, l], in float64."""
    N, L, C = dy.shape
    for n in prange(N):
        total = np.zeros(C)
        for i in range(L):
            pixel = dy[n, i]
            for c in range(C):
                total[c] += pixel[c]
        for c in range(C):
            db[n, c] = total[c]


def parts(N, groups):
    """Into how many runs of groups each image is cut, so that few images are still work for all threads."""
    return 1 if N >= numba.get_num_threads() else min(groups, numba.get_num_threads())


@njit(cache=True, parallel=True)
def forward(x, scale, shift, eps, silu, y, mean, rstd, parts):
    """Fill y, mean and rstd: each image, or each run of its groups, is one piece of work."""
    groups = mean.shape[1]
    for item in prange(len(x) * parts):
        n, part = item // parts, item % parts
        first, last = part * groups // parts, (part + 1) * groups // parts
        forward_image(x[n], scale, shift, eps, silu, y[n], mean[n], rstd[n], first, last)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def forward_image(x, scale, shift, eps, silu, y, mean, rstd, first, last):
    """Groups first..last−1 of one image (L, C)."""
    L, C = x.shape
    width = C // len(mean)
    a, b = first * width, last * width  # their channels are a..b−1
    total, mu, factor, offset = np.zeros(b - a), np.empty(b - a, x.dtype), np.empty(b - a, x.dtype), shift[a:b]

    for i in range(L):
        xi = x[i, a:b]
        for c in range(b - a):
            total[c] += xi[c]
    for g in range(first, last):
        mean[g] = total[g * width - a : (g + 1) * width - a].sum() / (L * width)
    for c in range(b - a):
        mu[c] = mean[first + c // width]

    total[:] = 0
    for i in range(L):
        xi = x[i, a:b]
        for c in range(b - a):
            centred = xi[c] - mu[c]
            total[c] += centred * centred
    for g in range(first, last):
        rstd[g] = 1 / math.sqrt(total[g * width - a : (g + 1) * width - a].sum() / (L * width) + eps)
    for c in range(b - a):
        factor[c] = scale[a + c] * rstd[first + c // width]

    for i in range(L):
        xi, yi = x[i, a:b], y[i, a:b]
        if silu:
            for c in range(b - a):
                v = (xi[c] - mu[c]) * factor[c] + offset[c]
                yi[c] = v * logistic(v)
        else:
            for c in range(b - a):
                yi[c] = (xi[c] - mu[c]) * factor[c] + offset[c]


@njit(cache=True, parallel=True)
def backward(dy, x, mean, rstd, scale, shift, silu, dx, dscale, dshift, parts):
    """Fill dx, and dscale and dshift of each image, shared out as in `forward`."""
    groups = mean.shape[1]
    for item in prange(len(x) * parts):
        n, part = item // parts, item % parts
        first, last = part * groups // parts, (part + 1) * groups // parts
        backward_image(dy[n], x[n], mean[n], rstd[n], scale, shift, silu, dx[n], dscale[n], dshift[n], first, last)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def backward_image(dy, x, mean, rstd, scale, shift, silu, dx, dscale, dshift, first, last):
    """Groups first..last−1 of one image; the formulas are those of reference.group_norm_backward."""
    L, C = x.shape
    width = C // len(mean)
    a, b = first * width, last * width
    scale, shift, sum_dv, sum_dv_xhat = scale[a:b], shift[a:b], np.zeros(b - a), np.zeros(b - a)
    mu, r = np.empty(b - a, x.dtype), np.empty(b - a, x.dtype)
    m1, m2 = np.empty(b - a, x.dtype), np.empty(b - a, x.dtype)
    one = x.dtype.type(1)
    for c in range(b - a):
        mu[c], r[c] = mean[first + c // width], rstd[first + c // width]

    # until its sums are known dx holds dv, the gradient of what SiLU was applied to
    for i in range(L):
        xi, dyi, dxi = x[i, a:b], dy[i, a:b], dx[i, a:b]
        if silu:
            for c in range(b - a):
                v = scale[c] * ((xi[c] - mu[c]) * r[c]) + shift[c]
                s = logistic(v)
                dxi[c] = dyi[c] * (s * (one + v * (one - s)))
        else:
            for c in range(b - a):
                dxi[c] = dyi[c]
        for c in range(b - a):
            sum_dv[c] += dxi[c]
            sum_dv_xhat[c] += dxi[c] * ((xi[c] - mu[c]) * r[c])

    for g in range(0, b - a, width):
        sum1 = sum2 = 0.0
        for c in range(g, g + width):
            sum1 += scale[c] * sum_dv[c]
            sum2 += scale[c] * sum_dv_xhat[c]
        for c in range(g, g + width):
            m1[c], m2[c] = sum1 / (L * width), sum2 / (L * width)
    for i in range(L):
        xi, dxi = x[i, a:b], dx[i, a:b]
        for c in range(b - a):
            xhat = (xi[c] - mu[c]) * r[c]
            dxi[c] = r[c] * (scale[c] * dxi[c] - m1[c] - xhat * m2[c])
    for c in range(b - a):
        dscale[a + c], dshift[a + c] = sum_dv_xhat[c], sum_dv[c]


# exp(a) = 2ⁿ exp(r), a = n ln 2 + r with whole n and |r| <= ½ ln 2. There the Taylor polynomial of degree 7 is exact to
# 5e-9 of its value and that of degree 13 to 4e-18: less than float32 and float64 round. The libraries' exp is as exact but
# is called for one number at a time; this is plain arithmetic, which the compiler does on 8 or 16 numbers at a time.
# Adding 1.5·2²³ to a float32 (1.5·2⁵² to a float64) rounds it to a whole number n and leaves n in its lowest bits; moved
# up to where the exponent is kept, they make 2ⁿ. ln 2 is taken off in two pieces, the first with so few bits that n times
# it is exact. Past either end the result is 0 or infinity, and NaN stays NaN. In float32 the error was measured as 8e-8
# of the value; in float64 the tests hold SiLU as a whole to 1e-14.


@njit(error_model="numpy", fastmath={"contract"})
def exp32(a):
    """eᵃ of a float32."""
    f = np.float32
    a = f(-88) if a < f(-88) else a
    a = f(89) if a > f(89) else a
    t = a * f(1.4426950408889634) + f(12582912)
    n = t - f(12582912)
    r = (a - n * f(0.693359375)) - n * f(-2.12194440e-4)
    p = f(1 / 5040) * r + f(1 / 720)
    p = p * r + f(1 / 120)
    p = p * r + f(1 / 24)
    p = p * r + f(1 / 6)
    p = p * r + f(1 / 2)
    p = p * r + f(1)
    p = p * r + f(1)
    return p * np.int32((f(t).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(error_model="numpy", fastmath={"contract"})
def exp64(a):
    """eᵃ of a float64."""
    a = -709.0 if a < -709.0 else a
    a = 710.0 if a > 710.0 else a
    t = a * 1.4426950408889634 + 6755399441055744.0
    n = t - 6755399441055744.0
    r = (a - n * 0.693145751953125) - n * 1.42860682030941723212e-6
    p = r / 6227020800 + 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 1 / 2
    p = p * r + 1
    p = p * r + 1
    return p * np.int64((np.float64(t).view(np.int64) + 1023) << 52).view(np.float64)


def logistic(v):
    """σ(v) = 1/(1 + e⁻ᵛ) of a float32 or a float64 (for Numba only: the overload below is what it compiles)."""


@overload(logistic)
def choose_logistic(v):
    if v == types.float32:
        return lambda v: np.float32(1) / (np.float32(1) + exp32(-v))
    return lambda v: 1 / (1 + exp64(-v))
