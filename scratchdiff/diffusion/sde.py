"""Diffusion in continuous time: the noise as a stochastic differential equation   (Song et al. 2021, score SDE).

    dx = f(x, t) dt + g(t) dw,    t from 0 (data) to 1 (noise)

f is linear in x, so that x_t given x_0 is Gaussian: N(m(t) x_0, std(t)² I). Three choices (their Appendix B):

    VP      f = −½ β(t) x    g = √β(t)                                 m = e^{−B/2},  std² = 1 − e^{−B}       B = ∫₀ᵗ β
    sub-VP  f = −½ β(t) x    g = √(β(t) (1 − e^{−2B}))                 m = e^{−B/2},  std  = 1 − e^{−B}
    VE      f = 0            g = σ(t) √(2 ln(σ_max/σ_min))             m = 1,         std  = σ(t) = σ_min (σ_max/σ_min)ᵗ

with β(t) = β_0 + t (β_1 − β_0). Run backwards in time the process is an SDE again (Anderson 1982), and there is an ODE with
the same marginals p_t; both need only the score:

    dx = (f − g² ∇ log p_t) dt + g dw̄           dx/dt = f − ½ g² ∇ log p_t

The chain of `gaussian.py` is the VP SDE at steps of 1/T: 1 − β_t of the chain is e^{−∫β} over one step, to first order.
"""

from collections.abc import Callable, Iterator

import numpy as np

from scratchdiff.autograd import Tensor
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.diffusion.bound import check_data
from scratchdiff.diffusion.likelihood import probe_vectors, probed_trace, value_and_vjp
from scratchdiff.diffusion.samplers import SamplerStep, check_shape, langevin, length
from scratchdiff.diffusion.score import finite_score


class SDE:
    """What the three share. x: (N, ...), t: (N,) in (0, 1], or one number for all. Raises ValueError for other t."""

    mean_std: Callable  # what each of the three has of its own
    drift_factor: Callable
    prior_std: float

    def marginal(self, x0, t):
        """(mean, std) of x_t given x_0: arrays that broadcast with x0."""
        x0 = np.asarray(x0)
        m, std = self.mean_std(check_times(x0, t))
        return shaped(m, x0) * x0, shaped(std, x0)

    def drift(self, x, t):
        """f(x, t), shaped like x."""
        x = np.asarray(x)
        return shaped(self.drift_factor(check_times(x, t)), x) * x

    def prior_sample(self, shape, rng: np.random.Generator) -> np.ndarray:
        """A draw of the distribution from which sampling starts, N(0, prior_std² I)."""
        return self.prior_std * rng.standard_normal(check_shape("prior_sample", shape))

    def prior_log_prob(self, x) -> np.ndarray:
        """Its log-density in nats, (N,)."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        per_number = np.log(self.prior_std * np.sqrt(2 * np.pi))
        return -0.5 * np.square(flat / self.prior_std).sum(1) - flat.shape[1] * per_number


class VPSDE(SDE):
    """Variance preserving: the limit of Ho et al.'s chain. Raises ValueError unless 0 < beta_min < beta_max."""

    prior_std = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        ordered = 0 < beta_min < beta_max < np.inf
        require(ordered, f"{type(self).__name__}: needs 0 < beta_min < beta_max", beta_min=beta_min, beta_max=beta_max)
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t):
        """β(t) = β_0 + t (β_1 − β_0)."""
        return self.beta_min + np.asarray(t) * (self.beta_max - self.beta_min)

    def integral(self, t):
        """B(t) = ∫₀ᵗ β = t β_0 + ½ t² (β_1 − β_0)."""
        t = np.asarray(t)
        return t * self.beta_min + 0.5 * t**2 * (self.beta_max - self.beta_min)

    def mean_std(self, t):
        """(m(t), std(t))."""
        B = self.integral(t)
        return np.exp(-B / 2), np.sqrt(-np.expm1(-B))

    def drift_factor(self, t):
        """f(x, t)/x."""
        return -0.5 * self.beta(t)

    def diffusion(self, t):
        """g(t), shaped like t."""
        return np.sqrt(self.beta(check_time(t)))


class SubVPSDE(VPSDE):
    """The same mean as VPSDE with a variance below it, std = 1 − e^{−B}   (Song et al. 2021, Eq. 29)."""

    def mean_std(self, t):
        """(m(t), std(t))."""
        B = self.integral(t)
        return np.exp(-B / 2), -np.expm1(-B)

    def diffusion(self, t):
        """g(t), shaped like t."""
        t = check_time(t)
        return np.sqrt(self.beta(t) * -np.expm1(-2 * self.integral(t)))


class VESDE(SDE):
    """Variance exploding: the limit of Song & Ermon's ladder of noise. ValueError unless 0 < sigma_min < sigma_max.

    The ladder starts at σ_min, not at 0: at t → 0 the marginal is data with noise of size σ_min on it."""

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        ordered = 0 < sigma_min < sigma_max < np.inf
        require(ordered, "VESDE: needs 0 < sigma_min < sigma_max", sigma_min=sigma_min, sigma_max=sigma_max)
        self.sigma_min, self.sigma_max, self.prior_std = sigma_min, sigma_max, sigma_max

    def mean_std(self, t):
        """(m(t), std(t))."""
        t = np.asarray(t)
        return np.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def drift_factor(self, t):
        """f(x, t)/x."""
        return np.zeros_like(np.asarray(t))

    def diffusion(self, t):
        """g(t), shaped like t."""
        return self.mean_std(check_time(t))[1] * np.sqrt(2 * np.log(self.sigma_max / self.sigma_min))


def sde_loss(sde, model, x0, rng: np.random.Generator, likelihood: bool = False, start: float = 1e-5) -> Tensor:
    """½ E λ(t) ‖s(x_t, t) + z/std(t)‖² per example, x_t = m(t) x_0 + std(t) z, t in (start, 1): a scalar Tensor.

    λ = std(t)² with t uniform, so that all t count alike   (Song et al. 2021, Eq. 7). likelihood: λ = g(t)², with which the
    loss, integrated over t, bounds KL(data ‖ samples of the reverse SDE) from above, up to what does not depend on s
    (Song, Durkan et al. 2021, Theorem 1). We then draw t with density ∝ g²/std² and multiply by the integral of that, which
    has the same mean and far less variance (their importance sampling).
    model(x, t): x (N, ...) and t (N,) give the score, a Tensor shaped like x. Draws t, then z.
    Raises ValueError unless x0 is of finite floats, start in (0, 1), and the model's output has the shape of x."""
    x0 = check_data("sde_loss", x0)
    require(0 < start < 1, "sde_loss: start must be in (0, 1)", start=start)
    t, total = likelihood_times(sde, len(x0), rng, start) if likelihood else (rng.uniform(start, 1, len(x0)), 1 - start)
    z = rng.standard_normal(x0.shape).astype(x0.dtype)
    mean, std = sde.marginal(x0, t)
    score = model(mean + std * z, t)
    require(score.shape == x0.shape, "sde_loss: the score must have the shape of x", score=score, x=x0)
    error = std * (score if isinstance(score, Tensor) else Tensor(score)) + z
    return (error * error).sum() * (0.5 * total / len(x0))


def likelihood_times(sde, n: int, rng, start: float) -> tuple:
    """(t, total): n draws of t in (start, 1) with density g²/std²/total, total = ∫ g²/std² dt.

    The integral is taken in log t, where g²/std² · t changes slowly; its inverse is interpolated."""
    log_t = np.linspace(np.log(start), 0, 2000)
    t = np.exp(log_t)
    rate = sde.diffusion(t) ** 2 / sde.mean_std(t)[1] ** 2 * t
    integral = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(log_t))])
    return np.exp(np.interp(rng.uniform(0, integral[-1], n), integral, log_t)), integral[-1]


def sde_steps(sde, score, shape, rng, steps=1000, corrector=None, end=1e-3) -> Iterator[SamplerStep]:
    """The reverse SDE by Euler–Maruyama from t = 1 to t = end   (Song et al. 2021, Algorithms 2 to 5), h = (1 − end)/steps:

        x ← x − (f − g² s(x, t)) h + g √h z,    z ~ N(0, I)                                     the predictor
        x ← x + ε s(x, t) + √(2ε) z,   ε = 2 α (snr ‖z‖/‖s‖)²                                   the corrector

    score(x, t): on arrays, x (N, ...) and t (N,). corrector: its snr, such as 0.16, or None for none; α is 1 − β(t) h for
    VP and sub-VP, and 1 for VE. end: the last t, for the score of VP grows without bound towards 0. The final step takes
    the mean of x_0 given x (Tweedie's formula), x_0 = (x + std² s)/m, which removes the noise that is left.
    Yields SamplerSteps with real t. Raises ValueError for steps < 1, snr ≤ 0, or end outside (0, 1).
    """
    require_positive_integers("sde_steps", steps=steps)
    require(corrector is None or corrector > 0, "sde_steps: the corrector's snr must be positive", corrector=corrector)
    require(0 < end < 1, "sde_steps: end must be in (0, 1)", end=end)
    return run_sde(sde, score, check_shape("sde_steps", shape), rng, steps, corrector, end)


def run_sde(sde, score, shape, rng, steps, snr, end):
    """The steps of `sde_steps`, one each time it is asked."""
    times, N = np.linspace(1, end, steps + 1), shape[0]
    x = sde.prior_sample(shape, rng)

    def score_at(x, t):
        return finite_score(score, x, np.full(N, t))

    def tweedie(x, t, s):
        m, std = sde.mean_std(t)
        return (x + std**2 * s) / m

    for t, after in zip(times[:-1], times[1:]):
        h, g, s = t - after, sde.diffusion(t), score_at(x, t)
        x0_hat = tweedie(x, t, s)
        x = x - (sde.drift(x, t) - g**2 * s) * h + g * np.sqrt(h) * rng.standard_normal(shape)
        if snr is not None:
            s, z = score_at(x, after), rng.standard_normal(shape)
            alpha = 1.0 if isinstance(sde, VESDE) else 1 - sde.beta(after) * h
            if length(s) > 0:
                x = langevin(x, s, 2 * max(alpha, 0.0) * (snr * length(z) / length(s)) ** 2, z)
        yield SamplerStep(float(after), x, x0_hat)
    x0_hat = tweedie(x, end, score_at(x, end))
    yield SamplerStep(0, x0_hat, x0_hat)


def sde_ode_sample(sde, score, shape, rng, end=1e-5, rtol=1e-5) -> np.ndarray:
    """Samples by the probability-flow ODE dx/dt = f − ½ g² s(x, t), solved by SciPy's RK45 from t = 1 to end.

    Raises ValueError for shapes as `sde_steps`; RuntimeError where the solver fails."""
    from scipy.integrate import solve_ivp

    shape = check_shape("sde_ode_sample", shape)
    x = sde.prior_sample(shape, rng)

    def slope(t, flat):
        return flow(sde, score, flat.reshape(shape), t).ravel()

    found = solve_ivp(slope, (1, end), x.ravel(), rtol=rtol, atol=rtol)
    if not found.success:
        raise RuntimeError(f"sde_ode_sample: the solver failed: {found.message}")
    return found.y[:, -1].reshape(shape)


def flow(sde, score, x, t):
    """f − ½ g² s at one t for all of x."""
    return sde.drift(x, t) - 0.5 * sde.diffusion(t) ** 2 * finite_score(score, x, np.full(len(x), t))


def sde_log_prob(sde, score, x, rng=None, probes=None, start=1e-5, rtol=1e-5) -> np.ndarray:
    """log p(x) in nats under the probability-flow ODE, (N,): d log p/dt = −∇·(f − ½ g² s)   (Song et al. 2021, Eq. 39).

    score(x, t): on Tensors, differentiable by the tape in x. probes: how many random sign vectors estimate the divergence
    (Hutchinson), drawn from rng once for the whole path; None for the exact divergence, which evaluates the score at
    N · d points at once. start: x is treated as x at this t. The walks add to the gradient of each parameter: zero the
    gradients before you train on. Raises ValueError unless x is of finite floats, or for probes without an rng; RuntimeError
    where the solver fails.
    """
    from scipy.integrate import solve_ivp

    x = check_data("sde_log_prob", x).astype(np.float64)
    N, d = len(x), x[0].size
    v = probe_vectors("sde_log_prob", x, probes, rng)

    def slope(t, state):
        at, g2 = state[:-N].reshape(x.shape), sde.diffusion(t) ** 2

        def score_at_t(xs):
            s = score(xs, np.full(len(xs), t))
            require(s.shape == xs.shape, "sde_log_prob: the score must have the shape of x", score=s, x=xs)
            return s

        s, vjp = value_and_vjp(score_at_t, at, v)
        factor = float(sde.drift_factor(np.asarray(t)))
        change = factor * at - 0.5 * g2 * s
        return np.concatenate([change.ravel(), factor * d - 0.5 * g2 * probed_trace(vjp, v)])

    found = solve_ivp(slope, (start, 1), np.concatenate([x.ravel(), np.zeros(N)]), rtol=rtol, atol=rtol)
    if not found.success:
        raise RuntimeError(f"sde_log_prob: the solver failed: {found.message}")
    return sde.prior_log_prob(found.y[:-N, -1].reshape(x.shape)) + found.y[-N:, -1]


def check_time(t) -> np.ndarray:
    """t as float64, or ValueError unless all of it lies in (0, 1]."""
    t = np.asarray(t, np.float64)
    require(((0 < t) & (t <= 1)).all(), f"t must lie in (0, 1], got {t.min() if t.size else t}..{t.max() if t.size else t}")
    return t


def check_times(x, t) -> np.ndarray:
    """t for x (N, ...): one number or (N,), in (0, 1]. Raises ValueError otherwise."""
    t = check_time(t)
    require(t.shape in ((), x.shape[:1]), f"t must be a number or {x.shape[:1]} numbers", t=t)
    return t


def shaped(value, x) -> np.ndarray:
    """value, a number or (N,), shaped and typed to broadcast with x (N, ...)."""
    value = np.asarray(value)
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)).astype(x.dtype if x.dtype.kind == "f" else float)
