"""The engine: a list of the ops that ran, walked backwards.

Reverse-mode differentiation needs three things. A `Tensor` is an array with a node that gathers its gradient. An op is a
plain function on arrays that returns its output y and a function from dL/dy to dL/dx, one for each argument: its
vector-Jacobian product. A `Tape` is the list of ops in the order in which they ran, so its reverse is already an order
in which every gradient is complete before it is used: there is no graph to sort. The chain rule is one loop:

    for op in reversed(tape):   dL/dx += op.backward(dL/dy)
"""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, ParamSpec

import numpy as np

from scratchdiff.checks import require
from scratchdiff.kernels import kernel

FLOATS = np.dtype(np.float32), np.dtype(np.float64)
P = ParamSpec("P")
active_tape: ContextVar["Tape | None"] = ContextVar("tape", default=None)


class Node:
    """What the tape keeps of a Tensor: its shape, and the gradient that gathers there.

    The tape does not keep the values. They live as long as an op's backward needs them, or someone holds the Tensor: the two
    terms of a sum are freed as soon as the sum is taken. `again` is None, or computes the values once more (see `op`)."""

    __slots__ = ("grad", "shape", "again")
    grad: np.ndarray | None
    again: Callable[[], np.ndarray] | None

    def __init__(self, shape: tuple):
        self.grad, self.shape, self.again = None, shape, None


class Tensor:
    """An array, and the gradient of a loss with respect to it.

    `data`: a float32 or float64 ndarray of any shape, kept as it is; integers, booleans and lists become float64.
    `grad`: None, or an array of the same shape that `Tape.backward` adds to.
    Its operators (+ − × ÷ @ **, slices, `sum`, `mean`, `reshape`, `transpose`, `T`) are ops, so `ops/arithmetic.py` and
    `ops/shape.py` attach them to this class. Raises ValueError for data that is not real numbers, or of another float type.
    """

    __slots__ = ("data", "node")
    data: np.ndarray
    __array_ufunc__ = None  # array + tensor is the tensor's business: Python falls back on Tensor.__radd__

    def __init__(self, data):
        data = np.asarray(data)
        if data.dtype not in FLOATS:
            require(data.dtype.kind in "iub", "Tensor: data must be float32 or float64 (or integers)", data=data)
            data = data.astype(np.float64)
        self.data, self.node = data, Node(data.shape)

    grad = property(lambda self: self.node.grad, lambda self, grad: setattr(self.node, "grad", grad))
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

    if TYPE_CHECKING:  # what ops/arithmetic.py and ops/shape.py attach, for editors

        def sum(self, *args, **settings) -> "Tensor": ...

        mean = reshape = transpose = __getitem__ = __neg__ = __pow__ = __matmul__ = __rmatmul__ = sum
        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = sum
        T: "Tensor"


class Record(NamedTuple):
    """A line of the tape: the op that ran (a function on arrays), on what, and what it returned.

    It holds the Node of each Tensor, or, on a watched tape, the Tensor itself."""

    op: Callable
    args: tuple
    settings: dict
    out: Tensor | Node
    backward: Callable
    name = property(lambda self: self.op.__name__)


class Tape:
    """Records every op on Tensors inside its `with` block; `backward` then walks the list from its end.

        with Tape() as tape:
            loss = mse(model(x), y)
        tape.backward(loss)             # model.w.grad is now dL/dw

    watch: is called as watch(record, None, None) after each op's forward, and as watch(record, dy, grads) after its
    backward; `trace.py` holds such functions. A tape serves once: ValueError when entered again, or inside another tape.
    """

    def __init__(self, watch: Callable | None = None):
        self.records: list[Record] = []
        self.computable_again: list[Node] = []
        self.state, self.watch = "new", watch

    def __repr__(self):
        names = [record.name for record in self.records]
        shown = ", ".join(names if len(names) < 9 else [*names[:4], "...", *names[-4:]])
        return f"Tape({self.state}, {len(names)} ops{': ' if names else ''}{shown})"

    def __enter__(self):
        require(active_tape.get() is None, "Tape: tapes do not nest; leave the outer `with Tape()` block first")
        require(self.state == "new", "Tape: this tape has been used; make a new Tape() for each step")
        self.state = "recording"
        active_tape.set(self)
        return self

    def __exit__(self, *exception):
        active_tape.set(None)
        for node in self.computable_again:  # from now on the parameters may change, and then `again` gives other values
            node.again = None
        self.state = "recorded" if self.state == "recording" else self.state

    def backward(self, loss: Tensor) -> None:
        """Add dL/dx to `x.grad` for every Tensor x that the loss was computed from, except the outputs of ops.

        The walk pops each record from the list, so an activation is freed as soon as nothing needs it.
        Raises ValueError if the loss is not a scalar Tensor of this tape, if the tape was walked before, or if an op
        returns gradients that do not fit its arguments.
        """
        require(isinstance(loss, Tensor) and loss.size == 1, "Tape.backward: the loss must be a scalar Tensor", loss=loss)
        message = f"Tape.backward: this tape is {self.state}; record a loss inside `with Tape()`, walk it once"
        require(self.state in ("recording", "recorded"), message)
        own = any(record.out in (loss, loss.node) for record in self.records)
        require(own, "Tape.backward: the loss was not computed on this tape")
        self.state = "used"
        loss.grad = np.ones_like(loss.data)
        while self.records:
            record = self.records.pop()
            dy, record.out.grad = record.out.grad, None
            if dy is not None:  # else the loss does not depend on this op
                self.step_back(record, dy)

    def step_back(self, record: Record, dy) -> None:
        """Add an op's gradients to those of its arguments."""
        grads = record.backward(dy)
        if self.watch:
            self.watch(record, dy, grads)
        tensors = [i for i, x in enumerate(record.args) if isinstance(x, (Tensor, Node))]
        if tensors[-1] >= len(grads):
            raise ValueError(f"{record.name}: backward returned {len(grads)} gradients, but a later argument is a Tensor")
        for i in tensors:
            x, dx = record.args[i], grads[i]
            if dx is not None:
                if np.shape(dx) != x.shape:
                    wrong = f"a gradient of shape {np.shape(dx)} for argument {i} of shape {x.shape}"
                    raise ValueError(f"{record.name}: backward returned {wrong}")
                # a sum, never in place: an op may return one array for two of its arguments
                x.grad = dx if x.grad is None else add_arrays(x.grad, dx)


def op(f: Callable[P, tuple], later: bool = False) -> Callable[P, Tensor]:
    """Lift `f(*arrays, **settings) -> (y, backward)` to Tensors.

    `backward(dy)` returns a tuple: dL/dx for each of f's array arguments in order, or None where there is none (settings
    come after them). Plain arrays are constants, and floats among them take the Tensors' dtype. The lifted function returns
    a Tensor, and is recorded if a tape is active and any argument is a Tensor. `lifted.on_arrays` is f.
    Raises ValueError for Tensors of two dtypes, and if the output has another dtype than they.

    To save memory an op may return a third value, a function `again` that computes y once more from what its backward keeps
    anyway; nobody may then change y in place. An op that is lifted with `later` does not keep its first argument x: its
    backward is called as backward(dy, x), and `lifted.on_arrays` is f with a backward of dy alone. If x is the output of an
    op with `again`, on the same tape, the tape does not keep x either, and the backward computes it again.
    """
    on_arrays = keep_first(f) if later else f

    @functools.wraps(f)
    def lifted(*args, **settings):
        if settings and any(isinstance(value, Tensor) for value in settings.values()):  # group_norm(x, shift=b, groups=8)
            bound = inspect.signature(f).bind(*args, **settings)
            args, settings = bound.args, bound.kwargs
        tensors = [a for a in args if isinstance(a, Tensor)]
        if not tensors:
            return Tensor(f(*args, **settings)[0])
        dtype = tensors[0].data.dtype
        arrays = [a.data if isinstance(a, Tensor) else constant(a, dtype) for a in args]
        y, backward, *again = f(*arrays, **settings)
        if later:
            backward = with_first(backward, args[0], arrays[0])
        out = Tensor(y)
        if any([a.data.dtype != dtype for a in (out, *tensors)]):  # a list: quicker than a generator, for so few
            found = ", ".join(str(getattr(a, "dtype", type(a).__name__)) for a in args)
            raise ValueError(f"{f.__name__}: the Tensors must have one dtype, and constants not change it, got {found}")
        if (tape := active_tape.get()) is not None:
            if again:
                (out.node.again,) = again
                tape.computable_again.append(out.node)
            if tape.watch:
                tape.records.append(Record(on_arrays, args, settings, out, backward))
                tape.watch(tape.records[-1], None, None)
            else:
                nodes = tuple([a.node if isinstance(a, Tensor) else a for a in args])
                tape.records.append(Record(on_arrays, nodes, settings, out.node, backward))
        return out

    lifted.on_arrays = on_arrays  # pyright: ignore[reportAttributeAccessIssue]
    return lifted


def with_first(backward: Callable, x, array) -> Callable:
    """dy → backward(dy, the values of x). They are computed again if x's node can, and kept otherwise."""
    again = x.node.again if isinstance(x, Tensor) else None
    return (lambda dy: backward(dy, again())) if again else (lambda dy: backward(dy, array))


def keep_first(f: Callable) -> Callable:
    """f with a backward of dy alone, which keeps f's first argument."""

    @functools.wraps(f)
    def keeping(*arrays, **settings):
        y, backward, *again = f(*arrays, **settings)
        return y, lambda dy: backward(dy, arrays[0]), *again

    return keeping


@kernel
def add_arrays(a, b):
    """a + b, where an op adds or gradients meet. Lists are added entry by entry, as arrays."""
    return np.add(a, b)


def constant(a, dtype):
    """A plain argument of an op: NumPy's floats in the Tensors' dtype, for float32 times a float64 would be a float64."""
    floats = isinstance(a, (np.ndarray, np.floating)) and a.dtype.kind == "f"
    return a.astype(dtype) if floats and a.dtype != dtype else a
