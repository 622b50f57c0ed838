# %% [markdown]
# # 07 Which timestep does the network learn from? The gradient of the loss, t by t
#
# A training step mixes many t. Here we take them apart: at each t, how long is the gradient, how noisy is it, and does it
# point where the gradients of other t point? Then it is clear why the losses of the literature train differently, and
# why drawing t by importance helps one of them and not another.
#
# Expect: five losses that differ by one number per t; neighbouring t that agree and distant ones that do not; importance
# sampling that makes the mean square of L_vlb's gradient about sixty times smaller, and that of L_simple's twice. It
# takes about a minute on two cores.
#
# `python demos/lessons/07_by_timestep.py` writes runs/lessons/07_by_timestep.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, PALE, WARM, record, save

import scratchdiff as sd

AGES = 30, 300, 3000  # training steps
TIMES = np.unique(np.geomspace(1, 1000, 16).round().astype(int))

# %% [markdown]
# ## Five losses, one error
#
# Let e = eps_hat − ε be the network's error in the noise at x_t. The errors in x_0 and v are multiples of it, with
# SNR = ᾱ/(1−ᾱ):
#
#     ‖x0_hat − x_0‖² = ‖e‖²/SNR        ‖v_hat − v‖² = ‖e‖² (1 + 1/SNR)
#
# min-SNR-γ counts errors in x_0 by min(SNR, γ), so errors in ε by min(SNR, γ)/SNR. The term L_{t−1} of the variational
# bound is ‖e‖² β_t²/(2 σ_t² α_t (1−ᾱ_t)) (Ho et al. 2020, Eq. 12). So every loss here is Σ_t w_t E‖e‖² with its own w_t.
# At a given t all have the same gradient, but for the factor w_t. We measure that gradient once, for w = 1.


# %%
def weights(schedule):
    """{loss: w_t at TIMES}, the factor of ‖e‖² in each loss; γ = 5, and "ε" is L_simple. L_vlb has σ_t² = β̃_t, which is 0 at
    t = 1; there we take the factor of t = 2."""
    t = TIMES
    snr = schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])
    two = np.maximum(t, 2)
    beta, alpha_bar, before = schedule.beta[two], schedule.alpha_bar[two], schedule.alpha_bar[two - 1]
    var = beta * (1 - before) / (1 - alpha_bar)
    return {
        "ε": np.ones(len(t)),
        "x_0": 1 / snr,
        "v": 1 + 1 / snr,
        "min-SNR": np.minimum(snr, 5) / snr,
        "L_vlb": beta**2 / (2 * var * (1 - beta) * (1 - alpha_bar)),
    }


# %% [markdown]
# ## Measuring a gradient that is noisy
#
# At each t we draw `draws` gradients, each of a batch of its own points and noise. Their mean estimates the gradient g_t,
# and their scatter is the noise. For two different t the product of the means is an unbiased estimate of g_t · g_s. For
# one t it is too large by the noise that is left in the mean, so there we take the mean of all products of two different
# draws. Every figure is computed again without each eighth of the draws, which gives its standard error (the jackknife;
# Efron & Stein 1981).


# %%
def gradients(diffusion, model, points, draws, batch, rng):
    """(times, draws, parameters): one gradient of mean ‖e‖² for each t and draw."""
    parameters = model.parameters()
    found = []
    for t in np.repeat(TIMES, draws):
        x0 = points[rng.integers(len(points), size=batch)]
        eps = rng.standard_normal(x0.shape).astype(x0.dtype)
        for p in parameters.values():
            p.grad = None
        with sd.Tape() as tape:
            loss = sd.ops.mse(model(diffusion.q_sample(x0, int(t), eps), np.full(batch, t)), eps)
        tape.backward(loss)
        found.append(np.concatenate([p.grad.ravel() for p in parameters.values() if p.grad is not None]))
    return np.array(found).reshape(len(TIMES), draws, -1)


def jackknifed(g, figure):
    """figure(g) without each eighth of the draws in turn: (8, ...)."""
    parts = np.array_split(np.arange(g.shape[1]), min(8, g.shape[1]))
    return np.array([figure(np.delete(g, part, axis=1)) for part in parts])


def standard_error(values):
    """The standard error of a figure from its jackknifed values."""
    n = len(values)
    return np.sqrt((n - 1) / n * np.square(values - values.mean(0)).sum(0))


def products(g):
    """g_t · g_s, (times, times), without bias."""
    n, total = g.shape[1], g.sum(1)
    inner = total @ total.T / n**2
    np.fill_diagonal(inner, (np.square(total).sum(1) - np.square(g).sum((1, 2))) / (n * (n - 1)))
    return inner


def lengths(g):
    """‖g_t‖, (times,)."""
    return np.sqrt(np.maximum(np.diag(products(g)), 1e-12))


def cosines(g):
    """The cosine of g_t and g_s, (times, times)."""
    return np.clip(products(g) / np.outer(lengths(g), lengths(g)), -1, 1)


def noise(g):
    """√(E‖g − g_t‖²) of one gradient, (times,)."""
    return np.sqrt(np.maximum(np.square(g).sum(2).mean(1) - lengths(g) ** 2, 0))


# %% [markdown]
# ## Drawing t by importance
#
# In training each example draws its own t, with probability p_t, and its gradient g is weighed by w_t/p_t. The mean is the
# same for every p; the mean square is
#
#     Σ_t w_t² E‖g‖²_t/p_t        uniform p: T Σ w_t² E‖g‖²_t        best p ∝ w_t √E‖g‖²_t: (Σ w_t √E‖g‖²_t)²
#
# The ratio of the two is what importance sampling can save (Nichol & Dhariwal 2021, section 3.3). It is 1 where
# w_t √E‖g‖²_t is the same at all t. The gradient of one example has B times the variance of a batch's of B, so E‖g‖²_t
# follows from what we measured. Between our 16 times we interpolate on the logarithmic scale.


# %%
def saving(g, w, T, batch):
    """How many times smaller the mean square of an example's gradient is for the best p_t than for uniform t."""
    of_example = lengths(g) ** 2 + batch * noise(g) ** 2
    size = np.exp(np.interp(np.log(np.arange(1, T + 1)), np.log(TIMES), np.log(w * np.sqrt(of_example))))
    return T * np.square(size).sum() / size.sum() ** 2


# %%
def main(out="runs/lessons", small=False):
    """Train, measure at three ages, write the picture; return the headline figures."""
    rng = np.random.default_rng(0)
    diffusion = sd.GaussianDiffusion(sd.linear_schedule())
    points = sd.data.toy("swiss_roll", 20_000, rng).astype(np.float32)
    model = sd.MLP(dim=2, width=64, num_blocks=2, rng=rng)
    adam = sd.Adam(model.parameters(), lr=2e-3)
    ages, draws, batch = ((2, 4, 6), 4, 8) if small else (AGES, 64, 512)
    batches = sd.data.batches(points, 256, rng)
    T, w = diffusion.schedule.T, weights(diffusion.schedule)
    runs = []
    for step in range(1, ages[-1] + 1):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = diffusion.loss(model, next(batches), rng)
        tape.backward(loss)
        adam.step()
        if step in ages:
            runs.append((step, gradients(diffusion, model, points, draws, batch, rng)))

    picture(out, runs, w, T, batch)
    g = runs[-1][1]
    simple, vlb = (jackknifed(g, lambda g, name=name: saving(g, w[name], T, batch)) for name in ("ε", "L_vlb"))
    cosine = jackknifed(g, cosines)
    neighbours = cosine.diagonal(1, 1, 2).mean(1)
    share = jackknifed(g, lambda g: noise(g) ** 2 / (noise(g) ** 2 + lengths(g) ** 2))
    return record(out, "07_by_timestep", {
        "importance sampling saves, L_simple (times)": simple.mean(), "its standard error, L_simple": standard_error(simple),
        "importance sampling saves, L_vlb (times)": vlb.mean(), "its standard error, L_vlb": standard_error(vlb),
        "cosine of neighbouring t": neighbours.mean(), "its standard error, neighbours": standard_error(neighbours),
        "cosine of t = 1 and t = 1000": cosine[:, 0, -1].mean(),
        "its standard error, ends": standard_error(cosine[:, 0, -1]),
        "share of noise in a gradient at t = 1": share[:, 0].mean(),
        "its standard error, t = 1": standard_error(share[:, 0]),
        "share of noise in a gradient at t = 1000": share[:, -1].mean(),
        "its standard error, t = 1000": standard_error(share[:, -1]),
    })  # fmt: skip


def picture(out, runs, w, T, batch):
    """A column for each age: the gradient's length under five losses, the cosines, and what importance sampling saves."""
    colours = [INK, WARM, GREEN, "#8064a2", "black"]
    figure, axes = plt.subplots(3, len(runs), figsize=(13, 10.5), layout="constrained")
    for column, (step, g) in enumerate(runs):
        above, middle, below = axes[:, column]
        length, error = lengths(g), standard_error(jackknifed(g, lengths))
        for (name, each), colour in zip(w.items(), colours):
            scale = (each * length).max()
            above.errorbar(TIMES, each * length / scale, each * error / scale, fmt="o-", ms=3, color=colour, label=name)
        above.plot(TIMES, noise(g) / length.max(), ":", color=INK, label="ε: the noise of one batch")
        above.set(xscale="log", yscale="log", ylim=(1e-5, 20), xlabel="t",
                  title=f"after {step} steps: w_t ‖g_t‖, largest = 1")  # fmt: skip
        above.grid(alpha=0.3)
        image = middle.imshow(cosines(g), cmap="RdBu_r", vmin=-1, vmax=1, origin="lower")
        ticks = range(0, len(TIMES), 3)
        middle.set_xticks(ticks, [TIMES[i] for i in ticks])
        middle.set_yticks(ticks, [TIMES[i] for i in ticks])
        worst = standard_error(jackknifed(g, cosines)).max()
        middle.set(xlabel="t", ylabel="s")
        middle.set_title(f"cosine of g_t and g_s (standard error ≤ {worst:.2f})", fontsize=10)
        saved = [jackknifed(g, lambda g, each=each: saving(g, each, T, batch)) for each in w.values()]
        place = np.arange(len(w))
        below.bar(place, [each.mean() for each in saved], color=PALE, edgecolor=INK, yerr=list(map(standard_error, saved)),
                  capsize=4)  # fmt: skip
        below.axhline(1, color="grey", lw=0.8)
        below.set_xticks(place, list(w), fontsize=8)
        below.set(title="what importance sampling saves (times)", yscale="log", ylim=(0.9, 300))
        for i, each in enumerate(saved):
            below.text(i, each.mean() * 1.25, f"{each.mean():.3g}", ha="center", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.colorbar(image, ax=axes[1], shrink=0.8, label="cosine: white is 0")
    save(figure, out, "07_by_timestep")


# %% [markdown]
# ## Exercises
#
# 1. In `main`, take another schedule: sd.cosine_schedule(). Which w_t change, and what does importance sampling save now?
# 2. In `main`, set batch to 8. Which of the three rows of the picture changes, and which does not?
# 3. In `weights`, let L_vlb use σ_t² = β_t: var = beta. Where do the two curves part, and why only there?

# %%
if __name__ == "__main__":
    main()
