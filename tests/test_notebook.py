"""In a notebook the README's program runs, and what has a picture shows it. (`test_lessons.py` has lessons as notebooks.)"""

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]


def run(cells, folder):
    """The outputs of each code cell of a notebook that runs in a folder."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return [cell.outputs for cell in notebook.cells]


def pictures(outputs):
    return [
        Image.open(io.BytesIO(base64.b64decode(o.data["image/png"]))) for o in outputs if "image/png" in o.get("data", {})
    ]


def test_the_program_of_the_readme_runs_in_a_notebook_and_what_it_made_prints_and_draws_itself(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    bound = "diffusion.bound(model, points[:20], rng, draws=50)"
    shown = run(
        [program, "diffusion.schedule", bound, 'sd.plots.save_clouds(None, [x], ["again"])', "model", "diffusion"], tmp_path
    )
    assert [len(pictures(outputs)) for outputs in shown[1:4]] == [1, 1, 1]
    assert all(len(picture.convert("L").getcolors()) > 2 for outputs in shown[1:4] for picture in pictures(outputs))
    text = [outputs[0].data["text/plain"] for outputs in shown[1:]]
    assert text[0] == "Schedule(T = 1000, beta 0.0001 to 0.02, alpha_bar[T] 4e-05)"
    assert re.fullmatch(r"Bound\(\S+ ± \S+ bits/dim = L_0 \S+ \+ L_1..L_T-1 \S+ \+ L_T \S+; N = 20\)", text[1])
    assert text[3] == "MLP(182,274 parameters: temb 33,024, dense_in 384, blocks 148,608, dense_out 258)"
    assert text[4].startswith("GaussianDiffusion(Schedule(T = 1000") and "predict='eps'" in text[4]
