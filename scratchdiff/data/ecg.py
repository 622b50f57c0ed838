"""Waveforms like those of an electrocardiogram: a known period, so that a generated one can be judged."""

import numpy as np

from scratchdiff.checks import require, require_positive_integers

# The bumps P, Q, R, S, T of a beat: where in the period (R at 0), how high, how wide (in periods). After the five bumps of
# McSharry et al. 2003, a little wider, so that 20 samples show them.
PLACE = np.array([-1 / 5, -1 / 16, 0, 1 / 16, 1 / 3])
HEIGHT = np.array([0.15, -0.15, 1.0, -0.25, 0.3])
WIDTH = np.array([0.05, 0.025, 0.03, 0.025, 0.07])
PERIODS = 20.0, 36.0  # samples in a beat; 30 samples a second make this a pulse of 90 to 50


def ecg(n: int, rng: np.random.Generator, length: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """n waveforms (n, length, 1), float64 between −0.4 and 1.2, and the period of each in samples, (n,).

    x(s) = a Σ_bumps height · exp(−(φ − place)²/2 width²), φ = s/period + phase, the difference of phases taken in ±½.
    The period is uniform in PERIODS, the phase in [0, 1], the amplitude a in [0.8, 1.2]; a wave keeps all three.
    Raises ValueError unless n is a positive integer and length one of at least 72, for two beats to fit."""
    require_positive_integers("ecg", n=n, length=length)
    require(length >= 2 * PERIODS[1], f"ecg: length must be at least {2 * PERIODS[1]:g}", length=length)
    period, phase, a = rng.uniform(*PERIODS, n), rng.random(n), rng.uniform(0.8, 1.2, n)
    phi = np.arange(length) / period[:, None] + phase[:, None]
    away = phi[..., None] - PLACE
    away -= np.rint(away)
    x = a[:, None] * (HEIGHT * np.exp(-0.5 * (away / WIDTH) ** 2)).sum(2)
    return x[..., None], period
