"""The tape page: a trace as one HTML file, to walk through in a browser. It needs no network and no server.

page.html, page.css and page.js are the page; this file fills them with a trace. `sources.py` finds the source of each op and
the lines of its gradients, `pictures.py` makes the figures, histograms and pictures of arrays.
"""

import base64
import gzip
import html
import itertools
import json
import linecache
import math
import re
from importlib.resources import files
from pathlib import Path

import numpy as np

from scratchdiff.checks import require
from scratchdiff.page.pictures import MOST, shades, summary
from scratchdiff.page.sources import derivation, describe, functions_of
from scratchdiff.trace import STEP_SIZES, Asked, Check, Entry, Trace, Value

ALL_PIXELS = 4_500_000  # of all pictures of a page: about as many bytes
PARTED = 1e-5  # a relative difference that rounding in float32 stays below
EXAMPLES, POINTS = 8, 256  # of the batch, in the panel at the top


def save_page(trace: Trace, path, other: Trace | None = None) -> None:
    """Write a trace to `path` as one HTML file, or two traces side by side.

    The page lists the ops in the order of the tape. For each it shows source and formula, every input, output and gradient,
    the times and the comparison with finite differences. other: a second trace of the same program, to see where they part.
    Raises ValueError for anything but a Trace that holds at least one op."""
    text = page(trace, other)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def page(trace: Trace, other: Trace | None = None) -> str:
    """The page of one trace or two as text. Raises ValueError as `save_page` does."""
    traces = [trace] if other is None else [trace, other]
    for each in traces:
        require(isinstance(each, Trace) and each.entries, "save_page: needs a Trace with at least one op", trace=each)
    described: dict = dict(traces=[], functions={}, derivations={}, steps=STEP_SIZES.tolist())
    pixels = pixels_of_a_picture(traces)
    for each in traces:
        described["traces"].append(describe_trace(each, pixels, described))
    described["parted"] = parted(*traces) if other else None
    parts = dict(title=html.escape(trace.title or "A tape"), list=rows(trace), data=packed(described),
                 style=own_file("page.css"), script=own_file("page.js"))  # fmt: skip
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], own_file("page.html"))


def inline(trace: Trace) -> str:
    """The page in a frame of its own, as a notebook shows it."""
    return f'<iframe srcdoc="{html.escape(page(trace))}" style="width: 100%; height: 50rem; border: 0"></iframe>'


Trace._repr_html_ = inline  # pyright: ignore[reportAttributeAccessIssue]


def own_file(name: str) -> str:
    """The text of a file that lies beside this one."""
    return files("scratchdiff.page").joinpath(name).read_text(encoding="utf-8")


def packed(data: dict) -> str:
    """JSON, compressed, in letters: nothing in it can be taken for HTML."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def rows(trace: Trace) -> str:
    """The list of ops, folded by blocks: an element with data-op and data-name for each."""
    slowest = max(sum(entry.seconds) for entry in trace.entries) or 1.0
    norms = [norm(entry.out.grad) for entry in trace.entries]
    parts = []
    for block, members in itertools.groupby(enumerate(trace.entries), lambda pair: block_of(pair[1].layer)):
        lines = []
        for number, entry in members:
            layer = entry.layer.removeprefix(block).lstrip(".")
            shape = "×".join(map(str, entry.out.data.shape)) or "scalar"
            spent, flow = sum(entry.seconds) / slowest, length_of(norms[number], norms)
            shown = "no gradient" if norms[number] is None else f"gradient norm {norms[number]:.3g}"
            title = f"{entry.layer}: {1e3 * sum(entry.seconds):.2f} ms, {shown}"
            lines.append(
                f'<li data-op="{number}" data-name="{html.escape(entry.name)}" title="{html.escape(title)}"><i>{number}</i>'
                f"<b>{html.escape(entry.name.strip('_'))}</b><span>{html.escape(layer)}</span><code>{shape}</code>"
                f'<s style="--time: {spent:.3f}; --flow: {flow:.3f}"></s></li>'
            )
        count = f"{len(lines)} op{'s' * (len(lines) > 1)}"
        parts.append(f"<details open><summary>{html.escape(block)} <small>{count}</small></summary><ol>"
                     f"{''.join(lines)}</ol></details>")  # fmt: skip
    return "\n".join(parts)


def block_of(layer: str) -> str:
    """The part of a network that a layer belongs to, down to the first number: "down.0" of "down.0.attn.q", else "temb"."""
    return layer if layer.endswith("()") else re.match(r"[^.]*(\.\d+)?", layer)[0]


def length_of(value: float | None, values: list) -> float:
    """The length of a bar from 0 to 1, by the logarithm: 1 for the largest of the values, 0.05 for the smallest above 0."""
    logs = [math.log(v) for v in values if v]
    if not value:
        return 0.0
    return 1 - 0.95 * (max(logs) - math.log(value)) / (max(logs) - min(logs) or 1)


def pixels_of_a_picture(traces: list[Trace]) -> int:
    """The most pixels that each picture may have, so that all of them together have at most ALL_PIXELS."""
    values = {id(value): value for trace in traces for entry in trace.entries for value in values_of(entry)}.values()
    # a Value is shown with its gradient, and where several ops use it with the part of each
    sizes = np.array([value.data.size for value in values for _ in range(2 + len(value.used_by) * (len(value.used_by) > 1))])
    most = MOST
    while np.minimum(sizes, most).sum() > ALL_PIXELS and most > 1:
        most = most * 9 // 10
    return most


def values_of(entry: Entry) -> list[Value]:
    """The Values that an op took, and the one it returned."""
    return [a for a in entry.arguments.values() if isinstance(a, Value)] + [entry.out]


def describe_trace(trace: Trace, pixels: int, shared: dict) -> dict:
    """A trace as JSON values. The sources, which the ops of a name have in common, go into `shared`."""
    numbers, values = {}, []
    for entry in trace.entries:
        for value in values_of(entry):
            if id(value) not in numbers:
                numbers[id(value)] = len(values)
                grad = None if value.grad is None else summary(value.grad, pixels, bool(value.name))
                values.append(dict(name=value.name, made=value.made_by, used=value.used_by, grad=grad,
                                   data=summary(value.data, pixels, bool(value.name))))  # fmt: skip
    ops = [describe_op(entry, numbers, pixels, shared) for entry in trace.entries]
    whole = sum(value["data"]["bytes"] for value in values)
    return dict(title=trace.title, loss=finite(trace.loss), ops=ops, values=values, bytes=whole, layers=layers(trace),
                asked=describe_asked(trace.asked))  # fmt: skip


def describe_op(entry: Entry, numbers: dict[int, int], pixels: int, shared: dict) -> dict:
    """An op as JSON values: what it took, what its backward returned, its source, times and check."""
    arguments = []
    for name, argument in entry.arguments.items():
        if not isinstance(argument, Value):
            arguments.append(dict(name=name, text=shortened(argument)))
            continue
        grad = entry.grads.get(name)
        own = grad is not None and len(argument.used_by) > 1  # else it is the gradient of the Value, kept there
        part = summary(np.asarray(grad), pixels, bool(argument.name)) if own else None
        arguments.append(dict(name=name, value=numbers[id(argument)], part=part))
    keys = []
    for f in functions_of(entry.op):
        keys.append(f"{f.__module__}.{f.__qualname__}:{f.__code__.co_firstlineno}")
        shared["functions"].setdefault(keys[-1], describe(f))
    shared["derivations"].setdefault(entry.op.__module__, derivation(entry.op))
    file, line = entry.place
    place = dict(file="/".join(Path(file).parts[-2:]), line=line, text=linecache.getline(file, line).strip())
    return dict(name=entry.name.strip("_"), layer=entry.layer, place=place, arguments=arguments, out=numbers[id(entry.out)],
                functions=keys, module=entry.op.__module__, about=entry.op.__doc__ or "", norm=norm(entry.out.grad),
                ms=[1e3 * s for s in entry.seconds], check=describe_check(entry.check))  # fmt: skip


def describe_check(check: Check | str | None) -> dict | None:
    """A check as JSON values; {refused: message} where the op refused float64."""
    if check is None or isinstance(check, str):
        return None if check is None else dict(refused=check)
    errors = {name: finite(error) for name, error in check.errors.items()}
    single, double = [finite(e) for e in check.single], [finite(e) for e in check.double]
    return check._asdict() | dict(errors=errors, slope=finite(check.slope), single=single, double=double)


def describe_asked(asked: Asked | None) -> dict | None:
    """What the network was asked and answered, for the first of the batch, as JSON values: images, or points in the plane.

    None without it, and for data of any other kind."""
    shape = () if asked is None else asked.x0.shape[1:]
    if shape == (2,):
        points = {name: np.round(np.nan_to_num(a[:POINTS]), 3).tolist() for name, a in asked._asdict().items()}
        return points | dict(points=True, of=len(asked.t))
    if len(shape) == 3 and shape[2] in (1, 3):
        eight = {name: a[:EXAMPLES] for name, a in asked._asdict().items()}
        images = {name: shades(a, 3.0 if "eps" in name else 1.0) for name, a in eight.items() if a.ndim == 4}
        numbers = {name: eight[name].tolist() for name in ("t", "noise_level")}
        return images | numbers | dict(points=False, of=len(asked.t), size=shape)
    return None


def layers(trace: Trace) -> list[dict]:
    """{name, norm, op} for each layer with parameters: the norm of all its gradients, and the op that uses them first."""
    found = {}
    for name, value in trace.parameters.items():
        layer = found.setdefault(name.rpartition(".")[0] or name, dict(squares=0.0, op=value.used_by[0]))
        layer["squares"] += (norm(value.grad) or 0.0) ** 2
    return [dict(name=name, norm=float(np.sqrt(layer["squares"])), op=layer["op"]) for name, layer in found.items()]


def parted(a: Trace, b: Trace) -> dict:
    """Where two traces part: for each op of both the relative differences of its output and of its gradient, and the first
    op whose difference is above PARTED, forwards and backwards; same: how many ops have the same name and shape."""
    same = 0
    for x, y in zip(a.entries, b.entries):
        if (x.name, x.out.data.shape) != (y.name, y.out.data.shape):
            break
        same += 1
    pairs = list(zip(a.entries[:same], b.entries[:same]))
    forward = [difference(x.out.data, y.out.data) for x, y in pairs]
    backward = [difference(x.out.grad, y.out.grad) for x, y in pairs]
    first = {}
    for way, differences, order in (("forward", forward, range(same)), ("backward", backward, reversed(range(same)))):
        first[way] = next((i for i in order if differences[i] is not None and differences[i] > PARTED), None)
    return dict(same=same, forward=forward, backward=backward, first=first, limit=PARTED, ops=len(b.entries))


def difference(a, b) -> float | None:
    """‖a − b‖/max(‖a‖, ‖b‖): 0 for equal arrays, at most 2; None where one is missing, 2 where it is not finite."""
    if a is None or b is None:
        return None
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    largest = max(np.linalg.norm(a), np.linalg.norm(b))
    found = finite(np.linalg.norm(a - b) / largest) if largest > 0 else 0.0
    return 2.0 if found is None else found


def norm(a) -> float | None:
    """‖a‖, or None where there is none or it is not finite."""
    return None if a is None else finite(np.linalg.norm(np.asarray(a, np.float64)))


def finite(x) -> float | None:
    """A number for JSON, which knows no infinity and no NaN: None in their place."""
    return float(x) if math.isfinite(x) else None


def shortened(setting, most=80) -> str:
    """A setting of an op in one line."""
    text = f"{type(setting).__name__} {setting.shape}" if hasattr(setting, "shape") else repr(setting)
    return text if len(text) <= most else text[: most - 1] + "…"
