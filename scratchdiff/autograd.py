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

FLOATS = np.dtype(np.float32), np.dtype(np.float64)
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
        if data.dtype not in FLOATS:
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

    check: look at every output and every gradient, at the price of a pass over each, and raise FloatingPointError at the
    first that is not finite, naming the op, the shapes it was given, and which of these are not finite themselves.
    names: {name: Tensor}, such as model.parameters(), for that message.

    A tape serves once. Raises ValueError when entered inside another tape or a second time.
    """

    def __init__(self, check: bool = False, names: dict[str, Tensor] | None = None):
        self.records: list[Record] = []
        self.state = "new"
        self.check, self.names = check, {id(tensor): name for name, tensor in (names or {}).items()}

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
        returns a gradient whose shape is not its argument's; FloatingPointError as the class says, where it checks.
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
            if len(grads) < len(args) and any(isinstance(x, Tensor) for x in args[len(grads) :]):
                raise ValueError(f"{name}: backward returned {len(grads)} gradients, but a later argument is a Tensor")
            for i, (x, dx) in enumerate(zip(args, grads)):
                if not isinstance(x, Tensor) or dx is None:
                    continue
                if np.shape(dx) != x.data.shape:
                    raise ValueError(
                        f"{name}: backward returned a gradient of shape {np.shape(dx)} for argument {i} of shape {x.shape}"
                    )
                if self.check and not finite(dx):
                    raise FloatingPointError(f"gradient of {self.describe(name, args, i)}")
                # a sum, never in place: dx may be an array that the op handed to two of its arguments
                x.grad = dx if x.grad is None else x.grad + dx

    def describe(self, name: str, args: tuple, at: int | None = None) -> str:
        """An op in one line: "conv2d((8, 28, 28, 1), conv_in.w (3, 3, 1, 32) not finite): the output is not finite"."""
        shown = []
        for x in args:
            known = self.names.get(id(x))
            x = x.data if isinstance(x, Tensor) else x
            floats = isinstance(x, np.ndarray) and x.dtype.kind == "f"
            shown.append(f"{known + ' ' if known else ''}{np.shape(x)}{' not finite' if floats and not finite(x) else ''}")
        what = "the output" if at is None else f"that of argument {at}"
        return f"{name}({', '.join(shown)}): {what} is not finite"


def finite(a) -> bool:
    """Whether no entry is infinite or NaN."""
    return bool(np.isfinite(a).all())


def op(f: Callable) -> Callable:
    """Lift `f(*arrays, **settings) -> (y, backward)` to Tensors.

    `backward(dy)` returns a tuple: dL/dx for each of f's array arguments in order, or None where there is none (settings
    come after them). Arguments that are plain arrays are constants, and take the dtype of the Tensors where they are
    floats. The lifted function returns a Tensor, and is recorded if a tape is active and any argument is a Tensor.
    No op changes a dtype: it raises ValueError for Tensors of two dtypes, and where an array would make the output another.
    """

    @functools.wraps(f)
    def lifted(*args, **settings):
        if settings and any(isinstance(value, Tensor) for value in settings.values()):  # group_norm(x, shift=b, groups=8)
            bound = inspect.signature(f).bind(*args, **settings)
            args, settings = bound.args, bound.kwargs
        tensors = [a for a in args if isinstance(a, Tensor)]
        if not tensors:
            return Tensor(f(*args, **settings)[0])
        dtype = tensors[0].data.dtype
        y, backward = f(*[a.data if isinstance(a, Tensor) else constant(a, dtype) for a in args], **settings)
        out = Tensor(y)
        if {out.data.dtype, *[a.data.dtype for a in tensors]} != {dtype}:
            found = ", ".join(str(getattr(a, "dtype", type(a).__name__)) for a in args)
            raise ValueError(f"{f.__name__}: the Tensors must have one dtype, and constants not change it, got {found}")
        if (tape := _active.get()) is not None:
            tape.records.append(Record(f.__name__, args, out, backward))
            if tape.check and not finite(out.data):
                raise FloatingPointError(tape.describe(f.__name__, args))
        return out

    return lifted


def constant(a, dtype):
    """A plain argument of an op: NumPy's floats in the Tensors' dtype, for float32 times a float64 would be a float64."""
    if isinstance(a, (np.ndarray, np.floating)) and a.dtype != dtype and a.dtype.kind == "f":
        return a.astype(dtype)
    return a
