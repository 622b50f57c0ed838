# %% [markdown]
# # 20 Where do the bits go?
#
# How probable does a diffusion model find a given image? The answer is an integral over all the ways in which it could
# have made it, and nobody can compute it. But it has an upper bound that is a sum over t (Ho et al. 2020, Eq. 5):
#
#     −log p(x_0) ≤ L_0 + L_1 + … + L_T,     L_{t−1} = E KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t))
#
# Each term is what one step back costs: the bits that you must send to somebody who has the model, so that he can take
# the same step. We take the sum apart for points whose true −log p is known, and for digits.
#
# Expect: the best denoiser within a twentieth of a bit of the truth if its variance is β_t, and 0.7 bits above it with
# β̃_t; a learned variance spares a network as much. It takes half a minute on two cores.
#
# `python demos/lessons/20_bound.py` writes runs/lessons/20_bound.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, WARM, record, save

import scratchdiff as sd
from scratchdiff.diffusion.bound import step_nats
from scratchdiff.progress import watch_training
from scratchdiff.recipes import TOY, build, with_variance
from scratchdiff.train import train

# %% [markdown]
# ## Schedules
#
# A schedule says how fast the data are lost. All that matters is the ratio of signal to noise: two schedules that pass
# through the same ratios differ only in how many steps they spend on each.

# %%
SCHEDULES = {
    "linear (2020)": sd.linear_schedule(),
    "linear, zero terminal SNR (2023)": sd.zero_terminal_snr(sd.linear_schedule()),
    "quadratic": sd.quadratic_schedule(),
    "constant": sd.constant_schedule(),
    "sigmoid in β": sd.sigmoid_beta_schedule(),
    "cosine (2021)": sd.cosine_schedule(),
    "sigmoid in ᾱ (2022)": sd.sigmoid_alpha_bar_schedule(),
    "1/(T−t+1) (2015)": sd.jsd_schedule(),
}

# %% [markdown]
# ## A network that also learns its variance
#
# The step back from t has a variance between β̃_t (right if x_0 is known) and β_t (right if x_0 is anything). A network
# with twice the outputs says where between, at each coordinate, and learns by L_hybrid = L_simple + 0.001 L_vlb (Nichol
# & Dhariwal 2021). The gradient of L_vlb stops at the mean.
#
# L_vlb is hard to train on by itself. Its estimate from single t jumps with the t that was drawn, since L_0 is
# thousands of times L_500. Drawing t as often as √E[L_t²] asks, and dividing by that probability, changes nothing on
# average and calms the gradient. We measure the noise six times during training.


# %%
def learn(points, steps, batches, rng):
    """(model, diffusion, looks): looks holds (step, noise with uniform t, noise with importance-sampled t, length)."""
    model, diffusion = build(with_variance(TOY, "learned"), rng)
    adam, ema = sd.Adam(model.parameters(), TOY["lr"]), sd.EMA(model.parameters(), TOY["ema"])
    when = {max(1, round(steps * share)) for share in (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)}
    looks, settings = [], dict(steps=steps, batch_size=TOY["batch_size"])
    for step, *_ in watch_training(train(model, diffusion, points, adam, ema, rng, **settings)):
        if step in when:
            times = warmed_up(diffusion, model, points, rng)
            uniform, _ = gradient_noise(diffusion, model, points, rng, batches)
            looks.append((step, uniform, *gradient_noise(diffusion, model, points, rng, batches, times)))
    model.load(ema.average)
    return model, diffusion, np.array(looks)


def warmed_up(diffusion, model, points, rng):
    """ImportanceTimes that know ten losses of the model, as it is, at each t: they need so many before they can start."""
    times, t = sd.ImportanceTimes(diffusion.schedule.T), np.arange(1, diffusion.schedule.T + 1)
    for _ in range(10):
        x0 = points[rng.integers(len(points), size=len(t))]
        xt = diffusion.q_sample(x0, t, rng.standard_normal(x0.shape))
        x0_hat, logvar = diffusion.denoise(model, xt, t)
        times.update(t, step_nats(diffusion, x0_hat, logvar, x0, xt, t).data)
    return times


def gradient_noise(diffusion, model, points, rng, batches, times=None):
    """(the RMS distance of a batch's gradient of L_vlb from the mean gradient, the length of that mean; NaN where it is
    too small to tell from so many batches). A gradient is the vector of all parameters."""
    gradients = []
    for _ in range(batches):
        x0 = points[rng.integers(len(points), size=TOY["batch_size"])]
        for p in model.parameters().values():
            p.grad = None
        with sd.Tape() as tape:
            loss = sd.vlb_loss(diffusion, model, x0, rng, times=times)
        tape.backward(loss)
        gradients.append(np.concatenate([p.grad.ravel() for p in model.parameters().values()]))
    variance = np.var(gradients, 0, ddof=1).sum()
    # the mean of so many gradients has some noise of its own, whose square is subtracted
    squared = np.square(np.mean(gradients, 0)).sum() - variance / batches
    return np.sqrt(variance), np.sqrt(squared) if squared > variance / batches else np.nan


# %% [markdown]
# ## The bound, term by term
#
# The data are eight small Gaussians on a ring, so the best denoiser and −log p are formulas. No denoiser has a smaller
# error than the best one, but with the variance fixed to β̃_t it pays for claiming to be surer than anyone can be. β_t
# is nearly right for a density, but at t = 1 Ho et al. take β̃_2 ("fixed large"). u = 1 in place of a learned output
# gives β_t there too, and the bound meets the truth. All rows have the same points, t and noise, so they differ by what
# they are.


# %%
def bounds_in_the_plane(model, diffusion, n, draws):
    """({name: Bound}, the true −log p in bits a coordinate) for n new points."""
    small, large = (sd.GaussianDiffusion(diffusion.schedule, TOY["predict"], v) for v in ("fixed_small", "fixed_large"))
    angles = np.arange(8) * np.pi / 4
    best = sd.Oracle(small, np.stack([np.cos(angles), np.sin(angles)], 1) / np.sqrt(0.51), 0.1**2 / 0.51)
    x0 = sd.data.toy("gaussians", n, np.random.default_rng(1))
    cases = {
        "best mean, β̃_t": (small, best),
        "best mean, β_t, but β̃_2 at t = 1": (large, best),
        "best mean, β_t": (diffusion, lambda xt, t: np.concatenate([best(xt, t).data, np.ones_like(xt)], 1)),
        "network, β̃_t": (small, lambda xt, t: model(xt, t).data[:, :2]),
        "network, learned variance": (diffusion, model),
    }
    bounds = {name: process.bound(f, x0, np.random.default_rng(0), draws=draws) for name, (process, f) in cases.items()}
    return bounds, -best.log_prob(x0, 0).mean() / (2 * np.log(2))


# %% [markdown]
# ## Digits
#
# A pixel has one of 256 values, so the bits of a digit can be counted: a compressor that used this model would need so
# many.


# %%
def bound_of_digits(n, draws):
    """The bound of the network that comes with the package, on n of its digits, given their labels."""
    model, diffusion = sd.pretrained("mnist")
    images, labels = sd.data.mnist()
    some = np.random.default_rng(0).permutation(len(images))[:n]
    return diffusion.bound(model, images[some], np.random.default_rng(0), labels[some], draws=draws)


def terms(bound):
    """(L_0, L_1 + … + L_{T−1}, L_T) in bits a dimension."""
    bits = bound.nats / (bound.dims * np.log(2))
    return bits[0], bits[1:-1].sum(), bits[-1]


# %%
def main(out="runs/lessons", small=False):
    """Train with a learned variance, take bounds apart, draw; return the headline figures."""
    points = sd.data.toy("gaussians", 100_000, np.random.default_rng(0)).astype(np.float32)
    model, diffusion, looks = learn(points, *((6, 2) if small else (2000, 40)), np.random.default_rng(0))
    bounds, truth = bounds_in_the_plane(model, diffusion, *((50, 10) if small else (1000, 50)))
    digits = bound_of_digits(*((3, 4) if small else (100, 20)))
    for name, bound in {**bounds, "digits, pretrained": digits}.items():
        first, between, last = terms(bound)
        print(f"{name:<36}L_0 {first:7.3f}   L_1..L_T-1 {between:7.3f}   L_T {last:8.1e}   "
              f"total {bound.bits_per_dim:6.3f} ± {bound.standard_error:.3f}")  # fmt: skip
    picture(out, looks, bounds, truth, digits)
    return record(out, "20_bound", {
        "bits a coordinate: -log p, the truth": truth,
        **{f"bits a coordinate: {name}": bound.bits_per_dim for name, bound in bounds.items()},
        "bits a coordinate: standard error, best mean, β_t": bounds["best mean, β_t"].standard_error,
        "gradient of L_vlb: noise, uniform t": looks[-1, 1], "gradient of L_vlb: noise, importance": looks[-1, 2],
        "digits: bits a pixel": digits.bits_per_dim, "digits: standard error": digits.standard_error,
        "digits: share of L_0 in the bits": terms(digits)[0] / digits.bits_per_dim,
    })  # fmt: skip


def picture(out, looks, bounds, truth, digits):
    """Schedules, the gradient's noise, the bound in the plane, the bound of digits."""
    figure, ((ratios, noise), (plane, pixels)) = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    for k, (name, schedule) in enumerate(SCHEDULES.items()):
        with np.errstate(divide="ignore"):
            log_snr = np.log(schedule.alpha_bar[1:] / (1 - schedule.alpha_bar[1:]))
        ratios.plot(np.arange(1, 1001) / 1000, log_snr, ls=("-", "--", "-.", ":")[k % 4], label=name)
    ratios.set(title="eight schedules", xlabel="t/T", ylabel="log SNR = log ᾱ/(1−ᾱ)", ylim=(-16, 12))
    for column, name, colour in ((1, "noise, t uniform", WARM), (2, "noise, t by importance", INK), (3, "length", GREEN)):
        noise.semilogx(looks[:, 0], looks[:, column], "o-", color=colour, label=name)
    noise.set(
        title=f"the gradient of L_vlb, batches of {TOY['batch_size']}", xlabel="training step", ylabel="norm", ylim=(0, None)
    )
    for name, bound in bounds.items():
        plane.semilogx(np.arange(1, 1001), np.cumsum(bound.nats[:-1]) / (bound.dims * np.log(2)), label=name)
    plane.axhline(truth, color="black", ls="--", lw=1, label="−log p, the truth")
    plane.set(title="points: L_0 + … + L_{t−1}", xlabel="t", ylabel="bits a coordinate")
    bits = digits.nats[:-1] / (digits.dims * np.log(2))
    pixels.semilogx(np.arange(1, 1001), np.cumsum(bits), color=INK, label="pretrained network")
    pixels.axhline(bits[0], color="grey", ls=":", label=f"L_0 alone: {bits[0]:.2f}")
    pixels.set(title=f"digits: L_0 + … + L_{{t−1}}, in all {digits.bits_per_dim:.2f}", xlabel="t", ylabel="bits a pixel",
               ylim=(0, None))  # fmt: skip
    for ax in (ratios, noise, plane, pixels):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    save(figure, out, "20_bound")


# %% [markdown]
# ## What the picture shows
#
# In the plane L_0 is negative: it is a density, and a step that ends on a spike of it earns bits. Most of the bits are
# paid below t = 100, for detail; the shape of the ring costs little. With digits it is the same: about two fifths of
# the bits go into the very last step, that is, into shades that nobody can see. L_simple does not care about these, and
# this is why it makes good pictures and poor compressors.
#
# ## Exercises
#
# 1. In `learn`, put TOY | dict(schedule="cosine") in place of TOY in the call of `with_variance`. The truth is the
# same; where does the other schedule spend its bits?
# 2. In `bounds_in_the_plane`, replace np.ones_like(xt) by -np.ones_like(xt). Which row of the table do you get, but for
# L_0?
# 3. In `gradient_noise`, use diffusion.loss(model, x0, rng) in place of sd.vlb_loss(...). How large is the noise of
# L_hybrid, beside its length?

# %%
if __name__ == "__main__":
    main()
