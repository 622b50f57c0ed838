"""Weights of openai/improved-diffusion (Nichol & Dhariwal 2021): the same network, under other names.

Its checkpoints are pickles without settings, so convert one with PyTorch where you trust it (`tensors.py` says how), and
name the settings, which are the flags of its scripts. The names, where k counts the layers of one way:

    temb.dense1, dense2         time_embed.0, .2                norm1, conv1        in_layers.0, .2
    class_emb                   label_emb                       temb_proj           emb_layers.1
    conv_in                     input_blocks.0.0                norm2, conv2        out_layers.0, .3
    down.k, its attn            input_blocks.k+1.0, .1          shortcut            skip_connection
    mid.0, mid_attn, mid.1      middle_block.0, .1, .2          q, k, v             qkv, joined head by head
    up.k, its attn              output_blocks.k.0, .1           proj                proj_out
    norm_out, conv_out          out.0, .2
"""

import numpy as np

from scratchdiff.checkpoint import Allotment
from scratchdiff.checks import require
from scratchdiff.nn import ResBlock, UNet
from scratchdiff.weights.names import check_shapes, load_published, published_names
from scratchdiff.weights.tensors import read_header, read_tensors

INNER = {"norm1": "in_layers.0", "conv1": "in_layers.2", "temb_proj": "emb_layers.1", "norm2": "out_layers.0",
         "conv2": "out_layers.3", "shortcut": "skip_connection", "proj": "proj_out"}  # fmt: skip


def load_openai(path, *, T=1000, dtype=np.float32, **settings) -> UNet:
    """The U-Net of a .safetensors file with the weights of an improved-diffusion checkpoint.

        load_openai("cifar10.safetensors", T=4000, image_size=32, in_channels=3, out_channels=6, ch=128,
                    ch_mult=(1, 2, 2, 2), num_res_blocks=3, attn_resolutions=(16, 8), heads=4, scale_shift=True)

    settings: of `UNet`, where heads is their num_heads, scale_shift their use_scale_shift_norm, and out_channels twice
    in_channels for learn_sigma. T: their diffusion_steps; they embed 1000 (t − 1)/T (rescale_timesteps).
    A model of n classes gets num_classes = n − 1, since our last row stands for any class; labels 0..n−1 are as theirs.
    Raises ValueError naming what does not fit; FileNotFoundError; ImportError without the package `safetensors`."""
    require(T >= 1, "load_openai: T must be at least 1", T=T)
    shapes = read_header(path)
    published = dict(norm_eps=1e-5, down_padding=1,
                     time=dict(offset=-1, scale=1000 / T, freq_shift=0, cos_first=True))  # fmt: skip
    numbers = sum(int(np.prod(shape, dtype=object)) for shape in shapes.values())
    model = UNet(**published | settings, dtype=dtype, rng=Allotment(numbers))
    names, heads = openai_names(model), model.mid_attn.heads
    check_shapes(path, model, names, split_shapes(shapes))
    load_published(model, names, split_heads(read_tensors(path), heads))
    return model


def split_shapes(shapes: dict[str, tuple]) -> dict[str, tuple]:
    """The shapes that `split_heads` will make of these."""
    found = {}
    for name, shape in shapes.items():
        joined = ".qkv." in name and shape and shape[0] % 3 == 0
        found |= {name.replace("qkv", part): (shape[0] // 3, *shape[1:]) for part in "qkv"} if joined else {name: shape}
    return found


def split_heads(tensors: dict[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """The tensors, with each qkv of shape (3C, ...), that is query, key and value of head after head, as three (C, ...)."""
    found = {}
    for name, a in tensors.items():
        if ".qkv." in name:
            parts = a.reshape(heads, 3, -1, *a.shape[1:]).swapaxes(0, 1).reshape(3, -1, *a.shape[1:])
            found |= {name.replace("qkv", part): each for part, each in zip("qkv", parts)}
        else:
            found[name] = a
    return found


def openai_names(model: UNet) -> dict[str, str]:
    """{our name: improved-diffusion's name} of every parameter of a U-Net, with q, k and v apart."""
    layers = {"temb.dense1": "time_embed.0", "temb.dense2": "time_embed.2", "class_emb": "label_emb.weight",
              "conv_in": "input_blocks.0.0", "mid.0": "middle_block.0", "mid_attn": "middle_block.1",
              "mid.1": "middle_block.2", "norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
    for k in range(len(model.down)):
        block = f"input_blocks.{k + 1}"
        layers |= {f"down.{k}": f"{block}.0", f"down.{k}.attn": f"{block}.1", f"down.{k}.conv": f"{block}.0.op"}
    i = -1
    for k, layer in enumerate(model.up):
        if isinstance(layer, ResBlock):
            i += 1
            layers |= {f"up.{k}": f"output_blocks.{i}.0", f"up.{k}.attn": f"output_blocks.{i}.1"}
        else:  # the last layer of the block before it
            layers[f"up.{k}.conv"] = f"output_blocks.{i}.{1 if model.up[k - 1].attn is None else 2}.conv"
    return published_names(model, layers, INNER)
