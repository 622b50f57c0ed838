"""The terms of the variational bound: the KL divergence of two normal distributions, and log-probabilities.

All are taken entry by entry, in nats. A normal distribution has a mean μ and logvar = log σ², which may be any number.
"""

import numpy as np

from scratchdiff.autograd import op
from scratchdiff.checks import require
from scratchdiff.ops.activations import logistic

LOG_2PI = np.log(2 * np.pi)


def check_entries(name: str, x, *others) -> None:
    """Raise the ValueError of the op `name` unless its arguments are floats, all of the shape of the first."""
    one_shape = all(np.shape(other) == np.shape(x) for other in others)
    require(one_shape, f"{name}: all arguments must have one shape", shapes=[np.shape(a) for a in (x, *others)])
    dtypes = [np.asarray(a).dtype for a in (x, *others)]
    require(all(dtype.kind == "f" for dtype in dtypes), f"{name}: needs floats", dtypes=[str(dtype) for dtype in dtypes])


@op
def bernoulli_log_prob(x, logits):
    """y = x log p + (1−x) log(1−p), p = σ(logits), entry by entry: the log-probability of bits x, or for x in [0, 1] the
    negative cross-entropy of coins. Any equal shapes; ValueError otherwise.

    With log p = l − log(1 + eˡ) and log(1−p) = −log(1 + eˡ) it is x l − log(1 + eˡ), so ∂y/∂l = x − σ(l) and ∂y/∂x = l."""
    check_entries("bernoulli_log_prob", x, logits)
    return x * logits - np.logaddexp(0, logits), lambda dy: (dy * logits, dy * (x - logistic(logits)))


@op
def normal_kl(mean_q, logvar_q, mean_p, logvar_p):
    """KL(N(μ_q, σ_q²) ‖ N(μ_p, σ_p²)) = ½ (log σ_p² − log σ_q² + (σ_q² + (μ_q − μ_p)²)/σ_p² − 1). All of one shape."""
    check_entries("normal_kl", mean_q, logvar_q, mean_p, logvar_p)
    d = mean_q - mean_p
    ratio, squares = np.exp(logvar_q - logvar_p), d * d * np.exp(-logvar_p)

    def backward(dy):
        dmean = dy * d * np.exp(-logvar_p)
        return dmean, dy * (ratio - 1) / 2, -dmean, dy * (1 - ratio - squares) / 2

    # r − 1 − log r loses its digits where r is near 1: expm1 keeps them, and the two variances often differ by little
    return (np.expm1(logvar_q - logvar_p) - (logvar_q - logvar_p) + squares) / 2, backward


@op
def normal_log_prob(x, mean, logvar):
    """log N(x; μ, σ²) = −½ (log 2π + log σ² + (x − μ)²/σ²), a density. All of one shape."""
    check_entries("normal_log_prob", x, mean, logvar)
    d, inverse = x - mean, np.exp(-logvar)
    squares = d * d * inverse

    def backward(dy):
        dmean = dy * d * inverse
        return -dmean, dmean, dy * (squares - 1) / 2

    return -(x.dtype.type(LOG_2PI) + logvar + squares) / 2, backward


@op
def discretized_normal_log_prob(x, mean, logvar):
    """log P(x), the mass of N(μ, σ²) on a pixel value x, one of the 256 numbers k/127.5 − 1   (Ho et al. 2020, Eq. 13):

        P(x) = Φ(b) − Φ(a),   b = (x + 1/255 − μ)/σ, but ∞ for x = 1;   a = (x − 1/255 − μ)/σ, but −∞ for x = −1

    so that the 256 masses add up to 1. Finite however far x lies from μ. It is computed in float64 and returned in the
    dtype of the mean; x, which is data, gets no gradient. All of one shape. The caller must see to it that x is on the grid.
    """
    from scipy.special import log_ndtr  # here, so that importing the package stays quick

    check_entries("discretized_normal_log_prob", x, mean, logvar)
    d, rstd = np.subtract(x, mean, dtype=np.float64), np.exp(-0.5 * logvar.astype(np.float64))
    half = 1 / 255
    b = np.where(x > 1 - half, np.inf, (d + half) * rstd)
    a = np.where(x < -1 + half, -np.inf, (d - half) * rstd)
    # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): of the two, take the one in the lower tail, where log Φ has all its digits
    swap = a + b > 0
    upper, lower = log_ndtr(np.where(swap, -a, b)), log_ndtr(np.where(swap, -b, a))
    log_p = upper + np.log(-np.expm1(lower - upper))  # log(e^u − e^l)

    def backward(dy):
        # ∂P/∂μ = (φ(a) − φ(b))/σ and ∂P/∂log σ² = (a φ(a) − b φ(b))/2; each over P, in logarithms for the sake of the tails
        phi_a, phi_b = (np.exp(-0.5 * (z * z + LOG_2PI) - log_p) for z in (a, b))
        finite_a, finite_b = (np.where(np.isfinite(z), z, 0) for z in (a, b))
        dmean = dy * (phi_a - phi_b) * rstd
        dlogvar = dy * (finite_a * phi_a - finite_b * phi_b) / 2
        return None, dmean.astype(mean.dtype), dlogvar.astype(mean.dtype)

    return log_p.astype(mean.dtype), backward
