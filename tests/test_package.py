"""What the package says of itself is said in one place, or the same in each."""

import re
import tomllib
from pathlib import Path

import scratchdiff as sd

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_stands_in_the_package_and_heads_the_changelog():
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "scratchdiff.__version__"}
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == sd.__version__


def test_the_pythons_that_it_requires_are_those_that_it_names():
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["project"]["requires-python"]).groups()
    named = [re.search(r"Python :: 3\.(\d+)$", text) for text in PROJECT["project"]["classifiers"]]
    assert [int(match[1]) for match in named if match] == list(range(int(low), int(high)))


def test_every_extra_that_a_message_tells_users_to_install_exists():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "scratchdiff").rglob("*.py")]
    extras = {name for text in texts for name in re.findall(r"scratchdiff\[(\w+)\]", text)}
    assert extras and extras <= set(PROJECT["project"]["optional-dependencies"])
