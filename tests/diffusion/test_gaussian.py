"""The process agrees with its definition step by step, the posterior with Bayes' rule, the predictions with each other."""

import warnings
from functools import partial

import numpy as np
import pytest
from scipy import stats

import scratchdiff as sd
from scratchdiff.diffusion.samplers import respaced, spaced

SCHEDULES = {"linear": sd.linear_schedule(), "cosine": sd.cosine_schedule(), "short": sd.linear_schedule(5, 0.1, 0.9)}


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return SCHEDULES[request.param]


def test_q_sample_has_the_mean_and_variance_of_the_steps_one_by_one(schedule):
    # one step: mean ← √α_t mean, var ← α_t var + β_t
    diffusion, mean, var = sd.GaussianDiffusion(schedule), 1.0, 0.0
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    for t in range(1, schedule.T + 1):
        mean, var = np.sqrt(1 - schedule.beta[t]) * mean, (1 - schedule.beta[t]) * var + schedule.beta[t]
        assert diffusion.q_sample(one, t, zero)[0, 0] == pytest.approx(mean, rel=1e-12)
        assert diffusion.q_sample(zero, t, one)[0, 0] ** 2 == pytest.approx(var, rel=1e-10)


def test_the_posterior_is_bayes_rule_on_a_fine_grid():
    schedule = SCHEDULES["short"]
    diffusion = sd.GaussianDiffusion(schedule)
    grid = np.linspace(-12, 12, 200_001)
    for t in range(2, 6):
        x0, xt = 0.7, -1.3
        a, a_bar, a_prev = schedule.alpha[t], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
        joint = stats.norm.pdf(xt, np.sqrt(a) * grid, np.sqrt(1 - a)) * stats.norm.pdf(
            grid, np.sqrt(a_prev) * x0, np.sqrt(1 - a_prev)
        )
        weights = joint / joint.sum()
        mean = (weights * grid).sum()
        var = (weights * (grid - mean) ** 2).sum()
        got_mean, got_logvar = diffusion.q_posterior(np.full((1, 1), x0), np.full((1, 1), xt), t)
        assert got_mean[0, 0] == pytest.approx(mean, abs=1e-9)
        assert np.exp(got_logvar).item() == pytest.approx(var, rel=1e-7)
        assert a_bar == pytest.approx(a * a_prev)


def test_at_t_1_the_posterior_mean_is_x0_and_its_logvar_is_finite(schedule, rng):
    x0, xt = rng.standard_normal((2, 3, 4))
    mean, logvar = sd.GaussianDiffusion(schedule).q_posterior(x0, xt, 1)
    np.testing.assert_allclose(mean, x0, atol=1e-12)
    assert np.isfinite(logvar).all()


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_the_perfect_output_gives_back_x0_and_eps(schedule, predict, rng):
    diffusion = sd.GaussianDiffusion(schedule, predict=predict)
    x0, eps = rng.standard_normal((2, 6, 3, 2))
    t = rng.integers(1, schedule.T, size=6)
    xt = diffusion.q_sample(x0, t, eps)
    x0_hat = diffusion.predict_x0(xt, t, diffusion.target(x0, t, eps))
    scale = 1 / np.sqrt(schedule.alpha_bar[t].min())  # rounding in x_t is magnified by as much
    np.testing.assert_allclose(x0_hat, x0, atol=1e-14 * scale**2 + 1e-13)
    np.testing.assert_allclose(diffusion.predict_eps(xt, t, x0), eps, atol=1e-10)


def test_v_is_the_derivative_of_xt_along_the_circle(rng):
    # with ᾱ = cos² φ:  x = cos φ x0 + sin φ ε,  v = dx/dφ   (Salimans & Ho 2022, Appendix D)
    diffusion = sd.GaussianDiffusion(SCHEDULES["cosine"], predict="v")
    x0, eps = rng.standard_normal((2, 1, 4))
    phi, h = np.arccos(np.sqrt(SCHEDULES["cosine"].alpha_bar[300])), 1e-5
    x = [np.cos(p) * x0 + np.sin(p) * eps for p in (phi - h, phi + h)]
    np.testing.assert_allclose(diffusion.target(x0, 300, eps), (x[1] - x[0]) / (2 * h), atol=1e-9)


def test_t_may_differ_from_image_to_image(rng):
    diffusion = sd.GaussianDiffusion(SCHEDULES["linear"])
    x0, eps = rng.standard_normal((2, 3, 4, 4, 1))
    together = diffusion.q_sample(x0, np.array([1, 500, 1000]), eps)
    for n, t in enumerate((1, 500, 1000)):
        np.testing.assert_array_equal(together[n : n + 1], diffusion.q_sample(x0[n : n + 1], t, eps[n : n + 1]))


def test_float32_stays_float32(rng):
    diffusion = sd.GaussianDiffusion(SCHEDULES["linear"])
    x = rng.standard_normal((2, 3)).astype(np.float32)
    for out in (diffusion.q_sample(x, 5, x), *diffusion.q_posterior(x, x, 5), diffusion.predict_x0(x, 5, x)):
        assert out.dtype == np.float32


def test_p_mean_logvar_clips_x0_hat_for_images_and_leaves_points_alone(rng):
    images, points = (sd.GaussianDiffusion(SCHEDULES["linear"], predict="x0", images=images) for images in (True, False))
    xt = rng.standard_normal((2, 3))
    clipped, left = (images.q_posterior(np.full((2, 3), x0_hat), xt, 10)[0] for x0_hat in (1.0, 5.0))
    for diffusion, clip, want in (
        (images, None, clipped),
        (points, None, left),
        (images, False, left),
        (points, True, clipped),
    ):
        mean, logvar = diffusion.p_mean_logvar(lambda x, t: 5 * np.ones_like(x), xt, 10, clip)
        np.testing.assert_array_equal(mean, want)
    assert np.broadcast_shapes(logvar.shape, mean.shape) == mean.shape


def test_the_two_fixed_variances_are_beta_tilde_and_beta(rng):
    s = SCHEDULES["linear"]
    x = rng.standard_normal((1, 2))
    small, large = (sd.GaussianDiffusion(s, variance=v) for v in ("fixed_small", "fixed_large"))
    for t in (2, 10, 1000):
        tilde = (1 - s.alpha_bar[t - 1]) / (1 - s.alpha_bar[t]) * s.beta[t]
        assert small.p_mean_logvar(lambda x, t: x, x, t)[1].item() == pytest.approx(np.log(tilde))
        assert large.p_mean_logvar(lambda x, t: x, x, t)[1].item() == pytest.approx(np.log(s.beta[t]))


@pytest.mark.parametrize("variance", ["fixed_large", "learned"])
@pytest.mark.parametrize("betas", [(0.5, 0.1, 0.2, 0.3), (0.3, 0.4, 0.2, 0.9)])
def test_the_large_variance_is_beta_t_even_where_a_later_beta_is_smaller_than_the_first(variance, betas):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these few steps leave ᾱ_T above 0.01
        diffusion = sd.GaussianDiffusion(sd.Schedule(betas), variance=variance)
    xt = np.zeros((3, 2))
    out = np.concatenate([xt, np.ones_like(xt)], 1) if variance == "learned" else xt
    _, logvar = diffusion.p_mean_logvar(lambda x, t: out, xt, np.array([2, 3, 4]))
    np.testing.assert_allclose(np.exp(np.broadcast_to(logvar, (3, 2)))[:, 0], betas[1:], rtol=1e-12)


def test_a_respaced_chain_has_its_own_betas_as_large_variances():
    diffusion = sd.GaussianDiffusion(SCHEDULES["linear"], variance="fixed_large")
    for steps in (10, 100, 400, 501, 700, 999):
        part, _ = respaced(diffusion, None, spaced("test", 1000, steps))
        np.testing.assert_allclose(np.exp(part.p_logvar[2:]), part.schedule.beta[2:], rtol=1e-12)


def test_a_learned_variance_lies_between_beta_tilde_and_beta_on_a_logarithmic_scale(rng):
    diffusion, x = sd.GaussianDiffusion(SCHEDULES["linear"], variance="learned"), rng.standard_normal((1, 2))
    small, large = (
        sd.GaussianDiffusion(SCHEDULES["linear"], variance=v).p_logvar[10] for v in ("fixed_small", "fixed_large")
    )
    for u, share in ((-1.0, 0), (1.0, 1), (0.2, 0.6)):
        model = partial(lambda u, x, t: np.concatenate([x, np.full_like(x, u)], -1), u)
        mean, logvar = diffusion.p_mean_logvar(model, x, 10)
        assert logvar == pytest.approx((1 - share) * small + share * large) and mean.shape == logvar.shape == (1, 2)


def test_with_alpha_bar_T_zero_eps_is_refused_and_v_and_x0_are_not():
    with pytest.raises(ValueError, match="with ᾱ_T = 0, predict='eps' cannot work"):
        sd.GaussianDiffusion(sd.jsd_schedule(10))
    for predict in ("v", "x0"):
        sd.GaussianDiffusion(sd.zero_terminal_snr(SCHEDULES["linear"]), predict=predict)


def test_the_loss_draws_t_then_eps_and_is_the_mean_squared_error(rng):
    diffusion = sd.GaussianDiffusion(SCHEDULES["linear"])
    x0 = rng.standard_normal((6, 2))
    seen = {}

    def model(xt, t):
        seen.update(xt=xt, t=t)
        return 0.5 * xt

    loss = diffusion.loss(model, x0, np.random.default_rng(3))
    replay = np.random.default_rng(3)
    t, eps = replay.integers(1, 1001, size=6), replay.standard_normal((6, 2))
    np.testing.assert_array_equal(seen["t"], t)
    np.testing.assert_allclose(seen["xt"], diffusion.q_sample(x0, t, eps))
    assert loss.shape == () and loss.item() == pytest.approx(np.square(0.5 * seen["xt"] - eps).mean())


def test_training_draws_every_t_from_1_to_T():
    diffusion, drawn = sd.GaussianDiffusion(sd.linear_schedule(4, 0.1, 0.95)), set()
    diffusion.loss(lambda xt, t: drawn.update(t.tolist()) or xt, np.zeros((200, 1)), np.random.default_rng(0))
    assert drawn == {1, 2, 3, 4}


@pytest.mark.parametrize("call, message", [
    (lambda d: d.q_sample(np.zeros((2, 3)), 0, np.zeros((2, 3))), r"t must lie in 1..1000, got 0..0"),
    (lambda d: d.q_sample(np.zeros((2, 3)), 1001, np.zeros((2, 3))), r"t must lie in 1..1000"),
    (lambda d: d.q_sample(np.zeros((2, 3)), 1.5, np.zeros((2, 3))), "t must be an integer"),
    (lambda d: d.q_sample(np.zeros((2, 3)), np.array([1, 2, 3]), np.zeros((2, 3))), "t must be an integer or"),
    (lambda d: d.q_sample(np.zeros((2, 3)), 1, np.zeros((2, 4))), r"q_sample: shapes differ .* x0 \(2, 3\), eps \(2, 4\)"),
    (lambda d: d.q_posterior(np.zeros((2, 3)), np.zeros((1, 3)), 1), "q_posterior: shapes differ"),
    (lambda d: d.predict_x0(np.zeros((2, 3)), 1, np.zeros((2, 1))), "predict_x0: shapes differ"),
    (lambda d: d.loss(lambda x, t: x[:1], np.zeros((2, 3)), np.random.default_rng(0)), "mse: "),
    (lambda d: sd.GaussianDiffusion(d.schedule, predict="noise"), "predict must be one of .*'noise'"),
    (lambda d: sd.GaussianDiffusion(d.schedule, variance="tiny"), "variance one of .*'tiny'"),
])  # fmt: skip
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(sd.GaussianDiffusion(SCHEDULES["linear"]))


def test_offset_noise_adds_one_draw_per_image_and_channel_to_eps():
    d, seen = sd.GaussianDiffusion(sd.linear_schedule()), []
    x0 = np.zeros((3, 4, 5, 2))

    def model(xt, t):
        seen.append(xt / np.sqrt(1 - d.schedule.alpha_bar[t])[:, None, None, None])  # ε, for x_0 = 0
        return np.zeros_like(xt)

    losses = [d.loss(model, x0, np.random.default_rng(0), offset=offset).item() for offset in (0.0, 0.5)]
    added = (seen[1] - seen[0]) / 0.5
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape))
    assert len(np.unique(added.round(9))) == 6
    np.testing.assert_allclose(losses, [np.square(eps).mean() for eps in seen])  # the target has it too


def test_between_the_last_two_steps_of_a_schedule_that_ends_in_pure_noise_there_is_pure_noise():
    diffusion = sd.GaussianDiffusion(sd.jsd_schedule(10), predict="v")
    x, v = np.array([[2.0]]), np.array([[3.0]])
    for t in (10, 10.0, 9.5):
        assert diffusion.signal_and_noise(t, x) == (0, 1)
        assert diffusion.predict_x0(x, t, v) == -3  # √ᾱ x − √(1−ᾱ) v
