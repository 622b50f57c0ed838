"""The optimiser, by hand and by its properties."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.optim import clip_grad_norm, cosine_decay, linear_decay, warmup


def one(value, grad):
    p = sd.Tensor(np.array([value]))
    p.grad = np.array([grad])
    return p


def test_three_steps_of_adam_are_those_computed_by_hand():
    p = one(1.0, 0.0)
    adam = sd.Adam({"p": p}, lr=0.1, betas=(0.5, 0.75), eps=1e-8)
    # g = 2, 4, −2: m = 1, 2.5, 0.25 over 1 − ½ᵏ; v = 1, 4.75, 4.5625 over 1 − ¾ᵏ
    steps = [
        (1 / 0.5) / (1 / 0.25) ** 0.5,
        (2.5 / 0.75) / (4.75 / 0.4375) ** 0.5,
        (0.25 / 0.875) / (4.5625 / 0.578125) ** 0.5,
    ]
    expected = 1.0
    for g, step in zip((2.0, 4.0, -2.0), steps):
        p.grad = np.array([g])
        adam.step()
        expected -= 0.1 * step
        assert p.data[0] == pytest.approx(expected, abs=1e-8)


def test_the_first_step_of_adam_is_lr_whatever_the_size_of_the_gradient():
    for g in (1e-4, 1.0, 1e4):
        p = one(0.0, g)
        sd.Adam({"p": p}, lr=0.01).step()
        assert p.data[0] == pytest.approx(-0.01, rel=1e-3)


def test_weight_decay_is_decoupled_from_the_gradient():
    p = one(2.0, 0.0)
    sd.Adam({"p": p}, lr=0.1, weight_decay=0.5).step()
    assert p.data[0] == pytest.approx(2.0 * (1 - 0.1 * 0.5))


def test_a_parameter_without_a_gradient_is_left_alone_and_zero_grad_forgets():
    p, q = one(1.0, 1.0), one(1.0, 1.0)
    adam = sd.Adam({"p": p, "q": q}, weight_decay=0.1)
    q.grad = None
    adam.step()
    assert q.data[0] == 1 and p.data[0] < 1
    adam.zero_grad()
    assert p.grad is None


def test_adam_keeps_float32():
    p = sd.Tensor(np.ones(3, np.float32))
    p.grad = np.ones(3, np.float32)
    adam = sd.Adam({"p": p}, weight_decay=0.1)
    adam.step()
    assert p.dtype == adam.m["p"].dtype == adam.v["p"].dtype == np.float32


@pytest.mark.parametrize(
    "settings", [dict(lr=-1), dict(betas=(1, 0.9)), dict(betas=(0.9, 1.0)), dict(eps=0), dict(weight_decay=-1)]
)
def test_adam_refuses_settings_out_of_range(settings):
    with pytest.raises(ValueError, match="Adam: a setting is out of range"):
        sd.Adam({"p": one(1.0, 1.0)}, **settings)


def test_adam_refuses_to_optimise_nothing():
    with pytest.raises(ValueError, match="no parameters"):
        sd.Adam({})


def test_clipping_scales_all_gradients_together_and_only_when_too_long():
    parameters = {"p": one(0.0, 3.0), "q": one(0.0, 4.0)}
    assert clip_grad_norm(parameters, 10.0) == 5.0
    assert parameters["p"].grad[0] == 3.0
    assert clip_grad_norm(parameters, 2.5) == 5.0
    assert [p.grad[0] for p in parameters.values()] == [1.5, 2.0]
    with pytest.raises(ValueError, match="max_norm must be positive"):
        clip_grad_norm(parameters, 0)


def test_ema_warms_up_then_averages_with_its_decay():
    p = one(1.0, 0.0)
    ema = sd.EMA({"p": p}, decay=0.5)
    p.data = np.array([11.0])
    expected = 1.0
    for d in (2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5):
        ema.update()
        expected = d * expected + (1 - d) * 11
        assert ema.average["p"][0] == pytest.approx(expected)


def test_ema_is_applied_only_inside_its_block_and_put_back_after_an_error():
    p = one(1.0, 0.0)
    ema = sd.EMA({"p": p})
    p.data = np.array([5.0])
    with pytest.raises(RuntimeError), ema.applied():
        assert p.data[0] == 1.0
        raise RuntimeError
    assert p.data[0] == 5.0
    with pytest.raises(ValueError, match="EMA: decay"):
        sd.EMA({"p": p}, decay=1.0)


def test_learning_rates_rise_and_fall_between_their_ends():
    assert [warmup(k, 4) for k in (1, 2, 4, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert warmup(1, 0) == 1.0
    for decay in (cosine_decay, linear_decay):
        values = [decay(s, floor=0.1) for s in np.linspace(0, 1, 11)]
        assert values[0] == 1 and values[-1] == pytest.approx(0.1) and (np.diff(values) < 0).all()
        assert decay(0.5) == pytest.approx(0.5) and decay(1.7) == pytest.approx(0.0)


def test_a_layer_loaded_from_a_transposed_array_trains_like_one_loaded_from_its_copy(rng):
    w, x, y = rng.standard_normal((2, 3)), rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    trained = []
    for start in (w.T, w.T.copy()):
        layer = sd.nn.Linear(3, 2, rng=rng, dtype=np.float64)
        layer.load({"w": start, "b": np.zeros(2)})
        adam = sd.Adam(layer.parameters(), lr=0.1)
        for _ in range(5):
            adam.zero_grad()
            with sd.Tape() as tape:
                loss = sd.ops.mse(layer(x), y)
            tape.backward(loss)
            adam.step()
        trained.append(layer.w.data)
    assert np.abs(trained[0] - w.T).min() > 0.01
    np.testing.assert_array_equal(*trained)


def test_adam_moves_a_parameter_that_is_a_transposed_view_in_place():
    values = np.ones((2, 3))
    p = sd.Tensor(values.T)
    p.grad = np.ones((3, 2))
    sd.Adam({"p": p}, lr=0.1).step()
    np.testing.assert_allclose(values, 0.9, rtol=1e-6)
