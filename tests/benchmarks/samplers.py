"""What does each sampler cost beside ddim?   python tests/benchmarks/samplers.py [--steps 20] [--digits 16]   (two minutes)

Every sampler draws digits with the network of the package, in the same number of steps. The best of three rounds counts,
each with a run of ddim right before it. A table: seconds of the processor, times ddim, evaluations of the network, and
the time of one evaluation beside one of ddim: near 1 where a sampler does nothing dear of its own.
"""

import argparse
import time

import numpy as np

import scratchdiff as sd
from scratchdiff.diffusion.samplers import last


def score_of(diffusion, model):
    """score(y, sigma) of data with noise of size σ, from a chain's model, by Tweedie's formula: (x0_hat − y)/σ²."""
    schedule = diffusion.schedule

    def score(y, sigma):
        sigma = float(np.max(sigma))
        t = float(np.clip(schedule.time(sigma), 1, schedule.T))
        x0_hat, _ = diffusion.denoise(model, y / np.sqrt(1 + sigma**2), t)
        return (x0_hat - y) / sigma**2

    return score


def samplers(diffusion, model, n, steps):
    """{name: a function of (model, rng) that draws n digits}."""
    shape, schedule = (n, 28, 28, 1), diffusion.schedule
    known = sd.data.mnist()[0][:n].astype(float)
    mask, small = np.indices(shape)[1] < 14, np.asarray(sd.diffusion.downsampled(known, 4))
    sde = sd.VESDE(float(schedule.sigma(1)), 50.0)
    ladder = sd.geometric_sigmas(50.0, schedule.sigma(1), steps)

    def chain(sampler):
        chosen = dict(steps=steps) if sampler.takes_steps else {}
        return lambda model, rng: last(sampler.run(diffusion, model, shape, rng, **chosen))

    def langevin(model, rng):
        last(sd.annealed_langevin_steps(score_of(diffusion, model), ladder, shape, rng, 1e-6, per_level=1))

    def reverse(corrector):
        return lambda model, rng: last(sd.sde_steps(sde, sde_score(model), shape, rng, steps, corrector))

    def sde_score(model):
        score = score_of(diffusion, model)
        return lambda x, t: score(x, sde.mean_std(t)[1])

    return {name: chain(sampler) for name, sampler in sd.SAMPLERS.items()} | {
        "guided ddim": lambda model, rng: sd.sample_ddim(
            diffusion, sd.guided(model, np.arange(n) % 10, 0.5), shape, rng, steps
        ),
        "inpaint": lambda model, rng: last(sd.inpaint_steps(diffusion, model, known, mask, rng, steps)),
        "dps": lambda model, rng: last(sd.dps_steps(diffusion, model, sd.diffusion.downsampled, small, shape, rng, steps)),
        "langevin": langevin,
        "sde": reverse(None),
        "sde, corrector": reverse(0.16),
        "sde's ode": lambda model, rng: sd.sde_ode_sample(sde, sde_score(model), shape, rng, 1e-3, rtol=1e-2),
    }


class Counted:
    """A model that counts its evaluations."""

    def __init__(self, model):
        self.model, self.num_classes, self.calls = model, model.num_classes, 0

    def __call__(self, xt, t, **conditions):
        self.calls += 1
        return self.model(xt, t, **conditions)


def seconds(run, model) -> tuple[float, int]:
    """(seconds of the processor, all threads together, in one run; evaluations)."""
    counted, began = Counted(model), time.process_time()
    run(counted, np.random.default_rng(0))
    return time.process_time() - began, counted.calls


def main(steps=20, digits=16, rounds=3):
    """Print the table."""
    model, diffusion = sd.pretrained("mnist")
    runs = samplers(diffusion, model, digits, steps)
    seconds(runs["ddim"], model)  # compiles the kernels
    print(f"{digits} digits, {steps} steps")
    print(f"{'sampler':<16}{'seconds':>9}{'× ddim':>9}{'evaluations':>13}{'× an evaluation':>17}")
    for name, run in runs.items():
        both = [(seconds(runs["ddim"], model), seconds(run, model)) for _ in range(rounds)]
        (base, calls_base), (taken, calls) = (min(pair[i] for pair in both) for i in (0, 1))
        ratio = taken / base
        print(f"{name:<16}{taken:>9.2f}{ratio:>9.2f}{calls:>13}{ratio * calls_base / calls:>17.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The time of each sampler beside ddim.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--digits", type=int, default=16)
    main(**vars(parser.parse_args()))
