"""Self-conditioning: the network is shown its own last estimate of x_0   (Chen et al. 2023, "Analog Bits", section 3.2).

At each step a sampler computes x0_hat, takes a step with it and forgets it: the next call starts from x_t alone. A network
made with `cond_channels` can take the last x0_hat beside x_t and improve on it.

In training there is no step before. So at half of the training steps the network is asked twice: its first answer, without
a gradient, is the condition of the second. At the other half the condition is zeros, as at the first step of a sampler.
"""

import numpy as np

from scratchdiff.autograd import Tensor
from scratchdiff.checks import require
from scratchdiff.recompute import off_the_tape


def self_conditioned_loss(
    diffusion, model, x0, rng: np.random.Generator, labels=None, rate: float = 0.5, **settings
) -> Tensor:
    """`diffusion.loss` of the model with cond = its own x0_hat at the same x_t, with probability `rate`, else with no cond.

    model: a network with as many cond_channels as x0 has channels. settings: as `GaussianDiffusion.loss`. A first pass costs
    half of a step's forward pass on average, and no backward pass. Draws the choice, then as the loss.
    Raises ValueError for a model without cond_channels, or a rate outside [0, 1]."""
    check_model("self_conditioned_loss", model)
    require(0 <= rate <= 1, "self_conditioned_loss: rate must be in [0, 1]", rate=rate)
    twice = rng.random() < rate

    def conditioned(xt, t, **conditions):
        if not twice:
            return model(xt, t, **conditions)
        with off_the_tape():
            first = model(xt, t, **conditions)
        return model(xt, t, cond=estimate(diffusion, first, xt, t), **conditions)

    return diffusion.loss(like(conditioned, model), x0, rng, labels, **settings)


def self_conditioned(diffusion, model):
    """The model(xt, t) for one run of a sampler: its condition is the x0_hat of the timestep before; none at the first.

    To guide it, pass it to `guided`, which asks twice at each timestep. Both calls get the same condition, and the first
    call, with the labels, gives that of the next timestep. Raises ValueError for a model without cond_channels."""
    check_model("self_conditioned", model)
    time = cond = x0_hat = None

    def remembering(xt, t, **conditions):
        nonlocal time, cond, x0_hat
        first = time is None or not np.array_equal(t, time)
        if first:
            time, cond = t, x0_hat
        out = model(xt, t, cond=cond, **conditions)
        if first:
            x0_hat = estimate(diffusion, out, xt, t)
        return out

    return like(remembering, model)


def estimate(diffusion, out, xt, t) -> np.ndarray:
    """x0_hat of a network's output at xt (N, ...) and t (N,), clipped for images as in `GaussianDiffusion.denoise`."""
    prediction, _ = diffusion.split_output(np.asarray(out), xt)
    x0_hat = diffusion.predict_x0(xt, t, prediction)
    return np.clip(x0_hat, -1, 1) if diffusion.images else x0_hat


def like(f, model):
    """f with what the loss and `guided` want to know of a model: its number of classes and its dropout."""
    f.num_classes, f.dropout = getattr(model, "num_classes", None), getattr(model, "dropout", 0)
    return f


def check_model(name: str, model) -> None:
    """Raise the ValueError of the function `name` unless the model was made with cond_channels."""
    made_for_it = getattr(model, "cond_channels", 0) > 0
    require(made_for_it, f"{name}: needs a model made with cond_channels, got {type(model).__name__}")
