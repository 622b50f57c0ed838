"""What does a training step cost, and why?   python tests/benchmarks/cost.py '{"batch": 64, "ch": 48}'   (a minute)

While a step runs we count its products, the bytes that it moves and its calls. Each count is divided by its speed, which is
how much of it the machine does in a second:

    seconds = Σ count/speed,    over the five counts

flops   multiplications and additions in matrix products, those that are really done: Winograd's 36 products a tile. What
        norms, Winograd's transforms and the softmax take counts as so many flops of a product
near    bytes that a thread writes to its own buffers, in its cache, and reads back: Winograd's transforms, im2col
far     bytes of whole arrays, from memory and to it, by the kernels, with all threads
alone   the same by NumPy's own functions, with one thread: upsampling, turning a filter
calls   of ops (forward and backward), of convolution's kernels, and of Adam for each parameter

The five speeds come from benchmarks of their own: a product, three copies, and a step of a network so small that it is
nothing but calls. The argument is what differs from the yardstick, as JSON. `scaling.py` tests the prediction.
"""

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

TERMS = ("flops", "near", "far", "alone", "calls")
NORM = 60, 100  # a number's normalisation, forward and backward, takes as long as so many flops of a product (measured)
AGAIN = 40  # its normalisation once more, for the convolution's backward, with mean and deviation known
TINY = dict(batch=1, image_size=4, ch=8, attn_resolutions=(1,))  # the calls of the yardstick, and next to nothing else


# %% What the kernels do: each function takes a kernel's arguments and its result, and returns the counts of that call


def products(n, k, m, times=1) -> dict:
    """`times` products of (n, k) with (k, m) matrices. Their columns are filled up to whole vectors of 16 numbers."""
    return dict(flops=2 * n * k * 16 * math.ceil(m / 16) * times)


def winograd_both_ways(x, y, C, Co, widest) -> tuple[Counter, int]:
    """The products V U or Vᵀ dM, and the transforms of x to V and between M and y; and how many groups of tiles are
    multiplied at a time.

    For each tile and channel a transform goes over the tile's 24 numbers (four columns of six lines), the 24 that are half
    transformed, written and read, and the 36 of V or M, written and read. (For a tile of 3 × 3 outputs these are 15, 15 and
    25.) It has 140 operations, each as long as two flops of a product, where a multiplication and an addition are one
    instruction."""
    from scratchdiff.kernels import winograd
    from scratchdiff.kernels.threads import thread_count

    cost, groups = Counter(far=x.nbytes + y.nbytes), 0
    table, shares = winograd.plans(y.shape, widest, thread_count())
    for row, strips in zip(table.tolist(), shares[:, -1].tolist()):
        plan = winograd.Plan(*row)
        tiles, places = strips * plan.run, (plan.height + 2) * (plan.width + 2)  # with the tiles that hang over the edge
        half = plan.width * (plan.height + 2)
        cost.update(products(tiles, C, Co, places))
        cost.update(near=4 * (3 * half + 2 * places) * tiles * (C + Co), flops=2 * 140 * places / 36 * tiles * (C + Co))
        groups += math.ceil(strips / plan.group) * places / 36
    return cost, groups


def winograd_convolution(x, w, b, pads, y) -> dict:
    from scratchdiff.kernels.products import whole

    C, Co = w.shape[2:]
    cost, groups = winograd_both_ways(x, y, C, Co, max(C, whole(Co, x)))
    cost.update(near=groups * 4 * 36 * C * Co)  # every group reads the filters
    cost.update(far=4 * (9 + 36) * C * Co)  # U = G w Gᵀ
    return cost


def winograd_weight_gradient(x, dy, pads, dw) -> dict:
    from scratchdiff.kernels.products import apart

    C, Co = dw.shape[2:]
    cost, groups = winograd_both_ways(x, dy, C, Co, apart(max(C, Co), x))
    cost.update(near=groups * 4 * 2 * 36 * C * Co)  # every group adds to the sum
    cost.update(far=4 * (2 * 36 + 9) * C * Co)  # dw = Gᵀ dU G of the threads' sum
    return cost


def windows(x, y, w_shape) -> dict:
    """The windows, laid out and read again. A 1 × 1 window is the image itself."""
    kh, kw, C, _ = w_shape
    return dict(near=0 if kh == kw == 1 and x.shape[:3] == y.shape[:3] else 4 * 2 * y[..., 0].size * kh * kw * C)


def im2col_convolution(x, w, b, s, pads, y) -> dict:
    cost = Counter(products(y[..., 0].size, w[..., 0].size, w.shape[3]), far=x.nbytes + y.nbytes)
    cost.update(windows(x, y, w.shape))
    return cost


def im2col_weight_gradient(x, dy, w_shape, s, pads, dw) -> dict:
    from scratchdiff.kernels import im2col

    cost = Counter(products(dw[..., 0].size, dy[..., 0].size, dw.shape[3]))
    cost.update(windows(x, dy, w_shape))
    blocks = math.ceil(dy[..., 0].size / im2col.block(dw[..., 0].size))
    cost.update(near=blocks * 2 * dw.nbytes, far=x.nbytes + dy.nbytes, alone=3 * dw.nbytes)  # at last the threads' sums
    return cost


def im2col_input_gradient(dy, w, x_shape, s, pads, dx) -> dict:
    cost = Counter(products(dy[..., 0].size, w.shape[3], w[..., 0].size))
    cost.update(near=4 * 4 * dy[..., 0].size * w[..., 0].size, far=dy.nbytes + dx.nbytes, alone=dx.nbytes)
    return cost


def input_gradient(dy, w, x_shape, s, pads, dx) -> dict:
    """At stride 1 the filter is turned; the convolution itself is counted where it is done."""
    return dict(alone=2 * w.nbytes if s == 1 else 0)


def sum_pixels(dy, db) -> dict:
    return dict(far=dy.nbytes)


def adam_update(p, g, m, v, *settings_and_none) -> dict:
    return dict(far=7 * p.nbytes)  # four are read and three written


def kernels() -> dict:
    """{(module, name of a function): its cost}."""
    from scratchdiff import optim
    from scratchdiff.kernels import conv, im2col, winograd

    return {
        (winograd, "convolution"): winograd_convolution,
        (winograd, "weight_gradient"): winograd_weight_gradient,
        (im2col, "convolution"): im2col_convolution,
        (im2col, "weight_gradient"): im2col_weight_gradient,
        (im2col, "input_gradient"): im2col_input_gradient,
        (conv, "input_gradient"): input_gradient,
        (conv, "sum_pixels"): sum_pixels,
        (optim, "adam_update"): adam_update,
    }


# %% What the other ops do, and a whole step


def op_cost(record, dy, grads) -> dict:
    """An op reads its arguments and writes its output; its backward reads them and dy, and writes their gradients."""
    forward = grads is None
    args = [a for a in (getattr(a, "data", a) for a in record.args) if isinstance(a, np.ndarray)]
    read = args if forward else [dy, *args]
    written = [record.out.data] if forward else [dx for dx in grads if dx is not None]
    if all(np.may_share_memory(a, read[0]) for a in written):
        return {}  # views of what is there, as a reshape gives
    x, moved = args[0], sum(a.nbytes for a in read + written)
    if record.name.startswith("group_norm"):
        trips = 2 if forward else 3  # far: x and y, or dy, x and dx; near: the passes over an image in the cache, as many
        return dict(flops=NORM[not forward] * x.size, near=trips * x.nbytes, far=trips * x.nbytes)
    if record.name == "attention":
        scores = x[..., 0].size * args[1].shape[-2]
        flops = ((4 if forward else 8) * x.shape[-1] + NORM[0]) * scores  # a score's exponential and quotient as a norm
        return dict(flops=flops, near=4 * 8 * scores, far=moved)
    if record.name in ("linear", "silu_linear"):
        return dict(flops=(2 if forward else 4) * x.size * args[1].shape[1], far=moved)
    return {"far" if record.name in ("add", "_concat") else "alone": moved}


def count(step) -> Counter:
    """What one training step does of each of the `TERMS`; and "direct", its flops if every convolution were a direct one.

    step(watch) takes the step, and hands `watch` to its tape."""
    from scratchdiff import Tensor

    total = Counter(dict.fromkeys((*TERMS, "direct"), 0))

    def watch(record, dy, grads):
        total["calls"] += 1
        if record.name == "conv2d":
            work = 2 * record.args[1].data[..., 0].size * record.out.size
            total["direct"] += work if grads is None else 2 * work
            x = record.args[0]
            if grads is None and isinstance(x, Tensor) and x.node.again:  # the backward will compute x again
                total.update(calls=1, flops=AGAIN * x.size, far=2 * x.data.nbytes)
        else:
            cost = op_cost(record, dy, grads)
            total.update(cost)
            total["direct"] += cost.get("flops", 0) if record.name == "attention" else 0
        if grads is not None:  # where there is a gradient already, the new one is added
            total["far"] += sum(3 * x.grad.nbytes for x in record.args if getattr(x, "grad", None) is not None)

    def heard(function, cost):
        def run(*args):
            out = function(*args)
            total["calls"] += 1
            total.update(cost(*args, out))
            return out

        return run

    with ExitStack() as stack:
        for (module, name), cost in kernels().items():
            stack.enter_context(patch.object(module, name, heard(getattr(module, name), cost)))
        step(watch)
    return total


# %% The machine, and a step on it


def training_step(batch, average=None, **settings):
    """step(watch=None): one training step of the yardstick, except for these settings. average(parameters, loss) is called
    before Adam."""
    import scratchdiff as sd
    from scratchdiff.recipes import YARDSTICK

    rng = np.random.default_rng(0)
    settings = YARDSTICK | settings
    net = sd.UNet(**settings, rng=rng)
    parameters = net.parameters()
    diffusion, adam = sd.GaussianDiffusion(sd.linear_schedule()), sd.Adam(parameters, lr=1e-4)
    size, channels = settings["image_size"], settings["in_channels"]
    x0 = rng.standard_normal((batch, size, size, channels), np.float32)

    def step(watch=None):
        adam.zero_grad()
        with sd.Tape(watch) as tape:
            loss = diffusion.loss(net, x0, rng)
        tape.backward(loss)
        if average:
            average(parameters, loss.item())
        adam.step()

    return step


def seconds_of(f, *args, times=15) -> float:
    """The median time of f(*args), after a first call."""
    f(*args)
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        f(*args)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def measure_machine() -> dict:
    """How much of each of the `TERMS` the threads of this process do in a second. Bytes that are read and bytes that are
    written count alike."""
    from numba import njit, prange

    import scratchdiff.kernels.compiled  # noqa: F401  (it keeps BLAS to one thread)
    from scratchdiff.kernels.products import multiply, vectors
    from scratchdiff.kernels.threads import thread_count

    @njit(parallel=True)
    def multiplying(a, b, c, bias, times):  # the products of a convolution: 36 weights in turn
        for thread in prange(len(a)):
            for _ in range(times):
                for i in range(36):
                    multiply(a[thread, i], vectors(b[thread, i]), c[thread, i], bias, False)

    @njit(parallel=True)
    def copy(a, b, times):
        for thread in prange(len(a)):
            for _ in range(times):
                b[thread, :] = a[thread]

    threads, step = thread_count(), training_step(**TINY)

    a, c = np.ones((2, threads, 36, 128, 64), np.float32)
    b, bias = np.ones((threads, 36, 64, 64), np.float32), np.zeros(64, np.float32)
    near = np.ones((2, threads, 2**18), np.float32)  # a megabyte stays in a thread's cache
    far = np.ones((2, threads, 2**25 // threads), np.float32)  # 134 do not
    return dict(
        flops=64 * threads * 36 * 2 * 128 * 64**2 / seconds_of(multiplying, a, b, c, bias, 64),
        near=100 * near.nbytes / seconds_of(copy, *near, 100),
        far=far.nbytes / seconds_of(copy, *far, 1),
        alone=far.nbytes / seconds_of(np.copyto, *far[::-1]),
        calls=count(step)["calls"] / seconds_of(step, times=100),
    )


def measure(batch, ranks=1, **settings) -> dict | None:
    """A step's median seconds, its counts and the peak memory. With `ranks` processes under MPI, which share the batch: the
    first one's, but "direct" and the memory of all; the others return None."""
    average, comm = None, None
    if ranks > 1:
        from scratchdiff import parallel

        comm = parallel.join()
        average = partial(parallel.average_gradients, comm)
    step = training_step(batch // ranks, average, **settings)
    step()
    seconds = seconds_of(step, times=5)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    counted = count(step)  # last, for a watched tape holds more
    if comm:
        memory = comm.allreduce(memory)
        counted["direct"] *= ranks
    return dict(seconds=seconds, memory=memory, **counted) if comm is None or comm.rank == 0 else None


def in_process(task: str, threads: int, ranks=1, **settings) -> dict:
    """`measure_machine` or `measure` in a process of its own with so many threads, or in `ranks` of them."""
    settings |= dict(ranks=ranks) if ranks > 1 else {}
    command = [sys.executable, __file__, "--task", task, json.dumps(settings)]
    if ranks > 1:
        command = [mpiexec(), "-n", str(ranks), *command]
    env = os.environ | dict(NUMBA_NUM_THREADS=str(threads))
    return json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout)


def mpiexec() -> str | None:
    """Where MPI's program starter is: beside Python, as the package `mpich` puts it, or on the path."""
    return shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def predict(counted: dict, machine: dict) -> dict:
    """The seconds of each term."""
    return {term: counted[term] / machine[term] for term in TERMS}


def with_cores(machine: dict, cores: int, bandwidth: float) -> dict:
    """A machine of so many cores like the one that was measured, whose memory moves `bandwidth` bytes in a second: products
    and caches grow with the cores, traffic with memory does so until the bandwidth binds, and the rest does not grow."""
    grown = {term: cores * machine[term] for term in ("flops", "near", "far")}
    return machine | grown | dict(far=min(grown["far"], bandwidth))


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="?", default="{}", help="batch (128) and what differs from recipes.YARDSTICK")
    parser.add_argument("--cores", type=int, default=64, help="reckon for a machine of so many such cores (%(default)s)")
    parser.add_argument("--bandwidth", type=float, default=300, help="whose memory moves so many GB/s (%(default)s)")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    settings = json.loads(args.settings)
    if args.task:
        if (found := dict(machine=measure_machine, step=measure)[args.task](**settings)) is not None:
            print(json.dumps(found))
        return
    settings = dict(batch=128) | settings
    threads = sorted({1, len(os.sched_getaffinity(0))})
    machines = {f"{n} core{'s' * (n > 1)}": in_process("machine", n) for n in threads}
    steps = [in_process("step", n, **settings) for n in threads]
    machines[f"{args.cores} cores"] = with_cores(next(iter(machines.values())), args.cores, 1e9 * args.bandwidth)
    print(f"| | counted | {' | '.join(machines)} |\n|---|---|{'---|' * len(machines)}")
    predictions = [predict(steps[0], machine) for machine in machines.values()]
    for term in TERMS:
        counted = f"{steps[0][term] / 1e9:.3g} G" if term != "calls" else steps[0][term]
        print(f"| {term} | {counted} | " + " | ".join(f"{1e3 * p[term]:.4g} ms" for p in predictions) + " |")
    print("| predicted | | " + " | ".join(f"{1e3 * sum(p.values()):.4g} ms" for p in predictions) + " |")
    print("| measured | | " + " | ".join(f"{1e3 * step['seconds']:.4g} ms" for step in steps) + " | |")
    print(f"\npeak memory: {steps[0]['memory'] / 1e9:.2f} GB\n\n{in_words(machines)}")


def in_words(machines: dict) -> str:
    """The table of what machines do in a second."""
    head = "| | GFLOP/s | near, GB/s | far, GB/s | alone, GB/s | us a call |"
    rows = [f"| {name} | {' | '.join(f'{m[term] / 1e9:.3g}' for term in TERMS[:-1])} | {1e6 / m['calls']:.1f} |"
            for name, m in machines.items()]  # fmt: skip
    return "\n".join([head, "|---" * 6 + "|", *rows])


if __name__ == "__main__":
    main()
