"""Lesson 13: the bound against quadrature, both gradients against finite differences of an integral, the weighted bounds."""

import numpy as np
import pytest

Z = np.linspace(-9, 9, 4001)[:, None].astype(np.float64)  # a grid over the one latent


@pytest.fixture
def lesson_vae(lesson):
    return lesson("13_vae")


@pytest.fixture
def vae(lesson_vae, rng):
    """A small VAE with one latent, in float64, so that integrals over z can be sums over a grid."""
    return lesson_vae.VAE(1, hidden=5, pixels=7, rng=rng, dtype=np.float64)


@pytest.fixture
def x(rng):
    return rng.integers(2, size=(1, 7)).astype(np.float64)


def normal(z, mean, logvar):
    return np.exp(-np.square(z - mean) * np.exp(-logvar) / 2 - logvar / 2) / np.sqrt(2 * np.pi)


def log_likelihood(lesson_vae, vae, x):
    """log p(x | z) on the grid, (4001,)."""
    return lesson_vae.ops.bernoulli_log_prob(np.repeat(x, len(Z), axis=0), vae.decode(Z)).data.sum(1)


def integral(values):
    return np.trapezoid(values, Z[:, 0])


def test_the_bound_is_the_integral_that_defines_it_and_lies_above_minus_log_p(lesson_vae, vae, x, rng):
    mean, logvar = (a.data for a in vae.encode(x))
    q, log_p = normal(Z, mean, logvar)[:, 0], log_likelihood(lesson_vae, vae, x)
    want = integral(q * (np.log(q + 1e-300) - np.log(normal(Z, 0, 0)[:, 0]) - log_p))
    eps, weight = np.polynomial.hermite_e.hermegauss(40)
    nats = vae.nats(np.repeat(x, 40, axis=0), eps[:, None]).data
    assert nats @ weight / weight.sum() == pytest.approx(want, rel=1e-9)
    truth = -np.log(integral(np.exp(log_p) * normal(Z, 0, 0)[:, 0]))
    assert want > truth


def test_both_gradients_are_those_of_the_integral(lesson_vae, vae, x, rng):
    f, h = -log_likelihood(lesson_vae, vae, x), 1e-5

    def expectation(mean, logvar):
        return integral(normal(Z, mean, logvar)[:, 0] * f)

    mean, logvar = (a.item() for a in vae.encode(x))
    want = [(expectation(mean + h, logvar) - expectation(mean - h, logvar)) / (2 * h),
            (expectation(mean, logvar + h) - expectation(mean, logvar - h)) / (2 * h)]  # fmt: skip
    for name, estimates in lesson_vae.gradients(vae, x, 40_000, rng).items():
        error = estimates.std(0) / np.sqrt(len(estimates))
        assert (np.abs(estimates.mean(0) - want) < 4 * error).all(), name


def test_a_reparameterised_gradient_averaged_by_quadrature_is_that_of_the_integral(lesson_vae, vae, x):
    # z = μ + σ ε and the nodes of Gauss and Hermite for ε: no draw, so no error but rounding
    mean, logvar = (a.data for a in vae.encode(x))
    eps, weight = np.polynomial.hermite_e.hermegauss(60)

    class Nodes:
        @staticmethod
        def standard_normal(shape):
            return eps[:, None]

    paths = lesson_vae.gradients(vae, x, 60, Nodes)["reparameterised"]
    f, q = -log_likelihood(lesson_vae, vae, x), normal(Z, mean, logvar)[:, 0]
    want = integral(q * f * (Z[:, 0] - mean.item()) * np.exp(-logvar.item()))  # the score function, by quadrature
    assert weight @ paths[:, 0] / weight.sum() == pytest.approx(want, rel=1e-7)


def test_the_gradient_of_the_bound_matches_finite_differences(lesson_vae, rng):
    assert lesson_vae.gradcheck_bound(rng) < 1e-7


def test_the_weighted_bound_falls_with_K_towards_minus_log_p(lesson_vae, vae, x, rng, monkeypatch):
    monkeypatch.setattr(vae, "draw_eps", lambda n, rng: rng.standard_normal((n, 1)))
    truth = -np.log(integral(np.exp(log_likelihood(lesson_vae, vae, x)) * normal(Z, 0, 0)[:, 0]))
    bounds = lesson_vae.importance_bounds(vae, np.repeat(x, 200, axis=0), 100, rng)
    error = bounds.std(0) / np.sqrt(200)
    assert bounds[:, 0].mean() > bounds[:, 9].mean() > truth - 4 * error[9]
    assert bounds[:, -1].mean() == pytest.approx(truth, abs=4 * error[-1] + 1e-3)


def test_no_test_digit_is_among_those_trained_on(lesson_vae):
    train, test, labels = lesson_vae.digits()
    assert len(train) == 9000 and len(test) == len(labels) == 1000
    assert not {x.tobytes() for x in train} & {x.tobytes() for x in test}


def test_a_shift_by_a_pixel_keeps_the_ink(lesson_vae, rng):
    grey = np.zeros((3, 28, 28), np.float32)
    grey[:, 9:19, 8:20] = rng.random((3, 10, 12))
    moved = lesson_vae.shifted(grey.reshape(3, -1), rng)
    np.testing.assert_allclose(moved.sum(1), grey.sum((1, 2)), rtol=1e-5)
