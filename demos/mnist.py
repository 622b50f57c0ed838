"""Digits out of noise: train a denoiser on MNIST for three minutes, then let it dream.

    python demos/mnist.py [--unconditional] [--minutes 3] [--samples 64] [--steps 50] [--data DIR] [--seed 0]
                          [--out DIR]

Takes the minutes you give it and about half a minute for the rest (the very first run compiles the kernels, once).
The net is told which digit it is to make; after three minutes most of samples.png reads as that digit. With
--unconditional nothing tells it the label. Ctrl-C ends the training early and keeps the model. Writes to --out:
samples.npy (float32 (N, 28, 28, 1) in [−1, 1]), samples.png, forward.png, reverse.png, denoising.gif, loss.png, model.npz.
"""

# %%
import argparse
from pathlib import Path

import numpy as np

import scratchdiff as sd
from scratchdiff.checkpoint import save_checkpoint
from scratchdiff.plots import grid, save_gif, save_images, save_loss, save_strip
from scratchdiff.progress import polite_stop, watch_sampling, watch_training
from scratchdiff.recipes import MNIST, UNCONDITIONAL, build, with_groups
from scratchdiff.train import train


def main(minutes=3.0, samples=64, steps=50, data=None, seed=0, out=None, unconditional=False):
    out = Path(out or ("runs/mnist_unconditional" if unconditional else "runs/mnist"))
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)

    # %% The data: x_0, images (N, 28, 28, 1) scaled to [−1, 1], so that their spread is near that of the noise to come.
    digits, labels = sd.data.mnist("train", data)
    recipe = MNIST

    # %% Without labels the net has one task more: to decide which digit the noise is to become. k-means makes that easier,
    # and it needs no label either: it finds 64 groups of similar images, which take the place of the ten classes. To sample,
    # we draw a group by its share of the data, and then a digit of that group: p(x) = Σ p(group) p(x | group).
    if unconditional:
        labels, recipe = with_groups(UNCONDITIONAL, digits, rng)

    # %% The forward process destroys a digit in T = 1000 small steps. All of them at once, in closed form:
    #
    #     x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε,    ε ~ N(0, I)
    #
    # ᾱ_t falls from 1 to 0 along the schedule, so x_T is noise and nothing else. forward.png shows it.
    model, diffusion = build(recipe, rng)
    T = diffusion.schedule.T
    times = [1, *range(T // 8, T + 1, T // 8)]
    eps = rng.standard_normal((6, 28, 28, 1))
    save_strip(out / "forward.png", [diffusion.q_sample(digits[:6], t, eps) for t in times],
               [f"t = {t}" for t in times], "Forward: noise replaces the digit")  # fmt: skip

    # %% Training (Algorithm 1): draw a digit, a timestep and noise; ask the U-Net to tell the noise from the digit; step
    # downhill on the squared error. The network predicts v = √ᾱ_t ε − √(1−ᾱ_t) x_0, which weighs ε and x_0 by how hard
    # each is to see in x_t. It looks at patches of pixels, so that a step is cheap and there are many of them, and it is
    # told which class (or group) it sees, except one time in ten.
    adam = sd.Adam(model.parameters(), recipe["lr"])
    ema = sd.EMA(model.parameters(), recipe["ema"])
    print(f"{model.num_parameters():,} parameters, {len(digits):,} digits, {minutes:g} minutes")
    losses, step = [], 0
    limits = dict(seconds=60 * minutes, batch_size=recipe["batch_size"], hold=recipe["hold"], labels=labels)
    with polite_stop() as stop:
        for step, loss, *_ in watch_training(train(model, diffusion, digits, adam, ema, rng, **limits)):
            losses.append(loss)
            if stop.signal:
                break
    settings = recipe | dict(data="mnist", minutes=minutes, seed=seed)
    save_checkpoint(out / "model.npz", model, ema, adam, rng, step, settings)
    save_loss(out / "loss.png", losses)
    if stop.signal:
        print(f"stopped after {step} steps, which are saved; `scratchdiff sample {out}` draws from them")
        raise SystemExit(128 + stop.signal)

    # %% Sampling (DDIM): start at x_T ~ N(0, I). At each step the network's output gives an estimate of the clean digit,
    # x0_hat, and of the noise, eps_hat; mix them again as they would be a little earlier, with some of the noise fresh:
    #
    #     x_s = √ᾱ_s x0_hat + √(1−ᾱ_s−σ²) eps_hat + σ z,    s < t,  z ~ N(0, I)
    #
    # With eta = 1 there is as much fresh noise as in DDPM; late steps can then mend what early ones got wrong.
    # The weights are the moving average of those that training passed through: less noisy than the last ones. We ask for
    # 0, 1, ..., 9 in turn (or for groups by their shares), and guidance moves each output away from what the network would
    # say if it were not told.
    shape = samples, 28, 28, 1
    with ema.applied():
        wanted = rng.choice(model.num_classes, samples, p=recipe["shares"]) if unconditional else np.arange(samples) % 10
        model_of_classes = sd.guided(model, wanted, recipe["guidance"])
        sampler = sd.ddim_steps(diffusion, model_of_classes, shape, rng, steps=steps, eta=recipe["eta"])
        moments = list(watch_sampling(sampler, steps))
    x = np.clip(moments[-1].x, -1, 1).astype(np.float32)
    np.save(out / "samples.npy", x)
    save_images(out / "samples.png", x, columns=10)

    # %% How it came about: x_t above, what the network believed at that moment (x0_hat) below.
    shown = moments[:: max(1, len(moments) // 8)] + moments[-1:]
    pairs = [np.concatenate([m.x[:3], m.x0_hat[:3]]) for m in shown]
    title = "Reverse: three digits on their way (above), and what the network believes they will be (below)"
    save_strip(out / "reverse.png", pairs, [f"t = {m.t}" for m in shown], title)
    save_gif(out / "denoising.gif", [grid(m.x[:60], columns=10) for m in moments], scale=2)
    print(f"{step} steps, loss {np.mean(losses[-200:]):.4f}; {samples} samples in {out}/samples.png")
    print(f"`scratchdiff evaluate {out}` judges the model")
    return x


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a diffusion model on MNIST and sample from it.")
    parser.add_argument("--unconditional", action="store_true", help="use no label")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training (%(default)s)")
    parser.add_argument("--samples", type=int, default=64, help="digits to make (%(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="of sampling, at most 1000 (%(default)s)")
    parser.add_argument("--data", metavar="DIR", help="folder with MNIST's IDX files (default: the embedded digits)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="DIR", help="where to write (runs/mnist, or runs/mnist_unconditional)")
    main(**vars(parser.parse_args()))
