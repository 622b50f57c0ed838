"""What every op keeps to, tried on its examples: dtypes, constants, no writing into arguments, a backward linear in dy.

That the gradients are right is tests/test_gradcheck.py's claim.
"""

import numpy as np
import pytest

from scratchdiff import ops
from scratchdiff.autograd import Tape, Tensor
from scratchdiff.ops.examples import EXAMPLES

every_op = pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)


def test_every_op_has_an_example_and_every_example_an_op():
    assert {e.name for e in EXAMPLES} == set(ops.__all__)


def test_the_names_exported_are_in_order_and_exist():
    assert ops.__all__ == sorted(ops.__all__)
    assert all(callable(getattr(ops, name)) for name in ops.__all__)


@every_op
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_op_changes_a_dtype(example, dtype):
    xs = [Tensor(x.astype(dtype)) for x in example.inputs(np.random.default_rng(0))]
    with Tape() as tape:
        y = example.f(*xs)
        loss = y.sum()
    tape.backward(loss)
    assert y.dtype == dtype
    assert {x.grad.dtype for x in xs} == {np.dtype(dtype)}


@every_op
def test_float32_and_float64_agree(example):
    xs = example.inputs(np.random.default_rng(0))
    y64, y32 = example.f(*xs).data, example.f(*[x.astype(np.float32) for x in xs]).data
    np.testing.assert_allclose(y32, y64, atol=1e-6 * np.abs(y64).max(), rtol=0)


@every_op
def test_off_the_tape_arrays_give_what_tensors_give_on_it(example):
    xs = example.inputs(np.random.default_rng(0))
    off = example.f(*xs)
    with Tape():
        on = example.f(*map(Tensor, xs))
    assert isinstance(off, Tensor)
    np.testing.assert_array_equal(off.data, on.data)


@every_op
def test_an_op_writes_neither_into_its_inputs_nor_into_dy_and_walks_back_twice_alike(example):
    rng = np.random.default_rng(0)
    arrays = example.inputs(rng)
    for array in arrays:
        array.flags.writeable = False
    with Tape() as tape:
        y = example.f(*map(Tensor, arrays))
    dy = rng.standard_normal(y.shape)
    dy.flags.writeable = False

    (record,) = tape.records
    for first, again, twice in zip(record.backward(dy), record.backward(dy), record.backward(2 * dy), strict=True):
        if first is not None:
            np.testing.assert_array_equal(again, first)
            np.testing.assert_allclose(twice, 2 * first, rtol=1e-12, atol=1e-14)


@every_op
def test_arrays_in_any_memory_layout_give_the_same(example):
    xs = example.inputs(np.random.default_rng(0))
    backwards = [np.flip(np.flip(x).copy()) for x in xs]  # negative strides
    fortran = [np.asfortranarray(x) for x in xs]
    y = example.f(*xs).data
    for others in backwards, fortran:
        np.testing.assert_allclose(example.f(*others).data, y, rtol=1e-12, atol=1e-14)
