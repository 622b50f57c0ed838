"""The compiled twins of the functions marked `@kernel`, by their names. What each file holds:

conv.py         convolution: chooses between winograd.py and im2col.py
linear.py       the affine map, with or without SiLU before it
norm.py         group normalisation, with or without SiLU after it
attention.py    attention
moving.py       sums and joins of large arrays
adam.py         Adam's update
"""

from numba.core import event

from scratchdiff.kernels import blas, compiling
from scratchdiff.kernels.adam import adam_update
from scratchdiff.kernels.attention import attend
from scratchdiff.kernels.conv import convolve
from scratchdiff.kernels.linear import affine, silu_affine
from scratchdiff.kernels.memory import keep_freed_memory
from scratchdiff.kernels.moving import add_arrays, join
from scratchdiff.kernels.norm import normalise, normalise_silu

__all__ = ["adam_update", "add_arrays", "affine", "attend", "convolve", "join", "normalise", "normalise_silu", "silu_affine"]

event.register("numba:compile", compiling.Announce())
blas.keep_blas_to_one_thread()
keep_freed_memory()
