"""The U-Net is Ho et al.'s, and its gradient is right as a whole."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.recipes import YARDSTICK

SMALL = dict(image_size=8, in_channels=2, out_channels=2, ch=4, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,),
             groups=2)  # fmt: skip
PUBLISHED = dict(ch_mult=(1, 1.5), heads=2, up_attn_resolutions=(8,), mid_groups=None, norm_eps=1e-3, down_padding=1,
                 scale_shift=True, time=dict(offset=-1, scale=0.25, freq_shift=0, cos_first=True))  # fmt: skip


def test_the_cifar_unet_has_the_parameter_count_of_ho_et_al(rng):
    net = sd.UNet(image_size=32, in_channels=3, out_channels=3, ch=128, ch_mult=(1, 2, 2, 2), num_res_blocks=2,
                  attn_resolutions=(16,), rng=rng)  # fmt: skip
    assert net.num_parameters() == 35_746_307


def test_the_yardstick_has_its_parameter_count(rng):
    assert sd.UNet(**YARDSTICK, rng=rng).num_parameters() == 2_734_945


@pytest.mark.parametrize("patch_size", [1, 2])
def test_the_untrained_unet_returns_zero_so_that_the_first_loss_is_the_mean_of_eps_squared(rng, patch_size):
    net = sd.UNet(**SMALL | dict(image_size=12), patch_size=patch_size, rng=rng)
    x0 = rng.standard_normal((3, 12, 12, 2)).astype(np.float32)
    loss = sd.GaussianDiffusion(sd.linear_schedule()).loss(net, x0, np.random.default_rng(5))
    replay = np.random.default_rng(5)
    replay.integers(1, 1001, size=3)
    assert loss.item() == pytest.approx(np.square(replay.standard_normal(x0.shape)).mean(), rel=1e-6)


@pytest.mark.parametrize("settings", [SMALL, SMALL | dict(patch_size=2, dropout=0.3, time=dict(learned=True)),
                                      SMALL | PUBLISHED])  # fmt: skip
def test_the_whole_unet_with_the_ddpm_loss_matches_finite_differences_for_every_parameter(rng, settings):
    net = sd.UNet(**settings, dtype=np.float64, rng=rng)
    fill_zeros(net.parameters(), rng)
    diffusion = sd.GaussianDiffusion(sd.linear_schedule(10))  # t ω stays small: learned sines of 1000 turn too fast
    x0 = rng.standard_normal((2, 8, 8, 2))
    parameters = net.parameters().values()
    error = sd.gradcheck(lambda *_: diffusion.loss(net, x0, np.random.default_rng(1)), *parameters, max_probes=1)
    assert error < 1e-6


def test_the_whole_unet_matches_finite_differences_for_its_input(rng):
    net = sd.UNet(**SMALL, dtype=np.float64, rng=rng)
    fill_zeros(net.parameters(), rng)
    t, target = np.array([3, 700]), rng.standard_normal((2, 8, 8, 2))
    assert sd.gradcheck(lambda x: sd.ops.mse(net(x, t), target), rng.standard_normal((2, 8, 8, 2)), max_probes=20) < 1e-6


def test_a_unet_of_one_dimension_with_a_condition_matches_finite_differences_for_every_input(rng):
    settings = SMALL | dict(image_size=12, in_channels=3, dims=1, patch_size=2, cond_channels=1, attn_resolutions=(3,))
    net = sd.UNet(**settings, dtype=np.float64, rng=rng)
    fill_zeros(net.parameters(), rng)
    t, target = np.array([3, 700]), rng.standard_normal((2, 12, 2))
    inputs = rng.standard_normal((2, 12, 3)), rng.standard_normal((2, 12, 1))
    assert sd.gradcheck(lambda x, cond: sd.ops.mse(net(x, t, cond=cond), target), *inputs, max_probes=20) < 1e-6


def test_a_unet_of_one_dimension_is_a_unet_on_images_of_one_row_whose_kernels_are_zero_above_and_below(rng):
    settings = dict(in_channels=2, out_channels=2, ch=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(), groups=2)
    line, image = (sd.UNet(8, **settings, dims=dims, dtype=np.float64, rng=rng) for dims in (1, 2))
    fill_zeros(line.parameters(), rng)
    middle = lambda w: np.stack([np.zeros_like(w[0]), w[0], np.zeros_like(w[0])])  # noqa: E731
    image.load({name: middle(p.data) if p.shape[:2] == (1, 3) else p.data for name, p in line.parameters().items()})
    x, t = rng.standard_normal((3, 8, 2)), np.array([1, 10, 100])
    rows = np.repeat(x[:, None], 8, axis=1)  # eight equal rows, of which none sees another
    np.testing.assert_allclose(image(rows, t).data, np.repeat(line(x, t).data[:, None], 8, axis=1), atol=1e-12)


def test_learned_times_start_as_the_fixed_ones(rng):
    fixed, learned = (sd.UNet(**SMALL, time=dict(learned=on), dtype=np.float64, rng=rng) for on in (False, True))
    fill_zeros(fixed.parameters(), rng)
    learned.load({name: p.data for name, p in fixed.parameters().items()} | {"temb.log_omega": learned.temb.log_omega.data})
    x, t = rng.standard_normal((2, 8, 8, 2)), np.array([3, 700])
    np.testing.assert_allclose(learned(x, t).data, fixed(x, t).data, atol=1e-12)


def test_no_condition_is_a_condition_of_zeros(rng):
    net = sd.UNet(**SMALL, cond_channels=3, rng=rng)
    fill_zeros(net.parameters(), rng)
    x, t = rng.standard_normal((2, 8, 8, 2)), np.array([3, 700])
    assert np.array_equal(net(x, t).data, net(x, t, cond=np.zeros((2, 8, 8, 3))).data)
    assert not np.allclose(net(x, t).data, net(x, t, cond=np.ones((2, 8, 8, 3))).data)


def test_every_parameter_gets_a_gradient_once_the_zeros_are_filled(rng):
    net = sd.UNet(**SMALL, rng=rng)
    fill_zeros(net.parameters(), rng)
    with sd.Tape() as tape:
        loss = (net(rng.standard_normal((2, 8, 8, 2)), np.array([3, 700])) ** 2).mean()
    tape.backward(loss)
    assert all(p.grad is not None and p.grad.any() and p.grad.dtype == np.float32 for p in net.parameters().values())


def test_the_unet_depends_on_t_and_on_nothing_else_that_varies(rng):
    net = sd.UNet(**SMALL, dropout=0.5, rng=rng)
    fill_zeros(net.parameters(), rng)
    x = rng.standard_normal((2, 8, 8, 2))
    out = net(x, np.array([5, 5])).data
    assert np.array_equal(out, net(x, np.array([5, 5])).data)
    assert not np.allclose(out, net(x, np.array([6, 600])).data)
    assert not np.allclose(out, net(x, np.array([5, 5]), dropout_rng=rng).data)  # with a generator, dropout is at work


def test_one_image_does_not_see_the_others_of_its_batch(rng):
    net = sd.UNet(**SMALL, dtype=np.float64, rng=rng)
    fill_zeros(net.parameters(), rng)
    x, t = rng.standard_normal((3, 8, 8, 2)), np.array([1, 10, 100])
    np.testing.assert_allclose(net(x, t).data[1:2], net(x[1:2], t[1:2]).data, atol=1e-12)


def test_scale_shift_modulates_the_second_norm_by_the_two_halves_of_the_projected_timestep(rng):
    block = sd.nn.ResBlock(4, 4, 6, groups=2, scale_shift=True, rng=rng, dtype=np.float64)
    fill_zeros(block.parameters(), rng)
    x, temb = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((2, 6))
    silu = sd.ops.silu
    s, b = np.split(np.asarray(block.temb_proj(temb)), 2, axis=1)
    normed = np.asarray(block.norm2(block.conv1(block.norm1(x))))
    modulated = normed * (1 + s[:, None, None]) + b[:, None, None]
    np.testing.assert_allclose(block(x, temb).data, x + block.conv2(silu(modulated)).data, atol=1e-13)


def test_attention_stands_where_each_way_says_with_as_many_heads_as_fit(rng):
    net = sd.UNet(**SMALL | dict(ch=4, ch_mult=(1, 2), up_attn_resolutions=(8,), head_dim=2), rng=rng)
    heads = [getattr(layer, "attn", None) and layer.attn.heads for layer in [*net.down, *net.up]]
    assert heads == [None, None, 4, None, None, None, 2, 2]
    assert net.mid_attn.heads == 4


@pytest.mark.parametrize("change, message", [
    (dict(ch_mult=(1, 0.1)), r"ch · ch_mult\[1\] must be a positive integer, got 0"),
    (dict(head_dim=3), "head_dim 3 does not divide 8 channels"),
    (dict(image_size=7), "do not divide images of 7 pixels"),
    (dict(patch_size=3), "patches of 3 do not divide"),
    (dict(groups=3), "3 groups do not divide the channels"),
])  # fmt: skip
def test_the_unet_refuses_sizes_that_do_not_divide(rng, change, message):
    with pytest.raises(ValueError, match=message):
        sd.UNet(**SMALL | change, rng=rng)


@pytest.mark.parametrize("x, t", [((2, 8, 8, 1), (2,)), ((2, 4, 4, 2), (2,)), ((2, 8, 8, 2), (3,)), ((8, 8, 2), (8,))])
def test_the_unet_refuses_inputs_of_other_shapes(rng, x, t):
    with pytest.raises(ValueError, match="UNet: needs xt of shape"):
        sd.UNet(**SMALL, rng=rng)(np.zeros(x), np.ones(t, int))
