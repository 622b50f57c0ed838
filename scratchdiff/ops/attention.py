"""Softmax, and attention, which is built on it: every position takes a weighted mean of what all positions hold.

Softmax, y_i = exp(x_i)/Σ_k exp(x_k). An entry x_i moves every y_j: its own in the numerator, and all through the sum, so
∂y_j/∂x_i = y_j (δ_ij − y_i), and

    dx_i = Σ_j dy_j y_j (δ_ij − y_i) = y_i (dy_i − Σ_j dy_j y_j)                                                    (1)

Attention takes from each position l a query q_l, from each position m a key k_m and a value v_m:

    s_lm = q_l · k_m/√D              how well key m answers query l
    a_lm = exp(s_lm)/Σ_m' exp(s_lm')     the scores of one query made into weights that sum to 1
    y_l  = Σ_m a_lm v_m              the weighted mean of the values

Backwards, from the last line to the first:

dv: v_m enters every y_l with weight a_lm:                 dv_m  = Σ_l a_lm dy_l                    dv = aᵀ dy
da: a_lm enters only y_l, multiplied by v_m:               da_lm = dy_l · v_m                       da = dy vᵀ
ds: each row of a is a softmax of a row of s, so (1) gives ds from da.
dq: q_l enters the scores s_lm of its own row:             dq_l  = Σ_m ds_lm k_m/√D                 dq = ds k/√D
dk: k_m enters the scores s_lm of its own column:          dk_m  = Σ_l ds_lm q_l/√D                 dk = dsᵀ q/√D
"""

import math

import numpy as np

from scratchdiff.autograd import op
from scratchdiff.checks import require, require_fit
from scratchdiff.kernels import kernel


@op
def softmax(x):
    """y_i = exp(x_i)/Σ_k exp(x_k) over the last axis. x: (..., n), n ≥ 1, or ValueError."""
    require(x.ndim >= 1 and x.shape[-1] >= 1, "softmax: needs a last axis with at least one entry", x=x)
    with np.errstate(over="ignore"):  # two finite numbers may lie an infinity apart, and e^−∞ is 0 as it should be
        e = np.exp(x - x.max(-1, keepdims=True))  # the shift cancels in the quotient, and keeps exp from overflowing
    y = e / e.sum(-1, keepdims=True)
    return y, lambda dy: (y * (dy - (dy * y).sum(-1, keepdims=True)),)


@op
def attention(q, k, v, *, mask=None):
    """y = softmax(q kᵀ/√D) v   (Vaswani et al. 2017, Eq. 1).

    q: (N, heads, L, D), k: (N, heads, M, D), v: (N, heads, M, E) → (N, heads, L, E). Any leading axes will do.
    mask: booleans that broadcast to (..., L, M), True where query l may see key m, as `nn.causal_mask(L)`. A query that sees
    no key gets zeros. Raises ValueError if the shapes do not fit or the mask is not boolean."""
    fits = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
    fits = fits and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2] >= 1
    require_fit("attention", fits, q=q, k=k, v=v)
    lead = q.shape[:-2]
    heads = [x.reshape(math.prod(lead), *x.shape[-2:]) for x in (q, k, v)]
    y, backward_heads = attend(*heads, resolve_mask(mask, (*lead, q.shape[-2], k.shape[-2])))

    def backward(dy):
        return tuple(dx.reshape(*lead, *dx.shape[1:]) for dx in backward_heads(dy.reshape(y.shape)))

    return y.reshape(*lead, *y.shape[1:]), backward


def resolve_mask(mask, shape: tuple):
    """None, or the mask for N heads at once, (N, L, M). Raises the ValueError of `attention` for another shape or dtype."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    fits = mask.dtype == bool and mask.ndim <= len(shape)
    fits = fits and all(m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1]))
    require(fits, f"attention: the mask must be boolean and broadcast to {shape}", mask=mask)
    return np.broadcast_to(mask, shape).reshape(math.prod(shape[:-2]), *shape[-2:])


@kernel
def attend(q, k, v, mask=None):
    """Attention for N heads at once.   q: (N, L, D), k: (N, M, D), v: (N, M, E) → y: (N, L, E); a, mask: (N, L, M).

    Where the mask is False the score is −∞ and the weight 0. A query that sees nothing would have no largest score, so it
    keeps its scores, and loses its weights afterwards."""
    root = q.dtype.type(np.sqrt(q.shape[2]))
    scores = np.matmul(q, k.swapaxes(1, 2), dtype=np.float64)  # the product of two float32 may be too large for a third
    if mask is not None:
        scores = np.where(mask | ~mask.any(2, keepdims=True), scores, -np.inf)
    a, softmax_backward = softmax.on_arrays(scores / root)
    a = (a if mask is None else a * mask).astype(q.dtype)

    def backward(dy):
        dv = a.swapaxes(1, 2) @ dy
        da = dy @ v.swapaxes(1, 2)
        (ds,) = softmax_backward(da if mask is None else da * mask)
        ds = (ds / root).astype(q.dtype)
        return ds @ k, ds.swapaxes(1, 2) @ q, dv

    return a @ v, backward
