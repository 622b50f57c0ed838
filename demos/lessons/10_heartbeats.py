# %% [markdown]
# # 10 Where did diffusion begin? Bits that forget, and a network that remembers
#
# Before there were pictures, Sohl-Dickstein et al. (2015) made a diffusion of bits: each step replaces a few bits by
# fair coins, and a network learns to undo one step. Their data: heartbeats, twenty bits with a 1 in every fifth place.
# There are five such sequences, so the truth is known: a sequence carries log₂ 5 = 2.322 bits. They reached a bound of
# 2.414.
#
# Expect: a bound of 2.33 bits after two minutes on two cores, and an account of where the bits above 2.322 are lost.
#
# `python demos/lessons/10_heartbeats.py` writes runs/lessons/10_heartbeats.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, PALE, WARM, record, save

import scratchdiff as sd
from scratchdiff import ops

LENGTH, PERIOD = 20, 5
SEQUENCES = np.array([np.arange(LENGTH) % PERIOD == k for k in range(PERIOD)], float)

# %% [markdown]
# ## The network
#
# It could answer with the logits of p(x_{t−1} = 1 | x_t) at once, as the paper's does. But these change with t by tiny
# amounts that a network learns slowly. We let it say how likely each bit of x_0 is 1, and go back one step by Bayes'
# rule, which needs no learning:
#
#     p(x_{t−1} = 1 | x_t) = Σ_b p(x_0 = b | x_t) q(x_{t−1} = 1 | x_t, x_0 = b)
#
# (Not the same work as the paper's network, 20→50→50→50 with a read-out for each of 2000 steps; ours has one read-out,
# told the time.)


# %%
def step_back(diffusion, x0_logits, xt, t):
    """The logits of p(x_{t−1} = 1 | x_t) from those of p(x_0 = 1 | x_t)."""
    one = diffusion.q_posterior(np.ones_like(xt), xt, t)
    zero = diffusion.q_posterior(np.zeros_like(xt), xt, t)
    p, q = ops.sigmoid(x0_logits), ops.sigmoid(-x0_logits)
    return ops.log(p * one + q * zero + 1e-30) - ops.log(p * (1 - one) + q * (1 - zero) + 1e-30)


def train(diffusion, steps, seed=0):
    """A model of p(x_{t−1} = 1 | x_t): the trained network and the step back."""
    rng = np.random.default_rng(seed)
    network = sd.MLP(dim=LENGTH, width=64, num_blocks=2, rng=rng, dtype=np.float64)

    def model(xt, t):
        return step_back(diffusion, network(2 * xt - 1, 1000 * t / diffusion.T), xt, t)

    adam, ema = sd.Adam(network.parameters(), lr=2e-3), sd.EMA(network.parameters(), 0.999)
    for step in range(steps):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = diffusion.loss(model, sd.data.heartbeats(256, rng), rng)
        tape.backward(loss)
        adam.step(sd.optim.cosine_decay(step / steps))
        ema.update()
    network.load(ema.average)
    return model


# %% [markdown]
# ## The best that any network can do
#
# The posterior over the five sequences, given x_t, is a formula: each explains x_t with a likelihood that is a product
# over bits. Put into the step back it is the best network there is. What is then left above 2.322 bits is the price of
# going back bit by bit: given x_t, two bits of x_{t−1} that depend on each other are drawn as if they did not.


# %%
def posterior(diffusion, xt, t):
    """P(sequence k | x_t), (N, 5)."""
    chance = diffusion.q_marginal(SEQUENCES, t)
    log = xt @ np.log(chance).T + (1 - xt) @ np.log(1 - chance).T
    weight = np.exp(log - log.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)


def exact(diffusion):
    """The model whose p(x_0 = 1 | x_t) is exact."""

    def model(xt, t):
        p = np.clip(posterior(diffusion, xt, int(t[0])) @ SEQUENCES, 1e-15, 1 - 1e-15)
        return step_back(diffusion, np.log(p) - np.log1p(-p), xt, t).data

    return model


def bits(diffusion, model, n, seed):
    """The bound in bits per sequence, its standard error, and its terms."""
    rng = np.random.default_rng(seed)
    bound = diffusion.bound(model, sd.data.heartbeats(n, rng), rng)
    return bound.bits_per_dim * LENGTH, bound.standard_error * LENGTH, bound.terms.mean(0) / np.log(2)


# %% [markdown]
# ## Denoising and inpainting: products with a second distribution
#
# (Sohl-Dickstein et al. 2015, section 2.5.) To draw from p(x_0) r(x_0)/Z, multiply every step back by r. For
# independent bits that adds log r(1) − log r(0) to the logits. The posterior over five sequences is a formula again, so
# we can see whether the draws are right:
#
# - inpainting: the first half of a heartbeat is known, so r is 0 for every other value of these bits;
# - denoising: every bit was seen through a channel that flips a quarter of them, so r is that channel's likelihood.
#
# The rule is an approximation. p(x_{t−1} | x_t) r(x_{t−1}) has to be divided by its sum Z(x_t), and the rule assumes
# that Z is the same for every x_t. That holds while r hardly changes in a step. A third case breaks it: only the first
# three bits are known, and they are 0. Two sequences fit. But the other 17 bits may decide for a sequence that needs a 1
# among the first three. Such a chain should be rare, because its Z is small. The rule does not know that: it holds the 0,
# and the chain ends in no heartbeat at all.


# %%
def sample_product(diffusion, model, log_odds, n, seed):
    """n draws of p(x_0) r(x_0)/Z, log_odds (20,) being log r(1) − log r(0) of each bit."""

    def multiplied(xt, t):
        return np.asarray(model(xt, t)) + log_odds

    return diffusion.sample(multiplied, (n, LENGTH), np.random.default_rng(seed))


def compare(diffusion, model, log_odds, n, seed):
    """(share of draws that are heartbeats, total variation of their kinds from the exact posterior, both histograms)."""
    log = SEQUENCES @ log_odds
    want = np.exp(log - log.max())
    want /= want.sum()
    hit = (sample_product(diffusion, model, log_odds, n, seed)[:, None] == SEQUENCES).all(2)
    got = hit.sum(0) / max(hit.sum(), 1)
    return hit.any(1).mean(), np.abs(got - want).sum() / 2, got, want


def conditions():
    """{name: log_odds} of the second distributions; heartbeat 2 is the one that was seen."""
    bit, seen, sure = np.arange(LENGTH), SEQUENCES[2], 50.0  # e⁻⁵⁰ stands for 0
    noisy = np.where(np.random.default_rng(3).random(LENGTH) < 0.25, 1 - seen, seen)
    return {
        "no condition": np.zeros(LENGTH),
        "10 bits\nknown": np.where(bit < 10, (2 * seen - 1) * sure, 0.0),
        "a quarter\nflipped": (2 * noisy - 1) * np.log(0.75 / 0.25),
        "3 bits\nknown": np.where(bit < 3, -sure, 0.0),
    }


# %%
def main(out="runs/lessons", small=False):
    """Train, take the bound apart, draw products, write the picture; return the headline figures."""
    diffusion = sd.BinomialDiffusion(60 if small else 2000)
    model = train(diffusion, 100 if small else 12_000)
    n = 50 if small else 1000
    ours, error, terms = bits(diffusion, model, n, 1)
    best, best_error, best_terms = bits(diffusion, exact(diffusion), n, 1)
    truth = np.log2(PERIOD)
    products = {name: compare(diffusion, model, log_odds, n, 4) for name, log_odds in conditions().items()}
    free, inpainted, denoised, hard = products.values()
    picture(out, diffusion, model, terms, best_terms, products)
    return record(out, "10_heartbeats", {
        "bits: entropy, log2 5": truth, "bits: bound of the exact posterior": best, "bits: its standard error": best_error,
        "bits: bound of the network": ours, "bits: standard error": error,
        "bits lost by going back bit by bit": best - truth, "bits lost by the network": ours - best,
        "share of draws that are heartbeats": free[0],
        "inpainting 10 bits: share that are the right heartbeat": inpainted[0] * inpainted[2][2],
        "denoising: share that are heartbeats": denoised[0], "denoising: total variation to the posterior": denoised[1],
        "inpainting 3 bits: share that are heartbeats": hard[0],
        "inpainting 3 bits: total variation to the posterior": hard[1],
    })  # fmt: skip


def picture(out, diffusion, model, terms, best_terms, products):
    """Above: a heartbeat that forgets, and one that is remembered. Below: where the bits are paid, and the products."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 7.5))
    rng, T = np.random.default_rng(8), diffusion.T
    moments = np.linspace(0, T, 41).astype(int)
    forth, back = [SEQUENCES[2]], []
    x = SEQUENCES[2:3]
    for t in range(1, T + 1):
        chance = x * (1 - diffusion.beta[t]) + 0.5 * diffusion.beta[t]
        x = (rng.random(x.shape) < chance).astype(float)
        if t in moments:
            forth.append(x[0])
    for t in range(T, 0, -1):
        x = (rng.random(x.shape) < ops.sigmoid(model(x, np.array([t]))).data).astype(float)
        if t - 1 in moments:
            back.append(x[0])
    for axis, path, ends, title in (
        (axes[0, 0], forth, (0, T), "forward: one path of q, from a heartbeat to coins"),
        (axes[0, 1], back, (T, 0), "backward: one path of p, from coins to a heartbeat"),
    ):
        axis.imshow(np.array(path).T, cmap="Blues", aspect="auto", vmin=0, vmax=1.3, extent=(*ends, LENGTH, 0))
        axis.set(title=title, xlabel="t", ylabel="bit", yticks=np.arange(0.5, LENGTH, 5), yticklabels=range(0, LENGTH, 5))

    t = np.arange(1, T + 1)
    axes[1, 0].plot(t, np.cumsum(terms[:T]), color=INK, label="network")
    axes[1, 0].plot(t, np.cumsum(best_terms[:T]), color=WARM, ls="--", label="exact posterior")
    axes[1, 0].axhline(np.log2(PERIOD), color="grey", lw=0.8, label="entropy, 2.322 bits")
    axes[1, 0].set(title="the bound, summed up to t", xlabel="t", ylabel="bits per sequence")
    axes[1, 0].legend()
    for i, (name, (share, _, got, want)) in enumerate(products.items()):
        place = np.arange(PERIOD) + i * (PERIOD + 2)
        axes[1, 1].bar(place - 0.2, share * got, 0.4, color=INK, label="drawn" if i == 0 else None)
        axes[1, 1].bar(place + 0.2, want, 0.4, color=PALE, label="exact posterior" if i == 0 else None)
        axes[1, 1].text(place.mean(), 1.04, f"{name}\n{100 * share:.0f} % heartbeats", ha="center", va="bottom", fontsize=9)
    axes[1, 1].set(title="products: the five sequences", xticks=[], ylim=(0, 1.35), ylabel="share of all draws")
    axes[1, 1].legend(loc="center left")
    figure.tight_layout()
    save(figure, out, "10_heartbeats")


# %% [markdown]
# ## Exercises
#
# 1. In `main`, set T to 200 in place of 2000. How many bits does going back bit by bit cost now, and why?
# 2. In `train`, let the network answer directly: return network(...) in place of step_back(...). How far does it come
# in the same time?
# 3. In `exact`, multiply the logits of x_0 by 0.9: the model is now a little less sure than it should be. How much does
# the bound rise? At which t?

# %%
if __name__ == "__main__":
    main()
