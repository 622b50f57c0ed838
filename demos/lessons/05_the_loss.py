# %% [markdown]
# # 05 What does the network learn, and how low can its loss fall?
#
# It is shown x_t and t and asked for the noise ε. It cannot know ε, since many pairs (x_0, ε) lead to the same x_t. So
# it learns the mean of all of them, and this one function can be read in three ways: as the noise, as the data, as the
# slope of a landscape. The loss then has a floor above zero. On data whose distribution we know, we can draw all of it.
#
# Expect: a loss that looks finished, a network that is still 7 % above the floor, and a picture that shows at which t.
# It takes half a minute on two cores, most of it training.
#
# `python demos/lessons/05_the_loss.py` writes runs/lessons/05_the_loss.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, PALE, WARM, record, save

import scratchdiff as sd
from scratchdiff.diffusion import loss_at
from scratchdiff.diffusion.bound import step_nats

# %% [markdown]
# ## The data
#
# One number, near one of three places. Its best denoiser is a formula (`sd.Oracle`), which is what a perfect network
# would answer.

# %%
PLACES, WEIGHTS, VARIANCE = np.array([[-1.4], [0.1], [1.1]]), [0.35, 0.3, 0.35], 0.15**2


def learn(diffusion, oracle, steps, seed=0):
    """(the trained model, its loss at each step): L_simple on draws of the data, as in Algorithm 1."""
    rng = np.random.default_rng(seed)
    network = sd.MLP(dim=1, width=64, num_blocks=2, rng=rng)

    def model(xt, t):
        return network(xt, t)

    adam, ema = sd.Adam(network.parameters(), lr=2e-3), sd.EMA(network.parameters(), 0.999)
    points, losses = oracle.sample(100_000, rng).astype(np.float32), []
    for batch, step in zip(sd.data.batches(points, 256, rng), range(steps)):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = diffusion.loss(model, batch, rng)
        tape.backward(loss)
        adam.step(sd.optim.cosine_decay(step / steps))
        ema.update()
        losses.append(loss.item())
    network.load(ema.average)
    return model, losses


# %% [markdown]
# ## One network, three readings
#
# Least squares makes the network answer the mean: ε̂(x_t, t) = E[ε | x_t]. Since x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε is known,
# the means of the others follow from it by the same line of algebra:
#
#     the data:   x̂_0 = (x_t − √(1−ᾱ_t) ε̂)/√ᾱ_t                = E[x_0 | x_t]
#     v:          v̂   = √ᾱ_t ε̂ − √(1−ᾱ_t) x̂_0                   (a mix of both, safe at both ends of t)
#     the score:  s   = −ε̂/√(1−ᾱ_t)                            = ∂ log p_t(x_t)/∂x_t, the slope of the log-density
#
# The last line is Tweedie's formula: the noise points away from where the data are dense.


# %%
def readings(diffusion, eps, x, t):
    """{name: array} of the four readings of one answer ε̂ at x_t = x."""
    a, s = diffusion.signal_and_noise(t, x)
    x0 = (x - s * eps) / a
    return {"ε̂, the noise": eps, "x̂_0, the data": x0, "v̂": a * eps - s * x0, "the score": -eps / s}


# %% [markdown]
# ## The same error, weighed in three ways
#
# If ε̂ is wrong by d, then x̂_0 is wrong by √((1−ᾱ)/ᾱ) d, and v̂ by d/√ᾱ. So the three losses measure the same error
# with different weights over t, and so does the bound on −log p(x_0) (lesson 20). Its term for t > 1 is a squared error
# as well:
#
#     L_{t−1} = w_t E(ε − ε̂)²,     w_t = β_t²/(2 β̃_t α_t (1−ᾱ_t))                        (Ho et al. 2020, Eq. 12)
#
# L_simple drops w_t. Is this allowed? A network that is perfect at each t minimises both. A real one has to choose, and
# w_t would spend nearly all of its effort on the smallest t, where noise is finer than anyone can see.


# %%
def bound_weights(diffusion):
    """w_t for t = 0..T, of which those of t = 0 and 1 are not used."""
    schedule = diffusion.schedule
    posterior_var = np.exp(diffusion.posterior_logvar)
    with np.errstate(divide="ignore", invalid="ignore"):
        return schedule.beta**2 / (2 * posterior_var * schedule.alpha * (1 - schedule.alpha_bar))


def term_and_square(diffusion, model, x0, t, rng):
    """(L_{t−1} as a KL divergence, w_t times the squared error), at the same x_t: they should be equal."""
    eps = rng.standard_normal(x0.shape)
    xt = diffusion.q_sample(x0, t, eps)
    eps_hat = np.asarray(model(xt, np.full(len(xt), t)), float)
    x0_hat, logvar = diffusion.denoise(model, xt, t)
    kl = step_nats(diffusion, x0_hat, logvar, x0, xt, t).data.mean()
    return kl, bound_weights(diffusion)[t] * np.square(eps - eps_hat).mean()


# %%
def main(out="runs/lessons", small=False):
    """Train, compare with the oracle at each t, take the bound, draw; return the headline figures."""
    diffusion = sd.GaussianDiffusion(sd.linear_schedule())
    oracle = sd.Oracle(diffusion, PLACES, VARIANCE, WEIGHTS)
    model, losses = learn(diffusion, oracle, 20 if small else 3000)
    x0 = oracle.sample(500 if small else 20_000, np.random.default_rng(1))
    times = np.unique(np.geomspace(1, 1000, 8 if small else 40).round().astype(int))
    learned, floor = (np.array([loss_at(diffusion, f, x0, int(t), np.random.default_rng(t)) for t in times])
                      for f in (model, oracle))  # fmt: skip
    every = np.arange(1, 1001)  # L_simple averages over all t alike
    mean_learned, mean_floor = (np.interp(every, times, each).mean() for each in (learned, floor))

    few = x0[: 20 if small else 2000]
    wide = sd.GaussianDiffusion(diffusion.schedule, variance="fixed_large")  # nearly right for a density: lesson 20
    bounds = [wide.bound(f, few, np.random.default_rng(2), draws=50).nats.sum() for f in (model, oracle)]
    pairs = [term_and_square(diffusion, model, few, t, np.random.default_rng(t)) for t in (2, 10, 100, 900)]
    picture(out, diffusion, model, oracle, losses, times, learned, floor)
    weights = bound_weights(diffusion)
    return record(out, "05_the_loss", {
        "L_simple of the network": mean_learned, "L_simple, the floor": mean_floor,
        "network above the floor, percent": 100 * (mean_learned / mean_floor - 1),
        "KL and weighted square: largest relative difference": max(abs(kl / square - 1) for kl, square in pairs),
        "weight in the bound at t = 2 over t = 1000": weights[2] / weights[1000],
        "largest excess over the floor at one t": (learned - floor).max(),
        "nats: bound of the network": bounds[0], "nats: bound of the best denoiser": bounds[1],
        "nats: -log p, the truth": -oracle.log_prob(few, 0).mean(),
    })  # fmt: skip


def picture(out, diffusion, model, oracle, losses, times, learned, floor):
    """Above: four readings of the answer at one t. Below: the training, the floor, the three losses, the weights."""
    figure = plt.figure(figsize=(13, 7.6), layout="constrained")
    above, below = figure.subfigures(2, 1)
    t, x = 250, np.linspace(-2.6, 2.6, 401)[:, None]
    density = np.exp(oracle.log_prob(x, t))
    ours = readings(diffusion, np.asarray(model(x, np.full(len(x), t)), float), x, t)
    best = readings(diffusion, oracle.eps(x, t), x, t)
    for ax, name in zip(above.subplots(1, 4), ours):
        low, high = min(best[name].min(), ours[name].min()), max(best[name].max(), ours[name].max())
        ax.fill_between(x[:, 0], low, low + density / density.max() * (high - low) / 3, color=PALE, label="density of x_t")
        ax.plot(x, best[name], color=WARM, lw=3, alpha=0.6, label="exact")
        ax.plot(x, ours[name], color=INK, lw=1.2, label="network")
        ax.set(title=f"{name}, t = {t}", xlabel="x_t")
    above.axes[0].legend(fontsize=8)

    training, of_t, three, weighing = below.subplots(1, 4)
    window = max(1, len(losses) // 40)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    training.plot(np.arange(len(smooth)) + window, smooth, color=INK, label=f"loss, mean of {window} steps")
    training.axhline(np.interp(np.arange(1, 1001), times, floor).mean(), color=WARM, ls="--", label="floor")
    training.set(title="L_simple while training", xlabel="step")
    of_t.semilogx(times, floor, color=WARM, lw=3, alpha=0.6, label="floor")
    of_t.semilogx(times, learned, color=INK, lw=1.2, label="network")
    of_t.set(title="E(ε − ε̂)² at each t", xlabel="t")
    alpha_bar = diffusion.schedule.alpha_bar[times]
    for name, factor, colour in (("ε", 1, INK), ("x_0", (1 - alpha_bar) / alpha_bar, GREEN), ("v", 1 / alpha_bar, WARM)):
        three.loglog(times, floor * factor, color=colour, label=name)
    three.set(title="the floor of three losses", xlabel="t")
    weights, every = bound_weights(diffusion), np.arange(2, 1001)
    weighing.loglog(every, weights[2:], color=INK, label="w_t of the bound")
    weighing.axhline(1, color=WARM, ls="--", label="L_simple")
    weighing.set(title="the weight of (ε − ε̂)²", xlabel="t")
    for ax in below.axes:
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    save(figure, out, "05_the_loss")


# %% [markdown]
# ## What the picture shows
#
# Above: at t = 250 the network's curves lie on the exact ones, in all four readings. Below, from left to right: the
# training loss falls quickly, then hardly at all, and one would stop. The second panel shows what the first hides:
# around t = 60 the network is far above the floor. There the noise is as wide as the peaks of the data, so the answer
# bends most quickly, and the average over all t hardly notices. To see whether a network still learns, look at its
# distance from the floor, at each t, or at its samples; never at the loss alone.
#
# The floor says where the questions are hard. At t = 1 the noise is too fine to be told from the data, so E(ε − ε̂)² is
# nearly 1; at t = 1000 x_t is the noise and the answer is trivial. For x_0 it is the other way round, and v is hard at
# both ends. So the losses of two parametrisations cannot be compared.
#
# ## Exercises
#
# 1. Make the peaks narrower: VARIANCE = 0.05**2. At which t is the network farthest from the floor now, and why there?
# 2. In `learn`, keep only 100 points: oracle.sample(100, rng). How low does the training loss fall, and what do the
# curves of the picture say about it?
# 3. In `learn`, hide the time from the network: return network(xt, 0 * t) in `model`. By how much does the loss rise
# above the floor, and at which t?

# %%
if __name__ == "__main__":
    main()
