# %% [markdown]
# # 28 Does all this need images? Waveforms, by the same network in one dimension
#
# A signal (N, L, C) is an image of one row. The same U-Net takes it with `dims=1`: its 3 × 3 kernels become 3 long,
# and a pixel becomes a moment. The data: waves like an electrocardiogram, made in the package. Each has one period, one
# phase and one amplitude, so that we can ask of a generated wave what we could not ask of a picture: is it right?
#
# Expect: waves whose beats come at distances that are equal to within a sample, and periods spread as in the data.
# About a minute on two cores.
#
# `python demos/lessons/28_signals.py` writes runs/lessons/28_signals.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, PALE, WARM, record, save
from scipy import signal, stats

import scratchdiff as sd
from scratchdiff.data.ecg import PERIODS
from scratchdiff.train import train

LENGTH = 128

# %% [markdown]
# ## What can be measured
#
# The tall peaks R are found to a fraction of a sample by a parabola through three points. Their distances are the period,
# several times over: their mean says which period the wave has, their spread whether it keeps to it. In the data the
# spread is 0 but for the error of finding a peak.


# %%
def beats(x):
    """The times of the R peaks of one wave (L,), in samples."""
    peaks, _ = signal.find_peaks(x, height=0.45 * x.max(), distance=PERIODS[0] / 2)
    a, b, c = x[peaks - 1], x[peaks], x[peaks + 1]
    return peaks + 0.5 * (a - c) / (a - 2 * b + c)


def rhythm(waves):
    """(period of each wave, spread of its beats' distances), of the waves (N, L, 1) with at least three beats."""
    distances = [np.diff(beats(x)) for x in waves[..., 0]]
    distances = [d for d in distances if len(d) >= 2]
    return np.array([d.mean() for d in distances]), np.array([d.std() for d in distances])


def power(waves):
    """Mean power of the waves at each frequency, (L/2 + 1,)."""
    return np.square(np.abs(np.fft.rfft(waves[..., 0], axis=1))).mean(0)


# %%
def trained(waves, steps, seed=0):
    """(model, diffusion): the U-Net of one dimension, with attention at a quarter of the length."""
    rng = np.random.default_rng(seed)
    model = sd.UNet(LENGTH, 1, 1, ch=16, ch_mult=(1, 2, 2), num_res_blocks=1, attn_resolutions=(16,), groups=8, dims=1,
                    patch_size=2, rng=rng)  # fmt: skip
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(), predict="v")
    adam, ema = sd.Adam(model.parameters(), lr=3e-3), sd.EMA(model.parameters(), 0.995)
    for _ in train(model, diffusion, waves, adam, ema, rng, batch_size=32, steps=steps):
        pass
    model.load(ema.average)
    return model, diffusion


def main(out="runs/lessons", small=False):
    """Train on waves, draw as many, measure their rhythm, write the picture; return the headline figures."""
    rng = np.random.default_rng(0)
    waves, _ = sd.data.ecg(200 if small else 10_000, rng, LENGTH)
    fresh, _ = sd.data.ecg(50 if small else 300, rng, LENGTH)
    scaled = (2 * waves).astype(np.float32)  # of size about 1
    model, diffusion = trained(scaled, 2 if small else 2500)
    x = sd.sample_ddim(diffusion, model, fresh.shape, np.random.default_rng(1), 5 if small else 50, eta=1.0) / 2

    (period, spread), (true_period, true_spread) = rhythm(x), rhythm(fresh)
    spectra = power(x), power(fresh)
    picture(out, fresh, x, period, spread, true_period, true_spread, spectra)
    some = len(period) > 0
    return record(out, "28_signals", {
        "share of waves with three beats: samples": len(period) / len(x),
        "share of waves with three beats: data": len(true_period) / len(fresh),
        "median spread of the beats' distances, in samples: samples": np.median(spread) if some else np.nan,
        "median spread of the beats' distances, in samples: data": np.median(true_spread),
        "period: Kolmogorov–Smirnov distance": stats.ks_2samp(period, true_period).statistic if some else np.nan,
        "period: what equal laws exceed once in a hundred times":
            1.628 * np.sqrt(1 / max(len(period), 1) + 1 / len(true_period)),
        "spectrum: mean |log ratio|": np.abs(np.log(spectra[0] / spectra[1]))[1:40].mean(),
        "parameters": model.num_parameters(),
    })  # fmt: skip


def picture(out, fresh, x, period, spread, true_period, true_spread, spectra):
    """Waves of the data and samples; the periods; how regular the beats are."""
    figure = plt.figure(figsize=(14, 8))
    grid = figure.add_gridspec(3, 3, wspace=0.28, hspace=0.65)
    for column, (name, waves, colour) in enumerate((("data", fresh, INK), ("samples", x, WARM))):
        axes = figure.add_subplot(grid[:, column])
        for i, wave in enumerate(waves[:7, :, 0]):
            axes.plot(wave - 1.6 * i, color=colour, lw=1)
        axes.set(title=name, yticks=[], xlabel="sample", xlim=(0, LENGTH - 1))
    axes = figure.add_subplot(grid[0, 2])
    bins = np.linspace(PERIODS[0] - 5, PERIODS[1] + 5, 25)
    axes.hist(true_period, bins, color=PALE, label="data")
    axes.hist(period, bins, histtype="step", color=WARM, label="samples")
    axes.set(title="period of a wave", xlabel="samples between beats")
    axes.legend(fontsize=8)
    axes = figure.add_subplot(grid[1, 2])
    bins = np.geomspace(1e-3, 10, 30)
    axes.hist(np.maximum(true_spread, 1e-3), bins, color=PALE)
    axes.hist(np.maximum(spread, 1e-3), bins, histtype="step", color=WARM)
    axes.set(title="how unequal its beats are", xlabel="standard deviation, in samples", xscale="log")
    axes = figure.add_subplot(grid[2, 2])
    axes.semilogy(spectra[1], color=INK, lw=3, alpha=0.4)
    axes.semilogy(spectra[0], color=WARM, lw=1)
    axes.set(title="mean power", xlabel="frequency, waves per 128 samples")
    save(figure, out, "28_signals")


# %% [markdown]
# ## Exercises
#
# 1. In `trained`, pass attn_resolutions=() and see whether the middle's attention alone keeps the beats equal.
# 2. In `main`, sample with eta=0.0. Do the beats become more or less regular?
# 3. In `ecg`, let the period drift within a wave, and find out what the network makes of it.

# %%
if __name__ == "__main__":
    main()
