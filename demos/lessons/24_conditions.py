# %% [markdown]
# # 24 How do you ask for a digit?
#
# A denoiser makes digits; which one is left to chance. There are two ways to ask. A classifier's gradient can push every
# step towards a seven (Dhariwal & Nichol 2021). Or the network itself, trained with labels and without, tells what the label
# changes, and we exaggerate that (Ho & Salimans 2022). Both have a knob, and turning it up makes clearer digits of less
# variety. We measure both on digits. And where the truth is known we ask what the guided samples are draws of.
#
# Expect: with w = 0 the exact law of the class; with more, samples that lie further out than the density
# p(x | y) p(y | x)^w that guidance is said to draw from. On digits, the labels of the denoiser itself are nearly always
# obeyed; a classifier is obeyed as far as it has learned. It takes about two minutes on two cores, of which one trains the
# classifier.
#
# `python demos/lessons/24_conditions.py` writes runs/lessons/24_conditions.png.

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from lesson import GREEN, INK, PALE, WARM, record, save

import scratchdiff as sd
from scratchdiff import ops
from scratchdiff.diffusion import of_x0_hat
from scratchdiff.metrics import DigitClassifier, classify, load_classifier, precision_recall, sliced_wasserstein
from scratchdiff.nn.layers import SiLULinear, TimestepMLP
from scratchdiff.plots import grid

# %% [markdown]
# ## What does guidance draw?
#
# Bayes' rule holds at every t: ∇ log p_t(x | y) = ∇ log p_t(x) + ∇ log p_t(y | x). Multiply the last term by 1 + w, and the
# field is, at each t, the score of
#
#     p_t(x | y) p_t(y | x)^w
#
# At t = 0 that is the tilted density p_0(x | y) p_0(y | x)^w. But a sampler needs the scores of *one* diffusion, those of
# the tilted density with noise added to it. To add noise and then tilt is not the same as to tilt and then add noise. On a
# line we can compute both: the tilted law on a fine grid is a finite data set, of which `Oracle` knows the best denoiser.


# %%
DIFFUSION = sd.GaussianDiffusion(sd.cosine_schedule(), "v")
MEANS, DEVIATION, SHARES = np.array([[0.3], [1.5], [-0.3], [-1.5]]), 0.3, np.array([0.7, 0.3, 0.7, 0.3])
GRID = np.linspace(-2.5, 3.5, 301)[:, None]


class TwoClasses:
    """The exact denoiser of two classes on a line, with the interface of a network with labels. Label 2 is any class."""

    num_classes = 2

    def __init__(self):
        one, zero = (sd.Oracle(DIFFUSION, MEANS[k : k + 2], DEVIATION**2, SHARES[k : k + 2]) for k in (0, 2))
        self.of_label = {0: zero, 1: one, 2: sd.Oracle(DIFFUSION, MEANS, DEVIATION**2, SHARES)}

    def __call__(self, xt, t, labels):
        return self.of_label[int(labels[0])](xt, t)


def tilted(classes, w):
    """The oracle of p(x | y = 1) p(y = 1 | x)^w: the grid, weighted by that density."""
    log_one, log_any = (classes.of_label[label].log_prob(GRID, 0) for label in (1, 2))
    log_density = log_one + w * (log_one - log_any)
    return sd.Oracle(DIFFUSION, GRID, 0.0, np.exp(log_density - log_density.max()))


def field_error(classes, w, t, rng, n=2000):
    """The root mean square difference of the guided score from that of the tilted law's diffusion, over the size of that."""
    truth = tilted(classes, w)
    x = DIFFUSION.q_sample(truth.sample(n, rng), t, rng.standard_normal((n, 1)))
    guided = (1 + w) * classes.of_label[1].score(x, t) - w * classes.of_label[2].score(x, t)
    exact = truth.score(x, t)
    return np.sqrt(np.square(guided - exact).mean() / np.square(exact).mean())


def on_a_line(n, steps, weights):
    """{w: (draws with guidance, with the exact score, of the tilted law)}."""
    classes, found = TwoClasses(), {}
    for w in weights:
        guided, truth = sd.guided(classes, np.ones(n, int), w), tilted(classes, w)
        draws = [sd.sample_ddpm(DIFFUSION, m, (n, 1), np.random.default_rng(1), steps) for m in (guided, truth)]
        found[w] = (*draws, truth.sample(n, np.random.default_rng(2)))
    return found


# %% [markdown]
# ## A classifier that knows noise
#
# The judge of this package (`metrics.DigitClassifier`), told the time as the U-Net is: a bias for each image in every
# convolution. It is trained on x_t at every t. Where t is large there is nothing to see, and it learns to say so.


# %%
class NoisyClassifier(DigitClassifier):
    """(x_t, t) → logits (N, 10)."""

    def __init__(self, *, rng):
        super().__init__(rng=rng)
        self.temb = TimestepMLP(32, 128, rng=rng)
        self.biases = [SiLULinear(128, channels, rng=rng) for channels in (32, 64, 96)]

    def __call__(self, xt, t):
        temb, h = self.temb(t), xt
        for conv, norm, bias in zip(self.convs, self.norms, self.biases):
            h = norm(conv(h, image_bias=bias(temb)))
        return self.dense(ops.mean(h, axis=(1, 2)))


def train(diffusion, steps, seed=0):
    """The classifier after so many steps of training."""
    rng = np.random.default_rng(seed)
    images, labels = sd.data.mnist()
    classifier = NoisyClassifier(rng=rng)
    adam = sd.Adam(classifier.parameters(), lr=3e-3)
    for step in range(steps):
        some = rng.integers(len(images), size=64)
        t = rng.integers(1, diffusion.schedule.T + 1, size=64)
        xt = diffusion.q_sample(images[some], t, rng.standard_normal((64, 28, 28, 1)).astype(np.float32))
        adam.zero_grad()
        with sd.Tape() as tape:
            loss = ops.cross_entropy(classifier(xt, t), labels[some])
        tape.backward(loss)
        adam.step(sd.optim.cosine_decay(step / steps))
    return classifier


def accuracy(diffusion, classifier, t, n):
    """The share of n embedded digits, seen through the noise of step t, that it names rightly. (It has trained on these.)"""
    images, labels = sd.data.mnist()
    rng = np.random.default_rng(3)
    some = rng.integers(len(images), size=n)
    xt = diffusion.q_sample(images[some], t, rng.standard_normal((n, 28, 28, 1)).astype(np.float32))
    return (classifier(xt, np.full(n, t)).data.argmax(1) == labels[some]).mean()


# %% [markdown]
# ## Asking for each digit in turn
#
# Classifier guidance uses the denoiser without its labels. `of_x0_hat` lets a classifier of clean digits look at x0_hat, and
# the gradient goes through the denoiser. That classifier is also our judge, so its own column "right" proves little.
# Classifier-free guidance comes plain, only for 200 ≤ t ≤ 700 (Kynkäänniemi et al. 2024), and rescaled (Lin et al. 2023).


# %%
def questions(diffusion, model, classifier, labels):
    """{name: the model that a sampler takes}."""
    clean = of_x0_hat(diffusion, model, load_classifier())
    return {
        "nobody asks": model,
        "noisy classifier, scale 1": sd.classifier_guided(diffusion, model, classifier, labels, 1.0),
        "noisy classifier, scale 4": sd.classifier_guided(diffusion, model, classifier, labels, 4.0),
        "clean classifier on x0_hat, scale 4": sd.classifier_guided(diffusion, model, clean, labels, 4.0),
        "classifier-free, w = 0": sd.guided(model, labels, 0.0),
        "classifier-free, w = 1": sd.guided(model, labels, 1.0),
        "classifier-free, w = 4": sd.guided(model, labels, 4.0),
        "w = 4 for 200 ≤ t ≤ 700": sd.guided(model, labels, 4.0, interval=(200, 700)),
        "w = 4, rescaled by 0.7": sd.guided(model, labels, 4.0, rescale=0.7),
    }


def ask(classifier, n, steps):
    """{name: (digits, share of the right class, precision, recall, seconds)}."""
    model, diffusion = sd.pretrained("mnist")
    labels = np.arange(n) % 10
    rng = np.random.default_rng(4)
    real = classify(sd.data.mnist()[0][rng.permutation(10_000)[:n]])[0]
    found = {}
    for name, asked in questions(diffusion, model, classifier, labels).items():
        began = time.process_time()
        x = sd.sample_ddim(diffusion, asked, (n, 28, 28, 1), np.random.default_rng(5), steps, eta=1.0)
        seconds = time.process_time() - began
        features, chances = classify(x)
        found[name] = x, (chances.argmax(1) == labels).mean(), *precision_recall(features, real), seconds
        print(f"{name:<38}" + "".join(f"{100 * share:6.0f} %" for share in found[name][1:4]) + f"{seconds:7.1f} s")
    return found


# %%
def main(out="runs/lessons", small=False):
    """The line, the classifier, the digits, the picture; return the headline figures."""
    line = on_a_line(*((50, 5) if small else (2000, 100)), weights=(0, 1, 3))
    times = np.linspace(10, 990, 5 if small else 40).astype(int)
    errors = {w: [field_error(TwoClasses(), w, int(t), np.random.default_rng(6), 50 if small else 1000) for t in times]
              for w in (1, 3)}  # fmt: skip
    _, diffusion = sd.pretrained("mnist")
    steps = 5 if small else 1500
    classifier = train(diffusion, steps)
    print(f"{'':<38}   right  precision recall")
    digits = ask(classifier, *((10, 2) if small else (100, 20)))
    picture(out, line, times, errors, digits)

    figures = {"training steps of the noisy classifier": steps}
    for t in (1, 300, 600):
        figures[f"its accuracy at t = {t}"] = accuracy(diffusion, classifier, t, 20 if small else 500)
    for w, (guided, exact, truth) in line.items():
        figures[f"line, w = {w}: distance of guided draws from the tilted law"] = sliced_wasserstein(guided, truth, 1)
        figures[f"line, w = {w}: of draws with its exact score"] = sliced_wasserstein(exact, truth, 1)
    for w in errors:
        figures[f"line, w = {w}: largest relative error of the field"] = max(errors[w])
    plain = digits["nobody asks"][4]
    for name, (_, right, precision, recall, seconds) in digits.items():
        figures |= {f"{name}: right": right, f"{name}: precision": precision, f"{name}: recall": recall,
                    f"{name}: time of ddim's": seconds / plain}  # fmt: skip
    return record(out, "24_conditions", figures)


def picture(out, line, times, errors, digits):
    """Above: the laws on the line, and the error of the field. Below: what was asked for, and what came."""
    figure = plt.figure(figsize=(13, 11))
    cells = figure.add_gridspec(2, 2, height_ratios=(1, 2.1), hspace=0.25, wspace=0.2)
    axes = figure.add_subplot(cells[0, 0])
    bins = np.linspace(-1, 3.5, 90)
    for w, colour in {0: PALE, 3: WARM}.items():
        guided, _, truth = line[w]
        axes.hist(
            truth.ravel(), bins, density=True, color=colour, alpha=0.45, label="p(x | y)" if w == 0 else "tilted, w = 3"
        )
        if w:
            axes.hist(guided.ravel(), bins, density=True, histtype="step", color=INK, lw=1.6, label="guided draws, w = 3")
    axes.set(title="on a line: the tilted law, and what guidance draws", xlabel="x", yticks=[])
    axes.legend(fontsize=9)
    axes = figure.add_subplot(cells[0, 1])
    for (w, error), colour in zip(errors.items(), (GREEN, WARM)):
        axes.plot(times, error, color=colour, label=f"w = {w}")
    axes.set(title="guided field against the tilted law's score", xlabel="t", ylabel="relative error", ylim=(0, None))
    axes.legend()
    axes = figure.add_subplot(cells[1, :])
    shown = min(30, len(next(iter(digits.values()))[0]))
    axes.imshow(grid(np.concatenate([x[:shown] for x, *_ in digits.values()]), columns=shown), cmap="gray", vmin=0, vmax=255)
    names = [
        f"{name}\nright {100 * right:.0f} %, recall {100 * recall:.0f} %"
        for name, (_, right, _, recall, _) in digits.items()
    ]
    axes.set(xticks=[], yticks=16 + 30 * np.arange(len(digits)), yticklabels=names, title="asked for 0, 1, 2, ... in turn")
    axes.tick_params(length=0, labelsize=9)
    save(figure, out, "24_conditions")


# %% [markdown]
# ## Exercises
#
# 1. In `field_error`, replace `truth.score(x, t)` by the score of the class alone, `classes.of_label[1].score(x, t)`. At
# which t does guidance act most?
# 2. In `train`, draw t from 1 to 10 only. The classifier then knows clean digits alone. What does its gradient do then?
# 3. In `questions`, set the interval to (700, 1000) and then to (1, 200). Where does guidance cost variety, and where does
# it do nothing?

# %%
if __name__ == "__main__":
    main()
