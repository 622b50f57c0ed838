"""The README's program runs as it stands there, and samples what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

import scratchdiff as sd

README = Path(__file__).parents[1] / "README.md"


def test_the_program_in_the_readme_trains_and_samples_moons(tmp_path, monkeypatch):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    x, moons = names["x"], sd.data.toy("moons", 5000, np.random.default_rng(1))
    to_moons = np.linalg.norm(x[:, None] - moons, axis=2).min(1)
    noise = np.random.default_rng(2).standard_normal((1000, 2))
    of_noise = np.linalg.norm(noise[:, None] - moons, axis=2).min(1)
    assert x.shape == (1000, 2) and (tmp_path / "moons.png").stat().st_size > 1000
    assert np.mean(to_moons) < 0.3 * np.mean(of_noise)


@pytest.mark.parametrize("readme", [README, README.parent / "demos" / "README.md"], ids=["README", "the course"])
def test_every_file_that_it_links_to_exists(readme):
    for path in re.findall(r"\]\(([^)#:]+)\)", readme.read_text(encoding="utf-8")):
        assert (readme.parent / path).exists(), path
