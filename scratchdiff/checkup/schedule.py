"""Is the noise schedule one? Exact checks of β_1..β_T and of the program's own ᾱ_1..ᾱ_T, both (T,)."""

import numpy as np

from scratchdiff.checkup.findings import Finding, explain
from scratchdiff.diffusion.schedule import NOISE_AT_T


def betas_are_variances(betas):
    """0 < β_t < 1 for every t, but β_T = 1 is allowed. Exact; every violation is found."""
    wrong = ~((betas > 0) & (betas < 1)) & ~((np.arange(len(betas)) == len(betas) - 1) & (betas == 1))
    if wrong.any():
        first = int(wrong.argmax())
        return Finding(
            "schedule",
            "a β lies outside (0, 1)",
            expected="0 < β_t < 1, since q(x_t | x_{t−1}) = N(√(1−β_t) x_{t−1}, β_t I)",
            seen=f"β_{first + 1} = {betas[first]:.4g}, the first of {wrong.sum()} such",
            look="where β is made",
        )


def alpha_bar_is_the_product(betas, alpha_bar):
    """ᾱ_t = (1−β_1)···(1−β_t) for every t. Exact: a deviation of 1e-3, of its own size, is found."""
    right = np.cumprod(1 - betas)
    if np.shape(alpha_bar) == np.shape(right) and np.allclose(alpha_bar, right, rtol=1e-3, atol=1e-6):
        return None
    if np.shape(alpha_bar) != np.shape(right):
        return Finding(
            "schedule",
            "β and ᾱ have different lengths",
            expected=f"{len(right)} of each, for t = 1..T",
            seen=f"{len(betas)} β and {len(alpha_bar)} ᾱ",
            look="does one of them count t from 0?",
        )
    known = {"roots √ᾱ_t": np.sqrt(right), "squares ᾱ_t²": right**2, "products of β_t, not of 1−β_t": np.cumprod(betas),
             "ᾱ_{t−1}, one step late": np.concatenate([[1], right[:-1]]), "1−ᾱ_t": 1 - right,
             "α_t = 1−β_t, of one step": 1 - betas}  # fmt: skip
    worst = int(np.abs(alpha_bar - right).argmax())
    return Finding(
        "schedule",
        "ᾱ is not the product of 1−β",
        expected=f"ᾱ_{worst + 1} = {right[worst]:.4g}",
        seen=f"{alpha_bar[worst]:.4g}{explain(alpha_bar, known)}",
        look="where ᾱ is made: cumprod(1 − β)",
    )


def noise_only_grows(alpha_bar):
    """1 ≥ ᾱ_1 > ᾱ_2 > ... > ᾱ_T ≥ 0. Exact; every violation is found."""
    rises = np.diff(np.concatenate([[1.0], alpha_bar])) >= 0
    if rises.any() or not alpha_bar[-1] >= 0:
        t = int(rises.argmax()) + 1
        return Finding(
            "schedule",
            "ᾱ does not fall from step to step",
            expected="1 > ᾱ_1 > ... > ᾱ_T ≥ 0: each step only adds noise",
            seen=f"ᾱ_{t} = {alpha_bar[t - 1]:.4g} after {alpha_bar[t - 2] if t > 1 else 1.0:.4g}",
            look="the order of β, and whether ᾱ is a cumulated product",
        )


def ends_in_noise(alpha_bar):
    """ᾱ_T ≤ 0.01, so that at most a tenth of the data's amplitude is left at T. Exact; every violation is found.

    Sampling starts from N(0, I); the term L_T of the bound says what is lost if x_T is something else. β from 1e-4 to 0.02
    (Ho et al. 2020) are made for T = 1000, where ᾱ_T = 4e-5; with T = 50 they leave ᾱ_T = 0.60."""
    left = float(alpha_bar[-1])
    if left > NOISE_AT_T:
        return Finding(
            "schedule",
            "x_T is not noise",
            expected=f"ᾱ_T below {NOISE_AT_T}: sampling starts from N(0, I)",
            seen=f"ᾱ_T = {left:.2g} with T = {len(alpha_bar)}: √ᾱ_T = {np.sqrt(left):.0%} of the data's amplitude is left",
            look="more steps T, or larger β: β from 1e-4 to 0.02 are made for T = 1000",
        )


def noise_can_be_predicted(alpha_bar, predict):
    """ᾱ_T > 0 if the network predicts ε. Exact. (At ᾱ_T = 0, x_T = ε: the answer is a copy, and says nothing of x_0.)"""
    if predict == "eps" and alpha_bar[-1] == 0:
        return Finding(
            "schedule",
            "ᾱ_T = 0, and the network predicts ε",
            expected="with predict='eps', ᾱ_T > 0",
            seen="ᾱ_T = 0",
            look="predict v or x0 with this schedule (Lin et al. 2023, section 3.3)",
        )
