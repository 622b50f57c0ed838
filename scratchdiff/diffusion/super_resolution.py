"""Super-resolution by conditioning on the small image   (SR3, Saharia et al. 2021).

`measurements.py` steers a network that knows nothing of small images. Here the network is trained for the task: beside x_t
it takes the small image, enlarged to the size of x_t, as further channels. It then learns p(x_0 | small image) itself.
"""

from functools import partial

import numpy as np

from scratchdiff.autograd import Tensor
from scratchdiff.checks import require, require_positive_integers
from scratchdiff.diffusion.measurements import downsampled
from scratchdiff.diffusion.self_conditioning import check_model, like


def super_resolution_loss(
    diffusion, model, x0, rng: np.random.Generator, labels=None, factor: int = 4, **settings
) -> Tensor:
    """`diffusion.loss` of the model conditioned on x0 made `factor` times smaller in each direction and enlarged again.

    x0: (N, H, W, C); model: a UNet with cond_channels = C. settings: as `GaussianDiffusion.loss`. labels: None.
    Raises ValueError for a model without cond_channels, for labels, and where factor does not divide the sides of x0."""
    check_model("super_resolution_loss", model)
    require(labels is None, "super_resolution_loss: takes no labels", labels=labels)
    cond = enlarged(np.asarray(downsampled(x0, factor)), factor)
    return diffusion.loss(like(partial(model, cond=cond), model), x0, rng, **settings)


def super_resolved(model, small, factor: int = 4):
    """The model(xt, t) whose samples are draws of p(x_0 | small): (N, factor · H, factor · W, C) for small (N, H, W, C).

    model: trained by `super_resolution_loss` with the same factor. Raises ValueError for a model without cond_channels."""
    check_model("super_resolved", model)
    return partial(model, cond=enlarged(np.asarray(small), factor))


def enlarged(images: np.ndarray, factor: int) -> np.ndarray:
    """Each pixel as a block of factor × factor equal ones: (N, H, W, C) → (N, factor · H, factor · W, C)."""
    require_positive_integers("enlarged", factor=factor)
    return images.repeat(factor, 1).repeat(factor, 2)
