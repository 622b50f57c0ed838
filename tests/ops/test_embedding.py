"""The timestep embedding: its formula number by number, its dtype, and that steps can be told apart."""

import math

import numpy as np
import pytest
from scipy.spatial import distance

import scratchdiff as sd
from scratchdiff import ops


@pytest.mark.parametrize("dim", [4, 6, 7, 32])
def test_the_embedding_is_sines_then_cosines_from_frequency_one_to_one_ten_thousandth(dim):
    t = [1, 17, 1000]
    y = ops.timestep_embedding(np.array(t), dim).data
    half = dim // 2
    omega = [math.exp(-math.log(10_000) * i / (half - 1)) for i in range(half)]
    assert omega[0] == 1 and omega[-1] == pytest.approx(1e-4)
    for row, step in zip(y, t, strict=True):
        want = [math.sin(step * w) for w in omega] + [math.cos(step * w) for w in omega] + [0.0] * (dim % 2)
        np.testing.assert_allclose(row, want, rtol=0, atol=1e-12)


def test_other_published_networks_put_the_cosines_first_or_space_the_frequencies_otherwise():
    t, half = np.array([1.0, 17, 1000]), 3
    y = ops.timestep_embedding(t, 7, freq_shift=0, cos_first=True).data
    for row, step in zip(y, t, strict=True):
        angles = [step * 10_000 ** (-i / half) for i in range(half)]
        want = [math.cos(a) for a in angles] + [math.sin(a) for a in angles] + [0.0]
        np.testing.assert_allclose(row, want, rtol=0, atol=1e-12)


def test_a_thousand_timesteps_are_a_thousand_different_vectors_of_one_length():
    y = ops.timestep_embedding(np.arange(1, 1001), 32).data
    np.testing.assert_allclose((y * y).sum(1), 16, rtol=1e-13)  # sin² + cos², sixteen times
    assert distance.pdist(y).min() > 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_integers_give_the_dtype_asked_for_and_floats_keep_their_own(dtype):
    other = {np.float32: np.float64, np.float64: np.float32}[dtype]
    assert ops.timestep_embedding(np.arange(3), 8, dtype=dtype).dtype == dtype
    assert ops.timestep_embedding(np.arange(3, dtype=dtype), 8, dtype=other).dtype == dtype
    assert ops.timestep_embedding([1, 2], 8).dtype == np.float64


def test_angles_are_worked_out_in_float64_whatever_the_output():
    y32 = ops.timestep_embedding(np.arange(990, 1000), 8, dtype=np.float32).data
    y64 = ops.timestep_embedding(np.arange(990, 1000), 8).data
    np.testing.assert_allclose(y32, y64, atol=2e-7)  # what rounding an angle of up to half a turn costs; in float32: 1e-4


def test_the_gradient_with_respect_to_the_time_matches_finite_differences():
    assert sd.gradcheck(lambda t: ops.timestep_embedding(t, 9), np.array([0.3, 5.5, 20])) < 1e-7


@pytest.mark.parametrize("shape, dim", [((), 8), ((3, 1), 8), ((3,), 3), ((3,), 0)], ids=str)
def test_the_embedding_refuses_another_shape_or_too_few_dimensions(shape, dim):
    with pytest.raises(ValueError, match=rf"^timestep_embedding: needs t of shape \(N,\) and dim >= 4, got .*dim {dim}$"):
        ops.timestep_embedding(np.ones(shape), dim)


def test_a_look_up_is_a_product_with_one_hot_rows_and_so_is_its_gradient():
    rng = np.random.default_rng(0)
    table, indices = sd.Tensor(rng.standard_normal((4, 3))), np.array([[0, 2, 2], [3, 0, 2]])
    one_hot = np.eye(4)[indices]
    with sd.Tape() as tape:
        y = ops.embedding(table, indices)
        dy = rng.standard_normal(y.shape)
        loss = (y * dy).sum()
    tape.backward(loss)
    np.testing.assert_array_equal(y.data, one_hot @ table.data)
    np.testing.assert_allclose(table.grad, np.einsum("nls,nlw->sw", one_hot, dy), rtol=1e-14)
