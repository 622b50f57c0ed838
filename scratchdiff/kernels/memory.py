"""Arrays as the kernels want them, and memory that stays with the process."""

import ctypes

import numpy as np

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def prepare(*arrays):
    """Contiguous, aligned, writeable, of one dtype: what Numba compiles the kernels for. Copies only what is not so yet."""
    dtype = arrays[0].dtype
    if all([a.flags.carray and a.dtype == dtype for a in arrays]):  # a list: quicker than a generator, for so few
        return arrays
    dtype = np.result_type(*arrays)
    return [np.require(a, dtype, "CAW") for a in arrays]


def keep_freed_memory() -> None:
    """Ask glibc's malloc to keep freed arrays for the next ones. Elsewhere (macOS, Windows, musl) nothing is changed.

    A training step allocates the same large arrays as the step before. By default each goes back to the system when it is
    freed, and the next one is handed out as new pages, which the system first fills with zeros, at the price of another
    pass or two over the memory. Kept, they cost nothing; the process stays as large as its largest step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    # only arrays above 1 GB still come from the system each time, or above 32 MB where an older glibc refuses more
    if mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
