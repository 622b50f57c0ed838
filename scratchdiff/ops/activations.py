"""Activations: one function of one number, applied to every entry; so dx = f'(x) · dy."""

import numpy as np

from scratchdiff.autograd import op


def logistic(x: np.ndarray) -> np.ndarray:
    """σ(x) = 1/(1 + e⁻ˣ), written as (1 + tanh(x/2))/2, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


@op
def sigmoid(x):
    """y = σ(x) = 1/(1 + e⁻ˣ). Any shape."""
    y = logistic(x)
    return y, lambda dy: (dy * y * (1 - y),)  # σ' = σ(1 − σ)


@op
def tanh(x):
    """y = tanh x. Any shape."""
    y = np.tanh(x)
    return y, lambda dy: (dy * (1 - y * y),)


@op
def relu(x):
    """y = max(x, 0). Any shape. At the kink x = 0 the gradient is taken as 0."""
    return np.maximum(x, 0), lambda dy: (dy * (x > 0),)


@op
def clip(x, low, high):
    """y = min(max(x, low), high). The gradient passes where low ≤ x ≤ high, and is 0 outside. low, high: numbers."""
    inside = (low <= x) & (x <= high)
    return np.clip(x, low, high), lambda dy: (dy * inside,)


@op
def silu(x):
    """y = x σ(x)   (Elfwing et al. 2017, "Swish"). Any shape."""
    s = logistic(x)
    return x * s, lambda dy: (dy * s * (1 + x * (1 - s)),)  # (xσ)' = σ + xσ(1 − σ)


@op
def gelu(x):
    """y = x Φ(x), Φ the normal distribution function   (Hendrycks & Gimpel 2016). Any shape."""
    from scipy.special import ndtr  # here, so that importing the package stays quick

    cdf = ndtr(x)

    def backward(dy):
        near = np.clip(x, -40, 40)  # φ(40) is 0 even in float64, and x² would overflow
        return (dy * (cdf + near * np.exp(-0.5 * near * near) / np.sqrt(2 * np.pi).astype(x.dtype)),)  # Φ' = φ

    return x * cdf, backward
