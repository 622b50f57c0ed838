"""Lesson 11: the roll's density, the best Gaussian step, and the gradients of the radial basis functions."""

import numpy as np
import pytest
from scipy import integrate

import scratchdiff as sd
from scratchdiff.data.toy2d import swiss_roll


@pytest.fixture
def roll(lesson):
    return lesson("11_swiss_roll")


def test_the_density_of_the_roll_is_the_integral_over_theta(roll):
    _, mean, var = swiss_roll(1, np.random.default_rng(0))
    x = np.array([[0.4, -0.9], [1.2, 0.3]])

    def density(theta, point):
        centre = (theta * np.array([np.cos(theta), np.sin(theta)]) - mean) / np.sqrt(var)
        squares = np.square(point - centre).sum() / roll.NOISE**2
        return np.exp(-squares / 2) / (2 * np.pi * roll.NOISE**2) / (3 * np.pi)

    want = [integrate.quad(density, 1.5 * np.pi, 4.5 * np.pi, args=(point,), limit=500)[0] for point in x]
    np.testing.assert_allclose(roll.roll(roll.process()).log_prob(x, 0), np.log(want), rtol=1e-6)


def test_the_best_gaussian_step_has_the_moments_of_weighted_draws(roll):
    diffusion = roll.process()
    oracle, t, rng = roll.roll(diffusion), 25, np.random.default_rng(0)
    xt = np.array([[0.3, -0.5]])
    out = roll.best_gaussian(diffusion, oracle)(xt, np.array([t]))
    prediction, logvar = diffusion.split_output(out, xt, t)
    mean, _ = diffusion.q_posterior(diffusion.predict_x0(xt, t, prediction), xt, t)
    x0 = oracle.sample(200_000, rng)  # each weighted by how well it explains xt
    a, s = diffusion.sqrt_alpha_bar[t], diffusion.sqrt_noise[t]
    weight = np.exp(-np.square(xt - a * x0).sum(1) / (2 * s**2))
    weight /= weight.sum()
    step_mean, step_logvar = diffusion.q_posterior(x0, np.tile(xt, (len(x0), 1)), t)
    want = weight @ step_mean
    np.testing.assert_allclose(mean[0], want, atol=2e-3)
    np.testing.assert_allclose(
        np.exp(logvar[0]), weight @ np.square(step_mean - want) + np.exp(step_logvar).item(), rtol=2e-3
    )


def test_the_gradients_of_the_radial_basis_functions_match_finite_differences(roll, rng):
    model = roll.RadialBasis(3, rng=rng, dtype=np.float64)
    model.readout.data = rng.standard_normal(model.readout.shape)
    xt, t = rng.standard_normal((4, 2)), np.array([1, 7, 7, 40])
    assert sd.gradcheck(lambda *_: model(xt, t), *model.parameters().values()) < 1e-7


@pytest.mark.parametrize("seed", range(3))
def test_no_bound_lies_below_the_entropy_of_the_roll(roll, seed):
    diffusion, rng = roll.process(), np.random.default_rng(seed)
    oracle = roll.roll(diffusion)
    x0 = oracle.sample(40, rng)
    for model in (roll.best_gaussian(diffusion, oracle), roll.RadialBasis(4, rng=rng)):
        above = diffusion.bound(model, x0, rng).terms.sum(1) + oracle.log_prob(x0, 0)  # the bound, less −log p
        assert above.mean() > -4 * above.std() / np.sqrt(len(x0))
