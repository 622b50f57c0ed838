"""The kernels as formulas. A convolution is a sum over the taps (u, v) of its window, and each tap is a matrix product:

    y[n, i, j, :] = Σ_{u,v} xp[n, s·i + u, s·j + v, :] w[u, v]        xp: x with its zero padding

Read this file; `fast.py` computes the same numbers and is optional. In a convolution: x (N, H, W, Cin), w (kh, kw, Cin,
Cout), y and dy (N, Ho, Wo, Cout), stride s, pads ((top, bottom), (left, right)). In a norm: x, y and dy (N, L, C), that is
N images of L pixels; scale and shift (C,).
"""

import numpy as np


def tap(xp, u, v, out_size, s):
    """The pixels of the padded image that tap (u, v) reads, one for each output pixel: a view (N, Ho, Wo, Cin)."""
    Ho, Wo = out_size
    return xp[:, u : u + s * Ho : s, v : v + s * Wo : s]


def pad(x, pads):
    """x with its border of zeros, ((top, bottom), (left, right))."""
    return np.pad(x, ((0, 0), *pads, (0, 0)))


def conv2d(x, w, b, s, pads):
    """y[n,i,j] = Σ_{u,v} xp[n, si+u, sj+v] w[u,v] + b[n]. b: (N, Cout), or (1, Cout) for all images."""
    xp = pad(x, pads)
    kh, kw = w.shape[:2]
    out_size = (xp.shape[1] - kh) // s + 1, (xp.shape[2] - kw) // s + 1
    return sum(tap(xp, u, v, out_size, s) @ w[u, v] for u, v in np.ndindex(kh, kw)) + b[:, None, None]


def conv2d_dx(dy, w, x_shape, s, pads):
    """dxp[n, si+u, sj+v] += dy[n,i,j] w[u,v]ᵀ for every tap; dx is what is left without the padding."""
    N, H, W, C = x_shape
    (top, bottom), (left, right) = pads
    dxp = np.zeros((N, H + top + bottom, W + left + right, C), dy.dtype)
    for u, v in np.ndindex(w.shape[:2]):
        tap(dxp, u, v, dy.shape[1:3], s)[...] += dy @ w[u, v].T
    return dxp[:, top : top + H, left : left + W]


def conv2d_dw(x, dy, w_shape, s, pads):
    """dw[u,v] = Σ_{n,i,j} xp[n, si+u, sj+v]ᵀ dy[n,i,j]."""
    xp = pad(x, pads)
    dw = np.empty(w_shape, x.dtype)
    for u, v in np.ndindex(w_shape[:2]):
        dw[u, v] = np.tensordot(tap(xp, u, v, dy.shape[1:3], s), dy, axes=((0, 1, 2), (0, 1, 2)))
    return dw


def sum_pixels(dy):
    """db[n] = Σ_{i,j} dy[n,i,j]: (N, Cout)."""
    return dy.sum((1, 2))


GROUP = (1, 3)  # what a group extends over in `in_groups(x)`: its channels at every pixel


def in_groups(x, groups):
    """x (N, L, C) as (N, L, groups, C/groups)."""
    return x.reshape(*x.shape[:2], groups, x.shape[2] // groups)


def logistic(v):
    """σ(v) = 1/(1 + e⁻ᵛ), written so that nothing overflows."""
    return 0.5 * (1 + np.tanh(0.5 * v))


def group_norm(x, scale, shift, groups, eps, silu):
    """y = act(v), v = scale · x̂ + shift, x̂ = (x − μ)/σ, σ² = var + eps, and act(v) = v σ(v) if `silu`, else v.

    Returns y and, for the backward pass, μ and 1/σ of each group of each image: (N, groups) both."""
    xg = in_groups(x, groups)
    mean = xg.mean(GROUP, keepdims=True)
    rstd = 1 / np.sqrt(np.square(xg - mean).mean(GROUP, keepdims=True) + x.dtype.type(eps))
    v = scale * ((xg - mean) * rstd).reshape(x.shape) + shift
    return v * logistic(v) if silu else v, mean[:, 0, :, 0], rstd[:, 0, :, 0]


def group_norm_backward(dy, x, mean, rstd, scale, shift, groups, silu):
    """dv = act'(v) dy, dshift = Σ dv, dscale = Σ dv x̂, and with dx̂ = scale · dv, means being over the group:

        dx = (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂))/σ

    for x moves its group's μ and σ as well, and the two means are what flows through those. Returns dx, dscale, dshift."""
    mean, rstd = mean[:, None, :, None], rstd[:, None, :, None]
    xhat = (in_groups(x, groups) - mean) * rstd
    v = scale * xhat.reshape(x.shape) + shift
    s = logistic(v)
    dv = dy * s * (1 + v * (1 - s)) if silu else dy  # (v σ(v))' = σ + v σ (1 − σ)
    dxhat = in_groups(dv * scale, groups)
    dx = rstd * (dxhat - dxhat.mean(GROUP, keepdims=True) - xhat * (dxhat * xhat).mean(GROUP, keepdims=True))
    return dx.reshape(x.shape), (dv * xhat.reshape(x.shape)).sum((0, 1)), dv.sum((0, 1))
