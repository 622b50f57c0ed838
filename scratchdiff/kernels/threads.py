"""One pool of threads. Numba's threads share out the work; NumPy's OpenBLAS is kept to one thread.

OpenBLAS brings threads of its own. Pools that take turns fight for the cores: idle OpenBLAS threads spin, and every
hand-over costs milliseconds. So the first kernel that runs sets OpenBLAS to one thread, for the whole process. (SciPy has
another one, which only metrics.py calls, and which keeps its threads.) The number of Numba's threads is the environment
variable NUMBA_NUM_THREADS, or the number of cores.

Where GNU's OpenMP runs Numba's threads, as on Linux without TBB, they spin for about a millisecond while they wait and
then sleep (unless the user has set OMP_WAIT_POLICY or GOMP_SPINCOUNT). To sleep at once costs a tenth of a training step in
waking up; to spin for long, as is the default, made small networks a hundred times slower where another program wanted a
core, because the thread that has work waits for one that only spins.
"""
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import functools
import os

import numba
from numba import njit

from scratchdiff.kernels.compiling import choose_cache_folder

choose_cache_folder()  # before the first @njit below asks for it

WORTH_A_THREAD = 2**20  # multiplications: one thread finishes fewer before a second one is awake

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # read when Numba starts its threads, which is later


def threads_for(work: int) -> int:
    """How many threads to use for this many multiplications: one for little work, or all."""
    return 1 if work < WORTH_A_THREAD else thread_count()


@functools.cache
def thread_count() -> int:
    """How many threads the kernels use. We keep the number, because Numba's own function takes as long as a small kernel.

    So `use_threads` changes it; `numba.set_num_threads`, called directly, does not."""
    return numba.get_num_threads()


def use_threads(count: int) -> None:
    """Let the kernels use this many threads from now on, at most as many as Numba started with."""
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    thread_count.cache_clear()


@njit(cache=True)
def share(count, i, threads):
    """(begin, end) of what thread i gets of `count` things."""
    return i * count // threads, (i + 1) * count // threads
