"""Attention in Numba: the twin of `attend` in ops/attention.py. It works on one image and head at a time, whose scores stay
in the cache from the first product to the last, and gives each thread its share of the images. Optional to read.
"""

import numpy as np
from numba import njit, prange

from scratchdiff.kernels import FORMULAS
from scratchdiff.kernels.exponential import exp
from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.products import apart, multiply, narrow, transposed, vectors, whole, widen


def attend(q, k, v, mask=None):
    """See ops.attention.attend. With a mask the formula runs, since only the Transformer needs masks."""
    if mask is not None:
        return FORMULAS["attend"](q, k, v, mask)
    q, k, v = prepare(q, k, v)
    wide_v, columns = widen(v), whole(v.shape[2], v)
    y, a = np.empty((*q.shape[:2], columns), q.dtype), np.empty((*q.shape[:2], k.shape[1]), q.dtype)
    # no score exceeds ‖q‖ ‖k‖ (Cauchy and Schwarz): where float32 cannot hold that, the weights are computed in float64
    if q.dtype == np.float32 and float(np.vdot(q, q)) * float(np.vdot(k, k)) > float(np.finfo(np.float32).max) ** 2:
        y64, a64 = y.astype(np.float64), a.astype(np.float64)
        attention_heads(*(x.astype(np.float64) for x in (q, k, wide_v)), y64, a64)
        y, a = y64.astype(np.float32), a64.astype(np.float32)
    else:
        attention_heads(q, k, wide_v, y, a)

    def backward(dy):
        wide_q, wide_k, wide_dy = (widen(x) for x in (q, k, np.require(dy, v.dtype, "CW")))
        dq, dk, dv = np.empty_like(wide_q), np.empty_like(wide_k), np.empty((*v.shape[:2], columns), v.dtype)
        attention_gradient(wide_dy, wide_q, wide_k, v, a, q.shape[2], dq, dk, dv)
        return narrow(dq, q.shape[2]), narrow(dk, k.shape[2]), narrow(dv, v.shape[2])

    return narrow(y, v.shape[2]), backward


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def attention_heads(q, k, v, y, a):
    """a = softmax(q kᵀ/√D), y = a v. The rows of v and y are whole vectors."""
    L, M, scale = q.shape[1], k.shape[1], q.dtype.type(1 / np.sqrt(q.shape[2]))
    zeros = np.zeros(max(apart(M, k), v.shape[2]), q.dtype)
    for n in prange(len(q)):
        scores = np.empty((L, apart(M, k)), q.dtype)
        multiply(q[n], vectors(transposed(k[n])), scores, zeros, False)
        for i in range(L):
            row, weights, total = scores[i, :M], a[n, i], q.dtype.type(0)
            top = row.max()
            for j in range(M):
                weights[j] = exp(scale * (row[j] - top))
            for j in range(M):
                total += weights[j]
            for j in range(M):
                weights[j] /= total
        multiply(a[n], vectors(v[n]), y[n], zeros, False)


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def attention_gradient(dy, q, k, v, a, D, dq, dk, dv):
    """da = dy vᵀ and dv = aᵀ dy; then ds, the softmax's gradient times 1/√D, and dq = ds k, dk = dsᵀ q.

    The rows of dy, q, k, dq, dk and dv are whole vectors. D: the length of a query without the zeros that fill its row."""
    (M, E), L, scale = v.shape[1:], q.shape[1], q.dtype.type(1 / np.sqrt(D))
    zeros = np.zeros(max(apart(M, v), q.shape[2], dy.shape[2]), q.dtype)
    for n in prange(len(q)):
        ds = np.empty((L, apart(M, v)), q.dtype)  # da until the loop below
        multiply(dy[n, :, :E], vectors(transposed(v[n])), ds, zeros, False)
        for i in range(L):
            row, weights, mean = ds[i], a[n, i], q.dtype.type(0)
            for j in range(M):
                mean += weights[j] * row[j]
            for j in range(M):
                row[j] = scale * weights[j] * (row[j] - mean)
        multiply(a[n].T, vectors(dy[n]), dv[n], zeros, False)
        multiply(ds[:, :M], vectors(k[n]), dq[n], zeros, False)
        multiply(ds[:, :M].T, vectors(q[n]), dk[n], zeros, False)
