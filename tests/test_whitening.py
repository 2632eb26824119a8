"""Whitened features: against float64 sums over all rows seen, and in a model that trains."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from keras_contrastive.whitening import MEMORY, RIDGE


def rows_of(n=300, dim=6, seed=0) -> np.ndarray:
    """Rows with a mean and a covariance that are far from 0 and 1."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + 3).astype("f4")


def layer_of(dim=6) -> kc.FeatureWhitening:
    layer = kc.FeatureWhitening()
    layer.build((None, dim))
    return layer


def expected_products(rows, mean, covariance) -> np.ndarray:
    """Inner products of whitened rows, by the eigenvectors: no whitening has others."""
    variances, directions = np.linalg.eigh(covariance)
    noise = RIDGE * np.trace(covariance) / len(covariance)
    white = (rows - mean) @ directions / np.sqrt(variances + noise)
    return white @ white.T


def test_before_anything_is_seen_features_stay():
    rows = rows_of()
    np.testing.assert_array_equal(layer_of()(rows), rows)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_averages_are_those_of_all_rows_seen(times):
    seen = [rows_of(100, seed=number) for number in range(times)]
    layer = layer_of()
    for rows in seen:
        layer.observe(rows)
    every = np.concatenate(seen).astype(np.float64)
    mean, covariance = every.mean(axis=0), np.cov(every.T, bias=True)
    np.testing.assert_allclose(layer.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.covariance, covariance, rtol=1e-4, atol=1e-4)
    white = np.asarray(layer(seen[0]), np.float64)
    expected = expected_products(seen[0].astype(np.float64), mean, covariance)
    np.testing.assert_allclose(white @ white.T, expected, rtol=1e-3, atol=1e-3)


def test_what_was_long_ago_is_forgotten():
    layer = layer_of()
    layer.count.assign(MEMORY)
    layer.mean.assign([100.0] * 6)
    rows = rows_of()
    layer.observe(rows)
    expected = 100 + (rows.mean(axis=0) - 100) / MEMORY
    np.testing.assert_allclose(layer.mean, expected, rtol=1e-5)


def broken(value) -> np.ndarray:
    rows = rows_of()
    rows[3, 2] = value
    return rows


@pytest.mark.parametrize(
    "rows",
    [broken(np.nan), broken(np.inf), rows_of()[:0]],
    ids=["nan", "inf", "no_rows"],
)
def test_rows_that_tell_nothing_change_nothing(rows):
    layer = layer_of()
    layer.observe(rows_of())
    before = layer.get_weights()
    layer.observe(rows)
    for weight, its in zip(before, layer.get_weights()):
        np.testing.assert_array_equal(weight, its)


def test_rows_that_are_all_equal_stay_finite():
    layer = layer_of()
    layer.observe(np.ones((10, 6), "f4"))
    assert np.isfinite(layer(np.ones((10, 6), "f4"))).all()


def model_of(**options) -> kc.ContrastiveModel:
    keras.utils.set_random_seed(0)
    model = kc.ContrastiveModel(
        kc.encoders.small_resnet((8, 8, 3)), kc.losses.NTXentLoss(), **options
    )
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    return model


def images_of(*shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    ("shape", "augment"),
    [
        ((70, 8, 8, 3), kc.augment.weak(8)),
        ((70, 2, 8, 8, 3), kc.augment.Recipe([kc.augment.RandomFlip()])),
        ((70, 2, 8, 8, 3), None),
    ],
    ids=["images", "views_to_be_drawn", "views"],
)
def test_model_shows_it_images_as_they_are_served(shape, augment):
    model = model_of(augment=augment, whiten=True)
    images = images_of(*shape)
    model.train_on_batch(images)
    served = images[:64] if images.ndim == 4 else images[:64, 0]
    features = model.encoder(served.astype("f4") / 255, training=False)
    np.testing.assert_allclose(
        model.whitening.mean, np.mean(features, axis=0), rtol=1e-4, atol=1e-6
    )
    expected = model.whitening(features)
    np.testing.assert_allclose(model(served), expected, rtol=1e-4, atol=1e-4)


def test_training_is_the_same_with_and_without():
    weights = []
    for whiten in (False, True):
        model = model_of(augment=kc.augment.weak(8), whiten=whiten)
        for _ in range(2):
            model.train_on_batch(images_of(16, 8, 8, 3))
        weights.append(model.encoder.get_weights())
    for weight, its in zip(*weights):
        np.testing.assert_array_equal(weight, its)


def test_model_comes_back_from_a_file_and_from_an_export(tmp_path):
    model = model_of(augment=kc.augment.weak(8), whiten=True)
    images = images_of(16, 8, 8, 3)
    model.train_on_batch(images)
    expected = model(images)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), expected)
    kc.export.save(model, str(tmp_path / "1"))
    serve = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    found = serve(images=tf.constant(images))["embedding"]
    np.testing.assert_allclose(unit(found), unit(expected), rtol=1e-4, atol=1e-4)


def unit(rows) -> np.ndarray:
    return np.asarray(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
