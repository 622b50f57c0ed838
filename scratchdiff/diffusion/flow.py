"""A sampler as a differentiable function: from the noise x_T to the sample x_0, and back with the gradient.

Deterministic DDIM (eta = 0) is a chain of maps x_s = Φ_t(x_t). The chain rule through it gives dL/dx_T: which noise made
this pixel, or how the noise must move for a classifier to see another digit (Wallace et al. 2023; Karunratanakul et al.
2024). Each step is recomputed in the backward, so the memory is that of one step, whatever their number.
"""

import numpy as np

from scratchdiff import ops
from scratchdiff.autograd import Tensor
from scratchdiff.diffusion.guidance import differentiable_x0
from scratchdiff.diffusion.samplers import spaced
from scratchdiff.recompute import recompute


def ddim_flow(diffusion, model, xT, steps: int = 50, labels=None, keep: bool = False) -> Tensor:
    """x_0 = Φ(x_T), the map of DDIM with eta = 0 on `steps` of the T timesteps   (Song et al. 2021, Eq. 12), as a Tensor.

        x_s = √ᾱ_s x0_hat + √(1−ᾱ_s) eps_hat,   eps_hat = (x_t − √ᾱ_t x0_hat)/√(1−ᾱ_t)

    xT: a Tensor (N, ...), of the model's dtype. model: a network that the tape can differentiate; labels: (N,) classes for
    it. The weights get their gradients too. keep: keep every activation instead of computing it again, which is faster and
    takes memory in proportion to the steps. For images x0_hat is clipped to [−1, 1], and the gradient stops where it was.
    Raises ValueError unless 1 ≤ steps ≤ T.
    """
    times = spaced("ddim_flow", diffusion.schedule.T, steps)[::-1]
    conditions = {} if labels is None else dict(labels=np.asarray(labels))
    x = xT if isinstance(xT, Tensor) else Tensor(xT)
    for t, s in zip(times[:-1], times[1:]):

        def step(x, t=int(t), s=int(s)):
            x0_hat = differentiable_x0(diffusion, model, x, t, **conditions)
            if diffusion.images:
                x0_hat = ops.clip(x0_hat, -1, 1)
            eps_hat = diffusion.predict_eps(x, t, x0_hat)
            alpha_bar = diffusion.schedule.alpha_bar[s]
            signal, noise = (x.dtype.type(np.sqrt(a)) for a in (alpha_bar, 1 - alpha_bar))
            return signal * x0_hat + noise * eps_hat

        x = step(x) if keep else recompute(step)(x)
    return x
