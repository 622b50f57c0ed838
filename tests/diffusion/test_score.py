"""Denoising score matching and annealed Langevin dynamics against mixtures whose score is a formula."""

import numpy as np
import pytest
from scipy import stats

import scratchdiff as sd
from scratchdiff.diffusion import score as rooms

MEANS, STD, WEIGHTS = np.array([-4.0, 4.0]), 0.5, np.array([0.2, 0.8])


def mixture_score(x, sigma):
    """∇ log Σ_k w_k N(x; m_k, s² + σ²), x (N, 1)."""
    var = STD**2 + sigma**2
    log = np.log(WEIGHTS) - (x - MEANS) ** 2 / (2 * var)
    r = np.exp(log - log.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    return (r * (MEANS - x) / var).sum(1, keepdims=True)


def end(*args, **settings):
    *_, last = sd.annealed_langevin_steps(*args, **settings)
    return last.x


def test_the_ladder_is_geometric():
    sigmas = sd.geometric_sigmas(10, 0.1, 5)
    np.testing.assert_allclose(sigmas[1:] / sigmas[:-1], 0.01**0.25)
    assert (sigmas[0], sigmas[-1]) == (10, pytest.approx(0.1))


def test_for_one_gaussian_the_least_loss_is_the_closed_form_and_no_scaled_score_does_better(rng):
    # σ s + z with s = −x̃/(v + σ²): its second moment is v/(v + σ²) per dimension
    v, sigmas, x0 = 0.7, sd.geometric_sigmas(3, 0.3, 4), np.sqrt(0.7) * rng.standard_normal((200_000, 2))

    def loss(factor):
        model = lambda x, sigma: -factor * x / (v + sigma[:, None] ** 2)  # noqa: E731
        return sd.dsm_loss(model, x0, sigmas, np.random.default_rng(1)).item()

    floor = np.mean([0.5 * 2 * v / (v + s**2) for s in sigmas])
    assert loss(1.0) == pytest.approx(floor, rel=0.01)
    assert loss(0.9) > loss(1.0) < loss(1.1)


def test_the_gradient_of_the_loss_matches_finite_differences(rng):
    x0 = rng.standard_normal((5, 3))

    def f(w):
        return sd.dsm_loss(lambda x, sigma: x @ w, x0, [1.0, 0.5], np.random.default_rng(2))

    assert sd.gradcheck(f, rng.standard_normal((3, 3))) < 1e-7


def test_langevin_dynamics_at_one_level_has_that_levels_density_as_its_stationary_law():
    x = end(
        lambda x, s: -x / (1 + s**2), [1.0], (20_000, 1), np.random.default_rng(0), step=0.02, per_level=600, denoise=False
    )
    # one step of size α multiplies x by 1 − α/2v and adds α: the variance settles at v/(1 − α/4v)
    settled = 2.0 / (1 - 0.02 / (4 * 2))
    assert x.var() == pytest.approx(settled, rel=4.5 * np.sqrt(2 / 20_000))


def test_one_noise_level_gets_the_weights_of_the_modes_wrong_and_the_ladder_right():
    n, ladder = 4000, sd.geometric_sigmas(8, 0.1, 12)
    shape, start = (n, 1), np.random.default_rng(3)
    one = end(mixture_score, [0.1], shape, start, step=2e-2, per_level=1000)
    # from N(0, 0.1²) walkers fall to the left or right as the score of x near 0 says, not by the weights of the modes
    all_levels = end(mixture_score, ladder, shape, np.random.default_rng(3), step=3e-3, per_level=80)
    right = [(x > 0).mean() for x in (one, all_levels)]
    assert right[0] < 0.72
    assert right[1] == pytest.approx(0.8, abs=0.03)


def test_the_ladder_draws_the_mixture():
    x = end(
        mixture_score, sd.geometric_sigmas(8, 0.02, 16), (4000, 1), np.random.default_rng(5), step=4e-5 * 3, per_level=100
    )
    cdf = lambda x: WEIGHTS @ stats.norm.cdf(x[None], MEANS[:, None], STD)  # noqa: E731
    assert stats.kstest(x[:, 0], cdf).statistic < 0.035  # 1.63/√4000 = 0.026, and what finite steps leave of bias


def test_the_last_step_denoises_by_tweedies_formula():
    steps = list(sd.annealed_langevin_steps(mixture_score, [1.0, 0.5], (3, 1), np.random.default_rng(0), per_level=2))
    assert [step.t for step in steps] == [2, 2, 1, 1, 0]
    before = steps[-2].x
    np.testing.assert_allclose(steps[-1].x, before + 0.25 * mixture_score(before, 0.5))


def test_the_first_level_is_the_largest_distance_and_the_ratio_gives_half_an_overlap(rng):
    data = rng.standard_normal((50, 7))
    want = max(np.linalg.norm(a - b) for a in data for b in data)
    assert rooms.first_sigma(data) == pytest.approx(want)
    for dims in (5, 784, 3072):
        gamma = rooms.ratio_for_overlap(dims)
        assert gamma > 1 and rooms.overlap(gamma, dims) == pytest.approx(0.5, abs=1e-9)


def test_the_step_for_a_ladder_leaves_the_least_noise_above_each_level():
    sigmas, per_level = sd.geometric_sigmas(10, 1, 10), 5
    step = rooms.step_for_ladder(sigmas, per_level)

    def left(step):
        variance = (sigmas[0] / sigmas[1]) ** 2  # over σ_i², for data at one point
        for _ in range(per_level):
            variance = (1 - step / 2) ** 2 * variance + step
        return variance

    assert 1 < left(step) < 1.25
    assert left(0.95 * step) > left(step) < left(1.05 * step)


@pytest.mark.parametrize("call, message", [
    (lambda: sd.geometric_sigmas(1, 2, 5), "needs first > last > 0"),
    (lambda: sd.geometric_sigmas(2, 1, 1), "n >= 2"),
    (lambda: sd.dsm_loss(lambda x, s: x, np.ones((2, 3)), [-1.0], np.random.default_rng(0)), "sigmas must be positive"),
    (lambda: sd.dsm_loss(lambda x, s: x[:1], np.ones((2, 3)), [1.0], np.random.default_rng(0)), "shape of x"),
    (lambda: sd.annealed_langevin_steps(mixture_score, [0.1, 1.0], (2, 1), None), "go down"),
    (lambda: sd.annealed_langevin_steps(mixture_score, [1.0], (2, 1), None, step=0), "step must be positive, got 0"),
])  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
