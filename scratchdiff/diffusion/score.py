"""Score matching on a ladder of noise levels, and sampling by annealed Langevin dynamics   (Song & Ermon 2019).

The score of a density p is ∇ log p(x): the direction in which x becomes more likely. With it alone one can sample, by
Langevin dynamics x ← x + α/2 ∇ log p(x) + √α z, z ~ N(0, I). Data on a thin shape has no score off the shape, and walkers
do not cross the empty space between two modes. Noise of size σ fills that space: p_σ is the density of x̃ = x + σ z.

Denoising score matching learns the score of p_σ without knowing it (Vincent 2011). For one x, x̃ is N(x, σ² I), whose score
is −(x̃ − x)/σ². The mean of these over all x that could have led to x̃ is the score of p_σ, so least squares finds it:

    L = ½ E ‖ s(x̃, σ) + (x̃ − x)/σ² ‖²            and its minimum over s is s = ∇ log p_σ

The same minimum can be had from x̃ alone, without knowing x (Hyvärinen 2005). What we would like to minimise is
½ E‖s − ∇ log p_σ‖² = E[½‖s‖² − s·∇ log p_σ] + constant. Since p ∇ log p = ∇p, integration by parts removes the unknown:

    −E[s·∇ log p] = −∫ s·∇p dx̃ = ∫ p ∇·s dx̃ = E[∇·s]         so    L = E[ tr ∂s/∂x̃ + ½ ‖s‖² ] + constant

The trace needs a derivative in each of the d directions. Sliced score matching (Song et al. 2019) takes one direction v at
random, for E[vᵀ (∂s/∂x̃) v] = tr ∂s/∂x̃ where E[v vᵀ] = I. Our tape differentiates once, so the derivative along v is a
central difference of two values of s, both on the tape, and backpropagation then gives its gradient with the rest.

Sampling then goes down the ladder σ_1 > ... > σ_L: first where all is smooth, at the end where all is sharp.
"""

from collections.abc import Iterator

import numpy as np

from scratchdiff.autograd import Tensor
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.diffusion.bound import check_data
from scratchdiff.diffusion.samplers import SamplerStep, check_shape


def geometric_sigmas(first: float, last: float, n: int) -> np.ndarray:
    """σ_1 = first > ... > σ_n = last, each the same factor below the one before   (Song & Ermon 2019, section 4.1).

    Raises ValueError unless first > last > 0 and n ≥ 2."""
    require_positive_integers("geometric_sigmas", n=n)
    usable = first > last > 0 and n >= 2
    require(usable, "geometric_sigmas: needs first > last > 0 and n >= 2", first=first, last=last, n=n)
    return np.geomspace(first, last, n)


def dsm_loss(model, x0, sigmas, rng: np.random.Generator) -> Tensor:
    """½ E ‖σ s(x̃, σ) + z‖² per example, x̃ = x_0 + σ z, with σ drawn uniformly from the ladder: a scalar Tensor.

    It is the denoising loss L times σ², so that all levels count alike   (Song & Ermon 2019, Eq. 5, 6, λ(σ) = σ²).
    model(x, sigma): x (N, ...) and sigma (N,) give the score, an array or a Tensor shaped like x. Draws σ, then z.
    Raises ValueError unless x0 is of finite floats, the sigmas are positive, and the model's output has the shape of x."""
    x0, sigma, scale, z = noised("dsm_loss", x0, sigmas, rng)
    score = model(x0 + scale * z, sigma)
    require(score.shape == x0.shape, "dsm_loss: the score must have the shape of x", score=score, x=x0)
    error = scale * (score if isinstance(score, Tensor) else Tensor(score)) + z
    return (error * error).sum() * (0.5 / len(x0))


def ism_loss(model, x0, sigmas, rng: np.random.Generator) -> Tensor:
    """E σ² [tr ∂s/∂x̃ + ½ ‖s‖²] + d/2 per example, x̃ and σ as in `dsm_loss`: score matching by the trace   (Hyvärinen 2005).

    With the constant d/2 it has the same mean as `dsm_loss`, for every model: E[z·s(x̃)] = σ E[tr ∂s/∂x̃] (Stein's lemma).
    It asks the model 2d + 1 times at once. model, draws and errors as `dsm_loss`, but the score must be a Tensor."""
    x0, sigma, scale, z = noised("ism_loss", x0, sigmas, rng)
    d = x0[0].size
    directions = np.broadcast_to(np.eye(d).reshape(d, 1, *x0.shape[1:]), (d, *x0.shape))
    return matching_loss("ism_loss", model, x0 + scale * z, sigma, scale, directions)


def ssm_loss(model, x0, sigmas, rng: np.random.Generator) -> Tensor:
    """E σ² [vᵀ (∂s/∂x̃) v + ½ ‖s‖²] + d/2, v of random signs: sliced score matching   (Song et al. 2019, SSM-VR).

    It has the same mean as `ism_loss` and asks the model three times, whatever d is. Draws σ, z, then v."""
    x0, sigma, scale, z = noised("ssm_loss", x0, sigmas, rng)
    directions = rng.choice([-1.0, 1.0], (1, *x0.shape))
    return matching_loss("ssm_loss", model, x0 + scale * z, sigma, scale, directions)


def noised(name: str, x0, sigmas, rng) -> tuple:
    """(x0, σ of each example (N,), σ shaped to multiply x0, z): what the losses draw. Raises the ValueError of `name`."""
    x0, sigmas = check_data(name, x0), check_sigmas(name, sigmas)
    sigma = rng.choice(sigmas, size=len(x0)).astype(x0.dtype)
    z = rng.standard_normal(x0.shape).astype(x0.dtype)
    return x0, sigma, sigma.reshape(-1, *[1] * (x0.ndim - 1)), z


def matching_loss(name: str, model, x, sigma, scale, directions) -> Tensor:
    """Mean over x of Σ_v σ² vᵀ (∂s/∂x) v + ½ ‖σ s‖² + d/2, for directions v (K, N, ...).

    With u = σ v the first term is uᵀ (∂s/∂x) u = u·[s(x + h u) − s(x − h u)]/2h + O(h²). The score changes over distances
    of size σ, so h is a pure number. At h = ∛(machine epsilon) truncation and rounding are about equal, 1e-10 in float64."""
    N, u = len(x), scale * directions.astype(x.dtype)
    h = x.dtype.type(np.cbrt(np.finfo(x.dtype).eps))
    points = np.concatenate([x[None], x + h * u, x - h * u])
    s = model(points.reshape(-1, *x.shape[1:]), np.tile(sigma, len(points)))
    fits = isinstance(s, Tensor) and s.shape == (len(points) * N, *x.shape[1:])
    require(fits, f"{name}: the score must be a Tensor of the shape of x", score=s, points=points)
    ahead, behind = s[N : N + N * len(u)], s[N + N * len(u) :]
    slopes = ((ahead - behind) * u.reshape(ahead.shape)).sum() * (0.5 / h)
    scaled = scale * s[:N]
    return (slopes + 0.5 * (scaled * scaled).sum()) * (1 / N) + 0.5 * x[0].size


def annealed_langevin_steps(score, sigmas, shape, rng, step=2e-5, per_level=100, denoise=True) -> Iterator[SamplerStep]:
    """Annealed Langevin dynamics   (Song & Ermon 2019, Algorithm 1). At each level i of the ladder, `per_level` times:

        x ← x + α_i/2 s(x, σ_i) + √α_i z,    α_i = step · σ_i²/σ_L²,  z ~ N(0, I)

    score(x, sigma): on arrays, x (N, ...) and one number sigma. shape: (N, ...); x starts as σ_1 times normal noise.
    Yields a SamplerStep after each step; t counts the levels that are left, and x0_hat = x + σ_i² s(x, σ_i) is the mean of
    the data given x (Tweedie's formula). denoise: the last x is that mean at σ_L, which removes the noise that is left
    (Jolicoeur-Martineau et al. 2021). Raises ValueError for a ladder that is not positive, or step ≤ 0.
    """
    sigmas = check_sigmas("annealed_langevin_steps", sigmas)
    require(step > 0, "annealed_langevin_steps: step must be positive", step=step)
    require_positive_integers("annealed_langevin_steps", per_level=per_level)
    return run_langevin(score, sigmas, check_shape("annealed_langevin_steps", shape), rng, step, per_level, denoise)


def run_langevin(score, sigmas, shape, rng, step, per_level, denoise):
    """The steps of `annealed_langevin_steps`, one each time it is asked."""
    x = sigmas[0] * rng.standard_normal(shape)
    for i, sigma in enumerate(sigmas):
        alpha = step * (sigma / sigmas[-1]) ** 2
        for _ in range(per_level):
            s = finite_score(score, x, sigma)
            x0_hat = x + sigma**2 * s
            x = x + alpha / 2 * s + np.sqrt(alpha) * rng.standard_normal(shape)
            yield SamplerStep(len(sigmas) - i, x, x0_hat)
    if denoise:
        x = x + sigmas[-1] ** 2 * finite_score(score, x, sigmas[-1])
        yield SamplerStep(0, x, x)


def finite_score(score, x, level) -> np.ndarray:
    """score(x, level) as an array of x's shape, level being σ or t, one for each or for all.

    Raises ValueError for another shape, FloatingPointError if the score is not finite."""
    s = np.asarray(score(x, level))
    require(s.shape == x.shape, "the score must have the shape of x", score=s, x=x)
    if not np.isfinite(s).all():
        raise FloatingPointError(f"the score at noise level {np.max(level):.3g} is not finite; has the model diverged?")
    return s


# The choices of Song & Ermon 2020, "Improved techniques", as functions of the data


def first_sigma(data) -> float:
    """σ_1: the largest distance between two examples of data (n, ...), so that each can reach each (Technique 1)."""
    flat = check_data("first_sigma", data).reshape(len(data), -1).astype(np.float64)
    squares = np.square(flat).sum(1)
    return float(np.sqrt(max(0.0, max((squares + s - 2 * flat @ x).max() for x, s in zip(flat, squares)))))


def overlap(gamma: float, dims: int) -> float:
    """Φ(√(2D)(γ−1) + 3γ) − Φ(√(2D)(γ−1) − 3γ): how much of level σ_i lies within three σ of level σ_{i−1} = γ σ_i.

    In D dimensions noise of size σ lies on a shell of radius √D σ and thickness σ/√2   (Technique 2)."""
    from scipy.special import ndtr

    shift = np.sqrt(2 * dims) * (gamma - 1)
    return float(ndtr(shift + 3 * gamma) - ndtr(shift - 3 * gamma))


def ratio_for_overlap(dims: int, target: float = 0.5) -> float:
    """γ > 1 with `overlap` equal to target: the ratio of neighbouring levels   (Technique 2).

    Raises ValueError unless dims ≥ 5 and target is in (0, 0.99): in fewer dimensions all levels overlap, for √(2D) < 3."""
    from scipy.optimize import brentq

    require(dims >= 5, "ratio_for_overlap: dims must be at least 5", dims=dims)
    require(0 < target < 0.99, "ratio_for_overlap: target must be in (0, 0.99)", target=target)
    shell = np.sqrt(2 * dims)
    return float(brentq(lambda gamma: overlap(gamma, dims) - target, 1.0, (shell + 10) / (shell - 3)))


def step_for_ladder(sigmas, per_level: int) -> float:
    """The `step` that leaves the least noise above that of each level, with per_level steps at it   (Technique 4).

    With ratio γ = σ_{i−1}/σ_i, a level starts with noise of variance γ² σ_i² on data at one point. After T steps of size
    α_i = ε σ_i²/σ_L² the variance over σ_i² is (1 − ε/2σ_L²)^{2T} (γ² − c) + c, c = (ε/σ_L²)/(1 − (1 − ε/2σ_L²)²).
    It is above 1 for every ε, and we choose the ε that makes it least. (Their steps are α, ours α/2: our ε is twice theirs.)
    """
    from scipy.optimize import minimize_scalar

    sigmas = check_sigmas("step_for_ladder", sigmas)
    require(len(sigmas) >= 2, "step_for_ladder: needs at least two levels", sigmas=sigmas)
    require_positive_integers("step_for_ladder", per_level=per_level)
    gamma = sigmas[0] / sigmas[1]

    def variance(log_ratio):
        a = np.exp(log_ratio)  # ε/σ_L²
        kept = (1 - a / 2) ** 2
        c = a / (1 - kept)
        return kept**per_level * (gamma**2 - c) + c

    found = minimize_scalar(variance, bounds=(np.log(1e-8), np.log(1.9)), method="bounded", options=dict(xatol=1e-10))
    return float(np.exp(found.x) * sigmas[-1] ** 2)


def check_sigmas(name: str, sigmas) -> np.ndarray:
    """The ladder as float64, or the ValueError of the function `name` unless it goes down and is positive."""
    sigmas = np.asarray(sigmas, np.float64)
    goes_down = sigmas.ndim == 1 and len(sigmas) >= 1 and (sigmas > 0).all() and (np.diff(sigmas) < 0).all()
    require(goes_down and np.isfinite(sigmas).all(), f"{name}: sigmas must be positive and go down", sigmas=sigmas)
    return sigmas
