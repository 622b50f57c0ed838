"""The engine: what a Tensor is, what a Tape records and frees, how gradients add up, and every complaint."""

import operator
import threading
import weakref

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.autograd import Tape, Tensor, op

A = np.arange(1.0, 7).reshape(2, 3)
SQUARE = np.array([[2.0, 0.5], [-1, 3]])


def gradients(f, *arrays):
    """f of the arrays as Tensors, summed and walked back: the gradient of each."""
    xs = [Tensor(a) for a in arrays]
    with Tape() as tape:
        loss = f(*xs).sum()
    tape.backward(loss)
    return [x.grad for x in xs]


# Tensor


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_float_array_is_kept_as_it_is(dtype):
    a = A.astype(dtype)
    x = Tensor(a)
    assert x.data is a and x.grad is None
    assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((2, 3), dtype, 2, 6, 2)


@pytest.mark.parametrize("data", [[1, 2], [1.5, 2], (True, False), 7, np.arange(3, dtype=np.uint8), np.array([True])])
def test_numbers_lists_integers_and_booleans_become_float64(data):
    x = Tensor(data)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x.data, data)


@pytest.mark.parametrize("data", [np.float16(1), np.longdouble(1), 1j, "one", None, [object()]])
def test_data_that_is_not_float32_or_float64_is_refused(data):
    with pytest.raises(ValueError, match=f"Tensor: .* got {np.asarray(data).dtype}"):
        Tensor(data)


def test_item_is_the_float_of_a_one_entry_tensor():
    assert Tensor([[2.5]]).item() == 2.5
    with pytest.raises(ValueError):
        Tensor(A).item()


def test_a_tensor_is_an_array_to_numpy():
    x = Tensor(A)
    assert np.shares_memory(np.asarray(x), A)
    assert not np.shares_memory(np.array(x), A)
    assert np.asarray(x, np.float32).dtype == np.float32
    assert repr(x) == f"Tensor({A!r})"
    with sd.Tape() as tape:
        assert repr(tape) == "Tape(recording, 0 ops)"
        for _ in range(9):
            x = ops.silu(x)
    assert repr(tape) == "Tape(recorded, 9 ops: silu, silu, silu, silu, ..., silu, silu, silu, silu)"


def test_a_tensor_unpacks_into_its_rows():
    first, second = Tensor(A)
    np.testing.assert_array_equal(first.data, A[0])
    np.testing.assert_array_equal(second.data, A[1])


BINARY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
OTHERS = {"array": SQUARE, "list's array": np.array([1, 2]), "float": 3.5, "int": 3, "NumPy scalar": np.float64(3.5)}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("sign", BINARY)
def test_operators_take_arrays_and_numbers_on_either_side(sign, other):
    f = BINARY[sign]
    x = Tensor(1 + SQUARE**2)
    for got, want in [(f(x, other), f(x.data, other)), (f(other, x), f(other, x.data))]:
        assert isinstance(got, Tensor)
        np.testing.assert_array_equal(got.data, want)
    assert sd.gradcheck(lambda x: f(x, other), x) < 1e-7
    assert sd.gradcheck(lambda x: f(other, x), x) < 1e-7


@pytest.mark.parametrize("f", [*BINARY.values(), operator.matmul], ids=[*BINARY, "@"])
def test_operators_between_tensors_give_both_their_gradients(f):
    b = np.array([[1.5, 2], [0.7, -1]])
    np.testing.assert_array_equal(f(Tensor(SQUARE), Tensor(b)).data, f(SQUARE, b))
    assert sd.gradcheck(f, SQUARE, b) < 1e-7


def test_matmul_operator_takes_arrays_on_either_side():
    x = Tensor(SQUARE)
    np.testing.assert_array_equal((x @ A).data, SQUARE @ A)
    np.testing.assert_array_equal((A.T @ x).data, A.T @ SQUARE)
    assert sd.gradcheck(lambda x: x @ A, x) < 1e-7
    assert sd.gradcheck(lambda x: A.T @ x, x) < 1e-7


METHODS = {
    "-x": operator.neg,
    "x ** 3": lambda x: x**3,
    "x[1:]": lambda x: x[1:],
    "x[0, ..., None]": lambda x: x[0, ..., None],
    "sum()": lambda x: x.sum(),
    "sum(1)": lambda x: x.sum(1),
    "mean()": lambda x: x.mean(),
    "mean(axis, keepdims)": lambda x: x.mean(axis=0, keepdims=True),
    "reshape(3, -1)": lambda x: x.reshape(3, -1),
    "reshape((6, 1))": lambda x: x.reshape((6, 1)),
    "transpose()": lambda x: x.transpose(),
    "transpose(1, 0)": lambda x: x.transpose(1, 0),
    "T": lambda x: x.T,
}


@pytest.mark.parametrize("f", METHODS.values(), ids=METHODS.keys())
def test_methods_mean_what_they_mean_on_arrays(f):
    got = f(Tensor(A))
    assert isinstance(got, Tensor)
    np.testing.assert_array_equal(got.data, f(A))
    assert sd.gradcheck(f, A) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("f", [*METHODS.values(), *BINARY.values()], ids=[*METHODS, *BINARY])
def test_operators_with_numbers_and_arrays_of_its_dtype_keep_a_tensors_dtype(f, dtype):
    x = Tensor(A.astype(dtype))
    others = [2, 2.5, x.data] if f in BINARY.values() else []
    outputs = [f(x, other) for other in others] + [f(other, x) for other in others] or [f(x)]
    assert {y.dtype for y in outputs} == {np.dtype(dtype)}


# Tape


def test_nothing_is_recorded_off_the_tape():
    x = Tensor(A)
    x * x
    with Tape() as tape:
        pass
    x * x
    assert tape.records == []


def test_ops_on_arrays_alone_are_not_recorded():
    with Tape() as tape:
        ops.silu(A)
        ops.linear(A, A.T, b=np.ones(2))
    assert tape.records == []


def test_a_record_holds_the_op_and_its_arguments_in_the_order_in_which_they_ran():
    x, y = Tensor(A), Tensor(A)
    with Tape() as tape:
        z = ops.mul(x, y)
        ops.silu(z)
    assert [(r.name, r.args) for r in tape.records] == [("mul", (x.node, y.node)), ("silu", (z.node,))]


def test_a_watched_tape_holds_the_tensors_themselves():
    x = Tensor(A)
    with Tape(lambda record, dy, grads: None) as tape:
        y = ops.silu(x)
    assert tape.records[0].args == (x,) and tape.records[0].out is y


def test_the_tape_keeps_no_values_that_no_backward_needs():
    x = Tensor(A)
    with Tape() as tape:
        terms = [ops.exp(x), ops.concat([x, x]), ops.sub(x, 1.0)]
        joined = ops.concat([ops.add(terms[0], terms[2]), terms[1]])
        alive = [weakref.ref(term.data) for term in terms]
        del terms
        loss = (2.0 * joined).sum()
    assert [a() is None for a in alive] == [False, True, True]  # the derivative of exp is its output
    tape.backward(loss)
    np.testing.assert_allclose(x.grad, 2 * np.exp(A) + 6, rtol=1e-14)


@pytest.mark.parametrize("name, f", {
    "add": lambda x: x + 1.0, "sub": lambda x: x - 1.0, "neg": lambda x: -x, "sum": lambda x: x.sum(0),
    "mean": lambda x: x.mean(), "reshape": lambda x: x.reshape(-1), "transpose": lambda x: x.T, "getitem": lambda x: x[0],
    "concat": lambda x: ops.concat([x]), "upsample_nearest": lambda x: ops.upsample_nearest(x.reshape(1, 2, 3, 1)),
    "space_to_depth": lambda x: ops.space_to_depth(x.reshape(1, 2, 3, 1), block=1),
}.items())  # fmt: skip
def test_an_op_whose_gradient_needs_only_a_shape_keeps_no_values(name, f):
    with Tape():
        x = ops.sub(Tensor(A), 1.0)
        alive = weakref.ref(x.data)
        ops.sub(f(x), 1.0)  # where f returns a view of x, it ends here
        del x
        assert alive() is None


def test_what_a_group_norm_gives_to_a_convolution_is_freed_and_computed_again(rng):
    x, scale, shift, w = (Tensor(rng.standard_normal(shape)) for shape in ((2, 5, 5, 4), (4,), (4,), (3, 3, 4, 2)))
    gradients = []
    for keeps in (False, True):
        for leaf in (x, scale, shift, w):
            leaf.grad = None
        with Tape() as tape:
            h = ops.group_norm_silu(x, scale, shift, groups=2)
            values = weakref.ref(h.data)
            h = h + 0.0 if keeps else h  # a sum does not say how to compute it again
            kept = weakref.ref(h.data)
            loss = (ops.conv2d(h, w) ** 2).sum()
            del h
        assert values() is None and (kept() is not None) == keeps
        tape.backward(loss)
        gradients.append([leaf.grad for leaf in (x, scale, shift, w)])
    for got, want in zip(*gradients):
        np.testing.assert_array_equal(got, want)


def test_a_function_that_computes_values_again_runs_only_where_a_backward_asks_for_them():
    runs = []

    @op
    def double(x):
        return 2 * x, lambda dy: (2 * dy,), lambda: runs.append("again") or 2 * x

    square = op(lambda x: (x**2, lambda dy, x: (2 * x * dy,)), later=True)
    x = Tensor(A)
    for f, wanted in ((lambda: square(double(x)), ["again"]), (lambda: ops.silu(double(x)), []), (lambda: square(x), [])):
        runs.clear()
        x.grad = None
        with Tape() as tape:
            loss = f().sum()
        assert runs == []
        tape.backward(loss)
        assert runs == wanted and sd.gradcheck(lambda _, f=f: f(), x) < 1e-7


def test_values_from_another_tape_are_kept_since_the_parameters_may_have_changed(rng):
    x, scale, shift, w = (Tensor(rng.standard_normal(shape)) for shape in ((2, 5, 5, 4), (4,), (4,), (3, 3, 4, 2)))
    with Tape():
        h = ops.group_norm_silu(x, scale, shift, groups=2)
    off_the_tape = ops.group_norm_silu(x, scale, shift, groups=2)
    want = sd.gradcheck(lambda w: ops.conv2d(Tensor(h.data.copy()), w), w)
    scale.data *= 2.0  # as Adam does
    for values in h, off_the_tape:
        assert values.node.again is None
        assert sd.gradcheck(lambda w, values=values: ops.conv2d(values, w), w) == want < 1e-7


def test_two_convolutions_of_one_group_norm_each_compute_it_again(rng):
    x, scale, shift, w = (Tensor(rng.standard_normal(shape)) for shape in ((2, 5, 5, 4), (4,), (4,), (3, 3, 4, 2)))

    def f(*_):
        h = ops.group_norm_silu(x, scale, shift, groups=2)
        return ops.conv2d(h, w) * ops.conv2d(h, w, stride=2, padding=((3, 4), (3, 4)))

    assert sd.gradcheck(f, x, scale, shift, w, max_probes=30) < 1e-6
    assert sd.gradcheck(lambda *xs: sd.recompute(f, dict(enumerate(xs)))(), x, scale, shift, w, max_probes=4) < 1e-6


def test_a_tape_does_not_see_the_ops_of_another_thread():
    x = Tensor(A)
    with Tape() as tape:
        thread = threading.Thread(target=ops.silu, args=(x,))
        thread.start()
        thread.join()
    assert tape.records == []


def test_an_input_of_two_ops_gets_the_sum_of_both_gradients():
    (dx,) = gradients(lambda x: x * x + ops.exp(x), A)
    np.testing.assert_allclose(dx, 2 * A + np.exp(A), rtol=1e-14)


def test_an_input_twice_in_one_op_gets_both_gradients():
    (dx,) = gradients(lambda x: x + x, A)
    np.testing.assert_array_equal(dx, np.full_like(A, 2))


def test_tensors_that_were_handed_one_gradient_array_do_not_share_what_is_added_later():
    da, db = gradients(lambda a, b: a + (a + b), A, A)  # the inner + gives a and b the same array; a gets more later
    np.testing.assert_array_equal(da, np.full_like(A, 2))
    np.testing.assert_array_equal(db, np.ones_like(A))


def test_gradients_of_two_tapes_add_up():
    x = Tensor(A)
    for factor in 3, 4:
        with Tape() as tape:
            loss = (factor * x).sum()
        tape.backward(loss)
    np.testing.assert_array_equal(x.grad, np.full_like(A, 7))


def test_the_loss_need_not_be_the_last_op_and_what_it_does_not_depend_on_gets_no_gradient():
    x, y = Tensor(A), Tensor(A)
    with Tape() as tape:
        loss = x.sum()
        ops.exp(x * y).sum()
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, np.ones_like(A))
    assert y.grad is None


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_is_any_tensor_of_one_entry(shape):
    x = Tensor(A)
    with Tape() as tape:
        loss = x.sum().reshape(shape)
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, np.ones_like(A))


def test_a_constant_gets_no_gradient_and_a_tensor_beside_it_does():
    x, constant = Tensor(A), A.copy()
    with Tape() as tape:
        loss = (x * constant).sum()
    assert tape.records[0].args[1] is constant
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, constant)


def test_keyword_tensors_get_their_gradients():
    rng = np.random.default_rng(0)
    x, scale, shift, dy = (rng.standard_normal(shape) for shape in [(2, 3, 4), (4,), (4,), (2, 3, 4)])

    by_position = gradients(lambda x, a, b: dy * ops.group_norm(x, a, b, groups=2), x, scale, shift)
    by_keyword = gradients(lambda x, a, b: dy * ops.group_norm(x, shift=b, scale=a, groups=2), x, scale, shift)
    for want, got in zip(by_position, by_keyword):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(by_keyword[2], dy.sum((0, 1)), rtol=1e-12, atol=1e-14)


def test_the_walk_empties_the_tape_and_leaves_gradients_on_inputs_only():
    x = Tensor(A)
    with Tape() as tape:
        y = x * x
        z = ops.exp(y)
        loss = z.sum()
    assert len(tape.records) == 3
    tape.backward(loss)
    assert tape.records == []
    assert y.grad is z.grad is loss.grad is None
    assert x.grad is not None


def test_an_activation_is_freed_before_the_walk_reaches_earlier_ops():
    freed = []

    @op
    def witness(x):
        return x.copy(), lambda dy: (freed.append(activation() is None) or dy,)

    x = Tensor(A)
    with Tape() as tape:
        h = ops.exp(witness(x))
        activation = weakref.ref(h.data)
        loss = (h * h).sum()
    del h
    tape.backward(loss)
    assert freed == [True]


def test_a_chain_of_ten_thousand_ops_needs_no_recursion():
    def chain(x):
        for _ in range(10_000):
            x = x + 0.25
        return x

    (dx,) = gradients(chain, A)
    np.testing.assert_array_equal(dx, np.ones_like(A))


def test_cost_is_linear_in_the_ops_however_many_paths_run_through_them():
    calls = []

    @op
    def double(a, b):
        return a + b, lambda dy: (calls.append(1) or dy, dy)

    def chain(x):
        for _ in range(60):  # 2⁶⁰ paths
            x = double(x, x)
        return x

    (dx,) = gradients(chain, A)
    np.testing.assert_array_equal(dx, np.full_like(A, 2.0**60))
    assert len(calls) == 60


# complaints


@pytest.mark.parametrize(
    "loss, message", [(Tensor(A), r"scalar Tensor, got float64 of shape \(2, 3\)"), (3.0, "got 3.0"), (A, "got float64 of")]
)
def test_a_loss_that_is_not_a_scalar_tensor_is_refused(loss, message):
    with Tape() as tape:
        Tensor(A).sum()
    with pytest.raises(ValueError, match=message):
        tape.backward(loss)


def test_a_loss_of_another_tape_is_refused():
    x = Tensor(A)
    off_tape = x.sum()
    with Tape() as other:
        elsewhere = x.sum()
    with Tape() as tape:
        x.sum()
    for loss in off_tape, elsewhere:
        with pytest.raises(ValueError, match="not computed on this tape"):
            tape.backward(loss)
    other.backward(elsewhere)


def test_a_tape_that_recorded_nothing_yet_is_refused():
    with pytest.raises(ValueError, match="this tape is new"):
        Tape().backward(Tensor(1.0))


def test_a_tape_is_walked_once():
    x = Tensor(A)
    with Tape() as tape:
        loss = x.sum()
    tape.backward(loss)
    with pytest.raises(ValueError, match="this tape is used"):
        tape.backward(loss)
    np.testing.assert_array_equal(x.grad, np.ones_like(A))


def test_tapes_do_not_nest_and_the_outer_one_goes_on_recording():
    x = Tensor(A)
    with Tape() as tape:
        with pytest.raises(ValueError, match="do not nest"), Tape():
            pass
        loss = x.sum()
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, np.ones_like(A))


def test_a_tape_is_entered_once():
    with Tape() as tape:
        pass
    with pytest.raises(ValueError, match="this tape has been used"), tape:
        pass


def test_an_exception_inside_the_block_passes_and_leaves_no_tape_active():
    with pytest.raises(ZeroDivisionError), Tape() as broken:
        raise ZeroDivisionError
    Tensor(A).sum()
    assert broken.records == []
    with Tape():  # would not nest
        pass


# op


def test_op_keeps_the_functions_name_and_docstring():
    assert ops.silu.__name__ == "silu"
    assert ops.silu.__doc__.startswith("y = x σ(x)")


def test_a_gradient_of_the_wrong_shape_is_refused_by_op_argument_and_shapes():
    @op
    def scale_rows(x, s):
        return x * s, lambda dy: (dy * s, dy * x)  # the second should have been summed

    message = r"scale_rows: .* gradient of shape \(2, 3\) for argument 1 of shape \(2, 1\)"
    with pytest.raises(ValueError, match=message):
        gradients(scale_rows, A, A[:, :1])


def test_a_missing_gradient_for_a_tensor_is_refused():
    @op
    def scale(x, s):
        return x * s, lambda dy: (dy * s,)

    np.testing.assert_array_equal(gradients(lambda x: scale(x, 3.0), A)[0], np.full_like(A, 3))
    with pytest.raises(ValueError, match="scale: backward returned 1 gradients, but a later argument is a Tensor"):
        gradients(scale, A, np.array(3.0))


def test_an_op_may_return_no_gradient_for_an_argument():
    @op
    def stop(x):
        return x, lambda dy: (None,)

    assert gradients(stop, A) == [None]


# dtypes


@pytest.mark.parametrize("constant", [np.float64(2), np.ones((2, 3)), np.float16(2), np.array(2.0)])
def test_a_constant_of_floats_takes_the_dtype_of_the_tensors(constant):
    x = Tensor(A.astype(np.float32))
    with Tape() as tape:
        y = ops.mse(constant * x + constant, np.ones((2, 3)))
    tape.backward(y)
    assert y.dtype == x.grad.dtype == np.float32


@pytest.mark.parametrize("other", [Tensor(A), np.arange(3)], ids=["a float64 Tensor", "an int64 array"])
def test_what_would_change_the_dtype_of_a_tensor_is_refused_by_op_and_dtypes(other):
    with pytest.raises(ValueError, match=r"mul: the Tensors must have one dtype, .* got float32, (float|int)64"):
        Tensor(A.astype(np.float32)) * other


# Tape(watch=...)


def test_a_watch_sees_each_record_after_its_forward_in_order_and_after_its_backward_in_reverse():
    seen = []
    x = Tensor(A)
    with Tape(lambda record, dy, grads: seen.append((record.name, dy, grads))) as tape:
        loss = ops.silu(x * 2.0).sum()
    tape.backward(loss)
    assert [name for name, _, _ in seen] == ["mul", "silu", "sum", "sum", "silu", "mul"]
    assert all(dy is None and grads is None for _, dy, grads in seen[:3])
    np.testing.assert_array_equal(seen[-1][2][0], x.grad)
    np.testing.assert_array_equal(seen[3][1], 1.0)


def test_a_record_holds_the_function_on_arrays_its_arguments_and_settings():
    x, scale, shift = Tensor(np.ones((2, 3, 4))), Tensor(np.ones(4)), Tensor(np.zeros(4))
    with Tape() as tape:
        y = ops.group_norm(x, scale, shift, groups=2)
    (record,) = tape.records
    assert record.op is ops.group_norm.on_arrays and record.name == "group_norm"
    assert record.args == (x.node, scale.node, shift.node) and record.settings == {"groups": 2} and record.out is y.node


def test_a_tape_without_a_watch_lets_infinities_pass():
    with Tape() as tape:
        loss = (Tensor(A) * np.inf).sum()
    tape.backward(loss)
