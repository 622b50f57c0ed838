"""One convolution, seven ways: from the formula in nested loops to the kernel that runs, each rung faster than the last.

    python demos/kernels.py [--size 28] [--channels 64] [--batch 32] [--out runs/kernels]

Takes under a minute on two cores. Prints what each rung takes forward and backward, how much of the
machine's peak that is, and how far its numbers are from the formula's in float64; draws the ladder and the
roofline of your machine to --out/ladder.png. Expect five orders of magnitude from the first rung to the last, and the
last one above the roof, because it gets by with fewer multiplications than the roof is counted in.
"""

# %%
import argparse
import time
from pathlib import Path

import numpy as np
from numba import get_num_threads, njit
from numpy.lib.stride_tricks import sliding_window_view

from scratchdiff import ops
from scratchdiff.kernels import FORMULAS, im2col, twin
from scratchdiff.kernels.winograd import A, B, G, both_sides
from scratchdiff.plots import save_ladder

PADS = (1, 1), (1, 1)  # a 3 × 3 window with one pixel of padding on each side: the image keeps its size


# %% Rung 1: the formula, y[n,i,j,d] = Σ_{u,v,c} x[n, i+u−1, j+v−1, c] w[u,v,c,d], as loops. The gradients are the same
# loops with another array on the left of the +=: each product x · w that went into y sends dy · w to dx and x · dy to dw.
def loops_y(x, w, y):
    N, H, W, C = x.shape
    for n in range(N):
        for i in range(H):
            for j in range(W):
                for u in range(max(0, 1 - i), min(3, H + 1 - i)):
                    for v in range(max(0, 1 - j), min(3, W + 1 - j)):
                        for c in range(C):
                            for d in range(y.shape[3]):
                                y[n, i, j, d] += x[n, i + u - 1, j + v - 1, c] * w[u, v, c, d]
    return y


def loops_dx(dy, w, dx):
    N, H, W, C = dx.shape
    for n in range(N):
        for i in range(H):
            for j in range(W):
                for u in range(max(0, 1 - i), min(3, H + 1 - i)):
                    for v in range(max(0, 1 - j), min(3, W + 1 - j)):
                        for c in range(C):
                            for d in range(dy.shape[3]):
                                dx[n, i + u - 1, j + v - 1, c] += dy[n, i, j, d] * w[u, v, c, d]
    return dx


def loops_dw(x, dy, dw):
    N, H, W, C = x.shape
    for n in range(N):
        for i in range(H):
            for j in range(W):
                for u in range(max(0, 1 - i), min(3, H + 1 - i)):
                    for v in range(max(0, 1 - j), min(3, W + 1 - j)):
                        for c in range(C):
                            for d in range(dy.shape[3]):
                                dw[u, v, c, d] += x[n, i + u - 1, j + v - 1, c] * dy[n, i, j, d]
    return dw


def loops(x, w, dy):
    return (
        lambda: loops_y(x, w, np.zeros_like(dy)),
        lambda: (loops_dx(dy, w, np.zeros_like(x)), loops_dw(x, dy, np.zeros_like(w))),
    )


# %% Rung 2: the same loops, compiled. The interpreter is gone; one number at a time, on one core, is left.
compiled_y, compiled_dx, compiled_dw = njit(loops_y), njit(loops_dx), njit(loops_dw)


def compiled(x, w, dy):
    return (
        lambda: compiled_y(x, w, np.zeros_like(dy)),
        lambda: (compiled_dx(dy, w, np.zeros_like(x)), compiled_dw(x, dy, np.zeros_like(w))),
    )


# %% Rung 3: the formula of `ops/conv.py`. The loops over c and d for all pixels at once are a matrix product, and there are
# nine.
def taps(x, w, dy):
    return both_ways(FORMULAS["convolve"], x, w, dy)


def both_ways(convolve, x, w, dy):
    """(y, (dx, dw)) of a function that returns y and its backward, as two calls."""
    b = np.zeros((1, w.shape[3]), x.dtype)
    _, backward = convolve(x, w, b, 1, PADS)
    return lambda: convolve(x, w, b, 1, PADS)[0], lambda: backward(dy)[:2]


# %% Rung 4, im2col: lay out the window of each pixel as a row, and the nine products are one. But the rows are nine times
# the image: they go to memory and come back. dx is a convolution of dy with the filter turned round, so it is the same code.
def rows(x):
    xp = np.pad(x, ((0, 0), *PADS, (0, 0)))
    windows = sliding_window_view(xp, (3, 3), (1, 2))  # (N, H, W, C, 3, 3), a view
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[3])


def turned(w):
    return np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))


def whole_im2col(x, w, dy):
    flat_w, flat_turned, flat_dy = w.reshape(-1, w.shape[3]), turned(w).reshape(-1, w.shape[2]), dy.reshape(-1, dy.shape[3])
    return (
        lambda: (rows(x) @ flat_w).reshape(dy.shape),
        lambda: ((rows(dy) @ flat_turned).reshape(x.shape), (rows(x).T @ flat_dy).reshape(w.shape)),
    )


# %% Rung 5: the same, a block of rows at a time that fits the cache, blocks shared out to the threads (`kernels/im2col.py`).
def blocks(x, w, dy):
    b_out, b_in = np.zeros((1, w.shape[3]), x.dtype), np.zeros((1, w.shape[2]), x.dtype)
    return (
        lambda: im2col.convolution(x, w, b_out, 1, PADS),
        lambda: (im2col.convolution(dy, turned(w), b_in, 1, PADS), im2col.weight_gradient(x, dy, w.shape, 1, PADS)),
    )


# %% Rung 6, Winograd: fewer multiplications. Tiles of 6 × 6 inputs make 4 × 4 outputs, Y = Aᵀ((G w Gᵀ) ⊙ (B d Bᵀ)) A: 36
# products instead of 144 (`kernels/winograd.py` derives A, B and G). The gradient of w is the transposes in reverse. In
# plain NumPy every array between the steps goes to memory and back.
def tiles(x, size, border):
    N, H, W, C = x.shape
    down, across = -(-H // 4), -(-W // 4)
    xp = np.pad(x, ((0, 0), (border, 4 * down + border - H), (border, 4 * across + border - W), (0, 0)))
    return sliding_window_view(xp, (size, size), (1, 2))[:, ::4, ::4]  # (N, down, across, C, size, size)


def transformed(x, m, size, border):
    """m d mᵀ for all tiles d: (36, tiles, C)."""
    d = tiles(x, size, border)
    V = np.einsum("iu,nabcuv->inabvc", m, d, optimize=True)
    V = np.einsum("jv,inabvc->ijnabc", m, V, optimize=True)
    return V.reshape(36, -1, x.shape[3])


def numpy_winograd_y(x, w):
    N, H, W, _ = x.shape
    down, across, Co = -(-H // 4), -(-W // 4), w.shape[3]
    U = both_sides(G.astype(x.dtype), w).reshape(36, -1, Co)
    M = (transformed(x, B.astype(x.dtype), 6, 1) @ U).reshape(6, 6, N, down, across, Co)
    at = A.T.astype(x.dtype)
    Y = np.einsum("ui,ijnabd->jnaubd", at, M, optimize=True)
    Y = np.einsum("vj,jnaubd->naubvd", at, Y, optimize=True)
    return Y.reshape(N, 4 * down, 4 * across, Co)[:, :H, :W]


def numpy_winograd_dw(x, dy):
    V, dM = transformed(x, B.astype(x.dtype), 6, 1), transformed(dy, A.astype(x.dtype), 4, 0)
    dU = V.transpose(0, 2, 1) @ dM
    return both_sides(G.T.astype(x.dtype), dU.reshape(6, 6, *dU.shape[1:]))


def numpy_winograd(x, w, dy):
    return lambda: numpy_winograd_y(x, w), lambda: (numpy_winograd_y(dy, turned(w)), numpy_winograd_dw(x, dy))


# %% Rung 7: what runs when you train. Winograd a few tiles at a time, so that everything between the image and y stays in
# the cache, with the matrices A and B applied by sums and differences, in two threads.
def final(x, w, dy):
    return both_ways(twin("convolve"), x, w, dy)


# name, rung, and how many times it moves the larger of image and gradient between memory and processor, counted from the
# code above: 2 is the least (in and out); a temporary array is written and read
RUNGS = [
    ("nested loops in Python", loops, 2),
    ("nested loops, compiled", compiled, 2),
    ("nine matrix products", taps, 9 * 5),
    ("im2col, one product", whole_im2col, 2 + 2 * 9),
    ("im2col in blocks, threads", blocks, 2),
    ("Winograd in NumPy", numpy_winograd, 2 + 2 * 2 * (1.5 + 2.25)),
    ("Winograd in the cache", final, 2),
]


def results(functions):
    """[y, dx, dw] of a rung."""
    forward, backward = functions
    return [forward(), *backward()]


def seconds(f, repeats):
    """The median of `repeats` calls, after one to warm up."""
    f()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        f()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def main(size=28, channels=64, batch=32, repeats=5, out="runs/kernels"):
    rng = np.random.default_rng(0)

    def arrays(batch, size, channels):
        image = batch, size, size, channels
        return [rng.standard_normal(shape).astype(np.float32) for shape in (image, (3, 3, channels, channels), image)]

    # %% What the machine can do: the rate of a large matrix product is the roof, and the rate of copying memory the slope
    # under it. A program that does I operations for each byte it moves can reach min(peak, I · bandwidth)   (Williams et
    # al. 2009).
    threads = get_num_threads()
    a = rng.standard_normal((threads * 1024, 1024)).astype(np.float32)
    product = lambda: ops.linear(a, a[:1024], np.zeros(1024, np.float32))  # noqa: E731
    peak = 2 * a.size * 1024 / min(seconds(product, 1) for _ in range(repeats))
    large = np.zeros(50_000_000, np.float32)
    target = large.copy()
    bandwidth = 2 * large.nbytes / seconds(lambda: np.copyto(target, large), repeats)
    print(f"This machine: {peak / 1e9:.0f} GFLOP/s in matrix products, {bandwidth / 1e9:.0f} GB/s, {threads} threads.")

    # %% The ladder. Arithmetic is counted as the loops do it, two operations for each product, whatever a rung really does.
    # Python gets a small piece of the work: the whole would take it hours.
    print(f"{batch} images of {size}², {channels} → {channels} channels, float32; the share of the peak is in brackets\n")
    print(f"{'':28}{'forward':>24}{'backward':>24}{'largest error':>16}")
    work, wanted = arrays(batch, size, channels), None
    rates, times = {}, {}
    for name, rung, passes in RUNGS:
        x, w, dy = arrays(1, 6, 4) if rung is loops else work
        functions = rung(x, w, dy)
        flops = 2 * x.size * 9 * w.shape[3]
        want = results(taps(*(array.astype(np.float64) for array in (x, w, dy)))) if rung is loops else wanted
        if rung is compiled:
            want = wanted = results(taps(*(array.astype(np.float64) for array in work)))
        got = results(functions)
        error = max(np.abs(g - v).max() / np.abs(v).max() for g, v in zip(got, want))
        whole = 2 * work[0].size * 9 * channels
        taken = [seconds(f, 1 if rung is compiled else repeats) * whole / flops for f in functions]
        rate = [products * whole / t for products, t in zip((1, 2), taken)]  # the backward is two convolutions
        cells = [f"{1e3 * t:.4g} ms ({100 * r / peak:.{2 if r < peak / 10 else 3}g}%)" for t, r in zip(taken, rate)]
        print(f"{name:28}" + "".join(f"{cell:>24}" for cell in cells) + f"{error:>16.0e}", flush=True)
        rates[name] = (9 * 2 * channels / (4 * passes), rate)  # operations for each of an image's numbers; 4 bytes a number
        times[name] = taken
    save_ladder(Path(out) / "ladder.png", times, rates, peak, bandwidth)
    print(f"\nThe first row is reckoned up from one image of 6² with 4 channels. Picture in {out}/ladder.png")
    return times


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One convolution, seven ways.")
    parser.add_argument("--size", type=int, default=28, help="pixels along an image's side (%(default)s)")
    parser.add_argument("--channels", type=int, default=64, help="in and out (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images (%(default)s)")
    parser.add_argument("--out", default="runs/kernels", metavar="DIR", help="where to write (%(default)s)")
    main(**vars(parser.parse_args()))
