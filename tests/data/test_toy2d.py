import math

import numpy as np
import pytest
from scipy import ndimage

from scratchdiff.data import TOY_NAMES, toy

PI = np.pi
ALL = (*TOY_NAMES, "text:ABC", "text:8")


def draw(name, n=2000, seed=0):
    return toy(name, n, np.random.default_rng(seed))


def moments(weight, *coordinates):
    """Mean and standard deviation of a curve's coordinates, by summing over a fine grid: no formula of toy2d's."""
    mean = np.array([np.average(c, weights=weight) for c in coordinates])
    return mean, np.sqrt([np.average((c - m) ** 2, weights=weight) for c, m in zip(coordinates, mean, strict=True)])


def grid(low, high, cells=200_000):
    return low + (np.arange(cells) + 0.5) * (high - low) / cells


def test_the_names_are_the_eight_sets_and_text_comes_on_top():
    known = "swiss_roll s_curve moons circles spirals checkerboard pinwheel gaussians"
    assert TOY_NAMES == tuple(known.split())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n", [1, 7])
def test_a_draw_has_n_points_in_float64(name, n):
    points = draw(name, n)
    assert points.shape == (n, 2) and points.dtype == np.float64 and np.isfinite(points).all()


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_points_and_another_seed_others(name):
    np.testing.assert_array_equal(draw(name), draw(name))
    assert not np.array_equal(draw(name), draw(name, seed=1))


@pytest.mark.parametrize("name", TOY_NAMES)
def test_the_distribution_has_mean_zero_and_variance_one(name):
    points = draw(name, 200_000)
    np.testing.assert_allclose(points.mean(0), 0, atol=5 / math.sqrt(200_000))
    np.testing.assert_allclose(points.var(0), 1, atol=0.015)


@pytest.mark.parametrize("text", ["ABC", "8", "i%", "a b", "$x$"])
def test_text_has_mean_zero_and_average_variance_one(text):
    points = draw(f"text:{text}", 20_000)
    np.testing.assert_allclose(points.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(points.var(0).mean(), 1, atol=0.03)


def test_swiss_roll_points_lie_on_the_spiral_whose_radius_is_its_angle():
    theta = grid(1.5 * PI, 4.5 * PI)
    mean, std = moments(np.ones_like(theta), theta * np.cos(theta), theta * np.sin(theta))
    raw = draw("swiss_roll") * std + mean
    radius = np.hypot(*raw.T)
    np.testing.assert_allclose(raw / radius[:, None], np.stack([np.cos(radius), np.sin(radius)], 1), atol=1e-6)
    assert 1.5 * PI - 1e-6 <= radius.min() < 5 and 14 < radius.max() <= 4.5 * PI + 1e-6


def test_spirals_points_lie_on_two_opposite_arms_and_spread_evenly():
    theta = grid(0, 3 * PI)
    x, y = theta * np.cos(theta), theta * np.sin(theta)
    _, std = moments(np.tile(theta, 2), np.append(x, -x), np.append(y, -y))  # density proportional to θ
    raw = draw("spirals") * std
    radius = np.hypot(*raw.T)
    arm = (raw * np.stack([np.cos(radius), np.sin(radius)], 1)).sum(1) / radius  # 1 on one arm, -1 on the other
    np.testing.assert_allclose(np.abs(arm), 1, atol=1e-6)
    assert abs(arm.mean()) < 0.1
    assert abs((radius**2 / (3 * PI) ** 2).mean() - 0.5) < 0.03


def test_s_curve_points_lie_on_two_circles_that_touch_at_the_middle():
    theta = grid(-1.5 * PI, 1.5 * PI)
    _, std = moments(np.ones_like(theta), np.sin(theta), np.sign(theta) * (np.cos(theta) - 1))
    x, y = (draw("s_curve") * std).T
    np.testing.assert_allclose(np.hypot(x, np.abs(y) - 1), 1, atol=1e-6)
    assert (x[(np.abs(y) > 1) & (y > 0)] <= 1).all() and x[(y > 0) & (y < 1)].max() <= 0 <= x[(y < 0) & (y > -1)].min()


def test_moons_points_lie_on_two_half_circles():
    theta = grid(0, PI)
    x, y = np.cos(theta), np.sin(theta)
    mean, std = moments(np.ones(2 * len(x)), np.append(x, 1 - x), np.append(y, 0.5 - y))
    raw = draw("moons") * std + mean
    upper = np.abs(np.hypot(*raw.T) - 1) < 1e-6
    lower = np.abs(np.hypot(*(raw - [1, 0.5]).T) - 1) < 1e-6
    assert (upper | lower).all() and 0.4 < upper.mean() < 0.6
    assert raw[upper, 1].min() > -1e-6 and raw[lower, 1].max() < 0.5 + 1e-6


def test_circles_have_two_radii_one_twice_the_other():
    radius = np.hypot(*draw("circles").T)
    outer = radius > 1.2
    np.testing.assert_allclose(radius[outer], math.sqrt(16 / 5))
    np.testing.assert_allclose(radius[~outer], math.sqrt(16 / 5) / 2)
    assert 0.4 < outer.mean() < 0.6


def test_checkerboard_occupies_every_other_square_of_sixteen_equally():
    cells = np.floor(draw("checkerboard", 8000) * math.sqrt(4 / 3) + 2).astype(int)
    counts = np.zeros((4, 4), int)
    np.add.at(counts, tuple(cells.T), 1)
    black = np.add.outer(np.arange(4), np.arange(4)) % 2 == 0
    assert (counts[~black] == 0).all()
    assert (np.abs(counts[black] - 1000) < 5 * math.sqrt(1000)).all()


def test_gaussians_are_eight_equal_clusters_on_a_circle():
    points = draw("gaussians", 8000)
    angle = PI * np.arange(8) / 4
    centres = np.stack([np.cos(angle), np.sin(angle)], 1) / math.sqrt(0.51)
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(1)
    np.testing.assert_allclose(np.bincount(nearest), 1000, atol=5 * math.sqrt(1000))
    np.testing.assert_allclose((points - centres[nearest]).std(0), 0.1 / math.sqrt(0.51), rtol=0.05)


def test_pinwheel_looks_the_same_after_a_fifth_of_a_turn():
    points = draw("pinwheel", 20_000)
    z = points[:, 0] + 1j * points[:, 1]
    for k in range(1, 10):
        harmonic = abs(np.mean((z / abs(z)) ** k))
        assert harmonic < 0.03 if k % 5 else harmonic > 0.1


@pytest.mark.parametrize("text, holes", [("A", 1), ("B", 2), ("O", 1), ("8", 2), ("C", 0), ("L", 0)])
def test_the_holes_of_letters_stay_empty(text, holes):
    points = draw(f"text:{text}", 40_000)
    filled = np.pad(np.histogram2d(*points.T, bins=50)[0] > 0, 1)
    regions = np.bincount(ndimage.label(~filled)[0].ravel())[1:]
    assert (regions > 4).sum() == holes + 1, regions  # the outside is a region too; a stray pixel is none


def test_letters_are_filled_uniformly_by_area():
    x, y = draw("text:I", 40_000).T  # a bold I is one upright bar
    for coordinate in (x, y):
        counts = np.histogram(coordinate, bins=10)[0]
        np.testing.assert_allclose(counts, 4000, atol=5 * math.sqrt(4000))


def test_both_of_two_letters_get_the_same_share_and_text_is_wider_than_one_letter():
    one, two = draw("text:I", 4000), draw("text:II", 4000)
    assert np.ptp(two[:, 0]) / np.ptp(two[:, 1]) > 2 * np.ptp(one[:, 0]) / np.ptp(one[:, 1])
    assert abs((two[:, 0] < 0).mean() - 0.5) < 0.05 and np.abs(two[:, 0]).min() > 0.1


def test_letters_keep_their_proportions_and_stand_upright():
    x, y = draw("text:L", 4000).T
    assert 1.2 < np.ptp(y) / np.ptp(x) < 1.6
    assert x[y > 0].max() < 0.5 and y[x > 1].max() < -0.5  # the stroke stands on the left, the foot lies below


def test_dollars_are_letters_and_not_mathematics():
    assert np.ptp(draw("text:$x$")[:, 0]) > 3 * np.ptp(draw("text:$x$")[:, 1]) / 2


@pytest.mark.parametrize("name", ["swissroll", "", "text", "moons:A", None, 3, ["moons"]])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError) as error:
        draw(name)
    assert repr(name) in str(error.value)
    assert all(known in str(error.value) for known in (*TOY_NAMES, "text:ABC"))


@pytest.mark.parametrize("n", [0, -3])
def test_fewer_than_one_point_is_refused(n):
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
        draw("moons", n)


@pytest.mark.parametrize("text", ["", " ", "   "])
def test_text_with_nothing_to_fill_is_refused(text):
    with pytest.raises(ValueError, match="nothing to fill"):
        draw(f"text:{text}")


@pytest.mark.parametrize("text", ["A\n", "\t", "\x00", "日", "A\u200b"])
def test_a_letter_the_font_lacks_is_refused_by_name(text):
    with pytest.raises(ValueError, match="no letter for") as error:
        draw(f"text:{text}")
    assert "\n" not in str(error.value)
