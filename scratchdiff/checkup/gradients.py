"""Are the gradients the derivatives of the loss? And can the checker that says so fail?

gradients(x0, rng) returns {name: dL/dp} for `parameters` = {name: p}, arrays that share memory with the network: they are
moved in place and put back.
"""

import numpy as np

from scratchdiff.checkup.findings import CannotTell, Finding
from scratchdiff.gradcheck import central_difference

MOST = 24  # parameters that are probed one by one
STEPS = {np.dtype(np.float64): (1e-3, 3e-4, 1e-4), np.dtype(np.float32): (1e-1, 3e-2, 1e-2)}
TOLERANCE = {np.dtype(np.float64): 1e-4, np.dtype(np.float32): 3e-2}


def gradients_repeat(gradients, x0, rng):
    """The same batch and noise give the same gradients twice. Exact, to 1e-3: gradients that add up from call to call are
    always found."""
    seed = int(rng.integers(2**32))
    first, second = (collected(gradients(x0[:4], np.random.default_rng(seed))) for _ in range(2))
    norm, change = length(first.values()), length(second[name] - g for name, g in first.items())
    if change > 1e-3 * norm:
        return Finding(
            "gradients",
            "another gradient at the second call",
            expected="the same gradient for the same batch and noise",
            seen=f"norm {norm:.4g} at first, then {length(second.values()):.4g}",
            look="zero_grad() before each backward",
        )


def gradients_match_differences(gradients, loss, model, parameters, x0, rng):
    """dL/dp · v is the central difference of the loss along v = g/‖g‖ + r/‖r‖, r random, for each of at most 24 parameters.

    Exact, up to ten times the doubt of the difference (how far neighbouring step sizes disagree, and rounding) plus 1e-4 of
    the slope in float64, 3 % in float32. A gradient that is missing, of the wrong sign or off by more than that is found in
    each probed parameter."""
    seed = int(rng.integers(2**32))

    def value():
        return loss(model, x0[:4], np.random.default_rng(seed))

    values = [value() for _ in range(4)]
    if np.ptp(values) > 1e-6 * abs(values[0]):
        raise CannotTell("the loss must repeat itself with the same rng: let the wrapper seed the framework from it")
    grads = collected(gradients(x0[:4], np.random.default_rng(seed)))
    wrong = {}
    for name in rng.permutation(sorted(parameters))[:MOST]:
        p, g = parameters[name], grads.get(name, np.zeros(1))
        g = np.broadcast_to(g, p.shape).astype(np.float64)
        r = rng.standard_normal(p.shape)
        v = g / max(length([g]), 1e-300) + r / length([r])
        slope, numeric, doubt = float((g * v).sum()), *directional(value, p, v)
        scale = max(abs(slope), abs(numeric))
        if abs(slope - numeric) > 10 * doubt + TOLERANCE[p.dtype] * scale:
            wrong[name] = slope, numeric
    if wrong:
        name = max(wrong, key=lambda key: abs(wrong[key][0] - wrong[key][1]))
        return Finding(
            "gradients",
            "they are not the derivatives of the loss",
            expected=f"dL/ds = {wrong[name][1]:.6g} along a direction in {name}, by central differences",
            seen=f"{wrong[name][0]:.6g}; {len(wrong)} of {len(parameters)} parameters are off: "
            f"{', '.join(sorted(wrong)[:4])}",
            look="the backward of the ops that these go through; gradients of an input that is used twice must be added",
        )


def checker_can_fail(gradient_checker, rng):
    """gradient_checker(f, gradient, x) → relative error passes the gradient 2x of f = Σ x², and fails 14x and 2.02x.

    Exact: a checker that reports less than 0.5 % for a gradient that is wrong by 1 % is always found."""
    x = rng.standard_normal(5)

    def f(x):
        return float(np.square(x).sum())

    right, wrong, slightly = (float(gradient_checker(f, lambda x, k=k: k * x, x.copy())) for k in (2.0, 14.0, 2.02))
    if not (right < 1e-3 and wrong > 0.5 and slightly > 5e-3):
        return Finding(
            "gradient_checker",
            "it does not tell right gradients from wrong ones",
            expected="an error below 1e-3 for a right gradient, above 0.5 for seven times it, and above 0.005 for 1.01 "
            "times it",
            seen=f"{right:.2g}, {wrong:.2g} and {slightly:.2g}",
            look="whether the error is computed anew for each entry, from the numbers under test",
        )


def directional(value, p, v) -> tuple[float, float]:
    """(d value/ds along p + s v, its doubt). p is moved in place and put back bit by bit."""
    kept = p.copy()
    size = max(length([p]), 0.1 * np.sqrt(p.size))  # the step sizes are shares of ‖p‖

    def moved(s):
        p[...] = kept + s * size * v
        return value()

    try:
        estimates = [central_difference(moved, h) / size for h in STEPS[p.dtype]]
    finally:
        p[...] = kept
    gaps = np.abs(np.diff(estimates))
    rounding = np.finfo(p.dtype).eps * abs(value()) / (STEPS[p.dtype][-1] * size)
    return float(estimates[int(gaps.argmin()) + 1]), float(gaps.min() + rounding)


def collected(grads: dict) -> dict:
    """The gradients that are there, as float64 arrays."""
    return {name: np.asarray(g, np.float64) for name, g in grads.items() if g is not None}


def length(arrays) -> float:
    """‖·‖₂ over several arrays."""
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays)))
