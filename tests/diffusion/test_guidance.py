"""Guidance is its formula, and by Bayes' rule it sharpens exactly as a classifier would."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.diffusion.guidance import add_score, gradient, of_x0_hat
from scratchdiff.diffusion.samplers import ancestral_step
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
    with pytest.raises(ValueError, match="num_classes 3, weight -1"):
        sd.guided(net, [0], -1)


def test_guidance_acts_only_inside_its_interval_of_t(net, rng):
    xt, labels = rng.standard_normal((3, 8, 8, 1)), np.array([2, 0, 1])
    t = np.array([200, 201, 700])
    model = sd.guided(net, labels, 2.0, interval=(201, 699))
    told, untold = net(xt, t, labels=labels).data, net(xt, t).data
    weight = np.array([0, 2.0, 0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(model(xt, t), told + weight * (told - untold), atol=1e-12)


def test_outside_the_interval_the_network_is_asked_once():
    class Net:
        num_classes, asked = 2, 0

        def __call__(self, xt, t, labels):
            self.asked += 1
            return xt

    net = Net()
    model = sd.guided(net, [0], 1.0, interval=(10, 20))
    for t in (9, 10, 20, 21):
        model(np.ones((1, 2)), np.array([t]))
    assert net.asked == 1 + 2 + 2 + 1


def test_full_rescaling_gives_each_sample_the_deviation_of_the_told_answer_and_half_the_mean_factor(net, rng):
    xt, t, labels = rng.standard_normal((2, 8, 8, 1)), np.array([5, 700]), np.array([2, 0])
    told, plain = (np.asarray(sd.guided(net, labels, w)(xt, t)) for w in (0, 3.0))
    full, half = (np.asarray(sd.guided(net, labels, 3.0, rescale=phi)(xt, t)) for phi in (1.0, 0.5))
    deviation = [a.std((1, 2, 3)) for a in (told, plain, full)]
    assert (np.abs(deviation[0] - deviation[1]) > 0.005).all()
    np.testing.assert_allclose(deviation[2], deviation[0], rtol=1e-12)
    np.testing.assert_allclose(half, (plain + full) / 2, atol=1e-12)


MEANS, COV = np.array([[1.0, 0.5], [-0.8, -1.0], [0.3, -0.2]]), np.array([0.1, 0.4, 0.2])


def exact_classifier(oracle):
    """The logits log w_k N(x_t; a m_k, S_k): p(component | x_t) exactly, on the tape."""

    def classifier(xt, t):
        t = np.asarray(t)
        a, s = oracle.diffusion.signal_and_noise(t, np.empty((len(t), 1)))
        S = a**2 * oracle.lam + s**2
        rows = [((xt - a * m) ** 2.0).sum(axis=1, keepdims=True) for m in oracle.means]
        return ops.concat(rows, axis=1) * (-0.5 / S) + (np.log(oracle.weights) - 0.5 * oracle.d * np.log(S))

    return classifier


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("t", [3, 400.5])
def test_guiding_by_the_exact_classifier_at_scale_1_gives_the_best_denoiser_of_the_class(predict, t, rng):
    diffusion = sd.GaussianDiffusion(sd.linear_schedule(), predict)
    whole, labels, xt, t = (
        sd.Oracle(diffusion, MEANS, COV),
        np.array([0, 2, 1, 1]),
        rng.standard_normal((4, 2)),
        np.full(4, t),
    )
    got = sd.classifier_guided(diffusion, whole, exact_classifier(whole), labels, 1.0)(xt, t)
    for k in range(3):
        alone = sd.Oracle(diffusion, MEANS[k : k + 1], COV[k])(xt, t).data
        np.testing.assert_allclose(got[labels == k], alone[labels == k], atol=1e-9)


def test_ancestral_sampling_gets_the_mean_of_algorithm_1_but_for_one_over_root_alpha(rng):
    diffusion = sd.GaussianDiffusion(sd.linear_schedule(), "v")
    oracle, x, t, scale = sd.Oracle(diffusion, MEANS, COV), rng.standard_normal((3, 2)), 300, 2.5
    classifier, labels = exact_classifier(oracle), np.array([0, 1, 2])

    def log_p(x):
        return ops.cross_entropy(classifier(x, np.full(3, t)), labels) * -3

    guided = sd.classifier_guided(diffusion, oracle, classifier, labels, scale)
    moved, still = (ancestral_step(diffusion, m, x, t, np.random.default_rng(0))[0] for m in (guided, oracle))
    beta, alpha = diffusion.schedule.beta[t], diffusion.schedule.alpha[t]
    np.testing.assert_allclose(moved - still, scale * beta / np.sqrt(alpha) * gradient(log_p, x), rtol=1e-8)


def test_a_clean_classifier_is_differentiated_through_the_denoiser(rng):
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(), "v")
    oracle, w, t = sd.Oracle(diffusion, MEANS, COV), rng.standard_normal((2, 4)), np.array([100, 500, 900])
    noisy = of_x0_hat(diffusion, oracle, lambda x0: x0 @ w)
    x = rng.standard_normal((3, 2))
    np.testing.assert_allclose(noisy(x, t), oracle.x0(x, t) @ w, atol=1e-12)
    assert sd.gradcheck(lambda x: noisy(x, t), x) < 1e-7


def test_the_gradient_is_that_of_finite_differences_and_leaves_the_weights_alone(net, rng):
    x, t, h, direction = rng.standard_normal((2, 8, 8, 1)), np.array([5, 700]), 1e-5, rng.standard_normal((2, 8, 8, 1))
    before = {name: rng.standard_normal(p.shape) for name, p in net.parameters().items()}
    for name, p in net.parameters().items():
        p.grad = before[name]

    def f(x):
        return ops.mean(net(x, t) ** 2.0)

    slope = (f(x + h * direction).item() - f(x - h * direction).item()) / (2 * h)
    assert (gradient(f, x) * direction).sum() == pytest.approx(slope, rel=1e-7)
    assert all(p.grad is before[name] for name, p in net.parameters().items())


def test_a_float32_network_is_asked_in_float32_and_the_gradient_comes_back_as_x_is(rng):
    net = sd.UNet(**SMALL, num_classes=3, rng=rng)
    fill_zeros(net.parameters(), rng)
    diffusion, xt, t = sd.GaussianDiffusion(sd.linear_schedule(), "v"), rng.standard_normal((2, 8, 8, 1)), np.array([5, 700])
    classifier = of_x0_hat(diffusion, sd.guided(net, [0, 1], 0.5), lambda x: x.reshape(2, 64)[:, :3])
    out = sd.classifier_guided(diffusion, net, classifier, [0, 1], 1.0)(xt, t)
    assert out.dtype == np.float64 and out.shape == xt.shape


@pytest.mark.filterwarnings("ignore:Schedule")
def test_where_nothing_is_left_of_the_data_the_output_stays():
    diffusion = sd.GaussianDiffusion(sd.zero_terminal_snr(sd.linear_schedule(50)), "v")
    x = np.ones((2, 3))
    assert np.array_equal(add_score(diffusion, 2 * x, x, np.array([50, 50]), x), 2 * x)


def test_a_learned_variance_is_not_touched_by_a_classifier(rng):
    diffusion = sd.GaussianDiffusion(sd.linear_schedule(), "eps", "learned")
    x, t = rng.standard_normal((2, 3)), np.array([7, 8])
    out = add_score(diffusion, np.concatenate([x, 5 * x], 1), x, t, np.ones_like(x))
    np.testing.assert_allclose(out[:, :3], x - diffusion.sqrt_noise[t][:, None])
    assert np.array_equal(out[:, 3:], 5 * x)
