"""Pictures of what happens: each function takes arrays and a path, writes one file and returns the figure that it holds.

With None for the path nothing is written: a notebook shows what is returned.

Images are (N, H, W, C) in [−1, 1] with C = 1 (grey) or 3 (colour), values outside are clipped; points are (n, 2).
"""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from scratchdiff.diffusion.bound import strata

INK, PALE, WARM = "#1f4e79", "#b8c9db", "#c0504d"


def grid(images, columns=None, gap=2) -> np.ndarray:
    """The images side by side as one uint8 picture (H, W) or (H, W, 3), row after row, about square by default.

    Raises ValueError unless images is (N, H, W, 1 or 3) with N ≥ 1 and holds no NaN, and for negative columns or gap."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape or np.isnan(images).any():
        raise ValueError(f"grid: needs images of shape (N, H, W, 1 or 3), N >= 1, without NaN, got {images.shape}")
    if (columns or 1) < 1 or gap < 0:
        raise ValueError(f"grid: columns must be positive and gap not negative, got {columns} and {gap}")
    N, H, W, C = images.shape
    columns = columns or int(np.ceil(np.sqrt(N)))
    rows = -(-N // columns)
    canvas = np.full((rows * (H + gap) + gap, columns * (W + gap) + gap, C), 128, np.uint8)
    for n, image in enumerate(to_bytes(images)):
        r, c = divmod(n, columns)
        top, left = gap + r * (H + gap), gap + c * (W + gap)
        canvas[top : top + H, left : left + W] = image
    return canvas[..., 0] if C == 1 else canvas


def to_bytes(images) -> np.ndarray:
    """[−1, 1] → 0..255 as uint8, rounded. Raises ValueError for NaN, which is no shade of grey."""
    if np.isnan(images).any():
        raise ValueError(f"to_bytes: images of shape {np.shape(images)} hold NaN")
    return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def enlarged(picture: np.ndarray, scale: int) -> Image.Image:
    """A Pillow image with each pixel drawn as scale × scale equal ones. ValueError for scale < 1 or what is no picture."""
    if scale < 1 or np.asarray(picture).dtype != np.uint8:
        raise ValueError(f"enlarged: needs a uint8 picture and scale >= 1, got {np.asarray(picture).dtype} and {scale}")
    image = Image.fromarray(picture)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


class Picture(Figure):
    """matplotlib's Figure, which a notebook also shows where nobody imports pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=90)
        return file.getvalue()


def finished(figure: Picture, path, dpi=130) -> Picture:
    """The figure, written to path unless that is None."""
    if path is not None:
        figure.savefig(prepare(path), dpi=dpi)
    return figure


def png_of_schedule(schedule) -> bytes:
    """A schedule's ᾱ_t and log-SNR, log ᾱ_t/(1−ᾱ_t), over t: a PNG, as a notebook shows it. The SNR is 0 where ᾱ_T is."""
    fig = Picture(figsize=(8, 2.8), layout="constrained")
    t, alpha_bar = np.arange(1, schedule.T + 1), schedule.alpha_bar[1:]
    share, log_snr = fig.subplots(1, 2)
    share.plot(t, alpha_bar, color=INK)
    share.set(xlabel="t", ylabel="$\\bar\\alpha_t$, the data's share in $x_t$", ylim=(-0.02, 1.02))
    log_snr.plot(t[alpha_bar > 0], -2 * schedule.log_sigma()[alpha_bar > 0], color=INK)
    log_snr.set(xlabel="t", ylabel="log SNR")
    for ax in (share, log_snr):
        ax.grid(alpha=0.3)
    return fig._repr_png_()


def png_of_bound(bound) -> bytes:
    """A bound's terms by t, as a notebook shows it."""
    return save_bound(None, {f"{bound.bits_per_dim:.3f} bits/dim": bound}, "")._repr_png_()


def prepare(path) -> Path:
    """The path, with its folder made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_images(path, images, columns=None, scale=2) -> Image.Image:
    """Write a grid of images as PNG. Raises ValueError as `grid`."""
    image = enlarged(grid(images, columns), scale)
    if path is not None:
        image.save(prepare(path))
    return image


def save_gif(path, frames: Iterable[np.ndarray], milliseconds=60, hold=2000, scale=1) -> None:
    """Write pictures (uint8 arrays of one shape) as an endless GIF; the last is held for `hold` milliseconds.

    Raises ValueError if there is no frame."""
    pictures = [enlarged(frame, scale) for frame in frames]
    if not pictures:
        raise ValueError("save_gif: no frames")
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    pictures[0].save(prepare(path), save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def save_strip(path, moments: list[np.ndarray], titles: list[str], title="") -> Picture:
    """Write a strip: column k shows the images moments[k] (n, H, W, C) under titles[k]; a row follows one image in time.

    Raises ValueError if there are no moments or not a title for each."""
    if not moments or len(moments) != len(titles):
        raise ValueError(f"save_strip: {len(moments)} moments and {len(titles)} titles")
    fig = Picture(figsize=(1.05 * len(moments), 0.5 + 1.05 * len(moments[0])), layout="constrained")
    for k, (images, label) in enumerate(zip(moments, titles)):
        ax = fig.add_subplot(1, len(moments), k + 1)
        ax.imshow(grid(images, columns=1), cmap="gray", vmin=0, vmax=255)
        ax.set_title(label, fontsize=9)
        ax.set_axis_off()
    fig.suptitle(title, fontsize=11)
    return finished(fig, path)


def save_loss(path, losses, title="Training loss") -> Picture:
    """Write the loss of each step, pale, and its running mean over a fiftieth of the run, on a logarithmic axis.

    Raises ValueError if there is no loss."""
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 1 or len(losses) == 0:
        raise ValueError(f"save_loss: needs a vector of losses, got shape {losses.shape}")
    steps = np.arange(1, len(losses) + 1)
    width = max(1, len(losses) // 50)
    means = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    fig = Picture(figsize=(7, 4), layout="constrained")
    ax = fig.add_subplot()
    ax.plot(steps, losses, color=PALE, linewidth=0.7, label="each step")
    ax.plot(steps[width - 1 :], means, color=INK, linewidth=1.6, label=f"mean of {width} steps")
    ax.set(yscale="log", xlabel="step", ylabel="loss (mean squared error)", title=title)
    ax.grid(alpha=0.3, which="both")
    ax.legend()
    return finished(fig, path)


def save_bound(path, bounds: dict, title="Where the bits go", truth=None) -> Picture:
    """Write the terms of variational bounds {label: Bound} over t, on a logarithmic axis.

    Left, t · L_{t−1} for t ≥ 2, means over strata: the area under it is bits. Right, L_0 + ... + L_{t−1}, which starts
    at L_0 and ends at the total but for L_T. truth: −log p in bits/dim where it is known, a dashed line.
    Raises ValueError if there is no bound."""
    if not bounds:
        raise ValueError("save_bound: no bounds")
    fig = Picture(figsize=(10, 4), layout="constrained")
    left, right = fig.subplots(1, 2)
    for label, bound in bounds.items():
        bits = bound.nats[:-1] / (bound.dims * np.log(2))  # L_{t−1} at index t − 1
        ends = strata(len(bits), min(len(bits), 30))
        size = np.diff(ends)
        scaled = np.add.reduceat(bits * np.arange(1, len(bits) + 1), ends[:-1]) / size
        middle = np.sqrt((ends[:-1] + 1) * ends[1:])
        left.plot(middle[1:], scaled[1:], marker="o", markersize=3, linewidth=1.4, label=label)
        right.plot(np.arange(1, len(bits) + 1), np.cumsum(bits), linewidth=1.6, label=label)
    if truth is not None:
        right.axhline(truth, color="black", linestyle="--", linewidth=1, label="−log p(x), the truth")
    left.set(
        xscale="log", xlabel="t", ylabel="$t \\cdot L_{t-1}$, bits/dim", title="What the step back from t costs, times t"
    )
    left.set_ylim(bottom=0)
    right.set(xscale="log", xlabel="t", ylabel="$L_0 + \\cdots + L_{t-1}$, bits/dim", title="The sum up to t")
    for ax in (left, right):
        ax.grid(alpha=0.3, which="both")
    right.legend(fontsize=9)
    fig.suptitle(title, fontsize=12)
    return finished(fig, path)


def axes_of_plane(ax, limit: float, title: str) -> None:
    """A square of the plane, −limit..limit, without ticks."""
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)


def save_clouds(path, clouds: list[np.ndarray], titles: list[str], title="", limit=3.0) -> Picture:
    """Write scatter plots of points (n, 2) side by side, one under each title. Raises ValueError as `save_strip`."""
    if not clouds or len(clouds) != len(titles) or any(np.shape(points)[1:] != (2,) for points in clouds):
        raise ValueError(f"save_clouds: {len(titles)} titles for clouds of shapes {[np.shape(points) for points in clouds]}")
    fig = Picture(figsize=(2.2 * len(clouds), 2.7), layout="constrained")
    for k, (points, label) in enumerate(zip(clouds, titles)):
        ax = fig.add_subplot(1, len(clouds), k + 1)
        ax.scatter(*points.T, s=1.5, color=INK, linewidths=0)
        axes_of_plane(ax, limit, label)
    fig.suptitle(title, fontsize=12)
    return finished(fig, path)


def cloud_frame(points, title: str, limit=3.0) -> np.ndarray:
    """One scatter plot of points (n, 2) as a uint8 picture (H, W, 3): a frame of a GIF. ValueError for other shapes."""
    if np.shape(points)[1:] != (2,):
        raise ValueError(f"cloud_frame: needs points of shape (n, 2), got {np.shape(points)}")
    fig = Picture(figsize=(3.6, 3.8), dpi=100, layout="constrained")
    ax = fig.add_subplot()
    ax.scatter(*points.T, s=2, color=INK, linewidths=0)
    axes_of_plane(ax, limit, title)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_field(path, field: Callable, clouds: list[np.ndarray], times: list[int], title="", limit=3.0) -> Picture:
    """Write, for each time t, the points clouds[k] under arrows of field(x (n, 2), t) → (n, 2) on a grid over the plane.

    An arrow's direction is the field's; its length is s/(s + median s) of a cell where the field has strength s.
    Raises ValueError for no clouds, not a time for each, or points that are not (n, 2).
    """
    if not clouds or len(clouds) != len(times) or any(np.shape(points)[1:] != (2,) for points in clouds):
        raise ValueError(f"save_field: {len(times)} times for clouds of shapes {[np.shape(points) for points in clouds]}")
    axis = np.linspace(-limit, limit, 21)
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    fig = Picture(figsize=(3.6 * len(times), 4.1), layout="constrained")
    for k, (points, t) in enumerate(zip(clouds, times)):
        arrows = np.asarray(field(x, t))
        strength = np.linalg.norm(arrows, axis=1, keepdims=True)
        arrows = arrows / (strength + np.median(strength)) * (axis[1] - axis[0])
        ax = fig.add_subplot(1, len(times), k + 1)
        ax.scatter(*points.T, s=2.5, color=INK, alpha=0.5, linewidths=0)
        ax.quiver(*x.T, *arrows.T, angles="xy", scale_units="xy", scale=1, color=WARM, width=0.004)
        axes_of_plane(ax, limit, f"t = {t}")
    fig.suptitle(title, fontsize=12)
    return finished(fig, path)


def save_curves(path, panels: list[dict], title="") -> Picture:
    """Write panels of curves side by side, both axes logarithmic.

    A panel: curves, {label: (x, y)}; references, {label: (x, y)}, what the curves are compared with, drawn black and
    dashed; xlabel, ylabel, title; and if wanted xscale, yscale or ylim. Raises ValueError if there is no panel."""
    if not panels:
        raise ValueError("save_curves: no panels")
    fig = Picture(figsize=(6.2 * len(panels), 4.4), layout="constrained")
    for k, panel in enumerate(panels):
        ax = fig.add_subplot(1, len(panels), k + 1)
        for label, (x, y) in panel["curves"].items():
            ax.plot(x, y, label=label, marker="o", markersize=3.5)
        for label, (x, y) in panel.get("references", {}).items():
            ax.plot(x, y, label=label, color="black", linestyle="--", linewidth=1.2)
        ax.set(xscale="log", yscale="log")
        ax.set(**{key: value for key, value in panel.items() if key not in ("curves", "references")})
        ax.grid(alpha=0.3, which="both")
        ax.legend(fontsize=8)
    fig.suptitle(title, fontsize=12)
    return finished(fig, path)
