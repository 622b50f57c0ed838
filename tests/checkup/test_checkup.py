"""The front door: parts in any number, in the program's own conventions; findings that read well; bad input refused."""

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.checkup.findings import Finding, explain, ks_distance, ks_threshold, normal_cdf

SCHEDULE = sd.cosine_schedule(20)
D = sd.GaussianDiffusion(SCHEDULE)
DATA = np.random.default_rng(0).choice([-0.5, 0.4], (400, 2)).astype(np.float32)


def ddpm(diffusion=D):
    return lambda model, shape, rng: sd.sample_ddpm(diffusion, model, shape, rng)


def test_right_parts_alone_or_together_give_no_finding():
    parts = dict(q_sample=D.q_sample, posterior=D.q_posterior, loss=D.loss, sampler=ddpm(), data=DATA)
    for name, part in parts.items():
        found = sd.checkup(schedule=SCHEDULE, **{name: part})
        assert found == [] and found.passed
    together = sd.checkup(schedule=SCHEDULE, **parts)
    assert together == [] and len(together.passed) > 14


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
@pytest.mark.parametrize("shape", [(1,), (5,), (6, 4, 3), (2, 3, 3)])
def test_images_and_points_of_any_shape_and_all_predictions_pass(predict, shape):
    d = sd.GaussianDiffusion(SCHEDULE, predict, images=True)
    found = sd.checkup(schedule=SCHEDULE, q_sample=d.q_sample, posterior=d.q_posterior, loss=d.loss, sampler=ddpm(d),
                       shape=shape, predict=predict, images=True)  # fmt: skip
    assert found == [], found


def from_zero(d):
    """The diffusion as somebody writes it who counts t from 0 and draws by himself."""

    def loss(model, x0):
        rng = np.random.default_rng()
        t, eps = rng.integers(0, d.schedule.T, len(x0)), rng.standard_normal(x0.shape)
        return np.square(model(d.q_sample(x0.astype(float), t + 1, eps), t) - eps).mean()

    def sampler(model, shape):
        return sd.sample_ddpm(d, lambda xt, t: model(xt, t - 1), shape, np.random.default_rng())

    return dict(
        q_sample=lambda x0, t, eps: d.q_sample(x0, t + 1, eps),
        posterior=lambda x0, xt, t: d.q_posterior(x0, xt, t + 1),
        loss=loss,
        sampler=sampler,
        model=lambda xt, t: xt / (t[:, None] + 1),
    )


def test_a_program_that_counts_from_0_and_draws_by_itself_passes_with_first_t_0():
    found = sd.checkup(schedule=SCHEDULE.betas, first_t=0, **from_zero(D))
    assert found == [], found


def test_a_program_that_counts_from_0_is_told_so():
    found = sd.checkup(schedule=SCHEDULE.betas, first_t=1, **from_zero(D))
    assert {"q_sample", "loss", "sampler"} <= {f.place for f in found}
    assert all("first_t=0" in f.look for f in found if f.what in ("it fails", "t outside of the schedule"))


def test_what_is_missing_is_said_and_a_network_alone_can_be_looked_at():
    found = sd.checkup(model=lambda xt, t: xt * t[:, None])
    assert found == [] and {"uses_the_time", "uses_every_input"} <= set(found.passed)
    assert found.skipped["draws_every_t"] == "it needs loss and a usable schedule"
    assert "    it needs data: data_suit_the_noise\n" in str(found)


def test_an_exception_of_the_program_is_a_finding_that_quotes_it():
    (finding,) = sd.checkup(schedule=SCHEDULE, q_sample=lambda x0, t, eps: [][1])
    assert finding.place == "q_sample" and "IndexError" in finding.seen


def test_a_finding_says_what_was_expected_what_was_seen_how_sure_and_where_to_look():
    (finding,) = sd.checkup(schedule=np.linspace(1e-4, 0.02, 50))
    text = str(finding)
    assert text.startswith("✗ schedule: x_T is not noise\n")
    assert all(word in text for word in ("expected", "seen", "ᾱ_T = 0.6", "how sure", "certain", "look at"))
    assert "less than one checkup in 10,000" in finding._replace(chance=1e-4).sure


def test_the_report_counts_findings_passed_checks_and_those_not_done():
    report = str(sd.checkup(schedule=np.linspace(1e-4, 0.02, 50)))
    assert report.startswith("1 finding; 4 checks passed, 24 not done\n\n✗ schedule")
    assert max(map(len, report.splitlines())) <= 130


def test_the_same_rng_gives_the_same_report_and_no_detector_depends_on_which_others_ran():
    bad = dict(schedule=SCHEDULE, sampler=lambda model, shape, rng: ddpm()(model, shape, rng) + 0.1)
    alone, again = (sd.checkup(**bad, rng=np.random.default_rng(3)) for _ in range(2))
    more = sd.checkup(**bad, loss=D.loss, rng=np.random.default_rng(3))
    assert str(alone) == str(again)
    assert list(alone) == [f for f in more if f.place == "sampler"] and alone


def test_ks_distance_is_scipys_and_its_threshold_holds_for_right_draws():
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(0).standard_normal((30, 10))
    assert ks_distance(x, normal_cdf) == pytest.approx(stats.kstest(x.ravel(), "norm").statistic)
    assert stats.kstwo.sf(ks_threshold(4096), 4096) <= 1e-4


def test_explain_names_the_first_mistake_that_gives_what_was_seen():
    known = {"squares": np.array([1.0, 4.0]), "halves": np.array([0.5, 1.0])}
    assert explain(np.array([0.5, 1.0]), known) == ": these are halves" and explain(np.array([3.0, 3.0]), known) == ""


def test_a_checkup_of_findings_is_false_where_nothing_was_found():
    assert not sd.checkup(schedule=SCHEDULE) and isinstance(sd.checkup(schedule=np.full(3, 2.0))[0], Finding)
