# %% [markdown]
# # 22 Can you draw from a density of which you know only the slope?
#
# The score ∇ log p(x) says in which direction x becomes more likely. Song & Ermon (2019) learn it for data with noise of
# several sizes σ, and draw by walking uphill with a little noise at each step. A DDPM's network turns out to be the same
# thing, read differently.
#
# Expect: three losses with one mean and very different noise; walkers that get the weights of the modes wrong by a
# factor that theory states, and right with a ladder of noise; digits beside those of a DDPM of equal time. About two
# minutes on two cores.
#
# `python demos/lessons/22_score_matching.py` writes runs/lessons/22_score_matching.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, PALE, WARM, record, save
from scipy import stats

import scratchdiff as sd
from scratchdiff.diffusion.samplers import last
from scratchdiff.metrics import judge
from scratchdiff.recipes import MNIST, build
from scratchdiff.train import train as train_images

# %% [markdown]
# ## A network for the score
#
# Were the data N(0, I), the score would be −x/(1 + σ²). The network F only says how it differs from that:
#
#     s = −x/(1 + σ²) + F/(σ √(1 + σ²))        so that  x̂_0 = x + σ² s = x/(1 + σ²) + F σ/√(1 + σ²)
#
# At σ = 30 an error of F then moves x̂_0 by no more than itself; had we asked for σ s, it would move it thirty times as
# far (Karras et al. 2022, section 5). F is given x/√(1 + σ²), of size 1, and log σ scaled to 1..1000 like a timestep.


# %%
def score_of(network, sigmas):
    """score(x, sigma) on Tensors or arrays, sigma (N,) or one number for all."""
    low, high = np.log(sigmas[-1]), np.log(sigmas[0])

    def score(x, sigma):
        sigma = np.broadcast_to(sigma, len(x)).astype(network.dtype)
        t = 1 + 999 * (np.log(sigma) - low) / (high - low)
        scale = sigma.reshape(-1, *[1] * (x.ndim - 1))
        size = np.sqrt(1 + scale**2)
        return network(x * (1 / size), t) * (1 / (scale * size)) - x * (1 / size**2)

    return score


def train(loss, score, parameters, draw, steps, seed=0, lr=2e-3):
    """Minimise loss(score, x0, rng) on 256 points at a time."""
    rng, adam, ema = np.random.default_rng(seed), sd.Adam(parameters, lr=lr), sd.EMA(parameters, 0.995)
    for k in range(steps):
        adam.zero_grad()
        with sd.Tape() as tape:
            value = loss(score, draw(256, rng), rng)
        tape.backward(value)
        adam.step(sd.optim.cosine_decay(k / steps))
        ema.update()
    for name, p in parameters.items():
        p.data = ema.average[name]


# %% [markdown]
# ## Three losses with one mean
#
#     denoising   ½ ‖σ s + z‖²                          knows which x_0 the noise z was added to
#     trace       σ² (tr ∂s/∂x + ½ ‖s‖²) + d/2          needs no x_0, but the derivative in each direction
#     sliced      σ² (vᵀ ∂s/∂x v + ½ ‖s‖²) + d/2        the derivative in one random direction
#
# By Stein's lemma E[z·s] = σ E[tr ∂s/∂x], so all three have the same mean for every network, and the same mean gradient.
# They differ in how much a batch's gradient scatters about it.

# %%
LOSSES = {"denoising": sd.dsm_loss, "trace": sd.ism_loss, "sliced": sd.ssm_loss}
CENTRES, WIDTH, WEIGHTS = np.array([[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]]), 0.25, np.array([0.6, 0.3, 0.1])


def draw(n, rng):
    """n points of three Gaussians in the plane."""
    return CENTRES[rng.choice(3, n, p=WEIGHTS)] + WIDTH * rng.standard_normal((n, 2))


def exact_score(x, sigma):
    """∇ log Σ_k w_k N(x; c_k, (width² + σ²) I), x (N, 2)."""
    var = (WIDTH**2 + np.square(sigma)).reshape(-1, 1)
    away = CENTRES - x[:, None]
    log = np.log(WEIGHTS) - 0.5 * np.square(away).sum(2) / var
    r = np.exp(log - log.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    return (r[..., None] * away).sum(1) / var


def error_of(score, sigmas, n=4000):
    """Mean of ‖σ (s − exact)‖²/2 over the ladder: what the loss is above its floor."""
    rng = np.random.default_rng(9)
    sigma = rng.choice(sigmas, n)
    x = draw(n, rng) + sigma[:, None] * rng.standard_normal((n, 2))
    return 0.5 * np.square(sigma[:, None] * (np.asarray(score(x, sigma)) - exact_score(x, sigma))).sum(1).mean()


def gradient_noise(score, parameters, sigma, batches):
    """{loss: √(trace of the covariance of a batch's gradient)} at one noise level."""
    noise = {}
    for name, loss in LOSSES.items():
        rng, gradients = np.random.default_rng(5), []
        for _ in range(batches):
            for p in parameters.values():
                p.grad = None
            with sd.Tape() as tape:
                value = loss(score, draw(128, rng), [sigma], rng)
            tape.backward(value)
            gradients.append(np.concatenate([p.grad.ravel() for p in parameters.values() if p.grad is not None]))
        noise[name] = np.sqrt(np.var(gradients, axis=0, ddof=1).sum())
    return noise


# %% [markdown]
# ## Why one level of noise is not enough
#
# In one dimension, two modes of weights 0.2 and 0.8 at ∓4. Between them p is nearly zero, and the score on either side
# does not know how much mass lies beyond. A walker that starts in between ends on the right with a chance h(x) that
# solves ½ h'' + ½ s h' = 0, so h' ∝ 1/p: all that counts is where the valley is deepest. Later it never crosses again.
# With a ladder the walker makes up its mind where the noise is large and there is no valley.

# %%
MODES, STD, SHARES = np.array([-4.0, 4.0]), 0.5, np.array([0.2, 0.8])


def line_score(x, sigma):
    """The score of the two modes with noise σ, x (N, 1)."""
    var = STD**2 + sigma**2
    log = np.log(SHARES) - (x - MODES) ** 2 / (2 * var)
    r = np.exp(log - log.max(1, keepdims=True))
    return (r / r.sum(1, keepdims=True) * (MODES - x) / var).sum(1, keepdims=True)


def odds_of_theory(sigma):
    """The odds of the right mode for walkers that start from N(0, σ²), by h' ∝ 1/p."""
    x = np.linspace(*MODES, 20_001)
    h = np.cumsum(1 / (SHARES @ stats.norm.pdf(x, MODES[:, None], np.hypot(STD, sigma))))
    start = stats.norm.pdf(x, 0, sigma)
    share = (h / h[-1] * start).sum() / start.sum()
    return share / (1 - share)


def odds(x):
    """The odds of the right mode among walkers x."""
    share = (x > 0).mean()
    return share / (1 - share)


# %% [markdown]
# ## One network, three readings
#
#     ε̂ = −σ s        x̂_0 = x + σ² s  (Tweedie)        and at  x_t = x/√(1 + σ²),  σ² = (1−ᾱ_t)/ᾱ_t,  it is a DDPM's model


# %%
def as_eps(score, diffusion, sigmas):
    """The score as a DDPM's model(xt, t) that predicts ε. Noise beyond an end of the ladder counts as that of the end."""

    def model(xt, t):
        sigma = diffusion.schedule.sigma(t.astype(float))
        scale = sigma.reshape(-1, *[1] * (xt.ndim - 1))
        return -scale * np.asarray(score(xt * np.sqrt(1 + scale**2), np.clip(sigma, sigmas[-1], sigmas[0])))

    return model


def chain_to(sigma, images=False):
    """A chain whose last step has noise of size sigma: β from 1e-4 up to b with Σ β ≈ 1000 (1e-4 + b)/2 = log(1 + σ²)."""
    return sd.GaussianDiffusion(sd.linear_schedule(beta_end=2e-3 * np.log1p(sigma**2) - 1e-4), images=images)


# %%
def digits(steps, n, reference=None, levels=None, seed=0):
    """{name: (samples, Judgement)}: one U-Net, trained as a DDPM and by score matching, both without labels.

    It has half of the recipe's channels, to be quick. reference: the digits to judge by, None for all of them. levels: of
    the ladder, None for as many as the overlap asks."""
    images, recipe = sd.data.mnist()[0], MNIST | dict(network_args=MNIST["network_args"] | dict(num_classes=None, ch=16))
    first = sd.first_sigma(images[: 1000 if levels is None else 100])
    levels = levels or int(np.ceil(1 + np.log(first / 0.02) / np.log(sd.ratio_for_overlap(images[0].size))))
    sigmas = sd.geometric_sigmas(first, 0.02, levels)
    step, shape = sd.step_for_ladder(sigmas, 2), (n, *images.shape[1:])

    def trained(loss=None):
        rng = np.random.default_rng(seed)
        network, diffusion = build(recipe, rng)
        parameters = network.parameters()
        adam, ema = sd.Adam(parameters, lr=recipe["lr"]), sd.EMA(parameters, recipe["ema"])
        for _ in train_images(network, diffusion, images, adam, ema, rng, batch_size=recipe["batch_size"], steps=steps,
                              loss=loss):  # fmt: skip
            pass
        network.load(ema.average)
        return network, diffusion

    ddpm, diffusion = trained()
    network, _ = trained(lambda net, x0, rng, labels=None: sd.dsm_loss(score_of(net, sigmas), x0, sigmas, rng))
    score = score_of(network, sigmas)
    chain = chain_to(first, images=True)
    walk = sd.annealed_langevin_steps(lambda x, s: np.asarray(score(x, s)), sigmas, shape, np.random.default_rng(1),
                                      step, 2)  # fmt: skip
    samples = {
        "DDPM, 100 steps": sd.sample_ddpm(diffusion, ddpm, shape, np.random.default_rng(1), 100 if n > 10 else 5),
        f"score matching,\nLangevin, {levels} levels of 2": last(walk).x,
        "score matching,\nread as ε, DDPM's chain": sd.sample_ddpm(chain, as_eps(score, chain, sigmas), shape,
                                                                    np.random.default_rng(1), 100 if n > 10 else 5),
        "training digits": images[np.random.default_rng(1).permutation(len(images))[:n]],
    }  # fmt: skip
    return {name: (x, judge(np.clip(x, -1, 1), reference)) for name, x in samples.items()}, sigmas


# %%
def main(out="runs/lessons", small=False):
    """Train by three losses, walk, read one network in three ways, draw digits; return the headline figures."""
    sigmas = sd.geometric_sigmas(20, 0.05, 16)
    steps = 10 if small else 1200
    errors, scores = {}, {}
    for name, loss in LOSSES.items():
        network = sd.MLP(dim=2, width=64, num_blocks=2, rng=np.random.default_rng(0), dtype=np.float64)
        scores[name] = score_of(network, sigmas)
        train(lambda s, x, rng, loss=loss: loss(s, x, sigmas, rng), scores[name], network.parameters(), draw, steps)
        errors[name] = error_of(scores[name], sigmas)
        if name == "denoising":
            kept = network
    levels = sigmas[:: 6 if small else 1]
    noise = [gradient_noise(scores["denoising"], kept.parameters(), s, 4 if small else 20) for s in levels]
    denoised = scores["denoising"]

    n = 200 if small else 4000
    one = last(sd.annealed_langevin_steps(line_score, [0.1], (n, 1), np.random.default_rng(3), 1e-3, 100 if small else 600))
    ladder = sd.geometric_sigmas(8, 0.1, 24)
    many = last(sd.annealed_langevin_steps(line_score, ladder, (n, 1), np.random.default_rng(3), 3e-3, 3 if small else 80))

    step = sd.step_for_ladder(sigmas, 40)
    walk = list(sd.annealed_langevin_steps(lambda x, s: np.asarray(denoised(x, s)), sigmas, (100 if small else 1000, 2),
                                           np.random.default_rng(4), step, 4 if small else 40))  # fmt: skip
    chain = chain_to(sigmas[0])
    model = as_eps(denoised, chain, sigmas)
    ddim = sd.sample_ddim(chain, model, (100 if small else 1000, 2), np.random.default_rng(4), 20 if small else 200)

    def modes(x):
        return np.bincount(np.linalg.norm(x[:, None] - CENTRES, axis=2).argmin(1), minlength=3) / len(x)

    images, image_sigmas = digits(2, 8, sd.data.mnist()[0][:100], 5) if small else digits(800, 128)
    picture(out, sigmas, levels, noise, denoised, walk, images)
    by_langevin, by_ddim = modes(walk[-1].x), modes(ddim)
    (_, ddpm), (_, langevin), (_, chained), (_, real) = images.values()
    return record(out, "22_score_matching", {
        "error of the field, denoising": errors["denoising"], "error of the field, trace": errors["trace"],
        "error of the field, sliced": errors["sliced"],
        "gradient noise at the least sigma: denoising over trace": noise[-1]["denoising"] / noise[-1]["trace"],
        "gradient noise at the largest sigma: denoising over trace": noise[0]["denoising"] / noise[0]["trace"],
        "gradient noise at the least sigma: sliced over trace": noise[-1]["sliced"] / noise[-1]["trace"],
        "odds of the modes: truth": SHARES[1] / SHARES[0], "odds: one level, theory": odds_of_theory(0.1),
        "odds: one level, walkers": odds(one.x), "odds: ladder, walkers": odds(many.x),
        "largest error of a weight of three modes: Langevin": np.abs(by_langevin - WEIGHTS).max(),
        "largest error of a weight of three modes: the same network by DDIM": np.abs(by_ddim - WEIGHTS).max(),
        "digits: first sigma": image_sigmas[0], "digits: levels": len(image_sigmas),
        "digits: Fréchet, DDPM": ddpm.frechet, "digits: Fréchet, score matching and Langevin": langevin.frechet,
        "digits: Fréchet, score matching and DDPM's chain": chained.frechet,
        "digits: Fréchet, training digits": real.frechet,
        "digits: confident, DDPM": ddpm.confident, "digits: confident, score matching and Langevin": langevin.confident,
        "digits: confident, score matching and DDPM's chain": chained.confident,
        "NCSNv2, CIFAR-10: step for its ladder": sd.step_for_ladder(sd.geometric_sigmas(50, 0.01, 232), 5) / 2,
    })  # fmt: skip


def picture(out, sigmas, levels, noise, score, walk, images):
    """Five fields with walkers; the noise of three gradients; digits."""
    figure = plt.figure(figsize=(14, 9.5))
    grid = figure.add_gridspec(3, 20, height_ratios=(1.05, 1, 1), hspace=0.38)
    edge = np.linspace(-4, 4, 17)
    places = np.stack(np.meshgrid(edge, edge), -1).reshape(-1, 2)
    per_level = (len(walk) - 1) // len(sigmas)
    for column, i in enumerate(np.linspace(0, len(sigmas) - 1, 5).round().astype(int)):
        axes = figure.add_subplot(grid[0, 4 * column : 4 * column + 4])
        s = np.asarray(score(places, sigmas[i]))
        length = np.linalg.norm(s, axis=1, keepdims=True)
        unit = s / np.maximum(length, 1e-12)
        axes.quiver(*places.T, *unit.T, length[:, 0] * sigmas[i], cmap="Blues", clim=(-0.5, 1.5), scale=26, width=0.006)
        axes.scatter(*walk[(i + 1) * per_level - 1].x[:300].T, s=3, color=WARM, alpha=0.7)
        axes.set(xlim=(-4.3, 4.3), ylim=(-4.3, 4.3), xticks=[], yticks=[], title=f"σ = {sigmas[i]:.2g}")
        axes.set_aspect("equal")
        if column == 0:
            axes.set_ylabel("learned score (arrows)\nand walkers (dots)")

    axes = figure.add_subplot(grid[1:, :7])
    for name, colour in zip(LOSSES, (INK, WARM, "0.55")):
        axes.loglog(levels, [row[name] for row in noise], "o-", color=colour, label=name)
    axes.set(xlabel="σ", ylabel="standard deviation of a batch's gradient", title="three losses, one mean: their noise")
    axes.legend()

    inner = grid[1:, 11:].subgridspec(len(images), 1, hspace=0.12)
    for row, (name, (x, judgement)) in enumerate(images.items()):
        axes = figure.add_subplot(inner[row])
        strip = np.concatenate(list(x[:8, :, :, 0]), axis=1)
        axes.imshow(strip, cmap="gray_r", vmin=-1, vmax=1)
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set_color(PALE)
        text = f"{name}\nFréchet {judgement.frechet:.2f}, confident {judgement.confident:.0%}"
        axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=9)
    save(figure, out, "22_score_matching")


# %% [markdown]
# ## Exercises
#
# 1. In `draw`, set the third weight to 0.01 and the first to 0.69. Does the ladder still find the small mode, and by how
# much is its weight off?
# 2. In `main`, train with `sd.ism_loss` and sigmas from 6 down to 0.01. Which loss suffers at small σ, and why?
# 3. In `annealed_langevin_steps`, pass denoise=False for the digits. What does the Fréchet distance say of noise of size
# 0.02 that the eye does not see?

# %%
if __name__ == "__main__":
    main()
