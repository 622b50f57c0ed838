"""Watchers of the tape: functions that look at every op of a step while it runs forwards and backwards.

`find_nonfinite` says where the first infinity or NaN arises. `trace` keeps all that a step computed, value by value and
gradient by gradient, as plain data; `page/` shows it in a browser.
"""

import copy
import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratchdiff.autograd import Record, Tape, Tensor, op
from scratchdiff.checks import require
from scratchdiff.gradcheck import directional_derivative, probes
from scratchdiff.nn import Module

STEP_SIZES = 10.0 ** -np.arange(10)  # of the V-curve: 1, 0.1, ..., 1e-9
ENGINE = Path(__file__).parent / "autograd.py", Path(__file__), Path(__file__).parent / "ops"


def refuse_nonfinite(parameters: dict[str, Tensor] | None = None) -> Callable:
    """A `watch` for a Tape: it raises FloatingPointError at the first output or gradient that holds an infinity or NaN.

    The message shows the op with the shapes of its arguments, the names of those among `parameters`, and which of them
    are not finite themselves:

        conv2d((8, 28, 28, 1), conv_in.w (3, 3, 1, 32) not finite, conv_in.b (32,)): the output is not finite
    """
    names = {id(p): name for name, p in (parameters or {}).items()}

    def watch(record, dy, grads):
        if grads is None and not finite(record.out):
            raise FloatingPointError(f"{summary(record, names)}: the output is not finite")
        for i, dx in enumerate(grads or ()):
            if dx is not None and not finite(dx):
                raise FloatingPointError(f"{summary(record, names)}: the gradient of argument {i} is not finite")

    return watch


def find_nonfinite(compute_loss: Callable[[], Tensor], parameters: dict[str, Tensor]) -> str:
    """Where the first infinity or NaN of a step arises, in one line as by `refuse_nonfinite`, or that there is none.

    compute_loss() returns the scalar loss; it runs once on a tape, which is then walked back. The parameters' gradients
    are lost."""
    for p in parameters.values():
        p.grad = None
    try:
        with Tape(refuse_nonfinite(parameters)) as tape:
            loss = compute_loss()
        tape.backward(loss)
    except FloatingPointError as error:
        return str(error)
    return "every output and gradient by itself is finite"


def summary(record: Record, names: dict[int, str]) -> str:
    """An op and its arguments in one line; names: {id of a Tensor: its name}."""
    shown = []
    for x in record.args:
        if not isinstance(x, (Tensor, np.ndarray)):
            continue  # a setting, such as a stride
        name = names.get(id(x), "")
        shown.append(f"{name} {x.shape}{'' if finite(x) else ' not finite'}".lstrip())
    return f"{record.name}({', '.join(shown)})"


def finite(a) -> bool:
    """Whether no entry is infinite or NaN."""
    return bool(np.isfinite(a.data if isinstance(a, Tensor) else a).all())


@dataclass(eq=False, repr=False)
class Value:
    """An array of a step, and the gradient of the loss with respect to it, or None where none arrives.

    name: of a parameter. made_by: the number of the op that returned it, or None. used_by: the ops that take it."""

    data: np.ndarray
    name: str = ""
    grad: np.ndarray | None = None
    made_by: int | None = None
    used_by: list[int] = field(default_factory=list)


class Check(NamedTuple):
    """An op's gradients beside finite differences, on the numbers of the step.

    errors: {argument: relative error of its gradient along a random direction, in float64}.
    entry: one number of one argument, as "w[0, 1, 5, 3]"; slope: ∂L/∂entry. single, double: the relative error of
    (f(x + h) − f(x − h))/2h in float32 and float64, for each h of STEP_SIZES.
    random_dy: whether dy was drawn at random, because the step's own is zero and would hide every mistake."""

    errors: dict[str, float]
    entry: str
    slope: float
    single: np.ndarray
    double: np.ndarray
    random_dy: bool


@dataclass(eq=False, repr=False)
class Entry:
    """A line of a trace: an op that ran, in which layer, on what.

    place: (file, line) of the program that called it. arguments: {name: a Value, or a setting such as stride=2}.
    grads: {name: what this op's backward returned}; a Value that several ops use gets the sum of theirs as its gradient.
    seconds: forward and backward of this op alone. check: a Check, None, or the message with which it refused float64."""

    op: Callable
    layer: str
    place: tuple[str, int]
    arguments: dict[str, object]
    out: Value
    grads: dict[str, np.ndarray | None] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)
    check: Check | str | None = None
    name = property(lambda self: self.op.__name__)


class Asked(NamedTuple):
    """What a network was asked in a training step and what it answered: (N, ...); t and noise_level √(1−ᾱ_t): (N,)."""

    t: np.ndarray
    noise_level: np.ndarray
    x0: np.ndarray
    xt: np.ndarray
    eps: np.ndarray
    eps_hat: np.ndarray
    x0_hat: np.ndarray


@dataclass(eq=False, repr=False)
class Trace:
    """All that a step computed. entries: the ops in the order of the tape; parameters: {name: Value} of those it used.

    A notebook shows it as a page: `page/` attaches `_repr_html_`."""

    entries: list[Entry]
    parameters: dict[str, Value]
    loss: float
    title: str = ""
    asked: Asked | None = None


def trace(compute_loss: Callable[[], Tensor], parameters: dict[str, Tensor] | None = None, *, check=True, title="") -> Trace:
    """Run one step on a tape, walk it back, and keep every value and gradient.

        trace = sd.trace(lambda: diffusion.loss(model, x0, rng), model.parameters())
        sd.save_page(trace, "tape.html")

    compute_loss() returns the scalar loss and runs once. parameters: {name: Tensor}; they name the layers. The gradients of
    every Tensor that the loss is computed from are set anew. check: compare each op with finite differences, which runs it
    up to ninety times more. Raises ValueError if compute_loss does not return a scalar Tensor of its own ops."""
    names = {id(p): name for name, p in (parameters or {}).items()}
    records, entries, values = [], [], {}

    def value_of(x) -> Value:
        """The Value of a Tensor or array. All data is copied: a parameter, and what views it, changes after the step."""
        if id(x) not in values:
            if isinstance(x, Tensor):
                x.grad = None
            values[id(x)] = Value(np.array(x), names.get(id(x), ""))
        return values[id(x)]

    def watch(record, dy, grads):
        if grads is None:
            number, arguments = len(records), {}
            for name, x in zip(argument_names(record), record.args):
                arguments[name] = value_of(x) if isinstance(x, (Tensor, np.ndarray)) else x
                if isinstance(arguments[name], Value):
                    arguments[name].used_by.append(number)
            values[id(record.out)] = Value(record.out.data.copy(), made_by=number)
            records.append(record)  # keeps its Tensors alive, and so their ids their own
            layer, place = caller(names)
            entries.append(Entry(record.op, layer, place, arguments | record.settings, values[id(record.out)]))
        else:
            entry = entries[values[id(record.out)].made_by]
            entry.out.grad = dy
            entry.grads = {name: dx for name, dx, x in zip(entry.arguments, grads, record.args) if isinstance(x, Tensor)}

    for p in (parameters or {}).values():
        p.grad = None
    with Tape(watch) as tape:
        loss = compute_loss()
    tape.backward(loss)
    for x in {id(x): x for record in records for x in record.args if isinstance(x, Tensor)}.values():
        if x.grad is not None:
            values[id(x)].grad = x.grad.copy()
    rng = np.random.default_rng(0)
    for record, entry in zip(records, entries):
        entry.seconds = time_op(record, entry.out.grad)
        entry.check = check_op(record, entry.out.grad, rng) if check else None
    used = {name: values[id(p)] for name, p in (parameters or {}).items() if id(p) in values}
    return Trace(entries, used, loss.item(), title)


def trace_step(diffusion, model, x0, rng, *, labels=None, t=None, loss=None, check=True, title="") -> Trace:
    """`trace` of a training step of a GaussianDiffusion, with what the network was asked and answered.

    x0: (N, ...), a batch. labels: (N,), for a model that takes them. t: the timestep of all images, or one for each; None
    draws them. loss: a function of (model, x0, rng, labels=), `diffusion.loss` by default, as for `train`.
    Raises ValueError as the loss does, and for t outside 1..T."""
    if t is not None:
        T = diffusion.schedule.T
        times = np.broadcast_to(np.asarray(t), len(x0)) if np.shape(t) in ((), (len(x0),)) else np.asarray(0)
        inside = times.dtype.kind in "iu" and ((1 <= times) & (times <= T)).all()
        require(inside, f"trace_step: t must be an integer in 1..{T}, or {len(x0)} of them", t=t)
        rng = ChosenTimes(rng, times)
    heard = Listener(model)
    extra = {} if labels is None else dict(labels=labels)
    found = trace(lambda: (loss or diffusion.loss)(heard, x0, rng, **extra), model.parameters(), check=check, title=title)
    xt, t, (prediction, _) = heard.xt, heard.t, diffusion.split_output(np.asarray(heard.out), heard.xt)
    x0_hat = diffusion.predict_x0(xt, t, prediction)
    eps, eps_hat = diffusion.predict_eps(xt, t, x0), diffusion.predict_eps(xt, t, x0_hat)
    found.asked = Asked(t, diffusion.sqrt_noise[t], np.asarray(x0), xt, eps, eps_hat, x0_hat)
    return found


class Listener:
    """A model that remembers its last call: xt, t and out. In all else it is the model."""

    def __init__(self, model):
        self.model = model

    def __call__(self, xt, t, **conditions):
        self.xt, self.t, self.out = xt, t, self.model(xt, t, **conditions)
        return self.out

    def __getattr__(self, name):
        return getattr(self.model, name)


class ChosenTimes:
    """The generator rng, but it answers with these timesteps when it is asked for integers. The noise stays the same."""

    def __init__(self, rng: np.random.Generator, times: np.ndarray):
        self.rng, self.times = rng, times

    def integers(self, *args, **settings):
        self.rng.integers(*args, **settings)
        return self.times

    def __getattr__(self, name):
        return getattr(self.rng, name)


def argument_names(record: Record) -> list[str]:
    """The names of an op's positional arguments, as its definition has them: x, w, b; or xs[0], xs[1] for *xs."""
    names = []
    for p in inspect.signature(record.op).parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}[{i}]" for i in range(len(record.args) - len(names))]
        elif p.kind is not p.KEYWORD_ONLY:
            names.append(p.name)
    return names[: len(record.args)]


def caller(names: dict[int, str]) -> tuple[str, tuple[str, int]]:
    """(layer, (file, line)) of the program that called the op now recorded; names: {id of a parameter: its name}.

    The layer is the innermost Module on the call stack, by the name that its parameters have in common: "down.0.conv1". The
    whole network is called by its class, and outside any Module stands the function, as "GaussianDiffusion.loss()"."""
    frame = sys._getframe(1)
    while any(part in (path := Path(frame.f_code.co_filename), *path.parents) for part in ENGINE):
        frame = frame.f_back
    place, function = (frame.f_code.co_filename, frame.f_lineno), frame.f_code.co_qualname
    while frame is not None:
        owner = frame.f_locals.get("self")
        own = owner.parameters() if isinstance(owner, Module) else {}
        for name, p in own.items():
            if id(p) in names:
                return names[id(p)].removesuffix(name).rstrip(".") or type(owner).__name__, place
        frame = frame.f_back
    return f"{function}()", place


def time_op(record: Record, dy, runs=3) -> tuple[float, float]:
    """The least seconds of the op's forward and of its backward, alone, in a few runs."""
    arrays = [x.data if isinstance(x, Tensor) else x for x in record.args]
    forward, backward = [], []
    for _ in range(runs):
        settings = own_generators(record.settings)
        began = time.perf_counter()
        _, run_backward, *_ = record.op(*arrays, **settings)
        forward.append(time.perf_counter() - began)
        began = time.perf_counter()
        if dy is not None:
            run_backward(dy)
        backward.append(time.perf_counter() - began)
    return min(forward), min(backward) if dy is not None else 0.0


def check_op(record: Record, dy, rng: np.random.Generator) -> Check | str | None:
    """The Check of one op at the inputs and the dy of the step, or the message of the ValueError with which it refused, or
    None for an op without gradients.

    Each gradient meets one random direction. Then the entry of the first Tensor with the largest gradient goes through the
    step sizes."""
    random_dy = dy is None or not dy.any()
    dy = rng.standard_normal(record.out.shape) if random_dy else dy.astype(np.float64)
    try:
        xs, names = in_dtype(record, np.float64), argument_names(record)
        with Tape() as tape:
            y = run_again(record, xs).data
        grads = tape.records[0].backward(dy)
        known = [i for i, x in enumerate(xs) if isinstance(x, Tensor) and grads[i] is not None]
        if not known:
            return None
        floor = 1e-5 * np.abs(y * dy).max(initial=0) + np.finfo(float).tiny
        errors = {}
        for i in known:
            (v,) = probes(xs[i].shape, 1, rng)
            exact = float((grads[i] * v).sum())
            numeric = directional_derivative(lambda *xs: run_again(record, xs), xs, xs[i], v, dy)
            errors[names[i]] = abs(exact - numeric) / max(abs(exact), abs(numeric), floor)
        i = known[0]
        index = np.unravel_index(np.abs(grads[i]).argmax(), xs[i].shape)
        slope = float(grads[i][index])
        curves = [np.abs(slopes(record, dtype, i, index, dy) - slope) / max(abs(slope), floor)
                  for dtype in (np.float32, np.float64)]  # fmt: skip
    except ValueError as error:
        return str(error)
    return Check(errors, f"{names[i]}[{', '.join(map(str, index))}]", slope, *curves, random_dy)


def slopes(record: Record, dtype, i: int, index: tuple, dy: np.ndarray) -> np.ndarray:
    """(L(x + h) − L(x − h))/2h with L = Σ y·dy, x the entry `index` of argument i, and the op in that dtype, for each h."""
    xs = in_dtype(record, dtype)
    start, found = xs[i].data[index], []
    for h in STEP_SIZES:
        ends = []
        for moved in (start + h, start - h):
            xs[i].data[index] = moved
            ends.append(run_again(record, xs).data.copy())  # a copy: a reshaped x is a view of x
        found.append(((ends[0] - ends[1]) * dy).sum() / (2 * h))
    return np.array(found)


def in_dtype(record: Record, dtype) -> list:
    """The arguments of a record with its Tensors copied in another dtype."""
    return [Tensor(x.data.astype(dtype)) if isinstance(x, Tensor) else x for x in record.args]


def run_again(record: Record, xs) -> Tensor:
    """The record's op on other arguments."""
    return op(record.op)(*xs, **own_generators(record.settings))


def own_generators(settings: dict) -> dict:
    """The settings with a copy of each generator among them, so that an op that draws does the same at each run."""
    return {key: copy.deepcopy(x) if isinstance(x, np.random.Generator) else x for key, x in settings.items()}
