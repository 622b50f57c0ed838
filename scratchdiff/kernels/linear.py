"""The affine map in Numba, with or without SiLU before it: twins of `affine` and `silu_affine` in ops/linear.py.

A network as small as the toy MLP spends most of a step on calls: a product of 32 × 128 × 128 takes ten microseconds, about
as long as three calls of NumPy. So one call here computes a whole layer, and one more its gradient. Optional to read.
"""

import numpy as np
from numba import njit, prange

from scratchdiff.kernels.exponential import logistic
from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.products import multiply, narrow, transposed, vectors, whole, widen
from scratchdiff.kernels.threads import share, threads_for

BLOCK = 128  # rows that are multiplied at a time


def affine(x, w, b):
    """See ops.linear.affine."""
    return forward_and_backward(x, w, b, False)


def silu_affine(x, w, b):
    """See ops.linear.silu_affine."""
    return forward_and_backward(x, w, b, True)


def forward_and_backward(x, w, b, silu):
    """y = act w + b and its backward, with act = SiLU(x) or x itself."""
    x, w, bias = prepare(x, w, np.zeros(w.shape[1], x.dtype) if b is None else b)
    inputs, outputs = w.shape
    y, act = np.empty((len(x), whole(outputs, x)), x.dtype), np.empty_like(x) if silu else x
    threads, wide_w, wide_b = threads_for(x.size * outputs), widen(w), widen(bias)
    if threads == 1:
        affine_rows(x, wide_w, wide_b, silu, act, y, 0, len(x))
    else:
        affine_parallel(x, wide_w, wide_b, silu, act, y, threads)

    def backward(dy):
        wide_dy, w_transposed = widen(np.require(dy, x.dtype, "CW")), transposed(w)
        dx, dw = np.empty((len(x), whole(inputs, x)), x.dtype), np.empty((inputs, y.shape[1]), x.dtype)
        db = np.empty_like(bias)
        if threads == 1:
            gradient_share(wide_dy, x, w_transposed, silu, act, dx, dw, db, 0, 1)
        else:
            gradient_parallel(wide_dy, x, w_transposed, silu, act, dx, dw, db, threads)
        return narrow(dx, inputs), narrow(dw, outputs), None if b is None else db

    return narrow(y, outputs), backward


@njit(cache=True, parallel=True)
def affine_parallel(x, w, b, silu, act, y, threads):
    """Fill act and y, with a share of the rows for each thread."""
    for i in prange(threads):
        affine_rows(x, w, b, silu, act, y, *share(len(x), i, threads))


@njit(cache=True)
def affine_rows(x, w, b, silu, act, y, begin, end):
    """Rows begin..end−1, a block at a time."""
    for first in range(begin, end, BLOCK):
        last = min(first + BLOCK, end)
        if silu:
            activate(x[first:last], act[first:last])
        multiply(act[first:last], vectors(w), y[first:last], b, False)


@njit(cache=True, parallel=True)
def gradient_parallel(dy, x, w_transposed, silu, act, dx, dw, db, threads):
    """dx, dw and db, with a share of the rows of each for every thread: no two threads add to the same number."""
    for i in prange(threads):
        gradient_share(dy, x, w_transposed, silu, act, dx, dw, db, i, threads)


@njit(cache=True)
def gradient_share(dy, x, w_transposed, silu, act, dx, dw, db, i, threads):
    """The share of thread i: some rows of dx, some inputs' rows of dw, and some outputs' entries of db.

    It goes through dy in blocks, so that each is still in the cache when the second product reads it."""
    begin, end = share(len(dw), i, threads)
    left, right = share(len(db), i, threads)
    dw, db = dw[begin:end], db[left:right]
    dw[:], db[:], zeros = 0, 0, np.zeros(max(dx.shape[1], dw.shape[1]), x.dtype)
    for first in range(0, len(x), BLOCK * threads):
        last = min(first + BLOCK * threads, len(x))
        top, bottom = share(last - first, i, threads)
        own = slice(first + top, first + bottom)
        multiply(dy[own, : len(w_transposed)], vectors(w_transposed), dx[own], zeros, False)
        if silu:
            times_slope(x[own], dx[own])
        multiply(act[first:last, begin:end].T, vectors(dy[first:last]), dw, zeros, True)
        for row in range(first, last):
            more = dy[row, left:right]
            for d in range(len(db)):
                db[d] += more[d]


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def activate(x, act):
    """act = x σ(x)."""
    x, act = x.reshape(-1), act.reshape(-1)
    for i in range(len(x)):
        act[i] = x[i] * logistic(x[i])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def times_slope(x, dx):
    """dx ← dx (σ + x σ (1 − σ)), in the columns that x has."""
    one = x.dtype.type(1)
    for row in range(len(x)):
        v, dv = x[row], dx[row]
        for i in range(len(v)):
            s = logistic(v[i])
            dv[i] *= s * (one + v[i] * (one - s))
