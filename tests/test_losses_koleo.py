"""KoLeo: the distance to the nearest neighbour, whatever the ids."""

from __future__ import annotations

import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    ANCHOR_IDS,
    DEGENERATE,
    FLOAT32,
    FLOAT64,
    MULTI_HOT,
    NUMERICAL,
    candidate_case,
    rows,
    value_and_gradient,
    weighted_sum,
)
from tests.oracles import losses as oracles
from tests.oracles import metric_losses as metric_oracles
from tests.oracles.gradients import numerical_gradient

IDS = np.zeros(6, np.int64)


def assert_matches_oracle(ids, embeddings, **keywords) -> None:
    expected, _ = metric_oracles.koleo(ids, embeddings, **keywords)
    values, gradient = value_and_gradient(
        lambda z: kc.losses.koleo_loss(ids, z, **keywords), tf.constant(embeddings)
    )
    assert values.dtype == tf.float64
    np.testing.assert_allclose(values, expected, **FLOAT64)
    numerical = numerical_gradient(
        lambda z: weighted_sum(metric_oracles.koleo(ids, z, **keywords)[0]), embeddings
    )
    np.testing.assert_allclose(gradient, numerical, **NUMERICAL)


@pytest.mark.parametrize("n", [2, 6, 11])
def test_values_and_gradient_within_the_batch_match_the_oracle(n):
    assert_matches_oracle(np.arange(n), rows(n))
    single = kc.losses.koleo_loss(np.arange(n), rows(n, dtype=np.float32))
    assert single.dtype == tf.float32
    np.testing.assert_allclose(
        single, metric_oracles.koleo(np.arange(n), rows(n))[0], **FLOAT32
    )


@pytest.mark.parametrize(
    "case",
    ["plain", "self_index", "mask_of_columns", "mask_of_pairs", "all_at_once"],
)
def test_values_and_gradient_against_candidates_match_the_oracle(case):
    assert_matches_oracle(ANCHOR_IDS, rows(5), **candidate_case(case))


def test_mask_within_the_batch_matches_the_oracle():
    mask = np.random.default_rng(2).random((6, 6)) < 0.5
    mask[3] = False  # an anchor without a neighbour
    assert_matches_oracle(IDS, rows(), candidate_mask=mask)
    loss = kc.losses.KoLeoLoss()(IDS, rows(), candidate_mask=mask)
    expected, counts = metric_oracles.koleo(IDS, rows(), candidate_mask=mask)
    assert 0 < counts.sum() < 6
    np.testing.assert_allclose(loss, oracles.reduced(expected, counts), **FLOAT64)


def test_gradient_reaches_the_candidates():
    candidates = candidate_case("plain")["candidates"]
    _, gradient = value_and_gradient(
        lambda c: kc.losses.koleo_loss(ANCHOR_IDS, rows(5), candidates=c),
        tf.constant(candidates),
    )
    numerical = numerical_gradient(
        lambda c: weighted_sum(
            metric_oracles.koleo(ANCHOR_IDS, rows(5), candidates=c)[0]
        ),
        candidates,
    )
    assert np.abs(numerical).max() > 0.01
    np.testing.assert_allclose(gradient, numerical, **NUMERICAL)


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(5),
        np.full(5, -1),
        np.array([0, 0, 1, 1, -1]),
        np.array([[0], [1], [0], [1], [2]]),
        MULTI_HOT,
        MULTI_HOT.astype(bool),
    ],
    ids=["different", "unknown", "groups", "column", "multi_hot", "bool"],
)
def test_ids_are_not_used(ids):
    expected, _ = metric_oracles.koleo(np.zeros(5), rows(5))
    np.testing.assert_allclose(kc.losses.koleo_loss(ids, rows(5)), expected, **FLOAT64)
    np.testing.assert_allclose(
        kc.losses.KoLeoLoss()(ids, rows(5)), expected.mean(), **FLOAT64
    )


def test_candidate_ids_and_negative_only_are_not_used():
    options = candidate_case("negative_only")
    np.testing.assert_array_equal(
        kc.losses.koleo_loss(ANCHOR_IDS, rows(5), **options),
        kc.losses.koleo_loss(ANCHOR_IDS, rows(5), candidates=options["candidates"]),
    )


@pytest.mark.parametrize("epsilon", [1e-8, 0.1])
def test_koleo_of_orthonormal_rows_is_minus_log_of_root_two(epsilon):
    loss = kc.losses.KoLeoLoss(epsilon=epsilon)(np.arange(4), np.eye(4))
    np.testing.assert_allclose(loss, -math.log(math.sqrt(2) + epsilon), **FLOAT64)


def test_koleo_of_two_opposite_rows_is_minus_log_2():
    # A diagonal set to -1 instead of left out ties with the opposite row: a row its own neighbour, 18 for -0.69.
    embeddings = np.array([[3.0, 4.0], [-0.3, -0.4]])
    values = kc.losses.koleo_loss(np.array([0, 1]), embeddings)
    np.testing.assert_allclose(values, [-math.log(2)] * 2, rtol=1e-7)


def test_koleo_default_epsilon_is_1e_8():
    values = kc.losses.koleo_loss(np.arange(4), np.repeat(rows(2), 2, axis=0))
    np.testing.assert_allclose(values, [-math.log(1e-8)] * 4, **FLOAT64)


@pytest.mark.parametrize("dtype", [tf.float64, tf.float32, tf.float16, tf.bfloat16])
def test_exact_duplicates_give_minus_log_epsilon_without_a_gradient(dtype):
    # A row three times, one twice as long, and one of its own, which is no neighbour of theirs.
    embeddings = tf.constant([[0.5, 2], [0.5, 2], [0.5, 2], [1, 4], [-1, 1]], dtype)
    for ids in (np.arange(5), np.zeros(5, int)):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            values = kc.losses.koleo_loss(ids, embeddings)
            of_duplicates = tf.reduce_sum(values[:3])
        np.testing.assert_allclose(values[:3], [-math.log(1e-8)] * 3, rtol=1e-6)
        assert np.isfinite(values).all()
        gradient = tape.gradient(of_duplicates, embeddings)
        np.testing.assert_array_equal(tf.cast(gradient, tf.float64), np.zeros((5, 2)))


def test_gradient_is_finite_when_some_rows_coincide():
    embeddings = np.concatenate([rows(4), rows(4)[:2]])
    values, gradient = value_and_gradient(
        lambda z: kc.losses.koleo_loss(IDS, z), tf.constant(embeddings, tf.float32)
    )
    assert np.isfinite(values).all() and np.isfinite(gradient).all()
    # The two that are nobody's copy are pushed off their neighbours all the same.
    assert np.all(np.abs(gradient.numpy()[2:4]).max(axis=1) > 0.01)


def test_near_duplicates_keep_a_true_distance():
    # 2 - 2 cos is 0 in float32 for rows 1e-4 apart. Their own rounding, 1e-7, is a thousandth of that.
    embeddings = np.array([[1.0, 0, 0], [1, 1e-4, 0], [0, 0, 1]], np.float32)
    expected, _ = metric_oracles.koleo(np.arange(3), embeddings)
    values = kc.losses.koleo_loss(np.arange(3), embeddings)
    np.testing.assert_allclose(values, expected, atol=2e-3)


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batch_is_finite_with_and_without_xla(case):
    ids, make_rows = DEGENERATE[case]

    def run(z):
        return value_and_gradient(lambda z: kc.losses.koleo_loss(np.array(ids), z), z)

    ways = {
        tf.bfloat16: [run],
        tf.float16: [run],
        tf.float32: [run, tf.function(run, jit_compile=True)],
    }
    for dtype, functions in ways.items():
        embeddings = tf.cast(make_rows(), dtype)
        for way in functions:
            values, gradient = way(embeddings)
            assert values.dtype == tf.float32 and gradient.dtype == dtype
            assert np.isfinite(values).all(), dtype
            assert np.isfinite(tf.cast(gradient, tf.float64)).all(), dtype


@pytest.mark.parametrize("ids", [[3], [-1]], ids=["known", "unknown"])
def test_batch_of_one_is_zero_with_zero_gradient(ids):
    for loss in (
        kc.losses.koleo_loss,
        lambda ids, z: tf.reshape(kc.losses.KoLeoLoss()(ids, z), [1]),
    ):
        values, gradient = value_and_gradient(
            lambda z, loss=loss: loss(np.array(ids), z), tf.constant(rows(1))
        )
        np.testing.assert_array_equal(values, [0.0])
        np.testing.assert_array_equal(gradient, np.zeros((1, 4)))


def test_no_rows_and_no_candidates_are_zero():
    nobody, nothing = np.zeros(0, np.int64), tf.zeros((0, 4))
    assert float(kc.losses.KoLeoLoss()(nobody, nothing)) == 0.0
    values = kc.losses.koleo_loss(IDS, rows(), candidates=nothing, candidate_ids=nobody)
    np.testing.assert_array_equal(values, np.zeros(6))


def test_unknown_batch_size_and_xla_agree_with_eager():
    def run(ids, z):
        return value_and_gradient(lambda z: kc.losses.koleo_loss(ids, z), z)

    unknown = tf.function(
        run,
        input_signature=[
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, None], tf.float32),
        ],
    )
    for n in (6, 2, 1, 0):
        ids, embeddings = tf.zeros(n, tf.int64), tf.constant(rows(n), tf.float32)
        expected = run(ids, embeddings)
        for way in (unknown, tf.function(run, jit_compile=True)):
            for found, wanted in zip(way(ids, embeddings), expected):
                np.testing.assert_allclose(found, wanted, **FLOAT32)


def test_class_averages_and_takes_sample_weights():
    weights = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 1.0])
    expected, counts = metric_oracles.koleo(IDS, rows(), epsilon=0.01)
    make = kc.losses.KoLeoLoss
    for reduction, wanted in (
        ("sum_over_batch_size", oracles.reduced(expected, counts, weights)),
        ("sum", (weights * expected).sum()),
        ("none", weights * expected),
    ):
        loss = make(epsilon=0.01, reduction=reduction)
        np.testing.assert_allclose(
            loss(IDS, rows(), sample_weight=weights), wanted, **FLOAT64
        )


def test_config_round_trip_keeps_every_argument():
    original = kc.losses.KoLeoLoss(epsilon=0.01, reduction="sum", name="mine")
    config = original.get_config()
    arguments = set(inspect.signature(kc.losses.KoLeoLoss.__init__).parameters)
    assert arguments - {"self"} <= set(config)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(original)
    )
    assert copy.get_config() == config and config["epsilon"] == 0.01
    np.testing.assert_array_equal(copy(IDS, rows()), original(IDS, rows()))


def test_descent_spreads_the_rows_over_the_circle():
    # Twelve points from a twelfth of the circle: at the optimum each is 30 degrees from the next.
    angles = np.linspace(0.0, math.tau / 12, 12) + 0.01 * rows(12, 1)[:, 0]
    embeddings = tf.constant(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    ids, loss = np.zeros(12, int), kc.losses.KoLeoLoss()
    best = -math.log(2 * math.sin(math.tau / 24))
    first = float(loss(ids, embeddings))
    step = tf.function(
        lambda z: value_and_gradient(lambda z: tf.reshape(loss(ids, z), [1]), z)[1]
    )
    for _ in range(500):
        embeddings = tf.math.l2_normalize(embeddings - 0.02 * step(embeddings), axis=1)
    last = float(loss(ids, embeddings))
    assert last < first - 1
    assert best - 1e-9 <= last < best + 0.3


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_epsilon_that_is_not_positive_is_refused(value):
    for call in (
        lambda: kc.losses.KoLeoLoss(epsilon=value),
        lambda: kc.losses.koleo_loss(IDS, rows(), epsilon=value),
    ):
        with pytest.raises(ValueError, match=r"`epsilon` must be .*Received: epsilon="):
            call()


def test_wrong_shapes_are_refused_by_name():
    for wrong, match in (
        ({"embeddings": np.ones(6)}, r"`embeddings` must have rank 2"),
        ({"candidates": np.ones((8, 3))}, r"`candidates`.*Received.*\(8, 3\)"),
        ({"candidate_mask": np.ones((5, 6), bool)}, r"`candidate_mask`.*\(5, 6\)"),
        ({"self_index": np.arange(4)}, r"`self_index`.*Received.*4"),
    ):
        right = {"ids": IDS, "embeddings": rows()}
        with pytest.raises(ValueError, match=match):
            kc.losses.koleo_loss(**{**right, **wrong})
