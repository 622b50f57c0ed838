"""A run on disk: one .npz of plain arrays, nothing pickled, that holds all that is needed to go on or to sample.

model/NAME, ema/NAME, adam_m/NAME, adam_v/NAME     one array for each parameter
losses                                             of every step so far
meta                                               JSON: format, settings, step, seconds, counters, the generator's state

Writing: a file is either not there or whole, whenever the machine stops. Reading: a file is a claim, checked before it costs
memory. An .npz is a zip archive of .npy files with a CRC-32 each; ours is not compressed, so it cannot unpack to more
than it is.
"""

import json
import math
import os
import re
import struct
import sys
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from scratchdiff.data.npy import parse_npy
from scratchdiff.nn.module import misfits, summary

FORMAT = 2
GROUPS = ("model", "ema", "adam_m", "adam_v")
MEMBER = re.compile(rf"(meta|losses|({'|'.join(GROUPS)})/[\w.]{{1,200}})\.npy")
MAX_BYTES, MAX_DIRECTORY = 2**31 - 1, 2**20  # what a zip archive holds without extensions; ten thousand arrays
META = dict(format=int, settings=dict, step=int, seconds=float, adam_k=int, ema_k=int, rng=dict)
BROKEN = (OSError, EOFError, LookupError, MemoryError, NotImplementedError, OverflowError, RuntimeError, TypeError,
          ValueError, struct.error, zipfile.BadZipFile)  # fmt: skip


def save_checkpoint(path, model, ema, optimizer, rng: np.random.Generator, step: int, settings: dict, seconds=0.0,
                    losses=()) -> None:  # fmt: skip
    """Write everything a run is made of to `path`: to a temporary file beside it, flushed to the disk, then renamed, so that
    `path` is always a whole checkpoint. settings: JSON values that say how model and diffusion were built; seconds: the
    time the run has taken so far; losses: one for each step.

    Raises ValueError for a negative step, settings that are not JSON, or weights or moments that are not finite; OSError if
    the file cannot be written. Either way what was at `path` is still there."""
    groups = dict(model={name: p.data for name, p in model.parameters().items()}, ema=ema.average,
                  adam_m=optimizer.m, adam_v=optimizer.v)  # fmt: skip
    arrays = {f"{group}/{name}": a for group, named in groups.items() for name, a in named.items()}
    bad = [name for name, a in arrays.items() if not np.isfinite(a).all()]
    if bad or step < 0:
        raise ValueError(f"save_checkpoint: step {step} must not be negative; not finite: {', '.join(bad[:5]) or 'none'}")
    if sum(a.nbytes for a in arrays.values()) > MAX_BYTES - 2**25:
        raise ValueError(f"save_checkpoint: the run is larger than the {MAX_BYTES} bytes that can be read back")
    meta = dict(format=FORMAT, settings=settings, step=int(step), seconds=float(seconds), adam_k=optimizer.k, ema_k=ema.k,
                rng=rng.bit_generator.state)  # fmt: skip
    try:
        text = json.dumps(meta, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"save_checkpoint: the settings are not JSON: {error}") from None
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, meta=np.frombuffer(text, np.uint8), losses=np.asarray(losses, np.float64), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            why = f"{error.strerror or error}; what was there is untouched"
            raise OSError(error.errno, f"save_checkpoint: {path} could not be written: {why}") from None
        raise
    flush_folder(path.parent)


def flush_folder(folder) -> None:
    """Make a rename in the folder last through a loss of power. Systems other than POSIX have no such call."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load_checkpoint(path) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
    """(meta, {group: {name: array}}) of a checkpoint; meta["losses"] is the array of losses. Nothing in it is executed, and
    no more memory is taken than the file is long. Whether the arrays fit a model is for `restore` or `Module.load` to say.

    Raises ValueError naming the file if it is no whole checkpoint of this format, FileNotFoundError if it is not there."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_checkpoint: {path} is not there, or is no file")
    try:
        with open(path, "rb") as file, open_archive(file, os.fstat(file.fileno()).st_size) as archive:
            members = directory(archive)
            meta = json.loads(read(archive, members.pop("meta.npy")).tobytes())
            check_meta(meta)
            meta["losses"] = read(archive, members.pop("losses.npy"))
            if meta["losses"].ndim != 1:
                raise ValueError(f"its losses should be a vector, found shape {meta['losses'].shape}")
            groups = {group: {} for group in GROUPS}
            for key, member in members.items():
                group, _, name = key.removesuffix(".npy").partition("/")
                groups[group][name] = read(archive, member)
    except BROKEN as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else f"{error or type(error).__name__}"
        raise ValueError(f"{path}: not a scratchdiff checkpoint: {' '.join(what.split())[:300]}") from None
    return meta, groups


def open_archive(file, size: int) -> zipfile.ZipFile:
    """The zip archive in a file of `size` bytes. Its last 22 bytes say where its directory is and how large: they must be
    right, and the directory small, before it is read. Raises ValueError if they are not."""
    file.seek(max(0, size - 22))
    end = file.read(22).rjust(22)
    entries, length, start, comment = struct.unpack("<HIIH", end[10:])
    if end[:4] != b"PK\5\6" or comment or start + length + 22 != size or length > MAX_DIRECTORY or size > MAX_BYTES:
        raise ValueError(f"its {size} bytes (at most {MAX_BYTES}) do not end as an .npz file does; is it cut off?")
    archive = zipfile.ZipFile(file)
    if len(archive.infolist()) != entries:
        raise ValueError(f"its directory holds {len(archive.infolist())} members where it says {entries}")
    return archive


def directory(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by name. Raises ValueError unless each is as `save_checkpoint` writes it, none comes twice,
    and together they are no larger than what lies before the directory."""
    members = {}
    for member in archive.infolist():
        name = member.filename
        if not MEMBER.fullmatch(name) or name in members:
            raise ValueError(f"it has an unknown or a second {name[:80]!r}")
        packed = member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size
        if packed or member.flag_bits & ~0x800:
            raise ValueError(f"{name[:80]!r} is compressed or encrypted")
        members[name] = member
    if sum(member.file_size for member in members.values()) > archive.start_dir:
        raise ValueError("its directory claims more bytes than it has")
    return members


def read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array. zipfile raises BadZipFile where the CRC-32 differs."""
    with archive.open(member) as stream:
        try:
            return parse_npy(stream, member.file_size)
        except ValueError as error:
            raise ValueError(f"{member.filename} {error}") from None


def check_meta(meta) -> None:
    """Raise ValueError unless meta is what `save_checkpoint` writes, as far as can be told without a model."""
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else meta
        raise ValueError(f"format {str(found)[:80]}, where this version reads {FORMAT}")
    for key, kind in META.items():
        value = meta.get(key)
        if type(value) is not kind or (kind in (int, float) and not 0 <= value < 2**53):
            raise ValueError(f"its {key} should be {kind.__name__}, and not negative, found {str(value)[:80]}")


def restore(meta, groups, model, ema, optimizer, rng: np.random.Generator) -> int:
    """Put a loaded checkpoint into the objects of a run and return its step.

    Raises ValueError, before anything is changed, naming what is missing, unexpected, or of another shape or dtype than in
    the model, and for the state of another kind of generator."""
    parameters = model.parameters()
    for group in GROUPS:
        named = groups.get(group, {})
        complaints = misfits(parameters, named)
        complaints += [f"{name} is {named[name].dtype}, not {p.dtype}" for name, p in parameters.items()
                       if name in named and named[name].dtype != p.dtype]  # fmt: skip
        if complaints:
            raise ValueError(f"restore: {group} does not fit the model: {summary(complaints)}")
    if any((v < 0).any() for v in groups["adam_v"].values()):
        raise ValueError("restore: adam_v, means of squares, has negative entries")
    try:
        type(rng.bit_generator)().state = meta["rng"]  # on trial: a half-set generator would be worse than none
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"restore: no state of a {type(rng.bit_generator).__name__} generator: {error}") from None
    model.load(groups["model"])
    for name in parameters:
        ema.average[name] = groups["ema"][name].copy()
        optimizer.m[name] = groups["adam_m"][name].copy()
        optimizer.v[name] = groups["adam_v"][name].copy()
    optimizer.k, ema.k = meta["adam_k"], meta["ema_k"]
    rng.bit_generator.state = meta["rng"]
    return meta["step"]


class Allotment:
    """Stands in for the generator that a network draws its first weights from, where these are about to be loaded over: it
    gives zeros, and no more of them than the file has, for settings out of a file may ask for a network of any size."""

    def __init__(self, numbers: int):
        self.left = numbers

    def uniform(self, low, high, shape):
        self.left -= math.prod(map(int, shape))
        if self.left < 0:
            raise ValueError("Allotment: the settings describe a larger network than there are weights for")
        return np.zeros(shape)


@contextmanager
def claimed(folder):
    """`with claimed(folder):` one process writes the run in this folder, and what a killed one left half written is cleared.

    The claim is a lock on the file .lock, which the system lets go of when the process ends, however it ends. The file
    itself stays: were it deleted, a third process could lock a new one while a second still holds the old.
    Raises ValueError if another process holds it, OSError if the folder cannot be written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+b") as file:
        try:
            lock(file)
        except OSError:
            raise ValueError(f"{folder} is in use: another process is training there") from None
        for stray in folder.glob("*.npz.*.tmp"):
            if stray.name.split(".")[-2].isdigit():
                stray.unlink()
        yield


def lock(file) -> None:
    """Lock an open file for this process, or raise OSError at once if another has."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
