"""Groups of similar images, found without any label."""

import numpy as np

from scratchdiff.checks import require, require_finite_floats, require_positive_integers


def kmeans(x, k: int, rng: np.random.Generator, iterations: int = 50) -> np.ndarray:
    """The group 0..k−1 of each x_n, so that Σ_n ‖x_n − m_group(n)‖² is small, m_j the mean of group j   (Lloyd 1982).

    It starts from k of the x_n as means and repeats two steps, of which neither makes the sum larger: each x_n joins the
    nearest mean; each mean becomes that of its group. It ends when no x_n moves, at the latest after `iterations`.
    x: (N, ...) finite floats → (N,) integers. rng picks the first means, so another rng finds other groups.
    Raises ValueError for other x, and unless 1 ≤ k ≤ N and iterations ≥ 1."""
    x = np.asarray(x)
    require_finite_floats("kmeans", x=x)
    require_positive_integers("kmeans", k=k, iterations=iterations)
    require(x.ndim >= 2 and k <= len(x), f"kmeans: {k} groups need at least {k} examples (N, ...)", x=x)
    x = x.reshape(len(x), -1).astype(np.float64)  # in float32 the groups depend on the order in which a BLAS adds
    means, groups = x[rng.choice(len(x), k, replace=False)], np.full(len(x), -1)
    for _ in range(iterations):
        before, groups = groups, (np.square(means).sum(1) - x @ (2 * means).T).argmin(1)  # ‖x − m‖², but for ‖x‖²
        if (groups == before).all():
            break
        for j in np.unique(groups):  # a group that lost all its members keeps its mean
            means[j] = x[groups == j].mean(0)
    return groups
