import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scratchdiff.data
from scratchdiff.data import batches, random_flips

ROOT = Path(scratchdiff.data.__file__).parents[2]


def test_a_batch_is_the_rows_the_rng_picks_with_replacement():
    images = np.random.default_rng(0).standard_normal((5, 2, 3, 1))
    stream, replay = batches(images, 7, np.random.default_rng(1)), np.random.default_rng(1)
    for _ in range(3):
        np.testing.assert_array_equal(next(stream), images[replay.integers(5, size=7)])


def test_restoring_the_rng_resumes_the_stream_and_nothing_else_is_needed():
    images, rng = np.arange(100), np.random.default_rng(2)
    stream = batches(images, 4, rng)
    next(stream)
    state = rng.bit_generator.state
    onwards = [next(stream) for _ in range(3)]
    restored = np.random.default_rng()
    restored.bit_generator.state = state
    resumed = batches(images, 4, restored)
    np.testing.assert_array_equal(onwards, [next(resumed) for _ in range(3)])


def test_making_the_stream_draws_nothing():
    rng = np.random.default_rng(3)
    batches(np.arange(10), 4, rng)
    assert rng.integers(1000) == np.random.default_rng(3).integers(1000)


def test_about_half_of_the_images_are_mirrored_left_to_right_and_the_others_left_alone():
    rng = np.random.default_rng(5)
    images = rng.standard_normal((1000, 2, 3, 1))
    flipped = random_flips(images, rng)
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_array_equal(flipped[~mirrored], images[~mirrored])
    assert 450 < mirrored.sum() < 550


def test_every_row_is_drawn_equally_often():
    stream = batches(np.arange(10), 1000, np.random.default_rng(4))
    counts = np.bincount(np.concatenate([next(stream) for _ in range(10)]))
    np.testing.assert_allclose(counts, 1000, atol=150)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_below_one_is_refused_at_the_call(size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, got {size}"):
        batches(np.arange(3), size, np.random.default_rng(0))


def test_empty_data_is_refused_at_the_call():
    with pytest.raises(ValueError, match="no images"):
        batches(np.empty((0, 28, 28, 1)), 2, np.random.default_rng(0))


def test_importing_the_room_brings_in_nothing_heavy():
    heavy = {"scipy", "matplotlib", "tqdm", "urllib.request", "http.client", "tempfile"}
    # a bare numpy may have some of them already
    code = f"import sys, numpy; before = set(sys.modules); import scratchdiff.data.toy2d, scratchdiff.data.mnist; \
             print(sorted({heavy} & (set(sys.modules) - before)))"
    package = "import types, sys; p = types.ModuleType('scratchdiff'); p.__path__ = ['scratchdiff']; \
               sys.modules['scratchdiff'] = p"  # the room alone, without what the whole package imports
    run = subprocess.run([sys.executable, "-c", f"{package}\n{code}"], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "[]", run.stderr
