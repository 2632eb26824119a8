"""ContrastiveLossLayer: what it hands to a loss, what it adds, keeps and reports; alone and in plain Keras."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.oracles import losses as oracles
from tests.oracles.gradients import numerical_gradient

# float32 through one softmax; see test_losses.py.
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}
BIG = 2**24


def embeddings(
    batch: int = 4, views: int = 2, dim: int = 3, seed: int = 0
) -> np.ndarray:
    return (
        np.random.default_rng(seed)
        .normal(0.0, 0.7, (batch, views, dim))
        .astype(np.float32)
    )


def over_all_views(rows, ids, sample_weight=None, temperature: float = 0.1) -> float:
    """NT-Xent over the set of all views: ids and weights are the image's, or each view's own."""
    batch, views, dim = rows.shape
    ids = np.broadcast_to(np.reshape(ids, (batch, -1)), (batch, views)).ravel()
    weights = None if sample_weight is None else np.repeat(sample_weight, views)
    values, counts = oracles.nt_xent(
        ids, rows.reshape(-1, dim), temperature=temperature
    )
    return oracles.reduced(values, counts, weights)


def against_targets(rows, targets, ids, sample_weight=None) -> float:
    """NT-Xent of each view against each target of another view, averaged over the pairs of views."""
    pairs = [
        (i, j)
        for i, j in itertools.product(range(rows.shape[1]), range(targets.shape[1]))
        if i != j
    ]
    return float(
        np.mean(
            [
                oracles.reduced(
                    *oracles.nt_xent(
                        ids, rows[:, i], candidates=targets[:, j], candidate_ids=ids
                    ),
                    sample_weight,
                )
                for i, j in pairs
            ]
        )
    )


def nt_xent_layer(temperature: float = 0.1, **options):
    return kc.ContrastiveLossLayer(kc.losses.NTXentLoss(temperature), **options)


def called(layer, rows, ids, **keywords) -> float:
    """The loss that the layer returns, which is also the one that it adds."""
    total = layer(tf.constant(rows), tf.constant(ids, tf.int64), **keywords)
    assert total.shape == () and total.dtype == tf.float32
    assert len(layer.losses) == 1
    np.testing.assert_array_equal(layer.losses[0], total)
    return float(total)


def measured(layer) -> dict[str, float]:
    return {metric.name: float(metric.result()) for metric in layer.metrics}


# ---- a loss over sets


@pytest.mark.parametrize("views", [2, 3])
def test_loss_over_sets_sees_all_views_with_repeated_ids(views):
    rows, ids = embeddings(views=views), [4, 7, 4, 9]
    assert called(nt_xent_layer(), rows, ids) == pytest.approx(
        over_all_views(rows, ids), rel=1e-4
    )


def test_rank_2_embeddings_are_one_view():
    rows, ids = embeddings(6, 1), [0, 1, 0, 1, 2, 3]
    expected = over_all_views(rows, ids)
    assert expected > 0
    assert called(nt_xent_layer(), rows[:, 0], ids) == pytest.approx(expected, rel=1e-4)


def test_ids_of_each_view_are_its_own():
    rows, ids = embeddings(), [[0, 1], [1, 0], [2, 2], [3, 4]]
    assert called(nt_xent_layer(), rows, ids) == pytest.approx(
        over_all_views(rows, ids), rel=1e-4
    )


def test_unknown_images_are_positive_with_their_own_views_only():
    rows = embeddings()
    expected = over_all_views(rows, [10, 11, 3, 3])
    assert called(nt_xent_layer(), rows, [-1, -1, 3, 3]) == pytest.approx(
        expected, rel=1e-4
    )


def test_all_unknown_is_training_by_instance():
    rows = embeddings()
    expected = called(nt_xent_layer(), rows, [0, 1, 2, 3])
    assert called(nt_xent_layer(), rows, [-1] * 4) == pytest.approx(expected, rel=1e-6)


def test_ids_above_2_24_do_not_collide_in_the_layer():
    rows, ids = embeddings(), [BIG, BIG + 1, BIG + 2, BIG + 3]
    assert called(nt_xent_layer(), rows, ids) == pytest.approx(
        over_all_views(rows, [0, 1, 2, 3]), rel=1e-4
    )


def test_sample_weight_of_an_image_weighs_its_views():
    rows, ids, weights = embeddings(), [0, 1, 2, 3], [1.0, 0.0, 2.5, 0.5]
    total = called(nt_xent_layer(), rows, ids, sample_weight=tf.constant(weights))
    assert total == pytest.approx(over_all_views(rows, ids, weights), rel=1e-4)


def test_swapped_views_keep_the_loss():
    rows, ids = embeddings(), [0, 1, 2, 3]
    assert called(nt_xent_layer(), rows[:, ::-1], ids) == pytest.approx(
        called(nt_xent_layer(), rows, ids), rel=1e-5
    )


def test_gradient_of_the_layer_matches_the_oracle():
    rows, ids = embeddings(3, 2), [0, 1, -1]
    layer, tensor = nt_xent_layer(), tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = layer(tensor, tf.constant(ids))
    expected = numerical_gradient(lambda z: over_all_views(z, [0, 1, 2]), rows)
    np.testing.assert_allclose(
        tape.gradient(total, tensor), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("ids", [[5], [-1]], ids=["known", "unknown"])
def test_batch_of_one_image_is_finite(ids):
    # Two views and nothing else: a softmax over one column.
    assert called(nt_xent_layer(), embeddings(1), ids) == pytest.approx(0.0, abs=1e-6)


def test_nothing_that_counts_gives_zero_with_zero_gradient():
    layer, tensor = nt_xent_layer(), tf.constant(embeddings(4, 1))
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = layer(tensor, tf.constant([0, 1, 2, -1]))
    assert float(total) == 0.0
    np.testing.assert_array_equal(tape.gradient(total, tensor), np.zeros((4, 1, 3)))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_graph_with_unknown_batch_gives_the_eager_loss(jit_compile):
    layer = nt_xent_layer()
    rows, ids = embeddings(), [0, -1, 2, 2]
    expected = called(layer, rows, ids)
    graph = tf.function(
        lambda rows, ids: layer(rows, ids),
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec([None, 2, 3]), tf.TensorSpec([None], tf.int64)],
    )
    assert float(graph(rows, tf.constant(ids, tf.int64))) == pytest.approx(
        expected, rel=1e-5
    )
    # A smaller last batch through the same graph.
    smaller = float(graph(rows[:2], tf.constant(ids[:2], tf.int64)))
    assert smaller == pytest.approx(over_all_views(rows[:2], [0, 1]), rel=1e-4)


# ---- targets


@pytest.mark.parametrize("views", [2, 4], ids=["two_views", "multi_crop"])
def test_targets_are_the_candidates_of_the_other_views(views):
    rows, targets, ids = embeddings(4, views), embeddings(4, 2, seed=1), [0, 1, 1, 2]
    total = called(nt_xent_layer(), rows, ids, targets=tf.constant(targets))
    assert total == pytest.approx(against_targets(rows, targets, ids), rel=1e-4)


def test_target_of_the_own_view_is_never_a_candidate():
    # One target view: only the second view may be compared with it, so the first has no part in the loss.
    rows, targets, ids = embeddings(4, 2), embeddings(4, 1, seed=1), [0, 1, 2, 3]
    expected = called(nt_xent_layer(), rows, ids, targets=tf.constant(targets))
    moved = rows.copy()
    moved[:, 0] = embeddings(4, 1, seed=2)[:, 0]
    assert called(
        nt_xent_layer(), moved, ids, targets=tf.constant(targets)
    ) == pytest.approx(expected)
    assert expected == pytest.approx(against_targets(rows, targets, ids), rel=1e-4)


def test_unknown_images_find_their_own_target():
    rows, targets = embeddings(), embeddings(seed=1)
    total = called(nt_xent_layer(), rows, [-1, -1, 3, 3], targets=tf.constant(targets))
    assert total == pytest.approx(
        against_targets(rows, targets, [10, 11, 3, 3]), rel=1e-4
    )


def test_sample_weight_with_targets_weighs_the_anchors():
    rows, targets, ids = embeddings(), embeddings(seed=1), [0, 1, 2, 3]
    weights = [0.0, 1.0, 3.0, 0.5]
    total = called(
        nt_xent_layer(),
        rows,
        ids,
        targets=tf.constant(targets),
        sample_weight=tf.constant(weights),
    )
    assert total == pytest.approx(
        against_targets(rows, targets, ids, weights), rel=1e-4
    )


# ---- a loss over rows, and one that draws


def contrastive_layer(margin: float = 2.0, **options):
    return kc.ContrastiveLossLayer(kc.losses.ContrastiveLoss(margin=margin), **options)


def test_triplets_with_ids_of_each_view_are_compared_by_rows():
    rows, ids = embeddings(4, 3), [[0, 0, 5], [1, 1, 6], [2, 2, 7], [0, 0, 1]]
    expected = oracles.reduced(
        *oracles.contrastive_rows(*np.moveaxis(rows, 1, 0), margin=2.0)
    )
    assert called(contrastive_layer(), rows, ids) == pytest.approx(expected, rel=1e-4)


def test_sample_weight_with_triplets_weighs_the_rows():
    rows, ids, weights = (
        embeddings(3, 3),
        [[0, 0, 5], [1, 1, 6], [2, 2, 7]],
        [0.0, 1.0, 3.0],
    )
    values, counts = oracles.contrastive_rows(*np.moveaxis(rows, 1, 0), margin=2.0)
    total = called(contrastive_layer(), rows, ids, sample_weight=tf.constant(weights))
    assert total == pytest.approx(oracles.reduced(values, counts, weights), rel=1e-4)


@pytest.mark.parametrize("views", [2, 3])
def test_loss_that_draws_takes_one_negative_for_each_positive_of_the_set(views):
    rows, ids = embeddings(4, views), [0, 1, 2, 3]
    flat = rows.reshape(-1, 3)
    every = np.ones(len(flat), bool)
    lowest, highest = oracles.contrastive_bounds(
        np.repeat(ids, views), flat, margin=2.0
    )
    least, most = oracles.reduced(lowest, every), oracles.reduced(highest, every)
    totals = [called(contrastive_layer(seed=seed), rows, ids) for seed in range(8)]
    assert least - 1e-5 <= min(totals) and max(totals) <= most + 1e-5
    assert len({round(total, 5) for total in totals}) > 1
    assert totals == [
        called(contrastive_layer(seed=seed), rows, ids) for seed in range(8)
    ]


def test_loss_over_sets_takes_triplets_as_a_set():
    rows, ids = embeddings(4, 3), [[0, 0, 5], [1, 1, 6], [2, 2, 7], [0, 0, 1]]
    assert called(nt_xent_layer(), rows, ids) == pytest.approx(
        over_all_views(rows, ids), rel=1e-4
    )


# ---- the learned temperature


def log_temperature(layer):
    (weight,) = layer.trainable_weights
    return weight


def test_learned_temperature_starts_at_the_losss_own():
    rows, ids = embeddings(), [0, 1, 2, 3]
    layer = nt_xent_layer(0.3, learn_temperature=True)
    expected = over_all_views(rows, ids, temperature=0.3)
    assert called(layer, rows, ids) == pytest.approx(expected, rel=1e-4)
    assert float(log_temperature(layer)) == pytest.approx(math.log(0.3), rel=1e-6)


def test_learned_temperature_has_the_gradient_of_its_logarithm():
    rows, ids = embeddings(), tf.constant([0, 1, 2, 3])
    layer = nt_xent_layer(0.3, learn_temperature=True)
    layer(tf.constant(rows), ids)
    with tf.GradientTape() as tape:
        total = layer(tf.constant(rows), ids)
    gradient = tape.gradient(total, layer.trainable_weights)[0]
    expected = numerical_gradient(
        lambda log_t: over_all_views(rows, [0, 1, 2, 3], temperature=math.exp(log_t)),
        math.log(0.3),
    )
    assert abs(expected) > 0.01
    np.testing.assert_allclose(gradient, expected, rtol=1e-3)


def test_learned_temperature_is_kept_at_a_hundredth_or_more():
    rows, ids = embeddings(), [0, 1, 2, 3]
    layer = nt_xent_layer(0.3, learn_temperature=True)
    called(layer, rows, ids)
    log_temperature(layer).assign(-20.0)
    expected = over_all_views(rows, ids, temperature=0.01)
    assert called(layer, rows, ids) == pytest.approx(expected, rel=1e-3)


def test_temperature_that_is_not_learned_is_no_weight():
    layer = nt_xent_layer(0.3)
    called(layer, embeddings(), [0, 1, 2, 3])
    assert layer.trainable_weights == []


def test_learned_temperature_of_a_loss_without_one_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        contrastive_layer(learn_temperature=True)


# ---- metrics


def test_metrics_are_those_of_the_normalised_rows():
    rows, ids = embeddings(8, 2, dim=5), np.arange(8)
    rows *= np.linspace(0.1, 9.0, 16, dtype=np.float32).reshape(8, 2, 1)
    layer = nt_xent_layer()
    called(layer, rows, ids)
    flat, labels = rows.reshape(16, 5).astype(np.float64), np.repeat(ids, 2)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    similarity, same = flat @ flat.T, labels[:, None] == labels
    others = np.where(np.eye(16, dtype=bool), -np.inf, similarity).argmax(axis=1)
    expected = {
        "positive_similarity": similarity[same & ~np.eye(16, dtype=bool)].mean(),
        "negative_similarity": similarity[~same].mean(),
        "accuracy": np.mean(labels[others] == labels),
        "embedding_std": flat.std(axis=0).mean() * math.sqrt(5),
    }
    found = measured(layer)
    assert 0 < expected["accuracy"] < 1
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_metrics_with_targets_compare_views_with_targets():
    # Each view equals the other view's target, so every positive has similarity 1 and wins.
    rows, ids = embeddings(6, 2, dim=8), np.arange(6)
    layer = nt_xent_layer()
    called(layer, rows, ids, targets=tf.constant(rows[:, ::-1]))
    found = measured(layer)
    assert found["positive_similarity"] == pytest.approx(1.0, abs=1e-5)
    assert found["accuracy"] == 1.0
    assert found["negative_similarity"] < 0.9


def test_embedding_std_is_0_collapsed_and_1_spread():
    layer = nt_xent_layer()
    called(layer, np.ones((4, 2, 3), np.float32), [0, 1, 2, 3])
    assert measured(layer)["embedding_std"] == pytest.approx(0.0, abs=1e-6)
    layer = nt_xent_layer()
    called(
        layer,
        np.random.default_rng(0).normal(size=(500, 2, 16)).astype(np.float32),
        np.arange(500),
    )
    # 1000 draws on the sphere: each dimension's standard deviation is 1/4 within 2 %.
    assert measured(layer)["embedding_std"] == pytest.approx(1.0, abs=0.03)


def test_metrics_of_a_triplet_tell_positive_from_negative():
    rows = np.array([[[1.0, 2.0], [2.0, 4.0], [-3.0, -6.0]]], np.float32)
    layer = contrastive_layer()
    called(layer, rows, [[0, 0, 1]])
    found = measured(layer)
    assert found["positive_similarity"] == pytest.approx(1.0, abs=1e-6)
    assert found["negative_similarity"] == pytest.approx(-1.0, abs=1e-6)
    assert found["accuracy"] == 1.0


def test_metrics_average_over_the_calls_until_reset():
    layer, one, other = nt_xent_layer(), embeddings(), embeddings(seed=3)
    singles = []
    for rows in (one, other):
        alone = nt_xent_layer()
        called(alone, rows, [0, 1, 2, 3])
        singles.append(measured(alone))
        layer(tf.constant(rows), tf.constant([0, 1, 2, 3]))
    for name in (
        "positive_similarity",
        "negative_similarity",
        "accuracy",
        "embedding_std",
    ):
        mean = (singles[0][name] + singles[1][name]) / 2
        assert measured(layer)[name] == pytest.approx(mean, abs=1e-5)
    for metric in layer.metrics:
        metric.reset_state()
    called(layer, one, [0, 1, 2, 3])
    assert measured(layer) == pytest.approx(singles[0], abs=1e-6)


# ---- precision


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("learn_temperature", [False, True], ids=["fixed", "learned"])
def test_layer_computes_in_float32_under_every_policy(policy, learn_temperature):
    rows, targets, ids = embeddings(), embeddings(seed=1), [0, 1, 2, 3]
    expected = called(nt_xent_layer(0.05), rows, ids, targets=tf.constant(targets))
    keras.mixed_precision.set_global_policy(policy)
    layer = nt_xent_layer(0.05, learn_temperature=learn_temperature)
    total = called(layer, rows, ids, targets=tf.constant(targets))
    # Half precision anywhere on the way, of one argument or of the temperature, would show at 1e-3.
    assert total == pytest.approx(expected, rel=1e-6)
    assert all(
        tf.as_dtype(weight.dtype) == tf.float32
        for weight in layer.weights
        if tf.as_dtype(weight.dtype).is_floating
    )


@pytest.mark.parametrize(
    "dtype", [tf.float16, tf.bfloat16], ids=lambda dtype: dtype.name
)
def test_half_precision_embeddings_give_a_finite_float32_loss_and_gradient(dtype):
    layer, tensor = (
        nt_xent_layer(0.01),
        tf.cast(np.repeat(embeddings(4, 1), 2, axis=1), dtype),
    )
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        total = layer(tensor, tf.constant([0, 1, 2, 3]))
    assert total.dtype == tf.float32 and np.isfinite(total)
    assert np.isfinite(tf.cast(tape.gradient(total, tensor), tf.float32)).all()


# ---- in plain Keras


def functional(layer, views: int = 2, ids_of_views: bool = False, **options):
    inputs = keras.Input((views, 4))
    ids = keras.Input((views,) if ids_of_views else (), dtype="int64")
    model = keras.Model([inputs, ids], layer(keras.layers.Dense(3)(inputs), ids))
    model.compile(keras.optimizers.SGD(0.05), **options)
    return model


def dataset(ids, views: int = 2):
    inputs = embeddings(len(ids), views, 4)
    return tf.data.Dataset.from_tensors(((inputs, np.array(ids, np.int64)),)), inputs


def history(model, data, epochs: int) -> dict[str, list[float]]:
    return model.fit(data, epochs=epochs, shuffle=False, verbose=0).history


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_last_layer_of_a_functional_model_trains_in_plain_keras(jit_compile):
    ids = [BIG, BIG + 1, BIG + 2, BIG + 3]  # through float32 these would be two classes
    model, (data, inputs) = (
        functional(nt_xent_layer(0.5), jit_compile=jit_compile),
        dataset(ids),
    )
    dense = next(
        layer for layer in model.layers if isinstance(layer, keras.layers.Dense)
    )
    expected = over_all_views(np.asarray(dense(inputs)), [0, 1, 2, 3], temperature=0.5)
    found = history(model, data, 30)
    assert found["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert found["loss"][-1] < 0.9 * expected
    assert found["positive_similarity"][-1] > found["positive_similarity"][0]
    assert {"negative_similarity", "accuracy", "embedding_std"} <= set(found)


def test_siamese_triplets_train_in_plain_keras():
    ids = [[0, 0, 5], [1, 1, 6], [2, 2, 7]]
    model, (data, inputs) = (
        functional(contrastive_layer(), 3, ids_of_views=True),
        dataset(ids, 3),
    )
    dense = next(
        layer for layer in model.layers if isinstance(layer, keras.layers.Dense)
    )
    rows = np.moveaxis(np.asarray(dense(inputs)), 1, 0)
    found = history(model, data, 30)["loss"]
    expected = oracles.reduced(*oracles.contrastive_rows(*rows, margin=2.0))
    assert found[0] == pytest.approx(expected, rel=1e-4)
    assert found[-1] < 0.9 * found[0]


def test_learned_temperature_trains_in_plain_keras():
    layer = nt_xent_layer(0.5, learn_temperature=True)
    model, (data, _) = functional(layer), dataset([0, 1, 2, 3])
    assert any(weight is log_temperature(layer) for weight in model.trainable_weights)
    history(model, data, 3)
    assert float(log_temperature(layer)) != pytest.approx(math.log(0.5), abs=1e-4)


def step_of(layer) -> int:
    (step,) = [
        weight for weight in layer.weights if tf.as_dtype(weight.dtype) == tf.int64
    ]
    assert tuple(step.shape) == ()
    return int(step)


def test_step_advances_once_a_training_step_and_never_in_evaluation():
    layer = contrastive_layer()
    model, (data, _) = functional(layer), dataset([0, 1, 2, 3])
    before = step_of(layer)
    history(model, data, 3)
    assert step_of(layer) - before == 3
    first, second = (
        model.evaluate(data, verbose=0, return_dict=True) for _ in range(2)
    )
    assert first == second
    assert step_of(layer) - before == 3


def test_draws_change_from_step_to_step():
    # A learning rate of 0 leaves only the draws to move the loss.
    layer = contrastive_layer(margin=3.0)
    model, (data, _) = functional(layer), dataset([0, 1, 2, 3])
    model.optimizer.learning_rate = 0.0
    losses = history(model, data, 6)["loss"]
    assert len({round(loss, 4) for loss in losses}) > 1


def test_saved_functional_model_loads_with_its_loss_layer(tmp_path):
    model = functional(nt_xent_layer(0.3, learn_temperature=True, seed=5))
    data, _ = dataset([0, 1, 2, 3])
    history(model, data, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.evaluate(data, verbose=0, return_dict=True)
    assert loaded.evaluate(data, verbose=0, return_dict=True) == pytest.approx(
        expected, rel=1e-6
    )
    for found, wanted in zip(loaded.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_config_round_trip_gives_the_same_layer(policy):
    keras.mixed_precision.set_global_policy(policy)
    original = nt_xent_layer(0.7, learn_temperature=True, seed=5, name="mine")
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(original)
    )
    assert copy.get_config() == original.get_config()
    assert copy.name == "mine"
    rows, ids = embeddings(), [0, 1, 2, 3]
    assert called(copy, rows, ids) == called(original, rows, ids)
    assert called(copy, rows, ids) == pytest.approx(
        over_all_views(rows, ids, temperature=0.7), rel=1e-4
    )


# ---- errors


@pytest.mark.parametrize(
    "shape, ids, match",
    [
        ((4, 2, 3), (5,), r"`ids`.*Received.*5"),
        ((4, 2, 3), (4, 3), r"`ids`.*Received.*\(4, 3\)"),
        ((6, 2, 3), (4, 3), r"`ids`.*Received.*\(4, 3\)"),
        ((4, 3, 3), (5, 3), r"`ids`.*Received.*\(5, 3\)"),
        ((4, 2, 3), (4, 2, 1), r"`ids`.*Received.*\(4, 2, 1\)"),
        ((4, 2, 3, 1), (4,), r"`embeddings`.*Received.*\(4, 2, 3, 1\)"),
        ((4,), (4,), r"`embeddings`.*Received.*\(4,\)"),
    ],
    ids=[
        "other_batch",
        "other_views",
        "other_batch_and_views_of_one_product",
        "other_batch_of_triplets",
        "ids_rank_3",
        "embeddings_rank_4",
        "embeddings_rank_1",
    ],
)
def test_wrong_shape_is_refused_by_name(shape, ids, match):
    with pytest.raises(ValueError, match=match):
        contrastive_layer()(tf.ones(shape), tf.zeros(ids, tf.int64))


def test_targets_of_another_batch_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`targets`.*Received.*\(5, 2, 3\)"):
        nt_xent_layer()(
            tf.ones((4, 2, 3)), tf.zeros(4, tf.int64), targets=tf.ones((5, 2, 3))
        )


def test_sample_weight_of_another_length_is_refused_by_name():
    with pytest.raises(ValueError, match=r"`sample_weight`.*Received.*5"):
        nt_xent_layer()(
            tf.ones((4, 2, 3)), tf.zeros(4, tf.int64), sample_weight=tf.ones(5)
        )


def test_loss_that_is_none_of_ours_is_refused():
    with pytest.raises(ValueError, match="`loss`"):
        kc.ContrastiveLossLayer("nt_xent")
