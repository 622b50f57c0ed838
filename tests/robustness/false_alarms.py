"""How often does a checkup alarm on right code? Only detectors that draw random numbers can.

    python tests/robustness/false_alarms.py --seeds 100

Each seed examines the noise, the times and the samples of a right diffusion; README.md has the figures.
"""

import argparse
from collections import Counter

import numpy as np

import scratchdiff as sd


def count(seeds: int) -> Counter:
    """The number of alarms of each detector over so many seeds, and of checkups with any, as "any"."""
    alarms = Counter()
    for seed in range(seeds):
        found = examine(sd.GaussianDiffusion(sd.cosine_schedule(50), ("eps", "x0", "v")[seed % 3], images=True), seed)
        alarms.update([f.detector for f in found] + ["any"] * bool(found))
    return alarms


def examine(diffusion, seed: int):
    """The checkup of a diffusion's own parts."""
    return sd.checkup(
        schedule=diffusion.schedule, predict=diffusion.predict, images=True, rng=np.random.default_rng(seed),
        q_sample=diffusion.q_sample, posterior=diffusion.q_posterior, loss=diffusion.loss,
        sampler=lambda model, shape, rng: sd.sample_ddpm(diffusion, model, shape, rng),
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Alarms of checkups of right code.")
    parser.add_argument("--seeds", type=int, default=100)
    args = parser.parse_args()
    print(f"{args.seeds} checkups of right code, alarms: {dict(count(args.seeds)) or 'none'}")
