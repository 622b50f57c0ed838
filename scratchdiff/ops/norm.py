"""Group normalisation: each group of channels of each image gets mean 0 and variance 1, then a learned scale and shift.

How the gradient comes about, with x̂ = (x − μ)/σ over a group of n entries and dx̂ = scale · dy:

    x_j moves x̂_i by   ∂x̂_i/∂x_j = (δ_ij − 1/n − x̂_i x̂_j/n)/σ       itself, through μ, through σ
    so                  dx_j = (dx̂_j − mean(dx̂) − x̂_j mean(dx̂ x̂))/σ

for ∂μ/∂x_j = 1/n and ∂σ/∂x_j = x̂_j/n. `kernels/reference.py` has it in NumPy, `kernels/norm.py` in one pass over memory.
"""

import math

import numpy as np

from scratchdiff import kernels
from scratchdiff.autograd import op


@op
def group_norm(x, scale, shift, *, groups, eps=1e-6, silu=False):
    """y = scale · (x − μ)/σ + shift, σ² = var + eps, μ and var over each group of channels   (Wu & He 2018, Eq. 1).

    x: (N, ..., C), in groups of C/groups neighbouring channels; scale, shift: (C,). silu: put y through SiLU as well, in
    the same pass over memory. Raises ValueError if `groups` does not divide C or scale and shift are not (C,).
    """
    C = x.shape[-1] if x.ndim else 0
    whole = isinstance(groups, (int, np.integer)) and groups >= 1 and C % groups == 0
    if x.ndim < 2 or not whole or scale.shape != (C,) or shift.shape != (C,):
        raise ValueError(
            f"group_norm: {groups} groups over x {x.shape} with scale {scale.shape}, shift {shift.shape}: "
            "groups must divide the channels, scale and shift have one entry a channel"
        )
    if not eps > 0:
        raise ValueError(f"group_norm: eps must be positive, got {eps}")
    pixels = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), C)
    y, mean, rstd = kernels.group_norm(pixels, scale, shift, groups, eps, silu)

    def backward(dy):
        dx, dscale, dshift = kernels.group_norm_backward(
            dy.reshape(pixels.shape), pixels, mean, rstd, scale, shift, groups, silu
        )
        return dx.reshape(x.shape), dscale, dshift

    return y.reshape(x.shape), backward
