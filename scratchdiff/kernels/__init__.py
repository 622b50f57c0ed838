"""The hot loops, compiled by Numba: twins of the NumPy functions that are marked `@kernel`. Optional to read.

A marked function is a formula that stands in `autograd.py`, `ops/` or `optim.py`, and a file here computes the same by the
same name, faster. The formulas run in their place after `use("numpy")`, or where the environment says
SCRATCHDIFF_KERNELS=numpy: a debugger then steps through the mathematics. One test runs the same cases through both.

Numba takes half a second to import, so `compiled.py` is loaded when a kernel is first called for.
"""

import functools
import os
from collections.abc import Callable
from importlib import import_module

from scratchdiff.checks import require

MODES = "numpy", "compiled"
FORMULAS: dict[str, Callable] = {}  # every marked function, by its name
_mode = os.environ.get("SCRATCHDIFF_KERNELS", "compiled")
require(_mode in MODES, "SCRATCHDIFF_KERNELS must be numpy or compiled", mode=_mode)


def use(mode: str) -> str:
    """Run the formulas ("numpy") or their compiled twins ("compiled") from now on; return what ran until now.

    Raises ValueError for another mode."""
    global _mode
    require(mode in MODES, "kernels.use: the mode must be numpy or compiled", mode=mode)
    before, _mode = _mode, mode
    return before


def mode() -> str:
    """What runs now: "numpy" or "compiled"."""
    return _mode


def kernel(formula: Callable) -> Callable:
    """Mark a NumPy function as one whose compiled twin, of the same name and arguments, may run in its place."""

    @functools.wraps(formula)
    def run(*args):
        return formula(*args) if _mode == "numpy" else twin(formula.__name__)(*args)

    FORMULAS[formula.__name__] = formula
    return run


@functools.cache
def twin(name: str) -> Callable:
    """The compiled function of that name."""
    return getattr(import_module("scratchdiff.kernels.compiled"), name)
