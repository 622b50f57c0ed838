"""Every op beside PyTorch's: outputs and gradients in float64, to 1e-10."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.ops.conv import resolve_padding

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402
from torch_unet import timestep_embedding  # noqa: E402

torch.set_num_threads(1)


class Case(NamedTuple):
    """`ours` and `theirs` take arrays (as Tensors, as torch tensors) of the given shapes. `positive`: keep them > 0."""

    name: str
    ours: Callable
    theirs: Callable
    shapes: tuple
    positive: bool = False


def first(x):
    """(N, H, W, C) → (N, C, H, W), or (N, ..., C) → (N, C, ...)."""
    return x.movedim(-1, 1)


def last(x):
    return x.movedim(1, -1)


def conv_case(x_shape, w_shape, stride, padding):
    (top, bottom), (left, right) = resolve_padding(padding, x_shape[1:3], w_shape[:2], stride)

    def theirs(x, w, b):
        padded = F.pad(first(x), (left, right, top, bottom))
        return last(F.conv2d(padded, w.permute(3, 2, 0, 1), b, stride))

    return Case("conv2d", lambda x, w, b: ops.conv2d(x, w, b, stride, padding), theirs, (x_shape, w_shape, w_shape[3:]))


def group_norm_case(shape, groups, silu=False, eps=1e-6):
    def theirs(x, scale, shift):
        y = last(F.group_norm(first(x), groups, scale, shift, eps))
        return F.silu(y) if silu else y

    name = "group_norm_silu" if silu else "group_norm"
    ours = getattr(ops, name)
    return Case(name, lambda *xs: ours(*xs, groups=groups, eps=eps), theirs, (shape, shape[-1:], shape[-1:]))


def space_to_depth(x, block):  # PyTorch lines up the channels of a block as (c, i, j), we as (i, j, c)
    N, C = len(x), x.shape[-1]
    y = F.pixel_unshuffle(first(x), block)
    return last(y.unflatten(1, (C, block**2)).transpose(1, 2).reshape(N, block**2 * C, *y.shape[2:]))


def depth_to_space(x, block):
    C = x.shape[-1] // block**2
    return last(F.pixel_shuffle(first(x).unflatten(1, (block**2, C)).transpose(1, 2).flatten(1, 2), block))


def normal(mean, logvar):
    return torch.distributions.Normal(mean, torch.exp(0.5 * logvar))


def mass_of_pixels(mean, logvar):
    x, q = torch.from_numpy(PIXELS), normal(mean, logvar)
    above = torch.where(x == 1, 1, q.cdf(x + 1 / 255))
    return torch.log(above - torch.where(x == -1, 0, q.cdf(x - 1 / 255)))


PIXELS = np.array([[0, 255, 100], [17, 128, 200]]) / 127.5 - 1
MASK = np.random.default_rng(3).random((4, 5)) >= 0.4
LABELS = [4, 0, 4]
PAIR = ((2, 1, 3), (5, 1))

SEEN = np.random.default_rng(5).random((3, 4, 6)) < 0.6
SEEN[..., 0] = True  # PyTorch answers a query that sees nothing with NaN or zeros, by version
ROWS = [[0, 4, 4], [2, 0, 4]]

CASES = [
    Case("add", ops.add, torch.add, PAIR),
    Case("sub", ops.sub, torch.sub, PAIR),
    Case("mul", ops.mul, torch.mul, PAIR),
    Case("div", ops.div, torch.div, PAIR, positive=True),
    Case("neg", ops.neg, torch.neg, ((2, 5),)),
    Case("power", lambda x: ops.power(x, 2.5), lambda x: x**2.5, ((2, 5),), positive=True),
    Case("power", lambda x: ops.power(x, 3), lambda x: x**3, ((2, 5),)),
    Case("power", lambda x: ops.power(x, -1), lambda x: x**-1, ((2, 5),), positive=True),
    Case("exp", ops.exp, torch.exp, ((2, 5),)),
    Case("log", ops.log, torch.log, ((2, 5),), positive=True),
    Case("sum", ops.sum, torch.sum, ((2, 3, 5),)),
    Case("sum", lambda x: ops.sum(x, (0, -1), True), lambda x: x.sum((0, -1), keepdim=True), ((2, 3, 5),)),
    Case("mean", ops.mean, torch.mean, ((2, 3, 5),)),
    Case("mean", lambda x: ops.mean(x, 1), lambda x: x.mean(1), ((2, 3, 5),)),
    Case("matmul", ops.matmul, torch.matmul, ((3, 4), (4, 2))),
    Case("matmul", ops.matmul, torch.matmul, ((3, 1, 2, 5), (4, 5, 3))),
    Case("reshape", lambda x: ops.reshape(x, 5, -1), lambda x: x.reshape(5, -1), ((2, 3, 5),)),
    Case("transpose", lambda x: ops.transpose(x, 2, 0, 1), lambda x: x.permute(2, 0, 1), ((2, 3, 5),)),
    Case("concat", lambda *xs: ops.concat(xs, 1), lambda *xs: torch.cat(xs, 1), ((2, 3, 5), (2, 1, 5), (2, 4, 5))),
    Case("getitem", lambda x: x[1:, ..., 2], lambda x: x[1:, ..., 2], ((4, 3, 5),)),
    Case("getitem", lambda x: x[[0, 3, 0], 1:], lambda x: x[[0, 3, 0], 1:], ((4, 3, 5),)),
    Case("space_to_depth", lambda x: ops.space_to_depth(x, block=2), lambda x: space_to_depth(x, 2), ((2, 4, 6, 3),)),
    Case("depth_to_space", lambda x: ops.depth_to_space(x, block=3), lambda x: depth_to_space(x, 3), ((2, 2, 1, 18),)),
    Case("sigmoid", ops.sigmoid, torch.sigmoid, ((4, 5),)),
    Case("tanh", ops.tanh, torch.tanh, ((4, 5),)),
    Case("relu", ops.relu, torch.relu, ((4, 5),)),
    Case("clip", lambda x: ops.clip(x, -0.5, 0.7), lambda x: torch.clamp(x, -0.5, 0.7), ((4, 5),)),
    Case("silu", ops.silu, F.silu, ((4, 5),)),
    Case("gelu", ops.gelu, F.gelu, ((4, 5),)),
    Case("softmax", ops.softmax, lambda x: torch.softmax(x, -1), ((2, 3, 5),)),
    Case("bernoulli_log_prob", ops.bernoulli_log_prob,
         lambda x, z: -F.binary_cross_entropy_with_logits(z, x, reduction="none"), ((2, 3),) * 2),
    Case("normal_kl", ops.normal_kl, lambda m, v, n, w: torch.distributions.kl_divergence(normal(m, v), normal(n, w)),
         ((2, 3),) * 4),
    Case("normal_log_prob", ops.normal_log_prob, lambda x, m, v: normal(m, v).log_prob(x), ((2, 3),) * 3),
    Case("discretized_normal_log_prob", lambda m, v: ops.discretized_normal_log_prob(PIXELS, m, v), mass_of_pixels,
         ((2, 3),) * 2),
    Case("linear", ops.linear, lambda x, w, b: F.linear(x, w.T, b), ((2, 3, 5), (5, 4), (4,))),
    Case("silu_linear", ops.silu_linear, lambda x, w, b: F.linear(F.silu(x), w.T, b),
         ((2, 5), (5, 4), (4,))),
    Case("linear", ops.linear, lambda x, w: F.linear(x, w.T), ((3, 5), (5, 4))),
    Case("dropout", lambda x: ops.dropout(x, rate=0.4, rng=np.random.default_rng(3)),
         lambda x: x * torch.from_numpy(MASK) / 0.6, (MASK.shape,)),
    conv_case((2, 6, 5, 3), (3, 3, 3, 4), 1, "same"),
    conv_case((2, 6, 8, 3), (3, 3, 3, 4), 2, "same"),
    conv_case((2, 7, 5, 2), (3, 3, 2, 3), 2, "same"),
    conv_case((2, 6, 5, 3), (1, 1, 3, 4), 1, "same"),
    conv_case((2, 7, 9, 2), (5, 4, 2, 3), 3, ((2, 0), (1, 3))),
    conv_case((2, 6, 5, 3), (2, 3, 3, 4), 1, 0),
    conv_case((2, 4, 5, 3), (3, 3, 3, 4), 1, 3),
    conv_case((3, 9, 8, 16), (3, 3, 16, 24), 1, "same"),
    Case("conv2d", ops.conv2d, lambda x, w: last(F.conv2d(first(x), w.permute(3, 2, 0, 1), padding=1)),
         ((2, 6, 5, 3), (3, 3, 3, 4))),
    group_norm_case((2, 3, 5, 6), 3),
    group_norm_case((2, 3, 5, 6), 6),
    group_norm_case((4, 7, 6), 2, silu=True),
    group_norm_case((2, 3, 5, 8), 1, silu=True, eps=0.3),
    Case("layer_norm", ops.layer_norm, lambda x, a, b: F.layer_norm(x, (6,), a, b, 1e-5), ((2, 3, 6), (6,), (6,))),
    Case("upsample_nearest", ops.upsample_nearest,
         lambda x: last(F.interpolate(first(x), scale_factor=2, mode="nearest")), ((2, 3, 2, 4),)),
    Case("upsample_nearest", lambda x: ops.upsample_nearest(x, 3),
         lambda x: last(F.interpolate(first(x), scale_factor=3, mode="nearest")), ((2, 3, 2, 4),)),
    Case("attention", ops.attention, F.scaled_dot_product_attention, ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2))),
    Case("attention", ops.attention, F.scaled_dot_product_attention, ((1, 1, 9, 4),) * 3),
    Case("attention", lambda *qkv: ops.attention(*qkv, mask=SEEN),
         lambda *qkv: F.scaled_dot_product_attention(*qkv, attn_mask=torch.from_numpy(SEEN)),
         ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2))),
    Case("attention", lambda *qkv: ops.attention(*qkv, mask=np.tri(7, dtype=bool)),
         lambda *qkv: F.scaled_dot_product_attention(*qkv, is_causal=True), ((2, 3, 7, 4),) * 3),
    Case("embedding", lambda w: ops.embedding(w, ROWS), lambda w: F.embedding(torch.tensor(ROWS), w), ((5, 3),)),
    Case("sinusoids", ops.sinusoids,
         lambda t, omega: torch.cat([torch.sin(t[:, None] * omega), torch.cos(t[:, None] * omega)], 1), ((3,), (4,))),
    Case("timestep_embedding", lambda t: ops.timestep_embedding(t, 8), lambda t: timestep_embedding(t, 8), ((3,),)),
    Case("timestep_embedding", lambda t: ops.timestep_embedding(t, 7), lambda t: timestep_embedding(t, 7), ((3,),)),
    Case("mse", ops.mse, F.mse_loss, ((2, 3, 5), (2, 3, 5))),
    Case("huber", ops.huber, F.huber_loss, ((4, 3, 5), (4, 3, 5))),
    Case("huber", lambda x, y: ops.huber(x, y, delta=0.3), lambda x, y: F.huber_loss(x, y, delta=0.3), ((4, 5), (4, 5))),
    Case("cross_entropy", lambda x: ops.cross_entropy(x, LABELS),
         lambda x: F.cross_entropy(x, torch.tensor(LABELS)), ((3, 5),)),
]  # fmt: skip


def test_every_op_is_compared():
    assert {case.name for case in CASES} == set(ops.__all__)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_output_and_gradients_equal_pytorchs(case):
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.5, 2, s) if case.positive else rng.standard_normal(s) for s in case.shapes]
    xs = [sd.Tensor(a) for a in arrays]
    peers = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]

    want = case.theirs(*peers)
    dy = np.asarray(rng.standard_normal(want.shape))
    want.backward(torch.from_numpy(dy))
    with sd.Tape() as tape:
        y = case.ours(*xs)
        loss = (y * dy).sum()
    tape.backward(loss)

    np.testing.assert_allclose(y.data, want.detach().numpy(), rtol=1e-10, atol=1e-10)
    for x, peer in zip(xs, peers):
        np.testing.assert_allclose(x.grad, peer.grad.numpy(), rtol=1e-10, atol=1e-10)


def test_the_embedding_of_the_thousand_timesteps_equals_pytorchs():
    t = np.arange(1, 1001)
    want = timestep_embedding(torch.from_numpy(t), 32).numpy()
    np.testing.assert_allclose(ops.timestep_embedding(t, 32).data, want, rtol=0, atol=1e-10)
