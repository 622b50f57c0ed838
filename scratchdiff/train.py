"""The training loop, as a generator: whoever runs it decides what to print, draw or save between two steps."""

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from scratchdiff.autograd import Tape
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
          lr=1e-3, warmup_steps=50, clip_norm=1.0, start=0, labels=None, loss=None) -> Iterator[TrainStep]:  # fmt: skip
    """Minimise `diffusion.loss(model, ·)` on batches of data; yield a TrainStep after each update.

    data: (n, ...), drawn from with replacement; labels: (n,) their classes, for a model that takes them. loss: another
    function of (model, batch, rng, labels=), such as `functools.partial(diffusion.loss, min_snr=5)`. It ends after
    `steps` steps in all or `seconds` seconds, whichever comes first; the learning rate rises over `warmup_steps` to lr
    and falls to zero as a cosine of the share that is done.
    start: steps already taken, when a run goes on: with the states of optimizer, ema and rng restored, and `steps` the
    same, the run is then bit for bit the one that never stopped. clip_norm: the largest gradient norm let through.
    Raises ValueError, before the first step, for settings out of range, data that is not finite floats, and labels that are
    not one for each; FloatingPointError, before weights or averages are touched, if a loss or a gradient is not finite:
    it names the step and the op where it began.
    """
    loss_of = loss or diffusion.loss
    check_limits(steps, seconds, lr, warmup_steps, clip_norm, start)
    data = np.asarray(data)
    if data.dtype.kind != "f" or not np.isfinite(data).all():
        raise ValueError(f"train: data must be finite floats, got {data.dtype} of shape {data.shape}")
    if labels is not None and np.shape(labels) != (len(data),):
        raise ValueError(f"train: {len(data)} examples need as many labels, got shape {np.shape(labels)}")
    parameters = model.parameters()
    draws = batches(np.arange(len(data)), batch_size, rng)
    began = None
    step = start
    progress = run_share(step, steps, 0.0, seconds)
    while progress < 1:
        step += 1
        optimizer.lr = lr * warmup(step, warmup_steps) * cosine_decay(progress)
        drawn = next(draws)
        state = rng.bit_generator.state
        optimizer.zero_grad()
        with Tape() as tape:
            loss = loss_of(model, data[drawn], rng, labels=None if labels is None else labels[drawn])
        tape.backward(loss)
        grad_norm = clip_grad_norm(parameters, clip_norm)
        if not math.isfinite(loss.item()) or not math.isfinite(grad_norm):
            rng.bit_generator.state = state  # the same t and ε once more, now looking at every number
            of_batch = None if labels is None else labels[drawn]
            compute_loss = partial(loss_of, model, data[drawn], rng, labels=of_batch)
            culprit = find_nonfinite(compute_loss, parameters)
            raise FloatingPointError(
                f"train: step {step} diverged (loss {loss.item():.3g}, gradient norm {grad_norm:.3g}): {culprit}. Weights "
                f"and averages are still those of step {step - 1}. Try a lower lr (here {optimizer.lr:.2g}), a smaller "
                f"clip_norm (here {clip_norm:g}), a longer warm-up, or data scaled to about ±1."
            )
        optimizer.step()
        ema.update()
        now = time.perf_counter()
        began = now if began is None else began  # the first step may compile the kernels: the clock starts after it
        progress = run_share(step, steps, now - began, seconds)
        yield TrainStep(step, loss.item(), grad_norm, optimizer.lr, progress)


def check_limits(steps, seconds, lr, warmup_steps, clip_norm, start) -> None:
    """Raise the ValueError of `train` for settings out of range."""
    if (steps is None and seconds is None) or not (steps is None or steps > 0) or not (seconds is None or seconds > 0):
        raise ValueError(f"train: give a positive number of steps or seconds, got steps={steps}, seconds={seconds}")
    if not (0 <= lr < math.inf and warmup_steps >= 0 and clip_norm > 0 and start >= 0):
        raise ValueError(f"train: lr, warmup_steps and start must not be negative and clip_norm be positive, "
                         f"got {lr}, {warmup_steps}, {start} and {clip_norm}")  # fmt: skip


def run_share(step, steps, elapsed, seconds) -> float:
    """How much of the run is done, by the limit that is nearer: 1 or more at the end."""
    return max(step / steps if steps else 0.0, elapsed / seconds if seconds else 0.0)
