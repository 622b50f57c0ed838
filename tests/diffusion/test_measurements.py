"""Sampling given a measurement: against exact posteriors of mixtures, finite differences, and the papers' formulas."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.diffusion.measurements import blurred, downsampled, matrix_of, misfit
from scratchdiff.diffusion.samplers import last

DIFFUSION = sd.GaussianDiffusion(sd.cosine_schedule())
COV = np.array([[0.5, 0.3], [0.3, 0.4]])


def first(x):
    return x[:, :1]


def test_known_pixels_come_out_exactly_and_unknown_ones_do_not(rng):
    oracle = sd.Oracle(DIFFUSION, np.zeros((1, 2, 2, 1)), 0.5)
    known, mask = rng.standard_normal((3, 2, 2, 1)), np.array([[1, 0], [0, 1]])[..., None]
    for step in sd.inpaint_steps(DIFFUSION, oracle, known, mask, rng, steps=10):
        pass
    assert step.t == 0 and np.array_equal(step.x[:, mask == 1], known[:, mask == 1])
    assert np.abs(step.x - known)[:, mask == 0].min() > 1e-3


def test_at_every_step_the_known_pixels_are_draws_of_their_marginal(rng):
    oracle, known = sd.Oracle(DIFFUSION, np.zeros((1, 2)), 0.5), np.full((4000, 2), 1.5)
    for t, x, _ in sd.inpaint_steps(DIFFUSION, oracle, known, [1, 0], rng, steps=10, resample=2):
        mean, deviation = np.sqrt(DIFFUSION.schedule.alpha_bar[t]) * 1.5, np.sqrt(1 - DIFFUSION.schedule.alpha_bar[t])
        assert x[:, 0].mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(4000))
        assert x[:, 0].std() == pytest.approx(deviation, rel=0.06)


def test_if_nothing_is_known_it_is_ancestral_sampling_and_if_all_is_it_is_the_known(rng):
    oracle, shape = sd.Oracle(DIFFUSION, np.zeros((1, 2)), COV[None]), (4, 2)
    known = rng.standard_normal(shape)
    x = last(sd.inpaint_steps(DIFFUSION, oracle, known, np.zeros(2, bool), Halved(1), steps=20)).x
    np.testing.assert_allclose(x, sd.sample_ddpm(DIFFUSION, oracle, shape, Halved(1, every=1), steps=20), atol=1e-12)
    assert np.array_equal(last(sd.inpaint_steps(DIFFUSION, oracle, known, True, rng, steps=3)).x, known)


class Halved:
    """A generator's draws at the first call and at every `every`-th; zeros between, where inpainting draws for the known."""

    def __init__(self, seed, every=2):
        self.rng, self.every, self.asked = np.random.default_rng(seed), every, 0

    def standard_normal(self, shape):
        self.asked += 1
        counts = self.every == 1 or self.asked == 1 or self.asked % 2 == 0
        return self.rng.standard_normal(shape) if counts else np.zeros(shape)


def test_the_network_is_asked_as_often_as_the_docstring_says():
    asked = []

    def model(xt, t):
        asked.append(t[0])
        return np.zeros_like(xt)

    last(sd.inpaint_steps(DIFFUSION, model, np.zeros((1, 2)), [1, 0], np.random.default_rng(0), steps=7, resample=4))
    assert len(asked) == 4 * 6 + 1 and asked[:4] == [1000] * 4


def test_replacement_is_biased_and_resampling_mends_most_of_it():
    # one correlated normal: E[x_2 | x_1 = 1.2] = 0.72; replacement alone moves x_2 by less, since it sees x_1 late
    oracle, rng = sd.Oracle(DIFFUSION, np.zeros((1, 2)), COV[None]), np.random.default_rng(0)
    known = np.tile([1.2, 0.0], (4000, 1))
    means = []
    for resample in (1, 10):
        x = last(sd.inpaint_steps(DIFFUSION, oracle, known, [1, 0], rng, steps=20, resample=resample)).x
        means.append(x[:, 1].mean())
    assert abs(means[0] - 0.72) > 0.2 and abs(means[1] - 0.72) < 0.08


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_reconstruction_guidance_without_noise_is_equation_7_of_ho_et_al(predict, rng):
    diffusion = sd.GaussianDiffusion(sd.linear_schedule(), predict)
    oracle, x, y, t, h = sd.Oracle(diffusion, np.ones((1, 2)), COV[None]), rng.standard_normal((3, 2)), 0.7, 300, 1e-6
    out = sd.reconstruction_guided(diffusion, oracle, first, y, weight=1.5)(x, np.full(3, t))

    def square(x):
        return (y - oracle.x0(x, t)[:, 0]) ** 2

    slope = np.stack([(square(x + h * e) - square(x - h * e)) / (2 * h) for e in np.eye(2)], 1)
    want = oracle.x0(x, t) - 1.5 * diffusion.sqrt_alpha_bar[t] / 2 * slope
    np.testing.assert_allclose(diffusion.predict_x0(x, t, out), want, atol=1e-8)


def test_reconstruction_guidance_is_exact_where_its_assumption_holds(rng):
    # data N(0, λ I): p(x_0 | x_t) is normal with variance λ s²/(a²λ + s²) = σ_t²/weight for weight = 1 + λ/σ_t², at one t
    lam, noise, t = 0.6, 0.3, 500
    oracle, x, y = sd.Oracle(DIFFUSION, np.zeros((1, 2)), lam), rng.standard_normal((4, 2)), np.array([0.9])
    sigma = DIFFUSION.schedule.sigma(t)
    out = sd.reconstruction_guided(DIFFUSION, oracle, first, y, noise, weight=1 + sigma**2 / lam)(x, np.full(4, t))
    truth = oracle.given([[1.0, 0.0]], y, noise)
    np.testing.assert_allclose(out, truth(x, np.full(4, t)), atol=1e-9)


def test_a_dps_step_is_the_ancestral_one_less_the_normalised_gradient(rng):
    oracle, y, h = sd.Oracle(DIFFUSION, np.ones((1, 2)), COV[None]), np.array([[0.7], [2.0], [-1.0]]), 1e-6
    guided = next(sd.dps_steps(DIFFUSION, oracle, first, y, (3, 2), np.random.default_rng(2), steps=10, scale=0.4)).x
    plain = next(sd.ddpm_steps(DIFFUSION, oracle, (3, 2), np.random.default_rng(2), steps=10)).x
    xT = np.random.default_rng(2).standard_normal((3, 2))

    def length(x):
        return np.abs(y[:, 0] - oracle.x0(x, 1000)[:, 0])

    slope = np.stack([(length(xT + h * e) - length(xT - h * e)) / (2 * h) for e in np.eye(2)], 1)
    np.testing.assert_allclose(guided, plain - 0.4 * 2 * slope, atol=1e-7)  # ∇‖r‖² = 2 ‖r‖ ∇‖r‖


def test_every_sampler_takes_a_model_that_is_given_a_measurement(rng):
    oracle = sd.Oracle(DIFFUSION, np.zeros((1, 2)), COV[None])
    model = sd.reconstruction_guided(DIFFUSION, oracle, first, 1.0, noise=0.1, weight=4.0)
    for sampler in sd.SAMPLERS.values():
        settings = dict(steps=20) if sampler.takes_steps else dict(rtol=0.05)
        x = last(sampler.run(DIFFUSION, model, (50, 2), rng, **settings)).x
        assert x[:, 0].mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("images", [False, True])
def test_the_misfit_and_its_gradient_through_a_network_match_finite_differences(images, rng):
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(), "v", images=images)
    net = sd.MLP(dim=3, width=8, num_blocks=1, rng=rng, dtype=np.float64)
    for p in net.parameters().values():
        p.data = 0.3 * rng.standard_normal(p.shape)
    x, t, A, y = rng.standard_normal((4, 3)), np.array([1, 50, 400, 990]), rng.standard_normal((3, 2)), np.ones(2)
    out, square, slope = misfit(diffusion, net, lambda x: x @ A, y, x, t)
    np.testing.assert_allclose(out, net(x, t).data)
    x0 = diffusion.predict_x0(x, t, out)
    np.testing.assert_allclose(square, np.square(x0 @ A - y).sum(1))
    for i, e in enumerate(np.eye(3)):
        up, down = (misfit(diffusion, net, lambda x: x @ A, y, x + h * e, t)[1] for h in (1e-6, -1e-6))
        np.testing.assert_allclose(slope[:, i], (up - down) / 2e-6, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("operator", [lambda x: downsampled(x, 2), lambda x: blurred(x, 0.7), lambda x: x[:, 1:, ::2]])
def test_an_operators_matrix_is_the_operator_and_the_tapes_gradient_its_transpose(operator, rng):
    x = rng.standard_normal((3, 4, 6, 2))
    A = matrix_of(operator, x.shape[1:])
    np.testing.assert_allclose(operator(sd.Tensor(x)).data.reshape(3, -1), x.reshape(3, -1) @ A.T, atol=1e-12)
    assert sd.gradcheck(operator, x) < 1e-7
    xs, dy = sd.Tensor(x), rng.standard_normal((3, len(A)))
    with sd.Tape() as tape:
        loss = (operator(xs).reshape(3, -1) * dy).sum()
    tape.backward(loss)
    np.testing.assert_allclose(xs.grad.reshape(3, -1), dy @ A, atol=1e-12)


def test_the_blur_is_scipys_and_its_own_transpose(rng):
    x = rng.standard_normal((9, 11))
    want = gaussian_filter(x, 0.7, mode="constant", radius=3)
    np.testing.assert_allclose(blurred(x[None, ..., None], 0.7).data[0, ..., 0], want, atol=1e-12)
    A = matrix_of(lambda x: blurred(x, 0.7), (5, 4, 1))
    np.testing.assert_allclose(A, A.T, atol=1e-15)


def test_downsampling_by_four_is_the_mean_of_sixteen_pixels(rng):
    x = rng.standard_normal((2, 8, 4, 3))
    assert ops.mean(x[1, 4:, :, 2]).item() == pytest.approx(downsampled(x, 4).data[1, 1, 0, 2], abs=1e-15)
