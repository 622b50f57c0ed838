"""Each bug of lesson 09's zoo is found in the right place; the right program has none."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

LESSONS = Path(__file__).parents[2] / "demos" / "lessons"
sys.path.insert(0, str(LESSONS))  # for `from lesson import ...`
LESSON = SimpleNamespace(**runpy.run_path(str(LESSONS / "09_bug_zoo.py")))


@pytest.mark.parametrize("seed", [100, 101, 102])
def test_nothing_is_found_in_the_right_program(seed):
    found = LESSON.examine(LESSON.Right, seed)
    assert found == [] and found.skipped == {}, found


@pytest.mark.parametrize("bug", LESSON.ZOO, ids=lambda bug: bug.__name__)
def test_a_bug_is_found_in_the_right_place(bug):
    found = LESSON.examine(bug, 100)
    assert any(f.place in bug.places for f in found), found
    assert all(f.expected and f.seen and f.look for f in found)


def test_the_zoo_has_twenty_bugs_and_more_each_with_its_name_and_source():
    assert len(LESSON.ZOO) > 20
    assert all(bug.__doc__ and bug.source and bug.places for bug in LESSON.ZOO)
