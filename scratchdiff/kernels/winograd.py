"""3×3 convolution with a quarter of the multiplications (Winograd; Lavin & Gray 2016), in Numba. Optional to read.

One dimension first. Four neighbouring outputs of a filter w of 3 taps are y_i = Σ_u d_{i+u} w_u, from 6 inputs d: twelve
products. Six are enough. The transposed map is the product of two polynomials, one of degree 3 (the gradient at y) and one
of degree 2 (w). Their product has 6 coefficients: we evaluate both polynomials at 6 points, multiply the 6 pairs of values,
and interpolate. Evaluation and interpolation are matrices, and transposed back they read

    y = Aᵀ((G w) ⊙ (B d))        A (6, 4), G (6, 3): evaluation at the six points;  B (6, 6): interpolation, transposed.

In two dimensions each matrix is applied down the columns and along the rows of a 6 × 6 tile d, which gives 4 × 4 outputs:

    Y = Aᵀ((G w Gᵀ) ⊙ (B d Bᵀ)) A        36 products for 16 outputs, instead of 144.

With channels, U = G w Gᵀ is a matrix (Cin, Cout) at each of the 36 places, and V = B d Bᵀ a row of Cin numbers for each
tile, so ⊙ over all tiles is 36 matrix products M = V U, and everything around them is adding up lines of numbers.
All three steps are linear, so the gradient of w is their transposes in reverse: dM = A dY Aᵀ, dU = Vᵀ dM, dw = Gᵀ dU G.
The gradient of x is a convolution again, with the filter turned by 180° and its channels swapped.

The five finite points are 0, ±p, ±q with p = √½ and q = √2 (the sixth is infinity: the leading coefficient). With the
usual 0, ±1, ±2 the entries of A and B are further apart, and float32 loses more: 9e-6 of the largest output instead of
2e-6. Points in pairs make the matrices cheap: the even powers agree at z and −z and the odd ones change sign, so a pair
of values is a sum and a difference of two parts. `apply_a`, `apply_at` and `apply_b` are written so; the matrices A and
B above them are for reading, for G and for the tests.
"""

import numba
import numpy as np
from numba import njit, prange

from scratchdiff.kernels.products import add_rows, quick_rows

P, Q = 0.5**0.5, 2**0.5
POINTS = np.array([0, P, -P, Q, -Q])

MOST_CHANNELS = 1024
STRIP = 2000  # numbers in a line of a strip of tiles, about: long loops are fast, but six lines should stay in the cache
TILES = 128  # tiles whose V and M are kept at once, at most: enough for quick products
# Numbers from one line of a half-transformed strip to the next, and from one of the 36 matrices V to the next. That they
# are known when the loops are compiled tells the compiler that the lines do not overlap, and so lets it use vectors;
# that they are not powers of two keeps the lines from competing for the same places of the cache.
LINE = 6 * MOST_CHANNELS + 80
PLANE = 32 * MOST_CHANNELS + 80


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


@njit(fastmath={"contract"})
def apply_b(d0, d1, d2, d3, d4, d5, k):
    """B d, as z(z ± p)(z² − q²) = (z⁴ − q² z²) ± p (z³ − q² z), and with p and q changing places."""
    p, q, half, two, mid = k
    even_p, odd_p = d4 - two * d2, p * (d3 - two * d1)
    even_q, odd_q = d4 - half * d2, q * (d3 - half * d1)
    return d0 - mid * d2 + d4, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, d1 - mid * d3 + d5


@njit(fastmath={"contract"})
def apply_a(y0, y1, y2, y3, k):
    """A y: the polynomial with coefficients y at the six points."""
    p, q, half, two, mid = k
    even_p, odd_p = y0 + half * y2, p * (y1 + half * y3)
    even_q, odd_q = y0 + two * y2, q * (y1 + two * y3)
    return y0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, y3


@njit(fastmath={"contract"})
def apply_at(m0, m1, m2, m3, m4, m5, k):
    """Aᵀ m: entry i is Σ_j p_jⁱ m_j."""
    p, q, half, two, mid = k
    even_p, odd_p, even_q, odd_q = m1 + m2, p * (m1 - m2), m3 + m4, q * (m3 - m4)
    return m0 + even_p + even_q, odd_p + odd_q, half * even_p + two * even_q, half * odd_p + two * odd_q + m5


def constants(dtype):
    """What the three take as k, in the dtype of the numbers they work on."""
    return tuple(dtype.type(value) for value in (P, Q, P * P, Q * Q, P * P + Q * Q))


def convolution(x, w, b, pads):
    """The convolution of x with w (3, 3, Cin, Cout) at stride 1.   b: (1, Cout) or (N, Cout)."""
    (top, bottom), (left, right) = pads
    N, H, W, C = x.shape
    y = np.empty((N, H + top + bottom - 2, W + left + right - 2, w.shape[3]), x.dtype)
    U = both_sides(G.astype(x.dtype), w)
    convolve_parallel(x, U, b, y, top, left, constants(x.dtype), *share_out(y, C))
    return y


def weight_gradient(x, dy, pads):
    """dw of that convolution."""
    C, Co = x.shape[3], dy.shape[3]
    dU = np.zeros((numba.get_num_threads(), 6, 6, C, Co), x.dtype)
    gradient_parallel(x, dy, dU, pads[0][0], pads[1][0], constants(x.dtype), *share_out(dy, C))
    return both_sides(G.T.astype(x.dtype), dU.sum(0))


def both_sides(m, a):
    """m a mᵀ in the first two axes of a (k, k, Cin, Cout)."""
    n, k = m.shape
    rows = (m @ a.reshape(k, -1)).reshape(n, k, -1)
    return (m @ rows).reshape(n, n, *a.shape[2:])


def share_out(y, C):
    """How the work on y is cut up: (run, across, down, group), and the shares of the threads. C: channels of x.

    A strip is `run` tiles side by side, `across` strips make a row of tiles, `down` of those an image; `group` strips are
    worked on together. Thread i does strips shares[i]..shares[i+1]−1."""
    N, Ho, Wo, Co = y.shape
    tiles, down = -(-Wo // 4), -(-Ho // 4)
    widest = max(C, Co)
    across = -(-tiles // max(1, (STRIP // widest - 2) // 4))
    run = -(-tiles // across)
    across = -(-tiles // run)
    threads = numba.get_num_threads()
    shares = np.arange(threads + 1) * (N * across * down) // threads
    tiles = min(TILES, PLANE // widest, quick_rows(C * Co))
    return (run, across, down, max(1, tiles // run)), shares


@njit(cache=True, parallel=True)
def convolve_parallel(x, U, b, y, top, left, k, plan, shares):
    """Y = Aᵀ((B d Bᵀ) U) A + b, each thread on its share of the strips."""
    for i in prange(len(shares) - 1):
        convolve_strips(x, U, b, y, top, left, k, plan, shares[i], shares[i + 1])


@njit(cache=True)
def convolve_strips(x, U, b, y, top, left, k, plan, begin, end):
    """Strips begin..end−1, a group at a time: tiles into V, 36 products M = V U, tiles out."""
    run, _, _, group = plan
    C, Co = U.shape[2:]
    V, M, half = np.empty(36 * PLANE, x.dtype), np.empty(36 * PLANE, x.dtype), np.empty(24 * LINE, x.dtype)
    zeros = np.zeros(LINE, x.dtype)
    for first in range(begin, end, group):
        last = min(first + group, end)
        tiles = (last - first) * run
        tiles_in(x, top, left, 6, k, V, plan, first, last, half, zeros)
        for i in range(6):
            for j in range(6):
                np.dot(matrix(V, i, j, tiles, C), U[i, j], matrix(M, i, j, tiles, Co))
        tiles_out(M, b, k, y, plan, first, last, half)


@njit(cache=True, parallel=True)
def gradient_parallel(x, dy, dU, top, left, k, plan, shares):
    """dU[i] = Vᵀ dM over the strips of thread i; their sum is dU."""
    for i in prange(len(shares) - 1):  # each thread adds up its own strips, so the order of the sum, and its bits, are fixed
        gradient_strips(x, dy, dU[i], top, left, k, plan, shares[i], shares[i + 1])


@njit(cache=True)
def gradient_strips(x, dy, dU, top, left, k, plan, begin, end):
    """dU += Vᵀ dM over strips begin..end−1, with V = B d Bᵀ and dM = A dY Aᵀ."""
    run, _, _, group = plan
    C, Co = dU.shape[2:]
    V, dM, half = np.empty(36 * PLANE, x.dtype), np.empty(36 * PLANE, x.dtype), np.empty(6 * LINE, x.dtype)
    zeros = np.zeros(LINE, x.dtype)
    product = np.empty((C, Co), x.dtype)
    for first in range(begin, end, group):
        last = min(first + group, end)
        tiles = (last - first) * run
        tiles_in(x, top, left, 6, k, V, plan, first, last, half, zeros)
        tiles_in(dy, 0, 0, 4, k, dM, plan, first, last, half, zeros)
        for i in range(6):
            for j in range(6):
                np.dot(matrix(V, i, j, tiles, C).T, matrix(dM, i, j, tiles, Co), product)
                add_rows(dU[i, j], product)


@njit(cache=True)
def matrix(V, i, j, tiles, C):
    """V[i, j]: a line of C numbers for each tile."""
    start = (6 * i + j) * PLANE
    return V[start : start + tiles * C].reshape(tiles, C)


@njit(cache=True, error_model="numpy")
def place(strip, plan):
    """(image, first line of pixels, first column) of a strip's outputs."""
    run, across, down, _ = plan
    return strip // (across * down), 4 * (strip // across % down), 4 * run * (strip % across)


@njit(cache=True)
def line(x, n, r, begin, end, zeros):
    """Numbers begin..end−1 of line r of image n of x (N, H, W C), or zeros above and below the image."""
    return x[n, r, begin:end] if 0 <= r < x.shape[1] else zeros


# The columns of a tile are transformed first, which is the same for all numbers of a line of pixels: six lines of the
# image become six lines of `half`. Then the rows, pixel by pixel: numbers C apart in a line of `half` become one number in
# each of six matrices. tiles_out goes the other way. Innermost are always the channels, one beside the other in memory.


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def tiles_in(x, top, left, size, k, V, plan, first, last, half, zeros):
    """V = B d Bᵀ of the 6 × 6 tiles d (size 6), or A d Aᵀ of the 4 × 4 ones (size 4), of strips first..last−1: 4 pixels
    apart, zero outside the image."""
    N, H, W, C = x.shape
    lines = x.reshape(N, H, W * C)
    run = plan[0]
    for strip in range(first, last):
        n, r, c = place(strip, plan)
        r, c = r - top, c - left
        width = 4 * run + size - 4
        inside = min(max(0, -c), width)
        outside = max(inside, min(width, W - c))  # columns inside..outside−1 of the strip are in the image
        a, b = (c + inside) * C, (c + outside) * C
        h = half[inside * C :]
        s0, s1 = line(lines, n, r, a, b, zeros), line(lines, n, r + 1, a, b, zeros)
        s2, s3 = line(lines, n, r + 2, a, b, zeros), line(lines, n, r + 3, a, b, zeros)
        if size == 6:
            s4, s5 = line(lines, n, r + 4, a, b, zeros), line(lines, n, r + 5, a, b, zeros)
            for e in range(b - a):
                h[e], h[LINE + e], h[2 * LINE + e], h[3 * LINE + e], h[4 * LINE + e], h[5 * LINE + e] = apply_b(
                    s0[e], s1[e], s2[e], s3[e], s4[e], s5[e], k
                )
        else:
            for e in range(b - a):
                h[e], h[LINE + e], h[2 * LINE + e], h[3 * LINE + e], h[4 * LINE + e], h[5 * LINE + e] = apply_a(
                    s0[e], s1[e], s2[e], s3[e], k
                )
        for i in range(6):
            half[i * LINE : i * LINE + inside * C] = 0
            half[i * LINE + outside * C : i * LINE + width * C] = 0
        for i in range(6):
            for t in range(run):
                g0 = half[i * LINE + 4 * t * C : i * LINE + (4 * t + size) * C]
                g1, g2, g3 = g0[C:], g0[2 * C :], g0[3 * C :]
                v = V[6 * i * PLANE + ((strip - first) * run + t) * C :]
                if size == 6:
                    g4, g5 = g0[4 * C :], g0[5 * C :]
                    for e in range(C):
                        v[e], v[PLANE + e], v[2 * PLANE + e], v[3 * PLANE + e], v[4 * PLANE + e], v[5 * PLANE + e] = apply_b(
                            g0[e], g1[e], g2[e], g3[e], g4[e], g5[e], k
                        )
                else:
                    for e in range(C):
                        v[e], v[PLANE + e], v[2 * PLANE + e], v[3 * PLANE + e], v[4 * PLANE + e], v[5 * PLANE + e] = apply_a(
                            g0[e], g1[e], g2[e], g3[e], k
                        )


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def tiles_out(M, b, k, y, plan, first, last, half):
    """y = Aᵀ M A + b for the tiles of strips first..last−1, as much of them as lies inside y."""
    N, H, W, C = y.shape
    run = plan[0]
    waste = np.empty(C, y.dtype)  # where pixels outside y go
    for strip in range(first, last):
        n, r, c0 = place(strip, plan)
        for j in range(6):
            m = M[j * PLANE + (strip - first) * run * C :]
            h = half[j * LINE :]
            for e in range(run * C):
                h[e], h[6 * LINE + e], h[12 * LINE + e], h[18 * LINE + e] = apply_at(
                    m[e], m[6 * PLANE + e], m[12 * PLANE + e], m[18 * PLANE + e], m[24 * PLANE + e], m[30 * PLANE + e], k
                )
        bias = b[n % len(b)]
        for i in range(min(4, H - r)):
            for t in range(run):
                c = c0 + 4 * t
                if c >= W:
                    break
                g = half[6 * i * LINE + t * C :]
                y0 = y[n, r + i, c]
                y1 = y[n, r + i, c + 1] if c + 1 < W else waste
                y2 = y[n, r + i, c + 2] if c + 2 < W else waste
                y3 = y[n, r + i, c + 3] if c + 3 < W else waste
                for e in range(C):  # two pixels at a time: the compiler gives up on proving four apart
                    z0, _, z2, _ = apply_at(
                        g[e], g[LINE + e], g[2 * LINE + e], g[3 * LINE + e], g[4 * LINE + e], g[5 * LINE + e], k
                    )
                    y0[e], y2[e] = z0 + bias[e], z2 + bias[e]
                for e in range(C):
                    _, z1, _, z3 = apply_at(
                        g[e], g[LINE + e], g[2 * LINE + e], g[3 * LINE + e], g[4 * LINE + e], g[5 * LINE + e], k
                    )
                    y1[e], y3[e] = z1 + bias[e], z3 + bias[e]
