# %% [markdown]
# # 26 How do you change an image and keep it?
#
# A sampler makes an image from noise. To change an image that we have, we must find noise that belongs to it, or put noise
# on it. The first way is exact in principle: DDIM without noise follows a differential equation, which can be followed back.
# The second is crude and works better: add some noise, and denoise (SDEdit).
#
# Expect: an image that comes back from its own noise with an error that halves when the steps double; paths from one digit
# to another through things that are nearly digits; and a strength, about 0.7, at which most threes become eights that still
# look like the three they were made of. It takes about a minute on two cores, without training.
#
# `python demos/lessons/26_editing.py` writes runs/lessons/26_editing.png.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, WARM, record, save

import scratchdiff as sd
from scratchdiff.diffusion import interpolate
from scratchdiff.diffusion.samplers import last
from scratchdiff.metrics import classify
from scratchdiff.plots import grid

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# %% [markdown]
# ## There and back
#
# A step of DDIM from t to s < t takes x0_hat and eps_hat at x_t and mixes them anew. The step back from s to t takes them at
# x_s. If they were the same at both ends, the two steps would cancel exactly. They differ by the length of the step, so the
# error is of first order.


# %%
def decode(diffusion, model, xT, steps):
    """DDIM with eta = 0 from a given noise."""
    return sd.ddim_flow(diffusion, model, xT.astype(np.float32), steps).data


def round_trip(diffusion, model, x0, steps):
    """(the noise of x0, the root mean square error of what comes back from it)."""
    xT = last(sd.ddim_inverse_steps(diffusion, model, x0, steps)).x
    return xT, np.sqrt(np.square(decode(diffusion, model, xT, steps) - x0).mean())


# %% [markdown]
# ## From one digit to another
#
# The mean of two images is two pale images. The mean of two independent noises has half the variance, and no image comes
# from such noise. Along a sphere the length is kept.
#
# So much for the theory. It asks that the noise of a real digit be normal, and it is not: its deviation is about 0.7. The
# border is −1 in every digit, so any noise there leads to −1, and the way back from −1 finds one of them, 0. Where data has
# no spread, inversion cannot know the noise. Then the mean and the sphere differ less, and neither is clearly better.


# %%
def paths(diffusion, model, a, b, weights, steps):
    """{name: images between a and b, (K, N, ...)}."""
    noise_a, noise_b = (last(sd.ddim_inverse_steps(diffusion, model, x, steps)).x for x in (a, b))
    straight = np.concatenate([(1 - w) * noise_a + w * noise_b for w in weights])
    return {
        "mean of the pixels": np.stack([(1 - w) * a + w * b for w in weights]),
        "mean of the noises": decode(diffusion, model, straight, steps).reshape(len(weights), *a.shape),
        "along the sphere": interpolate(diffusion, model, a, b, weights, steps),
    }


def confidence(images):
    """The mean, over images (..., 28, 28, 1), of the judge's largest class probability."""
    return classify(np.clip(images, -1, 1).reshape(-1, 28, 28, 1))[1].max(1).mean()


# %% [markdown]
# ## SDEdit
#
# Put noise on the image up to t_0 = strength · T, and denoise from there, asking for another class. What is finer than the
# noise at t_0 is made anew, what is coarser stays. So the strength says how much may change.


# %%
def edits(diffusion, model, x0, label, steps, rng):
    """The images that x0 becomes when it is asked to be `label`, (strengths, N, ...)."""
    asked = sd.guided(model, np.full(len(x0), label), 1.0)
    return np.stack([last(sd.sdedit_steps(diffusion, asked, x0, s, rng, steps)).x for s in STRENGTHS])


def kept(edited, x0):
    """The mean correlation of the edited images with the ones they were made of."""
    return np.mean([np.corrcoef(e.ravel(), x.ravel())[0, 1] for e, x in zip(edited, x0)])


def sketch():
    """A four of three straight strokes: what a hand draws with a mouse."""
    image = np.full((28, 28, 1), -1.0)
    image[5:15, 8:10] = image[13:15, 8:20] = image[5:24, 17:19] = 1.0
    return image


# %%
def main(out="runs/lessons", small=False):
    """Invert, interpolate, edit, draw the picture; return the headline figures."""
    model, diffusion = sd.pretrained("mnist")
    images, labels = sd.data.mnist()
    rng, figures = np.random.default_rng(0), {}
    N, steps = (2, 4) if small else (20, 50)
    threes, eights = (images[labels == k][5 : 5 + N].astype(np.float64) for k in (3, 8))
    counts = (2, 4) if small else (25, 50, 100, 200)
    errors = {}
    for count in counts:
        xT, errors[count] = round_trip(diffusion, model, threes[:10], count)
        figures[f"there and back in {count} steps: rms error of a pixel"] = errors[count]
    figures["order of the error of inversion"] = -np.polyfit(np.log(list(errors)), np.log(list(errors.values())), 1)[0]
    figures["deviation of the noise of real digits"] = xT.std()

    for name, path in paths(diffusion, model, threes, eights, [0.5], 2 * steps).items():
        figures[f"half-way, {name}: confidence"] = confidence(path)
    between = paths(diffusion, model, threes[:2], eights[:2], np.linspace(0, 1, 4 if small else 9), 2 * steps)

    edited = edits(diffusion, model, threes, 8, steps, rng)
    share = [(classify(np.clip(x, -1, 1))[1].argmax(1) == 8).mean() for x in edited]
    similar = [kept(x, threes) for x in edited]
    for s in (0.3, 0.5, 0.7):
        i = STRENGTHS.index(s)
        figures |= {f"strength {s}: share of eights": share[i], f"strength {s}: correlation with the three": similar[i]}
    figures["correlation of different eights and threes"] = kept(eights, threes)
    drawn = edits(diffusion, model, np.stack([sketch()]), 4, steps, rng)
    figures |= speed(diffusion, model, threes, steps, rng)
    picture(out, errors, between, (threes, edited), drawn, share, similar)
    return record(out, "26_editing", figures)


def speed(diffusion, model, x0, steps, rng):
    """The time of each function of this lesson as a multiple of ddim's, with the same number of steps."""

    def seconds(draw):
        began = time.perf_counter()
        draw()
        return time.perf_counter() - began

    ddim = seconds(lambda: sd.sample_ddim(diffusion, model, x0.shape, rng, steps))
    return {
        "time of ddim's: inversion": seconds(lambda: last(sd.ddim_inverse_steps(diffusion, model, x0, steps))) / ddim,
        "time of ddim's: SDEdit, strength 0.5": seconds(
            lambda: last(sd.sdedit_steps(diffusion, model, x0, 0.5, rng, steps))) / ddim,
        "time of ddim's: interpolation, per image": seconds(
            lambda: interpolate(diffusion, model, x0, x0[::-1], [0.25, 0.5, 0.75], steps)) / (3 * ddim),
    }  # fmt: skip


def picture(out, errors, between, threes_edited, drawn, share, similar):
    """Left: the error of inversion, and what strength does. Right: paths, edits of a three, and of a sketch."""
    figure = plt.figure(figsize=(14, 8))
    cells = figure.add_gridspec(2, 2, width_ratios=(1, 2.1), hspace=0.35, wspace=0.4)
    axes = figure.add_subplot(cells[0, 0])
    axes.loglog(list(errors), list(errors.values()), "o-", color=INK, label="measured")
    first = min(errors)
    axes.loglog(list(errors), [errors[first] * first / count for count in errors], "--", color="grey", label="first order")
    axes.set(title="there and back", xlabel="steps each way", ylabel="rms error of a pixel")
    axes.set_xticks(list(errors), map(str, errors))
    axes.set_yticks([0.01, 0.02, 0.05], ["0.01", "0.02", "0.05"])
    axes.minorticks_off()
    axes.legend()
    axes = figure.add_subplot(cells[1, 0])
    axes.plot(STRENGTHS, share, "o-", color=WARM)
    axes.plot(STRENGTHS, similar, "o-", color=INK)
    axes.text(0.09, 0.05, "share that is now an eight", color=WARM)
    axes.text(0.09, 0.78, "correlation\nwith the three", color=INK)
    axes.set(title="asking threes to be eights", xlabel="strength t₀/T", ylim=(-0.1, 1.05))

    axes = figure.add_subplot(cells[:, 1])
    threes, edited = threes_edited
    rows, names, wide = [], [], len(STRENGTHS) + 1

    def add(name, images):
        blank = np.full((wide - len(images), 28, 28, 1), 0.6)
        rows.append(np.concatenate([images, blank]))
        names.append(name)

    for name, path in between.items():
        for k in range(2):
            add(name.replace(" the ", "\nthe ") if k == 0 else "", path[:, k])
    for k in range(3):
        add(
            "threes asked\nto be eights" if k == 0 else "",
            np.concatenate([threes[k : k + 1], edited[:, min(k, len(threes) - 1)]]),
        )
    add("a sketch asked\nto be a four", np.concatenate([sketch()[None], drawn[:, 0]]))
    axes.imshow(grid(np.concatenate(rows), columns=wide), cmap="gray", vmin=0, vmax=255)
    strengths = ["source", *[f"{s:g}" for s in STRENGTHS]]
    axes.set(xticks=16 + 30 * np.arange(wide), xticklabels=strengths, xlabel="strength (the last four rows)",
             yticks=16 + 30 * np.arange(len(rows)), yticklabels=names)  # fmt: skip
    axes.tick_params(length=0, labelsize=9)
    save(figure, out, "26_editing")


# %% [markdown]
# ## Exercises
#
# 1. In `edits`, replace the guidance 1.0 by 0.0, and by 4.0. At which strength do half of the threes become eights?
# 2. In `paths`, pass `sd.guided(model, np.full(6, 3), 0.0)` to `decode` for "along the sphere" (with `slerp` in place of
# `interpolate`): a path on which every image is asked to be a three.
# 3. In `main`, add noise of deviation 0.1 to `threes` before `round_trip`. What is the deviation of their noise then?

# %%
if __name__ == "__main__":
    main()
