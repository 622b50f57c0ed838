# %% [markdown]
# # 04 How does an image become noise, and what would bring it back?
#
# Diffusion destroys an image in T small steps, and a network learns to go back. The way there needs no network: it is a
# few lines of algebra with normal distributions, and every line can be checked. So can the way back, for somebody who
# knows where the image came from. At the end we see what happens if T is too small, as it is in many first programs.
#
# Expect: the closed form equal to 1000 single steps, to fifteen digits; Bayes' rule on a grid equal to the formula; and
# samplers that start from the wrong place. It takes half a minute on two cores.
#
# `python demos/lessons/04_forward_diffusion.py` writes runs/lessons/04_forward_diffusion.png.

# %%
import warnings

import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, PALE, WARM, record, save

import scratchdiff as sd

# %% [markdown]
# ## Step by step, and at once
#
# One step shrinks x a little and adds a little noise, z ~ N(0, 1), so that a variance of 1 stays 1:
#
#     x_t = √α_t x_{t−1} + √β_t z,     β_t = 1 − α_t
#
# Given x_0, every x_t is normal, since sums of normal numbers are. Its mean is m_t x_0 and its variance v_t, with
#
#     m_t = √α_t m_{t−1},     v_t = α_t v_{t−1} + β_t,     m_0 = 1,  v_0 = 0
#
# Try v_t = 1 − m_t²: α_t (1 − m_{t−1}²) + β_t = 1 − α_t m_{t−1}² = 1 − m_t². So with ᾱ_t = α_1 α_2 ⋯ α_t
#
#     x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε,     ε ~ N(0, 1)                                       (Ho et al. 2020, Eq. 4)
#
# Training can therefore jump to any t at once.


# %%
def step_by_step(schedule):
    """(m_t, v_t) for t = 0..T by the recursion, one step after another."""
    m, v = [1.0], [0.0]
    for t in range(1, schedule.T + 1):
        m.append(np.sqrt(schedule.alpha[t]) * m[-1])
        v.append(schedule.alpha[t] * v[-1] + schedule.beta[t])
    return np.array(m), np.array(v)


def walk(schedule, x0, rng):
    """x_T by T draws of q(x_t | x_{t−1})."""
    x = x0
    for t in range(1, schedule.T + 1):
        x = np.sqrt(schedule.alpha[t]) * x + np.sqrt(schedule.beta[t]) * rng.standard_normal(x.shape)
    return x


# %% [markdown]
# ## One step back, if x_0 is known
#
# Somebody sees x_t and knows x_0. Where was x_{t−1}? Bayes' rule:
#
#     q(x_{t−1} | x_t, x_0) ∝ q(x_t | x_{t−1}) · q(x_{t−1} | x_0)
#
# Both factors are normal in x_{t−1}: the first says that it lies near x_t/√α_t, with precision α_t/β_t; the second that
# it lies near √ᾱ_{t−1} x_0, with precision 1/(1−ᾱ_{t−1}). In a product of normal densities the precisions add up, and
# the mean is the mean of the two, weighted by them:
#
#     1/β̃_t = α_t/β_t + 1/(1−ᾱ_{t−1})        ⟹   β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) · β_t
#     μ̃_t = β̃_t (√α_t/β_t · x_t + √ᾱ_{t−1}/(1−ᾱ_{t−1}) · x_0)                           (Ho et al. 2020, Eq. 6, 7)
#
# We multiply the two densities on a fine grid, and compare mean and variance with `diffusion.q_posterior`.


# %%
def bayes(diffusion, x0, xt, t, grid):
    """The density of q(x_{t−1} | x_t, x_0) on the grid, by multiplying the two factors."""
    schedule = diffusion.schedule
    likelihood = np.exp(-((xt - np.sqrt(schedule.alpha[t]) * grid) ** 2) / (2 * schedule.beta[t]))
    mean, var = np.sqrt(schedule.alpha_bar[t - 1]) * x0, 1 - schedule.alpha_bar[t - 1]
    prior = np.exp(-((grid - mean) ** 2) / (2 * var))
    density = likelihood * prior
    return density / (density.sum() * (grid[1] - grid[0]))


def posterior_error(diffusion, x0=0.8, seed=0):
    """The largest relative error of the formula's standard deviation and mean, against Bayes' rule on a grid."""
    rng, errors = np.random.default_rng(seed), []
    for t in (2, 10, 100, 500, 1000):
        xt = diffusion.q_sample(np.array([x0]), t, rng.standard_normal(1))
        mean, logvar = diffusion.q_posterior(np.array([x0]), xt, t)
        std = np.exp(0.5 * logvar)
        grid = np.linspace(mean - 10 * std, mean + 10 * std, 20_001)[:, 0]
        weight = bayes(diffusion, x0, xt, t, grid) * (grid[1] - grid[0])
        by_grid = (weight * grid).sum()
        errors += [abs(by_grid - mean) / std, abs(np.sqrt((weight * (grid - by_grid) ** 2).sum()) / std - 1)]
    return float(np.max(errors))


# %% [markdown]
# ## When T is too small
#
# Sampling begins with x_T ~ N(0, 1). This is right only if nothing of x_0 is left in x_T, that is, if ᾱ_T is nearly 0.
# The schedule of Ho et al. was made for T = 1000; with fewer steps and the same β the noise stops half-way. Four
# well-known first programs, by their T and β. We give each the *exact* denoiser of one pixel, which is dark (−1) three
# times in four and bright (+1) else, and sample with Algorithm 2. Whatever goes wrong is the fault of the schedule.

# %%
PROGRAMS = {
    "S-curve notebook, T = 100": lambda: sd.sigmoid_beta_schedule(100, 1e-5, 0.005),
    "tiny-diffusion, T = 50": lambda: sd.linear_schedule(50),
    "annotated diffusion, T = 200": lambda: sd.linear_schedule(200),
    "Ho et al., T = 1000": lambda: sd.linear_schedule(1000),
}
DARK = 0.75  # the share of the data that is dark


def pixel(diffusion):
    """The exact denoiser of the pixel: two narrow peaks."""
    return sd.Oracle(diffusion, np.array([[-1.0], [1.0]]), 0.01, weights=[DARK, 1 - DARK])


def what_is_left(n, seed=0):
    """{program: (ᾱ_T, share of dark samples, samples)}."""
    rows = {}
    for name, make in PROGRAMS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns of such schedules, and we want them
            diffusion = sd.GaussianDiffusion(make())
        x = sd.sample_ddpm(diffusion, pixel(diffusion), (n, 1), np.random.default_rng(seed))
        rows[name] = diffusion.schedule.alpha_bar[-1], (x < 0).mean(), x[:, 0]
    return rows


# %%
def main(out="runs/lessons", small=False):
    """Check the closed form and Bayes' rule, sample with four schedules, draw; return the headline figures."""
    diffusion = sd.GaussianDiffusion(sd.linear_schedule())
    schedule = diffusion.schedule
    m, v = step_by_step(schedule)
    n = 200 if small else 20_000
    walked = walk(schedule, np.full(n, 0.8), np.random.default_rng(1))
    rows = what_is_left(n)
    picture(out, diffusion, rows)
    shares = {f"share of dark pixels, {name}": share for name, (_, share, _) in rows.items()}
    return record(out, "04_forward_diffusion", {
        "closed form and recursion: largest difference of the mean": np.abs(m - np.sqrt(schedule.alpha_bar)).max(),
        "closed form and recursion: largest difference of the variance": np.abs(v - (1 - schedule.alpha_bar)).max(),
        "1000 steps from x0 = 0.8: mean": walked.mean(), "1000 steps from x0 = 0.8: variance": walked.var(),
        "posterior and Bayes' rule: largest relative difference": posterior_error(diffusion),
        **{f"alpha_bar_T, {name}": left for name, (left, _, _) in rows.items()},
        "share of dark pixels, truth": DARK, **shares,
    })  # fmt: skip


def picture(out, diffusion, rows):
    """A digit that dissolves; signal and noise; Bayes' rule at one step; and what four schedules make of a pixel."""
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(0.72, 1.2, 1))
    schedule = diffusion.schedule
    digit = sd.data.mnist()[0][7:8]
    eps = np.random.default_rng(0).standard_normal(digit.shape)
    for ax, t in zip(top.subplots(1, 8), (1, 50, 100, 200, 300, 450, 650, 1000)):
        ax.imshow(diffusion.q_sample(digit, t, eps)[0, ..., 0], cmap="gray", vmin=-1.5, vmax=1.5)
        ax.set(title=f"t = {t}\n√ᾱ = {np.sqrt(schedule.alpha_bar[t]):.2g}", xticks=[], yticks=[])

    left, right = middle.subplots(1, 2)
    m, v = step_by_step(schedule)
    left.plot(m, color=INK, label="√ᾱ_t, what is left of x_0")
    left.plot(np.sqrt(v), color=WARM, label="√(1−ᾱ_t), the noise")
    left.set(title="signal and noise, by Ho et al.'s schedule", xlabel="t", ylabel="factor")
    left.legend(loc="center right")
    t, x0, xt = 10, 0.8, 0.6
    x = np.linspace(0.45, 0.95, 1001)
    likelihood = normal(x, xt / np.sqrt(schedule.alpha[t]), schedule.beta[t] / schedule.alpha[t])
    prior = normal(x, np.sqrt(schedule.alpha_bar[t - 1]) * x0, 1 - schedule.alpha_bar[t - 1])
    right.plot(x, likelihood, color=WARM, label=f"q(x_t = {xt} | x_t₋₁)")
    right.plot(x, prior, color=GREEN, label=f"q(x_t₋₁ | x_0 = {x0})")
    right.plot(x, bayes(diffusion, x0, xt, t, x), color=INK, lw=2, label="their product, on a grid")
    mean, logvar = diffusion.q_posterior(np.array([x0]), np.array([xt]), t)
    right.plot(x[::20], normal(x[::20], mean, np.exp(logvar)), "o", color=INK, ms=4, label="q_posterior")
    right.set(title=f"Bayes' rule at t = {t}: where was x_t₋₁?", xlabel="x_t₋₁", ylabel="density")
    right.legend()

    x = np.linspace(-1.7, 1.7, 401)
    data = np.exp(pixel(diffusion).log_prob(x[:, None], 0))
    for ax, (name, (left_over, share, samples)) in zip(bottom.subplots(1, 4, sharey=True), rows.items()):
        ax.fill_between(x, data, color=PALE, label="data: 75 % dark")
        ax.hist(samples, bins=60, range=(-1.7, 1.7), density=True, histtype="step", color=WARM, label="samples")
        ax.set(xlabel="pixel", yticks=[])
        ax.set_title(f"{name}\nᾱ_T = {left_over:.2g}: {100 * share:.0f} % dark", fontsize=10)
    ax.legend(fontsize=8)
    save(figure, out, "04_forward_diffusion")


def normal(x, mean, var):
    """The density of N(mean, var) at x."""
    return np.exp(-((x - mean) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)


# %% [markdown]
# ## What the picture shows
#
# A digit is gone long before the end: at t = 450 a third of it is left, under nearly three times as much noise. The
# remaining half of the steps make sure of the rest. Below, the exact denoiser draws three quarters of the pixels dark
# only if ᾱ_T is small. The sampler starts from mean 0, but the x_T of training still have a mean below it, so the start
# says "bright". No network, however well trained, can mend this.
#
# ## Exercises
#
# 1. In `walk`, leave out the factor √α_t. What are the mean and the variance of x_T now, and what would the network
# see?
# 2. In `pixel`, centre the data and give them variance 1: means [[-0.577], [1.732]]. What is left of the error? (So a
# short schedule can go unnoticed on standardised points, and fail on images.)
# 3. In `bayes`, return likelihood / (likelihood.sum() * (grid[1] - grid[0])). Which figure notices? Why must a sampler
# guess x_0?

# %%
if __name__ == "__main__":
    main()
