"""Many ways from the same noise to the data: each sampler's paths, the order of its error, its quality for the money.

    python demos/samplers.py [--run runs/mnist] [--samples 300] [--guidance 0] [--seed 0] [--out runs/samplers]

In the plane under a minute on two cores; nothing is trained, for the best denoiser of a Gaussian mixture is known exactly.
With --run, a run of demos/mnist.py or `scratchdiff train mnist`, the digits too: about ten minutes for 300 samples.
Expect straight lines of slope −1 for Euler and −2 for Heun and DPM-Solver++; and, on digits, that fresh noise at each step
does better than solving the equation ever so well. Writes to --out: paths.png, orders.png, quality.png, quality.txt, and
with --run digits.png, digits.txt.
"""

# %%
import argparse
from pathlib import Path

import numpy as np
from scipy.stats import wasserstein_distance

import scratchdiff as sd
from scratchdiff.diffusion.samplers import last
from scratchdiff.metrics import judge
from scratchdiff.plots import save_curves, save_paths
from scratchdiff.progress import watch_batches
from scratchdiff.runs import load_run

# A sampler may ask the network this often. SciPy chooses for itself, so it is given tolerances instead.
BUDGETS = (5, 10, 20, 50, 100, 200)
TOLERANCES = (0.1, 1e-2, 1e-3, 1e-4)


def settings(name, budgets):
    """The settings of a sampler for each budget of network evaluations."""
    if name == "ode":
        return [dict(rtol=rtol) for rtol in TOLERANCES[: len(budgets)]]
    twice = name in ("pc", "heun", "heun-churn")  # they ask twice a step, but for the last
    return [dict(steps=(budget + 1) // 2 if twice else budget) for budget in budgets]


def run(name, diffusion, model, shape, seed, **chosen):
    """(the samples, how often the network was asked)."""
    asked = []

    def counted(xt, t):
        asked.append(t[0])
        return model(xt, t)

    x = last(sd.SAMPLERS[name].run(diffusion, counted, shape, np.random.default_rng(seed), **chosen)).x
    return x, len(asked)


def table(rows, what):
    """The rows {name: [(evaluations, quality), ...]} as text."""
    lines = [f"{what}, by how often the network was asked"]
    for name, row in rows.items():
        lines.append(f"{name:<12}" + "".join(f"{asked:>7}: {text:<14}" for asked, text in row))
    return "\n".join(lines) + "\n"


def main(run_folder=None, samples=300, guidance=0.0, seed=0, out="runs/samplers", n=4000, budgets=BUDGETS, orders=None):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)

    # %% The data: eight small Gaussians on a circle, the toy set "gaussians". Its best denoiser is a formula (`oracle.py`),
    # so what goes wrong from here on is the sampler's own doing. The schedule ends at σ = 79, where all of them can start.
    angles = np.pi * np.arange(8) / 4
    diffusion = sd.GaussianDiffusion(sd.linear_schedule(beta_end=0.01738))
    oracle = sd.Oracle(diffusion, np.stack([np.cos(angles), np.sin(angles)], 1) / np.sqrt(0.51), 0.01 / 0.51)
    data = oracle.sample(10 * n, rng)

    # %% Paths. The same 40 points of noise, with each sampler, in few steps. Without noise on the way a path is smooth and
    # leads each point of the noise to its own point of the data; with noise it wanders, and the end forgets the start.
    paths = {}
    for name in sd.SAMPLERS:
        start = np.random.default_rng(seed).standard_normal((40, 2))
        chosen = {} if name == "ode" else dict(steps=50 if name in ("ddpm", "pc") else 15)
        moments = list(sd.SAMPLERS[name].run(diffusion, oracle, (40, 2), np.random.default_rng(seed), **chosen))
        paths[f"{name}, {len(moments)} steps"] = np.stack([start, *(m.x for m in moments)])
    save_paths(out / "paths.png", paths, data[:1500], "From the same noise (blue) to the data (red), by each sampler")

    # %% Order. The equation dy/dσ = eps(y, σ) has one solution through each point of noise; SciPy finds it to ten digits.
    # A solver of order p comes nearer to it by 2^p each time its steps are halved: a line of slope −p on logarithmic axes.
    exact, _ = run("ode", diffusion, oracle, (200, 2), seed, rtol=1e-10)
    counts = np.array([10, 20, 40, 80, 160, 320] if orders is None else orders)
    curves, slopes = {}, {}
    for name, label in (("ddim", "ddim, eta 0 (Euler)"), ("heun", "heun"), ("dpm", "dpm (DPM-Solver++(2M))")):
        found = [run(name, diffusion, oracle, (200, 2), seed, steps=int(steps)) for steps in counts]
        # the median, for points on the ridge between two Gaussians may go either way
        errors = [np.median(np.linalg.norm(x - exact, axis=1)) for x, _ in found]
        slopes[name] = np.polyfit(np.log(counts[-3:]), np.log(errors[-3:]), 1)[0]
        curves[f"{label}: slope {slopes[name]:.2f}"] = ([asked for _, asked in found], errors)
    save_curves(out / "orders.png", [dict(curves=curves, xlabel="network evaluations", ylabel="median distance from it",
                                          title="How near to the exact solution")])  # fmt: skip

    # %% Quality. What counts in the end is not the path but where the points lie: the Wasserstein distance to exact draws of
    # the data, averaged over 16 directions. As many exact draws are not at 0 from them either: the dashed line.
    directions = np.stack([np.cos(np.pi * np.arange(16) / 16), np.sin(np.pi * np.arange(16) / 16)])

    def distance(a, b):
        return np.mean([wasserstein_distance(a @ u, b @ u) for u in directions.T])

    floor = np.mean([distance(oracle.sample(n, rng), data) for _ in range(5)])
    rows = {}
    for name in watch_batches(list(sd.SAMPLERS), "samplers in the plane"):
        found = [run(name, diffusion, oracle, (n, 2), seed, **chosen) for chosen in settings(name, budgets)]
        rows[name] = [(asked, distance(x, data)) for x, asked in found]
    curves = {name: tuple(zip(*row)) for name, row in rows.items()}
    references = {"exact draws": ([min(budgets), max(budgets)], [floor, floor])}
    save_curves(out / "quality.png", [dict(curves=curves, references=references, xlabel="network evaluations",
                                           ylabel="sliced Wasserstein distance",
                                           title="Eight Gaussians, exact denoiser")])  # fmt: skip
    text = table({k: [(a, f"{q:.3f}") for a, q in row] for k, row in rows.items()}, "sliced Wasserstein distance")
    text += f"exact draws {floor:.3f}; slopes of the error: " + ", ".join(f"{k} {v:.2f}" for k, v in slopes.items()) + "\n"
    (out / "quality.txt").write_text(text, encoding="utf-8")
    print(text)
    if run_folder is None:
        return rows, slopes

    # %% Digits. Here the denoiser is a network, and wrong now and then. A deterministic sampler keeps such an error to the
    # end; fresh noise lets later steps mend it. So the order of merit need not be that of the plane.
    model, diffusion, _ = load_run(run_folder)
    model_of_classes = sd.guided(model, np.arange(samples) % 10, guidance)
    rows, text = {}, f"{run_folder}, guidance {guidance:g}, {samples} samples, seed {seed}\n"
    for name in watch_batches(list(sd.SAMPLERS), "samplers on digits"):
        rows[name] = []
        for chosen in settings(name, budgets[:4]):
            x, asked = run(name, diffusion, model_of_classes, (samples, 28, 28, 1), seed, **chosen)
            rows[name].append((asked, judge(np.clip(x, -1, 1))))
    digits = judge(sd.data.mnist()[0][np.random.default_rng(seed).permutation(10_000)[:samples]])
    frechet = {name: ([a for a, _ in row], [j.frechet for _, j in row]) for name, row in rows.items()}
    sure = {name: ([a for a, _ in row], [j.confident for _, j in row]) for name, row in rows.items()}
    ends = [5, 50]
    real = {"training digits": (ends, [digits.frechet] * 2)}
    real_sure = {"training digits": (ends, [digits.confident] * 2)}
    axis = "network evaluations"
    save_curves(out / "digits.png", [dict(curves=frechet, references=real, xlabel=axis, ylabel="Fréchet distance",
                                          ylim=(0.1, 3),
                                          title="Low is good"),
                                     dict(curves=sure, references=real_sure, xlabel=axis, ylabel="share of confident",
                                          yscale="linear",
                                          title="Share of which the classifier is sure")],
                f"Digits, guidance {guidance:g}")  # fmt: skip
    both = {k: [(a, f"{j.frechet:.2f} {j.confident:.0%}") for a, j in row] for k, row in rows.items()}
    text += table(both, "Fréchet distance and share of confident")
    text += f"as many training digits: {digits.frechet:.2f} {digits.confident:.0%}\n"
    (out / "digits.txt").write_text(text, encoding="utf-8")
    print(text)
    return rows, slopes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Compare the samplers, in the plane and on digits.")
    parser.add_argument("--run", dest="run_folder", metavar="RUN", help="folder of a run on MNIST, to compare on digits too")
    parser.add_argument("--samples", type=int, default=300, help="digits for each setting (%(default)s)")
    parser.add_argument("--guidance", type=float, default=0.0, help="for the digits (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/samplers", metavar="DIR", help="where to write (%(default)s)")
    main(**vars(parser.parse_args()))
