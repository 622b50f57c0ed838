"""Does cost grow as the arithmetic does?   python tests/benchmarks/scaling.py [--out runs/scaling]   (about six minutes)

A training step of the yardstick is varied in one respect at a time: batch, width, image size, and each with one thread
and with two. A process for each, so that its peak memory is its own. If all is well the last column, arithmetic done in a
second, is level; where it is not, something else than arithmetic costs time. Prints a table, draws --out/scaling.png.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SWEEPS = {  # what is varied: (its values, the settings that one value stands for)
    "batch": ((1, 2, 4, 8, 16, 32, 64, 128, 256), lambda n: dict(batch=n)),
    "width": ((16, 24, 32, 48, 64, 96, 128), lambda n: dict(batch=16, ch=n)),
    # two levels, so that all these sizes can be halved; attention only in the middle, as everywhere
    "image size": ((14, 20, 28, 40, 56, 64), lambda n: dict(batch=16, image_size=n, ch_mult=(1, 2), attn_resolutions=())),
}


def measure(batch, steps=5, **settings) -> dict:
    """A training step's median seconds, its arithmetic, and the peak memory of this process."""
    import scratchdiff as sd
    from scratchdiff.recipes import YARDSTICK

    rng = np.random.default_rng(0)
    settings = YARDSTICK | settings
    net = sd.UNet(**settings, rng=rng)
    diffusion, adam = sd.GaussianDiffusion(sd.linear_schedule()), sd.Adam(net.parameters(), lr=1e-4)
    x0 = rng.standard_normal((batch, settings["image_size"], settings["image_size"], 1), np.float32)

    operations = 0

    def count(record, dy, grads):
        nonlocal operations
        if grads is None and record.name == "conv2d":
            operations += 2 * record.args[1].data[..., 0].size * record.out.size
        elif grads is None and record.name == "attention":
            operations += 4 * record.args[1].shape[-2] * record.args[0].size

    def step(watch=None):
        adam.zero_grad()
        with sd.Tape(watch) as tape:
            loss = diffusion.loss(net, x0, rng)
        tape.backward(loss)
        adam.step()

    step(count)
    step()
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(seconds=float(np.median(taken)), operations=3 * operations, memory=memory)  # y, dx and dw cost the same


def run(threads: int, settings: dict) -> dict:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps(settings)]
    env = os.environ | dict(NUMBA_NUM_THREADS=str(threads))
    return json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)


def draw(path, results) -> None:
    """Arithmetic in a second and memory, against each of the three."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(SWEEPS), sharey="row")
    for column, (what, by_threads) in enumerate(results.items()):
        rate, memory = axes[:, column]
        for (threads, points), colour in zip(by_threads.items(), ("#b8c9db", "#1f4e79")):
            label = f"{threads} thread{'s' if threads > 1 else ''}"
            rate.plot(
                points.keys(),
                [p["operations"] / p["seconds"] / 1e9 for p in points.values()],
                "o-",
                color=colour,
                label=label,
            )
            memory.plot(points.keys(), [p["memory"] / 1e9 for p in points.values()], "o-", color=colour, label=label)
        for axis in (rate, memory):
            axis.set_xscale("log", base=2)
            axis.set_xticks(list(points), list(points))
            axis.minorticks_off()
        rate.set(title=f"by {what}")
        rate.set_ylim(bottom=0)
        memory.set(xlabel=what, yscale="log")
        memory.yaxis.set_major_formatter("{x:g}")
        memory.yaxis.set_minor_formatter("{x:.1g}")
    axes[0, 0].set_ylabel("GFLOP/s of a training step")
    axes[1, 0].set_ylabel("peak memory, GB")
    axes[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/scaling", metavar="DIR", help="where the plot goes (%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2), help="(%(default)s)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        return print(json.dumps(measure(**json.loads(args.measure))))
    results = {}
    print("| varied | | threads | step | GFLOP | peak memory | GFLOP/s |\n|---|---|---|---|---|---|---|")
    for what, (values, settings) in SWEEPS.items():
        results[what] = {threads: {} for threads in args.threads}
        for value in values:
            for threads in args.threads:
                p = results[what][threads][value] = run(threads, settings(value))
                rate, memory = p["operations"] / p["seconds"] / 1e9, p["memory"] / 1e9
                print(f"| {what} | {value} | {threads} | {1e3 * p['seconds']:.4g} ms | {p['operations'] / 1e9:.3g} "
                      f"| {memory:.2f} GB | {rate:.0f} |", flush=True)  # fmt: skip
    draw(Path(args.out) / "scaling.png", results)


if __name__ == "__main__":
    main()
