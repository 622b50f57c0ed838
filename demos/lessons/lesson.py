"""What the lessons share: where their pictures and figures go."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

INK, WARM, GREEN, PALE = "#1f4e79", "#c0504d", "#4f8a4c", "#b8c9db"


def shade(value, limit):
    """A colour for a number within ±limit: white for 0, red for positive, blue for negative, never too dark for text."""
    return plt.get_cmap("RdBu_r")(0.5 + 0.35 * np.asarray(value) / limit)


def save(figure, out, name: str) -> None:
    """Write a Matplotlib figure to {out}/{name}.png, and close it; a notebook shows it as well."""
    path = Path(out) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256).save(path, optimize=True)  # a palette: a third of the bytes
    if "inline" in plt.get_backend():
        plt.show()
    plt.close(figure)


def record(out, name: str, figures: dict) -> dict:
    """Print a lesson's headline figures and put them into {out}/figures.json under its name; return them."""
    path = Path(out) / "figures.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    figures = {key: float(f"{value:.4g}") for key, value in figures.items()}
    path.write_text(json.dumps(known | {name: figures}, indent=1, ensure_ascii=False) + "\n")
    for key, value in figures.items():
        print(f"{key:<60}{value:g}")
    return figures
