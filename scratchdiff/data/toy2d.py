"""Distributions in the plane: small enough to train on in seconds, and known exactly, so that a sample can be judged.

Each set is a function (n, rng) -> points (n, 2), mean (2,), variance (2,), in the coordinates of its formula. `toy`
standardises the points with that mean and variance. The curves (swiss_roll, s_curve, moons, circles, spirals) have no
thickness: how far a generated point lies from the curve is the model's error alone.
"""

import numpy as np

PI = np.pi


def toy(name, n, rng):
    """Draw n independent points of the named set, scaled to mean 0 and variance 1 in each coordinate.

    name: one of TOY_NAMES, or "text:" and the letters to fill, such as "text:ABC"; n: at least 1;
    rng: np.random.Generator. Returns (n, 2) float64.

    The mean and variance are those of the distribution, derived by hand beside each set, not those of the drawn
    sample. So one point is a fair draw too, two draws follow the same law, and a curve stays where it is; the price is
    that a sample's own mean is 0 only within 1/√n. Letters keep their proportions: one scale serves both coordinates
    and makes the *average* of the two variances 1.

    Raises ValueError for an unknown name, n < 1, and text with nothing to fill or a letter the font lacks.
    """
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"toy: n must be at least 1, got {n!r}")
    if name in TOY_NAMES:
        points, mean, var = _SETS[name](n, rng)
    elif str(name).startswith("text:"):
        points, mean, var = letters(name.removeprefix("text:"), n, rng)
    else:
        raise ValueError(f"toy: unknown set {name!r}; known are {', '.join(TOY_NAMES)} and text:ABC")
    return (points - mean) / np.sqrt(var)


def swiss_roll(n, rng):
    """(θ cos θ, θ sin θ), θ uniform on [3π/2, 9π/2]: the plane section of Tenenbaum et al. 2000.

    E[θ cos θ] = 2, E[θ sin θ] = 2/3π, E[θ² cos² θ] = 39π²/8 − 1/4, E[θ² sin² θ] = 39π²/8 + 1/4.
    """
    theta = rng.uniform(1.5 * PI, 4.5 * PI, n)
    mean = np.array([2, 2 / (3 * PI)])
    return _polar(theta, theta), mean, 39 * PI**2 / 8 + np.array([-0.25, 0.25]) - mean**2


def s_curve(n, rng):
    """(sin θ, sign(θ)(cos θ − 1)), θ uniform on [−3π/2, 3π/2].

    Both coordinates are odd in θ, so the mean is 0; E[sin² θ] = 1/2, E[(cos θ − 1)²] = 1/2 + 4/3π + 1.
    """
    theta = rng.uniform(-1.5 * PI, 1.5 * PI, n)
    points = np.stack([np.sin(theta), np.sign(theta) * (np.cos(theta) - 1)], axis=1)
    return points, np.zeros(2), np.array([0.5, 1.5 + 4 / (3 * PI)])


def moons(n, rng):
    """(cos θ, sin θ) or (1 − cos θ, 1/2 − sin θ), one as likely as the other, θ uniform on [0, π].

    Half a turn about the mean (1/2, 1/4) swaps the moons, so both have the same second moments about it:
    1/2 + (1/2)² across, and 1/2 − (2/π)² + (2/π − 1/4)² = 9/16 − 1/π upwards.
    """
    mean = np.array([0.5, 0.25])
    arc = _polar(1, rng.uniform(0, PI, n))
    return mean + _sign(n, rng) * (arc - mean), mean, np.array([0.75, 9 / 16 - 1 / PI])


def circles(n, rng):
    """r (cos θ, sin θ), r either 1 or 1/2, one as likely as the other, θ uniform on [0, 2π].

    The variance of each coordinate is E[r²]/2 = 5/16.
    """
    radius = rng.choice([1, 0.5], n)
    return _polar(radius, rng.uniform(0, 2 * PI, n)), np.zeros(2), np.full(2, 5 / 16)


def spirals(n, rng):
    """±(θ cos θ, θ sin θ), either sign as likely as the other, θ = 3π √u, u uniform on [0, 1].

    The square root spreads points about evenly along the arms. Opposite arms have mean 0;
    E[θ² cos² θ] = 9π²/4 + 3/4, E[θ² sin² θ] = 9π²/4 − 3/4.
    """
    theta = 3 * PI * np.sqrt(rng.uniform(size=n))
    return _sign(n, rng) * _polar(theta, theta), np.zeros(2), 9 * PI**2 / 4 + np.array([0.75, -0.75])


def checkerboard(n, rng):
    """(i + u, j + v), i and j in 0..3 with i + j even, all eight equally likely, u and v uniform on [0, 1].

    Either coordinate alone is uniform on [0, 4]: mean 2, variance 4²/12.
    """
    i = rng.integers(4, size=n)
    j = 2 * rng.integers(2, size=n) + i % 2
    return np.stack([i, j], axis=1) + rng.uniform(size=(n, 2)), np.full(2, 2.0), np.full(2, 4 / 3)


def pinwheel(n, rng):
    """(r, s) turned by 2πk/5 + exp(r)/4, r ~ N(1, 0.3²), s ~ N(0, 0.1²), k uniform on 0..4: Johnson et al. 2016.

    Turning keeps lengths and the five arms have no preferred direction: mean 0, variance E[r² + s²]/2 = 1.1/2.
    """
    r, s = 1 + 0.3 * rng.standard_normal(n), 0.1 * rng.standard_normal(n)
    angle = 2 * PI * rng.integers(5, size=n) / 5 + np.exp(r) / 4
    points = r[:, None] * _polar(1, angle) + s[:, None] * _polar(1, angle + PI / 2)
    return points, np.zeros(2), np.full(2, 0.55)


def gaussians(n, rng):
    """(cos(πk/4), sin(πk/4)) + N(0, 0.1² I), k uniform on 0..7.

    The mean is 0 and the variance of each coordinate 1/2 + 0.1²; so after standardising, the eight centres lie on a
    circle of radius 1/√0.51 = 1.40 and each spreads by 0.1/√0.51 = 0.14. The best ε̂ of such a mixture is known exactly.
    """
    centres = _polar(1, PI * rng.integers(8, size=n) / 4)
    return centres + 0.1 * rng.standard_normal((n, 2)), np.zeros(2), np.full(2, 0.51)


_SETS = {f.__name__: f for f in (swiss_roll, s_curve, moons, circles, spirals, checkerboard, pinwheel, gaussians)}
TOY_NAMES = tuple(_SETS)


def letters(text, n, rng):
    """Points uniform by area inside the outlines of `text`, in bold DejaVu Sans, the font matplotlib brings along.

    Returns points (n, 2), mean (2,) and one variance, the average over the two coordinates.
    Raises ValueError if the text has nothing to fill or the font lacks one of its letters.
    """
    edges = _outlines(text)
    low, high = edges.reshape(-1, 2).min(0), edges.reshape(-1, 2).max(0)
    points = np.empty((0, 2))
    while len(points) < n:
        tries = min(4 * n, 2**20 // len(edges)) + 1  # `_inside` makes arrays of tries × edges
        drawn = rng.uniform(low, high, (tries, 2))
        points = np.concatenate([points, drawn[_inside(drawn, edges)]])
    mean, var = _area_moments(edges)
    return points[:n], mean, var.mean()


def _outlines(text):
    """The outlines of the letters as straight edges from p to q: (E, 2, 2), the last axes being (p or q, x or y)."""
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.path import Path
    from matplotlib.textpath import TextToPath

    bold = FontProperties(family="DejaVu Sans", weight="bold")
    known = get_font(findfont(bold)).get_charmap()
    missing = [c for c in text if not c.isprintable() or ord(c) not in known]
    if missing:
        raise ValueError(f"toy: the font has no letter for {missing[0]!r} in text {text!r}")
    # not TextPath: it takes $...$ for mathematics and fails on blanks, and is otherwise this call
    vertices, codes = TextToPath().get_text_path(bold, text)
    if len(vertices) == 0:
        raise ValueError(f"toy: text {text!r} has nothing to fill")
    polygons = Path(vertices, codes).to_polygons()  # curves become chords
    return np.concatenate([np.stack([p[:-1], p[1:]], axis=1) for p in polygons])


def _inside(points, edges):
    """Which points (n, 2) the outlines go round, a hole's outline running the other way: (n,) bool.

    The winding number: edges that pass a point on its right going up, less those going down.
    """
    (x0, y0), (x1, y1) = edges[:, 0].T, edges[:, 1].T  # (E,) each
    x, y = points[:, :1], points[:, 1:]  # (n, 1) each
    side = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)  # positive left of the edge
    up = (y0 <= y) & (y < y1) & (side > 0)
    down = (y1 <= y) & (y < y0) & (side < 0)
    return up.sum(1) != down.sum(1)


def _area_moments(edges):
    """Mean and variance of a uniform point inside the outlines, exactly: (2,) each.

    Green's theorem turns the integrals over the area into sums over edges from p to q. With c = p × q,
    ∫dA = Σ c/2, ∫x dA = Σ c (p + q)/6, ∫x² dA = Σ c (p² + pq + q²)/12. Holes run backwards and count negative.
    """
    p, q = edges[:, 0], edges[:, 1]
    c = p[:, :1] * q[:, 1:] - p[:, 1:] * q[:, :1]  # (E, 1)
    area = c.sum() / 2
    mean = (c * (p + q)).sum(0) / 6 / area
    return mean, (c * (p * p + p * q + q * q)).sum(0) / 12 / area - mean**2


def _polar(radius, angle):
    """Points (n, 2) at the given radius and angles (n,)."""
    return (radius * np.array([np.cos(angle), np.sin(angle)])).T


def _sign(n, rng):
    """n fair signs, ready to multiply points: (n, 1) of −1 and 1."""
    return rng.choice([-1, 1], (n, 1))
