"""Each loss of views, of classes and of nearest neighbours through the loss layer: what it gets, trains and keeps."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.oracles import class_losses
from tests.oracles import losses as shared_oracles
from tests.oracles import view_losses as oracles
from tests.test_layers import called, measured
from tests.view_battery import (
    ONE_OF_EACH,
    WIDTH,
    dino,
    losses_where,
    one_of_each_class,
)

IDS = np.arange(5)
WITHOUT_CENTER = dino(weights={}, student_temperature=0.3, teacher_temperature=0.2)


def views(count: int, seed: int = 0, batch: int = 5, dim: int = WIDTH) -> np.ndarray:
    generator = np.random.default_rng(seed)
    points = generator.normal(0.0, 0.5, (batch, 1, dim))
    noise = generator.normal(0.0, 0.5, (batch, count, dim))
    return (points + noise).astype(np.float32)


def ordered_pairs(rows, others) -> list[tuple[int, int]]:
    every = itertools.product(range(rows.shape[1]), range(others.shape[1]))
    return [(i, j) for i, j in every if i != j]


def mean_over_pairs(loss, rows, others, sample_weight=None) -> float:
    """The mean over view i of `rows` with view j != i of `others` of the mean over the batch."""
    found = []
    for i, j in ordered_pairs(rows, others):
        values = loss.prepared_expected(rows[:, i], others[:, j])
        if not loss.scalar:
            values = shared_oracles.reduced(values, np.ones(5), sample_weight)
        found.append(values)
    return float(np.mean(found))


def layer_of(loss, **options):
    return kc.ContrastiveLossLayer(loss.prepared(), **options)


# ---- losses over pairs of views


@one_of_each_class
@pytest.mark.parametrize("count", [2, 3])
def test_every_two_views_are_compared_and_averaged(loss, count):
    rows = views(count)
    assert called(layer_of(loss), rows, IDS) == pytest.approx(
        mean_over_pairs(loss, rows, rows), rel=1e-4
    )


@one_of_each_class
@pytest.mark.parametrize("count", [2, 3], ids=["two_views", "multi_crop"])
def test_views_are_compared_with_the_targets_of_other_views(loss, count):
    rows, targets = views(count), views(2, seed=1)
    layer, tensor = layer_of(loss), tf.constant(targets)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = called(layer, rows, IDS, targets=tensor)
        added = layer.losses[0]
    assert total == pytest.approx(mean_over_pairs(loss, rows, targets), rel=1e-4)
    if "second" in loss.constants:
        gradient = tape.gradient(added, tensor, unconnected_gradients="zero")
        assert not np.any(gradient)


def test_target_of_the_own_view_is_never_compared_with():
    # One target view: the first view may not meet it, so it has no part in the loss.
    (loss,) = [loss for loss in ONE_OF_EACH if loss.name == "cosine_prediction"]
    rows, targets = views(2), tf.constant(views(1, seed=1))
    expected = called(layer_of(loss), rows, IDS, targets=targets)
    rows[:, 0] = -rows[:, 0]
    assert called(layer_of(loss), rows, IDS, targets=targets) == pytest.approx(expected)


class Counting:
    """A loss that counts its calls, of the same families as another."""

    def __init__(self, loss):
        self.loss, self.calls = loss, 0
        self.families = loss.families
        self.symmetric = loss.symmetric

    def __call__(self, *args, **keywords):
        self.calls += 1
        return self.loss(*args, **keywords)


@one_of_each_class
def test_symmetric_loss_is_called_once_for_two_views(loss):
    counting = Counting(loss.prepared())
    called(kc.ContrastiveLossLayer(counting), views(3), IDS)
    assert counting.calls == (3 if loss.symmetric else 6)


@losses_where(lambda loss: not loss.scalar)
@pytest.mark.parametrize("with_targets", [False, True], ids=["alone", "targets"])
def test_sample_weight_weighs_the_images(loss, with_targets):
    rows, weights = views(2), np.array([0.0, 1.0, 3.0, 0.5, 2.0])
    targets = views(2, seed=1) if with_targets else rows
    given = {"targets": tf.constant(targets)} if with_targets else {}
    total = called(
        layer_of(loss), rows, IDS, sample_weight=tf.constant(weights), **given
    )
    expected = mean_over_pairs(loss, rows, targets, weights)
    assert total == pytest.approx(expected, rel=1e-4)


@losses_where(lambda loss: loss.scalar)
def test_sample_weight_of_a_loss_of_the_batch_is_refused(loss):
    with pytest.raises(ValueError, match=r"`sample_weight` .*Received: sample_weight"):
        layer_of(loss)(views(2), tf.constant(IDS), sample_weight=tf.ones(5))


@one_of_each_class
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_layer_computes_in_float32_under_every_policy(loss, policy):
    rows = views(2)
    expected = called(layer_of(loss), rows, IDS)
    keras.mixed_precision.set_global_policy(policy)
    layer = layer_of(loss)
    assert called(layer, rows, IDS) == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(called(layer, tf.cast(rows, tf.float16), IDS))
    floating = [w for w in layer.weights if tf.as_dtype(w.dtype).is_floating]
    assert all(tf.as_dtype(w.dtype) == tf.float32 for w in floating)


@one_of_each_class
def test_queue_is_refused_by_losses_without_candidates(loss):
    with pytest.raises(ValueError, match=r"`negatives`.*Received: loss="):
        layer_of(loss, negatives=kc.negatives.EmbeddingQueue(8))


@losses_where(lambda loss: "temperature" not in loss.options)
def test_learned_temperature_of_a_loss_without_one_is_refused(loss):
    with pytest.raises(ValueError, match=r"`learn_temperature` needs.*Received: loss="):
        layer_of(loss, learn_temperature=True)


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_compiled_training_step_gives_the_eager_loss(name):
    (loss,) = [loss for loss in ONE_OF_EACH if loss.name == name]
    rows, targets = tf.constant(views(2)), tf.constant(views(2, seed=1))
    layer, other = layer_of(loss), layer_of(loss)

    @tf.function(jit_compile=True)
    def step(rows, targets):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            total = layer(rows, tf.constant(IDS), targets=targets, training=True)
        return total, tape.gradient(total, rows)

    for _ in range(2):
        total, gradient = step(rows, targets)
        expected = other(rows, tf.constant(IDS), targets=targets, training=True)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        assert np.isfinite(gradient).all()
    for one, wanted in zip(layer.weights, other.weights):
        found = tf.cast(tf.convert_to_tensor(one), tf.float32)
        wanted = tf.cast(tf.convert_to_tensor(wanted), tf.float32)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


# ---- SwAV


def test_swav_learns_a_temperature_in_the_layer():
    (loss,) = [loss for loss in ONE_OF_EACH if loss.name == "swav"]
    rows, layer = views(2), layer_of(loss, learn_temperature=True)
    expected = mean_over_pairs(loss, rows, rows)
    assert called(layer, rows, IDS) == pytest.approx(expected, rel=1e-4)
    with tf.GradientTape() as tape:
        total = layer(rows, tf.constant(IDS))
    gradients = tape.gradient(total, layer.trainable_weights)
    assert len(gradients) == 2 and all(np.any(np.abs(g) > 1e-4) for g in gradients)


def toy_views(batch: int = 24, dim: int = 6) -> np.ndarray:
    return views(2, seed=3, batch=batch, dim=dim)


def model_of(loss, dim: int = 6, width: int = 4, head: bool = True, **options):
    """A small model, run eagerly: a graph for each would be most of the time of its test."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "relu")] if head else [keras.layers.Dense(width)]
    encoder = keras.Sequential([keras.Input((dim,)), *layers])
    head = kc.heads.mlp(width, hidden_dim=8) if head else None
    model = kc.ContrastiveModel(encoder, loss, head=head, **options)
    model.compile(keras.optimizers.Adam(0.02), run_eagerly=True)
    return model


def fit(model, data, epochs: int) -> dict:
    return model.fit(data, epochs=epochs, verbose=0, shuffle=False).history


def weights_of(model) -> list[np.ndarray]:
    return [np.asarray(tf.convert_to_tensor(weight)) for weight in model.weights]


MAKE = {
    "swav": lambda: kc.losses.SwAVLoss(6, epsilon=0.5),
    "dino": lambda: kc.losses.DINOLoss(4, student_temperature=0.5),
}


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_model_saves_weights_and_state_and_goes_on_as_if_never_cut(name, tmp_path):
    data = tf.data.Dataset.from_tensors((toy_views(), np.arange(24)))
    model = model_of(MAKE[name]())
    found = fit(model, data, 8)
    assert {"positive_similarity", "embedding_std"} <= set(found)
    assert np.isfinite(found["loss"]).all()
    if name == "swav":  # DINO's center moves what its loss is compared with
        assert found["loss"][-1] < found["loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(weights_of(model), weights_of(loaded)):
        np.testing.assert_array_equal(one, other)
    assert fit(model, data, 2)["loss"] == fit(loaded, data, 2)["loss"]
    for one, other in zip(weights_of(model), weights_of(loaded)):
        np.testing.assert_array_equal(one, other)


def test_swav_prototypes_are_weights_of_the_model_from_its_build_on():
    model = model_of(kc.losses.SwAVLoss(6))
    prototypes = model.loss_layer.loss.prototypes
    assert tuple(prototypes.shape) == (6, 4)
    assert any(weight is prototypes for weight in model.trainable_weights)
    before = prototypes.numpy()
    fit(model, tf.data.Dataset.from_tensors((toy_views(), np.arange(24))), 3)
    assert np.abs(prototypes.numpy() - before).max() > 0.01


# ---- DINO


def test_dino_center_moves_once_a_training_step_after_the_loss_on_all_targets():
    layer = layer_of(WITHOUT_CENTER)
    center = np.zeros(WIDTH)
    for seed in range(3):
        rows, targets = views(3, seed=seed), views(2, seed=10 + seed)
        total = layer(rows, tf.constant(IDS), targets=targets, training=True)
        expected = [
            oracles.dino(
                rows[:, i],
                targets[:, j],
                center=center,
                student_temperature=0.3,
                teacher_temperature=0.2,
            )[0].mean()
            for i, j in ordered_pairs(rows, targets)
        ]
        assert float(total) == pytest.approx(np.mean(expected), rel=1e-4)
        center = oracles.moved_center(center, targets)
        found = layer.loss.center.numpy()
        np.testing.assert_allclose(found, center, rtol=1e-5, atol=1e-7)


def test_dino_center_without_targets_moves_by_all_views():
    layer, rows = layer_of(WITHOUT_CENTER), views(3)
    layer(rows, tf.constant(IDS), training=True)
    expected = oracles.moved_center(np.zeros(WIDTH), rows)
    np.testing.assert_allclose(
        layer.loss.center.numpy(), expected, rtol=1e-5, atol=1e-7
    )


def test_dino_center_stays_in_evaluation():
    layer = layer_of(WITHOUT_CENTER)
    layer(views(2), tf.constant(IDS), targets=views(2, seed=1), training=False)
    layer(views(2), tf.constant(IDS), targets=views(2, seed=1))
    np.testing.assert_array_equal(layer.loss.center.numpy(), np.zeros(WIDTH))


@keras.saving.register_keras_serializable("tests_layers_losses")
class OwnProjections(keras.layers.Layer):
    """A target network without weights: the projections themselves."""

    def build_like(self, encoder, head):
        self.built = True

    def call(self, images, projections, training=False):
        return projections

    def update(self, encoder, head):
        pass


def test_dino_with_a_target_keeps_its_center_when_a_run_is_resumed(tmp_path):
    data = tf.data.Dataset.from_tensors((toy_views(), np.arange(24)))
    whole = model_of(MAKE["dino"](), target=OwnProjections())
    fit(whole, data, 4)
    cut = model_of(MAKE["dino"](), target=OwnProjections())
    fit(cut, data, 2)
    tf.train.Checkpoint(model=cut, optimizer=cut.optimizer).write(
        str(tmp_path / "checkpoint")
    )
    resumed = model_of(MAKE["dino"](), target=OwnProjections())
    resumed.optimizer.build(resumed.trainable_variables)
    status = tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).read(
        str(tmp_path / "checkpoint")
    )
    status.assert_existing_objects_matched()
    center = resumed.loss_layer.loss.center
    np.testing.assert_array_equal(center.numpy(), cut.loss_layer.loss.center.numpy())
    assert np.abs(center.numpy()).max() > 1e-3
    assert not any(weight is center for weight in resumed.trainable_weights)
    fit(resumed, data, 2)
    for one, other in zip(weights_of(whole), weights_of(resumed)):
        np.testing.assert_array_equal(one, other)


# ---- KoLeo


@pytest.mark.parametrize("count", [1, 2, 3])
def test_koleo_is_called_view_by_view_and_averaged(count):
    # Over all views at once the nearest row would be the other view of the image: it would push views apart.
    rows = views(count)
    layer = kc.ContrastiveLossLayer(kc.losses.KoLeoLoss())
    expected = np.mean([oracles.koleo(rows[:, i]) for i in range(count)])
    assert called(layer, rows, IDS) == pytest.approx(expected, rel=1e-4)


def test_koleo_uses_no_ids():
    rows = views(2)
    totals = [
        called(kc.ContrastiveLossLayer(kc.losses.KoLeoLoss()), rows, ids)
        for ids in (IDS, [7] * 5, [-1] * 5)
    ]
    assert totals[0] == totals[1] == totals[2]


def test_koleo_spreads_embeddings_that_hardly_differ():
    data = tf.data.Dataset.from_tensors((3.0 + 0.5 * toy_views(), np.arange(24)))
    model = model_of(kc.losses.KoLeoLoss(), head=False)
    model.optimizer.learning_rate = 0.05
    found = fit(model, data, 12)
    assert found["loss"][-1] < found["loss"][0]
    assert found["embedding_std"][-1] > 1.5 * found["embedding_std"][0]


# ---- losses with a weight for each class

CLASSES = {
    "arcface": (
        lambda: kc.losses.ArcFaceLoss(4, scale=8.0),
        lambda ids, rows, w: class_losses.arcface(ids, rows, weights=w, scale=8.0),
    ),
    "cosface": (
        lambda: kc.losses.CosFaceLoss(4, scale=8.0),
        lambda ids, rows, w: class_losses.cosface(ids, rows, weights=w, scale=8.0),
    ),
    "proxy_anchor": (
        lambda: kc.losses.ProxyAnchorLoss(4, scale=8.0),
        lambda ids, rows, w: class_losses.proxy_anchor(ids, rows, proxies=w, scale=8.0),
    ),
    "proxy_nca": (
        lambda: kc.losses.ProxyNCALoss(4),
        lambda ids, rows, w: class_losses.proxy_nca(ids, rows, proxies=w),
    ),
}
every_class_loss = pytest.mark.parametrize("name", CLASSES)


def over_classes(name, layer, rows, ids, sample_weight=None) -> float:
    """The oracle over the set of all views, by the layer's own weights."""
    ids = np.broadcast_to(np.reshape(ids, (len(rows), -1)), rows.shape[:2]).ravel()
    (weights,) = layer.loss.get_weights()
    found = CLASSES[name][1](ids, rows.reshape(-1, rows.shape[-1]), weights)
    if name == "proxy_anchor":
        return found
    if sample_weight is not None:
        sample_weight = np.repeat(sample_weight, rows.shape[1])
    return shared_oracles.reduced(*found, sample_weight)


@every_class_loss
@pytest.mark.parametrize(
    "ids",
    [
        [0, 3, 1, 3, 0],
        [-1, 3, -1, 3, 9],
        [[0, 1], [3, -1], [2, 2], [0, 0], [1, 7]],
    ],
    ids=["known", "unknown", "of_each_view"],
)
def test_views_of_an_image_are_rows_of_its_class(name, ids):
    rows, layer = views(2), kc.ContrastiveLossLayer(CLASSES[name][0]())
    total = called(layer, rows, ids)
    assert total == pytest.approx(over_classes(name, layer, rows, ids), rel=1e-4)
    assert total != 0.0


@every_class_loss
def test_batch_of_unknown_classes_gives_zero(name):
    layer = kc.ContrastiveLossLayer(CLASSES[name][0]())
    assert called(layer, views(2), [-1, -1, -1, 4, 99]) == 0.0


@pytest.mark.parametrize("name", ["arcface", "cosface", "proxy_nca"])
def test_sample_weight_weighs_the_views_of_an_image(name):
    rows, layer = views(2), kc.ContrastiveLossLayer(CLASSES[name][0]())
    ids, weights = [0, 3, -1, 3, 1], np.array([0.0, 1.0, 50.0, 0.5, 2.0])
    total = called(layer, rows, ids, sample_weight=tf.constant(weights))
    expected = over_classes(name, layer, rows, ids, weights)
    assert total == pytest.approx(expected, rel=1e-4)


def test_sample_weight_of_proxy_anchor_is_refused():
    layer = kc.ContrastiveLossLayer(kc.losses.ProxyAnchorLoss(4))
    with pytest.raises(ValueError, match=r"`sample_weight` .*Received: sample_weight"):
        layer(views(2), tf.constant(IDS), sample_weight=tf.ones(5))


@every_class_loss
def test_queue_is_refused_by_losses_with_classes(name):
    for negatives in (
        kc.negatives.EmbeddingQueue(8),
        kc.negatives.CrossBatchMemory(8),
    ):
        with pytest.raises(ValueError, match=r"`negatives`.*Received: ") as refused:
            kc.ContrastiveLossLayer(CLASSES[name][0](), negatives=negatives)
        assert "\n" not in str(refused.value)


@every_class_loss
def test_targets_are_refused_by_losses_with_classes(name):
    layer = kc.ContrastiveLossLayer(CLASSES[name][0]())
    with pytest.raises(ValueError, match=r"`targets` .*Received: "):
        layer(views(2), tf.constant(IDS), targets=views(2, seed=1))


@every_class_loss
def test_layer_config_round_trip_keeps_a_loss_with_weights(name):
    layer = kc.ContrastiveLossLayer(CLASSES[name][0](), name="mine")
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy.get_config() == layer.get_config()
    rows = views(2)
    for each in (layer, copy):
        each(rows, tf.constant(IDS))
    copy.set_weights(layer.get_weights())
    assert called(copy, rows, IDS % 4) == called(layer, rows, IDS % 4)
    measured(copy)
