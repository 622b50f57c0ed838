"""The toy denoiser."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros


def test_the_untrained_mlp_returns_zero_in_its_dtype(rng):
    out = sd.MLP(rng=rng)(rng.standard_normal((5, 2)), np.arange(1, 6))
    assert out.shape == (5, 2) and out.dtype == np.float32 and not out.data.any()


def test_the_mlp_gradient_matches_finite_differences_for_every_parameter_and_the_input(rng):
    model = sd.MLP(dim=3, width=6, num_blocks=2, rng=rng, dtype=np.float64)
    fill_zeros(model.parameters(), rng, size=0.5)
    x = rng.standard_normal((4, 3))
    assert (
        sd.gradcheck(lambda x, *_: model(x, np.array([1, 5, 50, 500])), x, *model.parameters().values(), max_probes=30)
        < 1e-7
    )


def test_the_mlp_depends_on_t(rng):
    model = sd.MLP(rng=rng)
    fill_zeros(model.parameters(), rng)
    x = np.ones((1, 2))
    assert not np.allclose(model(x, np.array([1])).data, model(x, np.array([900])).data)


@pytest.mark.parametrize("x, t", [((5, 3), (5,)), ((5, 2), (4,)), ((5, 2), ()), ((2,), (2,))])
def test_the_mlp_refuses_inputs_of_other_shapes(rng, x, t):
    with pytest.raises(ValueError, match="MLP: needs xt of shape"):
        sd.MLP(rng=rng)(np.zeros(x), np.ones(t, int))
