# %% [markdown]
# # 25 Half of the image is missing: what was there?
#
# A network that knows digits can fill in half a digit, sharpen a small one or undo a blur, without being trained for it.
# All three are measurements y = A x_0 + noise, and what we want are draws of the posterior p(x_0 | y). Papers show such
# draws and ask whether they look good. Here the data is a mixture of normal distributions, so the posterior is a formula,
# and we can measure how wrong each method is.
#
# Expect: a table of seven methods on five measurements, by their distance to the exact posterior. Replacing the known pixels
# comes no nearer to it with more steps; resampling does. And real digits, restored by the network that comes with the
# package. It takes about two minutes on two cores, without training.
#
# `python demos/lessons/25_measurements.py` prints the table and writes runs/lessons/25_measurements.png.

# %%
import time
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, PALE, WARM, record, save

import scratchdiff as sd
from scratchdiff.diffusion import blurred, downsampled, matrix_of
from scratchdiff.diffusion.samplers import last
from scratchdiff.metrics import sliced_wasserstein
from scratchdiff.plots import grid

DIFFUSION = sd.GaussianDiffusion(sd.cosine_schedule(), "v")

# %% [markdown]
# ## Two kinds of data whose posterior is known
#
# In each component k the data is normal, N(m_k, C_k), and so is p(x_0 | y): Bayes' rule for normal distributions gives its
# mean and covariance, and a new weight, how well the component explains y. `Oracle.given` holds the formulas.
# Our data: three components in the plane; and the ten digits on 8 × 8 pixels, each with the mean and the covariance of its
# real examples.


# %%
class Problem(NamedTuple):
    """A measurement y = A x_0 + noise. known: a mask where A picks single numbers out of x_0, else None."""

    name: str
    oracle: sd.Oracle
    operator: Callable
    noise: float
    known: np.ndarray | None = None


def plane():
    """Three elongated components."""
    means = np.array([[-1.2, -0.6], [0.9, -0.9], [0.2, 1.0]])
    cov = np.array([[[0.15, 0.1], [0.1, 0.15]], [[0.2, -0.12], [-0.12, 0.1]], [[0.3, 0.0], [0.0, 0.04]]])
    return sd.Oracle(DIFFUSION, means, cov, [0.4, 0.3, 0.3])


def small_digits():
    """Ten components on 8 × 8 pixels: the mean and covariance of each digit, and a little noise."""
    images, labels = sd.data.mnist()
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-1).astype(np.float64)
    x = downsampled(padded).data
    means = np.stack([x[labels == k].mean(0) for k in range(10)])
    cov = np.stack([np.cov(x[labels == k].reshape(-1, 64).T) for k in range(10)])
    return sd.Oracle(DIFFUSION, means, cov + 0.02 * np.eye(64))


def problems():
    """What is measured of each."""
    points, digits = plane(), small_digits()
    top = np.arange(8).reshape(8, 1, 1) < 4
    return [
        Problem("plane: x₁ known", points, lambda x: x[:, :1], 0.0, np.array([True, False])),
        Problem("plane: x₁ + x₂", points, lambda x: x.sum(axis=1, keepdims=True), 0.1),
        Problem("8×8: top half", digits, lambda x: x[:, :4], 0.0, top),
        Problem("8×8: mean of 4×4", digits, downsampled, 0.1),
        Problem("8×8: blurred", digits, blurred, 0.1),
    ]


# %% [markdown]
# ## The methods
#
# All of them leave the network as it is. Each takes x0, of which it may use the known part, and y, and returns one or more
# sets of draws, one draw for each row. Where several settings are tried, the table shows the best: more than a user could
# do, who has no exact posterior to choose by.


# %%
def kept_clean(problem, x0, y, steps, rng):
    """The product with the second distribution δ(known) at every t: the network always sees the clean known part."""

    def model(xt, t):
        return problem.oracle(np.where(problem.known, x0, xt), t)

    yield np.where(problem.known, x0, sd.sample_ddpm(DIFFUSION, model, x0.shape, rng, steps))


def replaced(problem, x0, y, steps, rng, resample=1):
    """The known part is drawn from q(x_t | known) after each step; resampled: so many times, on fewer steps."""
    fewer = max(1, (steps - 1) // resample + 1)
    yield last(sd.inpaint_steps(DIFFUSION, problem.oracle, x0, problem.known, rng, fewer, resample)).x


def reconstruction(problem, x0, y, steps, rng, weights=(1.0,)):
    """The score of x_t given y, with p(x_0 | x_t) taken for a normal distribution."""
    for weight in weights:
        model = sd.reconstruction_guided(DIFFUSION, problem.oracle, problem.operator, y, problem.noise, weight)
        yield sd.sample_ddpm(DIFFUSION, model, x0.shape, rng, steps)


def dps(problem, x0, y, steps, rng, scales=(0.1, 0.3, 1.0)):
    """Steps of fixed size against the gradient of ‖y − A x0_hat‖²."""
    for scale in scales:
        yield last(sd.dps_steps(DIFFUSION, problem.oracle, problem.operator, y, x0.shape, rng, steps, scale)).x


def exact_score(problem, x0, y, steps, rng):
    """Ancestral sampling with the posterior's own best denoiser: what is left is the error of taking so few steps."""
    A = matrix_of(problem.operator, x0.shape[1:])
    measured, which = np.unique(y.reshape(len(y), -1), axis=0, return_inverse=True)
    oracles = [problem.oracle.given(A, row, problem.noise) for row in measured]

    def model(xt, t):
        out = np.empty_like(xt)
        for k, oracle in enumerate(oracles):
            out[which == k] = oracle(xt[which == k], t[which == k])
        return out

    yield sd.sample_ddpm(DIFFUSION, model, x0.shape, rng, steps)


METHODS = {  # name: (draws, does it need a mask?)
    "known part kept clean": (kept_clean, True),
    "replaced": (replaced, True),
    "replaced, resampled 4×": (lambda *a: replaced(*a, resample=4), True),
    "replaced, resampled 10×": (lambda *a: replaced(*a, resample=10), True),
    "reconstruction, weight 1": (reconstruction, False),
    "reconstruction, best weight": (lambda *a: reconstruction(*a, weights=(2.0, 4.0, 16.0)), False),
    "DPS, best scale": (dps, False),
    "exact score": (exact_score, False),
}


# %% [markdown]
# ## The table
#
# For each of three measurements y we compare the draws of a method with exact draws, by the sliced Wasserstein distance: the
# distance of their projections on a line, averaged over lines. Exact draws of the same number have a distance too, which no
# method can be expected to beat.


# %%
def measure(problem, method, steps, n, count, rng):
    """The mean distance over `count` measurements of n draws each, for the best of the method's settings."""
    truths, y, exact = measured(problem, n, count)
    sets = method(problem, np.repeat(truths, n, 0), np.repeat(y, n, 0), steps, rng)
    return min(np.mean([sliced_wasserstein(x[k * n : (k + 1) * n], exact[k]) for k in range(count)]) for x in sets)


def measured(problem, n, count):
    """(x_0, y, for each y 10 n exact draws of the posterior): the same for every method."""
    rng = np.random.default_rng(5)
    truths = problem.oracle.sample(count, rng)
    y = problem.operator(sd.Tensor(truths)).data
    y = y + problem.noise * rng.standard_normal(y.shape)
    A = matrix_of(problem.operator, truths.shape[1:])
    exact = [problem.oracle.given(A, row.ravel(), problem.noise).sample(10 * n, rng) for row in y]
    return truths, y, exact


def floor(problem, n, count):
    """The distance of n exact draws from 10 n others."""
    _, _, exact = measured(problem, n, count)
    return np.mean([sliced_wasserstein(draws[:n], draws[n:]) for draws in exact])


def table(budgets, n, count):
    """{(problem, method, evaluations): distance}, printed as it grows; evaluations 0 is the floor.

    budgets: how often the network may be asked; the last of them in the plane only, where it costs little. n: draws for each
    measurement, twice as many in the plane. count: measurements."""
    found = {}
    for problem in problems():
        mine, draws = (budgets, 2 * n) if problem.oracle.d == 2 else (budgets[:-1], n)
        found[problem.name, "exact draws", 0] = floor(problem, draws, count)
        print(f"\n{problem.name:<32}" + "".join(f"{budget:>9}" for budget in mine) + "   evaluations of the network")
        for name, (method, needs_mask) in METHODS.items():
            if needs_mask and problem.known is None:
                continue
            for budget in mine:
                found[problem.name, name, budget] = measure(problem, method, budget, draws, count, np.random.default_rng(7))
            print(f"  {name:<30}" + "".join(f"{found[problem.name, name, budget]:9.3f}" for budget in mine))
        print(f"  {'exact draws':<30}{found[problem.name, 'exact draws', 0]:9.3f}")
    return found


# %% [markdown]
# ## Real digits
#
# The same functions with the pretrained U-Net, which is not told the digit. An evaluation with a gradient costs about three
# without, so at equal time the last two methods take a third of the steps.


# %%
def restore(steps, count):
    """(rows of images, their names, seconds an image by method) for the three measurements of real digits."""
    model, diffusion = sd.pretrained("mnist")
    images, labels = sd.data.mnist()
    x0 = np.stack([images[labels == k][11] for k in (3, 4, 5, 7, 8, 2)[:count]]).astype(np.float64)
    rng, rows, names, seconds = np.random.default_rng(2), [x0], ["a digit"], {}
    top = np.arange(28).reshape(28, 1, 1) < 14

    def add(name, x):
        rows.append(np.asarray(x))
        names.append(name)

    def timed(name, draw):
        began = time.perf_counter()
        add(name, draw())
        seconds.setdefault(name, (time.perf_counter() - began) / count)

    def inpainted(resample):
        fewer = max(1, steps // resample)
        return last(sd.inpaint_steps(diffusion, model, x0, top, rng, fewer, resample)).x

    sd.sample_ddim(diffusion, model, x0.shape, rng, 1)  # whatever happens only once should not be timed
    timed("no measurement: ddim", lambda: sd.sample_ddim(diffusion, model, x0.shape, rng, steps))
    add("top half", np.where(top, x0, 0))
    timed("replaced", lambda: inpainted(1))
    timed("replaced, resampled 10×", lambda: inpainted(10))
    measurements = [
        ("", lambda x: x[:, :14], 4.0),
        ("4×4 means", downsampled, 64.0),
        ("blurred", lambda x: blurred(x, 2.0), 16.0),
    ]
    for what, operator, weight in measurements:
        y = operator(sd.Tensor(x0)).data
        y = y + 0.05 * rng.standard_normal(y.shape)
        if what:
            add(what, y.repeat(28 // y.shape[1], 1).repeat(28 // y.shape[2], 2))
        given = sd.reconstruction_guided(diffusion, model, operator, y, noise=0.05, weight=weight)
        timed("reconstruction", lambda given=given: sd.sample_ddpm(diffusion, given, x0.shape, rng, steps))
        timed("DPS", lambda operator=operator, y=y: last(
            sd.dps_steps(diffusion, model, operator, y, x0.shape, rng, steps, scale=1.0)).x)  # fmt: skip
    return rows, names, seconds


# %%
def main(out="runs/lessons", small=False):
    """The table, the digits, the picture; return the headline figures."""
    budgets, n, count = ((3, 6, 9), 20, 1) if small else ((20, 100, 400), 150, 3)
    found = table(budgets, n, count)
    rows, names, seconds = restore(4 if small else 100, 2 if small else 6)
    print("\nseconds an image, real digits:", ", ".join(f"{name} {each:.2g}" for name, each in seconds.items()))
    picture(out, found, budgets, rows, names, n)
    figures = {}
    for (problem, method, budget), distance in found.items():
        if budget != budgets[0]:
            figures[f"{problem}: {method}" + (f", {budget} evaluations" if budget else "")] = distance
    ratios = [found[kind, "exact score", budgets[1]] / found[kind, "exact draws", 0] for kind, *_, b in found if b == 0]
    figures["exact score over exact draws, mean of five"] = np.mean(ratios)
    ddim = seconds.pop("no measurement: ddim")
    return record(
        out, "25_measurements", figures | {f"time of ddim's: {name}": each / ddim for name, each in seconds.items()}
    )


def picture(out, found, budgets, rows, names, n):
    """Left: the bias in the plane, and the table's last column. Right: the digits."""
    figure = plt.figure(figsize=(14, 10))
    cells = figure.add_gridspec(2, 2, width_ratios=(1.15, 1), height_ratios=(1, 1.5), wspace=0.2, hspace=0.3)
    axes = figure.add_subplot(cells[0, 0])
    problem = problems()[0]
    truths, y, exact = measured(problem, 20 * n, 1)
    bins = np.linspace(-2.2, 1.8, 60)
    axes.hist(exact[0][:, 1], bins, density=True, color=PALE, label="exact posterior")
    shown = {"replaced": WARM, "replaced, resampled 10×": GREEN, "reconstruction, weight 1": INK}
    for name, colour in shown.items():
        x = next(
            METHODS[name][0](problem, truths.repeat(20 * n, 0), y.repeat(20 * n, 0), budgets[-1], np.random.default_rng(7))
        )
        axes.hist(x[:, 1], bins, density=True, histtype="step", color=colour, lw=1.5, label=name)
    axes.set(title=f"plane: x₂ where x₁ = {y[0, 0]:.2f} is known, {budgets[-1]} evaluations", xlabel="x₂", yticks=[])
    axes.legend(fontsize=8)

    axes = figure.add_subplot(cells[1, 0])
    kinds = list(dict.fromkeys(problem for problem, _, _ in found))
    for j, method in enumerate([*METHODS, "exact draws"]):
        at = [
            (i, found[kind, method, b])
            for i, kind in enumerate(kinds)
            for b in (0, budgets[1])
            if (kind, method, b) in found
        ]
        at = np.array(at)
        axes.barh(at[:, 0] - 0.4 + 0.1 * j, at[:, 1], 0.09, color=plt.cm.tab10(j), label=method)
    axes.set(yticks=range(len(kinds)), yticklabels=kinds, xlabel="sliced Wasserstein distance to the exact posterior")
    axes.set_title(f"{budgets[1]} evaluations of the network; shorter is better")
    axes.invert_yaxis()
    axes.legend(fontsize=8, loc="lower right")

    axes = figure.add_subplot(cells[:, 1])
    axes.imshow(grid(np.concatenate(rows), columns=len(rows[0])), cmap="gray", vmin=0, vmax=255)
    axes.set(
        xticks=[],
        yticks=2 + 14 + 30 * np.arange(len(rows)),
        yticklabels=[name.replace(": ", ":\n").replace(", ", ",\n") for name in names],
        title="real digits",
    )
    axes.tick_params(length=0, labelsize=9)
    save(figure, out, "25_measurements")


# %% [markdown]
# ## Exercises
#
# 1. In `replaced`, give all methods the same number of steps (fewer = steps). How much of the gain is resampling, and how
# much of the loss is fewer steps?
# 2. In `reconstruction`, `problem.noise` is the noise that y was made with. Pass 0.0 there. What becomes of
# the spread of x₁ + x₂?
# 3. In `problems`, let the second digit problem know every other column, not the top half. Which method gains most?

# %%
if __name__ == "__main__":
    main()
