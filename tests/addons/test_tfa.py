"""Against tensorflow-addons, on the dependency line where it imports."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc

tfa = pytest.importorskip(
    "tensorflow_addons", reason="tensorflow-addons runs on TensorFlow 2.15 only"
)


def triplets(n: int = 6, dim: int = 4) -> list[tf.Tensor]:
    generator = np.random.default_rng(0)
    return [
        tf.constant(generator.normal(0.0, 0.7, (n, dim)), tf.float32) for _ in range(3)
    ]


@pytest.mark.parametrize("margin", [1.0, 3.0])
def test_contrastive_loss_equals_addons_in_value_and_gradient(margin):
    # Addons takes distances, 1 for similar, and has no half: averaged over the 2n pairs, that half comes back.
    sides = triplets()

    def addons(anchor, positive, negative):
        distances = tf.concat(
            [tf.norm(anchor - positive, axis=1), tf.norm(anchor - negative, axis=1)],
            axis=0,
        )
        similar = tf.concat([tf.ones(len(anchor)), tf.zeros(len(anchor))], axis=0)
        return tfa.losses.ContrastiveLoss(margin=margin)(similar, distances)

    def ours(*sides):
        return tf.reduce_mean(kc.losses.contrastive_loss(*sides, margin=margin))

    def value_and_gradients(loss):
        with tf.GradientTape() as tape:
            tape.watch(sides)
            value = loss(*sides)
        return value, tape.gradient(value, sides)

    value, gradients = value_and_gradients(ours)
    expected, expected_gradients = value_and_gradients(addons)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for found, wanted in zip(gradients, expected_gradients):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_contrastive_class_equals_addons_by_rows():
    anchor, positive, negative = triplets()
    distances = tf.concat(
        [tf.norm(anchor - positive, axis=1), tf.norm(anchor - negative, axis=1)], axis=0
    )
    expected = tfa.losses.ContrastiveLoss()(tf.repeat([1.0, 0.0], 6), distances)
    found = kc.losses.ContrastiveLoss()(anchor, positive, negative=negative)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_fit_driven_by_lamb_lowers_the_loss():
    # Two noisy views of 32 points; LAMB scales each step by the layer's norm, so a rate of 0.02 is a 2 % step.
    generator = np.random.default_rng(0)
    points = generator.normal(size=(32, 1, 8))
    views = (points + 0.1 * generator.normal(size=(32, 2, 8))).astype(np.float32)
    data = tf.data.Dataset.from_tensors((views, np.arange(32)))
    encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu")])
    model = kc.ContrastiveModel(
        encoder, kc.losses.NTXentLoss(0.5), head=kc.heads.mlp(8, hidden_dim=16)
    )
    model.compile(tfa.optimizers.LAMB(0.02))
    losses = model.fit(data, epochs=20, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
