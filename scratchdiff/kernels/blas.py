"""NumPy's OpenBLAS: its threads, and the processor it computes for.

Our kernels multiply matrices themselves (products.py), without a BLAS. NumPy calls one, and so do our formulas, because they
are written in NumPy.

OpenBLAS holds matrix products for many processors and chooses one set when it is loaded. It does not know every new
processor: on a Zen 5 of AMD we saw it take the products of the Haswell, which use half of the vector width (see also
github.com/OpenMathLib/OpenBLAS/issues/6029). The environment variable OPENBLAS_CORETYPE overrules the choice. NumPy
has loaded its library before we run, so all that we can do is to name the remedy (`scratchdiff info`).
"""

import ctypes
import os

import numpy._core._multiarray_umath as numpy_library

# what OpenBLAS calls its functions in NumPy's wheels, and in builds against the system's library
PREFIXES_AND_SUFFIXES = (("scipy_openblas", "64_"), ("scipy_openblas", ""), ("openblas", ""))
AVX2, AVX512 = {"avx2", "fma"}, {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
CORES_WITH_AVX512 = {"skylakex", "cooperlake", "sapphirerapids"}
CORES_WITH_AVX2 = {"haswell", "zen", *CORES_WITH_AVX512}


def openblas_function(name: str):
    """The function of this name in NumPy's OpenBLAS, or None if NumPy has another BLAS."""
    library = ctypes.CDLL(numpy_library.__file__)
    for prefix, suffix in PREFIXES_AND_SUFFIXES:
        if hasattr(library, f"{prefix}_{name}{suffix}"):
            return getattr(library, f"{prefix}_{name}{suffix}")
    return None


def chosen_core() -> str | None:
    """The processor for which OpenBLAS chose its products, or None if NumPy has another BLAS."""
    get = openblas_function("get_corename")
    if get is None:
        return None
    get.restype = ctypes.c_char_p
    return get().decode()


def better_core(chosen: str, features: set[str]) -> str | None:
    """The OPENBLAS_CORETYPE that serves a processor with these features (LLVM's names) better than `chosen`; None if none.

    It never names a core with instructions that the processor lacks."""
    if chosen.lower() not in CORES_WITH_AVX512 and AVX512 <= features:
        return "SkylakeX"
    if chosen.lower() not in CORES_WITH_AVX2 and AVX2 <= features:
        return "Haswell"
    return None


def processor_features() -> set[str]:
    """What this processor can do, in LLVM's names, such as "avx2"; nothing where LLVM cannot tell."""
    from llvmlite.binding import get_host_cpu_features

    try:
        return {name for name, present in get_host_cpu_features().items() if present}
    except RuntimeError:
        return set()


def blas_in_words() -> str:
    """The processor that NumPy's OpenBLAS computes for, who chose it, and the remedy if another choice would be faster."""
    chosen = chosen_core()
    if chosen is None:
        return "none: NumPy has another BLAS"
    if "OPENBLAS_CORETYPE" in os.environ:
        return f"NumPy's: {chosen}, chosen by OPENBLAS_CORETYPE"
    better = better_core(chosen, processor_features())
    remedy = f"; this processor can do more: set OPENBLAS_CORETYPE={better} in the environment" if better else ""
    return f"NumPy's: {chosen}, chosen by OpenBLAS{remedy}"


def keep_blas_to_one_thread() -> None:
    """Tell NumPy's OpenBLAS to use one thread. Another BLAS (MKL, Accelerate) is left as it is."""
    if set_num_threads := openblas_function("set_num_threads"):
        set_num_threads(1)
