"""Convolution and upsampling.

A convolution slides a small window over the image. With xp the image x in its border of zeros, s the stride, (u, v) a place
in the window (a *tap*), c an input channel and d an output channel,

    y[n,i,j,d] = Σ_{u,v,c} xp[n, s·i+u, s·j+v, c] · w[u,v,c,d] + b[d]                                               (1)

How the gradients come about. We are given dy, that is ∂L/∂y[n,i,j,d] for every entry of y, and use the chain rule: the
gradient of a number is the sum, over all entries of y that it moves, of dy there times how much it moves them.

dw: a weight w[u,v,c,d] moves every pixel (n,i,j) of output channel d, and by (1) it is multiplied there by
    xp[n, s·i+u, s·j+v, c]. So

    dw[u,v,c,d] = Σ_{n,i,j} xp[n, s·i+u, s·j+v, c] · dy[n,i,j,d]                                                    (2)

dx: an input number xp[n,a,b,c] moves the output pixel (i,j) if some tap (u,v) of its window reads it, that is if
    s·i+u = a and s·j+v = b. There it is multiplied by w[u,v,c,d], for every d. So

    dxp[n,a,b,c] = Σ_{u,v,d} dy[n,i,j,d] · w[u,v,c,d]      over the taps for which such a pixel (i,j) exists        (3)

    It is easier to go the other way: start from zeros, and let each output pixel (i,j) add dy[n,i,j] w[u,v]ᵀ, a vector with
    an entry for each c, at the place that its tap (u,v) read. Doing this for every tap adds up the same terms. A pixel that
    no window reads keeps its 0. The border of zeros is no part of x, so it is cut off at the end.

db: b[d] is added to every pixel of output channel d with factor 1, so db[d] = Σ_{n,i,j} dy[n,i,j,d].

For one tap (u,v), the pixels that (1) reads form a grid with spacing s: one pixel for each (i,j), none of them twice.
`tap_pixels` below returns this grid as a view of xp, so reading it costs no copy and adding to it adds to dxp itself. Each
of the three sums is then one matrix product for each tap.

In the code, @op makes a function on arrays work on Tensors; it returns y and the function from dy to the gradients. @kernel
says that a compiled twin of the same name in kernels/ runs in its place, unless SCRATCHDIFF_KERNELS=numpy asks for this one.
"""

import numpy as np

from scratchdiff.autograd import op
from scratchdiff.checks import require, require_fit, require_positive_integers
from scratchdiff.kernels import kernel


@op
def conv2d(x, w, b=None, stride=1, padding="same"):
    """y[n,i,j,d] = Σ_{u,v,c} xp[n, s·i+u, s·j+v, c] · w[u,v,c,d] + b[d], with xp the image x in a border of zeros.

    (Deep learning's convolution, in signal processing called cross-correlation; Dumoulin & Visin 2016 draw every case.)
    x: (N, H, W, Cin), w: (kh, kw, Cin, Cout) → y: (N, ⌊(H + top + bottom − kh)/s⌋ + 1, likewise, Cout), s the stride.
    b: (Cout,), or (N, Cout) with a bias for each image (a U-Net tells its pixels the time in this way), or None.
    padding: "same" as TensorFlow pads (at stride 2: right and bottom), an int, or ((top, bottom), (left, right)).
    Raises ValueError if the shapes do not fit, the stride is below 1 or the kernel is larger than the padded image.
    """
    fits = x.ndim == 4 and w.ndim == 4 and x.shape[3] == w.shape[2]
    require_fit("conv2d", fits and (b is None or b.shape in (w.shape[3:], (len(x), w.shape[3]))), x=x, w=w, b=b)
    require_positive_integers("conv2d", stride=stride)
    pads = resolve_padding(padding, x.shape[1:3], w.shape[:2], stride)
    inside = all(k <= n + sum(p) for k, n, p in zip(w.shape[:2], x.shape[1:3], pads))
    require(inside, "conv2d: the kernel is larger than the padded image", kernel=w.shape[:2], image=x.shape[1:3], pads=pads)
    return convolve(x, w, b, stride, pads)


@kernel
def convolve(x, w, b, s, pads):
    """Equation (1), and its gradients (2) and (3). pads: ((top, bottom), (left, right))."""
    (kh, kw), (H, W), (rows, columns) = w.shape[:2], x.shape[1:3], pads
    xp = np.pad(x, ((0, 0), rows, columns, (0, 0)))
    out_size = (xp.shape[1] - kh) // s + 1, (xp.shape[2] - kw) // s + 1
    y = sum(tap_pixels(xp, u, v, out_size, s) @ w[u, v] for u, v in np.ndindex(kh, kw))
    if b is not None:
        y = y + b[..., None, None, :]  # (Cout,) → (1, 1, Cout);   (N, Cout) → (N, 1, 1, Cout)

    def backward(dy):
        dxp, dw = np.zeros_like(xp), np.empty_like(w)
        for u, v in np.ndindex(kh, kw):
            # forward: y += tap_pixels(xp, u, v) @ w[u, v]
            tap_pixels(dxp, u, v, out_size, s)[...] += dy @ w[u, v].T  # (3)
            dw[u, v] = np.tensordot(tap_pixels(xp, u, v, out_size, s), dy, axes=((0, 1, 2), (0, 1, 2)))  # (2): over n, i, j
        dx = dxp[:, rows[0] : rows[0] + H, columns[0] : columns[0] + W]
        db = None if b is None else dy.sum((1, 2)) if b.ndim == 2 else dy.sum((0, 1, 2))
        return dx, dw, db

    return y, backward


def tap_pixels(xp, u, v, out_size, s):
    """What tap (u, v) reads: xp[n, s·i+u, s·j+v] for every output pixel (i, j), as a view (N, Ho, Wo, Cin) of xp."""
    Ho, Wo = out_size
    return xp[:, u : u + s * Ho : s, v : v + s * Wo : s]


def resolve_padding(padding, in_size: tuple, kernel_size: tuple, stride: int) -> tuple:
    """((top, bottom), (left, right)) for "same", an int, or such a pair of pairs.

    "same" is TensorFlow's: the output has ⌈size/stride⌉ pixels, and an odd pixel of padding goes to the bottom and right.
    Raises ValueError for anything else.
    """
    if padding == "same":
        totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(in_size, kernel_size)]
        return tuple((total // 2, total - total // 2) for total in totals)
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


@op
def upsample_nearest(x, factor=2):
    """y[n,i,j,c] = x[n, ⌊i/f⌋, ⌊j/g⌋, c]: each pixel becomes f × g equal ones, so its gradient is the sum of theirs.

    x: (N, H, W, C) → (N, fH, gW, C). factor: (f, g), or one number for both. Raises ValueError unless x has four axes and
    the factors are positive integers."""
    require(x.ndim == 4, "upsample_nearest: x must be (N, H, W, C)", x=x)
    f, g = factor if isinstance(factor, tuple) else (factor, factor)
    require_positive_integers("upsample_nearest", factor=f, factor_of_columns=g)
    N, H, W, C = x.shape
    return (
        x.repeat(f, 1).repeat(g, 2),
        lambda dy: (dy.reshape(N, H, f, W, g, C).sum((2, 4)),),
    )
