"""Editing: start from an image instead of noise.

*SDEdit* (Meng et al. 2022): put noise on an image up to a time t_0 < T and denoise from there. A large t_0 keeps little of
the image and makes it like the data; a small one keeps much.

*DDIM inversion* (Song et al. 2021, section 4.3): DDIM with eta = 0 follows an ODE, so the same steps backwards carry an
image to the noise that it would come from. Between the noises of two images we go along a sphere: normal noise in d
dimensions has a length near √d, and the straight line between two of them passes through shorter ones.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from scratchdiff.checks import require, require_finite_floats
from scratchdiff.diffusion.samplers import SamplerStep, check_shape, ddim_from, last, spaced


def sdedit_steps(diffusion, model, x0, strength: float, rng, steps=50, eta=1.0) -> Iterator[SamplerStep]:
    """SDEdit   (Meng et al. 2022, Algorithm 1): x_{t_0} = q_sample(x0, t_0), then DDIM with eta from t_0 down to 0.

    x0: floats (N, ...), scaled as the data is. strength: t_0/T in (0, 1], rounded to the nearest of the `steps` times that
    `ddim_steps` takes, so that about strength · steps of them are run. eta = 1, fresh noise at each step, is their SDE.
    Raises ValueError for x0 of no finite floats, strength outside (0, 1], or as `ddim_steps`.
    """
    x0 = check_start("sdedit_steps", x0)
    require(0 < strength <= 1, "sdedit_steps: strength must be in (0, 1]", strength=strength)
    require(0 <= eta <= 1, "sdedit_steps: eta must lie in [0, 1]", eta=eta)
    times = spaced("sdedit_steps", diffusion.schedule.T, steps)
    return run_sdedit(diffusion, model, x0, rng, times[: max(1, round(strength * steps)) + 1], eta)


def run_sdedit(diffusion, model, x0, rng, times, eta):
    """The steps of `sdedit_steps`, one each time it is asked."""
    x = diffusion.q_sample(x0, int(times[-1]), rng.standard_normal(x0.shape))
    yield from ddim_from(diffusion, model, x, rng, pairwise(times[::-1]), eta)


def ddim_inverse_steps(diffusion, model, x0, steps=50) -> Iterator[SamplerStep]:
    """DDIM with eta = 0 run backwards, from data to noise   (Song et al. 2021, section 4.3). From s to t > s:

        x_t = √ᾱ_t x0_hat + √(1−ᾱ_t) eps_hat,    both of the network at x_s

    Sampling takes them at x_t, so this is the inverse to first order in the size of the steps. At s = 0 the network is asked
    at t = 1, the least noise that it knows. Yields SamplerSteps with t going up to T.
    Raises ValueError for x0 of no finite floats, or unless 1 ≤ steps ≤ T.
    """
    x0 = check_start("ddim_inverse_steps", x0)
    return run_inverse(diffusion, model, x0, spaced("ddim_inverse_steps", diffusion.schedule.T, steps))


def run_inverse(diffusion, model, x, times):
    """The steps of `ddim_inverse_steps`, one each time it is asked."""
    alpha_bar = diffusion.schedule.alpha_bar
    for s, t in zip(times[:-1], times[1:]):
        x0_hat, _ = diffusion.denoise(model, x, max(s, 1))
        eps_hat = diffusion.predict_eps(x, max(s, 1), x0_hat)
        x = np.sqrt(alpha_bar[t]) * x0_hat + np.sqrt(1 - alpha_bar[t]) * eps_hat
        yield SamplerStep(int(t), x, x0_hat)


def slerp(a, b, weight) -> np.ndarray:
    """Spherical interpolation between a and b (N, ...), sample by sample   (Shoemake 1985; Song et al. 2021, Eq. 67):

        sin((1−w) θ)/sin θ a + sin(w θ)/sin θ b,    θ the angle between them

    weight: a number w, or (N,): 0 gives a, 1 gives b. Where θ is 0 it is the straight line.
    Raises ValueError for other shapes, and for opposite vectors, between which every way round is as short.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    w = np.asarray(weight, np.float64)
    fits = a.shape == b.shape and a.ndim >= 1 and w.shape in ((), a.shape[:1])
    require(fits, "slerp: a and b must have one shape (N, ...), and weight be a number or (N,)", a=a, b=b, weight=w)
    over = tuple(range(1, a.ndim))

    def dot(x, y):
        return (x * y).sum(over, keepdims=True)

    lengths = np.sqrt(dot(a, a) * dot(b, b))
    theta = np.arccos(np.clip(dot(a, b) / np.where(lengths > 0, lengths, 1), -1, 1))
    require((np.pi - theta > 1e-6).all(), "slerp: two opposite vectors have no shortest way between them")
    w = w.reshape(w.shape + (1,) * (a.ndim - 1))
    small = theta < 1e-6
    sine = np.where(small, 1, np.sin(theta))
    return np.where(small, 1 - w, np.sin((1 - w) * theta) / sine) * a + np.where(small, w, np.sin(w * theta) / sine) * b


def interpolate(diffusion, model, a, b, weights, steps=50) -> np.ndarray:
    """Images between a and b (N, ...): both inverted by DDIM, `slerp` of their noises, and DDIM with eta = 0 back.

    weights: (K,), from 0 for a to 1 for b. model: one that takes any batch size, so not one that was made for given labels.
    Returns (K, N, ...). Raises ValueError as `ddim_inverse_steps` and `slerp`."""
    a, b = check_start("interpolate", a), check_start("interpolate", b)
    require(a.shape == b.shape, "interpolate: a and b must have one shape", a=a, b=b)
    weights = np.asarray(weights, np.float64)
    require(weights.ndim == 1 and len(weights) >= 1, "interpolate: weights must be (K,)", weights=weights)
    noise_a, noise_b = np.split(last(ddim_inverse_steps(diffusion, model, np.concatenate([a, b]), steps)).x, 2)
    between = np.concatenate([slerp(noise_a, noise_b, w) for w in weights])
    times = spaced("interpolate", diffusion.schedule.T, steps)[::-1]
    return last(ddim_from(diffusion, model, between, None, pairwise(times))).x.reshape(len(weights), *a.shape)


def check_start(name: str, x0) -> np.ndarray:
    """x0 as float64 (N, ...), or the ValueError of the function `name`."""
    require_finite_floats(name, x0=x0)
    check_shape(name, np.shape(x0))
    return np.asarray(x0, np.float64)
