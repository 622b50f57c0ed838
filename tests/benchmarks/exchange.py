"""What does it cost that ranks average their gradients?   mpiexec -n 2 python tests/benchmarks/exchange.py   (ten seconds)

Measures `parallel.average_gradients` by the size of the model, and how much of it is MPI's Allreduce; the rest is copying
and looking for numbers that are not finite. Then, on paper, many machines with one rank each. A ring of N ranks sends every
rank's n bytes in N parts, N − 1 times to add them up and N − 1 times to hand the sums on (Patarasuk & Yuan 2009):

    seconds = 2 (N − 1)/N · n/bandwidth + 2 (N − 1) · latency

No all-reduce sends fewer bytes. For long vectors MPICH sends as many, in 2 log₂ N messages instead of 2 (N − 1) (Thakur,
Rabenseifner & Gropp 2005), so the second term is an upper bound. Efficiency is the share of a step that is not exchange.
"""

import itertools
import time

import numpy as np

SIZES = {"1 MB": 250_000, "3.5 MB": 880_000, "yardstick": 2_734_945, "35 MB": 8_800_000, "ddpm-cifar10-32": 35_746_307}
# (bytes a second, seconds): line rates by IEEE 802.3 and the InfiniBand Trade Association; MPI's usual latencies over TCP
# and over InfiniBand
LINKS = {
    "Ethernet, 10 Gb/s, 50 us": (10e9 / 8, 50e-6),
    "Ethernet, 25 Gb/s, 20 us": (25e9 / 8, 20e-6),
    "InfiniBand HDR, 200 Gb/s, 2 us": (200e9 / 8, 2e-6),
}
STEPS = (  # (what each machine does in a step, parameters, seconds): measured, then by cost.py with 300 GB/s of memory
    ("yardstick, 128 images on 2 cores", SIZES["yardstick"], 0.73),
    ("yardstick, 128 images on 64 cores", SIZES["yardstick"], 0.047),
    ("ddpm-cifar10-32, 128 images on 64 cores", SIZES["ddpm-cifar10-32"], 0.56),
)
BACKWARD = 2 / 3  # of a step: an op's forward is one product for two of its backward


def ring_all_reduce_seconds(ranks: int, size: float, bandwidth: float, latency: float) -> float:
    """The time in which a ring of ranks adds up `size` bytes of each, and all have the sum."""
    return 2 * (ranks - 1) / ranks * size / bandwidth + 2 * (ranks - 1) * latency


def efficiency(ranks: int, step: float, size: float, link, hidden=0.0) -> float:
    """The share of a step that is not exchange; hidden: the seconds of the exchange that pass beside the step."""
    return step / (step + max(0.0, ring_all_reduce_seconds(ranks, size, *link) - hidden))


def fewest_ranks_below(wanted: float, step: float, size: float, link) -> int:
    """From how many ranks on the efficiency is lower than wanted."""
    return next(n for n in itertools.count(2) if efficiency(n, step, size, link) < wanted)


def paper_table(ranks=(8, 64, 512)) -> str:
    """For each step and link the exchange and the efficiency; in brackets what it would be if the exchange passed beside the
    backward walk."""
    columns = ["a machine's step", "link", *[f"{n} ranks" for n in ranks], "below 80 % from"]
    rows = [columns, ["---"] * len(columns)]
    for name, parameters, step in STEPS:
        for link, speed in LINKS.items():
            size, cells = 4 * parameters, []
            for n in ranks:
                plain, hidden = (efficiency(n, step, size, speed, h) for h in (0, BACKWARD * step))
                cells.append(f"{1e3 * ring_all_reduce_seconds(n, size, *speed):.3g} ms: {plain:.0%} ({hidden:.0%})")
            rows.append([f"{name}: {step:g} s", link, *cells, f"{fewest_ranks_below(0.8, step, size, speed)} ranks"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def median_seconds(comm, f, times=15) -> float:
    """The median over calls of the time that the slowest rank takes."""
    taken = []
    for _ in range(times):
        comm.Barrier()
        began = time.perf_counter()
        f()
        taken.append(comm.allreduce(time.perf_counter() - began, op=max))
    return float(np.median(taken))


def main() -> None:
    import scratchdiff.kernels.compiled  # noqa: F401  (it keeps freed memory, as in training)
    from scratchdiff import Tensor, parallel

    comm = parallel.join()
    say = print if comm.rank == 0 else lambda *args: None
    say(f"| {comm.size} ranks of this machine | MB | average_gradients | of that Allreduce |\n|---|---|---|---|")
    for name, numbers in SIZES.items():
        parameters = {str(i): Tensor(part) for i, part in enumerate(np.array_split(np.zeros(numbers, np.float32), 100))}
        for p in parameters.values():
            p.grad = np.ones_like(p.data)
        own, total = np.ones((2, numbers), np.float32)
        whole = median_seconds(comm, lambda p=parameters: parallel.average_gradients(comm, p, 0.0))
        reduce = median_seconds(comm, lambda a=own, b=total: comm.Allreduce(a, b))
        say(f"| {name} | {4 * numbers / 1e6:.3g} | {1e3 * whole:.3g} ms | {1e3 * reduce:.3g} ms |")
    say("\n" + paper_table())


if __name__ == "__main__":
    main()
