# %% [markdown]
# # 19 What would a perfect denoiser do?
#
# The best denoiser of a finite data set is a formula. We can therefore run it without training anything, and see what
# we would get if training succeeded completely. It is not what we want. Then we put a network beside the best possible
# denoiser, at each t, and see how far it is from it.
#
# Expect: samples of the perfect denoiser of ten thousand digits that are training digits to the last pixel, and a
# network that is worse than it on these and far better on new ones. It takes about a minute on two cores.
#
# `python demos/lessons/19_oracle.py` writes runs/lessons/19_oracle.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, PALE, WARM, record, save

import scratchdiff as sd
from scratchdiff.diffusion import loss_at
from scratchdiff.diffusion.samplers import last
from scratchdiff.metrics import nearest_digits
from scratchdiff.plots import grid
from scratchdiff.progress import watch_sampling, watch_training
from scratchdiff.recipes import TOY, build
from scratchdiff.train import train

# %% [markdown]
# ## A perfect memory
#
# Given x_t, the best guess of x_0 is the mean of all digits, each weighted by how well it explains x_t:
#
#     E[x_0 | x_t] = Σ_k r_k x_k,     r_k ∝ exp(−‖x_t − √ᾱ_t x_k‖²/2(1−ᾱ_t))
#
# In much noise that is the mean of all digits, then the mean of those that it might be, and soon a single one. Sampling
# with it therefore ends at the members of the data set, and nowhere else. A diffusion model makes new images only
# because its network is *not* that good a denoiser of its training set.


# %%
def memorised(images, rng, n=8):
    """(samples of the perfect denoiser, the nearest images, the distances to them)."""
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(), predict="v")
    steps = sd.ddim_steps(diffusion, sd.Oracle(diffusion, images), (n, 28, 28, 1), rng, steps=50)
    x = last(watch_sampling(steps, 50)).x
    index, distances = nearest_digits(x, images)
    return x, images[index], distances


def seen_in_noise(images, rng, times):
    """Three digits in noise at each time, and what the perfect denoiser sees in them: (2 · times, 3, ...)."""
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(), predict="v")
    oracle, shown = sd.Oracle(diffusion, images), images[rng.permutation(len(images))[:3]]
    eps = rng.standard_normal(shown.shape)
    noisy = [diffusion.q_sample(shown, t, eps) for t in times]
    return np.stack([noisy, [oracle.x0(x, t) for x, t in zip(noisy, times)]], 1)


# %% [markdown]
# ## How far is a network?
#
# A network learns eight Gaussians in the plane, whose best denoiser is known as well. The loss falls to a plateau. The
# floor tells whether this is the end of what can be learned, or only of what this network has learned.


# %%
def learned_and_floor(steps, draws, rng):
    """(times, untrained, learned, floor): the loss of a network before and after, and the least possible, at each time."""
    points = sd.data.toy("gaussians", 100_000, rng).astype(np.float32)
    model, diffusion = build(TOY, rng)
    angles = np.pi * np.arange(8) / 4
    best = sd.Oracle(diffusion, np.stack([np.cos(angles), np.sin(angles)], 1) / np.sqrt(0.51), 0.01 / 0.51)
    times, x0 = np.unique(np.geomspace(1, 1000, 20).round().astype(int)), best.sample(draws, rng)

    def losses(f):  # the same noise for all, so a difference is far more exact than either
        return np.array([loss_at(diffusion, f, x0, int(t), np.random.default_rng(t)) for t in times])

    untrained = losses(model)
    adam, ema = sd.Adam(model.parameters(), TOY["lr"]), sd.EMA(model.parameters(), TOY["ema"])
    for _ in watch_training(train(model, diffusion, points, adam, ema, rng, steps=steps, batch_size=TOY["batch_size"])):
        pass
    model.load(ema.average)
    return times, untrained, losses(model), losses(best)


# %% [markdown]
# ## And with digits?
#
# A perfect memory of 9,900 digits, and the network that comes with the package, each asked about a hundred digits of
# these and about the hundred that the memory has not seen. (The network was trained on all ten thousand. That it does
# as well on digits it has not seen is shown in lesson 06.)


# %%
def on_digits(images, rng):
    """(times, {who, which digits: the loss of v at each time})."""
    model, diffusion = sd.pretrained("mnist")
    order = rng.permutation(len(images))
    hidden = len(images) // 100
    memory = sd.Oracle(diffusion, images[order[hidden:]])
    times = np.unique(np.linspace(25, 1000, 14).round().astype(int))
    sets = {"remembered digits": images[order[-hidden:]], "other digits": images[order[:hidden]]}
    return times, {
        f"{who}, {name}": np.array([loss_at(diffusion, f, x, int(t), np.random.default_rng(t)) for t in times])
        for name, x in sets.items()
        for who, f in (("network", model), ("perfect memory", memory))
    }


# %%
def main(out="runs/lessons", small=False):
    """Sample with a perfect memory, compare networks with it, draw; return the headline figures."""
    rng = np.random.default_rng(0)
    images = sd.data.mnist()[0][: 200 if small else None]
    noise_times = [950, 850, 750, 650, 550, 400, 200]
    pairs, (x, nearest, distances) = seen_in_noise(images, rng, noise_times), memorised(images, rng)
    plane = times, untrained, learned, floor = learned_and_floor(5 if small else 1500, 500 if small else 4000, rng)
    digits = digit_times, losses = on_digits(images, rng)
    picture(out, noise_times, pairs, x, nearest, plane, digits)
    return record(out, "19_oracle", {
        "perfect memory: largest distance of a sample to a digit": distances.max(),
        "eight Gaussians: mean loss over times": learned.mean(), "eight Gaussians: mean floor over times": floor.mean(),
        "eight Gaussians: largest excess over the floor": (learned - floor).max(),
        **{f"digits: {name}": loss.mean() for name, loss in losses.items()},
    })  # fmt: skip


def picture(out, noise_times, pairs, x, nearest, plane, digits):
    """Above: the perfect memory in pictures. Below: losses at each t."""
    figure = plt.figure(figsize=(13, 8.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    seen, drawn = above.subplots(1, 2, width_ratios=(7, 6.2))
    columns = pairs.transpose(2, 1, 0, 3, 4, 5).reshape(-1, 28, 28, 1)  # for each digit: a row in noise, a row denoised
    seen.imshow(grid(np.clip(columns, -1, 1), columns=len(noise_times)), cmap="gray")
    seen.set_xticks([30 * i + 16 for i in range(len(noise_times))], [f"t = {t}" for t in noise_times], fontsize=8)
    seen.set(title="three digits in noise, and below each what the perfect memory sees", yticks=[])
    rows = np.concatenate([x[:4], nearest[:4], x[4:], nearest[4:]])
    drawn.imshow(grid(np.clip(rows, -1, 1), columns=4), cmap="gray")
    drawn.set_yticks([16, 46, 76, 106], ["sample", "nearest digit"] * 2)
    drawn.set(title="samples of the perfect memory, and the digit next to each", xticks=[])

    left, middle, right = below.subplots(1, 3)
    times, untrained, learned, floor = plane
    left.loglog(times, untrained, color=PALE, label="untrained")
    left.loglog(times, learned, color=INK, label="learned")
    left.loglog(times, floor, color="black", ls="--", label="floor")
    left.set(title="eight Gaussians: the loss at each t", xlabel="t", ylabel="mean square error of ε")
    middle.loglog(times, learned - floor, "o-", color=INK, ms=3)
    middle.set(title="… and its excess over the floor", xlabel="t")
    styles = [(INK, "-"), (WARM, "-"), (INK, ":"), (WARM, ":")]
    for (name, loss), (colour, line) in zip(digits[1].items(), styles):
        right.semilogy(digits[0], loss, color=colour, ls=line, label=name)
    right.set(title="digits: the loss at each t", xlabel="t", ylabel="mean square error of v", ylim=(1e-4, None))
    for ax in (left, middle, right):
        ax.grid(alpha=0.3, which="both")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    save(figure, out, "19_oracle")


# %% [markdown]
# ## What the picture shows
#
# On the digits that it remembers, the perfect memory makes next to no error wherever a digit can be told at all. On
# others it is lost: it can only answer with digits that it knows. The network does about as well on all digits. That it
# lies above the floor of its training set is what we want of it.
#
# ## Exercises
#
# 1. In `main`, let the memory hold four digits: images = sd.data.mnist()[0][:4] (and take 2 as `hidden` in
# `on_digits`). How early in sampling is it decided which of them comes out?
# 2. In `memorised`, give the oracle a little width: sd.Oracle(diffusion, images, 0.05), a round Gaussian about each
# digit. What do its samples look like, and how far are they from the digits? Is this a way to make new digits?
# 3. In `learned_and_floor`, set batch_size to 16. Which part of the excess grows, that at small t or that at large t?

# %%
if __name__ == "__main__":
    main()
