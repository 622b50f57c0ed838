"""Adam, AdamW and gradient clipping beside PyTorch's, twenty steps in float64."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.optim import clip_grad_norm

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

SHAPES = {"w": (3, 5), "b": (5,), "scalar": ()}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape)) for name, shape in SHAPES.items()}


def set_gradients(ours, theirs, gradients):
    for name, g in gradients.items():
        ours[name].grad = None if g is None else g.copy()
        theirs[name].grad = None if g is None else torch.from_numpy(g.copy())


def both(arrays):
    return (
        {name: sd.Tensor(a.copy()) for name, a in arrays.items()},
        {name: torch.nn.Parameter(torch.from_numpy(a.copy())) for name, a in arrays.items()},
    )


@pytest.mark.parametrize(
    "settings",
    [
        dict(lr=1e-2),
        dict(lr=1e-2, betas=(0.5, 0.75), eps=0.1),
        dict(lr=1e-2, betas=(0.0, 0.9)),
        dict(lr=1e-2, weight_decay=0.3),
    ],
    ids=str,
)
def test_twenty_steps_of_adam_equal_pytorchs(settings):
    ours, theirs = both(draw(0))
    adam = sd.Adam(ours, **settings)
    peer = torch.optim.AdamW(theirs.values(), **{"weight_decay": 0.0} | settings)  # with 0 it is Adam
    for step in range(20):
        set_gradients(ours, theirs, draw(1 + step))
        adam.step()
        peer.step()
        for name in SHAPES:
            np.testing.assert_allclose(ours[name].data, theirs[name].detach().numpy(), rtol=1e-10, atol=1e-10)


def test_without_weight_decay_adam_is_pytorchs_adam_also_when_the_learning_rate_changes():
    ours, theirs = both(draw(0))
    adam, peer = sd.Adam(ours, lr=1e-2), torch.optim.Adam(theirs.values(), lr=1e-2)
    for step in range(20):
        adam.lr = peer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        set_gradients(ours, theirs, draw(1 + step))
        adam.step()
        peer.step()
    for name in SHAPES:
        np.testing.assert_allclose(ours[name].data, theirs[name].detach().numpy(), rtol=1e-10, atol=1e-10)


def test_a_parameter_that_never_gets_a_gradient_is_left_alone_by_both():
    ours, theirs = both(draw(0))
    adam, peer = sd.Adam(ours, weight_decay=0.3), torch.optim.AdamW(theirs.values(), weight_decay=0.3)
    for step in range(3):
        set_gradients(ours, theirs, draw(1 + step) | {"b": None})
        adam.step()
        peer.step()
    for name in SHAPES:
        np.testing.assert_allclose(ours[name].data, theirs[name].detach().numpy(), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(ours["b"].data, draw(0)["b"])


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipped_gradients_equal_pytorchs(max_norm):
    ours, theirs = both(draw(0))
    set_gradients(ours, theirs, draw(1) | {"b": None})
    norm = clip_grad_norm(ours, max_norm)
    want_norm = torch.nn.utils.clip_grad_norm_(theirs.values(), max_norm).item()
    assert norm == pytest.approx(want_norm, rel=1e-14)
    assert ours["b"].grad is None
    for name in "w", "scalar":
        want = theirs[name].grad.numpy()
        if norm > max_norm:
            want = want * (norm + 1e-6) / norm  # PyTorch divides by ‖g‖ + 1e-6
        np.testing.assert_allclose(ours[name].grad, want, rtol=1e-12)
