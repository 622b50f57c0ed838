"""Diffusion over bits: each step moves every bit a little towards a fair coin   (Sohl-Dickstein et al. 2015, Table App.1).

    q(x_t = 1 | x_{t−1}) = x_{t−1} (1 − β_t) + ½ β_t,       β_t = 1/(T − t + 1)

With probability β_t a bit is replaced by a fair coin. The bit of x_0 survives t steps with probability
ᾱ_t = Π (1 − β_s) = (T−1)/T · (T−2)/(T−1) ··· = 1 − t/T, so

    q(x_t = 1 | x_0) = x_0 ᾱ_t + ½ (1 − ᾱ_t)                                                                        (1)

and at t = T nothing is left. The step back, given x_0, is Bayes' rule for one bit:

    q(x_{t−1} = 1 | x_t, x_0) = q(x_t | x_{t−1} = 1) q(x_{t−1} = 1 | x_0)
                                / Σ_b q(x_t | x_{t−1} = b) q(x_{t−1} = b | x_0)                                         (2)

A network gives the logits of p(x_{t−1} = 1 | x_t). With r the probability (2), the step's term of the bound is a KL
divergence of coins. At t = 1 it is −log p(x_0 | x_1), since r = x_0 there:

    KL(r ‖ p) = r log r + (1−r) log(1−r) − [r log p + (1−r) log(1−p)]
"""

import numpy as np

from scratchdiff import ops
from scratchdiff.autograd import Tensor
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.diffusion.bound import Bound


class BinomialDiffusion:
    """The process on bits in T steps. x0 and xt are (N, D) arrays of 0 and 1; t is an integer in 1..T, or (N,) of them.

    model(xt, t): logits (N, D) of p(x_{t−1} = 1 | x_t), an array or a Tensor, t of shape (N,).
    Raises ValueError for T < 1, t outside 1..T, and x0 or xt that are not bits."""

    def __init__(self, T: int = 2000):
        require_positive_integers("BinomialDiffusion", T=T)
        self.T = T
        t = np.arange(T + 1)
        self.alpha_bar = 1 - t / T
        self.beta = np.concatenate([[0.0], 1 / (T - t[1:] + 1)])

    def q_sample(self, x0, t, rng: np.random.Generator) -> np.ndarray:
        """x_t, a draw of (1), in x0's dtype."""
        x0 = self.bits("q_sample", x0)
        t = self.times("q_sample", t, len(x0))
        return (rng.random(x0.shape) < self.q_marginal(x0, t)).astype(x0.dtype)

    def q_marginal(self, x0, t):
        """(1): the probability that a bit of x_t is 1, given x_0. t may be 0 here."""
        return x0 * self.alpha_bar[t] + 0.5 * (1 - self.alpha_bar[t])

    def q_posterior(self, x0, xt, t) -> np.ndarray:
        """(2): the probability that a bit of x_{t−1} is 1, given x_t and x_0. (N, D) float64."""
        x0, xt = self.bits("q_posterior", x0), self.bits("q_posterior", xt)
        t = self.times("q_posterior", t, len(x0))
        require(x0.shape == xt.shape, "q_posterior: x0 and xt must have one shape", x0=x0, xt=xt)
        flips = 0.5 * self.beta[t]  # the probability that a step changes a bit
        of_one, of_zero = (np.where(xt == b, 1 - flips, flips) for b in (1, 0))
        prior = self.q_marginal(x0, t - 1)
        return of_one * prior / (of_one * prior + of_zero * (1 - prior))

    def step_nats(self, model, x0, xt, t) -> Tensor:
        """KL(r ‖ p) of the step t → t − 1 at xt, summed over the bits: a Tensor (N,), in nats."""
        r = self.q_posterior(x0, xt, t)
        logits = model(xt, np.broadcast_to(t, len(x0)))
        require(np.shape(logits) == x0.shape, "BinomialDiffusion: logits must have the shape of x", logits=logits, x=x0)
        logits = logits if isinstance(logits, Tensor) else Tensor(logits)
        if not np.isfinite(logits.data).all():
            raise FloatingPointError("BinomialDiffusion: the model's logits are not finite; have its weights diverged?")
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.nan_to_num(r * np.log(r)) - np.nan_to_num((1 - r) * np.log(1 - r))
        cross = ops.bernoulli_log_prob(r.astype(logits.dtype), logits).sum(1)
        return -cross - entropy.sum(1).astype(logits.dtype)

    def loss(self, model, x0, rng: np.random.Generator) -> Tensor:
        """An unbiased estimate of the bound in nats per bit, at one t for each x0: a scalar Tensor. Draws t, then x_t."""
        x0 = self.bits("loss", x0)
        t = rng.integers(1, self.T + 1, size=len(x0))
        return self.step_nats(model, x0, self.q_sample(x0, t, rng), t).mean() * (self.T / x0.shape[1])

    def bound(self, model, x0, rng: np.random.Generator) -> Bound:
        """The bound on −log p(x0), term by term: Σ_t KL(r ‖ p), with x_t drawn once for each x0 and t.

        L_T, the KL of q(x_T | x_0) from a fair coin, is 0: β_T = 1. The bound in bits per sequence is
        bits_per_dim · D; it is never below −log₂ p(x0) in the mean, and so never below the entropy of the data."""
        x0 = self.bits("bound", x0)
        terms = np.zeros((len(x0), self.T + 1))
        for t in range(1, self.T + 1):
            terms[:, t - 1] = self.step_nats(model, x0, self.q_sample(x0, t, rng), t).data
        return Bound(terms, x0.shape[1])

    def sample(self, model, shape, rng: np.random.Generator) -> np.ndarray:
        """x_0 of shape (N, D), float64: from fair coins x_T down the chain, each bit a draw of p(x_{t−1} | x_t)."""
        require(len(shape) == 2 and min(shape) >= 1, "sample: shape must be (N, D)", shape=shape)
        x = (rng.random(shape) < 0.5).astype(np.float64)
        for t in range(self.T, 0, -1):
            logits = np.asarray(model(x, np.full(shape[0], t)))
            x = (rng.random(shape) < ops.sigmoid(logits).data).astype(np.float64)
        return x

    def bits(self, name: str, x) -> np.ndarray:
        """x as a float array of bits (N, D), or the ValueError of the method `name`."""
        x = np.asarray(x)
        x = x.astype(np.float64) if x.dtype.kind in "iub" else x
        require(x.dtype.kind == "f" and x.ndim == 2 and x.size > 0, f"{name}: x must be bits (N, D), 0 or 1", x=x)
        require(((x == 0) | (x == 1)).all(), f"{name}: x must be bits (N, D), 0 or 1", x=x)
        return x

    def times(self, name: str, t, n: int):
        """t as an array (1, 1) or (N, 1), or the ValueError of the method `name`."""
        t = np.asarray(t)
        require(t.dtype.kind in "iu" and t.shape in ((), (n,)), f"{name}: t must be an integer or {n} of them", t=t)
        span = f"{t.min()}..{t.max()}"
        require(((1 <= t) & (t <= self.T)).all(), f"{name}: t must lie in 1..{self.T}, got {span}")
        return t.reshape(-1, 1)
