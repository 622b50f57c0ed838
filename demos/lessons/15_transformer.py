# %% [markdown]
# # 15 How does a Transformer copy a sequence? Attention, and where it learns to look
#
# The Transformer (Vaswani et al. 2017) reads a sequence and writes another. Its smallest test is to write what it reads.
# The Annotated Transformer (Rush 2018) prints its loss on this task, epoch by epoch, so we can compare.
#
# Expect: a loss below the published 0.343 after seven epochs, 100 sequences of 100 copied after eighteen, attention maps
# that show how, and a Transformer without positions that cannot. About two minutes on two cores.
#
# `python demos/lessons/15_transformer.py` writes runs/lessons/15_transformer.png.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, WARM, record, save

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.nn import LayerNorm, Linear, Module, TransformerBlock, causal_mask
from scratchdiff.nn.layers import glorot

SYMBOLS, LENGTH = 11, 10  # 0 is their padding, which this task never uses; 1 begins every sequence
THEIRS = [1.927, 1.658, 1.489, 1.349, 0.985, 0.569, 0.343]  # their evaluation loss after each epoch


# %% [markdown]
# ## One formula
#
#     attention(q, k, v) = softmax(q kᵀ/√D) v
#
# Each position asks with a query q, every position answers with a key k, and what comes back is a mean of the values v,
# weighted by how well query and key fit. `ops/attention.py` derives its gradient.
#
# The encoder's positions look at each other. The decoder's positions look at the symbols written so far (a causal mask
# hides the rest) and then at the encoder's output, its *memory*. That second look is the one that has to find the symbol
# to copy.


# %%
class Transformer(Module):
    """source (N, L), target (N, M) → logits (N, M, SYMBOLS) of the symbol that follows each of target's.

    positions: whether sines and cosines tell a symbol where it stands."""

    def __init__(self, width=512, heads=8, hidden=2048, depth=2, dropout=0.1, positions=True, *, rng):
        kw = dict(dropout=dropout, rng=rng)
        self.source, self.target = (glorot((SYMBOLS, width), rng, np.float32) for _ in range(2))
        self.encoder = [TransformerBlock(width, heads, hidden, **kw) for _ in range(depth)]
        self.decoder = [TransformerBlock(width, heads, hidden, cross=True, **kw) for _ in range(depth)]
        self.norm_memory, self.norm_out = LayerNorm(width), LayerNorm(width)
        self.out = Linear(width, SYMBOLS, rng=rng)
        self.width, self.dropout, self.positions = width, dropout, positions

    def embed(self, table, symbols, dropout_rng):
        h = ops.embedding(table, symbols) * math.sqrt(self.width)
        if self.positions:
            h = h + ops.timestep_embedding(np.arange(symbols.shape[1]), self.width).data
        return h if dropout_rng is None else ops.dropout(h, rate=self.dropout, rng=dropout_rng)

    def __call__(self, source, target, dropout_rng=None):
        memory = self.embed(self.source, source, dropout_rng)
        for block in self.encoder:
            memory = block(memory, dropout_rng=dropout_rng)
        memory = self.norm_memory(memory)

        h = self.embed(self.target, target, dropout_rng)
        for block in self.decoder:
            h = block(h, memory, causal_mask(target.shape[1]), dropout_rng=dropout_rng)
        return self.out(self.norm_out(h))


# %% [markdown]
# ## The same work
#
# Ten symbols, of which the first is 1 and the others are drawn from 1..10. An epoch is 20 batches of 30. Width 512, eight
# heads, 2048 hidden units, two blocks on each side, norms before each part, dropout 0.1, Glorot's weights, and Noam's
# schedule: the rate rises for 400 steps and would then fall,
#
#     lr = width^−½ · min(step^−½, step · 400^−³ᐟ²)
#
# So it is for seven epochs, 140 steps, after which we compare. From there on we let the rate fall to zero, which Noam's
# schedule would only do much later.
#
# Three details differ: they also drop attention weights and hidden units; their norms divide by σ + ε where ours divide
# by √(σ² + ε); their code adds the gradients of each evaluation to the next step's. The label smoothing in their code is
# set to 0.0 for this task, so their loss is the cross-entropy too.


# %%
def sequences(n, rng):
    """(n, LENGTH) symbols in 1..10, the first of each 1."""
    x = rng.integers(1, SYMBOLS, size=(n, LENGTH))
    x[:, 0] = 1
    return x


def loss_of(model, x, dropout_rng=None):
    """The cross-entropy of each symbol, given the source and the symbols before it."""
    logits = model(x, x[:, :-1], dropout_rng)
    return ops.cross_entropy(logits.reshape(-1, SYMBOLS), x[:, 1:].ravel())


def rate(step, steps):
    """Noam's factor of width^−½ for the first 140 steps; then a straight line to 0 at the last step."""
    noam = min(step, 140) * 400**-1.5
    return noam * min(1, (steps - step) / (steps - 140)) if steps > 140 else noam


def train(model, epochs, rng):
    """The evaluation loss after each epoch."""
    adam = sd.Adam(model.parameters(), lr=model.width**-0.5, betas=(0.9, 0.98), eps=1e-9)
    unseen, losses = sequences(150, np.random.default_rng(1)), []
    for step in range(1, 20 * epochs + 1):
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = loss_of(model, sequences(30, rng), rng)
        tape.backward(loss)
        adam.step(rate(step, 20 * epochs))
        if step % 20 == 0:
            losses.append(loss_of(model, unseen).item())
            print(f"epoch {step // 20}: loss {losses[-1]:.3f}", flush=True)
    return losses


def copy(model, source):
    """Write symbol after symbol, each the most probable one (greedy decoding)."""
    target = source[:, :1]
    while target.shape[1] < LENGTH:
        following = model(source, target).data[:, -1].argmax(1)
        target = np.concatenate([target, following[:, None]], 1)
    return target


# %% [markdown]
# ## What is lost without positions
#
# Attention is a sum over positions, so it does not know their order. Without sines the memory is a bag: which symbols,
# how often, but not where. The best that any network can do then is to guess the next symbol among those left in the bag.
# Nine symbols with the counts n_1, n_2, ... have 9!/(n_1! n_2! ···) orders, all equally probable, so a symbol costs at
# least
#
#     E log(9!/∏_k n_k!)/9 = (log 9! − 10 E log n!)/9 nats,          n ~ Binomial(9, 1/10)


# %%
def floor_without_positions():
    """The least cross-entropy for a network that sees the source as a bag, in nats a symbol."""
    n, kinds = LENGTH - 1, SYMBOLS - 1
    chance = [math.comb(n, k) * (1 / kinds) ** k * (1 - 1 / kinds) ** (n - k) for k in range(n + 1)]
    expected = sum(p * math.lgamma(k + 1) for k, p in enumerate(chance))
    return (math.lgamma(n + 1) - kinds * expected) / n


# %% [markdown]
# ## Where it looks
#
# A tape calls its `watch` with every op and its arguments, so a tape is also a microscope: we run the model once, pick the
# records of `attention` that look at the memory, and compute their weights softmax(q kᵀ/√D) again.


# %%
def memory_attention(model, x):
    """[(heads, M, L) for each block of the decoder]: how much the writer of each symbol looks at each symbol read."""
    with sd.Tape(watch=lambda record, dy, grads: None) as tape:  # a watched tape keeps the Tensors
        model(x, x[:, :-1])
    looks = [record.args for record in tape.records if record.name == "attention"]
    to_memory = looks[len(model.encoder) + 1 :: 2]  # after the encoder, each block looks at itself and then at the memory
    return [ops.softmax(q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])).data[0] for q, k, _ in to_memory]


# %%
def main(out="runs/lessons", small=False):
    """Train with positions and without, copy, draw the attention; return the headline figures."""
    size = dict(width=32, heads=4, hidden=64) if small else {}
    epochs = {True: 1, False: 1} if small else {True: 18, False: 7}
    unseen = sequences(100, np.random.default_rng(2))
    models, losses, copied = {}, {}, {}
    for positions in (True, False):
        rng = np.random.default_rng(0)
        models[positions] = Transformer(**size, positions=positions, rng=rng)
        losses[positions] = train(models[positions], epochs[positions], rng)
        copied[positions] = (copy(models[positions], unseen) == unseen).all(1).sum()

    picture(out, losses, memory_attention(models[True], np.arange(1, LENGTH + 1)[None]))
    return record(out, "15_transformer", {
        "copy task: loss after seven epochs": losses[True][:7][-1], "copy task: loss at the end": losses[True][-1],
        "copy task: sequences of 100 copied": copied[True],
        "without positions: loss after seven epochs": losses[False][-1],
        "without positions: least possible loss": floor_without_positions(),
        "without positions: sequences of 100 copied": copied[False],
        "parameters": models[True].num_parameters(),
    })  # fmt: skip


def picture(out, losses, maps):
    """Left: the losses. Right: each head of the decoder, looking at the memory."""
    heads = len(maps[0])
    figure = plt.figure(figsize=(12, 7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    axis = left.subplots()
    axis.plot(np.arange(1, len(THEIRS) + 1), THEIRS, "o", color=WARM, label="Annotated Transformer")
    axis.plot(np.arange(1, len(losses[True]) + 1), losses[True], "-o", ms=3, color=INK, label="ours")
    axis.plot(np.arange(1, len(losses[False]) + 1), losses[False], "-o", ms=3, color=GREEN, label="ours, no positions")
    floor = floor_without_positions()
    axis.axhline(floor, color=GREEN, lw=0.8, ls="--", label=f"least without positions, {floor:.2f}")
    axis.set(xlabel="epoch", ylabel="nats a symbol", ylim=(0, None), xticks=range(2, 19, 2), title="the copy task")
    axis.legend(fontsize=8)

    axes = right.subplots(len(maps) * heads // 4, 4)
    for i, axis in enumerate(axes.flat):
        block, head = divmod(i, heads)
        axis.imshow(maps[block][head], cmap="Blues", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"block {block + 1}, head {head + 1}", fontsize=9)
    right.supxlabel("symbol read →", fontsize=10)
    right.supylabel("← symbol written", fontsize=10)
    right.suptitle("where the writer of each symbol looks: white 0, blue 1")
    save(figure, out, "15_transformer")


# %% [markdown]
# ## Exercises
#
# 1. In `sequences`, set the last five symbols to copies of the first five. The decoder can now copy from what it has
# written itself: in which look do you find the diagonal?
# 2. In `loss_of`, let the target be `x[:, ::-1]` (which then begins with any symbol). The Transformer should write
# backwards: what do the maps look like, and is that harder to learn than copying?
# 3. In `Transformer.embed`, take the positions from the target only. What does the loss fall to now, and why?

# %%
if __name__ == "__main__":
    main()
