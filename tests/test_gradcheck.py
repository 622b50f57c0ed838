"""The tester, tested: right gradients pass at every op, and whatever is wrong with one of them fails."""

import numpy as np
import pytest

from scratchdiff import ops
from scratchdiff.autograd import Tape, Tensor, op
from scratchdiff.gradcheck import fill_zeros, gradcheck
from scratchdiff.nn import MLP
from scratchdiff.ops.examples import EXAMPLES

EVERY_INPUT = [(example, i) for example in EXAMPLES for i in range(len(example.shapes))]


@op
def identity(x, *, wrong):
    return x, lambda dy: (wrong(dy),)


def tampered(f, i, wrong):
    """f, with the gradient dx of its input number i replaced by wrong(dx)."""
    return lambda *xs, **settings: f(*xs[:i], identity(xs[i], wrong=wrong), *xs[i + 1 :], **settings)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_the_gradient_of_every_op_matches_finite_differences(example):
    assert gradcheck(example.f, *example.inputs(np.random.default_rng(1))) < 1e-7


@pytest.mark.parametrize("example, i", EVERY_INPUT, ids=[f"{e.name}-input{i}" for e, i in EVERY_INPUT])
def test_a_gradient_scaled_by_one_thousandth_too_much_fails_at_every_input(example, i):
    f = tampered(example.f, i, lambda dx: 1.001 * dx)
    assert gradcheck(f, *example.inputs(np.random.default_rng(1))) == pytest.approx(0.001 / 1.001, rel=1e-3)


@pytest.mark.parametrize("i", [0, 1])
def test_a_wrong_sign_scores_two(i):
    a, b = np.random.default_rng(2).standard_normal((2, 3, 5))
    assert gradcheck(tampered(ops.mul, i, np.negative), a, b) == pytest.approx(2)


def test_a_gradient_that_is_zero_or_missing_where_it_should_not_be_scores_one():
    x = np.random.default_rng(2).standard_normal((3, 5))
    assert gradcheck(tampered(ops.silu, 0, np.zeros_like), x) == pytest.approx(1)
    assert gradcheck(tampered(ops.silu, 0, lambda dx: None), x) == pytest.approx(1)


def test_one_wrong_entry_of_a_big_input_is_found_along_random_directions():
    def wrong(dx):
        dx = dx.copy()
        dx[17, 5] *= -1
        return dx

    x = np.random.default_rng(3).standard_normal((30, 20))
    assert gradcheck(ops.silu, x) < 1e-7
    assert gradcheck(tampered(ops.silu, 0, wrong), x) > 1e-3


def test_max_probes_is_how_many_times_an_input_is_probed():
    calls = []

    def f(x):
        calls.append(1)
        return x * x  # whose differences are exact, so that every probe takes the same number of calls

    def cost(size, max_probes):
        calls.clear()
        assert gradcheck(f, np.random.default_rng(3).standard_normal(size), max_probes=max_probes) < 1e-7
        return len(calls)

    base = cost(0, 1)  # f runs to see y and to record the tape; no entry, no probe
    one = cost(5, 1) - base
    assert [cost(*case) - base for case in [(1, 200), (5, 5), (5, 3), (30, 20)]] == [one, 5 * one, 3 * one, 8 * one]


def test_a_function_that_bends_sharply_is_probed_with_smaller_steps_until_they_agree(rng):
    assert gradcheck(lambda x: ops.exp(60 * x), rng.standard_normal(5) / 60) < 1e-7


def test_a_nan_in_a_gradient_is_the_answer():
    def wrong(dx):
        return np.where(np.arange(dx.size).reshape(dx.shape) == 2, np.nan, dx)

    x, y = np.random.default_rng(2).standard_normal((2, 3, 5))
    assert np.isnan(gradcheck(tampered(ops.mul, 0, wrong), x, y))


def test_only_the_gradients_of_the_inputs_given_are_checked_and_none_is_left_behind():
    x, constant = Tensor([1.0, 2]), Tensor([3.0, 4])
    x.grad = np.array([5.0, 6])  # from an earlier step
    assert gradcheck(lambda x: x * constant, x) < 1e-7
    assert x.grad is None


def test_a_tensor_given_twice_is_checked_twice():
    x = Tensor([1.5, -2])
    assert gradcheck(ops.mul, x, x) < 1e-7


def test_a_scalar_and_an_output_without_entries_are_checked():
    assert gradcheck(ops.exp, 0.5) < 1e-7
    assert gradcheck(lambda x: x[:0], np.ones(3)) == 0


def test_random_numbers_come_from_the_generator_given():
    x = np.random.default_rng(3).standard_normal((30, 20))
    scores = [gradcheck(ops.silu, x, rng=np.random.default_rng(seed)) for seed in (4, 4, 5)]
    assert scores[0] == scores[1] != scores[2]


def test_a_float32_tensor_is_refused():
    with pytest.raises(ValueError, match="input 1 is float32"):
        gradcheck(ops.mul, np.ones(2), Tensor(np.ones(2, np.float32)))


def test_a_float32_array_is_checked_as_its_float64_copy():
    x = np.array([0.3, -1.2], np.float32)
    assert gradcheck(ops.silu, x) < 1e-7
    np.testing.assert_array_equal(x, np.array([0.3, -1.2], np.float32))


def test_no_inputs_are_refused():
    with pytest.raises(ValueError, match="at least one input"):
        gradcheck(lambda: Tensor(1.0))


def test_an_f_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"not finite .* \(2,\)"), np.errstate(divide="ignore"):
        gradcheck(ops.log, [0.0, 1])


def test_tensors_get_their_data_back():
    x = Tensor([1.0, 2])
    data = x.data
    gradcheck(ops.exp, x)
    assert x.data is data
    np.testing.assert_array_equal(data, [1, 2])


def test_tensors_get_their_data_back_when_f_raises():
    def f(x):
        if x.data[0] != 1:
            raise ZeroDivisionError
        return x * x

    x = Tensor([1.0, 2])
    data = x.data
    with pytest.raises(ZeroDivisionError):
        gradcheck(f, x)
    assert x.data is data
    with Tape():  # and no tape is left active
        pass


def test_a_module_is_checked_at_its_parameters_in_place(monkeypatch):
    rng = np.random.default_rng(0)
    model = MLP(dim=2, width=6, num_blocks=1, rng=rng, dtype=np.float64)
    parameters = model.parameters()
    fill_zeros(parameters, rng)
    xt, t = rng.standard_normal((3, 2)), np.array([1, 40, 7])
    assert gradcheck(lambda *_: model(xt, t), *parameters.values()) < 1e-7

    monkeypatch.setattr(ops, "linear", tampered(ops.linear, 1, lambda dw: 1.001 * dw))
    assert gradcheck(lambda *_: model(xt, t), *parameters.values()) > 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fill_zeros_draws_what_is_all_zeros_and_nothing_else(dtype):
    half_zero = np.array([0, 1], dtype)
    parameters = {"w": Tensor(np.zeros((40, 50), dtype)), "b": Tensor(half_zero.copy())}
    fill_zeros(parameters, np.random.default_rng(0), size=0.3)
    w, b = parameters["w"].data, parameters["b"].data
    assert w.dtype == dtype and w.all()
    assert w.mean() == pytest.approx(0, abs=0.02) and w.std() == pytest.approx(0.3, rel=0.05)  # three standard errors
    np.testing.assert_array_equal(b, half_zero)
