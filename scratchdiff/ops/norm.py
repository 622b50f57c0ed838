"""Group normalisation: each group of channels of each image gets mean 0 and variance 1, then a learned scale and shift."""

import numpy as np

from scratchdiff.autograd import op


@op
def group_norm(x, scale, shift, *, groups, eps=1e-6):
    """y = scale · (x − μ)/σ + shift, σ² = var + eps, μ and var over each group of channels   (Wu & He 2018, Eq. 1).

    x: (N, ..., C), groups of C/groups channels that lie together; scale, shift: (C,).
    Raises ValueError if `groups` does not divide C or scale and shift are not (C,).
    """
    C = x.shape[-1]
    if x.ndim < 2 or groups < 1 or C % groups or scale.shape != (C,) or shift.shape != (C,):
        raise ValueError(
            f"group_norm: {groups} groups over x {x.shape} with scale {scale.shape}, shift {shift.shape}: "
            "groups must divide the channels, scale and shift have one entry a channel"
        )
    xg = x.reshape(x.shape[0], -1, groups, C // groups)
    over = (1, 3)  # a group: its channels at every pixel
    centred = xg - xg.mean(over, keepdims=True)
    rstd = 1 / np.sqrt(np.square(centred).mean(over, keepdims=True) + x.dtype.type(eps))
    xhat = centred * rstd

    def backward(dy):
        dyc, xhatc = dy.reshape(-1, C), xhat.reshape(-1, C)
        dshift, dscale = dyc.sum(0), (dyc * xhatc).sum(0)
        dxhat = (dy * scale).reshape(xg.shape)
        # x moves its group's μ and σ as well: what flows through them are the two means taken off here
        dx = rstd * (dxhat - dxhat.mean(over, keepdims=True) - xhat * (dxhat * xhat).mean(over, keepdims=True))
        return dx.reshape(x.shape), dscale, dshift

    return scale * xhat.reshape(x.shape) + shift, backward
