"""Adam, gradient clipping, the moving average of the weights, and learning-rate schedules."""

from contextlib import contextmanager

import numpy as np

from scratchdiff.autograd import Tensor
from scratchdiff.checks import require
from scratchdiff.kernels import kernel


class Adam:
    """Adam (Kingma & Ba 2015, Algorithm 1), with decoupled weight decay λ (Loshchilov & Hutter 2019, Algorithm 2):

        m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
        p ← p − lr [ (m/(1 − β₁ᵏ)) / (√(v/(1 − β₂ᵏ)) + ε) + λ p ]        at step k = 1, 2, ...

    parameters: {name: Tensor}, as `Module.parameters()` gives. The moments start at zero, so they are too small at first;
    the two divisions correct that bias. A parameter without a gradient is left alone.
    Raises ValueError for no parameters or settings out of range.
    """

    def __init__(self, parameters: dict[str, Tensor], lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        require(parameters, "Adam: no parameters to optimise")
        inside = lr >= 0 and 0 <= betas[0] < 1 and 0 <= betas[1] < 1 and eps > 0 and weight_decay >= 0
        require(inside, "Adam: a setting is out of range", lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.parameters, self.lr, self.betas, self.eps, self.weight_decay = parameters, lr, betas, eps, weight_decay
        self.m = {name: np.zeros_like(p.data) for name, p in parameters.items()}
        self.v = {name: np.zeros_like(p.data) for name, p in parameters.items()}
        self.k = 0

    def zero_grad(self) -> None:
        """Forget the gradients; `Tape.backward` adds to what is there."""
        for p in self.parameters.values():
            p.grad = None

    def step(self, lr_scale: float = 1.0) -> None:
        """Move every parameter in place by its gradient, with learning rate lr · lr_scale (a schedule's factor)."""
        self.k += 1
        lr = self.lr * lr_scale
        for name, p in self.parameters.items():
            if p.grad is None:
                continue
            if self.weight_decay:
                p.data *= 1 - lr * self.weight_decay
            adam_update(p.data, p.grad, self.m[name], self.v[name], self.k, lr, *self.betas, self.eps)


@kernel
def adam_update(p, g, m, v, k, lr, b1, b2, eps):
    """Step k of Adam on one parameter p with gradient g and moments m and v, all in place."""
    m += (1 - b1) * (g - m)
    v += (1 - b2) * (g * g - v)
    m_hat_scale, root = lr / (1 - b1**k), (1 - b2**k) ** 0.5
    p -= m_hat_scale * m / (np.sqrt(v) / root + eps)


def clip_grad_norm(parameters: dict[str, Tensor], max_norm: float) -> float:
    """Scale all gradients together so that ‖g‖₂ ≤ max_norm   (Pascanu et al. 2013, Algorithm 1). Returns ‖g‖ before.

    Raises ValueError unless max_norm > 0."""
    require(max_norm > 0, "clip_grad_norm: max_norm must be positive", max_norm=max_norm)
    tensors = [p for p in parameters.values() if p.grad is not None]
    norm = float(np.sqrt(sum(np.vdot(p.grad, p.grad).astype(np.float64) for p in tensors)))
    if norm == np.inf:  # a float32 cannot hold the square of 1e20
        norm = float(np.sqrt(sum(np.square(p.grad, dtype=np.float64).sum() for p in tensors)))
    if norm > max_norm:
        for p in tensors:
            p.grad = p.grad * p.dtype.type(max_norm / norm)
    return norm


class EMA:
    """An exponential moving average of the weights: a ← d a + (1 − d) p, d = min(decay, (1 + k)/(10 + k)) at update k.

    The warm-up (second term) makes the average forget the random start within the first updates. Samples from the average
    are better than those from the last weights, by several points of FID (Ho et al. 2020, Appendix B, use 0.9999).
    Raises ValueError unless 0 ≤ decay < 1.
    """

    def __init__(self, parameters: dict[str, Tensor], decay=0.9999):
        require(0 <= decay < 1, "EMA: decay must be in [0, 1)", decay=decay)
        self.parameters, self.decay, self.k = parameters, decay, 0
        self.average = {name: p.data.copy() for name, p in parameters.items()}

    def update(self) -> None:
        """Move the average towards the weights as they are now."""
        self.k += 1
        d = min(self.decay, (1 + self.k) / (10 + self.k))
        for name, p in self.parameters.items():
            self.average[name] += (1 - d) * (p.data - self.average[name])

    @contextmanager
    def applied(self):
        """`with ema.applied():` the model computes with the averaged weights, and after the block with its own again."""
        own = {name: p.data for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            p.data = self.average[name]
        try:
            yield
        finally:
            for name, p in self.parameters.items():
                p.data = own[name]


def warmup(step: int, steps: int) -> float:
    """min(1, step/steps), for step = 1, 2, ...: the factor on the learning rate while Adam's second moments settle.

    Raises ValueError if step or steps is negative."""
    require(step >= 0 and steps >= 0, "warmup: step and steps must not be negative", step=step, steps=steps)
    return min(1.0, step / max(steps, 1))


def cosine_decay(progress: float, floor: float = 0.0) -> float:
    """floor + (1 − floor)(1 + cos π·progress)/2 for progress in [0, 1]   (Loshchilov & Hutter 2017, Eq. 5).

    Progress below 0 or above 1 counts as 0 or 1. Raises ValueError for NaN, and unless 0 ≤ floor ≤ 1."""
    return floor + (1 - floor) * 0.5 * (1 + float(np.cos(np.pi * unit_progress("cosine_decay", progress, floor))))


def linear_decay(progress: float, floor: float = 0.0) -> float:
    """1 − (1 − floor)·progress for progress in [0, 1]: from 1 to floor. Raises ValueError as `cosine_decay`."""
    return 1 - (1 - floor) * unit_progress("linear_decay", progress, floor)


def unit_progress(name: str, progress: float, floor: float) -> float:
    """Progress limited to [0, 1]. Raises the ValueError of the decay `name`."""
    inside = not np.isnan(progress) and 0 <= floor <= 1
    require(inside, f"{name}: needs a number as progress and 0 <= floor <= 1", progress=progress, floor=floor)
    return min(max(progress, 0.0), 1.0)
