"""The training loop: it learns, it ends when told, and a run that goes on is the run that never stopped."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.checkpoint import load_checkpoint, restore, save_checkpoint
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.train import train


def fresh(seed=0, lr=1e-3, **network):
    rng = np.random.default_rng(seed)
    model = sd.MLP(width=32, num_blocks=2, rng=rng, **network)
    return model, sd.Adam(model.parameters(), lr), sd.EMA(model.parameters(), 0.99), rng


DIFFUSION = sd.GaussianDiffusion(sd.linear_schedule())
POINTS = sd.data.toy("moons", 500, np.random.default_rng(9)).astype(np.float32)


def run(model, adam, ema, rng, **settings):
    return list(train(model, DIFFUSION, POINTS, adam, ema, rng, batch_size=32, **settings))


def test_training_lowers_the_loss_that_starts_at_one():
    steps = run(*fresh(lr=5e-3), steps=600)
    first, last = (np.mean([s.loss for s in part]) for part in (steps[:10], steps[-100:]))
    assert first == pytest.approx(1.0, abs=0.15) and last < 0.6


def test_one_batch_of_images_can_be_learned_by_heart(rng):
    net = sd.UNet(image_size=8, in_channels=1, out_channels=1, ch=16, ch_mult=(1, 2), num_res_blocks=1,
                  attn_resolutions=(4,), groups=4, rng=rng)  # fmt: skip
    x, t, eps = rng.standard_normal((4, 8, 8, 1)), np.array([50, 200, 500, 900]), rng.standard_normal((4, 8, 8, 1))
    xt, eps = DIFFUSION.q_sample(x, t, eps).astype(np.float32), eps.astype(np.float32)
    adam = sd.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = sd.ops.mse(net(xt, t), eps)
        tape.backward(loss)
        adam.step()
    assert loss.item() < 0.02


def test_steps_count_from_one_and_the_rate_rises_then_falls_to_zero():
    steps = run(*fresh(), steps=100, warmup_steps=10)
    assert [s.step for s in steps] == list(range(1, 101))
    rates = [s.lr for s in steps]
    assert rates[0] == pytest.approx(1e-4) and max(rates) == pytest.approx(1e-3, rel=0.03) and rates[-1] < 1e-6
    assert steps[-1].progress == 1.0 and all(s.grad_norm > 0 for s in steps)


def test_the_rate_stays_for_the_share_that_is_held_and_falls_to_zero_in_the_rest():
    rates = [s.lr for s in run(*fresh(lr=1e-3), steps=100, warmup_steps=0, hold=0.6)]
    assert rates[:61] == [1e-3] * 61 and rates[80] == pytest.approx(0.5e-3) and rates[-1] < 2e-6
    assert (np.diff(rates[60:]) < 0).all()


def test_the_optimiser_owns_the_learning_rate():
    model, adam, ema, rng = fresh(lr=1e-5)
    steps = run(model, adam, ema, rng, steps=20, warmup_steps=0)
    assert adam.lr == 1e-5 and max(s.lr for s in steps) == pytest.approx(1e-5, rel=0.01)


def test_the_optimiser_steps_at_the_rate_that_is_reported():
    model, adam, ema, rng = fresh(lr=1e-3)
    scales, step = [], adam.step
    adam.step = lambda scale: (scales.append(scale), step(scale))
    steps = run(model, adam, ema, rng, steps=20, warmup_steps=5)
    assert [adam.lr * scale for scale in scales] == [s.lr for s in steps] and scales[0] == 0.2


def test_accumulated_batches_give_the_gradient_of_one_batch_of_their_size():
    def loss(model, x0, rng, labels=None):  # the same t and noise for each example, however it is batched
        t = 1 + (np.abs(1e4 * x0[:, 0]).astype(int) % 1000)
        eps = np.sin(50 * x0)
        return sd.ops.mse(model(DIFFUSION.q_sample(x0, t, eps), t), eps)

    norms = []
    for size, accumulate in ((64, 1), (16, 4)):
        model, adam, ema, rng = fresh(dtype=np.float64)
        fill_zeros(model.parameters(), np.random.default_rng(5))
        settings = dict(batch_size=size, accumulate=accumulate, steps=1, loss=loss, clip_norm=np.inf)
        (step,) = train(model, DIFFUSION, POINTS.astype(np.float64), adam, ema, rng, **settings)
        norms.append((step.loss, step.grad_norm, {name: p.grad for name, p in model.parameters().items()}))
    (loss_one, norm_one, one), (loss_four, norm_four, four) = norms
    assert loss_four == pytest.approx(loss_one, rel=1e-12) and norm_four == pytest.approx(norm_one, rel=1e-10)
    for name in one:
        np.testing.assert_allclose(four[name], one[name], atol=1e-12)


def test_a_run_ends_when_its_seconds_are_over():
    steps = run(*fresh(), seconds=0.3, steps=10**9)
    assert 1 <= steps[-1].progress < 1.5 and len(steps) > 10


def test_going_on_from_a_checkpoint_equals_never_having_stopped_bit_for_bit(tmp_path):
    whole = fresh()
    losses = [s.loss for s in run(*whole, steps=20)]

    model, adam, ema, rng = fresh()
    stopped = train(model, DIFFUSION, POINTS, adam, ema, rng, batch_size=32, steps=20)
    part = [next(stopped).loss for _ in range(8)]
    save_checkpoint(tmp_path / "model.npz", model, ema, adam, rng, 8, {})

    model, adam, ema, rng = fresh(seed=123)
    start = restore(*load_checkpoint(tmp_path / "model.npz"), model, ema, adam, rng)
    part += [s.loss for s in run(model, adam, ema, rng, steps=20, start=start)]

    assert part == losses
    for name, p in whole[0].parameters().items():
        assert np.array_equal(p.data, model.parameters()[name].data)
        assert np.array_equal(whole[2].average[name], ema.average[name])


def test_the_same_seed_gives_the_same_bits():
    first, second = (run(*fresh(), steps=5)[-1] for _ in range(2))
    assert first == second


def test_another_loss_can_be_minimised():
    asked = []

    def loss(model, x0, rng, labels=None):
        asked.append(x0.shape)
        return DIFFUSION.loss(model, x0, rng, min_snr=5)

    run(*fresh(), steps=2, loss=loss)
    assert asked == [(32, 2)] * 2


def test_every_batch_is_augmented_before_the_loss_sees_it():
    seen = []

    def loss(model, x0, rng, labels=None):
        seen.append(x0)
        return DIFFUSION.loss(model, x0, rng)

    run(*fresh(), steps=2, loss=loss, augment=lambda x0, rng: np.full_like(x0, 7))
    assert len(seen) == 2 and all((x0 == 7).all() for x0 in seen)


@pytest.mark.parametrize("limits", [{}, dict(steps=0), dict(seconds=-1.0), dict(steps=5, seconds=0)])
def test_a_run_without_a_positive_limit_is_refused(limits):
    with pytest.raises(ValueError, match="train: give a positive number of steps or seconds"):
        run(*fresh(), **limits)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_touches_anything_and_names_step_op_and_parameter():
    model, adam, ema, rng = fresh()
    steps = train(model, DIFFUSION, POINTS, adam, ema, rng, batch_size=32, steps=10)
    for _ in range(3):
        next(steps)
    model.parameters()["dense_out.b"].data[1] = np.inf
    before = {name: p.data.copy() for name, p in model.parameters().items()}
    moments, averages = {n: m.copy() for n, m in adam.m.items()}, {n: a.copy() for n, a in ema.average.items()}
    with pytest.raises(FloatingPointError) as error:
        next(steps)
    message = str(error.value)
    assert message.startswith("train: step 4 diverged (loss inf")
    assert r"linear((32, 32), dense_out.w (32, 2), dense_out.b (2,) not finite): the output is not finite" in message
    assert "Try a lower lr" in message and "clip_norm" in message and "\n" not in message
    assert all(np.array_equal(before[n], p.data) for n, p in model.parameters().items())
    assert all(np.array_equal(moments[n], adam.m[n]) and np.array_equal(averages[n], ema.average[n]) for n in moments)
    assert (adam.k, ema.k) == (3, 3)


def test_a_gradient_that_is_not_finite_under_a_finite_loss_stops_the_run_and_is_named():
    model, adam, ema, rng = fresh()

    @sd.op
    def steep(x):
        return x, lambda dy: (dy * np.inf,)

    class Diffusion(sd.GaussianDiffusion):
        def loss(self, model, x0, rng, labels=None):
            return super().loss(lambda xt, t: steep(model(xt, t)), x0, rng)

    steps = train(model, Diffusion(DIFFUSION.schedule), POINTS, adam, ema, rng, batch_size=8, steps=3)
    with pytest.raises(
        FloatingPointError, match=r"step 1 diverged \(loss \d.*steep\(\(8, 2\)\): the gradient of argument 0 is not finite"
    ):
        with np.errstate(invalid="ignore"):
            next(steps)
    assert adam.k == ema.k == 0


def test_gradients_whose_norm_no_float32_can_square_are_clipped_not_called_divergence():
    p = sd.Tensor(np.ones(4, np.float32))
    p.grad = np.full(4, 1e25, np.float32)
    from scratchdiff.optim import clip_grad_norm

    assert clip_grad_norm({"p": p}, 1.0) == pytest.approx(2e25, rel=1e-6)
    np.testing.assert_allclose(p.grad, 0.5, rtol=1e-5)


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    model, adam, ema, rng = fresh()
    save_checkpoint(tmp_path / "model.npz", model, ema, adam, rng, 1, {})
    model.parameters()["dense_out.b"].data[0] = np.nan
    with pytest.raises(ValueError, match="not finite: model/dense_out.b"):
        save_checkpoint(tmp_path / "model.npz", model, ema, adam, rng, 2, {})
    assert load_checkpoint(tmp_path / "model.npz")[0]["step"] == 1
