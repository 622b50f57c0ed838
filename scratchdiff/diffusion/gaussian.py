"""Gaussian diffusion: noise is added in T small steps by q, and a network learns to take the steps back.

The network predicts one of three quantities. At a given x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε each is a linear map of the others:

    eps:  ε, the noise                          (Ho et al. 2020)
    x0:   the clean data
    v:    √ᾱ_t ε − √(1−ᾱ_t) x_0, in between     (Salimans & Ho 2022, Appendix D)
"""

from functools import partial

import numpy as np

from scratchdiff import ops
from scratchdiff.autograd import Tensor
from scratchdiff.checks import require
from scratchdiff.diffusion.bound import Bound, check_data, check_pixels, step_nats, variational_bound
from scratchdiff.diffusion.schedule import Schedule
from scratchdiff.diffusion.weighting import min_snr_weights

PREDICTIONS = ("eps", "x0", "v")
VARIANCES = ("fixed_small", "fixed_large", "learned")
VLB_WEIGHT = 0.001  # λ of L_hybrid: small, so that L_simple dominates (Nichol & Dhariwal 2021, section 3.1)


class GaussianDiffusion:
    """The process q of a schedule, and what is needed to train and run its reversal.

    predict: what the network predicts, "eps", "x0" or "v". variance: that of p(x_{t−1} | x_t), "fixed_small" β̃_t (exact
    if the data is one point) or "fixed_large" β_t (exact if the data is N(0, I)): Ho et al. 2020, section 3.2. Or
    "learned": the network has twice the channels, and the second half u interpolates between the two at each pixel,

        log σ² = f log β_t + (1−f) log β̃_t,   f = (u + 1)/2                        (Nichol & Dhariwal 2021, Eq. 15)

    images: whether the data are 8-bit images scaled to k/127.5 − 1. Then every x0_hat is clipped to [−1, 1], and
    p(x_0 | x_1) is a probability mass on 256 values instead of a density.

    Everywhere x0, xt, eps are (N, ...) and t is an integer 1..T, or one for each of the N. `predict_x0`, `predict_eps`,
    `target` and `denoise` also take real t in [1, T], for solvers that step between two integers. A model is any function
    model(xt, t) with t of shape (N,) that returns an array or Tensor shaped like xt (learned: with twice the channels).
    Raises ValueError for another `predict` or `variance`, and for predict="eps" where ᾱ_T = 0: there x_T = ε
    for every x_0, so eps_hat holds no information about x_0. The methods raise it for t outside 1..T and unequal shapes.
    """

    def __init__(self, schedule: Schedule, predict: str = "eps", variance: str = "fixed_small", images: bool = False):
        known = predict in PREDICTIONS and variance in VARIANCES
        allowed = f"predict must be one of {PREDICTIONS} and variance one of {VARIANCES}"
        require(known, f"GaussianDiffusion: {allowed}", predict=predict, variance=variance)
        useful = predict != "eps" or schedule.alpha_bar[-1] > 0
        require(useful, "GaussianDiffusion: with ᾱ_T = 0, predict='eps' cannot work: x_T is ε and holds nothing of "
                "x_0; predict 'v' or 'x0'")  # fmt: skip
        self.schedule, self.predict, self.variance, self.images = schedule, predict, variance, images
        beta, alpha, alpha_bar = schedule.beta, schedule.alpha, schedule.alpha_bar
        prev = np.concatenate([[1.0], alpha_bar[:-1]])  # ᾱ_{t−1}; entry 0 is never used
        noise = np.maximum(1 - alpha_bar, np.finfo(float).tiny)
        self.sqrt_alpha_bar, self.sqrt_noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
        # Ho et al. 2020, Eq. 7: the posterior mean is a mix of x0 and xt
        self.posterior_x0 = np.sqrt(prev) * beta / noise
        self.posterior_xt = np.sqrt(alpha) * (1 - prev) / noise
        self.posterior_logvar = log_with_first(beta * (1 - prev) / noise, beta[1])
        self.log_beta = np.log(np.concatenate([beta[1:2], beta[1:]]))  # entry 0 is never used
        self.p_logvar = self.posterior_logvar
        if variance == "fixed_large":
            self.p_logvar = np.concatenate([self.posterior_logvar[:2], self.log_beta[2:]])

    def __repr__(self):
        settings = f"predict={self.predict!r}, variance={self.variance!r}, images={self.images}"
        return f"GaussianDiffusion({self.schedule}, {settings})"

    def extract(self, array: np.ndarray, t, like: np.ndarray) -> np.ndarray:
        """array[t] shaped to multiply `like` (N, ...), in its dtype. Raises ValueError for t outside 1..T."""
        t = np.asarray(t)
        fits = t.dtype.kind in "iu" and t.shape in ((), like.shape[:1])
        require(fits, f"t must be an integer or {like.shape[:1]} integers", t=t)
        low, high = (t.min(), t.max()) if t.size else (1, 1)
        require(1 <= low and high <= self.schedule.T, f"t must lie in 1..{self.schedule.T}, got {low}..{high}")
        return array[t].astype(like.dtype).reshape(t.shape + (1,) * (like.ndim - t.ndim))

    def signal_and_noise(self, t, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(√ᾱ_t, √(1−ᾱ_t)), shaped as by `extract`; t may also be real, in [1, T]: see `Schedule.sigma`."""
        if np.asarray(t).dtype.kind != "f":
            return self.extract(self.sqrt_alpha_bar, t, like), self.extract(self.sqrt_noise, t, like)
        t = np.asarray(t)
        inside = t.shape in ((), like.shape[:1]) and ((1 <= t) & (t <= self.schedule.T)).all()
        require(inside, f"t must be a number or {like.shape[:1]} numbers in [1, {self.schedule.T}]", t=t)
        sigma = self.schedule.sigma(t).reshape(t.shape + (1,) * (like.ndim - t.ndim))
        a, s = 1 / np.sqrt(1 + sigma**2), 1 / np.sqrt(1 + sigma**-2.0)  # a is 0 and s is 1 where σ is infinite
        return a.astype(like.dtype), s.astype(like.dtype)

    def q_sample(self, x0, t, eps):
        """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, a draw of q(x_t | x_0) where ε ~ N(0, I)   (Ho et al. 2020, Eq. 4)."""
        x0, eps = same_shape("q_sample", x0=x0, eps=eps)
        return self.extract(self.sqrt_alpha_bar, t, x0) * x0 + self.extract(self.sqrt_noise, t, x0) * eps

    def q_posterior(self, x0, xt, t):
        """(mean, logvar) of q(x_{t−1} | x_t, x_0)   (Ho et al. 2020, Eq. 6, 7):

            mean = √ᾱ_{t−1} β_t/(1−ᾱ_t) x_0 + √α_t (1−ᾱ_{t−1})/(1−ᾱ_t) x_t,   var = β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) β_t

        At t = 1 the variance is 0; we return the logarithm of t = 2 there (as in Ho's code). No sampler uses it.
        """
        x0, xt = same_shape("q_posterior", x0=x0, xt=xt)
        mean = self.extract(self.posterior_x0, t, x0) * x0 + self.extract(self.posterior_xt, t, x0) * xt
        return mean, self.extract(self.posterior_logvar, t, x0)

    def predict_x0(self, xt, t, out):
        """x0_hat from the network's output: its estimate of the data behind x_t.

        eps: (x_t − √(1−ᾱ_t) ε)/√ᾱ_t (Ho et al. 2020, Eq. 15);   x0: itself;   v: √ᾱ_t x_t − √(1−ᾱ_t) v.
        """
        xt, out = same_shape("predict_x0", xt=xt, out=out)
        a, s = self.signal_and_noise(t, xt)
        if self.predict == "eps":
            return (xt - s * out) / a
        return out if self.predict == "x0" else a * xt - s * out

    def predict_eps(self, xt, t, x0):
        """eps_hat = (x_t − √ᾱ_t x_0)/√(1−ᾱ_t): the noise that goes with an estimate of x0 (after clipping, say)."""
        xt, x0 = same_shape("predict_eps", xt=xt, x0=x0)
        a, s = self.signal_and_noise(t, xt)
        return (xt - a * x0) / s

    def split_output(self, out, xt, t=None):
        """A network's output as (prediction, logvar): what `predict` names, and the log-variance of p(x_{t−1} | x_t).

        out may be a Tensor; then what depends on it is one too. A fixed log-variance has one entry per t. logvar is None
        where t is real or None, since the chain has a variance only at its steps.
        Raises ValueError if the variance is learned and out does not have twice the channels of xt."""
        C = xt.shape[-1]
        learned, of_chain = self.variance == "learned", t is not None and np.asarray(t).dtype.kind != "f"
        if learned and out.shape != (*xt.shape[:-1], 2 * C):
            raise ValueError(f"GaussianDiffusion: variance='learned' needs a network with {2 * C} output channels for x_t "
                             f"{xt.shape}, got {out.shape}")  # fmt: skip
        prediction = out[..., :C] if learned else out
        if not of_chain:
            return prediction, None
        if not learned:
            return prediction, self.extract(self.p_logvar, t, xt)
        low, high = self.extract(self.posterior_logvar, t, xt), self.extract(self.log_beta, t, xt)
        return prediction, low + (out[..., C:] + 1) / 2 * (high - low)

    def denoise(self, model, xt, t, clip: bool | None = None, **conditions):
        """(x0_hat, log-variance of p(x_{t−1} | x_t)) of a model at xt. The log-variance is None at a real t.

        t: one number, or one for each of the N. conditions: what else the model takes, such as labels. clip: limit x0_hat
        to [−1, 1]; None: if the data are images. Raises FloatingPointError if the model's output is not finite."""
        out = np.asarray(model(xt, np.full(len(xt), t), **conditions))
        if not np.isfinite(out).all():
            at = f"step t = {t}" if np.ndim(t) == 0 else f"a step t in {np.min(t)}..{np.max(t)}"
            raise FloatingPointError(f"denoise: the model's output at {at} is not finite; have its weights diverged?")
        prediction, logvar = self.split_output(out, xt, t)
        x0_hat = self.predict_x0(xt, t, prediction)
        return np.clip(x0_hat, -1, 1) if (self.images if clip is None else clip) else x0_hat, logvar

    def p_mean_logvar(self, model, xt, t, clip: bool | None = None):
        """(mean, logvar) of p(x_{t−1} | x_t): the posterior with x0_hat in place of x_0   (Ho et al. 2020, Eq. 11).

        t: one integer for all. logvar broadcasts against the mean. clip: as for `denoise`."""
        x0_hat, logvar = self.denoise(model, xt, t, clip)
        return self.q_posterior(x0_hat, xt, t)[0], logvar

    def target(self, x0, t, eps):
        """What the network should predict at x_t = q_sample(x0, t, eps)."""
        if self.predict == "v":
            a, s = self.signal_and_noise(t, x0)
            return a * eps - s * x0
        return eps if self.predict == "eps" else x0

    def training_output(self, model, xt, t, rng: np.random.Generator, labels=None, label_dropout=0.1):
        """The network's output in training: with its dropout, if it has any, and with each label hidden at that rate."""
        extra = {}
        if labels is not None:
            has_classes = getattr(model, "num_classes", None)
            require(has_classes, f"loss: labels need a model made with num_classes, got {type(model).__name__}")
            require(0 <= label_dropout <= 1, "loss: label_dropout must be in [0, 1]", label_dropout=label_dropout)
            extra["labels"] = np.where(rng.random(len(xt)) < label_dropout, model.num_classes, labels)
        if getattr(model, "dropout", 0):
            extra["dropout_rng"] = rng
        return model(xt, t, **extra)

    def loss(self, model, x0, rng: np.random.Generator, labels=None, min_snr=None, label_dropout=0.1, huber=None,
             offset=0.0):  # fmt: skip
        """Algorithm 1: draw t ~ U{1..T}, then ε ~ N(0, I); L = mean((target − model(x_t, t))²), a scalar Tensor.

        For predict="eps" this is L_simple   (Ho et al. 2020, Eq. 14). x0: (N, ...), of the model's dtype. labels: (N,)
        classes for a model made with num_classes; each is hidden with probability label_dropout, so that the model also
        learns to do without (see `guidance.py`). min_snr: γ of the weights that `weighting.py` gives the squares, such as
        5; None for none. huber: δ of the Huber loss in place of the squares, such as 1 (`ops.huber`); None for squares.
        offset: offset noise (Guttenberg 2023), ε + offset · δ in place of ε, with one δ ~ N(0, 1) for each image and
        channel, so that the network also learns to move the mean of an image; such as 0.1.

        L_simple does not depend on a learned variance, so then L = L_hybrid = L_simple + 0.001 L_vlb in bits/dim. The
        gradient of L_vlb stops at the mean: L_simple trains the mean, L_vlb the variance (Nichol & Dhariwal 2021, Eq. 16).
        Raises ValueError unless x0 is of finite floats and offset ≥ 0, for labels that the model does not take, and for
        min_snr, which weighs squares, together with huber.
        """
        x0 = check_data("loss", x0, labels)
        require(min_snr is None or huber is None, "loss: min_snr weighs squares, so it does not go with huber", huber=huber)
        require(0 <= offset < np.inf, "loss: offset must not be negative", offset=offset)
        distance = ops.mse if huber is None else partial(ops.huber, delta=huber)
        t = rng.integers(1, self.schedule.T + 1, size=len(x0))
        eps = rng.standard_normal(x0.shape).astype(x0.dtype)
        if offset:
            delta = rng.standard_normal((len(x0), *[1] * (x0.ndim - 2), x0.shape[-1]))
            eps = eps + (offset * delta).astype(x0.dtype)
        xt = self.q_sample(x0, t, eps)
        learned = self.variance == "learned"
        out = self.training_output(model, xt, t, rng, labels, label_dropout)
        prediction, logvar = self.split_output(out, xt, t if learned else None)
        target = self.target(x0, t, eps)
        if min_snr is None:
            simple = distance(prediction, target)
        else:
            root = self.extract(np.sqrt(min_snr_weights(self, min_snr)), t, x0)
            simple = ops.mse(root * prediction, root * target)
        if not learned:
            return simple
        if self.images:
            check_pixels("loss", x0)
        x0_hat = self.predict_x0(xt, t, np.asarray(prediction))  # an array: the gradient stops here
        nats = step_nats(self, x0_hat, logvar, x0, xt, t)
        return simple + VLB_WEIGHT * self.schedule.T / (x0[0].size * float(np.log(2))) * nats.mean()

    def bound(self, model, x0, rng: np.random.Generator, labels=None, draws=None) -> Bound:
        """The variational bound on −log p(x0), term by term, and in bits/dim: see `bound.py`."""
        return variational_bound(self, model, x0, rng, labels, draws)


def log_with_first(var: np.ndarray, alone: float) -> np.ndarray:
    """log var, with the value of t = 2 (or `alone`, where T = 1) at t = 0 and t = 1 too: the variance there is 0."""
    smallest = var[2] if len(var) > 2 else alone
    return np.log(np.concatenate([[smallest, smallest], var[2:]]))


def same_shape(name: str, **arguments) -> list:
    """The arguments as arrays (Tensors stay what they are), or the ValueError that names them where their shapes differ or
    they are not floats."""
    found = [a if isinstance(a, Tensor) else np.asarray(a) for a in arguments.values()]
    if found[0].shape != found[1].shape or found[0].ndim < 1:
        shapes = ", ".join(f"{key} {a.shape}" for key, a in zip(arguments, found))
        raise ValueError(f"{name}: shapes differ or have no batch axis: {shapes}")
    if any(a.dtype.kind != "f" for a in found):
        raise ValueError(f"{name}: needs floats, got {', '.join(f'{key} {a.dtype}' for key, a in zip(arguments, found))}")
    return found
