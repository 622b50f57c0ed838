"""A run is a folder with a model.npz: what it was trained on, the model that it holds, and samples drawn from that."""

from pathlib import Path

import numpy as np

from scratchdiff.checkpoint import Allotment, load_checkpoint
from scratchdiff.checks import require
from scratchdiff.data import mnist, read_images, read_npy, toy
from scratchdiff.diffusion import SAMPLERS, guided
from scratchdiff.diffusion.samplers import last
from scratchdiff.recipes import MNIST, TOY, build, for_images
from scratchdiff.weights.pretrained import NAMES, load_pretrained

CHECKPOINT = "model.npz"
TRAINING = ("batch_size", "lr", "ema", "loss", "label_dropout", "accumulate", "flip")  # settings that sampling does not need


def load_data(name: str, data_dir, rng, image_size=None) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """(training data, labels or None, recipe) for `train`. Raises ValueError for data in none of the forms it takes."""
    if name in ("mnist", "fashion"):
        return *idx_images(name, "train", data_dir), MNIST
    if name.startswith("toy:"):
        return toy(name.removeprefix("toy:"), 100_000, rng).astype(np.float32), None, TOY
    if name.endswith(".npy"):
        images = load_images(name)
        if images.shape[1] != images.shape[2]:
            raise ValueError(f"{name}: images must be square, got {images.shape[1]} × {images.shape[2]}")
        return images, None, for_images(images.shape[1], images.shape[3])
    if Path(name).is_dir():
        images = read_images(name, image_size or 32)
        return images, None, for_images(images.shape[1], images.shape[3])
    raise ValueError(f"train: data must be mnist, fashion, toy:NAME, an .npy file or a folder of pictures, got {name!r}")


def idx_images(name: str, split: str, data_dir) -> tuple[np.ndarray, np.ndarray]:
    """`mnist` of the digits, or of the clothes of Fashion-MNIST, whose files have the same form and names.

    Raises ValueError for clothes without a folder: only digits come with the package."""
    embedded = name == "mnist" or data_dir is not None
    require(embedded, f"{name}: needs --data-dir, a folder of its four IDX files; Debian's package dataset-fashion-mnist "
            "puts them into /usr/share/datasets/fashion-mnist")  # fmt: skip
    return mnist(split, data_dir)


def load_images(path) -> np.ndarray:
    """Images (N, H, W, C) as float32 in [−1, 1] from an .npy file of uint8 or of such floats. ValueError naming the file."""
    images = read_npy(path)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"{path}: needs images of shape (N, H, W, 1 or 3), got {images.shape}")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 127.5 - 1
    if images.dtype.kind != "f" or not (np.abs(images) <= 1).all():  # nor is NaN
        raise ValueError(f"{path}: images must be uint8 or floats in [-1, 1], got {images.dtype}")
    return images.astype(np.float32)


def examples(data: str, n: int, data_dir, rng, image_size=None) -> tuple[np.ndarray, np.ndarray | None, str]:
    """(at most n examples of `data`, their labels or None, what they are): what `evaluate` computes the bound of."""
    if data.startswith("toy:"):
        return toy(data.removeprefix("toy:"), n, rng), None, f"new points of {data}"
    if data in ("mnist", "fashion"):
        split = "test" if data_dir else "train"
        x0, labels = idx_images(data, split, data_dir)
        name = f"{'test' if data_dir else 'training'} {'digits' if data == 'mnist' else 'clothes'}"
    elif Path(data).is_dir():
        x0, labels, name = read_images(data, image_size), None, f"pictures of {data}"
    else:
        x0, labels, name = load_images(data), None, f"images of {data}"
    some = rng.permutation(len(x0))[:n]
    return x0[some], None if labels is None else labels[some], name


def load_run(run) -> tuple:
    """(model with averaged weights, diffusion, settings) of a run's folder, or of pretrained weights by their name.

    Raises ValueError or FileNotFoundError."""
    if str(run) in NAMES and not Path(run).exists():
        return load_pretrained(str(run))
    meta, groups = load_checkpoint(Path(run) / CHECKPOINT)
    check_settings(meta["settings"])
    model, diffusion = build(meta["settings"], Allotment(sum(a.size for a in groups["ema"].values())))
    model.load(groups["ema"])
    return model, diffusion, meta["settings"]


def check_settings(settings: dict) -> None:
    """Raise ValueError unless settings, which came out of a file, have what the recipes have, with the right types."""
    recipe = TOY if settings.get("network") == "MLP" else MNIST
    needed = {key: type(value) for key, value in recipe.items() if key not in TRAINING}
    wrong = [key for key, kind in needed.items() if not isinstance(settings.get(key), (kind, int))]
    if wrong or settings["T"] > 10**6:
        raise ValueError(f"the run's settings lack or mistake {', '.join(wrong) or 'T'}")


def draw(run, n, rng, sampler="ddim", steps=None, eta=None, guidance=None, label=None) -> np.ndarray:
    """n samples of a run, (n, ...) float32, in batches of 250, with a progress bar.

    A model with classes draws each of them in turn, or only `label`.

    None stands for the recipe's setting, and for 50 steps, or all T of ddpm. Raises ValueError for an eta without ddim, and
    for a label that the model does not know."""
    from scratchdiff.progress import watch_sampling

    model, diffusion, settings = load_run(run)
    args = settings["network_args"]
    one = (args["dim"],) if settings["network"] == "MLP" else (args["image_size"], args["image_size"], args["in_channels"])
    takes_steps = SAMPLERS[sampler].takes_steps
    require(takes_steps or steps is None, f"draw: {sampler} chooses its own steps and takes no number of them", steps=steps)
    steps = (steps or (diffusion.schedule.T if sampler == "ddpm" else 50)) if takes_steps else None
    guidance = settings.get("guidance") if guidance is None else guidance
    extra = dict(steps=steps) if takes_steps else {}
    if sampler == "ddim":
        extra["eta"] = settings["eta"] if eta is None else eta
    elif eta is not None:
        raise ValueError(f"draw: eta belongs to ddim, not to {sampler}")
    classes = args.get("num_classes")
    known = label is None or (classes and 0 <= label < classes)
    require(known, f"draw: label must be one of the model's {classes or 'no'} classes", label=label)
    parts, of_classes = [], model
    for first in range(0, n, 250):
        shape = (min(250, n - first), *one)
        if classes:
            in_turn = np.arange(first, first + shape[0]) % classes
            of_classes = guided(model, in_turn if label is None else np.full(shape[0], label), guidance)
        each = SAMPLERS[sampler].run(diffusion, of_classes, shape, rng, **extra)
        parts.append(last(watch_sampling(each, steps, f"samples {first + 1}–{first + shape[0]} of {n}")).x)
    return np.concatenate(parts).astype(np.float32)
