"""Losses: what training minimises."""

import numpy as np

from scratchdiff.autograd import op
from scratchdiff.checks import require


@op
def mse(x, target):
    """L = mean((x − target)²). Both of one shape, or ValueError."""
    same = np.shape(x) == np.shape(target) and np.size(x) > 0
    require(same, "mse: x and target must have one shape, and not be empty", x=np.asarray(x), target=np.asarray(target))
    d = x - target

    def backward(dy):
        dx = (2 * dy / d.size) * d
        return dx, -dx

    return np.square(d).mean(), backward


@op
def cross_entropy(logits, labels):
    """L = −mean log softmax(logits)[label].   logits: (N, classes), labels: (N,) integers in 0..classes−1, or ValueError."""
    labels = np.asarray(labels)
    fits = logits.ndim == 2 and logits.shape[:1] == labels.shape != (0,) and labels.dtype.kind in "iu"
    fits = fits and labels.min() >= 0 and labels.max() < logits.shape[1]
    require(fits, f"cross_entropy: logits {logits.shape} need one integer label each, in 0..classes−1", labels=labels)
    N = len(labels)
    shifted = logits - logits.max(1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(N)

    def backward(dy):
        dlogits = np.exp(logp)
        dlogits[rows, labels] -= 1
        return (dy / N * dlogits,)

    return -logp[rows, labels].mean(), backward


@op
def huber(x, target, *, delta=1.0):
    """L = mean h(x − target), h(d) = ½ d² for |d| ≤ δ, else δ (|d| − ½ δ)   (Huber 1964).

    h'(d) = d limited to ±δ, so no entry pulls harder than δ. Both of one shape and δ > 0, or ValueError."""
    same = np.shape(x) == np.shape(target) and np.size(x) > 0
    require(same, "huber: x and target must have one shape, and not be empty", x=np.asarray(x), target=np.asarray(target))
    require(delta > 0, "huber: delta must be positive", delta=delta)
    d = x - target
    slope = np.clip(d, -delta, delta)

    def backward(dy):
        dx = (dy / d.size) * slope
        return dx, -dx

    return (slope * (d - slope / 2)).mean(), backward  # |d| ≤ δ: d (d − d/2);  d > δ: δ (d − δ/2)
