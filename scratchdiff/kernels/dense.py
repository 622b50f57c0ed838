"""What works on rows of numbers, in Numba: the affine map, with SiLU before it in the same pass; channels put side by side;
Adam's step. Optional to read.

For a network as small as the toy MLP most of a step goes into calling things: a product of 32 × 128 × 128 takes ten
microseconds, about as long as three calls of NumPy. So a whole layer is one call here, and a whole layer's gradient another.
"""

import math

import numba
import numpy as np
from numba import njit, prange

from scratchdiff.kernels.exponential import logistic
from scratchdiff.kernels.im2col import add_rows, quick_rows
from scratchdiff.kernels.memory import prepare

WORTH_A_THREAD = 2**20  # multiplications: fewer are done before a second thread is awake


def linear(x, w, b, silu):
    """See reference.linear."""
    x, w, b = prepare(x, w, b)
    y = np.empty((len(x), w.shape[1]), x.dtype)
    threads = threads_for(x.size * w.shape[1])
    if threads == 1:
        forward_rows(x, w, b, silu, y, 0, len(x))
    else:
        forward(x, w, b, silu, y, threads)
    return y


def linear_backward(dy, x, w, silu):
    """See reference.linear_backward."""
    dy, x, w = prepare(dy, x, w)
    dx = np.empty_like(x)
    threads = threads_for(x.size * w.shape[1])
    dw, db = np.zeros((threads, *w.shape), x.dtype), np.zeros((threads, w.shape[1]), x.dtype)
    if threads == 1:
        backward_rows(dy, x, w, silu, dx, dw[0], db[0], 0, len(x))
        return dx, dw[0], db[0]
    backward(dy, x, w, silu, dx, dw, db)
    return dx, dw.sum(0), db.sum(0)


def threads_for(work: int) -> int:
    """One for little work (in multiplications), or all."""
    return 1 if work < WORTH_A_THREAD else numba.get_num_threads()


@njit(cache=True, parallel=True)
def forward(x, w, b, silu, y, threads):
    """y = act(x) w + b, the rows shared out to the threads."""
    for i in prange(threads):
        forward_rows(x, w, b, silu, y, i * len(x) // threads, (i + 1) * len(x) // threads)


@njit(cache=True)
def forward_rows(x, w, b, silu, y, begin, end):
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
def backward(dy, x, w, silu, dx, dw, db):
    """dx, and each thread's part of dw and db: they are added up in their order, so the bits are fixed."""
    threads = len(dw)
    for i in prange(threads):
        backward_rows(dy, x, w, silu, dx, dw[i], db[i], i * len(x) // threads, (i + 1) * len(x) // threads)


@njit(cache=True)
def backward_rows(dy, x, w, silu, dx, dw, db, begin, end):
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


def join(xs):
    """See reference.join."""
    xs = prepare(*xs)
    y, start = np.empty((len(xs[0]), sum(x.shape[1] for x in xs)), xs[0].dtype), 0
    for x in xs:
        copy_columns(x, 0, y, start, x.shape[1])
        start += x.shape[1]
    return y


def split(y, widths):
    """See reference.split."""
    (y,) = prepare(y)
    xs, start = [np.empty((len(y), width), y.dtype) for width in widths], 0
    for x in xs:
        copy_columns(y, start, x, 0, x.shape[1])
        start += x.shape[1]
    return xs


@njit(cache=True, parallel=True)
def copy_columns(source, a, target, b, n):
    """target[:, b : b + n] = source[:, a : a + n]."""
    for i in prange(len(source)):
        x, y = source[i, a : a + n], target[i, b : b + n]
        for c in range(n):
            y[c] = x[c]


def adam(p, g, m, v, b1, b2, step_size, root, eps):
    """See reference.adam."""
    threads = threads_for(16 * p.size)  # a number's step, with its root and quotients, takes as long as 16 products
    if threads == 1:
        adam_part(p, g, m, v, b1, b2, step_size, root, eps, 0, len(p))
    else:
        adam_parts(p, g, m, v, b1, b2, step_size, root, eps, threads)


@njit(cache=True, parallel=True)
def adam_parts(p, g, m, v, b1, b2, step_size, root, eps, threads):
    """Each thread a part."""
    for i in prange(threads):
        adam_part(p, g, m, v, b1, b2, step_size, root, eps, i * len(p) // threads, (i + 1) * len(p) // threads)


@njit(cache=True, error_model="numpy")
def adam_part(p, g, m, v, b1, b2, step_size, root, eps, begin, end):
    """Numbers begin..end−1, in one pass."""
    number = p.dtype.type
    a1, a2, step_size, root, eps = number(1 - b1), number(1 - b2), number(step_size), number(root), number(eps)
    p, g, m, v = p[begin:end], g[begin:end], m[begin:end], v[begin:end]
    for i in range(end - begin):
        m[i] += a1 * (g[i] - m[i])
        v[i] += a2 * (g[i] * g[i] - v[i])
        p[i] -= step_size * m[i] / (math.sqrt(v[i]) / root + eps)
