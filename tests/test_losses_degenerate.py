"""Every loss over sets: batches in which something is missing, and faults of other libraries."""

from __future__ import annotations

import functools
from typing import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    ANCHOR_IDS,
    BIG,
    DEGENERATE,
    EXTREME,
    FLOAT32,
    FLOAT64,
    LOSSES,
    PATTERNS,
    as_float32,
    candidate_case,
    every_loss,
    largest_tensor,
    log_probability_losses,
    one_of_each_class,
    rows,
    separable_losses,
    value_and_gradient,
)
from tests.oracles import losses as oracles


@functools.cache
def graph(function: Callable, options: tuple, *, by_xla: bool) -> Callable:
    """Values and gradient. Numbers are tensors, so that one program serves every temperature."""

    @tf.function(jit_compile=by_xla, autograph=False)
    def run(ids, embeddings, numbers):
        keywords = {**dict(options), **numbers}
        return value_and_gradient(lambda z: function(ids, z, **keywords), embeddings)

    return run


@pytest.mark.parametrize("loss", LOSSES + EXTREME, ids=lambda loss: loss.name)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batch_has_finite_values_and_gradient(loss, case):
    ids, make_rows = DEGENERATE[case]
    ids, expected_counts = tf.constant(ids, tf.int64), loss.counts(ids)
    numbers = {k: v for k, v in loss.options.items() if k in ("temperature",)}
    others = tuple((k, v) for k, v in loss.options.items() if k not in numbers)
    # XLA rewrites `where`: what is finite without it need not be with it.
    ways = {tf.bfloat16: [False], tf.float16: [True], tf.float32: [False, True]}
    for dtype, by_xla in ways.items():
        embeddings = tf.cast(make_rows(), dtype)
        given = {k: tf.constant(v, tf.float32) for k, v in numbers.items()}
        results = [
            graph(loss.function, others, by_xla=way)(ids, embeddings, given)
            for way in by_xla
        ]
        for values, gradient in results:
            assert values.dtype == tf.float32
            assert gradient.dtype == dtype
            assert np.isfinite(values).all(), dtype
            # Gradients of rows of 1e4 that do not normalise are true numbers beyond float16.
            if not (case == "huge_rows" and dtype == tf.float16):
                assert np.isfinite(tf.cast(gradient, tf.float64)).all(), dtype
            assert not np.any(values.numpy()[expected_counts == 0]), dtype
        np.testing.assert_allclose(results[-1][0], results[0][0], rtol=1e-4, atol=1e-4)


@every_loss
def test_batch_of_one_is_zero_with_zero_gradient(loss):
    values, gradient = value_and_gradient(
        lambda z: loss.values(np.array([3]), z), tf.constant(rows(1))
    )
    np.testing.assert_array_equal(values, [0.0])
    np.testing.assert_array_equal(gradient, np.zeros((1, 4)))


@every_loss
def test_no_rows_and_no_candidates_are_zero(loss):
    nobody, nothing = np.zeros(0, np.int64), tf.zeros((0, 4))
    assert float(loss.make()(nobody, nothing)) == 0.0
    values, gradient = value_and_gradient(
        lambda z: loss.values(
            np.array([0, 0, 1]), z, candidates=nothing, candidate_ids=nobody
        ),
        tf.constant(rows(3), tf.float32),
    )
    np.testing.assert_array_equal(values, np.zeros(3))
    np.testing.assert_array_equal(gradient, np.zeros((3, 4)))


@every_loss
@pytest.mark.parametrize(
    "ids", [PATTERNS["no_positives"], [-1] * 6], ids=["all_different", "all_unknown"]
)
def test_batch_in_which_nothing_counts_is_zero_with_zero_gradient(loss, ids):
    total, gradient = value_and_gradient(
        lambda z: tf.reshape(loss.make()(np.array(ids), z), [1]), tf.constant(rows())
    )
    assert float(total[0]) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((6, 4)))


@every_loss
def test_one_class_counts_only_where_no_negative_is_needed(loss):
    values = loss.values(np.array(PATTERNS["one_class"]), rows()).numpy()
    if loss.zero_of_one_class:
        np.testing.assert_allclose(values, 0.0, **FLOAT64)
    else:
        assert np.all(values == 0.0) if loss.needs_negatives else np.all(values > 0.0)


@every_loss
def test_half_precision_rows_are_compared_in_float32(loss):
    ids = np.array(PATTERNS["groups"])
    for dtype in (tf.float16, tf.bfloat16):
        half = tf.cast(rows(), dtype)
        expected, _ = loss.expected(ids, tf.cast(half, tf.float64).numpy())
        np.testing.assert_allclose(loss.values(ids, half), expected, **FLOAT32)


@one_of_each_class
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_class_computes_in_float32_under_every_policy(loss, policy):
    keras.mixed_precision.set_global_policy(policy)
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    total = loss.make()(
        ids, tf.constant(embeddings, tf.float32), sample_weight=np.full(6, 1 / 3)
    )
    assert total.dtype == tf.float32
    np.testing.assert_allclose(
        total, oracles.reduced(*loss.expected(ids, embeddings)), **FLOAT32
    )


@every_loss
def test_sign_gradient_descent_pulls_positives_in_and_pushes_negatives_out(loss):
    # Released triplet losses have pushed positives away for versions on end.
    ids = np.array([0, 0, 1, 1])
    start = embeddings = 1.0 + 0.3 * rows(4)  # close together, not sorted by id
    step = tf.function(lambda z: value_and_gradient(lambda z: loss.values(ids, z), z))
    for _ in range(60):
        _, gradient = step(tf.constant(embeddings))
        embeddings = embeddings - 0.05 * gradient.numpy()

    def gap(rows):
        d = [[oracles.distance_of(loss.distance, a, b) for b in rows] for a in rows]
        positive = (d[0][1] + d[2][3]) / 2
        return (d[0][2] + d[0][3] + d[1][2] + d[1][3]) / 4 - positive

    assert gap(embeddings) > gap(start) + 0.1


@every_loss
def test_label_polarity_equal_ids_are_the_similar_ones(loss):
    # y = 1 means similar in some libraries and dissimilar in others; ids leave no such doubt.
    clusters = np.array([[2.0, 0.1], [2.0, -0.1], [-2.0, 0.1], [-2.0, -0.1]])
    right = loss.make()(np.array([0, 0, 1, 1]), clusters)
    wrong = loss.make()(np.array([0, 1, 0, 1]), clusters)
    assert float(right) < float(wrong) - 0.1


@every_loss
def test_mask_that_masks_nothing_is_noticed(loss):
    # An accidental-hit mask of 1e-40, added to a logit, changes nothing. Removing a column must equal its absence.
    options = candidate_case("plain")
    keep = np.array([0, 1, 2, 4, 5, 7])
    absent = {name: value[keep] for name, value in options.items()}
    # The masked columns hold what would dominate any sum: the anchors themselves, and rows a thousand times larger.
    options["candidates"] = options["candidates"].copy()
    options["candidates"][[3, 6]] = rows(5)[:2] * np.array([[1.0], [1e3]])
    masked = loss.values(
        ANCHOR_IDS, rows(5), candidate_mask=np.isin(np.arange(8), keep), **options
    )
    np.testing.assert_allclose(
        masked, loss.values(ANCHOR_IDS, rows(5), **absent), **FLOAT64
    )
    unmasked = loss.values(ANCHOR_IDS, rows(5), **options)
    assert np.abs(masked - unmasked).max() > 0.01


@separable_losses
def test_accidental_hits_leave_by_each_rows_own_id(loss):
    # One library took every row's positive id from row 0. Here row i's copy stands in a queue at column 4 + i.
    ids, embeddings = np.array([0, 1, 0, 1]), rows(4)
    queue = rows(4, seed=9)
    options = {
        "candidates": np.concatenate([embeddings, queue]),
        "candidate_ids": np.array([0, 1, 0, 1, 1, 7, 0, 8]),
        "self_index": np.arange(4),
        "negative_only": np.arange(8) >= 4,
    }
    values = loss.values(ids, embeddings, **options).numpy()
    for i, hit in enumerate([6, 4, 6, 4]):
        without = {
            name: np.delete(value, hit, axis=0) if name != "self_index" else value
            for name, value in options.items()
        }
        np.testing.assert_allclose(
            values[i], loss.values(ids, embeddings, **without)[i], **FLOAT64
        )


@every_loss
def test_negative_only_columns_are_never_positives(loss):
    options = candidate_case("plain")
    everything = np.ones(8, bool)
    values = loss.values(ANCHOR_IDS, rows(5), negative_only=everything, **options)
    np.testing.assert_array_equal(values, np.zeros(5))


@every_loss
def test_unknown_ids_are_negatives_for_others_and_positives_of_nobody(loss):
    embeddings = rows(4)
    ids = np.array([0, 0, -1, -1])
    values = loss.values(ids, embeddings).numpy()
    np.testing.assert_array_equal(values[2:], [0.0, 0.0])
    np.testing.assert_allclose(
        values[:2], loss.values(np.array([0, 0, 1, 2]), embeddings)[:2], **FLOAT64
    )
    if not loss.needs_negatives:
        alone = loss.values(ids[:2], embeddings[:2])
        assert np.all(values[:2] > alone)


@every_loss
def test_ids_above_2_24_do_not_collide(loss):
    embeddings = rows(4)
    ids = np.array([BIG, BIG + 1, BIG, BIG + 1])
    expected = oracles.reduced(*loss.expected(np.array([0, 1, 0, 1]), embeddings))
    collided = oracles.reduced(*loss.expected(np.zeros(4, int), embeddings))
    assert abs(expected - collided) > 0.01
    np.testing.assert_allclose(loss.make()(ids, embeddings), expected, **FLOAT64)


@every_loss
def test_values_are_one_for_each_anchor_not_a_matrix(loss):
    # A returned [n, n] has the right mean and the wrong sample weights.
    assert loss.values(ANCHOR_IDS, rows(5), **candidate_case("plain")).shape == (5,)
    assert loss.make(reduction="none")(ANCHOR_IDS, rows(5)).shape == (5,)
    assert loss.make()(ANCHOR_IDS, rows(5)).shape == ()


@every_loss
def test_no_intermediate_tensor_is_larger_than_two_similarity_matrices(loss):
    # Index tensors over triplets, or differences [n, n, dim], exhaust the memory at batch sizes that pay.
    n, dim = 24, 20

    def run(ids, embeddings):
        extra = {"draw": tf.constant([0, 1])} if loss.loss_class.draws else {}
        return value_and_gradient(lambda z: loss.values(ids, z, **extra), embeddings)

    function = tf.function(run, autograph=False).get_concrete_function(
        tf.TensorSpec((n,), tf.int64), tf.TensorSpec((n, dim), tf.float32)
    )
    size, name = largest_tensor(function)
    assert n * n <= size <= 2 * n * n, name  # static shapes were seen


@log_probability_losses
def test_log_probability_is_subtracted_not_added(loss):
    # logQ with the sign turned trains against popular items twice.
    ids, embeddings = np.array([0]), rows(1)
    candidates = {"candidates": rows(3), "candidate_ids": np.array([0, 1, 2])}
    plain = loss.values(ids, embeddings, **candidates)
    often_negative = loss.values(
        ids, embeddings, candidate_log_probability=np.log([0.1, 0.8, 0.1]), **candidates
    )
    often_positive = loss.values(
        ids, embeddings, candidate_log_probability=np.log([0.8, 0.1, 0.1]), **candidates
    )
    assert often_negative < plain < often_positive


@log_probability_losses
def test_uniform_log_probability_changes_nothing_as_it_corrects_the_positive_too(loss):
    options = candidate_case("plain")
    plain = loss.values(ANCHOR_IDS, rows(5), **options)
    uniform = loss.values(
        ANCHOR_IDS, rows(5), candidate_log_probability=np.full(8, -9.0), **options
    )
    np.testing.assert_allclose(uniform, plain, **FLOAT64)
    # 1 / Q is infinite in float32 here.
    tiny = {"candidate_log_probability": np.full(8, -100.0, np.float32)}
    single = {name: as_float32(value) for name, value in options.items()}
    uniform = loss.values(ANCHOR_IDS, rows(5, dtype=np.float32), **tiny, **single)
    np.testing.assert_allclose(uniform, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.09, 0.1])
def test_softmax_of_half_precision_does_not_overflow(temperature):
    # exp(1 / 0.09) is infinite in float16, and so is a mask of 1e9.
    ids, embeddings = (
        np.array(PATTERNS["two_views"]),
        tf.cast(np.repeat(rows(3), 2, axis=0), tf.float16),
    )
    values, gradient = value_and_gradient(
        lambda z: kc.losses.nt_xent_loss(ids, z, temperature=temperature), embeddings
    )
    expected, _ = oracles.nt_xent(
        ids, tf.cast(embeddings, tf.float64).numpy(), temperature=temperature
    )
    # Errors of the cosine, 1e-7, are divided by the temperature.
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(gradient).all()
