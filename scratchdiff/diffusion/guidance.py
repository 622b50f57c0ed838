"""Guidance: samples of a chosen class, by moving the score.

By Bayes' rule the score of x_t given a class y is that of x_t, and the gradient of a classifier:

    ∇ log p_t(x | y) = ∇ log p_t(x) + ∇ log p_t(y | x)

*Classifier guidance* (Dhariwal & Nichol 2021) takes the gradient of a trained classifier and multiplies it by a scale.
*Classifier-free guidance* (Ho & Salimans 2022) needs no classifier. A network that was trained with labels, some of them
hidden, gives two answers: out(x_t, t, y) and, for any class, out(x_t, t). Their difference is that gradient in other units,

    out_w = out(x_t, t, y) + w (out(x_t, t, y) − out(x_t, t))                                  (Eq. 6, for ε)

Since ε, x0 and v are linear maps of each other at a given x_t, the same formula serves all three.

With a scale above 1, or w above 0, the moved field is the score of p_t(x) p_t(y | x)^scale at each t by itself. These
densities are not those of one diffusion: noise added to p_0(x) p_0(y | x)^scale gives other ones. So the samples are not
draws of the tilted density p_0(x) p_0(y | x)^scale (demos/lessons/24_conditions.py measures by how much).
"""

import numpy as np

from scratchdiff import ops
from scratchdiff.autograd import Node, Tape, Tensor
from scratchdiff.checks import require


def guided(model, labels, weight: float, interval=(0, np.inf), rescale: float = 0.0):
    """A model(xt, t) that makes the given classes: what samplers take.

    model: trained with labels, such as a UNet with num_classes; labels: (N,), one for each sample; weight: w above, 0 for
    plain conditioning, about 1 for clearer samples of less variety. Where it is 0, the second question is not asked.
    interval: (low, high), the t with low ≤ t ≤ high are guided, the others have w = 0   (Kynkäänniemi et al. 2024).
    rescale: φ in [0, 1]; out_w is multiplied by φ std(out(x_t, t, y))/std(out_w) + 1 − φ, the deviations of each sample over
    all its numbers, so that guidance does not raise the contrast   (Lin et al. 2023, section 3.4).
    A learned variance, in further channels, is that of out(x_t, t, y).
    Raises ValueError for a model without classes, weight < 0, an interval that does not rise, or rescale outside [0, 1];
    the model refuses labels that do not fit.
    """
    has_classes = getattr(model, "num_classes", None)
    usable = has_classes and weight >= 0
    require(usable, "guided: needs a model made with num_classes and a weight >= 0", num_classes=has_classes, weight=weight)
    require(interval[0] < interval[1], "guided: interval must be (low, high) with low < high", interval=interval)
    require(0 <= rescale <= 1, "guided: rescale must be in [0, 1]", rescale=rescale)
    labels = np.asarray(labels)
    low, high = interval

    def model_of_classes(xt, t):
        given = model(xt, t, labels=labels)
        inside = (low <= t) & (t <= high)
        if weight == 0 or not inside.any():
            return given
        difference = given - model(xt, t, labels=np.full_like(labels, model.num_classes))
        is_prediction = np.arange(given.shape[-1]) < xt.shape[-1]  # a learned variance is not guided
        w = weight * inside.reshape(-1, *[1] * (xt.ndim - 1))
        out = given + difference * (w * is_prediction)
        if rescale > 0:
            over = tuple(range(1, xt.ndim))
            before, after = (np.asarray(a)[..., is_prediction].std(over, keepdims=True) for a in (given, out))
            out = out * np.where(is_prediction, rescale * before / after + 1 - rescale, 1.0)
        return out

    return model_of_classes


def classifier_guided(diffusion, model, classifier, labels, scale: float):
    """A model(xt, t) in the diffusion's own parametrisation whose score is ∇ log p_t(x) + scale ∇ log p(labels | x_t).

    For ε this is eps_hat − scale √(1−ᾱ_t) ∇ log p(y | x_t)   (Dhariwal & Nichol 2021, Algorithm 2), and any sampler takes
    it. Ancestral sampling then has the mean of their Algorithm 1, μ + scale β_t ∇ log p(y | x_t), but for a factor 1/√α_t.
    classifier(xt, t): Tensors → logits (N, classes), a function that the tape can differentiate in x_t. It must know noisy
    data: train it on x_t, or see `of_x0_hat`.
    labels: (N,), one for each sample. scale: 1 is Bayes' rule, more makes clearer samples of less variety.
    Raises ValueError for labels that are no integers or a scale < 0; the cross-entropy refuses labels that do not fit.
    """
    labels = np.asarray(labels)
    require(labels.ndim == 1 and labels.dtype.kind in "iu", "classifier_guided: labels must be (N,) integers", labels=labels)
    require(0 <= scale < np.inf, "classifier_guided: scale must not be negative", scale=scale)

    dtype = None

    def model_of_classes(xt, t):
        nonlocal dtype
        dtype = dtype or dtype_inside(classifier, xt, t)

        def log_p(x):  # summed over the samples, of which each depends on its own x alone
            return ops.cross_entropy(classifier(x, t), labels) * -len(labels)

        return add_score(diffusion, model(xt, t), xt, t, scale * gradient(log_p, xt, dtype))

    return model_of_classes


def of_x0_hat(diffusion, model, classifier):
    """A classifier of noisy data from one of clean data: p(y | x_t) ≈ p(y | x0_hat(x_t))   (Bansal et al. 2023).

    classifier(x0): Tensors → logits. The gradient with respect to x_t goes through the denoiser `model` as well. No
    training is needed, but x0_hat is a mean of many x_0, blurred where t is large, and no example of the data.
    """
    return lambda xt, t: classifier(differentiable_x0(diffusion, model, xt, t))


def differentiable_x0(diffusion, model, xt, t, **conditions):
    """x0_hat at x_t, not clipped: a Tensor that the tape can differentiate where xt is one.   conditions: such as labels."""
    prediction, _ = diffusion.split_output(model(xt, np.broadcast_to(t, len(xt)), **conditions), xt)
    return diffusion.predict_x0(xt, t, prediction)


def add_score(diffusion, out, xt, t, change) -> np.ndarray:
    """A network's output with its score moved by `change`: x0_hat grows by (1−ᾱ_t)/√ᾱ_t change   (Tweedie's formula).

    Where ᾱ_t = 0, x_t says nothing of the data, every gradient is 0, and the output stays."""
    a, s = diffusion.signal_and_noise(t, xt)
    dx0 = np.where(a > 0, s**2 / np.where(a > 0, a, 1), 0) * change
    dx0_as_output = diffusion.target(dx0, t, diffusion.predict_eps(np.zeros_like(dx0), t, dx0))  # all three are linear
    out = np.array(out, xt.dtype)
    out[..., : xt.shape[-1]] += dx0_as_output
    return out


def gradient(f, x, dtype=np.float64) -> np.ndarray:
    """df/dx, float64, at an array x for a function f from a Tensor of that dtype to a scalar Tensor.

    The `grad` of all other Tensors stays as it was, except of those that a recomputed function uses (`recompute`).
    Raises ValueError if f does not depend on x."""
    xs = Tensor(np.asarray(x, dtype))
    with Tape() as tape:
        y = f(xs)
    others = {id(a): a for record in tape.records for a in record.args if isinstance(a, Node) and a is not xs.node}
    kept = [(a, a.grad) for a in others.values()]
    tape.backward(y)
    for a, grad in kept:
        a.grad = grad
    require(xs.grad is not None, "gradient: f does not depend on x")
    return xs.grad.astype(np.float64)


def dtype_inside(f, xt, t) -> np.dtype:
    """The dtype in which f(xt, t) computes: ops give a plain array that of the parameters they meet."""
    return np.asarray(f(xt, t)).dtype
