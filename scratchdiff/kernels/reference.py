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


def activated(x, silu):
    """act(x): x σ(x) if `silu`, else x."""
    return x * logistic(x) if silu else x


def silu_slope(x):
    """(x σ(x))' = σ + x σ (1 − σ)."""
    s = logistic(x)
    return s * (1 + x * (1 - s))


def linear(x, w, b, silu):
    """y = act(x) w + b.   x: (rows, in), w: (in, out), b: (out,)."""
    return activated(x, silu) @ w + b


def linear_backward(dy, x, w, silu):
    """dx = act'(x) dy wᵀ,   dw = act(x)ᵀ dy,   db = Σ dy over the rows."""
    da = dy @ w.T
    return silu_slope(x) * da if silu else da, activated(x, silu).T @ dy, dy.sum(0)


def group_norm(x, scale, shift, groups, eps, silu):
    """y = act(v), v = scale · x̂ + shift, x̂ = (x − μ)/σ, σ² = var + eps, and act(v) = v σ(v) if `silu`, else v.

    Returns y and, for the backward pass, μ and 1/σ of each group of each image: (N, groups) both."""
    xg = in_groups(x, groups)
    mean = xg.mean(GROUP, keepdims=True, dtype=np.float64).astype(x.dtype)  # float64: exact for constants, no overflow
    var = np.square(xg - mean, dtype=np.float64).mean(GROUP, keepdims=True)
    rstd = (1 / np.sqrt(var + eps)).astype(x.dtype)
    v = scale * ((xg - mean) * rstd).reshape(x.shape) + shift
    return activated(v, silu), mean[:, 0, :, 0], rstd[:, 0, :, 0]


def group_norm_backward(dy, x, mean, rstd, scale, shift, groups, silu):
    """dv = act'(v) dy, dshift = Σ dv, dscale = Σ dv x̂, and with dx̂ = scale · dv, means being over the group:

        dx = (dx̂ − mean(dx̂) − x̂ mean(dx̂ x̂))/σ

    for x moves its group's μ and σ as well, and the two means are what flows through those. Returns dx, dscale, dshift."""
    mean, rstd = mean[:, None, :, None], rstd[:, None, :, None]
    xhat = (in_groups(x, groups) - mean) * rstd
    v = scale * xhat.reshape(x.shape) + shift
    dv = dy * silu_slope(v) if silu else dy
    dxhat = in_groups(dv * scale, groups)
    dx = rstd * (dxhat - dxhat.mean(GROUP, keepdims=True) - xhat * (dxhat * xhat).mean(GROUP, keepdims=True))
    return dx.reshape(x.shape), (dv * xhat.reshape(x.shape)).sum((0, 1)), dv.sum((0, 1))


def join(xs):
    """The columns of the xs side by side: (rows, C₁), (rows, C₂), ... → (rows, C₁ + C₂ + ...)."""
    return np.concatenate(xs, axis=1)


def split(y, widths):
    """Undoes `join`: a list of (rows, width), one for each width."""
    return np.split(y, np.cumsum(widths)[:-1], axis=1)


def softmax(x):
    """exp(x)/Σ exp(x) over the last axis. Subtracting the maximum first changes nothing and keeps exp from overflowing."""
    with np.errstate(over="ignore"):  # two ends of the numbers may be an infinity apart, and e^−∞ is 0 all the same
        e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_backward(dy, y):
    """dx_i = Σ_j dy_j y_j (δ_ij − y_i) = y_i (dy_i − Σ_j dy_j y_j)."""
    return y * (dy - (dy * y).sum(-1, keepdims=True))


def attention(q, k, v):
    """a = softmax(q kᵀ/√D), how much of v[m] goes to y[l], and y = a v. Returns y and a.

    q: (N, L, D), k: (N, M, D), v: (N, M, E); y: (N, L, E), a: (N, L, M)."""
    scores = np.matmul(q, k.swapaxes(1, 2), dtype=np.float64)  # the product of two float32 may be too large for a third
    a = softmax(scores / np.sqrt(q.shape[2])).astype(q.dtype)
    return a @ v, a


def attention_backward(dy, q, k, v, a):
    """dv = aᵀ dy,   ds = softmax_backward(dy vᵀ)/√D,   dq = ds k,   dk = dsᵀ q."""
    ds = softmax_backward(dy @ v.swapaxes(1, 2), a) / q.dtype.type(np.sqrt(q.shape[2]))
    return ds @ k, ds.swapaxes(1, 2) @ q, a.swapaxes(1, 2) @ dy


def adam(p, g, m, v, b1, b2, step_size, root, eps):
    """m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²,   p ← p − step_size · m/(√v/root + ε). In place; flat arrays."""
    m += (1 - b1) * (g - m)
    v += (1 - b2) * (g * g - v)
    p -= step_size * m / (np.sqrt(v) / root + eps)
