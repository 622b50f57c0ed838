"""Moving entries without changing them: each op permutes or copies entries, and its gradient moves them back."""

import numpy as np

from scratchdiff.autograd import Tensor, op
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.kernels import kernel


@op
def _reshape(x, *, shape):
    try:
        y = x.reshape(shape)
    except (ValueError, TypeError):
        raise ValueError(f"reshape: shape {x.shape} cannot become {shape}") from None
    of_x = x.shape  # backward keeps the shape alone, so x need not live until then
    return y, lambda dy: (dy.reshape(of_x),)


def reshape(x, *shape):
    """The same entries in the same order under another shape: `reshape(x, 2, 3)`, `reshape(x, (2, -1))`.

    Raises ValueError if the number of entries differs."""
    return _reshape(x, shape=shape[0] if len(shape) == 1 else shape)


@op
def _transpose(x, *, axes):
    positive = [a + x.ndim if a < 0 else a for a in axes]
    require(sorted(positive) == list(range(x.ndim)), f"transpose: {axes} is no permutation of the axes of x", x=x)
    return x.transpose(axes), lambda dy: (dy.transpose(np.argsort(positive)),)


def transpose(x, *axes):
    """y[i_axes[0], i_axes[1], ...] = x[i_0, i_1, ...]: `transpose(x, 0, 2, 1)`; without axes, all reversed (also `x.T`).

    Raises ValueError if `axes` is no permutation of x's axes."""
    if len(axes) == 1 and np.ndim(axes[0]) == 1:
        axes = tuple(axes[0])
    return _transpose(x, axes=axes or tuple(range(np.ndim(x)))[::-1])


@op
def _concat(*xs, axis):
    shapes = [x.shape for x in xs]
    a = axis % max(1, xs[0].ndim) if xs else 0
    fits = xs and -xs[0].ndim <= axis < xs[0].ndim and len({(len(s), s[:a], s[a + 1 :]) for s in shapes}) == 1
    require(fits, f"concat: shapes {shapes} do not join along axis {axis}")
    return join(xs, a)


@kernel
def join(xs, axis):
    """The arrays xs one after the other along `axis`; the gradient is cut where they meet."""
    sizes = [x.shape[axis] for x in xs]

    def backward(dy):
        return tuple(np.split(dy, np.cumsum(sizes[:-1]), axis))

    return np.concatenate(xs, axis), backward


def concat(xs, axis=-1):
    """The tensors of the list xs one after the other along `axis` (default: the channels).

    Raises ValueError if the list is empty or another axis differs."""
    return _concat(*xs, axis=axis)


@op
def getitem(x, index):
    """y = x[index]: slices, integers, None, `...`, integer or boolean arrays. An entry taken twice gets both gradients.

    Raises ValueError if the index does not fit x's shape."""
    try:
        y = x[index]
    except IndexError as error:
        raise ValueError(f"getitem: index {index} does not fit shape {x.shape}: {error}") from None
    basic = all(
        i is None or i is Ellipsis or isinstance(i, (slice, int, np.integer))
        for i in (index if isinstance(index, tuple) else (index,))
    )

    of_x = x.shape

    def backward(dy):
        dx = np.zeros(of_x, dy.dtype)
        if basic:
            dx[index] = dy
        else:
            np.add.at(dx, index, dy)
        return (dx,)

    return y, backward


@op
def space_to_depth(x, *, block):
    """Each block × block patch of pixels becomes one pixel with block² times the channels. Its inverse: `depth_to_space`.

    x: (N, H, W, C) → (N, H/block, W/block, block² C). Raises ValueError if block does not divide H and W."""
    require_positive_integers("space_to_depth", block=block)
    tiled = x.ndim == 4 and x.shape[1] % block == x.shape[2] % block == 0
    require(tiled, f"space_to_depth: blocks of {block} × {block} do not tile the images", x=x)
    return _fold(x, block), lambda dy: (_unfold(dy, block),)


@op
def depth_to_space(x, *, block):
    """(N, H, W, block² C) → (N, block H, block W, C): the inverse of `space_to_depth` (Shi et al. 2016, Eq. 4).

    Raises ValueError if block² does not divide the channels."""
    require_positive_integers("depth_to_space", block=block)
    whole = x.ndim == 4 and x.shape[3] % block**2 == 0
    require(whole, f"depth_to_space: the channels are not {block}² times a whole number", x=x)
    return _unfold(x, block), lambda dy: (_fold(dy, block),)


def _fold(x, b):
    N, H, W, C = x.shape
    patches = x.reshape(N, H // b, b, W // b, b, C).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(N, H // b, W // b, b * b * C)


def _unfold(x, b):
    N, H, W, C = x.shape
    patches = x.reshape(N, H, W, b, b, C // b**2).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(N, H * b, W * b, C // b**2)


# pyright: reportAttributeAccessIssue=false
Tensor.reshape, Tensor.transpose, Tensor.__getitem__ = reshape, transpose, getitem
Tensor.T = property(transpose)
Tensor.__iter__ = lambda x: (x[i] for i in range(len(x)))
