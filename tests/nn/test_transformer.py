"""The Transformer's parts: what a mask hides, what a block starts as, and every gradient."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import nn
from scratchdiff.gradcheck import fill_zeros


def block(rng, **settings):
    made = nn.TransformerBlock(8, 2, 12, rng=rng, dtype=np.float64, **settings)
    fill_zeros(made.parameters(), rng, size=0.3)
    return made


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_a_blocks_gradients_match_finite_differences(rng, pre_norm, cross):
    made = block(rng, pre_norm=pre_norm, cross=cross)
    memory = rng.standard_normal((2, 3, 8)) if cross else None
    f = lambda x, *_: made(x, memory, nn.causal_mask(4))  # noqa: E731
    assert sd.gradcheck(f, rng.standard_normal((2, 4, 8)), *made.parameters().values(), max_probes=30) < 1e-6


def test_a_stack_under_the_causal_mask_says_nothing_of_what_comes_later(rng):
    blocks = [block(rng) for _ in range(3)]

    def run(x):
        for each in blocks:
            x = each(x, mask=nn.causal_mask(6))
        return x.data

    x = sd.Tensor(rng.standard_normal((1, 6, 8)))
    later = sd.Tensor(np.concatenate([x.data[:, :4], rng.standard_normal((1, 2, 8))], 1))
    np.testing.assert_array_equal(run(x)[:, :4], run(later)[:, :4])


def test_without_positions_attention_does_not_know_the_order(rng):
    made, x, order = block(rng), rng.standard_normal((1, 6, 8)), rng.permutation(6)
    np.testing.assert_allclose(made(sd.Tensor(x[:, order])).data, made(sd.Tensor(x)).data[:, order], atol=1e-12)


def test_dropout_falls_on_each_part_and_only_when_a_generator_is_given(rng):
    made, x = block(rng, dropout=0.5), sd.Tensor(rng.standard_normal((2, 4, 8)))
    np.testing.assert_array_equal(made(x).data, made(x).data)
    assert not np.array_equal(made(x, dropout_rng=rng).data, made(x).data)
