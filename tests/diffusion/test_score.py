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


W, U = np.random.default_rng(8).standard_normal((2, 3, 3))


def curved(x, sigma):
    """A score whose Jacobian is known: s = tanh(x W) U/σ, so tr ∂s/∂x = Σ_k (1 − tanh²_k) (U W)_kk/σ."""
    return sd.ops.tanh(x @ sd.Tensor(W)) @ sd.Tensor(U) / sigma[:, None]


def test_the_loss_by_the_trace_is_the_one_with_the_trace_written_out_and_so_is_its_gradient(rng):
    x0, sigmas = rng.standard_normal((6, 3)), [1.0, 0.1]

    def written_out(w, u):
        _, sigma, scale, z = rooms.noised("", x0, sigmas, np.random.default_rng(3))
        h = sd.ops.tanh((x0 + scale * z) @ w)
        trace = ((1 - h * h) * (u.T * w).sum(0) / scale).sum(1)
        s = h @ u / scale
        return (sigma**2 * (trace + 0.5 * (s * s).sum(1))).mean() + 1.5

    def by_differences(w, u):
        return sd.ism_loss(lambda x, sigma: sd.ops.tanh(x @ w) @ u / sigma[:, None], x0, sigmas, np.random.default_rng(3))

    found = []
    for loss in (written_out, by_differences):
        w, u = sd.Tensor(W), sd.Tensor(U.T @ W)
        with sd.Tape() as tape:
            value = loss(w, u)
        tape.backward(value)
        found.append((value.item(), w.grad, u.grad))
    for want, got in zip(*found):
        np.testing.assert_allclose(got, want, rtol=1e-7)
    assert sd.gradcheck(by_differences, W, U) < 1e-6  # differences of differences: the two lines above are sharper


def test_the_three_losses_have_one_mean(rng):
    x0, sigmas = rng.standard_normal((50_000, 3)), [2.0, 0.5]
    dsm, ism, ssm = (
        loss(curved, x0, sigmas, np.random.default_rng(4)).item() for loss in (sd.dsm_loss, sd.ism_loss, sd.ssm_loss)
    )
    assert dsm == pytest.approx(ism, abs=0.02)  # the standard errors are below 0.008
    assert ssm == pytest.approx(ism, abs=0.02)
    assert abs(ism - 1.5) > 0.5  # the terms that depend on the model are not small


def test_slices_in_every_direction_add_up_to_the_trace():
    x0 = np.tile([[0.3, -0.2, 0.5]], (8, 1))
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, 8).T  # the mean of v vᵀ over these is the identity

    class Replay:
        def choice(self, values, size):
            return signs[None] if size == (1, 8, 3) else np.full(size, values[0])

        def standard_normal(self, shape):
            return np.zeros(shape)

    trace, slices = (loss(curved, x0, [0.7], Replay()).item() for loss in (sd.ism_loss, sd.ssm_loss))
    assert slices == pytest.approx(trace, rel=1e-9)


def test_langevin_dynamics_at_one_level_has_that_levels_density_as_its_stationary_law():
    x = end(
        lambda x, s: -x / (1 + s**2), [1.0], (20_000, 1), np.random.default_rng(0), step=0.02, per_level=600, denoise=False
    )
    # one step of size α multiplies x by 1 − α/2v and adds α: the variance settles at v/(1 − α/4v)
    settled = 2.0 / (1 - 0.02 / (4 * 2))
    assert x.var() == pytest.approx(settled, rel=4.5 * np.sqrt(2 / 20_000))


def share_on_the_right(sigma, start_std):
    """Where a walker from N(0, start_std²) ends, left or right, if it never crosses again, for noise level σ.

    The chance h(x) to reach the right mode first solves ½ h'' + ½ s h' = 0, so h' ∝ 1/p: high where p is low."""
    x = np.linspace(*MEANS, 20_001)
    p = WEIGHTS @ stats.norm.pdf(x, MEANS[:, None], np.hypot(STD, sigma))
    h = np.cumsum(1 / p) / np.sum(1 / p)
    start = stats.norm.pdf(x, 0, start_std)
    return (h * start).sum() / start.sum()


def test_one_noise_level_gets_the_weights_of_the_modes_wrong_by_the_factor_that_theory_states():
    want = share_on_the_right(0.1, 0.1)  # the first x has the standard deviation of the level
    x = end(mixture_score, [0.1], (4000, 1), np.random.default_rng(3), step=1e-3, per_level=400)
    share = (x > 0).mean()
    assert share == pytest.approx(want, abs=2.6 * np.sqrt(0.25 / 4000))
    assert want == pytest.approx(0.633, abs=1e-3)  # odds of 1.73 where the weights say 4: wrong by a factor of 0.43


def test_the_ladder_gets_the_weights_of_the_modes_right():
    ladder = sd.geometric_sigmas(8, 0.1, 12)
    x = end(mixture_score, ladder, (4000, 1), np.random.default_rng(3), step=3e-3, per_level=80)
    assert (x > 0).mean() == pytest.approx(0.8, abs=0.03)  # a finite ladder leaves 0.01 to 0.02


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
    assert sd.first_sigma(data) == pytest.approx(want)
    for dims in (5, 784, 3072):
        gamma = sd.ratio_for_overlap(dims)
        assert gamma > 1 and rooms.overlap(gamma, dims) == pytest.approx(0.5, abs=1e-9)


def test_the_choices_are_those_of_the_published_ladder_for_cifar_10():
    # Song & Ermon 2020 take 232 levels from 50 to 0.01 and, with 5 steps at each, ε = 6.2e-6, half of our step
    assert sd.step_for_ladder(sd.geometric_sigmas(50, 0.01, 232), 5) / 2 == pytest.approx(6.2e-6, rel=0.01)
    published = 5000 ** (1 / 231)
    assert rooms.overlap(published, 3072) == pytest.approx(0.5, abs=0.1)


def test_the_step_for_a_ladder_leaves_the_least_noise_above_each_level():
    sigmas, per_level = sd.geometric_sigmas(10, 1, 10), 5
    step = sd.step_for_ladder(sigmas, per_level)

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
    (lambda: sd.ism_loss(lambda x, s: x, np.ones((2, 3)), [1.0], np.random.default_rng(0)), "ism_loss: .* a Tensor"),
    (lambda: sd.ssm_loss(lambda x, s: sd.Tensor(x[1:]), np.ones((2, 3)), [1.0], np.random.default_rng(0)), "ssm_loss"),
    (lambda: sd.ratio_for_overlap(4), "dims must be at least 5, got 4"),
    (lambda: sd.annealed_langevin_steps(mixture_score, [0.1, 1.0], (2, 1), None), "go down"),
    (lambda: sd.annealed_langevin_steps(mixture_score, [1.0], (2, 1), None, step=0), "step must be positive, got 0"),
])  # fmt: skip
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
