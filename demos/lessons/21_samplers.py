# %% [markdown]
# # 21 Which sampler?
#
# The same noise can be carried to the data in many ways: in a thousand random steps, in twenty straight ones, by a
# solver of differential equations. We compare seven samplers by their paths, by the order of their error, and by what
# their samples are worth for the number of times that they ask the network. First with a perfect denoiser, so that all
# that goes wrong is the sampler's own doing; then with a network, which is itself wrong now and then.
#
# Expect: straight lines of slope −1 for Euler and −2 for Heun and DPM-Solver++; and on digits an order of merit that is
# not that of the plane. It takes two and a half minutes on two cores.
#
# `python demos/lessons/21_samplers.py` writes runs/lessons/21_samplers.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, PALE, WARM, record, save
from matplotlib.ticker import NullFormatter
from scipy.stats import wasserstein_distance

import scratchdiff as sd
from scratchdiff.diffusion.samplers import last
from scratchdiff.metrics import CONFIDENT, classify, frechet_distance
from scratchdiff.progress import watch_batches

# %% [markdown]
# ## One interface
#
# Every sampler is a generator of its steps (`sd.SAMPLERS`). What costs time is the network, so we count how often each
# asks it, and give all the same budgets. SciPy's solver chooses its steps itself; it is given tolerances instead.

# %%
BUDGETS, TOLERANCES = (5, 10, 20, 50, 100, 200), (0.1, 1e-2, 1e-3, 1e-4)


def settings(name, budgets):
    """The settings of a sampler for each budget of network evaluations."""
    if name == "ode":
        return [dict(rtol=rtol) for rtol in TOLERANCES[: len(budgets)]]
    twice = name in ("pc", "heun", "heun-churn")  # they ask twice a step, but for the last
    return [dict(steps=(budget + 1) // 2 if twice else budget) for budget in budgets]


def run(name, diffusion, model, shape, **chosen):
    """(the samples, how often the network was asked); the same noise for every sampler."""
    asked = []

    def counted(xt, t):
        asked.append(t[0])
        return model(xt, t)

    x = last(sd.SAMPLERS[name].run(diffusion, counted, shape, np.random.default_rng(0), **chosen)).x
    return x, len(asked)


# %% [markdown]
# ## The data in the plane
#
# Eight small Gaussians on a circle; their best denoiser is a formula. The schedule ends at σ = 79, where all samplers
# can start.


# %%
def ring():
    """(diffusion, oracle) of eight Gaussians."""
    angles = np.pi * np.arange(8) / 4
    diffusion = sd.GaussianDiffusion(sd.linear_schedule(beta_end=0.01738))
    return diffusion, sd.Oracle(diffusion, np.stack([np.cos(angles), np.sin(angles)], 1) / np.sqrt(0.51), 0.01 / 0.51)


# %% [markdown]
# ## Paths
#
# The same 40 points of noise with each sampler, in few steps. Without noise on the way a path is smooth and leads each
# point of the noise to its own point of the data. With noise it wanders, and the end forgets the start.


# %%
def paths(diffusion, oracle):
    """{label: (moments, 40, 2)} of each sampler."""
    found = {}
    for name in sd.SAMPLERS:
        chosen = {} if name == "ode" else dict(steps=50 if name in ("ddpm", "pc") else 15)
        moments = list(sd.SAMPLERS[name].run(diffusion, oracle, (40, 2), np.random.default_rng(0), **chosen))
        start = np.random.default_rng(0).standard_normal((40, 2))
        found[f"{name}, {len(moments)} steps"] = np.stack([start, *(moment.x for moment in moments)])
    return found


# %% [markdown]
# ## Order
#
# The equation dy/dσ = ε̂(y, σ) has one solution through each point of noise; SciPy finds it to ten digits. A solver of
# order p comes 2^p times nearer to it each time its steps are made half as long: a line of slope −p on logarithmic
# axes.


# %%
def orders(diffusion, oracle, counts, rtol):
    """{name: (evaluations, errors, slope)} of the three solvers; the median error, for a point between two Gaussians may go
    either way."""
    exact, _ = run("ode", diffusion, oracle, (200, 2), rtol=rtol)
    found = {}
    for name in ("ddim", "heun", "dpm"):
        runs = [run(name, diffusion, oracle, (200, 2), steps=steps) for steps in counts]
        errors = [np.median(np.linalg.norm(x - exact, axis=1)) for x, _ in runs]
        slope = np.polyfit(np.log(counts[-3:]), np.log(errors[-3:]), 1)[0]
        found[name] = [asked for _, asked in runs], errors, slope
    return found


# %% [markdown]
# ## Quality in the plane
#
# What counts in the end is where the points lie: the Wasserstein distance to exact draws of the data, averaged over 16
# directions. As many exact draws are not at 0 from them either.


# %%
def distance(a, b):
    """The sliced Wasserstein distance of two sets of points."""
    angles = np.pi * np.arange(16) / 16
    return np.mean([wasserstein_distance(a @ u, b @ u) for u in np.stack([np.cos(angles), np.sin(angles)], 1)])


def quality(diffusion, oracle, n, budgets):
    """({name: [(evaluations, distance), ...]}, the distance of exact draws)."""
    rng = np.random.default_rng(1)
    data = oracle.sample(10 * n, rng)
    floor = np.mean([distance(oracle.sample(n, rng), data) for _ in range(5)])
    rows = {}
    for name in watch_batches(list(sd.SAMPLERS), "samplers in the plane"):
        runs = [run(name, diffusion, oracle, (n, 2), **chosen) for chosen in settings(name, budgets)]
        rows[name] = [(asked, distance(x, data)) for x, asked in runs]
    return rows, floor


# %% [markdown]
# ## Quality of digits
#
# Here the denoiser is a network. A deterministic sampler keeps its errors to the end; fresh noise lets later steps mend
# them. So the order of merit need not be that of the plane. We judge by the Fréchet distance to the digits, in the
# features of a classifier, and by how often the classifier is sure.


# %%
def quality_of_digits(n, budgets, reference):
    """({name: [(evaluations, Fréchet distance, share of confident), ...]}, the same of n real digits)."""
    model, diffusion = sd.pretrained("mnist")
    told = sd.guided(model, np.arange(n) % 10, 0.0)
    images = sd.data.mnist()[0][:reference]
    of_data, _ = classify(images)

    def judged(x):
        features, probabilities = classify(x)
        return frechet_distance(features, of_data), (probabilities.max(1) > CONFIDENT).mean()

    rows = {}
    for name in watch_batches(list(sd.SAMPLERS), "samplers on digits"):
        runs = [run(name, diffusion, told, (n, 28, 28, 1), **chosen) for chosen in settings(name, budgets)]
        rows[name] = [(asked, *judged(np.clip(x, -1, 1))) for x, asked in runs]
    return rows, judged(images[np.random.default_rng(0).permutation(len(images))[:n]])


def print_rows(title, rows):
    """A table: what each sampler reached, by how often the network was asked."""
    print(f"\n{title}")
    for name, row in rows.items():
        print(f"{name:<12}" + "".join(f"{asked:>6}: {' '.join(f'{v:.3f}' for v in values)}" for asked, *values in row))


# %%
def main(out="runs/lessons", small=False):
    """Paths, orders, quality in the plane and of digits; return the headline figures."""
    diffusion, oracle = ring()
    slopes = orders(diffusion, oracle, *(((10, 20, 40), 1e-5) if small else ((10, 20, 40, 80, 160, 320), 1e-10)))
    rows, floor = quality(diffusion, oracle, 100 if small else 4000, BUDGETS[:2] if small else BUDGETS)
    digits, real = quality_of_digits(*((2, BUDGETS[:1], 100) if small else (300, BUDGETS[:3], 10_000)))
    print_rows("sliced Wasserstein distance in the plane", rows)
    print_rows("digits: Fréchet distance, share of confident", digits)
    picture(out, paths(diffusion, oracle), oracle.sample(1500, np.random.default_rng(2)), slopes, rows, floor, digits, real)
    best_of = {name: min(row, key=lambda each: each[1]) for name, row in digits.items()}
    return record(out, "21_samplers", {
        **{f"order of {name}": slope for name, (_, _, slope) in slopes.items()},
        "plane: distance of exact draws": floor,
        **{f"plane: {name}, at most {rows[name][-1][0]} evaluations": rows[name][-1][1] for name in ("ddpm", "ddim", "dpm")},
        **{f"digits: best Fréchet distance, {name}": best_of[name][1] for name in digits},
        "digits: Fréchet distance of real digits": real[0],
    })  # fmt: skip


def picture(out, ways, points, slopes, rows, floor, digits, real):
    """Above: the paths. Below: orders, quality in the plane, quality of digits."""
    figure = plt.figure(figsize=(15, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.7))
    above.suptitle("from the same noise (dark, small) to the data (red), by each sampler", fontsize=11)
    for ax, (label, moments) in zip(above.subplots(1, len(ways)), ways.items()):
        ax.scatter(*points.T, s=1, color=PALE, linewidths=0)
        ax.plot(*moments[:, 2:].transpose(2, 0, 1), color=INK, linewidth=0.5, alpha=0.25)
        ax.plot(*moments[:, :2].transpose(2, 0, 1), color=INK, linewidth=1.2)
        ax.scatter(*moments[0].T, s=3, color=INK, linewidths=0)
        ax.scatter(*moments[-1].T, s=8, color=WARM, linewidths=0, zorder=3)
        ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[], yticks=[], aspect="equal")
        ax.set_title(label, fontsize=9)
    order, plane, of_digits = below.subplots(1, 3)
    for name, (asked, errors, slope) in slopes.items():
        order.loglog(asked, errors, "o-", ms=3, label=f"{name}: slope {slope:.2f}")
    order.set(title="how near to the exact solution", ylabel="median distance")
    for ax, table in ((plane, rows), (of_digits, digits)):
        for name, row in table.items():
            ax.loglog([each[0] for each in row], [each[1] for each in row], "o-", ms=3, label=name)
    plane.axhline(floor, color="black", ls="--", lw=1, label="exact draws")
    plane.set(title="eight Gaussians, perfect denoiser", ylabel="sliced Wasserstein distance")
    of_digits.axhline(real[0], color="black", ls="--", lw=1, label="real digits")
    of_digits.set(title="digits, a network", ylabel="Fréchet distance", ylim=(None, 3))
    for ax in (order, plane, of_digits):
        ax.set(xlabel="network evaluations")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=8)
    save(figure, out, "21_samplers")


# %% [markdown]
# ## What the picture shows
#
# In the plane all that counts is how well the equation is solved, and DPM-Solver++ is the first to reach the level of
# exact draws. On digits the solvers come nearer and nearer to the solution of *this network's* equation, which is not
# the data: SciPy ends at 0.124, and DPM-Solver++ at 0.127. Samplers that make errors, or mend them with fresh noise,
# end lower, at 0.10 to 0.11. (Heun with three steps from σ = 80 cannot work, nor was it made for that.) The less a
# network is trained, the more the noise helps: demos/README.md has the same table for 3000 steps of training.
#
# ## Exercises
#
# 1. In `run`, draw other noise: np.random.default_rng(1), then 2. Which differences on digits were luck?
# 2. In `quality_of_digits`, set the guidance to 1.0. Who gains, who loses, and why is the Fréchet distance larger
# although the digits are clearer?
# 3. In `ring`, use sd.linear_schedule() (σ at T = 157). Which sampler suffers, and at which budgets?

# %%
if __name__ == "__main__":
    main()
