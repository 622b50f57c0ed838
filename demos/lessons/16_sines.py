# %% [markdown]
# # 16 How does a network know the time? By the same sines that tell a Transformer its positions
#
# A denoiser must know how much noise there is, a Transformer where a symbol stands. Both are told a whole number, and both
# get it as sines and cosines from fast to slow. Why not the number itself?
#
# Expect: two facts about the sines, exact to rounding; a denoiser in the plane, told the time in four ways and measured
# against the perfect one; and a plain number that is not the loser everywhere. About half a minute on two cores.
#
# `python demos/lessons/16_sines.py` writes runs/lessons/16_sines.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, PALE, WARM, record, save

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.nn import MLP, TimestepMLP
from scratchdiff.train import train

DIM = 64
OMEGA = np.exp(-np.log(10_000) * np.arange(DIM // 2) / (DIM // 2 - 1))  # radians a step, from 1 to 1/10,000


# %% [markdown]
# ## Two facts
#
#     e(t) = [sin ω_0 t, ..., sin ω_h−1 t, cos ω_0 t, ..., cos ω_h−1 t]        h = DIM/2
#
# **Only the distance counts.** Since sin a sin b + cos a cos b = cos(a − b), the inner product of two times is
#
#     e(t) · e(s) = Σ_i cos ω_i (t − s)
#
# It is largest, h, for t = s, and falls off on both sides: near times look alike, far ones do not.
#
# **A shift is a rotation.** Each pair (sin ω_i t, cos ω_i t) is a point on a circle, and k steps later it has turned by
# the angle ω_i k, wherever it was. So one matrix R(k), the same for all t, turns e(t) into e(t + k). A linear layer can
# hold it: a head of attention whose queries and keys differ by R(−1) looks one place back.


# %%
def e(t):
    """The embedding of a vector of times, (N, DIM)."""
    return ops.timestep_embedding(np.asarray(t, float), DIM).data


def rotation(k):
    """R(k), (DIM, DIM), with e(t + k) = R(k) e(t) for every t."""
    sin, cos = np.diag(np.sin(OMEGA * k)), np.diag(np.cos(OMEGA * k))
    return np.block([[cos, sin], [-sin, cos]])


def check_the_facts():
    """The largest error of each of the two facts over many times and shifts."""
    t, k = np.arange(0, 1000, 7), np.arange(-50, 51, 10)
    inner = e(t) @ e(t).T - np.cos(OMEGA * (t[:, None] - t)[..., None]).sum(-1)
    shift = max(np.abs(e(t + each) - e(t) @ rotation(each).T).max() for each in k)
    return np.abs(inner).max(), shift


# %% [markdown]
# ## What a network loses with a plain number
#
# Data from eight narrow normal distributions has a perfect denoiser, a formula (`Oracle`). The loss of any network is the
# loss of the perfect one plus the mean squared distance to its output, and that distance we can measure at each t.
#
# Four networks differ only in what enters their timestep MLP: the sines; the number t/1000; the number t; nothing. A plain
# number is repeated to fill all 64 inputs, so that all have equally many parameters.
#
# A plain number needs a scale. From t to t + 1 the vector of 64 inputs moves by 8 for t, by 0.008 for t/1000, and by 1.5
# for the sines. At small t much happens in one step: from t = 1 to t = 20 the noise σ_t grows eightfold. There t/1000 is
# too coarse. At large t little happens, and there inputs of a thousand are in the way.
#
# The fourth picture shows it. t/1000 loses most at small t and least above t = 200; t is best in the middle and
# worst of the three above t = 200. The sines hold fast and slow at once: they are best at the first three steps and
# elsewhere between the two. They are not magic: with this network and this seed, t has the smallest mean over all t. The
# right scale would do, and the sines save us the search for it.


# %%
CLOCKS = {
    "sines": e,
    "t/1000": lambda t: np.tile(t[:, None] / 1000, DIM),
    "t": lambda t: np.tile(t[:, None], DIM),
    "nothing": lambda t: np.zeros((len(t), DIM)),
}


class Clock(TimestepMLP):
    """The timestep MLP, with what `tell` makes of t in place of the sines."""

    def __init__(self, tell, *, rng):
        super().__init__(DIM, DIM, rng=rng)
        self.tell = tell

    def __call__(self, t):
        return self.dense2(self.dense1(self.tell(np.asarray(t, float)).astype(self.dtype)))


def trained(tell, oracle, steps):
    """A denoiser of points that is told the time by `tell`, after `steps` steps."""
    rng = np.random.default_rng(0)
    model = MLP(width=DIM, num_blocks=2, rng=rng)
    model.temb = Clock(tell, rng=rng)
    adam, ema = sd.Adam(model.parameters(), lr=2e-3), sd.EMA(model.parameters(), 0.999)
    points = oracle.sample(100_000, rng).astype(np.float32)
    for _ in train(model, oracle.diffusion, points, adam, ema, rng, batch_size=256, steps=steps):
        pass
    model.load(ema.average)
    return model


def excess(model, oracle, t, n):
    """The mean squared distance of the network's output to the perfect one, at step t."""
    rng = np.random.default_rng(t)
    xt = oracle.diffusion.q_sample(oracle.sample(n, rng), t, rng.standard_normal((n, 2)))
    return np.square(model(xt, np.full(n, t)).data - oracle(xt, t).data).mean()


# %%
def main(out="runs/lessons", small=False):
    """Check the facts, train four denoisers, measure them; return the headline figures."""
    diffusion = sd.GaussianDiffusion(sd.linear_schedule())
    angle = np.arange(8) * np.pi / 4
    oracle = sd.Oracle(diffusion, np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1), 0.1**2)
    times = np.array([1, 100, 1000]) if small else np.unique(np.geomspace(1, 1000, 25).round().astype(int))
    curves = {}
    for name, tell in CLOCKS.items():
        model = trained(tell, oracle, 10 if small else 4000)
        curves[name] = np.array([excess(model, oracle, t, 100 if small else 4000) for t in times])
    inner, shift = check_the_facts()

    picture(out, times, curves)
    # over all t, which are equally probable in training: the curve's mean, each t counting as often as it stands for
    share = np.gradient(times.astype(float)) / np.gradient(times.astype(float)).sum()
    return record(out, "16_sines", {
        "inner products depend on the distance only: largest error": inner, "shift as rotation: largest error": shift,
    } | {f"told {name}: distance to the perfect output, all t": share @ curve for name, curve in curves.items()}
      | {f"told {name}: distance to the perfect output, t ≤ 20": curve[times <= 20].mean()
         for name, curve in curves.items()})  # fmt: skip


def picture(out, times, curves):
    """The sines, their inner products, a shift as rotation, and what each of the four networks loses at each t."""
    figure, axes = plt.subplots(2, 2, figsize=(12, 8.4), layout="constrained")
    axis = axes[0, 0]
    shown = axis.imshow(e(np.arange(100)).T, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    axis.set(title="e(t), a column for each t", xlabel="t", ylabel="sines, fast to slow      cosines, fast to slow")
    axis.invert_yaxis()
    figure.colorbar(shown, ax=axis, label="−1 red, 0 white, 1 blue")

    axis, t = axes[0, 1], np.arange(100)
    shown = axis.imshow(e(t) @ e(t).T, cmap="Blues", vmin=0)
    axis.set(title="e(t) · e(s): constant along diagonals, large where t ≈ s", xlabel="s", ylabel="t")
    figure.colorbar(shown, ax=axis, label="inner product")

    axis = axes[1, 0]
    around = np.linspace(0, 2 * np.pi, 200)
    for radius, i, colour in ((3, 4, INK), (2, 7, WARM), (1, 10, GREEN)):
        axis.plot(radius * np.cos(around), radius * np.sin(around), color=PALE, lw=0.8)
        for start in (0, 10):
            turn = OMEGA[i] * (start + np.linspace(0, 5, 30))
            axis.plot(radius * np.cos(turn), radius * np.sin(turn), color=colour, lw=2.5)
            axis.plot(radius * np.cos(turn[0]), radius * np.sin(turn[0]), "o", color=colour)
            axis.annotate(f"t = {start}", (radius * np.cos(turn[0]), radius * np.sin(turn[0])), fontsize=8, xytext=(4, 4),
                          textcoords="offset points")  # fmt: skip
        axis.plot([], [], color=colour, lw=2.5, label=f"ω = {OMEGA[i]:.2f}")
    axis.set(title="five steps later: the same turn from everywhere", aspect="equal", xticks=[], yticks=[],
             xlabel="cos ωt", ylabel="sin ωt", xlim=(-3.5, 6.5))  # fmt: skip
    axis.legend(loc="lower right")

    axis = axes[1, 1]
    for (name, curve), colour in zip(curves.items(), (INK, WARM, GREEN, "grey")):
        axis.plot(times, curve, "-o", ms=3, color=colour, label=f"told {name}")
    axis.set(title="what the network loses to the perfect one", xlabel="t", ylabel="mean squared distance", xscale="log",
             yscale="log")  # fmt: skip
    axis.legend()
    save(figure, out, "16_sines")


# %% [markdown]
# ## Exercises
#
# 1. In `CLOCKS`, tell the network log σ_t in place of t/1000 (the entry is `lambda t: np.tile(...)`, and
# `diffusion.schedule.sigma(t)` gives σ_t). Does a better number close the gap at small t?
# 2. In `e`, replace DIM by 8 and pad with zeros. Which part of the fourth picture changes?
# 3. Let `excess` be asked for times between whole steps, t + ½, with a float array. Which of the four networks fails?

# %%
if __name__ == "__main__":
    main()
