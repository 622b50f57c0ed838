"""The watchers of the tape."""

import numpy as np
import pytest

from scratchdiff import Tape, Tensor, ops
from scratchdiff.trace import find_nonfinite, refuse_nonfinite

A = np.arange(6.0).reshape(2, 3)


def test_the_first_op_whose_output_is_not_finite_is_named_with_its_shapes_and_its_parameter():
    x, w = Tensor(A), Tensor(np.full((3, 4), 1e200))
    with pytest.raises(FloatingPointError, match=r"matmul\(\(2, 3\), dense.w \(3, 4\)\): the output is not finite"):
        with np.errstate(over="ignore"), Tape(refuse_nonfinite({"dense.w": w})):
            ops.silu((x * 1e200) @ w)


def test_an_argument_that_was_not_finite_before_is_marked():
    w = Tensor(np.array([1, np.nan, 2]))
    with pytest.raises(FloatingPointError, match=r"add\(\(2, 3\), b \(3,\) not finite\): the output is not finite"):
        with Tape(refuse_nonfinite({"b": w})):
            Tensor(A) + w


def test_the_op_and_the_argument_whose_gradient_is_not_finite_are_named():
    x = Tensor(np.array([0.0, 1.0]))
    with np.errstate(divide="ignore"), Tape(refuse_nonfinite({"x": x})) as tape:
        loss = (x**0.5).sum()  # finite; its slope at 0 is not
        with pytest.raises(FloatingPointError, match=r"power\(x \(2,\)\): the gradient of argument 0 is not finite"):
            tape.backward(loss)


def test_a_step_whose_numbers_are_all_finite_passes():
    x = Tensor(A)
    assert find_nonfinite(lambda: ops.silu(x).sum(), {"x": x}) == "every output and gradient by itself is finite"


def test_find_nonfinite_returns_what_refuse_nonfinite_says():
    x = Tensor(np.array([1.0, np.inf]))
    assert find_nonfinite(lambda: (x * 2.0).sum(), {"x": x}) == "mul(x (2,) not finite): the output is not finite"
