"""A trained denoiser that comes with the package: digits two seconds after installing.

It was made by these two commands, on the ten thousand embedded digits:

    python demos/mnist.py --minutes 14 --out runs/pretrained
    python -m scratchdiff.weights.pretrained runs/pretrained

The file holds the averaged weights as float16 (half of the bytes; the samples look the same) and the run's settings.
"""

import json
import sys
from pathlib import Path

import numpy as np

from scratchdiff.checkpoint import load_checkpoint
from scratchdiff.checks import require
from scratchdiff.recipes import MNIST, build

FOLDER = Path(__file__).parent
NAMES = ("mnist",)


def pretrained(name: str = "mnist") -> tuple:
    """(model, diffusion) of a denoiser that comes with the package. "mnist": digits, 28 × 28, with ten classes.

        model, diffusion = sd.pretrained("mnist")
        x = sd.sample_ddim(diffusion, sd.guided(model, [7] * 8, 0.5), (8, 28, 28, 1), rng)      # eight sevens

    Raises ValueError for another name."""
    return load_pretrained(name)[:2]


def load_pretrained(name: str) -> tuple:
    """(model, diffusion, settings of the run). Raises ValueError for a name that is not one of NAMES."""
    require(name in NAMES, f"pretrained: the package carries {', '.join(NAMES)}", name=name)
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        settings = json.loads(bytes(arrays["settings"]))
        weights = {key: arrays[key].astype(np.float32) for key in arrays.files if key != "settings"}
    model, diffusion = build(settings, np.random.default_rng(0))
    model.load(weights)
    return model, diffusion, settings


def save_pretrained(run, path) -> None:
    """Write the averaged weights of a run's folder and its settings to path, as `load_pretrained` reads them.

    How to sample (eta, guidance) is not part of the weights: it is taken from the recipe as it is now."""
    meta, groups = load_checkpoint(Path(run) / "model.npz")
    settings = meta["settings"] | {key: MNIST[key] for key in ("eta", "guidance")}
    settings = np.frombuffer(json.dumps(settings).encode(), np.uint8)
    np.savez_compressed(path, settings=settings, **{name: a.astype(np.float16) for name, a in groups["ema"].items()})


if __name__ == "__main__":
    save_pretrained(sys.argv[1], FOLDER / "mnist.npz")
