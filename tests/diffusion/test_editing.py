"""Editing: inversion undoes sampling, slerp is a rotation, SDEdit keeps as much of an image as its strength says."""

from itertools import pairwise

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.diffusion.editing import interpolate, slerp
from scratchdiff.diffusion.samplers import ddim_from, last, spaced

DIFFUSION = sd.GaussianDiffusion(sd.cosine_schedule(), "v")
ORACLE = sd.Oracle(DIFFUSION, np.array([[1.0, 0.5], [-0.8, -1.0]]), 0.1)


def test_inversion_and_ddim_come_back_with_an_error_of_first_order(rng):
    x0, errors = ORACLE.sample(50, rng), []
    for steps in (50, 100, 200):
        xT = last(sd.ddim_inverse_steps(DIFFUSION, ORACLE, x0, steps)).x
        back = last(ddim_from(DIFFUSION, ORACLE, xT, None, pairwise(spaced("", 1000, steps)[::-1]))).x
        errors.append(np.abs(back - x0).mean())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] < 0.02 and (np.abs(orders - 1) < 0.25).all()


def test_the_noise_of_an_image_is_normal(rng):
    xT = last(sd.ddim_inverse_steps(DIFFUSION, ORACLE, ORACLE.sample(4000, rng), 200)).x
    np.testing.assert_allclose(np.cov(xT.T), np.eye(2), atol=0.08)
    np.testing.assert_allclose(xT.mean(0), 0, atol=0.05)


def test_inversion_yields_its_steps_upwards(rng):
    assert [s.t for s in sd.ddim_inverse_steps(DIFFUSION, ORACLE, np.zeros((1, 2)), 4)] == [250, 500, 750, 1000]


def test_slerp_turns_one_vector_into_the_other_at_even_angles(rng):
    a, b = rng.standard_normal((2, 3, 5, 4))
    unit_a, unit_b = (v / np.linalg.norm(v.reshape(3, -1), axis=1).reshape(3, 1, 1) for v in (a, b))
    theta = np.arccos((unit_a * unit_b).sum((1, 2)))
    for w in (0, 0.25, 1.0):
        between = slerp(unit_a, unit_b, w)
        np.testing.assert_allclose(np.square(between).sum((1, 2)), 1)
        np.testing.assert_allclose(np.arccos(np.clip((between * unit_a).sum((1, 2)), -1, 1)), w * theta, atol=1e-7)
    np.testing.assert_allclose(slerp(a, b, 0.0), a)
    np.testing.assert_allclose(slerp(a, b, [0.0, 1.0, 1.0])[1:], b[1:])
    np.testing.assert_allclose(slerp(a, a, 0.3), a)


def test_interpolation_begins_and_ends_at_the_two_images(rng):
    a, b = ORACLE.sample(6, rng).reshape(2, 3, 2)
    path = interpolate(DIFFUSION, ORACLE, a, b, [0, 0.5, 1], steps=200)
    assert path.shape == (3, 3, 2)
    np.testing.assert_allclose(path[[0, 2]], [a, b], atol=0.06)


def test_a_stronger_edit_keeps_less_of_the_image(rng):
    x0, kept = ORACLE.sample(2000, rng), []
    for strength in (0.02, 0.3, 1.0):
        x = last(sd.sdedit_steps(DIFFUSION, ORACLE, x0, strength, rng)).x
        kept.append(np.corrcoef(x[:, 0], x0[:, 0])[0, 1])
    assert kept[0] > 0.99 > kept[1] > 0.5 and abs(kept[2]) < 0.1


def test_an_edit_starts_at_the_strength_and_asks_that_share_of_the_steps():
    assert [s.t for s in sd.sdedit_steps(DIFFUSION, ORACLE, np.zeros((1, 2)), 0.3, np.random.default_rng(0), 10)] == [
        200,
        100,
        0,
    ]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_edit_of_any_data_has_the_datas_law_at_full_strength(eta, rng):
    x = last(sd.sdedit_steps(DIFFUSION, ORACLE, np.full((3000, 2), 5.0), 1.0, rng, steps=100, eta=eta)).x
    np.testing.assert_allclose(x.mean(0), ORACLE.means.mean(0), atol=0.1)
