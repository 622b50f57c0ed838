"""Figures, histograms and pictures of arrays."""

import numpy as np
import pytest

from scratchdiff.page.pictures import BARS, FIRST, SHADES, histogram, picture, summary


def levels(text):
    return np.frombuffer(text.encode(), np.uint8).astype(int) - FIRST


def test_the_shades_are_the_entries_to_within_half_a_level_and_zero_is_level_zero(rng):
    a = rng.standard_normal((7, 9))
    a[2, 3] = 0
    pic = picture(a, 100)
    shown = levels(pic["px"]).reshape(7, 9)
    assert pic["scale"] == np.abs(a).max() and shown[2, 3] == 0
    np.testing.assert_allclose(shown / SHADES * pic["scale"], a, atol=0.5 / SHADES * pic["scale"] * (1 + 1e-9))


def test_a_picture_has_at_most_as_many_pixels_as_it_may_and_says_what_it_leaves_out(rng):
    for shape, weight in [((8, 28, 28, 32), False), ((3, 3, 64, 128), True), ((500, 700), False), ((2, 3, 90, 100), False),
                          ((4000,), False), ((2, 60, 60, 1), False)]:  # fmt: skip
        pic = picture(rng.standard_normal(shape), 2000, weight)
        assert len(pic["px"]) == pic["lines"] * pic["across"] * pic["rows"] * pic["width"] <= 2000
        assert " of " in pic["what"] or "1 in" in pic["what"]
    assert picture(rng.standard_normal((2, 3)), 2000)["what"] == "rows × columns"


def test_images_are_shown_by_channel_or_by_batch_and_weights_by_kernel(rng):
    x = rng.standard_normal((2, 4, 4, 5))
    channels = levels(picture(x, 10_000)["px"]).reshape(5, 4, 4)
    np.testing.assert_array_equal(channels, np.rint(x[0].transpose(2, 0, 1) / np.abs(x[0]).max() * SHADES))
    batch = picture(x[..., :1], 10_000)
    assert batch["across"] == 2 and batch["what"] == "images of the batch"
    kernels = picture(rng.standard_normal((3, 3, 5, 7)), 10_000, weight=True)
    assert (kernels["lines"], kernels["across"], kernels["rows"], kernels["width"]) == (5, 7, 3, 3)


def test_what_is_not_finite_is_counted_and_drawn_as_such():
    found = summary(np.array([1.0, np.nan, -np.inf, 0.5]))
    assert found["bad"] == 2 and (found["low"], found["high"]) == (0.5, 1.0)
    np.testing.assert_array_equal(levels(found["pic"]["px"]), [31, -32, -32, 16])


def test_the_histogram_counts_every_entry(rng):
    x = rng.standard_normal(1000)
    counts = np.histogram(x, BARS)[0]
    np.testing.assert_array_equal(levels(histogram(x, x.min(), x.max())), np.ceil(counts * (SHADES / counts.max())))
    assert histogram(np.ones(3), 1.0, 1.0) == ""


@pytest.mark.parametrize("value", [0.0, 1e300, 1e-300])
def test_arrays_of_extreme_size_are_summed_up_without_a_warning(value):
    with np.errstate(all="raise"):
        found = summary(np.full((3, 2), value))
    assert found["low"] == value and (found["ms"] is None) == (value == 1e300)
