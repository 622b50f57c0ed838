"""Choose the digits that come with the package: `python -m scratchdiff.data.embed DIR`.

DIR holds the training files of MNIST. Run once by whoever maintains the package; the result is `embedded/`.
"""

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

from scratchdiff.data.mnist import EMBEDDED, read_pair


def embed(root, out=EMBEDDED, per_class=1000):
    """Write the first `per_class` training digits of each class, in their original order, as two gzipped IDX files.

    Raises ValueError if `root` has fewer of some class.
    """
    images, labels = read_pair(root, "train")
    counts = np.bincount(labels, minlength=10)
    if counts.min() < per_class:
        raise ValueError(f"embed: {root} has only {counts.min()} of digit {counts.argmin()}, need {per_class}")
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == digit)[:per_class] for digit in range(10)]))
    write_idx(Path(out) / "train-images-idx3-ubyte.gz", images[chosen])
    write_idx(Path(out) / "train-labels-idx1-ubyte.gz", labels[chosen])


def write_idx(path, array):
    """Write a uint8 array as a gzipped IDX file, the same bytes each time: the header holds neither time nor name."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(header + array.tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Choose a thousand training digits of each class to embed.")
    parser.add_argument("dir", help="a folder of the MNIST files")
    embed(parser.parse_args().dir)
