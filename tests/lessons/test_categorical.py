"""Lesson 12: the kernel against matrices, enumeration and, for two symbols, the diffusion over bits."""

import numpy as np
import pytest

import scratchdiff as sd


@pytest.fixture
def symbols(lesson):
    return lesson("12_categorical")


def matrix(process, t, K):
    """Q_t of D3PM: row i holds q(x_t | x_{t−1} = i)."""
    return (1 - process.beta[t]) * np.eye(K) + process.beta[t] / K


def test_the_steps_multiply_to_the_closed_form(symbols):
    process, product = symbols.Symbols(9), np.eye(symbols.K)
    for t in range(1, 10):
        product = product @ matrix(process, t, symbols.K)
        kept = process.alpha_bar[t]
        np.testing.assert_allclose(product, kept * np.eye(symbols.K) + (1 - kept) / symbols.K, atol=1e-6)


def test_the_posterior_is_bayes_rule_with_the_matrices(symbols, rng):
    process, K, t = symbols.Symbols(9), symbols.K, 4
    before = np.linalg.multi_dot([matrix(process, s, K) for s in range(1, t)])
    x0, xt = rng.integers(K, size=(2, 5, 3))
    xt[0] = x0[0]
    joint = before[x0] * matrix(process, t, K).T[xt]
    got = process.step_back(xt, np.full(5, t), symbols.one_hot(x0))
    np.testing.assert_allclose(got, joint / joint.sum(2, keepdims=True), rtol=1e-5)


def test_with_two_symbols_it_is_the_diffusion_over_bits(symbols, rng, monkeypatch):
    monkeypatch.setattr(symbols, "K", 2)
    process, bits = symbols.Symbols(20), sd.BinomialDiffusion(20)
    x0, xt = rng.integers(2, size=(2, 6, 4))
    for t in (2, 9, 20):
        got = process.step_back(xt, np.full(6, t), symbols.one_hot(x0))[..., 1]
        np.testing.assert_allclose(got, bits.q_posterior(x0, xt, t), rtol=1e-5, atol=1e-7)


def test_the_exact_model_steps_back_by_the_mixture_of_posteriors_over_all_sums(symbols, rng):
    process, sums, t = symbols.Symbols(12), symbols.SUMS, np.full(3, 5)
    xt = process.q_sample(sums[:3], t, rng)
    kept = process.alpha_bar[5]
    chance = np.where(xt[:, None] == sums, kept + (1 - kept) / symbols.K, (1 - kept) / symbols.K).prod(2)  # (3, sums)
    weight = chance / chance.sum(1, keepdims=True)
    each = [process.step_back(np.tile(x, (len(sums), 1)), np.full(len(sums), 5), symbols.one_hot(sums)) for x in xt]
    want = np.einsum("ns,nsdk->ndk", weight, each)
    np.testing.assert_allclose(process.step_back(xt, t, symbols.exact(process)(xt, t)), want, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_no_bound_lies_below_the_entropy_of_the_sums(symbols, seed):
    process, rng = symbols.Symbols(5), np.random.default_rng(seed)
    x0 = symbols.SUMS[rng.integers(100, size=200)]
    wrong = rng.dirichlet(np.ones(symbols.K), size=(1, symbols.D)).astype(np.float32)
    for model in (symbols.exact(process), lambda xt, t: np.repeat(wrong, len(xt), axis=0)):
        bound = process.bound(model, x0, rng)
        assert symbols.D * (bound.bits_per_dim + 4 * bound.standard_error) > np.log2(100)


def test_the_gradient_of_the_loss_matches_finite_differences(symbols, rng):
    process, t = symbols.Symbols(6), np.array([1, 3, 6])
    x0 = symbols.SUMS[[12, 34, 99]]
    xt = process.q_sample(x0, t, rng)
    logits = rng.standard_normal((3, symbols.D, symbols.K))
    for nats in (process.step_nats, process.x0_nats):
        assert sd.gradcheck(lambda x, nats=nats: nats(sd.ops.softmax(x), x0, xt, t), logits, max_probes=1) < 1e-6


def test_the_exact_model_gives_the_posterior_of_every_symbol(symbols, rng):
    process, t = symbols.Symbols(12), np.full(3, 5)
    xt = process.q_sample(symbols.SUMS[[5, 50, 99]], t, rng)
    kept = process.alpha_bar[5]
    chance = np.where(xt[:, None] == symbols.SUMS, kept + (1 - kept) / symbols.K, (1 - kept) / symbols.K).prod(2)
    posterior = np.einsum("ns,sdk->ndk", chance / chance.sum(1, keepdims=True), symbols.one_hot(symbols.SUMS))
    p0 = symbols.exact(process)(xt, t)
    for x0 in symbols.SUMS[[0, 50, 77]]:
        want = -np.log(np.take_along_axis(posterior, np.tile(x0, (3, 1))[..., None], axis=2) + 1e-12).sum((1, 2))
        np.testing.assert_allclose(process.x0_nats(p0, np.tile(x0, (3, 1)), xt, t).data, want, rtol=1e-3)
