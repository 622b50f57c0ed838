"""What the models learn from: 2-D toy sets, handwritten digits, and the batches drawn from either.

Read `toy2d.py` first: eight distributions whose shape, mean and variance are known exactly, and letters of your
choice. `mnist.py` reads the digits, either the ten thousand in `embedded/`, chosen by `embed.py`, or the whole set
from a folder; `npy.py` reads arrays of your own and `images.py` a folder of pictures. All data has roughly the scale of
the noise that will be added: toy sets have mean 0 and variance 1, pixels lie in [-1, 1]. `kmeans.py` finds groups of
similar images.
"""

import itertools

import numpy as np

from scratchdiff.checks import require
from scratchdiff.data.ecg import ecg
from scratchdiff.data.heartbeats import heartbeats
from scratchdiff.data.images import read_images
from scratchdiff.data.kmeans import kmeans
from scratchdiff.data.mnist import download_mnist, mnist, read_idx
from scratchdiff.data.npy import read_npy
from scratchdiff.data.toy2d import TOY_NAMES, toy

__all__ = [
    "TOY_NAMES",
    "batches",
    "download_mnist",
    "ecg",
    "heartbeats",
    "kmeans",
    "mnist",
    "random_flips",
    "read_idx",
    "read_images",
    "read_npy",
    "toy",
]


def batches(images, batch_size, rng):
    """Endless batches of `images`, each drawn uniformly with replacement.

    images: an array (N, ...) of any kind; batch_size: at least 1, and it may exceed N; rng: np.random.Generator.
    Yields arrays (batch_size, ...). There are no epochs, so the state of `rng` is all that a run must save to go on
    where it stopped. Images with their labels: let the batches be indices, `batches(np.arange(N), batch_size, rng)`.

    Raises ValueError, at the call, if batch_size < 1 or there are no images.
    """
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"batches: batch_size must be at least 1, got {batch_size!r}")
    if len(images) == 0:
        raise ValueError("batches: there are no images to draw from")
    # an expression rather than `yield`, which would put off the two checks until the first batch
    return (images[rng.integers(len(images), size=batch_size)] for _ in itertools.repeat(None))


def random_flips(images, rng):
    """The images (N, H, W, C), each mirrored left to right with probability ½, as an array of its own.

    A mirrored coat is a coat, so the mirror doubles the data; a mirrored 3 is no digit. rng: np.random.Generator.
    Raises ValueError for other than four axes."""
    images = np.asarray(images)
    require(images.ndim == 4, "random_flips: needs images (N, H, W, C)", images=images)
    return np.where(rng.random((len(images), 1, 1, 1)) < 0.5, images[:, :, ::-1], images)
