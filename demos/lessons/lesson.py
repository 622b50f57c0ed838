"""What the lessons share: where their pictures and figures go."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

INK, WARM, GREEN, PALE = "#1f4e79", "#c0504d", "#4f8a4c", "#b8c9db"


def save(figure, out, name: str) -> None:
    """Write a Matplotlib figure to {out}/{name}.png, and close it."""
    Path(out).mkdir(parents=True, exist_ok=True)
    figure.savefig(Path(out) / f"{name}.png", dpi=110, bbox_inches="tight")
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
