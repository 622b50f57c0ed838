"""Folders of diffusers: what goes out comes back, and what we cannot be is refused by its name."""

import json
import tracemalloc

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.weights.diffusers import ddim_times, diffusers_recipe
from scratchdiff.weights.tensors import read_tensors, write_tensors

pytest.importorskip("safetensors")

UNET = dict(image_size=8, in_channels=1, out_channels=1, ch=4, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,),
            groups=2)  # fmt: skip


@pytest.fixture
def folder(tmp_path, rng):
    """A whole folder, with the model and the diffusion that it holds."""
    model = sd.UNet(**UNET, num_classes=3, rng=rng)
    fill_zeros(model.parameters(), rng)
    sd.save_diffusers(tmp_path, model, sd.GaussianDiffusion(sd.cosine_schedule(20), "v", images=True))
    return tmp_path


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_what_goes_out_comes_back_with_the_same_output_but_for_rounding(tmp_path, rng):
    model = sd.UNet(**UNET, num_classes=3, rng=rng, dtype=np.float64)
    fill_zeros(model.parameters(), rng)
    diffusion = sd.GaussianDiffusion(sd.linear_schedule(), "x0", "fixed_large")
    sd.save_diffusers(tmp_path, model, diffusion)
    back, same = sd.load_diffusers(tmp_path, dtype=np.float64)
    x, t = rng.standard_normal((4, 8, 8, 1)), np.array([1, 2, 333, 1000])
    for labels in ([0, 1, 2, 3], None):
        np.testing.assert_allclose(back(x, t, labels=labels).data, model(x, t, labels=labels).data, atol=1e-10)
    assert np.array_equal(same.schedule.beta, diffusion.schedule.beta)
    assert (same.predict, same.variance, same.images) == ("x0", "fixed_large", False)


def test_the_second_trip_changes_no_bit(folder, tmp_path):
    model, diffusion = sd.load_diffusers(folder)
    sd.save_diffusers(tmp_path / "again", model, diffusion)
    for file in ("unet/diffusion_pytorch_model.safetensors", "unet/config.json", "scheduler/scheduler_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("entry, value", [
    ("act_fn", "mish"), ("center_input_sample", True), ("time_embedding_type", "fourier"), ("time_embedding_dim", 7),
    ("mid_block_type", None), ("mid_block_scale_factor", 2), ("downsample_type", "resnet"), ("upsample_type", "resnet"),
    ("add_attention", False), ("class_embed_type", "timestep"), ("resnet_time_scale_shift", "spatial"),
    ("downsample_padding", 2), ("down_block_types", ["DownBlock2D", "CrossAttnDownBlock2D"]), ("sample_size", None),
    ("down_block_types", ["DownBlock2D"]), ("up_block_types", 3 * ["UpBlock2D"]), ("sample_size", [8, 16]),
    ("block_out_channels", []), ("block_out_channels", [4, 8.0]), ("layers_per_block", 0), ("in_channels", "1"),
    ("out_channels", 2), ("num_class_embeds", 1), ("norm_eps", 0), ("dropout", 1), ("freq_shift", "0"),
    ("attention_head_dim", -8), ("cross_attention_dim", 1280), ("_class_name", "UNet2DConditionModel"),
])  # fmt: skip
def test_an_entry_of_the_network_that_is_not_supported_is_named(folder, entry, value):
    path = folder / "unet" / "config.json"
    change(path, **{entry: value})
    with pytest.raises(ValueError, match=rf"config.json: .*{entry}.* is not supported$"):
        sd.load_diffusers(folder)


@pytest.mark.parametrize("entry, value", [
    ("beta_schedule", "laplace"), ("variance_type", "learned"), ("variance_type", "fixed_large_log"),
    ("prediction_type", "flow"), ("clip_sample_range", 2), ("thresholding", True), ("timestep_spacing", "even"),
    ("num_train_timesteps", 10**7), ("beta_start", "0"), ("trained_betas", ["a"]), ("steps_offset", -1),
    ("use_karras_sigmas", True), ("_class_name", "PNDMScheduler"),
])  # fmt: skip
def test_an_entry_of_the_scheduler_that_is_not_supported_is_named(folder, entry, value):
    change(folder / "scheduler" / "scheduler_config.json", **{entry: value})
    with pytest.raises(ValueError, match=rf"scheduler_config.json: .*{entry}.* is not supported$"):
        sd.load_diffusers(folder)


@pytest.mark.parametrize("entries, message", [
    (dict(layers_per_block=2), "missing down_blocks.0.resnets.1"),
    (dict(layers_per_block=10**6), "a larger network than there are weights for"),
    (dict(block_out_channels=[2**30, 2**30], norm_num_groups=2), "conv_in.weight should have shape .1073741824, 1, 3, 3."),
    (dict(num_class_embeds=2**30), "class_embedding.weight should have shape"),
    (dict(block_out_channels=[4] + 20 * [8], down_block_types=21 * ["DownBlock2D"], up_block_types=21 * ["UpBlock2D"]),
     "down_blocks.2.resnets.0.conv2.weight should have shape .* got None"),
    (dict(num_class_embeds=None), "unexpected class_embedding.weight"),
    (dict(up_block_types=2 * ["UpBlock2D"]), "unexpected up_blocks.0.attentions.0"),
    (dict(resnet_time_scale_shift="scale_shift", attn_norm_num_groups=2), r"time_emb_proj.bias has shape .4,., not .8,."),
    (dict(norm_num_groups=3), "3 groups do not divide the channels"),
    (dict(attention_head_dim=3), "head_dim 3 does not divide 8 channels"),
])  # fmt: skip
def test_a_configuration_that_does_not_fit_the_weights_is_refused_before_it_costs_memory(folder, entries, message):
    change(folder / "unet" / "config.json", **entries)
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as error:
        sd.load_diffusers(folder)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_or_not_there_are_refused(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    with pytest.raises(ValueError, match="UNet.load: .* is not finite"):
        sd.load_diffusers(folder)
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ValueError, match="is a pickle, which can run any program, so we do not open it"):
        sd.load_diffusers(folder)
    path.with_suffix(".bin").unlink()
    with pytest.raises(FileNotFoundError):
        sd.load_diffusers(folder)


def test_a_folder_without_a_scheduler_has_diffusers_default_one(folder):
    (folder / "scheduler" / "scheduler_config.json").unlink()
    recipe = diffusers_recipe(folder)
    assert recipe["betas"] == sd.linear_schedule().betas.tolist()
    assert (recipe["predict"], recipe["variance"], recipe["images"], recipe["T"]) == ("eps", "fixed_small", True, 1000)
    change(folder / "unet" / "config.json", out_channels=2)
    assert diffusers_recipe(folder)["variance"] == "learned"


def test_weights_in_half_or_double_precision_become_those_of_the_network(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = read_tensors(path)
    for dtype in (np.float16, np.float64):
        write_tensors(path, {name: a.astype(dtype) for name, a in tensors.items()})
        model, _ = sd.load_diffusers(folder)
        assert model.conv_in.b.dtype == np.float32
        np.testing.assert_array_equal(model.conv_in.b.data, tensors["conv_in.bias"].astype(dtype).astype(np.float32))


def test_ddims_times_follow_the_spacing_of_the_scheduler(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    change(path, timestep_spacing="leading")
    assert ddim_times(folder, 4) == [(16, 11), (11, 6), (6, 1), (1, 0)]
    change(path, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
    assert ddim_times(folder, 4) == [(17, 12), (12, 7), (7, 2), (2, 1)]
    change(path, timestep_spacing="trailing", steps_offset=0, set_alpha_to_one=True)
    assert ddim_times(folder, 4) == [(20, 15), (15, 10), (10, 5), (5, 0)]
    change(path, timestep_spacing="linspace")
    assert ddim_times(folder, 3) == [(20, 14), (11, 5), (1, 0)]  # 0, 9.5 and 19 are rounded, and each goes back by 6
    with pytest.raises(ValueError, match="ddim_times: steps must lie in 1..20, got 21"):
        ddim_times(folder, 21)


def test_without_the_package_safetensors_one_is_told_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'scratchdiff\[diffusers\]'"):
        sd.load_diffusers(folder)
