"""Recipes build what they say, also after a trip through JSON."""

import json

import numpy as np
import pytest

from scratchdiff import recipes


@pytest.mark.parametrize(
    "recipe", [recipes.MNIST, recipes.UNCONDITIONAL, recipes.TOY, recipes.for_images(28, 3), recipes.for_images(30, 1)]
)
def test_a_recipe_survives_json_and_builds_a_model_that_runs(recipe, rng):
    recipe = json.loads(json.dumps(recipe))
    model, diffusion = recipes.build(recipe, rng)
    args = recipe["network_args"]
    shape = (2,) if recipe["network"] == "MLP" else (args["image_size"], args["image_size"], args["in_channels"])
    assert diffusion.loss(model, np.zeros((3, *shape), np.float32), rng).item() >= 0
    assert (diffusion.predict, diffusion.schedule.T) == (recipe["predict"], recipe["T"])


@pytest.mark.parametrize("recipe", [recipes.MNIST, recipes.TOY])
def test_a_learned_variance_doubles_the_output_and_trains(recipe, rng):
    model, diffusion = recipes.build(recipes.with_variance(recipe, "learned"), rng)
    x0 = np.zeros((2, 2), np.float32) if recipe is recipes.TOY else -np.ones((2, 28, 28, 1), np.float32)
    assert model(x0, np.array([1, 2])).shape == (*x0.shape[:-1], 2 * x0.shape[-1])
    assert np.isfinite(diffusion.loss(model, x0, rng).item())


@pytest.mark.parametrize("name", recipes.SCHEDULES)
def test_every_schedule_can_be_named_in_a_recipe(name, rng):
    assert recipes.build(recipes.TOY | dict(schedule=name, predict="v"), rng)[1].schedule.T == 1000


def test_groups_take_the_place_of_classes_and_their_shares_those_of_the_data(rng):
    images = np.linspace(-1, 1, 100, dtype=np.float32)[:, None, None, None] * np.ones((28, 28, 1), np.float32)
    groups, recipe = recipes.with_groups(recipes.UNCONDITIONAL, images, rng)
    assert groups.shape == (100,) and recipe["network_args"]["num_classes"] == len(recipe["shares"]) == 64
    np.testing.assert_allclose(recipe["shares"], [np.mean(groups == j) for j in range(64)], atol=1e-15)
    model, diffusion = recipes.build(json.loads(json.dumps(recipe)), rng)
    assert np.isfinite(diffusion.loss(model, images, rng, labels=groups).item())


def test_what_a_recipe_lacks_is_named(rng):
    with pytest.raises(ValueError, match="build: the recipe lacks or mistakes 'schedule'"):
        recipes.build({"network": "UNet"}, rng)
    with pytest.raises(ValueError, match="build: .*widht"):
        recipes.build(recipes.TOY | dict(network_args=dict(widht=3)), rng)


def test_odd_image_sizes_are_refused():
    with pytest.raises(ValueError, match="size must be even, got 27"):
        recipes.for_images(27, 1)
