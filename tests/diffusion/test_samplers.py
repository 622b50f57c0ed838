"""Samplers against formulas replayed by hand, against each other, and against data whose best denoiser is known exactly."""

import numpy as np
import pytest
from scipy import stats

import scratchdiff as sd

LINEAR = sd.linear_schedule()


def exact_eps(schedule, mean, std):
    """The best possible eps prediction for data from N(mean, std²): E[ε | x_t] = √(1−ᾱ) (x_t − √ᾱ mean)/(ᾱ std² + 1 − ᾱ)."""

    def model(xt, t):
        a = schedule.alpha_bar[t].reshape(-1, 1)
        return np.sqrt(1 - a) * (xt - np.sqrt(a) * mean) / (a * std**2 + 1 - a)

    return model


def test_ddpm_is_algorithm_2_with_the_noise_replayed():
    schedule = sd.linear_schedule(4, 0.1, 0.95)
    diffusion = sd.GaussianDiffusion(schedule)
    got = sd.sample_ddpm(diffusion, lambda x, t: 0.3 * x + 0.01 * t[:, None], (3, 2), np.random.default_rng(7))
    rng = np.random.default_rng(7)
    x = rng.standard_normal((3, 2))
    for t in (4, 3, 2, 1):
        eps = 0.3 * x + 0.01 * t
        b, a, a_bar, a_prev = schedule.beta[t], schedule.alpha[t], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
        x = (x - b / np.sqrt(1 - a_bar) * eps) / np.sqrt(a)  # line 4 of Algorithm 2
        if t > 1:
            x = x + np.sqrt((1 - a_prev) / (1 - a_bar) * b) * rng.standard_normal((3, 2))
    np.testing.assert_allclose(got, x, atol=1e-12)


@pytest.mark.parametrize("images", [True, False])
def test_ddim_with_eta_1_and_all_steps_is_ddpm(images):
    schedule = sd.linear_schedule(50, 1e-3, 0.2)
    diffusion, model = sd.GaussianDiffusion(schedule, images=images), exact_eps(schedule, 0.3, 0.9)
    ddpm = sd.sample_ddpm(diffusion, model, (5, 2), np.random.default_rng(1))
    ddim = sd.sample_ddim(diffusion, model, (5, 2), np.random.default_rng(1), steps=50, eta=1.0)
    np.testing.assert_allclose(ddim, ddpm, atol=1e-10)


def test_ddim_with_eta_0_draws_no_noise_after_the_first():
    rng = np.random.default_rng(2)
    sd.sample_ddim(sd.GaussianDiffusion(LINEAR), lambda x, t: x, (3, 2), rng, steps=10)
    replay = np.random.default_rng(2)
    replay.standard_normal((3, 2))
    assert rng.random() == replay.random()


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("sample, settings", [(sd.sample_ddpm, {}), (sd.sample_ddim, dict(steps=100)),
                                              (sd.sample_ddim, dict(steps=200, eta=1.0))])  # fmt: skip
def test_with_the_exact_denoiser_samples_have_the_distribution_of_the_data(sample, settings, predict):
    mean, std, n = 0.8, 0.5, 4000
    diffusion, eps = sd.GaussianDiffusion(LINEAR, predict=predict), exact_eps(LINEAR, mean, std)

    def model(xt, t):
        e = eps(xt, t)
        x0 = sd.GaussianDiffusion(LINEAR).predict_x0(xt, t, e)
        return diffusion.target(x0, t, e)

    x = sample(diffusion, model, (n, 1), np.random.default_rng(0), **settings)[:, 0]
    # the Kolmogorov–Smirnov distance of n draws from the truth is below 1.63/√n in 99 % of cases
    assert stats.kstest(x, stats.norm(mean, std).cdf).statistic < 1.63 / np.sqrt(n)


@pytest.mark.parametrize("sample, settings", [(sd.sample_ddpm, {}), (sd.sample_ddim, dict(steps=100))])
def test_from_a_schedule_that_ends_at_alpha_bar_zero_the_samples_are_right_too(sample, settings):
    schedule, mean, std, n = sd.zero_terminal_snr(sd.linear_schedule(200, 1e-4, 0.1)), 0.8, 0.5, 4000
    diffusion = sd.GaussianDiffusion(schedule, predict="v")

    def model(xt, t):
        a, eps = schedule.alpha_bar[t].reshape(-1, 1), exact_eps(schedule, mean, std)(xt, t)
        x0 = mean + np.sqrt(a) * std**2 / (a * std**2 + 1 - a) * (xt - np.sqrt(a) * mean)
        return np.sqrt(a) * eps - np.sqrt(1 - a) * x0

    x = sample(diffusion, model, (n, 1), np.random.default_rng(0), **settings)[:, 0]
    assert stats.kstest(x, stats.norm(mean, std).cdf).statistic < 1.63 / np.sqrt(n)


def test_ddpm_draws_with_the_variance_that_the_network_gives():
    schedule = sd.cosine_schedule(20)
    large, learned = (sd.GaussianDiffusion(schedule, variance=v) for v in ("fixed_large", "learned"))
    want = sd.sample_ddpm(large, lambda x, t: 0.5 * x, (3, 2), np.random.default_rng(0))
    with_u = sd.sample_ddpm(learned, lambda x, t: np.concatenate([0.5 * x, np.ones_like(x)], -1), (3, 2),
                            np.random.default_rng(0))  # fmt: skip
    np.testing.assert_allclose(with_u, want, rtol=1e-12)


def test_one_step_of_ddim_is_the_denoiser_itself():
    diffusion = sd.GaussianDiffusion(LINEAR, predict="x0")
    x = sd.sample_ddim(diffusion, lambda x, t: np.full_like(x, 0.25), (2, 3), np.random.default_rng(0), steps=1)
    np.testing.assert_allclose(x, 0.25)


def test_every_sampler_starts_at_T_ends_at_0_and_yields_each_step():
    diffusion = sd.GaussianDiffusion(LINEAR)
    times = [step.t for step in sd.ddpm_steps(diffusion, lambda x, t: x, (1, 2), np.random.default_rng(0))]
    assert times == list(range(999, -1, -1))
    asked = []
    steps = list(sd.ddim_steps(diffusion, lambda x, t: asked.append(t[0]) or x, (1, 2), np.random.default_rng(0), steps=7))
    assert asked[0] == 1000 and len(asked) == 7 and steps[-1].t == 0
    assert [s.t for s in steps[:-1]] == asked[1:]


def test_after_clipping_eps_is_derived_again_so_that_the_state_is_consistent():
    diffusion = sd.GaussianDiffusion(LINEAR, images=True)
    start = np.random.default_rng(0).standard_normal((2, 3))
    first = next(sd.ddim_steps(diffusion, lambda x, t: -5 * x, (2, 3), np.random.default_rng(0), steps=10))
    assert np.abs(first.x0_hat).max() <= 1
    a, b = LINEAR.alpha_bar[1000], LINEAR.alpha_bar[first.t]
    eps = (start - np.sqrt(a) * first.x0_hat) / np.sqrt(1 - a)
    np.testing.assert_allclose(first.x, np.sqrt(b) * first.x0_hat + np.sqrt(1 - b) * eps)


@pytest.mark.parametrize("settings", [dict(steps=0), dict(steps=1001), dict(eta=-0.1), dict(eta=1.5)])
def test_ddim_refuses_steps_and_eta_out_of_range(settings):
    with pytest.raises(ValueError, match="ddim_steps: (steps|eta) must lie in"):
        sd.sample_ddim(sd.GaussianDiffusion(LINEAR), lambda x, t: x, (1, 2), np.random.default_rng(0), **settings)


@pytest.mark.parametrize("sample", [sd.sample_ddpm, sd.sample_ddim])
@pytest.mark.parametrize("shape", [(3,), (0, 2), (-1, 2)])
def test_samplers_refuse_shapes_without_a_sample(sample, shape):
    with pytest.raises(ValueError, match=r"shape must be \(N, ...\)"):
        sample(sd.GaussianDiffusion(LINEAR), lambda x, t: x, shape, np.random.default_rng(0))
