"""Softmax, and the attention built on it: every position looks at every other and takes a weighted mean of what it finds."""

import numpy as np

from scratchdiff.autograd import op


def softmax_array(x: np.ndarray) -> np.ndarray:
    """exp(x)/Σ exp(x) over the last axis. Subtracting the maximum first changes nothing and keeps exp from overflowing."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dx_i = Σ_j dy_j y_j (δ_ij − y_i) = y_i (dy_i − Σ_j dy_j y_j)."""
    return y * (dy - (dy * y).sum(-1, keepdims=True))


@op
def softmax(x):
    """y_i = exp(x_i) / Σ_j exp(x_j) over the last axis. x: (..., n), n ≥ 1, or ValueError."""
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(f"softmax: needs a last axis with at least one entry, got shape {x.shape}")
    y = softmax_array(x)
    return y, lambda dy: (softmax_backward(dy, y),)


@op
def attention(q, k, v):
    """y = softmax(q kᵀ / √D) v   (Vaswani et al. 2017, Eq. 1).

    q: (N, heads, L, D), k: (N, heads, M, D), v: (N, heads, M, E) → (N, heads, L, E). Any leading axes will do.
    Raises ValueError if the shapes do not fit."""
    fits = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    if not fits or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2] or k.shape[-2] < 1:
        raise ValueError(f"attention: shapes q {q.shape}, k {k.shape}, v {v.shape} do not fit")
    s = q.dtype.type(1 / np.sqrt(q.shape[-1]))
    a = softmax_array(s * (q @ k.swapaxes(-1, -2)))  # (N, heads, L, M): how much of v[m] goes to y[l]

    def backward(dy):
        dv = a.swapaxes(-1, -2) @ dy
        ds = s * softmax_backward(dy @ v.swapaxes(-1, -2), a)
        return ds @ k, ds.swapaxes(-1, -2) @ q, dv

    return a @ v, backward
