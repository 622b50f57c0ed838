"""Lesson 14: the bound where it can be computed exactly, and by quadrature where it is drawn."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros

X = np.linspace(-4, 4, 9)


@pytest.fixture
def road(lesson):
    return lesson("14_vae_to_ddpm")


@pytest.mark.parametrize("seed", range(10))
def test_the_bound_lies_above_minus_log_p_for_any_lines(road, seed):
    rng = np.random.default_rng(seed)
    T, beta = int(rng.integers(1, 7)), rng.uniform(0.1, 0.9)
    bound, truth = road.line_ladder(rng.normal(size=T), rng.uniform(0.2, 2, T), rng.uniform(0.3, 2), beta, X)
    assert (bound > truth).all()


@pytest.mark.parametrize("T, beta, var", [(1, 0.5, 0.25), (5, 0.6, 0.25), (5, 0.6, 1.0), (40, 0.1, 3.0)])
def test_the_bound_is_minus_log_p_where_p_is_q_reversed(road, T, beta, var):
    bound, truth = road.line_ladder(*road.reversed_q(T, beta, var), beta, X)
    np.testing.assert_allclose(bound, truth, atol=1e-12)
    np.testing.assert_allclose(truth, X**2 / (2 * var) + np.log(2 * np.pi * var) / 2, atol=1e-12)


def test_with_data_of_variance_one_every_level_is_standard_normal(road):
    a, v, s2 = road.reversed_q(5, 0.6, 1.0)
    np.testing.assert_allclose(np.concatenate([a, v, [s2]]), [np.sqrt(0.4)] * 5 + [0.6] * 5 + [1.0])


def test_the_published_objective_falls_below_minus_log_p_without_limit(road):
    a, v, s2 = road.reversed_q(5, 0.6, 0.25)
    a[2] = 1.0
    gaps = []
    for v[2] in (1e-4, 1e-8, 1e-12):
        gaps.append(road.gap(a, v, s2, X, as_published=True).max())
    assert 0 > gaps[0] > gaps[1] > gaps[2]
    np.testing.assert_allclose(np.diff(gaps), 0.5 * np.log(1e-4), rtol=1e-3)
    assert road.gap(a, v, s2, X).min() > 1e6  # and the bound sees that p has become absurd


@pytest.mark.parametrize("T", [1, 2, 4])
def test_the_drawn_bound_has_the_exact_mean_on_straight_lines(road, T, monkeypatch):
    # the Ladder itself, with lines for its levels and a normal density at the end; a "digit" is 64 equal numbers
    beta, rng = 0.6, np.random.default_rng(T)
    a, v = rng.uniform(0.3, 1, T), rng.uniform(0.3, 1, T)
    likelihood = lambda k, mean, logvar: sd.ops.normal_log_prob(road.VALUES[k].astype("f4"), mean, logvar)  # noqa: E731
    ladder = road.Ladder(T, rng, beta=beta, likelihood=likelihood)
    ladder.down = [lambda z, a=a, v=v: (np.float32(a) * z, np.full(z.shape, np.log(v), "f4")) for a, v in zip(a, v)]
    k = np.full((3000, road.D), 3)
    nats = ladder.nats(k, rng).data / road.D
    want, _ = road.line_ladder(a, v, 1.0, beta, road.VALUES[3])
    assert nats.mean() == pytest.approx(want, abs=4 * nats.std() / np.sqrt(len(nats)))


def test_the_probabilities_of_the_17_values_add_up_to_one_and_their_gradients_match_finite_differences(road, rng):
    mean, logvar = rng.normal(size=(2, 4)), rng.uniform(-7, 1, (2, 4))
    total = sum(
        np.exp(road.log_prob_on_grid(np.full((2, 4), k), sd.Tensor(mean), sd.Tensor(logvar)).data) for k in range(17)
    )
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    k = rng.integers(17, size=(2, 4))
    assert sd.gradcheck(lambda m, s: road.log_prob_on_grid(k, m, s), mean, rng.uniform(-3, 1, (2, 4))) < 1e-6


def test_the_shared_model_draws_the_same_bound_that_the_sum_over_all_t_gives(road, rng):
    model = road.Shared(4, rng)
    fill_zeros(model.parameters(), rng)
    k = np.repeat(rng.integers(17, size=(1, road.D)), 1500, axis=0)
    x, diffusion = road.VALUES[k].astype("f4"), model.diffusion
    total = sd.diffusion.bound.prior_kl(diffusion, x)
    for t in range(1, 5):
        times = np.full(len(x), t)
        xt = diffusion.q_sample(x, times, rng.standard_normal(x.shape, dtype=np.float32))
        estimate = model.estimate(xt, times)
        if t == 1:
            total = total - road.log_prob_on_grid(k, *estimate).data.sum(1)
        else:
            total = total + sd.diffusion.bound.step_nats(diffusion, *estimate, x, xt, times).data
    drawn = model.nats(k, rng).data
    error = np.hypot(total.std(), drawn.std()) / np.sqrt(len(k))
    assert drawn.mean() == pytest.approx(total.mean(), abs=4 * error)


def test_the_two_sets_of_digits_are_whole_numbers_up_to_16_in_disjoint_parts(road):
    parts = road.pooled_digits()
    assert [len(part) for part in parts] == [9000, 500, 500]
    assert all(part.min() >= 0 and part.max() <= 16 and part.dtype.kind == "i" for part in parts)
    assert 12 < np.concatenate(parts).max()
