"""Group normalisation: each group of channels of each image gets mean 0 and variance 1, then a learned scale and shift.

    y = scale · x̂ + shift,      x̂_i = (x_i − μ)/σ,      μ = Σ_i x_i/n,      σ² = Σ_i (x_i − μ)²/n + eps

with i over the n entries of one group: its channels at every pixel. How the gradients come about:

dscale, dshift: a channel's scale and shift move that channel of every pixel of every image, by x̂ and by 1. So dscale is the
    sum of dy · x̂ over images and pixels, and dshift the sum of dy.

dx: y depends on x̂ by a factor, so dx̂ = scale · dy. An entry x_j moves all the x̂_i of its group, in three ways:

    ∂x̂_i/∂x_j = ( δ_ij − 1/n − x̂_i x̂_j/n ) / σ
                   itself  through μ   through σ

    since ∂μ/∂x_j = 1/n, and ∂σ²/∂x_j = 2 (x_j − μ)/n gives ∂σ/∂x_j = x̂_j/n. The sum over i, dx_j = Σ_i dx̂_i ∂x̂_i/∂x_j, is

    dx_j = ( dx̂_j − mean(dx̂) − x̂_j · mean(dx̂ · x̂) ) / σ
"""

import math

import numpy as np

from scratchdiff.autograd import op
from scratchdiff.checks import require
from scratchdiff.kernels import kernel
from scratchdiff.ops.activations import silu


@op
def group_norm(x, scale, shift, *, groups, eps=1e-6):
    """y = scale · (x − μ)/σ + shift, σ² = var + eps, μ and var over each group of channels   (Wu & He 2018, Eq. 1).

    x: (N, ..., C), in groups of C/groups neighbouring channels; scale, shift: (C,).
    Raises ValueError if `groups` does not divide C, scale and shift are not (C,), or eps ≤ 0.
    """
    check_group_norm("group_norm", x, scale, shift, groups, eps)
    return on_pixels(normalise, x, scale, shift, groups, eps)


@op
def group_norm_silu(x, scale, shift, *, groups, eps=1e-6):
    """y = SiLU(group_norm(x, scale, shift)), shapes and errors as `group_norm`.

    In a U-Net an SiLU follows nearly every norm; one op for both makes one trip through memory. Its backward keeps x, so it
    can compute y again, and the convolution that follows need not keep y."""
    check_group_norm("group_norm_silu", x, scale, shift, groups, eps)
    return on_pixels(normalise_silu, x, scale, shift, groups, eps)


@op
def layer_norm(x, scale, shift, *, eps=1e-5):
    """y = scale · x̂ + shift, x̂ = (x − μ)/σ, σ² = var + eps, μ and var over the last axis   (Ba et al. 2016).

    x: (..., C); scale, shift: (C,). The derivation above holds with one position's C channels as the group, but for one
    thing: scale differs within the group, which dx̂ = scale · dy takes in.
    Raises ValueError if scale and shift are not (C,), C < 1, or eps ≤ 0."""
    C = x.shape[-1] if x.ndim else 0
    require(C >= 1 and scale.shape == (C,) and shift.shape == (C,),
            "layer_norm: scale and shift have one entry per channel", x=x, scale=scale, shift=shift)  # fmt: skip
    require(eps > 0, "layer_norm: eps must be positive", eps=eps)
    mean = x.mean(-1, keepdims=True, dtype=np.float64).astype(x.dtype)
    var = np.square(x - mean, dtype=np.float64).mean(-1, keepdims=True)
    rstd = (1 / np.sqrt(var + eps)).astype(x.dtype)
    xhat = (x - mean) * rstd

    def backward(dy):
        pixels = tuple(range(x.ndim - 1))
        dxhat = dy * scale
        dx = rstd * (dxhat - dxhat.mean(-1, keepdims=True) - xhat * (dxhat * xhat).mean(-1, keepdims=True))
        return dx, (dy * xhat).sum(pixels), dy.sum(pixels)

    return scale * xhat + shift, backward


@kernel
def normalise(x, scale, shift, groups, eps):
    """Group normalisation of x (N, L, C), that is N images of L pixels. scale, shift: (C,)."""
    N, L, C = x.shape
    group = (1, 3)  # the axes over which a group extends: its channels at every pixel
    xg = x.reshape(N, L, groups, C // groups)
    # in float64 the sums are exact enough for an image of any size, and the squares of 1e20 do not overflow
    mean = xg.mean(group, keepdims=True, dtype=np.float64).astype(x.dtype)
    var = np.square(xg - mean, dtype=np.float64).mean(group, keepdims=True)
    rstd = (1 / np.sqrt(var + eps)).astype(x.dtype)
    xhat = (xg - mean) * rstd

    def backward(dy):
        dshift = dy.sum((0, 1))
        dscale = (dy * xhat.reshape(x.shape)).sum((0, 1))
        dxhat = (dy * scale).reshape(xg.shape)
        # the two means are what flows back through μ and through σ
        dx = rstd * (dxhat - dxhat.mean(group, keepdims=True) - xhat * (dxhat * xhat).mean(group, keepdims=True))
        return dx.reshape(x.shape), dscale, dshift

    return scale * xhat.reshape(x.shape) + shift, backward


@kernel
def normalise_silu(x, scale, shift, groups, eps):
    """SiLU of `normalise`. The gradient goes back through the two functions in reverse order."""
    v, normalise_backward = normalise(x, scale, shift, groups, eps)
    y, silu_backward = silu.on_arrays(v)
    return y, lambda dy: normalise_backward(*silu_backward(dy)), lambda: silu.on_arrays(v)[0]


def on_pixels(f, x, scale, shift, groups, eps):
    """f with the axes of x between the first and the last as one axis of pixels."""
    pixels = len(x), math.prod(x.shape[1:-1]), x.shape[-1]
    y, backward_pixels, *again = f(x.reshape(pixels), scale, shift, groups, eps)

    def backward(dy):
        dx, dscale, dshift = backward_pixels(dy.reshape(pixels))
        return dx.reshape(x.shape), dscale, dshift

    return y.reshape(x.shape), backward, *[lambda compute=compute: compute().reshape(x.shape) for compute in again]


def check_group_norm(name, x, scale, shift, groups, eps) -> None:
    """Raise the ValueError of the op `name` for arguments that do not fit."""
    C = x.shape[-1] if x.ndim else 0
    whole = isinstance(groups, (int, np.integer)) and groups >= 1 and C % groups == 0
    require(x.ndim >= 2 and whole and scale.shape == (C,) and shift.shape == (C,),
            f"{name}: the groups must divide the channels, scale and shift have one entry per channel",
            groups=groups, x=x, scale=scale, shift=shift)  # fmt: skip
    require(eps > 0, f"{name}: eps must be positive", eps=eps)
