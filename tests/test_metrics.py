"""The judge is right about digits, and its distance is the one of normal distributions."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

import scratchdiff as sd
from scratchdiff.metrics import (
    DigitClassifier,
    classify,
    frechet_distance,
    judge,
    load_classifier,
    nearest_digits,
    precision_recall,
    sliced_wasserstein,
)

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it


@pytest.fixture(scope="module")
def digits():
    images, labels = sd.data.mnist()
    some = np.random.default_rng(0).choice(len(images), 1500, replace=False)
    return images[some], labels[some]


def test_the_classifier_is_small_and_knows_the_embedded_digits(digits):
    from scratchdiff.metrics import WEIGHTS

    assert all(path.stat().st_size < 200_000 for path in WEIGHTS.values())
    assert (classify(digits[0])[1].argmax(1) == digits[1]).mean() > 0.99


def test_looking_gives_features_and_probabilities_whatever_the_batch(digits):
    features, probabilities = classify(digits[0][:7])
    assert features.shape == (7, 96) and probabilities.shape == (7, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(classify(digits[0][2:3])[0], features[2:3], atol=1e-5)


def test_the_classifier_gradient_matches_finite_differences(rng):
    classifier = DigitClassifier(rng=rng, dtype=np.float64)
    images = rng.standard_normal((2, 28, 28, 1))
    parameters = classifier.parameters().values()
    error = sd.gradcheck(lambda *_: sd.ops.cross_entropy(classifier(images), [3, 7]), *parameters, max_probes=1)
    assert error < 1e-7


def test_frechet_distance_is_zero_for_equal_sets_and_the_squared_shift_for_moved_ones(rng):
    a = rng.standard_normal((200, 5))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 5)


def test_frechet_distance_agrees_with_the_formula_through_sqrtm(rng):
    a, b = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6)), rng.standard_normal((200, 6)) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_frechet_distance_of_one_dimension_is_that_of_two_normals(rng):
    a, b = rng.standard_normal((50, 1)), 3 * rng.standard_normal((60, 1)) + 1
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_precision_and_recall_of_equal_sets_are_one_and_of_distant_sets_zero(rng):
    a = rng.standard_normal((100, 4))
    assert precision_recall(a, a) == (1.0, 1.0)
    assert precision_recall(a, a + 100) == (0.0, 0.0)


def test_samples_of_one_mode_of_two_have_full_precision_and_half_the_recall(rng):
    real = rng.standard_normal((400, 2)) + np.repeat([[0.0, 0.0], [50.0, 0.0]], 200, axis=0)
    samples = real[:200]
    precision, recall = precision_recall(samples, real)
    assert precision == 1.0 and recall == 0.5


def test_precision_counts_the_points_within_the_radius_of_the_kth_neighbour():
    real = np.array([[0.0], [1.0], [3.0], [7.0]])  # radii to the second neighbour: 3, 2, 3, 6
    samples = np.array([[-3.0], [-3.1], [13.0], [13.1]])
    assert precision_recall(samples, real, k=2)[0] == 0.5


def test_the_judge_ranks_digits_before_blurred_digits_before_noise(digits, rng):
    images = digits[0][:300]
    blurred = (images + np.roll(images, 2, 1) + np.roll(images, 2, 2) + np.roll(images, -2, 1)) / 4
    noise = np.clip(rng.standard_normal(images.shape), -1, 1)
    real, blurry, none = (judge(x, digits[0]) for x in (images, blurred, noise))
    assert real.frechet < blurry.frechet < none.frechet
    assert real.confident > 0.95 > blurry.confident


def test_the_judge_sees_a_missing_balance_and_memorised_digits(digits):
    images, labels = digits
    assert judge(images, images).balance > 0.99
    ones = judge(images[labels == 1], images)
    assert ones.classes[1] > 0.98 and ones.balance < 0.05
    np.testing.assert_allclose(ones.nearest, 0, atol=1e-3)
    assert "Fréchet distance" in str(ones) and "confident" in str(ones)


@pytest.mark.skipif(not FASHION.is_dir(), reason=f"needs Fashion-MNIST in {FASHION}")
def test_the_classifier_of_clothes_knows_them_and_judges_noise_to_be_none(rng):
    images, labels = sd.data.mnist("test", FASHION)
    assert (classify(images[:2000], "fashion")[1].argmax(1) == labels[:2000]).mean() > 0.85
    real, noise = (
        judge(x, images[:1000], data="fashion") for x in (images[1000:1200], rng.uniform(-1, 1, (200, 28, 28, 1)))
    )
    assert real.frechet < 0.1 * noise.frechet and real.recall > 0.5 > noise.recall


def test_nearest_digits_finds_the_digit_a_sample_was_made_from(digits, rng):
    images = digits[0][:50]
    order = rng.permutation(50)
    nearest, distance = nearest_digits(images[order] + 0.1, images)
    assert np.array_equal(nearest, order)
    np.testing.assert_allclose(distance, 0.1, atol=1e-5)


@pytest.mark.parametrize("call", [
    lambda: classify(np.zeros((2, 28, 28))),
    lambda: classify(np.full((2, 28, 28, 1), np.nan)),
    lambda: classify(np.zeros((0, 28, 28, 1))),
    lambda: frechet_distance(np.zeros((3, 2)), np.zeros((3, 4))),
    lambda: frechet_distance(np.zeros((1, 2)), np.zeros((3, 2))),
])  # fmt: skip
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match="needs"):
        call()


def test_the_classifier_is_loaded_once():
    assert load_classifier() is load_classifier()


def test_the_sliced_distance_of_two_shifted_sets_is_the_mean_length_of_the_projected_shift(rng):
    a, shift = rng.standard_normal((300, 2)), np.array([3.0, 4.0])
    distance = sliced_wasserstein(a, a + shift, directions=4000)
    assert distance == pytest.approx(5 * 2 / np.pi, rel=0.03)  # E|cos| over the circle is 2/π
    assert sliced_wasserstein(a, a[::-1]) == pytest.approx(0, abs=1e-12)
