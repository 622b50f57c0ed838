"""The variational bound: an upper bound on the code length of the data, and how much of it each t contributes.

The probability of x_0 under the model is an intractable integral over x_1, ..., x_T. Jensen's inequality bounds it
(Sohl-Dickstein et al. 2015, Eq. 14; Ho et al. 2020, Eq. 5):

    −log p(x_0)  ≤  L_0 + L_1 + ... + L_T

    L_T     = KL(q(x_T | x_0) ‖ N(0, I))                           what x_T still holds of x_0: nothing to learn here
    L_{t−1} = E KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t))       1 < t ≤ T: how wrong the step back from t is
    L_0     = E [−log p(x_0 | x_1)]                                the last step, from noise to data

Each is a code length: send x_T, then every x_{t−1} to someone who has the model, and these are the nats it takes. Divided
by log 2 and the number of dimensions they are bits/dim, which for 8-bit images can be held against any other model or
compressor (8 is no compression at all). In all arrays here, index k is L_k.
"""

from typing import NamedTuple

import numpy as np

from scratchdiff import ops
from scratchdiff.checks import require

ROWS, NUMBERS = 4096, 200_000  # at most so many x_t, and so many numbers in them, in one call of the network


class Bound(NamedTuple):
    """terms: (N, T + 1), column k is L_k of each x0 in nats, or an unbiased estimate of it; dims: numbers in one x0."""

    terms: np.ndarray
    dims: int

    def __repr__(self):
        bits = self.nats / (self.dims * np.log(2))
        parts = f"L_0 {bits[0]:.3g} + L_1..L_T-1 {bits[1:-1].sum():.3g} + L_T {bits[-1]:.2g}"
        return f"Bound({self.bits_per_dim:.4g} ± {self.standard_error:.2g} bits/dim = {parts}; N = {len(self.terms)})"

    @property
    def nats(self) -> np.ndarray:
        """L_0 ... L_T, (T + 1,), the mean over all x0."""
        return self.terms.mean(0)

    @property
    def bits_per_dim(self) -> float:
        """The whole bound, the mean over all x0."""
        return float(self.nats.sum() / (self.dims * np.log(2)))

    @property
    def standard_error(self) -> float:
        """Of bits_per_dim: that of a mean of N independent draws, of x0, t and noise. NaN for a single x0."""
        bits = self.terms.sum(1) / (self.dims * np.log(2))
        return float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else np.nan


def variational_bound(diffusion, model, x0, rng: np.random.Generator, labels=None, draws=None) -> Bound:
    """The terms L_0, ..., L_T of the bound on −log p(x0) for each x0: what `diffusion.bound(model, x0, rng)` returns.

    x0: (N, ...). For a diffusion of images, p(x_0 | x_1) is a mass on 256 values   (Ho et al. 2020, Eq. 13); otherwise x0
    is continuous and p a density.
    draws: None for every t, which costs T evaluations of the network for each x0. A number k costs k: t is drawn once in
    each of k strata of 1..T, and counts for as many steps as its stratum has: unbiased, but noisier (`standard_error`).
    labels: (N,) classes, for a model that takes them: the bound is then one on −log p(x0 | label).
    Raises ValueError for images off that grid, where a mass would mean nothing, for no x0, x0 that is not finite floats,
    labels that are not one for each, and unless 1 ≤ draws ≤ T.
    """
    x0 = check_data("bound", x0, labels).astype(np.float64)
    N, T = len(x0), diffusion.schedule.T
    if diffusion.images:
        check_pixels("bound", x0)
    inside = draws is None or (isinstance(draws, (int, np.integer)) and 1 <= draws <= T)
    require(inside, f"bound: draws must lie in 1..{T}", draws=draws)
    ends = strata(T, T if draws is None else draws)
    size = np.diff(ends)  # (k,)
    t = (ends[:-1] + rng.integers(1, size + 1, (N, len(size)))).ravel()
    owner = np.repeat(np.arange(N), len(size))  # which x0 each t is drawn for
    counts_for = np.tile(size, N)

    terms = np.zeros((N, T + 1))
    terms[:, T] = prior_kl(diffusion, x0)
    rows = max(1, min(ROWS, NUMBERS // x0[0].size))
    for first in range(0, len(t), rows):
        n, each_t = owner[first : first + rows], t[first : first + rows]
        xt = diffusion.q_sample(x0[n], each_t, rng.standard_normal(x0[n].shape))
        conditions = {} if labels is None else dict(labels=np.asarray(labels)[n])
        x0_hat, logvar = diffusion.denoise(model, xt, each_t, **conditions)
        nats = step_nats(diffusion, x0_hat, logvar, x0[n], xt, each_t).data
        terms[n, each_t - 1] = counts_for[first : first + rows] * nats
    return Bound(terms, x0[0].size)


def strata(T: int, k: int) -> np.ndarray:
    """The ends 0 = e_0 < e_1 < ... < e_k = T of k strata (e_{i−1}, e_i] of 1..T: t = 1 alone, then in geometric progression.

    L_0 is a term of its own and often the largest; the rest falls about as 1/t, so these strata hold about equal parts."""
    if k == 1:
        return np.array([0, T])
    ends = [0]
    for i in range(k):
        ends.append(int(min(max(round(T ** (i / (k - 1))), ends[-1] + 1), T - (k - 1 - i))))
    return np.array(ends)


def prior_kl(diffusion, x0) -> np.ndarray:
    """L_T = KL(N(√ᾱ_T x_0, (1−ᾱ_T) I) ‖ N(0, I)) in nats, (N,): close to ½ ᾱ_T ‖x_0‖²."""
    left = diffusion.schedule.alpha_bar[-1]
    return 0.5 * (left * np.square(x0) - left - np.log1p(-left)).sum(tuple(range(1, x0.ndim)))


def step_nats(diffusion, x0_hat, logvar, x0, xt, t):
    """L_{t−1} of each x0 at one x_t, given the network's estimate: a Tensor (N,), in nats.

    x0_hat: as xt, and logvar: broadcasting to it, are the estimate and the log-variance of p(x_{t−1} | x_t); either may be
    a Tensor, through which gradients flow, or an array, at which they stop. t: (N,) integers, or one. The KL of two
    normal distributions for t > 1, and −log p(x_0 | x_1) for t = 1   (Ho et al. 2020, Eq. 8, 13).
    """
    mean_q, logvar_q = diffusion.q_posterior(x0, xt, t)
    mean_p, _ = diffusion.q_posterior(x0_hat, xt, t)
    logvar_q = np.broadcast_to(logvar_q, xt.shape)
    if np.shape(logvar) != xt.shape:  # a fixed variance: one number for each t
        logvar = np.broadcast_to(logvar, xt.shape)
    of_x0 = tuple(range(1, xt.ndim))
    nats = ops.normal_kl(mean_q, logvar_q, mean_p, logvar).sum(of_x0)
    last = np.broadcast_to(np.asarray(t) == 1, xt.shape[:1])
    if last.any():
        log_prob = ops.discretized_normal_log_prob if diffusion.images else ops.normal_log_prob
        share = last.astype(xt.dtype)
        nats = nats * (1 - share) - log_prob(x0, mean_p, logvar).sum(of_x0) * share
    return nats


def vlb_loss(diffusion, model, x0, rng: np.random.Generator, labels=None, times=None, label_dropout=0.1):
    """L_vlb = L_0 + ... + L_{T−1} in bits/dim, estimated at one t for each x0: a scalar Tensor to train on.

    t is uniform and L_{t−1} counts T times; or t is drawn by `times`, an ImportanceTimes, and counts 1/p_t
    (Nichol & Dhariwal 2021, Eq. 18). Draws t, then ε, and then hides labels as `diffusion.loss`. Gradients flow into the
    mean and into a learned variance. Raises ValueError as `bound` does, and for times of another T.
    """
    x0 = check_data("vlb_loss", x0, labels)
    if diffusion.images:
        check_pixels("vlb_loss", x0)
    T = diffusion.schedule.T
    if times is not None:
        require(len(times.seen) == T, f"vlb_loss: times of {len(times.seen)} steps for a diffusion that has {T}")
    t, weight = (rng.integers(1, T + 1, size=len(x0)), np.full(len(x0), T)) if times is None else times.draw(rng, len(x0))
    xt = diffusion.q_sample(x0, t, rng.standard_normal(x0.shape).astype(x0.dtype))
    prediction, logvar = diffusion.split_output(diffusion.training_output(model, xt, t, rng, labels, label_dropout), xt, t)
    nats = step_nats(diffusion, diffusion.predict_x0(xt, t, prediction), logvar, x0, xt, t)
    if times is not None:
        times.update(t, nats.data)
    return (nats * weight.astype(x0.dtype)).mean() / float(x0[0].size * np.log(2))


def check_data(name: str, x0, labels=None) -> np.ndarray:
    """x0 as an array, or the ValueError of the function `name` unless it is finite floats (N, ...) and labels fit it."""
    x0 = np.asarray(x0)
    usable = x0.dtype.kind == "f" and x0.ndim >= 2 and x0.size > 0 and np.isfinite(x0).all()
    require(usable, f"{name}: x0 must be finite floats (N, ...)", x0=x0)
    fit = labels is None or np.shape(labels) == (len(x0),)
    require(fit, f"{name}: needs {len(x0)} labels, got shape {np.shape(labels)}")
    return x0


def check_pixels(name: str, x0) -> None:
    """Raise the ValueError of the function `name` unless every entry of x0 is one of the numbers k/127.5 − 1, k = 0..255."""
    k = 127.5 * (np.asarray(x0, np.float64) + 1)
    off = np.abs(k - np.clip(np.round(k), 0, 255))
    if not (off < 1e-3).all():
        raise ValueError(f"{name}: images must have 8-bit values k/127.5 − 1, k = 0..255, but {x0.flat[off.argmax()]} is "
                         "none; continuous data need GaussianDiffusion(..., images=False)")  # fmt: skip
