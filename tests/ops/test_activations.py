"""Activations against SciPy, and at both ends of the real line, where a careless formula overflows."""

import numpy as np
import pytest
from scipy import special

import scratchdiff as sd
from scratchdiff import ops

ORACLES = {
    "sigmoid": special.expit,
    "tanh": lambda x: 1 - 2 * special.expit(-2 * x),
    "relu": lambda x: np.where(x > 0, x, 0),
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: x * special.erfc(-x / np.sqrt(2)) / 2,
}
# f and f' at −∞ and +∞, as limits: y → slope · x + intercept
ENDS = {"sigmoid": ((0, 0), (0, 1)), "tanh": ((0, -1), (0, 1)), "relu": ((0, 0), (1, 0)), "silu": ((0, 0), (1, 0)),
        "gelu": ((0, 0), (1, 0))}  # fmt: skip


@pytest.mark.parametrize("name", ORACLES)
def test_activations_equal_scipys_formulas(name):
    x = np.linspace(-9, 9, 111).reshape(3, 37)
    np.testing.assert_allclose(getattr(ops, name)(x).data, ORACLES[name](x), rtol=0, atol=4e-15)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_ten_thousand_outputs_and_gradients_are_the_limits_and_nothing_overflows(name, dtype):
    size = 1e4
    x = sd.Tensor(np.array([-size, size], dtype))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        with sd.Tape() as tape:
            y = getattr(ops, name)(x)
            loss = y.sum()
        tape.backward(loss)
    (left_slope, left), (right_slope, right) = ENDS[name]
    np.testing.assert_allclose(y.data, [left - left_slope * size, right + right_slope * size], rtol=1e-7)
    np.testing.assert_allclose(x.grad, [left_slope, right_slope], rtol=1e-7)


@pytest.mark.parametrize("name", sorted(set(ORACLES) - {"relu"}))
def test_gradients_match_finite_differences_from_the_middle_to_the_tails(name):
    assert sd.gradcheck(getattr(ops, name), np.array([[0.0, -0.1, 0.4], [3, -5, 7]])) < 1e-7


def test_the_gradient_of_relu_at_its_kink_is_zero():
    x = sd.Tensor(np.array([-0.0, 0.0, 1e-300]))
    with sd.Tape() as tape:
        loss = ops.relu(x).sum()
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, [0, 0, 1])
