"""Diffusion itself. The files in reading order; each imports only from those before it:

schedule.py     how much noise at each step
weighting.py    which t counts how much in a loss
bound.py        the variational bound, term by term
gaussian.py     the process q, its reversal p, and the training loss
samplers.py     down the chain: DDPM, DDIM, predictor–corrector
solvers.py      the probability-flow ODE: Heun, DPM-Solver++, SciPy
guidance.py     samples of a given class, with a classifier or without
measurements.py samples of which a part, or a blurred or small picture, is known
self_conditioning.py    a network that is shown its own last estimate
super_resolution.py     a network that is shown a small image
editing.py      from an image instead of noise: SDEdit, inversion, interpolation
oracle.py       data whose best denoiser is a formula
likelihood.py   log-densities by the ODE
score.py        score matching over a ladder of noise levels, annealed Langevin dynamics
sde.py          the same in continuous time: VP, sub-VP and VE SDEs
binomial.py     diffusion over bits
flow.py         the deterministic sampler as a differentiable map
"""

from scratchdiff.diffusion.binomial import BinomialDiffusion
from scratchdiff.diffusion.bound import Bound, vlb_loss
from scratchdiff.diffusion.editing import ddim_inverse_steps, interpolate, sdedit_steps, slerp
from scratchdiff.diffusion.flow import ddim_flow
from scratchdiff.diffusion.gaussian import GaussianDiffusion
from scratchdiff.diffusion.guidance import classifier_guided, guided, of_x0_hat
from scratchdiff.diffusion.likelihood import bits_per_dim, dequantised, ode_log_prob
from scratchdiff.diffusion.measurements import (
    blurred,
    downsampled,
    dps_steps,
    inpaint_steps,
    matrix_of,
    reconstruction_guided,
)
from scratchdiff.diffusion.oracle import Oracle, loss_at
from scratchdiff.diffusion.samplers import SamplerStep, ddim_steps, ddpm_steps, pc_steps, sample_ddim, sample_ddpm
from scratchdiff.diffusion.schedule import (
    Schedule,
    constant_schedule,
    cosine_schedule,
    jsd_schedule,
    linear_schedule,
    quadratic_schedule,
    sigmoid_alpha_bar_schedule,
    sigmoid_beta_schedule,
    zero_terminal_snr,
)
from scratchdiff.diffusion.score import (
    annealed_langevin_steps,
    dsm_loss,
    first_sigma,
    geometric_sigmas,
    ism_loss,
    ratio_for_overlap,
    ssm_loss,
    step_for_ladder,
)
from scratchdiff.diffusion.sde import (
    VESDE,
    VPSDE,
    SubVPSDE,
    sde_log_prob,
    sde_loss,
    sde_ode_sample,
    sde_steps,
)
from scratchdiff.diffusion.self_conditioning import (
    self_conditioned,
    self_conditioned_loss,
)
from scratchdiff.diffusion.solvers import SAMPLERS, dpm_steps, heun_steps, ode_steps
from scratchdiff.diffusion.super_resolution import (
    super_resolution_loss,
    super_resolved,
)
from scratchdiff.diffusion.weighting import ImportanceTimes, min_snr_weights

__all__ = ["BinomialDiffusion", "Bound", "GaussianDiffusion", "ImportanceTimes", "Oracle", "SAMPLERS", "SamplerStep",
           "Schedule", "SubVPSDE", "VESDE", "VPSDE", "annealed_langevin_steps", "bits_per_dim", "blurred",
           "classifier_guided", "constant_schedule", "cosine_schedule", "ddim_flow", "ddim_inverse_steps",
           "ddim_steps", "ddpm_steps", "dequantised", "downsampled", "dpm_steps", "dps_steps", "dsm_loss",
           "first_sigma", "geometric_sigmas", "guided", "heun_steps", "inpaint_steps", "interpolate", "ism_loss",
           "jsd_schedule", "linear_schedule", "loss_at", "matrix_of", "min_snr_weights", "ode_log_prob", "ode_steps",
           "of_x0_hat", "pc_steps", "quadratic_schedule", "ratio_for_overlap", "reconstruction_guided", "sample_ddim",
           "sample_ddpm", "sde_log_prob", "sde_loss", "sde_ode_sample", "sde_steps", "sdedit_steps",
           "self_conditioned", "self_conditioned_loss", "sigmoid_alpha_bar_schedule", "sigmoid_beta_schedule", "slerp",
           "ssm_loss", "step_for_ladder", "super_resolution_loss", "super_resolved", "vlb_loss",
           "zero_terminal_snr"]  # fmt: skip
