"""How likely is this point? The probability-flow ODE gives its log-density, where `bound.py` gives a bound.

For 8-bit images the density of the dequantised pixels bounds the probability of the image, and only in the mean over the
added noise (Theis et al. 2016): `bits_per_dim` is then an upper bound too.

The ODE dy/dσ = eps(y, σ) of `solvers.py` carries each point of the data to one point of the noise. Where it squeezes a
small volume the density grows, where it stretches one it thins out, and what counts is only the divergence on the way
(the instantaneous change of variables; Chen et al. 2018, Theorem 1; Song et al. 2021, score SDE, Eq. 39):

    d log p(y; σ)/dσ = −∇ · eps(y, σ),    and at the other end p is known: x_T ~ N(0, I)

∇ · f = tr ∂f/∂y needs every diagonal entry of the Jacobian. In the plane these are two products vᵀ(∂f/∂y) v with the unit
vectors v, each a walk down the tape. For an image of d pixels that would be d walks; but for random signs v the mean of
vᵀ(∂f/∂y) v is the trace, so a few do, at the price of some noise   (Hutchinson 1990; FFJORD, Grathwohl et al. 2019).
"""

import numpy as np

from scratchdiff.autograd import Tape, Tensor
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.diffusion.bound import check_data, check_pixels


def ode_log_prob(diffusion, model, x0, rng: np.random.Generator | None = None, probes=None, rtol=1e-6) -> np.ndarray:
    """log p(x0) in nats under the model's ODE, (N,) float64.

    x0: (N, ...) of the model's dtype. model: differentiable by the tape in x_t, such as a network or an Oracle, and not
    guided, because the guided field is not the score of a diffusion. probes: how many random sign vectors per x0, drawn
    from rng once for the whole path; None for the exact divergence, which evaluates the network at N · d points at once.
    rtol: SciPy's relative tolerance per step, for the path and for log p; float32 networks allow 1e-4, not less.

    We treat x0 as x_1, data with the least noise that the network knows, so p is the density p_1 of the ODE's samples.
    The walks add to the gradient of each parameter: zero the gradients before you train on.
    Raises ValueError unless x0 is of finite floats, probes ≥ 1 with an rng and rtol > 0; RuntimeError where the
    solver fails.
    """
    from scipy.integrate import solve_ivp

    x0 = check_data("ode_log_prob", x0)
    if not rtol > 0:
        raise ValueError(f"ode_log_prob: rtol must be positive, got {rtol}")
    N, d = len(x0), x0[0].size
    v = probe_vectors("ode_log_prob", x0, probes, rng)
    schedule = diffusion.schedule
    first, final = schedule.sigma(1), schedule.sigma_max()

    def slope(log_sigma, state):  # of (y, log p) in log σ: σ eps and −σ ∇_y · eps = −√(1−ᾱ) ∇_x · eps
        sigma = np.exp(log_sigma)
        x = (state[:-N] / np.sqrt(1 + sigma**2)).reshape(x0.shape)
        eps, divergence = eps_and_divergence(diffusion, model, x.astype(x0.dtype), float(schedule.time(sigma)), v)
        return np.concatenate([sigma * eps.ravel(), -sigma / np.sqrt(1 + sigma**2) * divergence])

    y = x0.astype(np.float64).ravel() * np.sqrt(1 + first**2)
    span = np.log([first, final])
    found = solve_ivp(slope, span, np.concatenate([y, np.zeros(N)]), rtol=rtol, atol=rtol)
    if not found.success:
        raise RuntimeError(f"ode_log_prob: {found.message}")
    x_T, change = found.y[:-N, -1].reshape(N, d) / np.sqrt(1 + final**2), found.y[-N:, -1]
    log_noise = -0.5 * np.square(x_T).sum(1) - 0.5 * d * np.log(2 * np.pi)
    # y = x/√ᾱ, so p(x) = p(y) ᾱ^(−d/2), at both ends
    return log_noise - change + 0.5 * d * np.log((1 + first**2) / (1 + final**2))


def eps_and_divergence(diffusion, model, x, t, v) -> tuple[np.ndarray, np.ndarray]:
    """(eps_hat, Σ_k v_kᵀ (∂eps_hat/∂x) v_k) at x (N, ...) and one real t, for vectors v (K, N, ...): (N, ...) and (N,)."""
    out, vjp = value_and_vjp(lambda xs: diffusion.split_output(model(xs, np.full(len(xs), t)), xs)[0], x, v)

    def eps_hat(x, out):  # linear in both, so it carries vᵀ∂ as well as values
        return diffusion.predict_eps(x, t, diffusion.predict_x0(x, t, out))

    return eps_hat(x, out), probed_trace(eps_hat(v.astype(x.dtype), vjp), v)


def probe_vectors(name: str, x, probes, rng) -> np.ndarray:
    """Vectors v (K, N, ...) for x (N, ...) with Σ_k v_kᵀ J v_k = tr J for every matrix J: the K = d unit vectors, or, in the
    mean, K = `probes` vectors of random signs over √K   (Hutchinson 1990).
    Raises the ValueError of the function `name` for probes < 1, or without rng."""
    N, d = len(x), x[0].size
    if probes is None:
        return np.broadcast_to(np.eye(d)[:, None], (d, N, d)).reshape(d, *x.shape)
    require_positive_integers(name, probes=probes)
    require(rng is not None, f"{name}: random probes need an rng", rng=rng)
    return rng.choice([-1.0, 1.0], (probes, *x.shape)) / np.sqrt(probes)


def value_and_vjp(f, x, v) -> tuple[np.ndarray, np.ndarray]:
    """(f(x), v_kᵀ ∂f/∂x) at x (N, ...) for vectors v (K, N, ...): (N, ...) and the vector–Jacobian products (K, N, ...).

    f maps a Tensor (K N, ...) to one of its shape, each example by itself, so one walk down the tape answers all K."""
    xs = Tensor(np.concatenate([x] * len(v)))
    with Tape() as tape:
        y = f(xs)
        total = (y * v.reshape(xs.shape).astype(x.dtype)).sum()
    tape.backward(total)
    return y.data[: len(x)], xs.grad.reshape(v.shape)


def probed_trace(vjp, v) -> np.ndarray:
    """Σ_k (v_kᵀ J) · v_k for each example, (N,) float64."""
    return (vjp * v).reshape(*v.shape[:2], -1).sum((0, 2), dtype=np.float64)


def dequantised(x0, rng: np.random.Generator) -> np.ndarray:
    """Images of 8-bit pixels in [−1, 1] with each pixel moved to a random place of its own 256th: x0 + U(−1, 1)/255.

    A density can be had only of such data, for on points it may grow without limit   (Theis et al. 2016, section 3.1).
    Raises ValueError for images that are not floats of the values k/127.5 − 1."""
    x0 = check_data("dequantised", x0)
    check_pixels("dequantised", x0)
    return (x0 + rng.uniform(-1, 1, x0.shape) / 255).astype(x0.dtype)


def bits_per_dim(log_prob, d: int) -> np.ndarray:
    """−log₂ P(pixels)/d from the log-density in nats of dequantised images of d numbers: an upper bound in the mean.

    A pixel is 2/255 wide, so P = p · (2/255)^d. Raises ValueError unless d ≥ 1."""
    if not d >= 1:
        raise ValueError(f"bits_per_dim: d must be at least 1, got {d}")
    return -(np.asarray(log_prob) / d + np.log(2 / 255)) / np.log(2)
