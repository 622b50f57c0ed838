"""Arithmetic: entry by entry against Python's own, products and sums against einsum, gradients under broadcasting."""

import math
import operator

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.ops.arithmetic import unbroadcast

BINARY = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}
SHAPES = [
    ((2, 3), (2, 3)),
    ((2, 1, 3), (5, 1)),
    ((), (2, 3)),
    ((3,), (2, 3)),
    ((1, 1), (2, 3)),
    ((1, 3), (2, 1)),
    ((), ()),
]
binary_ops = pytest.mark.parametrize("name", BINARY)
broadcasts = pytest.mark.parametrize("a_shape, b_shape", SHAPES, ids=str)


def away_from_zero(shape, seed=1):
    rng = np.random.default_rng(seed)
    return rng.choice([-1, 1], shape) * rng.uniform(0.5, 2, shape)


@binary_ops
@broadcasts
def test_binary_ops_broadcast_and_compute_what_python_does(name, a_shape, b_shape):
    a, b = away_from_zero(a_shape), away_from_zero(b_shape, seed=2)
    y = getattr(ops, name)(a, b)
    pairs = np.broadcast(a, b)
    want = np.array([BINARY[name](float(p), float(q)) for p, q in pairs]).reshape(pairs.shape)
    np.testing.assert_array_equal(y.data, want)


@binary_ops
def test_binary_ops_work_on_the_entries_of_lists(name):
    want = [BINARY[name](1, 3), BINARY[name](2, 4)]
    np.testing.assert_array_equal(getattr(ops, name)([1, 2], [3, 4]).data, want)
    np.testing.assert_array_equal(getattr(ops, name)(sd.Tensor([1, 2]), [3, 4]).data, want)


@binary_ops
@broadcasts
def test_the_gradient_of_a_broadcast_input_is_summed_over_its_copies(name, a_shape, b_shape):
    assert sd.gradcheck(getattr(ops, name), away_from_zero(a_shape), away_from_zero(b_shape, seed=2)) < 1e-7


@pytest.mark.parametrize("name", [*BINARY, "matmul"])
def test_one_tensor_on_both_sides_gets_both_gradients(name):
    f = getattr(ops, name)
    assert sd.gradcheck(lambda x: f(x, x), away_from_zero((3, 3))) < 1e-7


@pytest.mark.parametrize("name", [*BINARY, "matmul"])
def test_shapes_that_do_not_fit_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name}: shapes \(2, 3\) and \(4, 2\)"):
        getattr(ops, name)(np.ones((2, 3)), np.ones((4, 2)))


@pytest.mark.parametrize("name, f", [("neg", operator.neg), ("exp", math.exp), ("log", math.log)])
def test_unary_ops_equal_pythons(name, f):
    x = np.abs(away_from_zero((2, 5)))
    want = [[f(v) for v in row] for row in x.tolist()]
    np.testing.assert_allclose(getattr(ops, name)(x).data, want, rtol=1e-15)


@pytest.mark.parametrize("p", [0, 1, 2, 3, -1, -2])
def test_power_takes_any_base_to_an_integer(p):
    x = away_from_zero((2, 5))
    np.testing.assert_allclose(ops.power(x, p).data, [[v**p for v in row] for row in x.tolist()], rtol=1e-15)
    assert sd.gradcheck(lambda x: ops.power(x, p), x) < 1e-7


@pytest.mark.parametrize("p", [0.5, 2.5, -1.5])
def test_power_takes_a_positive_base_to_any_exponent(p):
    x = np.abs(away_from_zero((2, 5)))
    np.testing.assert_allclose(ops.power(x, p).data, np.exp(p * np.log(x)), rtol=1e-14)
    assert sd.gradcheck(lambda x: ops.power(x, p), x) < 1e-7


@pytest.mark.parametrize("p, slope", [(0, 0), (1, 1), (2, 0), (3, 0)])
def test_the_gradient_of_a_power_is_right_at_zero(p, slope):
    x = sd.Tensor(np.zeros(3))
    with sd.Tape() as tape:
        loss = ops.power(x, p).sum()
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, np.full(3, slope))


@pytest.mark.parametrize("p", [np.float64(2), np.int64(3), np.array(0.5)], ids=repr)
def test_a_numpy_number_as_exponent_does_not_change_the_dtype(p):
    assert ops.power(np.ones(2, np.float32), p).dtype == np.float32


def test_power_refuses_an_array_as_exponent():
    with pytest.raises(ValueError, match=r"power: .* got .*shape \(3,\)"):
        ops.power(np.ones(3), np.ones(3))


AXES = {
    None: "abc->",
    0: "abc->bc",
    -1: "abc->ab",
    (0, 2): "abc->b",
    (-1, 0): "abc->b",
    (1,): "abc->ac",
    (): "abc->abc",
}


@pytest.mark.parametrize("axis, einsum", AXES.items(), ids=map(str, AXES))
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", ["sum", "mean"])
def test_sums_and_means_run_over_the_axes_named(name, axis, einsum, keepdims):
    x = away_from_zero((2, 3, 5))
    want = np.einsum(einsum, x)
    if name == "mean":
        want = want / (x.size // want.size)
    if keepdims:
        want = want.reshape([n if letter in einsum.split("->")[1] else 1 for letter, n in zip("abc", x.shape)])

    def f(x):
        return getattr(ops, name)(x, axis=axis, keepdims=keepdims)

    y = f(x).data
    assert y.shape == want.shape
    np.testing.assert_allclose(y, want, rtol=1e-14, atol=1e-14)
    assert sd.gradcheck(f, x) < 1e-7


@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize("axis", [2, -3, (0, 2), (0, 0), (1, -1)])
def test_an_axis_that_is_none_or_named_twice_is_refused(name, axis):
    with pytest.raises(ValueError, match=rf"^{name}: axis .* shape \(2, 3\)"):
        getattr(ops, name)(np.ones((2, 3)), axis)


def test_a_sum_of_nothing_is_zero_and_a_mean_of_nothing_is_refused():
    np.testing.assert_array_equal(ops.sum(np.ones((0, 3)), 0).data, np.zeros(3))
    with pytest.raises(ValueError, match=r"mean: nothing to average over axis 0, got .*\(0, 3\)"):
        ops.mean(np.ones((0, 3)), 0)


MATRICES = [
    ((2, 3), (3, 4)),
    ((3, 1, 2, 5), (4, 5, 3)),
    ((2, 5), (4, 5, 3)),
    ((4, 2, 5), (5, 3)),
    ((1, 2, 1), (3, 1, 4)),
]


@pytest.mark.parametrize("a_shape, b_shape", MATRICES, ids=str)
def test_matmul_multiplies_the_last_two_axes_and_broadcasts_the_others(a_shape, b_shape):
    a, b = away_from_zero(a_shape), away_from_zero(b_shape, seed=2)
    np.testing.assert_allclose(ops.matmul(a, b).data, np.einsum("...ik,...kj->...ij", a, b), rtol=1e-13)
    assert sd.gradcheck(ops.matmul, a, b) < 1e-7


@pytest.mark.parametrize("a_shape, b_shape", [((3,), (3, 2)), ((2, 3), (3,)), ((), (2, 2))], ids=str)
def test_matmul_refuses_what_is_not_a_matrix(a_shape, b_shape):
    with pytest.raises(ValueError, match=r"matmul: needs matrices, got a float64 .*, b float64 "):
        ops.matmul(np.ones(a_shape), np.ones(b_shape))


def test_unbroadcast_is_the_adjoint_of_broadcasting():
    rng = np.random.default_rng(1)
    for shape in (), (5,), (1, 5), (3, 1), (3, 5), (2, 1, 1), (2, 3, 5):
        x, dy = rng.standard_normal(shape), rng.standard_normal((2, 3, 5))
        dx = unbroadcast(dy, shape)
        assert dx.shape == shape
        assert np.vdot(np.broadcast_to(x, dy.shape), dy) == pytest.approx(np.vdot(x, dx), rel=1e-12)
