"""Published weights on disk. A file is a claim, checked before it costs memory; nothing in it is ever executed.

A .safetensors file is 8 bytes, the length n of its header (little-endian); n bytes of JSON, {name: {"dtype", "shape",
"data_offsets": [begin, end]}}; and then the numbers of all tensors, end to end. We check by hand that the header says just
that of the file's bytes, and the `safetensors` package reads them.
"""

import json
import math
import os
from pathlib import Path

import numpy as np

from scratchdiff.checks import require

DTYPES = {"F16": np.dtype(np.float16), "F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
MAX_JSON = 2**22  # bytes: the header of some ten thousand tensors, or a schedule of a hundred thousand steps


def safetensors_package():
    """The `safetensors` package with its NumPy interface. Raises ImportError that says how to install it."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError("weights: needs the package safetensors: pip install 'scratchdiff[diffusers]'") from None
    return safetensors


def read_json(path) -> dict:
    """The JSON object in a file. ValueError naming the file if it holds none, or more than MAX_JSON bytes; OSError."""
    path = Path(path)
    require(path.stat().st_size <= MAX_JSON, f"{path}: larger than the {MAX_JSON} bytes that a configuration takes")
    return parse_json(path.read_bytes(), path)


def parse_json(text: bytes, path) -> dict:
    """The JSON object in `text`, no name in it twice. Raises the ValueError that names path."""

    def once(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name comes twice")
        return dict(pairs)

    try:
        found = json.loads(text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not the JSON that it should be: {str(error)[:100]}") from None
    require(isinstance(found, dict), f"{path}: its JSON should be an object", found=type(found).__name__)
    return found


def read_header(path) -> dict[str, tuple]:
    """{name: shape} of the tensors in a .safetensors file, whose numbers are not read.

    Raises ValueError naming the file and what is wrong: a pickle, a header that is cut off or too long, a dtype other than
    float16, float32 and float64, tensors that overlap, leave gaps, or are not as long as their shapes; FileNotFoundError."""
    path = Path(path)
    refuse_pickle(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        fits = size >= 8 and length <= min(size - 8, MAX_JSON)
        require(fits, f"{path}: a header of {length} bytes in a file of {size}; is it cut off, or no .safetensors file?")
        header = parse_json(file.read(length), path)
    header.pop("__metadata__", None)
    spans = sorted((*check_entry(path, name, entry), name) for name, entry in header.items())
    end = 0
    for begin, stop, name in spans:
        require(begin == end, f"{path}: {name[:80]!r} should begin at byte {end}, where the last tensor ends", begin=begin)
        end = stop
    require(end == size - 8 - length, f"{path}: its tensors take {end} bytes, and it has {size - 8 - length} for them")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def check_entry(path, name: str, entry) -> tuple[int, int]:
    """(begin, end) of a tensor's bytes. Raises ValueError unless its entry in the header fits them."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    known = isinstance(dtype, str) and dtype in DTYPES
    require(known, f"{path}: {name[:80]!r} must be of F16, F32 or F64", dtype=str(dtype)[:80])
    whole = all(isinstance(a, list) and len(a) < 8 and all(type(n) is int and n >= 0 for n in a) for a in (shape, offsets))
    fits = whole and len(offsets) == 2 and offsets[1] - offsets[0] == math.prod(shape) * DTYPES[dtype].itemsize
    shown = f"shape {str(shape)[:80]} at bytes {str(offsets)[:80]}"
    require(fits, f"{path}: {name[:80]!r} is {dtype} of {shown}, which do not agree")
    return tuple(offsets)


def refuse_pickle(path: Path) -> None:
    """Raise ValueError if a file is a pickle by its name, or is not there and a pickle is in its place."""
    if path.suffix in PICKLES or not path.exists():
        for found in (path, path.with_suffix(".bin")):
            advice = "where you trust it, convert it: safetensors.torch.save_file(torch.load(FILE), 'FILE.safetensors')"
            is_pickle = found.suffix in PICKLES and found.exists()
            require(not is_pickle, f"{found} is a pickle, which can run any program, so we do not open it; {advice}")


def read_tensors(path) -> dict[str, np.ndarray]:
    """{name: array} of a .safetensors file. Raises as `read_header` does, and ImportError without `safetensors`."""
    read_header(path)
    package = safetensors_package()
    try:
        return package.numpy.load_file(path)
    except package.SafetensorError as error:
        raise ValueError(f"{path}: {error}") from None


def write_tensors(path, tensors: dict[str, np.ndarray]) -> None:
    """Write {name: array} as a .safetensors file: beside it first, then renamed, so that `path` is never half a file."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    arrays = {name: np.ascontiguousarray(a) for name, a in tensors.items()}
    try:
        safetensors_package().numpy.save_file(arrays, temporary, metadata={"format": "pt"})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
