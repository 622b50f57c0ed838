"""Matrix products in pieces that OpenBLAS does quickly. Shared by the kernels that multiply matrices."""

from numba import njit

QUICK_PRODUCT = 10**6  # OpenBLAS does products of up to a million multiplications without copying the matrices first
FEW_ROWS, MOST_ROWS = 30, 512  # of a matrix: with fewer no product is quick; with more the buffers leave the cache


@njit(cache=True)
def quick_rows(weights):
    """How many rows to multiply at a time by a matrix of so many weights: a quick product, or, if that is too few, many."""
    rows = QUICK_PRODUCT // max(1, weights)
    return min(MOST_ROWS, rows) if rows >= FEW_ROWS else MOST_ROWS


@njit(cache=True)
def add_rows(total, more):
    """total += more, for matrices."""
    for row in range(len(total)):
        a, b = total[row], more[row]
        for d in range(len(a)):
            a[d] += b[d]
