"""How much noise at each step. A schedule is three arrays, and nothing else in the theory depends on how they were chosen.

q(x_t | x_{t−1}) = N(√α_t x_{t−1}, β_t I),   α_t = 1 − β_t,   ᾱ_t = α_1 α_2 … α_t          t = 1..T
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Schedule:
    """The arrays of a noise schedule, made from β_1..β_T.

    T: the number of steps. beta, alpha, alpha_bar: float64 of length T + 1, indexed by t itself; entry 0 is "no noise
    yet": beta[0] = 0, alpha[0] = alpha_bar[0] = 1, so that "previous" is always alpha_bar[t − 1]. The arrays are read-only.
    Raises ValueError unless betas is a vector with entries in (0, 1).
    """

    betas: np.ndarray = field(repr=False)
    T: int = field(init=False)
    beta: np.ndarray = field(init=False, repr=False)
    alpha: np.ndarray = field(init=False, repr=False)
    alpha_bar: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        betas = np.asarray(self.betas, np.float64)
        if betas.ndim != 1 or len(betas) < 1 or not ((betas > 0) & (betas < 1)).all():
            seen = f"[{betas.min()}, {betas.max()}]" if betas.size else "nothing"
            raise ValueError(f"Schedule: betas must be a vector of numbers in (0, 1), got shape {betas.shape}, range {seen}")
        beta = np.concatenate([[0.0], betas])
        arrays = dict(betas=betas, beta=beta, alpha=1 - beta, alpha_bar=np.cumprod(1 - beta))
        for name, array in arrays.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "T", len(betas))

    def sigma(self, t):
        """σ_t = √((1−ᾱ_t)/ᾱ_t), the noise in units of the signal, for real t in [1, T] (number or array).

        Whole steps have the σ of their ᾱ; between two of them log σ is a straight line. Karras et al. 2022 count time so."""
        return np.exp(np.interp(t, np.arange(1, self.T + 1), self.log_sigma()))

    def time(self, sigma):
        """The real t in [1, T] at which the noise is σ: the inverse of `sigma`; what lies outside is moved to its end."""
        return np.interp(np.log(sigma), self.log_sigma(), np.arange(1, self.T + 1))

    def log_sigma(self) -> np.ndarray:
        """log σ_1 .. log σ_T: minus half the log-SNR."""
        return 0.5 * np.log((1 - self.alpha_bar[1:]) / self.alpha_bar[1:])


def linear_schedule(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """β_t from beta_start to beta_end in equal steps   (Ho et al. 2020, section 4). Made for T = 1000: ᾱ_T = 4e-5.

    Raises ValueError unless T ≥ 1 and both ends lie in (0, 1)."""
    return Schedule(np.linspace(beta_start, beta_end, check_T("linear_schedule", T)))


def cosine_schedule(T: int = 1000, s: float = 0.008) -> Schedule:
    """ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s) · π/2), β_t = 1 − ᾱ_t/ᾱ_{t−1} ≤ 0.999.

    Nichol & Dhariwal 2021, Eq. 17. s keeps β_1 from being too small. Raises ValueError unless T ≥ 1 and s ≥ 0."""
    if not s >= 0:
        raise ValueError(f"cosine_schedule: s must not be negative, got {s}")
    t = np.arange(check_T("cosine_schedule", T) + 1)
    f = np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2
    return Schedule(np.minimum(1 - f[1:] / f[:-1], 0.999))


def check_T(name: str, T: int) -> int:
    """T itself, or the ValueError of the schedule `name` if it is no positive integer."""
    if not isinstance(T, (int, np.integer)) or T < 1:
        raise ValueError(f"{name}: T must be a positive integer, got {T!r}")
    return T
