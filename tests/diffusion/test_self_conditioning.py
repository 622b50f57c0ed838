"""Self-conditioning: what the network is shown in training and in sampling, and what gets a gradient."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.diffusion import self_conditioning as room

D = sd.GaussianDiffusion(sd.cosine_schedule(20), predict="x0", images=True)


class Shown:
    """A network that answers w · x_t + what it is shown, and keeps what it was shown."""

    cond_channels, num_classes, dropout = 1, None, 0

    def __init__(self):
        self.w, self.conds = sd.Tensor(0.5), []

    def __call__(self, xt, t, cond=None):
        self.conds.append(cond)
        return xt * self.w + (0.0 if cond is None else cond)


def loss_and_gradient(rate):
    model, x0 = Shown(), np.linspace(-1, 1, 8).reshape(2, 2, 2, 1)
    with sd.Tape() as tape:
        loss = sd.self_conditioned_loss(D, model, x0, np.random.default_rng(0), rate=rate)
    tape.backward(loss)
    return model, loss.item(), model.w.grad


def test_without_a_first_pass_it_is_the_plain_loss():
    model, loss, _ = loss_and_gradient(0.0)
    rng = np.random.default_rng(0)
    rng.random()
    assert model.conds == [None]
    assert loss == D.loss(Shown(), np.linspace(-1, 1, 8).reshape(2, 2, 2, 1), rng).item()


def test_the_first_answer_is_the_condition_of_the_second_and_has_no_gradient():
    model, loss, grad = loss_and_gradient(1.0)
    first, second = model.conds
    assert first is None and np.abs(second).max() <= 1
    rng = np.random.default_rng(0)
    rng.random()
    x0, constant = np.linspace(-1, 1, 8).reshape(2, 2, 2, 1), Shown()
    with sd.Tape() as tape:  # the same condition, as a constant
        want = D.loss(lambda xt, t: constant(xt, t, cond=second), x0, rng)
    tape.backward(want)
    assert (loss, grad) == (want.item(), constant.w.grad)


def test_half_of_the_steps_have_a_first_pass():
    model, rng, x0 = Shown(), np.random.default_rng(1), np.zeros((1, 2, 2, 1))
    for _ in range(400):
        sd.self_conditioned_loss(D, model, x0, rng)
    assert len(model.conds) - 400 == pytest.approx(200, abs=2.6 * 10)


def test_a_sampler_shows_each_estimate_to_the_next_step():
    model = Shown()
    steps = list(sd.ddim_steps(D, sd.self_conditioned(D, model), (2, 2, 2, 1), np.random.default_rng(2), steps=4))
    assert model.conds[0] is None and len(model.conds) == 4
    for step, cond in zip(steps, model.conds[1:]):
        np.testing.assert_array_equal(step.x0_hat, cond)


def test_it_can_be_guided_and_trains_with_labels(rng):
    net = sd.UNet(8, 1, 1, 8, (1, 2), 1, (), groups=4, num_classes=3, cond_channels=1, rng=rng)
    loss = sd.self_conditioned_loss(D, net, np.zeros((2, 8, 8, 1), np.float32), rng, labels=np.array([0, 2]), rate=1.0)
    assert isinstance(loss, sd.Tensor)
    model = sd.guided(sd.self_conditioned(D, net), [0, 1], 0.5)
    assert sd.sample_ddim(D, model, (2, 8, 8, 1), rng, steps=3).shape == (2, 8, 8, 1)


def test_the_estimate_of_a_learned_variance_is_that_of_its_first_half():
    d = sd.GaussianDiffusion(sd.cosine_schedule(20), predict="x0", variance="learned")
    out = ops.concat([np.ones((2, 3)), np.full((2, 3), 9.0)])
    np.testing.assert_array_equal(room.estimate(d, out, np.zeros((2, 3)), np.array([1, 2])), np.ones((2, 3)))


def test_guidance_shows_both_of_its_questions_the_estimate_that_the_labelled_one_gave_before():
    questions = []

    class Labelled(Shown):
        num_classes = 3

        def __call__(self, xt, t, cond=None, labels=None):
            questions.append((labels[0], cond, xt * 0.5 + (0 if cond is None else cond) + 0.1 * labels[0]))
            return sd.Tensor(questions[-1][2])

    model = sd.guided(sd.self_conditioned(D, Labelled()), [1, 1], 0.5)
    sd.sample_ddim(D, model, (2, 2, 2, 1), np.random.default_rng(2), steps=3)
    assert [label for label, _, _ in questions] == [1, 3] * 3  # the class, then none
    shown, answers = [cond for _, cond, _ in questions], [answer for _, _, answer in questions]
    assert shown[0] is shown[1] is None
    for i in (2, 4):
        np.testing.assert_array_equal(shown[i], np.clip(answers[i - 2], -1, 1))
        np.testing.assert_array_equal(shown[i + 1], shown[i])
