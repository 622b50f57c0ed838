"""A run is a folder with a model.npz: what it was trained on, the model that it holds, and samples drawn from that."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratchdiff.checkpoint import Allotment, load_checkpoint, restore
from scratchdiff.checks import require
from scratchdiff.data import batches, mnist, random_flips, read_images, read_npy, toy
from scratchdiff.data.images import open_picture
from scratchdiff.diffusion import SAMPLERS, GaussianDiffusion, guided, inpaint_steps, sdedit_steps
from scratchdiff.diffusion.samplers import last
from scratchdiff.nn import Module
from scratchdiff.optim import EMA, Adam
from scratchdiff.recipes import MNIST, TOY, UNCONDITIONAL, YARDSTICK, build, build_loss, for_images, with_groups
from scratchdiff.train import train
from scratchdiff.weights.pretrained import NAMES, load_pretrained

CHECKPOINT = "model.npz"
TRAINING = ("batch_size", "lr", "ema", "loss", "label_dropout", "accumulate", "flip", "hold")  # sampling needs none of them


def load_data(name: str, data_dir, rng, image_size=None, unconditional=False) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """(training data, labels or None, recipe) for `train`. unconditional: groups take the place of labels (`with_groups`).

    Raises ValueError for data in none of the forms it takes, and for `unconditional` where there are no labels anyway."""
    if name in ("mnist", "fashion"):
        images, labels = idx_images(name, "train", data_dir)
        return images, *(with_groups(UNCONDITIONAL, images, rng) if unconditional else (labels, MNIST))
    require(not unconditional, "train: only mnist and fashion have labels, which --unconditional hides", data=name)
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


def examples(data: str | None, n: int, data_dir, rng, image_size=None) -> tuple[np.ndarray, np.ndarray | None, str]:
    """(at most n examples of `data`, their labels or None, what they are): what `evaluate` computes the bound of.

    Raises ValueError for None, the data of a run that was imported."""
    require(data is not None, "examples: this run was imported, and nothing says what it was trained on: give --bound 0")
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


def is_pretrained(run) -> bool:
    """Whether run names weights of the package. A folder of that name counts if it holds a run."""
    return str(run) in NAMES and not (Path(run) / CHECKPOINT).exists()


def folder_of(run) -> Path:
    """The folder for what is made from a run: its own, or runs/pretrained_NAME."""
    return Path(f"runs/pretrained_{run}") if is_pretrained(run) else Path(run)


def load_run(run) -> tuple:
    """(model with averaged weights, diffusion, settings) of a run's folder, or of pretrained weights by their name.

    Raises ValueError or FileNotFoundError."""
    if is_pretrained(run):
        return load_pretrained(str(run))
    meta, groups = load_checkpoint(Path(run) / CHECKPOINT)
    check_settings(meta["settings"])
    model, diffusion = build(meta["settings"], Allotment(sum(a.size for a in groups["ema"].values())))
    model.load(groups["ema"])
    return model, diffusion, meta["settings"]


class Moment(NamedTuple):
    """What a training step starts from: the network as it is then, the step's batch, and the generator of its t and ε."""

    model: Module
    diffusion: GaussianDiffusion
    loss: Callable
    x0: np.ndarray
    labels: np.ndarray | None
    rng: np.random.Generator


def at_step(run=None, step: int | None = None, data_dir=None, dtype=np.float32) -> Moment:
    """A training step of a run, about to begin: loss(model, x0, rng, labels=labels) is then the loss that the run sees.

    run: a run's folder, the name of pretrained weights, or None for the yardstick U-Net on the embedded digits with Ho's
    schedule. step: the training is repeated by one process from its seed up to there. None: the next step of the run, from
    its checkpoint; of the yardstick the 20th, because at the first the layers that start at zero let no gradient through.
    dtype: of the network and the batch.
    Raises ValueError for a step that the run does not have or cannot repeat, and if its data is no longer what it was."""
    settings, resume = origin(run)
    step, last_step = (20 if step is None and run is None else step), settings.get("steps")
    require(step is None or last_step, f"at_step: {run} was trained for a time, so its steps cannot be repeated", step=step)
    require(step is None or 1 <= step <= last_step, f"at_step: step must lie in 1..{last_step}", step=step)
    require(settings["data"] is not None, f"at_step: {run} was imported, and nothing says what it was trained on")

    # as the command line trains, so that the generator draws the same
    rng, args = np.random.default_rng(settings["seed"]), settings["network_args"]
    data, labels, _ = load_data(settings["data"], data_dir, rng, args.get("image_size"), "shares" in settings)
    same = settings.get("data_crc32") in (None, crc(data, labels))
    require(same, f"at_step: {settings['data']} is no longer the data that {run} was trained on")
    labels = labels if args.get("num_classes") else None
    model, diffusion = build(settings, rng)
    adam, ema = Adam(model.parameters(), settings["lr"]), EMA(model.parameters(), settings["ema"])
    loss, augment = build_loss(settings, diffusion), random_flips if settings["flip"] else None
    drawn = {key: settings[key] for key in ("batch_size", "accumulate")}
    if step is None:
        resume(model, ema, adam, rng)
    else:
        how = dict(labels=labels, loss=loss, augment=augment, hold=settings["hold"], **drawn)
        steps = train(model, diffusion, data, adam, ema, rng, steps=last_step, **how)
        for _ in zip(range(step - 1), steps):
            pass
    indices = batches(np.arange(len(data)), drawn["batch_size"], rng)
    batch, *_ = [next(indices) for _ in range(drawn["accumulate"])]
    x0 = data[batch] if augment is None else augment(data[batch], rng)
    if dtype != np.float32:
        weights = {name: p.data for name, p in model.parameters().items()}
        model, _ = build(settings | dict(network_args=args | dict(dtype=dtype)), np.random.default_rng(0))
        model.load(weights)
    return Moment(model, diffusion, loss, x0.astype(dtype), None if labels is None else labels[batch], rng)


def origin(run) -> tuple[dict, Callable | None]:
    """(settings, resume) of a run, of pretrained weights by their name, or for None of the yardstick.

    resume(model, ema, adam, rng) puts the saved state into those; None for the yardstick, of which none is saved."""
    if run is None:
        of_ho = dict(schedule="linear", predict="eps", lr=1e-3, hold=0.0)
        return MNIST | of_ho | dict(network_args=YARDSTICK, data="mnist", seed=0, steps=1000), None
    older = dict(hold=0.0)  # what runs of older versions do not name
    if is_pretrained(run):
        pretrained, _, settings = load_pretrained(str(run))
        weights = {name: p.data for name, p in pretrained.parameters().items()}
        return MNIST | older | settings, lambda model, ema, adam, rng: model.load(weights)
    meta, groups = load_checkpoint(Path(run) / CHECKPOINT)
    check_settings(meta["settings"])
    recipe = TOY if meta["settings"]["network"] == "MLP" else MNIST
    return recipe | older | meta["settings"], lambda *parts: restore(meta, groups, *parts)


def crc(data: np.ndarray, labels: np.ndarray | None) -> int:
    """A checksum of training data and their labels, by which a run knows its data again."""
    return zlib.crc32(np.ascontiguousarray(data), 0 if labels is None else zlib.crc32(labels))


def check_settings(settings: dict) -> None:
    """Raise ValueError unless settings, which came out of a file, have what the recipes have, with the right types."""
    recipe = TOY if settings.get("network") == "MLP" else MNIST
    needed = {key: type(value) for key, value in recipe.items() if key not in TRAINING}
    wrong = [key for key, kind in needed.items() if not isinstance(settings.get(key), (kind, int))]
    if wrong or settings["T"] > 10**6:
        raise ValueError(f"the run's settings lack or mistake {', '.join(wrong) or 'T'}")


def draw(run, n, rng, sampler="ddim", steps=None, eta=None, guidance=None, label=None) -> np.ndarray:
    """n samples of a run, (n, ...) float32, in batches of 250, with a progress bar.

    A model with classes draws each of them in turn, or only `label`; one with groups draws each by its share of the data.

    None stands for the recipe's setting, and for 50 steps, or all T of ddpm. Raises ValueError for eta without ddim, for
    guidance without classes, and for a label that the model does not know."""
    from scratchdiff.progress import watch_sampling

    model, diffusion, settings = load_run(run)
    one = shape_of_one(settings)
    takes_steps = SAMPLERS[sampler].takes_steps
    require(takes_steps or steps is None, f"draw: {sampler} chooses its own steps and takes no number of them", steps=steps)
    steps = (steps or (diffusion.schedule.T if sampler == "ddpm" else 50)) if takes_steps else None
    extra = dict(steps=steps) if takes_steps else {}
    if sampler == "ddim":
        extra["eta"] = settings["eta"] if eta is None else eta
    elif eta is not None:
        raise ValueError(f"draw: eta belongs to ddim, not to {sampler}")
    check_label("draw", settings, label)
    classes, shares = settings["network_args"].get("num_classes"), settings.get("shares")
    require(guidance is None or classes, "draw: guidance needs a run with classes", guidance=guidance)
    guidance = settings.get("guidance") if guidance is None else guidance
    parts, of_classes = [], model
    for first in range(0, n, 250):
        shape = (min(250, n - first), *one)
        if classes:
            wanted = np.arange(first, first + shape[0]) % classes if label is None else np.full(shape[0], label)
            wanted = rng.choice(classes, shape[0], p=shares) if shares else wanted
            of_classes = guided(model, wanted, guidance)
        each = SAMPLERS[sampler].run(diffusion, of_classes, shape, rng, **extra)
        parts.append(last(watch_sampling(each, steps, f"samples {first + 1}–{first + shape[0]} of {n}")).x)
    return np.concatenate(parts).astype(np.float32)


def edit(run, n, rng, source, mask=None, strength=None, steps=None, eta=None, guidance=None, label=None) -> np.ndarray:
    """n samples of a run that start from the images of the file `source`, each in turn; as `draw` returns them.

    mask: a file that says which pixels to keep; the others are made anew (`inpaint_steps`). Without it each image is edited
    (`sdedit_steps`, with strength and eta). None stands for strength 0.5, the recipe's setting, 50 steps, and any class.
    Raises ValueError for images of another size than the run's, for a label that the model does not know, and for a guidance
    without a label."""
    from scratchdiff.progress import watch_sampling

    model, diffusion, settings = load_run(run)
    check_label("edit", settings, label)
    require(guidance is None or label is not None, "edit: guidance needs a label", guidance=guidance)
    images = load_pictures(source, shape_of_one(settings))
    masks = None if mask is None else load_masks(mask, images)
    guidance = settings.get("guidance") if guidance is None else guidance
    eta, steps, strength = settings["eta"] if eta is None else eta, steps or 50, 0.5 if strength is None else strength
    parts = []
    for first in range(0, n, 250):
        which = np.arange(first, min(first + 250, n))
        start = images[which % len(images)]
        of_class = model if label is None else guided(model, np.full(len(which), label), guidance)
        if masks is None:
            each = sdedit_steps(diffusion, of_class, start, strength, rng, steps, eta)
        else:
            each = inpaint_steps(diffusion, of_class, start, masks[which % len(masks)], rng, steps)
        total = steps if masks is not None else max(1, round(strength * steps))
        parts.append(last(watch_sampling(each, total, f"samples {first + 1}–{which[-1] + 1} of {n}")).x)
    return np.concatenate(parts).astype(np.float32)


def shape_of_one(settings: dict) -> tuple:
    """The shape of one sample of a run: a point's, or an image's."""
    args = settings["network_args"]
    return (args["dim"],) if settings["network"] == "MLP" else (args["image_size"], args["image_size"], args["in_channels"])


def named_classes(settings: dict) -> int:
    """How many classes of a run's network have a name; 0 if it takes none, or groups that were found without labels."""
    return 0 if "shares" in settings else settings["network_args"].get("num_classes") or 0


def check_label(name: str, settings: dict, label) -> None:
    """Raise the ValueError of the function `name` for a label of no class."""
    classes = named_classes(settings)
    if label is not None:
        require(classes, f"{name}: the run has no classes, so it takes no label", label=label)
        require(0 <= label < classes, f"{name}: label must be one of the model's {classes} classes", label=label)


def load_pictures(path, shape: tuple) -> np.ndarray:
    """Images to start from, (M, *shape) float32 in [−1, 1]: an .npy file as by `load_images`, or one PNG or JPEG.

    Raises ValueError, naming the file, for images of another shape, or if the run makes points."""
    require(len(shape) == 3, f"{path}: a run of points has no images to start from")
    if str(path).endswith(".npy"):
        images = load_images(path)
    else:
        picture, _ = open_picture("sample", path)
        pixels = np.atleast_3d(np.asarray(picture.convert("L" if shape[2] == 1 else "RGB")))
        images = pixels[None].astype(np.float32) / 127.5 - 1
    require(images.shape[1:] == shape, f"{path}: the run's images are {' × '.join(map(str, shape))}", images=images)
    return images


def load_masks(path, images: np.ndarray) -> np.ndarray:
    """Which pixels of the images to keep, (1 or M, H, W, 1) booleans: an .npy file of 0 and 1, or a picture, white to keep.

    Raises ValueError, naming the file, for another size or number, or other values."""
    if str(path).endswith(".npy"):
        masks = read_npy(path)
        binary = ((masks == 0) | (masks == 1)).all()
        require(binary, f"{path}: a mask holds 1 where a pixel is kept and 0 elsewhere", mask=masks)
    else:
        masks = np.asarray(open_picture("sample", path)[0].convert("L")) >= 128
    M, H, W, _ = images.shape
    number = masks.size // (H * W)
    fits = masks.shape in ((H, W), (H, W, 1), (number, H, W), (number, H, W, 1)) and number in (1, M)
    require(fits, f"{path}: needs a mask of {H} × {W}, one for all or one for each of {M} images", mask=masks)
    return masks.reshape(number, H, W, 1).astype(bool)
