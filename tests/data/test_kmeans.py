"""k-means finds groups, as SciPy's does from the same start, and keeps an empty group's mean."""

import numpy as np
from scipy.cluster.vq import kmeans2

from scratchdiff.data import kmeans, mnist


def test_the_groups_are_those_of_scipy_from_the_same_means(rng):
    x = rng.standard_normal((200, 3, 2))
    first = x.reshape(200, 6)[np.random.default_rng(1).choice(200, 7, replace=False)]
    for iterations in (1, 2, 50):
        groups = kmeans(x, 7, np.random.default_rng(1), iterations)
        np.testing.assert_array_equal(groups, kmeans2(x.reshape(200, 6), first, iter=iterations, minit="matrix")[1])


def test_groups_far_apart_are_found_exactly(rng):
    truth = np.arange(30) % 3
    x = 100.0 * truth[:, None] + rng.standard_normal((30, 2))
    found = [kmeans(x, 3, np.random.default_rng(seed)) for seed in range(9)]
    same = [all(len(set(truth[groups == j])) == 1 for j in set(groups)) for groups in found]
    assert any(same)


def test_equal_points_leave_groups_empty_and_do_no_harm(rng):
    assert (kmeans(np.ones((5, 2)), 3, rng) == 0).all()


def test_the_groups_do_not_depend_on_the_order_in_which_pixels_are_added_up():
    digits = mnist()[0][:4000]
    turned = digits.transpose(0, 2, 1, 3)
    groups, of_turned = (kmeans(x, 16, np.random.default_rng(0)) for x in (digits, turned))
    np.testing.assert_array_equal(groups, of_turned)


def test_most_digits_of_a_group_have_one_label_which_it_was_not_shown():
    digits, labels = mnist()
    groups = kmeans(digits, 64, np.random.default_rng(0))
    largest = [np.bincount(labels[groups == j]).max() for j in np.unique(groups)]
    assert sum(largest) > 0.75 * len(digits)
