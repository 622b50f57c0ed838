"""How layers start, and that attention and the timestep reach the output."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.nn import Conv2d, Linear, SelfAttention, TimestepMLP


@pytest.mark.parametrize("layer, fan_in, fan_out", [
    (lambda rng: Linear(300, 500, rng=rng), 300, 500),
    (lambda rng: Conv2d(30, 50, 3, rng=rng), 270, 450),
])  # fmt: skip
def test_weights_start_with_variance_one_over_fan_avg_and_biases_at_zero(rng, layer, fan_in, fan_out):
    made = layer(rng)
    assert made.w.data.var() == pytest.approx(2 / (fan_in + fan_out), rel=0.02)
    assert abs(made.w.data.mean()) < 1e-3
    assert not made.b.data.any() and made.w.dtype == np.float32


def test_self_attention_starts_as_the_identity(rng):
    x = rng.standard_normal((2, 3, 5, 6)).astype(np.float32)
    assert np.array_equal(SelfAttention(6, 2, rng=rng)(x).data, x)


def test_self_attention_with_several_heads_has_the_right_gradient(rng):
    layer = SelfAttention(6, 3, heads=2, rng=rng, dtype=np.float64)
    fill_zeros(layer.parameters(), rng, size=0.5)
    assert sd.gradcheck(lambda x, *_: layer(x), rng.standard_normal((2, 2, 3, 6)), *layer.parameters().values()) < 1e-7


def test_self_attention_does_not_care_where_a_pixel_stands(rng):
    layer = SelfAttention(4, 2, rng=rng, dtype=np.float64)
    fill_zeros(layer.parameters(), rng)
    x = rng.standard_normal((1, 2, 3, 4))
    order = rng.permutation(6)
    moved = layer(x.reshape(1, 6, 1, 4)[:, order]).data
    np.testing.assert_allclose(moved[:, :, 0], layer(x).data.reshape(1, 6, 4)[:, order], atol=1e-12)


def test_self_attention_refuses_heads_that_do_not_divide_its_channels(rng):
    with pytest.raises(ValueError, match="SelfAttention: 4 heads do not divide 6 channels"):
        SelfAttention(6, 3, heads=4, rng=rng)


def test_the_timestep_mlp_tells_steps_apart(rng):
    temb = TimestepMLP(32, 64, rng=rng)(np.arange(1, 1001)).data
    assert temb.shape == (1000, 64) and temb.dtype == np.float32
    assert np.linalg.norm(np.diff(temb, axis=0), axis=1).min() > 1e-2
