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
    t, half = t if t.dtype.kind == "f" else t.astype(dtype), dim // 2
    y, backward = sinusoids.on_arrays(t, embedding_frequencies(dim, freq_shift))

    def arranged(waves):  # its own inverse
        return np.roll(waves, half, axis=1) if cos_first else waves

    waves = arranged(y)
    waves = np.pad(waves, ((0, 0), (0, 1))) if dim % 2 else waves
    return waves, lambda dy: backward(arranged(dy[:, : 2 * half]))[:1]


def embedding_frequencies(dim: int, freq_shift: float = 1) -> np.ndarray:
    """ω_i = exp(−ln 10⁴ · i/(h − freq_shift)), i = 0..h−1, h = ⌊dim/2⌋: from 1 down to about 1/10⁴."""
    half = dim // 2
    require(freq_shift < half, f"timestep_embedding: freq_shift must be below {half}", freq_shift=freq_shift)
    return np.exp(-np.log(10_000) * np.arange(half) / (half - freq_shift))


@op
def sinusoids(t, omega):
    """y = [sin(t ω_0) … sin(t ω_{h−1}), cos(t ω_0) … cos(t ω_{h−1})].   t: (N,), omega: (h,) → (N, 2h), of t's dtype.

    With a = t ω and da = dy_sin cos a − dy_cos sin a:   dt_n = Σ_i da_ni ω_i,   dω_i = Σ_n da_ni t_n.
    Raises ValueError unless t and omega are vectors."""
    require(t.ndim == 1 and omega.ndim == 1, "sinusoids: t and omega must be vectors", t=t, omega=omega)
    turns = t[:, None] * (omega.astype(np.float64) / (2 * np.pi))  # t ω reaches 1000, where float32 keeps four decimals
    angle = (2 * np.pi * (turns - np.rint(turns))).astype(t.dtype)  # within half a turn, where it keeps seven
    sin, cos = np.sin(angle), np.cos(angle)

    def backward(dy):
        dy_sin, dy_cos = np.split(dy, 2, axis=1)
        da = dy_sin * cos - dy_cos * sin
        return (da @ omega).astype(t.dtype), (t @ da).astype(omega.dtype)

    return np.concatenate([sin, cos], axis=1), backward


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
