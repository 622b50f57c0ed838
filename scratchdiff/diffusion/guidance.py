"""Classifier-free guidance: ask for a class, and exaggerate what the class changed   (Ho & Salimans 2022).

A network that was trained with labels, some of them hidden, gives two answers: out(x_t, t, y) and, for any class,
out(x_t, t). Their difference points from "some digit" to "a three", and

    out_w = out(x_t, t, y) + w (out(x_t, t, y) − out(x_t, t))                                  (Eq. 6, for ε)

goes further that way. By Bayes' rule the difference of the scores is ∇ log p(y | x_t), the gradient of a classifier that
nobody had to train. Since ε, x0 and v are linear maps of each other at a given x_t, the same formula serves all three.
"""

import numpy as np


def guided(model, labels, weight: float):
    """A model(xt, t) that makes the given classes: what samplers take.

    model: trained with labels, such as a UNet with num_classes; labels: (N,), one for each sample; weight: w above, 0 for
    plain conditioning, about 1 for clearer samples of less variety. Each call asks the network both questions at once.
    Raises ValueError for a model without classes or a weight below 0; the model refuses labels that do not fit.
    """
    if not getattr(model, "num_classes", None) or not weight >= 0:
        raise ValueError(f"guided: needs a model made with num_classes and a weight >= 0, got weight {weight}")
    labels = np.asarray(labels)
    both = np.concatenate([labels, np.full_like(labels, model.num_classes)])

    def model_of_classes(xt, t):
        if weight == 0:
            return model(xt, t, labels=labels).data
        given, hidden = np.split(model(np.concatenate([xt, xt]), np.concatenate([t, t]), labels=both).data, 2)
        more = weight * (given - hidden)
        more[..., xt.shape[-1] :] = 0  # a learned variance, in further channels, is not guided
        return given + more

    return model_of_classes
