"""How good are the digits? A small classifier gives them features, and six numbers compare these with those of real digits.

The classifier is built from this package's own layers and trained on the full MNIST training set by demos/classifier.py;
its weights lie beside this file. A second one knows the clothes of Fashion-MNIST. The last hidden layer serves as the
space of features in which sets of images are compared, as the Inception network does for photographs (Heusel et al. 2017).
So these distances rank models on one data set; they are no FID of the literature.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.spatial import KDTree

from scratchdiff import ops
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.data import mnist
from scratchdiff.nn import Conv2d, GroupNormSiLU, Linear, Module

WEIGHTS = {
    "mnist": Path(__file__).with_name("classifier.npz"),
    "fashion": Path(__file__).with_name("classifier_fashion.npz"),
}
CONFIDENT = 0.9


class DigitClassifier(Module):
    """Three convolutions, 28² → 14² → 7² pixels, the mean over what is left as 96 features, and a linear layer on it.

    images (N, 28, 28, 1) in [−1, 1] → logits (N, 10). rng draws the weights it starts with.
    """

    def __init__(self, *, rng, dtype=np.float32):
        kw = dict(rng=rng, dtype=dtype)
        self.convs = [Conv2d(1, 32, 5, stride=2, **kw), Conv2d(32, 64, 3, stride=2, **kw), Conv2d(64, 96, 3, **kw)]
        self.norms = [GroupNormSiLU(channels, 8, dtype=dtype) for channels in (32, 64, 96)]
        self.dense = Linear(96, 10, **kw)

    def features(self, images):
        """The (N, 96) activations that the last layer reads."""
        h = images
        for conv, norm in zip(self.convs, self.norms):
            h = norm(conv(h))
        return ops.mean(h, axis=(1, 2))

    def __call__(self, images):
        return self.dense(self.features(images))


@cache
def load_classifier(data: str = "mnist") -> DigitClassifier:
    """The trained classifier that the package carries for "mnist" or "fashion". Raises ValueError for another name."""
    require(data in WEIGHTS, f"load_classifier: there are classifiers of {', '.join(WEIGHTS)}", data=data)
    classifier = DigitClassifier(rng=np.random.default_rng(0))
    with np.load(WEIGHTS[data], allow_pickle=False) as arrays:
        classifier.load(dict(arrays))
    return classifier


def classify(images, data: str = "mnist") -> tuple[np.ndarray, np.ndarray]:
    """(features (N, 96) float64, class probabilities (N, 10)) of images (N, 28, 28, 1) in [−1, 1], by the classifier of
    "mnist" or "fashion".

    Raises ValueError for other shapes, values that are not finite, and other data."""
    images = np.asarray(images, np.float32)
    usable = images.ndim == 4 and images.shape[1:] == (28, 28, 1) and len(images) > 0 and np.isfinite(images).all()
    require(usable, f"classify: needs finite images of shape (N, 28, 28, 1), N >= 1, got {images.shape}")
    classifier = load_classifier(data)
    parts = [classifier.features(images[i : i + 500]) for i in range(0, len(images), 500)]
    probabilities = np.concatenate([ops.softmax(classifier.dense(part)).data for part in parts])
    return np.concatenate([part.data for part in parts]).astype(np.float64), probabilities


@cache
def embedded_features() -> np.ndarray:
    """The features of the 10,000 embedded digits, (10000, 96)."""
    return classify(mnist()[0])[0]


def frechet_distance(a, b) -> float:
    """d² = ‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a C_b)^½), of the normal distributions fitted to the rows of a and b.

    (Dowson & Landau 1982; Heusel et al. 2017, Eq. 6, on features.) a: (n, d), b: (m, d); it is 0 for equal moments, and
    with few rows it is biased upwards, so compare equal numbers only. Raises ValueError for other shapes or one row.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    fits = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] and min(len(a), len(b)) >= 2
    finite = np.isfinite(a).all() and np.isfinite(b).all()
    require(fits and finite, "frechet_distance: needs finite (n, d) and (m, d) with n, m >= 2", a=a, b=b)
    cov_a, cov_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    # (C_a C_b)^½ has the trace of (√C_a C_b √C_a)^½, whose argument is symmetric: its eigenvalues are real and ≥ 0
    root_a = symmetric_sqrt(cov_a)
    eigenvalues = scipy.linalg.eigvalsh(root_a @ cov_b @ root_a)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def symmetric_sqrt(c: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = scipy.linalg.eigh(c)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def sliced_wasserstein(a, b, directions: int = 64, seed: int = 0) -> float:
    """The mean over random directions u of W_1(a·u, b·u), the Wasserstein distance on a line   (Bonneel et al. 2015).

    a: (n, ...), b: (m, ...), two sets of points; 0 for equal sets, and for two sets of draws of one law about 1/√n of its
    deviation. directions: how many; they are drawn by seed. Raises ValueError for other shapes or what is not finite.
    """
    from scipy.stats import wasserstein_distance

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    require_positive_integers("sliced_wasserstein", directions=directions)
    fit = a.ndim == b.ndim >= 2 and a.shape[1:] == b.shape[1:] and min(a.size, b.size) > 0
    finite = np.isfinite(a).all() and np.isfinite(b).all()
    require(fit and finite, "sliced_wasserstein: needs finite (n, ...) and (m, ...) of one kind", a=a, b=b)
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    u = np.random.default_rng(seed).standard_normal((a.shape[1], directions))
    u /= np.linalg.norm(u, axis=0)
    return float(np.mean([wasserstein_distance(x, y) for x, y in zip((a @ u).T, (b @ u).T)]))


def precision_recall(samples, real, k: int = 3) -> tuple[float, float]:
    """(precision, recall) of features by k-nearest-neighbour manifolds   (Kynkäänniemi et al. 2019, Eq. 1 and 2).

    samples: (n, d), real: (m, d). The manifold of a set is the union of balls around its points; the radius of a ball is
    the distance to the k-th nearest other point of the set. Precision is the share of samples in the manifold of the real
    points (are they realistic?), recall the share of real points in the manifold of the samples (is everything covered?).
    Both depend on n and m, so compare equal numbers only. Raises ValueError for other shapes, or k points or fewer.
    """
    samples, real = np.asarray(samples, np.float64), np.asarray(real, np.float64)
    require_positive_integers("precision_recall", k=k)
    fit = samples.ndim == real.ndim == 2 and samples.shape[1] == real.shape[1] and min(len(samples), len(real)) > k
    require(fit, f"precision_recall: needs (n, d) and (m, d) with n, m > k = {k}", samples=samples, real=real)

    def share_inside(points, of):
        tree = KDTree(of)
        radius = tree.query(of, k + 1)[0][:, k]  # the nearest point of the set is the point itself
        return float(np.mean([(np.linalg.norm(of - x, axis=1) <= radius).any() for x in points]))

    return share_inside(samples, real), share_inside(real, samples)


def nearest_digits(samples, digits) -> tuple[np.ndarray, np.ndarray]:
    """For each sample the index of the nearest of the digits and the distance to it, root mean square over pixels.

    samples: (N, 28, 28, 1), digits: (M, 28, 28, 1) → (N,), (N,). A model that memorised has distances near 0.
    Raises ValueError if there are none of either, or their sizes differ.
    """
    samples, digits = np.asarray(samples), np.asarray(digits)
    fit = samples.ndim >= 2 and samples.shape[1:] == digits.shape[1:] and len(samples) and len(digits)
    require(fit, "nearest_digits: needs images of one size", samples=samples, digits=digits)
    s, d = samples.reshape(len(samples), -1).astype(np.float64), digits.reshape(len(digits), -1).astype(np.float64)
    squared = np.square(s).sum(1)[:, None] - 2 * s @ d.T + np.square(d).sum(1)  # ‖s − d‖²
    nearest = squared.argmin(1)
    return nearest, np.sqrt(np.square(s - d[nearest]).mean(1))


class Judgement(NamedTuple):
    """What `judge` found: frechet, the Fréchet distance; precision and recall against as many real digits as there are
    samples; confident, the share of samples with a class of probability above 0.9; classes, the share of each digit;
    balance, their entropy over that of equal shares (1 is perfect, 0 a single class); nearest, the distances to the
    nearest reference digit."""

    frechet: float
    precision: float
    recall: float
    confident: float
    classes: np.ndarray
    balance: float
    nearest: np.ndarray

    def __str__(self):
        classes = " ".join(f"{share:.0%}" for share in self.classes)
        return (
            f"Fréchet distance {self.frechet:.2f} · precision {self.precision:.1%} · recall {self.recall:.1%} · "
            f"confident {self.confident:.1%} · balance {self.balance:.3f} "
            f"(0–9: {classes}) · nearest reference digit, median distance {np.median(self.nearest):.3f}"
        )

    __repr__ = __str__


def judge(samples, digits=None, seed: int = 0, data: str = "mnist") -> Judgement:
    """Judge samples (N, 28, 28, 1) in [−1, 1], N ≥ 2, against reference digits (default: the 10,000 embedded ones).

    The Fréchet distance is to all reference digits; precision and recall are against N of them (at most), drawn by seed,
    and NaN for fewer than four samples, which have no third neighbour. data: whose classifier judges, "mnist" or "fashion".
    Raises ValueError for clothes without reference clothes, since none come with the package."""
    require(digits is not None or data == "mnist", f"judge: {data} needs reference images")
    real = embedded_features() if digits is None else classify(digits, data)[0]
    digits = mnist()[0] if digits is None else digits
    features, probabilities = classify(samples, data)
    some = np.random.default_rng(seed).permutation(len(real))[: len(features)]
    enough = min(len(features), len(real)) > 3
    precision, recall = precision_recall(features, real[some]) if enough else (np.nan, np.nan)
    classes = np.bincount(probabilities.argmax(1), minlength=10) / len(samples)
    seen = classes[classes > 0]
    return Judgement(
        frechet=frechet_distance(features, real),
        precision=precision,
        recall=recall,
        confident=float((probabilities.max(1) > CONFIDENT).mean()),
        classes=classes,
        balance=float(-(seen * np.log(seen)).sum() / np.log(10)) + 0.0,
        nearest=nearest_digits(np.asarray(samples), digits)[1],
    )
