"""The hot loops. `reference.py` says what each computes, in NumPy that reads as the formula; `fast.py` has the same names
and signatures in Numba and is what runs. One test runs the same cases through both.

Numba takes half a second to import, so `fast` is loaded when a kernel is first called for.
"""

from importlib import import_module


def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
    kernel = getattr(import_module("scratchdiff.kernels.fast"), name)
    globals()[name] = kernel  # the next look-up finds it here
    return kernel
