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
    labels = np.asarray(labels)
    fits = logits.ndim == 2 and logits.shape[:1] == labels.shape != (0,) and labels.dtype.kind in "iu"
    if not fits or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"cross_entropy: logits {logits.shape} need as many integer labels from 0 up to the number of "
                         f"classes, got {labels.dtype} of shape {labels.shape}")  # fmt: skip
    N = len(labels)
    shifted = logits - logits.max(1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(N)

    def backward(dy):
        dlogits = np.exp(logp)
        dlogits[rows, labels] -= 1
        return (dy / N * dlogits,)

    return -logp[rows, labels].mean(), backward
