"""What a function says when it is called with something it cannot use: a ValueError of one line that names what it got.

The functions of this package open with at most a few of these calls, so that the checking stays out of the reader's way.
"""

import numpy as np


def require(ok, message: str, **got) -> None:
    """Raise ValueError("{message}, got {got}") unless ok. Arrays and Tensors are shown by dtype and shape.

    require(0 <= rate < 1, "dropout: the rate must be in [0, 1)", rate=rate)    # ..., got 1.5
    """
    if not ok:
        shown = [describe(value) if len(got) == 1 else f"{name} {describe(value)}" for name, value in got.items()]
        raise ValueError(f"{message}, got {', '.join(shown)}" if got else message)


def require_fit(op: str, ok, **arrays) -> None:
    """Raise ValueError("{op}: shapes x (2, 3), w (4, 5) do not fit") unless ok; None is shown as None."""
    if not ok:
        shapes = (f"{name} {None if a is None else np.shape(a)}" for name, a in arrays.items())
        raise ValueError(f"{op}: shapes {', '.join(shapes)} do not fit")


def require_positive_integers(name: str, **values) -> None:
    """Raise the ValueError of the function or class `name` unless every value is an integer of at least 1."""
    for key, value in values.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}: {key} must be a positive integer, got {value!r}")


def require_finite_floats(name: str, **arrays) -> None:
    """Raise the ValueError of the function `name` unless every array holds floats, all of them finite."""
    for key, a in arrays.items():
        a = np.asarray(a)
        require(a.dtype.kind == "f" and np.isfinite(a).all(), f"{name}: {key} must be finite floats", **{key: a})


def describe(value) -> str:
    """ "float32 of shape (2, 3)" for anything with a shape, else its repr."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {value.shape}" if value.shape else f"{value.dtype} {value.item()!r}"
    return repr(value)
