"""The two OpenBLAS libraries in the process, NumPy's and SciPy's: their threads, and the processor they compute for.

OpenBLAS holds matrix products for many processors and chooses one set when it is loaded. It does not know every new
processor: on AMD's Zen 5 the releases before September 2026 take the products of the Haswell, which use half of the vector
width (github.com/OpenMathLib/OpenBLAS/issues/6029). The environment variable OPENBLAS_CORETYPE overrules the choice.

Most of our kernels multiply matrices themselves (products.py). The attention kernel calls SciPy's library. NumPy's library
is loaded before it and shows what OpenBLAS chooses here, so we can correct SciPy's choice in time. We cannot correct
NumPy's, but a training step makes few products with NumPy.
"""

import ctypes
import os
import warnings

import numpy._core._multiarray_umath as numpy_library

# what OpenBLAS calls its functions in NumPy's and SciPy's wheels, and in builds against the system's library
PREFIXES_AND_SUFFIXES = (("scipy_openblas", "64_"), ("scipy_openblas", ""), ("openblas", ""))
AVX2, AVX512 = {"avx2", "fma"}, {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
CORES_WITH_AVX512 = {"skylakex", "cooperlake", "sapphirerapids"}
CORES_WITH_AVX2 = {"haswell", "zen", *CORES_WITH_AVX512}


def openblas_function(library, name: str):
    """OpenBLAS's function of this name in the library that a Python extension module is linked with, or None."""
    handle = ctypes.CDLL(library.__file__)
    for prefix, suffix in PREFIXES_AND_SUFFIXES:
        if hasattr(handle, f"{prefix}_{name}{suffix}"):
            return getattr(handle, f"{prefix}_{name}{suffix}")
    return None


def core_of(library) -> str:
    """The processor for which the library's OpenBLAS chose its products, or "not OpenBLAS"."""
    get = openblas_function(library, "get_corename")
    if get is None:
        return "not OpenBLAS"
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


def load_scipy_library():
    """(SciPy's module that is linked with its OpenBLAS, the core type that we set for it or None).

    A user's OPENBLAS_CORETYPE stands. Warns where SciPy's library was loaded before, so that its choice stays."""
    chosen, better = core_of(numpy_library), None
    if chosen != "not OpenBLAS" and "OPENBLAS_CORETYPE" not in os.environ:
        better = better_core(chosen, processor_features())
    if better:
        os.environ["OPENBLAS_CORETYPE"] = better
    try:
        import scipy.linalg.cython_blas as scipy_library
    finally:
        if better:
            del os.environ["OPENBLAS_CORETYPE"]
    if better and core_of(scipy_library).lower() != better.lower():
        remedy = f"set OPENBLAS_CORETYPE={better} in the environment"
        warnings.warn(f"scratchdiff: SciPy's OpenBLAS, loaded before the kernels, computes for {chosen}, but this processor "
                      f"can do more: {remedy}", stacklevel=2)  # fmt: skip
        better = None
    return scipy_library, better


scipy_library, corrected_core = load_scipy_library()


def blas_in_words() -> str:
    """For which processor each OpenBLAS computes, and who chose."""
    chooser = "OPENBLAS_CORETYPE" if "OPENBLAS_CORETYPE" in os.environ else "OpenBLAS"
    of_scipy = "scratchdiff, by the processor's features" if corrected_core else chooser
    return (f"NumPy's: {core_of(numpy_library)}, chosen by {chooser}; "
            f"SciPy's, which attention calls: {core_of(scipy_library)}, chosen by {of_scipy}")  # fmt: skip


def keep_blas_to_one_thread() -> None:
    """Tell each OpenBLAS in the process to use one thread. Another BLAS (MKL, Accelerate) is left as it is."""
    for library in (numpy_library, scipy_library):
        if set_num_threads := openblas_function(library, "set_num_threads"):
            set_num_threads(1)
