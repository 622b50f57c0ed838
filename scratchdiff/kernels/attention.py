"""Attention in Numba: the twin of `attend` in ops/attention.py. It works on one image and head at a time, whose scores stay
in the cache from the first product to the last, and gives each thread its share of the images. Optional to read.
"""

import numpy as np
from numba import njit, prange

from scratchdiff.kernels import FORMULAS
from scratchdiff.kernels.exponential import exp
from scratchdiff.kernels.memory import prepare


def attend(q, k, v, mask=None):
    """See ops.attention.attend. With a mask the formula runs, since only the Transformer needs masks."""
    if mask is not None:
        return FORMULAS["attend"](q, k, v, mask)
    q, k, v = prepare(q, k, v)
    y, a = np.empty((*q.shape[:2], v.shape[2]), q.dtype), np.empty((*q.shape[:2], k.shape[1]), q.dtype)
    # no score exceeds ‖q‖ ‖k‖ (Cauchy and Schwarz): where float32 cannot hold that, the weights are computed in float64
    if q.dtype == np.float32 and float(np.vdot(q, q)) * float(np.vdot(k, k)) > float(np.finfo(np.float32).max) ** 2:
        y64, a64 = y.astype(np.float64), a.astype(np.float64)
        attention_heads(*(x.astype(np.float64) for x in (q, k, v)), y64, a64)
        y, a = y64.astype(np.float32), a64.astype(np.float32)
    else:
        attention_heads(q, k, v, y, a)

    def backward(dy):
        (dy,) = prepare(dy)
        dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
        attention_gradient(dy, q, k, v, a, dq, dk, dv)
        return dq, dk, dv

    return y, backward


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def attention_heads(q, k, v, y, a):
    """a = softmax(q kᵀ/√D), y = a v."""
    scale = q.dtype.type(1 / np.sqrt(q.shape[2]))
    for n in prange(len(q)):
        np.dot(q[n], k[n].T, a[n])
        for i in range(a.shape[1]):
            row = a[n, i]
            top, total = row.max(), q.dtype.type(0)
            for j in range(len(row)):
                row[j] = exp(scale * (row[j] - top))
            for j in range(len(row)):
                total += row[j]
            for j in range(len(row)):
                row[j] /= total
        np.dot(a[n], v[n], y[n])


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def attention_gradient(dy, q, k, v, a, dq, dk, dv):
    """dv = aᵀ dy, then through the softmax and the scores."""
    scale = q.dtype.type(1 / np.sqrt(q.shape[2]))
    for n in prange(len(q)):
        np.dot(a[n].T, dy[n], dv[n])
        ds = np.dot(dy[n], v[n].T)
        for i in range(len(ds)):
            row, weights, mean = ds[i], a[n, i], q.dtype.type(0)
            for j in range(len(row)):
                mean += weights[j] * row[j]
            for j in range(len(row)):
                row[j] = scale * weights[j] * (row[j] - mean)
        np.dot(ds, k[n], dq[n])
        np.dot(ds.T, q[n], dk[n])
