"""Layers: an op together with the parameters it needs. The only mathematics here is how a weight starts.

Weights start uniform with variance 1/fan_avg, fan_avg = (inputs + outputs of one unit)/2 (Glorot & Bengio 2010, as in Ho's
code), so that signals neither grow nor shrink from layer to layer; biases start at zero. Every layer takes the generator
that draws its weights, and their dtype, and raises ValueError for sizes that are not positive integers.
"""

import numpy as np

from scratchdiff import ops
from scratchdiff.autograd import Tensor
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.nn.module import Module
from scratchdiff.ops.embedding import embedding_frequencies


def glorot(shape: tuple, rng: np.random.Generator, dtype) -> Tensor:
    """A weight (..., in, out), uniform in ±√(3/fan_avg), so of variance 1/fan_avg; leading axes are the taps of a kernel."""
    taps = int(np.prod(shape[:-2]))
    limit = np.sqrt(3 / (taps * (shape[-2] + shape[-1]) / 2))
    return Tensor(rng.uniform(-limit, limit, shape).astype(dtype))


def zeros(shape: tuple, dtype) -> Tensor:
    """A parameter that starts at zero. Raises ValueError for another dtype than float32 and float64."""
    require(np.dtype(dtype) in (np.float32, np.float64), "a layer's dtype must be float32 or float64", dtype=dtype)
    return Tensor(np.zeros(shape, dtype))


class Linear(Module):
    """y = x w + b.   (..., in_features) → (..., out_features). `zero=True` starts w at zero."""

    def __init__(self, in_features, out_features, *, rng, dtype=np.float32, zero=False):
        require_positive_integers("Linear", in_features=in_features, out_features=out_features)
        shape = in_features, out_features
        self.w = zeros(shape, dtype) if zero else glorot(shape, rng, dtype)
        self.b = zeros(out_features, dtype)

    def __call__(self, x):
        return ops.linear(x, self.w, self.b)


class SiLULinear(Linear):
    """y = SiLU(x) w + b, otherwise as `Linear`."""

    def __call__(self, x):
        return ops.silu_linear(x, self.w, self.b)


class Conv2d(Module):
    """A kernel × kernel convolution with bias.   (N, H, W, in) → (N, H', W', out); `stride`, `padding` as `ops.conv2d`.

    kernel: its size, or (height, width). `image_bias` (N, out), where given, is added to every pixel of its image."""

    def __init__(self, in_channels, out_channels, kernel=3, *, stride=1, padding="same", rng, dtype=np.float32, zero=False):
        kh, kw = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        sizes = dict(in_channels=in_channels, out_channels=out_channels, stride=stride)
        require_positive_integers("Conv2d", kernel=kh, kernel_width=kw, **sizes)
        shape = kh, kw, in_channels, out_channels
        self.w = zeros(shape, dtype) if zero else glorot(shape, rng, dtype)
        self.b = zeros(out_channels, dtype)
        self.stride, self.padding = stride, padding

    def __call__(self, x, image_bias=None):
        b = self.b if image_bias is None else self.b + image_bias
        return ops.conv2d(x, self.w, b, self.stride, self.padding)


class GroupNorm(Module):
    """Group normalisation, with scale 1 and shift 0 at first; eps as `ops.group_norm`.   (N, ..., channels) → same."""

    def __init__(self, channels, groups, *, eps=1e-6, dtype=np.float32):
        require_positive_integers("GroupNorm", channels=channels, groups=groups)
        require(channels % groups == 0, f"GroupNorm: {groups} groups do not divide {channels} channels")
        self.scale = Tensor(np.ones(channels, dtype))
        self.shift = zeros(channels, dtype)
        self.groups, self.eps = groups, eps

    def __call__(self, x):
        return ops.group_norm(x, self.scale, self.shift, groups=self.groups, eps=self.eps)


class GroupNormSiLU(GroupNorm):
    """SiLU(GroupNorm(x))."""

    def __call__(self, x):
        return ops.group_norm_silu(x, self.scale, self.shift, groups=self.groups, eps=self.eps)


class SelfAttention(Module):
    """x + proj(attention(q, k, v)) over all pixels, with q, k, v linear in GN(x)   (Ho et al. 2020, Appendix B).

    x: (N, H, W, channels) → the same. proj starts at zero, so the block starts as the identity. groups None: no norm.
    Raises ValueError unless `heads` divides the channels.
    """

    def __init__(self, channels, groups, heads=1, *, eps=1e-6, rng, dtype=np.float32):
        require_positive_integers("SelfAttention", channels=channels, heads=heads)
        require(channels % heads == 0, f"SelfAttention: {heads} heads do not divide {channels} channels")
        self.norm = None if groups is None else GroupNorm(channels, groups, eps=eps, dtype=dtype)
        self.q = Conv2d(channels, channels, 1, rng=rng, dtype=dtype)  # a 1×1 convolution: a linear layer at every pixel
        self.k = Conv2d(channels, channels, 1, rng=rng, dtype=dtype)
        self.v = Conv2d(channels, channels, 1, rng=rng, dtype=dtype)
        self.proj = Conv2d(channels, channels, 1, rng=rng, dtype=dtype, zero=True)
        self.heads = heads

    def __call__(self, x):
        N, H, W, C = x.shape
        h = x if self.norm is None else self.norm(x)
        q, k, v = (layer(h).reshape(N, H * W, C) for layer in (self.q, self.k, self.v))
        return x + self.proj(multi_head(q, k, v, self.heads).reshape(N, H, W, C))


def multi_head(q, k, v, heads: int, mask=None):
    """Attention by each of the `heads` equal parts of the channels, side by side again.   q: (N, L, C), k, v: (N, M, C).

    mask: as `ops.attention` takes it."""

    def split(x):  # (N, L, C) → (N, heads, L, C/heads)
        N, L, C = x.shape
        return x.reshape(N, L, heads, C // heads).transpose(0, 2, 1, 3)

    return ops.attention(split(q), split(k), split(v), mask=mask).transpose(0, 2, 1, 3).reshape(*q.shape)


class TimestepMLP(Module):
    """t → temb: the sinusoidal embedding of width `dim`, then linear → SiLU → linear.   (N,) → (N, width).

    scale · (t + offset) is embedded, so that offset = −1 counts timesteps from 0. freq_shift, cos_first: as
    `ops.timestep_embedding`. learned: the frequencies ω of the sines are learned, starting from the usual ones;
    `dim` must then be even. We learn log ω: t reaches 1000, so a step of Adam on ω itself would turn the slow sines by
    radians."""

    def __init__(self, dim, width, *, offset=0, scale=1, freq_shift=1, cos_first=False, learned=False, rng,
                 dtype=np.float32):  # fmt: skip
        require_positive_integers("TimestepMLP", dim=dim, width=width)
        require(not learned or dim % 2 == 0, "TimestepMLP: dim must be even to be learned", dim=dim)
        self.dim, self.dtype = dim, dtype
        self.offset, self.scale, self.freq_shift, self.cos_first = offset, scale, freq_shift, cos_first
        self.log_omega = Tensor(np.log(embedding_frequencies(dim, freq_shift)).astype(dtype)) if learned else None
        self.dense1 = Linear(dim, width, rng=rng, dtype=dtype)
        self.dense2 = SiLULinear(width, width, rng=rng, dtype=dtype)

    def __call__(self, t):
        t = self.scale * (np.asarray(t, self.dtype) + self.offset)  # t may lie between whole steps
        if self.log_omega is not None:
            temb = ops.sinusoids(t, ops.exp(self.log_omega))
        else:
            temb = ops.timestep_embedding(t, self.dim, freq_shift=self.freq_shift, cos_first=self.cos_first)
        return self.dense2(self.dense1(temb))


def check_input(name: str, xt, t, shape: tuple) -> None:
    """Raise the ValueError of a network called with an xt that is not (N, *shape) or a t that is not (N,)."""
    if np.shape(xt)[1:] != shape or np.shape(t) != np.shape(xt)[:1]:
        raise ValueError(f"{name}: needs xt of shape (N, {', '.join(map(str, shape))}) and t of (N,), "
                         f"got {np.shape(xt)} and {np.shape(t)}")  # fmt: skip


def check_labels(name: str, labels, num_classes: int | None, N: int):
    """Class labels as an array of N; None means class `num_classes`, which stands for any. A network made without classes
    takes none. Raises the ValueError of the network `name` unless they are (N,) integers in 0..num_classes."""
    if num_classes is None:
        require(labels is None, f"{name}: this network was made without num_classes and takes no labels")
        return None
    labels = np.full(N, num_classes) if labels is None else np.asarray(labels)
    fits = labels.shape == (N,) and labels.dtype.kind in "iu" and ((0 <= labels) & (labels <= num_classes)).all()
    require(fits, f"{name}: labels must be {N} integers in 0..{num_classes}", labels=labels)
    return labels


def check_cond(name: str, cond, shape: tuple, dtype):
    """What an image is conditioned on, in the network's dtype; None means that nothing is known, and gives zeros.

    Raises the ValueError of the network `name` unless cond has this shape (N, ..., cond_channels)."""
    if cond is None:
        return np.zeros(shape, dtype)
    require(shape[-1] and np.shape(cond) == shape, f"{name}: cond must be {shape}", cond=np.shape(cond))
    return as_input(cond, dtype)


def as_input(xt, dtype):
    """xt in the network's dtype. A Tensor is left as it is, so that gradients flow through it."""
    return xt if isinstance(xt, Tensor) else np.asarray(xt, dtype)
