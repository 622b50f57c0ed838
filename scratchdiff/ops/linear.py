"""The affine map, and the random mask that is its usual companion."""

import numpy as np

from scratchdiff import kernels
from scratchdiff.autograd import op


@op
def linear(x, w, b=None, *, silu=False):
    """y = x w + b along the last axis, or SiLU(x) w + b if `silu`.   x: (..., in), w: (in, out), b: (out,) or None.

    A network of linear layers has SiLU before nearly each; to do both in one pass halves the trips through memory.
    Raises ValueError if the shapes do not fit, or w is empty."""
    if w.ndim != 2 or w.size == 0 or x.ndim < 1 or x.shape[-1] != w.shape[0] or (b is not None and b.shape != w.shape[1:]):
        raise ValueError(f"linear: shapes x {x.shape}, w {w.shape}, b {None if b is None else b.shape} do not fit")
    rows = x.reshape(-1, w.shape[0])  # a matrix product of two matrices is one BLAS call, whatever x's leading axes
    y = kernels.linear(rows, w, np.zeros(w.shape[1], x.dtype) if b is None else b, silu)

    def backward(dy):
        dx, dw, db = kernels.linear_backward(dy.reshape(y.shape), rows, w, silu)
        return dx.reshape(x.shape), dw, None if b is None else db

    return y.reshape(*x.shape[:-1], w.shape[1]), backward


@op
def dropout(x, *, rate, rng):
    """y = x m/(1 − rate), where m is 0 with probability `rate`, else 1   (Srivastava et al. 2014). Mean unchanged.

    x: any shape; rng: the generator the mask is drawn from. Raises ValueError unless 0 ≤ rate < 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate must be in [0, 1), got {rate}")
    mask = (rng.random(x.shape) >= rate).astype(x.dtype) / x.dtype.type(1 - rate)
    return x * mask, lambda dy: (dy * mask,)
