"""The oracle against SciPy's densities, quadrature of Bayes' rule, finite differences, and losses that are only measured."""

import numpy as np
import pytest
from scipy import stats

import scratchdiff as sd

LINEAR = sd.linear_schedule()
MEANS = np.array([[1.0, 0.5], [-0.8, -1.0], [0.3, -0.2]])
WEIGHTS = np.array([0.2, 0.3, 0.5])
COVS = {
    "full": np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.1, -0.05], [-0.05, 0.4]], [[0.2, 0.0], [0.0, 0.02]]]),
    "round": np.array([0.1, 0.4, 0.02]),
    "points": 0.0,
}


def oracle(cov="full", predict="eps", schedule=LINEAR):
    return sd.Oracle(sd.GaussianDiffusion(schedule, predict=predict), MEANS, COVS[cov], WEIGHTS)


def as_matrices(cov):
    return cov if np.ndim(cov) == 3 else np.broadcast_to(cov, 3)[:, None, None] * np.eye(2)


@pytest.mark.parametrize("cov", COVS)
@pytest.mark.parametrize("t", [1, 300, 1000])
def test_log_prob_is_that_of_scipys_normals(cov, t, rng):
    x, ab = rng.standard_normal((6, 2)), LINEAR.alpha_bar[t]
    normals = [stats.multivariate_normal(np.sqrt(ab) * m, ab * c + (1 - ab) * np.eye(2))
               for m, c in zip(MEANS, as_matrices(COVS[cov]))]  # fmt: skip
    truth = np.logaddexp.reduce([np.log(w) + p.logpdf(x) for w, p in zip(WEIGHTS, normals)])
    np.testing.assert_allclose(oracle(cov).log_prob(x, t), truth, rtol=1e-9)


def test_at_t_0_the_density_is_that_of_the_data(rng):
    x = rng.standard_normal((5, 2))
    truth = sum(w * stats.multivariate_normal(m, c).pdf(x) for w, m, c in zip(WEIGHTS, MEANS, COVS["full"]))
    np.testing.assert_allclose(np.exp(oracle().log_prob(x, 0)), truth, rtol=1e-9)


@pytest.mark.parametrize("cov", COVS)
@pytest.mark.parametrize("t", [40, 300.5, 1000])
def test_the_score_is_the_gradient_of_log_p(cov, t, rng):
    x, o, h = rng.standard_normal((4, 2)), oracle(cov), 1e-5
    slopes = [(o.log_prob(x + h * e, t) - o.log_prob(x - h * e, t)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(o.score(x, t), np.stack(slopes, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("t", [100, 500])
def test_the_posterior_mean_is_bayes_rule_on_a_grid(t):
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR), [[0.7], [-0.9]], [0.05, 0.3], [0.3, 0.7])
    x0, ab, x = np.linspace(-8, 8, 80_001), LINEAR.alpha_bar[t], 0.4
    prior = 0.3 * stats.norm.pdf(x0, 0.7, np.sqrt(0.05)) + 0.7 * stats.norm.pdf(x0, -0.9, np.sqrt(0.3))
    p = prior * stats.norm.pdf(x, np.sqrt(ab) * x0, np.sqrt(1 - ab))
    assert o.x0(np.full((1, 1), x), t).item() == pytest.approx((p * x0).sum() / p.sum(), abs=1e-9)


def test_round_and_full_covariances_agree(rng):
    x, t, v = rng.standard_normal((5, 2)), np.array([1, 10, 300, 600, 1000]), rng.standard_normal((5, 2))
    for cov in ("round", "points"):
        a = oracle(cov)
        b = sd.Oracle(a.diffusion, MEANS, as_matrices(COVS[cov]), WEIGHTS)
        for f in (lambda o: o.log_prob(x, t), lambda o: o.x0(x, t), lambda o: o.posterior(x, t).cov_times(v)):
            np.testing.assert_allclose(f(a), f(b), atol=1e-9)


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("cov", COVS)
def test_the_tape_differentiates_the_oracle(predict, cov, rng):
    o, t = oracle(cov, predict), np.array([3, 200.5, 400, 1000])
    assert sd.gradcheck(lambda x: o(x, t), rng.standard_normal((4, 2))) < 1e-7


@pytest.mark.filterwarnings("ignore:Schedule")  # its one step leaves x_T far from noise, which no loss minds
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_the_loss_of_the_oracle_is_the_floor_and_any_other_model_is_above(predict, rng):
    # Algorithm 1's own loss, at one step: the other steps of this schedule would blur the figure
    schedule = sd.Schedule([0.4])
    o = oracle("full", predict, schedule)
    x0 = o.sample(100_000, rng)
    losses = [o.diffusion.loss(f, x0, np.random.default_rng(1)).item() for f in (o, lambda x, t: o(x, t).data + 0.1)]
    # two means over 10⁵ draws of a square of spread ~1.5: each within 0.005 in 68 % of cases
    assert losses[0] == pytest.approx(o.floor(1, 100_000, rng), abs=0.02)
    assert losses[1] - losses[0] == pytest.approx(0.01, abs=0.003)


def test_the_loss_at_one_step_replays_algorithm_1(rng):
    diffusion, x0 = sd.GaussianDiffusion(LINEAR, predict="v"), rng.standard_normal((5, 2))
    eps = np.random.default_rng(3).standard_normal((5, 2))
    a, s = np.sqrt(LINEAR.alpha_bar[70]), np.sqrt(1 - LINEAR.alpha_bar[70])
    expected = np.square(a * eps - s * x0 - 0.5 * (a * x0 + s * eps)).mean()
    got = sd.diffusion.loss_at(diffusion, lambda xt, t: 0.5 * xt, x0, 70, np.random.default_rng(3))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_the_floor_of_one_gaussian_is_exact(predict, rng):
    diffusion = sd.GaussianDiffusion(LINEAR, predict=predict)
    one = sd.Oracle(diffusion, MEANS[:1], COVS["full"][:1])
    same_twice = sd.Oracle(diffusion, MEANS[[0, 0]], COVS["full"][[0, 0]])
    for t in (1, 200, 1000):  # the sampled floor of two equal halves: 4·10⁴ numbers, so within 3 %, at five sigma
        assert same_twice.floor(t, 20_000, rng) == pytest.approx(one.floor(t), rel=0.04)


def test_draws_have_the_moments_of_the_mixture(rng):
    x, n = oracle().sample(40_000, rng), 40_000
    mean = WEIGHTS @ MEANS
    cov = np.einsum("k,kij->ij", WEIGHTS, COVS["full"]) + (WEIGHTS * (MEANS - mean).T) @ (MEANS - mean)
    np.testing.assert_allclose(x.mean(0), mean, atol=5 / np.sqrt(n))
    np.testing.assert_allclose(np.cov(x.T), cov, atol=8 / np.sqrt(n))


def test_a_finite_data_set_of_images_gives_images_back(rng):
    images = rng.uniform(-1, 1, (7, 4, 4, 1))
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR, predict="v"), images)
    x = sd.sample_ddim(o.diffusion, o, (5, 4, 4, 1), rng, steps=50)
    nearest = np.abs(x[:, None] - images).max((2, 3, 4)).min(1)
    assert (nearest < 1e-6).all()
    assert o(images.astype(np.float32), np.full(7, 5)).dtype == np.float32


def test_at_whole_steps_sigma_is_that_of_alpha_bar_and_time_undoes_it():
    t = np.arange(1, 1001)
    np.testing.assert_allclose(LINEAR.sigma(t) ** 2, (1 - LINEAR.alpha_bar[1:]) / LINEAR.alpha_bar[1:], rtol=1e-12)
    between = np.linspace(1, 1000, 777)
    np.testing.assert_allclose(LINEAR.time(LINEAR.sigma(between)), between, rtol=1e-10)


def test_a_real_t_that_is_whole_is_that_step(rng):
    x, out = rng.standard_normal((2, 3, 2))
    for predict in ("eps", "x0", "v"):
        d = sd.GaussianDiffusion(LINEAR, predict=predict)
        for f in (d.predict_x0, d.target):  # both take (array, t, array)
            np.testing.assert_allclose(f(x, 300.0, out), f(x, 300, out), rtol=1e-12)


@pytest.mark.parametrize("call, message", [
    (lambda o: sd.Oracle(o.diffusion, np.zeros(3)), r"Oracle: needs means .* got \(3,\)"),
    (lambda o: sd.Oracle(o.diffusion, MEANS, np.ones((2, 2))), r"got \(3, 2\), \(2, 2\)"),
    (lambda o: sd.Oracle(o.diffusion, MEANS, -1.0), "must not be negative, got -1.0"),
    (lambda o: sd.Oracle(o.diffusion, MEANS, 1.0, [1, -1, 1]), "must not be negative"),
    (lambda o: o.x0(np.zeros((2, 3)), 1), r"x must be \(N, 2\), got \(2, 3\)"),
    (lambda o: o.floor(5), "floor: several components need draws"),
    (lambda o: o.x0(np.zeros((2, 2)), 0.5), r"t must be a number or \(2,\) numbers in \[1, 1000\], got float64 0.5"),
])  # fmt: skip
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(oracle())


@pytest.mark.parametrize("cov", ["full", "round"])
def test_the_posterior_given_a_measurement_is_that_of_importance_weighting(cov, rng):
    o, A, y, noise = oracle(cov), np.array([[1.0, 0.5], [0.2, -1.0], [0.0, 0.3]]), np.array([0.4, 0.1, -0.2]), 0.5
    x = o.sample(400_000, rng)
    weight = np.exp(-0.5 * np.square(y - x @ A.T).sum(1) / noise**2)
    weight /= weight.sum()
    mean = weight @ x
    second = (weight[:, None] * x).T @ x
    exact = o.given(A, y, noise)
    np.testing.assert_allclose(exact.weights @ exact.means, mean, atol=0.004)
    spread = np.einsum("kij,kj,klj->kil", exact.axes, exact.lam, exact.axes)
    exact_second = np.einsum("k,kil->il", exact.weights, spread + exact.means[:, :, None] * exact.means[:, None])
    np.testing.assert_allclose(exact_second, second, atol=0.006)


def test_the_posterior_density_is_bayes_rule_up_to_a_constant(rng):
    o, A, y, noise, x = oracle("full"), np.array([[1.0, 0.5]]), np.array([0.4]), 0.2, rng.standard_normal((6, 2))
    log_bayes = o.log_prob(x, 0) - 0.5 * np.square(y - x @ A.T).sum(1) / noise**2
    difference = o.given(A, y, noise).log_prob(x, 0) - log_bayes
    np.testing.assert_allclose(difference, difference[0], atol=1e-8)


def test_what_is_measured_without_noise_is_certain(rng):
    x = oracle("full").given([[1.0, 0.0]], [0.3], 0.0).sample(50, rng)
    np.testing.assert_allclose(x[:, 0], 0.3, atol=1e-7)
    assert x[:, 1].std() > 0.1
