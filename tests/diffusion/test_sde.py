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
def test_the_reverse_sde_draws_the_data(sde, corrector):
    n = 3000
    run = sd.sde_steps(sde, exact_score(sde), (n, 1), np.random.default_rng(1), steps=600, corrector=corrector)
    *_, last = run
    # Tweedie's last step takes the noise away, and with it a little of the spread: compare with what it leaves
    assert last.t == 0
    assert stats.kstest(last.x[:, 0], cdf).statistic < 1.63 / np.sqrt(n) + 0.02


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


def test_weak_and_strong_order_of_euler_maruyama():
    # dx = −½β x dt + √β dw with constant β has an exact solution on the same Brownian path in the limit of small steps
    rng, sde, n, finest = np.random.default_rng(4), sd.VPSDE(1.0, 1.0 + 1e-9), 4000, 512
    dw = rng.standard_normal((finest, n)) / np.sqrt(finest)

    def end(steps):
        x, group = np.full((n, 1), 2.0), finest // steps
        for k in range(steps):
            t = max(k / steps, 1e-9)
            x = x + sde.drift(x, t) / steps + sde.diffusion(t) * dw[k * group : (k + 1) * group].sum(0)[:, None]
        return x[:, 0]

    exact, counts = end(finest), np.array([4, 8, 16, 32])
    strong = [np.abs(end(c) - exact).mean() for c in counts]
    assert np.polyfit(np.log(counts), np.log(strong), 1)[0] == pytest.approx(-1, abs=0.2)  # additive noise: order 1
    weak = [abs(2 * (1 - 0.5 / c) ** c - 2 * np.exp(-0.5)) for c in counts]
    measured = [abs(end(c).mean() - (end(c) - 2 * (1 - 0.5 / c) ** c).mean() - 2 * np.exp(-0.5)) for c in counts]
    np.testing.assert_allclose(measured, weak, rtol=1e-9)
    assert np.polyfit(np.log(counts), np.log(weak), 1)[0] == pytest.approx(-1, abs=0.1)


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
