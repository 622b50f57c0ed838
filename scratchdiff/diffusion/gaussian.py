"""Gaussian diffusion: noise is added in T small steps by q, and a network learns to take the steps back.

What the network puts out can be read in three ways, each a linear map of the others (x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε):

    eps:  ε, the noise                          (Ho et al. 2020)
    x0:   the clean data
    v:    √ᾱ_t ε − √(1−ᾱ_t) x_0, in between     (Salimans & Ho 2022, Appendix D)
"""

import numpy as np

from scratchdiff import ops
from scratchdiff.diffusion.schedule import Schedule

PREDICTIONS = ("eps", "x0", "v")
VARIANCES = ("fixed_small", "fixed_large")


class GaussianDiffusion:
    """The process q of a schedule, and what is needed to train and run its reversal.

    predict: what the network's output means, "eps", "x0" or "v". variance: of p(x_{t−1} | x_t), "fixed_small" β̃_t (right
    if the data is one point) or "fixed_large" β_t (right if the data is N(0, I)): Ho et al. 2020, section 3.2.

    Everywhere x0, xt, eps are (N, ...) and t is an integer 1..T, or one for each of the N. A model is any function
    model(xt, t) with t of shape (N,) that returns an array or Tensor shaped like xt.
    Raises ValueError for another `predict` or `variance`; the methods raise it for t outside 1..T and unequal shapes.
    """

    def __init__(self, schedule: Schedule, predict: str = "eps", variance: str = "fixed_small"):
        if predict not in PREDICTIONS or variance not in VARIANCES:
            raise ValueError(f"GaussianDiffusion: predict must be one of {PREDICTIONS} and variance one of {VARIANCES}, "
                             f"got {predict!r} and {variance!r}")  # fmt: skip
        self.schedule, self.predict, self.variance = schedule, predict, variance
        beta, alpha, alpha_bar = schedule.beta, schedule.alpha, schedule.alpha_bar
        prev = np.concatenate([[1.0], alpha_bar[:-1]])  # ᾱ_{t−1}; entry 0 is never used
        noise = np.maximum(1 - alpha_bar, np.finfo(float).tiny)
        self.sqrt_alpha_bar, self.sqrt_noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        # Ho et al. 2020, Eq. 7: the posterior mean is a mix of x0 and xt
        self.posterior_x0 = np.sqrt(prev) * beta / noise
        self.posterior_xt = np.sqrt(alpha) * (1 - prev) / noise
        self.posterior_logvar = floor_first(beta * (1 - prev) / noise)
        self.p_logvar = self.posterior_logvar
        if variance == "fixed_large":
            self.p_logvar = np.log(np.concatenate([np.exp(self.posterior_logvar[:2]), beta[2:]]))

    def coefficient(self, array: np.ndarray, t, like: np.ndarray) -> np.ndarray:
        """array[t] shaped to multiply `like` (N, ...), in its dtype. Raises ValueError for t outside 1..T."""
        t = np.asarray(t)
        if t.dtype.kind not in "iu" or t.shape not in ((), like.shape[:1]):
            raise ValueError(f"t must be an integer or {like.shape[:1]} integers, got {t.dtype} of shape {t.shape}")
        if t.size and not (1 <= t.min() and t.max() <= self.schedule.T):
            raise ValueError(f"t must lie in 1..{self.schedule.T}, got {t.min()}..{t.max()}")
        return array[t].astype(like.dtype).reshape(t.shape + (1,) * (like.ndim - t.ndim))

    def q_sample(self, x0, t, eps):
        """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, a draw of q(x_t | x_0) where ε ~ N(0, I)   (Ho et al. 2020, Eq. 4)."""
        x0, eps = same_shape("q_sample", x0=x0, eps=eps)
        return self.coefficient(self.sqrt_alpha_bar, t, x0) * x0 + self.coefficient(self.sqrt_noise, t, x0) * eps

    def q_posterior(self, x0, xt, t):
        """(mean, logvar) of q(x_{t−1} | x_t, x_0)   (Ho et al. 2020, Eq. 6, 7):

            mean = √ᾱ_{t−1} β_t/(1−ᾱ_t) x_0 + √α_t (1−ᾱ_{t−1})/(1−ᾱ_t) x_t,   var = β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) β_t

        At t = 1 the variance is 0; its logarithm is given as that of t = 2 (as Ho's code), for no sampler uses it.
        """
        x0, xt = same_shape("q_posterior", x0=x0, xt=xt)
        mean = self.coefficient(self.posterior_x0, t, x0) * x0 + self.coefficient(self.posterior_xt, t, x0) * xt
        return mean, self.coefficient(self.posterior_logvar, t, x0)

    def predict_x0(self, xt, t, out):
        """x0_hat from the network's output: its estimate of the data behind x_t.

        eps: (x_t − √(1−ᾱ_t) ε)/√ᾱ_t (Ho et al. 2020, Eq. 15);   x0: itself;   v: √ᾱ_t x_t − √(1−ᾱ_t) v.
        """
        xt, out = same_shape("predict_x0", xt=xt, out=out)
        a, s = self.coefficient(self.sqrt_alpha_bar, t, xt), self.coefficient(self.sqrt_noise, t, xt)
        if self.predict == "eps":
            return (xt - s * out) / a
        return out if self.predict == "x0" else a * xt - s * out

    def predict_eps(self, xt, t, x0):
        """eps_hat = (x_t − √ᾱ_t x_0)/√(1−ᾱ_t): the noise that goes with an estimate of x0 (after clipping, say)."""
        xt, x0 = same_shape("predict_eps", xt=xt, x0=x0)
        return (xt - self.coefficient(self.sqrt_alpha_bar, t, xt) * x0) / self.coefficient(self.sqrt_noise, t, xt)

    def denoise(self, model, xt, t, clip=True):
        """x0_hat of a model at xt, all at the one step t; limited to [−1, 1] where `clip` (images, not points)."""
        out = np.asarray(model(xt, np.full(len(xt), t)))
        if not np.isfinite(out).all():
            raise FloatingPointError(f"denoise: the model's output at t = {t} is not finite; have its weights diverged?")
        x0_hat = self.predict_x0(xt, t, out)
        return np.clip(x0_hat, -1, 1) if clip else x0_hat

    def p_mean_logvar(self, model, xt, t, clip=True):
        """(mean, logvar) of p(x_{t−1} | x_t): the posterior with x0_hat in place of x_0   (Ho et al. 2020, Eq. 11).

        t: one integer for all. logvar broadcasts against the mean."""
        mean, _ = self.q_posterior(self.denoise(model, xt, t, clip), xt, t)
        return mean, self.coefficient(self.p_logvar, t, mean)

    def target(self, x0, t, eps):
        """What the network is to put out for x_t = q_sample(x0, t, eps)."""
        if self.predict == "v":
            return self.coefficient(self.sqrt_alpha_bar, t, x0) * eps - self.coefficient(self.sqrt_noise, t, x0) * x0
        return eps if self.predict == "eps" else x0

    def loss(self, model, x0, rng: np.random.Generator, labels=None):
        """Algorithm 1: draw t ~ U{1..T}, then ε ~ N(0, I); L = mean((target − model(x_t, t))²), a scalar Tensor.

        For predict="eps" this is L_simple   (Ho et al. 2020, Eq. 14). x0: (N, ...), of the model's dtype. labels: (N,)
        classes for a model made with num_classes; one in ten is hidden from it, so that it learns to do without as well
        (see `guidance.py`). Raises ValueError unless x0 is of finite floats, and for labels that the model does not take.
        """
        x0 = np.asarray(x0)
        if x0.dtype.kind != "f" or x0.ndim < 2 or x0.size == 0 or not np.isfinite(x0).all():
            raise ValueError(f"loss: x0 must be finite floats (N, ...), got {x0.dtype} of shape {x0.shape}")
        if labels is not None and (not getattr(model, "num_classes", None) or np.shape(labels) != (len(x0),)):
            raise ValueError(f"loss: needs a model made with num_classes and {len(x0)} labels, got shape {np.shape(labels)}")
        t = rng.integers(1, self.schedule.T + 1, size=len(x0))
        eps = rng.standard_normal(x0.shape).astype(x0.dtype)
        xt = self.q_sample(x0, t, eps)
        extra = {}
        if labels is not None:
            hidden = rng.random(len(x0)) < 0.1
            extra["labels"] = np.where(hidden, model.num_classes, labels)
        if getattr(model, "dropout", 0):  # it draws its masks from rng; without one it drops nothing, as in sampling
            extra["rng"] = rng
        return ops.mse(model(xt, t, **extra), self.target(x0, t, eps))


def floor_first(var: np.ndarray) -> np.ndarray:
    """log var, with the value of t = 2 at t = 0 and t = 1 too: the variance there is 0, and its logarithm no number."""
    smallest = var[2] if len(var) > 2 else np.finfo(float).tiny
    return np.log(np.concatenate([[smallest, smallest], var[2:]]))


def same_shape(name: str, **arrays) -> list[np.ndarray]:
    """The arguments as arrays, or the ValueError that names them where their shapes differ or they are not floats."""
    found = [np.asarray(a) for a in arrays.values()]
    if found[0].shape != found[1].shape or found[0].ndim < 1:
        shapes = ", ".join(f"{key} {a.shape}" for key, a in zip(arrays, found))
        raise ValueError(f"{name}: shapes differ or have no batch axis: {shapes}")
    if any(a.dtype.kind != "f" for a in found):
        raise ValueError(f"{name}: needs floats, got {', '.join(f'{key} {a.dtype}' for key, a in zip(arrays, found))}")
    return found
