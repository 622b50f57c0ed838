"""Watchers of the tape: functions that look at every op of a step while it runs forwards and backwards."""

from collections.abc import Callable

import numpy as np

from scratchdiff.autograd import Record, Tape, Tensor


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
