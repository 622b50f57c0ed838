"""Heartbeats: sequences of bits with a 1 at a fixed distance   (Sohl-Dickstein et al. 2015, Appendix D.1.2)."""

import numpy as np

from scratchdiff.checks import require, require_positive_integers


def heartbeats(n: int, rng: np.random.Generator, length: int = 20, period: int = 5) -> np.ndarray:
    """n sequences (n, length) of float64 bits with a 1 in every `period`-th bin, the first at a uniform place 0..period−1.

    There are `period` such sequences, all equally likely, so their entropy is log₂ period bits.
    Raises ValueError for numbers that are not positive integers, and for length < period."""
    require_positive_integers("heartbeats", n=n, length=length, period=period)
    require(length >= period, "heartbeats: the length must be at least the period", length=length, period=period)
    first = rng.integers(period, size=n)
    return (np.arange(length) % period == first[:, None]).astype(np.float64)
