"""The engine: a list of the ops that ran, walked backwards.

Reverse-mode differentiation needs three things. A `Tensor` is an array with room for a gradient. An op is a plain
function on arrays that returns its output y and a function from dL/dy to dL/dx, one for each argument: its
vector-Jacobian product. A `Tape` is the list of ops in the order in which they ran, so its reverse is already an order
in which every gradient is complete before it is used: there is no graph to sort. The chain rule is one loop:

    for op in reversed(tape):   dL/dx += op.backward(dL/dy)
"""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

import numpy as np

_active: ContextVar["Tape | None"] = ContextVar("tape", default=None)


class Tensor:
    """An array, and the gradient of a loss with respect to it.

    `data`: a float32 or float64 ndarray of any shape, kept as it is; integers, booleans and lists become float64.
    `grad`: None, or an array of the same shape that `Tape.backward` adds to.
    The operators (+ − × ÷ @ **, slices, `sum`, `mean`, `reshape`, `transpose`, ...) are ops, defined in `scratchdiff.ops`.
    Raises ValueError for data that is not real numbers, or of another float type.
    """

    __slots__ = ("data", "grad")
    __array_ufunc__ = None  # array + tensor is the tensor's business: Python falls back on Tensor.__radd__

    def __init__(self, data):
        data = np.asarray(data)
        if data.dtype.kind in "iub":
            data = data.astype(np.float64)
        if data.dtype not in (np.float32, np.float64):
            raise ValueError(f"Tensor: data must be float32 or float64 (or integers), got {data.dtype}")
        self.data, self.grad = data, None

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)

    def item(self):
        """The value of a one-entry tensor as a Python float. Raises ValueError if there are more entries."""
        return self.data.item()

    def __len__(self):
        return len(self.data)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.data, dtype=dtype, copy=copy)

    def __repr__(self):
        return f"Tensor({self.data!r})"


class Record(NamedTuple):
    """One op that ran: what a line of the tape holds."""

    name: str
    args: tuple
    out: Tensor
    backward: Callable


class Tape:
    """Records every op on Tensors inside its `with` block; `backward` then walks the list from its end.

        with Tape() as tape:
            loss = mse(model(x), y)
        tape.backward(loss)             # model.w.grad is now dL/dw

    A tape serves once. Raises ValueError when entered inside another tape or a second time.
    """

    def __init__(self):
        self.records: list[Record] = []
        self.state = "new"

    def __enter__(self):
        if _active.get() is not None:
            raise ValueError("Tape: tapes do not nest; leave the outer `with Tape()` block first")
        if self.state != "new":
            raise ValueError("Tape: this tape has been used; make a new Tape() for each step")
        self.state = "recording"
        _active.set(self)
        return self

    def __exit__(self, *exception):
        _active.set(None)
        if self.state == "recording":
            self.state = "recorded"

    def backward(self, loss: Tensor) -> None:
        """Add dL/dx to `x.grad` for every Tensor x that the loss was computed from, except what ops themselves made.

        The list is popped as it is walked, so that each activation is freed once nothing needs it.
        Raises ValueError if the loss is not a scalar Tensor of this tape, if the tape was walked before, or if an op
        returns a gradient whose shape is not its argument's.
        """
        if not isinstance(loss, Tensor) or loss.size != 1:
            what = f"shape {loss.shape}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"Tape.backward: the loss must be a scalar Tensor, got {what}")
        if self.state in ("new", "used"):
            raise ValueError(f"Tape.backward: this tape is {self.state}; record a loss inside `with Tape()`, walk it once")
        if not any(record.out is loss for record in self.records):
            raise ValueError("Tape.backward: the loss was not computed on this tape")
        self.state = "used"
        loss.grad = np.ones_like(loss.data)
        while self.records:
            name, args, out, backward = self.records.pop()
            dy, out.grad = out.grad, None
            if dy is None:  # the loss does not depend on this op
                continue
            grads = backward(dy)
            if any(isinstance(x, Tensor) for x in args[len(grads) :]):
                raise ValueError(f"{name}: backward returned {len(grads)} gradients, but a later argument is a Tensor")
            for i, (x, dx) in enumerate(zip(args, grads)):
                if not isinstance(x, Tensor) or dx is None:
                    continue
                if np.shape(dx) != x.shape:
                    raise ValueError(
                        f"{name}: backward returned a gradient of shape {np.shape(dx)} for argument {i} of shape {x.shape}"
                    )
                # a sum, never in place: dx may be an array that the op handed to two of its arguments
                x.grad = dx if x.grad is None else x.grad + dx


def op(f: Callable) -> Callable:
    """Lift `f(*arrays, **settings) -> (y, backward)` to Tensors.

    `backward(dy)` returns a tuple: dL/dx for each of f's array arguments in order, or None where there is none (settings
    come after them). Arguments that are plain arrays are constants. The lifted function returns a Tensor, and is
    recorded if a tape is active and any argument is a Tensor.
    """

    @functools.wraps(f)
    def lifted(*args, **settings):
        if any(isinstance(value, Tensor) for value in settings.values()):  # group_norm(x, shift=b, scale=s, groups=8)
            bound = inspect.signature(f).bind(*args, **settings)
            args, settings = bound.args, bound.kwargs
        y, backward = f(*[a.data if isinstance(a, Tensor) else a for a in args], **settings)
        out = Tensor(y)
        tape = _active.get()
        if tape is not None and any(isinstance(a, Tensor) for a in args):
            tape.records.append(Record(f.__name__, args, out, backward))
        return out

    return lifted
