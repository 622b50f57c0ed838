"""Every compiled kernel equals the formula that it may replace, forward and backward, on the same inputs."""

import inspect
import itertools
from unittest.mock import patch

import numba
import numpy as np
import pytest

from scratchdiff import kernels, ops, optim
from scratchdiff.kernels import FORMULAS, compiled, conv, threads, winograd
from scratchdiff.kernels.conv import winograd_pays
from scratchdiff.kernels.products import apart, whole

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11}  # of the largest entry

CONVOLUTIONS = {  # N, H, W, Cin, kh, kw, Cout, stride, pads
    "3x3": (2, 6, 5, 3, 3, 3, 4, 1, ((1, 1), (1, 1))),
    "3x3 unpadded": (2, 6, 7, 3, 3, 3, 2, 1, ((0, 0), (0, 0))),
    "3x3 uneven padding": (3, 5, 4, 2, 3, 3, 3, 1, ((0, 2), (2, 1))),
    "3x3 one pixel": (1, 1, 1, 4, 3, 3, 5, 1, ((1, 1), (1, 1))),
    "3x3 one row": (2, 1, 9, 8, 3, 3, 8, 1, ((1, 1), (1, 1))),
    "3x3 wide": (5, 11, 9, 16, 3, 3, 24, 1, ((1, 1), (1, 1))),
    "3x3 wide unpadded": (4, 8, 13, 24, 3, 3, 16, 1, ((0, 0), (0, 0))),
    "3x3 wide padded by two": (2, 5, 6, 16, 3, 3, 16, 1, ((2, 2), (2, 2))),
    "3x3 wide padded by five": (1, 3, 4, 16, 3, 3, 16, 1, ((5, 5), (5, 5))),
    "3x3 wide uneven padding": (10, 7, 6, 9, 3, 3, 17, 1, ((0, 2), (2, 1))),
    "3x3 wide one pixel": (1, 1, 1, 16, 3, 3, 16, 1, ((1, 1), (1, 1))),
    "3x3 wide many images": (37, 7, 7, 32, 3, 3, 32, 1, ((1, 1), (1, 1))),
    "3x3 wide, tiles of four and of three": (5, 14, 13, 20, 3, 3, 16, 1, ((1, 1), (1, 1))),
    "3x3 wide, strips that hang over their rectangle": (1, 7, 31, 160, 3, 3, 160, 1, ((1, 1), (1, 1))),
    "3x3 no images": (0, 6, 6, 16, 3, 3, 16, 1, ((1, 1), (1, 1))),
    "3x3 from one channel": (3, 9, 8, 1, 3, 3, 16, 1, ((1, 1), (1, 1))),
    "3x3 to one channel": (3, 9, 8, 16, 3, 3, 1, 1, ((1, 1), (1, 1))),
    "3x3 a long line": (1, 4, 700, 4, 3, 3, 3, 1, ((1, 1), (1, 1))),
    "3x3 stride 2": (2, 6, 8, 5, 3, 3, 4, 2, ((0, 1), (0, 1))),
    "3x3 stride 2, last pixels unused": (2, 6, 8, 5, 3, 3, 4, 2, ((0, 0), (0, 0))),
    "3x3 stride 3": (2, 8, 7, 2, 3, 3, 3, 3, ((1, 1), (1, 1))),
    "1x1": (2, 4, 3, 5, 1, 1, 6, 1, ((0, 0), (0, 0))),
    "1x1 padded": (2, 4, 3, 5, 1, 1, 6, 1, ((1, 0), (0, 2))),
    "1x1 stride 2": (2, 5, 4, 3, 1, 1, 2, 2, ((0, 0), (0, 0))),
    "1x1 stride 3, last pixels unused": (2, 6, 9, 3, 1, 1, 2, 3, ((0, 0), (0, 0))),
    "2x2": (2, 5, 4, 3, 2, 2, 5, 1, ((0, 1), (0, 1))),
    "5x5": (2, 7, 6, 2, 5, 5, 3, 1, ((2, 2), (2, 2))),
    "5x2 stride 2": (2, 9, 7, 3, 5, 2, 4, 2, ((2, 2), (0, 1))),
    "no images": (0, 6, 5, 3, 3, 3, 4, 2, ((1, 1), (1, 1))),
    "more lines than a block of pixels": (1, 3, 600, 2, 3, 3, 2, 2, ((1, 1), (1, 1))),
}
LINEARS = {"few rows": (5, 7, 3), "many rows": (1700, 64, 48), "one input": (9, 1, 4), "one output": (9, 4, 1),
           "no rows": (0, 4, 3), "no inputs": (3, 0, 2)}  # fmt: skip
ATTENTIONS = {"unequal": (3, 5, 7, 4, 6), "7 × 7 pixels": (1, 49, 49, 32, 32), "no heads": (0, 2, 3, 4, 5),  # N, L, M, D, E
              "wide queries": (2, 3, 2, 40, 4), "wide values": (2, 3, 2, 4, 40), "many keys": (1, 3, 300, 2, 3)}  # fmt: skip
NORMS = {  # N, L, C, groups
    "3 images": (3, 35, 12, 4),
    "one image": (1, 17, 8, 8),
    "one image, groups that two threads cannot share evenly": (1, 10, 9, 3),
    "one group": (2, 1, 6, 1),
    "no images": (0, 4, 4, 2),
    "many images": (37, 20, 32, 8),
}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


@pytest.fixture(params=(1, 2, 3), ids="{} shares".format)
def shares(request, monkeypatch):
    """The kernels cut their work, however little it is, into so many shares. Numba may have fewer threads to do them."""
    monkeypatch.setattr(numba, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(threads, "WORTH_A_THREAD", 1)
    threads.thread_count.cache_clear()
    yield
    threads.thread_count.cache_clear()


shared_out = pytest.mark.usefixtures("shares")


def convolve_arguments(case, rng):
    N, H, W, Cin, kh, kw, Cout, s, pads = case
    image_bias = rng.standard_normal((N, Cout)) if s == 1 else rng.standard_normal(Cout)
    return rng.standard_normal((N, H, W, Cin)), rng.standard_normal((kh, kw, Cin, Cout)), image_bias, s, pads


def normalise_arguments(case, rng):
    N, L, C, groups = case
    return 1 + 2 * rng.standard_normal((N, L, C)), rng.standard_normal(C), rng.standard_normal(C), groups, 1e-6


def affine_arguments(case, rng):
    rows, n_in, n_out = case
    return rng.standard_normal((rows, n_in)), rng.standard_normal((n_in, n_out)), rng.standard_normal(n_out)


def attend_arguments(case, rng):
    N, L, M, D, E = case
    return rng.standard_normal((N, L, D)), rng.standard_normal((N, M, D)), rng.standard_normal((N, M, E))


# a marked function that returns (y, backward), or (y, backward, again): how to make its arguments, and for which cases
CASES = {
    "convolve": (convolve_arguments, CONVOLUTIONS),
    "normalise": (normalise_arguments, NORMS),
    "normalise_silu": (normalise_arguments, NORMS),
    "affine": (affine_arguments, LINEARS),
    "silu_affine": (affine_arguments, LINEARS),
    "attend": (attend_arguments, ATTENTIONS),
}
PAIRS = [pytest.param(name, make, case, id=f"{name}, {label}")
         for name, (make, cases) in CASES.items() for label, case in cases.items()]  # fmt: skip


def as_dtype(arguments, dtype):
    return [a.astype(dtype) if isinstance(a, np.ndarray) else a for a in arguments]


def outputs(f, arguments, seed=1):
    """[y, *gradients] of f for a random dy, None left out, and y again where f can compute it again."""
    y, backward, *again = f(*arguments)
    dy = np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)
    gradients = backward(dy, *not_kept(backward, arguments))
    return [y, *[dx for dx in gradients if dx is not None], *[compute() for compute in again]]


def not_kept(backward, arguments):
    """The arguments that a backward wants besides dy: convolve's takes x, which it does not keep."""
    return arguments[:1] if "x" in inspect.signature(backward).parameters else ()


def awkward(a):
    """The same numbers, read-only and not contiguous."""
    if not isinstance(a, np.ndarray):
        return a
    view = np.repeat(a, 2, axis=-1)[..., ::2]
    view.flags.writeable = False
    return view


def formula_outputs(name, arguments):
    """The same in float64 by the NumPy formula, whatever formulas it calls in turn."""
    before = kernels.use("numpy")
    try:
        return outputs(FORMULAS[name], as_dtype(arguments, np.float64))
    finally:
        kernels.use(before)


def assert_close(got, want, dtype):
    """`want` is computed in float64; errors are measured against its largest entry."""
    assert got.dtype == dtype
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= TOLERANCE[dtype] * max(np.abs(want).max(initial=0), 1)


# ---- every compiled kernel equals its formula


def test_every_marked_function_has_a_twin_and_a_case_here():
    assert set(FORMULAS) == set(compiled.__all__) == {*CASES, "adam_update", "add_arrays", "join"}


@shared_out
@dtypes
@pytest.mark.parametrize("name, make, case", PAIRS)
def test_a_compiled_kernel_and_its_gradients_equal_the_formula(name, make, case, dtype):
    arguments = as_dtype(make(case, np.random.default_rng(0)), dtype)
    for got, want in zip(outputs(getattr(compiled, name), arguments), formula_outputs(name, arguments), strict=True):
        assert_close(got, want, dtype)


@dtypes
@pytest.mark.parametrize("name, bias", (("convolve", None), ("convolve", (4,)), ("affine", None), ("silu_affine", None)))
def test_a_bias_may_be_shared_or_missing_in_both(name, bias, dtype):
    make, cases = CASES[name]
    arguments = list(make(cases["3x3" if name == "convolve" else "few rows"], np.random.default_rng(0)))
    arguments[2] = None if bias is None else np.ones(bias)
    arguments = as_dtype(arguments, dtype)
    for got, want in zip(outputs(getattr(compiled, name), arguments), formula_outputs(name, arguments), strict=True):
        assert_close(got, want, dtype)


@shared_out
@dtypes
@pytest.mark.parametrize("shape", ((0,), (1,), (13,), (7000,), (3, 5)))
def test_a_compiled_step_of_adam_equals_the_formula(shape, dtype):
    rng = np.random.default_rng(0)
    p, g, m, v = (rng.standard_normal(shape).astype(dtype) for _ in range(4))
    v = np.abs(v)
    arrays = [a.astype(np.float64) for a in (p, g, m, v)]
    settings = 3, 0.01, 0.9, 0.999, 1e-8  # k, lr, betas, eps
    FORMULAS["adam_update"](*arrays, *settings)
    compiled.adam_update(p, g, m, v, *settings)
    for got, want in zip((p, m, v), (arrays[0], arrays[2], arrays[3]), strict=True):
        assert_close(got, want, dtype)


@pytest.mark.parametrize("order", ("C", "F", "every other row"))
def test_both_steps_of_adam_move_a_parameter_in_place_whatever_its_memory_order(order):
    moved = []
    for step in (FORMULAS["adam_update"], compiled.adam_update):
        a = np.random.default_rng(0).standard_normal((6, 4))
        p = np.asfortranarray(a) if order == "F" else a if order == "C" else a[::2]
        start, g = p.copy(), np.ones(p.shape[::-1]).T  # the gradient's memory order differs from p's
        step(p, g, np.zeros_like(p), np.zeros_like(p), 1, 0.1, 0.9, 0.999, 1e-8)
        np.testing.assert_allclose(p, start - 0.1, rtol=1e-6)  # Adam's first step has the length lr
        moved.append(p)
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-14)


@shared_out
@pytest.mark.parametrize("a_shape, b_shape", (((4, 3, 5), (4, 3, 5)), ((4, 3, 5), (5,)), ((), (4, 3, 5)), ((3, 0), (3, 0))))
def test_a_compiled_sum_of_arrays_equals_that_of_numpy_bit_for_bit(a_shape, b_shape):
    a, b = (np.random.default_rng(seed).standard_normal(shape) for seed, shape in enumerate((a_shape, b_shape)))
    for p, q in ((a, b), (a, awkward(b)), (1.5, b), (a.tolist(), b), (a.astype(np.float32), b), (a > 0, b > 0)):
        got, want = compiled.add_arrays(p, q), np.add(p, q)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


@shared_out
@pytest.mark.parametrize("axis", (0, 1, 2))
@pytest.mark.parametrize("lengths", ((4, 3), (7,), (2, 0, 3), (1, 1, 1), (0, 0)))
def test_a_compiled_join_and_its_gradients_equal_those_of_numpy_bit_for_bit(axis, lengths):
    rng, shape = np.random.default_rng(0), (4, 5, 6)
    xs = [rng.standard_normal(shape[:axis] + (n,) + shape[axis + 1 :]) for n in lengths]
    wanted = outputs(FORMULAS["join"], (xs, axis))
    for arrays in (xs, [awkward(x) for x in xs]):
        for got, want in zip(outputs(compiled.join, (arrays, axis)), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


@shared_out
def test_a_compiled_join_of_arrays_without_entries_is_that_of_numpy():
    xs = [np.zeros((0, n, 2)) for n in (3, 4)]
    assert [a.shape for a in outputs(compiled.join, (xs, 1))] == [(0, 7, 2), (0, 3, 2), (0, 4, 2)]


def test_attention_to_scores_of_two_million_does_not_overflow():
    q = np.full((1, 2, 4), 1000, np.float32)
    y, _ = compiled.attend(q, q * np.float32([[[1], [-1]]]), np.float32([[[1], [2]]]))
    np.testing.assert_array_equal(y, [[[1], [1]]])


@shared_out
@pytest.mark.parametrize("name", CASES)
def test_a_compiled_kernel_takes_read_only_views_and_leaves_its_inputs_alone(name):
    make, cases = CASES[name]
    arguments = make(list(cases.values())[0], np.random.default_rng(0))
    before = [np.copy(a) for a in arguments if isinstance(a, np.ndarray)]
    wanted = outputs(getattr(compiled, name), arguments)
    for got, want in zip(outputs(getattr(compiled, name), [awkward(a) for a in arguments]), wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    for a, b in zip([a for a in arguments if isinstance(a, np.ndarray)], before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_after_use_numpy_no_compiled_kernel_is_called(monkeypatch):
    def refuse(name):
        raise AssertionError(f"the twin of {name} was called")

    monkeypatch.setattr(kernels, "twin", refuse)
    before = kernels.use("numpy")
    try:
        x = np.ones((2, 4, 4, 2))
        ops.conv2d(x, np.ones((3, 3, 2, 4)))
        ops.group_norm_silu(x, np.ones(2), np.ones(2), groups=1)
        optim.adam_update(*np.ones((4, 3)), 1, 0.1, 0.9, 0.99, 1e-8)
        kernels.use("compiled")
        with pytest.raises(AssertionError, match="the twin of convolve was called"):
            ops.conv2d(x, np.ones((3, 3, 2, 4)))
    finally:
        kernels.use(before)


def test_kernels_use_refuses_another_mode():
    with pytest.raises(ValueError, match="kernels.use: the mode must be numpy or compiled, got 'cuda'"):
        kernels.use("cuda")


# ---- Winograd


def test_winograds_matrices_turn_a_filter_of_three_taps_into_six_products():
    rng = np.random.default_rng(0)
    w, d = rng.standard_normal(3), rng.standard_normal(6)
    y = winograd.A.T @ ((winograd.G @ w) * (winograd.B @ d))
    np.testing.assert_allclose(y, np.correlate(d, w), rtol=1e-13)


@pytest.mark.parametrize("name, apply, n", (("A", winograd.apply_a, 4), ("B", winograd.apply_b, 6),
                                             ("G", winograd.apply_g, 3)))  # fmt: skip
def test_winograds_shortcuts_equal_its_matrices(name, apply, n):
    d, k = np.random.default_rng(0).standard_normal(n), winograd.constants(np.dtype(np.float64))
    np.testing.assert_allclose(apply(*d, k), getattr(winograd, name) @ d, rtol=1e-14)


def test_winograds_shortcuts_out_equal_their_matrices():
    m, k = np.random.default_rng(0).standard_normal(6), winograd.constants(np.dtype(np.float64))
    np.testing.assert_allclose(winograd.apply_at(*m, k), winograd.A.T @ m, rtol=1e-14)
    np.testing.assert_allclose(winograd.apply_gt(*m, k), winograd.G.T @ m, rtol=1e-13)


@pytest.mark.parametrize("size", range(1, 40))
def test_tiles_of_four_and_three_cover_a_side_with_the_fewest_products(size):
    spans = winograd.spans(size)
    covered = [outputs for outputs, _, tiles in spans for _ in range(tiles)]
    assert [first for _, first, _ in spans] == [sum(m for m in covered if m > outputs) for outputs, *_ in spans]
    assert sum(covered) >= size
    others = [6 * fours + 5 * threes for fours in range(11) for threes in range(14) if 4 * fours + 3 * threes >= size]
    assert sum(m + 2 for m in covered) == min(others)


@shared_out
@dtypes
@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if name.startswith("3x3") and "stride" not in name])
def test_winograd_equals_the_formula_on_shapes_that_are_too_small_for_it_to_pay(name, dtype):
    x, w, b, s, pads = as_dtype(convolve_arguments(CONVOLUTIONS[name], np.random.default_rng(0)), dtype)
    want = formula_outputs("convolve", (x, w, b, s, pads))
    dy = np.random.default_rng(1).standard_normal(want[0].shape).astype(dtype)
    assert_close(winograd.convolution(x, w, b, pads), want[0], dtype)
    assert_close(winograd.weight_gradient(x, dy, pads), want[2], dtype)
    with patch.object(conv, "convolution", lambda x, w, b, s, pads: winograd.convolution(x, w, b, pads)):
        assert_close(conv.input_gradient(dy, w, x.shape, s, pads), want[1], dtype)


@dtypes
def test_winograds_buffers_hold_what_its_plans_lay_out_in_them(dtype):
    M, channels = np.empty(0, dtype), (1, 16, 17, 64, 1000, winograd.MOST_CHANNELS)
    for C, Co, size, shares in itertools.product(channels, channels, (3, 4, 7, 13, 14, 40, 300), (1, 3)):
        for widest in (max(C, whole(Co, M)), apart(max(C, Co), M)):
            for row in winograd.plans((2, size, size, Co), widest, shares)[0]:
                plan = winograd.Plan(*row)
                assert plan.group * plan.run * widest <= winograd.PLANE
                assert max((plan.width * plan.run + 2) * C, plan.run * widest) <= winograd.LINE


@dtypes
@pytest.mark.parametrize("name, case", (
    ("affine", "many rows"), ("silu_affine", "few rows"), ("attend", "unequal"), ("convolve", "1x1"),
    ("convolve", "3x3 stride 2"), ("convolve", "3x3 wide many images"),
))  # fmt: skip
def test_a_gradient_of_another_dtype_is_taken_in_that_of_x(name, case, dtype):
    make, cases = CASES[name]
    arguments = as_dtype(make(cases[case], np.random.default_rng(0)), dtype)
    y, backward, *_ = getattr(compiled, name)(*arguments)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    other, later = np.float32 if dtype == np.float64 else np.float64, not_kept(backward, arguments)
    for got, want in zip(backward(dy.astype(other), *later), backward(dy.astype(dtype), *later), strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == dtype


@pytest.mark.parametrize("channels", (32, 128, 512))
def test_the_36_matrices_of_a_filter_start_at_36_places_of_the_cache(monkeypatch, channels):
    seen = []
    monkeypatch.setattr(winograd, "transform_filter", lambda w, U, k: seen.append(U))
    monkeypatch.setattr(winograd, "convolve_parallel", lambda *arguments: None)
    x, w = np.zeros((1, 20, 20, channels), "f4"), np.zeros((3, 3, channels, channels), "f4")
    winograd.convolution(x, w, np.zeros((1, channels), "f4"), ((1, 1), (1, 1)))
    (U,) = seen
    starts = {(i * U.strides[0] + j * U.strides[1]) % 4096 for i in range(6) for j in range(6)}
    assert len(starts) == 36  # addresses 4096 bytes apart share a place in the first-level cache


def test_use_threads_sets_numbas_count_of_threads_and_the_one_that_we_keep():
    before = threads.thread_count()
    try:
        for count in (1, before):
            threads.use_threads(count)
            assert threads.thread_count() == numba.get_num_threads() == threads.threads_for(10**9) == count
    finally:
        threads.use_threads(before)


def test_both_ways_of_convolving_are_among_the_cases():
    pays = [winograd_pays(case[:4], case[4:6] + (case[3], case[6]), case[7]) for case in CONVOLUTIONS.values()]
    assert 5 < sum(pays) < len(pays) - 5


def test_convolution_stays_accurate_in_float32_at_the_sizes_of_a_unet():
    case = (8, 28, 28, 32, 3, 3, 32, 1, ((1, 1), (1, 1)))
    arguments = as_dtype(convolve_arguments(case, np.random.default_rng(0)), np.float32)
    for got, want in zip(outputs(compiled.convolve, arguments), formula_outputs("convolve", arguments), strict=True):
        assert np.abs(got - want).max() < 5e-6 * np.abs(want).max()


# ---- what a formula in exact arithmetic does not say


@shared_out
@pytest.mark.parametrize("name, case", (("convolve", "3x3 wide many images"), ("normalise_silu", "many images"),
                                         ("silu_affine", "many rows")))  # fmt: skip
def test_running_a_kernel_twice_gives_the_same_bits(name, case):
    make, cases = CASES[name]
    runs = [outputs(getattr(compiled, name), as_dtype(make(cases[case], np.random.default_rng(0)), np.float32))
            for _ in range(2)]  # fmt: skip
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)


def test_group_norm_keeps_its_accuracy_where_a_large_offset_hides_the_signal():
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_normal((2, 10_000, 4))).astype(np.float32)
    y, _ = compiled.normalise(x, np.ones(4, "f4"), np.zeros(4, "f4"), 2, 1e-6)
    want, _ = FORMULAS["normalise"](x.astype("f8"), np.ones(4), np.zeros(4), 2, 1e-6)
    np.testing.assert_allclose(y, want, atol=1e-4)  # one rounding of a number near 1000 is 3e-5


def test_group_norm_of_constant_channels_is_the_shift_and_its_gradients_are_finite():
    x, shift = np.full((2, 784, 4), 0.1, np.float32), np.arange(4, dtype=np.float32)
    got = outputs(compiled.normalise, (x, np.ones(4, "f4"), shift, 2, 1e-6))
    np.testing.assert_array_equal(got[0], np.broadcast_to(shift, x.shape))
    assert all(np.isfinite(a).all() for a in got)


@dtypes
def test_silu_in_group_norm_is_exact_from_one_end_of_the_numbers_to_the_other(dtype):
    v = np.concatenate([np.linspace(-30, 30, 4001), [-1e4, -800, -100, -88.5, 88.5, 100, 800, 1e4, 0]]).astype(dtype)
    x = np.zeros((1, 3, len(v)), dtype)  # constant channels, so what SiLU sees is the shift
    y = compiled.normalise_silu(x, np.ones_like(v), v, len(v), 1e-6)[0][0, 1]
    exact = v.astype("f8") / (1 + np.exp(-np.maximum(v.astype("f8"), -700)))
    np.testing.assert_allclose(y, exact, rtol=3e-7 if dtype == np.float32 else 1e-14, atol=1e-36)


def test_a_nan_stays_a_nan():
    x = np.ones((1, 3, 2), np.float32)
    x[0, 1, 0] = np.nan
    assert np.isnan(compiled.normalise_silu(x, np.ones(2, "f4"), np.ones(2, "f4"), 2, 1e-6)[0][0, :, 0]).all()
