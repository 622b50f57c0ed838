"""The affine map, and the random mask that is its usual companion."""

import numpy as np

from scratchdiff.autograd import op


def sum_rows(a: np.ndarray) -> np.ndarray:
    """Σ over all axes but the last, as the product with a vector of ones: BLAS is five times as fast at it as `sum`."""
    rows = a.reshape(-1, a.shape[-1])
    return np.ones(len(rows), a.dtype) @ rows


@op
def linear(x, w, b=None):
    """y = x w + b along the last axis.   x: (..., in), w: (in, out), b: (out,) or None.

    Raises ValueError if the shapes do not fit."""
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0] or (b is not None and b.shape != w.shape[1:]):
        raise ValueError(f"linear: shapes x {x.shape}, w {w.shape}, b {None if b is None else b.shape} do not fit")
    rows = x.reshape(-1, w.shape[0])  # a matrix product of two matrices is one BLAS call, whatever x's leading axes
    y = rows @ w
    if b is not None:
        y += b

    def backward(dy):
        dy = dy.reshape(-1, w.shape[1])
        return (dy @ w.T).reshape(x.shape), rows.T @ dy, None if b is None else sum_rows(dy)

    return y.reshape(*x.shape[:-1], w.shape[1]), backward


@op
def dropout(x, *, rate, rng):
    """y = x m/(1 − rate), where m is 0 with probability `rate`, else 1   (Srivastava et al. 2014). Mean unchanged.

    x: any shape; rng: the generator the mask is drawn from. Raises ValueError unless 0 ≤ rate < 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate must be in [0, 1), got {rate}")
    mask = (rng.random(x.shape) >= rate).astype(x.dtype) / x.dtype.type(1 - rate)
    return x * mask, lambda dy: (dy * mask,)
