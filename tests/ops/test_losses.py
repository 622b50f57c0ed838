"""The losses against sums written out and SciPy's log-softmax."""

import math
import re

import numpy as np
import pytest
from scipy import special

import scratchdiff as sd
from scratchdiff import ops


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 5)], ids=str)
def test_mse_is_the_mean_of_the_squared_differences(shape):
    x, target = np.random.default_rng(1).standard_normal((2, *shape))
    squares = [(a - b) ** 2 for a, b in zip(x.ravel().tolist(), target.ravel().tolist())]
    assert ops.mse(x, target).item() == pytest.approx(math.fsum(squares) / len(squares), rel=1e-14)
    assert sd.gradcheck(ops.mse, x, target) < 1e-7


def test_the_mse_of_a_tensor_and_itself_is_zero_with_zero_gradient():
    x = sd.Tensor(np.random.default_rng(1).standard_normal((2, 3)))
    with sd.Tape() as tape:
        loss = ops.mse(x, x)
    tape.backward(loss)
    assert loss.item() == 0
    np.testing.assert_array_equal(x.grad, np.zeros((2, 3)))


@pytest.mark.parametrize("x, target", [((2, 3), (3,)), ((2, 3), (3, 2)), ((2, 1), (2,)), ((0, 3), (0, 3))], ids=str)
def test_mse_refuses_to_broadcast_and_an_empty_mean(x, target):
    shown = rf"x float64 of shape {re.escape(str(x))}, target float64 of shape {re.escape(str(target))}"
    with pytest.raises(ValueError, match=rf"^mse: x and target must have one shape, and not be empty, got {shown}"):
        ops.mse(np.ones(x), np.ones(target))


def test_cross_entropy_is_the_mean_of_minus_log_softmax_at_the_labels():
    logits, labels = 3 * np.random.default_rng(1).standard_normal((4, 5)), [4, 0, 4, 2]
    want = -np.mean([special.log_softmax(row)[label] for row, label in zip(logits, labels)])
    assert ops.cross_entropy(logits, labels).item() == pytest.approx(want, rel=1e-13)
    assert ops.cross_entropy(logits, np.array(labels, np.uint8)).item() == pytest.approx(want, rel=1e-13)
    assert sd.gradcheck(lambda x: ops.cross_entropy(x, labels), logits) < 1e-7


def test_equal_logits_cost_the_log_of_the_number_of_classes():
    assert ops.cross_entropy(np.full((3, 7), 2.5), [0, 6, 3]).item() == pytest.approx(math.log(7), rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_logits_of_ten_thousand_is_finite(dtype):
    logits = sd.Tensor(np.array([[1e4, -1e4], [1e4, -1e4]], dtype))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        with sd.Tape() as tape:
            loss = ops.cross_entropy(logits, [0, 1])
        tape.backward(loss)
    assert loss.item() == 1e4  # the mean of 0 and 20,000
    np.testing.assert_array_equal(logits.grad, [[0, 0], [0.5, -0.5]])


@pytest.mark.parametrize(
    "shape, labels",
    [((3, 5), [0, 1]), ((3, 5), [0, 1, 5]), ((3, 5), [0, -1, 2]), ((3, 5), [[0], [1], [2]]), ((0, 5), []),
     ((3, 5), [0.0, 1.0, 2.5]), ((3, 5), [True, False, True]), ((5,), [0]), ((2, 3, 5), [0, 1])],
)  # fmt: skip
def test_cross_entropy_refuses_labels_that_do_not_name_a_class_for_each_row(shape, labels):
    with pytest.raises(ValueError) as caught:
        ops.cross_entropy(np.zeros(shape), labels)
    assert str(caught.value).startswith(f"cross_entropy: logits {shape} ")
    assert str(caught.value).endswith(f"{np.shape(labels)}")


def test_huber_is_half_the_square_within_delta_and_a_line_of_slope_delta_beyond():
    d = np.array([0.5, -0.5, 2.0, -3.0])
    each = [ops.huber(np.array([a]), np.zeros(1), delta=1.0).item() for a in d]
    np.testing.assert_allclose(each, [0.125, 0.125, 1.5, 2.5])
