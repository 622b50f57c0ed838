"""The VAE of lesson 13 in PyTorch, and a race: both train for the same time on the same digits.

    python tests/parity/torch_vae.py [--steps 9000] [--data-dir DIR]

trains ours for so many steps, PyTorch for as much time, and prints both test bounds. The time is that of the process on
the processor, with one thread each, so that other programs do not decide the race.
"""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "demos" / "lessons"))


class TorchVAE(torch.nn.Module):
    """The same layers as the lesson's VAE; `load` copies its weights."""

    LAYERS = "encoder_in", "encoder_out", "decoder_in", "decoder_out"

    def __init__(self, ours):
        super().__init__()
        for name in self.LAYERS:
            w = getattr(ours, name).w.data
            setattr(self, name, torch.nn.Linear(*w.shape, dtype=torch.from_numpy(w).dtype))
        self.load(ours)

    def load(self, ours):
        for name in self.LAYERS:
            theirs, layer = getattr(self, name), getattr(ours, name)
            theirs.weight.data = torch.from_numpy(layer.w.data.T.copy())
            theirs.bias.data = torch.from_numpy(layer.b.data.copy())

    def nats(self, x, eps):
        silu, coins = torch.nn.functional.silu, torch.nn.functional.binary_cross_entropy_with_logits
        mean, logvar = self.encoder_out(silu(self.encoder_in(x))).chunk(2, dim=1)
        logits = self.decoder_out(silu(self.decoder_in(mean + torch.exp(logvar / 2) * eps)))
        kl = (mean.square() + logvar.exp() - logvar - 1).sum(1) / 2
        return kl + coins(logits, x, reduction="none").sum(1)


def warmed_up_average(average, p, k):
    """The rule of `sd.EMA`: without its warm-up a short race would be decided by how long the start is remembered."""
    d = min(0.999, (2 + k) / (11 + k))
    return average + (1 - d) * (p - average)


def main(steps=9000, data_dir=None):
    """Run the race; return the seconds of each, and {"ours", "PyTorch": (steps, nats per test digit)}."""
    import scratchdiff as sd

    torch.set_num_threads(1)
    lesson = importlib.import_module("13_vae")
    grey, test_grey, _ = lesson.digits(data_dir)
    test = lesson.binarised(test_grey, np.random.default_rng(1))
    rng = np.random.default_rng(9)
    lesson.train(lesson.VAE(20, rng=rng), lesson.batches(grey, rng), 5, rng)  # compiles the kernels before the race

    ours = lesson.VAE(20, rng=np.random.default_rng(0))
    theirs = TorchVAE(ours)
    rng, began = np.random.default_rng(0), time.process_time()
    lesson.train(ours, lesson.batches(grey, rng), steps, rng)
    seconds = time.process_time() - began

    rng, done, began = np.random.default_rng(0), 0, time.process_time()
    adam = torch.optim.Adam(theirs.parameters(), lr=2e-3)
    average = torch.optim.swa_utils.AveragedModel(theirs, avg_fn=warmed_up_average)
    batches = lesson.batches(grey, rng)
    while (progress := (time.process_time() - began) / seconds) < 1:
        x, eps = torch.from_numpy(next(batches)), torch.from_numpy(ours.draw_eps(lesson.BATCH, rng))
        adam.param_groups[0]["lr"] = 2e-3 * sd.optim.cosine_decay(progress)
        adam.zero_grad()
        theirs.nats(x, eps).mean().backward()
        adam.step()
        average.update_parameters(theirs)
        done += 1

    eps = ours.draw_eps(len(test), np.random.default_rng(2))
    with torch.no_grad():
        their_nats = average.module.nats(torch.from_numpy(test), torch.from_numpy(eps)).mean().item()
    return seconds, {"ours": (steps, ours.nats(test, eps).data.mean()), "PyTorch": (done, their_nats)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The VAE of lesson 13, ours and PyTorch's, in equal time.")
    parser.add_argument("--steps", type=int, default=9000, help="training steps of ours")
    parser.add_argument("--data-dir", help="a folder of the four files of MNIST")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    seconds, found = main(**vars(parser.parse_args()))
    print(f"{seconds:.0f} s of one thread each")
    for name, (steps, nats) in found.items():
        print(f"{name:<10}{steps:>7} steps{nats:>9.2f} nats per test digit")
