"""Moving entries: where each one goes, what the way back is, and that an entry taken twice gets both gradients."""

import itertools

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops

X = np.arange(30.0).reshape(5, 3, 2)


def test_reshape_keeps_the_order_of_the_entries():
    for y in ops.reshape(X, 2, -1), ops.reshape(X, (2, 15)), ops.reshape(X, [2, 15]):
        assert y.shape == (2, 15)
        np.testing.assert_array_equal(y.data, [range(15), range(15, 30)])
    assert ops.reshape(np.ones((1, 1))).shape == ()


@pytest.mark.parametrize("shape", [(7, 4), (4, -1), (-1, -1), (31,)])
def test_reshape_refuses_another_number_of_entries(shape):
    with pytest.raises(ValueError, match=r"^reshape: shape \(5, 3, 2\) cannot become "):
        ops.reshape(X, *shape)


@pytest.mark.parametrize("axes", [*itertools.permutations(range(3)), (-1, 0, 1), (0, -1, -2)])
def test_transpose_puts_axis_axes_i_at_place_i(axes):
    y = ops.transpose(X, *axes).data
    for index in np.ndindex(y.shape):
        place = [None] * 3
        for i, axis in zip(index, axes):
            place[axis] = i
        assert y[index] == X[tuple(place)]
    assert sd.gradcheck(lambda x: ops.transpose(x, *axes), X) < 1e-7


def test_transpose_takes_a_tuple_and_without_axes_reverses_all():
    np.testing.assert_array_equal(ops.transpose(X, (1, 2, 0)).data, ops.transpose(X, 1, 2, 0).data)
    np.testing.assert_array_equal(ops.transpose(X).data, ops.transpose(X, 2, 1, 0).data)
    assert ops.transpose(np.array(1.5)).shape == ()


@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 1), (0, 1, -2), (0, 1, 3), (0, 1, 5), (0, 1, -4), (0, 1, 2, 3)])
def test_transpose_refuses_what_is_no_permutation(axes):
    with pytest.raises(ValueError, match=r"^transpose: \(.*\) is no permutation of the axes of x, got .* \(5, 3, 2\)"):
        ops.transpose(X, *axes)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_concat_joins_along_one_axis_and_splits_the_gradient_there(axis):
    sizes = 1, 4, 2
    parts = []
    for n in sizes:
        shape = [5, 3, 2]
        shape[axis] = n
        parts.append(np.random.default_rng(n).standard_normal(shape))
    y = np.moveaxis(ops.concat(parts, axis).data, axis, 0)
    for part, end in zip(parts, itertools.accumulate(sizes)):
        np.testing.assert_array_equal(y[end - part.shape[axis] : end], np.moveaxis(part, axis, 0))
    assert sd.gradcheck(lambda *xs: ops.concat(xs, axis), *parts) < 1e-7


def test_concat_joins_channels_unless_told_otherwise_and_mixes_in_constants():
    x = sd.Tensor(X)
    with sd.Tape() as tape:
        y = ops.concat([np.zeros((5, 3, 1)), x, x])
        loss = (y * np.arange(5.0)).sum()
    tape.backward(loss)
    assert y.shape == (5, 3, 5)
    np.testing.assert_array_equal(x.grad, np.broadcast_to([1.0 + 3, 2 + 4], X.shape))


@pytest.mark.parametrize("shapes, axis", [(((2, 3), (3, 3)), 1), (((2, 3), (2, 3, 1)), 0), (((2, 3),), 2), ((), 0)], ids=str)
def test_concat_refuses_what_does_not_join(shapes, axis):
    with pytest.raises(ValueError, match=rf"^concat: shapes \[.*\] do not join along axis {axis}"):
        ops.concat([np.ones(shape) for shape in shapes], axis)


INDICES = {
    "integer": 2,
    "negative": -1,
    "slice": slice(1, 4, 2),
    "reversed": slice(None, None, -1),
    "tuple": (1, slice(None), 0),
    "ellipsis and None": (..., None, 1),
    "integers": [0, 3, 3, 0],
    "pairs": ([0, 4, 0], [2, 1, 2]),
    "a slice between": ([0, 1], slice(None), [1, 1]),
    "booleans": X[:, 0, 0] > 10,
    "mask": X % 3 == 1,
    "nothing": slice(0, 0),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_getitem_takes_the_entries_an_array_would_give(index):
    np.testing.assert_array_equal(ops.getitem(X, index).data, X[index])
    assert sd.gradcheck(lambda x: x[index], X) < 1e-7


def test_an_entry_taken_twice_gets_both_gradients():
    x = sd.Tensor(np.zeros(4))
    with sd.Tape() as tape:
        loss = (x[[1, 3, 1]] * np.array([10.0, 20, 30])).sum()
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, [0, 40, 0, 20])


@pytest.mark.parametrize("index", [5, -6, (0, 0, 0, 0), [0, 5], 1.5, np.ones(4, bool)], ids=repr)
def test_getitem_refuses_an_index_that_does_not_fit(index):
    with pytest.raises(ValueError, match=r"^getitem: index .* does not fit shape \(5, 3, 2\)"):
        ops.getitem(X, index)


IMAGE = np.random.default_rng(0).standard_normal((2, 6, 9, 4))


@pytest.mark.parametrize("block", [1, 3])
def test_space_to_depth_lines_up_the_pixels_of_each_block(block):
    y = ops.space_to_depth(IMAGE, block=block).data
    assert y.shape == (2, 6 // block, 9 // block, 4 * block**2)
    for n, i, j in np.ndindex(y.shape[:3]):
        patch = IMAGE[n, i * block : (i + 1) * block, j * block : (j + 1) * block]
        np.testing.assert_array_equal(y[n, i, j], patch.ravel())


@pytest.mark.parametrize("block", [1, 2, 3])
def test_depth_to_space_undoes_space_to_depth(block):
    x = IMAGE[:, :, :6]
    np.testing.assert_array_equal(ops.depth_to_space(ops.space_to_depth(x, block=block), block=block).data, x)


@pytest.mark.parametrize(
    "shape, block", [((2, 6, 9, 4), 2), ((2, 9, 6, 4), 2), ((2, 6, 9, 4), 0), ((6, 9, 4), 3), ((4,), 1)]
)
def test_space_to_depth_refuses_blocks_that_do_not_tile_the_image(shape, block):
    with pytest.raises(ValueError, match="^space_to_depth: "):
        ops.space_to_depth(np.ones(shape), block=block)


@pytest.mark.parametrize(
    "shape, block", [((2, 6, 9, 6), 2), ((2, 6, 9, 4), 3), ((2, 6, 9, 4), 0), ((6, 9, 4), 2), ((4,), 1)]
)
def test_depth_to_space_refuses_channels_that_do_not_fill_blocks(shape, block):
    with pytest.raises(ValueError, match="^depth_to_space: "):
        ops.depth_to_space(np.ones(shape), block=block)
