"""Softmax, and the attention built on it: every position looks at every other and takes a weighted mean of what it finds.

Their formulas are in `kernels/reference.py`."""

import math

from scratchdiff import kernels
from scratchdiff.autograd import op
from scratchdiff.kernels.reference import softmax as softmax_array
from scratchdiff.kernels.reference import softmax_backward


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
    lead = q.shape[:-2]
    inputs = [x.reshape(math.prod(lead), *x.shape[-2:]) for x in (q, k, v)]
    y, a = kernels.attention(*inputs)

    def backward(dy):
        grads = kernels.attention_backward(dy.reshape(y.shape), *inputs, a)
        return tuple(dx.reshape(*lead, *dx.shape[1:]) for dx in grads)

    return y.reshape(*lead, *y.shape[1:]), backward
