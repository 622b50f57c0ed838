"""The deterministic sampler as a map: its value is DDIM's, and its gradient that of finite differences."""

import tracemalloc

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros

SMALL = dict(image_size=4, in_channels=1, out_channels=1, ch=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(),
             groups=2)  # fmt: skip


def network(dtype=np.float64, **changes):
    rng = np.random.default_rng(3)
    net = sd.UNet(**SMALL | changes, dtype=dtype, rng=rng)
    fill_zeros(net.parameters(), rng)
    for p in net.parameters().values():
        p.data = p.data * p.dtype.type(0.5)
    return net


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_the_flow_ends_where_ddim_without_noise_ends(predict, images):
    diffusion, net = sd.GaussianDiffusion(sd.cosine_schedule(100), predict, images=images), network()
    want = sd.sample_ddim(diffusion, lambda x, t: net(x, t), (2, 4, 4, 1), np.random.default_rng(0), steps=8)
    got = sd.ddim_flow(diffusion, net, np.random.default_rng(0).standard_normal((2, 4, 4, 1)), steps=8)
    np.testing.assert_allclose(got.data, want, rtol=1e-9, atol=1e-12)


def test_labels_reach_the_network():
    net = network(num_classes=3)
    x, diffusion = np.random.default_rng(0).standard_normal((2, 4, 4, 1)), sd.GaussianDiffusion(sd.linear_schedule(), "v")
    one, other = (sd.ddim_flow(diffusion, net, x, steps=3, labels=labels).data for labels in ([0, 1], [0, 2]))
    np.testing.assert_array_equal(one[0], other[0])
    assert np.abs(one[1] - other[1]).max() > 1e-6


def test_the_gradient_matches_finite_differences_for_the_noise_of_eight_steps_and_the_weights_of_three():
    diffusion, net = sd.GaussianDiffusion(sd.linear_schedule(), "v"), network()
    parameters = net.parameters()
    x = np.random.default_rng(1).standard_normal((1, 4, 4, 1))
    assert sd.gradcheck(lambda x: sd.ddim_flow(diffusion, net, x, steps=8), x, max_probes=8) < 1e-6

    def flow(*_):
        return sd.ddim_flow(diffusion, net, x, steps=3)

    assert sd.gradcheck(flow, *parameters.values(), max_probes=1) < 1e-6


def test_the_gradient_is_that_of_the_flow_that_keeps_everything():
    diffusion, net = sd.GaussianDiffusion(sd.cosine_schedule(), "v", images=True), network()
    gradients = []
    for keep in (False, True):
        x = sd.Tensor(np.random.default_rng(1).standard_normal((2, 4, 4, 1)))
        for p in net.parameters().values():
            p.grad = None
        with sd.Tape() as tape:
            loss = sd.ddim_flow(diffusion, net, x, steps=5, keep=keep)[0, 1, 2, 0] * 1.0
        tape.backward(loss)
        gradients.append([x.grad, *(p.grad for p in net.parameters().values())])
    for got, want in zip(*gradients):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-14)


def test_fifty_steps_take_at_most_a_third_more_memory_than_five():
    diffusion, net = sd.GaussianDiffusion(sd.cosine_schedule(), "v"), network(image_size=16, ch=8)
    before = sd.kernels.use("numpy")  # NumPy's memory is what tracemalloc sees

    def peak(steps):
        x = sd.Tensor(np.random.default_rng(1).standard_normal((2, 16, 16, 1)))
        tracemalloc.start()
        with sd.Tape() as tape:
            loss = sd.ddim_flow(diffusion, net, x, steps=steps).sum()
        tape.backward(loss)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    try:
        peak(1)
        assert peak(50) < 1.3 * peak(5)
    finally:
        sd.kernels.use(before)
