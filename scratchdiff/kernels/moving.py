"""Sums and joins of large arrays in Numba: twins of `add_arrays` in autograd.py and `join` in ops/shape.py.

They only move numbers through memory, and one core alone does not use all of the memory's speed. Small arrays are left to
NumPy. Optional to read.
"""

import math

import numpy as np
from numba import njit, prange

from scratchdiff.kernels import FORMULAS
from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.threads import threads_for

MOVED = 8  # moving a number takes about as long as so many multiplications


def add_arrays(a, b):
    """See autograd.add_arrays."""
    alike = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape
    threads = threads_for(MOVED * a.size) if alike else 1
    if threads == 1:
        return np.add(a, b)
    a, b = prepare(a, b)
    y = np.empty_like(a)
    add_parallel(a.reshape(-1), b.reshape(-1), y.reshape(-1), threads)
    return y


def join(xs, axis):
    """See ops.shape.join. What stands before `axis` counts rows, and each array fills some columns of every row."""
    size = sum(x.size for x in xs)
    threads = threads_for(MOVED * size)
    if threads == 1:
        return FORMULAS["join"](xs, axis)
    xs, shapes = prepare(*xs), [x.shape for x in xs]
    rows = math.prod(xs[0].shape[:axis])
    widths = [x.size // rows for x in xs]
    starts = [sum(widths[:i]) for i in range(len(xs))]
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    y, matrix = np.empty(shape, xs[0].dtype), (rows, sum(widths))
    for x, start in zip(xs, starts):
        put_columns(x.reshape(rows, -1), y.reshape(matrix), start, threads)

    def backward(dy):
        (dy,) = prepare(dy)
        parts = [np.empty(shape, dy.dtype) for shape in shapes]
        for part, start in zip(parts, starts):
            take_columns(dy.reshape(matrix), part.reshape(rows, -1), start, threads)
        return tuple(parts)

    return y, backward


@njit(cache=True, parallel=True)
def add_parallel(a, b, y, threads):
    """y = a + b, a share for each thread."""
    for thread in prange(threads):
        begin, end = thread * len(y) // threads, (thread + 1) * len(y) // threads
        add_range(a[begin:end], b[begin:end], y[begin:end])


@njit(cache=True)
def add_range(a, b, y):
    """y = a + b for vectors."""
    for i in range(len(y)):
        y[i] = a[i] + b[i]


@njit(cache=True, parallel=True)
def put_columns(x, y, start, threads):
    """y[:, start : start + width] = x, the width that of x."""
    for thread in prange(threads):
        for row in range(thread * len(x) // threads, (thread + 1) * len(x) // threads):
            out, values = y[row, start : start + x.shape[1]], x[row]
            for i in range(len(values)):
                out[i] = values[i]


@njit(cache=True, parallel=True)
def take_columns(y, x, start, threads):
    """x = y[:, start : start + width], the width that of x."""
    for thread in prange(threads):
        for row in range(thread * len(x) // threads, (thread + 1) * len(x) // threads):
            out, values = x[row], y[row, start : start + x.shape[1]]
            for i in range(len(out)):
                out[i] = values[i]
