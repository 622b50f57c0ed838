"""The command line does what its help says, and each mistake of a user ends in one line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scratchdiff import recipes
from scratchdiff.checkpoint import load_checkpoint
from scratchdiff.cli import main
from scratchdiff.data import mnist
from scratchdiff.diffusion import SAMPLERS, guided
from scratchdiff.page import save_page
from scratchdiff.runs import at_step

TINY_UNET = dict(ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), groups=4, patch_size=2)


@pytest.fixture(scope="module")
def small_recipes():
    """Networks that train in a moment."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for recipe in (recipes.MNIST, recipes.UNCONDITIONAL):
            monkeypatch.setitem(recipe, "network_args", recipe["network_args"] | TINY_UNET)
            monkeypatch.setitem(recipe, "batch_size", 8)
        yield


@pytest.fixture(scope="module")
def trained(small_recipes, tmp_path_factory):
    """A run of four steps on digits, trained once."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "mnist", "--out", str(run), "--steps", "4"]) == 0
    return run


@pytest.fixture(autouse=True)
def empty_folder(small_recipes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mnist_run(trained, empty_folder):
    """A copy of that run."""
    shutil.copytree(trained, "run")
    return "run"


def test_train_sample_and_evaluate_on_mnist(mnist_run, capsys, tmp_path):
    assert main(["sample", mnist_run, "-n", "5", "--steps", "3"]) == 0
    x = np.load("run/samples.npy")
    assert x.shape == (5, 28, 28, 1) and x.dtype == np.float32 and np.abs(x).max() <= 1
    assert {p.name for p in (tmp_path / "run").iterdir()} == {".lock", "model.npz", "loss.png", "samples.npy", "samples.png"}
    assert main(["evaluate", mnist_run, "-n", "6", "--steps", "2", "--bound", "3", "--draws", "2"]) == 0
    assert main(["evaluate", "run/samples.npy"]) == 0
    assert capsys.readouterr().out.count("Fréchet distance") == 2
    assert (tmp_path / "run" / "bound.png").exists()


def test_checkup_finds_nothing_in_a_run_of_points_and_says_what_it_could_not_do(capsys):
    assert main(["train", "toy:moons", "--out", "moons", "--steps", "300", "--channels", "16"]) == 0
    assert main(["checkup", "moons"]) == 0
    out = capsys.readouterr().out
    assert "0 findings; 28 checks passed" in out and "it needs gradient_checker: checker_can_fail" in out


def test_checkup_of_a_run_that_cannot_learn_says_so_and_exits_with_1(capsys):
    assert main(["train", "toy:moons", "--out", "moons", "--steps", "30", "--channels", "8", "--lr", "1e-9"]) == 0
    assert main(["checkup", "moons"]) == 1
    out = capsys.readouterr().out
    assert "✗ losses: the loss is stuck" in out and "✗ train_step: it cannot learn one batch by heart" in out


def bits(text):
    """(bits/dim, its parts L_0, the middle, L_T) as `evaluate` printed them."""
    found = re.search(r"([-\d.]+) ± [\d.]+ bits/dim.* = L_0 ([-\d.]+) \+ L_1..L_T-1 ([\d.]+) \+ L_T (\S+)", text)
    return [float(group) for group in found.groups()]


def test_evaluate_prints_the_bound_with_and_without_the_labels(mnist_run, capsys):
    told = ["evaluate", mnist_run, "-n", "0", "--bound", "4", "--draws", "5"]
    assert main(told) == 0
    text = capsys.readouterr().out
    total, *parts = bits(text)
    assert "4 training digits" in text and "given the class" in text and "Fréchet" not in text
    assert total == pytest.approx(sum(parts), abs=2e-3)
    assert f"at most {total + np.log2(10) / 784:.2f}" in text
    assert main([*told, "--hide-labels"]) == 0
    assert "given" not in capsys.readouterr().out


def test_a_learned_variance_trains_samples_and_costs_what_evaluate_says(capsys):
    assert main(["train", "toy:moons", "--steps", "3", "--variance", "learned"]) == 0
    assert main(["sample", "runs/toy_moons", "-n", "7", "--steps", "5"]) == 0
    assert main(["evaluate", "runs/toy_moons", "--bound", "20", "--draws", "30"]) == 0
    total, *parts = bits(capsys.readouterr().out)
    assert total == pytest.approx(sum(parts), abs=2e-3)
    assert main(["train", "mnist", "--out", "learned", "--steps", "2", "--variance", "learned"]) == 0
    assert main(["sample", "learned", "-n", "2", "--steps", "2"]) == 0


def test_training_on_points_and_sampling_them_with_ddpm():
    assert main(["train", "toy:moons", "--steps", "3"]) == 0
    assert main(["sample", "runs/toy_moons", "-n", "7", "--sampler", "ddpm"]) == 0
    assert np.load("runs/toy_moons/samples.npy").shape == (7, 2)


@pytest.mark.parametrize("sampler", ["pc", "heun", "heun-churn", "dpm", "ode"])
def test_every_sampler_is_reached_by_its_name_with_guidance_and_without(sampler, mnist_run, capsys):
    steps = ["--steps", "2"] if sampler != "ode" else []
    assert main(["sample", mnist_run, "-n", "2", "--sampler", sampler, *steps]) == 0
    assert main(["evaluate", mnist_run, "-n", "2", "--sampler", sampler, *steps, "--guidance", "0", "--bound", "0"]) == 0
    assert "2 samples: Fréchet" in capsys.readouterr().out


def test_a_number_of_steps_is_refused_for_the_sampler_that_chooses_its_own(mnist_run, capsys):
    assert main(["sample", mnist_run, "-n", "2", "--sampler", "ode", "--steps", "2"]) == 2
    assert "ode chooses its own steps" in capsys.readouterr().err


def test_the_help_says_what_each_sampler_is_for(capsys):
    for command in ("sample", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert all(f"{name:<12}{sampler.what}" in text for name, sampler in SAMPLERS.items())


def test_evaluate_prints_the_exact_likelihood_of_points_and_of_digits(mnist_run, capsys):
    assert main(["train", "toy:moons", "--steps", "3"]) == 0
    assert main(["evaluate", "runs/toy_moons", "--bound", "0", "--ode", "5"]) == 0
    points = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"5 new points of toy:moons, by the ODE: -\d+\.\d+ ± \d\.\d+ nats, log p\(x\)", points)
    assert main(["evaluate", mnist_run, "-n", "0", "--bound", "0", "--ode", "1"]) == 0
    assert "1 training digits, by the ODE" in capsys.readouterr().out


def test_training_on_an_npy_of_coloured_images(rng):
    np.save("tiles.npy", rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    assert main(["train", "tiles.npy", "--steps", "2"]) == 0
    assert main(["sample", "runs/tiles", "-n", "2", "--steps", "2"]) == 0
    assert np.load("runs/tiles/samples.npy").shape == (2, 8, 8, 3)


def test_a_resumed_run_ends_as_the_one_that_never_stopped(monkeypatch):
    assert main(["train", "mnist", "--out", "whole", "--steps", "6"]) == 0

    import scratchdiff.progress

    def interrupted(steps, description=""):
        for step in steps:
            yield step
            if step.step == 4:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scratchdiff.progress, "watch_training", interrupted)
        assert main(["train", "mnist", "--out", "parts", "--steps", "6", "--save-every", "3"]) == 130
    assert main(["train", "mnist", "--out", "parts", "--steps", "6", "--resume"]) == 0
    with np.load("whole/model.npz") as whole, np.load("parts/model.npz") as parts:
        assert whole.files == parts.files
        assert all(np.array_equal(whole[key], parts[key]) for key in whole.files if key != "meta")  # it has the time


def test_gradcheck_prints_a_row_for_every_example_and_all_are_right(capsys):
    from scratchdiff.ops.examples import EXAMPLES

    assert main(["gradcheck"]) == 0
    rows = re.findall(r"^(\w+) +[\d× ]+? +(\d\.\de-\d+) +\d+$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in rows] == [example.name for example in EXAMPLES]
    assert all(float(error) < 1e-7 for _, error in rows)


def test_gradcheck_of_one_parameter_finds_a_step_size_at_which_both_agree(capsys):
    assert main(["gradcheck", "--param", "down.0.conv1.w[0,0,3,2]"]) == 0
    errors = [float(e) for e in re.findall(r"^ +1e-\d\d +\S+ +(\S+)", capsys.readouterr().out, re.MULTILINE)]
    assert len(errors) == 10 and min(errors) < 1e-6
    assert errors[0] > min(errors) < errors[-1]


@pytest.mark.parametrize("argv, message", [
    (["train", "nothing"], "data must be mnist, fashion, toy:NAME, an .npy file or a folder of pictures, got 'nothing'"),
    (["train", "toy:nothing"], "unknown set 'nothing'"),
    (["train", "gone.npy"], "gone.npy"),
    (["train", "text.npy"], "text.npy is not an .npy file"),
    (["train", "flat.npy"], r"flat.npy: needs images of shape .* got \(4, 4\)"),
    (["train", "odd.npy"], "size must be even, got 7"),
    (["train", "wide.npy"], "images must be square, got 4 × 6"),
    (["train", "loud.npy"], r"loud.npy: images must be uint8 or floats in \[-1, 1\]"),
    (["train", "mnist", "--data-dir", "nowhere"], "nowhere"),
    (["train", "mnist", "--out", "run"], "run/model.npz exists; give --resume"),
    (["train", "mnist", "--out", "run", "--resume", "--steps", "9"], "was begun with steps 4, and this is steps 9"),
    (["train", "mnist", "--out", "run", "--resume", "--steps", "4", "--variance", "fixed_large"],
     "begun with variance fixed_small, and"),
    (["train", "mnist", "--out", "run", "--resume", "--steps", "4", "--variance", "learned"],
     "begun with .*variance fixed_small"),
    (["train", "mnist", "--out", "none", "--resume"], "none/model.npz"),
    (["sample", "none"], "none/model.npz"),
    (["sample", "run", "--steps", "2000"], "steps must lie in 1..1000, got 2000"),
    (["sample", "run", "--eta", "2"], "eta must lie in"),
    (["sample", "run", "--sampler", "dpm", "--eta", "1"], "eta belongs to ddim, not to dpm"),
    (["evaluate", "flat.npy"], "flat.npy: needs images"),
    (["evaluate", "run", "-n", "0", "--data-dir", "nowhere"], "nowhere"),
    (["gradcheck", "--param", "down.9.w[0]"], "no parameter 'down.9.w'"),
    (["gradcheck", "--param", "down.0.conv1.w[0,0]"], r"has shape \(3, 3, 32, 32\); give one index per axis"),
    (["gradcheck", "--param", "down.0.conv1.w[0,0,3,32]"], r"has shape \(3, 3, 32, 32\)"),
])  # fmt: skip
def test_a_mistake_ends_in_one_line_that_names_it(argv, message, mnist_run, capsys, tmp_path):
    (tmp_path / "text.npy").write_text("hello")
    for name, shape in (("flat", (4, 4)), ("odd", (3, 7, 7, 1)), ("wide", (2, 4, 6, 1)), ("loud", (2, 4, 4, 1))):
        np.save(f"{name}.npy", np.full(shape, 3.0 if name == "loud" else 0.5))
    capsys.readouterr()
    assert main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0]) and lines[0].startswith("scratchdiff: ")


def test_the_module_runs_as_a_program_and_refuses_unknown_commands():
    done = subprocess.run([sys.executable, "-m", "scratchdiff", "fly"], capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice: 'fly'" in done.stderr and "Traceback" not in done.stderr
    assert subprocess.run([sys.executable, "-m", "scratchdiff", "--help"], capture_output=True).returncode == 0


def test_sampling_one_class_draws_only_it_into_the_folder_named(mnist_run, tmp_path, capsys):
    assert main(["sample", mnist_run, "--label", "7", "-n", "3", "--steps", "2", "--out", "sevens"]) == 0
    assert np.load("sevens/samples.npy").shape == (3, 28, 28, 1) and not (tmp_path / "run" / "samples.npy").exists()
    assert main(["sample", mnist_run, "--label", "10"]) == 2
    assert "label must be one of the model's 10 classes, got 10" in capsys.readouterr().err


def test_an_unconditional_run_draws_groups_by_their_shares_and_its_steps_can_be_repeated(capsys, monkeypatch):
    digits, labels = (a[:1000] for a in mnist())
    monkeypatch.setattr("scratchdiff.runs.mnist", lambda split, folder: (digits, labels))
    assert main(["train", "mnist", "--unconditional", "--steps", "3"]) == 0
    run, drawn = "runs/mnist_unconditional", []
    meta = load_checkpoint(Path(run) / "model.npz")[0]
    moment = at_step(run, 2)
    assert moment.loss(moment.model, moment.x0, moment.rng, labels=moment.labels).item() == meta["losses"][1]

    def watched(model, labels, weight):
        drawn.extend(labels)
        return guided(model, labels, weight)

    monkeypatch.setattr("scratchdiff.runs.guided", watched)
    assert main(["sample", run, "-n", "1000", "--steps", "1"]) == 0
    drawn, shares = np.bincount(drawn, minlength=64) / 1000, np.array(meta["settings"]["shares"])
    assert np.abs(drawn - shares).max() < 4 * np.sqrt(shares.max() / 1000)
    assert np.corrcoef(drawn, shares)[0, 1] > 0.5  # of groups drawn in turn it is 0
    assert main(["evaluate", run, "-n", "0", "--bound", "2", "--draws", "2"]) == 0
    assert "given the class" not in capsys.readouterr().out
    assert main(["sample", run, "--label", "7"]) == 2 and main(["train", "toy:moons", "--unconditional"]) == 2
    errors = capsys.readouterr().err
    assert "the run has no classes, so it takes no label, got 7" in errors
    assert "only mnist and fashion have labels, which --unconditional hides, got 'toy:moons'" in errors


def test_the_options_of_train_change_the_recipe_and_a_run_remembers_them():
    options = ["--lr", "0.001", "--batch-size", "4", "--schedule", "linear", "--predict", "eps", "--loss", "min-snr",
               "--channels", "16", "--ema", "0.9", "--label-dropout", "0.3", "--accumulate", "2"]  # fmt: skip
    assert main(["train", "mnist", "--out", "other", "--steps", "2", *options]) == 0
    settings = load_checkpoint(Path("other/model.npz"))[0]["settings"]
    assert settings["network_args"]["ch"] == 16
    want = dict(lr=0.001, batch_size=4, schedule="linear", predict="eps", loss="min-snr", ema=0.9, label_dropout=0.3)
    assert {key: settings[key] for key in want} == want and settings["accumulate"] == 2
    assert main(["train", "toy:moons", "--steps", "2", "--loss", "vlb", "--variance", "learned"]) == 0


def test_huber_and_flips_are_options_of_train_and_points_cannot_be_flipped(capsys):
    assert main(["train", "mnist", "--out", "flipped", "--steps", "2", "--loss", "huber", "--flip", "--channels", "8"]) == 0
    settings = load_checkpoint(Path("flipped/model.npz"))[0]["settings"]
    assert settings["loss"] == "huber" and settings["flip"] is True
    assert main(["train", "toy:moons", "--steps", "2", "--flip"]) == 2
    assert "random_flips: needs images (N, H, W, C)" in capsys.readouterr().err


def test_clothes_need_a_folder_and_are_judged_by_their_own_classifier(tmp_path, rng, capsys):
    assert main(["train", "fashion", "--steps", "2"]) == 2
    assert "fashion: needs --data-dir" in capsys.readouterr().err
    images = bytes([0, 0, 8, 3, 0, 0, 0, 8, 0, 0, 0, 28, 0, 0, 0, 28]) + rng.bytes(8 * 28 * 28)  # IDX: a header, then bytes
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 8, *range(8)]))
    folder = ["--data-dir", str(tmp_path)]
    assert main(["train", "fashion", "--steps", "1", "--channels", "8", "--flip", *folder]) == 0
    judging = ["evaluate", "runs/fashion", "-n", "4", "--steps", "1", "--bound", "2", "--draws", "1"]
    assert main([*judging, *folder]) == 0
    assert "2 test clothes: " in capsys.readouterr().out
    assert main(judging) == 2
    assert "fashion: needs --data-dir" in capsys.readouterr().err


def test_a_folder_of_pictures_trains_and_is_judged(rng):
    Path("photos").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(f"photos/{name}.png")
    assert main(["train", "photos", "--image-size", "8", "--steps", "2"]) == 0
    assert main(["sample", "runs/photos", "-n", "2", "--steps", "2"]) == 0
    assert np.load("runs/photos/samples.npy").shape == (2, 8, 8, 3)
    assert main(["evaluate", "runs/photos", "--bound", "2", "--draws", "2"]) == 0


def test_a_run_goes_out_to_diffusers_and_comes_back_as_a_run_that_draws_the_same_samples(capsys):
    pytest.importorskip("safetensors")
    assert main(["train", "mnist", "--out", "run", "--steps", "2", "--patch-size", "1"]) == 0
    assert main(["export", "run", "--out", "folder"]) == 0 and main(["import", "folder", "--out", "back"]) == 0
    assert "class_labels" in capsys.readouterr().out  # DDPMPipeline gives none
    options = ["-n", "3", "--steps", "2", "--guidance", "0", "--label", "4"]
    assert main(["sample", "run", *options]) == 0 and main(["sample", "back", *options]) == 0
    np.testing.assert_allclose(np.load("back/samples.npy"), np.load("run/samples.npy"), atol=1e-4)
    assert main(["import", "folder", "--out", "back"]) == 2 and main(["export", "run", "--out", "folder"]) == 2
    refused = capsys.readouterr().err
    assert "back/model.npz exists" in refused and "folder holds a pipeline already" in refused
    assert main(["evaluate", "back", "-n", "4", "--steps", "2"]) == 2
    assert "imported, and nothing says what it was trained on" in capsys.readouterr().err


def test_export_says_what_stands_in_the_way(mnist_run, capsys):
    assert main(["export", mnist_run, "--out", "folder"]) == 2
    assert "UNet2DModel has no patches (patch_size 2); train with --patch-size 1" in capsys.readouterr().err
    assert not Path("folder").exists()


def test_json_is_one_object_with_the_figures_that_are_printed_otherwise(mnist_run, capsys):
    options = [mnist_run, "-n", "3", "--steps", "2", "--bound", "2", "--draws", "2"]
    capsys.readouterr()
    assert main(["evaluate", *options]) == 0
    text = capsys.readouterr().out
    assert main(["evaluate", *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"samples", "bound"} and report["samples"]["precision"] is None  # of three samples
    assert f"Fréchet distance {report['samples']['frechet']:.2f}" in text
    assert f"{report['bound']['bits_per_dim']:.3f} ± {report['bound']['standard_error']:.3f} bits/dim" in text
    assert main(["gradcheck", "--param", "conv_in.b[3]", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["steps"]) == 10 and min(step["error"] for step in report["steps"]) < 1e-6


def test_a_log_gets_one_line_for_each_bar(mnist_run):
    command = [sys.executable, "-m", "scratchdiff", "sample", mnist_run, "-n", "300", "--steps", "2"]
    lines = subprocess.run(command, capture_output=True, check=True).stderr.splitlines()
    bars = [line for line in lines if line]  # each begins with a carriage return
    assert len(bars) == 2 and all(b"100%" in line for line in bars)  # 250 samples, and 50


def test_a_step_of_a_run_is_repeated_as_it_was(mnist_run):
    losses = load_checkpoint(Path("run/model.npz"))[0]["losses"]
    for step in (1, 4):
        moment = at_step(mnist_run, step)
        assert moment.loss(moment.model, moment.x0, moment.rng, labels=moment.labels).item() == losses[step - 1]


def test_the_next_step_of_a_run_is_the_one_that_it_takes_when_it_goes_on(mnist_run, monkeypatch):
    moment = at_step(mnist_run)
    value = moment.loss(moment.model, moment.x0, moment.rng, labels=moment.labels).item()
    monkeypatch.setattr("scratchdiff.cli.check_same", lambda *args: None)  # of the number of steps in all
    assert main(["train", "mnist", "--out", "run", "--steps", "5", "--resume"]) == 0
    assert load_checkpoint(Path("run/model.npz"))[0]["losses"][4] == value


def test_a_step_of_a_run_whose_data_changed_or_that_it_did_not_take_is_refused(mnist_run, monkeypatch, capsys):
    assert main(["tape", mnist_run, "--step", "5"]) == 2 and main(["tape", "mnist", "--step", "2"]) == 2
    monkeypatch.setattr("scratchdiff.runs.mnist", lambda *args: (np.zeros((9, 28, 28, 1), np.float32), np.zeros(9, int)))
    assert main(["tape", mnist_run, "--step", "1"]) == 2
    errors = capsys.readouterr().err
    assert "step must lie in 1..4, got 5" in errors and "mnist was trained for a time" in errors
    assert "mnist is no longer the data that run was trained on" in errors


@pytest.mark.parametrize("other, title", [("t=4", "run, t 4"), ("float64", "run, float64"), ("step=1", "run, step 1")])
def test_tape_writes_the_page_of_a_step_beside_another(other, title, mnist_run, capsys, monkeypatch):
    saved = []
    monkeypatch.setattr("scratchdiff.cli.save_page", lambda *args: saved.append(args) or save_page(*args))
    assert main(["tape", mnist_run, "-n", "2", "--no-check", "--compare", other, "--out", "pages/tape.html"]) == 0
    ((first, _, second),) = saved
    assert (first.title, second.title) == ("run", title)
    np.testing.assert_allclose(second.asked.eps, first.asked.eps, atol=1e-4)  # the same batch and noise
    np.testing.assert_allclose(second.asked.x0, first.asked.x0)
    text = Path("pages/tape.html").read_text(encoding="utf-8")
    assert text.count("data-op=") == len(first.entries)
    assert f"{len(first.entries)} ops" in capsys.readouterr().out


def test_tape_writes_the_page_of_points_and_of_the_yardstick(monkeypatch):
    assert main(["train", "toy:moons", "--steps", "2"]) == 0
    assert main(["tape", "runs/toy_moons", "--compare", "runs/toy_moons", "-n", "3"]) == 0
    assert "data-op" in Path("tape.html").read_text(encoding="utf-8")
    assert main(["tape", "--step", "1", "-n", "1", "--no-check", "--out", "yardstick.html"]) == 0
    names = Path("yardstick.html").read_text(encoding="utf-8").count("data-name=")
    assert names > 150


def test_info_names_versions_processor_blas_threads_and_cache(capsys):
    assert main(["info"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert rows == ["scratchdiff", "Python", "packages", "processor", "OpenBLAS", "threads", "kernels", "cache"]


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "import", "export", "tape", "gradcheck", "info"])
def test_each_commands_help_ends_with_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"example: scratchdiff {command}" in capsys.readouterr().out.splitlines()[-1]


def test_inpainting_keeps_the_pixels_of_the_mask_and_editing_starts_from_the_picture(mnist_run, rng, capsys):
    digits = rng.integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    np.save("digits.npy", digits)
    Image.fromarray(digits[0, ..., 0]).save("digit.png")
    mask = np.zeros((28, 28), np.uint8)
    mask[:14] = 1
    np.save("mask.npy", mask)
    Image.fromarray(255 * mask).save("mask.png")
    for source, mask_file in (("digits.npy", "mask.npy"), ("digit.png", "mask.png")):
        assert main(["sample", mnist_run, "-n", "4", "--steps", "2", "--inpaint", source, "--mask", mask_file]) == 0
        x, known = np.load("run/samples.npy"), digits if source == "digits.npy" else digits[:1]
        want = known[np.arange(4) % len(known), :14] / 127.5 - 1
        np.testing.assert_allclose(x[:, :14], want, atol=1e-6)
        assert np.abs(x[0, 14:] - (digits[0, 14:] / 127.5 - 1)).max() > 0.1
    for more in ([], ["--strength", "1", "--label", "3", "--guidance", "1", "--eta", "0"]):
        assert main(["sample", mnist_run, "-n", "2", "--steps", "4", "--from", "digit.png", *more]) == 0
        assert np.load("run/samples.npy").shape == (2, 28, 28, 1)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--inpaint", "a.npy"], "--inpaint and --mask need each other"),
        (["--mask", "a.npy"], "--inpaint and --mask need each other"),
        (["--inpaint", "good.npy", "--mask", "ones.npy", "--from", "good.npy"], "either --inpaint or --from"),
        (["--strength", "0.5"], "--strength belongs to --from"),
        (["--from", "good.npy", "--strength", "0"], "strength must be in (0, 1], got 0.0"),
        (["--from", "good.npy", "--sampler", "ddpm"], "so no --sampler"),
        (["--inpaint", "good.npy", "--mask", "ones.npy", "--eta", "1"], "takes no --eta"),
        (["--from", "small.npy"], "small.npy: the run's images are 28 × 28 × 1, got float32 of shape (1, 8, 8, 1)"),
        (["--from", "none.png"], "none.png is no picture that Pillow can read"),
        (["--inpaint", "good.npy", "--mask", "small.npy"], "small.npy: a mask holds 1 where a pixel is kept"),
        (["--inpaint", "good.npy", "--mask", "eight.npy"], "eight.npy: needs a mask of 28 × 28"),
        (["--inpaint", "good.npy", "--mask", "three.npy"], "one for all or one for each of 2 images"),
        (["--from", "good.npy", "--label", "10"], "label must be one of the model's 10 classes, got 10"),
    ],
)
def test_an_edit_that_cannot_be_done_is_refused_in_one_line(mnist_run, options, message, capsys):
    np.save("good.npy", np.zeros((2, 28, 28, 1), np.float32))
    np.save("small.npy", np.full((1, 8, 8, 1), 0.5, np.float32))
    for name, shape in dict(ones=(28, 28), eight=(8, 8), three=(3, 28, 28)).items():
        np.save(f"{name}.npy", np.ones(shape, np.uint8))
    capsys.readouterr()
    assert main(["sample", mnist_run, "-n", "2", "--steps", "3", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_run_of_points_has_nothing_to_inpaint(capsys):
    assert main(["train", "toy:moons", "--steps", "2"]) == 0
    np.save("good.npy", np.zeros((2, 28, 28, 1), np.float32))
    assert main(["sample", "runs/toy_moons", "-n", "2", "--from", "good.npy"]) == 2
    assert "a run of points has no images" in capsys.readouterr().err


def test_what_is_made_from_pretrained_weights_goes_to_runs_and_they_can_still_be_sampled(tmp_path):
    (tmp_path / "mnist").mkdir()  # a folder of that name, such as one of downloaded files, is no run
    assert main(["evaluate", "mnist", "-n", "0", "--bound", "2", "--draws", "2"]) == 0
    assert main(["sample", "mnist", "-n", "2", "--steps", "2"]) == 0
    made = {"bound.png", "samples.npy", "samples.png"}
    assert {p.name for p in (tmp_path / "runs" / "pretrained_mnist").iterdir()} == made


def test_guidance_is_refused_where_there_is_no_class_to_guide_to(mnist_run, capsys):
    assert main(["train", "toy:moons", "--steps", "3"]) == 0
    assert main(["sample", "runs/toy_moons", "-n", "2", "--guidance", "1"]) == 2
    assert "draw: guidance needs a run with classes, got 1.0" in capsys.readouterr().err
    np.save("start.npy", np.zeros((1, 28, 28, 1), np.float32))
    assert main(["sample", mnist_run, "-n", "2", "--from", "start.npy", "--guidance", "1"]) == 2
    assert "edit: guidance needs a label, got 1.0" in capsys.readouterr().err
