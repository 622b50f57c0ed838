"""Feed the readers files that are random, damaged or malicious, and see that each is read or refused in one line.

    python tests/robustness/fuzz_files.py [--files 100000] [--seed 0]

Readers: read_idx (plain and gzipped), read_npy, load_checkpoint. A file must give an array or a ValueError of one line
within a second, in a process that may not take more than 512 MB of memory beyond what it had. A checkpoint that is accepted
after random damage must hold the very arrays that were saved (its CRCs see to that). Object arrays that would write a
file when unpickled are among the malicious; none may come to be executed. About a thousand files a second.
"""

import argparse
import gzip
import io
import pickle
import struct
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

import scratchdiff as sd
from scratchdiff.checkpoint import load_checkpoint, save_checkpoint
from scratchdiff.data import read_idx, read_npy

NUMBERS = (0, 1, 2, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
NAMES = ("../../escape.npy", "/etc/escape.npy", "model/../../x.npy", "model/w.npy", "ema/w.npy", "adam_m/w.npy", "meta.npy",
         "losses.npy", "model/é.npy", "model/" + "x" * 300 + ".npy", "model\\w.npy", "model/a/b.npy")  # fmt: skip


class Canary:
    """Unpickled, it writes the file `where`."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return Path.touch, (self.where,)


def damaged(data: bytes, rng, others) -> bytes:
    """A few random changes to a file: bits, bytes, numbers, cuts, repeats, insertions, pieces of other files."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, kind = int(rng.integers(0, max(1, len(data)))), rng.integers(8)
        length = int(rng.integers(1, 40))
        if kind == 0 and data:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and data:
            data[at] = int(rng.integers(256))
        elif kind == 2:
            number = int(rng.choice(NUMBERS))
            data[at : at + 4] = struct.pack("<I" if rng.random() < 0.5 else ">I", number)
        elif kind == 3:
            data = data[:at]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            data[at:at] = rng.bytes(length)
        elif kind == 6:
            del data[at : at + length]
        else:
            other = others[rng.integers(len(others))]
            start = int(rng.integers(0, len(other)))
            data[at : at + length] = other[start : start + length]
    return bytes(data)


def npy_file(rng, canary) -> bytes:
    """An .npy file, whole, with a header of its own invention, or with a pickle in it."""
    file = io.BytesIO()
    kind = rng.integers(4)
    if kind == 0:
        np.save(file, np.array([canary], dtype=object), allow_pickle=True)
    elif kind == 1:
        np.save(
            file, rng.integers(0, 9, tuple(rng.integers(0, 4, rng.integers(0, 4)))).astype(rng.choice(["<f4", "u1", ">i8"]))
        )
    else:
        descr = rng.choice(
            ["'<f4'", "'|O'", "'<f2'", "'<U9'", "[('a', '<f4')]", "'>f8'", "__import__('os')", "'<f4'*9", "'|V9'"]
        )
        shape = rng.choice(
            ["()", "(3,)", "(-1,)", "(2, 3)", "(99999999999,)", "(0, 999999999)", "((1,),)", "(1e9,)", "[3]", "3"]
        )
        header = (
            f"{{'descr': {descr}, 'fortran_order': {rng.choice(['True', 'False', '1'])}, 'shape': {shape}, }}\n".encode()
        )
        version = rng.choice([b"\1\0", b"\2\0", b"\3\0", b"\0\0"])
        length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
        file.write(b"\x93NUMPY" + version + length + header + (b"" if kind == 2 else pickle.dumps(canary)))
    return file.getvalue()


def zip_file(rng, canary, whole: dict) -> bytes:
    """An archive with right CRCs: a checkpoint in which some members are others, doubled, compressed or named as paths."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compresslevel=1) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice: that is the point
        for name, content in whole.items():
            for _ in range(1 + (rng.random() < 0.1)):
                if rng.random() < 0.15:
                    content = damaged(content, rng, [*whole.values()])
                if rng.random() < 0.1:
                    content = npy_file(rng, canary)
                if rng.random() < 0.05:
                    content = bytes(2_000_000)  # packed, a bomb of 2 KB
                packing = zipfile.ZIP_DEFLATED if len(content) > 10**6 or rng.random() < 0.05 else zipfile.ZIP_STORED
                name = str(rng.choice(NAMES)) if rng.random() < 0.1 else name
                archive.writestr(name, content, packing)
    return file.getvalue()


def idx_file(rng) -> bytes:
    """An IDX file whose sizes may be anything."""
    sizes = [int(n) for n in rng.choice(NUMBERS, rng.integers(0, 6))]
    return bytes([0, 0, 8, len(sizes)]) + b"".join(struct.pack(">I", n) for n in sizes) + rng.bytes(int(rng.integers(0, 99)))


def seeds(folder) -> dict[str, bytes]:
    """One whole file of each kind."""

    class Network(sd.nn.Module):
        def __init__(self):
            self.w, self.b = sd.Tensor(np.arange(6, dtype="f4").reshape(2, 3)), sd.Tensor(np.ones(3, "f4"))

    net = Network()
    path = Path(folder) / "whole.npz"
    optimizer, ema = sd.Adam(net.parameters()), sd.EMA(net.parameters())
    save_checkpoint(path, net, ema, optimizer, np.random.default_rng(0), 3, dict(T=9), 1.5, [3.0, 2.0, 1.0])
    idx = bytes([0, 0, 8, 3]) + struct.pack(">3I", 4, 3, 2) + bytes(range(24))
    npy = io.BytesIO()
    np.save(npy, np.arange(24, dtype="f4").reshape(4, 3, 2))
    return dict(idx=idx, gzip=gzip.compress(idx), npy=npy.getvalue(), checkpoint=path.read_bytes())


READERS = dict(idx=read_idx, gzip=read_idx, npy=read_npy, checkpoint=load_checkpoint)


def same(a, b) -> bool:
    """Whether two loaded checkpoints are equal to the bit."""
    metas = [{key: value for key, value in meta.items() if key != "losses"} for meta, _ in (a, b)]
    flat = [[(g, k, v.dtype, v.shape, v.tobytes()) for g in groups for k, v in groups[g].items()] for _, groups in (a, b)]
    return metas[0] == metas[1] and flat[0] == flat[1] and a[0]["losses"].tobytes() == b[0]["losses"].tobytes()


def fuzz(files: int, seed: int, folder) -> Counter:
    """Do so; return how many files of each kind were read and refused. AssertionError at the first that is neither."""
    rng, folder = np.random.default_rng(seed), Path(folder)
    whole = seeds(folder)
    original = load_checkpoint(folder / "whole.npz")
    with zipfile.ZipFile(folder / "whole.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    canary = Canary(folder / "executed")
    counts = Counter()
    for i in range(files):
        kind = list(whole)[i % 4]
        way = ("damaged", "damaged", "made up", "random")[rng.integers(4)]
        if way == "damaged":
            data = damaged(whole[kind], rng, [*whole.values()])
        elif way == "random":
            data = whole[kind][: rng.integers(0, 12)] + rng.bytes(int(rng.integers(0, 300)))
        elif kind in ("idx", "gzip"):
            data = idx_file(rng) if kind == "idx" else gzip.compress(idx_file(rng), 1)
        else:
            data = npy_file(rng, canary) if kind == "npy" else zip_file(rng, canary, members)
        path = folder / f"fuzzed.{kind}"
        path.write_bytes(data)
        began = time.process_time()  # of this process alone, however busy the machine is
        try:
            found = READERS[kind](path)
            outcome = "read"
            assert kind != "checkpoint" or way != "damaged" or same(found, original), f"file {i}: other arrays"
        except ValueError as error:
            outcome = "refused"
            assert str(path) in str(error) and "\n" not in str(error) and "MemoryError" not in str(error), (
                f"file {i}: {error}"
            )
            assert len(str(error)) < 1000, f"file {i}: {error}"
        counts[f"{kind}: {way}, {outcome}"] += 1
        assert time.process_time() - began < 1, f"file {i} ({kind}, {way}) took {time.process_time() - began:.1f} s"
        assert not canary.where.exists(), f"file {i} ({kind}, {way}) was executed"
    assert {p.name for p in folder.iterdir()} <= {"whole.npz", *(f"fuzzed.{kind}" for kind in whole)}, "files came to be"
    return counts


def limit_memory(more=2**29) -> None:
    """Let this process take no more than so many bytes beyond what it has."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more,) * 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Random, damaged and malicious files for every reader.")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    limit_memory()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        for case, count in sorted(fuzz(options.files, options.seed, scratch).items()):
            print(f"{count:>8,}  {case}")
    print(f"{options.files:,} files, each read or refused in one line; {time.perf_counter() - start:.0f} s")
