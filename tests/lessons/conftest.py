"""What the tests of the lessons share: `lesson("13_vae")` is that lesson's module, without running it."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "demos" / "lessons"))


@pytest.fixture(scope="session")
def lesson():
    return importlib.import_module
