"""Guidance is its formula, and by Bayes' rule it sharpens exactly as a classifier would."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros

SMALL = dict(image_size=8, in_channels=1, out_channels=1, ch=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(),
             groups=2)  # fmt: skip


@pytest.fixture
def net(rng):
    net = sd.UNet(**SMALL, num_classes=3, dtype=np.float64, rng=rng)
    fill_zeros(net.parameters(), rng)
    return net


def test_guided_is_the_told_answer_plus_the_weight_times_what_telling_changed(net, rng):
    xt, t, labels = rng.standard_normal((2, 8, 8, 1)), np.array([5, 700]), np.array([2, 0])
    told, untold = net(xt, t, labels=labels).data, net(xt, t).data
    assert not np.allclose(told, untold)
    for weight in (0, 0.5, 3.0):
        np.testing.assert_allclose(sd.guided(net, labels, weight)(xt, t), told + weight * (told - untold), atol=1e-12)


def test_guiding_towards_one_of_two_points_moves_by_the_classifiers_gradient():
    # x0 is m_y = ±1 for y = 1, 0. Then x_t | y is N(√ᾱ m_y, 1−ᾱ), and p(y = 1 | x_t) = σ(2 √ᾱ x_t/(1−ᾱ))
    schedule = sd.linear_schedule()

    class Exact:
        num_classes = 2

        def __call__(self, xt, t, labels):
            a = schedule.alpha_bar[t].reshape(-1, 1)
            any_class = np.tanh(np.sqrt(a) * xt / (1 - a))
            x0 = np.where(labels[:, None] == 2, any_class, 2 * labels[:, None] - 1)
            return sd.Tensor((xt - np.sqrt(a) * x0) / np.sqrt(1 - a))

    t, xt, weight, h = np.full(5, 400), np.linspace(-2, 2, 5)[:, None], 1.5, 1e-6
    a = schedule.alpha_bar[400]

    def log_p1(x):
        return -np.log1p(np.exp(-2 * np.sqrt(a) * x / (1 - a)))

    classifier_gradient = (log_p1(xt + h) - log_p1(xt - h)) / (2 * h)
    told = Exact()(xt, t, np.ones(5, int)).data
    expected = told - np.sqrt(1 - a) * weight * classifier_gradient  # ε is −√(1−ᾱ) times the score
    np.testing.assert_allclose(sd.guided(Exact(), np.ones(5, int), weight)(xt, t), expected, atol=1e-8)


def test_a_learned_variance_is_that_of_the_told_answer_and_is_not_exaggerated(rng):
    class Net:
        num_classes = 2

        def __call__(self, xt, t, labels):
            return sd.Tensor(np.concatenate([xt, xt], -1) * (1 + labels.reshape(-1, 1)))

    xt = rng.standard_normal((2, 3))
    out = sd.guided(Net(), [0, 1], 2.0)(xt, np.array([1, 1]))
    told, untold = xt * [[1], [2]], 3 * xt
    np.testing.assert_allclose(out, np.concatenate([told + 2 * (told - untold), told], -1))


def test_the_gradient_reaches_the_class_vectors_and_matches_finite_differences(net, rng):
    xt, t, labels = rng.standard_normal((3, 8, 8, 1)), np.array([5, 70, 700]), np.array([2, 3, 2])
    error = sd.gradcheck(lambda *_: net(xt, t, labels=labels), *net.parameters().values(), max_probes=1)
    assert error < 1e-7
    assert net.parameters()["class_emb"].shape == (4, 16)


def test_training_hides_one_label_in_ten():
    class Watcher:
        num_classes = 10

        def __call__(self, xt, t, labels):
            self.seen = labels
            return xt

    watcher, labels = Watcher(), np.arange(20_000) % 10
    sd.GaussianDiffusion(sd.linear_schedule()).loss(watcher, np.zeros((20_000, 1)), np.random.default_rng(0), labels)
    hidden = watcher.seen == 10
    assert hidden.mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(watcher.seen[~hidden], labels[~hidden])


@pytest.mark.parametrize("labels", [[0, 4], [-1, 0], [0], [0.0, 1.0], [[0], [1]]])
def test_labels_out_of_range_or_of_another_shape_are_refused(net, labels):
    with pytest.raises(ValueError, match=r"UNet: labels must be 2 integers in 0..3"):
        net(np.zeros((2, 8, 8, 1)), np.array([1, 1]), labels=labels)


def test_a_net_without_classes_takes_no_labels_and_cannot_be_guided(net, rng):
    plain = sd.UNet(**SMALL, rng=rng)
    with pytest.raises(ValueError, match="made without num_classes"):
        plain(np.zeros((1, 8, 8, 1)), np.array([1]), labels=[0])
    with pytest.raises(ValueError, match="guided: needs a model made with num_classes"):
        sd.guided(plain, [0], 1.0)
    with pytest.raises(ValueError, match="weight -1"):
        sd.guided(net, [0], -1)
