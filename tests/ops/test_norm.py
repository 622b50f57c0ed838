"""Group normalisation against loops over images and groups, at its extremes, and its complaints."""

import numpy as np
import pytest
from scipy import special

import scratchdiff as sd
from scratchdiff import ops

SHAPES = [((2, 3, 5, 6), 3), ((2, 3, 5, 6), 1), ((2, 3, 5, 6), 6), ((3, 7, 4), 2), ((4, 6), 2), ((1, 2, 1, 3, 4), 2)]
shapes = pytest.mark.parametrize("shape, groups", SHAPES, ids=str)


def inputs(shape):
    rng = np.random.default_rng(1)
    return 3 + 2 * rng.standard_normal(shape), rng.standard_normal(shape[-1]), rng.standard_normal(shape[-1])


@shapes
@pytest.mark.parametrize("norm", [ops.group_norm, ops.group_norm_silu])
def test_group_norm_is_the_formula_image_by_image_and_group_by_group(shape, groups, norm):
    x, scale, shift = inputs(shape)
    want = np.empty(shape)
    width = shape[-1] // groups
    for n in range(shape[0]):
        for g in range(groups):
            c = slice(g * width, (g + 1) * width)
            group = x[n, ..., c]
            want[n, ..., c] = scale[c] * (group - group.mean()) / np.sqrt(group.var() + 1e-6) + shift[c]
    if norm is ops.group_norm_silu:
        want = want * special.expit(want)
    np.testing.assert_allclose(norm(x, scale, shift, groups=groups).data, want, rtol=1e-12, atol=1e-13)


@shapes
@pytest.mark.parametrize("norm", [ops.group_norm, ops.group_norm_silu])
def test_group_norm_gradient_matches_finite_differences(shape, groups, norm):
    assert sd.gradcheck(lambda *xs: norm(*xs, groups=groups), *inputs(shape)) < 1e-7


def test_each_group_comes_out_with_mean_zero_and_variance_one():
    x, scale, _ = inputs((2, 5, 4, 6))
    y = ops.group_norm(x, np.ones(6), np.zeros(6), groups=2).data.reshape(2, 20, 2, 3)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-14)
    np.testing.assert_allclose(y.var((1, 3)), 1, rtol=1e-5)  # eps takes a little


def test_eps_is_added_to_the_variance():
    x, scale, shift = inputs((2, 5, 4))
    var = x.reshape(2, 5, 1, 4).var((1, 3), keepdims=True)[..., 0]
    want = scale * (x - x.mean((1, 2), keepdims=True)) / np.sqrt(var + 0.5) + shift
    np.testing.assert_allclose(ops.group_norm(x, scale, shift, groups=1, eps=0.5).data, want, rtol=1e-12)
    assert sd.gradcheck(lambda *xs: ops.group_norm(*xs, groups=1, eps=0.5), x, scale, shift) < 1e-7


def test_one_tensor_as_scale_and_shift_gets_both_gradients():
    x, scale, _ = inputs((2, 5, 4))
    assert sd.gradcheck(lambda x, a: ops.group_norm(x, a, a, groups=2), x, scale) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", [ops.group_norm, ops.group_norm_silu])
@pytest.mark.parametrize("level", [0.0, 0.1, -1e4])
def test_constant_channels_come_out_as_their_shift_with_finite_gradients(dtype, norm, level):
    shift = np.arange(4, dtype=dtype)
    x, scale, shift = sd.Tensor(np.full((2, 5, 4), level, dtype)), sd.Tensor(np.ones(4, dtype)), sd.Tensor(shift)
    with sd.Tape() as tape:
        y = norm(x, scale, shift, groups=2)
        loss = (y * y).sum()
    tape.backward(loss)
    want = shift.data * special.expit(shift.data) if norm is ops.group_norm_silu else shift.data
    np.testing.assert_allclose(y.data, np.broadcast_to(want, y.shape), rtol=2e-3, atol=1e-3)
    assert all(np.isfinite(v.grad).all() for v in (x, scale, shift))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [-1e4, 1e4])
def test_silu_after_the_norm_does_not_overflow(dtype, size):
    arrays = np.random.default_rng(0).standard_normal((2, 5, 4)), np.ones(4), np.full(4, size)
    x, scale, shift = (sd.Tensor(a.astype(dtype)) for a in arrays)
    with sd.Tape() as tape:
        y = ops.group_norm_silu(x, scale, shift, groups=2)
        loss = y.sum()
    tape.backward(loss)
    np.testing.assert_allclose(y.data, max(size, 0), rtol=1e-3)
    assert all(np.isfinite(v.grad).all() for v in (x, scale, shift))


def test_group_norm_of_no_images_is_no_images():
    assert ops.group_norm(np.ones((0, 3, 5, 4)), np.ones(4), np.ones(4), groups=2).shape == (0, 3, 5, 4)


@pytest.mark.parametrize(
    "x, scale, shift, groups",
    [((2, 3, 6), (6,), (6,), 4), ((2, 3, 6), (6,), (6,), 0), ((2, 3, 6), (3,), (6,), 2), ((2, 3, 6), (6,), (1, 6), 2),
     ((6,), (6,), (6,), 2), ((), (1,), (1,), 1)],
)  # fmt: skip
def test_group_norm_refuses_shapes_that_do_not_fit_and_names_them(x, scale, shift, groups):
    with pytest.raises(ValueError, match=f"^group_norm: .*got groups {groups}, x float64"):
        ops.group_norm(np.ones(x), np.ones(scale), np.ones(shift), groups=groups)


@pytest.mark.parametrize("eps", [0, -1e-6, float("nan")])
def test_group_norm_refuses_an_eps_that_is_not_positive(eps):
    with pytest.raises(ValueError, match=f"^group_norm: eps must be positive, got {eps}"):
        ops.group_norm(np.ones((2, 3, 6)), np.ones(6), np.ones(6), groups=2, eps=eps)


def test_layer_norm_is_the_formula_position_by_position():
    x, scale, shift = inputs((2, 3, 6))
    want = scale * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) + shift
    np.testing.assert_allclose(ops.layer_norm(x, scale, shift).data, want, rtol=1e-12)
    assert sd.gradcheck(ops.layer_norm, x, scale, shift) < 1e-7
