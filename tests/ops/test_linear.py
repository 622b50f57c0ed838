"""The affine map against einsum; dropout's mask, its mean and its gradient."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops

LEADING = [(), (4,), (2, 4), (2, 1, 3)]


@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_maps_the_last_axis_whatever_comes_before_it(leading, bias):
    rng = np.random.default_rng(1)
    x, w, b = (rng.standard_normal(shape) for shape in [(*leading, 5), (5, 3), (3,)])
    inputs = (x, w, b) if bias else (x, w)
    want = np.einsum("...i,io->...o", x, w) + (b if bias else 0)
    np.testing.assert_allclose(ops.linear(*inputs).data, want, rtol=1e-13)
    assert sd.gradcheck(ops.linear, *inputs) < 1e-7


def test_linear_of_no_rows_is_no_rows():
    assert ops.linear(np.ones((0, 5)), np.ones((5, 3)), np.ones(3)).shape == (0, 3)


def test_a_weight_that_is_also_the_input_gets_both_gradients():
    assert sd.gradcheck(lambda x: ops.linear(x, x), np.random.default_rng(1).standard_normal((3, 3))) < 1e-7


@pytest.mark.parametrize(
    "x, w, b",
    [((2, 5), (4, 3), (3,)), ((2, 5), (5, 3), (5,)), ((2, 5), (5,), None), ((), (5, 3), None), ((5,), (5, 3), (1, 3))],
)
def test_linear_refuses_shapes_that_do_not_fit_and_names_them(x, w, b):
    with pytest.raises(ValueError) as caught:
        ops.linear(np.ones(x), np.ones(w), None if b is None else np.ones(b))
    assert str(caught.value) == f"linear: shapes x {x}, w {w}, b {b} do not fit"


def test_dropout_zeroes_a_share_of_the_entries_and_scales_up_the_others():
    x = np.random.default_rng(0).uniform(1, 2, (200, 300))
    y = ops.dropout(x, rate=0.3, rng=np.random.default_rng(1)).data
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / 0.7, rtol=1e-15)
    standard_error = np.sqrt(0.3 * 0.7 / x.size)
    assert 1 - kept.mean() == pytest.approx(0.3, abs=4 * standard_error)
    assert y.mean() == pytest.approx(x.mean(), rel=0.02)


def test_the_gradient_of_dropout_goes_through_the_same_mask():
    x = sd.Tensor(np.ones((20, 30)))
    with sd.Tape() as tape:
        y = ops.dropout(x, rate=0.5, rng=np.random.default_rng(1))
        loss = y.sum()
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, y.data)
    assert set(np.unique(y.data)) == {0, 2}


def test_the_mask_of_dropout_is_the_generators():
    x = np.ones((20, 30))
    y, same, other = (ops.dropout(x, rate=0.5, rng=np.random.default_rng(seed)).data for seed in (1, 1, 2))
    np.testing.assert_array_equal(y, same)
    assert not np.array_equal(y, other)


def test_dropout_at_rate_zero_changes_nothing():
    x = np.random.default_rng(0).standard_normal((2, 5))
    np.testing.assert_array_equal(ops.dropout(x, rate=0, rng=np.random.default_rng(1)).data, x)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_dropout_refuses_a_rate_outside_zero_to_one(rate):
    with pytest.raises(ValueError, match=rf"^dropout: the rate must be in \[0, 1\), got {rate}"):
        ops.dropout(np.ones(3), rate=rate, rng=np.random.default_rng(0))
