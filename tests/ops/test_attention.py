"""Softmax against SciPy, attention against loops over its queries, both where exp would overflow."""

import numpy as np
import pytest
from scipy import special

import scratchdiff as sd
from scratchdiff import ops


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (4, 1)], ids=str)
def test_softmax_is_scipys_over_the_last_axis(shape):
    x = 3 * np.random.default_rng(1).standard_normal(shape)
    np.testing.assert_allclose(ops.softmax(x).data, special.softmax(x, axis=-1), rtol=1e-13)
    assert sd.gradcheck(ops.softmax, x) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_does_not_overflow_and_ignores_a_common_offset(dtype):
    x = sd.Tensor(np.array([[1e4, 0, -1e4], [1e4, 1e4, -1e4]], dtype))
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        with sd.Tape() as tape:
            y = ops.softmax(x)
            loss = (y * np.arange(3, dtype=dtype)).sum()
        tape.backward(loss)
    np.testing.assert_array_equal(y.data, [[1, 0, 0], [0.5, 0.5, 0]])
    np.testing.assert_array_equal(x.grad, [[0, 0, 0], [-0.25, 0.25, 0]])


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)], ids=str)
def test_softmax_refuses_an_empty_last_axis(shape):
    with pytest.raises(ValueError, match="^softmax: needs a last axis with at least one entry, got float64"):
        ops.softmax(np.ones(shape))


# q, k, v: as many heads as you like, another number of keys, values of another width
SHAPES = [((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2)), ((1, 4, 2), (1, 1, 2), (1, 1, 3)), ((4, 5), (6, 5), (6, 2))]


def draw(*shapes):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_each_query_gets_the_mean_of_the_values_weighted_by_its_softmax(shapes):
    q, k, v = draw(*shapes)
    y = ops.attention(q, k, v).data
    assert y.shape == q.shape[:-1] + v.shape[-1:]
    for *leading, row in np.ndindex(q.shape[:-1]):
        lead = tuple(leading)
        weights = special.softmax([q[*lead, row] @ key / np.sqrt(q.shape[-1]) for key in k[lead]])
        np.testing.assert_allclose(y[*lead, row], sum(a * value for a, value in zip(weights, v[lead])), rtol=1e-12)
    assert sd.gradcheck(ops.attention, q, k, v) < 1e-7


def test_one_tensor_as_query_key_and_value_gets_all_three_gradients():
    (x,) = draw((2, 1, 4, 3))
    assert sd.gradcheck(lambda x: ops.attention(x, x, x), x) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attention_with_scores_of_ten_thousand_picks_one_value_and_stays_finite(dtype):
    q, k, v = (np.array(a, dtype)[None, None] for a in ([[1e4]], [[1.0], [-1], [0]], [[7.0, 1], [8, 2], [9, 3]]))
    xs = [sd.Tensor(a) for a in (q, k, v)]
    with sd.Tape() as tape:
        y = ops.attention(*xs)
        loss = y.sum()
    tape.backward(loss)
    np.testing.assert_array_equal(y.data[0, 0], [[7, 1]])
    np.testing.assert_array_equal(xs[2].grad[0, 0], [[1, 1], [0, 0], [0, 0]])
    assert all(np.isfinite(x.grad).all() for x in xs)


@pytest.mark.parametrize(
    "q, k, v",
    [((2, 4, 5), (2, 6, 3), (2, 6, 5)), ((2, 4, 5), (2, 6, 5), (2, 4, 5)), ((2, 4, 5), (3, 6, 5), (3, 6, 5)),
     ((4, 5), (2, 6, 5), (2, 6, 5)), ((5,), (5,), (5,)), ((4, 5), (5,), (5,)), ((4, 5), (0, 5), (0, 2))],
)  # fmt: skip
def test_attention_refuses_shapes_that_do_not_fit_and_names_them(q, k, v):
    with pytest.raises(ValueError) as caught:
        ops.attention(np.ones(q), np.ones(k), np.ones(v))
    assert str(caught.value) == f"attention: shapes q {q}, k {k}, v {v} do not fit"


def test_a_masked_query_sees_only_what_its_row_allows_and_a_blind_one_gets_zeros_and_no_gradient():
    q, k, v = draw((2, 3, 4), (2, 5, 4), (2, 5, 3))
    mask = np.array([[True, False, True, False, False], [False] * 5, [True] * 5])
    y = ops.attention(q, k, v, mask=mask).data
    np.testing.assert_allclose(y[:, 0], ops.attention(q[:, :1], k[:, [0, 2]], v[:, [0, 2]]).data[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(y[:, 1], 0)
    np.testing.assert_allclose(y[:, 2], ops.attention(q, k, v).data[:, 2], rtol=1e-12)
    Q, K, V = map(sd.Tensor, (q, k, v))
    with sd.Tape() as tape:
        loss = (ops.attention(Q, K, V, mask=mask)[:, :2] ** 2).sum()
    tape.backward(loss)
    np.testing.assert_array_equal(Q.grad[:, 1], 0)
    np.testing.assert_array_equal(K.grad[:, [1, 3, 4]], 0)


def test_under_the_causal_mask_later_positions_do_not_reach_earlier_ones():
    (x,) = draw((1, 6, 4))
    y = ops.attention(x, x, x, mask=np.tri(6, dtype=bool)).data
    later = x.copy()
    later[:, 4:] += 1
    np.testing.assert_array_equal(ops.attention(later, later, later, mask=np.tri(6, dtype=bool)).data[:, :4], y[:, :4])


def test_a_mask_with_every_entry_true_changes_nothing():
    q, k, v = draw((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2))
    masked = ops.attention(q, k, v, mask=np.ones((4, 6), bool)).data
    np.testing.assert_allclose(masked, ops.attention(q, k, v).data, rtol=1e-12)
