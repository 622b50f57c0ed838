"""Is the loss that of a diffusion model? The loss asks spies instead of the network: models that remember x_t and t.

If all data are one point c, every x_t says which noise it holds: ε = (x_t − √ᾱ_t c)/√(1−ᾱ_t). So the perfect denoiser is
known and has no error at all, whatever the weights of the loss, and the noise in training can be looked at.
"""

from functools import partial

import numpy as np

from scratchdiff.checkup.findings import (
    FALSE_ALARM,
    Finding,
    answer_x0,
    answer_zero,
    enough,
    implied_noise,
    one_point,
    spied,
    unless_normal,
)

BATCH = 256


def draws_every_t(loss, diffusion, shape, rng):
    """t is drawn from 1..T, both ends included, and for each example on its own.

    Random: 20 T draws, so uniform draws miss one of the ends with probability 2 e⁻²⁰ = 4e-9. An end that is never drawn is
    always found, and so is one t for a whole batch. Another density of t may draw the ends half as often: 2 e⁻¹⁰ = 9e-5."""
    T = diffusion.schedule.T
    x0 = np.repeat(one_point(shape, rng)[None], BATCH, 0)
    batches = []
    for _ in range(-(-20 * T // BATCH)):
        model, calls = spied(answer_zero, T)
        loss(model, x0, rng)
        batches.append(np.concatenate([t for _, t in calls]))
    t = np.concatenate(batches)
    finding = partial(Finding, "loss", expected=f"whole t from 1 to {T}, one for each example")
    seen = f"from {t.min():g} to {t.max():g} in {t.size:,} draws"
    if (t != np.round(t)).any():
        look = "what stands between the draw of t and the network; let the wrapper of the model undo a division by T"
        return finding("the network is asked at a fraction of a step", seen=f"t = {t[t != np.round(t)][0]:.4g}", look=look)
    if t.min() < 1 or t.max() > T:
        look = "the bounds in the draw of t. Does the program count t from 0? Then pass first_t=0"
        return finding("t outside of the schedule", seen=seen, look=look)
    if T > 1 and all(len(np.unique(batch)) == 1 for batch in batches):
        look = "the size in the draw of t: the gradient is right in the mean, but much noisier"
        return finding("one t for the whole batch", seen=f"{BATCH} equal t in each batch", look=look)
    if t.min() > 1 or t.max() < T:
        look = "the bounds in the draw of t: randint and integers exclude the upper one, and sampling starts at T"
        return finding("some t are never trained", seen=seen, look=look, chance=FALSE_ALARM)


def trains_on_normal_noise(loss, diffusion, shape, rng):
    """The noise in x_t is N(0, 1): Kolmogorov–Smirnov of (x_t − √ᾱ_t c)/√(1−ᾱ_t) for data c.

    Random: false alarms and power are those of `unless_normal`."""
    point = one_point(shape, rng)
    model, calls = spied(answer_zero, diffusion.schedule.T)
    loss(model, np.repeat(point[None], enough(shape), 0), rng)
    eps = np.concatenate([implied_noise(diffusion, xt, t, point).ravel() for xt, t in calls])
    look = "where ε is drawn (randn, not rand), and the x_t that the network gets"
    return unless_normal(eps, "loss", "the noise in training is not N(0, 1)", look)


def perfect_denoiser_has_no_loss(loss, diffusion, shape, rng):
    """The exact denoiser of a data set of one point has loss 0, up to 1e-5 of what zeros as output cost.

    Exact. It finds another target than `predict` names, other noise in the target than in x_t, a network that is told
    another t than x_t has, data changed within the loss, and a difference that broadcasts."""
    point = one_point(shape, rng)
    x0 = np.repeat(point[None], BATCH, 0)
    best = loss(spied(answer_x0(diffusion, point), diffusion.schedule.T)[0], x0, rng)
    zero = loss(spied(answer_zero, diffusion.schedule.T)[0], x0, rng)
    if not abs(best) <= 1e-5 * abs(zero):
        return Finding(
            "loss",
            "the perfect denoiser is punished",
            expected=f"0 for the exact {diffusion.predict} of every x_t, where zeros as output cost {zero:.4g}",
            seen=f"{best:.4g}",
            look="the target of the loss: is it what predict= says, of the same ε and t as x_t, and of the shape of "
            "the output?",
        )


def starts_no_worse_than_zero(loss, model, x0, rng):
    """The network's loss is at most twice that of zeros as output, before training as after   (Karpathy 2019: verify the
    loss at the start). Exact, by that generous factor: a larger ratio is always found."""
    seeds = rng.integers(2**32, size=8)
    ours, zero = (np.mean([loss(f, x0, np.random.default_rng(s)) for s in seeds]) for f in (model, answer_zero))
    if not ours <= 2 * zero:
        return Finding(
            "model",
            "the network is worse than no answer",
            expected=f"a loss of at most {2 * zero:.4g}, twice what zeros cost",
            seen=f"{ours:.4g}",
            look="the scale of the last layer (start it at zero); the sign and the scale of the output; whether it "
            "has diverged",
        )
