"""Trained weights that the package carries: see `pretrained.py`."""

from scratchdiff.weights.pretrained import pretrained

__all__ = ["pretrained"]
