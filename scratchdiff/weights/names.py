"""Our parameters under the names, and in the layouts, that others publish theirs.

PyTorch stores a weight of a linear layer as (out, in) and that of a convolution as (out, in, kh, kw); ours are (in, out) and
(kh, kw, in, out). Vectors, and the rows of an embedding, are the same. A 1 × 1 convolution of ours may be a linear layer, or
a convolution along one axis, of theirs.
"""

import numpy as np

from scratchdiff.nn.module import Module, summary

LEAVES = {"w": "weight", "b": "bias", "scale": "weight", "shift": "bias"}


def published_names(model: Module, layers: dict[str, str], inner: dict[str, str]) -> dict[str, str]:
    """{our name: the published name} of every parameter of a model.

    layers: {our layer or block: its published name}; inner: the same for the layers inside a block, where they differ."""

    def published(name):
        path, _, leaf = name.rpartition(".")
        if path not in layers:
            block, _, layer = path.rpartition(".")
            return f"{layers[block]}.{inner.get(layer, layer)}.{LEAVES[leaf]}"
        return f"{layers[path]}.{LEAVES[leaf]}"

    return {name: layers[name] if name in layers else published(name) for name in model.parameters()}


def published_layout(name: str, a: np.ndarray) -> np.ndarray:
    """Our parameter `name` as PyTorch holds it: (..., in, out) → (out, in, ...)."""
    return a if a.ndim < 2 or name == "class_emb" else np.moveaxis(a, (-1, -2), (0, 1))


def our_layout(name: str, a: np.ndarray) -> np.ndarray:
    """The inverse of `published_layout`: (out, in, ...) → (..., in, out)."""
    return a if a.ndim < 2 or name == "class_emb" else np.moveaxis(a, (0, 1), (-1, -2))


def bare(shape) -> tuple:
    """PyTorch's shape of a weight without the taps of a 1 × 1 convolution, which is a linear layer."""
    return tuple(shape) if set(shape[2:]) - {1} else tuple(shape[:2])


def check_shapes(path, model: Module, names: dict[str, str], shapes: dict[str, tuple]) -> None:
    """Raise the ValueError that names what a file, with tensors of these shapes, lacks, has too much or has otherwise."""
    complaints = [f"missing {published}" for published in names.values() if published not in shapes]
    complaints += [f"unexpected {published[:80]}" for published in shapes.keys() - set(names.values())]
    for name, p in model.parameters().items():
        found, wanted = shapes.get(names[name]), published_layout(name, p.data).shape
        if found is not None and bare(found) != bare(wanted):
            complaints.append(f"{names[name]} has shape {found}, not {wanted}")
    if complaints:
        raise ValueError(f"{path}: its weights are not those of the network described: {summary(complaints)}")


def load_published(model: Module, names: dict[str, str], tensors: dict[str, np.ndarray]) -> None:
    """Set a model's parameters from {published name: array}. Raises ValueError as `Module.load`."""
    model.load({name: our_layout(name, tensors[names[name]]).reshape(p.shape) for name, p in model.parameters().items()})
