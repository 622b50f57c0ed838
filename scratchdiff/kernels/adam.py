"""Adam's update in Numba, one pass over memory: the twin of `adam_update` in optim.py. Optional to read."""

import math

import numpy as np
from numba import njit, prange

from scratchdiff.kernels.memory import prepare
from scratchdiff.kernels.threads import share, threads_for


def adam_update(p, g, m, v, k, lr, b1, b2, eps):
    """See optim.adam_update."""
    if not (p.flags.c_contiguous and m.flags.c_contiguous and v.flags.c_contiguous):
        copies = [np.ascontiguousarray(a) for a in (p, m, v)]  # another memory order: work on copies, then write them back
        adam_update(copies[0], g, *copies[1:], k, lr, b1, b2, eps)
        for a, copy in zip((p, m, v), copies):
            a[...] = copy
        return
    (g,) = prepare(g)
    p, g, m, v = p.reshape(-1), g.reshape(-1), m.reshape(-1), v.reshape(-1)
    root = (1 - b2**k) ** 0.5  # we multiply the formula's fraction by it, above and below: one division less
    step_size, eps = lr / (1 - b1**k) * root, eps * root
    threads = threads_for(16 * p.size)  # a number's step, with its root and quotients, takes as long as 16 products
    if threads == 1:
        adam_range(p, g, m, v, b1, b2, step_size, eps, 0, len(p))
    else:
        adam_parallel(p, g, m, v, b1, b2, step_size, eps, threads)


@njit(cache=True, parallel=True)
def adam_parallel(p, g, m, v, b1, b2, step_size, eps, threads):
    """Each thread updates its share of the numbers."""
    for i in prange(threads):
        adam_range(p, g, m, v, b1, b2, step_size, eps, *share(len(p), i, threads))


@njit(cache=True, error_model="numpy")
def adam_range(p, g, m, v, b1, b2, step_size, eps, begin, end):
    """Numbers begin..end−1, in one pass."""
    number = p.dtype.type
    a1, a2, step_size, eps = number(1 - b1), number(1 - b2), number(step_size), number(eps)
    p, g, m, v = p[begin:end], g[begin:end], m[begin:end], v[begin:end]
    for i in range(end - begin):  # with mi and vi: a loop that reads m[i] again after writing it is not vectorised
        mi = m[i] + a1 * (g[i] - m[i])
        vi = v[i] + a2 * (g[i] * g[i] - v[i])
        m[i], v[i] = mi, vi
        p[i] -= step_size * mi / (math.sqrt(vi) + eps)
