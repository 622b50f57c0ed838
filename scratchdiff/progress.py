"""Progress bars for the two things that take time, training and sampling, and how to stop the first politely."""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from tqdm import tqdm


class OneLine(tqdm):
    """A bar for an output that is no terminal, such as a log: a single line, when it ends."""

    def refresh(self, *args, **settings):
        """Draws nothing: `close` does, once."""


def progress_bar(*args, **settings) -> tqdm:
    """tqdm's bar on a terminal, and one line elsewhere."""
    return (tqdm if sys.stderr.isatty() else OneLine)(*args, **settings)


def watch_training(steps: Iterator, description="training") -> Iterator:
    """Pass on the TrainSteps of `train`, showing the share done, a running mean of the loss and the time left."""
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with progress_bar(total=1.0, desc=description, bar_format=form) as bar:
        mean = None
        for step in steps:
            mean = step.loss if mean is None else 0.98 * mean + 0.02 * step.loss
            bar.set_postfix_str(f"step {step.step}, loss {mean:.4f}", refresh=False)
            bar.update(min(step.progress, 1.0) - bar.n)
            yield step


def watch_sampling(steps: Iterable, total: int | None, description="sampling") -> Iterable:
    """Pass on the SamplerSteps of a sampler, showing how many of `total` are done and the time left."""
    return progress_bar(steps, total=total, desc=description, unit="step")


def watch_batches(batches: Iterable, description: str) -> Iterable:
    """Pass on the items of a sequence, showing how many are done and the time left."""
    return progress_bar(batches, desc=description, unit="batch")


@contextmanager
def polite_stop():
    """`with polite_stop() as stop:` Ctrl-C and SIGTERM only set stop.signal, to be looked at between two steps; the second
    one ends the process at once. Afterwards signals do what they did before. In a thread other than the main one, where
    Python allows no handlers, nothing changes."""

    stop = SimpleNamespace(signal=None)  # or the signal's number; by custom a program then ends with code 128 + signal

    def note(number, frame):
        stop.signal = number
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        print("\nfinishing this step and saving; once more to stop at once", file=sys.stderr)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
