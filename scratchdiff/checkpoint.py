"""A run on disk: one .npz of plain arrays, nothing pickled, that holds all that is needed to go on or to sample.

model/NAME, ema/NAME, adam_m/NAME, adam_v/NAME     one array for each parameter
meta                                               JSON: format, settings, step, counters, the generator's state
"""

import json
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

FORMAT = 1


def save_checkpoint(path, model, ema, optimizer, rng: np.random.Generator, step: int, settings: dict) -> None:
    """Write everything a run is made of to `path`: to a temporary file beside it first, then renamed, so that `path` is
    always a whole checkpoint. settings: JSON values that say how model and diffusion were built.

    Raises OSError if the folder cannot be written."""
    meta = dict(format=FORMAT, settings=settings, step=step, adam_k=optimizer.k, ema_k=ema.k, rng=rng.bit_generator.state)
    groups = dict(model={name: p.data for name, p in model.parameters().items()}, ema=ema.average,
                  adam_m=optimizer.m, adam_v=optimizer.v)  # fmt: skip
    arrays = {f"{group}/{name}": a for group, named in groups.items() for name, a in named.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
    """(meta, {group: {name: array}}) of a checkpoint. Raises ValueError naming the file if it is not a whole checkpoint of
    this format, FileNotFoundError if it is not there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            if meta["format"] != FORMAT:
                raise ValueError(f"format {meta['format']}, where this version reads {FORMAT}")
            groups = {group: {} for group in ("model", "ema", "adam_m", "adam_v")}
            for key in file.files:
                if key != "meta":
                    group, _, name = key.partition("/")
                    groups[group][name] = file[key]
    except FileNotFoundError:
        raise
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a scratchdiff checkpoint: {error}") from None
    return meta, groups


def restore(meta, groups, model, ema, optimizer, rng: np.random.Generator) -> int:
    """Put a loaded checkpoint into the objects of a run and return its step.

    Raises ValueError, before anything is changed, if the names or shapes are not those of the model."""
    parameters = model.parameters()
    for group, named in groups.items():
        wrong = [name for name in parameters.keys() | named.keys()
                 if name not in named or name not in parameters or named[name].shape != parameters[name].shape]  # fmt: skip
        if wrong:
            raise ValueError(f"restore: {group} does not fit the model at {', '.join(sorted(wrong)[:5])}")
    model.load(groups["model"])
    for name, p in parameters.items():
        ema.average[name] = groups["ema"][name].astype(p.dtype)
        optimizer.m[name] = groups["adam_m"][name].astype(p.dtype)
        optimizer.v[name] = groups["adam_v"][name].astype(p.dtype)
    optimizer.k, ema.k = meta["adam_k"], meta["ema_k"]
    rng.bit_generator.state = meta["rng"]
    return meta["step"]
