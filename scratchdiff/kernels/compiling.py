"""The first call on a machine: where the compiled kernels are kept, and a word to whoever waits.

Numba compiles each kernel when it is first called and keeps the result on disk, in `__pycache__` beside this file or, where
that cannot be written, in the user's cache folder. Where neither can be written, they go to a temporary folder that is
deleted when the process ends.

Numba compiles a function again when its own file has changed, but not when a function that it calls has, in another file. So
after an edit of a shared file, such as products.py, delete `__pycache__`.
"""
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

from numba import config
from numba.core import event
from numba.misc.appdirs import user_cache_dir

FOLDERS = Path(__file__).parent / "__pycache__", Path(user_cache_dir("numba", False))  # where Numba tries, in this order


def choose_cache_folder() -> None:
    """Choose a temporary folder for the compiled kernels, if neither the package's nor the user's can be written."""
    if not config.CACHE_DIR and not any(map(writable, FOLDERS)):
        config.CACHE_DIR = tempfile.mkdtemp(prefix="scratchdiff")
        atexit.register(shutil.rmtree, config.CACHE_DIR, ignore_errors=True)


def cache_folder() -> Path:
    """The folder in which Numba keeps the compiled kernels."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR)
    return FOLDERS[0] if writable(FOLDERS[0]) else FOLDERS[1]


def writable(folder: Path) -> bool:
    """Whether a file can be made there. We find out by making one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class Announce(event.Listener):
    """Says once that Numba compiles a kernel, which happens only while it is not on disk yet."""

    def __init__(self):
        self.said = False

    def on_start(self, compilation):
        """Print the message with the first kernel of ours."""
        if not self.said and compilation.data["dispatcher"].py_func.__module__.startswith("scratchdiff.kernels"):
            print("scratchdiff: compiling the kernels, once (about a minute) ...", file=sys.stderr, flush=True)
            self.said = True

    def on_end(self, compilation):
        """Numba's listeners must have this method; there is nothing to do."""
