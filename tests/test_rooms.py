"""The order of the chapters: a file imports only from the rooms above it, and importing the package stays quick."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import scratchdiff

PACKAGE = Path(scratchdiff.__file__).parent
ALL = {"autograd", "gradcheck", "kernels", "ops", "nn", "optim", "diffusion", "data", "recipes", "train", "checkpoint",
       "metrics"}  # fmt: skip
MAY_IMPORT = {
    "autograd": set(),
    "gradcheck": {"autograd"},
    "kernels": set(),
    "ops": {"autograd", "kernels"},
    "nn": {"autograd", "ops"},
    "optim": {"autograd", "kernels"},
    "diffusion": {"autograd", "ops", "nn"},
    "data": set(),
    "recipes": ALL,
    "train": ALL,
    "checkpoint": ALL,
    "metrics": ALL,
    "plots": ALL,
    "progress": ALL,
    "runs": ALL | {"progress"},
    "cli": ALL | {"plots", "progress", "runs"},
    "__main__": {"cli"},
}
LIBRARIES = {  # beyond NumPy and the standard library
    "kernels": {"numba", "scipy"},
    "ops": {"scipy"},
    "diffusion": {"scipy"},
    "data": {"matplotlib", "tqdm"},
    "metrics": {"scipy"},
    "plots": {"matplotlib", "PIL"},
    "progress": {"tqdm"},
}
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """The dotted modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out in full"
            if node.module == "scratchdiff":
                yield from (f"scratchdiff.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_room_and_the_rooms_above(path):
    here = room(path)
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("scratchdiff.")}
    assert rooms <= MAY_IMPORT[here] | {here}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_uses_only_the_libraries_of_its_room(path):
    tops = {name.split(".")[0] for name in imported(path)} - {"scratchdiff", "numpy"} - set(sys.stdlib_module_names)
    assert tops <= LIBRARIES.get(room(path), set())


def test_the_package_prints_every_room_in_its_reading_order():
    for name in MAY_IMPORT:
        if name != "__main__":
            assert f"{name}.py" in scratchdiff.__doc__ or f"{name}/" in scratchdiff.__doc__, name


def test_importing_the_package_brings_in_neither_numba_nor_scipy_nor_matplotlib():
    code = "import sys, scratchdiff; print([m for m in ('numba', 'scipy', 'matplotlib', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_the_package_takes_little_longer_than_numpy():
    def seconds(module):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env=os.environ)
        return time.perf_counter() - began

    seconds("scratchdiff")  # once to write the byte code
    extra = min(seconds("scratchdiff") for _ in range(3)) - min(seconds("numpy") for _ in range(3))
    assert extra < 0.13  # NumPy itself takes 0.07 s: 0.2 s in all
