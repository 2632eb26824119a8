"""`callbacks.Geometry`: its figures are those of the features, and the training is as without it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import augment, losses
from keras_contrastive.callbacks import Geometry
from keras_contrastive.layers import VALIDATION_STEP
from keras_contrastive.model import ContrastiveModel
from tests.oracles import evaluation as oracle

KEYS = {"alignment", "uniformity", "effective_rank"}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), np.uint8)


def encoder(width=5) -> keras.Model:
    """With everything that an inference pass could disturb: dropout and batch statistics."""
    return keras.Sequential(
        [
            keras.layers.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(width),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )


def contrastive_model(recipe=None, **options) -> ContrastiveModel:
    model = ContrastiveModel(
        encoder(), losses.NTXentLoss(), augment=recipe, seed=5, **options
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    return model


def fit(model, images, callbacks, epochs=1):
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(10)
    return model.fit(
        dataset, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    ).history


def expected(features, views=None) -> dict:
    values = {
        "uniformity": oracle.uniformity(features, t=2),
        "effective_rank": oracle.effective_rank(features),
    }
    if views is not None:
        values["alignment"] = oracle.alignment(*views, alpha=2)
    return values


def assert_close(history, values):
    assert {key: history[key][-1] for key in KEYS & set(history)} == pytest.approx(
        values, rel=1e-4
    )  # features are float32


@pytest.mark.parametrize("batch_size", [7, 256], ids=["uneven batches", "one batch"])
def test_geometry_is_that_of_features_and_of_the_validation_views(images, batch_size):
    recipe = augment.Recipe([augment.RandomFlip()])
    model = contrastive_model(recipe)
    history = fit(model, images, [Geometry(images, batch_size=batch_size)])
    starts = range(0, len(images), batch_size)
    views = np.concatenate(
        [
            model.make_views(
                tf.constant(images[at : at + batch_size]), VALIDATION_STEP
            ).numpy()
            for at in starts
        ]
    )
    rows = [model.predict(views[:, view], verbose=0) for view in range(2)]
    assert_close(history, expected(model.predict(images, verbose=0), rows))


def test_geometry_of_given_views_takes_the_first_two(images):
    model, views = contrastive_model(), images.reshape(10, 3, 4, 4, 1)
    history = fit(model, views, [Geometry(views)])
    rows = [model.predict(views[:, view], verbose=0) for view in range(2)]
    assert_close(history, expected(rows[0], rows))


def test_geometry_without_two_views_has_no_alignment(images):
    single = augment.Recipe([augment.RandomFlip()], num_views=1)
    model = ContrastiveModel(encoder(), losses.NTXentLoss(), augment=single)
    geometry = Geometry(images)
    for watched in (model, encoder(), contrastive_model()):
        geometry.set_model(watched)
        assert set(geometry.measure()) == KEYS - {"alignment"}


def test_geometry_of_a_plain_model_is_that_of_its_outputs(images):
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Rescaling(1 / 255), encoder()]
    )
    model.compile(optimizer="sgd", loss="mse", jit_compile=False)
    targets = np.zeros((30, 5), np.float32)
    history = model.fit(
        images, targets, verbose=0, callbacks=[Geometry(images)]
    ).history
    assert_close(history, expected(model.predict(images, verbose=0)))


def test_geometry_leaves_the_training_as_it_would_have_been(images):
    weights = []
    for callbacks in ([], [Geometry(images, batch_size=7)]):
        keras.utils.set_random_seed(3)  # of the initial weights, and of dropout
        model = contrastive_model(augment.Recipe([augment.RandomFlip()]))
        fit(model, images, callbacks, epochs=3)
        weights.append(model.get_weights())
    for without, with_geometry in zip(*weights):
        np.testing.assert_array_equal(without, with_geometry)


def test_geometry_traces_once_for_all_epochs_and_batches(images):
    traced = []

    class Counting(keras.layers.Layer):
        def call(self, inputs, training=False):
            traced.append(training)
            return inputs

    model = keras.Sequential([keras.layers.Input((4, 4, 1)), Counting(), encoder()])
    geometry = Geometry(images, batch_size=7)
    geometry.set_model(model)
    before = len(traced)
    for _ in range(3):
        geometry.measure()
    assert len(traced) == before + 1


def test_geometry_of_every_second_epoch_leaves_the_others_out(images):
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(KEYS <= set(logs))
    )
    model = contrastive_model(augment.Recipe([augment.RandomFlip()]))
    fit(model, images, [Geometry(images, every=2), watch], epochs=4)
    assert seen == [False, True, False, True]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_geometry_under_mixed_precision_is_within_its_bounds(images, policy):
    keras.mixed_precision.set_global_policy(policy)
    model = contrastive_model(augment.Recipe([augment.RandomFlip()]))
    history = fit(model, images, [Geometry(images)])
    assert 0 <= history["alignment"][0] <= 4
    assert -8 <= history["uniformity"][0] <= 0
    assert 1 <= history["effective_rank"][0] <= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((1, 4, 4, 1))}, r"`images` must hold at least two images"),
        ({"images": np.zeros(8)}, r"`images` must hold .* images.shape=\(8,\)"),
        ({"every": 0}, r"`every` must be an integer >= 1"),
        ({"batch_size": 2.5}, r"`batch_size` must be an integer >= 1"),
    ],
    ids=["one", "shape", "every", "batch_size"],
)
def test_geometry_of_what_cannot_work_is_refused_before_training(
    images, change, message
):
    with pytest.raises(ValueError, match=message):
        Geometry(**{"images": images, **change})
