"""What all tests share: a generator with a fixed seed, and one thread for each process that pytest-xdist starts."""

import os

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes with two threads each would fight over two cores
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
