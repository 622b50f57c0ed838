"""The weights in the package make digits of the class that one asks for."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.cli import main
from scratchdiff.metrics import classify
from scratchdiff.weights.pretrained import FOLDER, load_pretrained, save_pretrained


def test_the_file_is_below_two_megabytes_and_the_model_is_one_of_digits():
    assert (FOLDER / "mnist.npz").stat().st_size < 2_000_000
    model, diffusion = sd.pretrained("mnist")
    assert model.num_classes == 10 and diffusion.images and diffusion.schedule.T == 1000


def test_it_draws_the_digits_that_it_is_asked_for():
    model, diffusion = sd.pretrained()
    labels = np.arange(20) % 10
    x = sd.sample_ddim(diffusion, sd.guided(model, labels, 0.5), (20, 28, 28, 1), np.random.default_rng(0), steps=10)
    _, probabilities = classify(np.clip(x, -1, 1))
    assert (probabilities.argmax(1) == labels).mean() >= 0.9


def test_eight_sevens_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "mnist", "--label", "7", "-n", "8", "--steps", "10", "--out", "sevens"]) == 0
    _, probabilities = classify(np.load("sevens/samples.npy"))
    assert (probabilities.argmax(1) == 7).sum() >= 7


def test_what_is_saved_from_a_run_is_loaded_again_within_the_rounding_of_float16(tmp_path, monkeypatch):
    monkeypatch.setattr("scratchdiff.weights.pretrained.FOLDER", tmp_path)
    assert main(["train", "mnist", "--out", str(tmp_path / "run"), "--steps", "1", "--batch-size", "2"]) == 0
    save_pretrained(tmp_path / "run", tmp_path / "mnist.npz")
    model, _, settings = load_pretrained("mnist")
    with np.load(tmp_path / "run" / "model.npz") as run:
        for name, p in model.parameters().items():
            np.testing.assert_allclose(p.data, run[f"ema/{name}"], rtol=1e-3, atol=1e-6)
    assert settings["steps"] == 1


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="the package carries mnist, got 'cats'"):
        sd.pretrained("cats")
