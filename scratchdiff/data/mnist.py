"""Handwritten digits: reading IDX files without trusting them, the ten thousand digits beside this file, downloading.

An IDX file is a magic number 0 0 8 d (8: unsigned bytes, d: the number of dimensions), d big-endian 32-bit sizes, then
the bytes in C order; nothing more. Fashion-MNIST and its like use the same format and names, and load the same way.
"""

import gzip
import hashlib
import math
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np

EMBEDDED = Path(__file__).parent / "embedded"
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MAX_UNPACKED = 2**30  # bytes: sixteen times the largest file of MNIST, and a bound on what a file may cost us
MAX_PACKED = 2**24  # bytes: more than any of the four gzipped files
CHUNK = 2**20
SILENCE, PATIENCE = 30, 600  # seconds without a byte, and for a whole file, after which a mirror is given up


def mnist(split="train", root=None):
    """The digits as images in [-1, 1] and what they show.

    split: "train" or "test"; root: a folder of the IDX files, gzipped or not, or None for the ten thousand training
    digits (a thousand of each) that come with the package. Returns images (N, 28, 28, 1) float32, where -1 is paper
    and 1 is ink, and labels (N,) int64 in 0..9.

    Raises ValueError for an unknown split, for the test digits without a root, and for broken files, naming the file;
    FileNotFoundError for missing ones. Source: LeCun, Cortes and Burges 1998; the licence stands in `embedded/`.
    """
    if split not in ("train", "test"):
        raise ValueError(f"mnist: split must be 'train' or 'test', got {split!r}")
    if root is None and split == "test":
        raise ValueError(
            "mnist: the embedded digits are training digits only; for split='test' pass root=, a folder "
            "of the four IDX files, which download_mnist(root) can fetch"
        )
    images, labels = read_pair(EMBEDDED if root is None else root, {"train": "train", "test": "t10k"}[split])
    x = images[..., None].astype(np.float32)
    x /= 127.5  # in place: the whole set is 188 MB
    x -= 1
    return x, labels.astype(np.int64)


def read_pair(root, prefix):
    """The images (N, 28, 28) and labels (N,) in 0..9 of one split, as uint8. prefix: "train" or "t10k"."""
    images_path, labels_path = _find(root, f"{prefix}-images", "idx3"), _find(root, f"{prefix}-labels", "idx1")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"mnist: {images_path} should hold images of shape (N, 28, 28), found {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"mnist: {labels_path} holds labels of shape {labels.shape} for {len(images)} images")
    if labels.max() > 9:
        raise ValueError(f"mnist: {labels_path} should hold labels 0..9, found {labels.max()}")
    return images, labels


def _find(root, stem, kind):
    # both spellings are in circulation: train-images-idx3-ubyte and train-images.idx3-ubyte
    names = [f"{stem}{mark}{kind}-ubyte{ending}" for ending in ("", ".gz") for mark in "-."]
    for name in names:
        if (path := Path(root) / name).is_file():
            return path
    raise FileNotFoundError(f"mnist: {root} has none of {', '.join(names)}")


def read_idx(path):
    """Read an IDX file of unsigned bytes, plain or gzipped (its content tells, not its name), into a uint8 array.

    The header is a claim, checked against the data: memory grows with the bytes found, never with the bytes promised,
    and no file unpacks to more than its header says or to more than 1 GiB.

    Raises FileNotFoundError if `path` is no file; ValueError, naming it and what was found, if it is not a whole IDX
    file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"read_idx: {path} is not a file")
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            return _parse_idx(gzip.GzipFile(fileobj=file) if packed else file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"read_idx: {path} is a broken gzip file: {error}") from error
        except ValueError as error:
            raise ValueError(f"read_idx: {path} {error}") from None


def _parse_idx(stream):
    magic = stream.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise ValueError(f"is not an IDX file of bytes: it should begin with 0 0 8 and 1 to 4, found {list(magic)}")
    ndim = magic[3]
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise ValueError(f"ends inside its header, {4 + len(sizes)} bytes from its beginning")
    shape = struct.unpack(f">{ndim}I", sizes)
    count = math.prod(shape)
    if not 1 <= count <= MAX_UNPACKED:
        raise ValueError(f"claims shape {shape}, which is {count} bytes; accepted are 1 to {MAX_UNPACKED}")
    data = _read_at_most(stream, count + 1)
    if len(data) != count:
        found = f"only {len(data)}" if len(data) < count else "more"
        raise ValueError(f"claims shape {shape}, which is {count} bytes, but holds {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_at_most(stream, limit):
    # one read(limit) would set aside `limit` bytes before it knows that there are so many
    data = bytearray()
    while chunk := stream.read(min(CHUNK, limit - len(data))):
        data += chunk
    return data


def download_mnist(root, mirrors=MIRRORS):
    """Fetch the four files of MNIST into the folder `root`, unpacked, checked by SHA-256: 11 MB to load, 55 MB kept.

    mirrors: addresses of folders that hold the gzipped files, tried in turn for each file. A file that is there
    already and right is kept. All four files appear in `root` at the end, or none and no trace of the attempt.

    Raises ValueError if `root` is no folder or holds another file under one of the names (Fashion-MNIST uses the
    same); OSError, naming the file and what each mirror answered, if none has it whole.
    """
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise ValueError(f"download_mnist: {root} is not a folder")
    missing = []
    for name, digest in SHA256.items():
        if not (root / name).exists():
            missing.append(name)
        elif hashlib.sha256((root / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"download_mnist: {root / name} exists and is not MNIST's; move it away first")
    _install(root, {name: _fetch(name, mirrors) for name in missing})


def _install(root, contents):
    import tempfile

    root.mkdir(parents=True, exist_ok=True)
    # a folder inside `root`, so that a rename, which is all or nothing, stays on one disk
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=root) as folder:
        for name, content in contents.items():
            (Path(folder) / name).write_bytes(content)
        for name in contents:
            os.replace(Path(folder) / name, root / name)


def _fetch(name, mirrors):
    """The unpacked content of one file, from the first mirror that has it whole."""
    import http.client

    failures = []
    for mirror in mirrors:
        url, redirected = f"{mirror.rstrip('/')}/{name}.gz", ""
        try:
            packed, redirected = _load(url)
            return _unpack(packed, SHA256[name])
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}{redirected}: {' '.join(str(error).split()) or type(error).__name__}")
    raise OSError(f"download_mnist: no mirror gave {name}; nothing was kept; {'; '.join(failures)}")


def _load(url):
    import urllib.request

    from tqdm import tqdm

    with urllib.request.urlopen(url, timeout=SILENCE) as response:
        size = response.length or 0  # as the server says, if it does
        if size > MAX_PACKED:
            raise ValueError(f"{size} bytes are too many for a file of MNIST")
        # disable=None: silent where the output is no terminal
        with tqdm(total=size or None, desc=url.rpartition("/")[2], unit="B", unit_scale=True, disable=None) as bar:
            packed, began = bytearray(), time.monotonic()
            while chunk := response.read1(min(CHUNK, MAX_PACKED - len(packed))):
                packed += chunk
                bar.update(len(chunk))
                if time.monotonic() > began + PATIENCE:
                    raise ValueError(f"only {len(packed)} bytes came in {PATIENCE} seconds")
    if len(packed) < size:
        raise ValueError(f"the connection was cut after {len(packed)} of {size} bytes")
    return packed, "" if response.url == url else f", redirected to {response.url}"


def _unpack(packed, digest):
    if packed[:2] != b"\x1f\x8b":
        raise ValueError(f"not a gzip file; it begins with {bytes(packed[:16])!r}")
    inflate = zlib.decompressobj(wbits=31)  # 31: gzip
    try:
        content = inflate.decompress(packed, 2**26)  # 64 MiB: the largest of the four is 47 MB
    except zlib.error as error:
        raise ValueError(f"a broken gzip file: {error}") from error
    if not inflate.eof:
        raise ValueError(f"the gzip file is cut off, or not MNIST's, after {len(content)} bytes of content")
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise ValueError(f"SHA-256 of the content should be {digest}, found {found}")
    return content
