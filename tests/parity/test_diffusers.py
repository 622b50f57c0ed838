"""Networks and samplers of Hugging Face diffusers and ours, with the same weights and the same noise, are the same."""

import json

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.diffusion.samplers import last
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.weights.diffusers import ddim_times

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("safetensors")

torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()

HO = dict(sample_size=8, block_out_channels=[8, 16], layers_per_block=1, down_block_types=["DownBlock2D", "AttnDownBlock2D"],
          up_block_types=["AttnUpBlock2D", "UpBlock2D"], norm_num_groups=4, downsample_padding=0, flip_sin_to_cos=False,
          freq_shift=1, norm_eps=1e-6, attention_head_dim=None)  # fmt: skip
FILM = HO | dict(resnet_time_scale_shift="scale_shift")
CONFIGS = {  # each differs from Ho et al.'s form in one thing or two
    "Ho et al.": HO,
    "Ho et al., four levels": HO | dict(
        block_out_channels=[4, 8, 8, 8], layers_per_block=2,
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
    "diffusers' defaults": {key: HO[key] for key in ("sample_size", "down_block_types", "up_block_types")} | dict(
        block_out_channels=[32, 64]),
    "padding all around": HO | dict(downsample_padding=1),
    "cosines first": HO | dict(flip_sin_to_cos=True, freq_shift=0),
    "two heads": HO | dict(attention_head_dim=8),
    "channels that are no multiples": HO | dict(block_out_channels=[12, 16, 20], down_block_types=3 * ["DownBlock2D"],
                                                up_block_types=3 * ["UpBlock2D"]),
    "attention on one way only": HO | dict(up_block_types=["UpBlock2D", "AttnUpBlock2D"]),
    "classes": HO | dict(num_class_embeds=5),
    "scale and shift": FILM | dict(attn_norm_num_groups=2),
    "scale and shift, no norm in the middle": FILM | dict(norm_eps=1e-3),
    "learned variance, grey": HO | dict(in_channels=1, out_channels=2, act_fn="swish", dropout=0.1),
}  # fmt: skip


class Double(torch.nn.Module):
    """The sinusoidal embedding of a twin in float64: diffusers computes it in float32 whatever the network's dtype."""

    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, t):
        half = self.of.num_channels // 2
        omega = 10_000 ** (-torch.arange(half, dtype=torch.float64) / (half - self.of.downscale_freq_shift))
        waves = [torch.sin(t[:, None] * omega), torch.cos(t[:, None] * omega)]
        return torch.cat(waves[::-1] if self.of.flip_sin_to_cos else waves, 1)


def twin_of(config, seed=0):
    """diffusers' network with weights that are none of them zero."""
    torch.manual_seed(seed)
    twin = diffusers.UNet2DModel(**config).eval()
    for p in twin.parameters():
        torch.nn.init.normal_(p, 1.0 if p.ndim == 1 and p.mean() == 1 else 0.0, 0.15)
    return twin


def double(twin):
    twin = twin.double()
    twin.time_proj = Double(twin.time_proj)
    return twin


def first(x):
    """Channels first, as PyTorch has them."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def theirs(twin, x, t, labels=None):
    with torch.no_grad():
        extra = {} if labels is None else dict(class_labels=torch.from_numpy(labels))
        return np.moveaxis(twin(first(x), torch.from_numpy(t) - 1, **extra).sample.numpy(), 1, -1)


def save(tmp_path, twin, scheduler=None):
    diffusers.DDPMPipeline(twin, scheduler or diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_twin_with_the_same_weights_gives_the_same_output_and_comes_back_bit_for_bit(config, tmp_path, rng):
    twin = twin_of(config)
    variance = "learned_range" if twin.config.out_channels > twin.config.in_channels else "fixed_small"
    save(tmp_path / "in", twin, diffusers.DDPMScheduler(variance_type=variance))
    model, diffusion = sd.load_diffusers(tmp_path / "in")
    assert model.num_parameters() == sum(p.numel() for p in twin.parameters())

    x, t = rng.standard_normal((4, 8, 8, twin.config.in_channels)), np.array([1, 2, 500, 1000])
    labels = {"labels": np.array([0, 1, 4, 3])} if twin.config.num_class_embeds else {}
    want = theirs(twin, x.astype(np.float32), t, **labels)
    assert np.abs(model(x, t, **labels).data - want).max() < 1e-4 * np.abs(want).max()

    sd.save_diffusers(tmp_path / "out", model, diffusion)
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "in" / file).read_bytes()
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet")
    ignored = "_name_or_path", "_diffusers_version", "act_fn", "_use_default_values"
    assert {key: value for key, value in again.config.items() if key not in ignored} == {
        key: value for key, value in twin.config.items() if key not in ignored
    }
    assert np.abs(theirs(again.eval(), x.astype(np.float32), t, **labels) - want).max() < 1e-5 * np.abs(want).max()

    model, _ = sd.load_diffusers(tmp_path / "in", dtype=np.float64)
    want = theirs(double(twin), x, t, **labels)
    assert np.abs(model(x, t, **labels).data - want).max() < 1e-9 * np.abs(want).max()


def test_the_form_of_ddpm_cifar10_32_with_its_flat_folder_and_its_old_names_is_read(tmp_path):
    entries = {"act_fn": "silu", "attention_head_dim": None, "block_out_channels": [128, 256, 256, 256],
               "center_input_sample": False, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
               "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "in_channels": 3,
               "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32,
               "out_channels": 3, "sample_size": 32, "time_embedding_type": "positional",
               "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}  # fmt: skip
    with torch.device("meta"):
        twin = diffusers.UNet2DModel(**entries)
    small = {key: value for key, value in entries.items() if key not in ("block_out_channels", "norm_num_groups")}
    assert sum(p.numel() for p in twin.parameters()) == 35_746_307
    entries = small | dict(block_out_channels=[8, 16, 16, 16], norm_num_groups=4)  # the same form, quick to write
    twin = twin_of(entries)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = twin.state_dict()
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): value for key, value in state.items()}
    from safetensors.torch import save_file

    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"} | entries))
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDPMScheduler", "beta_end": 0.02,
        "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000,
        "trained_betas": None, "variance_type": "fixed_large"}))  # fmt: skip
    model, diffusion = sd.load_diffusers(tmp_path)
    assert (diffusion.variance, diffusion.predict, diffusion.images) == ("fixed_large", "eps", True)
    x, t = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32), np.array([1, 1000])
    want = theirs(twin, x, t)
    assert np.abs(model(x, t).data - want).max() < 1e-4 * np.abs(want).max()


SCHEDULERS = {
    "linear": {},
    "scaled_linear, x0, fixed_large": dict(
        beta_schedule="scaled_linear", prediction_type="sample", variance_type="fixed_large"
    ),
    "squaredcos_cap_v2, v": dict(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    "sigmoid, unclipped": dict(beta_schedule="sigmoid", clip_sample=False, variance_type="fixed_small_log"),
    "trained betas": dict(trained_betas=np.linspace(0.01, 0.3, 12).tolist()),
    "learned_range": dict(variance_type="learned_range"),
    "zero terminal SNR": dict(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
}


def in_float64(scheduler, diffusion):
    """diffusers computes its schedule in float32: to that rounding it must be ours, which then takes its place."""
    a = torch.from_numpy(diffusion.schedule.alpha_bar[1:].copy())
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), a, rtol=2e-5, atol=1e-9)
    scheduler.alphas_cumprod, scheduler.one = a, torch.tensor(1.0, dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = scheduler.one if scheduler.config.set_alpha_to_one else a[0]
    return scheduler


class Replayed:
    """A generator that gives PyTorch's noise, in our order of axes."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def standard_normal(self, shape):
        N, *sides, C = shape
        noise = torch.randn((N, C, *sides), generator=self.generator, dtype=torch.float64)
        return np.moveaxis(noise.numpy(), 1, -1)


def run(scheduler, twin, shape, seed, **settings):
    """diffusers' own loop, channels last."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(twin(x, t).sample, t, x, generator=generator, **settings).prev_sample
    return np.moveaxis(x.numpy(), 1, -1)


@pytest.mark.filterwarnings("ignore:Schedule. ᾱ_T")
@pytest.mark.parametrize("settings", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_whole_ddpm_trajectory_with_the_same_noise_ends_in_the_same_images(settings, tmp_path):
    learned = settings.get("variance_type") == "learned_range"
    twin = twin_of(HO | dict(out_channels=6 if learned else 3))
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=12, **settings)
    model, diffusion = sd.load_diffusers(save(tmp_path, twin, scheduler), dtype=np.float64)
    x = sd.sample_ddpm(diffusion, model, (2, 8, 8, 3), Replayed(5))
    want = run(in_float64(scheduler, diffusion), double(twin), (2, 3, 8, 8), 5)
    assert np.abs(x - want).max() < 1e-9 * np.abs(want).max()


@pytest.mark.filterwarnings("ignore:Schedule. ᾱ_T")
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("settings", [
    dict(timestep_spacing="leading"), dict(timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False),
    dict(timestep_spacing="trailing"), dict(timestep_spacing="linspace", clip_sample=False),
    dict(timestep_spacing="linspace", set_alpha_to_one=False, prediction_type="v_prediction"),
], ids=str)  # fmt: skip
def test_a_whole_ddim_trajectory_at_their_own_times_ends_in_the_same_images(settings, eta, tmp_path):
    twin = twin_of(HO)
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=50, **settings)
    model, diffusion = sd.load_diffusers(save(tmp_path, twin, scheduler), dtype=np.float64)
    steps = 7  # which does not divide 50
    x = sd.sample_ddim(diffusion, model, (2, 8, 8, 3), Replayed(5), eta=eta, times=ddim_times(tmp_path, steps))
    in_float64(scheduler, diffusion).set_timesteps(steps)
    want = run(scheduler, double(twin), (2, 3, 8, 8), 5, eta=eta, use_clipped_model_output=True)
    assert np.abs(x - want).max() < 1e-9 * np.abs(want).max()


def test_a_network_of_ours_opens_in_their_pipeline_and_makes_the_same_images(tmp_path):
    """It counts timesteps from 1 and theirs from 0, which the exported weights make up for."""
    rng = np.random.default_rng(0)
    model = sd.UNet(image_size=8, in_channels=1, out_channels=1, ch=8, ch_mult=(1, 2), num_res_blocks=1, groups=4,
                    attn_resolutions=(4,), rng=rng)  # fmt: skip
    fill_zeros(model.parameters(), rng)
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(20), "v", images=True)
    sd.save_diffusers(tmp_path, model, diffusion)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(4, generator=torch.Generator().manual_seed(3), num_inference_steps=20, output_type="np").images

    class Float32(Replayed):
        def standard_normal(self, shape):
            noise = torch.randn((shape[0], shape[3], *shape[1:3]), generator=self.generator)
            return np.moveaxis(noise.numpy(), 1, -1)

    x = last(sd.ddpm_steps(diffusion, model, (4, 8, 8, 1), Float32(3))).x
    np.testing.assert_allclose((np.clip(x, -1, 1) + 1) / 2, images, atol=1e-4)
    assert images.std() > 0.1
    back, same = sd.load_diffusers(tmp_path)
    assert np.array_equal(same.schedule.betas, diffusion.schedule.betas)
    t, x = np.array([1, 7, 20]), rng.standard_normal((3, 8, 8, 1))
    np.testing.assert_allclose(back(x, t).data, model(x, t).data, atol=2e-5)
