"""A module is an object whose attributes are its parameters, so they can be named, counted, saved and trained."""

import numpy as np

from scratchdiff.autograd import Tensor


class Module:
    """Base of every layer and network. Subclasses set Tensors, Modules and lists of Modules as attributes."""

    def parameters(self) -> dict[str, Tensor]:
        """{dotted name: Tensor}, in the order in which the attributes were set: {"down.0.conv1.w": ...}."""
        found = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                found[name] = value
            children = {name: value} if isinstance(value, Module) else {}
            if isinstance(value, (list, tuple)):
                children = {f"{name}.{i}": child for i, child in enumerate(value) if isinstance(child, Module)}
            for prefix, child in children.items():
                found |= {f"{prefix}.{inner}": tensor for inner, tensor in child.parameters().items()}
        return found

    def __repr__(self):
        counts = {}
        for name, p in self.parameters().items():
            counts[name.split(".")[0]] = counts.get(name.split(".")[0], 0) + p.size
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        return f"{type(self).__name__}({self.num_parameters():,} parameters: {parts})"

    def num_parameters(self) -> int:
        """The number of learned numbers."""
        return sum(p.size for p in self.parameters().values())

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Set every parameter from {dotted name: array}, cast to the parameter's dtype.

        Raises ValueError naming what is missing, unexpected, of another shape or not finite; then nothing is changed.
        """
        parameters = self.parameters()
        if complaints := misfits(parameters, arrays):
            raise ValueError(f"{type(self).__name__}.load: {summary(complaints)}")
        for name, p in parameters.items():
            p.data = np.array(arrays[name], p.dtype, order="C")


def misfits(parameters: dict[str, Tensor], arrays: dict[str, np.ndarray]) -> list[str]:
    """Why the arrays cannot be values of the parameters: missing, unexpected, of another shape, not finite."""
    complaints = [f"missing {name}" for name in parameters if name not in arrays]
    complaints += [f"unexpected {name}" for name in arrays if name not in parameters]
    for name in parameters.keys() & arrays.keys():
        if np.shape(arrays[name]) != parameters[name].shape:
            complaints.append(f"{name} has shape {np.shape(arrays[name])}, not {parameters[name].shape}")
        elif not np.isfinite(arrays[name]).all():
            complaints.append(f"{name} is not finite")
    return complaints


def summary(complaints: list[str]) -> str:
    """The first five in one line, and how many more there are."""
    more = f" and {len(complaints) - 5} more" if len(complaints) > 5 else ""
    return "; ".join(sorted(complaints)[:5]) + more
