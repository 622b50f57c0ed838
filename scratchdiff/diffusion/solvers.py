"""The equation behind the chain, and the samplers that solve it.

Let y = x_t/√ᾱ_t = x_0 + σ ε, with σ_t = √((1−ᾱ_t)/ᾱ_t): data with noise of size σ on it. Then the points of p_T are carried
to points of p_0, without any further noise, by the probability-flow ODE   (Song et al. 2021, score SDE, Eq. 13):

    dy/dσ = eps(y, σ) = −σ ∇ log p(y; σ)                                             (Karras et al. 2022, Eq. 1)

Its curves are nearly straight at both ends, where eps hardly changes, so few steps do. Taking eps as constant over a step
gives y_s = y_t + (σ_s − σ_t) eps_hat: Euler's method, and exactly DDIM with eta = 0. The samplers here do better at the same
number of steps, by asking twice (Heun) or remembering the last answer (DPM-Solver++), or leave the choice of steps to SciPy.

The steps fall where they do most good, so between the whole timesteps: the network is asked at a real t, that of σ by
`Schedule.time`. It knows t only through sines and cosines, which are as good in between. All stop at σ_1, the least noise a
network was shown, and end there with x0_hat; and they start at σ = 80 where a schedule goes on to 160 or 20000, for there
x is noise to within E[x_0²]/80² already, and all the steps would be spent on nothing.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from scratchdiff.diffusion.samplers import SamplerStep, check_shape, ddim_steps, ddpm_steps, pc_steps

SIGMA_MAX = 80.0  # Karras et al. 2022, Table 1


def heun_steps(diffusion, model, shape, rng, steps=20, churn=0.0, rho=7.0, clip=True) -> Iterator[SamplerStep]:
    """Heun's method on Karras' steps   (Karras et al. 2022, Algorithm 1; with churn > 0, Algorithm 2). From σ to σ' < σ:

        y' = y + (σ'−σ) d,   d = eps(y, σ);      then   y' = y + (σ'−σ) (d + d')/2,   d' = eps(y', σ')

    the slope at both ends, so an error of second order; at the last step, to σ' = 0, only the first line. churn: fresh noise
    is put on before each step, σ² ← σ² (1 + γ)², γ = min(churn/steps, √2 − 1), so that later steps can mend earlier ones;
    0 is deterministic after x_T. It asks the network 2·steps − 1 times.
    Raises ValueError unless steps ≥ 1, churn ≥ 0 and rho > 0.
    """
    times = karras_times("heun_steps", diffusion.schedule, steps, rho)
    if not churn >= 0:
        raise ValueError(f"heun_steps: churn must not be negative, got {churn}")
    gamma = min(churn / steps, np.sqrt(2) - 1)
    return run_heun(diffusion, model, check_shape("heun_steps", shape), rng, times, gamma, clip)


def run_heun(diffusion, model, shape, rng, times, gamma, clip):
    """The steps of `heun_steps`, one each time it is asked."""
    schedule = diffusion.schedule
    y = rng.standard_normal(shape) * np.sqrt(1 + schedule.sigma(times[0]) ** 2)
    for t, s in zip(times[:-1], times[1:]):
        if gamma > 0:
            t, less = schedule.time((1 + gamma) * schedule.sigma(t)), schedule.sigma(t)
            y = y + np.sqrt(schedule.sigma(t) ** 2 - less**2) * rng.standard_normal(shape)
        sigma = schedule.sigma(t)
        x0_hat = denoise_y(diffusion, model, y, t, clip)
        if s == 0:
            yield SamplerStep(0, x0_hat, x0_hat)
            return
        sigma_s, d = schedule.sigma(s), (y - x0_hat) / sigma
        ahead = y + (sigma_s - sigma) * d
        d_ahead = (ahead - denoise_y(diffusion, model, ahead, s, clip)) / sigma_s
        y = y + (sigma_s - sigma) * (d + d_ahead) / 2
        yield SamplerStep(float(s), y / np.sqrt(1 + sigma_s**2), x0_hat)


def dpm_steps(diffusion, model, shape, rng, steps=20, clip=True) -> Iterator[SamplerStep]:
    """DPM-Solver++(2M)   (Lu et al. 2022, Algorithm 2). From σ to σ' < σ, with λ = −log σ, half the log-SNR, and h = λ' − λ:

        y' = D + (σ'/σ) (y − D),    D = x0_hat + (h/2h₋) (x0_hat − x0_hat₋)

    Were x0_hat constant over the step, the first formula would be exact; D carries its change since the last step (marked ₋,
    none at the first) on to the middle of this one, so the error is of second order at one question a step. The steps are
    equal in λ; the last, to σ' = 0, takes x0_hat itself. Raises ValueError unless steps ≥ 1.
    """
    times = karras_times("dpm_steps", diffusion.schedule, steps, np.inf)
    return run_dpm(diffusion, model, check_shape("dpm_steps", shape), rng, times, clip)


def run_dpm(diffusion, model, shape, rng, times, clip):
    """The steps of `dpm_steps`, one each time it is asked."""
    sigma = diffusion.schedule.sigma
    y = rng.standard_normal(shape) * np.sqrt(1 + sigma(times[0]) ** 2)
    before = h_before = None
    for t, s in zip(times[:-1], times[1:]):
        x0_hat = denoise_y(diffusion, model, y, t, clip)
        if s == 0:
            yield SamplerStep(0, x0_hat, x0_hat)
            return
        h = np.log(sigma(t) / sigma(s))
        D = x0_hat if before is None else x0_hat + h / (2 * h_before) * (x0_hat - before)
        y = D + sigma(s) / sigma(t) * (y - D)
        before, h_before = x0_hat, h
        yield SamplerStep(float(s), y / np.sqrt(1 + sigma(s) ** 2), x0_hat)


def ode_steps(diffusion, model, shape, rng, steps=20, rtol=1e-3, clip=True) -> Iterator[SamplerStep]:
    """The ODE by SciPy's `solve_ivp`: Runge–Kutta of order 5, steps of its own choice   (Song et al. 2021, section 4.3).

    rtol: the error that it may make in a step, in parts of y, which decides how often the network is asked. steps: at how
    many moments to look; they are Karras', and cost nothing. x0_hat is what leads from one to the next in a straight line,
    y − σ Δy/Δσ. Raises ValueError unless steps ≥ 1 and rtol > 0; RuntimeError where SciPy finds no way.
    """
    times = karras_times("ode_steps", diffusion.schedule, steps, 7.0)
    if not rtol > 0:
        raise ValueError(f"ode_steps: rtol must be positive, got {rtol}")
    return run_ode(diffusion, model, check_shape("ode_steps", shape), rng, times, rtol, clip)


def run_ode(diffusion, model, shape, rng, times, rtol, clip):
    """The steps of `ode_steps`. SciPy solves all of it before the first is yielded."""
    from scipy.integrate import solve_ivp

    schedule = diffusion.schedule
    sigma = schedule.sigma(times[:-1])
    y = rng.standard_normal(shape) * np.sqrt(1 + sigma[0] ** 2)

    def slope(log_sigma, flat):  # dy/d log σ = σ eps = y − x0_hat
        y = flat.reshape(shape)
        return (y - denoise_y(diffusion, model, y, schedule.time(np.exp(log_sigma)), clip)).ravel()

    if len(sigma) > 1:
        u = np.log(sigma)
        found = solve_ivp(slope, (u[0], u[-1]), y.ravel(), t_eval=u, rtol=rtol, atol=rtol)
        if not found.success:
            raise RuntimeError(f"ode_steps: {found.message}")
        path = found.y.T.reshape(-1, *shape)
        for k in range(1, len(sigma)):
            x0_hat = path[k - 1] - sigma[k - 1] * (path[k] - path[k - 1]) / (sigma[k] - sigma[k - 1])
            yield SamplerStep(float(times[k]), path[k] / np.sqrt(1 + sigma[k] ** 2), x0_hat)
        y = path[-1]
    x0_hat = denoise_y(diffusion, model, y, times[-2], clip)
    yield SamplerStep(0, x0_hat, x0_hat)


def denoise_y(diffusion, model, y, t, clip):
    """x0_hat at y = x_t/√ᾱ_t, at one real t: the network is given x_t."""
    return diffusion.denoise(model, y / np.sqrt(1 + diffusion.schedule.sigma(t) ** 2), float(t), clip)


def karras_times(name: str, schedule, steps: int, rho: float) -> np.ndarray:
    """The t of σ_i = (σ_max^(1/ρ) + i/(steps−1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ, and 0: steps + 1 real numbers going down.

    Karras et al. 2022, Eq. 5. A large rho puts more steps where there is little noise; at ∞ they are equal in log σ.
    Raises the ValueError of the sampler `name` unless steps ≥ 1 and rho > 0."""
    if not (isinstance(steps, (int, np.integer)) and steps >= 1 and rho > 0):
        raise ValueError(f"{name}: steps must be 1 or more and rho positive, got {steps} and {rho}")
    largest, smallest = min(SIGMA_MAX, schedule.sigma_max()), schedule.sigma(1)
    if rho == np.inf:
        sigma = np.geomspace(largest, smallest, steps)
    else:
        sigma = np.linspace(largest ** (1 / rho), smallest ** (1 / rho), steps) ** rho
    return np.append(schedule.time(sigma), 0.0)


class Sampler(NamedTuple):
    """A row of the table: run(diffusion, model, shape, rng, steps=, clip=) -> its SamplerSteps; and what it is good for."""

    run: Callable[..., Iterator[SamplerStep]]
    what: str


SAMPLERS = {
    "ddpm": Sampler(ddpm_steps, "ancestral: fresh noise at each step; the best on digits, from 10 steps on"),
    "ddim": Sampler(ddim_steps, "10 to 50 steps; deterministic for --eta 0, which is Euler's method; ancestral for --eta 1"),
    "pc": Sampler(pc_steps, "predictor and corrector: after each ancestral step one of Langevin; 2 evaluations a step"),
    "heun": Sampler(heun_steps, "second order, deterministic; 2 evaluations a step; for 20 steps and more"),
    "heun-churn": Sampler(partial(heun_steps, churn=20.0), "heun with fresh noise before each step"),
    "dpm": Sampler(dpm_steps, "DPM-Solver++(2M): second order, 1 evaluation a step; nearest to the exact solution of all"),
    "ode": Sampler(ode_steps, "SciPy's Runge-Kutta with steps of its own choice; --steps only says how many to look at"),
}
