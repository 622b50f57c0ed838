"""The first call on a machine: a word to whoever waits, and both cores at work.

Numba compiles each kernel when it is first called and keeps the result on disk, in `__pycache__` beside this file or, where
that cannot be written, in the user's cache folder or else a temporary one. Compiling takes half a minute on one core. So
when a convolution is to be compiled, a second process compiles the gradients meanwhile.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numba import config
from numba.core import event

COMMAND = "from scratchdiff.kernels import compiling; compiling.compile_gradients()"
second: subprocess.Popen | None = None  # the process that does so


def keep_compiled_somewhere() -> None:
    """Choose a temporary folder for what is compiled, if neither the package's nor the user's can be written."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not config.CACHE_DIR and not any(map(writable, (Path(__file__).parent / "__pycache__", user / "numba"))):
        config.CACHE_DIR = tempfile.mkdtemp(prefix="scratchdiff")


def writable(folder: Path) -> bool:
    """Whether a file can be made there; found out by making one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class Announce(event.Listener):
    """Told by Numba whenever it compiles, that is when a kernel is not on disk yet."""

    def __init__(self):
        self.said = self.shared = False

    def on_start(self, compilation):
        """Say it once; with the first convolution, start the second process."""
        global second
        module = compilation.data["dispatcher"].py_func.__module__
        if not self.said and module.startswith("scratchdiff.kernels"):
            print("scratchdiff: compiling the kernels, once (about half a minute) ...", file=sys.stderr, flush=True)
            self.said = True
        if not self.shared and module.endswith(("winograd", "im2col")):
            self.shared = True
            try:
                second = subprocess.Popen(
                    [sys.executable, "-c", COMMAND], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            except OSError:  # then they are compiled here, when their time comes
                pass

    def on_end(self, compilation):
        """Nothing: but Numba wants a listener to have it."""


announce = Announce()


def wait_for_gradients() -> None:
    """Return once the second process has ended, if there is one. After five minutes it is given up, and ended."""
    global second
    if second is not None:
        try:
            second.wait(timeout=300)
        except subprocess.TimeoutExpired:
            second.kill()
        second = None


def compile_gradients() -> None:
    """Call what the gradients of a U-Net in float32 need. This is what the second process does."""
    announce.said = announce.shared = True
    from scratchdiff.kernels import fast

    def ones(*shape):
        return np.ones(shape, np.float32)

    image, pads = ones(2, 8, 8, 4), ((1, 1), (1, 1))
    fast.conv2d_dw(image, image, (3, 3, 4, 4), 1, pads)
    fast.conv2d_dw(image, ones(2, 4, 4, 4), (3, 3, 4, 4), 2, pads)
    rows, mean = ones(2, 8, 4), ones(2, 2)
    fast.group_norm_backward(rows, rows, mean, mean, ones(4), ones(4), 2, True)
    fast.attention_backward(rows, rows, rows, rows, ones(2, 8, 8))
    for n in (4, 1024):
        fast.linear_backward(ones(n, 32), ones(n, 64), ones(64, 32), True)
        fast.adam(*ones(4, n**2), 0.9, 0.999, 1e-3, 1.0, 1e-8)
