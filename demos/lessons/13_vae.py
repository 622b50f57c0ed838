# %% [markdown]
# # 13 What is a variational autoencoder? A bound, an encoder, and a gradient through noise
#
# A model with hidden variables z says p(x) = ∫ p(x | z) p(z) dz, and for a neural network nobody can compute that integral.
# Kingma & Welling (2014) bound it with a second network, the encoder q(z | x), and train both at once. The bound of a
# diffusion model is the same one; lesson 14 goes from here to there.
#
# Expect: a bound of at most 105 nats for a digit of 784 bits, after less than two minutes of training on two cores, and
# under three minutes in all. The model has 20 hidden numbers; a second one has only two, so that all of it can be drawn.
#
# `python demos/lessons/13_vae.py` writes runs/lessons/13_vae.png. It trains on 9000 of the embedded digits and tests on the
# other 1000. With `--data-dir DIR`, a folder of the four files of MNIST, it trains on 60,000 and tests on the first 1000
# test digits.

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, WARM, record, save
from scipy.stats import norm

import scratchdiff as sd
from scratchdiff import nn, ops

PIXELS, HIDDEN, BATCH = 784, 400, 128


def digits(data_dir=None):
    """(train, test, test_labels): grey values in [0, 1], (N, 784) each; no test digit is among those trained on."""
    if data_dir:
        train, (test, labels) = sd.data.mnist("train", data_dir)[0], sd.data.mnist("test", data_dir)
        test, labels = test[:1000], labels[:1000]
    else:
        images, labels = sd.data.mnist()
        order = np.random.default_rng(0).permutation(len(images))
        train, test, labels = images[order[1000:]], images[order[:1000]], labels[order[:1000]]
    return *((x.reshape(-1, PIXELS) + 1) / 2 for x in (train, test)), labels


def binarised(grey, rng):
    """Bits: each pixel is 1 with a probability that is its grey value."""
    return (rng.random(grey.shape, dtype=np.float32) < grey).astype(np.float32)


# %% [markdown]
# ## The bound
#
# For any q(z | x), by Jensen's inequality,
#
#     −log p(x) = −log E_q [p(x | z) p(z)/q(z | x)]  ≤  E_q[−log p(x | z)] + KL(q(z | x) ‖ p(z))
#
# and the gap is KL(q(z | x) ‖ p(z | x)): the better the encoder, the tighter the bound. The first term asks how well z
# tells x, the second what it costs to send z. Here p(z) = N(0, I), q(z | x) = N(μ(x), σ²(x)), and p(x | z) is a coin for
# each pixel.
#
# ## The gradient
#
# The encoder's parameters stand under the expectation, in q. Two ways lead out:
#
#     score function:     ∂/∂μ E_q[f(z)] = ∫ f(z) ∂q/∂μ dz = E_q[f(z) ∂ log q(z)/∂μ] = E_q[f(z) (z − μ)/σ²]
#     reparameterised:    z = μ + σ ε, ε ~ N(0, I), so  ∂/∂μ E_q[f(z)] = E_ε[∂f/∂z],   ∂/∂σ E_q[f(z)] = E_ε[ε ∂f/∂z]
#
# Both are unbiased. The first needs only the value of f, a single number for all 20 directions at once; the second asks f in
# which direction it falls. The picture shows what that is worth.


# %%
class VAE(nn.Module):
    """784 → 400 → (μ, log σ²) and z → 400 → 784 logits, with an SiLU at the hidden units (the paper's are tanh)."""

    def __init__(self, latents, hidden=HIDDEN, pixels=PIXELS, *, rng, dtype=np.float32):
        self.encoder_in = nn.Linear(pixels, hidden, rng=rng, dtype=dtype)
        self.encoder_out = nn.SiLULinear(hidden, 2 * latents, rng=rng, dtype=dtype)
        self.decoder_in = nn.Linear(latents, hidden, rng=rng, dtype=dtype)
        self.decoder_out = nn.SiLULinear(hidden, pixels, rng=rng, dtype=dtype)
        self.latents = latents

    def encode(self, x):
        """Mean and log-variance of q(z | x), (N, latents) each."""
        h = self.encoder_out(self.encoder_in(x))
        return h[:, : self.latents], h[:, self.latents :]

    def decode(self, z):
        """The logits of p(x | z), (N, pixels)."""
        return self.decoder_out(self.decoder_in(z))

    def nats(self, x, eps):
        """The bound on −log p(x), estimated with one ε ~ N(0, I) (N, latents) for each x: (N,)."""
        mean, logvar = self.encode(x)
        z = mean + ops.exp(logvar / 2) * eps
        prior = np.zeros(eps.shape, eps.dtype)
        kl = ops.normal_kl(mean, logvar, prior, prior)
        return kl.sum(1) - ops.bernoulli_log_prob(x, self.decode(z)).sum(1)

    def draw_eps(self, n, rng):
        return rng.standard_normal((n, self.latents), dtype=np.float32)


def shifted(grey, rng):
    """The batch, moved by up to one pixel each way: a digit that was moved is still a digit."""
    padded = np.pad(grey.reshape(-1, 28, 28), ((0, 0), (1, 1), (1, 1)))
    i, j = rng.integers(3, size=2)
    return padded[:, i : i + 28, j : j + 28].reshape(-1, PIXELS)


def batches(grey, rng, shift=True):
    """Endless batches of bits, drawn anew from grey values each time."""
    for batch in sd.data.batches(grey, BATCH, rng):
        yield binarised(shifted(batch, rng) if shift else batch, rng)


def train(vae, x_batches, steps, rng):
    """Train in place, with Adam; the weights at the end are an average over the last thousand steps or so."""
    adam, ema = sd.Adam(vae.parameters(), lr=2e-3), sd.EMA(vae.parameters(), 0.999)
    for step, x in zip(range(steps), x_batches):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = vae.nats(x, vae.draw_eps(BATCH, rng)).mean()
        tape.backward(loss)
        adam.step(sd.optim.cosine_decay(step / steps))
        ema.update()
    vae.load(ema.average)


def bound(vae, x, rng, draws=1):
    """The bound for each x, averaged over draws of ε: (N,)."""
    return np.mean([vae.nats(x, vae.draw_eps(len(x), rng)).data for _ in range(draws)], axis=0, dtype=np.float64)


# %% [markdown]
# ## How loose is the bound?
#
# Burda et al. (2016) draw K times from q and average before the logarithm:
#
#     −log p(x)  ≤  E[−log 1/K Σ_k p(x | z_k) p(z_k)/q(z_k | x)]
#
# K = 1 is the bound above. It falls with K and tends to −log p(x), so K = 1000 nearly tells what the model itself is worth.


# %%
def importance_bounds(vae, x, K, rng):
    """(N, K): column k is −log of the mean of the first k + 1 weights, for each x."""
    found = []
    for one in x:
        mean, logvar = (a.data for a in vae.encode(one[None]))
        eps = vae.draw_eps(K, rng)
        z = mean + np.exp(logvar / 2) * eps
        log_ratio = (np.square(eps) - np.square(z) + logvar).sum(1) / 2  # log p(z) − log q(z | x)
        log_p = ops.bernoulli_log_prob(np.broadcast_to(one, (K, len(one))), vae.decode(z)).data.sum(1)
        log_weight = (log_p + log_ratio).astype(np.float64)
        found.append(np.log(np.arange(1, K + 1)) - np.logaddexp.accumulate(log_weight))
    return np.array(found)


def gradients(vae, x, n, rng):
    """n estimates each of the gradient of E_q[−log p(x | z)] for one x (1, pixels), with respect to (μ, log σ²).

    {"reparameterised", "score function", "score function, less a mean": (n, 2·latents)}. The last subtracts from f the
    mean of the other draws, which changes no expectation, since E_q[∂ log q/∂μ] = 0."""
    mean, logvar = (a.data for a in vae.encode(x))
    eps, sigma = rng.standard_normal((n, vae.latents)).astype(mean.dtype), np.exp(logvar / 2)
    z = sd.Tensor(mean + sigma * eps)
    with sd.Tape() as tape:
        f = -ops.bernoulli_log_prob(np.repeat(x, n, axis=0), vae.decode(z)).sum(1)
        total = f.sum()
    tape.backward(total)
    score = np.concatenate([eps / sigma, (np.square(eps) - 1) / 2], axis=1)  # ∂ log q/∂μ, ∂ log q/∂ log σ²
    f = f.data[:, None]
    return {
        "reparameterised": np.concatenate([z.grad, z.grad * eps * sigma / 2], axis=1),
        "score function": f * score,
        "score function, less a mean": (f - (f.sum() - f) / (n - 1)) * score,
    }


def gradcheck_bound(rng):
    """The largest relative error of the reparameterised gradient against finite differences, over all weights."""
    vae = VAE(3, hidden=5, pixels=7, rng=rng, dtype=np.float64)
    x, eps = rng.integers(2, size=(4, 7)).astype(float), rng.standard_normal((4, 3))
    return sd.gradcheck(lambda *_: vae.nats(x, eps), *vae.parameters().values())


# %%
def main(out="runs/lessons", small=False, data_dir=None):
    """Train twice, compare bounds and gradients, write the picture; return the headline figures."""
    grey, test_grey, labels = digits(data_dir)
    rng = np.random.default_rng(0)
    test = binarised(test_grey, np.random.default_rng(1))
    steps, N, K = (6, 10, 10) if small else (9000, 500, 1000)

    vae = VAE(20, rng=rng)
    train(vae, batches(grey, rng), steps, rng)
    plain, weighted = bound(vae, test, rng, draws=3), importance_bounds(vae, test[:N], K, rng)
    trained_on = bound(vae, binarised(grey[:1000], rng), rng, draws=3)
    estimates = gradients(vae, test[:1], 40 if small else 4000, rng)
    spread = {name: g.std(0) for name, g in estimates.items()}
    ratios = [np.exp(np.mean(np.log(spread[name] ** 2 / spread["reparameterised"] ** 2))) for name in list(spread)[1:]]

    flat = VAE(2, rng=rng)
    train(flat, batches(grey, rng), steps // 4, rng)
    picture(out, vae, test, weighted, spread, flat, labels)
    return record(out, "13_vae", {
        "nats: test bound": plain.mean(), "nats: its standard error": plain.std() / np.sqrt(len(plain)),
        "nats: importance-weighted bound": weighted[:, -1].mean(),
        "nats: plain bound of the same digits": weighted[:, 0].mean(),
        "nats: bound of digits trained on": trained_on.mean(),
        "nats: test bound with two latents": bound(flat, test, rng, draws=3).mean(),
        "variance: score function over reparameterised": ratios[0], "variance: the same, less a mean": ratios[1],
        "gradient: error against finite differences": gradcheck_bound(rng),
    })  # fmt: skip


def picture(out, vae, test, weighted, spread, flat, labels):
    """Above: digits, the bounds, the gradients' spread. Below: the plane of two latents, as pictures and as points."""
    figure = plt.figure(figsize=(13, 8.5))
    grid = figure.add_gridspec(2, 6, height_ratios=(1, 1.25))

    rng = np.random.default_rng(5)
    mean, _ = vae.encode(test[:8])
    rows = (
        test[:8],
        probabilities(vae, mean),
        probabilities(vae, vae.draw_eps(8, rng)),
        probabilities(vae, vae.draw_eps(8, rng)),
    )
    axis = figure.add_subplot(grid[0, :2])
    axis.imshow(tile(np.concatenate(rows), 4, 8), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title="test digits, and again from 20 numbers", xticks=[], yticks=[], xlabel="lower half: drawn from the prior")

    axis = figure.add_subplot(grid[0, 2:4])
    axis.semilogx(np.arange(1, weighted.shape[1] + 1), weighted.mean(0), color=INK)
    axis.set(title="how loose is the bound?", xlabel="K, draws from the encoder", ylabel="nats per test digit")
    for K in (1, weighted.shape[1]):
        value = weighted[:, K - 1].mean()
        axis.annotate(f"{value:.1f}", (K, value), (0, 6), textcoords="offset points", ha="center")
    axis.margins(0.12)

    axis = figure.add_subplot(grid[0, 4:])
    for (name, std), colour in zip(spread.items(), (INK, WARM, GREEN)):
        axis.semilogy(np.sort(std[: vae.latents]), ".-", color=colour, label=name)
    axis.set(title="one draw of ∂/∂μ: its standard deviation", xlabel="latents, in order", ylabel="nats per unit of μ")
    axis.set_ylim(top=axis.get_ylim()[1] * 30)
    axis.set_xticks(range(0, vae.latents, 5))
    axis.legend(fontsize=9, loc="upper left")

    side = 17
    quantiles = norm.ppf((np.arange(side) + 0.5) / side)
    plane = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1).reshape(-1, 2).astype(np.float32)
    axis = figure.add_subplot(grid[1, :3])
    axis.imshow(tile(probabilities(flat, plane), side, side), cmap="gray_r", vmin=0, vmax=1)
    axis.set(title="two latents: what each place decodes to", xticks=[], yticks=[],
             xlabel="z₁, equally likely steps of N(0, 1)", ylabel="z₂")  # fmt: skip

    axis = figure.add_subplot(grid[1, 3:])
    mean = flat.encode(test)[0].data
    dots = axis.scatter(*mean.T, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=8)
    figure.colorbar(dots, ax=axis, ticks=range(10), label="class, which the model never saw")
    axis.set(title="two latents: where the encoder puts test digits", xlabel="μ₁", ylabel="μ₂")
    axis.set_aspect("equal", adjustable="datalim")
    figure.tight_layout()
    save(figure, out, "13_vae")


def probabilities(vae, z):
    """The probability of each pixel being 1, given z."""
    return ops.sigmoid(vae.decode(z)).data


def tile(images, rows, columns):
    """(rows·columns, 784) → one picture (28·rows, 28·columns)."""
    return images.reshape(rows, columns, 28, 28).transpose(0, 2, 1, 3).reshape(28 * rows, 28 * columns)


# %% [markdown]
# ## Exercises
#
# 1. In `VAE.nats`, multiply kl by 4 (a β-VAE, Higgins et al. 2017) and look at the lower right panel. What do the latents
# do, and why is the sum still a bound on −log p(x)?
# 2. In `main`, train the first model with shift=False. How far apart are the bounds of digits trained on and of test digits
# now?
# 3. In `importance_bounds`, draw z from the prior instead of q (log_ratio is then 0). How many draws would you need?

# %%
if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A variational autoencoder on binarised digits.")
    parser.add_argument("--data-dir", help="a folder of the four files of MNIST, to train on all 60,000")
    main(**vars(parser.parse_args()))
