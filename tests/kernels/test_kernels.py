"""Every kernel, as formula and as fast code, on the same inputs. The formulas are held against SciPy or by hand first."""

import numpy as np
import pytest
from scipy import ndimage

from scratchdiff.kernels import fast, reference, winograd

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11}  # of the largest entry

CONVOLUTIONS = {  # N, H, W, Cin, kh, kw, Cout, stride, pads
    "3x3": (2, 6, 5, 3, 3, 3, 4, 1, ((1, 1), (1, 1))),
    "3x3 unpadded": (2, 6, 7, 3, 3, 3, 2, 1, ((0, 0), (0, 0))),
    "3x3 uneven padding": (3, 5, 4, 2, 3, 3, 3, 1, ((0, 2), (2, 1))),
    "3x3 one pixel": (1, 1, 1, 4, 3, 3, 5, 1, ((1, 1), (1, 1))),
    "3x3 one row": (2, 1, 9, 8, 3, 3, 8, 1, ((1, 1), (1, 1))),
    "3x3 wide": (3, 11, 9, 16, 3, 3, 24, 1, ((1, 1), (1, 1))),
    "3x3 wide unpadded": (2, 8, 13, 24, 3, 3, 16, 1, ((0, 0), (0, 0))),
    "3x3 wide padded by two": (2, 5, 6, 16, 3, 3, 16, 1, ((2, 2), (2, 2))),
    "3x3 wide padded by five": (1, 3, 4, 16, 3, 3, 16, 1, ((5, 5), (5, 5))),
    "3x3 wide uneven padding": (2, 7, 6, 9, 3, 3, 17, 1, ((0, 2), (2, 1))),
    "3x3 wide one pixel": (1, 1, 1, 16, 3, 3, 16, 1, ((1, 1), (1, 1))),
    "3x3 wide many images": (37, 7, 7, 32, 3, 3, 32, 1, ((1, 1), (1, 1))),
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
NORMS = {  # N, L, C, groups
    "3 images": (3, 35, 12, 4),
    "one image": (1, 17, 8, 8),
    "one image, groups that two threads cannot share evenly": (1, 10, 9, 3),
    "one group": (2, 1, 6, 1),
    "no images": (0, 4, 4, 2),
    "many images": (37, 20, 32, 8),
}
conv_cases = pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
norm_cases = pytest.mark.parametrize("case", NORMS.values(), ids=NORMS.keys())
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)


def conv_inputs(case, dtype, seed=0, biases=None):
    """x, w, b, dy of a case. biases: 1 for one that all images share, or None for one each."""
    N, H, W, Cin, kh, kw, Cout, s, pads = case
    rng = np.random.default_rng(seed)
    out = (H + sum(pads[0]) - kh) // s + 1, (W + sum(pads[1]) - kw) // s + 1
    shapes = (N, H, W, Cin), (kh, kw, Cin, Cout), (biases or N, Cout), (N, *out, Cout)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def norm_inputs(case, dtype, seed=0):
    N, L, C, groups = case
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, N, L, C)).astype(dtype)
    scale, shift = rng.standard_normal((2, C)).astype(dtype)
    return 1 + 2 * x, dy, scale, shift, groups


def conv_kernels(module, x, w, b, dy, s, pads):
    yield module.conv2d(x, w, b, s, pads)
    yield module.conv2d_dx(dy, w, x.shape, s, pads)
    yield module.conv2d_dw(x, dy, w.shape, s, pads)
    yield module.sum_pixels(dy)


def norm_kernels(module, x, dy, scale, shift, groups, silu):
    y, mean, rstd = module.group_norm(x, scale, shift, groups, 1e-6, silu)
    return y, mean, rstd, *module.group_norm_backward(dy, x, mean, rstd, scale, shift, groups, silu)


def assert_close(got, want, dtype):
    """`want` is worked out in float64; errors are measured against its largest entry."""
    assert got.dtype == dtype
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= TOLERANCE[dtype] * max(np.abs(want).max(initial=0), 1)


# ---- the formulas themselves


@pytest.mark.parametrize("s", (1, 2))
def test_the_formula_of_conv2d_is_scipys_correlation(s):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 6, 7, 3)), rng.standard_normal((3, 3, 3, 4))
    got = reference.conv2d(x, w, np.zeros((1, 4)), s, ((1, 1), (1, 1)))
    for n, d in np.ndindex(2, 4):
        planes = [ndimage.correlate(x[n, :, :, c], w[:, :, c, d], mode="constant") for c in range(3)]
        np.testing.assert_allclose(got[n, :, :, d], sum(planes)[::s, ::s], atol=1e-12)


@conv_cases
def test_the_formulas_of_a_convolutions_gradients_are_the_adjoints_of_its_forward(case):
    x, w, b, dy = conv_inputs(case, np.float64)
    y, dx, dw, db = conv_kernels(reference, x, w, b, dy, *case[7:])
    without_b = y - b[:, None, None]
    np.testing.assert_allclose([np.vdot(dx, x), np.vdot(dw, w)], np.vdot(dy, without_b), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.vdot(db, b), np.vdot(dy, y - without_b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("silu", (False, True))
def test_the_formula_of_group_norms_gradient_matches_finite_differences(silu):
    x, dy, scale, shift, groups = norm_inputs((2, 3, 4, 2), np.float64)
    gradients = norm_kernels(reference, x, dy, scale, shift, groups, silu)[3:]
    for i, gradient in enumerate(gradients):
        inputs = [x, scale, shift]
        for entry in np.ndindex(gradient.shape):
            step = np.zeros(gradient.shape)
            step[entry] = 1e-5
            up, down = (
                np.vdot(dy, reference.group_norm(*inputs[:i], inputs[i] + sign * step, *inputs[i + 1 :], 2, 1e-6, silu)[0])
                for sign in (1, -1)
            )
            assert (up - down) / 2e-5 == pytest.approx(gradient[entry], abs=1e-7)


# ---- the fast code computes the formulas


@dtypes
@conv_cases
def test_fast_convolution_and_its_gradients_equal_the_formulas(case, dtype):
    arrays = conv_inputs(case, dtype, biases=1 if case[7] > 1 else None)
    wanted = conv_kernels(reference, *[a.astype(np.float64) for a in arrays], *case[7:])
    for got, want in zip(conv_kernels(fast, *arrays, *case[7:]), wanted, strict=True):
        assert_close(got, want, dtype)


@pytest.mark.parametrize("silu", (False, True))
@dtypes
@norm_cases
def test_fast_group_norm_and_its_gradients_equal_the_formulas(case, dtype, silu):
    *arrays, groups = norm_inputs(case, dtype)
    wanted = norm_kernels(reference, *[a.astype(np.float64) for a in arrays], groups, silu)
    for got, want in zip(norm_kernels(fast, *arrays, groups, silu), wanted, strict=True):
        assert_close(got, want, dtype)


DENSE = {"few rows": (5, 7, 3), "rows for two threads": (700, 64, 48), "no rows": (0, 4, 3), "no inputs": (3, 0, 2)}


@pytest.mark.parametrize("silu", (False, True))
@dtypes
@pytest.mark.parametrize("size", DENSE.values(), ids=DENSE.keys())
def test_fast_linear_and_its_gradients_equal_the_formulas(size, dtype, silu):
    rows, n_in, n_out = size
    rng = np.random.default_rng(0)
    shapes = (rows, n_in), (n_in, n_out), n_out, (rows, n_out)
    x, w, b, dy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    x8, w8, b8, dy8 = (a.astype(np.float64) for a in (x, w, b, dy))
    assert_close(fast.linear(x, w, b, silu), reference.linear(x8, w8, b8, silu), dtype)
    wanted = reference.linear_backward(dy8, x8, w8, silu)
    for got, want in zip(fast.linear_backward(dy, x, w, silu), wanted, strict=True):
        assert_close(got, want, dtype)


@dtypes
@pytest.mark.parametrize("size", ((3, 5, 7, 4, 6), (1, 49, 49, 32, 32), (0, 2, 3, 4, 5)))
def test_fast_attention_and_its_gradients_equal_the_formulas(size, dtype):
    N, L, M, D, E = size
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.standard_normal(s).astype(dtype) for s in ((N, L, D), (N, M, D), (N, M, E), (N, L, E)))
    q8, k8, v8, dy8 = (a.astype(np.float64) for a in (q, k, v, dy))
    (y, a), (y8, a8) = fast.attention(q, k, v), reference.attention(q8, k8, v8)
    assert_close(y, y8, dtype)
    assert_close(a, a8, dtype)
    wanted = reference.attention_backward(dy8, q8, k8, v8, a8)
    for got, want in zip(fast.attention_backward(dy, q, k, v, a), wanted, strict=True):
        assert_close(got, want, dtype)


def test_attention_to_scores_of_a_thousand_does_not_overflow():
    q = np.full((1, 2, 4), 1000, np.float32)
    y, a = fast.attention(q, q * np.float32([[[1], [-1]]]), np.float32([[[1], [2]]]))
    np.testing.assert_array_equal(a, [[[1, 0], [1, 0]]])
    np.testing.assert_array_equal(y, [[[1], [1]]])


@pytest.mark.parametrize("rows, widths", ((4, (3, 5)), (1, (2, 1, 4)), (0, (3, 2)), (3, (2, 0))))
def test_fast_join_and_split_equal_the_formulas(rows, widths):
    xs = [np.random.default_rng(0).standard_normal((rows, width)) for width in widths]
    np.testing.assert_array_equal(fast.join(xs), reference.join(xs))
    for got, want, x in zip(fast.split(fast.join(xs), widths), reference.split(reference.join(xs), widths), xs, strict=True):
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(got, x)


@dtypes
@pytest.mark.parametrize("size", (0, 1, 13, 70_000))
def test_a_fast_step_of_adam_equals_the_formula(size, dtype):
    rng = np.random.default_rng(0)
    p, g, m, v = (rng.standard_normal(size).astype(dtype) for _ in range(4))
    v = np.abs(v)
    arrays = [a.astype(np.float64) for a in (p, g, m, v)]
    settings = 0.9, 0.999, 0.01, 0.5, 1e-8
    reference.adam(*arrays, *settings)
    fast.adam(p, g, m, v, *settings)
    for got, want in zip((p, m, v), (arrays[0], arrays[2], arrays[3]), strict=True):
        assert_close(got, want, dtype)


def awkward(a):
    """The same numbers, read-only and not contiguous."""
    view = np.repeat(a, 2, axis=-1)[..., ::2]
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("name", ("3x3 wide", "3x3 stride 2", "1x1", "3x3"))
def test_fast_convolution_takes_read_only_views_and_leaves_its_inputs_alone(name):
    case = CONVOLUTIONS[name]
    arrays = conv_inputs(case, np.float64)
    before = [a.copy() for a in arrays]
    wanted = list(conv_kernels(fast, *arrays, *case[7:]))
    for got, want in zip(conv_kernels(fast, *map(awkward, arrays), *case[7:]), wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fast_group_norm_takes_read_only_views_and_leaves_its_inputs_alone():
    *arrays, groups = norm_inputs(NORMS["3 images"], np.float64)
    before = [a.copy() for a in arrays]
    wanted = norm_kernels(fast, *arrays, groups, True)
    for got, want in zip(norm_kernels(fast, *map(awkward, arrays), groups, True), wanted, strict=True):
        np.testing.assert_array_equal(got, want)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_winograds_matrices_turn_a_filter_of_three_taps_into_six_products():
    rng = np.random.default_rng(0)
    w, d = rng.standard_normal(3), rng.standard_normal(6)
    y = winograd.A.T @ ((winograd.G @ w) * (winograd.B @ d))
    np.testing.assert_allclose(y, np.correlate(d, w), rtol=1e-13)


@pytest.mark.parametrize("name, apply, n", (("A", winograd.apply_a, 4), ("B", winograd.apply_b, 6)))
def test_winograds_shortcuts_equal_its_matrices(name, apply, n):
    d, k = np.random.default_rng(0).standard_normal(n), winograd.constants(np.dtype(np.float64))
    np.testing.assert_allclose(apply(*d, k), getattr(winograd, name) @ d, rtol=1e-14)


def test_winograds_shortcut_out_equals_its_matrix():
    m, k = np.random.default_rng(0).standard_normal(6), winograd.constants(np.dtype(np.float64))
    np.testing.assert_allclose(winograd.apply_at(*m, k), winograd.A.T @ m, rtol=1e-14)


@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if name.startswith("3x3") and "stride" not in name])
def test_winograd_equals_the_formula_on_shapes_that_are_too_small_for_it_to_pay(name):
    case = CONVOLUTIONS[name]
    x, w, b, dy = conv_inputs(case, np.float64)
    want = list(conv_kernels(reference, x, w, b, dy, *case[7:]))
    assert_close(winograd.conv2d(x, w, b, case[8]), want[0], np.float64)
    assert_close(winograd.conv2d_dw(x, dy, case[8]), want[2], np.float64)


def test_convolution_stays_accurate_in_float32_at_the_sizes_of_a_unet():
    case = (8, 28, 28, 32, 3, 3, 32, 1, ((1, 1), (1, 1)))
    arrays = conv_inputs(case, np.float32)
    wanted = conv_kernels(reference, *[a.astype(np.float64) for a in arrays], *case[7:])
    for got, want in zip(conv_kernels(fast, *arrays, *case[7:]), wanted, strict=True):
        assert np.abs(got - want).max() < 5e-6 * np.abs(want).max()


# ---- what a formula in exact arithmetic does not say


def test_running_a_kernel_twice_gives_the_same_bits():
    case = CONVOLUTIONS["3x3 wide many images"]
    runs = [list(conv_kernels(fast, *conv_inputs(case, np.float32), *case[7:])) for _ in range(2)]
    runs = [r + list(norm_kernels(fast, *norm_inputs(NORMS["many images"], np.float32), True)) for r in runs]
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)


def test_group_norm_keeps_its_accuracy_where_a_large_offset_hides_the_signal():
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_normal((2, 10_000, 4))).astype(np.float32)
    y, mean, rstd = fast.group_norm(x, np.ones(4, "f4"), np.zeros(4, "f4"), 2, 1e-6, False)
    want = reference.group_norm(x.astype("f8"), np.ones(4), np.zeros(4), 2, 1e-6, False)
    np.testing.assert_allclose(mean, want[1], rtol=1e-7)
    np.testing.assert_allclose(rstd, want[2], rtol=1e-6)
    np.testing.assert_allclose(y, want[0], atol=1e-4)  # one rounding of a number near 1000 is 3e-5


def test_group_norm_of_constant_channels_is_the_shift_and_its_gradients_are_finite():
    x, shift = np.full((2, 784, 4), 0.1, np.float32), np.arange(4, dtype=np.float32)
    got = norm_kernels(fast, x, np.ones_like(x), np.ones(4, "f4"), shift, 2, False)
    np.testing.assert_array_equal(got[0], np.broadcast_to(shift, x.shape))
    assert all(np.isfinite(a).all() for a in got)


@dtypes
def test_silu_in_group_norm_is_exact_from_one_end_of_the_numbers_to_the_other(dtype):
    v = np.concatenate([np.linspace(-30, 30, 4001), [-1e4, -800, -100, -88.5, 88.5, 100, 800, 1e4, 0]]).astype(dtype)
    x = np.zeros((1, 3, len(v)), dtype)  # constant channels, so what SiLU sees is the shift
    y = fast.group_norm(x, np.ones_like(v), v, len(v), 1e-6, True)[0][0, 1]
    exact = v.astype("f8") / (1 + np.exp(-np.maximum(v.astype("f8"), -700)))
    np.testing.assert_allclose(y, exact, rtol=3e-7 if dtype == np.float32 else 1e-14, atol=1e-36)


def test_a_nan_stays_a_nan():
    x = np.ones((1, 3, 2), np.float32)
    x[0, 1, 0] = np.nan
    assert np.isnan(fast.group_norm(x, np.ones(2, "f4"), np.ones(2, "f4"), 2, 1e-6, True)[0][0, :, 0]).all()
