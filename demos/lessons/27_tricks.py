# %% [markdown]
# # 27 Which of the tricks that everybody adds pays on digits?
#
# Programs that follow the papers collect options: self-conditioning, offset noise, learned sinusoids for the timestep.
# Each was introduced with a figure on other data, in longer runs. Here each gets the same time on the same small U-Net, and
# the same judge. The recipe runs twice, with two seeds: a difference no larger than theirs means nothing.
#
# Expect: most tricks do not pay at this size, and we say so. Conditioning on the small image, for super-resolution, works
# within a quarter of a minute. Under two minutes on two cores.
#
# `python demos/lessons/27_tricks.py` writes runs/lessons/27_tricks.png.

# %%
import time
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, PALE, WARM, record, save

import scratchdiff as sd
from scratchdiff.diffusion.super_resolution import enlarged
from scratchdiff.metrics import classify, judge
from scratchdiff.recipes import MNIST, build
from scratchdiff.train import train

# Half of the recipe's channels, and no classes: more steps in the time, and nothing but the trick to tell runs apart.
RECIPE = MNIST | dict(network_args=MNIST["network_args"] | dict(num_classes=None, ch=16))

# %% [markdown]
# ## The tricks
#
# *Self-conditioning* (Chen et al. 2023): the network also sees its own last estimate of x_0. In training that costs a second
# forward pass at half of the steps, so it gets fewer steps in the time.
#
# *Offset noise* (Guttenberg 2023): ε gets one number per image on top. The mean of an image is the last thing that plain
# noise destroys, so a network sees it too well in training and trusts it too much when it samples.
#
# *Learned sinusoids*: the frequencies of the timestep's sines and cosines are parameters.

# %%
TRICKS = {
    "the recipe": {},
    "the recipe, another seed": dict(seed=1),
    "self-conditioning": dict(network=dict(cond_channels=1), loss=sd.self_conditioned_loss, sampled=sd.self_conditioned),
    "offset noise 0.1": dict(loss=partial(sd.GaussianDiffusion.loss, offset=0.1)),
    "learned sinusoids": dict(network=dict(time=dict(learned=True))),
}


def trained(images, steps, network=None, loss=sd.GaussianDiffusion.loss, seed=0, sampled=None):
    """(model, diffusion, steps): trained for the time that the plain recipe takes for so many steps.

    sampled: makes of the model what a sampler takes, where it is not called as in training."""
    tried = 3 + min(steps, 17)
    cost = [step_seconds(images, tried, **kw) for kw in ({}, dict(network=network, loss=loss))] if network else [1, 1]
    steps = max(round(steps * cost[0] / cost[1]), 1)
    model, diffusion, run = prepared(images, network, loss, seed)
    for _ in run(steps=steps):
        pass
    return (sampled(diffusion, model) if sampled else model), diffusion, steps


def prepared(images, network=None, loss=sd.GaussianDiffusion.loss, seed=0):
    """(model, diffusion, run): run(steps=) yields training steps, and leaves the averaged weights in the model."""
    rng = np.random.default_rng(seed)
    model, diffusion = build(RECIPE | dict(network_args=RECIPE["network_args"] | (network or {})), rng)
    adam, ema = sd.Adam(model.parameters(), lr=RECIPE["lr"]), sd.EMA(model.parameters(), 0.99)

    def run(steps):
        yield from train(model, diffusion, images, adam, ema, rng, batch_size=RECIPE["batch_size"], steps=steps,
                         loss=partial(loss, diffusion))  # fmt: skip
        model.load(ema.average)

    return model, diffusion, run


def step_seconds(images, steps, **settings) -> float:
    """The processor's seconds for a training step, so that other programs on the machine do not count."""
    *_, run = prepared(images, **settings)
    took = [time.process_time()]
    for _ in run(steps=steps):
        took.append(time.process_time())
    took = np.diff(took)[2:]  # the first steps fill caches
    return took[took < 3 * np.median(took)].mean()


# %% [markdown]
# ## Super-resolution
#
# (SR3, Saharia et al. 2021.) The digit at 7 × 7 pixels, enlarged to 28 × 28, joins x_t as a second channel. What counts: is
# the sample the same digit (the classifier's class is the true one), is it like real digits (Fréchet), and does it
# shrink to the small image again?


# %%
def super_resolved(images, labels, steps, n, judged):
    """{what: figure}, and the images to show: enlarged, sampled, true."""
    truth, small = images[-n:], np.asarray(sd.diffusion.downsampled(images[-n:], 4))
    model, diffusion, _ = trained(images[:-n], steps, network=dict(cond_channels=1), loss=sd.super_resolution_loss)
    x = sample(diffusion, sd.super_resolved(model, small), n)
    blocks = enlarged(small, 4)

    def right(x):
        return (classify(x)[1].argmax(1) == labels[-n:]).mean()

    shrunk = np.asarray(sd.diffusion.downsampled(x, 4))
    return {
        "super-resolution: share of the right digit, samples": right(x),
        "super-resolution: share of the right digit, enlarged pixels": right(blocks),
        "super-resolution: share of the right digit, true images": right(truth),
        "super-resolution: Fréchet, samples": judged(x).frechet,
        "super-resolution: Fréchet, enlarged pixels": judged(blocks).frechet,
        "super-resolution: rms from the small image after shrinking": np.sqrt(np.square(shrunk - small).mean()),
    }, (blocks, x, truth)


def sample(diffusion, model, n):
    """n digits by DDIM with eta = 1 in 50 steps, as the recipe does."""
    x = sd.sample_ddim(diffusion, model, (n, 28, 28, 1), np.random.default_rng(3), 50, RECIPE["eta"])
    return np.clip(x, -1, 1).astype(np.float32)


# %%
def main(out="runs/lessons", small=False, steps=300):
    """Train with each trick for the same time, judge, write the picture; return the headline figures."""
    images, labels = sd.data.mnist()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels, n, steps = images[order], labels[order], 8 if small else 300, 2 if small else steps
    judged, shown, figures = partial(judge, digits=images[:100] if small else None), {}, {}
    for name, settings in TRICKS.items():
        model, diffusion, done = trained(images, steps, **settings)
        shown[name] = x = sample(diffusion, model, n)
        judgement, ink = judged(x), x.mean((1, 2, 3))
        figures |= {f"{name}: Fréchet": judgement.frechet, f"{name}: confident": judgement.confident,
                    f"{name}: steps": done, f"{name}: sd of the mean pixel": ink.std()}  # fmt: skip
    real = images[:n]
    figures |= {"training digits: Fréchet": judged(real).frechet,
                "training digits: sd of the mean pixel": real.mean((1, 2, 3)).std()}  # fmt: skip
    resolved, rows = super_resolved(images, labels, steps, n, judged)
    picture(out, figures, shown, rows)
    return record(out, "27_tricks", figures | resolved)


def picture(out, figures, shown, rows):
    """Left: the Fréchet distance of each trick, and samples; right: super-resolution."""
    figure = plt.figure(figsize=(14, 6))
    grid = figure.add_gridspec(1, 3, width_ratios=(1, 1.45, 1.05), wspace=0.08)
    bars = figure.add_subplot(grid[0])
    names = list(shown)
    frechet = [figures[f"{name}: Fréchet"] for name in names]
    places = -np.arange(len(names))
    bars.barh(places, frechet, color=[PALE if name.startswith("the recipe") else INK for name in names], height=0.6)
    for place, name, value in zip(places, names, frechet):
        label = f"{name}: {value:.2f}, {figures[f'{name}: steps']:g} steps"
        bars.text(0, place + 0.42, label, ha="left", va="center", fontsize=10)
    bars.axvspan(min(frechet[:2]), max(frechet[:2]), color=WARM, alpha=0.25, lw=0)
    bars.set(yticks=[], xlabel="Fréchet distance; red: between two seeds", ylim=(places[-1] - 0.5, 0.75),
             title="the same time for each")  # fmt: skip
    strips = grid[1].subgridspec(len(names), 1, hspace=0.35)
    for row, name in enumerate(names):
        axes = figure.add_subplot(strips[row])
        axes.imshow(np.concatenate(list(shown[name][:8, :, :, 0]), axis=1), cmap="gray_r", vmin=-1, vmax=1)
        axes.axis("off")
    axes = figure.add_subplot(grid[2])
    columns = [np.concatenate(list(x[:6, :, :, 0]), axis=0) for x in rows]
    axes.imshow(np.concatenate(columns, axis=1), cmap="gray_r", vmin=-1, vmax=1)
    axes.set(xticks=[14, 42, 70], xticklabels=["7 × 7", "sample", "true"], yticks=[], title="super-resolution")
    save(figure, out, "27_tricks")


# %% [markdown]
# ## Exercises
#
# 1. In `TRICKS`, give self-conditioning rate=1 by `partial(sd.self_conditioned_loss, rate=1.0)`. Why does the first step
# of the sampler suffer?
# 2. In `TRICKS`, raise the offset to 0.5. What happens to the spread of the mean pixel?
# 3. In `main`, set steps to 3000. Which trick gains most from more time?

# %%
if __name__ == "__main__":
    main()
