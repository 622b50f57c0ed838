# %% [markdown]
# # 06 How do you train a diffusion model without fooling yourself?
#
# A network with a bug still trains. Its loss falls, its pictures are noise, and nothing says why. Karpathy's *Recipe
# for Training Neural Networks* (2019) answers with patience: at each stage form an expectation, check it, and only then
# add the next thing. Here is the recipe for a diffusion model of digits, each expectation a number that we know
# beforehand.
#
# Expect: a loss at the start that agrees with a formula to a percent, three baselines, one batch learned by heart, and
# strokes that are about to become digits after 400 steps of training. It takes about two minutes on two cores.
#
# `python demos/lessons/06_recipe.py` writes runs/lessons/06_recipe.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, WARM, record, save

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.plots import grid
from scratchdiff.progress import watch_training
from scratchdiff.recipes import MNIST, build
from scratchdiff.train import train

# %% [markdown]
# ## 1. Look at the data
#
# Not at its description. Are they centred, in [−1, 1], upright, one digit each? We keep the last thousand for judging.


# %%
def digits():
    """(training digits, their labels, held-out digits, their labels)."""
    images, labels = sd.data.mnist()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return images[:-1000], labels[:-1000], images[-1000:], labels[-1000:]


# %% [markdown]
# ## 2. The loss at the start
#
# The last layer starts at zero, so the network first answers 0, and its loss is the mean square of what it should have
# said. It is asked for v = √ᾱ_t ε − √(1−ᾱ_t) x_0, so we expect
#
#     mean over t of  ᾱ_t + (1−ᾱ_t) E[x_0²]
#
# (Asked for ε it would be 1.) If the first loss is another, then the data, the schedule or the target is not what you
# think.
#
# ## 3. Baselines
#
# A loss of 0.1 means nothing by itself. Three answers that need no training say what is cheap:
#
#     nothing:         answer 0
#     the mean digit:  answer E[v | t], knowing t but not x_t. A network that is no better ignores its input.
#     linear:          the best linear function of x_t at each t. It is the exact denoiser of a normal distribution with the
#                      mean and covariance of the digits. A network that is no better has learned no shapes.


# %%
def baselines(diffusion, images):
    """{name: mean loss over t} of the three baselines, from the moments of the images."""
    alpha_bar, flat = diffusion.schedule.alpha_bar[1:], images.reshape(len(images), -1).astype(float)
    second, mean = np.square(flat).mean(), flat.mean(0)
    linear = sd.Oracle(diffusion, mean.reshape(1, *images.shape[1:]), np.cov(flat.T, bias=True)[None])
    times = np.arange(1, diffusion.schedule.T + 1, 10)
    return {
        "nothing": (alpha_bar + (1 - alpha_bar) * second).mean(),
        "mean digit": (alpha_bar + (1 - alpha_bar) * (second - np.square(mean).mean())).mean(),
        "linear": np.mean([linear.floor(int(t)) for t in times]),
    }


def judge(model, diffusion, images, labels):
    """The loss with t evenly spread and the same noise at each call, so that two models differ by what they are."""
    t = np.linspace(1, diffusion.schedule.T, len(images)).round().astype(int)
    eps = np.random.default_rng(5).standard_normal(images.shape).astype(images.dtype)
    xt, target = diffusion.q_sample(images, t, eps), diffusion.target(images, t, eps)
    parts = [slice(i, i + 250) for i in range(0, len(images), 250)]
    return float(np.mean([np.square(model(xt[i], t[i], labels=labels[i]).data - target[i]).mean() for i in parts]))


# %% [markdown]
# ## 4. Learn one batch by heart
#
# Eight digits, with the same t and the same noise at every step. Nothing is left to chance, so a network that works
# must bring the loss to nearly nothing. If it cannot, no amount of data will help. The generator is made anew for each
# step, which fixes t and ε.


# %%
def overfit(images, labels, steps):
    """The loss at each step on one fixed batch."""
    model, diffusion = build(MNIST, np.random.default_rng(0))
    adam, losses = sd.Adam(model.parameters(), lr=2e-3), []
    for step in range(steps):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = diffusion.loss(model, images[:8], np.random.default_rng(1), labels=labels[:8])
        tape.backward(loss)
        adam.step(sd.optim.cosine_decay(step / steps))
        losses.append(loss.item())
    return losses


# %% [markdown]
# ## 5. Look at everything
#
# Every parameter should get a gradient. At the start most get none, and this is right: behind a layer of zeros nothing
# moves the loss. So we first fill the zeros with small numbers. A parameter that has no gradient even then is built and
# never used.


# %%
def gradient_norms(model, diffusion, images, labels):
    """{parameter: RMS of its gradient} of one batch."""
    for p in model.parameters().values():
        p.grad = None
    with sd.Tape() as tape:
        loss = diffusion.loss(model, images[:16], np.random.default_rng(2), labels=labels[:16])
    tape.backward(loss)
    norms = {name: 0.0 if p.grad is None else float(np.sqrt(np.square(p.grad).mean()))
             for name, p in model.parameters().items()}  # fmt: skip
    for p in model.parameters().values():
        p.grad = None
    return norms


# %% [markdown]
# ## 6. Then scale
#
# Only now do we train on all digits, and judge on digits that the network has not seen, against the baselines. More
# time, more data or a larger network are the last thing to try: by now we know that what they multiply is right.


# %%
def main(out="runs/lessons", small=False):
    """Go through the recipe, draw each stage; return the headline figures."""
    images, labels, held_out, held_labels = digits()
    held_out, held_labels = held_out[: 50 if small else 500], held_labels[: 50 if small else 500]
    rng = np.random.default_rng(0)
    model, diffusion = build(MNIST, rng)
    at_start = judge(model, diffusion, held_out, held_labels)
    cheap = baselines(diffusion, images[:500] if small else images)

    by_heart = overfit(images, labels, 3 if small else 250)
    silent = sum(norm == 0 for norm in gradient_norms(model, diffusion, images, labels).values())
    probe, _ = build(MNIST, np.random.default_rng(0))
    fill_zeros(probe.parameters(), np.random.default_rng(3))
    norms = gradient_norms(probe, diffusion, images, labels)

    adam, ema = sd.Adam(model.parameters(), MNIST["lr"]), sd.EMA(model.parameters(), MNIST["ema"])
    settings = dict(batch_size=8, steps=3) if small else dict(batch_size=MNIST["batch_size"], steps=400)
    steps, curve = [], []
    for step in watch_training(train(model, diffusion, images, adam, ema, rng, labels=labels, **settings)):
        if step.step in {1, 2, 5, 10, 20, 50, 100, 200} or step.step == settings["steps"]:
            steps.append(step.step)
            curve.append(judge(model, diffusion, held_out[:250], held_labels[:250]))
    model.load(ema.average)
    ours = judge(model, diffusion, held_out, held_labels)
    on_training = judge(model, diffusion, images[: len(held_out)], labels[: len(held_out)])
    scaled, _ = sd.pretrained("mnist")
    longer = judge(scaled, diffusion, held_out, held_labels)

    classes = np.arange(10)
    drawn = [sd.sample_ddim(diffusion, sd.guided(net, classes, 0.5), (10, 28, 28, 1), np.random.default_rng(6),
                            steps=3 if small else 50, eta=1.0) for net in (model, scaled)]  # fmt: skip
    picture(out, images, cheap, by_heart, norms, steps, curve, longer, diffusion, model, held_out, held_labels, drawn)
    return record(out, "06_recipe", {
        "loss at the start": at_start, "loss at the start, expected": cheap["nothing"],
        "baseline: mean digit": cheap["mean digit"], "baseline: linear": cheap["linear"],
        "one batch by heart: first loss": by_heart[0], "one batch by heart: last loss": by_heart[-1],
        "parameters": len(norms), "parameters without a gradient at the start": silent,
        "parameters without a gradient, zeros filled": sum(norm == 0 for norm in norms.values()),
        "held-out loss after 400 steps": ours, "loss of training digits after 400 steps": on_training,
        "loss of the pretrained network (10,224 steps, has seen them)": longer,
    })  # fmt: skip


def picture(out, images, cheap, by_heart, norms, steps, curve, longer, diffusion, model, held_out, held_labels, drawn):
    """One panel for each stage of the recipe."""
    figure = plt.figure(figsize=(13, 8.6), layout="constrained")
    above, below = figure.subfigures(2, 1)
    look, heart, everything = above.subplots(1, 3)
    look.imshow(grid(images[:40], columns=8), cmap="gray")
    look.set(title="1. look at the data", xticks=[], yticks=[])
    heart.semilogy(by_heart, color=INK)
    heart.set(title="4. learn one batch by heart", xlabel="step", ylabel="loss on eight fixed (x_0, t, ε)")
    heart.grid(alpha=0.3)
    everything.semilogy(list(norms.values()), ".", color=INK)
    everything.set(
        title="5. every parameter gets a gradient", xlabel="parameter, from input to output", ylabel="RMS of its gradient"
    )
    everything.grid(alpha=0.3)

    scale, denoised, samples = below.subplots(1, 3)
    scale.loglog(steps, curve, "o-", color=INK, label="held-out digits")
    for (name, loss), colour in zip(cheap.items(), ("0.6", GREEN, WARM)):
        scale.axhline(loss, color=colour, ls="--", label=f"baseline: {name}, {loss:.3f}")
    scale.axhline(longer, color="black", ls=":", label=f"pretrained, 10,224 steps, {longer:.3f}")
    scale.set(title="2, 3 and 6. the loss, beside what is cheap", xlabel="step", ylabel="mean square error of v")
    scale.grid(alpha=0.3, which="both")
    scale.legend(fontsize=8)

    rows, eps = [], np.random.default_rng(7).standard_normal((6, 28, 28, 1)).astype(np.float32)
    for t in (150, 400, 650, 900):
        xt = diffusion.q_sample(held_out[:6], t, eps)
        out_v = model(xt, np.full(6, t), labels=held_labels[:6]).data
        rows += [xt, diffusion.predict_x0(xt, t, out_v)]
    denoised.imshow(grid(np.clip(np.concatenate(rows), -1, 1), columns=6), cmap="gray")
    places = [30 * (2 * i + 1) for i in range(4)]
    denoised.set(title="5. held-out digits in noise, and x̂_0 below each", xticks=[])
    denoised.set_yticks(places, [f"t = {t}" for t in (150, 400, 650, 900)])
    samples.imshow(grid(np.clip(np.concatenate(drawn), -1, 1), columns=5), cmap="gray")
    samples.set(title="6. then scale: samples", xticks=[])
    samples.set_yticks([30, 90], ["400 steps", "10,224 steps"], rotation=90, va="center")
    save(figure, out, "06_recipe")


# %% [markdown]
# ## What the picture shows
#
# Panel 5 has four dots at 1e-10. These are the biases of the keys in the four attention layers. A constant added to all
# keys raises all scores of a query alike, and the softmax does not notice (lesson 03): their gradient is 0 but for
# rounding. The dots are right, and the parameters useless. A dot at exactly 0 would be a parameter that is not
# connected.
#
# The loss passes one baseline after the other. What comes after the last one falls slowly, and these last hundredths
# turn blots into digits. So look at samples, not only at the loss. The held-out loss is that of the training digits, so
# nothing has been memorised: more training is worth it before more data.
#
# ## Exercises
#
# 1. In `digits`, leave the images in [0, 1]: images = (images + 1) / 2 after loading. Which of the expectations notices
# first, and why is the first loss smaller?
# 2. In `overfit`, replace np.random.default_rng(1) by np.random.default_rng(step), so that t and ε change. Why does the
# loss no longer go to zero? What is this plateau called (lesson 05)?
# 3. In `main`, train at a tenth of the learning rate (MNIST["lr"] / 10). Which stage of the recipe shows the
# difference, and is it worth being in a hurry?

# %%
if __name__ == "__main__":
    main()
