"""Exact oracles: data so simple that the best possible denoiser is a formula, and nothing has to be trained.

Data from a Gaussian mixture stays one while noise is added. With a = √ᾱ_t, s = √(1−ᾱ_t) and x_t = a x_0 + s ε,

    p(x_0) = Σ_k w_k N(m_k, C_k)      ⟹      p_t(x) = Σ_k w_k N(x; a m_k, S_k),    S_k = a² C_k + s² I

and within a component x_0 and x_t are jointly Gaussian. So what a network can at best learn, the mean of x_0 given x_t, is

    E[x_0 | x] = Σ_k r_k E_k,    E_k = m_k + a C_k S_k⁻¹ (x − a m_k),    r_k = w_k N(x; a m_k, S_k) / p_t(x)

A finite data set is the mixture with C_k = 0: its best denoiser averages the data by their nearness to x (softmax
attention, if you like), and sampling with it gives the data back and nothing else. The errors of a perfect denoiser are not
0, since many x_0 lead to one x_t: their mean square is the floor under the training loss, the *irreducible loss*.
"""

import numpy as np

from scratchdiff import ops
from scratchdiff.autograd import op
from scratchdiff.checks import require, require_finite_floats
from scratchdiff.diffusion.bound import check_data


class Oracle:
    """The exact quantities of a diffusion of a Gaussian mixture, or of a finite data set.

    diffusion: a GaussianDiffusion. means: (K, ...), the shape of one datum after the first axis; d is its size.
    cov: 0 for the finite data set `means`; a variance, or (K,) of them, for round components; (K, d, d) covariances.
    weights: (K,) ≥ 0, made to sum to 1; equal by default.

    The oracle is a model: oracle(xt, t) is what a perfect network would put out, in the diffusion's own `predict`
    parametrisation, so that any sampler, loss or bound takes it. Everywhere x is (N, ...), t whole or real in [1, T], one or
    one for each x. Everything is computed in float64.
    Raises ValueError for shapes that do not fit, for what is not finite, for variances or weights that are negative, and for
    covariances that are not symmetric.
    """

    def __init__(self, diffusion, means, cov=0.0, weights=None):
        means, cov = np.asarray(means, np.float64), np.asarray(cov, np.float64)
        K, d = len(means), int(np.prod(means.shape[1:]))
        weights = np.ones(K) if weights is None else np.asarray(weights, np.float64)
        if means.ndim < 2 or means.size == 0 or cov.shape not in ((), (K,), (K, d, d)) or weights.shape != (K,):
            raise ValueError(f"Oracle: needs means (K, ...), cov a number, (K,) or (K, d, d), and weights (K,), "
                             f"got {means.shape}, {cov.shape}, {weights.shape}")  # fmt: skip
        if not all(np.isfinite(a).all() for a in (means, cov, weights)):
            raise ValueError("Oracle: means, cov and weights must be finite")
        if (weights < 0).any() or weights.sum() == 0:
            raise ValueError(f"Oracle: weights must not be negative, nor all 0, got {weights.min()}..{weights.max()}")
        if cov.ndim == 3 and not np.allclose(cov, cov.swapaxes(1, 2)):
            raise ValueError("Oracle: the covariances must be symmetric")  # eigh would read one half and not say so
        self.diffusion, self.shape, self.d = diffusion, means.shape[1:], d
        self.means, self.weights = means.reshape(K, d), weights / weights.sum()
        # C_k = U_k diag(λ_k) U_kᵀ, so that S_k is diagonal in the same axes at every t; a round component needs no axes
        if cov.ndim == 3:
            self.lam, self.axes = np.linalg.eigh(cov)
        else:
            self.lam, self.axes = np.broadcast_to(cov, K), None
        if (self.lam < -1e-12).any():
            raise ValueError(f"Oracle: variances must not be negative, got {self.lam.min()}")

    def __call__(self, xt, t):
        """The best output for x_t, of its shape and dtype: E[target | x_t]. A Tensor, with its gradient where xt is one."""
        return best_output(xt, oracle=self, t=t)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n draws of the data, (n, ...)."""
        k = rng.choice(len(self.means), size=n, p=self.weights)
        z = rng.standard_normal((n, self.d))
        if self.axes is None:
            spread = np.sqrt(self.lam)[k, None] * z
        else:
            spread = np.einsum("nij,nj->ni", self.axes[k], np.sqrt(np.maximum(self.lam[k], 0)) * z)
        return (self.means[k] + spread).reshape(n, *self.shape)

    def log_prob(self, x, t) -> np.ndarray:
        """log p_t(x) in nats, (N,); t = 0 is the data itself (no density where cov = 0)."""
        from scipy.special import logsumexp

        return np.asarray(logsumexp(self.posterior(x, t).logits, axis=1))

    def score(self, x, t) -> np.ndarray:
        """∇ log p_t(x) = (a E[x_0 | x] − x)/s², of x's shape (Tweedie's formula; Efron 2011)."""
        x = np.asarray(x, np.float64)
        a, s = self.diffusion.signal_and_noise(t, x)
        return (a * self.x0(x, t) - x) / s**2

    def x0(self, x, t) -> np.ndarray:
        """E[x_0 | x_t = x], of x's shape: the best x0_hat."""
        return self.posterior(x, t).mean().reshape(np.shape(x))

    def eps(self, x, t) -> np.ndarray:
        """E[ε | x_t = x], of x's shape: the best eps_hat."""
        return self.diffusion.predict_eps(np.asarray(x, np.float64), t, self.x0(x, t))

    def given(self, A, y, noise: float):
        """The oracle of p(x_0 | y), y = A x_0 + noise · N(0, I): a mixture again, by Bayes' rule in each component.

            m_k' = m_k + K_k (y − A m_k),   C_k' = C_k − K_k A C_k,   w_k' ∝ w_k N(y; A m_k, S_k)
            S_k = A C_k Aᵀ + noise² I,      K_k = C_k Aᵀ S_k⁻¹

        A: (m, d), d being the numbers of one x_0 in order (`matrix_of` gives the A of a function); y: (m,), one measurement.
        Its `sample` draws from the posterior, and as a model it has the exact score of x_t given y.
        Raises ValueError for other shapes, what is not finite, and where some S_k is singular, as for noise = 0 and C_k = 0.
        """
        A, y = np.asarray(A, np.float64), np.asarray(y, np.float64)
        fits = A.ndim == 2 and A.shape[1] == self.d and y.shape == A.shape[:1] and 0 <= noise < np.inf
        require(fits, f"Oracle.given: needs A (m, {self.d}), y (m,) and noise >= 0", A=A, y=y, noise=noise)
        require_finite_floats("Oracle.given", A=A, y=y)
        if self.axes is None:
            C = self.lam[:, None, None] * np.eye(self.d)
        else:
            C = (self.axes * self.lam[:, None]) @ self.axes.swapaxes(1, 2)
        AC, residual = A @ C, y - self.means @ A.T  # (K, m, d), (K, m)
        S = AC @ A.T + noise**2 * np.eye(len(y))
        sign, logdet = np.linalg.slogdet(S)
        require((sign > 0).all() and np.linalg.cond(S).max() < 1e13, "Oracle.given: the covariance of y is singular; "
                "give noise > 0", noise=noise)  # fmt: skip
        gain = np.linalg.solve(S, AC)  # K_kᵀ
        whitened = np.linalg.solve(S, residual[..., None])[..., 0]
        logits = log(self.weights) - 0.5 * (logdet + (residual * whitened).sum(1))
        means = self.means + np.einsum("kmi,km->ki", gain, residual)
        cov = C - AC.swapaxes(1, 2) @ gain
        cov = (cov + cov.swapaxes(1, 2)) / 2
        return Oracle(self.diffusion, means.reshape(-1, *self.shape), cov, softmax(logits))

    def floor(self, t, n: int = 2000, rng: np.random.Generator | None = None) -> float:
        """The irreducible loss at step t: E‖target − best‖²/d, in the diffusion's parametrisation. No model has less.

        Knowing x_t, the three targets differ from x_0 by a factor only, so from the error e of the best x0_hat:

            x0: e    eps: e a²/s²    v: e/s²         e = E‖x_0 − E[x_0 | x_t]‖²/d

        For one Gaussian e = mean_i λ_i s²/(a²λ_i + s²). For several components the loss is measured on n draws from rng,
        which must then be given, or ValueError.
        """
        if len(self.means) > 1:
            if rng is None:
                raise ValueError("Oracle.floor: several components need draws, so an rng")
            return loss_at(self.diffusion, self, self.sample(n, rng), t, rng)
        a, s = (float(c[0, 0]) for c in self.signal_and_noise(np.empty((1, self.d)), t))
        e = np.mean(self.lam * s**2 / (a**2 * self.lam + s**2))
        return float(e * {"x0": 1, "eps": a**2 / s**2, "v": 1 / s**2}[self.diffusion.predict])

    def signal_and_noise(self, x, t) -> tuple[np.ndarray, np.ndarray]:
        """(√ᾱ_t, √(1−ᾱ_t)) for flat x (N, d): (N, 1) each; t = 0 too."""
        if np.ndim(t) == 0 and t == 0:
            return np.ones((len(x), 1)), np.zeros((len(x), 1))
        a, s = self.diffusion.signal_and_noise(t, x)
        return np.broadcast_to(a, (len(x), 1)), np.broadcast_to(s, (len(x), 1))

    def posterior(self, x, t):
        """What x_t = x says of x_0, as the mixture p(x_0 | x): a Posterior. Raises ValueError for x of another shape."""
        x = np.asarray(x, np.float64)
        if x.shape[1:] != self.shape:
            raise ValueError(f"Oracle: x must be (N, {', '.join(map(str, self.shape))}), got {x.shape}")
        x = x.reshape(len(x), self.d)
        return (RoundPosterior if self.axes is None else FullPosterior)(self, x, *self.signal_and_noise(x, t))


class RoundPosterior:
    """p(x_0 | x) for components with C_k = λ_k I, by matrix products alone: K and d may be thousands.

    x: (N, d), a and s: (N, 1). logits: (N, K), log w_k N(x; a m_k, S_k); r: (N, K), the softmax of these.
    E_k = keep_k m_k + pull_k x, with keep_k = s²/S_k and pull_k = a λ_k/S_k.
    """

    def __init__(self, oracle, x, a, s):
        m, lam = oracle.means, oracle.lam
        lam = lam[:1] if (lam == lam[0]).all() else lam  # one column does for all
        S = a**2 * lam + s**2  # (N, K), or (N, 1)
        squared = np.square(x).sum(1)[:, None] - 2 * a * (x @ m.T) + a**2 * np.square(m).sum(1)  # ‖x − a m_k‖²
        self.logits = log(oracle.weights) - 0.5 * oracle.d * np.log(2 * np.pi * S) - 0.5 * squared / S
        self.r = softmax(self.logits)
        self.keep, self.pull, self.var = s**2 / S, a * lam / S, lam * s**2 / S
        self.m, self.x, self.a, self.s = m, x, a, s

    def mean(self):
        """Σ_k r_k E_k, (N, d)."""
        return (self.r * self.keep) @ self.m + (self.r * self.pull).sum(1, keepdims=True) * self.x

    def cov_times(self, v):
        """Cov(x_0 | x) v for v (N, d): Σ_k r_k (E_k E_kᵀ + Cov_k) v − mean meanᵀ v, with Cov_k = λ_k s²/S_k I."""
        inner = self.r * (self.keep * (v @ self.m.T) + self.pull * (self.x * v).sum(1, keepdims=True))  # r_k E_kᵀ v
        outer = (inner * self.keep) @ self.m + (inner * self.pull).sum(1, keepdims=True) * self.x
        mean = self.mean()
        return outer + (self.r * self.var).sum(1, keepdims=True) * v - mean * (mean * v).sum(1, keepdims=True)


class FullPosterior:
    """p(x_0 | x) for components with covariances, in the axes of each: arrays are (N, K, d)."""

    def __init__(self, oracle, x, a, s):
        a3, s3 = a[..., None], s[..., None]  # (N, 1, 1)
        S = a3**2 * oracle.lam + s3**2
        z = rotated(x[:, None] - a3 * oracle.means, oracle.axes)
        self.logits = log(oracle.weights) - 0.5 * (np.log(2 * np.pi * S) + z**2 / S).sum(2)
        self.r = softmax(self.logits)
        self.axes, self.var = oracle.axes, oracle.lam * s3**2 / S
        self.E = oracle.means + rotated(a3 * oracle.lam / S * z, oracle.axes.swapaxes(1, 2))

    def mean(self):
        """Σ_k r_k E_k, (N, d)."""
        return np.einsum("nk,nki->ni", self.r, self.E)

    def cov_times(self, v):
        """Cov(x_0 | x) v for v (N, d): Σ_k r_k (E_k E_kᵀ + Cov_k) v − mean meanᵀ v, with Cov_k = λ_k s²/S_k in its axes."""
        outer = np.einsum("nk,nki->ni", self.r * np.einsum("nki,ni->nk", self.E, v), self.E)
        within = self.r[..., None] * self.var * rotated(v[:, None], self.axes)
        mean = self.mean()
        return outer + rotated(within, self.axes.swapaxes(1, 2)).sum(1) - mean * (mean * v).sum(1, keepdims=True)


def rotated(v, axes):
    """Σ_i v_nki axes_kij: the vectors v (N, K or 1, d) of each component times its own matrix, as one product each."""
    return (v.swapaxes(0, 1) @ axes).swapaxes(0, 1)


@op
def best_output(xt, oracle, t):
    """y = E[target | x_t], of x_t's shape and dtype.

    Its derivative is known too: ∂E[x_0 | x]/∂x = (a/s²) Cov(x_0 | x), the second-order Tweedie formula.
    """
    diffusion, dtype = oracle.diffusion, np.asarray(xt).dtype
    xt = np.asarray(xt, np.float64)
    posterior = oracle.posterior(xt, t)
    a, s = diffusion.signal_and_noise(t, xt)

    def output(x, x0):  # linear in both, so it carries gradients as well as values
        return diffusion.target(x0, t, diffusion.predict_eps(x, t, x0)).astype(dtype)

    def backward(dy):
        dy = np.asarray(dy, np.float64)
        dx0 = posterior.cov_times(dy.reshape(len(dy), -1)).reshape(dy.shape) * a / s**2  # a symmetric Jacobian
        return (output(dy, dx0),)

    return output(xt, posterior.mean().reshape(xt.shape)), backward


def loss_at(diffusion, model, x0, t, rng: np.random.Generator) -> float:
    """The loss of any model at the one step t: mean((target − model(x_t, t))²) over x0 (N, ...), with ε from rng.

    Held against `Oracle.floor` it tells a loss that cannot fall from one that does not.
    Raises ValueError unless x0 is of finite floats, t in 1..T and the output of x0's shape."""
    x0 = check_data("loss_at", x0)
    eps = rng.standard_normal(x0.shape).astype(x0.dtype)
    xt = diffusion.q_sample(x0, t, eps)
    out, _ = diffusion.split_output(np.asarray(model(xt, np.full(len(x0), t))), xt)
    if out.shape != xt.shape:  # it would broadcast
        raise ValueError(f"loss_at: the model must give what is shaped like x_t {xt.shape}, got {out.shape}")
    return float(np.square(diffusion.target(x0, t, eps) - out).mean(dtype=np.float64))


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(logits_k)/Σ_j exp(logits_j) over the last axis."""
    return ops.softmax(logits).data


def log(weights: np.ndarray) -> np.ndarray:
    """log w, with log 0 = −∞ in silence: a component of weight 0 is not there."""
    with np.errstate(divide="ignore"):
        return np.log(weights)
