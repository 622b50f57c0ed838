"""DiT: starts at zero, knows where a patch lies, hears time and class, and has the right gradients."""

import numpy as np

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.nn.dit import patch_positions


def dit(rng, filled=True, **settings):
    model = sd.DiT(8, 2, 3, width=8, depth=2, heads=2, patch_size=2, dtype=np.float64, num_classes=3, rng=rng, **settings)
    if filled:
        fill_zeros(model.parameters(), rng, size=0.3)
    return model


def test_the_untrained_dit_returns_zero_and_every_block_is_the_identity(rng):
    model = dit(rng, filled=False)
    x = rng.standard_normal((2, 8, 8, 2))
    assert not model(x, [1, 9]).data.any()
    h = sd.Tensor(rng.standard_normal((2, 16, 8)))
    np.testing.assert_array_equal(model.blocks[0](h, sd.Tensor(rng.standard_normal((2, 8)))).data, h.data)


def test_the_dit_hears_the_time_and_the_class_and_none_means_any(rng):
    model, x = dit(rng), rng.standard_normal((1, 8, 8, 2))
    y = model(x, [5], [1]).data
    assert y.shape == (1, 8, 8, 3)
    assert not np.allclose(model(x, [6], [1]).data, y) and not np.allclose(model(x, [5], [2]).data, y)
    np.testing.assert_array_equal(model(x, [5]).data, model(x, [5], [3]).data)


def test_moving_the_patches_about_changes_more_than_their_order(rng):
    model, x = dit(rng), rng.standard_normal((1, 8, 8, 2))
    turned = model(x[:, ::-1][:, [1, 0, 3, 2, 5, 4, 7, 6]], [5]).data[:, [1, 0, 3, 2, 5, 4, 7, 6]][:, ::-1]
    assert not np.allclose(turned, model(x, [5]).data)


def test_every_patch_has_its_own_position():
    positions = patch_positions(7, 32)
    assert positions.shape == (49, 32) and len(np.unique(positions.round(6), axis=0)) == 49
    same_row = positions[:7, :16]
    assert (same_row == same_row[0]).all()


def test_the_dits_gradients_match_finite_differences(rng):
    model, x = dit(rng), rng.standard_normal((2, 8, 8, 2))
    f = lambda x, *_: model(x, np.array([3, 700]), [0, 3])  # noqa: E731
    assert sd.gradcheck(f, x, *model.parameters().values(), max_probes=2) < 1e-6


def test_a_dit_learns_to_denoise(rng):
    model = sd.DiT(8, 1, 1, width=16, depth=1, heads=2, patch_size=4, rng=rng)
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(100), images=True)
    data = np.where(np.arange(8) < 4, -1.0, 1.0)[None, :, None, None] * np.ones((16, 8, 8, 1))
    optimizer, ema = sd.Adam(model.parameters(), lr=5e-3), sd.EMA(model.parameters())
    losses = [step.loss for step in sd.train.train(model, diffusion, data, optimizer, ema, rng, batch_size=16, steps=150)]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])
