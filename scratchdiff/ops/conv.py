"""Convolution and upsampling.

A convolution slides a small window over the image. With xp the image x in its border of zeros, s the stride, (u, v) a place
in the window (a *tap*), c an input channel and d an output channel,

    y[n,i,j,d] = Σ_{u,v,c} xp[n, s·i+u, s·j+v, c] · w[u,v,c,d] + b[d]                                               (1)

How the gradients come about. L is the loss, one number, and we are given dy[n,i,j,d] = ∂L/∂y[n,i,j,d]. By the chain rule the
gradient of anything that y depends on, call it θ, is

    ∂L/∂θ = Σ_{n,i,j,d} dy[n,i,j,d] · ∂y[n,i,j,d]/∂θ

dw: the weight w[u,v,c,d] is a factor in every pixel (n,i,j) of output channel d, and in no other channel. By (1) it is
    multiplied there by xp[n, s·i+u, s·j+v, c], so

    dw[u,v,c,d] = Σ_{n,i,j} xp[n, s·i+u, s·j+v, c] · dy[n,i,j,d]                                                    (2)

dx: we first find dxp, the gradient of the image in its border. The number xp[n,p,q,c] is read by tap (u,v) of the output
    pixel (i,j) with s·i+u = p and s·j+v = q, if there is one, and is multiplied there by w[u,v,c,d] for every d. So

    dxp[n,p,q,c] = Σ_{u,v} Σ_d dy[n,i,j,d] · w[u,v,c,d],      i = (p−u)/s,  j = (q−v)/s                             (3)

    where the first sum has only the taps for which i and j are whole numbers inside the output. It is easier to go the
    other way: start from zeros, and let each output pixel (i,j) and tap (u,v) add Σ_d dy[n,i,j,d] · w[u,v,c,d] to
    dxp[n, s·i+u, s·j+v, c]. That adds up the same terms. The border is no part of x, so it is cut off at the end:
    dx[n,p,q,c] = dxp[n, top+p, left+q, c].

db: b[d] is added to every pixel of output channel d, so db[d] = Σ_{n,i,j} dy[n,i,j,d]. Where each image has its own bias,
    b[n,d] is added to the pixels of image n alone, and db[n,d] = Σ_{i,j} dy[n,i,j,d].

For one tap (u,v), the pixels that (1) reads form a grid with spacing s. `tap_pixels` below returns this grid as a view, so
reading it costs no copy, and adding to the view of dxp adds to dxp itself. The grid holds no pixel twice, so one += serves
all (i,j) at once; where the grids of two taps overlap, the loop over the taps sums them. In this way (1), (2) and (3) are
one matrix product for each tap.

In the code, @op makes a function on arrays work on Tensors; the function returns y and its backward, which computes the
gradients from dy. The backward of a convolution takes x as well, so that the tape need not keep x: `later=True` says so to
@op. @kernel says that a compiled twin in kernels/, with the same name, y and gradients, runs in place of the function,
unless SCRATCHDIFF_KERNELS=numpy asks for this one.
"""

import functools
import math

import numpy as np

from scratchdiff.autograd import op
from scratchdiff.checks import require, require_fit, require_positive_integers
from scratchdiff.kernels import kernel


@functools.partial(op, later=True)
def conv2d(x, w, b=None, stride=1, padding="same"):
    """y[n,i,j,d] = Σ_{u,v,c} xp[n, s·i+u, s·j+v, c] · w[u,v,c,d] + b[d], with xp the image x in a border of zeros.

    (Deep learning's convolution, in signal processing called cross-correlation; Dumoulin & Visin 2016 draw every case.)
    x: (N, H, W, Cin), w: (kh, kw, Cin, Cout) → y: (N, Ho, Wo, Cout), Ho = ⌊(H + top + bottom − kh)/s⌋ + 1, Wo likewise.
    b: (Cout,), or (N, Cout) with a bias for each image (a U-Net tells its pixels the time in this way), or None.
    padding: "same" as TensorFlow pads (a 3×3 window at stride 2 on even sizes: right and bottom), an int, or
        ((top, bottom), (left, right)).
    Raises ValueError if the shapes do not fit, the stride is below 1 or the kernel is larger than the padded image.
    """
    fits = x.ndim == 4 and w.ndim == 4 and x.shape[3] == w.shape[2]
    require_fit("conv2d", fits and (b is None or b.shape in (w.shape[3:], (len(x), w.shape[3]))), x=x, w=w, b=b)
    require_positive_integers("conv2d", stride=stride)
    pads = (top, bottom), (left, right) = resolve_padding(padding, x.shape[1:3], w.shape[:2], stride)
    inside = w.shape[0] <= x.shape[1] + top + bottom and w.shape[1] <= x.shape[2] + left + right
    require(inside, "conv2d: the kernel is larger than the padded image", kernel=w.shape[:2], image=x.shape[1:3], pads=pads)
    return convolve(x, w, b, stride, pads)


@kernel
def convolve(x, w, b, s, pads):
    """Equation (1), and its gradients (2) and (3). pads: ((top, bottom), (left, right)).

    The backward takes x as an argument and does not keep it. These inputs would be much of a U-Net's memory, and the group
    norm before a convolution can compute them again."""
    (kh, kw), (H, W), ((top, bottom), (left, right)) = w.shape[:2], x.shape[1:3], pads
    border = (0, 0), (top, bottom), (left, right), (0, 0)
    xp = np.pad(x, border)
    out_size = (xp.shape[1] - kh) // s + 1, (xp.shape[2] - kw) // s + 1
    y = sum(tap_pixels(xp, u, v, out_size, s) @ w[u, v] for u, v in np.ndindex(kh, kw))
    if b is not None:
        y = y + b[..., None, None, :]  # (Cout,) → (1, 1, Cout);   (N, Cout) → (N, 1, 1, Cout)

    def backward(dy, x):
        xp = np.pad(x, border)
        dxp, dw = np.zeros_like(xp), np.empty_like(w)
        for u, v in np.ndindex(kh, kw):
            # this tap's term of y is tap_pixels(xp, u, v, ...) @ w[u, v]: (N, Ho, Wo, Cin) @ (Cin, Cout)
            tap_pixels(dxp, u, v, out_size, s)[...] += dy @ w[u, v].T  # (3): [...] += writes through the view
            dw[u, v] = np.tensordot(tap_pixels(xp, u, v, out_size, s), dy, axes=((0, 1, 2), (0, 1, 2)))  # (2): (Cin, Cout)
        dx = dxp[:, top : top + H, left : left + W]
        db = None if b is None else dy.sum((1, 2) if b.ndim == 2 else (0, 1, 2))
        return dx, dw, db

    return y, backward


def tap_pixels(image, u, v, out_size, s):
    """image[n, s·i+u, s·j+v, :] for every output pixel (i, j), what tap (u, v) reads: a view (N, Ho, Wo, C) of the image.

    Its last row is u + s (Ho − 1); NumPy ends a slice at the end of the array."""
    Ho, Wo = out_size
    return image[:, u : u + s * Ho : s, v : v + s * Wo : s]


def resolve_padding(padding, in_size: tuple, kernel_size: tuple, stride: int) -> tuple:
    """((top, bottom), (left, right)) for "same", an int, or such a pair of pairs.

    "same" is TensorFlow's: the output has ⌈size/stride⌉ pixels, and an odd pixel of padding goes to the bottom and right.
    Raises ValueError for anything else.
    """
    if padding == "same":
        return same_padding(in_size, kernel_size, stride)
    if isinstance(padding, (int, np.integer)):
        padding = ((padding, padding), (padding, padding))
    try:
        pads = np.asarray(padding)
    except ValueError:  # rows of unequal length
        pads = np.empty(0)
    known = pads.shape == (2, 2) and pads.dtype.kind in "iu" and pads.min() >= 0
    require(known, 'conv2d: padding must be "same", or non-negative: an int, or ((top, bottom), (left, right))',
            padding=padding)  # fmt: skip
    return tuple(map(tuple, pads.tolist()))


@functools.lru_cache(1000)
def same_padding(in_size: tuple, kernel_size: tuple, stride: int) -> tuple:
    """The "same" of `resolve_padding`."""
    out_size = [math.ceil(n / stride) for n in in_size]
    # (out − 1) · stride + k pixels are read, and n are there
    totals = [max((out - 1) * stride + k - n, 0) for out, n, k in zip(out_size, in_size, kernel_size)]
    return tuple((total // 2, total - total // 2) for total in totals)


@op
def upsample_nearest(x, factor=2):
    """y[n,i,j,c] = x[n, ⌊i/f⌋, ⌊j/g⌋, c], factor = (f, g): each pixel becomes f × g equal ones, and its gradient is the sum
    of theirs.

    x: (N, H, W, C) → (N, fH, gW, C). factor may be one number for both axes. Raises ValueError unless x has four axes and
    the factors are positive integers."""
    require(x.ndim == 4, "upsample_nearest: x must be (N, H, W, C)", x=x)
    f, g = factor if isinstance(factor, tuple) else (factor, factor)
    require_positive_integers("upsample_nearest", factor=f, factor_of_columns=g)
    N, H, W, C = x.shape
    # the pixels i = f·h + k, j = g·w + l of y, k < f, l < g, are copies of (h, w): the axes 2 and 4 below count k and l
    return x.repeat(f, 1).repeat(g, 2), lambda dy: (dy.reshape(N, H, f, W, g, C).sum((2, 4)),)
