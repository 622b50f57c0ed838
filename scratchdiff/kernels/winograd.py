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
of values is a sum and a difference of two parts. `apply_a`, `apply_at`, `apply_b`, `apply_g` and `apply_gt` are written so;
the matrices A, B and G above them are for reading and for the tests, and G has the denominators.

Only the last of the four outputs uses the point at infinity, and only the point at infinity uses the sixth input. So for
three outputs five inputs and five products are enough, and the rest stays the same. A side of 7 pixels is cut into 4 + 3,
one of 14 into 4 + 4 + 3 + 3: tiles of three cost a little more for each output, but tiles of four would hang over the edge.
"""

import functools
from itertools import product
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from scratchdiff.kernels.products import VECTOR, apart, multiply, vectors, whole
from scratchdiff.kernels.threads import thread_count

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
SPARE = 9  # vectors between one of the 36 matrices U and the next


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
    p, q, half, two, mid, _, _, _ = k
    even_p, odd_p = d4 - two * d2, p * (d3 - two * d1)
    even_q, odd_q = d4 - half * d2, q * (d3 - half * d1)
    return d0 - mid * d2 + d4, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, d1 - mid * d3 + d5


@njit(fastmath={"contract"})
def apply_a(y0, y1, y2, y3, k):
    """A y: the polynomial with coefficients y at the six points."""
    p, q, half, two, _, _, _, _ = k
    even_p, odd_p = y0 + half * y2, p * (y1 + half * y3)
    even_q, odd_q = y0 + two * y2, q * (y1 + two * y3)
    return y0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, y3


@njit(fastmath={"contract"})
def apply_at(m0, m1, m2, m3, m4, m5, k):
    """Aᵀ m: entry i is Σ_j p_jⁱ m_j."""
    p, q, half, two, _, _, _, _ = k
    even_p, odd_p, even_q, odd_q = m1 + m2, p * (m1 - m2), m3 + m4, q * (m3 - m4)
    return m0 + even_p + even_q, odd_p + odd_q, half * even_p + two * even_q, half * odd_p + two * odd_q + m5


@njit(fastmath={"contract"})
def apply_g(w0, w1, w2, k):
    """G w: the polynomial with coefficients w at the six points, over the denominators."""
    p, q, half, two, _, at_0, at_p, at_q = k
    even_p, odd_p = at_p * (w0 + half * w2), at_p * p * w1
    even_q, odd_q = at_q * (w0 + two * w2), at_q * q * w1
    return at_0 * w0, even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, w2


@njit(fastmath={"contract"})
def apply_gt(u0, u1, u2, u3, u4, u5, k):
    """Gᵀ u."""
    p, q, half, two, _, at_0, at_p, at_q = k
    even_p, odd_p, even_q, odd_q = at_p * (u1 + u2), at_p * p * (u1 - u2), at_q * (u3 + u4), at_q * q * (u3 - u4)
    return at_0 * u0 + even_p + even_q, odd_p + odd_q, half * even_p + two * even_q + u5


@functools.cache
def constants(dtype):
    """What the five take as k, in the dtype of the numbers they work on."""
    return tuple(dtype.type(value) for value in (P, Q, P * P, Q * Q, P * P + Q * Q, G[0, 0], G[1, 0], G[3, 0]))


def convolution(x, w, b, pads):
    """The convolution of x with w (3, 3, Cin, Cout) at stride 1.   b: (1, Cout) or (N, Cout)."""
    (top, bottom), (left, right) = pads
    N, H, W, C = x.shape
    y = np.empty((N, H + top + bottom - 2, W + left + right - 2, w.shape[3]), x.dtype)
    width, lanes, k = whole(w.shape[3], x), VECTOR // x.itemsize, constants(x.dtype)
    # U is (6, 6, Cin, columns, lanes), and a column of vectors lies together in memory, because `multiply` reads it so.
    # SPARE vectors stay unused after each of the 36 matrices. Without them, the matrices would often start a power of two
    # apart and compete for the same places of the cache. Also, U is never contiguous: if it sometimes were, Numba would
    # compile the kernels a second time.
    U = np.empty((6, 6, width // lanes * C + SPARE, lanes), x.dtype)[:, :, :-SPARE]
    U = U.reshape(6, 6, width // lanes, C, lanes).transpose(0, 1, 3, 2, 4)
    transform_filter(w, U, k)
    convolve_parallel(x, U, b, y, top, left, k, *plans(y.shape, max(C, width), thread_count()))
    return y


def weight_gradient(x, dy, pads):
    """dw of that convolution."""
    C, Co = x.shape[3], dy.shape[3]
    threads, k = thread_count(), constants(x.dtype)
    dU, dw = np.empty((threads, 6, 6, C, whole(Co, x)), x.dtype), np.empty((3, 3, C, Co), x.dtype)
    gradient_parallel(x, dy, dU, pads[0][0], pads[1][0], k, *plans(dy.shape, apart(max(C, Co), x), threads))
    transform_filter_back(dU, dw, k)
    return dw


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def transform_filter(w, U, k):
    """U = G w Gᵀ, the rows of a filter first. The output channels are cut into vectors, and zeros fill the last vector."""
    columns, lanes = U.shape[3:]
    for c in prange(w.shape[2]):
        half = np.zeros((6, 3, columns * lanes), w.dtype)
        for v in range(3):
            for d in range(w.shape[3]):
                h = apply_g(w[0, v, c, d], w[1, v, c, d], w[2, v, c, d], k)
                half[0, v, d], half[1, v, d], half[2, v, d], half[3, v, d], half[4, v, d], half[5, v, d] = h
        for i in range(6):
            for p in range(columns):
                h, u = half[i, :, p * lanes : (p + 1) * lanes], U[i, :, c, p]
                for d in range(lanes):
                    u[0, d], u[1, d], u[2, d], u[3, d], u[4, d], u[5, d] = apply_g(h[0, d], h[1, d], h[2, d], k)


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"contract"})
def transform_filter_back(parts, dw, k):
    """dw = Gᵀ dU G, where dU is the sum of the parts that the threads made."""
    for c in prange(dw.shape[2]):
        dU, half = np.zeros((6, 6, dw.shape[3]), dw.dtype), np.empty((3, 6, dw.shape[3]), dw.dtype)
        for part in range(len(parts)):
            for i in range(6):
                for j in range(6):
                    for d in range(dw.shape[3]):
                        dU[i, j, d] += parts[part, i, j, c, d]
        for j in range(6):
            for d in range(dw.shape[3]):
                h = apply_gt(dU[0, j, d], dU[1, j, d], dU[2, j, d], dU[3, j, d], dU[4, j, d], dU[5, j, d], k)
                half[0, j, d], half[1, j, d], half[2, j, d] = h
        for u in range(3):
            for d in range(dw.shape[3]):
                h = half[u]
                g = apply_gt(h[0, d], h[1, d], h[2, d], h[3, d], h[4, d], h[5, d], k)
                dw[u, 0, c, d], dw[u, 1, c, d], dw[u, 2, c, d] = g


class Plan(NamedTuple):
    """How the work on a rectangle of the output is cut up. Its tiles have `height` × `width` outputs, 4 or 3.

    A strip is `run` tiles side by side. `across` strips make a row of tiles, and `down` rows of tiles fill the rectangle.
    Its first row of pixels is `top`, its columns are left..end−1. We work on `group` strips together."""

    height: int
    width: int
    top: int
    left: int
    end: int
    run: int
    across: int
    down: int
    group: int


def spans(size):
    """How a side of the output is cut into tiles: [(outputs of a tile, first pixel, tiles)], with the fewest products."""
    cuts = [(max(0, -(-(size - 3 * threes) // 4)), threes) for threes in range(4)]
    fours, threes = min(cuts, key=lambda cut: 6 * cut[0] + 5 * cut[1])
    return [span for span in ((4, 0, fours), (3, 4 * fours, threes)) if span[2]]


@functools.lru_cache(1000)
def plans(y_shape, widest, threads):
    """(table, shares): row p of the table is the Plan of rectangle p, and thread i gets its strips
    shares[p, i]..shares[p, i+1]−1. A rectangle holds the tiles of one size. widest: the most numbers that any matrix has
    for one tile. (A parallel loop of Numba takes arrays, but no list of Plans.)"""
    N, Ho, Wo, _ = y_shape
    table, shares = [], []
    for (height, top, down), (width, left, tiles) in product(spans(Ho), spans(Wo)):
        across = -(-tiles // max(1, (STRIP // widest - 2) // width))
        run = -(-tiles // across)
        across = -(-tiles // run)
        strips = N * across * down
        most = max(1, min(TILES, PLANE // widest) // run)
        groups = max(1, -(-strips // (threads * most)))  # of each thread
        group = max(1, -(-strips // (threads * groups)))  # all groups of about one size
        table.append(Plan(height, width, top, left, min(Wo, left + width * tiles), run, across, down, group))
        shares.append(np.arange(threads + 1) * strips // threads)
    return np.array(table), np.array(shares)


@njit(cache=True)
def plan_of(row):
    """The Plan whose numbers stand in a row of the table."""
    return Plan(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8])


@njit(cache=True, parallel=True)
def convolve_parallel(x, U, b, y, top, left, k, table, shares):
    """Y = Aᵀ((B d Bᵀ) U) A + b, each thread on its share of the strips of every rectangle."""
    for i in prange(shares.shape[1] - 1):
        for p in range(len(table)):
            convolve_strips(x, U, b, y, top, left, k, plan_of(table[p]), shares[p, i], shares[p, i + 1])


@njit(cache=True)
def convolve_strips(x, U, b, y, top, left, k, plan, begin, end):
    """Strips begin..end−1, a group at a time: tiles into V, a product M = V U for each place of a tile, tiles out."""
    C, width = U.shape[2], U.shape[3] * U.shape[4]
    V, M, half = np.empty(36 * PLANE, x.dtype), np.empty(36 * PLANE, x.dtype), np.empty(24 * LINE, x.dtype)
    zeros = np.zeros(LINE, x.dtype)
    for first in range(begin, end, plan.group):
        last = min(first + plan.group, end)
        tiles = (last - first) * plan.run
        tiles_in(x, top, left, x.shape[2], 2, k, V, C, plan, first, last, half, zeros)
        for i in range(plan.height + 2):
            for j in range(plan.width + 2):
                multiply(matrix(V, i, j, tiles, C), U[i, j], matrix(M, i, j, tiles, width), zeros, False)
        tiles_out(M, width, b, k, y, plan, first, last, half)


@njit(cache=True, parallel=True)
def gradient_parallel(x, dy, dU, top, left, k, table, shares):
    """dU[i] = Vᵀ dM over the strips of thread i; their sum is dU."""
    for i in prange(len(dU)):  # each thread adds up its own strips, so the order of the sum, and its bits, are fixed
        dU[i] = 0
        for p in range(len(table)):
            gradient_strips(x, dy, dU[i], top, left, k, plan_of(table[p]), shares[p, i], shares[p, i + 1])


@njit(cache=True)
def gradient_strips(x, dy, dU, top, left, k, plan, begin, end):
    """dU += Vᵀ dM over strips begin..end−1, with V = B d Bᵀ and dM = A dY Aᵀ."""
    C, width = dU.shape[2:]  # width: columns of dM; we neither write nor use those beyond dy's channels
    v_width, m_width = apart(C, x), apart(width, x)
    V, dM, half = np.empty(36 * PLANE, x.dtype), np.empty(36 * PLANE, x.dtype), np.empty(6 * LINE, x.dtype)
    zeros = np.zeros(LINE, x.dtype)
    for first in range(begin, end, plan.group):
        last = min(first + plan.group, end)
        tiles = (last - first) * plan.run
        tiles_in(x, top, left, x.shape[2], 2, k, V, v_width, plan, first, last, half, zeros)
        tiles_in(dy, 0, 0, plan.end, 0, k, dM, m_width, plan, first, last, half, zeros)
        for i in range(plan.height + 2):
            for j in range(plan.width + 2):
                v, dm = matrix(V, i, j, tiles, v_width), matrix(dM, i, j, tiles, m_width)
                multiply(v[:, :C].T, vectors(dm), dU[i, j], zeros, True)


@njit(cache=True)
def matrix(V, i, j, tiles, width):
    """V[i, j]: a row of numbers for each tile."""
    start = (6 * i + j) * PLANE
    return V[start : start + tiles * width].reshape(tiles, width)


@njit(cache=True, error_model="numpy")
def place(strip, plan):
    """(image, first line of pixels, first column) of a strip's outputs."""
    row, column = strip // plan.across % plan.down, strip % plan.across
    n = strip // (plan.across * plan.down)
    return n, plan.top + plan.height * row, plan.left + plan.width * plan.run * column


@njit(cache=True)
def line(x, n, r, begin, end, zeros):
    """Numbers begin..end−1 of line r of image n of x (N, H, W C), or zeros above and below the image."""
    return x[n, r, begin:end] if 0 <= r < x.shape[1] else zeros


# The columns of a tile are transformed first, which is the same for all numbers of a line of pixels: six lines of the
# image become six lines of `half`. Then the rows, pixel by pixel: numbers C apart in a line of `half` become one number in
# each of six matrices. tiles_out goes the other way. Innermost are always the channels, one beside the other in memory.


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def tiles_in(x, top, left, end, more, k, V, width, plan, first, last, half, zeros):
    """Strips first..last−1 of x, a tile d at a time, into V, whose rows have `width` numbers. more = 2: V = B d Bᵀ, where d
    has two pixels more each way than a tile has outputs. more = 0: V = A d Aᵀ, where d has as many. d is zero outside the
    image, and from column `end` on."""
    N, H, W, C = x.shape
    lines = x.reshape(N, H, W * C)
    run, rows, columns = plan.run, plan.height + more, plan.width + more
    for strip in range(first, last):
        n, r, c = place(strip, plan)
        r, c = r - top, c - left
        wide = plan.width * run + more
        inside = min(max(0, -c), wide)
        outside = max(inside, min(wide, end - c))  # columns inside..outside−1 of the strip are in the image
        a, b = (c + inside) * C, (c + outside) * C
        h = half[inside * C :]
        s0, s1, s2 = line(lines, n, r, a, b, zeros), line(lines, n, r + 1, a, b, zeros), line(lines, n, r + 2, a, b, zeros)
        s3 = line(lines, n, r + 3, a, b, zeros) if rows > 3 else zeros
        if more:
            s4 = line(lines, n, r + 4, a, b, zeros)
            s5 = line(lines, n, r + 5, a, b, zeros) if rows > 5 else zeros
            for e in range(b - a):
                h[e], h[LINE + e], h[2 * LINE + e], h[3 * LINE + e], h[4 * LINE + e], h[5 * LINE + e] = apply_b(
                    s0[e], s1[e], s2[e], s3[e], s4[e], s5[e], k
                )
        else:
            for e in range(b - a):
                h[e], h[LINE + e], h[2 * LINE + e], h[3 * LINE + e], h[4 * LINE + e], h[5 * LINE + e] = apply_a(
                    s0[e], s1[e], s2[e], s3[e], k
                )
        for i in range(plan.height + 2):
            half[i * LINE : i * LINE + inside * C] = 0
            half[i * LINE + outside * C : i * LINE + wide * C] = 0
            for t in range(run):
                g0 = half[i * LINE + plan.width * t * C : i * LINE + (plan.width * t + columns) * C]
                g1, g2 = g0[C:], g0[2 * C :]
                g3 = g0[3 * C :] if columns > 3 else zeros
                v = V[6 * i * PLANE + ((strip - first) * run + t) * width :]
                if more:
                    g4 = g0[4 * C :]
                    g5 = g0[5 * C :] if columns > 5 else zeros
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
def tiles_out(M, width, b, k, y, plan, first, last, half):
    """y = Aᵀ M A + b for the tiles of strips first..last−1, as much of them as lies inside y and the rectangle.

    The rows of M have `width` numbers."""
    N, H, _, C = y.shape
    run = plan.run
    waste = np.empty(C, y.dtype)  # where pixels outside the rectangle go
    for strip in range(first, last):
        n, r, c0 = place(strip, plan)
        for j in range(plan.width + 2):
            m = M[j * PLANE + (strip - first) * run * width :]
            h = half[j * LINE :]
            for e in range(run * width):
                h[e], h[6 * LINE + e], h[12 * LINE + e], h[18 * LINE + e] = apply_at(
                    m[e], m[6 * PLANE + e], m[12 * PLANE + e], m[18 * PLANE + e], m[24 * PLANE + e], m[30 * PLANE + e], k
                )
        bias = b[n % len(b)]
        for i in range(min(plan.height, H - r)):
            for t in range(run):
                c = c0 + plan.width * t
                if c >= plan.end:
                    break
                g = half[6 * i * LINE + t * width :]
                y0 = y[n, r + i, c]
                y1 = y[n, r + i, c + 1] if c + 1 < plan.end else waste
                y2 = y[n, r + i, c + 2] if c + 2 < plan.end else waste
                y3 = y[n, r + i, c + 3] if plan.width > 3 and c + 3 < plan.end else waste
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
