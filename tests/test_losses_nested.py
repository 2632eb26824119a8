"""Nested dimensions over sets and rows: a loss of the first columns, for several widths at once."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    ANCHOR_IDS,
    FLOAT64,
    METRIC,
    MULTI_HOT,
    NUMERICAL,
    PATTERNS,
    SOFTMAX,
    candidate_case,
    rows,
    those,
    value_and_gradient,
)
from tests.oracles import losses as oracles
from tests.oracles import metric_losses as metric_oracles
from tests.oracles.gradients import numerical_gradient

IDS = np.array(PATTERNS["groups"])
DIMS, WEIGHTS = [1, 3, 4], [0.5, 2.0, 1.5]
# Of every kind: a softmax, a mean over triplets, pairs, constants for the gradient, a temperature.
NESTED = [
    SOFTMAX[0],
    *[loss for loss in METRIC if loss.name in ("triplet", "lifted_struct", "circle")],
    METRIC[-1],
]
nested_losses = those(NESTED)


def nested(loss, dims=None, weights=None):
    return kc.losses.NestedDimensions(
        loss.make(), DIMS if dims is None else dims, weights
    )


def expected_of(
    loss, ids, embeddings, *, dims=None, weights=None, sample_weight=None, **keywords
):
    """sum_m weights_m loss(the first d_m columns of the embeddings, and of the candidates)."""
    total, dims = 0.0, DIMS if dims is None else dims
    for dim, weight in zip(dims, weights or [1.0] * len(dims)):
        cut = {
            name: value[:, :dim] if name == "candidates" else value
            for name, value in keywords.items()
        }
        held = cut.pop("held", None)
        if held is not None:
            held = held[0][:, :dim], None if held[1] is None else held[1][:, :dim]
        values, counts = loss.expected(ids, embeddings[:, :dim], held=held, **cut)
        total += weight * oracles.reduced(values, counts, sample_weight)
    return total


@nested_losses
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_value_and_gradient_are_the_weighted_sum_over_widths(loss, weights):
    value, gradient = value_and_gradient(
        lambda z: tf.reshape(nested(loss, weights=weights)(IDS, z), [1]),
        tf.constant(rows()),
    )
    assert value.dtype == tf.float64
    expected = expected_of(loss, IDS, rows(), weights=weights)
    np.testing.assert_allclose(value[0], expected, **FLOAT64)
    numerical = numerical_gradient(
        lambda z: expected_of(loss, IDS, z, weights=weights, held=(rows(), None)),
        rows(),
    )
    np.testing.assert_allclose(gradient, numerical, **NUMERICAL)
    single = nested(loss, weights=weights)(IDS, rows(dtype=np.float32))
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, expected, rtol=1e-4)


@nested_losses
def test_candidates_are_cut_as_the_embeddings_are(loss):
    options = candidate_case("mask_of_pairs")
    expected = expected_of(loss, ANCHOR_IDS, rows(5), **options)
    assert expected > 0.01
    np.testing.assert_allclose(
        nested(loss)(ANCHOR_IDS, rows(5), **options), expected, **FLOAT64
    )


@nested_losses
def test_columns_beyond_the_largest_width_have_no_gradient(loss):
    _, gradient = value_and_gradient(
        lambda z: tf.reshape(nested(loss, [1, 3])(IDS, z), [1]), tf.constant(rows())
    )
    np.testing.assert_array_equal(gradient[:, 3], np.zeros(6))
    assert np.all(np.abs(gradient.numpy()[:5, 1:3]).max(axis=0) > 1e-4)


@nested_losses
def test_full_width_alone_is_the_loss_itself(loss):
    np.testing.assert_allclose(
        nested(loss, [4])(IDS, rows()), loss.make()(IDS, rows()), **FLOAT64
    )


@nested_losses
def test_sample_weight_weighs_the_anchors_of_every_width(loss):
    sample_weight = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 100.0])
    expected = expected_of(
        loss, IDS, rows(), weights=WEIGHTS, sample_weight=sample_weight
    )
    np.testing.assert_allclose(
        nested(loss, weights=WEIGHTS)(IDS, rows(), sample_weight=sample_weight),
        expected,
        **FLOAT64,
    )


def test_multi_hot_labels_are_not_cut():
    loss = METRIC[-1]
    np.testing.assert_allclose(
        nested(loss)(MULTI_HOT, rows(5)),
        expected_of(loss, MULTI_HOT, rows(5)),
        **FLOAT64,
    )


def test_temperature_of_the_call_reaches_every_width():
    expected = expected_of(SOFTMAX[0], IDS, rows(), temperature=0.3)
    found = nested(SOFTMAX[0])(IDS, rows(), temperature=tf.constant(0.3, tf.float64))
    np.testing.assert_allclose(found, expected, **FLOAT64)


def test_koleo_spreads_every_width():
    loss = kc.losses.NestedDimensions(kc.losses.KoLeoLoss(), [2, 4])
    expected = sum(
        metric_oracles.koleo(IDS, rows()[:, :dim])[0].mean() for dim in (2, 4)
    )
    np.testing.assert_allclose(loss(IDS, rows()), expected, **FLOAT64)


def test_rows_are_cut_all_three():
    sides = [rows(5, seed=seed) for seed in (10, 11, 12)]
    loss = kc.losses.NestedDimensions(kc.losses.TripletLoss(margin=1.0), DIMS, WEIGHTS)
    expected = sum(
        weight
        * metric_oracles.triplet_rows(*[s[:, :dim] for s in sides], margin=1.0)[
            0
        ].mean()
        for dim, weight in zip(DIMS, WEIGHTS)
    )
    np.testing.assert_allclose(loss(*sides), expected, **FLOAT64)
    np.testing.assert_allclose(
        loss(sides[0], sides[1], negative=sides[2]), expected, **FLOAT64
    )


def test_unknown_batch_size_and_xla_agree_with_eager():
    loss = nested(NESTED[1], [2, 4])

    def run(ids, z):
        return value_and_gradient(lambda z: tf.reshape(loss(ids, z), [1]), z)

    unknown = tf.function(
        run,
        input_signature=[
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, 4], tf.float32),
        ],
    )
    for n in (6, 1):
        ids, embeddings = tf.constant(IDS[:n]), tf.constant(rows(n), tf.float32)
        expected = run(ids, embeddings)
        for way in (unknown, tf.function(run, jit_compile=True)):
            for found, wanted in zip(way(ids, embeddings), expected):
                np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


@nested_losses
def test_config_round_trip_keeps_the_loss_and_its_widths(loss):
    original = nested(loss, weights=WEIGHTS)
    config = original.get_config()
    assert list(config["dims"]) == DIMS and list(config["weights"]) == WEIGHTS
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(original)
    )
    assert type(copy) is kc.losses.NestedDimensions
    assert copy.get_config() == config
    np.testing.assert_array_equal(copy(IDS, rows()), original(IDS, rows()))


@nested_losses
def test_plain_keras_fit_reports_the_sum_and_lowers_it(loss):
    # Ids above 2^24 that passed through float32 would make strangers positives: another loss.
    ids, inputs = np.array(PATTERNS["large"]), rows(dtype=np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.01), loss=nested(loss, [2, 4]))
    expected = expected_of(
        loss, ids, model.predict(inputs, verbose=0).astype(np.float64), dims=[2, 4]
    )
    history = model.fit(
        inputs, ids, batch_size=6, epochs=5, shuffle=False, verbose=0
    ).history["loss"]
    np.testing.assert_allclose(history[0], expected, rtol=1e-4, atol=1e-5)
    assert history[-1] < history[0]


def test_compiled_model_saves_and_loads_its_loss(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.compile("sgd", loss=nested(SOFTMAX[0], [2, 4], [1.0, 0.5]))
    inputs = rows(dtype=np.float32)
    expected = model.evaluate(inputs, IDS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.evaluate(inputs, IDS, verbose=0), expected, rtol=1e-6
    )


@pytest.mark.parametrize(
    "dims",
    [[], [0, 2], [-1, 2], [2, 2], [4, 2], [1.5, 2], ["2"], [True, 2], 4, None],
    ids=repr,
)
def test_dims_that_are_not_increasing_positive_integers_are_refused(dims):
    with pytest.raises(ValueError, match=r"^`dims` .*Received: .*$"):
        kc.losses.NestedDimensions(kc.losses.NTXentLoss(), dims)


@pytest.mark.parametrize(
    "weights",
    [[], [1.0], [1.0] * 3, [1.0, float("nan")], [1.0, "a"]],
    ids=repr,
)
def test_weights_that_do_not_match_the_dims_are_refused(weights):
    with pytest.raises(ValueError, match=r"^`weights` .*Received: .*$"):
        kc.losses.NestedDimensions(kc.losses.NTXentLoss(), [2, 4], weights)


def test_dims_larger_than_the_width_are_refused_at_the_call():
    with pytest.raises(ValueError, match=r"`dims` .*Received: dims=\[2, 8\], .*4"):
        kc.losses.NestedDimensions(kc.losses.NTXentLoss(), [2, 8])(IDS, rows())


@pytest.mark.parametrize("loss", ["nt_xent", None], ids=["text", "none"])
def test_something_else_than_a_loss_is_refused(loss):
    with pytest.raises((TypeError, ValueError), match=r"^`loss` .*Received: "):
        kc.losses.NestedDimensions(loss, [2])
