"""The checkup of a run's folder: its parts, as `checkup` takes them."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from scratchdiff.autograd import Tape
from scratchdiff.checkpoint import load_checkpoint
from scratchdiff.checkup import checkup
from scratchdiff.checkup.findings import Checkup
from scratchdiff.checkup.learning import POINTS
from scratchdiff.diffusion import GaussianDiffusion, sample_ddim
from scratchdiff.optim import Adam
from scratchdiff.recipes import build, build_loss
from scratchdiff.runs import CHECKPOINT, examples, load_run, shape_of_one


def checkup_run(run, rng: np.random.Generator, data_dir=None) -> Checkup:
    """`checkup` of a run's folder, or of pretrained weights by their name: network, average, loss, sampler and data.

    The network is asked without labels, and only the mean of a learned variance is looked at: L_simple stands for a loss
    that holds L_vlb. One batch is learned by a fresh network. Data that are no longer there are left out.
    Raises ValueError or FileNotFoundError as `load_run` does."""
    averaged, trained, settings = load_run(run)
    settings = dict(loss="simple", label_dropout=0.1) | settings
    diffusion = GaussianDiffusion(trained.schedule, trained.predict, images=trained.images)
    holds_vlb = settings["loss"] == "vlb" or trained.variance == "learned"
    loss = diffusion.loss if holds_vlb else build_loss(settings, diffusion)
    model, (fresh, _), parts = averaged, build(settings, rng), {}
    with suppress(OSError, ValueError):
        size = settings["network_args"].get("image_size")
        parts["data"] = examples(settings["data"], POINTS, data_dir, rng, size)[0].astype(np.float32)
    if (Path(run) / CHECKPOINT).exists():
        meta, groups = load_checkpoint(Path(run) / CHECKPOINT)
        model, _ = build(settings, rng)
        model.load(groups["model"])
        parts["ema_model"] = mean_only(averaged)
        if not holds_vlb:
            parts["losses"] = meta["losses"]
    adam = Adam(fresh.parameters(), settings["lr"])

    def differentiate(model, x0, rng):
        for p in model.parameters().values():
            p.grad = None
        with Tape() as tape:
            value = loss(mean_only(model), x0, rng)
        tape.backward(value)
        return value.item(), {name: p.grad for name, p in model.parameters().items()}

    def train_step(x0, rng):
        value, _ = differentiate(fresh, x0, rng)
        adam.step()
        return value

    def sampler(model, shape, rng):
        return sample_ddim(diffusion, model, shape, rng, min(50, diffusion.schedule.T), settings["eta"])

    return checkup(
        schedule=diffusion.schedule, q_sample=diffusion.q_sample, posterior=diffusion.q_posterior, loss=loss,
        model=mean_only(model), sampler=sampler, parameters=model.parameters(), train_step=train_step,
        gradients=lambda x0, rng: differentiate(model, x0, rng)[1], shape=shape_of_one(settings),
        predict=diffusion.predict, images=diffusion.images, rng=rng, **parts,
    )  # fmt: skip


def mean_only(model):
    """The model without the channels of a learned variance, if it has any."""
    return lambda xt, t: model(xt, t)[..., : xt.shape[-1]]
