"""The real command line with small networks, for tests that need a process of their own to interrupt or to kill.

python tests/robustness/small.py train toy:moons --out RUN --steps 100        as `scratchdiff train ...`
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

SMALL_UNET = dict(ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), groups=4, patch_size=2)


def command(*args) -> list[str]:
    return [sys.executable, __file__, *map(str, args)]


def environment() -> dict:
    return os.environ | dict(NUMBA_NUM_THREADS="1", PYTHONPATH=str(Path(__file__).parents[2]))


def run(*args, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(command(*args), capture_output=True, text=True, env=environment(), timeout=300, **settings)


def start(*args, **settings) -> subprocess.Popen:
    return subprocess.Popen(command(*args), text=True, env=environment(), **settings)


def arrays(path) -> dict:
    """What must be the same in two runs, bit for bit: all of a checkpoint but the time it took."""
    from scratchdiff.checkpoint import load_checkpoint

    meta, groups = load_checkpoint(path)
    del meta["seconds"]
    losses = meta.pop("losses")
    named = {f"{group}/{name}": a.tobytes() for group, named in groups.items() for name, a in named.items()}
    return named | dict(meta=meta, losses=losses.tobytes())


if __name__ == "__main__":
    from scratchdiff import recipes
    from scratchdiff.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to Ctrl-C
    recipes.MNIST["network_args"] |= SMALL_UNET
    recipes.MNIST["batch_size"] = 8
    recipes.TOY |= dict(network_args=dict(dim=2, width=16, num_blocks=1), batch_size=16)
    sys.exit(main(sys.argv[1:]))
