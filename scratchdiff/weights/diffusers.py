"""Folders of Hugging Face diffusers, as `save_pretrained` writes them: their UNet2DModel is our U-Net, in other words.

    model_index.json                                        what the folder holds
    unet/config.json                                        the network's settings
    unet/diffusion_pytorch_model.safetensors                its weights
    scheduler/scheduler_config.json                         the noise schedule, and what the network predicts

Both JSON files may also stand in the folder itself, beside the weights. Their timesteps count from 0 and ours from 1, so
what they call t is our t + 1: the U-Net of such a folder embeds t − 1.
"""

import json
from pathlib import Path

import numpy as np

from scratchdiff.checkpoint import Allotment
from scratchdiff.checks import require
from scratchdiff.diffusion import (
    GaussianDiffusion,
    Schedule,
    cosine_schedule,
    linear_schedule,
    quadratic_schedule,
    sigmoid_beta_schedule,
    zero_terminal_snr,
)
from scratchdiff.nn import ResBlock, UNet
from scratchdiff.nn.unet import Downsample
from scratchdiff.ops.embedding import embedding_frequencies
from scratchdiff.recipes import build
from scratchdiff.weights.names import check_shapes, load_published, published_layout, published_names
from scratchdiff.weights.tensors import read_header, read_json, read_tensors, write_tensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
INNER = {"temb_proj": "time_emb_proj", "shortcut": "conv_shortcut", "norm": "group_norm", "q": "to_q", "k": "to_k",
         "v": "to_v", "proj": "to_out.0"}  # fmt: skip
OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, before 2023

SCHEDULES = {"linear": linear_schedule, "scaled_linear": quadratic_schedule, "sigmoid": sigmoid_beta_schedule,
             "squaredcos_cap_v2": lambda T, *_: cosine_schedule(T)}  # fmt: skip
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "fixed_large": "fixed_large",
             "learned_range": "learned"}  # fmt: skip


def whole(value) -> bool:
    """Whether an entry is a positive integer."""
    return type(value) is int and 0 < value < 2**31


def number(value) -> bool:
    """Whether an entry is a finite number."""
    return type(value) in (int, float) and abs(value) < 1e30


def every(test):
    """A test of whether an entry is a list of at least one of what passes `test`."""
    return lambda value: isinstance(value, list) and bool(value) and all(map(test, value))


# Every entry that a configuration may have: diffusers' default, and the values, or the test of values, that we support.
UNET = {
    "sample_size": (None, lambda value: whole(value) or every(whole)(value) and value == value[:1] * 2),
    "in_channels": (3, whole),
    "out_channels": (3, whole),
    "block_out_channels": ([224, 448, 672, 896], every(whole)),
    "layers_per_block": (2, whole),
    "down_block_types": (["DownBlock2D"] + 3 * ["AttnDownBlock2D"], every(("DownBlock2D", "AttnDownBlock2D").__contains__)),
    "up_block_types": (3 * ["AttnUpBlock2D"] + ["UpBlock2D"], every(("UpBlock2D", "AttnUpBlock2D").__contains__)),
    "norm_num_groups": (32, whole),
    "norm_eps": (1e-5, lambda value: number(value) and value > 0),
    "attn_norm_num_groups": (None, lambda value: value is None or whole(value)),
    "attention_head_dim": (8, lambda value: value is None or whole(value)),
    "dropout": (0.0, lambda value: number(value) and 0 <= value < 1),
    "num_class_embeds": (None, lambda value: value is None or whole(value) and value > 1),
    "freq_shift": (0, number),
    "flip_sin_to_cos": (True, (False, True)),
    "downsample_padding": (1, (0, 1)),
    "resnet_time_scale_shift": ("default", ("default", "scale_shift")),
    "time_embedding_dim": (None, lambda value: value is None or whole(value)),
    "num_train_timesteps": (None, lambda value: True),  # of a learned time embedding only
    "center_input_sample": (False, (False,)),
    "time_embedding_type": ("positional", ("positional",)),
    "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "mid_block_scale_factor": (1, (1,)),
    "downsample_type": ("conv", ("conv",)),
    "upsample_type": ("conv", ("conv",)),
    "act_fn": ("silu", ("silu", "swish")),
    "add_attention": (True, (True,)),
    "class_embed_type": (None, (None,)),
}
SCHEDULER = {
    "num_train_timesteps": (1000, lambda value: whole(value) and value <= 10**6),
    "beta_start": (1e-4, number),
    "beta_end": (0.02, number),
    "beta_schedule": ("linear", tuple(SCHEDULES)),
    "trained_betas": (None, lambda value: value is None or every(number)(value)),
    "variance_type": ("fixed_small", tuple(VARIANCES)),
    "prediction_type": ("epsilon", tuple(PREDICTIONS)),
    "clip_sample": (True, (False, True)),
    "clip_sample_range": (1.0, (1,)),
    "rescale_betas_zero_snr": (False, (False, True)),
    "timestep_spacing": ("leading", ("leading", "trailing", "linspace")),
    "steps_offset": (0, lambda value: value == 0 or whole(value)),
    "set_alpha_to_one": (True, (False, True)),
    "thresholding": (False, (False,)),
    "dynamic_thresholding_ratio": (0.995, lambda value: True),  # of thresholding only, as the next
    "sample_max_value": (1.0, lambda value: True),
}


def load_diffusers(folder, dtype=np.float32) -> tuple[UNet, GaussianDiffusion]:
    """(model, diffusion) of a folder of diffusers with a UNet2DModel, and with a DDPMScheduler or DDIMScheduler or none.

        model, diffusion = sd.load_diffusers("ddpm-cifar10-32")
        x = sd.sample_ddpm(diffusion, model, (4, 32, 32, 3), rng)

    Without a scheduler the diffusion is that of diffusers' defaults: 1000 linear steps, predict="eps". A network with n
    num_class_embeds gets num_classes n − 1, since our last row, which labels=None takes, stands for any class.
    Raises ValueError naming what is not supported in a configuration, or wrong in a file, before any weight is read; for a
    pickle (.bin) it says how to convert it. FileNotFoundError; ImportError without the package `safetensors`."""
    return load_recipe(diffusers_recipe(folder), folder, dtype)


def load_recipe(recipe: dict, folder, dtype=np.float32) -> tuple[UNet, GaussianDiffusion]:
    """`load_diffusers` with the recipe that `diffusers_recipe` has made of the folder."""
    path = part(folder, "unet", "config.json").with_name(WEIGHTS)
    header = read_header(path)
    shapes = {modern(name): shape for name, shape in header.items()}
    require(len(shapes) == len(header), f"{path}: it names a layer of an attention twice, the old way and the new way")
    check_sizes(path, recipe["network_args"], shapes)
    numbers = sum(int(np.prod(shape, dtype=object)) for shape in shapes.values())
    args = recipe["network_args"] | dict(dtype=dtype)
    model, diffusion = build(recipe | dict(network_args=args), Allotment(numbers))
    names = diffusers_names(model)
    check_shapes(path, model, names, shapes)
    load_published(model, names, {modern(name): a for name, a in read_tensors(path).items()})
    return model, diffusion


def save_diffusers(folder, model: UNet, diffusion: GaussianDiffusion) -> None:
    """Write a U-Net and its diffusion as a folder that diffusers opens: DDPMPipeline.from_pretrained(folder).

    The schedule goes out as trained_betas. Where our network embeds t itself, theirs gets t − 1, and the first layer
    of the timestep makes up for it: sin ω(t + 1) and cos ω(t + 1) are sin ωt and cos ωt, turned by the angle ω.
    Raises ValueError naming what has no counterpart there; OSError. What is in the folder is overwritten."""
    ours = type(model).__name__
    require(isinstance(model, UNet), "save_diffusers: only a UNet has a counterpart in diffusers", model=ours)
    config, scheduler = unet_config(model), scheduler_config(diffusion)
    names = diffusers_names(model)
    arrays = {name: p.data for name, p in model.parameters().items()}
    arrays["temb.dense1.w"] = turned(model.temb)
    tensors = {}
    for name, a in arrays.items():
        theirs = published_layout(name, a)
        tensors[names[name]] = theirs[:, :, 0, 0] if ".attentions." in names[name] and a.ndim == 4 else theirs
    folder = Path(folder)
    for inner in ("unet", "scheduler"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "unet" / WEIGHTS, tensors)
    index = dict(_class_name="DDPMPipeline", scheduler=["diffusers", "DDPMScheduler"], unet=["diffusers", "UNet2DModel"])
    for path, entries in {"unet/config.json": config, "scheduler/scheduler_config.json": scheduler,
                          "model_index.json": index}.items():  # fmt: skip
        (folder / path).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def ddim_times(folder, steps: int) -> list[tuple[int, int]]:
    """The pairs (t, s) that the DDIMScheduler of a folder steps through, for `ddim_steps(..., times=)`.

    They follow its timestep_spacing, steps_offset and set_alpha_to_one. diffusers steps from t to t − ⌊T/steps⌋, which for
    "trailing" and "linspace" is not always the next t. Raises ValueError unless 1 ≤ steps ≤ T and all t lie in 1..T."""
    config = read_scheduler(folder) or defaults(SCHEDULER)
    T = len(scheduler_betas(config))
    require(whole(steps) and steps <= T, f"ddim_times: steps must lie in 1..{T}", steps=steps)
    if config["timestep_spacing"] == "leading":
        t = np.arange(steps) * (T // steps) + config["steps_offset"]
    elif config["timestep_spacing"] == "linspace":
        t = np.linspace(0, T - 1, steps).round().astype(int)
    else:
        t = np.arange(T, 0, -T / steps).round().astype(int)[::-1] - 1
    require(t[-1] < T, "ddim_times: with this steps_offset the first t lies beyond T", t=t[-1] + 1)
    end = 0 if config["set_alpha_to_one"] else 1
    return [(int(t) + 1, int(t) - T // steps + 1 if t >= T // steps else end) for t in t[::-1]]


def diffusers_recipe(folder) -> dict:
    """What a folder of diffusers says, as a recipe (`recipes.py`) that `build` makes. Raises ValueError naming the entry
    that we do not support."""
    path, scheduler = part(folder, "unet", "config.json"), read_scheduler(folder)
    kind = read_json(path).get("_class_name", "UNet2DModel")
    support(kind == "UNet2DModel", path, "_class_name", kind)
    c = read_config(path, UNET)
    channels, scale_shift = c["block_out_channels"], c["resnet_time_scale_shift"] == "scale_shift"
    ch, levels = channels[0], len(channels)
    size = c["sample_size"] if whole(c["sample_size"]) else c["sample_size"][0]
    if scheduler is None:  # diffusers' defaults, but for a network that has learned its variance
        learned = c["out_channels"] == 2 * c["in_channels"]
        scheduler = defaults(SCHEDULER) | dict(variance_type="learned_range" if learned else "fixed_small")
    doubled = c["in_channels"] * (2 if scheduler["variance_type"] == "learned_range" else 1)
    support(c["out_channels"] == doubled, path, "with this variance_type, out_channels", c["out_channels"])
    support(c["time_embedding_dim"] in (None, 4 * ch), path, "time_embedding_dim", c["time_embedding_dim"])
    for key in ("down_block_types", "up_block_types"):
        support(len(c[key]) == levels, path, f"on {levels} levels, {key}", c[key])
    sizes = [size // 2**level for level in range(levels)]
    network_args = dict(
        image_size=size, in_channels=c["in_channels"], out_channels=c["out_channels"], ch=ch,
        ch_mult=[n / ch for n in channels], num_res_blocks=c["layers_per_block"],
        attn_resolutions=[n for n, kind in zip(sizes, c["down_block_types"]) if kind == "AttnDownBlock2D"],
        up_attn_resolutions=[n for n, kind in zip(sizes[::-1], c["up_block_types"]) if kind == "AttnUpBlock2D"],
        groups=c["norm_num_groups"], dropout=c["dropout"], head_dim=c["attention_head_dim"], norm_eps=c["norm_eps"],
        num_classes=None if c["num_class_embeds"] is None else c["num_class_embeds"] - 1,
        # where the timestep scales and shifts, diffusers takes None for no norm before the middle's attention
        mid_groups=c["attn_norm_num_groups"] or (None if scale_shift else "same"), scale_shift=scale_shift,
        down_padding=c["downsample_padding"] or "same",
        time=dict(offset=-1, freq_shift=c["freq_shift"], cos_first=c["flip_sin_to_cos"]),
    )  # fmt: skip
    betas = scheduler_betas(scheduler).tolist()
    return dict(network="UNet", network_args=network_args, schedule="betas", betas=betas, T=len(betas),
                predict=PREDICTIONS[scheduler["prediction_type"]], variance=VARIANCES[scheduler["variance_type"]],
                images=scheduler["clip_sample"], eta=1.0, guidance=0.0)  # fmt: skip


def scheduler_betas(config: dict) -> np.ndarray:
    """β_1..β_T of a scheduler's configuration."""
    if config["trained_betas"] is not None:
        schedule = Schedule(config["trained_betas"])
    else:
        schedule = SCHEDULES[config["beta_schedule"]](
            config["num_train_timesteps"], config["beta_start"], config["beta_end"]
        )
    return (zero_terminal_snr(schedule) if config["rescale_betas_zero_snr"] else schedule).betas


def defaults(entries: dict) -> dict:
    """diffusers' defaults of a configuration."""
    return {key: default for key, (default, _) in entries.items()}


def read_scheduler(folder) -> dict | None:
    """The scheduler's configuration in a folder, or None where there is none. ValueError naming the entry."""
    path = part(folder, "scheduler", "scheduler_config.json")
    if not path.exists():
        return None
    kind = read_json(path).get("_class_name", "DDPMScheduler")
    support(kind in ("DDPMScheduler", "DDIMScheduler"), path, "_class_name", kind)
    return read_config(path, SCHEDULER)


def read_config(path, entries: dict) -> dict:
    """A configuration with its defaults. Raises ValueError naming an entry, or a value of one, that we do not support."""
    given = {key: value for key, value in read_json(path).items() if not key.startswith("_")}
    for key in given:
        require(key in entries, f"{path}: the entry {key[:80]!r} is not supported")
    config = defaults(entries) | given
    for key, (_, known) in entries.items():
        support(known(config[key]) if callable(known) else config[key] in known, path, key, config[key])
    return config


def support(ok, path, entry: str, value) -> None:
    """Raise the ValueError that names an entry of a configuration unless ok."""
    require(ok, f"{path}: {entry} {repr(value)[:80]} is not supported")


def part(folder, inner: str, name: str) -> Path:
    """The file `name` of a part of a folder: in the folder `inner`, or beside it."""
    inside = Path(folder) / inner / name
    return inside if inside.exists() or not (Path(folder) / name).exists() else Path(folder) / name


def check_sizes(path, args: dict, shapes: dict[str, tuple]) -> None:
    """Raise ValueError unless the weights of a file have the sizes that a network is about to be built with: so a
    configuration cannot ask for more memory than its file is long."""
    channels = [round(args["ch"] * mult) for mult in args["ch_mult"]]
    wanted = {"conv_in.weight": (channels[0], args["in_channels"], 3, 3),
              "conv_out.weight": (args["out_channels"], channels[0], 3, 3)}  # fmt: skip
    wanted |= {f"down_blocks.{i}.resnets.0.conv2.weight": (c, c, 3, 3) for i, c in enumerate(channels)}
    if args["num_classes"]:
        wanted["class_embedding.weight"] = (args["num_classes"] + 1, 4 * channels[0])
    for name, shape in wanted.items():
        found = shapes.get(name)
        require(found == shape, f"{path}: {name} should have shape {shape} by the configuration", found=found)


def modern(name: str) -> str:
    """A name in a file as diffusers has it since 2023: attention's four layers were called otherwise before."""
    *path, layer, leaf = name.split(".") if "." in name else ("", name, "")
    return ".".join([*path, OLD[layer], leaf]) if layer in OLD and "attentions" in path else name


def diffusers_names(model: UNet) -> dict[str, str]:
    """{our name: diffusers' name} of every parameter of a U-Net."""
    layers = {"temb.dense1": "time_embedding.linear_1", "temb.dense2": "time_embedding.linear_2",
              "class_emb": "class_embedding.weight", "conv_in": "conv_in", "mid.0": "mid_block.resnets.0",
              "mid_attn": "mid_block.attentions.0", "mid.1": "mid_block.resnets.1", "norm_out": "conv_norm_out",
              "conv_out": "conv_out"}  # fmt: skip
    for way, between in (("down", "downsamplers"), ("up", "upsamplers")):
        level = i = 0
        for k, layer in enumerate(getattr(model, way)):
            if isinstance(layer, ResBlock):
                layers[f"{way}.{k}"] = f"{way}_blocks.{level}.resnets.{i}"
                layers[f"{way}.{k}.attn"] = f"{way}_blocks.{level}.attentions.{i}"
                i += 1
            else:
                layers[f"{way}.{k}.conv"] = f"{way}_blocks.{level}.{between}.0.conv"
                level, i = level + 1, 0
    return published_names(model, layers, INNER)


def turned(temb) -> np.ndarray:
    """The first weight of a TimestepMLP for an embedding of t − 1: see `save_diffusers`. Its own, where that is embedded."""
    w, half = temb.dense1.w.data, temb.dim // 2
    if temb.offset == -1:
        return w
    angle = (temb.offset + 1) * embedding_frequencies(temb.dim, temb.freq_shift)[:, None]
    sin, cos = (slice(half, 2 * half), slice(half)) if temb.cos_first else (slice(half), slice(half, 2 * half))
    new = w.astype(np.float64)
    new[sin] = np.cos(angle) * w[sin] - np.sin(angle) * w[cos]
    new[cos] = np.sin(angle) * w[sin] + np.cos(angle) * w[cos]
    return new.astype(w.dtype)


def unet_config(model: UNet) -> dict:
    """The configuration of diffusers' UNet2DModel that is a U-Net of ours. Raises ValueError naming what it cannot be."""

    def need(ok, what):
        require(ok, f"save_diffusers: diffusers' UNet2DModel has no {what}")

    down, up = by_level(model.down), by_level(model.up)
    channels = [level[-1].conv2.b.size for level in down]
    need(model.dims == 2, "signals (dims 1)")
    need(model.cond_channels == 0, f"images as conditions (cond_channels {model.cond_channels})")
    need(model.temb.log_omega is None, "learned frequencies of the timestep")
    need(model.patch_size == 1, f"patches (patch_size {model.patch_size}); train with --patch-size 1")
    need(model.conv_in.b.size == channels[0], "first level wider than its first convolution (ch_mult[0] other than 1)")
    need(model.temb.scale == 1, f"scaled timesteps (scale {model.temb.scale})")
    attention = [layer.attn for layer in model.down + model.up if getattr(layer, "attn", None)] + [model.mid_attn]
    head_dims = {None if attn.heads == 1 else attn.q.b.size // attn.heads for attn in attention}
    need(len(head_dims) == 1, "attention whose heads differ in size from level to level")
    paddings = {layer.conv.padding for layer in model.down if isinstance(layer, Downsample)} or {1}
    need(paddings <= {"same", 1}, f"down_padding {paddings}")
    scale_shift, norm = model.mid[0].scale_shift, model.mid_attn.norm
    groups = model.norm_out.groups
    need(norm or scale_shift, "attention without a norm, but with scale_shift")
    return dict(
        _class_name="UNet2DModel", sample_size=model.image_size, in_channels=model.in_channels,
        out_channels=model.conv_out.b.size, block_out_channels=channels, layers_per_block=len(down[0]),
        down_block_types=["AttnDownBlock2D" if level[0].attn else "DownBlock2D" for level in down],
        up_block_types=["AttnUpBlock2D" if level[0].attn else "UpBlock2D" for level in up],
        norm_num_groups=groups, norm_eps=model.norm_out.eps, attention_head_dim=head_dims.pop(), dropout=model.dropout,
        attn_norm_num_groups=norm.groups if norm and (scale_shift or norm.groups != groups) else None,
        num_class_embeds=model.num_classes and model.num_classes + 1, freq_shift=model.temb.freq_shift,
        flip_sin_to_cos=model.temb.cos_first, downsample_padding=0 if paddings == {"same"} else 1,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default", act_fn="silu",
    )  # fmt: skip


def by_level(way: list) -> list[list[ResBlock]]:
    """The blocks of one way of a U-Net, level by level."""
    levels = [[]]
    for layer in way:
        if isinstance(layer, ResBlock):
            levels[-1].append(layer)
        else:
            levels.append([])
    return levels


def scheduler_config(diffusion: GaussianDiffusion) -> dict:
    """The configuration of the DDPMScheduler that is a diffusion of ours. ValueError for a process of another kind."""
    require(isinstance(diffusion, GaussianDiffusion), "save_diffusers: needs a GaussianDiffusion",
            diffusion=type(diffusion).__name__)  # fmt: skip
    theirs = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    variance = "learned_range" if diffusion.variance == "learned" else diffusion.variance
    return dict(_class_name="DDPMScheduler", num_train_timesteps=diffusion.schedule.T,
                trained_betas=diffusion.schedule.betas.tolist(), prediction_type=theirs[diffusion.predict],
                variance_type=variance, clip_sample=diffusion.images)  # fmt: skip
