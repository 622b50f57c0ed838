"""Lesson 10: the exact model against enumeration, and products with a second distribution."""

import numpy as np
import pytest

import scratchdiff as sd


@pytest.fixture
def heartbeats(lesson):
    return lesson("10_heartbeats")


def test_the_step_back_from_probabilities_of_x0_is_their_mixture_of_posteriors(heartbeats, rng):
    diffusion = sd.BinomialDiffusion(30)
    xt, p = rng.integers(2, size=(4, 20)).astype(float), rng.uniform(0.05, 0.95, (4, 20))
    logits = heartbeats.step_back(diffusion, np.log(p / (1 - p)), xt, np.full(4, 7)).data
    want = sum(share * diffusion.q_posterior(np.full_like(xt, b), xt, 7) for share, b in ((1 - p, 0.0), (p, 1.0)))
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), want, rtol=1e-9)


def test_the_exact_posterior_is_bayes_rule_over_the_five_sequences(heartbeats, rng):
    diffusion = sd.BinomialDiffusion(30)
    xt = rng.integers(2, size=(3, 20)).astype(float)
    likelihood = np.array(
        [[np.prod(np.where(x == 1, q, 1 - q)) for q in diffusion.q_marginal(heartbeats.SEQUENCES, 11)] for x in xt]
    )
    np.testing.assert_allclose(
        heartbeats.posterior(diffusion, xt, 11), likelihood / likelihood.sum(1, keepdims=True), rtol=1e-9
    )


def test_half_a_heartbeat_is_completed_by_the_exact_model(heartbeats):
    diffusion = sd.BinomialDiffusion(150)
    known = heartbeats.conditions()["10 bits\nknown"]
    share, distance, _, _ = heartbeats.compare(diffusion, heartbeats.exact(diffusion), known, 50, seed=1)
    assert share > 0.9 and distance < 1e-6
