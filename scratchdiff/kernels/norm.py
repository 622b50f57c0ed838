"""Group normalisation in Numba, with or without SiLU: twins of `normalise` and `normalise_silu` in ops/norm.py.

In NumPy each step of the formula is a trip through memory, and the trips cost more than the arithmetic. Here an image
comes from memory once, stays in the cache for the three passes over it (means, variances, output), and y is written once.
The backward pass keeps x, not x̂: it is cheaper to compute x̂ again than to fetch it.

We keep one sum per channel (channels lie side by side, so the compiler adds 8 or 16 of them at once), in float64, which is
exact enough for an image of any size. Optional to read.
"""

import math

import numpy as np
from numba import njit, prange

from scratchdiff.kernels.exponential import logistic
from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.threads import share, thread_count


def normalise(x, scale, shift, groups, eps):
    """See ops.norm.normalise."""
    return forward_and_backward(x, scale, shift, groups, eps, False)[:2]


def normalise_silu(x, scale, shift, groups, eps):
    """See ops.norm.normalise_silu."""
    return forward_and_backward(x, scale, shift, groups, eps, True)


def forward_and_backward(x, scale, shift, groups, eps, silu):
    """y = act(scale · x̂ + shift), its backward and a function that computes y again; act is SiLU or the identity."""
    x, scale, shift = prepare(x, scale, shift)
    mean, rstd = np.empty((2, len(x), groups), x.dtype)

    def output(known):
        y = np.empty_like(x)
        norm_parallel(x, scale, shift, float(eps), silu, y, mean, rstd, known, parts(len(x), groups))
        return y

    def backward(dy):
        (dy,) = prepare(dy)
        dx = np.empty_like(x)
        sums = np.empty((2, len(x), len(scale)))  # one per image, added in a fixed order: the bits do not depend on threads
        gradient_parallel(dy, x, mean, rstd, scale, shift, silu, dx, sums[0], sums[1], parts(len(x), groups))
        dscale, dshift = sums.sum(1).astype(x.dtype)
        return dx, dscale, dshift

    return output(known=False), backward, lambda: output(known=True)


def parts(N, groups):
    """Into how many runs of groups each image is cut, so that few images are still work for all threads."""
    return 1 if N >= thread_count() else min(groups, thread_count())


@njit(cache=True, parallel=True)
def norm_parallel(x, scale, shift, eps, silu, y, mean, rstd, known, parts):
    """Fill y, and mean and rstd unless they are known: each image, or each run of its groups, is one piece of work."""
    groups = mean.shape[1]
    for item in prange(len(x) * parts):
        n, part = item // parts, item % parts
        first, last = share(groups, part, parts)
        norm_image(x[n], scale, shift, eps, silu, y[n], mean[n], rstd[n], known, first, last)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def norm_image(x, scale, shift, eps, silu, y, mean, rstd, known, first, last):
    """y for groups first..last−1 of one image (L, C)."""
    L, C = x.shape
    width = C // len(mean)
    a, b = first * width, last * width  # their channels are a..b−1
    mu, factor, offset = np.empty(b - a, x.dtype), np.empty(b - a, x.dtype), shift[a:b]
    if not known:
        find_moments(x, eps, mean, rstd, first, last)
    for c in range(b - a):
        mu[c], factor[c] = mean[first + c // width], scale[a + c] * rstd[first + c // width]
    for i in range(L):
        xi, yi = x[i, a:b], y[i, a:b]
        if silu:
            for c in range(b - a):
                v = (xi[c] - mu[c]) * factor[c] + offset[c]
                yi[c] = v * logistic(v)
        else:
            for c in range(b - a):
                yi[c] = (xi[c] - mu[c]) * factor[c] + offset[c]


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def find_moments(x, eps, mean, rstd, first, last):
    """Fill mean and rstd for groups first..last−1 of one image (L, C)."""
    L, C = x.shape
    width = C // len(mean)
    a, b = first * width, last * width
    total, mu = np.zeros(b - a), np.empty(b - a, x.dtype)

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
            centred = np.float64(xi[c] - mu[c])  # the square of 1e20 is no float32
            total[c] += centred * centred
    for g in range(first, last):
        rstd[g] = 1 / math.sqrt(total[g * width - a : (g + 1) * width - a].sum() / (L * width) + eps)


@njit(cache=True, parallel=True)
def gradient_parallel(dy, x, mean, rstd, scale, shift, silu, dx, dscale, dshift, parts):
    """Fill dx, and dscale and dshift of each image, shared out as in `norm_parallel`."""
    groups = mean.shape[1]
    for item in prange(len(x) * parts):
        n, part = item // parts, item % parts
        first, last = share(groups, part, parts)
        gradient_image(dy[n], x[n], mean[n], rstd[n], scale, shift, silu, dx[n], dscale[n], dshift[n], first, last)


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def gradient_image(dy, x, mean, rstd, scale, shift, silu, dx, dscale, dshift, first, last):
    """Groups first..last−1 of one image; the formulas are those of ops/norm.py."""
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
