"""The affine map, and the random mask that is its usual companion.

    y[r,o] = Σ_i x[r,i] · w[i,o] + b[o]

for each row r. How the gradients come about:

dx: x[r,i] moves every output o of its own row, by w[i,o]:          dx[r,i] = Σ_o dy[r,o] · w[i,o]       dx = dy wᵀ
dw: w[i,o] moves the output o of every row r, by x[r,i]:            dw[i,o] = Σ_r x[r,i] · dy[r,o]       dw = xᵀ dy
db: b[o] moves the output o of every row, by 1:                     db[o]   = Σ_r dy[r,o]
"""

from scratchdiff.autograd import op
from scratchdiff.checks import require, require_fit
from scratchdiff.kernels import kernel
from scratchdiff.ops.activations import silu


@op
def linear(x, w, b=None):
    """y = x w + b along the last axis.   x: (..., in), w: (in, out), b: (out,) or None → (..., out).

    Raises ValueError if the shapes do not fit, or w is empty."""
    require_fit("linear", linear_fits(x, w, b), x=x, w=w, b=b)
    return on_rows(affine, x, w, b)


@op
def silu_linear(x, w, b=None):
    """y = SiLU(x) w + b along the last axis, shapes and errors as `linear`.

    In our networks an SiLU stands before nearly every affine map; one op for both makes one trip through memory."""
    require_fit("silu_linear", linear_fits(x, w, b), x=x, w=w, b=b)
    return on_rows(silu_affine, x, w, b)


@kernel
def affine(x, w, b):
    """y = x w + b.   x: (rows, in), w: (in, out), b: (out,) or None."""
    y = x @ w if b is None else x @ w + b

    def backward(dy):
        return dy @ w.T, x.T @ dy, None if b is None else dy.sum(0)

    return y, backward


@kernel
def silu_affine(x, w, b):
    """y = SiLU(x) w + b. The gradient goes back through the two functions in reverse order."""
    a, silu_backward = silu.on_arrays(x)
    y, affine_backward = affine(a, w, b)

    def backward(dy):
        da, dw, db = affine_backward(dy)
        return *silu_backward(da), dw, db

    return y, backward


def linear_fits(x, w, b) -> bool:
    """Whether x w + b can be computed."""
    return w.ndim == 2 and w.size > 0 and x.ndim >= 1 and x.shape[-1] == w.shape[0] and (b is None or b.shape == w.shape[1:])


def on_rows(f, x, w, b):
    """f with the leading axes of x as rows: a product of two matrices is one call, whatever the leading axes."""
    if x.ndim == 2:
        return f(x, w, b)
    y, backward_rows = f(x.reshape(-1, w.shape[0]), w, b)

    def backward(dy):
        dx, dw, db = backward_rows(dy.reshape(-1, w.shape[1]))
        return dx.reshape(x.shape), dw, db

    return y.reshape(*x.shape[:-1], w.shape[1]), backward


@op
def dropout(x, *, rate, rng):
    """y = x m/(1 − rate), where m is 0 with probability `rate`, else 1   (Srivastava et al. 2014). Mean unchanged.

    x: any shape; rng: the generator that draws the mask. Raises ValueError unless 0 ≤ rate < 1."""
    require(0 <= rate < 1, "dropout: the rate must be in [0, 1)", rate=rate)
    mask = (rng.random(x.shape) >= rate).astype(x.dtype) / x.dtype.type(1 - rate)
    return x * mask, lambda dy: (dy * mask,)
