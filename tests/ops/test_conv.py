"""Convolution against scipy.signal, "same" padding against TensorFlow's rule, and upsampling pixel by pixel."""

import numpy as np
import pytest
from scipy import signal

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.ops.conv import resolve_padding

CASES = {  # x, w, stride, padding, the ((top, bottom), (left, right)) it stands for
    "same 3x3": ((2, 6, 5, 3), (3, 3, 3, 4), 1, "same", ((1, 1), (1, 1))),
    "same 2x4": ((2, 6, 5, 3), (2, 4, 3, 2), 1, "same", ((0, 1), (1, 2))),
    "same stride 2 even": ((2, 6, 8, 3), (3, 3, 3, 2), 2, "same", ((0, 1), (0, 1))),
    "same stride 2 odd": ((2, 5, 7, 3), (3, 3, 3, 2), 2, "same", ((1, 1), (1, 1))),
    "same 1x1 stride 2": ((2, 5, 4, 3), (1, 1, 3, 2), 2, "same", ((0, 0), (0, 0))),
    "same 5x5 stride 3": ((1, 7, 8, 2), (5, 5, 2, 3), 3, "same", ((2, 2), (1, 2))),
    "unpadded": ((2, 6, 5, 3), (3, 2, 3, 4), 1, 0, ((0, 0), (0, 0))),
    "padded by 2": ((2, 3, 4, 2), (3, 3, 2, 3), 1, 2, ((2, 2), (2, 2))),
    "uneven padding, stride 3": ((2, 7, 6, 2), (4, 2, 2, 3), 3, ((2, 0), (1, 3)), ((2, 0), (1, 3))),
    "kernel as large as the image": ((2, 3, 4, 2), (3, 4, 2, 3), 1, 0, ((0, 0), (0, 0))),
    "one pixel": ((1, 1, 1, 2), (3, 3, 2, 3), 1, "same", ((1, 1), (1, 1))),
    "1x1": ((2, 5, 3, 4), (1, 1, 4, 3), 1, "same", ((0, 0), (0, 0))),
    "many channels": ((2, 5, 4, 16), (3, 3, 16, 17), 1, "same", ((1, 1), (1, 1))),
}
cases = pytest.mark.parametrize("x_shape, w_shape, stride, padding, pads", CASES.values(), ids=CASES.keys())


def draw(*shapes):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape) for shape in shapes]


def scipy_conv2d(x, w, b, stride, pads):
    def channel(image, d):  # SciPy slides the window over every axis; over the channels it fits in one place only
        return signal.correlate(image, w[..., d], mode="valid")[::stride, ::stride, 0] + b[d]

    xp = np.pad(x, ((0, 0), *pads, (0, 0)))
    return np.array([np.stack([channel(image, d) for d in range(len(b))], axis=-1) for image in xp])


@cases
def test_conv2d_is_scipys_correlation(x_shape, w_shape, stride, padding, pads):
    x, w, b = draw(x_shape, w_shape, w_shape[3:])
    y, want = ops.conv2d(x, w, b, stride, padding).data, scipy_conv2d(x, w, b, stride, pads)
    assert y.shape == want.shape
    np.testing.assert_allclose(y, want, rtol=1e-11, atol=1e-12)


@cases
def test_conv2d_gradient_matches_finite_differences(x_shape, w_shape, stride, padding, pads):
    inputs = draw(x_shape, w_shape, w_shape[3:])
    assert sd.gradcheck(lambda x, w, b: ops.conv2d(x, w, b, stride, padding), *inputs) < 1e-7


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [4, 5, 6, 7])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_same_padding_is_tensorflows(size, kernel, stride):
    if size % stride == 0:  # as TensorFlow documents it (tf.nn, "notes on padding")
        total = max(kernel - stride, 0)
    else:
        total = max(kernel - size % stride, 0)
    before = total // 2
    assert resolve_padding("same", (size, 9), (kernel, 3), stride)[0] == (before, total - before)


def test_same_padding_at_stride_two_goes_to_the_right_and_the_bottom():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    corner = np.zeros((3, 3, 1, 1))
    corner[0, 0] = 1  # shows which pixel the first tap of each window meets
    np.testing.assert_array_equal(ops.conv2d(x, corner, stride=2).data[0, :, :, 0], [[0, 2], [8, 10]])


def test_a_convolution_without_bias_is_one_with_a_bias_of_zero():
    x, w = draw((2, 6, 5, 3), (3, 3, 3, 4))
    np.testing.assert_array_equal(ops.conv2d(x, w).data, ops.conv2d(x, w, np.zeros(4)).data)
    assert sd.gradcheck(ops.conv2d, x, w) < 1e-7


def test_an_image_that_is_also_the_kernel_gets_both_gradients():
    (x,) = draw((3, 3, 3, 3))
    assert sd.gradcheck(lambda x: ops.conv2d(x, x), x) < 1e-7


def test_a_float32_convolution_of_many_terms_is_close_to_the_float64_one():
    x, w, b = draw((2, 8, 9, 64), (3, 3, 64, 32), (32,))
    want = scipy_conv2d(x, w, b, 1, ((1, 1), (1, 1)))
    y = ops.conv2d(*(a.astype(np.float32) for a in (x, w, b))).data
    assert y.dtype == np.float32
    assert np.abs(y - want).max() < 2e-5 * np.abs(want).max()


def test_a_convolution_of_no_images_is_no_images():
    assert ops.conv2d(np.ones((0, 6, 5, 3)), np.ones((3, 3, 3, 4)), np.ones(4), stride=2).shape == (0, 3, 3, 4)


@pytest.mark.parametrize(
    "x, w, b",
    [((2, 6, 5, 3), (3, 3, 4, 2), (2,)), ((2, 6, 5, 3), (3, 3, 3, 2), (3,)), ((6, 5, 3), (3, 3, 3, 2), (2,)),
     ((2, 6, 5, 3), (3, 3, 2), None), ((2, 6, 5, 3), (3, 3, 3, 2), (1, 2))],
)  # fmt: skip
def test_conv2d_refuses_shapes_that_do_not_fit_and_names_them(x, w, b):
    with pytest.raises(ValueError) as caught:
        ops.conv2d(np.ones(x), np.ones(w), None if b is None else np.ones(b))
    assert str(caught.value) == f"conv2d: shapes x {x}, w {w}, b {b} do not fit"


@pytest.mark.parametrize("stride", [0, -1, 1.5, 2.0, None, (2, 2)])
def test_conv2d_refuses_a_stride_that_is_no_positive_integer(stride):
    with pytest.raises(ValueError, match="^conv2d: stride must be a positive integer, got "):
        ops.conv2d(np.ones((1, 4, 4, 1)), np.ones((3, 3, 1, 1)), stride=stride)


@pytest.mark.parametrize("padding", ["valid", -1, 1.5, None, (1, 1), ((1, 1), (1, -1)), ((1, 2), (3,)), ((1, 1), (1, 0.5))])
def test_conv2d_refuses_padding_it_does_not_know(padding):
    with pytest.raises(ValueError, match="^conv2d: padding must be "):
        ops.conv2d(np.ones((1, 4, 4, 1)), np.ones((3, 3, 1, 1)), padding=padding)


@pytest.mark.parametrize("w_shape, padding", [((5, 3, 1, 1), 0), ((3, 6, 1, 1), ((0, 0), (1, 0)))])
def test_conv2d_refuses_a_kernel_larger_than_the_padded_image(w_shape, padding):
    with pytest.raises(
        ValueError, match=r"^conv2d: the kernel is larger than the padded image, got kernel \(., .\), image \(4, 4\)"
    ):
        ops.conv2d(np.ones((1, 4, 4, 1)), np.ones(w_shape), padding=padding)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_upsample_repeats_each_pixel_and_sums_its_gradient(factor):
    (x,) = draw((2, 3, 4, 5))
    y = ops.upsample_nearest(x, factor).data
    assert y.shape == (2, 3 * factor, 4 * factor, 5)
    for i, j in np.ndindex(y.shape[1:3]):
        np.testing.assert_array_equal(y[:, i, j], x[:, i // factor, j // factor])
    assert sd.gradcheck(lambda x: ops.upsample_nearest(x, factor), x) < 1e-7


def test_upsample_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"^upsample_nearest: x must be \(N, H, W, C\), got float64 of shape \(3, 4, 5\)"):
        ops.upsample_nearest(np.ones((3, 4, 5)))


@pytest.mark.parametrize("factor", [0, 1.5])
def test_upsample_refuses_other_factors(factor):
    with pytest.raises(ValueError, match=f"^upsample_nearest: factor must be a positive integer, got {factor}"):
        ops.upsample_nearest(np.ones((2, 3, 4, 5)), factor)
