"""Numerical honesty: at the ends of the timesteps and of the numbers, float32 stays near the truth, silent and finite."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.autograd import Tape, Tensor
from scratchdiff.kernels import FORMULAS, compiled
from scratchdiff.trace import refuse_nonfinite

pytestmark = pytest.mark.filterwarnings("error")  # an overflow that NumPy warns of fails the test
SCHEDULES = [sd.linear_schedule(), sd.cosine_schedule(), sd.linear_schedule(1), sd.cosine_schedule(4000)]
HUGE = np.array([-3e38, -1e30, -1e20, -90, -1e-30, 0, 1e-38, 1e-30, 90, 1e20, 1e30, 3e38])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class At:
    """A generator whose timestep is always t, and whose noise is that of a seed."""

    def __init__(self, t):
        self.t, self.rng = t, np.random.default_rng(0)

    def integers(self, low, high, size):
        assert low <= self.t < high
        return np.full(size, self.t)

    def standard_normal(self, shape):
        return self.rng.standard_normal(shape)


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"T={s.T}, last {s.alpha_bar[-1]:.1e}")
def test_float32_losses_at_the_first_and_last_step_are_those_of_float64(schedule, predict):
    diffusion = sd.GaussianDiffusion(schedule, predict)
    x0 = np.random.default_rng(1).uniform(-1, 1, (4, 6, 6, 1))
    for t in {1, 2, schedule.T - 1, schedule.T} & set(range(1, schedule.T + 1)):
        losses, slopes = [], []
        for dtype in (np.float32, np.float64):
            w = Tensor(np.array(0.7, dtype))
            with Tape(refuse_nonfinite()) as tape:
                loss = diffusion.loss(lambda xt, t, w=w: w * Tensor(xt), x0.astype(dtype), At(t))
            tape.backward(loss)
            assert loss.dtype == w.grad.dtype == dtype
            losses.append(loss.item())
            slopes.append(float(w.grad))
        assert losses[0] == pytest.approx(losses[1], rel=1e-5) and slopes[0] == pytest.approx(slopes[1], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"T={s.T}, last {s.alpha_bar[-1]:.1e}")
def test_float32_x0_hat_of_the_perfect_output_is_x0_as_nearly_as_its_amplification_allows(schedule, predict):
    diffusion = sd.GaussianDiffusion(schedule, predict)
    x0, eps = np.random.default_rng(1).standard_normal((2, 4, 5)).astype(np.float32)
    for t in (1, schedule.T):
        xt = diffusion.q_sample(x0, t, eps)
        x0_hat = diffusion.predict_x0(xt, t, diffusion.target(x0, t, eps))
        amplified = 1 / np.sqrt(schedule.alpha_bar[t]) if predict == "eps" else 1  # (x_t − √(1−ᾱ) ε)/√ᾱ
        assert np.abs(x0_hat - x0).max() < 1e-6 * amplified
        eps_hat = diffusion.predict_eps(xt, t, x0)
        assert np.abs(eps_hat - eps).max() < 1e-6 / np.sqrt(1 - schedule.alpha_bar[t])
        for part in diffusion.q_posterior(x0, xt, t):
            assert np.isfinite(part).all() and part.dtype == np.float32


def walked(f, *arrays):
    """f's output and the gradients of its sum of squares of signs: finite, or FloatingPointError."""
    xs = [Tensor(a) for a in arrays]
    with Tape(refuse_nonfinite()) as tape:
        y = f(*xs)
        loss = (y * np.sign(y.data + 0.5)).mean()
    tape.backward(loss)
    return y.data, [x.grad for x in xs]


@dtypes
@pytest.mark.parametrize("f", [ops.silu, ops.sigmoid, ops.tanh, ops.relu, ops.gelu])
def test_activations_of_huge_numbers_are_finite_and_so_are_their_gradients(f, dtype):
    x = HUGE.astype(dtype)
    if f in (ops.silu, ops.relu, ops.gelu):
        x = x / 100  # their outputs are as large as x, and the mean of the twelve should be finite
    y, _ = walked(f, x)
    far = np.abs(x) > 80
    limits = dict(silu=np.maximum(x, 0), relu=np.maximum(x, 0), gelu=np.maximum(x, 0), sigmoid=x > 0, tanh=np.sign(x))
    np.testing.assert_allclose(y[far], limits[f.__name__][far], rtol=1e-6)


@dtypes
def test_softmax_of_huge_numbers_is_a_distribution(dtype):
    x = np.stack([HUGE, HUGE[::-1], np.full(12, 3e38), np.full(12, -3e38), np.where(np.arange(12) < 6, 3e38, -3e38)])
    y, _ = walked(ops.softmax, x.astype(dtype))
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(y[:3], [np.eye(12)[11], np.eye(12)[0], np.full(12, 1 / 12)], rtol=1e-6)


@dtypes
def test_attention_to_huge_queries_and_keys_looks_where_their_product_is_largest(dtype):
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 2, 5, 4))
    winners = (q @ k.swapaxes(-1, -2)).argmax(-1)
    y, _ = walked(ops.attention, (1e30 * q).astype(dtype), (1e30 * k).astype(dtype), v.astype(dtype))
    np.testing.assert_allclose(y, np.take_along_axis(v, winners[..., None], axis=2), rtol=1e-6)


def test_cross_entropy_of_huge_logits_is_their_distance_from_the_largest():
    logits = np.array([[1e30, 0, -1e30], [-1e30, 0, 5]], np.float32)
    y, _ = walked(lambda x: ops.cross_entropy(x, [0, 2]), logits)
    assert y == pytest.approx(np.log1p(np.exp(-5)) / 2, rel=1e-6)
    assert ops.cross_entropy(logits, [2, 2]).item() == pytest.approx(1e30, rel=1e-6)


@dtypes
@pytest.mark.parametrize("functions", [vars(compiled), FORMULAS], ids=["compiled", "numpy"])
@pytest.mark.parametrize("name", ["normalise", "normalise_silu"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e30, -1e30, 1e-38])
def test_group_norm_of_constant_channels_is_its_shift_however_large_they_are(functions, dtype, name, value):
    x, scale, shift = np.full((2, 63, 6), value, dtype), np.full(6, 2, dtype), np.linspace(-3, 3, 6).astype(dtype)
    y, backward, *_ = functions[name](x, scale, shift, 3, 1e-6)
    want = shift * (1 / (1 + np.exp(-shift))) if name == "normalise_silu" else shift
    if dtype == np.float32 or abs(value) < 10:  # a float64 mean of 1e30 may be 1e14 off, and there is no wider sum
        np.testing.assert_allclose(y, np.broadcast_to(want, x.shape), rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(a).all() and a.dtype == dtype for a in (y, *backward(np.ones_like(x))))


@dtypes
@pytest.mark.parametrize("functions", [vars(compiled), FORMULAS], ids=["compiled", "numpy"])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_group_norm_of_huge_numbers_is_that_of_the_same_numbers_made_small(functions, dtype, size):
    x = np.random.default_rng(0).standard_normal((2, 35, 6))
    scale, shift = np.ones(6, dtype), np.zeros(6, dtype)
    want = FORMULAS["normalise"](x, np.ones(6), np.zeros(6), 2, 1e-24)[0] if size > 1 else np.zeros_like(x)
    y, backward = functions["normalise"]((size * x).astype(dtype), scale, shift, 2, 1e-6)
    np.testing.assert_allclose(y, want, rtol=2e-4, atol=1e-5)
    assert all(np.isfinite(a).all() for a in backward(x.astype(dtype)))


@dtypes
def test_convolution_of_huge_images_scales(dtype):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 8, 8, 16)), rng.standard_normal((3, 3, 16, 16))
    small, huge = (ops.conv2d((size * x).astype(dtype), w.astype(dtype)).data.astype("f8") / size for size in (1, 1e30))
    np.testing.assert_allclose(huge, small, atol=1e-5 * np.abs(small).max())


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_samplers_stay_finite_with_a_network_whose_outputs_are_huge(predict):
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(50), predict, images=True)
    for x in (
        sd.sample_ddpm(diffusion, lambda xt, t: 1e30 * np.sign(xt), (3, 2), np.random.default_rng(0)),
        sd.sample_ddim(diffusion, lambda xt, t: -1e30 * np.sign(xt), (3, 2), np.random.default_rng(0), steps=7, eta=0.5),
    ):
        assert np.isfinite(x).all() and np.abs(x).max() < 10
