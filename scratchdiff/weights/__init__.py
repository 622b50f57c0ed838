"""Trained weights that the package carries: see `pretrained.py`."""
