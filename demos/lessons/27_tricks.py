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


def trained(images, seconds, network=None, loss=sd.GaussianDiffusion.loss, seed=0, sampled=None, steps=None):
    """(model, diffusion, steps): trained for as many steps as fit into the seconds, by the fastest of its first steps.

    The fastest, and not the clock, for other programs also use the machine. sampled: what a sampler gets, for a
    model that is not called as it is trained."""
    rng = np.random.default_rng(seed)
    model, diffusion = build(RECIPE | dict(network_args=RECIPE["network_args"] | (network or {})), rng)
    adam, ema = sd.Adam(model.parameters(), lr=RECIPE["lr"]), sd.EMA(model.parameters(), RECIPE["ema"])
    run = partial(train, model, diffusion, images, adam, ema, batch_size=RECIPE["batch_size"], loss=partial(loss, diffusion))
    if steps is None:
        took, now = [], time.perf_counter()
        for _ in run(np.random.default_rng(2), steps=20, warmup_steps=10**6):  # a learning rate of nearly 0
            took.append(time.perf_counter() - now)
            now = time.perf_counter()
        # self-conditioning alternates between a dear step and a cheap one: the fastest of each half
        half = np.sort(took)[: len(took) // 2 * 2].reshape(2, -1)
        steps = max(int(seconds / half[:, :3].mean()), 1)
    for _ in run(rng, steps=steps):
        pass
    model.load(ema.average)
    return (sampled(diffusion, model) if sampled else model), diffusion, steps


# %% [markdown]
# ## Super-resolution
#
# (SR3, Saharia et al. 2021.) The digit at 7 × 7 pixels, enlarged to 28 × 28, joins x_t as a second channel. What counts: is
# the sample the same digit (the classifier's class is the true one), is it like real digits (Fréchet), and does it
# shrink to the small image again?


# %%
def super_resolved(images, labels, seconds, n, judged, steps=None):
    """{what: figure}, and the images to show: enlarged, sampled, true."""
    truth, small = images[-n:], np.asarray(sd.diffusion.downsampled(images[-n:], 4))
    settings = dict(network=dict(cond_channels=1), loss=sd.super_resolution_loss, steps=steps)
    model, diffusion, _ = trained(images[:-n], seconds, **settings)
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
def main(out="runs/lessons", small=False, seconds=15.0):
    """Train with each trick for the same time, judge, write the picture; return the headline figures."""
    images, labels = sd.data.mnist()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels, n, steps = images[order], labels[order], 8 if small else 300, 2 if small else None
    judged, shown, figures = partial(judge, digits=images[:100] if small else None), {}, {}
    for name, settings in TRICKS.items():
        model, diffusion, done = trained(images, seconds, **settings, steps=steps)
        shown[name] = x = sample(diffusion, model, n)
        judgement, ink = judged(x), x.mean((1, 2, 3))
        figures |= {f"{name}: Fréchet": judgement.frechet, f"{name}: confident": judgement.confident,
                    f"{name}: steps": done, f"{name}: sd of the mean pixel": ink.std()}  # fmt: skip
    real = images[:n]
    figures |= {"training digits: Fréchet": judged(real).frechet,
                "training digits: sd of the mean pixel": real.mean((1, 2, 3)).std()}  # fmt: skip
    resolved, rows = super_resolved(images, labels, seconds, n, judged, steps)
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
# 3. In `main`, set seconds to 100. Which trick gains most from more time?

# %%
if __name__ == "__main__":
    main()
