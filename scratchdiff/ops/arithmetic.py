"""Arithmetic: elementwise ops with broadcasting, the matrix product, sums and means. Tensor learns its operators here.

Broadcasting copies an entry to many places, so its gradient is the sum over those places: `unbroadcast`.
"""

import numpy as np

from scratchdiff.autograd import Tensor, add_arrays, op
from scratchdiff.checks import require


def unbroadcast(dy: np.ndarray, shape: tuple) -> np.ndarray:
    """Sum dy over the axes along which an array of this shape was broadcast to dy's."""
    if dy.shape == shape:
        return dy
    dy = dy.sum(tuple(range(dy.ndim - len(shape))))
    stretched = tuple(axis for axis, n in enumerate(shape) if n == 1 and dy.shape[axis] != 1)
    return dy.sum(stretched, keepdims=True) if stretched else dy


def broadcast(name: str, f, a, b) -> np.ndarray:
    """f(a, b), or the ValueError that names the op and both shapes where they do not broadcast."""
    try:
        return f(a, b)
    except ValueError:
        raise ValueError(f"{name}: shapes {np.shape(a)} and {np.shape(b)} do not fit") from None


@op
def add(a, b):
    """y = a + b. Shapes that broadcast, or ValueError (as for `sub`, `mul`, `div`)."""
    of_a, of_b = np.shape(a), np.shape(b)  # backward keeps only the shapes, so a and b need not live until then
    return broadcast("add", add_arrays, a, b), lambda dy: (unbroadcast(dy, of_a), unbroadcast(dy, of_b))


@op
def sub(a, b):
    """y = a − b."""
    of_a, of_b = np.shape(a), np.shape(b)
    return broadcast("sub", np.subtract, a, b), lambda dy: (unbroadcast(dy, of_a), unbroadcast(-dy, of_b))


@op
def mul(a, b):
    """y = a · b, entry by entry."""
    of_a, of_b = np.shape(a), np.shape(b)
    return broadcast("mul", np.multiply, a, b), lambda dy: (unbroadcast(dy * b, of_a), unbroadcast(dy * a, of_b))


@op
def div(a, b):
    """y = a / b, entry by entry."""
    of_a, of_b, y = np.shape(a), np.shape(b), broadcast("div", np.divide, a, b)
    return y, lambda dy: (unbroadcast(dy / b, of_a), unbroadcast(-dy * y / b, of_b))


@op
def neg(x):
    """y = −x."""
    return -x, lambda dy: (-dy,)


@op
def power(x, exponent):
    """y = xᵖ for one real number p, not a Tensor; x ≥ 0 where p is not an integer. ValueError if p is an array."""
    require(np.ndim(exponent) == 0, "power: the exponent must be one real number", exponent=np.asarray(exponent))
    p = np.asarray(exponent).item()  # a Python number: a NumPy one would make float32 float64
    return x**p, lambda dy: (dy * p * x ** (p - 1) if p != 0 else np.zeros_like(dy),)


@op
def exp(x):
    """y = eˣ."""
    y = np.exp(x)
    return y, lambda dy: (dy * y,)


@op
def log(x):
    """y = ln x, x > 0."""
    return np.log(x), lambda dy: (dy / x,)


@op
def sum(x, axis=None, keepdims=False):
    """y = Σ x over `axis` (an int, a tuple, or None for all)."""
    axes, shape = _axes("sum", x, axis), x.shape
    return x.sum(axes, keepdims=keepdims), lambda dy: (_spread(dy, shape, axes),)


@op
def mean(x, axis=None, keepdims=False):
    """y = Σ x / n over `axis` (an int, a tuple, or None for all). Raises ValueError where n = 0."""
    axes, shape = _axes("mean", x, axis), x.shape
    n = int(np.prod([shape[a] for a in axes]))
    require(n > 0, f"mean: nothing to average over axis {axis}", x=x)
    return x.mean(axes, keepdims=keepdims), lambda dy: (_spread(dy / n, shape, axes),)


def _axes(name, x, axis):
    axes = range(x.ndim) if axis is None else (axis,) if np.ndim(axis) == 0 else axis
    known = all(-x.ndim <= a < x.ndim for a in axes) and len({a % x.ndim for a in axes}) == len(axes)
    require(known, f"{name}: axis {axis} must name axes of x, each once", x=x)
    return tuple(a % x.ndim for a in axes)


def _spread(dy, shape, axes):
    return np.broadcast_to(np.expand_dims(dy.reshape([n for a, n in enumerate(shape) if a not in axes]), axes), shape)


@op
def matmul(a, b):
    """y = a @ b, the matrix product of the last two axes; leading axes broadcast.   a: (..., n, k), b: (..., k, m).

    Raises ValueError if either has fewer than two axes, or the shapes do not fit."""
    require(a.ndim >= 2 and b.ndim >= 2, "matmul: needs matrices", a=a, b=b)
    y = broadcast("matmul", np.matmul, a, b)

    def backward(dy):  # y_ij = Σ_k a_ik b_kj, so ∂y_ij/∂a_ik = b_kj
        return unbroadcast(dy @ b.swapaxes(-1, -2), a.shape), unbroadcast(a.swapaxes(-1, -2) @ dy, b.shape)

    return y, backward


# pyright: reportAttributeAccessIssue=false
Tensor.__add__ = Tensor.__radd__ = add
Tensor.__mul__ = Tensor.__rmul__ = mul
Tensor.__sub__, Tensor.__rsub__ = sub, lambda a, b: sub(b, a)
Tensor.__truediv__, Tensor.__rtruediv__ = div, lambda a, b: div(b, a)
Tensor.__matmul__, Tensor.__rmatmul__ = matmul, lambda a, b: matmul(b, a)
Tensor.__neg__, Tensor.__pow__ = neg, power
Tensor.sum, Tensor.mean = sum, mean
