"""The waveforms have the period that they are said to have, and the law that is stated."""

import numpy as np
from scipy import stats

import scratchdiff as sd
from scratchdiff.data.ecg import PERIODS


def test_a_wave_repeats_itself_after_its_period_and_not_before(rng):
    x, period = sd.data.ecg(50, rng, length=240)
    grid = np.arange(120)
    for wave, p in zip(x[..., 0], period):
        # far better one period later than half a period later; linear interpolation between samples blurs the sharp R
        again, half = (np.interp(grid + shift, np.arange(240), wave) for shift in (p, p / 2))
        assert np.square(again - wave[:120]).mean() < 0.2 * np.square(half - wave[:120]).mean()


def test_the_periods_are_uniform_and_the_waves_within_the_stated_range(rng):
    x, period = sd.data.ecg(4000, rng)
    assert x.shape == (4000, 128, 1) and -0.4 <= x.min() and x.max() <= 1.2
    low, high = PERIODS
    assert stats.kstest((period - low) / (high - low), "uniform").statistic < 1.63 / np.sqrt(4000)


def test_a_beat_has_one_tall_peak_and_the_same_wave_comes_from_the_same_generator():
    x, period = sd.data.ecg(20, np.random.default_rng(3))
    tall = (x[:, 1:-1, 0] > 0.6) & (x[:, 1:-1, 0] >= x[:, :-2, 0]) & (x[:, 1:-1, 0] >= x[:, 2:, 0])
    assert (np.abs(tall.sum(1) - 128 / period) <= 1.5).all()
    np.testing.assert_array_equal(x, sd.data.ecg(20, np.random.default_rng(3))[0])
