"""One pool of threads. Numba's threads share out the work; BLAS is kept to one thread, and is called from inside them.

NumPy and SciPy each bring an OpenBLAS with threads of its own. Pools that take turns fight for the cores: idle OpenBLAS
threads spin, and every hand-over costs milliseconds. So the first kernel that runs sets both libraries to one thread, for
the whole process. The number of Numba's threads is the environment variable NUMBA_NUM_THREADS, or the number of cores.

Numba's threads, which OpenMP runs, spin for about a millisecond while they wait and then sleep (unless the user has set
OMP_WAIT_POLICY or GOMP_SPINCOUNT). To sleep at once costs a tenth of a training step in waking up; to spin for long, as is
the default, made small networks a hundred times slower where another program wanted a core, because the thread that has
work waits for one that only spins.
"""

import ctypes
import os

import numba
import numpy._core._multiarray_umath as numpy_library
import scipy.linalg.cython_blas as scipy_library

# what OpenBLAS calls its setter in NumPy's and SciPy's wheels, and in builds against the system's library
WORTH_A_THREAD = 2**20  # multiplications: one thread finishes fewer before a second one is awake
SETTERS = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads")
CORE_NAMES = tuple(name.replace("set_num_threads", "get_corename") for name in SETTERS)

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # read when Numba starts its threads, which is later


def threads_for(work: int) -> int:
    """How many threads to use for this many multiplications: one for little work, or all."""
    return 1 if work < WORTH_A_THREAD else numba.get_num_threads()


def blas_cores() -> dict[str, str]:
    """{"NumPy": ..., "SciPy": ...}: the processor type for which each OpenBLAS has chosen its kernels, or "not OpenBLAS"."""
    found = {}
    for owner, library in (("NumPy", numpy_library), ("SciPy", scipy_library)):
        handle, found[owner] = ctypes.CDLL(library.__file__), "not OpenBLAS"
        for name in CORE_NAMES:
            if hasattr(handle, name):
                get = getattr(handle, name)
                get.restype = ctypes.c_char_p
                found[owner] = get().decode()
                break
    return found


def keep_blas_to_one_thread() -> None:
    """Tell each OpenBLAS in the process to use one thread. Another BLAS (MKL, Accelerate) is left as it is."""
    for library in (numpy_library, scipy_library):
        handle = ctypes.CDLL(library.__file__)
        for name in SETTERS:
            if hasattr(handle, name):
                getattr(handle, name)(1)
                break
