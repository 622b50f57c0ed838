# %% [markdown]
# # 29 How does one convolution become fast?
#
# Nearly all the time of a U-Net goes into 3 × 3 convolutions. We write one seven times: first as the formula in nested
# loops, last as the kernel that runs when you train. Each rung of the ladder computes the same numbers and says what it
# costs.
#
# Expect: five orders of magnitude from the first rung to the last, and the last one above the roof of the machine,
# since it gets by with fewer multiplications than the roof is counted in. It takes half a minute on two cores.
#
# `python demos/lessons/29_kernels.py` writes runs/lessons/29_kernels.png.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, WARM, record, save
from numba import get_num_threads, njit
from numpy.lib.stride_tricks import sliding_window_view

from scratchdiff import ops
from scratchdiff.kernels import FORMULAS, im2col, twin
from scratchdiff.kernels.winograd import A, B, G

PADS = (1, 1), (1, 1)  # a 3 × 3 window with one pixel of padding on each side: the image keeps its size


# %% [markdown]
# ## Rung 1: the formula
#
# The formula, y[n,i,j,d] = Σ_{u,v,c} x[n, i+u−1, j+v−1, c] w[u,v,c,d], as loops. The gradients are the same loops with
# another array on the left of the +=: each product x · w that went into y sends dy · w to dx and x · dy to dw.


# %%
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


# %% [markdown]
# ## Rung 2: the same loops, compiled
#
# The same loops, compiled. The interpreter is gone; one number at a time, on one core, is left.


# %%
compiled_y, compiled_dx, compiled_dw = njit(loops_y), njit(loops_dx), njit(loops_dw)


def compiled(x, w, dy):
    return (
        lambda: compiled_y(x, w, np.zeros_like(dy)),
        lambda: (compiled_dx(dy, w, np.zeros_like(x)), compiled_dw(x, dy, np.zeros_like(w))),
    )


# %% [markdown]
# ## Rung 3: nine matrix products
#
# The formula of `ops/conv.py`. The loops over c and d for all pixels at once are a matrix product, and there are nine.


# %%
def taps(x, w, dy):
    return both_ways(FORMULAS["convolve"], x, w, dy)


def both_ways(convolve, x, w, dy):
    """(y, (dx, dw)) of a function that returns y and its backward, as two calls."""
    b = np.zeros((1, w.shape[3]), x.dtype)
    _, backward = convolve(x, w, b, 1, PADS)
    return lambda: convolve(x, w, b, 1, PADS)[0], lambda: backward(dy, x)[:2]


# %% [markdown]
# ## Rung 4: im2col
#
# Im2col: lay out the window of each pixel as a row, and the nine products are one. But the rows are nine times the
# image: they go to memory and come back. dx is a convolution of dy with the filter turned round, so it is the same
# code.


# %%
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


# %% [markdown]
# ## Rung 5: im2col in blocks
#
# The same, a block of rows at a time that fits the cache, blocks shared out to the threads (`kernels/im2col.py`).


# %%
def blocks(x, w, dy):
    b_out, b_in = np.zeros((1, w.shape[3]), x.dtype), np.zeros((1, w.shape[2]), x.dtype)
    return (
        lambda: im2col.convolution(x, w, b_out, 1, PADS),
        lambda: (im2col.convolution(dy, turned(w), b_in, 1, PADS), im2col.weight_gradient(x, dy, w.shape, 1, PADS)),
    )


# %% [markdown]
# ## Rung 6: Winograd
#
# Winograd: fewer multiplications. Tiles of 6 × 6 inputs make 4 × 4 outputs, Y = Aᵀ((G w Gᵀ) ⊙ (B d Bᵀ)) A: 36 products
# instead of 144 (`kernels/winograd.py` derives A, B and G). The gradient of w is the transposes in reverse. In plain
# NumPy every array between the steps goes to memory and back.


# %%
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


def both_sides(m, a):
    """m a mᵀ in the first two axes of a (k, k, Cin, Cout)."""
    return np.einsum("iu,uvcd,jv->ijcd", m, a, m, optimize=True)


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


# %% [markdown]
# ## Rung 7: what runs when you train
#
# What runs when you train. Winograd a few tiles at a time, so that everything between the image and y stays in the
# cache, with the matrices A, B and G applied by sums and differences, in all threads. Where 4 does not divide a side, some
# tiles have three outputs. Each of the 36 matrix products is added up in the processor's registers
# (`kernels/products.py`).


# %%
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


def same_numbers(functions, arrays):
    """The largest error of y, dx and dw, relative to the largest entry, against the formula in float64."""
    wanted = results(taps(*(array.astype(np.float64) for array in arrays)))
    return max(np.abs(got - want).max() / np.abs(want).max() for got, want in zip(results(functions), wanted))


# %% [markdown]
# ## The roof
#
# What can this machine do? The rate of a large matrix product is the roof, and the rate of copying memory the slope
# under it: a program that does I operations for each byte it moves can reach min(peak, I · bandwidth)   (Williams et
# al. 2009).


# %%
def roof(rng, repeats, side):
    """(operations per second in a matrix product, bytes per second in a copy)."""
    a = rng.standard_normal((get_num_threads() * side, side)).astype(np.float32)
    b, c = a[:side], np.zeros(side, np.float32)
    peak = 2 * a.size * side / min(seconds(lambda: ops.linear(a, b, c), 1) for _ in range(repeats))
    large = np.zeros(50_000 * side, np.float32)
    target = large.copy()
    return peak, 2 * large.nbytes / seconds(lambda: np.copyto(target, large), repeats)


# %%
def main(out="runs/lessons", small=False):
    """Climb the ladder, draw it and the roofline of this machine; return the headline figures."""
    size, channels, batch, repeats = (6, 4, 2, 1) if small else (28, 64, 32, 5)
    rng = np.random.default_rng(0)

    def arrays(batch, size, channels):
        image = batch, size, size, channels
        return [rng.standard_normal(shape).astype(np.float32) for shape in (image, (3, 3, channels, channels), image)]

    # arithmetic is counted as the loops do it, two operations for each product, whatever a rung really does; Python gets a
    # small piece of the work, since the whole would take it hours
    peak, bandwidth = roof(rng, repeats, 64 if small else 1024)
    print(f"{peak / 1e9:.0f} GFLOP/s in matrix products, {bandwidth / 1e9:.0f} GB/s, {get_num_threads()} threads")
    print(f"{batch} images of {size}², {channels} → {channels} channels, float32; in brackets the share of the peak\n")
    print(f"{'':28}{'forward':>24}{'backward':>24}{'largest error':>16}")
    work, piece = arrays(batch, size, channels), arrays(1, 6, 4)
    whole = 2 * work[0].size * 9 * channels
    rates, times, errors = {}, {}, {}
    for name, rung, passes in RUNGS:
        x, w, dy = piece if rung is loops else work
        functions = rung(x, w, dy)
        scale = whole / (2 * x.size * 9 * w.shape[3])
        errors[name] = same_numbers(functions, (x, w, dy))
        times[name] = [seconds(f, 1 if rung is compiled else repeats) * scale for f in functions]
        rate = [products * whole / t for products, t in zip((1, 2), times[name])]  # the backward is two convolutions
        rates[name] = 9 * 2 * channels / (4 * passes), rate  # operations for each of an image's numbers, of 4 bytes each
        cells = [f"{1e3 * t:.4g} ms ({100 * r / peak:.{2 if r < peak / 10 else 3}g}%)" for t, r in zip(times[name], rate)]
        print(f"{name:28}" + "".join(f"{cell:>24}" for cell in cells) + f"{errors[name]:>16.0e}", flush=True)
    picture(out, times, rates, peak, bandwidth)
    print()
    first, *_, last = times.values()
    return record(out, "29_kernels", {
        "GFLOP/s: the roof": peak / 1e9, "GB/s: memory": bandwidth / 1e9,
        **{f"ms, forward: {name}": 1e3 * forward for name, (forward, _) in times.items()},
        "ms, backward: Winograd in the cache": 1e3 * last[1], "speed-up of the forward": first[0] / last[0],
        "last rung over the roof, forward": rates["Winograd in the cache"][1][0] / peak,
        "largest error of any rung": max(errors.values()),
    })  # fmt: skip


def picture(out, times, rates, peak, bandwidth):
    """What the forward and the backward take on each rung, and the roofline above them."""
    figure, (bars, roofline) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for k, (what, colour) in enumerate((("forward", INK), ("backward", WARM))):
        at = np.arange(len(times)) + 0.4 * (k - 0.5)
        bars.barh(at, [1e3 * both[k] for both in times.values()], 0.38, color=colour, label=what)
    bars.set(xscale="log", xlabel="milliseconds (logarithmic)", title="the ladder")
    bars.set_yticks(range(len(times)), [f"{i}  {name}" for i, name in enumerate(times, 1)])
    bars.invert_yaxis()
    bars.legend()
    intensities = [intensity for intensity, _ in rates.values()]
    reach = np.geomspace(min(intensities) / 3, max(intensities) * 3, 200)
    roofline.loglog(reach, np.minimum(peak, reach * bandwidth) / 1e9, color="black", label="roof: matrix products, memory")
    for number, (intensity, rate) in enumerate(rates.values(), 1):
        roofline.scatter([intensity] * 2, np.array(rate) / 1e9, s=30, c=[INK, WARM], zorder=3)
        roofline.annotate(str(number), (intensity, max(rate) / 1e9), (0, 6), textcoords="offset points", ha="center")
    top = 4 * max(peak, *(max(rate) for _, rate in rates.values())) / 1e9
    roofline.set(xlabel="operations for each byte moved", ylabel="GFLOP/s, counted as loops do it", title="the roofline",
                 ylim=(None, top))  # fmt: skip
    roofline.legend(loc="lower left")
    save(figure, out, "29_kernels")


# %% [markdown]
# ## What the picture shows
#
# The large steps are the first three: compile the loops, let a matrix product do the arithmetic, keep what it works on
# in the cache. Winograd then breaks the roof, which counts the multiplications of the loops: it does a quarter of them.
# Done in plain NumPy it wins nothing, for its intermediate arrays go to memory and back.
#
# ## Exercises
#
# 1. In `main`, set channels to 8. Which rungs fall farthest below the roof, and why (operations for each byte)?
# 2. In `loops_y`, move the loops over u and v outermost and compile again: what does the order of loops cost?
# 3. Run with NUMBA_NUM_THREADS=1 in the environment. Which rungs use the second core, and how much of it?

# %%
if __name__ == "__main__":
    main()
