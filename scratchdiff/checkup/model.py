"""Does the network use what it is given? It is asked twice with one thing changed, and the answers are compared.

model(xt, t) may return anything of shape (N, ...). A fresh network that puts out zeros cannot be tested, unless its
`parameters` are handed over as {name: array}, sharing memory with the network: then those that are all zero are random
for the time of the test.
"""

from contextlib import contextmanager

import numpy as np

from scratchdiff.checkup.findings import CannotTell, Finding

CHANGE = 1e-5  # of an output, in units of its root mean square: rounding in float32 stays below


def gives_finite_numbers(model, T, shape, rng):
    """The output is finite and has a row for each x_t. Exact."""
    xt, t = inputs(T, shape, rng)
    out = model(xt, t)
    if out.ndim < 1 or len(out) != len(xt) or not np.isfinite(out).all():
        seen = "not finite" if np.shape(out)[:1] == xt.shape[:1] else f"an output of shape {np.shape(out)}"
        return Finding(
            "model",
            "the output is unusable",
            expected=f"finite numbers of shape (N, ...) for x_t {xt.shape}",
            seen=seen,
            look="the last layer; weights that have diverged",
        )


def answers_the_same_twice(model, T, shape, rng, parameters=None):
    """The same x_t and t give the same output. Exact: dropout that is still on is always found."""
    xt, t = inputs(T, shape, rng)
    with randomised(parameters, rng):
        change = difference(answer(model, xt, t), model(xt, t))
    if change > CHANGE:
        return Finding(
            "model",
            "two answers to one question",
            expected="the same output for the same x_t and t",
            seen=f"a difference of {change:.1%} of the output",
            look="dropout that is on while sampling: model.eval()",
        )


def answers_each_alone(model, T, shape, rng, parameters=None):
    """The rows of a batch are answered as each is alone, to 1 % of what they differ by. Exact: batch norm in training mode
    and axes that are mixed up are always found; arithmetic of low precision passes."""
    xt, t = inputs(T, shape, rng)
    with randomised(parameters, rng):
        together = answer(model, xt, t)
        some = range(0, len(xt), max(1, len(xt) // 8))
        alone = np.concatenate([model(xt[i : i + 1], t[i : i + 1]) for i in some])
        if difference(together, model(xt, t)) > CHANGE:
            raise CannotTell("the model does not repeat itself")
    change = difference(together[some], alone)
    if change > max(CHANGE, 0.01 * difference(together, together[::-1])):
        return Finding(
            "model",
            "the answer to one x_t depends on the others in its batch",
            expected="the same output alone as in a batch",
            seen=f"a difference of {change:.1%} of the output",
            look="batch norm in training mode; the axes of reshapes; how t is broadcast",
        )


def uses_the_time(model, T, shape, rng, parameters=None):
    """The output changes with t. Exact: a network that ignores t is always found."""
    xt, _ = inputs(T, shape, rng)
    with randomised(parameters, rng):
        outs = [answer(model, xt, np.full(len(xt), t)) for t in np.unique([1, (T + 1) // 2, T])]
    if T > 1 and max(difference(outs[0], out) for out in outs[1:]) < CHANGE:
        return Finding(
            "model",
            "the network ignores t",
            expected=f"another output at t = 1 than at t = {T} for the same x_t",
            seen="the same output",
            look="whether t reaches the layers: it must know how much noise to expect",
        )


def uses_every_input(model, T, shape, rng, parameters=None):
    """Each entry of x_t, or 64 of them drawn at random, changes the output. Exact.

    A missing share f of the entries is found with probability 1 − (1−f)⁶⁴: a third, one channel of three, always."""
    size = int(np.prod(shape))
    entries = rng.permutation(size)[:64]
    x, t = rng.standard_normal((1, size)).astype(np.float32), np.full(1 + len(entries), (T + 1) // 2)
    rows = np.repeat(x, 1 + len(entries), 0)
    rows[np.arange(1, len(rows)), entries] += 2.0
    with randomised(parameters, rng):
        out = answer(model, rows.reshape(-1, *shape), t)
    dead = [np.unravel_index(e, shape) for e, row in zip(entries, out[1:]) if difference(out[0], row) < CHANGE]
    if dead:
        at = ", ".join(str(tuple(map(int, index))) for index in sorted(dead)[:4])
        return Finding(
            "model",
            "some inputs are never used",
            expected="every entry of x_t changes the output",
            seen=f"{len(dead)} of {len(entries)} do not, at {at}",
            look="the number of input channels; slices of x_t",
        )


def uses_every_parameter(model, parameters, T, shape, rng):
    """Each parameter changes the output. Exact: one that is never used is always found.

    The outputs are compared bit by bit, since some parameters cancel but for rounding: softmax does not see the bias of
    attention's keys."""
    xt, t = inputs(T, shape, rng)
    with randomised(parameters, rng):
        before = answer(model, xt, t)
        if (model(xt, t) != before).any():
            raise CannotTell("the model does not repeat itself bit by bit")
        unused = []
        for name, p in parameters.items():
            kept = p.copy()
            p += rng.standard_normal(p.shape) * (np.abs(p).max() if p.size else 1)
            if (model(xt, t) == before).all():
                unused.append(name)
            p[...] = kept
    if unused:
        more = ", ..." if len(unused) > 4 else ""
        return Finding(
            "model",
            "some parameters are never used",
            expected="the output depends on every parameter",
            seen=f"{len(unused)} of {len(parameters)} do not matter: {', '.join(unused[:4])}{more}",
            look="layers that are built and never called, such as a norm before attention",
        )


def inputs(T: int, shape: tuple, rng) -> tuple:
    """x_t of normal numbers, float32, and their t, spread over 1..T: 4 of them, or up to 64 of few entries."""
    n = int(np.clip(256 // np.prod(shape), 4, 64))
    return rng.standard_normal((n, *shape)).astype(np.float32), np.linspace(T, 1, n).round().astype(int)


def answer(model, xt, t) -> np.ndarray:
    """The model's output. Raises CannotTell if it is zero everywhere, as that of a fresh network may be."""
    out = model(xt, t)
    if not out.any():
        raise CannotTell("the output is zero everywhere, as a fresh network's may be: pass parameters, or train a little")
    return out


def difference(a, b) -> float:
    """max |a − b| in units of the root mean square of a; 0 where both are zero."""
    return float(np.abs(a - b).max() / max(np.sqrt(np.square(a, dtype=np.float64).mean()), 1e-12))


@contextmanager
def randomised(parameters, rng):
    """Within the block every parameter that is all zeros is drawn from N(0, 0.1²); after it they are zeros again."""
    zeros = [p for p in (parameters or {}).values() if not p.any()]
    for p in zeros:
        p[...] = 0.1 * rng.standard_normal(p.shape)
    try:
        yield
    finally:
        for p in zeros:
            p[...] = 0
