"""Diffusion over bits against enumeration, Bayes' rule and the entropy of heartbeats."""

import itertools

import numpy as np
import pytest

import scratchdiff as sd

SEQUENCES = np.array([np.arange(10) % 5 == k for k in range(5)], float)


def exact(diffusion, sequences):
    """The best factorised reverse step for equally likely sequences: logits of P(x_{t−1,d} = 1 | x_t)."""

    def model(xt, t):
        t = int(t[0])
        chance = diffusion.q_marginal(sequences, t)  # (K, D)
        log = (xt @ np.log(chance).T) + (1 - xt) @ np.log(1 - chance).T
        weight = np.exp(log - log.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        each = [diffusion.q_posterior(np.tile(s, (len(xt), 1)), xt, t) for s in sequences]
        p = np.clip(np.einsum("nk,knd->nd", weight, each), 1e-12, 1 - 1e-12)
        return np.log(p / (1 - p))

    return model


def test_steps_compose_to_the_closed_form_and_end_in_fair_coins():
    diffusion, p = sd.BinomialDiffusion(50), 1.0
    for t in range(1, 51):
        p = p * (1 - diffusion.beta[t]) + 0.5 * diffusion.beta[t]
        assert p == pytest.approx(diffusion.q_marginal(1.0, t))
    assert diffusion.q_marginal(np.array([0.0, 1.0]), 50) == pytest.approx([0.5, 0.5])


def test_draws_have_the_marginal_probability(rng):
    diffusion, x0 = sd.BinomialDiffusion(10), np.repeat([[0.0, 1.0]], 20_000, axis=0)
    for t in (1, 4, 10):
        np.testing.assert_allclose(
            diffusion.q_sample(x0, t, rng).mean(0), diffusion.q_marginal(x0[0], t), atol=4.5 * 0.5 / np.sqrt(20_000)
        )


@pytest.mark.parametrize("t", [1, 2, 7, 10])
def test_the_posterior_is_bayes_rule_by_enumeration(t):
    diffusion = sd.BinomialDiffusion(10)

    def step(after, before):
        one = before * (1 - diffusion.beta[t]) + 0.5 * diffusion.beta[t]
        return one if after else 1 - one

    for x0, xt in itertools.product((0.0, 1.0), repeat=2):
        prior = x0 * (1 - (t - 1) / 10) + 0.5 * (t - 1) / 10
        joint = [step(xt, b) * (prior if b else 1 - prior) for b in (0.0, 1.0)]
        if sum(joint) > 0:
            assert diffusion.q_posterior([[x0]], [[xt]], t).item() == pytest.approx(joint[1] / sum(joint))


def test_the_gradient_of_the_loss_matches_finite_differences(rng):
    diffusion, x0 = sd.BinomialDiffusion(5), sd.data.heartbeats(6, rng, length=4, period=2)
    f = lambda w: diffusion.loss(lambda xt, t: xt @ w, x0, np.random.default_rng(3))  # noqa: E731
    assert sd.gradcheck(f, rng.standard_normal((4, 4))) < 1e-7


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_never_below_the_entropy_with_right_and_wrong_models(seed):
    rng, diffusion = np.random.default_rng(seed), sd.BinomialDiffusion(60)
    x0 = SEQUENCES[rng.integers(5, size=400)]
    w = rng.standard_normal((10, 10))
    best = exact(diffusion, SEQUENCES)
    for model in (best, lambda xt, t: best(xt, t) + 0.5, lambda xt, t: xt @ w):
        bound = diffusion.bound(model, x0, rng)
        assert bound.bits_per_dim > (np.log2(5) - 4 * 10 * bound.standard_error) / 10


def test_the_exact_reverse_step_comes_near_the_entropy_and_draws_only_heartbeats(rng):
    diffusion = sd.BinomialDiffusion(400)
    model = exact(diffusion, SEQUENCES)
    bound = diffusion.bound(model, SEQUENCES[rng.integers(5, size=300)], rng)
    assert np.log2(5) < bound.bits_per_dim * 10 + 4 * 10 * bound.standard_error < np.log2(5) + 0.4
    x = diffusion.sample(model, (200, 10), rng)
    is_heartbeat = (x[:, None] == SEQUENCES).all(2).any(1)
    assert is_heartbeat.mean() > 0.97


def test_the_loss_estimates_the_bound(rng):
    diffusion, x0 = sd.BinomialDiffusion(20), np.tile(SEQUENCES, (400, 1))
    model = lambda xt, t: 0.3 * xt - 0.1  # noqa: E731
    bound = diffusion.bound(model, x0, rng)
    loss = np.mean([diffusion.loss(model, x0, rng).item() for _ in range(20)])
    assert loss == pytest.approx(bound.bits_per_dim * np.log(2), rel=0.03)


def test_heartbeats_are_five_sequences_of_equal_frequency(rng):
    x = sd.data.heartbeats(5000, rng)
    kinds, counts = np.unique(x, axis=0, return_counts=True)
    assert x.shape == (5000, 20) and len(kinds) == 5 and (x.sum(1) == 4).all()
    np.testing.assert_allclose(counts / 5000, 0.2, atol=0.03)


@pytest.mark.parametrize("x", [
    np.full((2, 3), 0.5), np.full((2, 3), -1), np.full((2, 3), 2), np.full((2, 3), np.nan), np.full((2, 3), 1j),
    np.full((2, 3), "1"), np.zeros(3), np.zeros((2, 3, 1)), np.zeros((0, 3)), 1.0,
], ids=lambda x: f"{np.asarray(x).dtype}{np.shape(x)}")  # fmt: skip
@pytest.mark.parametrize("method", ["q_sample", "q_posterior", "loss", "bound"])
def test_anything_but_bits_is_refused(method, x, rng):
    d = sd.BinomialDiffusion(10)
    zeros = lambda x, t: np.zeros_like(x)  # noqa: E731
    arguments = {"q_sample": (x, 1, rng), "q_posterior": (x, x, 1), "loss": (zeros, x, rng), "bound": (zeros, x, rng)}
    with pytest.raises(ValueError, match=f"{method}: x must be bits"):
        getattr(d, method)(*arguments[method])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_bits_of_any_kind_are_taken(dtype, rng):
    d, x = sd.BinomialDiffusion(10), SEQUENCES.astype(dtype)
    assert np.isfinite(d.loss(lambda xt, t: 0.1 * xt, x, rng).item())
    assert set(np.unique(d.q_sample(x, 5, rng))) <= {0, 1}


@pytest.mark.parametrize("call, message", [
    (lambda d, rng: d.q_sample(np.zeros((2, 3)), 0, rng), "t must lie in 1..10, got 0..0"),
    (lambda d, rng: d.q_sample(np.zeros((2, 3)), 1.5, rng), "t must be an integer"),
    (lambda d, rng: d.q_posterior(np.zeros((2, 3)), np.ones((2, 4)), 1), "must have one shape"),
    (lambda d, rng: d.loss(lambda x, t: x[:1], np.zeros((2, 3)), rng), "logits must have the shape of x"),
    (lambda d, rng: sd.BinomialDiffusion(0), "T must be a positive integer, got 0"),
    (lambda d, rng: sd.data.heartbeats(3, rng, length=4), "at least the period"),
])  # fmt: skip
def test_bad_input_is_refused(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(sd.BinomialDiffusion(10), rng)
