"""Convolution and upsampling. The loops are in `scratchdiff.kernels`, whose `reference.py` reads as the formula."""

import numpy as np

from scratchdiff import kernels
from scratchdiff.autograd import op


def resolve_padding(padding, in_size: tuple, kernel_size: tuple, stride: int) -> tuple:
    """((top, bottom), (left, right)) for "same", an int, or such a pair of pairs.

    "same" is TensorFlow's: the output has ⌈size/stride⌉ pixels, and an odd pixel of padding goes to the bottom and right.
    Raises ValueError for anything else.
    """
    if isinstance(padding, str):
        if padding != "same":
            raise ValueError(f'conv2d: padding must be "same", an int or ((top, bottom), (left, right)), got {padding!r}')
        totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(in_size, kernel_size)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, (int, np.integer)):
        padding = ((padding, padding), (padding, padding))
    try:
        pads = np.asarray(padding)
    except ValueError:  # rows of unequal length
        pads = np.empty(0)
    if pads.shape != (2, 2) or pads.dtype.kind not in "iu" or pads.min() < 0:
        raise ValueError(f"conv2d: padding must be non-negative integers ((top, bottom), (left, right)), got {padding!r}")
    return tuple(map(tuple, pads.tolist()))


@op
def conv2d(x, w, b=None, stride=1, padding="same"):
    """y[n,i,j,d] = b[n,d] + Σ_{u,v,c} x[n, s·i + u − top, s·j + v − left, c] · w[u,v,c,d], x being 0 outside the image.

    (Cross-correlation, as everywhere in deep learning; Dumoulin & Visin 2016 draw every case.)
    x: (N, H, W, Cin), w: (kh, kw, Cin, Cout) → (N, ⌊(H + top + bottom − kh)/s⌋ + 1, likewise, Cout).
    b: (Cout,), the same for all images, (N, Cout), one for each (this is how a U-Net tells its pixels the time), or None.
    padding: "same" as TensorFlow pads (at stride 2: right and bottom), an int, or ((top, bottom), (left, right)).
    Raises ValueError if the shapes do not fit, the stride is below 1 or the kernel is larger than the padded image.
    """
    fits = x.ndim == 4 and w.ndim == 4 and x.shape[3] == w.shape[2]
    if not fits or (b is not None and b.shape not in (w.shape[3:], (len(x), w.shape[3]))):
        raise ValueError(f"conv2d: shapes x {x.shape}, w {w.shape}, b {None if b is None else b.shape} do not fit")
    if not isinstance(stride, (int, np.integer)) or stride < 1:
        raise ValueError(f"conv2d: stride must be a positive integer, got {stride!r}")
    pads = resolve_padding(padding, x.shape[1:3], w.shape[:2], stride)
    if any(n + sum(p) < k for n, p, k in zip(x.shape[1:3], pads, w.shape[:2])):
        raise ValueError(f"conv2d: the kernel {w.shape[:2]} is larger than the image {x.shape[1:3]} padded by {pads}")
    y = kernels.conv2d(x, w, np.zeros((1, w.shape[3]), x.dtype) if b is None else np.atleast_2d(b), stride, pads)

    def backward(dy):
        dx = kernels.conv2d_dx(dy, w, x.shape, stride, pads)
        dw = kernels.conv2d_dw(x, dy, w.shape, stride, pads)
        if b is None:
            return dx, dw
        db = kernels.sum_pixels(dy)
        return dx, dw, db if b.ndim == 2 else db.sum(0)

    return y, backward


@op
def upsample_nearest(x, factor=2):
    """y[n,i,j,c] = x[n, ⌊i/f⌋, ⌊j/f⌋, c]: each pixel becomes f × f equal ones, so its gradient is the sum of theirs.

    x: (N, H, W, C) → (N, fH, fW, C). Raises ValueError unless x has four axes and the factor is a positive integer."""
    if x.ndim != 4 or not isinstance(factor, (int, np.integer)) or factor < 1:
        raise ValueError(f"upsample_nearest: needs x of (N, H, W, C) and an integer factor >= 1, got {x.shape}, {factor!r}")
    N, H, W, C = x.shape
    return (
        x.repeat(factor, 1).repeat(factor, 2),
        lambda dy: (dy.reshape(N, H, factor, W, factor, C).sum((2, 4)),),
    )
