"""Memory for time: an op that forgets what happened inside it, and computes it again when the gradient comes by.

A tape keeps what each op's backward needs, so a sampler of 50 steps through a U-Net would keep 50 U-Nets' activations.
`recompute(f)` keeps only f's inputs and output. In the backward it runs f once more, on a tape of its own, and walks that
tape back from dL/dy   (Chen et al. 2016, section 4, with one segment per call).

The gradient on that inner tape is started by a scalar whose gradient with respect to y is dL/dy: Σ y · dL/dy.
"""

from contextlib import contextmanager

from scratchdiff.autograd import Tape, Tensor, active_tape, op


def recompute(f, parameters: dict[str, Tensor] | None = None):
    """f as a function that keeps nothing: y = f(*xs) for Tensors or arrays xs, with the same gradients.

    f: takes Tensors and returns one Tensor; it must compute the same each time, so it makes its own generator for noise.
    All Tensors that f uses get their gradients, such as a model's weights. parameters: {name: Tensor} of these that the tape
    is to see as arguments. It needs some where no x is a Tensor, because it does not record an op on arrays alone.
    Raises ValueError if f does not return a Tensor.
    """
    weights = tuple((parameters or {}).values())

    @op
    def recomputed(*arrays):
        count = len(arrays) - len(weights)
        with off_the_tape():
            y = f(*[Tensor(a) for a in arrays[:count]])
        if not isinstance(y, Tensor):
            raise ValueError(f"recompute: f must return a Tensor, got {type(y).__name__}")

        def backward(dy):
            xs = [Tensor(a) for a in arrays[:count]]
            kept = [w.grad for w in weights]
            for w in weights:
                w.grad = None
            with off_the_tape(), Tape() as tape:
                loss = (f(*xs) * dy).sum()
            tape.backward(loss)
            grads = [w.grad for w in weights]
            for w, grad in zip(weights, kept):
                w.grad = grad
            return (*[x.grad for x in xs], *grads)

        return y.data, backward

    return lambda *xs: recomputed(*xs, *weights)


@contextmanager
def off_the_tape():
    """The tape that is recording does not see the ops of this block."""
    token = active_tape.set(None)
    try:
        yield
    finally:
        active_tape.reset(token)
