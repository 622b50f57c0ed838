"""The bound's ops against integrals by quadrature, SciPy's normal distribution, and themselves in the far tails."""

import numpy as np
import pytest
from scipy import integrate, stats

import scratchdiff as sd
from scratchdiff import ops

GRID = np.arange(256) / 127.5 - 1


@pytest.mark.parametrize("mean_q, var_q, mean_p, var_p", [(0.3, 0.5, -0.2, 0.7), (0, 1, 0, 1), (1, 0.01, 1.1, 0.04)])
def test_the_kl_is_the_integral_that_defines_it(mean_q, var_q, mean_p, var_p):
    q, p = stats.norm(mean_q, np.sqrt(var_q)), stats.norm(mean_p, np.sqrt(var_p))
    want, _ = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), *q.interval(1 - 1e-15), epsabs=1e-12)
    got = ops.normal_kl(*(np.array([float(v)]) for v in (mean_q, np.log(var_q), mean_p, np.log(var_p))))
    assert got.data[0] == pytest.approx(want, abs=1e-10)


def test_the_kl_of_nearly_equal_variances_keeps_its_digits():
    # r − 1 − log r = h²/2 − h³/6 + ... for log r = h; written out naively it would be lost to rounding
    zero, h = np.zeros(1), 1e-7
    assert ops.normal_kl(zero, zero + h, zero, zero).data[0] == pytest.approx(h * h / 4, rel=1e-4, abs=0)


def test_normal_log_prob_is_scipys_density(rng):
    x, mean, logvar = rng.standard_normal((3, 4, 5))
    want = stats.norm(mean, np.exp(0.5 * logvar)).logpdf(x)
    np.testing.assert_allclose(ops.normal_log_prob(x, mean, logvar).data, want, rtol=1e-12)


@pytest.mark.parametrize("mean", [-1.3, -0.99, 0.001, 0.7, 4.0])
@pytest.mark.parametrize("sigma", [1e-3, 0.01, 0.3, 5.0])
def test_the_masses_of_the_256_pixel_values_add_up_to_one(mean, sigma):
    log_p = ops.discretized_normal_log_prob(GRID, np.full(256, mean), np.full(256, 2 * np.log(sigma))).data
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)


def test_a_pixels_mass_is_the_normal_distributions_over_its_bin():
    mean, sigma = 0.1, 0.05
    edges = np.concatenate([[-np.inf], (GRID[1:] + GRID[:-1]) / 2, [np.inf]])
    want = np.diff(stats.norm(mean, sigma).cdf(edges))
    got = np.exp(ops.discretized_normal_log_prob(GRID, np.full(256, mean), np.full(256, 2 * np.log(sigma))).data)
    np.testing.assert_allclose(got, want, atol=1e-15)


def test_far_out_the_mass_is_that_of_the_nearer_edge_of_the_bin():
    # log Φ(−z) → −z²/2 − log(z √2π): the integrand falls by e^−z a standard deviation, the far edge does not matter
    sigma = 1e-3
    for mean in (-1.0, 3.0):
        z = (abs(GRID[204] - mean) - 1 / 255) / sigma
        want = -z * z / 2 - np.log(z * np.sqrt(2 * np.pi))
        got = ops.discretized_normal_log_prob(GRID[204:205], np.array([mean]), np.array([2 * np.log(sigma)]))
        assert got.data[0] == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_gradient_are_finite_however_wrong_the_guess(dtype):
    x, mean, logvar = (a.ravel() for a in np.meshgrid([-1, GRID[1], 0.6, 1], [-30, -1, 0, 1, 30], [-16, -8, 0, 8]))
    mean, logvar = sd.Tensor(mean.astype(dtype)), sd.Tensor(logvar.astype(dtype))
    with sd.Tape() as tape:
        log_p = ops.discretized_normal_log_prob(x.astype(dtype), mean, logvar)
        total = log_p.sum()
    tape.backward(total)
    assert log_p.dtype == dtype and np.isfinite(log_p.data).all() and (log_p.data <= 0).all()
    assert np.isfinite(mean.grad).all() and np.isfinite(logvar.grad).all()


@pytest.mark.parametrize("scale", [0.02, 0.3, 3.0])
def test_the_discretized_gradients_match_finite_differences_near_and_far(scale, rng):
    x = rng.choice(GRID, (3, 7))
    x[0] = [-1, 1, -1, 1, -1, 1, GRID[1]]
    mean, logvar = x + scale * rng.standard_normal(x.shape), rng.uniform(-8, 0, x.shape)
    assert sd.gradcheck(lambda m, v: ops.discretized_normal_log_prob(x, m, v), mean, logvar) < 1e-6


@pytest.mark.parametrize("op, n", [(ops.normal_kl, 4), (ops.normal_log_prob, 3), (ops.discretized_normal_log_prob, 3)])
def test_unequal_shapes_are_refused_rather_than_broadcast(op, n):
    arrays = [np.zeros((2, 3))] * (n - 1) + [np.zeros(3)]
    with pytest.raises(ValueError, match=rf"{op.__name__}: all arguments must have one shape, got .*\(2, 3\), .*\(3,\)"):
        op(*arrays)
