"""The schedules have the values their papers state, and the conventions of the package."""

import numpy as np
import pytest

import scratchdiff as sd


@pytest.mark.parametrize(
    "schedule", [sd.linear_schedule(1000), sd.cosine_schedule(1000), sd.linear_schedule(7), sd.cosine_schedule(1)]
)
def test_index_zero_means_no_noise_and_alpha_bar_is_the_product_of_the_alphas(schedule):
    s = schedule
    assert s.beta.shape == s.alpha.shape == s.alpha_bar.shape == (s.T + 1,)
    assert s.beta[0] == 0 and s.alpha[0] == s.alpha_bar[0] == 1 and s.alpha_bar.dtype == np.float64
    for t in range(1, s.T + 1):
        assert s.alpha_bar[t] == pytest.approx(s.alpha_bar[t - 1] * (1 - s.beta[t]), rel=1e-13)
    assert (np.diff(s.alpha_bar) < 0).all()


def test_the_linear_schedule_runs_from_beta_start_to_beta_end_and_ends_in_noise():
    s = sd.linear_schedule()
    assert (s.T, s.beta[1], s.beta[-1]) == (1000, 1e-4, 0.02)
    np.testing.assert_allclose(np.diff(s.beta[1:]), (0.02 - 1e-4) / 999, rtol=1e-9)
    assert s.alpha_bar[-1] == pytest.approx(4.0358e-5, rel=1e-3)


def test_the_cosine_schedule_follows_its_formula_until_beta_is_clipped():
    s = sd.cosine_schedule(1000)
    t = np.arange(1001)
    f = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(s.alpha_bar[:999], (f / f[0])[:999], rtol=1e-10)
    assert s.beta[-1] == 0.999 and s.beta.max() == 0.999
    assert s.alpha_bar[500] == pytest.approx(0.4938, abs=1e-3)


def test_the_arrays_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        sd.linear_schedule().alpha_bar[0] = 0


@pytest.mark.parametrize("betas", [[], [0.1, 1.0], [0.0, 0.1], [[0.1]], [np.nan]])
def test_betas_outside_zero_to_one_are_refused(betas):
    with pytest.raises(ValueError, match="Schedule: betas must be"):
        sd.Schedule(betas)


@pytest.mark.parametrize("make", [sd.linear_schedule, sd.cosine_schedule])
@pytest.mark.parametrize("T", [0, -3, 2.5])
def test_a_number_of_steps_that_is_no_positive_integer_is_refused(make, T):
    with pytest.raises(ValueError, match="T must be a positive integer"):
        make(T)


def test_a_negative_s_is_refused():
    with pytest.raises(ValueError, match="cosine_schedule: s"):
        sd.cosine_schedule(10, s=-0.1)
