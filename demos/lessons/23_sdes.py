# %% [markdown]
# # 23 What becomes of a chain of a thousand steps when the steps shrink to nothing?
#
# A stochastic differential equation, dx = f(x, t) dt + g(t) dw (Song et al. 2021). Backwards in time it is one again, with
# the score in its drift; and an ordinary equation has the same densities at every t. On a mixture in one dimension the
# score is a formula, so every claim can be measured.
#
# Expect: the chain within 1/T of its limit; errors that halve with the step; and a training loss whose weight g(t)²
# buys likelihood. About a minute on two cores.
#
# `python demos/lessons/23_sdes.py` writes runs/lessons/23_sdes.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, PALE, WARM, record, save
from scipy import stats

import scratchdiff as sd
from scratchdiff.diffusion.samplers import last

SDES = {"VP": sd.VPSDE(), "sub-VP": sd.SubVPSDE(), "VE": sd.VESDE(0.01, 20.0)}
MEANS, STD, WEIGHTS = np.array([-1.0, 0.8]), 0.2, np.array([0.35, 0.65])


def draw(n, rng):
    """n points (n, 1) of the mixture."""
    return (rng.choice(MEANS, n, p=WEIGHTS) + STD * rng.standard_normal(n))[:, None]


def law(sde, t):
    """(centres, standard deviation) of the mixture at time t."""
    m, std = sde.mean_std(np.asarray(t, float))
    return m * MEANS, np.hypot(m * STD, std)


def density(x, sde, t):
    """p_t(x) for x of any shape."""
    centres, std = law(sde, t)
    return stats.norm.pdf(np.asarray(x)[..., None], centres, std) @ WEIGHTS


def distance(x, sde, t):
    """The Kolmogorov–Smirnov distance of x (n, 1) to p_t, over what a fair sample exceeds once in a hundred times."""
    centres, std = law(sde, t)
    found = stats.kstest(x[:, 0], lambda x: stats.norm.cdf(x[:, None], centres, std) @ WEIGHTS).statistic
    return found / (1.628 / np.sqrt(len(x)))


def exact_score(sde):
    """score(x, t) = ∇ log p_t(x), x (N, 1) and t (N,)."""

    def score(x, t):
        m, std = (a[:, None] for a in sde.mean_std(np.asarray(t, float)))
        var = m**2 * STD**2 + std**2
        log = np.log(WEIGHTS) - (x - m * MEANS) ** 2 / (2 * var)
        r = np.exp(log - log.max(1, keepdims=True))
        return (r / r.sum(1, keepdims=True) * (m * MEANS - x) / var).sum(1, keepdims=True)

    return score


# %% [markdown]
# ## The chain is the VP SDE seen at steps of 1/T
#
# One step of the chain keeps √(1 − β(t)/T) of x, the equation e^{−½ ∫β} over the same time. They differ by O(1/T²) a
# step, so by O(1/T) after T of them. With β from 0.1 to 20, T = 1000 is Ho et al.'s chain, 1e-4 to 0.02.


# %%
def chain_error(T):
    """The largest difference of √ᾱ_t of the chain of T steps from m(t/T) of the equation."""
    sde, t = SDES["VP"], np.arange(1, T + 1) / T
    return np.abs(sd.Schedule(sde.beta(t) / T).alpha_bar[1:] ** 0.5 - sde.mean_std(t)[0]).max()


# %% [markdown]
# ## How wrong is a step of finite size?
#
# *Strong* error: how far a path ends from the true path of the same noise. *Weak* error: how far a mean over paths is
# from the true mean. Here g does not depend on x, so both fall as the first power of the step. We hand the sampler a
# Brownian path in place of a random generator, so that 16 and 512 steps see the same noise.


# %%
class Path:
    """A Brownian path as a generator: the first draw is x at t = 1, then come the increments of `steps` equal steps."""

    def __init__(self, n, steps, finest):
        rng = np.random.default_rng(4)
        first, dw = rng.standard_normal((n, 1)), rng.standard_normal((finest, n, 1))
        together = finest // steps
        self.draws = iter([first, *(dw.reshape(steps, together, n, 1).sum(1) / np.sqrt(together))])

    def standard_normal(self, shape):
        return next(self.draws)


def orders(counts, n, finest=1024):
    """(strong, weak) errors of Euler–Maruyama at each number of steps, against `finest` steps on the same noise."""
    sde = SDES["VP"]

    def ends(steps):
        *_, at_end, _ = sd.sde_steps(sde, exact_score(sde), (n, 1), Path(n, steps, finest), steps=steps, end=0.1)
        return at_end.x[:, 0]

    true = ends(finest)
    found = [ends(c) for c in counts]
    return [np.abs(x - true).mean() for x in found], [abs(np.abs(x).mean() - np.abs(true).mean()) for x in found]


# %% [markdown]
# ## Training in continuous time
#
#     L = ½ E λ(t) ‖s(x_t, t) + z/std(t)‖²
#
# λ = std² lets all t count alike. λ = g² makes the integral over t a bound on KL(data ‖ samples) (Song, Durkan et al.
# 2021): it cares for small t, where a density is decided. Its draws of t are importance-sampled, or the noise of the loss
# would drown it.


# %%
def train(sde, likelihood, steps, seed=0):
    """The score learned by a small MLP, with one of the two weightings."""
    rng = np.random.default_rng(seed)
    network = sd.MLP(dim=1, width=48, num_blocks=2, rng=rng, dtype=np.float64)

    def score(x, t):
        return network(x, 1000 * t) * (-1 / sde.mean_std(t)[1])[:, None]

    parameters = network.parameters()
    adam, ema = sd.Adam(parameters, lr=3e-3), sd.EMA(parameters, 0.995)
    for k in range(steps):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = sd.sde_loss(sde, score, draw(256, rng), rng, likelihood, start=1e-4)
        tape.backward(loss)
        adam.step(sd.optim.cosine_decay(k / steps))
        ema.update()
    network.load(ema.average)
    return score


# %%
def main(out="runs/lessons", small=False):
    """Measure the chain's limit, marginals, orders and the two weightings; write the picture; return the figures."""
    n = 300 if small else 4000
    lengths = np.array([30, 100, 1000] if small else [30, 100, 1000, 10_000])
    chain = [chain_error(int(T)) for T in lengths]

    marginals, evaluations = {}, np.array([10, 20] if small else [20, 40, 80, 160, 320])
    for name, sde in SDES.items():
        steps = 50 if small else 600
        runs = {
            "reverse SDE": list(sd.sde_steps(sde, exact_score(sde), (n, 1), np.random.default_rng(1), steps)),
            "with corrector": list(sd.sde_steps(sde, exact_score(sde), (n, 1), np.random.default_rng(1), steps, 0.16)),
        }
        for kind, run in runs.items():
            worst = max(distance(run[i].x, sde, run[i].t) for i in (steps // 2, steps - 1))
            marginals[f"KS over its 99 % bound, {name}: {kind}"] = worst
        x = sd.sde_ode_sample(sde, exact_score(sde), (n, 1), np.random.default_rng(2))
        marginals[f"KS over its 99 % bound, {name}: ODE"] = distance(x, sde, 1e-5)

    vp = SDES["VP"]
    quality = {"predictor": [], "predictor and corrector": []}
    for budget in evaluations:  # a corrector doubles the evaluations of a step
        for kind, steps, snr in (("predictor", budget, None), ("predictor and corrector", budget // 2, 0.16)):
            x = last(sd.sde_steps(vp, exact_score(vp), (n, 1), np.random.default_rng(1), int(steps), snr)).x
            quality[kind].append(stats.wasserstein_distance(x[:, 0], draw(20 * n, np.random.default_rng(8))[:, 0]))

    counts = np.array([16, 32, 64, 128])
    strong, weak = orders(counts, n)
    slope = {kind: np.polyfit(np.log(counts), np.log(e), 1)[0] for kind, e in (("strong", strong), ("weak", weak))}

    rtol, x = 0.1 if small else 1e-4, draw(20 if small else 1000, np.random.default_rng(7))
    truth = np.log(density(x[:, 0], vp, 1e-4))
    lost, densities, grid = {}, {}, np.linspace(-2, 1.8, 10 if small else 200)[:, None]
    for name, likelihood in (("σ²", False), ("g²", True)):
        score = train(vp, likelihood, 10 if small else 2000)
        lost[name] = (truth - sd.sde_log_prob(vp, score, x, start=1e-4, rtol=rtol)).mean()
        densities[name] = np.exp(sd.sde_log_prob(vp, score, grid, start=1e-4, rtol=rtol))

    picture(out, lengths, chain, evaluations, quality, counts, strong, weak, slope, grid[:, 0], densities, lost)
    return record(out, "23_sdes", {
        "chain of 1000 steps: largest difference of √ᾱ from the SDE": chain[2],
        "chain: slope of that difference in T": np.polyfit(np.log(lengths), np.log(chain), 1)[0],
        **marginals,
        "Euler–Maruyama: strong order": -slope["strong"], "Euler–Maruyama: weak order": -slope["weak"],
        f"Wasserstein at {evaluations[0]} evaluations: predictor": quality["predictor"][0],
        f"Wasserstein at {evaluations[0]} evaluations: predictor and corrector": quality["predictor and corrector"][0],
        f"Wasserstein at {evaluations[-1]} evaluations: predictor": quality["predictor"][-1],
        f"Wasserstein at {evaluations[-1]} evaluations: predictor and corrector": quality["predictor and corrector"][-1],
        "nats lost, trained with weight σ²": lost["σ²"], "nats lost, trained with weight g²": lost["g²"],
    })  # fmt: skip


def picture(out, lengths, chain, evaluations, quality, counts, strong, weak, slope, grid, densities, lost):
    """Above: the densities of the three SDEs, with paths. Below: the chain's limit, orders, correctors, training."""
    figure = plt.figure(figsize=(15, 7.5))
    rows = figure.add_gridspec(2, 1, hspace=0.42)
    top, below = rows[0].subgridspec(1, 3, wspace=0.15), rows[1].subgridspec(1, 4, wspace=0.5)
    for place, (name, sde) in zip(top, SDES.items()):
        axes = figure.add_subplot(place)
        reach = 4 if name == "VE" else 2.8
        t, x = np.linspace(1e-3, 1, 200), np.linspace(-reach, reach, 200)
        p = np.stack([density(x, sde, s) for s in t], 1)
        axes.imshow(p / p.max(0), extent=(0, 1, -reach, reach), origin="lower", aspect="auto", cmap="Blues", vmax=1.6)
        run = list(sd.sde_steps(sde, exact_score(sde), (9, 1), np.random.default_rng(3), 300))
        axes.plot([s.t for s in run[:-1]], [s.x[:, 0] for s in run[:-1]], color=WARM, lw=0.7)
        axes.set(title=f"{name}: p_t and nine paths backwards", xlabel="t", ylim=(-reach, reach))
        axes.set_ylabel("x" if name == "VP" else "")

    axes = figure.add_subplot(below[0])
    axes.loglog(lengths, chain, "o-", color=INK)
    axes.set(title="the chain nears its SDE", xlabel="T", ylabel="largest difference of √ᾱ")
    axes = figure.add_subplot(below[1])
    for e, name, colour in ((strong, "strong", INK), (weak, "weak", WARM)):
        axes.loglog(counts, e, "o-", color=colour, label=f"{name}: order {-slope[name]:.2f}", base=2)
    axes.set(title="Euler–Maruyama, backwards", xlabel="steps", ylabel="error")
    axes.legend()
    axes = figure.add_subplot(below[2])
    for (name, row), colour in zip(quality.items(), (INK, WARM)):
        axes.loglog(evaluations, row, "o-", color=colour, label=name, base=2)
    axes.set(title="VP: what a corrector buys", xlabel="score evaluations", ylabel="Wasserstein distance",
             xticks=evaluations, xticklabels=evaluations)  # fmt: skip
    axes.legend(fontsize=8)
    axes = figure.add_subplot(below[3])
    axes.fill_between(grid, density(grid, SDES["VP"], 1e-4), color=PALE, label="data")
    for (name, p), colour in zip(densities.items(), (INK, WARM)):
        axes.plot(grid, p, color=colour, lw=1.2, label=f"{name}: {lost[name]:.3f} nats lost")
    axes.set(title="learned densities, by weight", xlabel="x", ylim=(0, 2.1))
    axes.legend(fontsize=8, loc="upper left")
    save(figure, out, "23_sdes")


# %% [markdown]
# ## Exercises
#
# 1. In `train`, set start to 1e-6. Which weighting notices, and why does the other not?
# 2. In `main`, try an snr of 0.05 and of 0.5 in place of 0.16. When does the corrector hurt?
# 3. In `orders`, set end to 0.001. The score's slope grows as 1/t there: what becomes of the orders?

# %%
if __name__ == "__main__":
    main()
