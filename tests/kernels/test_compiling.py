"""What happens on the first call on a machine."""

import os
import subprocess
import sys

import pytest

from scratchdiff.kernels import compiling

CALL = "import numpy as np, scratchdiff as sd; print(sd.ops.linear(np.ones((1, 2)), np.ones((2, 1))).data)"


def run(**environment):
    result = subprocess.run(
        [sys.executable, "-c", CALL], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[[2.]]\n"
    return result.stderr


def test_compiling_is_announced_in_one_line_and_happens_once(tmp_path):
    first, second = (run(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first == "scratchdiff: compiling the kernels, once (about a minute) ...\n"
    assert second == ""


def test_the_temporary_folder_is_deleted_when_the_process_ends(tmp_path):
    """The user's and the package's folder cannot be written: `writable` is made to say so."""
    code = f"from scratchdiff.kernels import compiling; compiling.writable = lambda folder: False; {CALL}"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | dict(
        TMPDIR=str(tmp_path)
    )
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "[[2.]]\n" and "compiling" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", ["threads", "products"])
def test_the_temporary_folder_is_chosen_whichever_kernels_are_imported_first(room, tmp_path):
    code = "from scratchdiff.kernels import compiling; compiling.writable = lambda folder: False; " \
           f"import scratchdiff.kernels.{room}; print(compiling.cache_folder())"  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | dict(
        TMPDIR=str(tmp_path)
    )
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{tmp_path}/scratchdiff")


@pytest.mark.parametrize("can_write, chosen", ((True, ""), (False, "scratchdiff")))
def test_what_is_compiled_goes_to_a_temporary_folder_only_where_no_other_can_be_written(monkeypatch, can_write, chosen):
    monkeypatch.setattr(compiling.config, "CACHE_DIR", "")
    monkeypatch.setattr(compiling, "writable", lambda folder: can_write)
    compiling.choose_cache_folder()
    assert os.path.basename(compiling.config.CACHE_DIR).startswith(chosen)
    assert bool(compiling.config.CACHE_DIR) == bool(chosen)


def test_a_folder_that_cannot_be_made_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert compiling.writable(tmp_path / "new")
    assert not compiling.writable(tmp_path / "file" / "folder")
