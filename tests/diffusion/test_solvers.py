"""Every sampler, without any training: against exact oracles, at its order, and against formulas by hand."""

import numpy as np
import pytest
from scipy import stats

import scratchdiff as sd
from scratchdiff.diffusion.samplers import last, respaced, spaced
from scratchdiff.diffusion.solvers import SIGMA_MAX, karras_times

LINEAR = sd.linear_schedule()
MEANS, STDS, WEIGHTS = np.array([[1.0], [-0.8]]), np.array([0.3, 0.5]), np.array([0.4, 0.6])


def mixture(predict="eps", schedule=LINEAR):
    return sd.Oracle(sd.GaussianDiffusion(schedule, predict=predict), MEANS, STDS**2, WEIGHTS)


def cdf(x):
    return WEIGHTS @ stats.norm.cdf(x, MEANS, STDS[:, None])


def in_steps(name, n):
    """The setting that asks a sampler for n steps, if it lets itself be asked."""
    return dict(steps=n) if sd.SAMPLERS[name].takes_steps else {}


def draw(name, oracle, n, seed=0, **settings):
    shape, rng = (n, *oracle.shape), np.random.default_rng(seed)
    return last(sd.SAMPLERS[name].run(oracle.diffusion, oracle, shape, rng, **settings)).x


def run_and_count(name, steps):
    """(the t of every step, the t of every question to the network)."""
    o, asked = mixture(), []

    def model(x, t):
        asked.append(t[0])
        return o(x, t)

    run = sd.SAMPLERS[name].run(o.diffusion, model, (2, 1), np.random.default_rng(0), steps=steps)
    return [step.t for step in run], asked


# Steps at which each sampler's own error is well below what 4000 draws can show.
ENOUGH = {"ddpm": 250, "ddim": 150, "pc": 200, "heun": 40, "heun-churn": 60, "dpm": 60}


@pytest.mark.parametrize("schedule", [LINEAR, sd.cosine_schedule()], ids=["linear", "cosine"])
@pytest.mark.parametrize("name", sd.SAMPLERS)
def test_every_sampler_draws_the_oracles_distribution(name, schedule):
    n = 4000
    x = draw(name, mixture(schedule=schedule), n, **in_steps(name, ENOUGH.get(name)))[:, 0]
    # the Kolmogorov–Smirnov distance of n exact draws from the truth stays below 1.63/√n in 99 % of cases
    assert stats.kstest(x, cdf).statistic < 1.63 / np.sqrt(n)


@pytest.mark.parametrize("name", sd.SAMPLERS)
def test_in_the_plane_the_samples_are_as_near_to_exact_draws_as_exact_draws_are(name, rng):
    covs = np.array([[[0.1, 0.08], [0.08, 0.1]], [[0.2, 0.0], [0.0, 0.02]], [[0.05, 0.0], [0.0, 0.3]]])
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR), [[1.0, 0.5], [-0.8, -1.0], [0.0, 0.4]], covs)
    x, exact = draw(name, o, 3000, **in_steps(name, ENOUGH.get(name))), o.sample(3000, rng)
    angles = np.pi * np.arange(24) / 24
    directions = np.array([np.cos(angles), np.sin(angles)]).T
    # the Wasserstein distance of the projections on 24 directions: twelve pairs of exact sets lay 0.014 to 0.052 apart
    assert np.mean([stats.wasserstein_distance(x @ u, exact @ u) for u in directions]) < 0.06


@pytest.mark.parametrize("predict", ["x0", "v"])
@pytest.mark.parametrize("name", sd.SAMPLERS)
def test_what_the_network_predicts_makes_no_difference(name, predict):
    tight = {"rtol": 1e-9} if name == "ode" else {}
    x, y = (draw(name, mixture(p), 5, **in_steps(name, 10), **tight) for p in ("eps", predict))
    np.testing.assert_allclose(x, y, atol=1e-7)


def error_at_t_1(name, steps, **settings):
    """How far from the exact solution of the ODE x_1 is, for data from one normal, whose solution is known:

    (y − m)/√(std² + σ²) stays the same."""
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR), [[0.5]], 0.3**2)
    run = sd.SAMPLERS[name].run(o.diffusion, o, (50, 1), np.random.default_rng(0), steps=steps, **settings)
    *_, before, end = run
    assert end.t == 0 and before.t == pytest.approx(1)
    top = LINEAR.sigma(1000) if name == "ddim" else SIGMA_MAX
    y = np.random.default_rng(0).standard_normal((50, 1)) * np.sqrt(1 + top**2)
    exact = 0.5 + (y - 0.5) * np.sqrt((0.3**2 + LINEAR.sigma(1) ** 2) / (0.3**2 + top**2))
    return np.abs(before.x * np.sqrt(1 + LINEAR.sigma(1) ** 2) - exact).max()


@pytest.mark.parametrize("name, order", [("heun", 2), ("dpm", 2)])
def test_the_error_falls_with_the_order_of_the_solver(name, order):
    steps = np.array([40, 80, 160, 320])
    errors = [error_at_t_1(name, n) for n in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.2)


def test_the_error_of_eulers_method_on_the_same_steps_falls_with_order_1():
    # heun_steps' first line alone, which is DDIM's formula
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR), [[0.5]], 0.3**2)
    start, errors, counts = np.random.default_rng(0).standard_normal((50, 1)), [], np.array([40, 80, 160, 320])
    for steps in counts:
        times = karras_times("test", LINEAR, steps, 7.0)[:-1]
        sigma = LINEAR.sigma(times)
        y = start * np.sqrt(1 + SIGMA_MAX**2)
        exact = 0.5 + (y - 0.5) * np.sqrt((0.3**2 + sigma[-1] ** 2) / (0.3**2 + sigma[0] ** 2))
        for k in range(steps - 1):
            x = y / np.sqrt(1 + sigma[k] ** 2)
            y = y + (sigma[k + 1] - sigma[k]) * o(x, times[k]).data
        errors.append(np.abs(y - exact).max())
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-1, abs=0.1)


def test_ddim_with_eta_0_is_a_step_of_euler_in_sigma():
    o = mixture()
    x_T = np.random.default_rng(3).standard_normal((6, 1))
    step = next(sd.ddim_steps(o.diffusion, o, (6, 1), np.random.default_rng(3), steps=4))
    sigma, sigma_s = LINEAR.sigma(1000), LINEAR.sigma(750)
    y = x_T * np.sqrt(1 + sigma**2) + (sigma_s - sigma) * o(x_T, 1000).data
    assert step.t == 750
    np.testing.assert_allclose(step.x, y / np.sqrt(1 + sigma_s**2), rtol=1e-10)


def test_the_ode_with_a_tight_tolerance_is_what_heun_converges_to():
    o = mixture()
    np.testing.assert_allclose(draw("heun", o, 20, steps=400), draw("ode", o, 20, rtol=1e-8), atol=1e-4)


def test_the_ode_yields_the_steps_that_its_tolerance_asks_for_and_the_denoiser_at_each():
    o = mixture()
    rough, fine = (list(sd.ode_steps(o.diffusion, o, (3, 1), np.random.default_rng(0), rtol)) for rtol in (1e-2, 1e-6))
    assert len(fine) > 2 * len(rough) and all(a.t > b.t for a, b in zip(fine, fine[1:])) and fine[-1].t == 0
    for step in fine[:-1]:
        np.testing.assert_allclose(step.x0_hat, o.x0(step.x, step.t), atol=1e-9)


def test_each_sampler_asks_as_often_as_it_says():
    expected = {"ddpm": 10, "ddim": 10, "pc": 19, "heun": 19, "heun-churn": 19, "dpm": 10}
    for name, calls in expected.items():
        times, asked = run_and_count(name, steps=10)
        assert (len(asked), len(times), times[-1]) == (calls, 10, 0), name
        assert all(a > b for a, b in zip(times[:-1], times[1:])) and min(asked) >= 1


def test_one_step_of_any_sampler_is_the_denoiser_itself():
    diffusion = sd.GaussianDiffusion(LINEAR, predict="x0")
    for name, sampler in sd.SAMPLERS.items():
        run = sampler.run(
            diffusion, lambda x, t: np.full_like(x, 0.25), (2, 3), np.random.default_rng(0), **in_steps(name, 1)
        )
        np.testing.assert_allclose(last(run).x, 0.25, err_msg=name)


@pytest.mark.parametrize("name", sd.SAMPLERS)
def test_clipping_keeps_every_x0_hat_within_the_pixels_range(name):
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR, images=True), [[1.5], [-2.0]], 0.01)
    run = sd.SAMPLERS[name].run(o.diffusion, o, (50, 1), np.random.default_rng(0), **in_steps(name, 8))
    assert np.abs(last(run).x0_hat).max() <= 1 + 1e-9


@pytest.mark.parametrize("name", sd.SAMPLERS)
def test_points_are_not_clipped(name):
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR), [[0.0]], 4.0)
    x = draw(name, o, 3000, **in_steps(name, ENOUGH.get(name)))
    assert x.std() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("name", sd.SAMPLERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_network_whose_output_is_not_finite_stops_every_sampler(name, bad):
    diffusion = sd.GaussianDiffusion(LINEAR)
    run = sd.SAMPLERS[name].run(diffusion, lambda x, t: np.full_like(x, bad), (2, 1), np.random.default_rng(0))
    with pytest.raises(FloatingPointError, match="denoise: the model's output at step t = .* is not finite"):
        last(run)


def test_the_steps_of_karras_are_equal_in_the_seventh_root_of_sigma():
    low, high, steps = LINEAR.sigma(1), SIGMA_MAX, 6
    times = karras_times("test", LINEAR, steps, 7.0)
    by_hand = [(high ** (1 / 7) + i / 5 * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(6)]  # Eq. 5
    np.testing.assert_allclose(LINEAR.sigma(times[:-1]), by_hand, rtol=1e-9)
    assert times[-1] == 0


def test_churn_adds_noise_before_each_step_of_heun():
    o, churn, steps = mixture(), 3.0, 10
    step = next(sd.heun_steps(o.diffusion, o, (5, 1), np.random.default_rng(4), steps, churn))
    times, replay = karras_times("test", LINEAR, steps, 7.0), np.random.default_rng(4)
    sigma, sigma_s = LINEAR.sigma(times[:2])
    y = replay.standard_normal((5, 1)) * np.sqrt(1 + sigma**2)
    more = sigma * (1 + churn / steps)
    y = y + np.sqrt(more**2 - sigma**2) * replay.standard_normal((5, 1))

    def eps(y, sigma):
        return o.eps(y / np.sqrt(1 + sigma**2), LINEAR.time(sigma))

    d = eps(y, more)
    y = y + (sigma_s - more) * (d + eps(y + (sigma_s - more) * d, sigma_s)) / 2
    np.testing.assert_allclose(step.x, y / np.sqrt(1 + sigma_s**2), rtol=1e-9)


def test_the_corrector_takes_the_step_of_algorithm_5():
    o, snr = mixture(), 0.2
    got = next(sd.pc_steps(o.diffusion, o, (6, 1), np.random.default_rng(8), 2, snr))
    replay = np.random.default_rng(8)
    predicted = next(sd.ddpm_steps(o.diffusion, o, (6, 1), replay, 2)).x  # draws x_T and the predictor's noise
    z, g = replay.standard_normal((6, 1)), o.score(predicted, 500)
    step = 2 * LINEAR.alpha[500] * (snr * np.abs(z).mean() / np.abs(g).mean()) ** 2
    np.testing.assert_allclose(got.x, predicted + step * g + np.sqrt(2 * step) * z, rtol=1e-9)


@pytest.mark.parametrize("name", sd.SAMPLERS)
def test_networks_of_float32_take_part_at_real_t(name):
    net = sd.MLP(dim=2, width=8, num_blocks=1, rng=np.random.default_rng(0))
    seen = []

    def model(x, t):
        out = net(x, t)
        seen.append(out.dtype)
        return out

    x = last(
        sd.SAMPLERS[name].run(sd.GaussianDiffusion(LINEAR), model, (3, 2), np.random.default_rng(0), **in_steps(name, 5))
    ).x
    assert set(seen) == {np.dtype(np.float32)} and x.dtype == np.float64 and np.isfinite(x).all()


# the chain, in part


def test_on_all_steps_ancestral_sampling_is_algorithm_2_bit_for_bit():
    o = mixture()
    whole = sd.sample_ddpm(o.diffusion, o, (4, 1), np.random.default_rng(5))
    named = sd.sample_ddpm(o.diffusion, o, (4, 1), np.random.default_rng(5), steps=1000)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, 1))
    for t in range(1000, 0, -1):
        mean, logvar = o.diffusion.p_mean_logvar(o, x, t)
        x = mean + np.exp(0.5 * logvar) * (rng.standard_normal((4, 1)) if t > 1 else 0.0)
    assert np.array_equal(whole, x) and np.array_equal(named, x)


def test_on_a_part_of_the_steps_ancestral_sampling_is_ddim_with_eta_1():
    o = mixture()
    ddpm = sd.sample_ddpm(o.diffusion, o, (5, 1), np.random.default_rng(1), steps=30)
    ddim = sd.sample_ddim(o.diffusion, o, (5, 1), np.random.default_rng(1), steps=30, eta=1.0)
    np.testing.assert_allclose(ddpm, ddim, atol=1e-10)


def test_a_part_of_the_chain_has_the_marginals_of_the_whole():
    times = spaced("test", 1000, 7)
    part, model = respaced(sd.GaussianDiffusion(LINEAR), lambda x, t: t, times)
    np.testing.assert_allclose(part.schedule.alpha_bar, LINEAR.alpha_bar[times], rtol=1e-12)
    assert list(model(None, np.arange(8))) == list(times)


def test_the_corrector_leaves_p_t_as_it_is_to_first_order():
    # quadrature in place of draws: x over p_t of one normal, z over N(0, 1); the variance after one step is then exact
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR), [[0.5]], 0.3**2)
    ab = LINEAR.alpha_bar[300]
    mean, std = np.sqrt(ab) * 0.5, np.sqrt(ab * 0.3**2 + 1 - ab)
    x, z = (a.reshape(-1, 1) for a in np.meshgrid(mean + std * nodes, nodes))
    w = np.outer(weights, weights).ravel()
    changes = []
    for step in (0.01, 0.005, 0.0025):
        moved = sd.diffusion.samplers.langevin(x, o.score(x, 300), step, z)[:, 0]
        assert w @ moved == pytest.approx(mean, abs=1e-12)
        changes.append(w @ (moved - mean) ** 2 - std**2)
    # one step changes the variance by ε²/var, none of it in proportion to ε
    np.testing.assert_allclose(changes, np.array([0.01, 0.005, 0.0025]) ** 2 / std**2, rtol=1e-6)


def test_the_corrector_mends_what_a_wrong_predictor_left():
    # ancestral steps 40 times too long give too wide a spread; correcting brings the samples nearer to the truth
    distances = {name: stats.kstest(draw(name, mixture(), 4000, steps=25, **settings)[:, 0], cdf).statistic
                 for name, settings in (("ddpm", {}), ("pc", dict(snr=0.3)))}  # fmt: skip
    assert distances["pc"] < 0.8 * distances["ddpm"]


@pytest.mark.parametrize("call, message", [
    (lambda d, run: run(sd.ddpm_steps, steps=0), "ddpm_steps: steps must lie in 1..1000, got 0"),
    (lambda d, run: run(sd.pc_steps, steps=1001), "pc_steps: steps must lie in 1..1000, got 1001"),
    (lambda d, run: run(sd.pc_steps, snr=0), "pc_steps: snr must be positive, got 0"),
    (lambda d, run: run(sd.heun_steps, steps=0), "heun_steps: .* rho positive, got steps 0, rho 7.0"),
    (lambda d, run: run(sd.heun_steps, churn=-1), "heun_steps: churn must not be negative, got -1"),
    (lambda d, run: run(sd.heun_steps, rho=-1), "heun_steps: .* got steps 20, rho -1"),
    (lambda d, run: run(sd.dpm_steps, steps=1.5), "dpm_steps: steps must be 1 or more"),
    (lambda d, run: run(sd.ode_steps, rtol=0), "ode_steps: rtol must be positive, got 0"),
])  # fmt: skip
def test_bad_settings_are_refused_at_the_call(call, message):
    d = sd.GaussianDiffusion(LINEAR)
    with pytest.raises(ValueError, match=message):
        call(d, lambda f, **settings: f(d, lambda x, t: x, (1, 2), np.random.default_rng(0), **settings))


@pytest.mark.parametrize("name", sd.SAMPLERS)
def test_samplers_refuse_shapes_without_a_sample_at_the_call(name):
    with pytest.raises(ValueError, match=r"_steps: shape must be \(N, ...\)"):
        sd.SAMPLERS[name].run(
            sd.GaussianDiffusion(LINEAR), lambda x, t: x, (3,), np.random.default_rng(0), **in_steps(name, 2)
        )


@pytest.mark.parametrize("name", sd.SAMPLERS)
def test_where_nothing_of_the_data_is_left_at_T_every_sampler_still_runs(name):
    schedule = sd.zero_terminal_snr(LINEAR)
    o = mixture("v", schedule)
    assert np.isfinite(draw(name, o, 4, **in_steps(name, 10))).all()
