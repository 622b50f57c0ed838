"""Adam's update in Numba, one pass over memory: the twin of `adam_update` in optim.py. Optional to read."""

import math

import numpy as np
from numba import njit, prange

from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.threads import threads_for


def adam_update(p, g, m, v, k, lr, b1, b2, eps):
    """See optim.adam_update."""
    in_place = p, m, v
    if not all(a.flags.c_contiguous for a in in_place):  # another memory order: work on copies, then write them back
        copies = [np.ascontiguousarray(a) for a in in_place]
        adam_update(copies[0], g, *copies[1:], k, lr, b1, b2, eps)
        for a, copy in zip(in_place, copies):
            a[...] = copy
        return
    (g,) = prepare(g)
    p, g, m, v = (a.reshape(-1) for a in (p, g, m, v))
    step_size, root = lr / (1 - b1**k), (1 - b2**k) ** 0.5
    threads = threads_for(16 * p.size)  # a number's step, with its root and quotients, takes as long as 16 products
    if threads == 1:
        adam_range(p, g, m, v, b1, b2, step_size, root, eps, 0, len(p))
    else:
        adam_parallel(p, g, m, v, b1, b2, step_size, root, eps, threads)


@njit(cache=True, parallel=True)
def adam_parallel(p, g, m, v, b1, b2, step_size, root, eps, threads):
    """Each thread updates its share of the numbers."""
    for i in prange(threads):
        adam_range(p, g, m, v, b1, b2, step_size, root, eps, i * len(p) // threads, (i + 1) * len(p) // threads)


@njit(cache=True, error_model="numpy")
def adam_range(p, g, m, v, b1, b2, step_size, root, eps, begin, end):
    """Numbers begin..end−1, in one pass."""
    number = p.dtype.type
    a1, a2, step_size, root, eps = number(1 - b1), number(1 - b2), number(step_size), number(root), number(eps)
    p, g, m, v = p[begin:end], g[begin:end], m[begin:end], v[begin:end]
    for i in range(end - begin):
        m[i] += a1 * (g[i] - m[i])
        v[i] += a2 * (g[i] * g[i] - v[i])
        p[i] -= step_size * m[i] / (math.sqrt(v[i]) / root + eps)
