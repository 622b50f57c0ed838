"""The order of the chapters: a file imports only from the rooms above it, and importing the package loads little."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scratchdiff

PACKAGE = Path(scratchdiff.__file__).parent
ORDER = ["checks", "kernels", "autograd", "gradcheck", "ops", "nn", "optim", "trace", "page", "recompute", "diffusion",
         "data", "recipes", "train", "checkpoint", "metrics", "weights", "parallel", "progress", "runs", "checkup", "plots",
         "cli", "__main__"]  # fmt: skip
LIBRARIES = {  # beyond NumPy and the standard library
    "kernels": {"numba", "scipy", "llvmlite"},
    "ops": {"scipy"},
    "diffusion": {"scipy"},
    "data": {"matplotlib", "tqdm", "PIL"},
    "metrics": {"scipy"},
    "checkup": {"scipy"},
    "parallel": {"mpi4py"},
    "weights": {"safetensors"},  # an optional extra
    "plots": {"matplotlib", "PIL"},
    "progress": {"tqdm"},
    "cli": {"numba", "scipy"},  # their versions
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
    assert rooms <= set(ORDER[: ORDER.index(here) + 1])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_uses_only_the_libraries_of_its_room(path):
    tops = {name.split(".")[0] for name in imported(path)} - {"scratchdiff", "numpy"} - set(sys.stdlib_module_names)
    assert tops <= LIBRARIES.get(room(path), set())


def test_the_package_prints_every_room_in_its_reading_order():
    listed = re.findall(r"^ *(\w+)(?:\.py|/)", scratchdiff.__doc__, re.MULTILINE)
    assert listed == [name for name in ORDER if name != "__main__"]


def test_the_readme_lists_every_room_in_the_reading_order():
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"\[`(\w+)(?:\.py|/)`\]\(scratchdiff/", readme)
    assert listed == [name for name in ORDER if name != "__main__"]


def test_importing_the_package_brings_in_neither_numba_nor_scipy_nor_matplotlib():
    code = "import sys, scratchdiff; print([m for m in ('numba', 'scipy', 'matplotlib', 'tqdm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_the_package_brings_in_only_its_own_modules_beyond_numpy():
    code = "import sys, numpy.random; before = set(sys.modules); import scratchdiff; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {name.split(".")[0] for name in done.stdout.split()} - {"scratchdiff", "numpy"} - set(sys.stdlib_module_names)
    assert foreign == set()


def test_the_files_of_diffusion_import_only_from_those_listed_before_them():
    order = re.findall(r"^ *(\w+)\.py", scratchdiff.diffusion.__doc__, re.MULTILINE)
    files = {path.stem: path for path in (PACKAGE / "diffusion").glob("*.py") if path.stem != "__init__"}
    assert set(order) == set(files)
    for place, name in enumerate(order):
        uses = {module.split(".")[2] for module in imported(files[name]) if module.startswith("scratchdiff.diffusion.")}
        assert uses <= set(order[:place]), name
