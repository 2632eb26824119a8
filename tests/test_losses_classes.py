"""Every loss over sets as a Keras class: reduction, configuration, `fit`, and what is refused."""

from __future__ import annotations

import functools
import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    ANCHOR_IDS,
    FLOAT64,
    METRIC,
    PATTERNS,
    SOFTMAX,
    candidate_case,
    every_loss,
    log_probability_losses,
    one_of_each_class,
    rows,
    tempered_losses,
    those,
    value_and_gradient,
)
from tests.oracles import losses as oracles


@every_loss
def test_class_averages_over_the_anchors_that_count(loss):
    # Three, two and one of an id: where pairs or triplets are counted, the counts differ.
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    expected, counts = loss.expected(ids, embeddings)
    assert 0 < np.sum(counts > 0) < 6
    np.testing.assert_allclose(
        loss.make()(ids, embeddings), oracles.reduced(expected, counts), **FLOAT64
    )
    counted = counts * expected
    np.testing.assert_allclose(
        loss.make(reduction="sum")(ids, embeddings), counted.sum(), **FLOAT64
    )
    np.testing.assert_allclose(
        loss.make(reduction="none")(ids, embeddings), counted, **FLOAT64
    )


@every_loss
def test_sample_weight_weighs_the_anchors_that_count(loss):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    # A heavy weight on the lone anchor: it must not enter the denominator.
    weights = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 100.0])
    expected, counts = loss.expected(ids, embeddings)
    for sample_weight in (
        weights,
        weights[:, None],
    ):  # Keras 2 hands them over as a column
        np.testing.assert_allclose(
            loss.make()(ids, embeddings, sample_weight=sample_weight),
            oracles.reduced(expected, counts, weights),
            **FLOAT64,
        )
        np.testing.assert_allclose(
            loss.make(reduction="sum")(ids, embeddings, sample_weight=sample_weight),
            (expected * counts * weights).sum(),
            **FLOAT64,
        )
        np.testing.assert_allclose(
            loss.make(reduction="none")(ids, embeddings, sample_weight=sample_weight),
            expected * counts * weights,
            **FLOAT64,
        )


@every_loss
def test_sample_weights_of_zero_give_zero_not_nan(loss):
    ids = np.array(PATTERNS["pairs"])
    total, gradient = value_and_gradient(
        lambda z: tf.reshape(loss.make()(ids, z, sample_weight=np.zeros(6)), [1]),
        tf.constant(rows()),
    )
    assert float(total[0]) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((6, 4)))


@every_loss
def test_class_passes_the_candidates_on(loss):
    options = candidate_case("all_at_once")
    expected = oracles.reduced(*loss.expected(ANCHOR_IDS, rows(5), **options))
    np.testing.assert_allclose(
        loss.make()(ANCHOR_IDS, rows(5), **options), expected, **FLOAT64
    )


@tempered_losses
def test_class_takes_a_temperature_in_its_call(loss):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    expected = oracles.reduced(*loss.expected(ids, embeddings, temperature=0.3))
    total = loss.make()(ids, embeddings, temperature=tf.constant(0.3, tf.float64))
    np.testing.assert_allclose(total, expected, **FLOAT64)


@every_loss
def test_config_round_trip_keeps_every_argument(loss):
    original = loss.make(reduction="sum", name="mine")
    config = original.get_config()
    arguments = set(inspect.signature(loss.loss_class.__init__).parameters) - {"self"}
    assert arguments <= set(config)
    assert {name: config[name] for name in loss.options} == loss.options
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(original)
    )
    assert type(copy) is loss.loss_class
    assert copy.get_config() == config
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    np.testing.assert_array_equal(copy(ids, embeddings), original(ids, embeddings))


def small_model(loss, **options):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.01), loss=loss.make(), **options)
    return model


@one_of_each_class
def test_plain_keras_fit_reports_the_loss_of_large_labels_and_lowers_it(loss):
    # Ids above 2^24 that passed through float32 would make strangers positives: another loss.
    ids, inputs = np.array(PATTERNS["large"]), rows(dtype=np.float32)
    model = small_model(loss)
    expected = oracles.reduced(*loss.expected(ids, model.predict(inputs, verbose=0)))
    history = model.fit(
        inputs, ids, batch_size=6, epochs=5, shuffle=False, verbose=0
    ).history["loss"]
    np.testing.assert_allclose(history[0], expected, rtol=1e-4, atol=1e-5)
    assert history[-1] < history[0]


@one_of_each_class
def test_plain_keras_evaluate_takes_sample_weights(loss):
    ids, inputs, model = (
        np.array(PATTERNS["lone_anchors"]),
        rows(dtype=np.float32),
        small_model(loss),
    )
    weights = np.array([0.5, 2.0, 9.0, 9.0, 0.0, 1.0], np.float32)
    expected = oracles.reduced(
        *loss.expected(ids, model.predict(inputs, verbose=0)), weights
    )
    total = model.evaluate(inputs, ids, sample_weight=weights, batch_size=6, verbose=0)
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)


@those([SOFTMAX[0], SOFTMAX[-1], METRIC[1]])
def test_compiled_model_saves_and_loads_its_loss(loss, tmp_path):
    ids, inputs, model = (
        np.array(PATTERNS["groups"]),
        rows(dtype=np.float32),
        small_model(loss),
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.evaluate(inputs, ids, verbose=0)
    np.testing.assert_allclose(
        loaded.evaluate(inputs, ids, verbose=0), expected, rtol=1e-6
    )


NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]


# What each takes that must be > 0, beside the losses over rows, which are functions of another signature.
POSITIVE = [
    ("NTXentLoss", "nt_xent_loss", "temperature"),
    ("ContrastiveLoss", "contrastive_loss", "margin"),
    ("TripletLoss", "triplet_loss", "margin"),
    ("TripletSemiHardLoss", "triplet_semi_hard_loss", "margin"),
    ("TripletHardLoss", "triplet_hard_loss", "margin"),
    ("MultiSimilarityLoss", "multi_similarity_loss", "alpha"),
    ("MultiSimilarityLoss", "multi_similarity_loss", "beta"),
    ("CircleLoss", "circle_loss", "scale"),
    ("SoftNearestNeighborLoss", "soft_nearest_neighbor_loss", "temperature"),
]


@pytest.mark.parametrize("value", NOT_POSITIVE)
@pytest.mark.parametrize(
    "loss_class, function, name", POSITIVE, ids=lambda value: value
)
def test_number_that_is_not_positive_and_finite_is_refused(
    loss_class, function, name, value
):
    for call in (
        functools.partial(getattr(kc.losses, loss_class)),
        functools.partial(getattr(kc.losses, function), [0, 0], rows(2)),
    ):
        with pytest.raises(
            ValueError, match=rf"`{name}` must be .*> 0.* Received: {name}={value}"
        ):
            call(**{name: value})


@pytest.mark.parametrize("value", NOT_POSITIVE)
@pytest.mark.parametrize("function", ["contrastive_loss", "triplet_loss"])
def test_margin_over_rows_that_is_not_positive_and_finite_is_refused(function, value):
    with pytest.raises(
        ValueError, match=rf"`margin` must be .*> 0.* Received: margin={value}"
    ):
        getattr(kc.losses, function)(rows(2), rows(2), rows(2), margin=value)


@every_loss
@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"embeddings": np.ones(5)}, r"`embeddings` must have rank 2"),
        ({"embeddings": np.ones((5, 2, 2))}, r"`embeddings` must have rank 2"),
        ({"ids": np.arange(4)}, r"`ids`.*Received.*4"),
        ({"ids": np.zeros((5, 3), int)}, r"`ids`.*Received.*\(5, 3\)"),
        ({"candidates": np.ones(8)}, r"`candidates` must have rank 2"),
        ({"candidates": np.ones((8, 3))}, r"`candidates`.*Received.*\(8, 3\)"),
        ({"candidate_ids": np.arange(7)}, r"`candidate_ids`.*Received.*7"),
        ({"candidate_ids": None}, r"`candidate_ids`.*Received"),
        ({"candidate_mask": np.ones((4, 8), bool)}, r"`candidate_mask`.*\(4, 8\)"),
        ({"candidate_mask": np.ones(7, bool)}, r"`candidate_mask`.*Received.*7"),
        ({"negative_only": np.ones(7, bool)}, r"`negative_only`.*Received.*7"),
        ({"self_index": np.arange(4)}, r"`self_index`.*Received.*4"),
        ({"positives": np.ones((5, 7))}, r"`positives`.*Received.*\(5, 7\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_shape_is_refused_by_name(loss, wrong, match):
    right = {"ids": ANCHOR_IDS, "embeddings": rows(5), **candidate_case("plain")}
    with pytest.raises(ValueError, match=match):
        loss.values(**{**right, **wrong})


@every_loss
def test_matrix_of_integer_ids_is_refused(loss):
    # Multi-hot labels are float or bool. Ids [batch, views], not flattened, would pass for shared labels.
    with pytest.raises(ValueError, match=r"`ids`.*Received.*\(5, 3\)"):
        loss.values(np.arange(15).reshape(5, 3), rows(5))


@log_probability_losses
def test_wrong_shape_of_log_probabilities_is_refused_by_name(loss):
    with pytest.raises(ValueError, match=r"`candidate_log_probability`.*Received.*7"):
        loss.values(
            ANCHOR_IDS,
            rows(5),
            candidate_log_probability=np.zeros(7),
            **candidate_case("plain"),
        )


@every_loss
def test_log_probability_is_refused_where_there_is_nothing_to_correct(loss):
    if loss.takes_log_probability:
        assert loss.values(
            ANCHOR_IDS, rows(5), candidate_log_probability=None
        ).shape == (5,)
        return
    with pytest.raises(
        ValueError, match="`candidate_log_probability` is for the softmax"
    ):
        loss.values(ANCHOR_IDS, rows(5), candidate_log_probability=np.zeros(5))


@every_loss
def test_unknown_keyword_is_refused_by_its_name(loss):
    wrong = ["marging"] if loss.tempered else ["marging", "temperature"]
    for name in wrong:
        with pytest.raises(TypeError, match=f"`{name}` is no keyword of this loss"):
            loss.values(ANCHOR_IDS, rows(5), **{name: 0.1})


@every_loss
def test_unknown_reduction_is_refused_with_the_valid_ones(loss):
    with pytest.raises(
        ValueError,
        match=r"`reduction` must be one of .*'sum_over_batch_size'.*Received",
    ):
        loss.make(reduction="average")


WITH_DISTANCES = [
    ("ContrastiveLoss", "contrastive_loss"),
    ("TripletLoss", "triplet_loss"),
    ("TripletSemiHardLoss", "triplet_semi_hard_loss"),
    ("TripletHardLoss", "triplet_hard_loss"),
    ("LiftedStructLoss", "lifted_struct_loss"),
    ("SoftNearestNeighborLoss", "soft_nearest_neighbor_loss"),
]


@pytest.mark.parametrize(
    "loss_class, function", WITH_DISTANCES, ids=[name for name, _ in WITH_DISTANCES]
)
def test_unknown_distance_is_refused_with_the_nearest(loss_class, function):
    function = getattr(kc.losses, function)
    calls = [
        getattr(kc.losses, loss_class),
        functools.partial(function, [0, 0], rows(2)),
    ]
    if "rows" in getattr(kc.losses, loss_class).families:
        calls.append(functools.partial(function, rows(2), rows(2), rows(2)))
    for call in calls:
        with pytest.raises(
            ValueError,
            match=r"`distance` must be one of .*'euclidean'.*Received.*euclidian",
        ):
            call(distance="euclidian")
