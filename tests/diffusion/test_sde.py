"""The SDEs against their own equations, and their samplers and densities against mixtures whose score is a formula."""

import numpy as np
import pytest
from scipy import integrate, stats

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.diffusion import sde as rooms

SDES = {"VP": sd.VPSDE(), "sub-VP": sd.SubVPSDE(), "VE": sd.VESDE(0.01, 20.0)}
MEANS, STD, WEIGHTS = np.array([-1.0, 0.8]), 0.3, np.array([0.4, 0.6])
every_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)


def exact_score(sde):
    """∇ log p_t of the mixture, x (N, 1) and t (N,)."""

    def score(x, t):
        m, std = sde.mean_std(t[:, None])
        var = m**2 * STD**2 + std**2
        log = np.log(WEIGHTS) - (x - m * MEANS) ** 2 / (2 * var)
        r = np.exp(log - log.max(1, keepdims=True))
        return (r / r.sum(1, keepdims=True) * (m * MEANS - x) / var).sum(1, keepdims=True)

    return score


def cdf(x, m=1.0, extra=0.0):
    return WEIGHTS @ stats.norm.cdf(np.asarray(x)[None], m * MEANS[:, None], np.sqrt(m**2 * STD**2 + extra))


@every_sde
def test_mean_and_variance_solve_the_equations_of_the_moments(sde):
    # dm/dt = (f/x) m  and  d std²/dt = 2 (f/x) std² + g²
    def slopes(t, moments):
        factor = sde.drift_factor(np.asarray(t))
        return [factor * moments[0], 2 * factor * moments[1] + sde.diffusion(t) ** 2]

    m, std = sde.mean_std(np.asarray(1e-3))
    found = integrate.solve_ivp(slopes, (1e-3, 0.9), [m, std**2], rtol=1e-10, atol=1e-12)
    m, std = sde.mean_std(np.asarray(0.9))
    np.testing.assert_allclose(found.y[:, -1], [m, std**2], rtol=1e-6)


@every_sde
def test_marginals_are_those_of_the_forward_equation_by_kolmogorov_smirnov(sde):
    rng, n, steps = np.random.default_rng(0), 4000, 400
    x = (rng.choice(MEANS, n, p=WEIGHTS) + STD * rng.standard_normal(n))[:, None]
    if isinstance(sde, sd.VESDE):
        x = x + sde.sigma_min * rng.standard_normal((n, 1))
    for t in (np.arange(steps) + 0.5) / steps:
        x = x + sde.drift(x, t) / steps + sde.diffusion(t) / np.sqrt(steps) * rng.standard_normal((n, 1))
    m, std = sde.mean_std(np.asarray(1.0))
    assert stats.kstest(x[:, 0], lambda x: cdf(x, m, std**2)).statistic < 1.63 / np.sqrt(n)


@every_sde
@pytest.mark.parametrize("corrector", [None, 0.16])
def test_the_reverse_sde_has_the_marginals_of_the_forward_one_by_kolmogorov_smirnov(sde, corrector):
    n = 3000
    run = list(sd.sde_steps(sde, exact_score(sde), (n, 1), np.random.default_rng(1), steps=600, corrector=corrector))
    assert len(run) == 601 and run[-1].t == 0
    for step in (run[300], run[500], run[-2]):
        m, std = sde.mean_std(np.asarray(step.t))
        assert stats.kstest(step.x[:, 0], lambda x, m=m, std=std: cdf(x, m, std**2)).statistic < 1.63 / np.sqrt(n)
    m, std = sde.mean_std(np.asarray(run[-2].t))
    before = run[-2].x
    np.testing.assert_allclose(run[-1].x, (before + std**2 * exact_score(sde)(before, np.full(n, run[-2].t))) / m)


@every_sde
def test_the_probability_flow_draws_the_data(sde):
    n = 3000
    x = rooms.sde_ode_sample(sde, exact_score(sde), (n, 1), np.random.default_rng(2))
    assert stats.kstest(x[:, 0], cdf).statistic < 1.63 / np.sqrt(n)


@every_sde
@pytest.mark.parametrize("probes", [None, 1])
def test_log_densities_of_one_gaussian_are_exact_to_a_thousandth_of_a_nat(sde, probes):
    def score(x, t):
        m, std = sde.mean_std(t[:, None])
        return (x - 0.5 * m) * (-1 / (m**2 * STD**2 + std**2))

    x, start = np.array([[0.5, 0.2], [0.9, 0.5], [-0.2, 1.0]]), 1e-5
    (m, std), (m_1, std_1) = (sde.mean_std(np.asarray(t)) for t in (start, 1.0))
    spread, spread_1 = (np.sqrt(a**2 * STD**2 + b**2) for a, b in ((m, std), (m_1, std_1)))
    # the ODE keeps (x − mean)/spread; at t = 1 the sampler's prior is nearly, not exactly, the density there
    x_1 = 0.5 * m_1 + (x - 0.5 * m) * spread_1 / spread
    of_prior = sde.prior_log_prob(x_1) - stats.norm.logpdf(x_1, 0.5 * m_1, spread_1).sum(1)
    want = stats.norm.logpdf(x, 0.5 * m, spread).sum(1) + of_prior
    got = sd.sde_log_prob(sde, score, x, np.random.default_rng(0), probes=probes, start=start)
    np.testing.assert_allclose(got, want, atol=1e-3)


@pytest.mark.parametrize("sde", [sd.VPSDE(), sd.SubVPSDE(), sd.VESDE(0.01, 200.0)], ids=SDES)
def test_log_densities_of_a_mixture_are_exact_to_a_thousandth_of_a_nat(sde):
    def score(x, t):  # exact_score in ops, so that the tape can differentiate it; x (N, 2), one mixture per coordinate
        m, std = (a[:, None, None] for a in sde.mean_std(t))
        var = m**2 * STD**2 + std**2
        away = m * MEANS - x.reshape(len(x), 2, 1)
        r = ops.softmax(away * away * (-0.5 / var) + np.log(WEIGHTS))
        return (r * away / var).sum(2)

    x = np.array([[-1.0, 0.9], [0.1, 0.0], [1.2, -1.6], [0.5, 0.5]])
    m, std = sde.mean_std(np.asarray(1e-5))
    density = stats.norm.pdf(x[..., None], m * MEANS, np.hypot(m * STD, std)) @ WEIGHTS
    # (with σ_max = 20, as above, the prior of VE would differ from its density at t = 1 by 0.004 nats)
    np.testing.assert_allclose(sd.sde_log_prob(sde, score, x, rtol=1e-7), np.log(density).sum(1), atol=1e-3)


def test_the_exact_divergence_is_that_of_a_network():
    rng, sde = np.random.default_rng(0), sd.VPSDE()
    w = rng.standard_normal((2, 2))
    score = lambda x, t: ops.tanh(x @ w) - x  # noqa: E731
    x = rng.standard_normal((4, 2))
    exact = sd.sde_log_prob(sde, score, x)
    many = sd.sde_log_prob(sde, score, x, rng, probes=400)
    np.testing.assert_allclose(many, exact, atol=0.2)


def test_the_chain_becomes_the_vp_sde_as_its_steps_shrink():
    sde, worst = sd.VPSDE(), []
    for T in (100, 1000, 10_000):
        t = np.arange(1, T + 1) / T
        chain = np.cumprod(1 - sde.beta(t) / T)
        m, _ = sde.mean_std(t)
        worst.append(np.abs(np.sqrt(chain) - m).max())
    assert worst[0] > 5 * worst[1] > 25 * worst[2] and worst[2] < 1e-3


class Path:
    """A Brownian path in place of a generator: the first draw is the prior's, then the increments of `steps` steps."""

    def __init__(self, n, steps, finest=512):
        rng = np.random.default_rng(4)
        first, dw = rng.standard_normal((n, 1)), rng.standard_normal((finest, n, 1))
        dw = dw.reshape(steps, finest // steps, n, 1)
        self.draws = iter([first, *(dw.sum(1) / np.sqrt(finest // steps))])

    def standard_normal(self, shape):
        return next(self.draws)


def test_euler_maruyama_has_strong_and_weak_order_one_on_the_reverse_sde():
    sde, n, counts = sd.VPSDE(0.1, 5.0), 2000, np.array([16, 32, 64])

    def ends(steps):
        *_, last, _ = sd.sde_steps(sde, exact_score(sde), (n, 1), Path(n, steps), steps=steps, end=0.1)
        return last.x[:, 0]

    exact = ends(512)  # the noise is additive, so that Euler–Maruyama is of strong order 1, not ½
    strong = [np.abs(ends(c) - exact).mean() for c in counts]
    weak = [abs(np.abs(ends(c)).mean() - np.abs(exact).mean()) for c in counts]  # the same noise for both
    assert np.polyfit(np.log(counts), np.log(strong), 1)[0] == pytest.approx(-1, abs=0.2)
    assert np.polyfit(np.log(counts), np.log(weak), 1)[0] == pytest.approx(-1, abs=0.25)


@every_sde
def test_the_exact_score_has_no_less_loss_than_any_other_and_both_draws_of_t_have_one_mean(sde):
    rng, n = np.random.default_rng(6), 200_000
    x0 = (rng.choice(MEANS, n, p=WEIGHTS) + STD * rng.standard_normal(n))[:, None]
    exact, more = exact_score(sde), lambda x, t: 1.05 * exact_score(sde)(x, t)
    for likelihood in (False, True):
        loss = lambda s: sd.sde_loss(sde, s, x0, np.random.default_rng(7), likelihood, start=0.05).item()  # noqa: E731, B023
        assert loss(exact) < loss(more)

    t = rng.uniform(0.05, 1, n)  # the same mean with t uniform and the weight g²
    mean, std = sde.marginal(x0, t)
    z = rng.standard_normal((n, 1))
    plain = 0.95 * 0.5 * np.mean(sde.diffusion(t)[:, None] ** 2 * (exact(mean + std * z, t) + z / std) ** 2)
    drawn = sd.sde_loss(sde, exact, x0, np.random.default_rng(8), likelihood=True, start=0.05).item()
    assert drawn == pytest.approx(plain, rel=0.03)


def test_the_times_of_the_likelihood_weighting_follow_g_squared_over_the_variance():
    sde, start = sd.VPSDE(), 1e-4
    t, total = rooms.likelihood_times(sde, 4000, np.random.default_rng(9), start)
    log = lambda t: np.log(np.expm1(sde.integral(t)))  # noqa: E731 ∫ β/(1 − e^−B) = log(e^B − 1)
    assert total == pytest.approx(log(1.0) - log(start), rel=1e-4)
    assert stats.kstest((log(t) - log(start)) / total, "uniform").statistic < 1.63 / np.sqrt(4000)


def test_a_score_that_is_not_finite_is_reported_with_its_level():
    with pytest.raises(FloatingPointError, match="the score at noise level 1 is not finite"):
        next(sd.sde_steps(sd.VPSDE(), lambda x, t: x * np.nan, (2, 1), np.random.default_rng(0)))


@pytest.mark.parametrize("call, message", [
    (lambda: sd.VESDE(2.0, 1.0), "needs 0 < sigma_min < sigma_max"),
    (lambda: sd.VPSDE(0.0, 1.0), "VPSDE: needs 0 < beta_min"),
    (lambda: sd.SubVPSDE(3.0, 1.0), "SubVPSDE: needs"),
    (lambda: sd.VPSDE().marginal(np.ones((2, 3)), 0.0), r"t must lie in \(0, 1\]"),
    (lambda: sd.VPSDE().diffusion(1.5), r"t must lie in \(0, 1\]"),
    (lambda: sd.VPSDE().drift(np.ones((2, 3)), np.ones(3)), "t must be a number or"),
    (lambda: next(sd.sde_steps(sd.VPSDE(), lambda x, t: x[:1], (2, 1), np.random.default_rng(0))), "shape of x"),
    (lambda: sd.sde_steps(sd.VPSDE(), None, (2, 1), None, steps=0), "steps must be a positive integer, got 0"),
    (lambda: sd.sde_steps(sd.VPSDE(), None, (2, 1), None, corrector=0), "snr must be positive, got 0"),
    (lambda: sd.sde_log_prob(sd.VPSDE(), None, np.ones((2, 3)), probes=2), "random probes need an rng"),
])  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
