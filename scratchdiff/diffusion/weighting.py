"""Which t counts how much: weights that keep easy steps from drowning the rest, and t drawn where there is most to learn."""

import numpy as np

from scratchdiff.checks import require_positive_integers

HISTORY = 10  # losses kept at each t: Nichol & Dhariwal 2021, section 3.3
UNIFORM = 0.001  # the share of draws that stay uniform, as in their code, so that no t is forgotten


def min_snr_weights(diffusion, gamma: float = 5.0) -> np.ndarray:
    """The weight of the squared error at each t, (T + 1,), entry 0 unused   (Hang et al. 2023, section 3.4).

    An error in x0_hat counts min(SNR_t, γ), SNR = ᾱ/(1−ᾱ). Said of what the network predicts, that is

        x0: min(SNR, γ)        eps: min(SNR, γ)/SNR        v: min(SNR, γ)/(SNR + 1)

    for ε̂ − ε is √SNR times the error in x0_hat, and v̂ − v is √(SNR + 1) times. Raises ValueError unless gamma > 0."""
    if not gamma > 0:
        raise ValueError(f"min_snr_weights: gamma must be positive, got {gamma}")
    signal, noise = diffusion.schedule.alpha_bar[1:], 1 - diffusion.schedule.alpha_bar[1:]
    weights = np.minimum(signal / noise, gamma)
    if diffusion.predict == "eps":
        weights = weights * noise / signal
    if diffusion.predict == "v":
        weights = weights * noise  # 1/(SNR + 1) = 1 − ᾱ
    return np.concatenate([[0.0], weights])


class ImportanceTimes:
    """Draws t with p_t ∝ √E[L_t²], so that L_t/p_t, an unbiased estimate of Σ_t L_t, varies as little as it can.

    E[L_t²] is that of the last ten losses seen at each t; until every t of 1..T has ten, t is uniform. One draw in a
    thousand always is. (Nichol & Dhariwal 2021, Eq. 18.) It learns from `update`, which `vlb_loss` calls.
    Raises ValueError unless T ≥ 1, and in `update` for t outside 1..T and losses that are not finite and one for each.
    """

    def __init__(self, T: int):
        require_positive_integers("ImportanceTimes", T=T)
        self.losses = np.zeros((T, HISTORY))  # a ring for each t
        self.seen = np.zeros(T, int)

    def probabilities(self) -> np.ndarray:
        """p_t for t = 1..T, (T,)."""
        T = len(self.seen)
        root = np.sqrt(np.square(self.losses).mean(1))
        if (self.seen < HISTORY).any() or not root.any():
            return np.full(T, 1 / T)
        return (1 - UNIFORM) * root / root.sum() + UNIFORM / T

    def draw(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """n independent t, and 1/p_t of each: (n,), (n,)."""
        p = self.probabilities()
        t = rng.choice(np.arange(1, len(p) + 1), size=n, p=p)
        return t, 1 / p[t - 1]

    def update(self, t, losses) -> None:
        """Note losses (n,) met at the times t (n,), the oldest of each t making room."""
        t, losses = np.asarray(t), np.asarray(losses)
        fits = t.dtype.kind in "iu" and t.ndim == 1 and t.shape == losses.shape and ((1 <= t) & (t <= len(self.seen))).all()
        if not fits or not np.isfinite(losses).all():
            raise ValueError(
                f"ImportanceTimes: needs t in 1..{len(self.seen)} and as many finite losses, got {t} and {losses}"
            )
        for k, loss in zip(t - 1, losses):
            self.losses[k, self.seen[k] % HISTORY] = loss
            self.seen[k] += 1
