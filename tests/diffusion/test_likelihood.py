"""The ODE's likelihood against the oracle's, and its two ways of taking a divergence against finite differences."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.diffusion.likelihood import bits_per_dim, dequantised, eps_and_divergence, ode_log_prob

MEANS = np.array([[1.0, 0.5], [-0.8, -1.0], [0.3, -0.2]])
COVS = np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.1, -0.05], [-0.05, 0.4]], [[0.2, 0.0], [0.0, 0.05]]])
LINEAR = sd.linear_schedule()


def mixture(predict="eps", schedule=LINEAR):
    # centred: then p_T is N(0, I) but for ᾱ_T E[x0²]/2, 2e-5 nats; otherwise the prior alone would be off by √ᾱ_T |mean|
    return sd.Oracle(sd.GaussianDiffusion(schedule, predict=predict), MEANS - MEANS.mean(0), COVS)


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("schedule", [LINEAR, sd.cosine_schedule(), sd.linear_schedule(50, 0.05, 0.4)],
                         ids=["linear", "cosine", "coarse, σ_1 = 0.23"])  # fmt: skip
def test_the_odes_log_density_of_a_mixture_is_within_a_thousandth_of_a_nat_of_the_truth(schedule, predict, rng):
    o = mixture(predict, schedule)
    x = np.concatenate([o.sample(30, rng), rng.uniform(-2, 2, (10, 2))])
    np.testing.assert_allclose(ode_log_prob(o.diffusion, o, x), o.log_prob(x, 1), atol=1e-3)


def test_hutchinsons_estimate_is_right_in_the_mean(rng):
    o = mixture()
    x = np.repeat(o.sample(3, rng), 200, axis=0)
    estimates = ode_log_prob(o.diffusion, o, x, rng, probes=2, rtol=1e-4).reshape(3, 200)
    error = estimates.mean(1) - o.log_prob(x[::200], 1)
    assert (np.abs(error) < 4 * estimates.std(1) / np.sqrt(200) + 5e-3).all()  # 5e-3: what rtol = 1e-4 leaves


def test_where_the_jacobian_is_diagonal_signs_give_the_trace_without_noise(rng):
    # one round normal: eps is a multiple of x, and vᵀ(cI)v = c d for any signs v
    o = sd.Oracle(sd.GaussianDiffusion(LINEAR), np.zeros((1, 4, 4, 1)), 0.5)
    x = rng.standard_normal((3, 4, 4, 1))
    np.testing.assert_allclose(ode_log_prob(o.diffusion, o, x, rng, probes=1), o.log_prob(x, 1), atol=2e-3)


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_the_divergence_of_a_network_matches_finite_differences(predict, rng):
    net = sd.MLP(dim=3, width=16, num_blocks=1, rng=rng, dtype=np.float64)
    for p in net.parameters().values():
        p.data = p.data + 0.3 * rng.standard_normal(p.shape)
    diffusion, x, t, h = sd.GaussianDiffusion(LINEAR, predict=predict), rng.standard_normal((4, 3)), 350.5, 1e-5

    def eps(x):
        return diffusion.predict_eps(x, t, diffusion.denoise(net, x, t)[0])

    slopes = sum((eps(x + h * e)[:, i] - eps(x - h * e)[:, i]) / (2 * h) for i, e in enumerate(np.eye(3)))
    unit = np.broadcast_to(np.eye(3)[:, None], (3, 4, 3))
    got, divergence = eps_and_divergence(diffusion, net, x, t, unit)
    np.testing.assert_allclose(got, eps(x), rtol=1e-12)
    np.testing.assert_allclose(divergence, slopes, rtol=1e-7)


def test_a_unet_of_float32_has_a_likelihood(rng):
    net = sd.UNet(image_size=8, in_channels=1, out_channels=1, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(),
                  groups=4, rng=rng)  # fmt: skip
    diffusion = sd.GaussianDiffusion(LINEAR, predict="v")
    x = rng.uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    got = ode_log_prob(diffusion, net, x, rng, probes=1, rtol=1e-4)
    # it starts as v = 0, x0_hat = √ᾱ x: the exact denoiser of N(0, I), so that is its density
    np.testing.assert_allclose(got, -0.5 * np.square(x).sum((1, 2, 3)) - 32 * np.log(2 * np.pi), rtol=5e-4)


def test_a_uniform_density_over_the_pixels_costs_eight_bits():
    assert bits_per_dim(np.full(3, -784 * np.log(2 + 2 / 255)), 784) == pytest.approx(np.full(3, 8.0))


def test_dequantising_moves_a_pixel_within_its_own_256th(rng):
    pixels = rng.integers(0, 256, (2, 28, 28, 1))
    x = dequantised(pixels.astype(np.float32) / 127.5 - 1, rng)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(np.round((x.astype(np.float64) + 1) * 127.5), pixels)


@pytest.mark.parametrize(
    "settings, said",
    [(dict(probes=0, rng=np.random.default_rng(0)), "positive integer, got 0"), (dict(probes=2), "probes need an rng")],
)
def test_random_probes_need_a_number_and_an_rng(settings, said):
    with pytest.raises(ValueError, match=f"ode_log_prob: .*{said}"):
        ode_log_prob(mixture().diffusion, mixture(), np.zeros((1, 2)), **settings)
