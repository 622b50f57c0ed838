"""3×3 convolution with a quarter of the multiplications (Winograd; Lavin & Gray 2016), in Numba. Optional to read.

One dimension first. Four neighbouring outputs of a filter w of 3 taps are y_i = Σ_u d_{i+u} w_u, from 6 inputs d: twelve
products. Six are enough. Turned round, the question is the product of a polynomial of degree 3 (the gradient at y) and
one of degree 2 (w), which has 6 coefficients: it can be had by evaluating both polynomials at 6 points, multiplying the 6
pairs of values, and interpolating. Evaluation and interpolation are matrices, and turned back (transposed) they read

    y = Aᵀ((G w) ⊙ (B d))        A (6, 4), G (6, 3): evaluation at the six points;  B (6, 6): interpolation, transposed.

In two dimensions each matrix is applied down the columns and along the rows of a 6 × 6 tile d, which gives 4 × 4 outputs:

    Y = Aᵀ((G w Gᵀ) ⊙ (B d Bᵀ)) A        36 products for 16 outputs, instead of 144.

With channels, U = G w Gᵀ is a matrix (Cin, Cout) at each of the 36 places, and V = B d Bᵀ a row of Cin numbers for each
tile, so ⊙ over all tiles is 36 matrix products M = V U, and everything around them is adding up lines of numbers.
All three steps are linear, so the gradient of w is their transposes in reverse: dM = A dY Aᵀ, dU = Vᵀ dM, dw = Gᵀ dU G.
The gradient of x is a convolution again, with the filter turned by 180° and its channels swapped.

The five finite points are 0, ±√½, ±√2 (and the sixth is infinity: the leading coefficient). With the usual 0, ±1, ±2 the
entries of A and B are further apart, and float32 loses more: 9e-6 of the largest output instead of 2e-6.
"""

import numba
import numpy as np
from numba import njit, prange

POINTS = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])
STRIP = 1024  # numbers in a line of a strip of tiles, at most: long loops are fast, but the strip should fit the cache
TILES = 60  # tiles whose V and M are kept in the cache at once (up to 10⁶ products a matrix OpenBLAS takes a quicker way)


def evaluation(n: int) -> np.ndarray:
    """(6, n): from the coefficients of a polynomial of degree n − 1 to its values at the points, the last at infinity."""
    at_infinity = np.eye(n)[-1:]
    return np.concatenate([POINTS[:, None] ** np.arange(n), at_infinity])


# Lagrange: Π_{j≠i} (z − p_j)/(p_i − p_j) is 1 at p_i and 0 at the other points. Row i of B is its numerator; the
# denominator is put into G, which is needed only once a call. Infinity's row is the polynomial that is 0 at all five.
OTHERS = [np.delete(POINTS, i) for i in range(5)]
A = evaluation(4)
B = np.array([[*np.poly(others)[::-1], 0] for others in OTHERS] + [np.poly(POINTS)[::-1]])
G = evaluation(3) / np.array([np.prod(p - others) for p, others in zip(POINTS, OTHERS)] + [1])[:, None]


def conv2d(x, w, pads):
    """See reference.conv2d; here w is (3, 3, Cin, Cout) and the stride is 1."""
    (top, bottom), (left, right) = pads
    N, H, W, C = x.shape
    y = np.empty((N, H + top + bottom - 2, W + left + right - 2, w.shape[3]), x.dtype)
    U = both_sides(G, w)
    forward(x, U, y, top, left, B.astype(x.dtype), A.T.astype(x.dtype, order="C"), *share_out(y, C))
    return y


def conv2d_dw(x, dy, pads):
    """See reference.conv2d_dw."""
    C, Co = x.shape[3], dy.shape[3]
    dU = np.zeros((numba.get_num_threads(), 6, 6, C, Co), x.dtype)
    backward_w(x, dy, dU, pads[0][0], pads[1][0], B.astype(x.dtype), A.astype(x.dtype), *share_out(dy, max(C, Co)))
    return both_sides(G.T, dU.sum(0))


def both_sides(m, a):
    """m a mᵀ in the first two axes of a (k, k, Cin, Cout)."""
    m = m.astype(a.dtype)
    n, k = m.shape
    rows = (m @ a.reshape(k, -1)).reshape(n, k, -1)
    return (m @ rows).reshape(n, n, *a.shape[2:])


def share_out(y, C):
    """How the work on y is cut up: (run, across, down, group), and the shares of the threads.

    A strip is `run` tiles side by side, `across` strips make a row of tiles, `down` of those an image; `group` strips are
    worked on together. Thread i does strips shares[i]..shares[i+1]−1. C: how many numbers a pixel has, about."""
    N, Ho, Wo, _ = y.shape
    tiles, down = -(-Wo // 4), -(-Ho // 4)
    run = -(-tiles // -(-tiles * C // STRIP))
    across = -(-tiles // run)
    threads = numba.get_num_threads()
    shares = np.arange(threads + 1) * (N * across * down) // threads
    return (run, across, down, max(1, TILES // run)), shares


@njit(cache=True, parallel=True)
def forward(x, U, y, top, left, b, at, plan, shares):
    """Y = Aᵀ((B d Bᵀ) U) A, each thread on its share of the strips."""
    for i in prange(len(shares) - 1):
        forward_strips(x, U, y, top, left, b, at, plan, shares[i], shares[i + 1])


@njit(cache=True)
def forward_strips(x, U, y, top, left, b, at, plan, begin, end):
    """y = Aᵀ(U ⊙ (B d Bᵀ)) A for the tiles d of strips begin..end−1."""
    run, _, _, group = plan
    C, Co = U.shape[2:]
    V, M = np.empty((6, 6, group * run, C), x.dtype), np.empty((6, 6, group * run, Co), x.dtype)
    scratch = np.empty((2, 36 * run * max(C, Co)), x.dtype)
    for first in range(begin, end, group):
        last = min(first + group, end)
        tiles = (last - first) * run
        tiles_in(x, top, left, b, V.reshape(-1), plan, first, last, scratch)
        for i in range(6):
            for j in range(6):
                np.dot(V[i, j, :tiles], U[i, j], M[i, j, :tiles])
        tiles_out(M.reshape(-1), at, y, plan, first, last, scratch)


@njit(cache=True, parallel=True)
def backward_w(x, dy, dU, top, left, b, a, plan, shares):
    """dU[i] = Vᵀ dM over the strips of thread i; their sum is dU."""
    for i in prange(len(shares) - 1):  # each thread adds up its own strips, so the order of the sum, and its bits, are fixed
        backward_strips(x, dy, dU[i], top, left, b, a, plan, shares[i], shares[i + 1])


@njit(cache=True)
def backward_strips(x, dy, dU, top, left, b, a, plan, begin, end):
    """dU += (B d Bᵀ)ᵀ (A dy Aᵀ), summed over the tiles of strips begin..end−1."""
    run, _, _, group = plan
    C, Co = dU.shape[2:]
    V, dM = np.empty((6, 6, group * run, C), x.dtype), np.empty((6, 6, group * run, Co), x.dtype)
    scratch = np.empty((2, 36 * run * max(C, Co)), x.dtype)
    product = np.empty((C, Co), x.dtype)
    for first in range(begin, end, group):
        last = min(first + group, end)
        tiles = (last - first) * run
        tiles_in(x, top, left, b, V.reshape(-1), plan, first, last, scratch)
        tiles_in(dy, 0, 0, a, dM.reshape(-1), plan, first, last, scratch)
        for i in range(6):
            for j in range(6):
                np.dot(V[i, j, :tiles].T, dM[i, j, :tiles], product)
                for c in range(C):
                    row, more = dU[i, j, c], product[c]
                    for d in range(Co):
                        row[d] += more[d]


# A strip in the making is a flat array, in the order (row of a tile, column of a tile, tile, channel), and V is one in the
# order (6, 6, tile, channel). So the same entry of all tiles of a strip, with all their channels, is one line of numbers,
# and a matrix is applied to the tiles by adding up such lines: long loops over memory as it lies, which compile to vectors.


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def transform(m, src, a, step_a, dst, b, step_b, n):
    """dst[i] = Σ_k m[i,k] src[k] for lines of n numbers; line k of src starts at a + k step_a, line i of dst likewise."""
    s0, s1 = src[a : a + n], src[a + step_a : a + step_a + n]
    s2, s3 = src[a + 2 * step_a : a + 2 * step_a + n], src[a + 3 * step_a : a + 3 * step_a + n]
    for i in range(len(m)):
        out = dst[b + i * step_b : b + i * step_b + n]
        m0, m1, m2, m3 = m[i, 0], m[i, 1], m[i, 2], m[i, 3]
        if m.shape[1] == 4:
            for e in range(n):
                out[e] = m0 * s0[e] + m1 * s1[e] + m2 * s2[e] + m3 * s3[e]
        else:
            s4, s5 = src[a + 4 * step_a : a + 4 * step_a + n], src[a + 5 * step_a : a + 5 * step_a + n]
            m4, m5 = m[i, 4], m[i, 5]
            for e in range(n):
                out[e] = m0 * s0[e] + m1 * s1[e] + m2 * s2[e] + m3 * s3[e] + m4 * s4[e] + m5 * s5[e]


@njit(cache=True, error_model="numpy")
def place(strip, plan):
    """(image, first line of pixels, first column) of a strip's outputs."""
    run, across, down, _ = plan
    return strip // (across * down), 4 * (strip // across % down), 4 * run * (strip % across)


@njit(cache=True, error_model="numpy")
def tiles_in(x, top, left, m, V, plan, first, last, scratch):
    """V = m d mᵀ for the tiles d of strips first..last−1: as large as m is wide, 4 pixels apart, zero outside the image."""
    _, H, W, C = x.shape
    run, group = plan[0], plan[3]
    size, line = m.shape[1], run * C
    lines, half = scratch[0], scratch[1]  # (unpacked, Numba would not know that they are contiguous)
    for strip in range(first, last):
        n, r0, c0 = place(strip, plan)
        for i in range(size):
            r = r0 - top + i
            for j in range(size):
                for t in range(run):
                    c = c0 - left + j + 4 * t
                    start = (i * size + j) * line + t * C
                    out = lines[start : start + C]
                    if 0 <= r < H and 0 <= c < W:
                        pixel = x[n, r, c]
                        for e in range(C):
                            out[e] = pixel[e]
                    else:
                        for e in range(C):
                            out[e] = 0
        transform(m, lines, 0, size * line, half, 0, size * line, size * line)
        for i in range(6):
            transform(m, half, i * size * line, line, V, (6 * i * group + strip - first) * line, group * line, line)


@njit(cache=True, error_model="numpy")
def tiles_out(M, at, y, plan, first, last, scratch):
    """y = Aᵀ M A for the tiles of strips first..last−1, as much of them as lies inside y."""
    _, H, W, C = y.shape
    run, group = plan[0], plan[3]
    line = run * C
    half, lines = scratch[0], scratch[1]
    for strip in range(first, last):
        for i in range(6):
            transform(at, M, (6 * i * group + strip - first) * line, group * line, half, 4 * i * line, line, line)
        transform(at, half, 0, 4 * line, lines, 0, 4 * line, 4 * line)
        n, r0, c0 = place(strip, plan)
        for i in range(min(4, H - r0)):
            for j in range(4):
                for t in range(run):
                    if c0 + j + 4 * t < W:
                        start = (4 * i + j) * line + t * C
                        pixel, out = lines[start : start + C], y[n, r0 + i, c0 + j + 4 * t]
                        for e in range(C):
                            out[e] = pixel[e]
