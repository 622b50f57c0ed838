"""From noise to data. Each sampler is a generator of its steps, so any can be watched; `sample_*` runs it to the end.

The state is kept in float64 whatever the network computes in; noise is drawn only by `rng.standard_normal(shape)`.
A sampler checks its arguments when it is called, and computes when it is asked for its first step.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class SamplerStep(NamedTuple):
    """What a sampler yields: x is x_t (so t = 0 is the sample), and x0_hat the estimate of the data that led to it."""

    t: int
    x: np.ndarray
    x0_hat: np.ndarray


def ddpm_steps(diffusion, model, shape, rng, clip=True) -> Iterator[SamplerStep]:
    """Ancestral sampling   (Ho et al. 2020, Algorithm 2). T steps:

        x_T ~ N(0, I);   x_{t−1} = mean(x_t, t) + σ_t z,   z ~ N(0, I), but z = 0 at the last step t = 1

    shape: (N, ...). clip: limit x0_hat to [−1, 1], for images.
    """
    return run_ddpm(diffusion, model, check_shape("ddpm_steps", shape), rng, clip)


def run_ddpm(diffusion, model, shape, rng, clip):
    """The steps of `ddpm_steps`, one each time it is asked."""
    x = rng.standard_normal(shape)
    for t in range(diffusion.schedule.T, 0, -1):
        x0_hat = diffusion.denoise(model, x, t, clip)
        mean, _ = diffusion.q_posterior(x0_hat, x, t)
        z = rng.standard_normal(shape) if t > 1 else 0.0
        x = mean + np.exp(0.5 * diffusion.p_logvar[t]) * z
        yield SamplerStep(t - 1, x, x0_hat)


def ddim_steps(diffusion, model, shape, rng, steps=50, eta=0.0, clip=True) -> Iterator[SamplerStep]:
    """DDIM on `steps` of the T timesteps, evenly spaced   (Song et al. 2021, Eq. 12, 16). From t to s < t:

        x_s = √ᾱ_s x0_hat + √(1−ᾱ_s−σ²) eps_hat + σ z,   σ = η √((1−ᾱ_s)/(1−ᾱ_t)) √(1−ᾱ_t/ᾱ_s)

    eta = 0 is deterministic after x_T; eta = 1 with steps = T is DDPM with the posterior variance. eps_hat is derived
    again from the clipped x0_hat, so that the two agree. Raises ValueError unless 1 ≤ steps ≤ T and 0 ≤ eta ≤ 1.
    """
    T = diffusion.schedule.T
    if not isinstance(steps, (int, np.integer)) or not 1 <= steps <= T:
        raise ValueError(f"ddim_steps: steps must lie in 1..{T}, got {steps}")
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim_steps: eta must lie in [0, 1], got {eta}")
    return run_ddim(diffusion, model, check_shape("ddim_steps", shape), rng, steps, eta, clip)


def run_ddim(diffusion, model, shape, rng, steps, eta, clip):
    """The steps of `ddim_steps`, one each time it is asked."""
    T, alpha_bar = diffusion.schedule.T, diffusion.schedule.alpha_bar
    x = rng.standard_normal(shape)
    times = np.linspace(T, 0, steps + 1).round().astype(int)
    for t, s in zip(times[:-1], times[1:]):
        x0_hat = diffusion.denoise(model, x, t, clip)
        eps_hat = diffusion.predict_eps(x, t, x0_hat)
        var = eta**2 * (1 - alpha_bar[s]) / (1 - alpha_bar[t]) * (1 - alpha_bar[t] / alpha_bar[s])
        x = np.sqrt(alpha_bar[s]) * x0_hat + np.sqrt(1 - alpha_bar[s] - var) * eps_hat
        if eta > 0 and s > 0:
            x = x + np.sqrt(var) * rng.standard_normal(shape)
        yield SamplerStep(int(s), x, x0_hat)


def sample_ddpm(diffusion, model, shape, rng, clip=True) -> np.ndarray:
    """The samples that `ddpm_steps` ends with: float64 of the given shape (N, ...)."""
    return last(ddpm_steps(diffusion, model, shape, rng, clip)).x


def sample_ddim(diffusion, model, shape, rng, steps=50, eta=0.0, clip=True) -> np.ndarray:
    """The samples that `ddim_steps` ends with: float64 of the given shape (N, ...). Raises ValueError as it does."""
    return last(ddim_steps(diffusion, model, shape, rng, steps, eta, clip)).x


def last(steps: Iterator[SamplerStep]) -> SamplerStep:
    """Run a sampler and return its last step."""
    for step in steps:
        pass
    return step


def check_shape(name: str, shape) -> tuple:
    """The shape as a tuple, or the ValueError of the sampler `name` if it is not that of at least one sample."""
    shape = tuple(np.atleast_1d(shape).tolist())
    if len(shape) < 2 or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"{name}: shape must be (N, ...) with positive integers, got {shape}")
    return shape
