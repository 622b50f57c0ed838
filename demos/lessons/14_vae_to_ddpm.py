# %% [markdown]
# # 14 How does a stack of autoencoders become a diffusion model? One bound, four models
#
# Put one variational autoencoder on top of another, T of them: x ↔ z_1 ↔ z_2 ↔ ... ↔ z_T. Now fix the encoders: each
# only adds noise. Let one network serve all levels by telling it t. What you have is a diffusion model, and its bound never
# changed. (The road is Tomczak's, *Deep Generative Modeling*, 2022; his DDGM is the third stop.)
#
# Expect: nats per digit of 8×8 pixels for each stop, on two sets of digits, after two minutes on two cores; and an exact
# case that shows that the bound is one, where the objective of the published DDGM is none.
#
# `python demos/lessons/14_vae_to_ddpm.py` writes runs/lessons/14_vae_to_ddpm.png.

# %%
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, PALE, WARM, record, save

import scratchdiff as sd
from scratchdiff import nn, ops
from scratchdiff.diffusion.bound import prior_kl, step_nats

D, WIDTH, BATCH = 64, 128, 64
VALUES = 2 * np.arange(17) / 17 - 1  # what a pixel k = 0..16 is as a number

# %% [markdown]
# ## Two sets of small digits
#
# The 1797 digits of scikit-learn have 8×8 pixels with the values 0..16. We make more of the kind: the middle 24×24 pixels
# of the embedded digits, averaged over blocks of 3×3.


# %%
def pooled_digits():
    """(train, validation, test): whole numbers 0..16, (9000, 64), (500, 64), (500, 64), all from the embedded digits."""
    grey = (sd.data.mnist()[0][:, 2:26, 2:26, 0] + 1) / 2
    k = np.round(16 * grey.reshape(-1, 8, 3, 8, 3).mean((2, 4))).astype(int).reshape(-1, D)
    return np.split(np.random.default_rng(0).permutation(k), [9000, 9500])


def scikit_digits():
    """The same from scikit-learn, (1000, 64), (350, 64), (447, 64), in the order of the file."""
    from sklearn.datasets import load_digits

    return np.split(load_digits().data.astype(int), [1000, 1350])


# %% [markdown]
# ## The bound
#
# With z_0 = x, one inequality holds for all four models:
#
#     −log p(x) ≤ E_q [ −log p(z_T) − Σ_t log p(z_{t−1} | z_t) + Σ_t log q(z_t | z_{t−1}) ]
#
# All of these are normal distributions but p(x | z_1), which must be a probability of 17 values. We take a normal density at
# these values and divide by its sum.


# %%
def log_prob_on_grid(k, mean, logvar):
    """log p(k) of a normal density restricted to the 17 VALUES, entry by entry: (N, D)."""
    precision = ops.exp(-logvar)
    d = VALUES.astype(np.float32) - mean.reshape(*mean.shape, 1)
    log_density = d * d * precision.reshape(*mean.shape, 1) * -0.5  # (N, D, 17)
    top = log_density.data.max(2)
    log_sum = ops.log(ops.exp(log_density - top[..., None]).sum(2)) + top
    d = VALUES[k] - mean
    return d * d * precision * -0.5 - log_sum


def unit_normal(k, mean, logvar):
    """log N(VALUES[k]; mean, 1): a density, and the likelihood of the published DDGM. No probability of 17 values."""
    return ops.normal_log_prob(VALUES[k].astype(mean.dtype), mean, np.zeros(mean.shape, mean.dtype))


class Level(nn.Module):
    """The mean and log-variance of a normal distribution, given z (N, D): three linear layers, which start at N(0, I)."""

    def __init__(self, rng):
        self.dense1, self.dense2 = nn.Linear(D, WIDTH, rng=rng), nn.SiLULinear(WIDTH, WIDTH, rng=rng)
        self.dense3 = nn.SiLULinear(WIDTH, 2 * D, rng=rng, zero=True)

    def __call__(self, z):
        h = self.dense3(self.dense2(self.dense1(z)))
        return h[:, :D], h[:, D:]


class Ladder(nn.Module):
    """T levels. beta None: q(z_t | z_{t−1}) is learned; T = 1 is then a VAE. Else it is N(√(1−β) z_{t−1}, β I)."""

    def __init__(self, T, rng, beta=None, likelihood=log_prob_on_grid):
        self.down = [Level(rng) for _ in range(T)]  # down[t − 1]: p(z_{t−1} | z_t)
        self.up = [Level(rng) for _ in range(T if beta is None else 0)]
        self.beta, self.likelihood = beta, likelihood

    def q(self, t, z):
        """Mean and log-variance of q(z_t | z_{t−1} = z)."""
        if self.beta is None:
            return self.up[t - 1](z)
        return np.sqrt(1 - self.beta).astype(z.dtype) * z, np.full(z.shape, np.log(self.beta), z.dtype)

    def nats(self, k, rng):
        """The bound on −log p(k), with one draw from q for each of the digits: (N,)."""
        z, total, T = VALUES[k].astype(np.float32), 0, len(self.down)
        for t in range(1, T + 1):
            mean, logvar = self.q(t, z)
            eps = rng.standard_normal(z.shape, dtype=np.float32)
            z_next = mean + ops.exp(logvar / 2) * eps
            mean_p, logvar_p = self.down[t - 1](z_next)
            log_p = self.likelihood(k, mean_p, logvar_p) if t == 1 else ops.normal_log_prob(z, mean_p, logvar_p)
            if t < T:  # E log q(z_t | z_{t−1}), in closed form
                log_q = -0.5 * (logvar + float(np.log(2 * np.pi * np.e)))
            else:  # E log q(z_T | z_{T−1}) − E log p(z_T), in closed form too
                zero = np.zeros(z.shape, z.dtype)
                log_q = ops.normal_kl(mean, logvar, zero, zero)
            total = total + (log_q - log_p).sum(1)
            z = z_next
        return total

    def sample(self, n, rng):
        """n digits (n, D): down the ladder from N(0, I), and the mean of p(x | z_1) at its end."""
        z = rng.standard_normal((n, D), dtype=np.float32)
        for t in range(len(self.down), 0, -1):
            mean, logvar = (a.data for a in self.down[t - 1](z))
            z = mean if t == 1 else mean + np.exp(logvar / 2) * rng.standard_normal(z.shape, dtype=np.float32)
        return z


# %% [markdown]
# ## The fourth model
#
# Where q only adds noise, z_t can be drawn without z_1, ..., z_{t−1}, and the sum over t regroups into Kullback–Leibler
# divergences (Ho et al. 2020, Eq. 5):
#
#     L_T + Σ_{t>1} E KL(q(z_{t−1} | z_t, x) ‖ p(z_{t−1} | z_t)) + E[−log p(x | z_1)]
#
# So a training step needs one t and not all: T no longer costs anything. β is chosen so that ᾱ_T = 0.005 for every T: the
# same way from digits to noise, cut into more and smaller steps.


# %%
class Shared(nn.Module):
    """T steps of diffusion, and one network for all of them: `sd.GaussianDiffusion` with the likelihood of 17 values."""

    def __init__(self, T, rng):
        beta = 1 - 0.005 ** (1 / T)
        self.diffusion = sd.GaussianDiffusion(sd.constant_schedule(T, beta), predict="v", variance="learned")
        self.network = sd.MLP(D, WIDTH, num_blocks=2, out_dim=2 * D, rng=rng)

    def estimate(self, xt, t):
        """(x0_hat, logvar) of p(x_{t−1} | x_t), as Tensors."""
        prediction, logvar = self.diffusion.split_output(self.network(xt, t), xt, t)
        return self.diffusion.predict_x0(xt, t, prediction), logvar

    def nats(self, k, rng):
        """The bound on −log p(k), with one draw of x_1, and one of t > 1 and x_t, for each of the digits: (N,)."""
        x, diffusion, T = VALUES[k].astype(np.float32), self.diffusion, self.diffusion.schedule.T

        def noisy(t):
            return diffusion.q_sample(x, t, rng.standard_normal(x.shape, dtype=np.float32))

        first = np.ones(len(x), int)
        x1 = noisy(first)
        t = rng.integers(2, T + 1, len(x))
        xt = noisy(t)
        step = step_nats(diffusion, *self.estimate(xt, t), x, xt, t)
        return (
            prior_kl(diffusion, x).astype(x.dtype) + (T - 1) * step - log_prob_on_grid(k, *self.estimate(x1, first)).sum(1)
        )

    def sample(self, n, rng):
        """n digits (n, D) by ancestral sampling."""
        return sd.sample_ddpm(self.diffusion, self.network, (n, D), rng)


# %%
def mean_nats(model, k, draws, seed=0):
    """(mean, standard error) of the bound over digits, each averaged over its draws."""
    rng = np.random.default_rng(seed)
    nats = np.mean([model.nats(k, rng).data for _ in range(draws)], axis=0, dtype=np.float64)
    return nats.mean(), nats.std(ddof=1) / np.sqrt(len(nats))


def fit(model, data, steps, seed=0):
    """Train; keep the averaged weights of the lowest validation bound; return the test bound and its standard error."""
    rng = np.random.default_rng(seed)
    train, validation, test = data
    adam, ema = sd.Adam(model.parameters(), lr=4e-3), sd.EMA(model.parameters(), 0.99)
    best, kept = np.inf, ema.average
    for step, k in zip(range(1, steps + 1), sd.data.batches(train, BATCH, rng)):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = model.nats(k, rng).mean()
        tape.backward(loss)
        sd.optim.clip_grad_norm(model.parameters(), 100.0)
        adam.step(sd.optim.cosine_decay(step / steps))
        ema.update()
        if step % max(1, steps // 15) == 0:
            with ema.applied():
                nats, _ = mean_nats(model, validation, 5)
            if nats < best:
                best, kept = nats, {name: a.copy() for name, a in ema.average.items()}
    model.load(kept)
    return mean_nats(model, test, 20)


def models(rng):
    """The road from the VAE to diffusion, {name: model}."""
    return {
        "VAE": Ladder(1, rng),
        "5 levels, learned q": Ladder(5, rng),
        "5 levels, q = diffusion": Ladder(5, rng, beta=0.6),
        "shared, T = 5": Shared(5, rng),
        "shared, T = 20": Shared(20, rng),
        "shared, T = 100": Shared(100, rng),
    }


def without_latents(train, test):
    """Nats per test digit of pixels that know nothing of each other: each a histogram of the 17 values."""
    counts = np.stack([np.bincount(pixel, minlength=17) for pixel in train.T]) + 0.1
    log_p = np.log(counts / counts.sum(1, keepdims=True))
    return -log_p[np.arange(D), test].sum(1).mean()


# %% [markdown]
# ## Is it a bound?
#
# Take one number x for a digit and straight lines for networks: p(z_{t−1} | z_t) = N(a_t z_t, v_t), p(z_T) = N(0, s²). Then
# p(x) is normal, with a variance that we get by going down the ladder, var_{t−1} = a_t² var_t + v_t. All expectations
# under q are moments of normal distributions, so the bound is exact too, with no sampling. Two things must hold:
#
# - for any a, v and s, bound ≥ −log p(x) at every x;
# - if the ladder is q reversed, a_t = √(1−β) var_{t−1}/var_t and v_t = β var_{t−1}/var_t with q's own variances, then
#   q(z | x) = p(z | x), and bound = −log p(x) at every x.
#
# The published DDGM (T = 5, β = 0.6; about 134.3 nats on scikit-learn's digits) sums something else: log q(z_t | z_t) in
# place of log q(z_t | z_{t−1}), and it holds z_t against the prediction of another level, the one that leads from z_{T−t+1}
# to z_{T−t}. For T = 5 that asks level 3 to predict z_3 from z_3. It can copy, with a variance v_3 as small as it likes, and
# then the sum falls as ½ log v_3, without limit, while the model p gets worse and worse. So that figure is no bound on
# anything. (With the same likelihood, N(x; μ, I), one constant picture already reaches 67 nats.)


# %%
def line_ladder(a, v, s2, beta, x, as_published=False):
    """(bound, −log p(x)) of straight lines, exactly, for numbers x; a, v: (T,), entry t − 1 for p(z_{t−1} | z_t)."""
    T = len(a)
    alpha_bar = (1 - beta) ** np.arange(T + 1)
    LOG_2PI = np.log(2 * np.pi)

    def moment(i, j):
        """E[z_i z_j | x] under q."""
        i, j = min(i, j), max(i, j)
        return np.sqrt(alpha_bar[i] * alpha_bar[j]) * x**2 + np.sqrt(alpha_bar[j] / alpha_bar[i]) * (1 - alpha_bar[i])

    def cross_entropy(i, level):
        """E[−log N(z_i; a z_level, v)] with the line that leads down from that level."""
        line, var = a[level - 1], v[level - 1]
        square = moment(i, i) - 2 * line * moment(i, level) + line**2 * moment(level, level)
        return (LOG_2PI + np.log(var) + square / var) / 2

    total = (LOG_2PI + np.log(s2) + moment(T, T) / s2) / 2  # E[−log p(z_T)]
    for t in range(1, T + 1):
        square = (1 - np.sqrt(1 - beta)) ** 2 * moment(t, t) if as_published else beta
        total = total - (LOG_2PI + np.log(beta) + square / beta) / 2  # E[log q(z_t | z_{t−1})]
        total = total + cross_entropy(t - 1, T - t + 2 if as_published and t > 1 else t)
    var = s2
    for t in range(T, 0, -1):
        var = a[t - 1] ** 2 * var + v[t - 1]
    return total, (LOG_2PI + np.log(var) + x**2 / var) / 2


def reversed_q(T, beta, data_var):
    """(a, v, s²) of the ladder that is q reversed, for x ~ N(0, data_var)."""
    alpha_bar = (1 - beta) ** np.arange(T + 1)
    var = alpha_bar * data_var + 1 - alpha_bar
    return np.sqrt(1 - beta) * var[:-1] / var[1:], beta * var[:-1] / var[1:], var[-1]


def gap(a, v, s2, x, as_published=False):
    """By how much the objective lies above −log p(x), for T = 5 and β = 0.6."""
    objective, truth = line_ladder(a, v, s2, 0.6, x, as_published)
    return objective - truth


# %%
def main(out="runs/lessons", small=False):
    """Train the models on both sets of digits, work out the exact case, write the picture; return the headline figures."""
    data, steps = {"MNIST, 8×8": pooled_digits()}, {"MNIST, 8×8": 2 if small else 1200}
    if find_spec("sklearn"):  # a tenth of the digits, so sooner at its best
        data["scikit-learn"], steps["scikit-learn"] = scikit_digits(), 2 if small else 800
    if small:
        data = {name: [part[:40] for part in parts] for name, parts in data.items()}

    nats, drawn = {}, {}
    for set_name, parts in data.items():
        for name, model in models(np.random.default_rng(0)).items():
            nats[set_name, name] = fit(model, parts, steps[set_name])
            print(f"{set_name:<14}{name:<26}{nats[set_name, name][0]:8.1f} ± {nats[set_name, name][1]:.1f} nats", flush=True)
            drawn[set_name, name] = model.sample(6, np.random.default_rng(1))
    free = {name: without_latents(train, test) for name, (train, _, test) in data.items()}

    train, _, test = parts  # of scikit-learn, where it is installed
    density, density_error = fit(Ladder(5, np.random.default_rng(0), 0.6, unit_normal), parts, steps[set_name])
    mean = VALUES[train].mean(0)
    constant = np.mean(np.square(VALUES[test] - mean).sum(1) + D * np.log(2 * np.pi)) / 2

    x = np.linspace(-3, 3, 121)
    a, v, s2 = reversed_q(5, 0.6, 0.25)
    copying = np.where(np.arange(5) == 2, 1.0, a), np.where(np.arange(5) == 2, 1e-4, v), s2
    gaps = {
        "our bound, p is q reversed": gap(a, v, s2, x),
        "our bound, another p": gap(0.8 * a, 1.3 * v, 1.0, x),
        "published objective, p is q reversed": gap(a, v, s2, x, as_published=True),
        "published objective, z₃ copied": gap(*copying, x, as_published=True),
    }
    picture(out, nats, free, drawn, x, gaps)

    figures = {f"nats: {name}, {of}": value for (of, name), (value, _) in nats.items()}
    return record(out, "14_vae_to_ddpm", figures | {f"nats: no latents, {of}": value for of, value in free.items()} | {
        "nats: largest standard error": max(error for _, error in nats.values()),
        "density, T = 5, beta = 0.6: our bound in nats": density, "density: its standard error": density_error,
        "density: one constant picture, nats": constant,
        "exact case: smallest gap of our bound with another p": gaps["our bound, another p"].min(),
        "exact case: largest gap where it must be 0": np.abs(gaps["our bound, p is q reversed"]).max(),
        "exact case: largest gap of the published objective, z_3 copied": gaps["published objective, z₃ copied"].max(),
    })  # fmt: skip


def picture(out, nats, free, drawn, x, gaps):
    """Left: the bounds. Middle: digits drawn from each model. Right: the exact case."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.2), width_ratios=(1.35, 1, 1))
    sets, names = list(free), list(dict.fromkeys(name for _, name in nats))
    for i, (of, colour) in enumerate(zip(sets, (INK, PALE))):
        place = np.arange(len(names)) + 0.4 * (i - (len(sets) - 1) / 2)
        value, error = np.array([nats[of, name] for name in names]).T
        axes[0].barh(place, value, 0.38, xerr=error, color=colour, label=f"{of}; no latents: {free[of]:.0f}")
        for y, v, e in zip(place, value, error):
            axes[0].text(v + e + 2, y, f"{v:.1f}", va="center", fontsize=9)
    axes[0].set(
        title="one bound on −log p, test digits", xlabel="nats per digit", yticks=range(len(names)), yticklabels=names
    )
    axes[0].set_xlim(0, 1.15 * max(value for value, _ in nats.values()))
    axes[0].invert_yaxis()
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.4, -0.13), ncol=2, fontsize=9, frameon=False)

    rows = np.concatenate([drawn[sets[-1], name].reshape(-1, 8, 8) for name in names])
    padded = np.pad(rows, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    columns = len(rows) // len(names)
    tiles = padded.reshape(len(names), columns, 10, 10).transpose(0, 2, 1, 3).reshape(10 * len(names), 10 * columns)
    axes[1].imshow(tiles, cmap="gray_r", vmin=-1, vmax=1, aspect="auto")
    axes[1].set(title=f"drawn from each model ({sets[-1]})", xticks=[], yticks=[])

    for (name, above), style in zip(
        gaps.items(), (dict(color=INK), dict(color=GREEN), dict(color=WARM, ls="--"), dict(color=WARM))
    ):
        axes[2].plot(x, above, label=name, **style)
    axes[2].axhline(0, color="grey", lw=0.8)
    axes[2].set(title="an exact case: objective − (−log p(x))", xlabel="x", ylabel="nats", ylim=(-8, 5))
    axes[2].legend(fontsize=9, loc="lower center")
    figure.tight_layout()
    save(figure, out, "14_vae_to_ddpm")


# %% [markdown]
# ## Exercises
#
# 1. In `models`, give `Ladder(5, rng, beta=...)` the values 0.3 and 0.9. Which terms of the bound get cheaper, which dearer?
# 2. In `Shared`, let the network predict "eps" in place of "v". For which t does a small error in ε become a large one in
# x_0, and what does that do to the bound?
# 3. In `line_ladder`, put `reversed_q` with data_var = 1 and s² = 1: every z_t is then N(0, 1). Show with pencil and paper
# that a_t = √(1−β), and that the gap is 0.

# %%
if __name__ == "__main__":
    main()
