"""Diffusion itself: the noise schedule, the process and its reversal, and the samplers."""

from scratchdiff.diffusion.gaussian import GaussianDiffusion
from scratchdiff.diffusion.guidance import guided
from scratchdiff.diffusion.samplers import SamplerStep, ddim_steps, ddpm_steps, sample_ddim, sample_ddpm
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

__all__ = ["GaussianDiffusion", "SamplerStep", "Schedule", "constant_schedule", "cosine_schedule", "ddim_steps",
           "ddpm_steps", "guided", "jsd_schedule", "linear_schedule", "quadratic_schedule", "sample_ddim", "sample_ddpm",
           "sigmoid_alpha_bar_schedule", "sigmoid_beta_schedule", "zero_terminal_snr"]  # fmt: skip
