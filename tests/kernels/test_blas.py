"""Which products OpenBLAS is to use: never ones that the processor lacks, and corrected only where OpenBLAS misjudges."""

import os
import subprocess
import sys

import pytest

from scratchdiff.kernels.blas import better_core, processor_features

SSE = {"sse2", "sse4.2"}
HASWELL = SSE | {"avx", "avx2", "fma"}
SKYLAKE_X = HASWELL | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
ZEN_4 = SKYLAKE_X | {"avx512bf16", "avx512vnni", "clzero"}
ARM = {"neon", "fp-armv8", "sve"}


@pytest.mark.parametrize("processor, features, chosen, wanted", [
    ("Zen 2", HASWELL | {"clzero"}, "Zen", None),
    ("Zen 3", HASWELL | {"clzero", "vaes"}, "Zen", None),
    ("Zen 4", ZEN_4, "Cooperlake", None),
    ("Zen 5, an OpenBLAS that does not know it", ZEN_4, "Haswell", "SkylakeX"),
    ("Zen 5, an OpenBLAS that sees none of its features", ZEN_4, "Prescott", "SkylakeX"),
    ("Zen 5, an OpenBLAS that knows it", ZEN_4, "SkylakeX", None),
    ("Haswell", HASWELL, "Haswell", None),
    ("Haswell taken for older", HASWELL, "Prescott", "Haswell"),
    ("Skylake-X", SKYLAKE_X, "SkylakeX", None),
    ("Sapphire Rapids", ZEN_4 | {"amx-tile"}, "SapphireRapids", None),
    ("an AVX-512 processor without all parts that SkylakeX needs", HASWELL | {"avx512f"}, "Haswell", None),
    ("before AVX2", SSE, "Nehalem", None),
    ("ARM", ARM, "NEOVERSEN1", None),
    ("unknown", set(), "unknown", None),
])  # fmt: skip
def test_the_core_is_corrected_only_where_the_processor_can_do_more(processor, features, chosen, wanted):
    assert better_core(chosen, features) == wanted


def in_a_process(code, **environment):
    """What the code prints in a process whose NumPy has loaded its OpenBLAS for a Haswell, though the user set nothing."""
    begin = "import os, numpy; del os.environ['OPENBLAS_CORETYPE']\n"
    env = os.environ | dict(OPENBLAS_CORETYPE="Haswell") | environment
    return subprocess.run([sys.executable, "-c", begin + code], env=env, capture_output=True, text=True, check=True)


needs_avx512 = pytest.mark.skipif(better_core("Haswell", processor_features()) is None, reason="no AVX-512 here")


@needs_avx512
def test_where_openblas_takes_the_processor_for_a_haswell_attention_gets_the_avx512_products():
    done = in_a_process(
        "from scratchdiff.kernels import blas; print(blas.blas_in_words(), os.environ.get('OPENBLAS_CORETYPE'))"
    )
    assert done.stdout == ("NumPy's: Haswell, chosen by OpenBLAS; SciPy's, which attention calls: SkylakeX, chosen by "
                           "scratchdiff, by the processor's features None\n")  # fmt: skip
    assert done.stderr == ""


@needs_avx512
def test_a_users_choice_stands():
    code = "os.environ['OPENBLAS_CORETYPE'] = 'Haswell'; from scratchdiff.kernels import blas; print(blas.blas_in_words())"
    assert in_a_process(code).stdout.endswith("Haswell, chosen by OPENBLAS_CORETYPE\n")


@needs_avx512
def test_where_scipy_came_first_the_remedy_is_named_once():
    load = "os.environ['OPENBLAS_CORETYPE'] = 'Haswell'; import scipy.linalg; del os.environ['OPENBLAS_CORETYPE']\n"
    done = in_a_process(load + "from scratchdiff.kernels import blas, compiled")
    assert done.stderr.count("set OPENBLAS_CORETYPE=SkylakeX in the environment") == 1
