"""How much noise at each step. A schedule is three arrays, and nothing else in the theory depends on how they were chosen.

q(x_t | x_{t−1}) = N(√α_t x_{t−1}, β_t I),   α_t = 1 − β_t,   ᾱ_t = α_1 α_2 … α_t          t = 1..T
"""

import warnings
from dataclasses import dataclass, field

import numpy as np

from scratchdiff.checks import require, require_positive_integers
from scratchdiff.ops.activations import logistic

NOISE_AT_T = 0.01  # the largest ᾱ_T without a warning: a tenth of the data's amplitude, √ᾱ_T, is then left in x_T


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """The arrays of a noise schedule, made from β_1..β_T.

    T: the number of steps. beta, alpha, alpha_bar: float64 of length T + 1, indexed by t itself; entry 0 is "no noise
    yet": beta[0] = 0, alpha[0] = alpha_bar[0] = 1, so that "previous" is always alpha_bar[t − 1]. The arrays are read-only.

    The last β_T may be 1: then ᾱ_T = 0, x_T is noise and nothing else, and every formula still holds, except that ε says
    nothing of x_0 there (`GaussianDiffusion` refuses predict="eps"). Earlier it may not, for all after it would be noise.
    Warns where ᾱ_T > 0.01: sampling starts from N(0, I), and x_T is then visibly something else. What is left of the
    data there is L_T of the bound, ½ ᾱ_T E[x_0²] nats a dimension.
    Raises ValueError unless betas is a vector with entries in (0, 1), the last in (0, 1].
    """

    betas: np.ndarray
    T: int = field(init=False)
    beta: np.ndarray = field(init=False)
    alpha: np.ndarray = field(init=False)
    alpha_bar: np.ndarray = field(init=False)

    def __post_init__(self):
        betas = np.array(self.betas, np.float64)  # a copy, since it is made read-only
        inside = betas.ndim == 1 and len(betas) >= 1 and (betas > 0).all() and (betas[:-1] < 1).all() and betas[-1] <= 1
        if not inside:
            seen = f"[{betas.min()}, {betas.max()}]" if betas.size else "nothing"
            raise ValueError(f"Schedule: betas must be a vector of numbers in (0, 1), of which only the last may be 1, "
                             f"got shape {betas.shape}, range {seen}")  # fmt: skip
        beta = np.concatenate([[0.0], betas])
        arrays = dict(betas=betas, beta=beta, alpha=1 - beta, alpha_bar=np.cumprod(1 - beta))
        for name, array in arrays.items():
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "T", len(betas))
        left = self.alpha_bar[-1]
        if left > NOISE_AT_T:
            kept = f"ᾱ_T = {left:.2g} after T = {self.T} steps: x_T keeps {np.sqrt(left):.0%} of the data's amplitude"
            warnings.warn(f"Schedule: {kept}, but sampling starts from noise; take more steps or larger β", stacklevel=3)

    def __repr__(self):
        ends = f"beta {self.betas[0]:.3g} to {self.betas[-1]:.3g}, alpha_bar[T] {self.alpha_bar[-1]:.2g}"
        return f"Schedule(T = {self.T}, {ends})"

    def sigma(self, t):
        """σ_t = √((1−ᾱ_t)/ᾱ_t), the noise in units of the signal, for real t in [1, T] (number or array).

        Whole steps have the σ of their ᾱ; between two of them log σ is a straight line. Karras et al. 2022 count time so.
        Raises ValueError for other t."""
        t = np.asarray(t)
        if not ((1 <= t) & (t <= self.T)).all():
            raise ValueError(f"Schedule.sigma: t must lie in [1, {self.T}], got {t}")
        return np.exp(np.interp(t, np.arange(1, self.T + 1), self.log_sigma()))

    def time(self, sigma):
        """The real t in [1, T] at which the noise is σ: the inverse of `sigma`; what lies outside is moved to its end."""
        return np.interp(np.log(sigma), self.log_sigma(), np.arange(1, self.T + 1))

    def sigma_max(self) -> float:
        """The largest finite σ: σ_T, or σ_{T−1} where ᾱ_T = 0."""
        return float(np.exp(self.log_sigma()[self.alpha_bar[1:] > 0].max()))

    def log_sigma(self) -> np.ndarray:
        """log σ_1 .. log σ_T: minus half the log-SNR; +∞ where ᾱ_T = 0."""
        with np.errstate(divide="ignore"):
            return 0.5 * np.log((1 - self.alpha_bar[1:]) / self.alpha_bar[1:])


def linear_schedule(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """β_t from beta_start to beta_end in equal steps   (Ho et al. 2020, section 4). Made for T = 1000: ᾱ_T = 4e-5.

    Raises ValueError unless T ≥ 1 and both ends lie in (0, 1)."""
    check_ends("linear_schedule", beta_start, beta_end)
    return Schedule(np.linspace(beta_start, beta_end, check_T("linear_schedule", T)))


def cosine_schedule(T: int = 1000, s: float = 0.008) -> Schedule:
    """ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + s)/(1 + s) · π/2), β_t = 1 − ᾱ_t/ᾱ_{t−1} ≤ 0.999.

    Nichol & Dhariwal 2021, Eq. 17. s keeps β_1 from being too small. Raises ValueError unless T ≥ 1 and s ≥ 0."""
    require(s >= 0, "cosine_schedule: s must not be negative", s=s)
    t = np.arange(check_T("cosine_schedule", T) + 1)
    f = np.cos((t / T + s) / (1 + s) * np.pi / 2) ** 2
    return Schedule(np.minimum(1 - f[1:] / f[:-1], 0.999))


def quadratic_schedule(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """√β_t from √beta_start to √beta_end in equal steps: "quad" in the code of Ho et al. 2020.

    Raises ValueError unless T ≥ 1 and both ends lie in (0, 1)."""
    check_ends("quadratic_schedule", beta_start, beta_end)
    return Schedule(np.linspace(np.sqrt(beta_start), np.sqrt(beta_end), check_T("quadratic_schedule", T)) ** 2)


def constant_schedule(T: int = 1000, beta: float = 0.01) -> Schedule:
    """β_t = beta, so that ᾱ_t = (1 − beta)^t: log ᾱ falls in a straight line. The default ends where the linear one does.

    Ho et al. 2020, Appendix B, tried it. Raises ValueError unless T ≥ 1 and beta lies in (0, 1)."""
    return Schedule(np.full(check_T("constant_schedule", T), beta))


def jsd_schedule(T: int = 1000) -> Schedule:
    """β_t = 1/(T − t + 1), which destroys an equal share of the data at each step: ᾱ_t = 1 − t/T, a straight line.

    Sohl-Dickstein et al. 2015, section 2.4.1; "jsd" in the code of Ho et al. 2020. The product telescopes,
    (T−1)/T · (T−2)/(T−1) ···, and ends at β_T = 1, ᾱ_T = 0. Raises ValueError unless T ≥ 1."""
    return Schedule(1 / np.arange(check_T("jsd_schedule", T), 0, -1.0))


def sigmoid_beta_schedule(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """The β-form: β_t = beta_start + (beta_end − beta_start) σ(l), l from −6 to 6 in equal steps.

    An S-shaped β   (Xu et al. 2022, GeoDiff, in their code). Raises ValueError unless T ≥ 1 and both ends lie in (0, 1)."""
    check_ends("sigmoid_beta_schedule", beta_start, beta_end)
    logits = np.linspace(-6, 6, check_T("sigmoid_beta_schedule", T))
    return Schedule(beta_start + (beta_end - beta_start) * logistic(logits))


def sigmoid_alpha_bar_schedule(T: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """The ᾱ-form: ᾱ_t = (σ(end/τ) − σ(l/τ))/(σ(end/τ) − σ(start/τ)), l = start + (end − start) t/T, and β_t ≤ 0.999.

    An S-shaped ᾱ from 1 to 0; a smaller tau makes it steeper in the middle. Jabri et al. 2022, Chen 2023, Algorithm 1.
    Raises ValueError unless T ≥ 1, start < end and tau > 0."""
    usable = start < end and tau > 0
    require(usable, "sigmoid_alpha_bar_schedule: needs start < end and tau > 0", start=start, end=end, tau=tau)
    logits = start + (end - start) * np.arange(check_T("sigmoid_alpha_bar_schedule", T) + 1) / T
    f = logistic(end / tau) - logistic(logits / tau)
    return Schedule(np.minimum(1 - f[1:] / f[:-1], 0.999))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The schedule with √ᾱ shifted and stretched so that ᾱ_T = 0 exactly and ᾱ_1 stays   (Lin et al. 2023, Algorithm 1):

        √ᾱ'_t = √ᾱ_1 (√ᾱ_t − √ᾱ_T)/(√ᾱ_1 − √ᾱ_T),   β'_t = 1 − ᾱ'_t/ᾱ'_{t−1},   β'_T = 1

    Raises ValueError if it has fewer than two steps, between which to stretch."""
    require(schedule.T >= 2, "zero_terminal_snr: needs a schedule of at least two steps", T=schedule.T)
    root = np.sqrt(schedule.alpha_bar[1:])
    alpha_bar = np.concatenate([[1.0], (root[0] * (root - root[-1]) / (root[0] - root[-1])) ** 2])
    return Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


def check_ends(name: str, beta_start: float, beta_end: float) -> None:
    """Raise the ValueError of the schedule `name` unless both ends lie in (0, 1)."""
    inside = 0 < beta_start < 1 and 0 < beta_end < 1
    require(inside, f"{name}: beta_start and beta_end must lie in (0, 1)", beta_start=beta_start, beta_end=beta_end)


def check_T(name: str, T: int) -> int:
    """T itself, or the ValueError of the schedule `name` if it is no positive integer."""
    require_positive_integers(name, T=T)
    return T
