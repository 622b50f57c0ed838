"""The Transformer's blocks beside PyTorch's own, in float64: outputs and the gradients of inputs and weights."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import nn

torch = pytest.importorskip("torch")


def copy_attention(theirs, ours):
    theirs.in_proj_weight.data = torch.from_numpy(np.concatenate([p.w.data.T for p in (ours.q, ours.k, ours.v)]))
    theirs.in_proj_bias.data = torch.from_numpy(np.concatenate([p.b.data for p in (ours.q, ours.k, ours.v)]))
    copy_linear(theirs.out_proj, ours.proj)


def copy_linear(theirs, ours):
    theirs.weight.data, theirs.bias.data = torch.from_numpy(ours.w.data.T.copy()), torch.from_numpy(ours.b.data.copy())


def copy_block(theirs, ours, cross):
    copy_attention(theirs.self_attn, ours.attention)
    if cross:
        copy_attention(theirs.multihead_attn, ours.cross_attention)
    copy_linear(theirs.linear1, ours.feed_forward.dense1)
    copy_linear(theirs.linear2, ours.feed_forward.dense2)
    for i, norm in enumerate(ours.norms, 1):
        their_norm = getattr(theirs, f"norm{i}")
        their_norm.weight.data, their_norm.bias.data = torch.from_numpy(norm.scale.data), torch.from_numpy(norm.shift.data)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_a_block_and_its_gradients_equal_pytorchs(rng, pre_norm, cross, causal):
    ours = nn.TransformerBlock(12, 3, 20, cross=cross, pre_norm=pre_norm, rng=rng, dtype=np.float64)
    for p in ours.parameters().values():
        p.data = p.data + 0.2 * rng.standard_normal(p.shape)
    kind = torch.nn.TransformerDecoderLayer if cross else torch.nn.TransformerEncoderLayer
    theirs = kind(12, 3, 20, dropout=0.0, batch_first=True, norm_first=pre_norm, dtype=torch.float64)
    copy_block(theirs, ours, cross)
    x, memory, dy = (rng.standard_normal(shape) for shape in ((2, 5, 12), (2, 4, 12), (2, 5, 12)))
    mask = nn.causal_mask(5) if causal else None

    X, M = sd.Tensor(x), sd.Tensor(memory) if cross else None
    with sd.Tape() as tape:
        y = ours(X, M, mask)
        loss = (y * dy).sum()
    tape.backward(loss)

    tx, tm = torch.tensor(x, requires_grad=True), torch.tensor(memory, requires_grad=True)
    hidden = None if mask is None else torch.from_numpy(~mask)
    ty = theirs(tx, tm, tgt_mask=hidden) if cross else theirs(tx, src_mask=hidden)
    (ty * torch.from_numpy(dy)).sum().backward()

    def close(got, want):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-10, atol=1e-11)

    close(y.data, ty)
    close(X.grad, tx.grad)
    if cross:
        close(M.grad, tm.grad)
    close(ours.feed_forward.dense1.w.grad, theirs.linear1.weight.grad.T)
    close(np.concatenate([p.w.grad.T for p in (ours.attention.q, ours.attention.k, ours.attention.v)]),
          theirs.self_attn.in_proj_weight.grad)  # fmt: skip
    close(ours.norms[0].scale.grad, theirs.norm1.weight.grad)


SEEN = np.arange(5) < np.array([5, 3])[:, None, None, None]  # (N, 1, 1, M): the second sequence ends after three
INDICES = np.array([[0, 3, 3], [2, 0, 3]])
F = torch.nn.functional
PAIRS = {  # op: (ours, PyTorch's, the shapes of its arguments)
    "attention under a padding mask": (
        lambda q, k, v: sd.ops.attention(q, k, v, mask=SEEN),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.from_numpy(SEEN)),
        [(2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 6)],
    ),
    "embedding": (lambda w: sd.ops.embedding(w, INDICES), lambda w: F.embedding(torch.from_numpy(INDICES), w), [(4, 3)]),
    "layer_norm": (sd.ops.layer_norm, lambda x, *args: F.layer_norm(x, (7,), *args), [(2, 3, 7), (7,), (7,)]),
    "huber": (lambda x, y: sd.ops.huber(x, y, delta=0.7), lambda x, y: F.huber_loss(x, y, delta=0.7), [(4, 3), (4, 3)]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_an_op_and_its_gradients_equal_pytorchs(rng, name):
    ours, theirs, shapes = PAIRS[name]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    tensors, torchs = [sd.Tensor(a) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    with sd.Tape() as tape:
        y = ours(*tensors)
        dy = rng.standard_normal(y.shape)
        loss = (y * dy).sum()
    tape.backward(loss)
    ty = theirs(*torchs)
    (ty * torch.from_numpy(np.asarray(dy))).sum().backward()
    np.testing.assert_allclose(y.data, ty.detach().numpy(), rtol=1e-10)
    for x, tx in zip(tensors, torchs):
        np.testing.assert_allclose(x.grad, tx.grad.numpy(), rtol=1e-10, atol=1e-12)
