"""Sums and joins of large arrays in Numba: twins of `add_arrays` in autograd.py and `join` in ops/shape.py.

They only move numbers through memory, and one core alone does not use all of the memory's speed. NumPy does small arrays.
Optional to read.
"""

import math

import numpy as np
from numba import njit, prange

from scratchdiff.kernels import FORMULAS
from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.threads import share, threads_for

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
    threads = threads_for(MOVED * sum(x.size for x in xs))
    if threads == 1:
        return FORMULAS["join"](xs, axis)
    xs, shapes = prepare(*xs), [x.shape for x in xs]
    rows = math.prod(xs[0].shape[:axis])
    widths = [x.size // rows for x in xs]
    starts = [sum(widths[:i]) for i in range(len(xs))]
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    y, matrix = np.empty(shape, xs[0].dtype), (rows, sum(widths))
    for x, start, width in zip(xs, starts, widths):
        copy_parallel(x.reshape(rows, width), 0, y.reshape(matrix), start, width, threads)

    def backward(dy):
        (dy,) = prepare(dy)
        parts = [np.empty(shape, dy.dtype) for shape in shapes]
        for part, start, width in zip(parts, starts, widths):
            copy_parallel(dy.reshape(matrix), start, part.reshape(rows, width), 0, width, threads)
        return tuple(parts)

    return y, backward


@njit(cache=True, parallel=True)
def add_parallel(a, b, y, threads):
    """y = a + b, a share for each thread."""
    for thread in prange(threads):
        begin, end = share(len(y), thread, threads)
        add_range(a[begin:end], b[begin:end], y[begin:end])


@njit(cache=True)
def add_range(a, b, y):
    """y = a + b for vectors."""
    for i in range(len(y)):
        y[i] = a[i] + b[i]


@njit(cache=True, parallel=True)
def copy_parallel(a, first, b, start, width, threads):
    """`copy_columns` with a share of the rows for each thread."""
    for thread in prange(threads):
        begin, end = share(len(a), thread, threads)
        copy_columns(a[begin:end], first, b[begin:end], start, width)


@njit(cache=True)
def copy_columns(a, first, b, start, width):
    """b[:, start : start + width] = a[:, first : first + width]."""
    for row in range(len(a)):
        source, target = a[row, first : first + width], b[row, start : start + width]
        for i in range(width):
            target[i] = source[i]
