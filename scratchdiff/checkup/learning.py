"""Did it learn, and from what? The data, one batch learned by heart, the averaged weights, and the loss beside its floor.

The floor: no network has a smaller loss on a finite data set than the exact denoiser of that set (`diffusion/oracle.py`),
under any weights of t. This denoiser and zeros as output are put through the same loss as the network.
"""

from functools import partial

import numpy as np

from scratchdiff.checkup.findings import FALSE_ALARM, STANDARD_ERRORS, CannotTell, Finding, answer_zero, spied
from scratchdiff.diffusion.oracle import Oracle

BATCHES, BATCH, POINTS = 40, 128, 2000


def data_suit_the_noise(data, images):
    """The data are finite floats on both sides of 0, of about the size of the noise, and in [−1, 1] if they are images.

    Exact. It finds data in [0, 1] or in 0..255, and a root mean square outside of 0.1 to 3, always. Right data of n numbers
    are all of one sign with probability 2^(1−n)."""
    x = np.asarray(data)
    finding = partial(Finding, "data", look="how the data are read and scaled: 2 x − 1 takes [0, 1] to [−1, 1]")
    if x.dtype.kind != "f" or not np.isfinite(x).all():
        seen = f"{x.dtype} from {x.min()} to {x.max()}"
        return finding("the data are no finite floats", expected="floats, none of them infinite or NaN", seen=seen)
    low, high, rms = float(x.min()), float(x.max()), float(np.sqrt(np.square(x, dtype=np.float64).mean()))
    seen = f"numbers from {low:.3g} to {high:.3g}, root mean square {rms:.3g}"
    if low >= 0 or high <= 0:
        return finding("the data are not centred", expected="numbers on both sides of 0, as the noise is", seen=seen)
    if not 0.1 <= rms <= 3:
        return finding("the data are not of the size of the noise", expected="a root mean square from 0.1 to 3", seen=seen)
    if images and max(-low, high) > 1 + 1e-3:
        return finding("x0_hat is clipped where there are data", expected="images within [−1, 1]", seen=seen)


def learns_one_batch(train_step, x0, rng, parameters=None):
    """Within 400 steps on eight examples, with the same noise in each step, the loss falls to a quarter   (Karpathy 2019:
    overfit one batch). `parameters`, where given, are put back afterwards.

    Exact, for code that learns at all. An optimiser that holds other parameters, or a loss without a gradient, is always
    found."""
    kept = {name: p.copy() for name, p in (parameters or {}).items()}
    seed, few = int(rng.integers(2**32)), x0[:8]
    try:
        first = best = train_step(few, np.random.default_rng(seed))
        for _ in range(400):
            if best <= 0.25 * first:
                break
            best = min(best, train_step(few, np.random.default_rng(seed)))
    finally:
        for name, p in kept.items():
            parameters[name][...] = p
    if not best <= 0.25 * first:
        return Finding(
            "train_step",
            "it cannot learn one batch by heart",
            expected=f"from {first:.4g} to a quarter within 400 steps on eight examples, with the same noise each time",
            seen=f"{best:.4g} at best",
            look="the gradients; whether the optimiser holds the network's own parameters; the learning rate",
        )


def average_is_no_worse(ema_model, model, loss, x0, rng):
    """The averaged weights have at most 1.1 times the loss of the last ones, with the same noise for both.

    Random: it alarms where the difference is also five standard errors over 40 batches. An average that is worse by 20 %
    is found in more than 99 % of cases if the difference scatters by less than a sixth of the loss from batch to batch."""
    seeds = rng.integers(2**32, size=BATCHES)
    average, last = (np.array([loss(f, x0, np.random.default_rng(s)) for s in seeds]) for f in (ema_model, model))
    gap = average - last
    if average.mean() > 1.1 * last.mean() and gap.mean() > STANDARD_ERRORS * standard_error(gap):
        return Finding(
            "ema_model",
            "the averaged weights are older than the run",
            expected=f"a loss of at most {1.1 * last.mean():.4g}",
            seen=f"{average.mean():.4g}, where the last weights have {last.mean():.4g}",
            look="the decay: after n steps decayⁿ of the random start is left; warm it up, or train longer",
            chance=FALSE_ALARM,
        )


def loss_is_above_its_floor(losses, loss, data, diffusion, rng):
    """The last tenth of the training losses lies between what is possible and what is worth calling learned:

        exact denoiser of the data  ≤  loss  ≤  half-way from there to the loss of zeros as output

    Random: it alarms five standard errors outside. A loss eight standard errors outside is found in more than 99 % of
    cases, so one that never moved always is. The floor is that of at most 2000 of the examples."""
    last = np.asarray(losses, np.float64)[-max(20, len(losses) // 10) :]
    if len(last) < 20:
        raise CannotTell("it needs the losses of 20 steps or more")
    some = np.asarray(data)[rng.permutation(len(data))[:POINTS]]
    best, _ = spied(Oracle(diffusion, some), diffusion.schedule.T)
    batches = [(some[rng.integers(len(some), size=BATCH)], int(rng.integers(2**32))) for _ in range(BATCHES)]
    floor, zero = (np.array([loss(f, x0, np.random.default_rng(s)) for x0, s in batches]) for f in (best, answer_zero))
    error = np.hypot(standard_error(floor), standard_error(last))
    seen = f"{last.mean():.4g} ± {standard_error(last):.2g} in the last {len(last)} steps"
    if last.mean() < floor.mean() - STANDARD_ERRORS * error:
        return Finding(
            "loss",
            "the loss is lower than possible",
            expected=f"at least {floor.mean():.4g}, that of the exact denoiser of the data",
            seen=seen,
            look="whether x_t is what the schedule says, and whether the answer leaks to the network",
            chance=FALSE_ALARM,
        )
    half = (floor.mean() + zero.mean()) / 2
    if not last.mean() <= half + STANDARD_ERRORS * error:
        return Finding(
            "losses",
            "the loss is stuck, or the run too short",
            expected=f"below {half:.4g}, half-way from zeros as output ({zero.mean():.4g}) to the floor "
            f"({floor.mean():.4g})",
            seen=seen,
            look="train longer; if the loss no longer falls: the learning rate, the gradients, the target",
            chance=FALSE_ALARM,
        )


def standard_error(x: np.ndarray) -> float:
    """Of the mean of independent numbers."""
    return float(x.std(ddof=1) / np.sqrt(len(x)))
