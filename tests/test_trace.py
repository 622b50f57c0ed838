"""The watchers of the tape."""

import inspect

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import Tape, Tensor, ops
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.trace import Value, find_nonfinite, refuse_nonfinite

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


def small_unet(rng, dtype=np.float64):
    return sd.UNet(8, 1, 1, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), groups=4, rng=rng, dtype=dtype)


@pytest.fixture
def step(rng):
    """(diffusion, model with no zero weights, x0) of a small U-Net in float64."""
    model = small_unet(rng)
    fill_zeros(model.parameters(), rng)
    return sd.GaussianDiffusion(sd.cosine_schedule(10)), model, rng.standard_normal((3, 8, 8, 1))


def test_a_trace_has_an_entry_for_each_record_of_the_tape_with_the_tapes_values_and_gradients(step):
    diffusion, model, x0 = step
    found = sd.trace(lambda: diffusion.loss(model, x0, np.random.default_rng(1)), model.parameters(), check=False)
    sd.Adam(model.parameters()).zero_grad()
    seen = []
    with sd.Tape(lambda record, dy, grads: seen.append((record.name, record.out.data, dy))) as tape:
        loss = diffusion.loss(model, x0, np.random.default_rng(1))
    names = [record.name for record in tape.records]
    tape.backward(loss)
    assert [entry.name for entry in found.entries] == names and found.loss == loss.item()
    for entry, (_, out, _) in zip(found.entries, seen[: len(names)]):
        np.testing.assert_array_equal(entry.out.data, out)
    for entry, (name, _, dy) in zip(reversed(found.entries), seen[len(names) :]):
        assert entry.name == name
        np.testing.assert_array_equal(entry.out.grad, dy)
    for name, p in model.parameters().items():
        np.testing.assert_array_equal(found.parameters[name].grad, p.grad)


def test_a_trace_is_a_snapshot_that_later_training_does_not_change(step):
    diffusion, model, x0 = step
    found = sd.trace(lambda: diffusion.loss(model, x0, np.random.default_rng(1)), model.parameters(), check=False)
    before = {name: (value.data.copy(), value.grad.copy()) for name, value in found.parameters.items()}
    sd.Adam(model.parameters(), lr=1.0).step()
    for p in model.parameters().values():
        p.grad *= 2
    for name, value in found.parameters.items():
        np.testing.assert_array_equal(value.data, before[name][0])
        np.testing.assert_array_equal(value.grad, before[name][1])


def test_the_gradient_of_a_value_is_the_sum_of_what_the_ops_that_use_it_return(step):
    found = sd.trace_step(*step, np.random.default_rng(1), check=False)
    sums = {}
    for number, entry in enumerate(found.entries):
        for name, value in entry.arguments.items():
            if isinstance(value, Value) and entry.grads.get(name) is not None:
                assert number in value.used_by
                sums.setdefault(id(value), [value, 0])[1] += entry.grads[name]
    assert any(len(value.used_by) > 1 for value, _ in sums.values())
    for value, total in sums.values():
        np.testing.assert_allclose(value.grad, total, rtol=1e-12)
    for number, entry in enumerate(found.entries):
        assert entry.out.made_by == number


def test_the_layers_of_a_trace_are_those_of_the_parameters_names(step):
    _, model, _ = step
    found = sd.trace_step(*step, np.random.default_rng(1), check=False)
    for entry in found.entries:
        for value in entry.arguments.values():
            if isinstance(value, Value) and value.name:
                assert value.name.startswith(f"{entry.layer}.")
    layers = {entry.name: entry.layer for entry in found.entries}
    assert layers["attention"] == "up.1.attn" and layers["_concat"] == "UNet" and layers["mse"] == "GaussianDiffusion.loss()"
    assert {name.rpartition(".")[0] for name in model.parameters()} <= {entry.layer for entry in found.entries}


def test_an_entry_knows_the_line_of_the_program_that_called_it():
    x = Tensor(A)
    found = sd.trace(lambda: ops.silu(x).sum())
    here = inspect.currentframe().f_lineno - 1
    assert [entry.place for entry in found.entries] == [(__file__, here)] * 2
    assert found.entries[0].layer.endswith("<lambda>()")


def test_the_check_of_every_op_of_a_u_net_agrees_with_its_gradient(step):
    found = sd.trace_step(*step, np.random.default_rng(1))
    for entry in found.entries:
        tensors = [name for name, value in entry.arguments.items() if isinstance(value, Value) and name in entry.grads]
        assert list(entry.check.errors) == tensors
        assert max(entry.check.errors.values()) < 1e-6, (entry.name, entry.layer)
        assert entry.check.double.min() < 1e-8 and entry.check.single.min() < 1e-2 and not entry.check.random_dy


@pytest.mark.parametrize("wrong", ["dx", "dw"])
def test_a_backward_that_is_wrong_by_a_thousandth_is_seen_by_the_check(wrong, rng):
    @sd.op
    def product(x, w):
        scale = {"dx": (1.001, 1.0), "dw": (1.0, 1.001)}[wrong]
        return x * w, lambda dy: (scale[0] * dy * w, scale[1] * dy * x)

    x, w = Tensor(rng.standard_normal((2, 3))), Tensor(rng.standard_normal((2, 3)))
    errors = sd.trace(lambda: product(x, w).sum()).entries[0].check.errors
    assert errors[wrong[1]] == pytest.approx(1e-3, rel=0.01)
    assert errors["x" if wrong == "dw" else "w"] < 1e-9


def test_a_check_draws_its_own_dy_where_the_steps_is_zero_and_leaves_the_ops_generator_alone(rng):
    x, of_mask = Tensor(A), np.random.default_rng(3)
    found = sd.trace(lambda: (ops.dropout(x, rate=0.5, rng=of_mask) * 0.0).sum())
    dropped = found.entries[0]
    assert dropped.check.random_dy and dropped.check.errors["x"] < 1e-9
    after = np.random.default_rng(3)
    after.random(A.shape)
    assert of_mask.bit_generator.state == after.bit_generator.state


def test_an_argument_without_a_gradient_is_left_out_of_the_check():
    @sd.op
    def beside(x, y):
        return x + y, lambda dy: (dy, None)

    x = Tensor(A)
    found = sd.trace(lambda: (beside(x, x * 2.0)).sum())
    assert found.entries[1].check.errors.keys() == {"x"} and found.entries[1].grads["y"] is None


def test_an_op_that_refuses_float64_gets_the_message_in_place_of_a_check():
    w = Tensor(np.float32([2.0]))
    doubled = sd.recompute(lambda x: x * w)
    found = sd.trace(lambda: doubled(Tensor(np.float32([1.0]))).sum())
    assert "the Tensors must have one dtype" in found.entries[0].check


def test_trace_step_keeps_what_the_network_was_asked_and_answered(step):
    diffusion, model, x0 = step
    found = sd.trace_step(diffusion, model, x0, np.random.default_rng(1), check=False)
    rng = np.random.default_rng(1)  # Algorithm 1: t, then ε
    t = rng.integers(1, 11, size=3)
    eps = rng.standard_normal(x0.shape)
    asked = found.asked
    np.testing.assert_array_equal(asked.t, t)
    np.testing.assert_allclose(asked.eps, eps, atol=1e-12)
    np.testing.assert_allclose(asked.xt, diffusion.q_sample(x0, t, eps), atol=1e-12)
    np.testing.assert_allclose(asked.eps_hat, np.asarray(model(asked.xt, t)), atol=1e-12)
    np.testing.assert_allclose(asked.noise_level**2, 1 - diffusion.schedule.alpha_bar[t])
    assert found.loss == pytest.approx(np.mean((asked.eps - asked.eps_hat) ** 2))


def test_trace_step_takes_the_timestep_that_it_is_told_and_the_same_noise(step):
    one = sd.trace_step(*step, np.random.default_rng(1), t=2, check=False)
    each = sd.trace_step(*step, np.random.default_rng(1), t=[2, 2, 9], check=False)
    np.testing.assert_array_equal(one.asked.t, [2, 2, 2])
    np.testing.assert_array_equal(each.asked.t, [2, 2, 9])
    drawn = sd.trace_step(*step, np.random.default_rng(1), check=False)
    np.testing.assert_allclose(one.asked.eps, drawn.asked.eps, atol=1e-12)
    np.testing.assert_allclose(each.asked.eps, drawn.asked.eps, atol=1e-12)
