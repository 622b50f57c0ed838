"""Progress bars for the two things that take time: training and sampling."""

from collections.abc import Iterator

from tqdm import tqdm


def watch_training(steps: Iterator, description="training") -> Iterator:
    """Pass on the TrainSteps of `train`, showing the share done, a running mean of the loss and the time left."""
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(total=1.0, desc=description, bar_format=form) as bar:
        mean = None
        for step in steps:
            mean = step.loss if mean is None else 0.98 * mean + 0.02 * step.loss
            bar.set_postfix_str(f"step {step.step}, loss {mean:.4f}", refresh=False)
            bar.update(min(step.progress, 1.0) - bar.n)
            yield step


def watch_sampling(steps: Iterator, total: int, description="sampling") -> Iterator:
    """Pass on the SamplerSteps of a sampler, showing how many of `total` are done and the time left."""
    return tqdm(steps, total=total, desc=description, unit="step")


def watch_batches(batches, description: str) -> Iterator:
    """Pass on the items of a sequence, showing how many are done and the time left."""
    return tqdm(batches, desc=description, unit="batch")
