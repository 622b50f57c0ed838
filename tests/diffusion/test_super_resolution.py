"""Super-resolution: the network is shown the small image that belongs to its target, at its own size."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.diffusion.super_resolution import enlarged

D = sd.GaussianDiffusion(sd.cosine_schedule(20), predict="x0")


class Copy:
    """A network that answers with what it is shown."""

    cond_channels = 1

    def __call__(self, xt, t, cond=None):
        return sd.Tensor(cond)


def test_a_network_that_copies_what_it_is_shown_has_the_loss_of_the_small_image(rng):
    x0 = rng.standard_normal((3, 8, 8, 1))
    small = x0.reshape(3, 2, 4, 2, 4, 1).mean((2, 4))
    want = np.square(x0 - np.kron(small[..., 0], np.ones((1, 4, 4)))[..., None]).mean()
    assert sd.super_resolution_loss(D, Copy(), x0, rng).item() == pytest.approx(want)
    np.testing.assert_array_equal(
        sd.sample_ddim(D, sd.super_resolved(Copy(), small), x0.shape, rng, steps=5), enlarged(small, 4)
    )


def test_a_block_averaged_is_the_pixel_that_it_came_from(rng):
    small = rng.standard_normal((2, 3, 4, 2))
    np.testing.assert_allclose(sd.diffusion.downsampled(enlarged(small, 3), 3).data, small)


def test_a_network_with_dropout_trains_with_it(rng):
    class Dropping(Copy):
        dropout, seen = 0.5, []

        def __call__(self, xt, t, cond=None, dropout_rng=None):
            self.seen.append(dropout_rng)
            return sd.Tensor(cond)

    sd.super_resolution_loss(D, Dropping(), np.zeros((1, 4, 4, 1)), rng)
    assert Dropping.seen == [rng]
