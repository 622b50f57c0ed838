# %% [markdown]
# # 03 How do gradients pass attention, a norm and a convolution?
#
# These three ops make up a U-Net, and their backwards are the ones that people copy without reading. Here each works on
# 3 × 3 numbers. Every array is printed forwards, then its gradient backwards, one line of code for each; the line comes
# from a short derivation. Then the package's op is asked for the same gradients, and finite
# differences too.
#
# Expect: three tables, eight gradients, all equal to the op's to fifteen digits and to the differences to eleven. It
# takes five seconds.
#
# `python demos/lessons/03_backwards_by_hand.py` writes runs/lessons/03_backwards_by_hand.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import record, save, shade

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.gradcheck import central_difference

# %% [markdown]
# The rule behind every backward: *the gradient of a number is the sum, over all numbers that it moves, of their
# gradient times how much it moves them.* As in lesson 01, dx is the gradient of x.
#
# ## Attention
#
# Three positions, each with a query, a key and a value of three numbers (the rows of q, k and v). Position l compares
# its query with all keys, makes the scores into weights that sum to 1, and takes the weighted mean of the values:
#
#     s = q kᵀ/√3        s[l,m]: how well key m answers query l
#     a = softmax(s)     a[l,m] = exp s[l,m] / Σ_n exp s[l,n]
#     y = a v            y[l] = Σ_m a[l,m] v[m]
#
# Backwards, from the last line to the first:
#
#     v[m] enters every y[l] with weight a[l,m]            dv = aᵀ dy
#     a[l,m] enters y[l], multiplied by v[m]               da = dy vᵀ
#     s[l,m] moves its whole row of a. By the quotient rule ∂a[l,n]/∂s[l,m] = a[l,n] (δ[n,m] − a[l,m]), where δ[n,m] is 1
#     for n = m and else 0:                                ds = a (da − Σ_n a[l,n] da[l,n])
#     q[l] enters row l of s, k[m] enters column m         dq = ds k/√3,   dk = dsᵀ q/√3


# %%
def attention_by_hand(q, k, v, dy):
    """Two dictionaries: every intermediate of attention, and its gradient."""
    s = q @ k.T / np.sqrt(3)
    a = np.exp(s) / np.exp(s).sum(1, keepdims=True)
    y = a @ v

    dv = a.T @ dy
    da = dy @ v.T
    ds = a * (da - (a * da).sum(1, keepdims=True))
    dq = ds @ k / np.sqrt(3)
    dk = ds.T @ q / np.sqrt(3)
    return dict(q=q, k=k, v=v, s=s, a=a, y=y), dict(q=dq, k=dk, v=dv, s=ds, a=da, y=dy)


# %% [markdown]
# Each row of ds sums to 0: to raise all scores of a query alike changes nothing. (The package uses this: it first
# subtracts the largest score of each row, so that exp cannot overflow.)
#
# ## A norm
#
# One image of 3 × 3 pixels and one channel, so one group of n = 9 numbers. With the mean μ and the deviation σ,
#
#     x̂ = (x − μ)/σ,     y = γ x̂ + β
#
# (γ is what the package calls scale, and β shift.) γ and β move all pixels, by x̂ and by 1, so
#
#     dγ = Σ x̂ dy,     dβ = Σ dy,     dx̂ = γ dy
#
# x[j] moves every x̂[i], in three ways: itself, through μ (∂μ/∂x[j] = 1/n), and through σ. Since σ² = mean (x − μ)² +
# EPS, ∂σ/∂x[j] = (x[j] − μ)/(nσ) = x̂[j]/n. Together:
#
#     ∂x̂[i]/∂x[j] = (δ[i,j] − 1/n − x̂[i] x̂[j]/n)/σ
#
# and summed over i with dx̂[i]: dx = (dx̂ − mean(dx̂) − x̂ · mean(x̂ dx̂))/σ.


# %%
EPS = 1e-6  # keeps σ away from 0


def norm_by_hand(x, gamma, beta, dy):
    """Two dictionaries: every intermediate of the norm, and its gradient."""
    mu, sigma = x.mean(), np.sqrt(x.var() + EPS)
    xhat = (x - mu) / sigma
    y = gamma * xhat + beta

    dgamma, dbeta = (xhat * dy).sum(), dy.sum()
    dxhat = gamma * dy
    dx = (dxhat - dxhat.mean() - xhat * (xhat * dxhat).mean()) / sigma
    return dict(x=x, gamma=gamma, beta=beta, xhat=xhat, y=y), dict(x=dx, gamma=dgamma, beta=dbeta, xhat=dxhat, y=dy)


# %% [markdown]
# dx sums to 0, and so does x̂ dx (but for EPS): to add a constant to the image, or to multiply it by a positive factor,
# changes nothing.
#
# ## A convolution
#
# The same image, a filter w of 3 × 3 taps, and a border of zeros, so that y has 3 × 3 pixels too. Each pixel of y is
# the sum of the window around it, weighted by the taps (xp is x in its border):
#
#     y[i,j] = Σ_{u,v} xp[i+u, j+v] w[u,v]
#
#     w[u,v] moves every pixel, by what its tap reads there          dw[u,v] = Σ_{i,j} xp[i+u, j+v] dy[i,j]
#     xp[p,q] moves the pixels whose window holds it: pixel (i,j) reads it with tap (p−i, q−j). So every pixel of dy adds its
#     share w · dy[i,j] to the window that it has read               dxp[i:i+3, j:j+3] += w dy[i,j]
#
# At the end the border is cut off, since it is no part of x.


# %%
def convolution_by_hand(x, w, dy):
    """Two dictionaries: every intermediate of the convolution, and its gradient."""
    xp = np.pad(x, 1)
    y, dw, dxp = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((5, 5))
    for i, j in np.ndindex(3, 3):
        y[i, j] = (xp[i : i + 3, j : j + 3] * w).sum()
    for i, j in np.ndindex(3, 3):
        dw += xp[i : i + 3, j : j + 3] * dy[i, j]
        dxp[i : i + 3, j : j + 3] += w * dy[i, j]
    return dict(x=x, xp=xp, w=w, y=y), dict(x=dxp[1:4, 1:4], xp=dxp, w=dw, y=dy)


# %% [markdown]
# ## Three witnesses
#
# The op of the package has its own code (and a compiled kernel behind it). Finite differences know no rule at all, so a
# mistake in a rule would show against them.


# %%
def attention_op(q, k, v):
    """ops.attention on one head of one example."""
    return ops.attention(*(x.reshape(1, 1, 3, 3) for x in (q, k, v))).reshape(3, 3)


def norm_op(x, gamma, beta):
    """ops.group_norm on one image of one channel."""
    return ops.group_norm(x.reshape(1, 3, 3, 1), gamma.reshape(1), beta.reshape(1), groups=1, eps=EPS).reshape(3, 3)


def convolution_op(x, w):
    """ops.conv2d on one image, from one channel to one."""
    return ops.conv2d(x.reshape(1, 3, 3, 1), w.reshape(3, 3, 1, 1)).reshape(3, 3)


def by_tape(f, inputs, dy):
    """{name: gradient of Σ f · dy} by the tape."""
    tensors = {name: sd.Tensor(x) for name, x in inputs.items()}
    with sd.Tape() as tape:
        loss = (f(**tensors) * dy).sum()
    tape.backward(loss)
    return {name: x.grad for name, x in tensors.items()}


def by_differences(f, inputs, dy):
    """{name: gradient of Σ f · dy} by finite differences, one entry after another."""
    tensors = {name: sd.Tensor(x) for name, x in inputs.items()}

    def slope(name, place):
        step = np.zeros_like(inputs[name])
        step[place] = 1

        def moved(s):
            return (f(**tensors | {name: sd.Tensor(inputs[name] + s * step)}).data * dy).sum()

        return central_difference(moved, 1e-3)

    return {name: np.reshape([slope(name, place) for place in np.ndindex(x.shape)], x.shape) for name, x in inputs.items()}


def largest_difference(gradients, others):
    """max |gradient − other| over the inputs."""
    return max(np.abs(gradients[name] - other).max() for name, other in others.items())


def print_step(title, values, gradients):
    """Every intermediate, and its gradient to the right."""
    print(f"\n{title}")
    for name, value in values.items():
        both = (str(np.atleast_2d(np.round(array, 3) + 0)).split("\n") for array in (value, gradients[name]))
        for i, (row, of_gradient) in enumerate(zip(*both)):
            print(f"{f'{name} =' * (i == 0):>8} {row:<36}{f'd{name} =' * (i == 0):>9} {of_gradient}")


# %%
NUMBERS = [[1.0, 0.0, 2.0], [-1.0, 1.0, 0.5], [0.0, 2.0, -2.0]]


def main(out="runs/lessons", small=False):
    """Go through the three ops by hand, compare with both witnesses, draw; return the headline figures."""
    rng = np.random.default_rng(1)
    x, (q, k, v, w, dy) = np.array(NUMBERS), rng.integers(-4, 5, (5, 3, 3)) / 2
    gamma, beta = np.array(1.5), np.array(0.5)
    steps = {
        "attention": (attention_by_hand, attention_op, dict(q=q, k=k, v=v)),
        "group norm": (norm_by_hand, norm_op, dict(x=x, gamma=gamma, beta=beta)),
        "convolution": (convolution_by_hand, convolution_op, dict(x=x, w=w)),
    }
    rows, figures = {}, {}
    for name, (by_hand, op, inputs) in steps.items():
        values, gradients = rows[name] = by_hand(**inputs, dy=dy)
        print_step(name, values, gradients)
        figures[f"{name}: by hand and op, forward"] = np.abs(values["y"] - op(**inputs).data).max()
        figures[f"{name}: by hand and op, gradients"] = largest_difference(gradients, by_tape(op, inputs, dy))
        figures[f"{name}: by hand and differences"] = largest_difference(gradients, by_differences(op, inputs, dy))
    picture(out, rows)
    print()
    return record(out, "03_backwards_by_hand", figures)


def picture(out, rows):
    """For each op a row of matrices, forwards, and below each its gradient."""
    figure, axes = plt.subplots(6, 6, figsize=(12, 13.2))
    shown = {"xhat": "x̂", "gamma": "γ", "beta": "β"}
    for row, (title, dictionaries) in enumerate(rows.items()):
        for below, numbers in enumerate(dictionaries):
            limit = max(np.abs(array).max() for array in numbers.values())
            cells = axes[2 * row + below]
            for ax, (name, array) in zip(cells, numbers.items()):
                matrix(ax, array, limit, "d" * below + shown.get(name, name))
            for ax in cells[len(numbers) :]:
                ax.axis("off")
            label = f"{title}\n{'gradients' if below else 'values'}\nwhite 0, darkest ±{limit:.3g}"
            cells[0].text(-0.35, 0.5, label, transform=cells[0].transAxes, ha="right", va="center", fontsize=10)
    figure.suptitle("Read the values from left to right, the gradients from right to left", y=0.93, fontsize=13)
    save(figure, out, "03_backwards_by_hand")


def matrix(ax, array, limit, title):
    """A small matrix as coloured cells with its numbers in them."""
    array = np.atleast_2d(array)
    ax.imshow(shade(array, limit))
    for (i, j), value in np.ndenumerate(array):
        ax.text(
            j, i, f"{np.round(value, 2) + 0:g}", ha="center", va="center", fontsize=27 / len(array) if len(array) > 1 else 9
        )
    ax.set(title=title, xticks=[], yticks=[])


# %% [markdown]
# ## Exercises
#
# Keep the first tables, to compare.
#
# 1. In `attention_by_hand`, leave out the sum in ds: ds = a * da. Which gradients are wrong now? Add up the rows of ds.
# 2. In `norm_by_hand`, treat σ as a constant: drop the last term of dx. How large is the error next to dx? Which of the
# two sums, of dx and of x̂ dx, is still 0?
# 3. In `convolution_by_hand`, write dx as one convolution of np.pad(dy, 1) with w turned round (w[::-1, ::-1]), by the
# loop of the forward, and return it as x. Does the figure stay as small?

# %%
if __name__ == "__main__":
    main()
