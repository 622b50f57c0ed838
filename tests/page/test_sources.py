"""The page shows the code that stands in the files, and marks the lines that compute gradients."""

import inspect

from scratchdiff import ops
from scratchdiff.ops.conv import convolve
from scratchdiff.ops.norm import normalise, on_pixels
from scratchdiff.page.sources import describe, functions_of, gradient_lines


def names(op):
    return [f.__name__ for f in functions_of(op.on_arrays)]


def marked(f):
    """{gradient: the marked lines of f that compute it}"""
    found = describe(f)
    lines, by_name = found["text"].splitlines(), {}
    for line, gradients in found["marks"].items():
        for name in gradients:
            by_name.setdefault(name, []).append(lines[line].strip())
    return by_name


def test_the_source_of_an_op_goes_on_with_the_formulas_that_it_calls():
    assert names(ops.conv2d)[0] == "conv2d" and {"convolve", "tap_pixels"} <= set(names(ops.conv2d))
    normalised = ["group_norm_silu", "on_pixels", "normalise_silu", "normalise", "silu", "logistic"]
    assert sorted(names(ops.group_norm_silu)) == sorted(normalised)
    assert names(ops.attention) == ["attention", "attend", "resolve_mask", "softmax"]
    assert names(ops.mul) == ["mul", "broadcast", "unbroadcast"]  # and not the op `sum`, though unbroadcast calls dy.sum
    assert names(ops.tanh) == ["tanh"]


def test_what_is_shown_is_the_text_of_the_file_from_the_line_that_is_named():
    found = describe(inspect.unwrap(convolve))
    file = inspect.getsourcefile(inspect.unwrap(convolve))
    with open(file, encoding="utf-8") as text:
        lines = text.read().splitlines()[found["line"] - 1 :]
    assert found["file"] == "ops/conv.py" and lines[: len(found["text"].splitlines())] == found["text"].splitlines()


def test_each_gradient_of_the_convolution_is_marked_where_it_is_computed():
    found = marked(inspect.unwrap(convolve))
    assert found["dw"] == [line for line in found["dw"] if line.startswith("dw[u, v] = ")] != []
    assert any("+= dy @ w[u, v].T" in line for line in found["dx"]) and any(line.startswith("dx = ") for line in found["dx"])
    assert [line.split(" = ")[0] for line in found["db"]] == ["db"]


def test_each_gradient_of_the_group_norm_is_marked_and_no_other_line():
    found = marked(inspect.unwrap(normalise))
    assert {name: [line.split(" = ")[0] for line in lines] for name, lines in found.items()} == {
        "dx": ["dx"], "dscale": ["dscale"], "dshift": ["dshift"]}  # fmt: skip


def test_a_gradient_is_named_after_the_variable_that_is_returned_where_the_arguments_begin_with_a_function():
    assert set(marked(on_pixels)) == {"dx", "dscale", "dshift"}


def test_a_lambda_and_a_backward_of_one_call_mark_their_own_line():
    assert gradient_lines("def f(x):\n    return x, lambda dy: (dy,)\n") == {1: ["dx"]}
    both = "def f(a, b):\n    y, back = g(a, b)\n    return y, lambda dy: back(dy)\n"
    assert gradient_lines(both) == {2: ["all"]}


def test_an_op_without_source_is_shown_without_it():
    space = {}
    exec("def typed(x):\n    return x, lambda dy: (dy,)", space)
    assert "no source" in describe(space["typed"])["text"] and describe(space["typed"])["marks"] == {}
