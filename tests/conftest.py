"""What all tests share: a generator with a fixed seed; and for the processes that pytest-xdist starts, one thread each and
kernels that are compiled already."""

import os
import subprocess
import sys

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes with two threads each would fight over two cores
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


COMPILE = """
import numpy as np, scratchdiff as sd
rng, dtype = np.random.default_rng(0), np.dtype("{}")
net = sd.UNet(16, 1, 1, ch=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,), groups=4, dtype=dtype, rng=rng)
adam, x0 = sd.Adam(net.parameters(), lr=1e-3), rng.standard_normal((8, 16, 16, 1)).astype(dtype)
with sd.Tape() as tape:
    loss = sd.GaussianDiffusion(sd.linear_schedule()).loss(net, x0, rng)
tape.backward(loss)
adam.step()
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes():
    """Compile the kernels before the processes start, a dtype in each of two. Else each process would compile them all."""
    env = os.environ | dict(NUMBA_NUM_THREADS="1")
    compilers = [subprocess.Popen([sys.executable, "-c", COMPILE.format(dtype)], env=env, stderr=subprocess.DEVNULL)
                 for dtype in ("float32", "float64")]  # fmt: skip
    for process in compilers:
        process.wait()
