# %% [markdown]
# # 08 Which noise made this pixel? Backpropagation through the sampler
#
# Training sends a gradient through one call of the network. A sampler is a program as well: it calls the network
# fifty times, and each call is differentiable. So the chain rule also leads from the finished digit back to the noise
# that it was made from.
#
# Expect: a map of the noise that made one pixel; noise that we change until a classifier reads another digit; and a
# second way to the same gradient, by an ordinary differential equation, which agrees better the more steps we take.
# It takes about two minutes on two cores.
#
# `python demos/lessons/08_through_the_sampler.py` writes runs/lessons/08_through_the_sampler.png.

# %%
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np
from lesson import INK, WARM, record, save
from scipy.integrate import solve_ivp

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.metrics import load_classifier

# %% [markdown]
# ## The sampler is a function of its noise
#
# DDIM without fresh noise (eta = 0) is a chain of maps. With s the time before t,
#
#     x_s = √ᾱ_s x0_hat(x_t) + √(1−ᾱ_s) eps_hat(x_t)                                     Φ = Φ_1 ∘ ... ∘ Φ_T
#
# The gradient of a number L(x_0) with respect to x_T is a product of the maps' Jacobians, and the tape multiplies it out
# from the left, one vector–Jacobian product for each step. Fifty calls of a U-Net keep fifty times the activations of one.
# `sd.recompute` trades memory for time: it keeps only the input of each step, and runs the step once more when the
# gradient comes by. `sd.ddim_flow` is DDIM made of such steps.
#
# We ask the network for any digit rather than a certain one, so that the noise alone decides. x0_hat is not clipped
# here: where a value is clipped, the gradient would stop.


# %%
def load():
    """The pretrained network and its process, without clipping."""
    model, trained = sd.pretrained("mnist")
    return model, sd.GaussianDiffusion(trained.schedule, trained.predict)


def gradient_of_noise(diffusion, model, xT, steps, loss_of):
    """(x_0, L, dL/dx_T) for L = loss_of(x_0)."""
    noise = sd.Tensor(xT)
    with sd.Tape() as tape:
        x0 = sd.ddim_flow(diffusion, model, noise, steps)
        loss = loss_of(x0)
    tape.backward(loss)
    return x0.data, loss.item(), noise.grad


# %% [markdown]
# ## Which noise made this pixel?
#
# L(x_0) is one pixel. A thousand steps away the noise of one place belongs to no pixel in particular: the network decides
# from all of it where strokes go. So the map is not a dot at the pixel.


# %%
def pixel_maps(diffusion, model, xT, pixel, steps_list):
    """For each number of steps: (x_0, ∂x_0[pixel]/∂x_T)."""
    row, column = pixel
    return [gradient_of_noise(diffusion, model, xT, steps, lambda x0: x0[0, row, column, 0])[::2] for steps in steps_list]


def share_near(gradient, pixel, radius=2):
    """The share of ‖gradient‖² within a square around the pixel."""
    row, column = pixel
    squares = np.square(gradient[0, ..., 0])
    near = squares[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]
    return near.sum() / squares.sum()


# %% [markdown]
# ## The noise, moved uphill
#
# L(x_0) = log p(class | x_0), by the small classifier of `sd.metrics`. We climb it in the noise, and keep the noise at the
# length that noise has, √d: elsewhere the network has never been. The picture stays a digit on the whole way, because
# every point of the way is noise and the sampler turns noise into digits. (DOODL, Wallace et al. 2023; DNO,
# Karunratanakul et al. 2024, in small.)


# %%
def climb(diffusion, model, classifier, xT, target, steps, rounds, rate=0.02):
    """[(x_0, p(target | x_0), x_T)] on the way, until the classifier is sure of `target` or the rounds are over."""
    length, path = xT.size**0.5, []
    for _ in range(rounds):
        x0, loss, gradient = gradient_of_noise(
            diffusion, model, xT, steps, lambda x0: -ops.cross_entropy(classifier(x0), np.array([target]))
        )
        path.append((x0, np.exp(loss), xT))
        if np.exp(loss) > 0.98:
            break
        xT = xT + gradient * (rate * length / float(np.linalg.norm(gradient)))
        xT = xT * (length / float(np.linalg.norm(xT)))
    return path


# %% [markdown]
# ## The same gradient by an equation
#
# With many small steps DDIM follows the probability-flow ODE. In y = x_t/√ᾱ_t and u = log σ it reads
# dy/du = y − x0_hat(y, u) (see `diffusion/solvers.py`). The gradient a = dL/dy obeys an equation of its own, the
# *adjoint* equation (Chen et al. 2018, Eq. 4):
#
#     da/du = −a + (∂x0_hat/∂y)ᵀ a
#
# which is solved from the data's end to the noise's end, together with y itself. Nothing is kept on the way. SciPy chooses
# the steps, so this is the gradient of the exact curve; the tape's is that of the chain with its few steps.


# %%
def x0_and_pullback(diffusion, model, y, u, a):
    """(x0_hat, (∂x0_hat/∂y)ᵀ a) at y = x_t/√ᾱ_t."""
    scale, t = np.sqrt(1 + np.exp(2 * u)), float(diffusion.schedule.time(np.exp(u)))
    x = sd.Tensor((y / scale).astype(np.float32))
    with sd.Tape() as tape:
        x0_hat = diffusion.predict_x0(x, t, model(x, np.full(len(x), t)))
        total = (x0_hat * a.astype(np.float32)).sum()
    tape.backward(total)
    return x0_hat.data.astype(np.float64), x.grad.astype(np.float64) / scale


def adjoint_gradient(diffusion, model, xT, dx0, rtol):
    """dL/dx_T by the adjoint equation, for dL/dx_0 = dx0. The last step, from σ_1 to the data, is x_0 = x0_hat."""
    shape, n = xT.shape, xT.size
    first, final = (np.log(diffusion.schedule.sigma(t)) for t in (diffusion.schedule.T, 1))

    def flow(u, y):
        t = float(diffusion.schedule.time(np.exp(u)))
        x0_hat, _ = diffusion.denoise(model, (y / np.sqrt(1 + np.exp(2 * u))).reshape(shape).astype(np.float32), t)
        return y - x0_hat.ravel()

    def flow_and_adjoint(u, state):
        y, a = state[:n].reshape(shape), state[n:].reshape(shape)
        x0_hat, pulled = x0_and_pullback(diffusion, model, y, u, a)
        return np.concatenate([(y - x0_hat).ravel(), (pulled - a).ravel()])

    y = solve_ivp(flow, (first, final), xT.ravel() * np.sqrt(1 + np.exp(2 * first)), rtol=rtol, atol=rtol).y[:, -1]
    _, a = x0_and_pullback(diffusion, model, y.reshape(shape), final, dx0)
    small = np.repeat([rtol, rtol * np.exp(-first)], n)  # y grows as σ on this way, and a falls as 1/σ
    end = solve_ivp(flow_and_adjoint, (final, first), np.concatenate([y, a.ravel()]), rtol=rtol, atol=small).y[:, -1]
    return end[n:].reshape(shape) * np.sqrt(1 + np.exp(2 * first))


# %% [markdown]
# ## What recomputing saves


# %%
def peak_memory(diffusion, model, xT, steps, keep):
    """The most bytes that the gradient needs at once, beyond what was there before."""
    tracemalloc.start()
    noise = sd.Tensor(xT)
    with sd.Tape() as tape:
        loss = sd.ddim_flow(diffusion, model, noise, steps, keep=keep).sum()
    tape.backward(loss)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


# %%
def main(out="runs/lessons", small=False):
    """Make the three figures and the picture; return the headline figures."""
    model, diffusion = load()
    classifier = load_classifier()
    pixel = (13, 14)
    xT = np.random.default_rng(3).standard_normal((1, 28, 28, 1)).astype(np.float32)
    steps_list, few = ((2, 3), 2) if small else ((5, 10, 20, 50), 20)
    maps = pixel_maps(diffusion, model, xT, pixel, steps_list)

    start = gradient_of_noise(diffusion, model, xT, few, lambda x0: x0.sum())[0]
    seen = int(ops.softmax(classifier(start)).data.argmax())
    target = 8 if seen != 8 else 3
    path = climb(diffusion, model, classifier, xT, target, few, 2 if small else 60)

    dx0 = np.zeros(xT.shape)
    dx0[0, *pixel, 0] = 1
    exact = adjoint_gradient(diffusion, model, xT, dx0, 0.1 if small else 1e-6)
    many = (2, 4) if small else (5, 10, 20, 50, 100, 200, 500)
    chain = [pixel_maps(diffusion, model, xT, pixel, [steps])[0][1] for steps in many]
    apart = [np.linalg.norm(g - exact) / np.linalg.norm(exact) for g in chain]

    short, long = (1, 2) if small else (5, 50)
    peaks = {
        (steps, keep): peak_memory(diffusion, model, xT, steps, keep) for steps in (short, long) for keep in (False, True)
    }

    picture(out, maps, steps_list, pixel, path, seen, target, many, apart)
    return record(out, "08_through_the_sampler", {
        "share of the pixel's gradient within 2 pixels of it": share_near(maps[-1][1], pixel),
        "the classifier's digit before": seen, "the digit we climb to": target,
        "rounds of climbing": len(path), "p(target) before": path[0][1], "p(target) after": path[-1][1],
        "cosine between the noise before and after": float((path[0][2] * path[-1][2]).sum() / xT.size),
        f"chain against adjoint, {many[0]} steps: relative difference": apart[0],
        f"chain against adjoint, {many[-1]} steps: relative difference": apart[-1],
        "slope of log difference against log steps": np.polyfit(np.log(many), np.log(apart), 1)[0],
        f"MB at {short} steps, recomputed": peaks[short, False] / 1e6,
        f"MB at {long} steps, recomputed": peaks[long, False] / 1e6,
        f"MB at {short} steps, kept": peaks[short, True] / 1e6,
        f"MB at {long} steps, kept": peaks[long, True] / 1e6,
    })  # fmt: skip


def picture(out, maps, steps_list, pixel, path, seen, target, many, apart):
    """Above: what made one pixel. Middle: the climb. Below: chain against adjoint."""
    figure = plt.figure(figsize=(12, 9.5), layout="constrained")
    above, middle, below = figure.subfigures(3, 1, height_ratios=(2.4, 1.5, 2.2))
    axes = above.subplots(2, len(maps))
    for column, ((x0, gradient), steps) in enumerate(zip(maps, steps_list)):
        axes[0, column].imshow(x0[0, ..., 0], cmap="gray", vmin=-1, vmax=1)
        axes[0, column].plot(pixel[1], pixel[0], "s", mfc="none", mec=WARM, ms=9, mew=2)
        axes[0, column].set_title(f"x_0 after {steps} steps")
        limit = np.abs(gradient).max()
        axes[1, column].imshow(gradient[0, ..., 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes[1, column].plot(pixel[1], pixel[0], "s", mfc="none", mec="black", ms=9, mew=1)
        axes[1, column].set_title(f"its gradient in x_T, ±{limit:.2g}")
    above.suptitle("Which noise made the marked pixel? (red: more noise there makes it lighter, blue: darker)")
    shown = [path[i] for i in np.unique(np.linspace(0, len(path) - 1, 9).round().astype(int))]
    axes = middle.subplots(1, len(shown), squeeze=False)[0]
    for ax, (x0, p, _) in zip(axes, shown):
        ax.imshow(x0[0, ..., 0], cmap="gray", vmin=-1, vmax=1)
        ax.set_title(f"p({target}) = {p:.2g}")
    middle.suptitle(f"The noise moved uphill, until the classifier sees {target} in place of {seen}")
    for ax in (*above.axes, *middle.axes):
        ax.set_axis_off()
    left, right = below.subplots(1, 2)
    left.loglog(many, apart, "o-", color=INK, label="gradient of the chain − gradient of the ODE")
    left.loglog(many, apart[0] * many[0] / np.array(many), "--", color="grey", label="falling as 1/steps")
    left.set(xlabel="steps of DDIM", ylabel="relative difference", title="The chain's gradient and the adjoint's")
    left.legend()
    right.plot([p for _, p, _ in path], "o-", ms=3, color=WARM)
    right.set(xlabel="rounds of climbing", ylabel=f"p({target} | x_0)", ylim=(-0.02, 1.02), title="The climb")
    for ax in (left, right):
        ax.grid(alpha=0.3)
    save(figure, out, "08_through_the_sampler")


# %% [markdown]
# ## Exercises
#
# 1. In `main`, choose a pixel in a corner: pixel = (2, 2). What does its map look like, and why is it so small?
# 2. In `load`, add `images=True` to GaussianDiffusion, so that x0_hat is clipped. Where does the gradient go?
# 3. In `climb`, delete the line that rescales xT. Watch the length of the noise and the pictures: what breaks first?

# %%
if __name__ == "__main__":
    main()
