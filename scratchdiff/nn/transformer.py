"""The Transformer's parts (Vaswani et al. 2017): attention in heads, a small network at every position, and their block."""

import numpy as np

from scratchdiff import ops
from scratchdiff.autograd import Tensor
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.nn.layers import Linear, multi_head, zeros
from scratchdiff.nn.module import Module


def causal_mask(length: int) -> np.ndarray:
    """(length, length) booleans, True where m ≤ l: position l sees itself and what comes before it.

    Raises ValueError unless the length is a positive integer."""
    require_positive_integers("causal_mask", length=length)
    return np.tri(length, dtype=bool)


class LayerNorm(Module):
    """Layer normalisation over the last axis, with scale 1 and shift 0 at first.   (..., width) → same."""

    def __init__(self, width, *, dtype=np.float32):
        require_positive_integers("LayerNorm", width=width)
        self.scale = Tensor(np.ones(width, dtype))
        self.shift = zeros(width, dtype)

    def __call__(self, x):
        return ops.layer_norm(x, self.scale, self.shift)


class MultiHeadAttention(Module):
    """proj(concat over heads of attention(q, k, v))   (Vaswani et al. 2017, section 3.2.2).

    Queries are linear in x, keys and values in `memory`, or in x itself where memory is None (self-attention).
    x: (N, L, width), memory: (N, M, width) → (N, L, width). mask: as `ops.attention` takes it, for (N, heads, L, M).
    Raises ValueError unless `heads` divides the width."""

    def __init__(self, width, heads, *, rng, dtype=np.float32):
        require_positive_integers("MultiHeadAttention", width=width, heads=heads)
        require(width % heads == 0, f"MultiHeadAttention: {heads} heads do not divide a width of {width}")
        self.q, self.k, self.v, self.proj = (Linear(width, width, rng=rng, dtype=dtype) for _ in range(4))
        self.heads = heads

    def __call__(self, x, memory=None, mask=None):
        memory = x if memory is None else memory
        return self.proj(multi_head(self.q(x), self.k(memory), self.v(memory), self.heads, mask))


class FeedForward(Module):
    """dense2(activation(dense1(x))): the same two layers at every position.   (..., width) → (..., width)."""

    def __init__(self, width, hidden, activation=ops.relu, *, rng, dtype=np.float32):
        self.dense1 = Linear(width, hidden, rng=rng, dtype=dtype)
        self.dense2 = Linear(hidden, width, rng=rng, dtype=dtype)
        self.activation = activation

    def __call__(self, x):
        return self.dense2(self.activation(self.dense1(x)))


class TransformerBlock(Module):
    """Self-attention, attention to a memory where `cross` is True, and a feed-forward network, each with a residual:

        pre_norm=True    x + dropout(f(norm(x)))      the later custom: the residual path is free of norms
        pre_norm=False   norm(x + dropout(f(x)))      as Vaswani et al. 2017 wrote it

    x: (N, L, width), memory: (N, M, width) → (N, L, width). mask is for the self-attention, memory_mask for the memory.
    dropout_rng draws the dropout masks; without it nothing is dropped. A stack of pre-norm blocks wants a norm at its end.
    Raises ValueError unless `heads` divides the width and 0 ≤ dropout < 1, and for a memory without `cross` or none with it.
    """

    def __init__(self, width, heads, hidden, *, cross=False, pre_norm=True, dropout=0.0, rng, dtype=np.float32):
        require(0 <= dropout < 1, "TransformerBlock: dropout must be in [0, 1)", dropout=dropout)
        kw = dict(rng=rng, dtype=dtype)
        self.attention = MultiHeadAttention(width, heads, **kw)
        self.cross_attention = MultiHeadAttention(width, heads, **kw) if cross else None
        self.feed_forward = FeedForward(width, hidden, **kw)
        self.norms = [LayerNorm(width, dtype=dtype) for _ in range(3 if cross else 2)]
        self.pre_norm, self.dropout = pre_norm, dropout

    def __call__(self, x, memory=None, mask=None, memory_mask=None, dropout_rng=None):
        has_memory, wants_memory = memory is not None, self.cross_attention is not None
        require(has_memory == wants_memory, f"TransformerBlock: a block with cross={wants_memory} "
                f"{'needs a' if wants_memory else 'takes no'} memory")  # fmt: skip
        parts = [lambda x: self.attention(x, mask=mask), lambda x: self.feed_forward(x)]
        if wants_memory:
            parts.insert(1, lambda x: self.cross_attention(x, memory, memory_mask))
        for norm, part in zip(self.norms, parts):
            y = part(norm(x) if self.pre_norm else x)
            if dropout_rng is not None and self.dropout > 0:
                y = ops.dropout(y, rate=self.dropout, rng=dropout_rng)
            x = x + y if self.pre_norm else norm(x + y)
        return x
