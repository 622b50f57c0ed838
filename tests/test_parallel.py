"""Many ranks train one model: the same gradient, the same weights, the same bits, and nobody is left waiting."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from scratchdiff import parallel
from scratchdiff.checkpoint import load_checkpoint

pytest.importorskip("mpi4py", reason="needs mpi4py: pip install 'scratchdiff[mpi]'", exc_type=ImportError)
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec: pip install 'scratchdiff[mpi]'")
ENV = os.environ | dict(SCRATCHDIFF_KERNELS="numpy", NUMBA_NUM_THREADS="1")  # NumPy starts in a third of the time

BEGIN = """
import sys
from functools import partial
import numpy as np
import scratchdiff as sd
from scratchdiff import parallel
comm = parallel.join()
model = sd.MLP(dim=2, width=8, num_blocks=1, rng=np.random.default_rng(comm.rank))
adam, ema = sd.Adam(model.parameters(), lr=1e-2), sd.EMA(model.parameters())
diffusion = sd.GaussianDiffusion(sd.linear_schedule())
data = np.random.default_rng(1).standard_normal((64, 2)).astype(np.float32)
def say(*values):
    for line in comm.gather(values) or ():  # one rank prints for all, so that their lines do not mix
        print(*line)
"""


def test_the_cores_of_a_machine_are_divided_among_the_ranks_that_share_them():
    assert [parallel.threads_of_rank({0, 1, 2, 3}, [{0, 1, 2, 3}] * n) for n in (1, 2, 3, 8)] == [4, 2, 1, 1]
    assert parallel.threads_of_rank({0, 1}, [{0, 1}, {2, 3}]) == 2  # the launcher gave each rank its own


def start(ranks, code, *arguments):
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(ranks, code, *arguments):
    """(exit code, standard output, standard error) of a program on so many ranks."""
    process = start(ranks, code, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def train(ranks, out, *options):
    """The command line's `train --mpi` on points, with a small network."""
    code = "import sys; from scratchdiff.cli import main; sys.exit(main())"
    small = "--channels 8 --batch-size 12 --seed 3".split()
    return run(ranks, code, "train", "toy:moons", "--mpi", *small, "--out", out, *options)


def weights(folder):
    return np.concatenate([a.ravel() for a in load_checkpoint(folder / "model.npz")[1]["model"].values()])


def test_the_mean_gradient_of_the_ranks_is_that_of_one_rank_with_the_whole_batch():
    code = (
        BEGIN
        + """
parallel.broadcast(comm, model.parameters(), adam)
rng = np.random.default_rng(2)
t, eps = rng.integers(1, 1001, 12), rng.standard_normal((12, 2)).astype(np.float32)
def gradient(some):
    adam.zero_grad()
    xt = diffusion.q_sample(data[:12][some], t[some], eps[some])
    with sd.Tape() as tape:
        loss = sd.ops.mse(model(xt, t[some]), eps[some])
    tape.backward(loss)
    return loss.item()
def flat():
    return np.concatenate([p.grad.ravel() for p in model.parameters().values()])
whole_loss, whole = gradient(np.arange(12)), flat()
loss = parallel.average_gradients(comm, model.parameters(), gradient(np.arange(12)[comm.rank::comm.size]))
say(np.abs(flat() - whole).max() / np.abs(whole).max(), abs(loss - whole_loss) / whole_loss)
"""
    )
    done, out, err = run(3, code)
    assert done == 0, err
    errors = [float(word) for word in out.split()]
    assert len(errors) == 6 and max(errors) < 1e-6


def test_weights_that_start_unequal_are_equal_on_all_ranks_bit_for_bit_after_a_hundred_steps():
    code = (
        BEGIN
        + """
import zlib
parallel.broadcast(comm, model.parameters(), adam)
rng = np.random.default_rng(0)
parallel.reseed(comm, rng, 0, 1)
drawn = []
steps = sd.train.train(model, diffusion, data, adam, ema, rng, batch_size=4, steps=100,
                       average=partial(parallel.average_gradients, comm))
for step in steps:
    drawn.append(rng.random())
    parallel.reseed(comm, rng, 0, step.step + 1)
say(zlib.crc32(np.concatenate([p.data.ravel() for p in model.parameters().values()])), step.loss, drawn[-1])
"""
    )
    done, out, err = run(3, code)
    assert done == 0, err
    crcs, losses, drawn = zip(*(line.split() for line in out.splitlines()))
    assert len(crcs) == 3 and len(set(crcs)) == len(set(losses)) == 1
    assert len(set(drawn)) == 3  # each rank has examples, t and noise of its own


def test_a_second_run_with_as_many_ranks_has_the_same_bits_even_if_it_was_stopped_and_resumed(tmp_path):
    assert train(2, tmp_path / "one", "--steps", 30)[0] == 0
    stop = """
import os, signal, sys
from scratchdiff import cli, train
steps_of = train.train
def stopping(*arguments, **settings):
    for step in steps_of(*arguments, **settings):
        if step.step == 11 and "stop" in os.environ and settings["average"].args[0].rank == 1:
            signal.raise_signal(signal.SIGTERM)
        yield step
cli.train = stopping
sys.exit(cli.main())
"""
    ENV["stop"] = "yes"
    small = "--channels 8 --batch-size 12 --seed 3 --steps 30".split()
    code, out, _ = run(2, stop, "train", "toy:moons", "--mpi", *small, "--out", tmp_path / "cut")
    del ENV["stop"]
    assert code == 143 and "stopped after step 11 of 30" in out
    shutil.copytree(tmp_path / "cut", tmp_path / "fewer")
    assert train(2, tmp_path / "cut", "--steps", 30, "--resume")[0] == 0
    np.testing.assert_array_equal(weights(tmp_path / "cut"), weights(tmp_path / "one"))

    # with another number of ranks it goes on from the same weights, with other examples and noise
    assert train(3, tmp_path / "fewer", "--steps", 30, "--resume")[0] == 0
    assert load_checkpoint(tmp_path / "fewer" / "model.npz")[0]["step"] == 30
    apart = np.abs(weights(tmp_path / "fewer") - weights(tmp_path / "one"))
    assert 0 < apart.max() < 0.2


def test_a_killed_rank_ends_the_others_within_seconds_and_the_checkpoint_is_whole(tmp_path):
    code = """
import os, sys
from mpi4py import MPI
os.write(1, f"rank {MPI.COMM_WORLD.rank} is {os.getpid()}\\n".encode())
from scratchdiff.cli import main
sys.exit(main())
"""
    options = "train toy:moons --mpi --channels 8 --batch-size 12 --steps 100000 --save-every 5".split()
    process = start(2, code, *options, "--out", tmp_path / "run")
    first, second = (re.match(r"rank (\d) is (\d+)", process.stdout.readline()).groups() for _ in range(2))
    victim = int(dict((first, second))["1"])
    while not (tmp_path / "run" / "model.npz").exists():
        time.sleep(0.02)
    os.kill(victim, signal.SIGKILL)
    began = time.perf_counter()
    out, err = process.communicate(timeout=30)
    assert time.perf_counter() - began < 10 and process.returncode != 0
    assert re.search(r"BAD TERMINATION|signal 9|SIGNAL: 9", out + err, re.IGNORECASE)
    assert load_checkpoint(tmp_path / "run" / "model.npz")[0]["step"] >= 5


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_rank_whose_numbers_are_not_finite_stops_all_and_is_named_with_step_and_op(where):
    code = (
        BEGIN
        + """
def loss(model, x0, rng, labels=None):
    value = diffusion.loss(model, x0, rng)
    if comm.rank != 1:
        return value
    return value * np.float32("nan") if sys.argv[1] == "loss" else value + (model.dense_in.w ** 0.5).sum() * 0.0
model.dense_in.w.data[:] = np.abs(model.dense_in.w.data)
model.dense_in.w.data[0] = 0
with parallel.ending_together(comm):
    for step in sd.train.train(model, diffusion, data, adam, ema, np.random.default_rng(0), batch_size=4, steps=100,
                               loss=loss, average=partial(parallel.average_gradients, comm)):
        pass
"""
    )
    done, _, err = run(2, code, where)
    assert done != 0
    assert "scratchdiff: rank 1 of 2: train: step 1 diverged" in err and "rank 0" not in err.split("Abort")[0]
    assert ("mul(" if where == "loss" else "power(") in err


def test_a_batch_that_the_ranks_do_not_divide_is_refused(tmp_path):
    done, _, err = train(5, tmp_path / "run", "--steps", 3)
    assert done != 0 and "5 ranks do not divide a batch of 12" in err


def test_one_rank_reports_its_errors_as_a_process_alone_does():
    class Alone:
        rank, size = 0, 1

    with pytest.raises(ValueError, match="as it was"), parallel.ending_together(Alone):
        raise ValueError("as it was")
