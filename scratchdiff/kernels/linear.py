"""The affine map in Numba, with or without SiLU before it: twins of `affine` and `silu_affine` in ops/linear.py.

A network as small as the toy MLP spends most of a step on calls: a product of 32 × 128 × 128 takes ten microseconds, about
as long as three calls of NumPy. So one call here computes a whole layer, and one more its gradient. Optional to read.
"""

import numpy as np
from numba import njit, prange

from scratchdiff.kernels.exponential import logistic
from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.products import add_rows, quick_rows
from scratchdiff.kernels.threads import threads_for


def affine(x, w, b):
    """See ops.linear.affine."""
    return forward_and_backward(x, w, b, False)


def silu_affine(x, w, b):
    """See ops.linear.silu_affine."""
    return forward_and_backward(x, w, b, True)


def forward_and_backward(x, w, b, silu):
    """y = act(x) w + b and its backward; act is SiLU or the identity."""
    has_bias = b is not None
    x, w, b = prepare(x, w, b if has_bias else np.zeros(w.shape[1], x.dtype))
    y = np.empty((len(x), w.shape[1]), x.dtype)
    threads = threads_for(x.size * w.shape[1])
    if threads == 1:
        affine_rows(x, w, b, silu, y, 0, len(x))
    else:
        affine_parallel(x, w, b, silu, y, threads)

    def backward(dy):
        (dy,) = prepare(dy)
        dx = np.empty_like(x)
        dw, db = np.zeros((threads, *w.shape), x.dtype), np.zeros((threads, w.shape[1]), x.dtype)
        if threads == 1:
            gradient_rows(dy, x, w, silu, dx, dw[0], db[0], 0, len(x))
            return dx, dw[0], db[0] if has_bias else None
        gradient_parallel(dy, x, w, silu, dx, dw, db)
        return dx, dw.sum(0), db.sum(0) if has_bias else None

    return y, backward


@njit(cache=True, parallel=True)
def affine_parallel(x, w, b, silu, y, threads):
    """y = act(x) w + b, with a share of the rows for each thread."""
    for i in prange(threads):
        affine_rows(x, w, b, silu, y, i * len(x) // threads, (i + 1) * len(x) // threads)


@njit(cache=True)
def affine_rows(x, w, b, silu, y, begin, end):
    """Rows begin..end−1, a block at a time."""
    block = quick_rows(w.size)
    act = np.empty((min(block, end - begin), x.shape[1]), x.dtype)
    for first in range(begin, end, block):
        last = min(first + block, end)
        if silu:
            activate(x[first:last], act)
            np.dot(act[: last - first], w, y[first:last])
        else:
            np.dot(x[first:last], w, y[first:last])
        for row in range(first, last):
            out = y[row]
            for d in range(len(b)):
                out[d] += b[d]


@njit(cache=True, parallel=True)
def gradient_parallel(dy, x, w, silu, dx, dw, db):
    """dx, and each thread's part of dw and db. The caller adds up the parts in a fixed order, so the bits are fixed too."""
    threads = len(dw)
    for i in prange(threads):
        gradient_rows(dy, x, w, silu, dx, dw[i], db[i], i * len(x) // threads, (i + 1) * len(x) // threads)


@njit(cache=True)
def gradient_rows(dy, x, w, silu, dx, dw, db, begin, end):
    """dx of rows begin..end−1, and what they add to dw and db."""
    block = quick_rows(w.size)
    act, product = np.empty((min(block, end - begin), x.shape[1]), x.dtype), np.empty_like(dw)
    for first in range(begin, end, block):
        last = min(first + block, end)
        np.dot(dy[first:last], w.T, dx[first:last])
        if silu:
            activate(x[first:last], act)
            times_slope(x[first:last], dx[first:last])
            np.dot(act[: last - first].T, dy[first:last], product)
        else:
            np.dot(x[first:last].T, dy[first:last], product)
        add_rows(dw, product)
        for row in range(first, last):
            more = dy[row]
            for d in range(len(db)):
                db[d] += more[d]


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def activate(x, act):
    """act = x σ(x), row by row."""
    for i in range(len(x)):
        xi, out = x[i], act[i]
        for c in range(len(xi)):
            out[c] = xi[c] * logistic(xi[c])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def times_slope(x, dx):
    """dx ← dx (σ + x σ (1 − σ)), row by row."""
    one = x.dtype.type(1)
    for i in range(len(x)):
        xi, out = x[i], dx[i]
        for c in range(len(xi)):
            s = logistic(xi[c])
            out[c] *= s * (one + xi[c] * (one - s))
