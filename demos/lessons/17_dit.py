# %% [markdown]
# # 17 Can a Transformer take the U-Net's place? Equal time, about equal parameters
#
# The U-Net was made for pictures: convolutions that see neighbours, levels that see further. The diffusion Transformer
# (DiT, Peebles & Xie 2023) knows nothing of that. It gets an image as a sequence of patches and has to learn from data
# which of them are neighbours. On ImageNet, with much time, it won. What about digits in seconds?
#
# Expect: the U-Net far ahead. Its digits can be read, and the Transformer's patches do not fit together yet. Under three
# minutes on two cores.
#
# `python demos/lessons/17_dit.py [--seconds 40]` writes runs/lessons/17_dit.png.

# %%
import argparse
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, WARM, record, save

import scratchdiff as sd
from scratchdiff.metrics import judge
from scratchdiff.recipes import MNIST, build, with_network
from scratchdiff.train import train

NETWORKS = "UNet", "DiT"

# %% [markdown]
# ## An image as a sequence
#
# Patches of 4 × 4 pixels make 7 · 7 = 49 positions of 16 numbers each. A linear layer makes each a vector of width 96, and
# the sines of its row and column are added. Four Transformer blocks follow, and a linear layer makes each vector a patch
# again.
#
# Time and class enter through the norms (adaLN-zero). With c = temb(t) + class vector, each block computes
#
#     shift, scale, gate = linear(SiLU(c))
#     x ← x + gate · attention((1 + scale) · LN(x) + shift)          and the same for the feed-forward network
#
# The linear layer starts at zero, so gate = 0 and each block starts as the identity. The U-Net's zero-started last
# convolutions do the same for its blocks. The code is `nn/dit.py`.
#
# ## A fair comparison
#
# Both have 0.7 million parameters, the same data, batches, loss and sampler. The learning rate is each one's own. A step
# of one takes longer than a step of the other, so we time both, in turns, and give each as many steps as fit into the
# same time: 40 seconds of the processor, which two cores spend in 20. (Processor time does not count what other
# programs take, so the comparison stays fair on a busy machine.)


# %%
def begin(name, images, labels, steps):
    """(model, diffusion, its averaged weights, its training as a generator of steps) of a network by its name."""
    recipe, rng = with_network(MNIST, name), np.random.default_rng(0)
    model, diffusion = build(recipe, rng)
    adam, ema = sd.Adam(model.parameters(), recipe["lr"]), sd.EMA(model.parameters(), recipe["ema"])
    running = train(model, diffusion, images, adam, ema, rng, labels=labels, batch_size=recipe["batch_size"], steps=steps)
    return model, diffusion, ema, running


def step_times(images, labels, n=20):
    """{network: median processor time of a step in seconds}, taken in turns, after three steps that warm up."""
    running = {name: begin(name, images, labels, n)[-1] for name in NETWORKS}
    seconds = {name: [] for name in NETWORKS}
    for _ in range(n):
        for name in NETWORKS:
            began = time.process_time()
            next(running[name])
            seconds[name].append(time.process_time() - began)
    return {name: float(np.median(each[3:])) for name, each in seconds.items()}


def draw(model, diffusion, n, steps):
    """n digits, each class in turn, by 50 steps of DDIM with fresh noise and guidance 0.5."""
    of_classes = sd.guided(model, np.arange(n) % 10, 0.5)
    x = sd.sample_ddim(diffusion, of_classes, (n, 28, 28, 1), np.random.default_rng(1), steps=steps, eta=1.0)
    return np.clip(x, -1, 1).astype(np.float32)


# %%
def main(out="runs/lessons", small=False, seconds=40.0):
    """Train both for the same time of the processor, draw, judge, write the picture; return the headline figures."""
    images, labels = sd.data.mnist()
    per_step = step_times(images, labels, 4 if small else 20)
    n = 10 if small else 200
    reference = images[::50] if small else images
    losses, digits, figures = {}, {}, {}
    for name in NETWORKS:
        steps = 2 if small else max(3, round(seconds / per_step[name]))
        model, diffusion, ema, running = begin(name, images, labels, steps)
        losses[name] = np.array([step.loss for step in running])
        with ema.applied():
            digits[name] = draw(model, diffusion, n, 2 if small else 50)
        of = judge(digits[name], reference)
        figures |= {f"{name}: parameters": model.num_parameters(), f"{name}: steps": steps,
                    f"{name}: loss at the end": losses[name][-200:].mean(), f"{name}: Fréchet distance": of.frechet,
                    f"{name}: precision": of.precision, f"{name}: recall": of.recall,
                    f"{name}: confident": of.confident}  # fmt: skip
        print(f"{name}: {steps} steps; {of}", flush=True)

    picture(out, losses, digits, figures, seconds)
    return record(out, "17_dit", figures)


def picture(out, losses, digits, figures, seconds):
    """The loss over time, and digits of both networks."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained", width_ratios=(1.25, 1, 1))
    for name, colour in zip(NETWORKS, (INK, WARM)):
        window = max(1, len(losses[name]) // 40)
        means = losses[name][: len(losses[name]) // window * window].reshape(-1, window).mean(1)
        when = seconds * (np.arange(len(means)) + 0.5) / len(means)
        axes[0].plot(when, means, color=colour, label=f"{name}, {len(losses[name])} steps")
    axes[0].set(xlabel="seconds of the processor", ylabel="loss of v", title="the loss", yscale="log", xlim=(0, seconds))
    axes[0].set_yticks([0.1, 0.2, 0.4, 0.8], ["0.1", "0.2", "0.4", "0.8"])
    axes[0].minorticks_off()
    axes[0].legend()
    for axis, name in zip(axes[1:], NETWORKS):
        tiles = digits[name][:100].reshape(-1, 10, 28, 28)
        axis.imshow(tiles.transpose(0, 2, 1, 3).reshape(-1, 280), cmap="gray_r", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[], title=name, xlabel=f"Fréchet {figures[f'{name}: Fréchet distance']:.2f}, "
                 f"precision {figures[f'{name}: precision']:.0%}, recall {figures[f'{name}: recall']:.0%}")  # fmt: skip
    save(figure, out, "17_dit")


# %% [markdown]
# ## Exercises
#
# 1. In `begin`, set `recipe["network_args"] |= dict(patch_size=7)` for the DiT. Sixteen positions make a step cheaper: is
# that a good trade? (2 gives 196 positions; what does attention cost then?)
# 2. In `nn/dit.py`, leave out `+ self.positions`. The network is then blind to where a patch lies: what do the digits
# look like, and what would lesson 15 have told you?
# 3. Run with `--seconds 600`. Does the Transformer catch up?

# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The U-Net and the diffusion Transformer, for the same time.")
    parser.add_argument("--out", default="runs/lessons", metavar="DIR", help="where to write (%(default)s)")
    parser.add_argument("--seconds", type=float, default=40.0, help="of the processor, for each (%(default)s)")
    main(**vars(parser.parse_args()))
