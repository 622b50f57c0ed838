"""What happens on the first call on a machine."""

import os
import subprocess
import sys

import pytest

from scratchdiff.kernels import compiling

CALL = "import numpy as np; from scratchdiff import kernels; print(kernels.join([np.ones((1, 2)), np.ones((1, 1))]))"


def run(**environment):
    result = subprocess.run(
        [sys.executable, "-c", CALL], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[[1. 1. 1.]]\n"
    return result.stderr


def test_compiling_is_announced_in_one_line_and_happens_once(tmp_path):
    first, second = (run(NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first == "scratchdiff: compiling the kernels, once (about half a minute) ...\n"
    assert second == ""


@pytest.mark.parametrize("can_write, chosen", ((True, ""), (False, "scratchdiff")))
def test_what_is_compiled_goes_to_a_temporary_folder_only_where_no_other_can_be_written(monkeypatch, can_write, chosen):
    monkeypatch.setattr(compiling.config, "CACHE_DIR", "")
    monkeypatch.setattr(compiling, "writable", lambda folder: can_write)
    compiling.keep_compiled_somewhere()
    assert os.path.basename(compiling.config.CACHE_DIR).startswith(chosen)
    assert bool(compiling.config.CACHE_DIR) == bool(chosen)


def test_a_folder_that_cannot_be_made_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert compiling.writable(tmp_path / "new")
    assert not compiling.writable(tmp_path / "file" / "folder")


STEP = """
import numpy as np, scratchdiff as sd
from scratchdiff.kernels import compiling, dense, fast, im2col, norm, scores, winograd

def compiled():
    return {(m.__name__, name, s) for m in (dense, im2col, norm, scores, winograd) for name, f in vars(m).items()
            for s in getattr(f, "signatures", ())}

compiling.compile_gradients()
rng = np.random.default_rng(0)
net = sd.UNet(16, 4, 4, 8, (1, 2), 1, (8,), groups=4, rng=rng)
with sd.Tape() as tape:
    loss = sd.GaussianDiffusion(sd.linear_schedule()).loss(net, rng.standard_normal((4, 16, 16, 4), np.float32), rng)
before = compiled()
tape.backward(loss)
sd.Adam(net.parameters()).step()
print(len(before) > 8, sorted(name for _, name, _ in compiled() - before))
"""


def test_the_second_process_compiles_every_gradient_that_a_training_step_needs():
    result = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    assert result.stdout == "True []\n"
