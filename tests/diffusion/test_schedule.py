"""The schedules have the values their papers state, and the conventions of the package."""

import warnings

import numpy as np
import pytest

import scratchdiff as sd

MAKERS = [sd.linear_schedule, sd.cosine_schedule, sd.quadratic_schedule, sd.constant_schedule, sd.jsd_schedule,
          sd.sigmoid_beta_schedule, sd.sigmoid_alpha_bar_schedule]  # fmt: skip
every_maker = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


@pytest.mark.parametrize(
    "schedule", [*(make() for make in MAKERS), sd.linear_schedule(7, 0.1, 0.95), sd.cosine_schedule(1), sd.jsd_schedule(1),
                 sd.zero_terminal_snr(sd.linear_schedule())]
)  # fmt: skip
def test_index_zero_means_no_noise_and_alpha_bar_is_the_product_of_the_alphas(schedule):
    s = schedule
    assert s.beta.shape == s.alpha.shape == s.alpha_bar.shape == (s.T + 1,)
    assert s.beta[0] == 0 and s.alpha[0] == s.alpha_bar[0] == 1 and s.alpha_bar.dtype == np.float64
    for t in range(1, s.T + 1):
        assert s.alpha_bar[t] == pytest.approx(s.alpha_bar[t - 1] * (1 - s.beta[t]), rel=1e-13, abs=1e-300)
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


def test_the_square_roots_of_the_quadratic_betas_are_equally_spaced():
    s = sd.quadratic_schedule(1000, 1e-4, 0.02)
    assert (s.beta[1], s.beta[-1]) == (pytest.approx(1e-4), pytest.approx(0.02))
    np.testing.assert_allclose(np.diff(np.sqrt(s.beta[1:])), (np.sqrt(0.02) - 0.01) / 999, rtol=1e-9)


def test_a_constant_beta_makes_alpha_bar_a_power():
    s = sd.constant_schedule(1000, 0.01)
    np.testing.assert_allclose(s.alpha_bar, 0.99 ** np.arange(1001), rtol=1e-11)


def test_the_2015_schedule_destroys_an_equal_share_at_each_step_and_ends_at_beta_1():
    s = sd.jsd_schedule(1000)
    np.testing.assert_allclose(s.alpha_bar, 1 - np.arange(1001) / 1000, atol=1e-12)
    assert s.beta[1] == 1 / 1000 and s.beta[-1] == 1 and s.alpha_bar[-1] == 0


def test_the_sigmoid_schedules_are_s_shaped_the_one_in_beta_the_other_in_alpha_bar():
    s = sd.sigmoid_beta_schedule(1001, 0.001, 0.021)
    np.testing.assert_allclose(np.log((s.beta[1:] - 0.001) / (0.021 - s.beta[1:])), np.linspace(-6, 6, 1001), atol=1e-9)
    assert s.beta[501] == pytest.approx(0.011)  # half-way, σ(0) = 1/2
    s = sd.sigmoid_alpha_bar_schedule(1000, -3, 3, tau=0.7)
    ends = 1 / (1 + np.exp(np.array([3, -3]) / 0.7))
    f = s.alpha_bar[:-1] * (ends[1] - ends[0]) + ends[0]  # σ(−l/τ); the last was limited by β ≤ 0.999
    np.testing.assert_allclose(np.log(f / (1 - f)), -np.linspace(-3, 3, 1001)[:-1] / 0.7, atol=1e-8)
    assert s.alpha_bar[500] == pytest.approx(0.5) and s.beta[-1] == 0.999


def test_zero_terminal_snr_shifts_and_stretches_the_root_of_alpha_bar_to_end_at_nothing():
    s = sd.linear_schedule()
    z = sd.zero_terminal_snr(s)
    assert z.alpha_bar[-1] == 0 and z.beta[-1] == 1 and z.T == 1000
    assert z.alpha_bar[1] == pytest.approx(s.alpha_bar[1], rel=1e-12)
    line = np.polyfit(np.sqrt(s.alpha_bar[1:]), np.sqrt(z.alpha_bar[1:]), 1)
    np.testing.assert_allclose(np.sqrt(z.alpha_bar[1:]), np.polyval(line, np.sqrt(s.alpha_bar[1:])), atol=1e-9)
    with pytest.raises(ValueError, match="zero_terminal_snr: needs a schedule of at least two steps"):
        sd.zero_terminal_snr(sd.jsd_schedule(1))


@pytest.mark.parametrize("T, beta_end, left", [(300, 0.02, "0.048"), (1000, 1e-4, "0.9"), (40, 0.02, "0.67")])
def test_an_x_T_that_is_not_noise_is_warned_of_in_one_line_that_names_alpha_bar_T(T, beta_end, left):
    with pytest.warns(UserWarning, match=f"Schedule: ᾱ_T = {left} after T = {T} steps") as caught:
        sd.linear_schedule(T, 1e-4, beta_end)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


@every_maker
def test_the_schedules_as_published_end_in_noise_and_do_not_warn(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make().alpha_bar[-1] < 1e-3


def test_the_arrays_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        sd.linear_schedule().alpha_bar[0] = 0


@pytest.mark.parametrize("betas", [[], [1.0, 0.1], [0.1, 1.1], [0.0, 0.1], [[0.1]], [np.nan]])
def test_betas_outside_zero_to_one_are_refused(betas):
    with pytest.raises(ValueError, match="Schedule: betas must be"):
        sd.Schedule(betas)


@every_maker
@pytest.mark.parametrize("T", [0, -3, 2.5])
def test_a_number_of_steps_that_is_no_positive_integer_is_refused(make, T):
    with pytest.raises(ValueError, match="T must be a positive integer"):
        make(T)


def test_a_negative_s_is_refused():
    with pytest.raises(ValueError, match="cosine_schedule: s"):
        sd.cosine_schedule(10, s=-0.1)


@pytest.mark.parametrize("make", [sd.quadratic_schedule, sd.sigmoid_beta_schedule])
@pytest.mark.parametrize("ends", [(0, 0.02), (1e-4, 1), (-0.1, 0.02)])
def test_ends_outside_zero_to_one_are_refused(make, ends):
    with pytest.raises(ValueError, match=f"{make.__name__}: beta_start and beta_end must lie in"):
        make(10, *ends)


@pytest.mark.parametrize("wrong", [dict(start=3, end=3), dict(tau=0)])
def test_a_sigmoid_that_does_not_fall_is_refused(wrong):
    with pytest.raises(ValueError, match="sigmoid_alpha_bar_schedule: needs start < end and tau > 0"):
        sd.sigmoid_alpha_bar_schedule(10, **wrong)


def test_the_betas_that_a_schedule_is_made_of_stay_the_callers_own():
    betas = np.full(10, 0.5)
    schedule = sd.Schedule(betas)
    betas[0] = 0.1
    assert schedule.betas[0] == 0.5
