"""How fast are we, beside PyTorch on the same cores?   python tests/benchmarks/vs_torch.py   (about twenty minutes)

Needs PyTorch, which scratchdiff itself does not: `pip install torch==2.13.0`. Each framework lives in a process of its
own and they take turns, one measurement each, so that a slow moment of the machine falls on both. PyTorch runs eagerly
in both of its memory formats, and compiled (`torch.compile`, which needs a C++ compiler); the best of them counts. Every
figure is the median, with its quartiles. `--avx2` holds both sides to AVX2, as on a processor without AVX-512; then
PyTorch runs eagerly only.

The networks are the same, number for number: `tests/parity` holds them equal in output and gradient.
"""

import argparse
import cProfile
import json
import os
import pstats
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

HERE = Path(__file__).resolve().parent
MLP = dict(dim=2, width=128, num_blocks=3)
PEERS = ("scratchdiff", "torch", "torch channels_last", "torch compiled")
TASKS = {  # what is measured: its name, (task, batch), and how often in a turn
    "one training step of the yardstick, batch 128": ("unet_step", 128, 1),
    "one forward pass off the tape, batch 64": ("unet_forward", 64, 2),
    "the same, batch 1": ("unet_forward", 1, 40),
    "sampling 64 digits in 50 steps of DDIM": ("unet_sample", 64, 1),
    "one training step of the toy MLP, batch 32": ("mlp_step", 32, 100),
    "the same, batch 512": ("mlp_step", 512, 50),
}
AVX2 = dict(OPENBLAS_CORETYPE="Haswell", NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="", ATEN_CPU_CAPABILITY="avx2",
            ONEDNN_MAX_CPU_ISA="AVX2")  # fmt: skip
MEMORY = "peak memory of the training run, batch 128"
# The convolutions of the yardstick, as (image size, channels in, channels out, kernel, stride)
CONVOLUTIONS = [(28, 1, 32, 3, 1), (28, 32, 32, 3, 1), (28, 64, 32, 3, 1), (28, 96, 32, 3, 1), (28, 64, 64, 3, 1),
                (28, 32, 1, 3, 1), (14, 32, 64, 3, 1), (14, 64, 64, 3, 1), (14, 128, 64, 3, 1), (14, 192, 64, 3, 1),
                (14, 96, 64, 3, 1), (14, 128, 128, 3, 1), (7, 64, 128, 3, 1), (7, 128, 128, 3, 1), (7, 256, 128, 3, 1),
                (7, 192, 128, 3, 1), (28, 32, 32, 3, 2), (14, 64, 64, 3, 2), (28, 64, 32, 1, 1), (28, 96, 32, 1, 1),
                (14, 32, 64, 1, 1), (14, 96, 64, 1, 1), (14, 192, 64, 1, 1), (7, 64, 128, 1, 1), (7, 128, 128, 1, 1),
                (7, 192, 128, 1, 1), (7, 256, 128, 1, 1)]  # fmt: skip


# %% What each framework is asked to do: a function that prepares, and returns what is timed


def scratchdiff_task(task: str, batch: int):
    """The task in scratchdiff, ready to be called."""
    import scratchdiff as sd
    from scratchdiff.recipes import YARDSTICK

    rng = np.random.default_rng(0)
    if task == "conv":
        return scratchdiff_conv(*batch)
    net = sd.MLP(**MLP, rng=rng) if task.startswith("mlp") else sd.UNet(**YARDSTICK, rng=rng)
    shape = (batch, 2) if task.startswith("mlp") else (batch, 28, 28, 1)
    x0 = rng.standard_normal(shape, np.float32)
    t = rng.integers(1, 1001, batch)
    diffusion = sd.GaussianDiffusion(sd.linear_schedule())
    adam = sd.Adam(net.parameters(), lr=1e-4)

    def step():
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = diffusion.loss(net, x0, rng)
        tape.backward(loss)
        adam.step()

    def sample():
        sd.sample_ddim(diffusion, net, shape, rng, steps=50)

    return dict(step=step, forward=lambda: net(x0, t), sample=sample)[task.partition("_")[2]]


def scratchdiff_conv(size: int, c_in: int, c_out: int, kernel: int, stride: int, batch=128):
    """Forward, dx and dw of one convolution without a bias."""
    from scratchdiff.kernels import twin
    from scratchdiff.ops.conv import resolve_padding

    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, c_in), np.float32)
    w = rng.standard_normal((kernel, kernel, c_in, c_out), np.float32)
    dy = rng.standard_normal((batch, size // stride, size // stride, c_out), np.float32)
    pads, convolve = resolve_padding("same", (size, size), (kernel, kernel), stride), twin("convolve")

    def run():
        _, backward = convolve(x, w, None, stride, pads)
        backward(dy, x)

    return run


def torch_task(task: str, batch: int, how: str):
    """The task in PyTorch, ready to be called. how: "" (eager, contiguous), "channels_last" or "compiled". Its Adam is the
    fused one, the quickest it has."""
    import torch
    from torch.nn import functional as F

    sys.path.insert(0, str(HERE.parent / "parity"))
    from torch_unet import TorchMLP, TorchUNet

    from scratchdiff.recipes import YARDSTICK

    torch.manual_seed(0)
    torch.set_num_threads(threads())
    form = dict(memory_format=torch.channels_last if how == "channels_last" else torch.contiguous_format)
    if task == "conv":
        return torch_conv(*batch, form)
    is_mlp = task.startswith("mlp")
    net = TorchMLP(**MLP) if is_mlp else TorchUNet(**YARDSTICK).to(**form)
    x0 = torch.randn(batch, 2) if is_mlp else torch.randn(batch, 1, 28, 28).contiguous(**form)
    t = torch.randint(1, 1001, (batch,))
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    scale, noise = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
    adam = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    net = torch.compile(net) if how == "compiled" else net

    def step():
        adam.zero_grad(set_to_none=True)
        t = torch.randint(1, 1001, (batch,))
        eps = torch.randn_like(x0)
        over = (-1,) + (1,) * (x0.ndim - 1)
        xt = scale[t - 1].reshape(over) * x0 + noise[t - 1].reshape(over) * eps
        F.mse_loss(net(xt, t), eps).backward()
        adam.step()

    def forward():
        with torch.inference_mode():
            net(x0, t)

    def sample():  # the loop of `sample_ddim` with eta = 0
        times = torch.linspace(1000, 0, 51).round().int().tolist()
        a, s = torch.cat([torch.ones(1), scale]), torch.cat([torch.zeros(1), noise])
        x = torch.randn_like(x0)
        with torch.inference_mode():
            for now, then in zip(times[:-1], times[1:]):
                eps_hat = net(x, torch.full((batch,), now))
                x = a[then] * (x - s[now] * eps_hat) / a[now] + s[then] * eps_hat

    return dict(step=step, forward=forward, sample=sample)[task.partition("_")[2]]


def torch_conv(size: int, c_in: int, c_out: int, kernel: int, stride: int, form, batch=128):
    """Forward, dx and dw of one convolution. At stride 2 PyTorch pads all around, where we pad right and bottom: that is as
    much arithmetic, and spares PyTorch a copy."""
    import torch

    x = torch.randn(batch, c_in, size, size).contiguous(**form)
    w = torch.randn(c_out, c_in, kernel, kernel).contiguous(**form)
    dy = torch.randn(batch, c_out, size // stride, size // stride).contiguous(**form)
    s, p = [stride] * 2, [kernel // 2] * 2

    def run():
        torch.conv2d(x, w, stride=s, padding=p)
        torch.ops.aten.convolution_backward(dy, x, w, None, s, p, [1, 1], False, [0, 0], 1, [True, True, False])

    return run


def sgemm(n: int):
    """The product of two n × n matrices, with as many threads as everything else has."""
    a, b = np.random.default_rng(0).standard_normal((2, n, n), np.float32)
    return lambda: a @ b


def threads() -> int:
    """How many threads everything gets: NUMBA_NUM_THREADS, or one a core."""
    return int(os.environ.get("NUMBA_NUM_THREADS", len(os.sched_getaffinity(0))))


# %% A process for each peer, which waits until it is asked


def serve(peer: str) -> None:
    """Read a request a line from standard input, ["time", task, batch, calls], ["first", task, batch], ["memory"],
    ["describe"] or ["profile", task, batch]; answer in a line."""
    prepared = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request[0] == "memory":
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        elif request[0] == "describe":
            answer = describe(peer)
        elif request[0] == "first":
            scratchdiff_task(*request[1:])()
            answer = None
        elif request[0] == "profile":
            answer = profile(scratchdiff_task(*request[1:]))
        else:
            _, task, batch, calls = request
            key = task, str(batch)
            if key not in prepared:
                name, _, how = peer.partition(" ")
                make = dict(scratchdiff=scratchdiff_task, sgemm=lambda task, n: sgemm(n)).get(name)
                prepared[key] = make(task, batch) if make else torch_task(task, batch, how)
                prepared[key]()
                prepared[key]()
            began = time.perf_counter()
            for _ in range(calls):
                prepared[key]()
            answer = (time.perf_counter() - began) / calls
        print(json.dumps(answer), flush=True)


def describe(peer: str) -> str:
    """What the peer computes with: its instructions, and for us the processor that NumPy's OpenBLAS computes for."""
    if peer.startswith("torch"):
        import torch

        onednn = os.environ.get("ONEDNN_MAX_CPU_ISA", "all that the processor has")
        return f"PyTorch {torch.__version__}: {torch.backends.cpu.get_cpu_capability()}; oneDNN: {onednn}"
    import numba
    from llvmlite.binding import get_host_cpu_name

    from scratchdiff.cli import processor
    from scratchdiff.kernels.blas import blas_in_words

    target = numba.config.CPU_NAME or get_host_cpu_name()
    return f"{processor()}, NumPy {np.__version__}; Numba compiles for {target}; OpenBLAS: {blas_in_words()}"


def profile(step) -> list:
    """[(file, share of the time spent in its own lines)] of twenty steps, the largest first."""
    step()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(20):
        step()
    profiler.disable()
    shares = {}
    for (path, _, _), (_, _, own, _, _) in pstats.Stats(profiler).stats.items():
        name = "/".join(Path(path).parts[-2:]) if "scratchdiff" in path else "NumPy, Numba and Python themselves"
        shares[name] = shares.get(name, 0) + own
    whole = sum(shares.values())
    return sorted(((name, own / whole) for name, own in shares.items()), key=lambda row: -row[1])


class Peer:
    """The other end of `serve`. Its processes get the variables in `environment`, and the machine's threads."""

    environment: ClassVar[dict[str, str]] = {}

    def __init__(self, name: str, **environment: str):
        counts = dict(NUMBA_NUM_THREADS=str(threads()), OPENBLAS_NUM_THREADS=str(threads()))
        env = os.environ | counts | self.environment | environment
        self.process = subprocess.Popen([sys.executable, __file__, "--serve", name], env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip

    def ask(self, *request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def in_turn(peers: dict[str, Peer], request: tuple, turns: int) -> dict[str, list[float]]:
    """Seconds of each peer, measured one after the other, `turns` times over."""
    seconds = {name: [] for name in peers}
    for turn in range(turns):
        for name, peer in peers.items():
            seconds[name].append(peer.ask("time", *request))
    return seconds


# %% The tables


def spread(seconds: list[float]) -> str:
    """ "12.3 ms (12.1–12.9)": the median and the quartiles."""
    low, middle, high = (1e3 * q for q in statistics.quantiles(seconds, n=4, method="inclusive"))
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:.{digits}f} ms ({low:.{digits}f}–{high:.{digits}f})"


def best_torch(figures: dict) -> str:
    """Which way of running PyTorch had the smallest figure."""
    return min((name for name in figures if name != "scratchdiff"), key=lambda name: np.median(figures[name]))


def report_tasks(turns: int) -> None:
    """The ratios: ours to the best of PyTorch's ways."""
    rows = []
    for label, (task, batch, calls) in TASKS.items():
        skipped = {"torch compiled"} if Peer.environment else set()  # its code does not heed AVX2's variables, and crashed
        skipped |= set() if task.startswith("unet") else {"torch channels_last"}
        peers = {name: Peer(name) for name in PEERS if name not in skipped}
        seconds = in_turn(peers, (task, batch, calls), turns)
        if task == "unet_step":  # each process has done nothing but train until now
            memory = {name: [peer.ask("memory")] for name, peer in peers.items()}
        for peer in peers.values():
            peer.close()
        best = best_torch(seconds)
        ratio = np.median(seconds["scratchdiff"]) / np.median(seconds[best])
        rows.append((label, spread(seconds["scratchdiff"]), spread(seconds[best]), ratio))
        print(f"  {label}: " + "; ".join(f"{name} {spread(s)}" for name, s in seconds.items()), flush=True)
    best = best_torch(memory)
    ours, theirs = memory["scratchdiff"][0], memory[best][0]
    rows.append((MEMORY, f"{ours / 1e9:.2f} GB", f"{theirs / 1e9:.2f} GB", ours / theirs))

    print("\n| | scratchdiff | PyTorch | ratio |\n|---|---|---|---|")
    for label, ours, theirs, ratio in rows:
        print(f"| {label} | {ours} | {theirs} | {ratio:.2f} |")


def report_convolutions(turns: int) -> None:
    """Each convolution of the yardstick, forward + dx + dw, as a share of what sgemm reaches on this machine."""
    peers = {name: Peer(name) for name in (*PEERS[:3], "sgemm")}
    peak = 2 * 3072**3 / min(in_turn({"sgemm": peers.pop("sgemm")}, ("sgemm", 3072, 1), 3 * turns)["sgemm"])
    print(f"\nsgemm 3072³: {peak / 1e9:.0f} GFLOP/s\n")
    print("| image | channels | kernel | scratchdiff | PyTorch | ratio | GFLOP/s | share of sgemm |")
    print("|---|---|---|---|---|---|---|---|")
    for size, c_in, c_out, kernel, stride in CONVOLUTIONS:
        seconds = in_turn(peers, ("conv", (size, c_in, c_out, kernel, stride), 10), turns)
        best = best_torch(seconds)
        ours, theirs = np.median(seconds["scratchdiff"]), np.median(seconds[best])
        flops = 3 * 2 * kernel**2 * 128 * (size // stride) ** 2 * c_in * c_out / ours
        shape = f"{kernel}×{kernel}" + (f", stride {stride}" if stride > 1 else "")
        print(f"| {size}² | {c_in} → {c_out} | {shape} | {1e3 * ours:.1f} ms | {1e3 * theirs:.1f} ms "
              f"| {ours / theirs:.2f} | {flops / 1e9:.0f} | {flops / peak:.0%} |", flush=True)  # fmt: skip


def report_profile() -> None:
    """Where the time of our steps goes, file by file (the profiler itself makes small calls look dearer)."""
    for label, (task, batch, *_) in TASKS.items():
        if task.endswith("step"):
            peer = Peer("scratchdiff")
            shares = peer.ask("profile", task, batch)
            peer.close()
            print(f"\n{label}: " + ", ".join(f"{name} {share:.0%}" for name, share in shares if share > 0.015))


def report_start() -> None:
    """From starting a process to the end of its first training step, with nothing compiled yet and with everything."""
    with tempfile.TemporaryDirectory() as empty:
        for label in ("on a new machine", "in a later process"):
            began = time.perf_counter()
            peer = Peer("scratchdiff", NUMBA_CACHE_DIR=empty)
            peer.ask("first", "unet_step", 128)
            print(f"first training step of the yardstick {label}: {time.perf_counter() - began:.1f} s", flush=True)
            peer.close()


REPORTS = dict(
    tasks=report_tasks, convolutions=report_convolutions, profile=lambda _: report_profile(), start=lambda _: report_start()
)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9, help="measurements of each figure")
    parser.add_argument("--only", choices=REPORTS, help="one of the four reports")
    parser.add_argument("--avx2", action="store_true", help="hold both sides to AVX2")
    parser.add_argument("--serve", metavar="PEER", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        return serve(args.serve)
    if not find_spec("torch"):
        raise SystemExit("vs_torch.py compares with PyTorch, which is not installed here: pip install torch==2.13.0")
    if args.avx2:
        Peer.environment = AVX2
    for name in ("scratchdiff", "torch"):
        peer = Peer(name)
        print(peer.ask("describe"))
        peer.close()
    print(f"{threads()} threads, {args.turns} turns\n")
    for name in [args.only] if args.only else REPORTS:
        REPORTS[name](args.turns)


if __name__ == "__main__":
    main()
