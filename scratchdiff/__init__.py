"""scratchdiff: denoising diffusion from scratch in NumPy, to be read.

The files are chapters, and each imports only from the ones before it:

    checks.py       what a function says to arguments that it cannot use
    kernels/        compiled twins of the formulas in the files below, optional to read
    autograd.py     Tensor, Tape, op: the whole engine
    gradcheck.py    central differences against the tape
    ops/            every op: forward and hand-derived backward side by side
    nn/             layers, the MLP, the U-Net, the Transformer: parameters and wiring
    optim.py        Adam, gradient clipping, EMA, learning rates
    trace.py        watchers of the tape: where did the first NaN arise? everything that a step computed
    page/           a trace as a page in the browser
    recompute.py    an op that keeps nothing and computes it again
    diffusion/      the noise schedule, the process, its losses and its bound, the samplers, the oracle, the likelihood
    data/           points in the plane, MNIST
    recipes.py      settings that were measured
    train.py        the loop
    checkpoint.py   a run on disk
    metrics.py      how good are the digits?
    weights/        trained weights: the package's own, and published ones in and out
    parallel.py     training on many processes, by MPI
    progress.py     progress bars
    runs.py         a run's folder
    checkup/        what is wrong with my diffusion model?
    plots.py        pictures
    cli.py          the command line

Read them in this order, or begin at demos/mnist.py and look up what it calls.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from scratchdiff import data, diffusion, nn, ops
from scratchdiff.autograd import Tape, Tensor, op
from scratchdiff.checkup import checkup
from scratchdiff.diffusion import (
    SAMPLERS,
    VESDE,
    VPSDE,
    BinomialDiffusion,
    Bound,
    GaussianDiffusion,
    ImportanceTimes,
    Oracle,
    Schedule,
    SubVPSDE,
    annealed_langevin_steps,
    classifier_guided,
    constant_schedule,
    cosine_schedule,
    ddim_flow,
    ddim_inverse_steps,
    ddim_steps,
    ddpm_steps,
    dpm_steps,
    dps_steps,
    dsm_loss,
    first_sigma,
    geometric_sigmas,
    guided,
    heun_steps,
    inpaint_steps,
    ism_loss,
    jsd_schedule,
    linear_schedule,
    min_snr_weights,
    ode_log_prob,
    ode_steps,
    pc_steps,
    quadratic_schedule,
    ratio_for_overlap,
    reconstruction_guided,
    sample_ddim,
    sample_ddpm,
    sde_log_prob,
    sde_loss,
    sde_ode_sample,
    sde_steps,
    sdedit_steps,
    self_conditioned,
    self_conditioned_loss,
    sigmoid_alpha_bar_schedule,
    sigmoid_beta_schedule,
    ssm_loss,
    step_for_ladder,
    super_resolution_loss,
    super_resolved,
    vlb_loss,
    zero_terminal_snr,
)
from scratchdiff.gradcheck import gradcheck
from scratchdiff.nn import MLP, DiT, UNet
from scratchdiff.optim import EMA, Adam
from scratchdiff.page import save_page
from scratchdiff.recompute import recompute
from scratchdiff.trace import trace, trace_step

if TYPE_CHECKING:  # what `__getattr__` below imports when it is asked for, so that editors know it
    from scratchdiff import checkpoint, kernels, metrics, optim, parallel, plots, recipes, runs, train, weights  # noqa: F401
    from scratchdiff.weights.diffusers import load_diffusers, save_diffusers
    from scratchdiff.weights.openai import load_openai
    from scratchdiff.weights.pretrained import pretrained

__version__ = "0.1.0"

__all__ = ["Adam", "BinomialDiffusion", "Bound", "DiT", "EMA", "GaussianDiffusion", "ImportanceTimes", "MLP", "Oracle",
           "SAMPLERS", "Schedule", "SubVPSDE", "Tape", "Tensor", "UNet", "VESDE", "VPSDE", "annealed_langevin_steps",
           "checkup", "classifier_guided", "constant_schedule", "cosine_schedule", "data", "ddim_flow", "ddim_inverse_steps",
           "ddim_steps", "ddpm_steps", "diffusion", "dpm_steps", "dps_steps", "dsm_loss", "first_sigma",
           "geometric_sigmas", "gradcheck", "guided", "heun_steps", "inpaint_steps", "ism_loss", "jsd_schedule",
           "linear_schedule", "load_diffusers", "load_openai", "min_snr_weights", "nn", "ode_log_prob", "ode_steps",
           "op", "ops", "pc_steps", "pretrained", "quadratic_schedule", "ratio_for_overlap", "recompute",
           "reconstruction_guided", "sample_ddim", "sample_ddpm", "save_diffusers", "save_page", "sde_log_prob", "sde_loss",
           "sde_ode_sample", "sde_steps", "sdedit_steps", "self_conditioned", "self_conditioned_loss",
           "sigmoid_alpha_bar_schedule", "sigmoid_beta_schedule", "ssm_loss", "step_for_ladder",
           "super_resolution_loss", "super_resolved", "trace", "trace_step", "vlb_loss", "zero_terminal_snr"]  # fmt: skip


LAZY = "checkpoint", "kernels", "metrics", "optim", "parallel", "plots", "recipes", "runs", "train", "weights"
WEIGHTS = {"load_diffusers": "diffusers", "load_openai": "openai", "pretrained": "pretrained", "save_diffusers": "diffusers"}


def drawn_by(name: str):
    """`_repr_png_`, which a notebook calls, by the function of `plots.py` of this name: imported only then."""
    return lambda self: getattr(import_module("scratchdiff.plots"), name)(self)


# pyright: reportAttributeAccessIssue=false
Schedule._repr_png_, Bound._repr_png_ = drawn_by("png_of_schedule"), drawn_by("png_of_bound")


def __getattr__(name):
    """`sd.metrics` and `sd.plots` bring in SciPy and matplotlib, so they are imported when first asked for."""
    if name in LAZY:
        return import_module(f"scratchdiff.{name}")
    if name in WEIGHTS:
        return getattr(import_module(f"scratchdiff.weights.{WEIGHTS[name]}"), name)
    raise AttributeError(f"module 'scratchdiff' has no attribute {name!r}")
