"""Against tensorflow-addons, on the dependency line where it imports."""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

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


def batch(n: int = 24, dim: int = 5, classes: int = 4):
    """Unit rows, as addons' users normalise them, with labels of which every one occurs twice or more."""
    generator = np.random.default_rng(1)
    ids = np.concatenate([np.repeat(np.arange(classes), 2), np.zeros(n, int)])[:n]
    ids[2 * classes :] = generator.integers(0, classes, n - 2 * classes)
    return ids, tf.constant(generator.normal(size=(n, dim)), tf.float32)


def value_and_gradient(loss, rows):
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = loss(rows)
    return value, tape.gradient(value, rows)


def assert_equal_to_addons(ours, addons, rows):
    value, gradient = value_and_gradient(ours, rows)
    expected, expected_gradient = value_and_gradient(addons, rows)
    assert np.abs(expected_gradient).max() > 1e-3
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


DISTANCES = {"L2": "euclidean", "squared-L2": "squared_euclidean", "angular": "cosine"}


@pytest.mark.parametrize("theirs", DISTANCES)
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_semi_hard_loss_equals_addons(theirs, margin):
    ids, rows = batch()
    assert_equal_to_addons(
        lambda z: kc.losses.TripletSemiHardLoss(margin, distance=DISTANCES[theirs])(
            ids, z
        ),
        lambda z: tfa.losses.TripletSemiHardLoss(margin, theirs)(ids, z),
        rows,
    )


@pytest.mark.parametrize("theirs", DISTANCES)
@pytest.mark.parametrize("soft", [False, True])
def test_triplet_hard_loss_equals_addons(theirs, soft):
    ids, rows = (
        batch()
    )  # every anchor has a positive: without, addons takes the distance 0, and we leave it out
    assert_equal_to_addons(
        lambda z: kc.losses.TripletHardLoss(0.3, soft, distance=DISTANCES[theirs])(
            ids, z
        ),
        lambda z: tfa.losses.TripletHardLoss(0.3, soft, theirs)(ids, z),
        rows,
    )


@pytest.mark.parametrize("margin", [1.0, 3.0])
def test_lifted_struct_loss_equals_addons(margin):
    ids, rows = batch()
    assert_equal_to_addons(
        lambda z: kc.losses.LiftedStructLoss(margin)(ids, z),
        lambda z: tfa.losses.LiftedStructLoss(margin)(ids, z),
        rows,
    )


def test_npairs_loss_equals_addons_on_the_matrix_of_products():
    # Addons takes the similarities; its anchor's own column, the diagonal, is a positive.
    ids, rows = batch()
    others = batch(dim=5)[1] * 0.5 + rows

    def addons(z):
        return tfa.losses.NpairsLoss()(ids, tf.matmul(z, others, transpose_b=True))

    loss = kc.losses.NpairsLoss()
    assert_equal_to_addons(
        lambda z: loss(ids, z, candidates=others, candidate_ids=ids), addons, rows
    )


def test_npairs_multilabel_loss_equals_addons_on_the_matrix_of_products():
    # Addons takes a list of sparse labels or a dense matrix; a row without labels is NaN there, and does not count here.
    labels = (np.random.default_rng(2).random((24, 6)) < 0.4).astype(np.float32)
    labels[:, 0] = 1.0
    _, rows = batch()

    def addons(z):
        products = tf.matmul(z, z, transpose_b=True)
        return tfa.losses.NpairsMultilabelLoss()(labels, products)

    loss = kc.losses.NpairsMultilabelLoss()
    assert_equal_to_addons(
        lambda z: loss(labels, z, candidates=z, candidate_ids=labels), addons, rows
    )


def test_tutorial_runs_with_one_import_changed():
    # The network of addons' tutorial: the same weights after the same steps, whichever import it has.
    source = (Path(kc.__file__).parents[1] / "docs" / "one-loss.md").read_text()
    block = re.search(r"```python\n(.*?)```", source, flags=re.DOTALL)[1]
    ours = "from keras_contrastive.losses import TripletSemiHardLoss"
    theirs = "from tensorflow_addons.losses import TripletSemiHardLoss"
    assert block.count(ours) == 1
    generator = np.random.default_rng(0)

    def load_data():
        images = generator.integers(0, 256, (64, 28, 28), np.uint8)
        return (images, np.arange(64) % 4), (images[:8], None)

    embeddings = []
    for line in (ours, theirs):
        generator = np.random.default_rng(0)
        keras.utils.set_random_seed(0)
        names: dict = {}
        with mock.patch.object(keras.datasets.fashion_mnist, "load_data", load_data):
            exec(block.replace(ours, line), names)
        embeddings.append(names["embeddings"])
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-4)


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
