"""A recipe that changes as training goes on."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_contrastive as kc
from keras_contrastive import augment


def images_of(n=4, side=16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def two_sizes(boundary=3) -> augment.PiecewiseRecipe:
    return augment.PiecewiseRecipe([boundary], [augment.weak(8), augment.weak(12)])


@pytest.mark.parametrize(
    ("step", "side"), [(0, 8), (2, 8), (3, 12), (1000, 12), (-1, 12)]
)
def test_views_are_those_of_the_recipe_whose_turn_it_is(step, side):
    images = images_of()
    found = augment.views(images, None, two_sizes(), 5, step)
    expected = augment.views(images, None, augment.weak(side), 5, step)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_comes_back_from_its_configuration():
    recipe = kc.augment.PiecewiseRecipe.from_config(two_sizes().get_config())
    assert recipe.boundaries == [3] and recipe.num_views == 2
    assert [each.operations[0].size for each in recipe.recipes] == [(8, 8), (12, 12)]


def test_every_image_of_a_batch_of_views_is_drawn_once():
    images = images_of(8).reshape(4, 2, 16, 16, 3)
    assert augment.views(images, None, two_sizes(), 0, 3).shape == (4, 2, 12, 12, 3)


def test_training_goes_through_the_change_and_through_a_file(tmp_path):
    model = kc.ContrastiveModel(
        kc.encoders.small_resnet((None, None, 3)),
        kc.losses.NTXentLoss(),
        augment=two_sizes(2),
    )
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    batches = kc.data.batches(kc.data.Part(images_of(16)), 4, seed=0)
    model.fit(batches, epochs=1, shuffle=False, verbose=0)
    sides = [model.make_views(images_of(), step).shape[2] for step in (1, 2, -1)]
    assert sides == [8, 12, 12]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.augment.boundaries == [2]
    np.testing.assert_allclose(loaded(images_of()), model(images_of()), atol=1e-6)


WEAK = augment.weak(8)
ONE = augment.Recipe([augment.RandomFlip()], num_views=1)


@pytest.mark.parametrize(
    ("boundaries", "recipes", "message"),
    [
        ([1], [WEAK], "must be one more than `boundaries`"),
        ([0], [WEAK, WEAK], "must be ascending"),
        ([5, 5], [WEAK] * 3, "must be ascending"),
        ([5], [WEAK, ONE], "the same number of views"),
        ([5], [WEAK, two_sizes()], "must be a list of"),
        ([5], [WEAK, "weak"], "must be a list of"),
    ],
)
def test_what_does_not_fit_is_refused(boundaries, recipes, message):
    with pytest.raises(ValueError, match=message):
        augment.PiecewiseRecipe(boundaries, recipes)


def test_recipes_of_several_sizes_are_refused():
    recipe = augment.PiecewiseRecipe([1], [augment.multi_crop(16)] * 2)
    with pytest.raises(ValueError, match="of one size"):
        augment.views(images_of(), None, recipe, 0, 0)


@pytest.mark.parametrize(
    ("options", "boundaries"),
    [({"steps": 100}, [50]), ({"steps": 100, "grow": 0.2}, [20])],
)
def test_fast_views_grow(options, boundaries):
    recipe = augment.fast(32, **options)
    assert recipe.boundaries == boundaries
    sizes = [each.operations[0].size for each in recipe.recipes]
    assert sizes == [(16, 16), (24, 24)]


@pytest.mark.parametrize("options", [{}, {"steps": 1}, {"steps": 100, "grow": 0.0}])
def test_fast_views_without_time_to_grow_have_three_quarters(options):
    assert augment.fast(32, **options).operations[0].size == (24, 24)


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 9, "grow": 1.5}])
def test_fast_views_refuse(options):
    with pytest.raises(ValueError, match="must be"):
        augment.fast(32, **options)
