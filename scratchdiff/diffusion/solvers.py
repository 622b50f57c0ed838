"""The equation behind the chain, and the samplers that solve it.

Let y = x_t/√ᾱ_t = x_0 + σ ε, with σ_t = √((1−ᾱ_t)/ᾱ_t): data with noise of size σ on it. Then the points of p_T are carried
to points of p_0, without any further noise, by the probability-flow ODE   (Song et al. 2021, score SDE, Eq. 13):

    dy/dσ = eps(y, σ) = −σ ∇ log p(y; σ)                                             (Karras et al. 2022, Eq. 1)

Its curves are nearly straight at both ends, where eps hardly changes, so few steps suffice. Where eps is constant over a
step, y_s = y_t + (σ_s − σ_t) eps_hat: Euler's method, and exactly DDIM with eta = 0. The samplers here do better at the same
number of steps, by asking twice (Heun) or remembering the last answer (DPM-Solver++), or leave the choice of steps to SciPy.

The steps do not fall on whole timesteps: the network is evaluated at a real t, which `Schedule.time` finds from σ. Its
sines and cosines of t are as smooth in between. All solvers stop at σ_1, the least noise that the network was trained on,
and end there with x0_hat. They start at σ = 80 where a schedule goes on to 160 or 20000: beyond 80, x is noise to within
E[x_0²]/80², so steps there would change nothing.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from scratchdiff.checks import require
from scratchdiff.diffusion.samplers import SamplerStep, check_shape, ddim_steps, ddpm_steps, pc_steps

SIGMA_MAX = 80.0  # Karras et al. 2022, Table 1


def heun_steps(diffusion, model, shape, rng, steps=20, churn=0.0, rho=7.0) -> Iterator[SamplerStep]:
    """Heun's method on Karras' steps   (Karras et al. 2022, Algorithm 1; with churn > 0, Algorithm 2). From σ to σ' < σ:

        y' = y + (σ'−σ) d,   d = eps(y, σ);      then   y' = y + (σ'−σ) (d + d')/2,   d' = eps(y', σ')

    the slope at both ends, so an error of second order; at the last step, to σ' = 0, only the first line. churn: fresh noise
    is put on before each step, σ² ← σ² (1 + γ)², γ = min(churn/steps, √2 − 1), so that later steps can mend earlier ones;
    0 is deterministic after x_T. It asks the network 2·steps − 1 times.
    Raises ValueError unless steps ≥ 1, churn ≥ 0 and rho > 0.
    """
    times = karras_times("heun_steps", diffusion.schedule, steps, rho)
    require(churn >= 0, "heun_steps: churn must not be negative", churn=churn)
    gamma = min(churn / steps, np.sqrt(2) - 1)
    return run_heun(diffusion, model, check_shape("heun_steps", shape), rng, times, gamma)


def run_heun(diffusion, model, shape, rng, times, gamma):
    """The steps of `heun_steps`, one each time it is asked."""
    schedule = diffusion.schedule
    y = rng.standard_normal(shape) * np.sqrt(1 + schedule.sigma(times[0]) ** 2)
    for t, s in zip(times[:-1], times[1:]):
        if gamma > 0:
            t, less = schedule.time((1 + gamma) * schedule.sigma(t)), schedule.sigma(t)
            y = y + np.sqrt(schedule.sigma(t) ** 2 - less**2) * rng.standard_normal(shape)
        sigma = schedule.sigma(t)
        x0_hat = denoise_y(diffusion, model, y, t)
        if s == 0:
            yield SamplerStep(0, x0_hat, x0_hat)
            return
        sigma_s, d = schedule.sigma(s), (y - x0_hat) / sigma
        ahead = y + (sigma_s - sigma) * d
        d_ahead = (ahead - denoise_y(diffusion, model, ahead, s)) / sigma_s
        y = y + (sigma_s - sigma) * (d + d_ahead) / 2
        yield SamplerStep(float(s), y / np.sqrt(1 + sigma_s**2), x0_hat)


def dpm_steps(diffusion, model, shape, rng, steps=20) -> Iterator[SamplerStep]:
    """DPM-Solver++(2M)   (Lu et al. 2022, Algorithm 2). From σ to σ' < σ, with λ = −log σ, half the log-SNR, and h = λ' − λ:

        y' = D + (σ'/σ) (y − D),    D = x0_hat + (h/2h₋) (x0_hat − x0_hat₋)

    Were x0_hat constant over the step, the first formula would be exact; D carries its change since the last step (marked ₋,
    none at the first) on to the middle of this one, so the error is of second order at one question a step. The steps are
    equal in λ; the last, to σ' = 0, takes x0_hat itself. Raises ValueError unless steps ≥ 1.
    """
    times = karras_times("dpm_steps", diffusion.schedule, steps, np.inf)
    return run_dpm(diffusion, model, check_shape("dpm_steps", shape), rng, times)


def run_dpm(diffusion, model, shape, rng, times):
    """The steps of `dpm_steps`, one each time it is asked."""
    sigma = diffusion.schedule.sigma
    y = rng.standard_normal(shape) * np.sqrt(1 + sigma(times[0]) ** 2)
    before = h_before = None
    for t, s in zip(times[:-1], times[1:]):
        x0_hat = denoise_y(diffusion, model, y, t)
        if s == 0:
            yield SamplerStep(0, x0_hat, x0_hat)
            return
        h = np.log(sigma(t) / sigma(s))
        D = x0_hat if before is None else x0_hat + h / (2 * h_before) * (x0_hat - before)
        y = D + sigma(s) / sigma(t) * (y - D)
        before, h_before = x0_hat, h
        yield SamplerStep(float(s), y / np.sqrt(1 + sigma(s) ** 2), x0_hat)


def ode_steps(diffusion, model, shape, rng, rtol=1e-3) -> Iterator[SamplerStep]:
    """The ODE by SciPy's RK45: a Runge–Kutta method of order 5 that chooses its own steps   (Song et al. 2021, section 4.3).

    rtol: the relative error allowed per step, which decides how many steps there are; each accepted step is yielded. The
    solver works in u = log σ, where dy/du = σ eps = y − x0_hat, so x0_hat = y − dy/du at the end of each step.
    Raises ValueError unless rtol > 0; RuntimeError where the solver fails.
    """
    require(rtol > 0, "ode_steps: rtol must be positive", rtol=rtol)
    return run_ode(diffusion, model, check_shape("ode_steps", shape), rng, rtol)


def run_ode(diffusion, model, shape, rng, rtol):
    """The steps of `ode_steps`, one each time it is asked."""
    from scipy.integrate import RK45

    schedule = diffusion.schedule
    first, final = min(SIGMA_MAX, schedule.sigma_max()), schedule.sigma(1)
    y = rng.standard_normal(shape) * np.sqrt(1 + first**2)

    def slope(u, flat):
        y = flat.reshape(shape)
        return (y - denoise_y(diffusion, model, y, schedule.time(np.exp(u)))).ravel()

    solver = RK45(slope, np.log(first), y.ravel(), np.log(final), rtol=rtol, atol=rtol)
    x0_hat = (solver.y - solver.f).reshape(shape)
    while solver.status == "running":
        message = solver.step()
        if solver.status == "failed":
            raise RuntimeError(f"ode_steps: the solver failed: {message}")
        sigma, y, x0_hat = np.exp(solver.t), solver.y.reshape(shape), (solver.y - solver.f).reshape(shape)
        yield SamplerStep(float(schedule.time(sigma)), y / np.sqrt(1 + sigma**2), x0_hat)
    yield SamplerStep(0, x0_hat, x0_hat)


def denoise_y(diffusion, model, y, t):
    """x0_hat at y = x_t/√ᾱ_t, at one real t: the network is given x_t."""
    return diffusion.denoise(model, y / np.sqrt(1 + diffusion.schedule.sigma(t) ** 2), float(t))[0]


def karras_times(name: str, schedule, steps: int, rho: float) -> np.ndarray:
    """The t of σ_i = (σ_max^(1/ρ) + i/(steps−1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ, and 0: steps + 1 real numbers going down.

    Karras et al. 2022, Eq. 5. A large rho puts more steps where there is little noise; at ∞ they are equal in log σ.
    Raises the ValueError of the sampler `name` unless steps ≥ 1 and rho > 0."""
    usable = isinstance(steps, (int, np.integer)) and steps >= 1 and rho > 0
    require(usable, f"{name}: steps must be 1 or more and rho positive", steps=steps, rho=rho)
    largest, smallest = min(SIGMA_MAX, schedule.sigma_max()), schedule.sigma(1)
    if rho == np.inf:
        sigma = np.geomspace(largest, smallest, steps)
    else:
        sigma = np.linspace(largest ** (1 / rho), smallest ** (1 / rho), steps) ** rho
    return np.append(schedule.time(sigma), 0.0)


class Sampler(NamedTuple):
    """A row of the table: run(diffusion, model, shape, rng) gives SamplerSteps; what it is for; does it take steps=?"""

    run: Callable[..., Iterator[SamplerStep]]
    what: str
    takes_steps: bool = True


SAMPLERS = {
    "ddpm": Sampler(ddpm_steps, "ancestral: fresh noise at each step; the best on digits, from 10 steps on"),
    "ddim": Sampler(ddim_steps, "10 to 50 steps; deterministic for --eta 0, which is Euler's method; ancestral for --eta 1"),
    "pc": Sampler(pc_steps, "predictor and corrector: after each ancestral step one of Langevin; 2 evaluations a step"),
    "heun": Sampler(heun_steps, "second order, deterministic; 2 evaluations a step; for 20 steps and more"),
    "heun-churn": Sampler(partial(heun_steps, churn=20.0), "heun with fresh noise before each step"),
    "dpm": Sampler(dpm_steps, "DPM-Solver++(2M): second order, 1 evaluation a step; nearest to the exact solution of all"),
    "ode": Sampler(ode_steps, "SciPy's Runge-Kutta, which chooses its own steps", takes_steps=False),
}
