"""Which products NumPy's OpenBLAS should use: never ones that the processor lacks, and others only where it misjudges."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scratchdiff import kernels
from scratchdiff.kernels.blas import better_core, chosen_core, processor_features

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
def test_another_core_is_named_only_where_the_processor_can_do_more(processor, features, chosen, wanted):
    assert better_core(chosen, features) == wanted


@pytest.mark.skipif(chosen_core() is None, reason="NumPy has no OpenBLAS here")
@pytest.mark.skipif(better_core("Nehalem", processor_features()) is None, reason="this processor has no AVX2")
@pytest.mark.parametrize("by_user", (True, False))
def test_info_names_the_products_that_numpy_has_and_the_remedy_unless_the_user_chose(by_user):
    forget = "" if by_user else "del os.environ['OPENBLAS_CORETYPE']; "
    code = f"import os, numpy; {forget}from scratchdiff.kernels.blas import blas_in_words; print(blas_in_words())"
    env = os.environ | dict(OPENBLAS_CORETYPE="Nehalem")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    chooser = "OPENBLAS_CORETYPE" if by_user else "OpenBLAS"
    assert done.stdout.startswith(f"NumPy's: Nehalem, chosen by {chooser}") and done.stderr == ""
    remedy = f"set OPENBLAS_CORETYPE={better_core('Nehalem', processor_features())} in the environment"
    assert (remedy in done.stdout) == (not by_user)


BY_BLAS = {"dot", "vdot", "inner", "matmul", "tensordot", "einsum", "linalg"}


@pytest.mark.parametrize("file", sorted(Path(kernels.__file__).parent.glob("*.py")), ids=lambda file: file.name)
def test_no_compiled_function_calls_a_blas(file):
    functions = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        if any("njit" in ast.unparse(decorator) for decorator in function.decorator_list):
            inside = list(ast.walk(function))
            assert not any(isinstance(node, ast.MatMult) for node in inside), function.name
            assert not BY_BLAS & {node.attr for node in inside if isinstance(node, ast.Attribute)}, function.name
