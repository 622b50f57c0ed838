"""min-SNR weights mean the same for every prediction; importance-sampled t is unbiased and varies less."""

import numpy as np
import pytest

import scratchdiff as sd

LINEAR = sd.linear_schedule()


def test_the_min_snr_weights_of_eps_x0_and_v_weigh_one_and_the_same_error(rng):
    t = np.array([1, 40, 300, 700, 1000])
    x0, x0_hat, eps = rng.standard_normal((3, 5, 4))
    snr = LINEAR.alpha_bar[t] / (1 - LINEAR.alpha_bar[t])
    want = np.minimum(snr, 5)[:, None] * (x0_hat - x0) ** 2
    for predict in ("eps", "x0", "v"):
        diffusion = sd.GaussianDiffusion(LINEAR, predict=predict)
        xt = diffusion.q_sample(x0, t, eps)
        eps_hat = diffusion.predict_eps(xt, t, x0_hat)
        error = diffusion.target(x0_hat, t, eps_hat) - diffusion.target(x0, t, eps)
        np.testing.assert_allclose(sd.min_snr_weights(diffusion)[t][:, None] * error**2, want, rtol=1e-8)


def test_the_loss_weighs_the_squares_by_them():
    diffusion, x0 = sd.GaussianDiffusion(LINEAR, predict="v"), np.random.default_rng(1).standard_normal((6, 2))
    replay = np.random.default_rng(3)
    t, eps = replay.integers(1, 1001, size=6), replay.standard_normal((6, 2))
    squares = (0.5 * diffusion.q_sample(x0, t, eps) - diffusion.target(x0, t, eps)) ** 2
    got = diffusion.loss(lambda xt, t: 0.5 * xt, x0, np.random.default_rng(3), min_snr=2.0)
    assert got.item() == pytest.approx((sd.min_snr_weights(diffusion, 2.0)[t][:, None] * squares).mean(), rel=1e-12)


def test_the_huber_loss_takes_the_place_of_the_squares():
    diffusion, x0 = sd.GaussianDiffusion(LINEAR), np.random.default_rng(1).standard_normal((6, 2))
    replay = np.random.default_rng(3)
    t, eps = replay.integers(1, 1001, size=6), replay.standard_normal((6, 2))
    d = np.abs(0.5 * diffusion.q_sample(x0, t, eps) - eps)
    got = diffusion.loss(lambda xt, t: 0.5 * xt, x0, np.random.default_rng(3), huber=0.7)
    assert got.item() == pytest.approx(np.where(d <= 0.7, d**2 / 2, 0.7 * (d - 0.35)).mean(), rel=1e-12)


def test_the_weights_exist_where_alpha_bar_ends_at_zero():
    for predict in ("x0", "v"):
        weights = sd.min_snr_weights(sd.GaussianDiffusion(sd.jsd_schedule(10), predict=predict))
        assert np.isfinite(weights).all() and weights[-1] == 0


def test_a_gamma_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="min_snr_weights: gamma must be positive, got 0"):
        sd.min_snr_weights(sd.GaussianDiffusion(LINEAR), 0)


def test_t_is_uniform_until_every_t_has_ten_losses_then_goes_as_the_root_of_the_mean_square():
    times = sd.ImportanceTimes(3)
    for k in range(10):
        np.testing.assert_array_equal(times.probabilities(), np.full(3, 1 / 3))
        times.update([1, 2], [3.0, 2.0])
        times.update([3], [1.0 if k % 2 else 7.0])
    root = np.array([3.0, 2.0, 5.0])  # √((1 + 49)/2) = 5
    np.testing.assert_allclose(times.probabilities(), 0.999 * root / 10 + 0.001 / 3, rtol=1e-12)


def test_only_the_last_ten_losses_count():
    times = sd.ImportanceTimes(2)
    times.update([1] * 5 + [2] * 10, [1e6] * 5 + [1.0] * 10)
    times.update([1] * 10, [3.0] * 10)
    np.testing.assert_allclose(times.probabilities(), [0.75, 0.25], atol=1e-3)


def test_without_any_loss_to_tell_them_apart_t_stays_uniform():
    times = sd.ImportanceTimes(2)
    times.update([1, 2] * 10, [0.0] * 20)
    np.testing.assert_array_equal(times.probabilities(), [0.5, 0.5])


def test_importance_sampling_is_unbiased_and_varies_less_than_uniform_t():
    # predict="x0" and a constant guess: L_{t−1} depends on t alone, so its expectation is a sum over t
    diffusion, x0 = sd.GaussianDiffusion(sd.cosine_schedule(12), predict="x0"), np.full((500, 2), 0.5)

    def constant(xt, t):
        return np.full_like(xt, 0.25)

    want = diffusion.bound(constant, x0[:1], np.random.default_rng(0)).nats[:-1].sum() / (2 * np.log(2))
    times, rng = sd.ImportanceTimes(12), np.random.default_rng(1)
    for _ in range(10):
        times.update(np.arange(1, 13), rng.uniform(0.1, 1, 12))  # any probabilities will do: the weights make up for them
    t, weight = times.draw(rng, 50_000)
    np.testing.assert_allclose(np.bincount(t, minlength=13)[1:] / 50_000, times.probabilities(), atol=0.01)
    np.testing.assert_allclose(weight, 1 / times.probabilities()[t - 1])

    def estimates(times):
        return np.array([sd.vlb_loss(diffusion, constant, x0, rng, times=times).item() for _ in range(200)])

    uniform = estimates(None)
    learned = estimates(times)[20:]  # by then it has met the true losses
    for values in uniform, learned:
        assert values.mean() == pytest.approx(want, abs=4.5 * values.std() / np.sqrt(len(values)) + 1e-9)
    assert learned.std() < 0.1 * uniform.std()
