"""The kernels' own matrix products equal NumPy's, whatever the shapes and the order of memory."""

import numpy as np
import pytest
from numba.core.errors import TypingError

from scratchdiff.kernels import compiled  # noqa: F401  (first, so that the cache folder is chosen)
from scratchdiff.kernels.products import MOST_TERMS, ROWS, VECTOR, apart, multiply, narrow, transposed, vectors, whole, widen

dtypes = pytest.mark.parametrize("dtype, tolerance", ((np.float32, 2e-5), (np.float64, 1e-12)))


def matrices(dtype, *shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@dtypes
@pytest.mark.parametrize("K", (0, 1, 30, MOST_TERMS, MOST_TERMS + 1, 3 * MOST_TERMS))
@pytest.mark.parametrize("n", (1, 3, 4, 5, 7, 8, ROWS, ROWS + 1, 2 * ROWS + 8, 45))
def test_a_product_equals_that_of_numpy_however_its_rows_and_terms_are_cut(n, K, dtype, tolerance):
    A, B, bias = matrices(dtype, (n, K), (K, 2 * whole(1, np.empty(0, dtype))), (2 * whole(1, np.empty(0, dtype)),))
    around = np.full((n + 2, B.shape[1] + 1), np.nan, dtype)
    Y = around[1:-1, :-1]
    multiply(A, vectors(B), Y, bias, False)
    np.testing.assert_allclose(Y, A @ B + bias, atol=tolerance * max(1, K) ** 0.5)
    assert np.isnan(around).sum() == around.size - Y.size  # it wrote nowhere else


@dtypes
def test_a_transposed_factor_a_strided_result_and_a_sum_are_as_numpy_has_them(dtype, tolerance):
    A, B, Y, bias = matrices(dtype, (50, 19), (50, 96), (19, 96), (64,))
    want = Y[:, 16:80].astype(float) + A.astype(float).T @ B[:, 16:80]
    before = Y.copy()
    lanes = VECTOR // Y.itemsize
    B[:, 80:] = np.nan  # multiply does not read it
    multiply(A.T, vectors(B)[:, 16 // lanes :], Y[:, 16:80], bias, True)
    np.testing.assert_allclose(Y[:, 16:80], want, atol=10 * tolerance)
    np.testing.assert_array_equal(Y[:, :16], before[:, :16])
    np.testing.assert_array_equal(Y[:, 80:], before[:, 80:])


@dtypes
@pytest.mark.parametrize("shape", ((5, 1), (5, 16), (3, 17), (40, 33), (64, 2), (0, 3), (3, 0)))
def test_widened_and_transposed_matrices_end_in_zeros_and_are_whole_vectors_wide(shape, dtype, tolerance):
    (M,) = matrices(dtype, shape)
    for wide, want, width in ((widen(M), M, whole(shape[1], M)), (transposed(M), M.T, apart(shape[0], M))):
        np.testing.assert_array_equal(narrow(wide, want.shape[1]), want)
        assert wide.shape == (len(want), width) and not wide[:, want.shape[1] :].any()
        assert width * M.itemsize % VECTOR == 0


def test_matrices_of_two_dtypes_are_refused():
    A, B, bias = np.ones((4, 3), np.float32), np.ones((3, 16), np.float64), np.ones(16, np.float32)
    with pytest.raises(TypingError, match="one dtype"):
        multiply(A, vectors(B), np.ones((4, 16), np.float32), bias, False)


def test_rows_that_lie_apart_are_no_multiple_of_256_bytes():
    for dtype in (np.float32, np.float64):
        M = np.empty(0, dtype)
        for m in range(1, 200):
            assert apart(m, M) >= whole(m, M) and apart(m, M) * M.itemsize % VECTOR == 0
            assert apart(m, M) * M.itemsize % 256 != 0
