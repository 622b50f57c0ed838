"""The affine map in Numba, with or without SiLU before it: twins of `affine` and `silu_affine` in ops/linear.py.

A network as small as the toy MLP spends most of a step on calls: a product of 32 × 128 × 128 takes ten microseconds, about
as long as three calls of NumPy. So one call here computes a whole layer, and one more its gradient. Optional to read.
"""

import numpy as np
from numba import njit, prange

from scratchdiff.kernels.exponential import logistic
from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.moving import copy_columns
from scratchdiff.kernels.products import MOST_ROWS, add_rows, quick_rows
from scratchdiff.kernels.threads import threads_for


def affine(x, w, b):
    """See ops.linear.affine."""
    return forward_and_backward(x, w, b, False)


def silu_affine(x, w, b):
    """See ops.linear.silu_affine."""
    return forward_and_backward(x, w, b, True)


def forward_and_backward(x, w, b, silu):
    """y = act w + b and its backward, with act = SiLU(x) or x itself."""
    x, w, bias = prepare(x, w, np.zeros(w.shape[1], x.dtype) if b is None else b)
    y, act = np.empty((len(x), w.shape[1]), x.dtype), np.empty_like(x) if silu else x
    threads = threads_for(x.size * w.shape[1])
    if threads == 1:
        affine_rows(x, w, bias, silu, act, y, 0, len(x))
    else:
        affine_parallel(x, w, bias, silu, act, y, threads)

    def backward(dy):
        (dy,) = prepare(dy)
        dx, dw, db = np.empty_like(x), np.empty_like(w), np.empty_like(bias)
        if threads == 1:
            gradient_share(dy, x, w, silu, act, dx, dw, db, 0, 1)
        else:
            gradient_parallel(dy, x, w, silu, act, dx, dw, db, threads)
        return dx, dw, None if b is None else db

    return y, backward


@njit(cache=True, parallel=True)
def affine_parallel(x, w, b, silu, act, y, threads):
    """Fill act and y, with a share of the rows for each thread."""
    for i in prange(threads):
        affine_rows(x, w, b, silu, act, y, *share(len(x), i, threads))


@njit(cache=True)
def affine_rows(x, w, b, silu, act, y, begin, end):
    """Rows begin..end−1, a block at a time."""
    block = quick_rows(w.size)
    for first in range(begin, end, block):
        last = min(first + block, end)
        if silu:
            activate(x[first:last], act[first:last])
        np.dot(act[first:last], w, y[first:last])
        for row in range(first, last):
            out = y[row]
            for d in range(len(b)):
                out[d] += b[d]


@njit(cache=True, parallel=True)
def gradient_parallel(dy, x, w, silu, act, dx, dw, db, threads):
    """dx, dw and db, with a share of the rows of each for every thread: no two threads add to the same number."""
    for i in prange(threads):
        gradient_share(dy, x, w, silu, act, dx, dw, db, i, threads)


@njit(cache=True)
def gradient_share(dy, x, w, silu, act, dx, dw, db, i, threads):
    """The share of thread i: some rows of dx, some inputs' rows of dw, and some outputs' entries of db.

    It goes through dy in long blocks, so that each is still in the cache when the second product reads it."""
    begin, end = share(len(w), i, threads)
    left, right = share(len(db), i, threads)
    dw, db = dw[begin:end], db[left:right]
    short, long = quick_rows(dw.size), MOST_ROWS * threads
    columns, product = np.empty((min(short, len(x)), len(dw)), x.dtype), np.empty_like(dw)
    db[:] = 0
    if len(x) == 0:
        dw[:] = 0
    for start in range(0, len(x), long):
        stop = min(start + long, len(x))
        top, bottom = share(stop - start, i, threads)
        own = slice(start + top, start + bottom)
        np.dot(dy[own], w.T, dx[own])  # OpenBLAS is slow in quick products with a transposed matrix
        if silu:
            times_slope(x[own], dx[own])
        for first in range(start, stop, short):
            last = min(first + short, stop)
            inputs = act[first:last]
            if threads > 1:  # BLAS wants the columns to lie side by side
                copy_columns(inputs, begin, columns, 0, len(dw))
                inputs = columns[: last - first]
            np.dot(inputs.T, dy[first:last], product if first else dw)
            if first:
                add_rows(dw, product)
            for row in range(first, last):
                more = dy[row, left:right]
                for d in range(len(db)):
                    db[d] += more[d]


@njit(cache=True)
def share(count, i, threads):
    """(begin, end) of what thread i gets of `count` rows."""
    return i * count // threads, (i + 1) * count // threads


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def activate(x, act):
    """act = x σ(x)."""
    x, act = x.reshape(-1), act.reshape(-1)
    for i in range(len(x)):
        act[i] = x[i] * logistic(x[i])


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def times_slope(x, dx):
    """dx ← dx (σ + x σ (1 − σ))."""
    x, dx, one = x.reshape(-1), dx.reshape(-1), x.dtype.type(1)
    for i in range(len(x)):
        s = logistic(x[i])
        dx[i] *= s * (one + x[i] * (one - s))
