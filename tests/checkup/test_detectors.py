"""Each detector is as powerful as it says: deviations of the stated size are found, and right code of all kinds passes."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.checkup import gradients, learning, process, sampler, schedule, training
from scratchdiff.checkup import model as of_model
from scratchdiff.checkup.findings import CannotTell
from scratchdiff.diffusion.samplers import last

SCHEDULE = sd.cosine_schedule(20)
D = sd.GaussianDiffusion(SCHEDULE)
V = sd.GaussianDiffusion(SCHEDULE, "v", images=True)
BETAS, ALPHA_BAR = SCHEDULE.betas, SCHEDULE.alpha_bar[1:]
SEEDS = 20


def found(detector, *args, **more):
    """How often a detector alarms with SEEDS seeds."""
    return sum(detector(*args, rng=np.random.default_rng(seed), **more) is not None for seed in range(SEEDS))


def number(loss, **settings):
    """A loss of the package, as a plain number."""
    return lambda model, x0, rng: loss(model, x0, rng, **settings).item()


# schedule


@pytest.mark.parametrize("wrong, where", [(0.0, 3), (1.0, 3), (-0.1, 0), (1.2, 19)])
def test_a_beta_outside_0_and_1_is_found(wrong, where):
    betas = BETAS.copy()
    betas[where] = wrong
    assert f"β_{where + 1} = {wrong:.4g}" in schedule.betas_are_variances(betas).seen


def test_a_last_beta_of_1_is_allowed_but_not_to_predict_eps():
    betas = np.append(BETAS, 1.0)
    assert schedule.betas_are_variances(betas) is None
    alpha_bar = np.cumprod(1 - betas)
    assert schedule.noise_can_be_predicted(alpha_bar, "eps") and not schedule.noise_can_be_predicted(alpha_bar, "v")


@pytest.mark.parametrize("wrong, name", [(np.sqrt, "roots √ᾱ_t"), (np.square, "squares ᾱ_t²"), (lambda a: 1 - a, "1−ᾱ_t"),
                                         (lambda a: np.append(1, a[:-1]), "ᾱ_{t−1}, one step late")])  # fmt: skip
def test_a_wrong_alpha_bar_is_named(wrong, name):
    assert schedule.alpha_bar_is_the_product(BETAS, wrong(ALPHA_BAR)).seen.endswith(f"these are {name}")
    assert schedule.alpha_bar_is_the_product(BETAS, ALPHA_BAR * (1 + 2e-3))
    assert schedule.alpha_bar_is_the_product(BETAS, ALPHA_BAR[1:]).what == "β and ᾱ have different lengths"


def test_an_alpha_bar_that_rises_is_found():
    assert schedule.noise_only_grows(ALPHA_BAR[::-1]) and schedule.noise_only_grows(ALPHA_BAR) is None


# the process


@pytest.mark.parametrize("wrong, name", [
    (lambda x0, t, eps: D.q_sample(x0, np.minimum(t + 1, 20), eps), "those of t+1"),
    (lambda x0, t, eps: D.q_sample(eps, t, x0), "exchanged"),
    (lambda x0, t, eps: D.q_sample(x0, t, eps * D.sqrt_noise[t][:, None].astype("f4")), "the noise lacks its root"),
    (lambda x0, t, eps: D.q_sample(x0, t, eps**3), "left over"),
    (lambda x0, t, eps: D.q_sample(x0, t, 1.01 * eps), "x_0"),
])  # fmt: skip
def test_a_wrong_q_sample_is_found_and_named(wrong, name):
    assert name in process.noises_by_the_schedule(wrong, D, (3,), np.random.default_rng(0)).seen


@pytest.mark.parametrize("wrong, name", [
    (lambda x0, xt, t: (D.q_posterior(xt, x0, t)[0], D.q_posterior(x0, xt, t)[1]), "exchanged"),
    (lambda x0, xt, t: (D.q_posterior(x0, xt, t)[0], np.log(SCHEDULE.beta[t])), "log β_t"),
    (lambda x0, xt, t: (D.q_posterior(x0, xt, t)[0], 0.5 * D.q_posterior(x0, xt, t)[1]), "log σ_t"),
])  # fmt: skip
def test_a_wrong_posterior_is_found_and_named(wrong, name):
    assert name in process.steps_back_by_bayes(wrong, D, (3,), np.random.default_rng(0)).seen


# the loss


def noisy(change):
    def loss(model, x0, rng):
        t, eps = rng.integers(1, 21, len(x0)), change(rng.standard_normal(x0.shape))
        return float(np.square(model(D.q_sample(x0.astype(float), t, eps), t) - eps).mean())

    return loss


@pytest.mark.parametrize("change", [lambda e: e + 0.15, lambda e: 1.3 * e, lambda e: 0.7 * e])
def test_noise_in_training_is_found_when_its_mean_is_off_by_015_or_its_deviation_by_30_percent(change):
    assert found(training.trains_on_normal_noise, noisy(change), D, (2,)) == SEEDS
    assert found(training.trains_on_normal_noise, noisy(lambda e: e), D, (2,)) == 0


def test_any_weights_of_t_pass_but_another_target_does_not():
    for loss in (number(D.loss), number(D.loss, min_snr=5)):
        assert found(training.perfect_denoiser_has_no_loss, loss, D, (2,)) == 0
        assert found(training.draws_every_t, loss, D, (2,)) == 0
        assert found(training.perfect_denoiser_has_no_loss, loss, V, (2,)) == SEEDS


def test_a_difference_that_broadcasts_is_found():
    def loss(model, x0, rng):
        t, eps = rng.integers(1, 21, len(x0)), rng.standard_normal(x0.shape)
        return float(np.square(model(D.q_sample(x0.astype(float), t, eps), t)[:, None] - eps).mean())

    assert found(training.perfect_denoiser_has_no_loss, loss, D, (2,)) == SEEDS


def test_a_fraction_of_t_and_t_outside_of_the_schedule_are_told_apart():
    def loss(shift):
        return lambda model, x0, rng: D.loss(lambda xt, t: model(xt, t * shift), x0, rng)

    whats = [training.draws_every_t(loss(s), D, (2,), np.random.default_rng(0)).what for s in (1 / 20, 2)]
    assert whats == ["the network is asked at a fraction of a step", "t outside of the schedule"]


# the sampler


@pytest.mark.parametrize("name, settings", [("ddpm", {}), ("ddim", dict(steps=50)), ("dpm", dict(steps=10)),
                                            ("heun", dict(steps=15)), ("ode", {})])  # fmt: skip
def test_every_sampler_of_the_package_passes(name, settings):
    d = sd.GaussianDiffusion(sd.cosine_schedule(100), "v", images=True)

    def run(model, shape, rng):
        return last(sd.SAMPLERS[name].run(d, model, shape, rng, **settings)).x

    for detector in (sampler.goes_down_from_T, sampler.ends_at_the_data, sampler.draws_the_mixture,
                     sampler.starts_from_normal_noise, sampler.keeps_x0_and_eps_together):  # fmt: skip
        assert detector(run, d, (2,), np.random.default_rng(0)) is None


@pytest.mark.parametrize("mean, spread, share", [(0.06, 0.15, 0.3), (0, 0.3, 0.3), (0, 0.15, 0.4)])
def test_wrong_samples_are_found_means_off_by_006_a_spread_twice_as_large_weights_off_by_a_tenth(mean, spread, share):
    def drawn(mean, spread, share):
        def run(model, shape, rng):
            model(np.zeros(shape), 1)
            return mean + np.where(rng.random(shape) < share, -0.6, 0.5) + spread * rng.standard_normal(shape)

        return run

    assert found(sampler.draws_the_mixture, drawn(0, 0.15, 0.3), V, (2,)) == 0
    assert found(sampler.draws_the_mixture, drawn(mean, spread, share), V, (2,)) == SEEDS


def test_a_sampler_that_goes_up_or_leaves_out_the_last_step_is_found():
    def along(times):
        def run(model, shape, rng):
            x = rng.standard_normal(shape)
            for t in times:
                model(x, t)
            return x

        return run

    def what(times):
        return getattr(sampler.goes_down_from_T(along(times), V, (2,), np.random.default_rng(0)), "what", None)

    assert what(range(1, 21)) == "t rises" and what(range(20, 1, -1)) == "the last step is missing"
    assert what(range(20, 0, -1)) is None and what(range(20, 0, -5)) is None


# the network


def test_a_fresh_network_of_zeros_is_tested_with_its_parameters_and_put_back_bit_by_bit():
    net = sd.UNet(image_size=8, in_channels=1, out_channels=1, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,),
                  groups=4, rng=np.random.default_rng(0))  # fmt: skip
    parameters = {name: p.data for name, p in net.parameters().items()}
    before = {name: p.copy() for name, p in parameters.items()}

    def model(xt, t):
        return net(xt, t).data

    for detector in (of_model.uses_the_time, of_model.uses_every_input, of_model.uses_every_parameter):
        assert detector(model, T=20, shape=(8, 8, 1), parameters=parameters, rng=np.random.default_rng(0)) is None
    assert all((before[name] == p).all() for name, p in parameters.items())
    with pytest.raises(CannotTell, match="zero everywhere"):
        of_model.uses_the_time(model, 20, (8, 8, 1), np.random.default_rng(0))


def test_one_dead_channel_of_three_is_found_and_named():
    finding = of_model.uses_every_input(lambda xt, t: xt[..., :2], 20, (6, 6, 3), np.random.default_rng(0))
    assert "2)" in finding.seen and "of 64" in finding.seen


def test_an_output_that_is_not_finite_is_found():
    assert of_model.gives_finite_numbers(lambda xt, t: xt * np.nan, 20, (2,), np.random.default_rng(0)).seen == "not finite"


# learning and gradients


def test_data_of_bytes_or_out_of_scale_or_beyond_the_clip_are_found():
    x = np.random.default_rng(0).standard_normal((50, 2))
    for data in (np.uint8([[3, 4]]), 100 * x, 0.01 * x, np.abs(x), np.full((2, 2), np.nan)):
        assert learning.data_suit_the_noise(data, False)
    assert learning.data_suit_the_noise(x, True) and not learning.data_suit_the_noise(x, False)


def test_a_loss_below_its_floor_and_one_that_never_moved_are_found_and_one_between_is_not():
    data = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    what = {}
    for level in (0.01, 0.45, 1.0):
        losses = level * (1 + 0.05 * np.random.default_rng(1).standard_normal(400))
        finding = learning.loss_is_above_its_floor(losses, number(D.loss), data, D, np.random.default_rng(0))
        what[level] = finding and finding.what
    assert what == {0.01: "the loss is lower than possible", 0.45: None, 1.0: "the loss is stuck, or the run too short"}


@pytest.mark.parametrize("dtype, wrong", [(np.float64, 1.001), (np.float32, 1.1)])
def test_a_gradient_that_is_off_by_a_thousandth_in_float64_or_a_tenth_in_float32_is_found(dtype, wrong):
    w = np.random.default_rng(0).standard_normal((2, 2)).astype(dtype)
    eps = np.random.default_rng(1).standard_normal((4, 2)).astype(dtype)

    def model(xt, t):
        return np.tanh(xt @ w)

    def loss(model, x0, rng):
        return float(np.square(model(x0, None) - eps).mean())

    def gradient(factor):
        def compute(x0, rng):
            out = np.tanh(x0 @ w)
            return {"w": factor * x0.T @ (2 * (out - eps) * (1 - out**2)) / out.size}

        return compute

    x0 = np.random.default_rng(2).standard_normal((4, 2)).astype(dtype)
    more = dict(loss=loss, model=model, parameters={"w": w}, x0=x0)
    assert found(gradients.gradients_match_differences, gradient(1.0), **more) == 0
    assert found(gradients.gradients_match_differences, gradient(wrong), **more) == SEEDS
    assert found(gradients.gradients_match_differences, lambda x0, rng: {}, **more) == SEEDS


def test_a_checker_that_is_off_by_a_factor_is_found_and_ours_passes():
    from scratchdiff.gradcheck import central_difference

    def checker(f, gradient, x):
        unit = np.eye(len(x))
        numeric = np.array([central_difference(lambda h, e=e: f(x + h * e), 1e-3) for e in unit])
        return np.abs(numeric - gradient(x)).max() / np.abs(numeric).max()

    assert gradients.checker_can_fail(checker, np.random.default_rng(0)) is None
    assert gradients.checker_can_fail(lambda f, g, x: checker(f, g, x) / 10, np.random.default_rng(0))


def test_batch_norm_in_training_mode_is_found_and_low_precision_is_not():
    def batch_norm(xt, t):
        return (xt - xt.mean(0)) / (xt.std(0) + 1e-3)

    def low_precision(xt, t):
        return np.float16(xt * (1 if len(xt) > 1 else 1.0005)).astype(np.float32)

    assert found(of_model.answers_each_alone, batch_norm, 20, (2,)) == SEEDS
    assert found(of_model.answers_each_alone, low_precision, 20, (2,)) == 0
