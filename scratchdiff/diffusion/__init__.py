"""Diffusion itself: the noise schedule, the process and its reversal, and the samplers."""

from scratchdiff.diffusion.gaussian import GaussianDiffusion
from scratchdiff.diffusion.guidance import guided
from scratchdiff.diffusion.oracle import Oracle
from scratchdiff.diffusion.samplers import SamplerStep, ddim_steps, ddpm_steps, sample_ddim, sample_ddpm
from scratchdiff.diffusion.schedule import Schedule, cosine_schedule, linear_schedule

__all__ = ["GaussianDiffusion", "Oracle", "SamplerStep", "Schedule", "cosine_schedule", "ddim_steps", "ddpm_steps",
           "guided", "linear_schedule", "sample_ddim", "sample_ddpm"]  # fmt: skip
