"""Recomputing changes what is kept, and nothing that comes out."""

import numpy as np

import scratchdiff as sd
from scratchdiff import ops


def test_the_gradients_of_inputs_and_weights_are_those_of_the_function_itself(rng):
    layer = sd.nn.Linear(3, 4, rng=rng, dtype=np.float64)
    a, b = rng.standard_normal((2, 5, 3))
    found = []
    for f in (both, sd.recompute(lambda x, y: both(x, y, layer), layer.parameters())):
        x, y = sd.Tensor(a), sd.Tensor(b)
        for p in layer.parameters().values():
            p.grad = np.ones(p.shape)  # what is there already must stay, and be added to
        with sd.Tape() as tape:
            out = f(x, y, layer) if f is both else f(x, y)
            loss = (out * out).sum()
        tape.backward(loss)
        found.append([out.data, x.grad, y.grad, layer.w.grad, layer.b.grad])
    for got, want in zip(*found):
        np.testing.assert_allclose(got, want, rtol=1e-13)


def both(x, y, layer):
    return ops.silu(layer(x)) * layer(y)


def test_the_tape_keeps_one_record_for_the_whole_function(rng):
    x = sd.Tensor(rng.standard_normal((2, 3)))
    with sd.Tape() as tape:
        sd.recompute(lambda x: ops.silu(ops.exp(x) * 2.0))(x)
    assert [record.name for record in tape.records] == ["recomputed"]


def test_recomputed_functions_nest_and_match_finite_differences(rng):
    inner = sd.recompute(lambda x: ops.tanh(x * x))
    outer = sd.recompute(lambda x, y: inner(x) * ops.exp(y) + inner(y))
    assert sd.gradcheck(outer, *rng.standard_normal((2, 3, 4))) < 1e-7


def test_a_function_of_arrays_alone_gives_its_value():
    np.testing.assert_array_equal(sd.recompute(lambda x: x + 1.0)(np.ones(3)).data, np.full(3, 2.0))


def test_the_walk_may_start_while_the_tape_still_records(rng):
    a, x = rng.standard_normal((2, 3))
    x = sd.Tensor(x)
    with sd.Tape() as tape:
        tape.backward((sd.recompute(lambda x: x * x)(x) * a).sum())
    np.testing.assert_allclose(x.grad, 2 * a * x.data)


def test_weights_get_their_gradients_whether_or_not_the_tape_sees_them(rng):
    layer, a = sd.nn.Linear(3, 4, rng=rng, dtype=np.float64), rng.standard_normal((5, 3))
    found = []
    for seen in ({}, layer.parameters()):
        layer.w.grad = layer.b.grad = None
        with sd.Tape() as tape:
            loss = sd.recompute(layer, seen)(sd.Tensor(a)).sum()
        tape.backward(loss)
        found.append((layer.w.grad, layer.b.grad))
    for got, want in zip(*found):
        np.testing.assert_array_equal(got, want)
