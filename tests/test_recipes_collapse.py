"""Methods without negatives stay apart, and fall together where the part that keeps them apart is taken away.

Fully: all embeddings equal (`embedding_std`, the model's metric, falls to 0; VICReg, which compares lengths as well, to
a point). In dimensions: the embeddings still differ, but in few directions (the effective rank falls). A projection
head that ends in batch normalisation cannot fall to a point, so there only the rank tells.

The bounds lie between what three seeds gave on either side, far from both.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc

IMAGES, SIZE, STEPS, EPOCHS = 48, 8, 60, 4
WIDTHS = {"projection_dim": 16, "hidden_dim": 32}
DINO = {"output_dim": 24, "hidden_dim": 32, "bottleneck_dim": 16, "momentum": 0.95}


def blobs(batches, seed):
    """Two views each of the same 48 blobs, which differ in place, width and stretch; float32, batch after batch."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(1, SIZE - 2, (IMAGES, 2))
    widths = rng.uniform(0.8, 2.5, (IMAGES, 1, 1))
    stretch = rng.uniform(-0.5, 0.5, (IMAGES, 1, 1))
    rows, columns = np.mgrid[:SIZE, :SIZE]

    def drawn():
        moved = centers + rng.normal(0, 0.4, (batches, IMAGES, 2))
        y, x = (moved[..., axis, None, None] for axis in range(2))
        scaled = widths * rng.uniform(0.9, 1.1, (batches, IMAGES, 1, 1))
        squared = (rows - y) ** 2 * (1 + stretch) + (columns - x) ** 2 * (1 - stretch)
        bright = rng.uniform(0.7, 1, (batches, IMAGES, 1, 1))
        images = bright * np.exp(-squared / (2 * scaled**2))
        return np.clip(images + rng.normal(0, 0.03, images.shape), 0, 1)

    views = np.stack([drawn(), drawn()], axis=2)
    return views.reshape(-1, 2, SIZE, SIZE, 1).astype(np.float32)


def encoder(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(32, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(16),
        ]
    )


def recipe(name, *, rate=0.01, seed=0, **options):
    optimizer = keras.optimizers.Adam(rate)
    return getattr(kc.recipes, name)(
        encoder(seed), optimizer=optimizer, augment_on="pipeline", **options
    )


def changed(model, **parts):
    """The model with other parts: `loss`, `target`, `predictor`."""
    layer = kc.ContrastiveLossLayer(
        parts.pop("loss", model.loss_layer.loss), weight=model.loss_layer.weight
    )
    parts = {"target": model.target, "predictor": model.predictor, **parts}
    other = kc.ContrastiveModel(model.encoder, layer, head=model.head, **parts)
    rate = float(np.asarray(model.optimizer.learning_rate))
    other.compile(optimizer=keras.optimizers.Adam(rate))
    return other


def with_both_gradients(model):
    """The same value, 2 - 2 cos, but the target learns as well."""
    loss = kc.losses.AlignmentUniformityLoss(uniformity_weight=0)
    return changed(model, loss=loss, target=kc.targets.SharedTarget())


class PlainCodes:
    """SwAV's loss with codes that are a softmax of each row alone: nothing asks for equal use of the prototypes."""

    families = ("pairs",)

    def __init__(self):
        rows = np.random.default_rng(0).normal(size=(WIDTHS["projection_dim"], 24))
        rows /= np.linalg.norm(rows, axis=0)
        self.prototypes = tf.constant(rows, tf.float32)

    def __call__(self, first, second, sample_weight=None):
        own, other = (
            tf.matmul(tf.math.l2_normalize(view, axis=-1), self.prototypes)
            for view in (first, second)
        )
        codes = tf.stop_gradient(tf.nn.softmax(other / 0.05))
        losses = tf.nn.softmax_cross_entropy_with_logits(codes, own / 0.1)
        return tf.reduce_mean(losses)


def effective_rank(rows) -> float:
    """exp of the entropy of the singular values, as shares: 1 on a line, the dimension for a ball (Roy & Vetterli)."""
    values = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares + 1e-12)).sum()))


def trained(model, seed=0) -> dict:
    """What is left of the embeddings after training: `spread`, `rank` and `deviation` of the projections."""
    data = tf.data.Dataset.from_tensor_slices(blobs(STEPS, seed)).batch(IMAGES)
    history = model.fit(data, epochs=EPOCHS, verbose=0, shuffle=False).history
    features = model.encoder(blobs(1, seed)[:, 0], training=False)
    projections = np.asarray(model.head(features, training=False))
    return {
        "spread": history["embedding_std"][-1],
        "rank": effective_rank(projections),
        "deviation": float(projections.std(axis=0).mean()),
    }


def byol(**options):
    return recipe("byol", rate=0.03, momentum=0.9, **WIDTHS, **options)


def simsiam(**options):
    widths = {"projection_dim": 16, "predictor_dim": 8}
    return recipe("simsiam", rate=0.02, **widths, **options)


def vicreg(**options):
    return recipe("vicreg", **WIDTHS, **options)


def barlow_twins(redundancy_weight=0.05, **options):
    options = {**WIDTHS, "redundancy_weight": redundancy_weight, **options}
    return recipe("barlow_twins", **options)


def swav(**options):
    return recipe("swav", num_prototypes=24, queue_size=0, **WIDTHS, **options)


def dino(**options):
    return recipe("dino", **DINO, **options)


KEPT = {  # the least of each measure
    "byol": (byol, {"spread": 0.75}),
    "simsiam": (simsiam, {"rank": 4}),
    "vicreg": (vicreg, {"spread": 0.75, "deviation": 0.55}),
    "barlow_twins": (barlow_twins, {"rank": 10}),
    "swav": (swav, {"spread": 0.85}),
    "dino": (dino, {"spread": 0.7, "deviation": 0.2}),
}
BROKEN = {  # the most
    "byol-both-gradients": (
        lambda **options: with_both_gradients(byol(**options)),
        {"spread": 0.3},
    ),
    "simsiam-both-gradients": (
        lambda **options: with_both_gradients(simsiam(**options)),
        {"rank": 3.5},
    ),
    "simsiam-no-predictor": (
        lambda **options: changed(simsiam(**options), predictor=None),
        {"rank": 3.5},
    ),
    "vicreg-no-variance": (
        lambda **options: vicreg(variance_weight=1e-6, **options),
        {"spread": 0.7, "deviation": 0.2},
    ),
    "barlow_twins-no-redundancy": (
        lambda **options: barlow_twins(redundancy_weight=1e-6, **options),
        {"rank": 7},
    ),
    "swav-no-equal-use": (
        lambda **options: changed(swav(**options), loss=PlainCodes()),
        {"spread": 0.75},
    ),
    "dino-no-centre": (
        lambda **options: dino(center_momentum=1.0, **options),
        {"spread": 0.55},
    ),
    # All prototypes become alike, which the spread, a matter of directions, need not tell.
    "dino-no-sharpening": (
        lambda **options: dino(
            teacher_temperature=0.1, warmup_temperature=0.1, **options
        ),
        {"deviation": 0.13},
    ),
}


@pytest.mark.parametrize("name", list(KEPT))
def test_method_keeps_embeddings_apart(name):
    build, bounds = KEPT[name]
    left = trained(build())
    assert all(left[measure] > least for measure, least in bounds.items()), left


@pytest.mark.parametrize("name", list(BROKEN))
def test_collapse_shows_where_its_guard_is_taken_away(name):
    build, bounds = BROKEN[name]
    left = trained(build())
    assert all(left[measure] < most for measure, most in bounds.items()), left
