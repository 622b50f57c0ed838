"""Reading .npy files without trusting them.

An .npy file is the six bytes \\x93NUMPY, a version, the length of its header, the header (a Python dictionary as text that
names dtype, order and shape), then the numbers as they lie in memory; nothing more. `np.load` evaluates that text and
believes the shape. Here a regular expression is all that a header may be, and its claim must agree with the file's size to
the byte before memory is set aside. So there are no objects, no pickles, no records.
"""

import math
import os
import re
from pathlib import Path

import numpy as np

HEADER = re.compile(
    rb"\{\s*'descr':\s*'([<>|](?:[iu][1248]|f[248]))',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(((?:\d{1,18},\s*)*\d{0,18})\)\s*,?\s*\}\s*"
)
LENGTH_BYTES = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4}  # of the header's own length, by version
MAX_HEADER = 2**16
MAX_BYTES = 2**32  # of a file: more than a laptop should be asked to hold


def read_npy(path) -> np.ndarray:
    """Read an .npy file of integers or floats into an array of the shape and dtype it states. The array is read-only.

    Raises FileNotFoundError if `path` is no file; ValueError, naming it and what was found, if it is not a whole .npy file
    of numbers, or is larger than 4 GiB."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"read_npy: {path} is not a file")
    with open(path, "rb") as file:
        try:
            return parse_npy(file, os.fstat(file.fileno()).st_size)
        except ValueError as error:
            raise ValueError(f"read_npy: {path} {error}") from None


def parse_npy(stream, size: int) -> np.ndarray:
    """The array of an .npy stream that is `size` bytes long. Raises ValueError saying what is wrong with it."""
    if size > MAX_BYTES:
        raise ValueError(f"is {size} bytes long; accepted are at most {MAX_BYTES}")
    magic = stream.read(8)
    if magic not in LENGTH_BYTES:
        raise ValueError(f"is not an .npy file of version 1 or 2; it begins with {magic!r}")
    length = int.from_bytes(stream.read(LENGTH_BYTES[magic]), "little")
    header = stream.read(min(length, MAX_HEADER + 1))
    match = HEADER.fullmatch(header) if len(header) == length <= MAX_HEADER else None
    if match is None:
        raise ValueError(f"is not an .npy file of numbers: its header, {length} bytes long, begins with {header[:80]!r}")
    dtype, shape = np.dtype(match[1].decode()), tuple(int(n) for n in match[3].split(b",") if n.strip())
    claimed, left = math.prod(shape) * dtype.itemsize, size - 8 - LENGTH_BYTES[magic] - length
    if claimed != left or len(shape) > 32:
        raise ValueError(f"claims {dtype} of shape {shape}, which is {claimed} bytes, but holds {left}")
    data = stream.read(claimed)
    if len(data) != claimed:  # it became shorter while it was read
        raise ValueError(f"ends after {len(data)} of {claimed} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if match[2] == b"True" else "C")
