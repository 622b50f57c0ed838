"""Are noising and posterior those of the schedule? Both are linear in x_0, so a few examples give their coefficients.

q_sample(x0, t, eps) and posterior(x0, xt, t) are given a different t in each row, as in training.
"""

import numpy as np

from scratchdiff.checks import require
from scratchdiff.checkup.findings import Finding, explain

ROWS = 8  # examples of each t


def noises_by_the_schedule(q_sample, diffusion, shape, rng):
    """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε   (Ho et al. 2020, Eq. 4), at seven t from 1 to T.

    Exact: both coefficients come from least squares. An error of 1e-3 in one of them is found, and so is anything that is
    not linear in x_0 and the given ε."""
    times, t, x0, eps = probe(diffusion.schedule.T, shape, rng)
    (a, s), residual = coefficients(q_sample(x0, t, eps), x0, eps, t, times)
    alpha, alpha_bar = diffusion.schedule.alpha, diffusion.schedule.alpha_bar
    after = alpha_bar[np.minimum(times + 1, diffusion.schedule.T)]
    now, before = alpha_bar[times], alpha_bar[times - 1]
    right = np.sqrt([now, 1 - now])
    off = np.abs([a, s] - right).max(0)
    if off.max() < 1e-3 and residual < 1e-3:
        return None
    known = {
        "ᾱ_t and 1−ᾱ_t, where their roots belong": [now, 1 - now],
        "those of t−1: t counts from 0 in one place and from 1 in the other": np.sqrt([before, 1 - before]),
        "those of t+1: t counts from 0 in one place and from 1 in the other": np.sqrt([after, 1 - after]),
        "exchanged: √(1−ᾱ_t) stands at x_0": right[::-1],
        "those of one step, √α_t and √(1−α_t), where ᾱ_t belongs": np.sqrt([alpha[times], 1 - alpha[times]]),
        "√ᾱ_t and 1−ᾱ_t: the noise lacks its root": [right[0], 1 - now],
        "ᾱ_t and √(1−ᾱ_t): the signal lacks its root": [now, right[1]],
    }
    i = int(off.argmax())
    what = "x_t has the wrong mixture of data and noise"
    if off.max() < 1e-3:
        what = "x_t is no linear mixture of the given x_0 and ε"
    return Finding(
        "q_sample",
        what,
        expected=f"at t = {times[i]}: {right[0, i]:.4f} x_0 + {right[1, i]:.4f} ε",
        seen=f"{a[i]:.4f} x_0 + {s[i]:.4f} ε{explain([a, s], known)}"
        + (f", and {residual:.2g} of the square left over" if residual > 1e-3 else ""),
        look="the arrays that q_sample multiplies x0 and eps with",
    )


def steps_back_by_bayes(posterior, diffusion, shape, rng):
    """(mean, logvar) of q(x_{t−1} | x_t, x_0) at seven t from 2 to T, by Bayes' rule for Gaussians:

        1/var = 1/(1−ᾱ_{t−1}) + α_t/β_t,    mean = var (√ᾱ_{t−1}/(1−ᾱ_{t−1}) x_0 + √α_t/β_t x_t)

    which Ho et al. 2020, Eq. 7, is another form of. Exact: an error of 1e-3 in a coefficient, or of 0.1 % in the variance,
    is found. (At t = 1 the variance is 0, and its logarithm a convention.)"""
    times, t, x0, xt = probe(diffusion.schedule.T, shape, rng, first=2)
    mean, logvar = posterior(x0, xt, t)
    fitted, residual = coefficients(mean, x0, xt, t, times)
    logvar = np.broadcast_to(np.asarray(logvar, np.float64), x0.shape) if np.size(logvar) == 1 else np.asarray(logvar)
    logvar = logvar.reshape(len(t), -1)[:, 0][np.argsort(t, kind="stable")][::ROWS].astype(np.float64)
    s = diffusion.schedule
    prev, now, alpha, beta = s.alpha_bar[times - 1], s.alpha_bar[times], s.alpha[times], s.beta[times]
    var = 1 / (1 / (1 - prev) + alpha / beta)
    right = np.array([var * np.sqrt(prev) / (1 - prev), var * np.sqrt(alpha) / beta])
    off = np.abs(fitted - right).max(0)
    if off.max() > 1e-3 or residual > 1e-3:
        i = int(off.argmax())
        known = {"exchanged: the weight of x_t stands at x_0": right[::-1],
                 "made with ᾱ_t where ᾱ_{t−1} belongs": [np.sqrt(now) * beta / (1 - now), np.sqrt(alpha)],
                 "made with ᾱ_{t+1} where ᾱ_{t−1} belongs: the list of ᾱ_{t−1} is shifted the wrong way":
                 shifted_the_wrong_way(s, times)}  # fmt: skip
        return Finding(
            "posterior",
            "its mean breaks Bayes' rule",
            expected=f"at t = {times[i]}: {right[0, i]:.4f} x_0 + {right[1, i]:.4f} x_t",
            seen=f"{fitted[0, i]:.4f} x_0 + {fitted[1, i]:.4f} x_t{explain(fitted, known)}",
            look="the two coefficients of Ho et al. 2020, Eq. 7",
        )
    off = np.abs(logvar - np.log(var))
    if off.max() > 1e-3:
        i = int(off.argmax())
        known = {"log β_t, the variance without x_0": np.log(beta), "the variance itself": var,
                 "the standard deviation": np.sqrt(var), "log σ_t: half of the log-variance": 0.5 * np.log(var)}  # fmt: skip
        return Finding(
            "posterior",
            "its log-variance breaks Bayes' rule",
            expected=f"at t = {times[i]}: {np.log(var[i]):.4f}",
            seen=f"{logvar[i]:.4f}{explain(logvar, known)}",
            look="β̃_t = (1−ᾱ_{t−1})/(1−ᾱ_t) β_t, and its logarithm",
        )


def shifted_the_wrong_way(schedule, times) -> np.ndarray:
    """The posterior's coefficients with ᾱ_{t+1}, and 1 after the last, in the place of ᾱ_{t−1}."""
    wrong, now = np.append(schedule.alpha_bar, 1.0)[times + 1], schedule.alpha_bar[times]
    beta, alpha = schedule.beta[times], schedule.alpha[times]
    return np.array([np.sqrt(wrong) * beta / (1 - now), np.sqrt(alpha) * (1 - wrong) / (1 - now)])


def probe(T: int, shape: tuple, rng: np.random.Generator, first: int = 1) -> tuple:
    """(times, t, x, y): the times to look at, ROWS of each in random order, and two arrays of normal draws for them."""
    times = np.unique(np.linspace(first, T, 7).round().astype(int)) if first < T else np.array([T])
    t = rng.permutation(np.repeat(times, ROWS))
    x, y = rng.standard_normal((2, len(t), *shape)).astype(np.float32)
    return times, t, x, y


def coefficients(z, x, y, t, times) -> tuple[np.ndarray, float]:
    """The (a, b) of z = a x + b y at each of the times, (2, times), by least squares, and the largest share of z² that is
    left over. Raises ValueError if z has not the shape of x."""
    z = np.asarray(z, np.float64)
    require(z.shape == x.shape, f"the result should have the shape {x.shape} of x0", got=z)
    fits, left = [], [0.0]
    for each in times:
        columns = np.stack([x[t == each].ravel(), y[t == each].ravel()], 1).astype(np.float64)
        values = z[t == each].ravel()
        fit = np.linalg.lstsq(columns, values)[0]
        left.append(np.square(values - columns @ fit).sum() / max(np.square(values).sum(), 1e-12))
        fits.append(fit)
    return np.transpose(fits), float(max(left))
