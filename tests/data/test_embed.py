import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scratchdiff.data
from scratchdiff.data import mnist, read_idx
from scratchdiff.data.embed import embed, write_idx

ROOM = Path(scratchdiff.data.__file__).parent
PACKED = {
    "train-images-idx3-ubyte.gz": "26caff5ba6f746326c6d53a178f1e53b728f8a72f041746bd77f97880c8960b0",
    "train-labels-idx1-ubyte.gz": "2c86dff031253db103804c4362d483d164f8981eb0add3f982af362ced9eba3b",
}


@pytest.fixture
def root(tmp_path):
    """Forty digits in a folder, each image marked with its place."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.uint8), 4))
    images = np.zeros((40, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(40)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)
    return tmp_path


def test_the_embedded_files_are_the_ones_their_readme_describes():
    readme = (ROOM / "embedded" / "README.md").read_text(encoding="utf-8")
    for name, digest in PACKED.items():
        file = ROOM / "embedded" / name
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
        array = read_idx(file)
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        assert hashlib.sha256(header + array.tobytes()).hexdigest() in readme
    for words in ("Yann LeCun and Corinna Cortes", "ShareAlike 3.0", "python -m scratchdiff.data.embed DIR"):
        assert words in readme


def test_the_embedded_files_take_less_than_two_megabytes():
    assert sum(file.stat().st_size for file in (ROOM / "embedded").iterdir()) < 2_000_000


def test_the_embedded_digits_are_a_thousand_of_each_class_mixed_as_in_the_original():
    images, labels = mnist()
    assert images.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(labels), [1000] * 10)
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # the well-known beginning of MNIST


def test_embedding_takes_the_first_of_each_class_in_original_order(root, tmp_path):
    labels = read_idx(root / "train-labels-idx1-ubyte.gz")
    out = tmp_path / "out"
    out.mkdir()
    embed(root, out, per_class=3)
    kept = [i for i in range(40) if (labels[:i] == labels[i]).sum() < 3]
    np.testing.assert_array_equal(read_idx(out / "train-images-idx3-ubyte.gz")[:, 0, 0], kept)
    np.testing.assert_array_equal(read_idx(out / "train-labels-idx1-ubyte.gz"), labels[kept])


def test_packing_the_embedded_digits_again_gives_the_same_bytes(tmp_path):
    # the small file only: another zlib (zlib-ng) may pack otherwise, so what must hold everywhere is the content
    array = read_idx(ROOM / "embedded" / "train-labels-idx1-ubyte.gz")
    for name in ("one.gz", "two.gz"):
        write_idx(tmp_path / name, array)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    np.testing.assert_array_equal(read_idx(tmp_path / "one.gz"), array)


def test_too_few_of_a_class_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="has only 4 of digit 0, need 5"):
        embed(root, tmp_path, per_class=5)


def test_the_script_says_what_it_wants():
    run = subprocess.run(
        [sys.executable, "-m", "scratchdiff.data.embed", "--help"], capture_output=True, text=True, cwd=ROOM.parents[1]
    )
    assert run.returncode == 0 and "folder of the MNIST files" in run.stdout
