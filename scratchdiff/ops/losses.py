"""What training makes small."""

import numpy as np

from scratchdiff.autograd import op


@op
def mse(x, target):
    """L = mean((x − target)²). Both of one shape, or ValueError."""
    if np.shape(x) != np.shape(target) or np.size(x) == 0:
        raise ValueError(f"mse: x {np.shape(x)} and target {np.shape(target)} must have one shape with entries in it")
    d = x - target

    def backward(dy):
        dx = (2 * dy / d.size) * d
        return dx, -dx

    return np.square(d).mean(), backward


@op
def cross_entropy(logits, labels):
    """L = −mean log softmax(logits)[label].   logits: (N, classes), labels: (N,) integers in 0..classes−1, or ValueError."""
    N, classes = logits.shape
    labels = np.asarray(labels)
    if labels.shape != (N,) or N == 0 or not ((0 <= labels) & (labels < classes)).all():
        raise ValueError(f"cross_entropy: logits {logits.shape} need {N} labels in 0..{classes - 1}, got {labels.shape}")
    shifted = logits - logits.max(1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(N)

    def backward(dy):
        dlogits = np.exp(logp)
        dlogits[rows, labels] -= 1
        return (dy / N * dlogits,)

    return -logp[rows, labels].mean(), backward
