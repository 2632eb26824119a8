"""Recipes: what they put together, and augmentation in the step against the pipeline."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.test_model import images

PART = kc.data.Part(images(32, size=8, channels=3))


def encoder():
    keras.utils.set_random_seed(0)
    return kc.encoders.conv_net((8, 8, 3))


def test_simclr_pairs_nt_xent_with_a_projection_head_and_two_views():
    model = kc.recipes.simclr(encoder(), temperature=0.3, projection_dim=17, seed=4)
    assert isinstance(model.loss_layer.loss, kc.losses.NTXentLoss)
    assert model.loss_layer.loss.temperature == 0.3
    assert model.head.output_shape == (None, 17)
    assert (model.augment.num_views, model.seed) == (2, 4)


def test_siamese_compares_features_by_margin_with_adam():
    model = kc.recipes.siamese(encoder(), margin=2.0)
    assert model.loss_layer.loss.margin == 2.0
    assert model.head is None
    assert float(np.asarray(model.optimizer.learning_rate)) == pytest.approx(1e-3)


def test_steps_give_a_schedule_that_warms_up_and_ends_at_zero():
    rate = kc.recipes.simclr(
        encoder(), learning_rate=0.01, steps=100
    ).optimizer._learning_rate
    assert float(rate(5)) == pytest.approx(0.01)  # a twentieth of the steps
    assert float(rate(2)) == pytest.approx(0.01 * 2 / 5)
    assert float(rate(100)) == pytest.approx(0, abs=1e-9)


def test_recipe_table_gives_what_a_script_needs():
    entry = kc.recipes.get("siamese")
    assert entry.epochs == 100
    ids = next(iter(entry.dataset(PART, 4, seed=0, epoch=0, step=0)))[1]
    assert ids.shape == (4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be a finite number > 0"),
        (
            {"learning_rate": float("nan")},
            "`learning_rate` must be a finite number > 0",
        ),
        (
            {"augment_on": "gpu"},
            "`augment_on` must be one of 'auto', 'step', 'pipeline'",
        ),
    ],
    ids=["temperature", "learning_rate", "augment_on"],
)
def test_bad_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kc.recipes.simclr(encoder(), **options)


def test_encoder_of_images_that_are_not_square_needs_a_recipe():
    with pytest.raises(ValueError, match="`augment` must be given"):
        kc.recipes.simclr(kc.encoders.conv_net((8, 12, 1)))


def test_views_of_the_pipeline_are_those_of_the_step_rounded():
    recipe = kc.augment.simclr(8)
    dataset = kc.augment.map_dataset(kc.data.batches(PART, 8), recipe, seed=5, step=7)
    plain = kc.data.batches(PART, 8)
    for epoch in range(2):  # the count of steps goes on over the passes
        for number, ((views, ids), (batch, plain_ids)) in enumerate(
            zip(dataset, plain)
        ):
            expected = kc.augment.views(batch, 2, recipe, 5, 7 + 4 * epoch + number)
            assert views.dtype == tf.uint8
            # Half a level of rounding, and the last place of the arithmetic.
            np.testing.assert_allclose(views / 255, expected, atol=0.5 / 255 + 1e-5)
            np.testing.assert_array_equal(ids, plain_ids)


def test_validation_views_of_the_pipeline_are_fixed_and_those_of_test_step():
    model = kc.recipes.simclr(encoder(), seed=3)
    fixed = kc.data.batches(PART, 8).cache()
    mapped = kc.augment.map_dataset(fixed, model.augment, seed=3, step=None)
    in_step = model.evaluate(fixed, verbose=0, return_dict=True)
    piped = kc.recipes.simclr(model.encoder, augment_on="pipeline", seed=3)
    piped.head.set_weights(model.head.get_weights())
    in_pipeline = piped.evaluate(mapped, verbose=0, return_dict=True)
    assert in_pipeline["loss"] == pytest.approx(
        in_step["loss"], rel=1e-2
    )  # 8-bit views
    again = piped.evaluate(mapped, verbose=0, return_dict=True)
    assert again == in_pipeline
