"""Settings that were measured, in one place: what the demos and the command line train when nobody says otherwise.

A recipe is a dictionary of JSON values, so that a checkpoint can carry it and `build` can make the same run again.
"""

from functools import partial

import numpy as np

from scratchdiff.checks import require
from scratchdiff.data import kmeans
from scratchdiff.diffusion import (
    GaussianDiffusion,
    Schedule,
    constant_schedule,
    cosine_schedule,
    jsd_schedule,
    linear_schedule,
    quadratic_schedule,
    sigmoid_alpha_bar_schedule,
    sigmoid_beta_schedule,
    vlb_loss,
)
from scratchdiff.nn import MLP, DiT, UNet

LOSSES = ("simple", "min-snr", "huber", "vlb")
NETWORKS = {"UNet": UNet, "DiT": DiT, "MLP": MLP}
# (zero_terminal_snr changes a schedule rather than being one, and suits no recipe that predicts eps: call it yourself)
SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule, "quadratic": quadratic_schedule,
             "constant": constant_schedule, "jsd": jsd_schedule, "sigmoid_beta": sigmoid_beta_schedule,
             "sigmoid_alpha_bar": sigmoid_alpha_bar_schedule}  # fmt: skip

# The U-Net on which speed is measured and single gradients are checked (2,734,945 parameters).
YARDSTICK: dict = dict(image_size=28, in_channels=1, out_channels=1, ch=32, ch_mult=(1, 2, 4), num_res_blocks=1,
                 attn_resolutions=(7,), groups=8)  # fmt: skip

# Digits in three minutes on two cores, found by trying. A small net and small batches take more steps in that time than
# larger ones; attention pays; a high learning rate pays most of all, and it is held for the first 60 % of the run. eta = 1
# (fresh noise at each sampling step) lets late steps mend what early ones got wrong. guidance = 0.4 trades a little variety
# for clearness: at 0.3 three-minute models are a little less sure of their digits than real digits are, at 0.5 they lose
# variety. demos/README.md has the figures.
MNIST: dict = dict(
    network="UNet",
    network_args=dict(image_size=28, in_channels=1, out_channels=1, ch=32, ch_mult=(1, 2), num_res_blocks=1,
                      attn_resolutions=(7,), groups=8, patch_size=2, num_classes=10),
    schedule="cosine", T=1000, predict="v", batch_size=32, lr=4e-3, ema=0.995, images=True, eta=1.0, guidance=0.4,
    loss="simple", label_dropout=0.1, accumulate=1, flip=False, hold=0.6,
)  # fmt: skip

# The same without labels. A network that is told nothing must decide by itself which digit the noise is to become, and after
# three minutes a third of its digits are broken. Groups of similar images, found by k-means, can take the place of the ten
# classes (Bao et al. 2022): `with_groups`. Min-SNR weights, more steps of sampling, less fresh noise and a longer EMA did
# not help the plain network; guiding it by its own early weights (Karras et al. 2024) got half of the way. Groups get more
# guidance than classes, since a fifth of the digits are in a group that is mostly another digit. demos/README.md has the
# figures.
UNCONDITIONAL: dict = MNIST | dict(network_args=MNIST["network_args"] | dict(num_classes=64), guidance=0.75)

# The diffusion Transformer in the U-Net's place: demos/lessons/17_dit.py compares them.
DIT: dict = dict(width=96, depth=4, heads=4, patch_size=4)

# Points in the plane in under a minute.
TOY: dict = dict(
    network="MLP", network_args=dict(dim=2, width=128, num_blocks=3),
    schedule="linear", T=1000, predict="eps", batch_size=256, lr=2e-3, ema=0.999, images=False, eta=0.0,
    loss="simple", label_dropout=0.1, accumulate=1, flip=False, hold=0.0,
)  # fmt: skip


def with_groups(recipe: dict, images, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """(the group of each image, the recipe with "shares", the share of the images in each group).

    The groups are those of `kmeans` and take the place of classes, as many as the network has. Whoever samples draws a group
    by its share, p(x) = Σ p(group) p(x | group). Raises ValueError as `kmeans` does, and for a network without
    classes."""
    classes = recipe["network_args"].get("num_classes")
    groups = kmeans(images, classes, rng)
    return groups, recipe | dict(shares=(np.bincount(groups, minlength=classes) / len(groups)).tolist())


def with_network(recipe: dict, network: str) -> dict:
    """A recipe for images with the denoiser "UNet" or "DiT", of about as many parameters. ValueError for other names."""
    require(network in ("UNet", "DiT"), "with_network: the network must be UNet or DiT", network=network)
    require(recipe["network"] != "MLP", f"with_network: {network} takes images, and these are points")
    if network == recipe["network"]:
        return recipe
    shared = {key: recipe["network_args"][key] for key in ("image_size", "in_channels", "out_channels", "num_classes")}
    own = DIT if network == "DiT" else {key: value for key, value in MNIST["network_args"].items() if key not in shared}
    return recipe | dict(network=network, network_args=shared | own, lr=1e-3 if network == "DiT" else MNIST["lr"])


def for_images(image_size: int, channels: int) -> dict:
    """The MNIST recipe for square images of another size or in colour, without patches where the size does not allow them.

    Raises ValueError for odd sizes."""
    if image_size < 2 or image_size % 2 or channels < 1:
        seen = f"{image_size}, of {channels} channels"
        raise ValueError(f"for_images: the U-Net halves its images, so their size must be even, got {seen}")
    args = MNIST["network_args"] | dict(image_size=image_size, in_channels=channels, out_channels=channels, num_classes=None)
    return MNIST | dict(network_args=args if image_size % 4 == 0 else args | dict(patch_size=1))


def with_variance(recipe: dict, variance: str) -> dict:
    """The recipe with another variance of p(x_{t−1} | x_t); for "learned" the network's output gets twice the channels."""
    args = dict(recipe["network_args"])
    if variance == "learned":
        name, size = ("out_dim", args["dim"]) if recipe["network"] == "MLP" else ("out_channels", args["in_channels"])
        args[name] = 2 * size
    return recipe | dict(variance=variance, network_args=args)


def build_loss(recipe: dict, diffusion):
    """The training loss that a recipe names, a function of (model, x0, rng, labels=): "simple", "min-snr" (γ = 5),
    "huber" (δ = 1) or "vlb".

    Raises ValueError for another name."""
    name, label_dropout = recipe["loss"], recipe["label_dropout"]
    require(name in LOSSES, f"build_loss: loss must be one of {LOSSES}", loss=name)
    if name == "vlb":
        return partial(vlb_loss, diffusion, label_dropout=label_dropout)
    options = {"simple": {}, "min-snr": dict(min_snr=5.0), "huber": dict(huber=1.0)}[name]
    return partial(diffusion.loss, label_dropout=label_dropout, **options)


def build(recipe: dict, rng: np.random.Generator):
    """(model, diffusion) of a recipe, the weights drawn from rng. Raises ValueError naming what the recipe lacks.

    The schedule "betas" is that of the T numbers recipe["betas"]: weights from elsewhere bring their own."""
    try:
        name, variance = recipe["schedule"], recipe.get("variance", "fixed_small")
        schedule = Schedule(recipe["betas"]) if name == "betas" else SCHEDULES[name](recipe["T"])
        model = NETWORKS[recipe["network"]](**recipe["network_args"], rng=rng)
        return model, GaussianDiffusion(schedule, recipe["predict"], variance, recipe["images"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"build: the recipe lacks or mistakes {error}") from None
