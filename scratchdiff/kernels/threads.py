"""One pool of threads. Numba's threads share out the work; BLAS is kept to one thread, and is called from inside them.

NumPy and SciPy each bring an OpenBLAS with threads of its own. Pools that take turns fight for the cores: idle OpenBLAS
threads spin, and every hand-over costs milliseconds. So the first kernel that runs sets both libraries to one thread, for
the whole process. The number of Numba's threads is the environment variable NUMBA_NUM_THREADS, or the number of cores.

Numba's threads, which OpenMP runs, sleep while they wait (OMP_WAIT_POLICY, unless the user has set it). To spin would save
50 microseconds a kernel on an idle machine; but where another program wants a core it made small networks a hundred
times slower, because the thread that has work waits for one that only spins.
"""

import ctypes
import os

import numpy._core._multiarray_umath as numpy_library
import scipy.linalg.cython_blas as scipy_library

# what OpenBLAS calls its setter in NumPy's and SciPy's wheels, and in builds against the system's library
SETTERS = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads", "openblas_set_num_threads")

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when Numba starts its threads, which is later


def keep_blas_to_one_thread() -> None:
    """Tell each OpenBLAS in the process to use one thread. Another BLAS (MKL, Accelerate) is left as it is."""
    for library in (numpy_library, scipy_library):
        handle = ctypes.CDLL(library.__file__)
        for name in SETTERS:
            if hasattr(handle, name):
                getattr(handle, name)(1)
                break
