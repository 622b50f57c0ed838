"""What a detector says, and how its threshold follows from the rate of false alarms.

A detector is a function of parts of a program, such as `q_sample` or `loss`. It returns a Finding, or None where all is
well, or raises CannotTell. There are two kinds. An exact one compares what must be equal up to rounding, or by a generous
factor, so it does not alarm on right code. A random one compares a statistic with its distribution on right code, and
alarms there with probability at most FALSE_ALARM. There are fewer than ten random ones, so a checkup of right code alarms
in less than one case in a thousand.
"""

import textwrap
from typing import NamedTuple

import numpy as np

FALSE_ALARM = 1e-4  # of one random detector, on right code
STANDARD_ERRORS = 5.0  # beyond so many a mean alarms: below FALSE_ALARM for Student's t of 19 or more degrees of freedom
DRAWS = 4096  # numbers that a detector of a distribution draws


class Finding(NamedTuple):
    """Something that right code does not do, in plain words.

    place: the part of the program, by its name in `checkup`; what: the finding in one line; expected, seen, look: what right
    code does, what this one did, where to look. chance: how probable such a finding is on right code, 0 if it is
    impossible. detector: the name of the function that found it.
    """

    place: str
    what: str
    expected: str
    seen: str
    look: str
    chance: float = 0.0
    detector: str = ""

    @property
    def sure(self) -> str:
        """How sure the finding is, in words."""
        if self.chance == 0:
            return "certain: right code never does this"
        return f"right code does this in less than one checkup in {1 / self.chance:,.0f}"

    def __str__(self):
        rows = [("expected", self.expected), ("seen", self.seen), ("how sure", self.sure), ("look at", self.look)]
        return "\n".join([f"✗ {self.place}: {self.what}", *(f"    {name:<9} {text}" for name, text in rows)])


class CannotTell(Exception):
    """A detector cannot do its work on what it was given; the message says why."""


class Checkup(list):
    """A list of Findings, in the order of the chapters; empty where nothing was found. It prints as a report.

    passed: the names of the detectors that found nothing. skipped: {detector: why it could not run}.
    """

    def __init__(self, findings, passed: list[str], skipped: dict[str, str]):
        super().__init__(findings)
        self.passed, self.skipped = passed, skipped

    def __str__(self):
        head = f"{counted(len(self), 'finding')}; {counted(len(self.passed), 'check')} passed, {len(self.skipped)} not done"
        lines = [head, *(f"\n{finding}" for finding in self)]
        if self.passed:
            lines += ["", *textwrap.wrap(f"passed: {', '.join(self.passed)}", 120, subsequent_indent="    ")]
        if self.skipped:
            lines.append("\nnot done:")
        for why in dict.fromkeys(self.skipped.values()):
            text = f"{why}: {', '.join(name for name, reason in self.skipped.items() if reason == why)}"
            lines += textwrap.wrap(text, 120, initial_indent="    ", subsequent_indent="        ")
        return "\n".join(lines)

    __repr__ = __str__


def counted(n: int, thing: str) -> str:
    """ "1 finding", "2 findings"."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def explain(seen, candidates: dict[str, np.ndarray], tolerance: float = 1e-3) -> str:
    """ ": these are NAME" for the first candidate that equals what was seen within the tolerance, else nothing.

    candidates: {what a known mistake would give: its values, of the shape of `seen`}."""
    for name, values in candidates.items():
        if np.allclose(seen, values, rtol=tolerance, atol=tolerance * np.abs(seen).max()):
            return f": these are {name}"
    return ""


def ks_distance(x, cdf) -> float:
    """The Kolmogorov–Smirnov statistic sup |F_n − F| of numbers x, of any shape, against a distribution function F."""
    F = cdf(np.sort(np.ravel(np.asarray(x, np.float64))))
    n = len(F)
    return float(max((np.arange(1, n + 1) / n - F).max(), (F - np.arange(n) / n).max()))


def ks_threshold(n: int) -> float:
    """The distance that n right draws exceed with probability at most FALSE_ALARM: √(log(2/FALSE_ALARM)/2n).

    It holds for every n: P(sup |F_n − F| > d) ≤ 2 exp(−2nd²)   (Dvoretzky, Kiefer & Wolfowitz 1956; Massart 1990)."""
    return float(np.sqrt(np.log(2 / FALSE_ALARM) / (2 * n)))


def unless_normal(x, place: str, what: str, look: str) -> Finding | None:
    """The Finding that numbers x of any shape are no draws of N(0, 1), by Kolmogorov–Smirnov; None if they may be.

    A mean off by 0.15 or a standard deviation off by 30 % is found in more than 99 % of cases with DRAWS numbers."""
    far, allowed = ks_distance(x, normal_cdf), ks_threshold(np.size(x))
    if far > allowed:
        seen = (
            f"{far:.3f}: mean {np.mean(x):.2f}, standard deviation {np.std(x):.2f}, from {np.min(x):.1f} to {np.max(x):.1f}"
        )
        return Finding(
            place,
            what,
            expected=f"a distance below {allowed:.3f} to N(0, 1)",
            seen=seen,
            look=look,
            chance=FALSE_ALARM,
        )


def normal_cdf(x):
    """Φ(x)."""
    from scipy.special import ndtr

    return ndtr(x)


def enough(shape: tuple) -> int:
    """How many examples of a shape hold DRAWS numbers."""
    return max(2, -(-DRAWS // int(np.prod(shape))))


def one_point(shape: tuple, rng: np.random.Generator) -> np.ndarray:
    """A datum of random signs ±1: as the only one of its data set it is what every x_t came from."""
    return rng.choice(np.float32([-1, 1]), shape)


def spied(answer, T: int) -> tuple:
    """(model, calls): a model that answers as `answer` does, and the list of (xt, t) that it was asked.

    answer gets t within 1..T, whatever was asked: whether it was right is for a detector to say."""
    calls = []

    def model(xt, t):
        xt = np.asarray(xt)
        t = np.broadcast_to(np.asarray(t), len(xt))
        calls.append((xt, t))
        return np.asarray(answer(xt, np.clip(t, 1, T))).astype(xt.dtype)

    return model, calls


def answer_x0(diffusion, x0_hat):
    """The model that takes x0_hat for the data, whatever x_t is: where the data is one point, the perfect denoiser."""

    def model(xt, t):
        x0 = np.broadcast_to(x0_hat, xt.shape).astype(np.float64)
        return diffusion.target(x0, t, diffusion.predict_eps(xt.astype(np.float64), t, x0))

    return model


def answer_zero(xt, t):
    """The model that always puts out zeros."""
    return np.zeros_like(xt)


def implied_noise(diffusion, xt, t, x0) -> np.ndarray:
    """ε = (x_t − √ᾱ_t x_0)/√(1−ᾱ_t), for t clipped to 1..T."""
    xt = np.asarray(xt, np.float64)
    return diffusion.predict_eps(xt, np.clip(t, 1, diffusion.schedule.T), np.broadcast_to(x0, xt.shape).astype(np.float64))
