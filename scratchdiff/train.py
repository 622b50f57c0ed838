"""The training loop, as a generator: whoever runs it decides what to print, draw or save between two steps."""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scratchdiff.autograd import Tape
from scratchdiff.checks import require, require_finite_floats, require_positive_integers
from scratchdiff.data import batches
from scratchdiff.optim import clip_grad_norm, cosine_decay, warmup
from scratchdiff.trace import find_nonfinite


class TrainStep(NamedTuple):
    """What `train` yields after each step: step counts from 1; progress is the share of the run that is done, 0..1."""

    step: int
    loss: float
    grad_norm: float
    lr: float
    progress: float


def train(model, diffusion, data, optimizer, ema, rng: np.random.Generator, *, batch_size=128, steps=None, seconds=None,
          warmup_steps=50, hold=0.0, clip_norm=1.0, start=0, labels=None, loss=None, accumulate=1,
          augment=None, average=None) -> Iterator[TrainStep]:  # fmt: skip
    """Minimise `diffusion.loss(model, ·)` on batches of data; yield a TrainStep after each update.

    data: (n, ...), drawn from with replacement; labels: (n,) their classes, for a model that takes them. loss: another
    function of (model, batch, rng, labels=), such as `functools.partial(diffusion.loss, min_snr=5)`. It ends after
    `steps` steps in all or `seconds` seconds, whichever comes first. The optimiser owns the learning rate: each step scales
    optimizer.lr by a factor that rises to 1 over `warmup_steps`, stays there for the share `hold` of the run, such as 0.6
    (Hägele et al. 2024), and falls to 0 as a cosine of the rest.
    augment: a function of (batch, rng) that returns the batch changed at random, such as `data.random_flips`.
    accumulate: how many batches make one step; their gradients are averaged, as for one batch so many times as large.
    average: a function of (parameters, loss) that averages the gradients over many processes and returns the mean loss:
    see `parallel.average_gradients`. It needs `steps` as the limit, because clocks differ.
    start: steps already taken, when a run goes on: with the states of optimizer, ema and rng restored, and `steps` the
    same, the run is then bit for bit the one that never stopped. clip_norm: the largest gradient norm let through.
    Raises ValueError, before the first step, for settings out of range, data that is not finite floats, and labels that are
    not one for each; FloatingPointError, before weights or averages are touched, if a loss or a gradient is not finite:
    it names the step and the op where it began.
    """
    loss = loss or diffusion.loss
    check_limits(steps, seconds, warmup_steps, hold, clip_norm, start)
    require_positive_integers("train", accumulate=accumulate)
    require(average is None or seconds is None, "train: many processes need steps as the limit", seconds=seconds)
    data = np.asarray(data)
    require_finite_floats("train", data=data)
    fit = labels is None or np.shape(labels) == (len(data),)
    require(fit, f"train: {len(data)} examples need as many labels, got shape {np.shape(labels)}")
    parameters = model.parameters()
    draws = batches(np.arange(len(data)), batch_size, rng)

    def loss_of(batch):
        x0 = data[batch] if augment is None else augment(data[batch], rng)
        return loss(model, x0, rng, labels=None if labels is None else labels[batch]) / accumulate

    began = None
    step = start
    progress = run_share(step, steps, 0.0, seconds)
    while progress < 1:
        step += 1
        lr_scale = warmup(step, warmup_steps) * cosine_decay((progress - hold) / (1 - hold))
        optimizer.zero_grad()
        drawn = [next(draws) for _ in range(accumulate)]
        state = rng.bit_generator.state
        mean_loss = 0.0
        for batch in drawn:
            with Tape() as tape:
                value = loss_of(batch)
            tape.backward(value)
            mean_loss += value.item()
        if average:
            mean_loss = average(parameters, mean_loss)
        grad_norm = clip_grad_norm(parameters, clip_norm)
        if not math.isfinite(mean_loss) or not math.isfinite(grad_norm):
            rng.bit_generator.state = state  # the same flips, t and ε once more, now looking at every number
            culprit = find_nonfinite(lambda drawn=drawn: sum(map(loss_of, drawn)), parameters)
            raise FloatingPointError(
                f"train: step {step} diverged (loss {mean_loss:.3g}, gradient norm {grad_norm:.3g}): {culprit}. Weights "
                f"and averages are still those of step {step - 1}. Try a lower lr (here {optimizer.lr * lr_scale:.2g}), a "
                f"smaller clip_norm (here {clip_norm:g}), a longer warm-up, or data scaled to about ±1."
            )
        optimizer.step(lr_scale)
        ema.update()
        now = time.perf_counter()
        began = now if began is None else began  # the first step may compile the kernels: the clock starts after it
        progress = run_share(step, steps, now - began, seconds)
        yield TrainStep(step, mean_loss, grad_norm, optimizer.lr * lr_scale, progress)


def check_limits(steps, seconds, warmup_steps, hold, clip_norm, start) -> None:
    """Raise the ValueError of `train` for settings out of range."""
    limited = (steps, seconds) != (None, None) and (steps is None or steps > 0) and (seconds is None or seconds > 0)
    require(limited, "train: give a positive number of steps or seconds", steps=steps, seconds=seconds)
    require(warmup_steps >= 0 and start >= 0 and clip_norm > 0, "train: warmup_steps and start must not be negative, and "
            "clip_norm must be positive", warmup_steps=warmup_steps, start=start, clip_norm=clip_norm)  # fmt: skip
    require(0 <= hold < 1, "train: hold must be in [0, 1)", hold=hold)


def run_share(step, steps, elapsed, seconds) -> float:
    """How much of the run is done, by the limit that is nearer: 1 or more at the end."""
    return max(step / steps if steps else 0.0, elapsed / seconds if seconds else 0.0)
