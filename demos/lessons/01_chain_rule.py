# %% [markdown]
# # 01 What is a gradient, and how does a list of steps find it?
#
# To train a network we ask of each of its numbers: if this number grows a little, by how much does the loss grow? The
# ratio of the two is the *gradient* of that number. A network has millions of them, and backpropagation finds all
# gradients in about the time of two more evaluations. Here the network is so small that you can check every number with
# a pencil.
#
# Expect: a table of 23 numbers with their gradients; those of the 15 inputs and weights are found in three ways that
# agree. It takes five seconds, and the very first run compiles for up to a minute.
#
# `python demos/lessons/01_chain_rule.py` writes runs/lessons/01_chain_rule.png, and 01_chain_rule.html for a browser.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from lesson import record, save, shade

import scratchdiff as sd
from scratchdiff import ops

# %% [markdown]
# ## One number
#
# Take L = (w x − y)² with w = 3, x = 2, y = 5. A computer evaluates it in three steps, and each step has a derivative
# that we know from school:
#
#     a = w x     = 6        ∂a/∂w = x    = 2
#     d = a − y   = 1        ∂d/∂a        = 1
#     L = d²      = 1        ∂L/∂d = 2 d  = 2
#
# The *chain rule* multiplies them: dL/dw = ∂L/∂d · ∂d/∂a · ∂a/∂w = 2 · 1 · 2 = 4. If w grows by 0.001, L grows by about
# 0.004.
#
# We multiply from the end, from L to w. Then each intermediate product is itself a gradient: dL/dd = 2, then dL/da = 2,
# then dL/dw = 4. From now on we write dw for dL/dw, and da for dL/da: the gradient of a number carries its name.

# %% [markdown]
# ## Two layers
#
# Two inputs x, three hidden numbers h, each cut off below zero by the ReLU, and one output y, which should be 1:
#
#     h = x W + b,     a = max(h, 0),     y = a V + c,     L = (y − target)²
#
# Every step is undone by one line, the *backward* of that step. It takes the gradient of the step's output and returns
# those of its inputs. Where several numbers are moved by one, their contributions add up, which is what the matrix
# products do: x[i] moves all three h[j], by W[i,j] each, so dx[i] = Σ_j dh[j] W[i,j]. W[i,j] moves h[j] alone, by x[i],
# so dW[i,j] = x[i] dh[j]. b[j] moves h[j] by 1, so db[j] = dh[j], summed over the rows of x (here there is one).

# %%
X, TARGET = np.array([[1.0, 2.0]]), np.array([[1.0]])
WEIGHTS = dict(
    W=np.array([[1.0, -1.0, -1.5], [0.5, -1.0, 1.0]]),
    b=np.array([0.0, 0.0, 0.0]),
    V=np.array([[1.0], [2.0], [-2.0]]),
    c=np.array([0.5]),
)


def by_hand(x, target, W, b, V, c):
    """Two dictionaries: every number of the network, and its gradient."""
    h = x @ W + b
    a = np.maximum(h, 0)
    y = a @ V + c
    L = ((y - target) ** 2).sum()  # the sum of one number

    dL = 1.0  # if L grows by 1, then L grows by 1
    dy = dL * 2 * (y - target)
    da, dV, dc = dy @ V.T, a.T @ dy, dy.sum(0)
    dh = da * (h > 0)  # the slope of max(h, 0) is 1 above zero and 0 below
    dx, dW, db = dh @ W.T, x.T @ dh, dh.sum(0)
    values = dict(x=x, W=W, b=b, h=h, a=a, V=V, c=c, y=y, L=L)
    return values, dict(x=dx, W=dW, b=db, h=dh, a=da, V=dV, c=dc, y=dy, L=dL)


def print_table(values, gradients):
    """One line for each array: its numbers, and the gradient of each."""
    print(f"{'':4}{'value':<40}gradient")
    for name, value in values.items():
        print(f"{name:<4}{np.array2string(np.ravel(value)):<40}{np.array2string(np.ravel(gradients[name]))}")


# %% [markdown] Read the table from the bottom: dL = 1, and y is 0.5 too large, so dy = 2 · 0.5 = 1. The second hidden
# number is −3, so the ReLU cuts it off, and no small change of it reaches the loss. Its da is 2, but its dh is 0, and
# so are db and its column of dW. Its entry of dV is 0 for another reason: V multiplies an a that is 0.
#
# ## The list
#
# `sd.Tape` does the same for any program. Each *op* is a function on arrays that returns its output and its backward.
# The tape writes the ops into a list as they run; `tape.backward(loss)` walks the list from its end. A number that is
# used twice (exercise 3) gets two gradients, and the tape adds them. `watch` is called on the way forwards and on the
# way back. (`mse` also returns the gradient of the target, which nobody asks for.)


# %%
def network(x, target, W, b, V, c):
    """The loss of the same network, written with ops."""
    h = ops.linear(x, W, b)
    a = ops.relu(h)
    y = ops.linear(a, V, c)
    return ops.mse(y, target)


def print_op(op, dy, gradients):
    """A watch: what an op returned, and on the way back what it got and what it passes on."""
    if gradients is None:
        print(f"  forward   {op.name:<7} returns {op.out.data.ravel()}")
    else:
        passed = ", ".join(str(dx.ravel()) for dx in gradients if dx is not None)
        print(f"  backward  {op.name:<7} gets {dy.ravel()}, passes on {passed}")


def by_tape(x, target, **weights):
    """The gradients of x and of the weights, by the tape."""
    tensors = {name: sd.Tensor(value) for name, value in dict(x=x, **weights).items()}
    with sd.Tape(watch=print_op) as tape:
        loss = network(target=target, **tensors)
    tape.backward(loss)
    return {name: tensor.grad for name, tensor in tensors.items()}


# %% [markdown]
# ## Without any rule
#
# A gradient says what happens if one number grows a little. So let it grow a little, run the network again, and look.
# Two evaluations for each number: that is why nobody trains like this, and it is the best check there is (lesson 02).


# %%
def by_nudging(x, target, h=1e-4, **weights):
    """The same gradients by central differences: (L(w + h) − L(w − h))/2h for one number after another."""
    arrays = {name: np.array(value, float) for name, value in dict(x=x, **weights).items()}
    gradients = {}
    for name, array in arrays.items():
        gradients[name] = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            start, ends = array[place], []
            for array[place] in (start + h, start - h):
                ends.append(network(target=target, **arrays).item())
            array[place] = start
            gradients[name][place] = (ends[0] - ends[1]) / (2 * h)
    return gradients


def largest_difference(some, others):
    """max |some − others| over the arrays that both have."""
    return max(np.abs(some[name] - others[name]).max() for name in some.keys() & others.keys())


# %% [markdown]
# ## The tape's page
#
# For four ops a table is enough; a U-Net, the network of a diffusion model, has two hundred. `sd.trace` keeps all that
# a tape saw, and `sd.save_page` writes it as a page for a browser: each op with its source, its numbers and their
# gradients. The keys j and k walk along the list, and b turns round, to go backwards as the gradient does.


# %%
def save_tape(path, x, target, **weights):
    """Write the page of the network's tape."""
    tensors = {name: sd.Tensor(value) for name, value in dict(x=x, **weights).items()}
    trace = sd.trace(lambda: network(target=target, **tensors), tensors, title="Lesson 01: a two-layer network")
    sd.save_page(trace, path)


# %% [markdown]
# ## What it is good for
#
# The gradient of all weights points to where the loss grows fastest. A small step against it, w ← w − r dw with a small
# r, lowers the loss by about r Σ dw²: a little less, because the slope falls on the way. That is training.


# %%
def step_down(weights, gradients, r):
    """(the fall of the loss after one step, the fall that the gradient promises)."""
    moved = {name: value - r * gradients[name] for name, value in weights.items()}
    fall = network(X, TARGET, **weights).item() - network(X, TARGET, **moved).item()
    return fall, r * sum((gradients[name] ** 2).sum() for name in weights)


# %%
def main(out="runs/lessons", small=False):
    """Find the gradients in three ways, draw the network, take a step; return the headline figures."""
    values, gradients = by_hand(X, TARGET, **WEIGHTS)
    print_table(values, gradients)
    print("\nThe tape, forwards and backwards:")
    of_tape = by_tape(X, TARGET, **WEIGHTS)
    of_nudging = by_nudging(X, TARGET, **WEIGHTS)
    save_tape(Path(out) / "01_chain_rule.html", X, TARGET, **WEIGHTS)
    fall, promised = step_down(WEIGHTS, gradients, 0.001)
    picture(out, values, gradients)
    print()
    return record(out, "01_chain_rule", {
        "numbers with a gradient": sum(np.size(value) for value in gradients.values()),
        "largest difference, by hand and tape": largest_difference(gradients, of_tape),
        "largest difference, by hand and nudging": largest_difference(gradients, of_nudging),
        "fall of the loss after a step with r = 0.001": fall, "fall that the gradient promised": promised,
    })  # fmt: skip


# %% [markdown]
# ## The picture
#
# The same network twice: the values, which flow to the right, and the gradients, which flow to the left.

# %%
PLACES = {"x": [(0, 1), (0, -1)], "h": [(2, 2), (2, 0), (2, -2)], "a": [(4, 2), (4, 0), (4, -2)], "y": [(6, 0)],
          "L": [(8, 0)]}  # fmt: skip


def picture(out, values, gradients):
    """Above the values, below the gradients; red is positive, blue negative."""
    figure, axes = plt.subplots(2, 1, figsize=(10, 9.4))
    draw(axes[0], values, "->", "Forward: each number is computed from those to its left", "value")
    below = "Backward: from the gradients to its right and the values above. On an arrow: its weight's gradient"
    draw(axes[1], gradients, "<-", below, "gradient")
    figure.tight_layout()
    save(figure, out, "01_chain_rule")


def draw(ax, numbers, arrow, title, what):
    """The network with a number in each node and on each arrow between layers."""
    limit = max(np.abs(array).max() for array in numbers.values())
    edges = [(p, q, numbers["W"][i, j]) for i, p in enumerate(PLACES["x"]) for j, q in enumerate(PLACES["h"])]
    edges += [(p, q, None) for p, q in zip(PLACES["h"], PLACES["a"])]
    edges += [(p, PLACES["y"][0], v) for p, v in zip(PLACES["a"], numbers["V"][:, 0])]
    edges += [(PLACES["y"][0], PLACES["L"][0], None)]
    for (x0, y0), (x1, y1), weight in edges:
        line = dict(arrowstyle=arrow, color="0.55", shrinkA=23, shrinkB=23)
        ax.annotate("", (x1, y1), (x0, y0), arrowprops=line)
        if weight is not None:
            at = 0.66  # of the way, where crossing arrows are apart
            ax.text(x0 + at * (x1 - x0), y0 + at * (y1 - y0), f"{weight:g}", ha="center", va="center", fontsize=10,
                    bbox=dict(boxstyle="round,pad=0.15", fc=shade(weight, limit), ec="none"))  # fmt: skip
    for name, places in PLACES.items():
        for place, value in zip(places, np.ravel(numbers[name])):
            ax.scatter(*place, s=1500, color=[shade(value, limit)], edgecolors="0.3", zorder=3)
            ax.text(*place, f"{value:g}", ha="center", va="center", fontsize=12, zorder=4)
        ax.text(places[0][0], 2.85, name, ha="center", fontsize=13, style="italic")
    ax.text(2, -2.95, f"b: {', '.join(f'{b:g}' for b in numbers['b'])}", ha="center", fontsize=10)
    ax.text(6, -0.95, f"c: {numbers['c'][0]:g}", ha="center", fontsize=10)
    for place, name in ((1, "W"), (3, "ReLU"), (5, "V"), (7, "(y − 1)²")):
        ax.text(place, 2.85, name, ha="center", fontsize=11, color="0.4")
    ax.text(8, -2.95, f"{what}: white is 0, darkest is ±{limit:g}", ha="right", fontsize=9, color="0.4")
    ax.set(title=title, xlim=(-0.6, 8.6), ylim=(-3.2, 3.2))
    ax.axis("off")


# %% [markdown]
# ## Exercises
#
# Each exercise starts from the file as it is; keep its table, to compare.
#
# 1. In `WEIGHTS`, set b to np.array([0.0, 4.0, 0.0]), which wakes the second hidden number. (The tables print W row by
# row.) Work out all values and gradients with a pencil first. Then run: are they those of the table?
# 2. In `by_hand`, write dh = da, as if the ReLU were not there. Which gradients become wrong, which stay right, and
# which of the printed figures tell?
# 3. In `network`, return ops.mse(y + x[:, :1], target): a connection that skips both layers. What becomes of dy, and
# which part of dx comes through the new connection? Repair `by_hand` until all three ways agree again.

# %%
if __name__ == "__main__":
    main()
