"""Every demo runs, small, and writes what its head says it writes."""

import importlib.util
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scratchdiff import cli, recipes
from scratchdiff.checkpoint import load_checkpoint
from scratchdiff.data import mnist

DEMOS = Path(__file__).parents[1] / "demos"


def load(name):
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMOS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_demo_has_a_test_here_and_states_its_command_and_its_time():
    names = "mnist toy2d classifier ledger"
    assert {p.stem for p in DEMOS.glob("*.py")} == set(names.split())
    for path in DEMOS.glob("*.py"):
        head = path.read_text(encoding="utf-8").split('"""')[1]
        assert f"python demos/{path.name}" in head and "minute" in head


def pictures_are_whole(folder):
    for path in [*folder.glob("*.png"), *folder.glob("*.gif")]:
        with Image.open(path) as picture:
            assert len(picture.convert("L").getcolors()) > 2, path.name


def test_the_mnist_demo_writes_samples_pictures_and_a_model(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.MNIST, "batch_size", 8)
    x = load("mnist").main(minutes=0.02, samples=5, steps=4, out=tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "samples.npy", "samples.png", "forward.png", "reverse.png", "denoising.gif", "loss.png", "model.npz"}  # fmt: skip
    saved = np.load(tmp_path / "run" / "samples.npy")
    assert np.array_equal(saved, x) and saved.shape == (5, 28, 28, 1) and saved.dtype == np.float32
    assert np.abs(saved).max() <= 1
    pictures_are_whole(tmp_path / "run")


def test_the_mnist_demo_stopped_by_ctrl_c_keeps_the_model(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.MNIST, "batch_size", 8)
    demo = load("mnist")
    watch = demo.watch_training

    def interrupted(steps):
        for step in watch(steps):
            if step.step == 2:
                signal.raise_signal(signal.SIGINT)
            yield step

    monkeypatch.setattr(demo, "watch_training", interrupted)
    with pytest.raises(SystemExit) as stopped:
        demo.main(minutes=9, out=tmp_path / "run")
    assert stopped.value.code == 130 and load_checkpoint(tmp_path / "run" / "model.npz")[0]["step"] == 2


def test_the_unconditional_mnist_demo_never_sees_a_label(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.UNCONDITIONAL, "batch_size", 8)
    demo, (digits, labels) = load("mnist"), mnist()
    saved = []
    for shown in (labels[:1000], None):
        monkeypatch.setattr(demo.sd.data, "mnist", lambda split, root, labels=shown: (digits[:1000], labels))
        x = demo.main(minutes=0.01, samples=3, steps=2, out=tmp_path / f"{shown is None}", unconditional=True)
        assert x.shape == (3, 28, 28, 1) and np.isfinite(x).all()
        saved.append(load_checkpoint(tmp_path / f"{shown is None}" / "model.npz")[0]["settings"])
    assert saved[0] == saved[1] and len(saved[0]["shares"]) == 64


@pytest.mark.parametrize("data", ["swiss_roll", "text:AB"])
def test_the_toy_demo_writes_points_and_pictures(tmp_path, data):
    x = load("toy2d").main(data=data, seconds=0.5, out=tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "samples.npy", "forward.png", "reverse.gif", "field.png", "loss.png", "floor.png", "model.npz"}  # fmt: skip
    assert np.array_equal(np.load(tmp_path / "run" / "samples.npy"), x) and x.shape == (2000, 2)
    assert cli.main(["sample", str(tmp_path / "run"), "-n", "5", "--out", str(tmp_path / "more")]) == 0
    assert np.load(tmp_path / "more" / "samples.npy").shape == (5, 2)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--bound", "5", "--draws", "3"]) == 0
    pictures_are_whole(tmp_path / "run")


def test_the_classifier_demo_trains_saves_and_counts(tmp_path):
    from scratchdiff.data.embed import write_idx

    rng = np.random.default_rng(0)
    for prefix, n in (("train", 20), ("t10k", 10)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(n, dtype=np.uint8) % 10)
    accuracy = load("classifier").main(["--data", str(tmp_path), "--epochs", "8", "--out", str(tmp_path / "out")])
    assert 0 <= accuracy <= 1
    with np.load(tmp_path / "out" / "classifier.npz") as arrays:
        assert all(arrays[key].dtype == np.float16 for key in arrays.files)
