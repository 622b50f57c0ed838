"""The bound against closed forms, the true likelihood of a mixture, and enumeration; its gradients against differences."""

import numpy as np
import pytest
from scipy import stats

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.diffusion.bound import prior_kl, step_nats, strata
from scratchdiff.diffusion.oracle import Oracle

LINEAR, SHORT = sd.linear_schedule(), sd.cosine_schedule(12)
LEARNED = sd.GaussianDiffusion(SHORT, variance="learned", images=True)
GRID = np.arange(256) / 127.5 - 1


def with_u(model, u):
    """The model with a second half of channels u: what variance="learned" reads as f = (u + 1)/2."""
    return lambda xt, t: np.concatenate([model(xt, t).data, np.full_like(xt, u)], -1)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_on_one_gaussian_every_term_is_the_closed_form(variance):
    # KL of two normal distributions, whose means differ by the coefficient of x0 times x0 − E[x0 | x_t]
    mean, std, N, s = 0.4, 0.7, 20_000, SHORT
    x0 = mean + std * np.random.default_rng(1).standard_normal((N, 1))
    diffusion = sd.GaussianDiffusion(s, predict="x0", variance=variance)
    best = Oracle(diffusion, np.array([[mean]]), std**2)
    got = diffusion.bound(with_u(best, 0.0) if variance == "learned" else best, x0, np.random.default_rng(0))

    a, before = s.alpha_bar[1:], s.alpha_bar[:-1]
    tilde = (1 - before) / (1 - a) * s.beta[1:]
    tilde[0] = tilde[1]  # at t = 1 the package takes the value of t = 2
    large, halfway = np.append(tilde[0], s.beta[2:]), np.sqrt(tilde * s.beta[1:])
    var = {"fixed_small": tilde, "fixed_large": large, "learned": halfway}[variance]
    error = (np.sqrt(before) * s.beta[1:] / (1 - a)) ** 2 * std**2 * (1 - a) / (a * std**2 + 1 - a)
    want = (np.log(var / tilde) + (tilde + error) / var - 1) / 2
    want[0] = (np.log(2 * np.pi * var[0]) + error[0] / var[0]) / 2
    want = np.append(want, (a[-1] * (mean**2 + std**2) - a[-1] - np.log1p(-a[-1])) / 2)
    spread = got.terms.std(0) / np.sqrt(N)
    assert (np.abs(got.nats - want) < 4.5 * spread + 1e-12).all()  # 13 terms: beyond 4.5 σ once in ten thousand runs
    assert got.bits_per_dim == pytest.approx(want.sum() / np.log(2), abs=4.5 * got.standard_error)


def test_on_a_mixture_the_bound_lies_above_the_true_value_and_comes_down_to_it_as_T_grows():
    rng, N = np.random.default_rng(2), 20_000

    def gap(T):
        diffusion = sd.GaussianDiffusion(sd.cosine_schedule(T), predict="v", variance="learned")
        oracle = Oracle(diffusion, np.array([[-1.0], [0.5]]), np.array([0.04, 0.16]), np.array([0.3, 0.7]))
        x0 = oracle.sample(N, rng)
        # u = 1: the variance β_t, also at t = 1; the fixed ones have β̃_2 there, and their gap stays (1.0 and 0.1 bits)
        got = diffusion.bound(with_u(oracle, 1.0), x0, rng)
        extra = (got.terms.sum(1) + oracle.log_prob(x0, 0)) / np.log(2)
        return extra.mean(), extra.std() / np.sqrt(N)

    gaps = [gap(T) for T in (4, 16, 64)]
    for (here, error), (further, further_error) in zip(gaps, gaps[1:]):
        assert here > 2 * further and here > 4 * error  # on one Gaussian the closed form's gap falls as 1/T
    assert -4 * further_error < further < 0.05 + 4 * further_error


def test_a_uniform_pixel_costs_eight_bits_and_a_little():
    # the best denoiser for 256 equally likely values; nothing can tell them in less than 8 bits
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(200), predict="x0", variance="fixed_large", images=True)
    got = diffusion.bound(Oracle(diffusion, GRID[:, None]), GRID[:, None], np.random.default_rng(0))
    assert 8 - 3 * got.standard_error < got.bits_per_dim < 8.5 and got.standard_error < 0.15


def test_whoever_knows_x0_pays_only_for_what_x_T_tells_of_it():
    x0 = np.full((3, 2, 2, 1), GRID[100])
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(1000), predict="x0", images=True)
    got = diffusion.bound(lambda xt, t: np.full_like(xt, GRID[100]), x0, np.random.default_rng(0), draws=10)
    np.testing.assert_allclose(got.terms[:, 1:-1], 0, atol=1e-12)
    outside = 2 * stats.norm.sf(1 / 255, scale=np.exp(diffusion.p_logvar[1] / 2))
    assert got.terms[:, 0] == pytest.approx(-4 * np.log1p(-outside), rel=1e-9)
    assert (got.terms[:, -1] > 0).all() and got.dims == 4


def test_for_the_linear_schedule_L_T_is_what_ho_reports():
    diffusion = sd.GaussianDiffusion(LINEAR, predict="x0")
    digits = sd.data.mnist()[0][:2000]
    got = diffusion.bound(lambda xt, t: np.zeros_like(xt), digits[:300], np.random.default_rng(0), draws=1)
    in_bits = got.nats[-1] / (784 * np.log(2))
    assert in_bits == pytest.approx(2.91e-5 * np.square(digits[:300]).mean(), rel=1e-2)
    assert 2.91e-5 * np.square(digits).mean() == pytest.approx(2.7e-5, rel=2e-2)
    # CIFAR-10 by its published moments in [0, 1]; the paper says "about 1e-5", its code 8e-6
    mean, std = 2 * np.array([0.4914, 0.4822, 0.4465]) - 1, 2 * np.array([0.247, 0.243, 0.262])
    two_points = np.stack([mean - std, mean + std])  # of the same mean and variance, which are all that L_T asks for
    assert prior_kl(diffusion, two_points).mean() / (3 * np.log(2)) == pytest.approx(8e-6, rel=0.1)


def constant(xt, t):
    """With predict="x0" this makes L_{t−1} the same for every x_t: nothing but t is left to chance."""
    return np.full_like(xt, 0.25)


def test_strata_cover_1_to_T_each_once():
    for T, k in ((1, 1), (5, 5), (12, 7), (1000, 1), (1000, 20), (1000, 999), (1000, 1000)):
        ends = strata(T, k)
        assert len(ends) == k + 1 and ends[0] == 0 and ends[-1] == T and (np.diff(ends) > 0).all()


def test_each_stratum_is_drawn_once_evenly_and_counts_for_as_many_steps_as_it_has():
    diffusion, x0 = sd.GaussianDiffusion(SHORT, predict="x0"), np.full((6000, 2), 0.5)
    want = diffusion.bound(constant, x0[:1], np.random.default_rng(0)).terms[0]
    got = diffusion.bound(constant, x0, np.random.default_rng(0), draws=4)
    ends = strata(12, 4)
    for low, high in zip(ends[:-1], ends[1:]):
        part = got.terms[:, low:high]  # column t − 1 for t = low + 1..high
        drawn = part != 0
        assert (drawn.sum(1) == 1).all()
        np.testing.assert_allclose(drawn.mean(0), 1 / (high - low), atol=4.5 * np.sqrt(0.25 / 6000))
        np.testing.assert_allclose(part[drawn], (high - low) * np.tile(want[low:high], (6000, 1))[drawn], rtol=1e-9)
    assert got.bits_per_dim == pytest.approx(want.sum() / (2 * np.log(2)), abs=4.5 * got.standard_error)


def test_labels_reach_the_network_beside_their_own_images():
    x0 = np.repeat(GRID[[0, 100, 200]], 4).reshape(3, 2, 2, 1)

    def knows(xt, t, labels):
        return np.broadcast_to(GRID[labels].reshape(-1, 1, 1, 1), xt.shape)

    diffusion = sd.GaussianDiffusion(SHORT, predict="x0", images=True)
    right = diffusion.bound(knows, x0, np.random.default_rng(0), labels=[0, 100, 200])
    wrong = diffusion.bound(knows, x0, np.random.default_rng(0), labels=[100, 200, 0])
    np.testing.assert_allclose(right.terms[:, 1:-1], 0, atol=1e-12)
    assert (wrong.terms[:, 1:-1] > 0.01).any(1).all()


# The losses made of it


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_the_gradient_of_L_vlb_matches_finite_differences(predict, images, rng):
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(3), predict=predict, variance="learned", images=images)
    x0 = rng.choice(GRID, (9, 2, 1))  # of nine draws from 1..3 some are t = 1
    out = 0.3 * rng.standard_normal((9, 2, 2))

    def f(out):
        return sd.vlb_loss(diffusion, lambda xt, t: out, x0, np.random.default_rng(5))

    assert sd.gradcheck(f, out) < 1e-7


def test_in_L_hybrid_the_mean_learns_from_L_simple_alone_and_the_variance_from_L_vlb_alone(rng):
    x0, start = rng.choice(GRID, (8, 3, 2)), 0.3 * rng.standard_normal((8, 3, 4))
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(5), predict="v", variance="learned", images=True)

    def gradient(loss):
        out = sd.Tensor(start)
        with sd.Tape() as tape:
            value = loss(lambda xt, t: out)
        tape.backward(value)
        return out.grad

    replay = np.random.default_rng(4)
    t, eps = replay.integers(1, 6, size=8), replay.standard_normal(x0.shape)
    hybrid = gradient(lambda model: diffusion.loss(model, x0, np.random.default_rng(4)))
    simple = gradient(lambda model: ops.mse(model(None, None)[..., :2], diffusion.target(x0, t, eps)))
    vlb = gradient(lambda model: sd.vlb_loss(diffusion, model, x0, np.random.default_rng(4)))
    np.testing.assert_array_equal(hybrid[..., :2], simple[..., :2])
    np.testing.assert_allclose(hybrid[..., 2:], 0.001 * vlb[..., 2:], rtol=1e-12)
    assert (vlb[..., :2] != 0).any()


@pytest.mark.parametrize("make", [sd.linear_schedule, sd.cosine_schedule, sd.jsd_schedule])
def test_in_float32_every_term_and_gradient_is_finite_at_both_ends(make):
    schedule = make()
    x0 = np.array([-1, 1, GRID[7], GRID[200]], np.float32).reshape(1, 4, 1)
    diffusion = sd.GaussianDiffusion(schedule, predict="v", variance="learned", images=True)
    for t in (1, 2, schedule.T):
        xt = diffusion.q_sample(x0, t, np.full_like(x0, 0.5))
        for size in (0.0, 3.0, -3.0):
            out = sd.Tensor(np.full((1, 4, 2), size, np.float32))
            with sd.Tape() as tape:
                v, logvar = diffusion.split_output(out, xt, np.array([t]))
                nats = step_nats(diffusion, diffusion.predict_x0(xt, t, v), logvar, x0, xt, np.array([t]))
                loss = nats.sum()
            tape.backward(loss)
            assert nats.dtype == np.float32 and np.isfinite(nats.data).all() and np.isfinite(out.grad).all()


def test_L_vlb_with_uniform_t_estimates_the_whole_bound_but_L_T():
    diffusion, x0 = sd.GaussianDiffusion(SHORT, predict="x0"), np.full((40_000, 2), 0.5)
    want = diffusion.bound(constant, x0[:1], np.random.default_rng(0)).nats[:-1].sum() / (2 * np.log(2))
    got = sd.vlb_loss(diffusion, constant, x0, np.random.default_rng(1)).item()
    assert got == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize("call, message", [
    (lambda d, rng: d.bound(constant, np.full((2, 3), 0.3), rng), "bound: images must have 8-bit values .* 0.3"),
    (lambda d, rng: d.bound(constant, np.full((2, 3), 257 / 127.5 - 1), rng), "bound: images must have 8-bit values"),
    (lambda d, rng: sd.vlb_loss(d, constant, np.full((2, 3), 0.3), rng), "vlb_loss: images must have 8-bit values"),
    (lambda d, rng: d.bound(constant, np.ones((2, 3)), rng, draws=0), "bound: draws must lie in 1..12, got 0"),
    (lambda d, rng: d.bound(constant, np.ones((2, 3)), rng, draws=13), "bound: draws must lie in 1..12, got 13"),
    (lambda d, rng: d.bound(constant, np.ones((0, 3)), rng), r"bound: x0 must be finite floats"),
    (lambda d, rng: LEARNED.bound(constant, np.ones((2, 3)), rng), "'learned' needs a network with 6 output channels"),
    (lambda d, rng: LEARNED.loss(lambda x, t: np.zeros((2, 6)), np.full((2, 3), 0.3), rng), "loss: images must have 8-bit"),
])  # fmt: skip
def test_bad_input_is_refused_by_name(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(sd.GaussianDiffusion(SHORT, predict="x0", images=True), rng)
