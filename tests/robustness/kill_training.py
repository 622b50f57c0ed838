"""Kill a training run with SIGKILL at random times, and look at what is left each time.

    python tests/robustness/kill_training.py [--kills 200] [--seed 0] [--data toy:moons] [--steps 40000]

The run is the real command with a small network that saves after every step, so a kill falls into saving more often than
not. After each kill the checkpoint must load, be no older than the one before, and hold every step's loss; there may be one
half file beside it, which the next start must clear. At the end the run is let finish, and every array in it must equal, bit
for bit, those of a run that nobody killed. Prints one line a kill and the counts; ends with 1 if anything was lost.
Takes a few seconds a kill.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import small


def kill_training(kills, seed, data, steps, folder, most=1.0, log=print) -> dict:
    """Do so, and return the counts. Raises AssertionError if something was lost. most: seconds that a run may live once it
    has saved."""
    from scratchdiff.checkpoint import load_checkpoint

    rng = np.random.default_rng(seed)
    out, step = Path(folder) / "killed", 0
    path = out / "model.npz"
    counts = dict(kills=0, half_files=0, cleared=0, advanced=0, before_first_step=0)
    args = ["train", data, "--steps", steps, "--save-every", 1]
    while counts["kills"] < kills:
        strays = set(out.glob("*.tmp"))
        process = small.start(*args, "--out", out, *["--resume"] * path.exists(), stdout=-3, stderr=-3)  # -3: nowhere
        began, seen, saved = time.perf_counter(), modified(path), None
        early = rng.random() < 0.1  # some die while they start, load, compile
        while process.poll() is None and not early and saved is None and time.perf_counter() - began < 120:
            time.sleep(0.002)
            saved = time.perf_counter() if modified(path) != seen else None
        time.sleep(rng.uniform(0, most))
        assert process.poll() is None, f"the run ended by itself with {process.returncode}; give more --steps"
        process.kill()
        process.wait()
        counts["kills"] += 1
        left = set(out.glob("*.tmp"))
        counts["half_files"] += len(left - strays)
        counts["cleared"] += len(strays - left)
        assert len(left) <= 1, f"half files pile up: {left}"
        if not path.exists():
            assert step == 0
            counts["before_first_step"] += 1
            continue
        meta, _ = load_checkpoint(path)
        assert meta["step"] >= step and len(meta["losses"]) == meta["step"], f"went back from {step} to {meta['step']}"
        counts["advanced"] += meta["step"] > step
        log(f"kill {counts['kills']}: step {step} -> {meta['step']}{', a half file' if left - strays else ''}", flush=True)
        step = meta["step"]

    small.run("train", data, "--steps", steps, "--save-every", steps, "--out", out, "--resume", check=True)
    small.run("train", data, "--steps", steps, "--save-every", steps, "--out", Path(folder) / "whole", check=True)
    assert not set(out.glob("*.tmp"))
    assert small.arrays(path) == small.arrays(Path(folder) / "whole" / "model.npz"), "the runs differ"
    return counts | dict(last_step_before_a_kill=step, steps=steps)


def modified(path):
    return path.stat().st_mtime_ns if path.exists() else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill a training run at random times; nothing may be lost.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default="toy:moons")
    parser.add_argument("--steps", type=int, default=40_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(kill_training(**vars(options), folder=folder), "- nothing lost; the end is bit for bit that of a run unkilled")
