"""The kernels as formulas. A convolution is a sum over the taps (u, v) of its window, and each tap is a matrix product:

    y[n, i, j, :] = Σ_{u,v} xp[n, s·i + u, s·j + v, :] w[u, v]        xp: x with its zero padding

Read this file; `fast.py` computes the same numbers and is optional. Everywhere: x (N, H, W, Cin), w (kh, kw, Cin, Cout),
y and dy (N, Ho, Wo, Cout), stride s, pads ((top, bottom), (left, right)).
"""

import numpy as np


def tap(xp, u, v, out_size, s):
    """The pixels of the padded image that tap (u, v) reads, one for each output pixel: a view (N, Ho, Wo, Cin)."""
    Ho, Wo = out_size
    return xp[:, u : u + s * Ho : s, v : v + s * Wo : s]


def pad(x, pads):
    return np.pad(x, ((0, 0), *pads, (0, 0)))


def conv2d(x, w, s, pads):
    """y[n,i,j] = Σ_{u,v} xp[n, si+u, sj+v] w[u,v]."""
    xp = pad(x, pads)
    kh, kw = w.shape[:2]
    out_size = (xp.shape[1] - kh) // s + 1, (xp.shape[2] - kw) // s + 1
    return sum(tap(xp, u, v, out_size, s) @ w[u, v] for u, v in np.ndindex(kh, kw))


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
