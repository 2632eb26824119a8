"""Every loss over sets: its values and gradients, the ways to run it, and what must not change them."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.losses_battery import (
    ANCHOR_IDS,
    FLOAT32,
    FLOAT64,
    MULTI_HOT,
    NUMERICAL,
    PATTERNS,
    SOFTMAX,
    as_float32,
    assert_matches_oracle,
    candidate_case,
    every_loss,
    log_probability_losses,
    patterns,
    rows,
    tempered_losses,
    value_and_gradient,
    weighted_sum,
)
from tests.oracles import losses as oracles
from tests.oracles.gradients import numerical_gradient


@every_loss
@patterns
def test_values_and_gradient_within_the_batch_match_the_oracle(loss, ids):
    assert_matches_oracle(loss, ids, rows())


@every_loss
@pytest.mark.parametrize(
    "case",
    [
        "plain",
        "self_index",
        "mask_of_columns",
        "mask_of_pairs",
        "negative_only",
        "all_at_once",
    ],
)
def test_values_and_gradient_against_candidates_match_the_oracle(loss, case):
    assert_matches_oracle(loss, ANCHOR_IDS, rows(5), **candidate_case(case))


@every_loss
def test_gradient_reaches_the_candidates(loss):
    options = candidate_case("self_index")
    candidates = options.pop("candidates")
    _, gradient = value_and_gradient(
        lambda c: loss.values(ANCHOR_IDS, rows(5), candidates=c, **options),
        tf.constant(candidates),
    )
    expected = numerical_gradient(
        lambda c: weighted_sum(
            loss.expected(
                ANCHOR_IDS, rows(5), candidates=c, held=(rows(5), candidates), **options
            )[0]
        ),
        candidates,
    )
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(gradient, expected, **NUMERICAL)


@every_loss
def test_mask_within_the_batch_matches_the_oracle(loss):
    mask = np.random.default_rng(2).random((6, 6)) < 0.7
    assert_matches_oracle(
        loss, np.array(PATTERNS["groups"]), rows(), candidate_mask=mask
    )


@every_loss
@pytest.mark.parametrize("dtype", [np.float32, np.bool_], ids=["float", "bool"])
def test_multi_hot_labels_weigh_positives_by_shared_labels(loss, dtype):
    labels = MULTI_HOT.astype(dtype)
    assert_matches_oracle(loss, labels, rows(5))
    candidates = {"candidates": rows(5, seed=3), "candidate_ids": labels[::-1]}
    assert_matches_oracle(loss, labels, rows(5), **candidates)


@log_probability_losses
def test_candidate_log_probability_matches_the_oracle(loss):
    log_q = np.log(np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05]))
    options = candidate_case("all_at_once")
    assert_matches_oracle(
        loss, ANCHOR_IDS, rows(5), candidate_log_probability=log_q, **options
    )


@log_probability_losses
def test_log_probability_within_the_batch_matches_the_oracle(loss):
    # Five anchors count here, so the weights of DCLW differ.
    log_q = np.log(np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.2]))
    ids = np.array(PATTERNS["groups"])
    assert_matches_oracle(loss, ids, rows(), candidate_log_probability=log_q)


@every_loss
def test_positives_replace_the_ids_as_weights(loss):
    weights = np.random.default_rng(4).random((5, 8)) * (np.arange(8) % 2)
    weights[2] = 0.0  # this anchor has no positive
    assert_matches_oracle(
        loss, ANCHOR_IDS, rows(5), positives=weights, **candidate_case("mask_of_pairs")
    )


@every_loss
def test_positives_within_the_batch_replace_the_ids_as_weights(loss):
    # Not symmetric: what is a positive of one anchor need not have that anchor for its positive.
    weights = np.random.default_rng(4).random((6, 6)) * (
        np.random.default_rng(8).random((6, 6)) < 0.4
    )
    assert np.any((weights > 0) != (weights.T > 0))
    assert_matches_oracle(loss, np.array(PATTERNS["groups"]), rows(), positives=weights)


@every_loss
def test_positives_that_contradict_the_ids_of_a_queue_match_the_oracle(loss):
    # Columns 3, 4, 6 and 7 are a queue's: what is the anchor's by id, or by the given weights, is no negative.
    weights = np.zeros((5, 8))
    weights[:, [0, 6]] = 1.0, 0.5
    weights[1:, 3] = 1.0
    options = candidate_case("negative_only")
    assert_matches_oracle(loss, ANCHOR_IDS, rows(5), positives=weights, **options)


@tempered_losses
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_gradient_of_a_temperature_tensor_matches_the_oracle(loss, temperature):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    tensor = tf.constant(temperature, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        values = loss.values(ids, embeddings, temperature=tensor)
        total = tf.reduce_sum(values)

    def total_at(t):
        return loss.expected(ids, embeddings, temperature=float(t))[0].sum()

    np.testing.assert_allclose(total, total_at(temperature), **FLOAT64)
    expected = numerical_gradient(total_at, temperature)
    np.testing.assert_allclose(tape.gradient(total, tensor), expected, **NUMERICAL)


@every_loss
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_any_ids_and_coarse_rows_match_the_oracle(loss, data):
    n = data.draw(st.integers(1, 6), label="n")
    ids = np.array(
        data.draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n), label="ids")
    )
    # Quarters make zeros and duplicates likely.
    quarters = st.lists(st.integers(-6, 6), min_size=3 * n, max_size=3 * n)
    embeddings = np.array(data.draw(quarters, label="quarters")).reshape(n, 3) / 4.0
    values, gradient = value_and_gradient(
        lambda z: loss.values(ids, z), tf.constant(embeddings)
    )
    lowest, highest = loss.bounds(ids, embeddings)
    # 1e-5: margin 2 times twice the floor of 1e-6 that a zero distance may take.
    within = np.clip(values, lowest, highest)
    np.testing.assert_allclose(values, within, rtol=1e-9, atol=1e-5)
    assert np.isfinite(gradient).all()


@every_loss
@pytest.mark.parametrize("case", [None, "all_at_once"], ids=["batch", "candidates"])
def test_eager_xla_and_unknown_batch_by_xla_agree(loss, case):
    keywords = candidate_case(case) if case else {}
    tensors = {
        name: tf.constant(
            as_float32(value), tf.int64 if value.dtype == np.int64 else None
        )
        for name, value in keywords.items()
    }
    ids, embeddings = tf.constant(ANCHOR_IDS), tf.constant(rows(5, dtype=np.float32))

    def run(ids, embeddings, tensors):
        return value_and_gradient(lambda z: loss.values(ids, z, **tensors), embeddings)

    unknown = [
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec((None, None), tf.float32),
        {
            name: tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype)
            for name, tensor in tensors.items()
        },
    ]

    # Known sizes within the batch are seen on degenerate batches; of the compiled loops over candidates one will do.
    ways = {"xla": tf.function(run, jit_compile=True)} if case else {}
    if not case or loss is SOFTMAX[0]:
        ways["unknown"] = tf.function(run, input_signature=unknown)
    values, gradient = run(ids, embeddings, tensors)
    assert np.any(values.numpy() != 0)
    for name, way in ways.items():
        other_values, other_gradient = way(ids, embeddings, tensors)
        np.testing.assert_allclose(other_values, values, **FLOAT32, err_msg=name)
        # Gradients grow with 1 / temperature: ten times the value's tolerance.
        np.testing.assert_allclose(
            other_gradient, gradient, rtol=2e-4, atol=2e-4, err_msg=name
        )


@every_loss
def test_one_graph_serves_a_smaller_last_batch(loss):
    graph = tf.function(
        lambda ids, z: loss.make()(ids, z),
        input_signature=[
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, 4], tf.float32),
        ],
    )
    for n in (6, 1, 0):
        ids, embeddings = np.array(PATTERNS["groups"])[:n], rows(n, dtype=np.float32)
        expected = oracles.reduced(*loss.expected(ids, embeddings))
        np.testing.assert_allclose(graph(ids, embeddings), expected, **FLOAT32)


@every_loss
def test_inside_a_dataset_map_gives_the_eager_values(loss):
    ids, embeddings = np.array(PATTERNS["groups"]), rows(dtype=np.float32)
    dataset = tf.data.Dataset.from_tensors((ids, embeddings)).map(loss.values)
    (values,) = list(dataset)
    np.testing.assert_allclose(values, loss.values(ids, embeddings), **FLOAT32)


@every_loss
def test_permuted_batch_permutes_the_values(loss):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    order = np.random.default_rng(5).permutation(6)
    np.testing.assert_allclose(
        loss.values(ids[order], embeddings[order]),
        loss.values(ids, embeddings).numpy()[order],
        **FLOAT64,
    )


@every_loss
def test_renamed_ids_change_nothing(loss):
    embeddings = rows()
    values = loss.values(np.array([0, 1, 2, 0, 1, 1]), embeddings)
    renamed = loss.values(np.array([2**40, 7, -5, 2**40, 7, 7]), embeddings)
    np.testing.assert_allclose(renamed, values, **FLOAT64)


@every_loss
def test_swapped_views_keep_the_loss(loss):
    first, second, ids = rows(4), rows(4, seed=7), np.array([0, 1, 2, 2])
    one = loss.make()(np.tile(ids, 2), np.concatenate([first, second]))
    other = loss.make()(np.tile(ids, 2), np.concatenate([second, first]))
    np.testing.assert_allclose(one, other, **FLOAT64)


@every_loss
def test_rotated_rows_change_nothing(loss):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    rotation, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(4, 4)))
    np.testing.assert_allclose(
        loss.values(ids, embeddings @ rotation), loss.values(ids, embeddings), **FLOAT64
    )


@every_loss
def test_scaled_rows_matter_only_off_the_sphere(loss):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    scaled = embeddings * np.array([[0.1], [3.0], [1e-3], [50.0], [1.0], [7.0]])
    unchanged = np.allclose(
        loss.values(ids, scaled), loss.values(ids, embeddings), **FLOAT64
    )
    assert unchanged == (loss.distance == "cosine")


@every_loss
def test_candidates_equal_to_the_batch_give_the_same_as_none(loss):
    ids, embeddings = np.array(PATTERNS["unknown"]), tf.constant(rows())
    values, gradient = value_and_gradient(lambda z: loss.values(ids, z), embeddings)
    as_candidates = functools.partial(
        loss.values, ids, candidate_ids=ids, self_index=np.arange(6)
    )
    other, other_gradient = value_and_gradient(
        lambda z: as_candidates(z, candidates=z), embeddings
    )
    np.testing.assert_allclose(other, values, **FLOAT64)
    np.testing.assert_allclose(other_gradient, gradient, **FLOAT64)


@every_loss
@pytest.mark.parametrize(
    "dtypes",
    [("float32", "float64"), ("float64", "float32"), ("float16", "float32")],
    ids="-".join,
)
def test_candidates_of_another_float_type_compare(loss, dtypes):
    options = candidate_case("plain")
    candidates = options.pop("candidates").astype(dtypes[1])
    embeddings = rows(5).astype(dtypes[0])
    values = loss.values(ANCHOR_IDS, embeddings, candidates=candidates, **options)
    expected, _ = loss.expected(
        ANCHOR_IDS, embeddings, candidates=candidates, **options
    )
    np.testing.assert_allclose(values, expected, **FLOAT32)


@every_loss
def test_ids_as_a_column_are_squeezed(loss):
    # Broadcast against each other, [n, 1] ids would give [n, 1, n] comparisons and a wrong loss without an error.
    options = candidate_case("plain")
    column = {**options, "candidate_ids": options["candidate_ids"][:, None]}
    np.testing.assert_array_equal(
        loss.values(ANCHOR_IDS[:, None], rows(5), **column),
        loss.values(ANCHOR_IDS, rows(5), **options),
    )


@every_loss
@pytest.mark.parametrize("dtype", [np.int32, np.int64], ids=["int32", "int64"])
def test_ids_of_another_integer_type_than_the_candidates_compare(loss, dtype):
    options = candidate_case("plain")
    values = loss.values(ANCHOR_IDS.astype(dtype), rows(5), **options)
    np.testing.assert_allclose(
        values, loss.expected(ANCHOR_IDS, rows(5), **options)[0], **FLOAT64
    )
