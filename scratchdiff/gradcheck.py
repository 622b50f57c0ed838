"""Is this gradient right? Central differences against the tape.

An analytic gradient is a claim; the definition of the derivative is the witness:

    f'(x) = [8 (f(x+h) − f(x−h)) − (f(x+2h) − f(x−2h))] / 12h + O(h⁴)

the central difference with its first error term removed (Richardson). In float64 two errors compete: truncation, which
falls as h⁴, and rounding, which grows as 1/h. So `gradcheck` goes from large h to small ones, for each number, until two
successive estimates agree to ten digits, and keeps the second. If none agree, it keeps the one that agrees best with the
estimate before it. It never looks at the analytic value to choose.
"""

from collections.abc import Callable

import numpy as np

from scratchdiff.autograd import Tape, Tensor

STEPS = (1e-2, 3e-3, 1e-3, 1e-4)


def central_difference(f: Callable[[float], np.ndarray], h: float) -> np.ndarray:
    """d f(s)/ds at s = 0 to fourth order in h, for an array-valued f (Richardson's extrapolation of (f(h) − f(−h))/2h)."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def gradcheck(f: Callable[..., Tensor], *inputs, rng: np.random.Generator | None = None, max_probes: int = 200) -> float:
    """The largest relative error of the tape's gradients of f, over all inputs.

    f: takes the inputs as Tensors and returns a Tensor of any shape y; what is checked is L = Σ y·dy for a random dy.
    inputs: arrays (checked as float64 copies), or float64 Tensors, which are moved in place and put back: so
        `gradcheck(lambda *_: loss(model), *model.parameters().values())` checks a whole network.
    max_probes: each entry of an input is probed, unless it has more than so many entries; then random directions v are
        (dL/dx · v), 8 of them or max_probes if that is less. A whole network wants max_probes=1.
    The error of a probe is |analytic − numeric| / max(|analytic|, |numeric|, 1e-5 · max|y·dy|); a right gradient scores
    below 1e-7. Random directions and dy come from `rng` (default: a fixed seed).
    f must give the same value each time: a function that draws noise must make its own generator inside.
    Raises ValueError if an input is a float32 Tensor or no input is given, if max_probes < 1, or if f gives values that
    are not finite.
    """
    if max_probes < 1:
        raise ValueError(f"gradcheck: max_probes must be at least 1, got {max_probes}")
    if not inputs:
        raise ValueError("gradcheck: nothing to check: pass at least one input")
    rng = np.random.default_rng(200611239) if rng is None else rng  # no seed that inputs are drawn from: dy must not be x
    xs = [x if isinstance(x, Tensor) else Tensor(np.array(x, np.float64)) for x in inputs]
    for i, x in enumerate(xs):
        if x.dtype != np.float64:
            raise ValueError(f"gradcheck: input {i} is {x.dtype}; finite differences need float64")

    y = f(*xs).data
    if not np.isfinite(y).all():
        raise ValueError(f"gradcheck: f is not finite at the given inputs (output shape {y.shape})")
    dy = rng.standard_normal(y.shape)
    for x in xs:
        x.grad = None
    with Tape() as tape:
        out = f(*xs)
        loss = (out * dy).sum()
    tape.backward(loss)

    floor = 1e-5 * np.abs(y * dy).max(initial=0) + np.finfo(float).tiny
    errors = [0.0]
    analytic_grads = [np.zeros(x.shape) if x.grad is None else x.grad for x in xs]
    for x, analytic_grad in zip(xs, analytic_grads):
        x.grad = None
        for v in probes(x.shape, max_probes, rng):
            numeric = directional_derivative(f, xs, x, v, dy)
            analytic = float((analytic_grad * v).sum())
            errors.append(abs(analytic - numeric) / max(abs(analytic), abs(numeric), floor))
    return float(np.max(errors))  # NumPy's max: a NaN anywhere is the answer


def probes(shape: tuple, most: int, rng: np.random.Generator):
    """Yield the directions to test: each unit vector, or a few random normal ones where there are more than `most`."""
    size = int(np.prod(shape))
    if size > most:
        for _ in range(min(8, most)):
            yield rng.standard_normal(shape) / np.sqrt(size)
        return
    for index in np.ndindex(shape):
        v = np.zeros(shape)
        v[index] = 1
        yield v


def directional_derivative(f: Callable, xs: list, x: Tensor, v: np.ndarray, dy: np.ndarray) -> float:
    """d/ds Σ f(x + s v)·dy at s = 0 by central differences. The head of this file says how the step size is chosen.

    x is one of the Tensors xs and is moved in place; its data is put back whatever happens.
    """
    start, estimates = x.data, []

    def moved(s):
        x.data = start + s * v
        return f(*xs).data

    try:
        for h in STEPS:
            # y is differenced before it is summed: entries that do not move cancel exactly and add no rounding
            estimates.append(float((central_difference(moved, h) * dy).sum()))
            gaps = np.abs(np.diff(estimates))
            if len(gaps) and gaps[-1] <= 1e-10 * abs(estimates[-1]):
                return estimates[-1]
    finally:
        x.data = start
    return estimates[int(gaps.argmin()) + 1]


def fill_zeros(parameters: dict[str, Tensor], rng: np.random.Generator, size: float = 0.1) -> None:
    """Draw every parameter that is all zeros from N(0, size²), in place.

    Last layers start at zero, so at the start nothing before them has a gradient, and a check there would be blind.
    """
    for p in parameters.values():
        if not p.data.any():
            p.data = size * rng.standard_normal(p.shape).astype(p.dtype)
