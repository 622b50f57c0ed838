# %% [markdown]
# # 02 Is this gradient right?
#
# A wrong backward does not crash. The network trains, only worse, and nobody knows why. But a gradient is a claim about
# the function, and the function itself can be asked: move x a little and look at what f does. This lesson shows how
# exact that check is, what it needs, and how a check can look right and never fail.
#
# Expect: errors that form a V, one line for each formula; every op of this package right to nine digits; every backward
# that is wrong by 0.1 % caught; and three checks that let pass a gradient seven times too large. It takes ten seconds.
#
# `python demos/lessons/02_is_it_right.py` writes runs/lessons/02_is_it_right.png.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, WARM, record, save

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.autograd import op
from scratchdiff.gradcheck import central_difference as richardson
from scratchdiff.ops.examples import EXAMPLES

# %% [markdown]
# ## The definition, on a computer
#
# The derivative is the limit of (f(x + h) − f(x))/h. A computer cannot take the limit, so it takes a small h, and two
# errors compete. *Truncation*: by Taylor's series f(x + h) = f + h f' + ½ h² f'' + …, so the quotient is off by ½ h
# f''. *Rounding*: f is known to a relative ε only (1e-7 in float32, 2e-16 in float64), and the difference of two nearly
# equal numbers is divided by h, so the error is about ε f/h. A smaller h helps against the first and hurts with the
# second.
#
#     forward:     (f(x+h) − f(x))/h                                      truncation h,    best at h = ε^1/2
#     central:     (f(x+h) − f(x−h))/2h                                   truncation h²,   best at h = ε^1/3
#     Richardson:  [8 (f(x+h) − f(x−h)) − (f(x+2h) − f(x−2h))]/12h        truncation h⁴,   best at h = ε^1/5
#
# The best h is where both errors are equal: hᵖ = ε/h. In the central difference the even powers of h cancel. Richardson
# takes two of these, at h and 2h, and combines them so that the h² cancels as well. We try them on SiLU;
# `ops.silu.on_arrays` is the plain function behind the op, which returns y and the backward.


# %%
def forward_difference(f, h):
    """d f(s)/ds at s = 0, to first order in h."""
    return (f(h) - f(0)) / h


def symmetric_difference(f, h):
    """d f(s)/ds at s = 0, to second order in h."""
    return (f(h) - f(-h)) / (2 * h)


FORMULAS = {"forward": forward_difference, "central": symmetric_difference, "Richardson": richardson}


def v_curve(formula, dtype, sizes):
    """The relative error of a difference formula at each step size h, for the slope of SiLU, averaged over 50 places x."""
    places = np.random.default_rng(0).uniform(-2, 2, 50)
    _, backward = ops.silu.on_arrays(places)
    (slope,) = backward(np.ones(50))
    x = places.astype(dtype)

    def error(h):
        estimate = formula(lambda s: ops.silu.on_arrays(x + dtype(s))[0], dtype(h))
        return np.abs(estimate - slope).mean() / np.abs(slope).mean()

    return np.array([error(h) for h in sizes])


# %% [markdown]
# ## A whole op
#
# An op has many inputs and outputs. We choose a random dy and look at one number, L = Σ y · dy. Its gradient with
# respect to x is what backward(dy) must return. `sd.gradcheck` nudges every entry of every input and compares, in
# float64, with Richardson's formula.
#
# A check says something only if it can fail. So we check the checker: we put an op in front of one input whose backward
# is too steep by 0.1 %, and ask whether gradcheck notices. We do this for every op and every input. (@op makes a
# function on arrays, which returns its output and its backward, work on Tensors.)


# %%
@op
def too_steep(x, *, factor):
    """y = x, with a gradient that is wrong by the factor."""
    return x, lambda dy: (factor * dy,)


def check_ops(examples, factor=1.001):
    """{op: (the error of its gradient, the smallest error that gradcheck reports when one input's gradient is wrong)}."""
    errors = {}
    for example in examples:
        inputs = example.inputs(np.random.default_rng(0))
        reported = []
        for wrong in range(len(inputs)):

            def f(*xs, example=example, wrong=wrong):  # bound now, not when f is called
                return example.f(*[too_steep(x, factor=factor) if i == wrong else x for i, x in enumerate(xs)])

            reported.append(sd.gradcheck(f, *inputs))
        errors[example.name] = sd.gradcheck(example.f, *inputs), min(reported)
    return errors


# %% [markdown]
# ## Checks that cannot fail
#
# The same check in a few lines, and three ways to blind it. Each of them says that softmax with a backward *seven times
# too large* is right.
#
# 1. *The error is never computed again.* The number that the check reports is the one from before the loop. (A
# published checker had this bug.)
# 2. *dy is all ones.* The outputs of a softmax sum to 1 whatever x is, so L = Σ y does not depend on x. Its gradient is
# 0, and seven times 0 is 0. Whatever is normalised is blind to this dy.
# 3. *A layer of zeros comes after it.* The last layer of a U-Net starts at zero, so all gradients before it are 0 at
# first.


# %%
def slopes(f, x, dy):
    """The slope of L = Σ y · dy in each entry of x, by differences."""

    def slope(place):
        step = np.zeros_like(x)
        step[place] = 1
        return richardson(lambda s: (f(x + s * step)[0] * dy).sum(), 1e-3)

    return np.array([slope(place) for place in np.ndindex(x.shape)]).reshape(x.shape)


def check(f, x, dy):
    """max |backward − slope| over the entries of x."""
    _, backward = f(x)
    (dx,) = backward(dy)
    worst = 0.0
    for analytic, numeric in zip(dx.ravel(), slopes(f, x, dy).ravel()):
        error = abs(analytic - numeric)
        worst = max(worst, error)
    return worst


def check_that_forgets(f, x, dy):
    """`check` with the published bug."""
    _, backward = f(x)
    (dx,) = backward(dy)
    worst = error = 0.0
    for analytic, numeric in zip(dx.ravel(), slopes(f, x, dy).ravel()):
        worst = max(worst, error)  # the error is still the 0 from above
    return worst


def softmax_seven_times(x):
    """The softmax with a backward seven times too large."""
    y, backward = ops.softmax.on_arrays(x)
    return y, lambda dy: tuple(7 * dx for dx in backward(dy))


def then_zeros(f):
    """f followed by a linear layer whose weights are zero."""

    def g(x):
        y, backward = f(x)
        w = np.zeros((x.shape[-1], 4))
        return y @ w, lambda dy: backward(dy @ w.T)

    return g


def blind_checks():
    """{check: the error that it reports for the wrong softmax}, the honest check first."""
    rng = np.random.default_rng(0)
    x, dy, dz = rng.standard_normal((3, 5)), rng.standard_normal((3, 5)), rng.standard_normal((3, 4))
    return {
        "honest check": check(softmax_seven_times, x, dy),
        "error never computed again": check_that_forgets(softmax_seven_times, x, dy),
        "dy all ones": check(softmax_seven_times, x, np.ones((3, 5))),
        "zeros after it": check(then_zeros(softmax_seven_times), x, dz),
    }


# %%
def main(out="runs/lessons", small=False):
    """Measure the V-curves, check all ops, blind the checker, draw; return the headline figures."""
    sizes = np.geomspace(1e-14, 1, 29 if small else 113)
    curves = {(dtype, name): v_curve(formula, dtype, sizes)
              for dtype in (np.float64, np.float32) for name, formula in FORMULAS.items()}  # fmt: skip
    before = sd.kernels.use("numpy")  # the formulas in ops/, which you can read; the tests compare the kernels with them
    errors = check_ops(EXAMPLES[::4] if small else EXAMPLES)
    sd.kernels.use(before)
    right, wrong = (np.array(column) for column in zip(*errors.values()))
    blind = blind_checks()
    picture(out, sizes, curves, errors)
    best = {key: np.nanmin(curve) for key, curve in curves.items()}
    return record(out, "02_is_it_right", {
        "smallest error, forward, float64": best[np.float64, "forward"],
        "smallest error, central, float64": best[np.float64, "central"],
        "smallest error, Richardson, float64": best[np.float64, "Richardson"],
        "smallest error, forward, float32": best[np.float32, "forward"],
        "smallest error, Richardson, float32": best[np.float32, "Richardson"],
        "ops checked": len(errors), "largest error of a right backward": right.max(),
        "smallest error reported for one wrong by 0.1 %": wrong.min(),
        **{f"7 times too large, largest difference, {name}": error for name, error in blind.items()},
    })  # fmt: skip


def picture(out, sizes, curves, errors):
    """Above: the V-curves in both precisions. Below: every op, right and wrong by 0.1 %."""
    figure = plt.figure(figsize=(12, 8.5))
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 0.95))
    for column, (dtype, title) in enumerate(((np.float64, "float64"), (np.float32, "float32"))):
        ax = figure.add_subplot(grid[0, column])
        for name, colour in zip(FORMULAS, (WARM, GREEN, INK)):
            ax.loglog(sizes, curves[dtype, name], color=colour, label=name)
        ax.set(title=f"{title}: the error of the slope of SiLU", xlabel="step size h", ylabel="relative error",
               xlim=(1e-14, 1), ylim=(1e-16, 10))  # fmt: skip
        ax.grid(alpha=0.3)
        ax.legend(loc="lower left")
    ax = figure.add_subplot(grid[1, :])
    right, wrong = zip(*errors.values())
    ax.semilogy(np.maximum(right, 1e-16), "o", color=INK, label="as it is")
    ax.semilogy(wrong, "v", color=WARM, label="one input's gradient too large by 0.1 %: the smallest error reported")
    ax.axhline(1e-7, color="grey", ls="--", lw=1, label="what our tests let pass")
    ax.set(
        title="sd.gradcheck on every op of the package",
        ylabel="relative error",
        xlim=(-0.7, len(errors) - 0.3),
        ylim=(1e-16, 1),
    )
    ax.set_xticks(range(len(errors)), errors, rotation=60, ha="right", fontsize=8)
    ax.grid(alpha=0.3, axis="y")
    ax.legend(loc="upper right", ncols=3, fontsize=9)
    figure.tight_layout()
    save(figure, out, "02_is_it_right")


# %% [markdown]
# ## What the picture shows
#
# Above, from right to left: each line falls with slope 1, 2 or 4 as long as truncation rules, and rises again once
# rounding does. In float64 Richardson's formula is right to thirteen digits. In float32 the forward difference is never
# much better than 2e-4, and below h = 1e-8 nothing is left: x + h is x. This is why the package trains in float32 and
# checks in float64.
#
# Below: a right gradient and one that is wrong by 0.1 % lie at least six powers of ten apart, so a threshold is easy to
# choose.
#
# ## Exercises
#
# 1. In `v_curve`, replace `ops.silu` by `ops.relu` in both places and draw `places` from uniform(-0.01, 0.01). Which h
# can still be trusted, and why? (The titles still say SiLU.)
# 2. In `check_ops`, set factor to 1 + 1e-6. Does one threshold for all ops still tell every wrong backward from a right
# one? At 1 + 1e-10?
# 3. In `check_that_forgets`, add one line so that it can fail. In `then_zeros`, replace zeros by ones: does the check
# see it now, and if not, why not?

# %%
if __name__ == "__main__":
    main()
