"""Does the sampler sample? The network is replaced by exact denoisers, so what must come out is known.

sampler(model, shape, rng) may be any that goes from noise at T to data. The spies remember every x_t and t that it asks
about.
"""

from functools import partial

import numpy as np

from scratchdiff.checkup.findings import (
    FALSE_ALARM,
    CannotTell,
    Finding,
    answer_x0,
    enough,
    implied_noise,
    ks_distance,
    ks_threshold,
    normal_cdf,
    one_point,
    spied,
    unless_normal,
)
from scratchdiff.diffusion.oracle import Oracle
from scratchdiff.diffusion.schedule import NOISE_AT_T

MEANS, SPREAD, WEIGHTS = np.array([[-0.6], [0.5]]), 0.15, np.array([0.3, 0.7])
DISCRETE = 0.04  # what a finite number of steps may cost, as a distance of distribution functions


def goes_down_from_T(sampler, diffusion, shape, rng):
    """The network is asked at falling t, from T to the last step before the data.

    Exact: a wrong order, a start too late, and a last step left out of evenly spaced ones are always found. A solver that
    asks at real t may start later, where ᾱ_t ≤ 0.01."""
    _, _, calls = run_on_one_point(sampler, diffusion, shape, 4, rng)
    t = np.array([t[0] for _, t in calls])
    T, steps = diffusion.schedule.T, len(np.unique(t))
    finding = partial(Finding, "sampler", seen=f"t = {', '.join(f'{each:g}' for each in t[:3])}, ..., {t[-1]:g}")
    if t.min() < 1 or t.max() > T:
        look = "where t is counted from: first_t=0 says that the program counts from 0"
        return finding("t outside of the schedule", expected=f"t in 1..{T}", look=look)
    if (np.diff(t) > 0).sum() > (np.diff(t) < 0).sum():  # a solver may go back after a step that it refuses
        return finding("t rises", expected=f"t falls from {T}", look="the order of the loop: reversed(range(...))")
    whole = (t == np.round(t)).all()
    if t[0] < 0.99 * T - 1 and (whole or diffusion.schedule.alpha_bar[int(t[0])] > NOISE_AT_T):
        look = "how the steps are spaced (Lin et al. 2023, section 3.3)"
        return finding("it starts too late", expected=f"the first question at t = {T}, where x_t is noise", look=look)
    if t[-1] > T / steps + 0.5:
        look = "the end of the loop: range(T - 1, 0, -1) leaves out 0"
        return finding("the last step is missing", expected=f"a last question at t ≤ {T / steps:g}", look=look)


def starts_from_normal_noise(sampler, diffusion, shape, rng):
    """The first x_t is N(0, I): Kolmogorov–Smirnov of its entries.

    Random: false alarms and power are those of `unless_normal`."""
    _, _, calls = run_on_one_point(sampler, diffusion, shape, enough(shape), rng)
    look = "the first line of the sampler (randn, not rand)"
    return unless_normal(calls[0][0], "sampler", "it does not start from N(0, I)", look)


def ends_at_the_data(sampler, diffusion, shape, rng):
    """With the perfect denoiser of one point every sample is that point, up to a tenth of √(1−ᾱ_1), the smallest noise.

    Exact. It finds noise at the last step (Algorithm 2 of Ho et al. 2020 has z = 0 there), a last step left out, one that
    ends at ᾱ_1 in place of 1, and a network that is told another t than x_t has."""
    point, x, _ = run_on_one_point(sampler, diffusion, shape, enough(shape), rng)
    error = x - point
    smallest = float(diffusion.sqrt_noise[1])
    if not np.abs(error).max() <= 0.1 * smallest:
        noisy = error.std() < 3 * smallest and np.abs(error.mean()) < error.std() / 10
        return Finding(
            "sampler",
            "noise is left in the samples" if noisy else "it misses the data",
            expected=f"samples within {0.1 * smallest:.2g} of the only datum, which the denoiser knows",
            seen=f"{error.mean():.2g} ± {error.std():.2g} away from it; √(1−ᾱ_1) = {smallest:.2g}",
            look="the last step: z = 0 at t = 1, and ᾱ_0 = 1"
            if noisy
            else "the coefficients of each step; what it takes the network's output for; its t",
        )


def draws_the_mixture(sampler, diffusion, shape, rng):
    """With the exact denoiser of a mixture of two Gaussians the samples are draws of it: Kolmogorov–Smirnov.

    Every entry of x is an example of its own, 0.3 N(−0.6, 0.15²) + 0.7 N(0.5, 0.15²).
    Random: false alarms by `ks_threshold`, for samplers whose steps cost less than 0.04. Distances above 0.1 are found in
    more than 99 %: weights off by 0.1, a spread twice as large, means off by 0.06."""
    oracle = Oracle(diffusion, MEANS, SPREAD**2, WEIGHTS)

    def entrywise(xt, t):
        return oracle(xt.reshape(-1, 1), np.repeat(t, xt[0].size)).data.reshape(xt.shape)

    x = np.asarray(sampler(spied(entrywise, diffusion.schedule.T)[0], (enough(shape), *shape), rng), np.float64)
    far = ks_distance(x, mixture_cdf)
    allowed = ks_threshold(x.size) + DISCRETE
    if not far <= allowed:
        mean = float(WEIGHTS @ MEANS[:, 0])
        std = float(np.sqrt(SPREAD**2 + WEIGHTS @ (MEANS[:, 0] - mean) ** 2))
        return Finding(
            "sampler",
            "with a perfect network, it draws something else than the data",
            expected=f"a distance below {allowed:.3f} to a mixture of mean {mean:.2f} and standard deviation {std:.2f}",
            seen=f"{far:.3f}: mean {x.mean():.2f}, standard deviation {x.std():.2f}",
            look="the variance of each step, its coefficients, the number of steps; the schedule must be that of training",
            chance=FALSE_ALARM,
        )


def keeps_x0_and_eps_together(sampler, diffusion, shape, rng):
    """A sampler that clips x0_hat to [−1, 1] derives ε anew from it, so that x_t stays √ᾱ_t x0_hat + √(1−ᾱ_t) N(0, I).

    A denoiser that says 3, which is clipped to 1, must lead along the same x_t as one that says 1: the means over x_t of
    (x_t − √ᾱ_t)/√(1−ᾱ_t) are compared at each t, in units of its standard deviation. Random: it alarms beyond 0.5, which is
    over 20 standard errors. An old ε shifts the mean by −2 √ᾱ_t/√(1−ᾱ_t), and is always found. For samplers that do not clip
    there is nothing to find."""

    def means(x0_hat):
        model, calls = spied(answer_x0(diffusion, x0_hat), diffusion.schedule.T)
        x = np.asarray(sampler(model, (enough(shape), *shape), rng))
        eps = [implied_noise(diffusion, xt, t, 1.0) for xt, t in calls]
        return np.array([e.mean() / max(1.0, e.std()) for e in eps]), x.mean(), [t[0] for _, t in calls]

    (clipped, end, times), (inside, _, _) = means(3.0), means(1.0)
    shifts = np.abs(clipped - inside) if len(clipped) == len(inside) else np.zeros(1)
    if end > 1.5 or shifts.max() <= 0.5:
        return None
    if np.abs(inside).max() > 0.5:
        raise CannotTell("the sampler fails already where nothing is clipped")
    worst = int(shifts.argmax())
    return Finding(
        "sampler",
        "after clipping x0_hat, ε is the old one",
        expected="x_t = √ᾱ_t x0_hat + √(1−ᾱ_t) ε with the clipped x0_hat, and ε of mean 0",
        seen=f"a mean of {clipped[worst]:.2g} at t = {times[worst]:g}",
        look="derive eps_hat = (x_t − √ᾱ_t x0_hat)/√(1−ᾱ_t) after the clip",
        chance=FALSE_ALARM,
    )


def run_on_one_point(sampler, diffusion, shape, n: int, rng) -> tuple:
    """(point, samples, calls): n samples with the perfect denoiser of one point, and what it was asked."""
    point = one_point(shape, rng)
    model, calls = spied(answer_x0(diffusion, point), diffusion.schedule.T)
    x = np.asarray(sampler(model, (n, *shape), rng), np.float64)
    if x.shape != (n, *shape) or not calls:
        raise ValueError(f"it was asked for samples of shape {(n, *shape)}, and gave {x.shape} after {len(calls)} questions")
    return point, x, calls


def mixture_cdf(x):
    """The distribution function of the mixture."""
    return normal_cdf((x[:, None] - MEANS[:, 0]) / SPREAD) @ WEIGHTS
