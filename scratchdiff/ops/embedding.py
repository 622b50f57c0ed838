"""Numbers as vectors. A timestep becomes sines and cosines from fast to slow, so that near steps look alike and far ones
differ; a symbol becomes a row of a table that is learned."""

import numpy as np

from scratchdiff.autograd import op
from scratchdiff.checks import require


@op
def timestep_embedding(t, dim, *, freq_shift=1, cos_first=False, dtype=np.float64):
    """[sin(t ω_0) … sin(t ω_{h−1}), cos(t ω_0) … cos(t ω_{h−1})],  ω_i = exp(−ln 10⁴ · i/(h − freq_shift)),  h = dim/2.

    t: (N,) timesteps → (N, dim); integers give the stated dtype, floats keep their own. An odd dim ends in a zero
    column. As in Ho et al.'s code (after Vaswani et al. 2017, section 3.5); other published networks put the cosines first
    (cos_first), or take freq_shift 0. Raises ValueError unless t is (N,), dim ≥ 4 and freq_shift < h.
    """
    t = np.asarray(t)
    fits = t.ndim == 1 and t.dtype.kind in "iuf" and isinstance(dim, (int, np.integer)) and dim >= 4
    require(fits, "timestep_embedding: needs t of shape (N,) and dim >= 4", t=t, dim=dim)
    half = dim // 2
    require(freq_shift < half, f"timestep_embedding: freq_shift must be below {half}", freq_shift=freq_shift)
    omega = np.exp(-np.log(10_000) * np.arange(half) / (half - freq_shift))
    dtype = t.dtype if t.dtype.kind == "f" else dtype
    turns = t[:, None] * (omega / (2 * np.pi))  # float64: t ω reaches 1000, where float32 keeps only four decimals
    angle = (2 * np.pi * (turns - np.rint(turns))).astype(dtype)  # within half a turn, where it keeps seven
    sin, cos = np.sin(angle), np.cos(angle)
    waves, slopes = ([cos, sin], [-sin, cos]) if cos_first else ([sin, cos], [cos, -sin])
    y = np.concatenate([*waves, np.zeros((len(t), dim % 2), dtype)], axis=1)

    def backward(dy):
        return (((dy[:, :half] * slopes[0] + dy[:, half : 2 * half] * slopes[1]) @ omega).astype(dtype),)

    return y, backward


@op
def embedding(weight, indices):
    """y = weight[indices]: for each symbol its row.   weight: (symbols, width), indices: (...) → (..., width).

    A row gets the sum of the gradients at every place that looked it up: dweight[s] = Σ_{places with index s} dy[place].
    Raises ValueError unless weight has two axes and the indices are integers in 0..symbols−1."""
    indices = np.asarray(indices)
    require(weight.ndim == 2, "embedding: the weight must be (symbols, width)", weight=weight)
    inside = indices.dtype.kind in "iu" and ((0 <= indices) & (indices < len(weight))).all()
    require(inside, f"embedding: the indices must be integers in 0..{len(weight) - 1}", indices=indices)

    def backward(dy):
        dweight = np.zeros_like(weight)
        np.add.at(dweight, indices, dy)
        return (dweight,)

    return weight[indices], backward
