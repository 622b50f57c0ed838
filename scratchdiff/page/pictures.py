"""Arrays as the page shows them: a few figures, a histogram, and a picture of 63 shades in which 0 is white.

Shades and bars are written as one character each, chr(72 + level), because text packs well and is quick to unpack. The level
of a picture is −31 … 31, in proportion to the largest absolute value; −32 stands for an infinity or NaN. The level of a
histogram's bar is 0 … 31.
"""

import math

import numpy as np

SHADES, BARS, FIRST = 31, 40, 72
MOST = 12_800  # pixels of a picture: sixteen channels of 28 × 28


def summary(a: np.ndarray, pixels: int = MOST, weight=False) -> dict:
    """Shape, dtype, bytes, range, mean square, norm, histogram and picture of an array, as JSON values."""
    finite = a[np.isfinite(a)].astype(np.float64)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    found = dict(shape=list(a.shape), dtype=str(a.dtype), bytes=a.nbytes, low=low, high=high, bad=a.size - finite.size)
    with np.errstate(over="ignore", under="ignore"):
        squares = float(np.square(finite).sum())
    known = math.isfinite(squares)  # the square of 1e200 is not
    found |= dict(ms=squares / max(a.size, 1) if known else None, norm=math.sqrt(squares) if known else None)
    if a.size > 1:
        found["hist"] = histogram(finite, low, high)
        found["pic"] = picture(a, pixels, weight)
    return found


def histogram(finite: np.ndarray, low: float, high: float) -> str:
    """The counts of BARS equal intervals from low to high, in proportion to the largest."""
    if not low < high:
        return ""
    places = ((finite - low) / (high - low) * BARS).astype(int).clip(0, BARS - 1) if math.isfinite(high - low) else [0]
    counts = np.bincount(places, minlength=BARS)
    return encoded(np.ceil(counts * (SHADES / counts.max())))


def picture(a: np.ndarray, pixels: int, weight=False) -> dict:
    """{lines, across, rows, width, scale, what, px}: as much of an array as fits into so many pixels, as a grid of tiles.

    lines, across: of the grid, where lines = 1 leaves the layout open; rows, width: of a tile. What is left out is said."""
    grid, what = tiled(a, weight)
    step = math.ceil(math.sqrt(math.prod(grid.shape[2:]) / pixels))
    if step > 1:  # one tile is too large: thin it out
        grid, what = grid[..., ::step, ::step], f"{what}, 1 in {step} rows and columns"
    (all_lines, all_across, rows, width), most = grid.shape, max(1, pixels // math.prod(grid.shape[2:]))
    lines = min(all_lines, max(math.isqrt(most), most // all_across))
    across = min(all_across, most // lines)
    if lines < all_lines:
        what = f"{what}, {lines} × {across} of {all_lines} × {all_across}"
    elif across < all_across:
        what = f"{what}, {across} of {all_across}"
    grid = grid[:lines, :across]
    scale = float(np.abs(grid[np.isfinite(grid)]).max(initial=0))
    return dict(lines=lines, across=across, rows=rows, width=width, scale=scale, what=what, px=shades(grid, scale))


def tiled(a: np.ndarray, weight=False) -> tuple[np.ndarray, str]:
    """(grid (lines, across, rows, width), what its tiles are).

    Images (N, H, H, C) with up to three channels: the batch; with more: the channels of the first image. A convolution's
    weight: its kernels, a line for each input channel. Others: the matrices of the last two axes; a vector is one line."""
    if a.ndim == 4 and weight:
        return a.transpose(2, 3, 0, 1), "kernels, inputs × outputs"
    if a.ndim == 4 and a.shape[1] == a.shape[2]:
        if a.shape[3] <= 3:
            return a.transpose(0, 3, 1, 2).reshape(1, -1, *a.shape[1:3]), "images of the batch"
        return a[:1].transpose(0, 3, 1, 2), "channels of the first image"
    if a.ndim == 1:
        return a.reshape(1, -1, 1, 1), "entries"
    return a.reshape(1, -1, *a.shape[-2:]), "rows × columns" if a.ndim == 2 else "matrices of the last two axes"


def shades(a: np.ndarray, scale: float) -> str:
    """The entries of an array as characters, in proportion to `scale`."""
    with np.errstate(invalid="ignore"):
        levels = np.rint(np.clip(a / (scale or 1.0), -1, 1) * SHADES)
    return encoded(np.where(np.isfinite(a), levels, -SHADES - 1))


def encoded(levels: np.ndarray) -> str:
    """Levels from −32 to 31 as characters."""
    return (levels.astype(np.int64) + FIRST).astype(np.uint8).tobytes().decode("ascii")
