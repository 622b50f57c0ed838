# %% [markdown]
# # 10 Where did diffusion begin? Bits that forget, and a network that remembers
#
# Before there were pictures, Sohl-Dickstein et al. (2015) made a diffusion of bits: each step replaces a few bits by
# fair coins, and a network learns to undo one step. Their data: heartbeats, twenty bits with a 1 in every fifth place.
# There are five such sequences, so the truth is known: a sequence carries log₂ 5 = 2.322 bits. They reached a bound of
# 2.414.
#
# Expect: a bound below 2.36 bits after two minutes of training on two cores, and an account of the bits that are left
# over.
#
# `python demos/lessons/10_heartbeats.py` writes runs/lessons/10_heartbeats.png.

# %%
import time

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


def train(diffusion, seconds, seed=0):
    """(model, losses): the network and its loss, in bits a sequence, at each step."""
    rng = np.random.default_rng(seed)
    network = sd.MLP(dim=LENGTH, width=64, num_blocks=2, rng=rng, dtype=np.float64)

    def model(xt, t):
        return step_back(diffusion, network(2 * xt - 1, 1000 * t / diffusion.T), xt, t)

    adam, ema = sd.Adam(network.parameters(), lr=2e-3), sd.EMA(network.parameters(), 0.999)
    losses, began = [], time.perf_counter()
    while (done := (time.perf_counter() - began) / seconds) < 1:
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = diffusion.loss(model, sd.data.heartbeats(256, rng), rng)
        tape.backward(loss)
        adam.step(sd.optim.cosine_decay(done))
        ema.update()
        losses.append(loss.item() * LENGTH / np.log(2))
    network.load(ema.average)
    return model, losses


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
    """The bound in bits a sequence, its standard error, and its terms."""
    rng = np.random.default_rng(seed)
    bound = diffusion.bound(model, sd.data.heartbeats(n, rng), rng)
    return bound.bits_per_dim * LENGTH, bound.standard_error * LENGTH, bound.terms.mean(0) / np.log(2)


# %% [markdown]
# ## Denoising and inpainting: products with a second distribution
#
# (Sohl-Dickstein et al. 2015, section 2.5.) To draw from p(x_0) r(x_0)/Z, multiply every step back by r: for
# independent bits that adds log r(1) − log r(0) to the logits. The posterior over five sequences is a formula again, so
# we can see whether it is right.


# %%
def sample_product(diffusion, model, log_odds, n, seed):
    """n draws of p(x_0) r(x_0)/Z, log_odds (20,) being log r(1) − log r(0) of each bit."""
    log_odds = np.broadcast_to(log_odds, (n, LENGTH))
    return diffusion.sample(lambda xt, t: np.asarray(model(xt, t)) + log_odds, (n, LENGTH), np.random.default_rng(seed))


def compare(diffusion, model, log_odds, n, seed):
    """(share of draws that are heartbeats, total variation between their kinds and the exact posterior, both histograms)."""
    log = SEQUENCES @ np.clip(log_odds, -50, 50)
    want = np.exp(log - log.max())
    want /= want.sum()
    hit = (sample_product(diffusion, model, log_odds, n, seed)[:, None] == SEQUENCES).all(2)
    got = hit.sum(0) / max(hit.sum(), 1)
    return hit.any(1).mean(), np.abs(got - want).sum() / 2, got, want


# %%
def main(out="runs/lessons", small=False):
    """Train, take the bound apart, draw products, write the picture; return the headline figures."""
    diffusion = sd.BinomialDiffusion(60 if small else 2000)
    model, losses = train(diffusion, 1 if small else 110)
    n = 50 if small else 1000
    ours, error, terms = bits(diffusion, model, n, 1)
    best, best_error, best_terms = bits(diffusion, exact(diffusion), n, 1)
    truth = np.log2(PERIOD)

    three_zeros = np.where(np.arange(LENGTH) < 3, -50.0, 0.0)  # the first three bits are known to be 0: two sequences remain
    noisy = np.where(np.random.default_rng(3).random(LENGTH) < 0.25, 1 - SEQUENCES[2], SEQUENCES[2])
    denoise = (2 * noisy - 1) * np.log(0.75 / 0.25)  # every bit was seen through a channel that flips a quarter of them
    inpainted = compare(diffusion, model, three_zeros, 50 if small else 1000, 4)
    denoised = compare(diffusion, model, denoise, 50 if small else 1000, 5)
    free = compare(diffusion, model, np.zeros(LENGTH), 50 if small else 1000, 6)

    picture(out, diffusion, model, terms, best_terms, [("no condition", free), ("first 3 bits known", inpainted),
            ("a quarter of the bits flipped", denoised)])  # fmt: skip
    return record(out, "10_heartbeats", {
        "bits: entropy, log2 5": truth, "bits: bound of the exact posterior": best, "bits: its standard error": best_error,
        "bits: bound of the network": ours, "bits: standard error": error,
        "bits lost by going back bit by bit": best - truth, "bits lost by the network": ours - best,
        "share of draws that are heartbeats": free[0],
        "inpainting: share that are heartbeats": inpainted[0], "inpainting: total variation to the posterior": inpainted[1],
        "denoising: share that are heartbeats": denoised[0], "denoising: total variation to the posterior": denoised[1],
        "training steps": len(losses),
    })  # fmt: skip


def picture(out, diffusion, model, terms, best_terms, products):
    """Above: a heartbeat that forgets, and one that is remembered. Below: where the bits are paid, and the products."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 7))
    rng, T = np.random.default_rng(8), diffusion.T
    moments = np.linspace(0, T, 40).astype(int)
    forth = np.array([SEQUENCES[2] if t == 0 else diffusion.q_sample(SEQUENCES[2:3], int(t), rng)[0] for t in moments])
    axes[0, 0].imshow(forth.T, cmap="Blues", aspect="auto", vmin=0, vmax=1.3, extent=(0, T, LENGTH, 0))
    axes[0, 0].set(title="forward: a heartbeat seen at 40 times, each drawn anew", xlabel="t", ylabel="bit")
    x, back = (rng.random((1, LENGTH)) < 0.5).astype(float), []
    for t in range(T, 0, -1):
        x = (rng.random(x.shape) < ops.sigmoid(model(x, np.array([t]))).data).astype(float)
        if t - 1 in moments:
            back.append(x[0])
    axes[0, 1].imshow(np.array(back).T, cmap="Blues", aspect="auto", vmin=0, vmax=1.3, extent=(T, 0, LENGTH, 0))
    axes[0, 1].set(title="backward: one path of the chain, from coins to a heartbeat", xlabel="t", ylabel="bit")

    t = np.arange(1, T + 1)
    axes[1, 0].plot(t, np.cumsum(terms[:T]), color=INK, label="network")
    axes[1, 0].plot(t, np.cumsum(best_terms[:T]), color=WARM, ls="--", label="exact posterior")
    axes[1, 0].axhline(np.log2(PERIOD), color="grey", lw=0.8, label="entropy, 2.322 bits")
    axes[1, 0].set(title="the bound, summed up to t", xlabel="t", ylabel="bits a sequence")
    axes[1, 0].legend()
    for i, (name, (share, distance, got, want)) in enumerate(products):
        place = np.arange(PERIOD) + i * (PERIOD + 1)
        axes[1, 1].bar(place - 0.2, got, 0.4, color=INK, label="drawn" if i == 0 else None)
        axes[1, 1].bar(place + 0.2, want, 0.4, color=PALE, label="exact" if i == 0 else None)
        axes[1, 1].text(place.mean(), 1.08, f"{name}\n{100 * share:.0f} % heartbeats", ha="center", fontsize=9)
    axes[1, 1].set(title="products with a second distribution", xticks=[], ylim=(0, 1.3), ylabel="share of each sequence")
    axes[1, 1].legend(loc="center right")
    figure.tight_layout()
    save(figure, out, "10_heartbeats")


# %% [markdown]
# ## Exercises
#
# 1. In `main`, set T to 200 in place of 2000. How many bits does going back bit by bit cost now, and why?
# 2. In `train`, let the network answer directly: return network(...) in place of step_back(...). How far does it come
# in the same time?
# 3. Draw from `SEQUENCES[:2]` only, in `posterior`, with the network untouched: what does the bound say of a wrong
# model?

# %%
if __name__ == "__main__":
    main()
