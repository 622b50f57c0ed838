# %% [markdown]
# # 09 The loss falls and the samples are noise: what is wrong?
#
# Many tutorials of this field have had a bug that their loss did not show. Here is a correct diffusion model in a hundred
# lines, and then a zoo of bugs: each is a class that overrides a few of those lines, nearly all as somebody has published
# them. `sd.checkup` gets the parts of each program. It must say what is wrong and where, and find nothing in the right one.
#
# Expect: every bug found in the right place, and no alarm for the right program with 100 seeds; about three minutes on two
# cores.
#
# `python demos/lessons/09_bug_zoo.py` writes runs/lessons/09_bug_zoo.png.

# %%
from itertools import groupby

import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, PALE, WARM, record, save
from matplotlib.patches import Patch

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.autograd import Node
from scratchdiff.checkup import DETECTORS

T = 50
COSINE, LINEAR = sd.cosine_schedule(T).betas, np.linspace(1e-3, 0.2, T)

# %% [markdown]
# ## The right program
#
# Points in the plane within [−1, 1], a small network, ancestral sampling. Arrays of the schedule are indexed by t = 1..T,
# and entry 0 is "no noise yet". Each method is a part that can be wrong.


# %%
def column(a):
    """(N,) as (N, 1), to multiply points (N, 2)."""
    return a[:, None]


class Right:
    """A diffusion model without bugs."""

    betas, predict, decay, lr, steps = COSINE, "eps", 0.97, 1e-2, 300
    places = set()  # where its bugs are

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.schedule(self.betas)
        self.layers = Layers(self.rng)
        self.parameters = self.layers.parameters()
        self.average = {name: p.data.copy() for name, p in self.parameters.items()}
        self.adam = self.optimiser()
        self.points = self.data(self.rng)
        self.losses = [self.train() for _ in range(self.steps)]

    def schedule(self, betas):
        self.beta = np.concatenate([[0.0], betas])
        self.alpha_bar = np.cumprod(1 - self.beta)

    # the process
    def q_sample(self, x0, t, eps):
        return column(np.sqrt(self.alpha_bar[t])) * x0 + column(np.sqrt(1 - self.alpha_bar[t])) * eps

    def before(self, t):
        return self.alpha_bar[t - 1]

    def posterior(self, x0, xt, t):
        now, prev, beta = self.alpha_bar[t], self.before(t), self.beta[t]
        mean = column(np.sqrt(prev) * beta / (1 - now)) * x0 + column(np.sqrt(1 - beta) * (1 - prev) / (1 - now)) * xt
        return mean, column(np.log(np.maximum((1 - prev) / (1 - now) * beta, 1e-20)))

    # training
    def data(self, rng):
        return 0.35 * sd.data.toy("moons", 2000, rng)

    def draw_t(self, n, rng):
        return rng.integers(1, len(self.betas) + 1, n)

    def noise(self, shape, rng):
        return rng.standard_normal(shape)

    def loss(self, model, x0, rng):
        t, eps = self.draw_t(len(x0), rng), self.noise(x0.shape, rng)
        return ops.mse(model(self.q_sample(x0, t, eps), t), eps if self.predict == "eps" else x0)

    def network(self, xt, t):
        h = self.layers.enter(np.asarray(xt, float)) + self.layers.time(t)
        h = h + self.layers.middle(ops.silu(self.layers.norm(h)))
        return self.layers.leave(ops.silu(h))

    def optimiser(self):
        return sd.Adam(self.parameters, self.lr)

    def clear(self):
        self.adam.zero_grad()

    def gradients(self, x0, rng):
        self.clear()
        with sd.Tape() as tape:
            loss = self.loss(self.network, x0, rng)
        self.backward(tape, loss)
        self.last_loss = loss.item()
        return {name: p.grad for name, p in self.parameters.items()}

    def backward(self, tape, loss):
        tape.backward(loss)

    def train_step(self, x0, rng):
        self.gradients(x0, rng)
        self.adam.step()
        return self.last_loss

    def train(self):
        loss = self.train_step(self.points[self.rng.integers(len(self.points), size=128)], self.rng)
        for name, p in self.parameters.items():
            self.average[name] += (1 - self.decay) * (p.data - self.average[name])
        return loss

    def averaged(self, xt, t):
        own = {name: p.data.copy() for name, p in self.parameters.items()}
        self.layers.load(self.average)
        out = self.network(xt, t)
        self.layers.load(own)
        return out

    # the way back
    def sampler(self, model, shape, rng):
        x = self.first(shape, rng)
        for t in range(len(self.betas), 0, -1):
            x = self.step_back(x, t, self.ask(model, x, t), rng)
        return x

    def first(self, shape, rng):
        return rng.standard_normal(shape)

    def ask(self, model, x, t):
        return np.asarray(model(x, np.full(len(x), t)))

    def guess(self, x, t, eps_hat):
        return (x - np.sqrt(1 - self.alpha_bar[t]) * eps_hat) / np.sqrt(self.alpha_bar[t])

    def step_back(self, x, t, eps_hat, rng):
        x0_hat = np.clip(self.guess(x, t, eps_hat), -1, 1)
        mean, logvar = self.posterior(x0_hat, x, np.array([t]))
        return mean + (np.exp(logvar / 2) * rng.standard_normal(x.shape) if t > 1 else 0)

    def gradient_checker(self, f, gradient, x):
        errors = []
        for i, analytic in enumerate(gradient(x)):
            h = 1e-5 * np.eye(len(x))[i]
            numeric = (f(x + h) - f(x - h)) / 2e-5
            errors.append(abs(numeric - analytic) / max(abs(numeric), abs(analytic)))
        return max(errors)

    def parts(self):
        """What `sd.checkup` takes."""
        return dict(
            schedule=self.betas, alpha_bar=self.alpha_bar[1:], q_sample=self.q_sample, posterior=self.posterior,
            loss=self.loss, model=self.network, sampler=self.sampler, data=self.points, losses=self.losses,
            parameters=self.parameters, gradients=self.gradients, train_step=self.train_step, ema_model=self.averaged,
            gradient_checker=self.gradient_checker, predict=self.predict, images=True,
        )  # fmt: skip


class Layers(sd.nn.Module):
    """The weights of the network."""

    def __init__(self, rng, width=24):
        make = dict(rng=rng, dtype=np.float64)
        self.time = sd.nn.TimestepMLP(width, width, **make)
        self.enter = sd.nn.Linear(2, width, **make)
        self.norm = sd.nn.LayerNorm(width, dtype=np.float64)
        self.middle = sd.nn.Linear(width, width, **make)
        self.leave = sd.nn.Linear(width, 2, zero=True, **make)


# %% [markdown]
# ## The zoo
#
# Each docstring names the bug, `source` who published it (or who warned of it), `places` the parts of the program in which a
# finding counts as right.

# %% [markdown]
# ### The schedule and the process


# %%
class TooFewSteps(Right):
    """T = 50 with the β that are made for T = 1000"""

    betas, places = np.linspace(1e-4, 0.02, 50), {"schedule"}
    source = "tiny-diffusion; S-curve notebooks (T = 100)"


class ProductOfBetas(Right):
    """ᾱ = cumprod(β)"""

    places, source = {"schedule"}, "a comment in dpm-solver, issue 13"

    def schedule(self, betas):
        super().schedule(betas)
        self.alpha_bar[1:] = np.cumprod(betas)


class SquaresForRoots(Right):
    """x_t = ᾱ x_0 + (1−ᾱ) ε, without roots"""

    places, source = {"q_sample"}, "a stored version of HF's annotated diffusion"

    def q_sample(self, x0, t, eps):
        return column(self.alpha_bar[t]) * x0 + column(1 - self.alpha_bar[t]) * eps


class CountsFromZeroHere(Right):
    """q_sample counts t from 0, the rest from 1"""

    places, source = {"q_sample"}, "as in latent-diffusion, issue 136: an offset of one"

    def q_sample(self, x0, t, eps):
        return super().q_sample(x0, t - 1, eps)


class ShiftedTheWrongWay(Right):
    """the list of ᾱ_{t−1} padded on the right"""

    places, source = {"posterior"}, "denoising-diffusion-pytorch, issue 18"

    def before(self, t):
        return np.append(self.alpha_bar, 1.0)[t + 1]


class VarianceForItsLogarithm(Right):
    """a variance passed where its logarithm belongs"""

    places, source = {"posterior"}, "the other way round in Tomczak's DDGM"

    def posterior(self, x0, xt, t):
        mean, logvar = super().posterior(x0, xt, t)
        return mean, np.exp(logvar)


# %% [markdown]
# ### Data and loss


# %%
class ZeroToOne(Right):
    """data left in [0, 1]"""

    places, source = {"data"}, "labml; TeaPearce's conditional MNIST"

    def data(self, rng):
        return (super().data(rng) + 1) / 2


class LastStepNeverTrained(Right):
    """t = T is never drawn"""

    places, source = {"loss"}, "minDiffusion"

    def draw_t(self, n, rng):
        return rng.integers(1, T, n)


class OneTimeForAll(Right):
    """one t for the whole batch"""

    places, source = {"loss"}, "early diffusers, issue 25"

    def draw_t(self, n, rng):
        return np.repeat(rng.integers(1, T + 1), n)


class UniformNoise(Right):
    """ε from rand in place of randn"""

    places, source = {"loss"}, "acids-ircam/diffusion_models, issue 8"

    def noise(self, shape, rng):
        return rng.random(shape)


class OtherNoiseInTheTarget(Right):
    """the target is a second draw of the noise"""

    places, source = {"loss"}, "made for this zoo"

    def loss(self, model, x0, rng):
        t, eps = self.draw_t(len(x0), rng), self.noise(x0.shape, rng)
        return ops.mse(model(self.q_sample(x0, t, eps), t), self.noise(x0.shape, rng))


# %% [markdown]
# ### The network


# %%
class NormNeverCalled(Right):
    """a norm that is built and never called"""

    places, source = {"model"}, "attention in labml's DDPM"

    def network(self, xt, t):
        h = self.layers.enter(np.asarray(xt, float)) + self.layers.time(t)
        h = h + self.layers.middle(ops.silu(h))
        return self.layers.leave(ops.silu(h))


class IgnoresTime(Right):
    """a network that ignores t"""

    places, source = {"model"}, "minDiffusion's superminddpm"

    def network(self, xt, t):
        return super().network(xt, np.zeros_like(t))


class DropoutStaysOn(Right):
    """dropout that is on while sampling"""

    places, source = {"model"}, "Karpathy 2018: train and eval mode"

    def network(self, xt, t):
        return super().network(ops.dropout(np.asarray(xt, float), rate=0.1, rng=self.rng).data, t)


class ViewForPermute(Right):
    """reshape where a transpose belongs: rows mix"""

    places, source = {"model"}, "Karpathy 2018: view and permute"

    def network(self, xt, t):
        return super().network(np.ascontiguousarray(np.asarray(xt).T).reshape(xt.shape), t)


class MissingChannel(Right):
    """a channel that the network never sees"""

    places, source = {"model"}, "made for this zoo"

    def network(self, xt, t):
        return super().network(np.asarray(xt) * [1.0, 0.0], t)


# %% [markdown]
# ### The sampler


# %%
class NoiseAtTheEnd(Right):
    """noise is added at the last step"""

    places, source = {"sampler"}, "labml; azad-academy; S-curve notebooks"

    def step_back(self, x, t, eps_hat, rng):
        x = super().step_back(x, t, eps_hat, rng)
        return x + np.sqrt(self.beta[1]) * rng.standard_normal(x.shape) if t == 1 else x


class OldNoiseAfterClipping(Right):
    """DDIM that clips x0_hat and keeps the old ε"""

    places, source = {"sampler"}, "published more than once"

    def step_back(self, x, t, eps_hat, rng):
        x0_hat = np.clip(self.guess(x, t, eps_hat), -1, 1)
        return np.sqrt(self.alpha_bar[t - 1]) * x0_hat + np.sqrt(1 - self.alpha_bar[t - 1]) * eps_hat


class EndsAtTheFirstStep(Right):
    """DDIM whose list of ᾱ_{t−1} begins with ᾱ_1, not with 1"""

    places, source = {"sampler"}, "ControlNet, pull request 587"

    def step_back(self, x, t, eps_hat, rng):
        prev = self.alpha_bar[max(t - 1, 1)]
        return np.sqrt(prev) * self.guess(x, t, eps_hat) + np.sqrt(1 - prev) * eps_hat


class AnotherSchedule(Right):
    """sampling with another schedule than training"""

    places, source = {"sampler"}, "settings that differ, published more than once"

    def sampler(self, model, shape, rng):
        self.schedule(LINEAR)
        x = super().sampler(model, shape, rng)
        self.schedule(COSINE)
        return x


class WrongVariance(Right):
    """cosine ᾱ_t with a variance of the linear schedule"""

    places, source = {"sampler"}, "a cosine schedule with the wrong reverse variance"

    def step_back(self, x, t, eps_hat, rng):
        x0_hat = np.clip(self.guess(x, t, eps_hat), -1, 1)
        mean, _ = self.posterior(x0_hat, x, np.array([t]))
        return mean + (np.sqrt(LINEAR[t - 1]) * rng.standard_normal(x.shape) if t > 1 else 0)


class TakesX0ForNoise(Right):
    """a network of x_0 in a sampler that expects ε"""

    predict, places, source = "x0", {"sampler"}, "published more than once"


class ForgetsItsStride(Right):
    """every fifth t, but steps from t to t − 1"""

    places, source = {"sampler"}, "diffusers, pull request 2076"

    def sampler(self, model, shape, rng):
        x = self.first(shape, rng)
        for t in range(T, 0, -5):
            x = self.step_back(x, t, self.ask(model, x, t), rng)
        return x


class StartsTooLate(Right):
    """sampling starts below T"""

    places, source = {"sampler"}, "DDIM in diffusers, issue 2585"

    def sampler(self, model, shape, rng):
        x = self.first(shape, rng)
        for t in range(T - 5, 0, -1):
            x = self.step_back(x, t, self.ask(model, x, t), rng)
        return x


class UniformStart(Right):
    """x_T from rand in place of randn"""

    places, source = {"sampler"}, "HRI-EU/flow_matching, issue 7"

    def first(self, shape, rng):
        return rng.random(shape)


class TellsAnotherTime(Right):
    """the network is told t + 1 at t"""

    places, source = {"sampler"}, "latent-diffusion, issue 136"

    def ask(self, model, x, t):
        return super().ask(model, x, min(t + 1, T))


# %% [markdown]
# ### Learning


# %%
class Overwritten(Right):
    """gradients overwritten where an input is used twice"""

    places, source = {"gradients"}, "several small autodiff engines"

    def backward(self, tape, loss):
        loss.grad = np.ones(())
        for op in reversed(tape.records):
            for x, dx in zip(op.args, op.backward(op.out.grad)):
                if isinstance(x, Node):
                    x.grad = dx


class GradientsAddUp(Right):
    """zero_grad() forgotten"""

    places, source = {"gradients"}, "Karpathy 2018"

    def clear(self):
        pass


class OptimisesACopy(Right):
    """the optimiser holds copies of the parameters"""

    places, source = {"train_step", "losses"}, "Karpathy 2018: overfit one batch first"

    def optimiser(self):
        return sd.Adam({name: sd.Tensor(p.data.copy()) for name, p in self.parameters.items()}, self.lr)


class Diverged(Right):
    """a learning rate a thousand times too high"""

    lr, places, source = 10.0, {"model", "losses", "train_step"}, "Karpathy 2019: a recipe"


class YoungAverage(Right):
    """averaged weights that still hold the random start"""

    decay, places, source = 0.9999, {"ema_model"}, "EMA read early, published more than once"


class CannotFail(Right):
    """a gradient checker whose error is never computed anew"""

    places, source = {"gradient_checker"}, "a published gradient checker"

    def gradient_checker(self, f, gradient, x):
        error = 0.0
        for i, _ in enumerate(gradient(x)):
            h = 1e-5 * np.eye(len(x))[i]
            _ = (f(x + h) - f(x - h)) / 2e-5
        return error


ZOO = Right.__subclasses__()


# %% [markdown]
# ## How a detector works
#
# It needs something that is known without training. Three examples; `scratchdiff/checkup/` has them all.
#
# **If all data are one point c**, then x_t = √ᾱ_t c + √(1−ᾱ_t) ε says which ε it holds. So we know a perfect network,
# ε = (x_t − √ᾱ_t c)/√(1−ᾱ_t). It must have a loss of exactly 0. A sampler that asks it must end exactly at c: whatever is
# left is noise that was added at the last step, or a wrong coefficient.
#
# **If the data are a mixture of Gaussians**, the best network is a formula (`diffusion/oracle.py`), and we know how the
# samples must be distributed. The Kolmogorov–Smirnov distance of n draws to the right distribution exceeds √(log(2/p)/2n)
# with probability p at most. We set p = 10⁻⁴ once, and every threshold follows.
#
# **The network** is asked twice, with one thing changed. If the answer is the same for every t, it ignores t.


# %%
def examine(program, seed):
    """The findings in a program, made and examined with this seed."""
    return sd.checkup(**program(seed).parts(), rng=np.random.default_rng(seed))


def tally(program, seeds):
    """(right, elsewhere, caught): the share of the seeds in which each detector finds something in the right place, and in
    another; the share in which any of them finds the right place."""
    names = [d.__name__ for d in DETECTORS]
    right, elsewhere, caught = np.zeros(len(names)), np.zeros(len(names)), 0
    for seed in range(seeds):
        findings = examine(program, seed)
        for f in findings:
            (right if f.place in program.places else elsewhere)[names.index(f.detector)] += 1 / seeds
        caught += any(f.place in program.places for f in findings) / seeds
    return right, elsewhere, caught


# %%
def main(out="runs/lessons", small=False):
    """Examine the right program and the zoo, print an example and the sources, draw the matrix; return the figures."""
    zoo, seeds_of_right, seeds_of_bugs = (ZOO[::16], 1, 1) if small else (ZOO, 100, 4)
    print(examine(NoiseAtTheEnd, 0), "\n")
    _, alarms, _ = tally(Right, seeds_of_right)
    right, elsewhere, caught = map(np.array, zip(*[tally(bug, seeds_of_bugs) for bug in zoo]))
    for bug, power, share in zip(zoo, right, caught):
        names = [d.__name__ for d, p in zip(DETECTORS, power) if p]
        print(f"{bug.__doc__} ({bug.source}): {share:.0%}, {', '.join(names)}")
    picture(out, zoo, right, elsewhere, alarms, seeds_of_right)
    return record(out, "09_bug_zoo", {
        "bugs in the zoo": len(zoo), "bugs found in the right place with every seed": (caught > 0.999).sum(),
        "smallest share of seeds that find a bug": caught.min(),
        "seeds of the right program": seeds_of_right, "alarms on the right program": alarms.sum() * seeds_of_right,
        "detectors that found a bug": right.any(0).sum(), "detectors": len(DETECTORS),
    })  # fmt: skip


def picture(out, zoo, right, elsewhere, alarms, seeds):
    """The matrix of bugs and detectors: dark where the place is right, pale where it is a consequence."""
    figure, axes = plt.subplots(figsize=(13, 0.27 * len(zoo) + 3.2))
    names = [d.__name__.replace("_", " ") for d in DETECTORS]
    at = np.arange(len(names))
    for row, bug in enumerate(zoo, start=1):
        for shares, color in ((elsewhere[row - 1], PALE), (right[row - 1], INK)):
            axes.barh(row, shares, left=at - shares / 2, height=0.8, color=color)
        axes.text(len(names) - 0.2, row, bug.source, va="center", fontsize=7.5, color="grey")
    axes.barh(0, alarms, left=at - alarms / 2, height=0.8, color=WARM)
    axes.text(
        len(names) - 0.2, 0, f"{alarms.sum() * seeds:.0f} alarms in {seeds} seeds", va="center", fontsize=8, color=WARM
    )
    axes.set_yticks(range(len(zoo) + 1), ["the right program", *(bug.__doc__ for bug in zoo)], fontsize=8.5)
    axes.set_xticks(range(len(names)), names, rotation=55, ha="left", rotation_mode="anchor", fontsize=8.5)
    axes.xaxis.tick_top()
    axes.set(xlim=(-0.6, len(names) - 0.4), ylim=(len(zoo) + 0.6, -0.6))
    axes.set_xticks(np.arange(len(names)) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(zoo)) + 0.5, minor=True)
    axes.grid(which="minor", color="#e4e4e4", lw=0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_color("#e4e4e4")
    first = 0
    for file, group in groupby(d.__module__.rpartition(".")[2] for d in DETECTORS):
        last = first + len(list(group))
        axes.axvline(last - 0.5, color="grey", lw=0.8)
        axes.text((first + last - 1) / 2, len(zoo) + 0.9, file, ha="center", va="top", fontsize=8, color="grey")
        first = last
    kinds = [Patch(color=INK, label="found in the right place"), Patch(color=PALE, label="a consequence elsewhere")]
    axes.legend(handles=kinds, loc="upper left", bbox_to_anchor=(-0.42, 1.2), fontsize=9, frameon=False,
                title="width: share of seeds", alignment="left")  # fmt: skip
    save(figure, out, "09_bug_zoo")


# %% [markdown]
# ## What the picture shows
#
# Bugs of the process show far from where they are: a wrong q_sample is also a wrong loss. So we read the leftmost finding
# first. Most bugs of the sampler are invisible in training: their rows are empty on the left, and the loss of that program
# is as low as that of the right one.
#
# ## Exercises
#
# 1. In `Right.posterior`, leave out `np.maximum(..., 1e-20)` around the variance. Does a detector notice? Should it?
# 2. In `OldNoiseAfterClipping.step_back`, add the line that is missing: derive eps_hat again from x0_hat.
# 3. Add a bug of your own: a subclass of `Right` with `places` and `source`. Is it caught? If not, write the detector.

# %%
if __name__ == "__main__":
    main()
