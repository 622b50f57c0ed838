"""The VAE of lesson 13 beside the same network in PyTorch, in float64: the bound and every gradient."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import scratchdiff as sd

torch = pytest.importorskip("torch")
from torch_vae import TorchVAE  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "demos" / "lessons"))


def test_the_bound_of_the_vae_and_its_gradients_equal_pytorchs(rng):
    ours = importlib.import_module("13_vae").VAE(4, hidden=11, pixels=30, rng=rng, dtype=np.float64)
    theirs = TorchVAE(ours)
    x, eps = rng.integers(2, size=(6, 30)).astype(np.float64), rng.standard_normal((6, 4))
    with sd.Tape() as tape:
        nats = ours.nats(x, eps)
        loss = nats.mean()
    tape.backward(loss)
    their_nats = theirs.nats(torch.from_numpy(x), torch.from_numpy(eps))
    their_nats.mean().backward()
    np.testing.assert_allclose(nats.data, their_nats.detach().numpy(), rtol=1e-10)
    for name in TorchVAE.LAYERS:
        layer, their_layer = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_allclose(layer.w.grad, their_layer.weight.grad.numpy().T, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layer.b.grad, their_layer.bias.grad.numpy(), rtol=1e-10, atol=1e-12)
