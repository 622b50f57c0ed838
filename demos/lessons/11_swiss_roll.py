# %% [markdown]
# # 11 What did the first diffusion of points look like? Forty steps and sixteen radial basis functions
#
# Sohl-Dickstein et al. (2015) showed their method on a swiss roll in the plane: T = 40 Gaussian steps, and a network of 16
# radial basis functions for mean and variance of each step back. They report a bound, but no roll to hold it against.
# We take a roll of known noise. Then the density of every x_t is a formula, and we can say of each bit above the truth
# who lost it: the Gaussian shape of a step, or the network.
#
# Expect: three bounds in bits per point, above the entropy of the data, after half a minute on two cores.
#
# `python demos/lessons/11_swiss_roll.py` writes runs/lessons/11_swiss_roll.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, WARM, record, save

import scratchdiff as sd
from scratchdiff import nn, ops
from scratchdiff.data.toy2d import swiss_roll

T, NOISE = 40, 0.08

# %% [markdown]
# ## The data and the process
#
# The roll is (θ cos θ, θ sin θ), θ from 3π/2 to 9π/2, scaled to variance 1, plus N(0, 0.08² I). Four hundred Gaussians
# along it give that density to six digits. `sd.Oracle` then knows p_t(x), and mean and variance of x_0 given x_t.
#
# The noise grows by the same factor at each step, σ_t = √((1−ᾱ_t)/ᾱ_t) from 0.02 to 20. (The paper learns the β_t.)


# %%
def roll(diffusion):
    """The oracle of the roll: 400 Gaussians of standard deviation NOISE, at equal steps of θ."""
    theta = np.pi * (1.5 + 3 * (np.arange(400) + 0.5) / 400)
    _, mean, var = swiss_roll(1, np.random.default_rng(0))
    return sd.Oracle(
        diffusion, (theta[:, None] * np.stack([np.cos(theta), np.sin(theta)], 1) - mean) / np.sqrt(var), NOISE**2
    )


def process():
    """T steps of Gaussian diffusion with a learned variance."""
    alpha_bar = np.concatenate([[1], 1 / (1 + np.geomspace(0.02, 20, T) ** 2)])
    return sd.GaussianDiffusion(sd.Schedule(1 - alpha_bar[1:] / alpha_bar[:-1]), predict="v", variance="learned")


# %% [markdown]
# ## Sixteen radial basis functions
#
#     φ_j(x) = exp(−‖x − c_j‖²/2 w_j²),      output at t = W_t [φ(x), x, 1]
#
# Centres c and widths w are shared; each t has a read-out of its own. The four outputs are the mean, as v, and the
# log-variance, between β̃_t and β_t (Nichol & Dhariwal 2021, Eq. 15). x and 1 beside φ carry the straight part of the step
# back, so that sixteen bumps are left for its bends.


# %%
class RadialBasis(nn.Module):
    """model(xt, t): (N, 2), (N,) → (N, 4), by `units` radial basis functions and a read-out for each t."""

    def __init__(self, units, *, rng, dtype=np.float32):
        self.centres = sd.Tensor(rng.standard_normal((units, 2)).astype(dtype))
        self.log_width = sd.Tensor(np.full(units, np.log(0.7), dtype))
        self.readout = sd.Tensor(np.zeros((T + 1, (units + 3) * 4), dtype))

    def __call__(self, xt, t):
        x = nn.layers.as_input(xt, self.centres.dtype)
        d = x.reshape(len(x), 1, 2) - self.centres
        phi = ops.exp((d * d).sum(2) * ops.exp(self.log_width * -2.0) * -0.5)
        features = ops.concat([phi, x, np.ones((len(x), 1), x.dtype)], axis=1)
        W = ops.embedding(self.readout, t).reshape(len(x), features.shape[1], 4)
        return (features.reshape(len(x), 1, -1) @ W).reshape(len(x), 4)


def train(diffusion, model, oracle, steps, seed=0):
    """Minimise the bound itself, at one t for each point; return the model with averaged weights."""
    rng = np.random.default_rng(seed)
    adam, ema = sd.Adam(model.parameters(), lr=5e-3), sd.EMA(model.parameters(), 0.999)
    data = oracle.sample(20_000, rng).astype(np.float32)
    for step, x0 in zip(range(steps), sd.data.batches(data, 512, rng)):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = sd.vlb_loss(diffusion, model, x0, rng)
        tape.backward(loss)
        sd.optim.clip_grad_norm(model.parameters(), 10.0)
        adam.step(sd.optim.cosine_decay(step / steps))
        ema.update()
    model.load(ema.average)
    return model


# %% [markdown]
# ## The best Gaussian step
#
# q(x_{t−1} | x_t) is no Gaussian: near the roll's centre a point may have come from two arms. The best Gaussian with two
# independent coordinates has its mean and its two variances. Both follow from those of x_0 given x_t, as
# x_{t−1} = m(x_0, x_t) + √β̃_t z with m linear in x_0:
#
#     mean = m(E[x_0 | x_t], x_t),      variance = β̃_t + (∂m/∂x_0)² Var(x_0 | x_t)


# %%
def best_gaussian(diffusion, oracle):
    """A model(xt, t) that puts out the exact mean, as v, and the log-variance of the best Gaussian step, as a share."""
    beta_tilde = np.exp(diffusion.posterior_logvar)
    beta_tilde[1] = 0.0

    def model(xt, t):
        posterior = oracle.posterior(xt, t)
        var_x0 = np.stack([posterior.cov_times(np.tile(e, (len(xt), 1)))[:, i] for i, e in enumerate(np.eye(2))], axis=1)
        logvar = np.log(beta_tilde[t, None] + diffusion.posterior_x0[t, None] ** 2 * var_x0)
        low, high = diffusion.posterior_logvar[t, None], diffusion.log_beta[t, None]
        return np.concatenate([oracle(xt, t), 2 * (logvar - low) / (high - low) - 1], axis=1)

    return model


# %%
def main(out="runs/lessons", small=False):
    """Train two networks, compare three bounds with the entropy, write the picture; return the headline figures."""
    diffusion = process()
    oracle = roll(diffusion)
    rng = np.random.default_rng(0)
    steps, n = (20, 100) if small else (5000, 1500)
    radial = train(diffusion, RadialBasis(16, rng=rng), oracle, steps)
    mlp = train(diffusion, sd.MLP(2, 64, num_blocks=2, out_dim=4, rng=rng), oracle, 5 if small else steps // 3)

    x0 = oracle.sample(n, np.random.default_rng(2))
    truth = -oracle.log_prob(x0, 0) / np.log(2)  # −log₂ p(x0) of the same points, so that their luck cancels
    models = {"best Gaussian step": best_gaussian(diffusion, oracle), "MLP": mlp, "16 radial basis functions": radial}
    bounds = {name: diffusion.bound(model, x0, np.random.default_rng(1)) for name, model in models.items()}
    gaussian = np.square(x0).sum(1).mean() / (2 * np.log(2)) + np.log2(2 * np.pi)
    picture(out, diffusion, oracle, radial, bounds, truth.mean(), 200 if small else 2000)
    best, of_mlp, of_radial = (2 * bound.bits_per_dim for bound in bounds.values())
    return record(out, "11_swiss_roll", {
        "bits: entropy, mean -log2 p of the points": truth.mean(), "bits: one Gaussian, N(0, I)": gaussian,
        "bits: bound of the best Gaussian step": best, "bits: bound of an MLP": of_mlp,
        "bits: bound of 16 radial basis functions": of_radial, "bits: standard error": 2 * bounds["MLP"].standard_error,
        "bits lost by Gaussian steps": best - truth.mean(), "bits lost by 16 radial basis functions": of_radial - best,
        "bits gained on one Gaussian": gaussian - of_radial,
    })  # fmt: skip


def picture(out, diffusion, oracle, model, bounds, truth, n):
    """Above: q. Below: p, by the radial basis functions. Right: where the networks lose their bits."""
    figure = plt.figure(figsize=(14, 5.2))
    grid = figure.add_gridspec(2, 6, width_ratios=(1, 1, 1, 1, 0.12, 2.2))
    rng, moments = np.random.default_rng(4), (0, 10, 16, 40)
    x0 = oracle.sample(n, rng)
    drawn = {step.t: step.x for step in sd.ddpm_steps(diffusion, model, (n, 2), rng)}
    drawn[T] = rng.standard_normal((n, 2))
    for column, t in enumerate(moments):
        above = x0 if t == 0 else diffusion.q_sample(x0, t, rng.standard_normal(x0.shape))
        for row, (x, colour, name) in enumerate(((above, INK, "q"), (drawn[t], WARM, "p"))):
            axis = figure.add_subplot(grid[row, column])
            axis.scatter(*x.T, s=1, color=colour, alpha=0.5)
            axis.set(title=f"{name}, t = {t}", xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")

    axis = figure.add_subplot(grid[:, 5])
    nats = {name: bound.nats for name, bound in bounds.items()}
    name, best = next(iter(nats.items()))
    axis.axhline(0, color=INK, label=f"{name}: {best.sum() / np.log(2):.2f} bits (entropy: {truth:.2f})")
    for (name, terms), colour in zip(list(nats.items())[1:], (GREEN, WARM)):
        lost = np.cumsum((terms - best)[T - 1 :: -1])[::-1] / np.log(2)  # by the steps T, ..., t
        axis.plot(np.arange(1, T + 1), lost, color=colour, label=f"{name}: {terms.sum() / np.log(2):.2f} bits")
    axis.set(title="bits lost against the best Gaussian step", xlabel="t", ylabel="bits per point, summed from T down to t")
    axis.margins(y=0.3)
    axis.legend(fontsize=9, loc="upper right")
    figure.tight_layout()
    save(figure, out, "11_swiss_roll")


# %% [markdown]
# ## Exercises
#
# 1. In `main`, take `RadialBasis(64, rng=rng)`. How many bits do 48 more bumps buy? Then leave out x in `features`.
# 2. Set T to 10, and to 200. Which of the two losses changes, that of the Gaussian step or that of the network?
# 3. Set NOISE to 0.02. The entropy falls by nearly 2 bits per point (why 2?). Does the bound follow?

# %%
if __name__ == "__main__":
    main()
