"""Measurements: a part of x_0 is known, or y = A x_0 + noise, and the samples are to be draws of p(x_0 | y).

A network that knows p(x_0) is enough, for ∇ log p_t(x | y) = ∇ log p_t(x) + ∇ log p_t(y | x). The second term is an integral
over all x_0 that x_t leaves possible, and every method here approximates it.

*Replacement* of known pixels (Song et al. 2021, score SDE, Appendix I.2): after each step they are drawn anew from
q(x_t | known). The network sees them only through the noise of x_t, though we know them without it: the samples are biased.
*Resampling* (RePaint, Lugmayr et al. 2022): go one step forward again and repeat, so that the two parts come to agree.
*Reconstruction guidance* (Ho et al. 2022) takes p(x_0 | x_t) for a normal distribution around x0_hat:

    p(y | x_t) ≈ N(y; A x0_hat, (noise² + σ_t²/weight) I),    σ_t² = (1−ᾱ_t)/ᾱ_t

*DPS* (Chung et al. 2023) moves against ∇ ‖y − A x0_hat‖ by a step of given size after each ancestral step.

The gradient of ‖y − A x0_hat(x_t)‖² goes through the denoiser: the tape has it, and with it the transpose of A. So A is any
function of Tensors: a mask, `downsampled`, `blurred`, or a matrix. Where the data is a mixture, `Oracle.given` is the truth.
"""

from collections.abc import Iterator

import numpy as np

from scratchdiff import ops
from scratchdiff.autograd import Tensor
from scratchdiff.checks import require, require_finite_floats, require_positive_integers
from scratchdiff.diffusion.guidance import add_score, dtype_inside, gradient
from scratchdiff.diffusion.samplers import SamplerStep, ancestral_step, check_shape, respaced, spaced


def inpaint_steps(diffusion, model, known, mask, rng, steps=None, resample=1) -> Iterator[SamplerStep]:
    """Ancestral sampling that keeps to the known pixels   (Lugmayr et al. 2022, Algorithm 1):

        x_{t−1} = mask · q_sample(known, t−1) + (1 − mask) · a draw of p(x_{t−1} | x_t)

    and, resample − 1 times, x_t ← √α_t x_{t−1} + √β_t z and the same step again; resample = 1 is replacement. It is the
    product of p with a second distribution (Sohl-Dickstein et al. 2015, section 2.5), which at each t is the marginal of
    the known pixels.

    known: floats (N, ...), one for each sample; what it holds where the mask is 0 does not matter, if it is finite.
    mask: True or 1 where a pixel is known, False or 0 where not; it broadcasts with known. steps: how many of the T, evenly
    spaced; None for all. It asks the network resample (steps − 1) + 1 times.
    Raises ValueError for a mask of other values or another shape, known of no floats, or resample < 1.
    """
    known, mask = check_known("inpaint_steps", known, mask)
    require_positive_integers("inpaint_steps", resample=resample)
    times = spaced("inpaint_steps", diffusion.schedule.T, steps)
    return run_inpaint(diffusion, model, known, mask, rng, times, resample)


def run_inpaint(diffusion, model, known, mask, rng, times, resample):
    """The steps of `inpaint_steps`, one each time it is asked."""
    part, model = respaced(diffusion, model, times)
    x = rng.standard_normal(known.shape)
    for i in range(len(times) - 1, 0, -1):
        for again in range(resample if i > 1 else 1):
            if again:
                alpha = part.schedule.alpha[i]
                x = np.sqrt(alpha) * x + np.sqrt(1 - alpha) * rng.standard_normal(x.shape)
            x, x0_hat = ancestral_step(part, model, x, i, rng)
            at_t = part.q_sample(known, i - 1, rng.standard_normal(x.shape)) if i > 1 else known
            x = np.where(mask, at_t, x)
        yield SamplerStep(int(times[i - 1]), x, x0_hat)


def check_known(name: str, known, mask) -> tuple[np.ndarray, np.ndarray]:
    """(known as float64, mask as booleans of its shape), or the ValueError of the function `name`."""
    known, mask = np.asarray(known), np.asarray(mask)
    require_finite_floats(name, known=known)
    check_shape(name, known.shape)
    binary = mask.dtype.kind in "biuf" and ((mask == 0) | (mask == 1)).all()
    require(binary, f"{name}: the mask must be True or 1 where a pixel is known, and False or 0 elsewhere", mask=mask)
    try:
        return known.astype(np.float64), np.broadcast_to(mask.astype(bool), known.shape)
    except ValueError:
        raise ValueError(f"{name}: a mask of shape {mask.shape} does not fit data of shape {known.shape}") from None


def reconstruction_guided(diffusion, model, operator, y, noise: float = 0.0, weight: float = 1.0):
    """A model(xt, t) in the diffusion's own parametrisation for samples given y = operator(x_0) + noise · N(0, I).

        score = ∇ log p_t(x_t) − ½ ∇ ‖y − A x0_hat(x_t)‖²/(noise² + σ_t²/weight),   σ_t² = (1−ᾱ_t)/ᾱ_t

    For noise = 0 that is x0_hat − weight √ᾱ_t/2 ∇ ‖y − A x0_hat‖²   (Ho et al. 2022, Video Diffusion Models, Eq. 7).
    σ_t² stands for the variance of A x_0 given x_t. For most data that is too much where t is large, and a mean of 16 pixels
    has a 16th of it, so a weight above 1 is often better.
    operator: a function of Tensors x_0 (N, ...) that the tape can differentiate. y: floats that broadcast with its output.
    model: differentiable by the tape in x_t, such as a network, a `guided` one, or an Oracle.
    Raises ValueError for y that is not finite floats, noise < 0, weight ≤ 0, or a y that does not fit.
    """
    y = check_measurement("reconstruction_guided", y)
    require(0 <= noise < np.inf, "reconstruction_guided: noise must not be negative", noise=noise)
    require(0 < weight < np.inf, "reconstruction_guided: weight must be positive", weight=weight)

    dtype = None

    def model_given_y(xt, t):
        nonlocal dtype
        dtype = dtype or dtype_inside(model, xt, t)
        out, _, dsquare = misfit(diffusion, model, operator, y, xt, t, dtype)
        a, s = diffusion.signal_and_noise(t, xt)
        # above and below the line times ᾱ_t, so that ᾱ_t = 0 needs no division
        return add_score(diffusion, out, xt, t, -0.5 * a**2 / (a**2 * noise**2 + s**2 / weight) * dsquare)

    return model_given_y


def dps_steps(diffusion, model, operator, y, shape, rng, steps=None, scale: float = 0.5) -> Iterator[SamplerStep]:
    """Diffusion posterior sampling   (Chung et al. 2023, Algorithm 1), given y = operator(x_0) + noise:

        x_{t−1} = a draw of p(x_{t−1} | x_t) − scale/‖y − A x0_hat(x_t)‖ ∇ ‖y − A x0_hat(x_t)‖²

    operator, y and model: as for `reconstruction_guided`. shape: (N, ...). scale: ζ', about 0.1 to 1. The size of a step
    does not depend on β_t, so another number of steps needs another scale. steps: of the T, evenly spaced; None for all.
    Raises ValueError for a scale ≤ 0, other shapes, or a y that does not fit.
    """
    y = check_measurement("dps_steps", y)
    require(0 < scale < np.inf, "dps_steps: scale must be positive", scale=scale)
    times = spaced("dps_steps", diffusion.schedule.T, steps)
    return run_dps(diffusion, model, operator, y, check_shape("dps_steps", shape), rng, times, scale)


def run_dps(diffusion, model, operator, y, shape, rng, times, scale):
    """The steps of `dps_steps`, one each time it is asked."""
    part, model = respaced(diffusion, model, times)
    x = rng.standard_normal(shape)
    dtype = dtype_inside(model, x, np.full(len(x), len(times) - 1))
    for i in range(len(times) - 1, 0, -1):
        out, square, dsquare = misfit(part, model, operator, y, x, np.full(len(x), i), dtype)
        x, x0_hat = ancestral_step(part, lambda xt, i, out=out: out, x, i, rng)
        length = np.sqrt(np.maximum(square, np.finfo(float).tiny)).reshape(-1, *[1] * (x.ndim - 1))
        x = x - scale / length * dsquare
        yield SamplerStep(int(times[i - 1]), x, x0_hat)


def misfit(diffusion, model, operator, y, xt, t, dtype=np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the model's output at x_t, ‖y − A x0_hat(x_t)‖² of each sample (N,), its gradient with respect to x_t).

    dtype: that of the model. x0_hat is not clipped here: no gradient passes where a clip acts."""
    seen = {}

    def total(x):
        out = model(x, t)
        prediction, _ = diffusion.split_output(out, x)
        difference = operator(diffusion.predict_x0(x, t, prediction)) - y
        fits = difference.ndim >= 1 and len(difference) == len(x)
        require(fits, "the operator and y must give one row for each of x", rows=difference, y=y, x=x)
        seen.update(out=out.data, squares=np.square(difference.data.reshape(len(x), -1), dtype=np.float64).sum(1))
        return (difference * difference).sum()

    dsquare = gradient(total, xt, dtype)
    return seen["out"], seen["squares"], dsquare


def check_measurement(name: str, y) -> np.ndarray:
    """y as an array of finite floats, or the ValueError of the function `name`."""
    y = np.asarray(y)
    require_finite_floats(name, y=y)
    return y


def downsampled(x, factor: int = 4):
    """The mean of each factor × factor block of pixels: (N, H, W, C) → (N, H/factor, W/factor, C), on the tape.

    Its transpose gives each pixel of a block 1/factor² of the block's value. Raises ValueError if factor does not divide."""
    require_positive_integers("downsampled", factor=factor)
    fits = np.ndim(x) == 4 and x.shape[1] % factor == 0 == x.shape[2] % factor
    require(fits, f"downsampled: x must be (N, H, W, C) with sides that {factor} divides", x=x)
    N, H, W, C = x.shape
    return ops.mean(ops.reshape(x, N, H // factor, factor, W // factor, factor, C), axis=(2, 4))


def blurred(x, width: float = 1.0):
    """Each pixel averaged with its neighbours, with normal weights of standard deviation `width` pixels; zeros outside.

    x: (N, H, W, C), on the tape. The weights end at three widths and sum to 1. They are even in both directions, so the
    blur is its own transpose. Raises ValueError unless width > 0."""
    require(0 < width < np.inf, "blurred: width must be positive", width=width)
    require(np.ndim(x) == 4, "blurred: x must be (N, H, W, C)", x=x)
    N, H, W, C = x.shape
    reach = int(np.ceil(3 * width))
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2).astype(x.dtype)
    kernel = np.outer(line, line)[..., None, None] / line.sum() ** 2
    each_channel = ops.reshape(ops.transpose(x, 0, 3, 1, 2), N * C, H, W, 1)
    return ops.transpose(ops.reshape(ops.conv2d(each_channel, kernel), N, C, H, W), 0, 2, 3, 1)


def matrix_of(operator, shape) -> np.ndarray:
    """The matrix A (m, d) of a linear function of Tensors (N, *shape): its column i is A applied to the i-th unit vector."""
    d = int(np.prod(shape))
    columns = operator(Tensor(np.eye(d).reshape(d, *shape)))
    return columns.data.reshape(d, -1).T
