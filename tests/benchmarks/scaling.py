"""Does cost grow as the arithmetic does?   python tests/benchmarks/scaling.py [--out runs/scaling]   (about six minutes)

A training step of the yardstick is varied in one respect at a time: batch, width and image size, each with one thread and
with all; and at batch 128 the number of workers: threads or, where there is MPI, processes of one thread each. A process for
each figure, so that its peak memory is its own. If all is well, arithmetic done in a second is level; where it is not,
something else than arithmetic costs time. What that is, `cost.py` says: its prediction stands beside what was measured.
Prints tables, draws --out/scaling.png.
"""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from cost import in_process, in_words, mpiexec, predict

CORES = len(os.sched_getaffinity(0))
COUNTS = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < CORES] + [CORES]


def one_and_all(settings) -> dict:
    """The two lines of a sweep: settings(n) with one thread and with all."""
    return {f"{t} thread{'s' * (t > 1)}": lambda n, t=t: dict(threads=t, **settings(n)) for t in sorted({1, CORES})}


SWEEPS = {  # what is varied: (its values, {line: what it gives `in_process` for a value})
    "batch": ((1, 2, 4, 8, 16, 32, 64, 128, 256), one_and_all(lambda n: dict(batch=n))),
    "width": ((16, 24, 32, 48, 64, 96, 128), one_and_all(lambda n: dict(batch=16, ch=n))),
    # two levels, so that all these sizes can be halved; attention only in the middle, which always has it
    "image size": (
        (14, 20, 28, 40, 56, 64),
        one_and_all(lambda n: dict(batch=16, image_size=n, ch_mult=(1, 2), attn_resolutions=())),
    ),
    "workers": (COUNTS, {"threads": lambda n: dict(threads=n, batch=128)}),
}
if find_spec("mpi4py") and mpiexec():
    SWEEPS["workers"][1].update({
        "processes": lambda n: dict(threads=1, ranks=n, batch=128),
        "processes, 128 images each": lambda n: dict(threads=1, ranks=n, batch=128 * n),
    })  # fmt: skip


def measure(arguments: dict, machines: dict) -> dict:
    """Of one training step: ms an image, GFLOP/s, peak memory in GB, and, for one process, predicted over measured time."""
    step = in_process("step", **arguments)
    ms = 1e3 / arguments["batch"]
    found = dict(ms=ms * step["seconds"], rate=step["direct"] / step["seconds"] / 1e9, memory=step["memory"] / 1e9)
    if "ranks" in arguments:
        return found
    predicted = sum(predict(step, machines[arguments["threads"]]).values())
    return found | dict(ratio=predicted / step["seconds"])


def table(what: str, lines: dict) -> str:
    """A sweep, with a column for each value and a row for each line and quantity."""
    rows = [[what, *next(iter(lines.values()))]]
    for quantity, name, form in (
        ("ms", "ms an image", ".3g"),
        ("ratio", "predicted / measured", ".2f"),
        ("rate", "GFLOP/s", ".0f"),
        ("memory", "peak memory, GB", ".2f"),
    ):
        for line, points in lines.items():
            if all(quantity in p for p in points.values()):
                rows.append([f"{name}, {line}", *[format(p[quantity], form) for p in points.values()]])
    text = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([text[0], "|" + "---|" * len(rows[0]), *text[1:]])


def draw(path, results: dict) -> None:
    """Arithmetic in a second (the prediction dashed) and memory, for each sweep."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(results), sharey="row")
    for (rate, memory), (what, lines) in zip(axes.T, results.items()):
        for (line, points), colour in zip(lines.items(), ("#8fb0d3", "#1f4e79", "#c0653a")):
            values, found = list(points), list(points.values())
            rate.plot(values, [p["rate"] for p in found], "o-", color=colour, label=line)
            if "ratio" in found[0]:
                rate.plot(values, [p["rate"] / p["ratio"] for p in found], "--", color=colour, label="predicted")
            memory.plot(values, [p["memory"] for p in found], "o-", color=colour, label=line)
        for axis in (rate, memory):
            axis.set_xscale("log", base=2)
            axis.set_xticks(values, values)
            axis.minorticks_off()
        rate.set(title=f"by {what}")
        rate.legend(fontsize="small")
        memory.set(xlabel=what, yscale="log")
        memory.yaxis.set_major_formatter("{x:g}")
        memory.yaxis.set_minor_formatter("{x:.1g}")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("GFLOP/s of a training step")
    axes[1, 0].set_ylabel("peak memory, GB")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/scaling", metavar="DIR", help="where the plot goes (%(default)s)")
    args = parser.parse_args(argv)
    machines = {threads: in_process("machine", threads) for threads in COUNTS}
    print(in_words({f"{n} thread{'s' * (n > 1)}": m for n, m in machines.items()}), flush=True)
    results = {}
    for what, (values, lines) in SWEEPS.items():
        results[what] = {line: {n: measure(arguments(n), machines) for n in values} for line, arguments in lines.items()}
        print("\n" + table(what, results[what]), flush=True)
    points = [p for lines in results.values() for by_value in lines.values() for p in by_value.values()]
    off = np.array([abs(p["ratio"] - 1) for p in points if "ratio" in p])
    print(f"\n{len(off)} predictions, off by {off.mean():.0%} in the mean and {off.max():.0%} at most; "
          f"{(off <= 0.2).sum()} are within 20 %")  # fmt: skip
    draw(Path(args.out) / "scaling.png", results)


if __name__ == "__main__":
    main()
