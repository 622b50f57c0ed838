"""Every lesson of the course runs, small, and has the parts that its reader expects."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

DEMOS = Path(__file__).parents[1] / "demos"
LESSONS = sorted((DEMOS / "lessons").glob("[0-9][0-9]_*.py"))


CLAIMS = {  # what the figures of a small run must already show
    "01_chain_rule": lambda f: (
        f["largest difference, by hand and tape"] == 0 and f["largest difference, by hand and nudging"] < 1e-10
    ),
    "02_is_it_right": lambda f: (
        f["largest error of a right backward"] < 1e-7
        and f["smallest error reported for one wrong by 0.1 %"] > 9e-4
        and f["7 times too large, largest difference, honest check"] > 1
        and f["7 times too large, largest difference, error never computed again"] == 0
    ),
    "03_backwards_by_hand": lambda f: max(f.values()) < 1e-10,
    "04_forward_diffusion": lambda f: (
        f["posterior and Bayes' rule: largest relative difference"] < 1e-9
        and f["closed form and recursion: largest difference of the variance"] < 1e-13
    ),
    "05_the_loss": lambda f: (
        f["KL and weighted square: largest relative difference"] < 1e-9
        and f["L_simple, the floor"] < f["L_simple of the network"]
    ),
    "06_recipe": lambda f: (
        f["loss at the start"] == pytest.approx(f["loss at the start, expected"], rel=0.05)
        and f["parameters without a gradient, zeros filled"] == 0 < f["parameters without a gradient at the start"]
    ),
    "19_oracle": lambda f: (
        f["perfect memory: largest distance of a sample to a digit"] < 1e-3
        and f["eight Gaussians: mean floor over times"] < f["eight Gaussians: mean loss over times"]
    ),
    "20_bound": lambda f: (
        f["bits a coordinate: best mean, β_t"]
        < f["bits a coordinate: best mean, β_t, but β̃_2 at t = 1"]
        < f["bits a coordinate: best mean, β̃_t"]
        < f["bits a coordinate: network, β̃_t"]
    ),
    "21_samplers": lambda f: -1.5 < f["order of ddim"] < -0.7 and f["order of heun"] < -1.6 and f["order of dpm"] < -1.6,
    "29_kernels": lambda f: f["largest error of any rung"] < 2e-5,
}


def load(path):
    if str(DEMOS / "lessons") not in sys.path:
        sys.path.insert(0, str(DEMOS / "lessons"))  # for `from lesson import ...`
    spec = importlib.util.spec_from_file_location(f"lesson_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_runs_small_and_leaves_one_picture_and_its_figures(path, tmp_path):
    lesson = load(path)
    if not Path(getattr(lesson, "DATA", ".")).exists():
        pytest.skip(f"{path.stem} needs the files in {lesson.DATA}")
    figures = lesson.main(out=tmp_path, small=True)
    assert figures and all(isinstance(value, float) for value in figures.values())
    assert CLAIMS.get(path.stem, bool)(figures), figures
    assert {row.figure for row in load(DEMOS / "ledger.py").ROWS if row.lesson == path.stem} <= set(figures)
    assert json.loads((tmp_path / "figures.json").read_text())[path.stem] == pytest.approx(figures, nan_ok=True)
    with Image.open(tmp_path / f"{path.stem}.png") as picture:
        assert len(picture.convert("L").getcolors()) > 2


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_opens_with_its_question_says_what_to_expect_and_ends_with_three_exercises(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # " + path.stem[:2])
    head = text.split("# %%")[1]
    assert "?" in head.splitlines()[1] and "Expect" in head and f"python demos/lessons/{path.name}" in head
    assert re.search(r"second|minute", head)
    exercises = text.split("## Exercises")[1]
    assert [number for number in "123" if f"\n# {number}. " in exercises] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["01_chain_rule", "03_backwards_by_hand"])
def test_a_lesson_becomes_a_notebook_that_runs_and_shows_its_picture(name, tmp_path, monkeypatch):
    for library in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(library, reason=f"needs {library}: pip install -e '.[notebook]'")
    import nbclient
    import nbformat

    for file in ("lesson.py", f"{name}.py"):
        shutil.copy(DEMOS / "lessons" / file, tmp_path)
    subprocess.run([sys.executable, "-m", "jupytext", "--to", "notebook", f"{name}.py"], cwd=tmp_path, check=True)
    notebook = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    assert [cell.cell_type for cell in notebook.cells].count("markdown") >= 4
    monkeypatch.delenv("MPLBACKEND", raising=False)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = notebook.cells[-1].outputs
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert any("by hand" in output.get("text", "") for output in shown)


def test_every_row_of_the_ledger_names_a_lesson():
    assert {row.lesson for row in load(DEMOS / "ledger.py").ROWS} <= {path.stem for path in LESSONS}


def test_the_courses_page_holds_the_ledger_of_the_last_runs():
    assert load(DEMOS / "ledger.py").main(show=True) in (DEMOS / "README.md").read_text(encoding="utf-8")
