"""Diffusion you can see whole: points in the plane, noise, and the arrows that lead back.

    python demos/toy2d.py [--data swiss_roll] [--seed 0] [--out runs/toy2d]

Takes under a minute on two cores. --data: swiss_roll, s_curve, moons, circles, spirals, checkerboard, pinwheel,
gaussians or text:ABC. Expect a loss that falls from 1 and levels off well above 0 (nobody can tell all noise from data),
and samples that lie along the data. Writes to --out: samples.npy (2000, 2), forward.png, field.png, reverse.gif, loss.png,
floor.png, model.npz.
"""

# %%
import argparse
from pathlib import Path

import numpy as np

import scratchdiff as sd
from scratchdiff.checkpoint import save_checkpoint
from scratchdiff.diffusion import loss_at
from scratchdiff.plots import cloud_frame, save_clouds, save_curves, save_field, save_gif, save_loss
from scratchdiff.progress import watch_sampling, watch_training
from scratchdiff.recipes import TOY, build
from scratchdiff.train import train


def main(data="swiss_roll", seed=0, out="runs/toy2d", seconds=40.0, n=2000):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)

    # %% The data: a distribution in the plane with mean 0 and variance 1, of which we have a large sample.
    points = sd.data.toy(data, 100_000, rng).astype(np.float32)

    # %% Forward: each point shrinks towards 0 while noise grows around it, x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε. The cloud forgets
    # its shape and ends as N(0, I), whatever it was.
    model, diffusion = build(TOY, rng)
    times = [1, 50, 150, 300, 500, 1000]
    noisy = [diffusion.q_sample(points[:n], t, rng.standard_normal((n, 2))) for t in times]
    save_clouds(out / "forward.png", noisy, [f"t = {t}" for t in times], "Forward: the shape dissolves into noise")

    # %% Training (Algorithm 1): the network sees x_t and t and is to name the noise ε that was added.
    adam = sd.Adam(model.parameters(), TOY["lr"])
    ema = sd.EMA(model.parameters(), TOY["ema"])
    steps = train(model, diffusion, points, adam, ema, rng, seconds=seconds, batch_size=TOY["batch_size"])
    losses = [step.loss for step in watch_training(steps)]
    recipe = TOY | dict(data=f"toy:{data}", seconds=seconds, seed=seed)
    save_checkpoint(out / "model.npz", model, ema, adam, rng, len(losses), recipe)
    save_loss(out / "loss.png", losses)

    with ema.applied():
        # %% What was learned is a field of arrows: −eps_hat/√(1−ᾱ_t) estimates the score ∇ log p_t(x), the direction in
        # which points become more likely. Far out it points home; close by it points at the nearest piece of the shape.
        def score(x, t):
            return -model(x, np.full(len(x), t)).data / diffusion.sqrt_noise[t]

        save_field(out / "field.png", score, noisy[1:4], times[1:4], "The learned score, over the data at that noise")

        # %% Is the loss low? Not even a perfect denoiser has none, for many x_0 and ε lead to one x_t. The best that can be
        # done is known exactly for a finite data set (`oracle.py`), and 5000 of our points will do for all. Where the
        # learned loss lies on that floor, longer training will not help; where it lies above, the network fails. (Below
        # t = 10 the floor of a set that fills an area is too low: so little noise does not hide which point it was.)
        oracle = sd.Oracle(diffusion, points[:5000])
        steps = np.unique(np.geomspace(1, 1000, 13).round().astype(int))
        floor = [oracle.floor(int(t), 400, rng) for t in steps]
        learned = [loss_at(diffusion, model, points[:20_000], int(t), rng) for t in steps]
        curves, references = {"learned": (steps, learned)}, {"floor: a perfect denoiser": (steps, floor)}
        save_curves(out / "floor.png", [dict(curves=curves, references=references, xlabel="t",
                                             ylabel="mean squared error of eps",
                                             title="The loss at each t, and the least it can be")])  # fmt: skip

        # %% Reverse (DDIM): start from N(0, I) and follow it, a little less noise at each of 100 steps.
        sampler = sd.ddim_steps(diffusion, model, (n, 2), rng, steps=100)
        moments = list(watch_sampling(sampler, 100))
    x = moments[-1].x
    np.save(out / "samples.npy", x)
    save_gif(out / "reverse.gif", [cloud_frame(m.x, f"t = {m.t}") for m in moments[1::2]])
    print(f"{len(losses)} steps, loss {np.mean(losses[-500:]):.4f}; {n} points in {out}/samples.npy")
    print(f"`scratchdiff sample {out}` draws more")
    return x


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a diffusion model on points in the plane.")
    parser.add_argument("--data", default="swiss_roll", help="the toy set (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/toy2d", metavar="DIR", help="where to write (%(default)s)")
    parser.add_argument("--seconds", type=float, default=40.0, help="of training (%(default)s)")
    main(**vars(parser.parse_args()))
