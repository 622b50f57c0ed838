"""From noise to data, by the chain itself. Each sampler is a generator of its steps, so any can be watched.

This file holds the samplers that go down the chain x_T, ..., x_0 or a part of it: ancestral sampling, DDIM, and
predictor–corrector. `solvers.py` holds those that solve the differential equation behind the chain, and a table of all.
The state is float64 whatever the network computes in; noise is drawn only by `rng.standard_normal(shape)`. A sampler checks
its arguments when it is called, and computes when it is asked for its first step.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from scratchdiff.checks import require
from scratchdiff.diffusion.gaussian import GaussianDiffusion
from scratchdiff.diffusion.schedule import Schedule


class SamplerStep(NamedTuple):
    """What a sampler yields: x is x_t (so t = 0 is the sample), and x0_hat the estimate of the data that led to it.

    t is whole in this file, and real where `solvers.py` steps between."""

    t: float
    x: np.ndarray
    x0_hat: np.ndarray


def ddpm_steps(diffusion, model, shape, rng, steps=None) -> Iterator[SamplerStep]:
    """Ancestral sampling   (Ho et al. 2020, Algorithm 2). T steps, or fewer on a part of the chain (`respaced`):

        x_T ~ N(0, I);   x_{t−1} = mean(x_t, t) + σ_t z,   z ~ N(0, I), but z = 0 at the last step t = 1

    shape: (N, ...). steps: how many of the T, evenly spaced; None for all.
    Raises ValueError unless 1 ≤ steps ≤ T.
    """
    times = spaced("ddpm_steps", diffusion.schedule.T, steps)
    return run_ddpm(diffusion, model, check_shape("ddpm_steps", shape), rng, times)


def run_ddpm(diffusion, model, shape, rng, times):
    """The steps of `ddpm_steps`, one each time it is asked."""
    part, model = respaced(diffusion, model, times)
    x = rng.standard_normal(shape)
    for i in range(len(times) - 1, 0, -1):
        x, x0_hat = ancestral_step(part, model, x, i, rng)
        yield SamplerStep(int(times[i - 1]), x, x0_hat)


def ancestral_step(diffusion, model, x, t, rng):
    """(x_{t−1}, x0_hat): a draw of p(x_{t−1} | x_t = x), its mean for t = 1."""
    x0_hat, logvar = diffusion.denoise(model, x, t)
    mean, _ = diffusion.q_posterior(x0_hat, x, t)
    z = rng.standard_normal(x.shape) if t > 1 else 0.0
    return mean + np.exp(0.5 * logvar) * z, x0_hat


def respaced(diffusion, model, times) -> tuple:
    """(diffusion, model) of the shorter chain x_τ0, x_τ1, ..., for times 0 = τ_0 < τ_1 < ...: its step i is the time τ_i.

    q needs no x between: x_t given x_s is N(√(ᾱ_t/ᾱ_s) x_s, (1 − ᾱ_t/ᾱ_s) I), so a part of a chain is a chain again, with
    β_i = 1 − ᾱ_{τ_i}/ᾱ_{τ_{i−1}}; posterior and variances then follow as ever   (Nichol & Dhariwal 2021, section 4).
    """
    if len(times) == diffusion.schedule.T + 1:
        return diffusion, model
    alpha_bar = diffusion.schedule.alpha_bar[times]
    schedule = Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])
    part = GaussianDiffusion(schedule, diffusion.predict, diffusion.variance, diffusion.images)
    return part, lambda xt, i: model(xt, times[i])


def ddim_steps(diffusion, model, shape, rng, steps=50, eta=0.0, times=None) -> Iterator[SamplerStep]:
    """DDIM on `steps` of the T timesteps, evenly spaced   (Song et al. 2021, Eq. 12, 16). From t to s < t:

        x_s = √ᾱ_s x0_hat + √(1−ᾱ_s−σ²) eps_hat + σ z,   σ = η √((1−ᾱ_s)/(1−ᾱ_t)) √(1−ᾱ_t/ᾱ_s)

    eta = 0 is deterministic after x_T; eta = 1 is ancestral sampling with the posterior variance. eps_hat is derived
    again from x0_hat, which images clip, so that the two agree. times: the pairs (t, s) themselves, in place of `steps`.
    Raises ValueError unless 1 ≤ steps ≤ T, 0 ≤ eta ≤ 1, and in each pair 1 ≤ t ≤ T and 0 ≤ s ≤ t.
    """
    T = diffusion.schedule.T
    pairs = np.array(list(pairwise(spaced("ddim_steps", T, steps)[::-1]) if times is None else times))
    whole = pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype.kind in "iu"
    inside = whole and ((1 <= pairs[:, 0]) & (pairs[:, 0] <= T) & (0 <= pairs[:, 1]) & (pairs[:, 1] <= pairs[:, 0])).all()
    require(inside, f"ddim_steps: times must be pairs (t, s) of integers, 1 ≤ t ≤ {T}, 0 ≤ s ≤ t", times=pairs)
    require(0 <= eta <= 1, "ddim_steps: eta must lie in [0, 1]", eta=eta)
    return run_ddim(diffusion, model, check_shape("ddim_steps", shape), rng, pairs, eta)


def run_ddim(diffusion, model, shape, rng, pairs, eta):
    """The steps of `ddim_steps`, one each time it is asked."""
    yield from ddim_from(diffusion, model, rng.standard_normal(shape), rng, pairs, eta)


def ddim_from(diffusion, model, x, rng, pairs, eta=0.0):
    """The steps of DDIM from x, from t to s for each of the pairs (t, s). eta = 0 asks nothing of rng, which may be None."""
    alpha_bar = diffusion.schedule.alpha_bar
    for t, s in pairs:
        x0_hat, _ = diffusion.denoise(model, x, t)
        eps_hat = diffusion.predict_eps(x, t, x0_hat)
        var = eta**2 * (1 - alpha_bar[s]) / (1 - alpha_bar[t]) * (1 - alpha_bar[t] / alpha_bar[s])
        x = np.sqrt(alpha_bar[s]) * x0_hat + np.sqrt(1 - alpha_bar[s] - var) * eps_hat
        if eta > 0 and s > 0:
            x = x + np.sqrt(var) * rng.standard_normal(x.shape)
        yield SamplerStep(int(s), x, x0_hat)


def pc_steps(diffusion, model, shape, rng, steps=50, snr=0.1) -> Iterator[SamplerStep]:
    """Predictor and corrector   (Song et al. 2021, score SDE, Algorithms 3 and 5). From t to s < t, on `steps` of the T:

        predictor: the ancestral step to x_s;    corrector, for s > 0: x_s ← x_s + ε g + √(2ε) z,    g = score(x_s, s)

    The corrector is a step of Langevin's dynamics, which leaves p_s as it is to first order in ε: it moves x to where p_s
    is large, whatever the predictor got wrong. ε = 2 α_s (snr ‖z‖/‖g‖)², the norms averaged over the batch.
    It asks the network 2·steps − 1 times. Raises ValueError unless 1 ≤ steps ≤ T and snr > 0.
    """
    times = spaced("pc_steps", diffusion.schedule.T, steps)
    require(snr > 0, "pc_steps: snr must be positive", snr=snr)
    return run_pc(diffusion, model, check_shape("pc_steps", shape), rng, times, snr)


def run_pc(diffusion, model, shape, rng, times, snr):
    """The steps of `pc_steps`, one each time it is asked."""
    part, part_model = respaced(diffusion, model, times)
    x = rng.standard_normal(shape)
    for i in range(len(times) - 1, 0, -1):
        x, x0_hat = ancestral_step(part, part_model, x, i, rng)
        s = times[i - 1]
        if s > 0:
            x0_hat, _ = diffusion.denoise(model, x, s)
            score = -diffusion.predict_eps(x, s, x0_hat) / diffusion.sqrt_noise[s]
            z = rng.standard_normal(shape)
            if length(score) > 0:  # an untrained network whose last layer is zero has no score, and no step size
                x = langevin(x, score, 2 * diffusion.schedule.alpha[s] * (snr * length(z) / length(score)) ** 2, z)
        yield SamplerStep(int(s), x, x0_hat)


def langevin(x, score, step, z):
    """x + ε ∇ log p(x) + √(2ε) z: with z ~ N(0, I), over many small steps a walk whose points are drawn from p."""
    return x + step * score + np.sqrt(2 * step) * z


def length(v) -> float:
    """The mean length ‖v_n‖ over a batch (N, ...)."""
    return float(np.linalg.norm(v.reshape(len(v), -1), axis=1).mean())


def sample_ddpm(diffusion, model, shape, rng, steps=None) -> np.ndarray:
    """The samples that `ddpm_steps` ends with: float64 of the given shape (N, ...). Raises ValueError as it does."""
    return last(ddpm_steps(diffusion, model, shape, rng, steps)).x


def sample_ddim(diffusion, model, shape, rng, steps=50, eta=0.0, times=None) -> np.ndarray:
    """The samples that `ddim_steps` ends with: float64 of the given shape (N, ...). Raises ValueError as it does."""
    return last(ddim_steps(diffusion, model, shape, rng, steps, eta, times)).x


def last(steps: Iterator[SamplerStep]) -> SamplerStep:
    """Run a sampler and return its last step."""
    for step in steps:
        pass
    return step


def spaced(name: str, T: int, steps: int | None) -> np.ndarray:
    """0 = τ_0 < τ_1 < ... < τ_steps = T, as even as whole numbers can be. Raises the ValueError of the sampler `name`."""
    steps = T if steps is None else steps
    inside = isinstance(steps, (int, np.integer)) and 1 <= steps <= T
    require(inside, f"{name}: steps must lie in 1..{T}", steps=steps)
    return np.linspace(T, 0, steps + 1).round().astype(int)[::-1]


def check_shape(name: str, shape) -> tuple:
    """The shape as a tuple, or the ValueError of the sampler `name` if it is not that of at least one sample."""
    shape = tuple(np.atleast_1d(shape).tolist())
    positive = all(isinstance(n, int) and n >= 1 for n in shape)
    require(len(shape) >= 2 and positive, f"{name}: shape must be (N, ...) with positive integers", shape=shape)
    return shape
