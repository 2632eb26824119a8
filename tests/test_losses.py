"""The shared battery of every loss over sets, then what is particular to one of them.

A new loss joins the battery by one line in `LOSSES`: its function, its class, its oracle and its options.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from typing import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_contrastive as kc
from tests.oracles import losses as oracles
from tests.oracles.gradients import numerical_gradient

# float32 keeps 7 digits; a temperature of 0.1 and a sum over a few columns cost one or two of them.
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}
# float64 against the oracle. A distance below 1e-6 may come back as 1e-6 (a floor keeps its gradient finite).
FLOAT64 = {"rtol": 1e-9, "atol": 1e-9}
# Central differences of the oracle: see `numerical_gradient`.
NUMERICAL = {"rtol": 1e-5, "atol": 1e-6}


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: see `compiled`
class LossOverSets:
    """What the battery needs to know about a loss."""

    name: str
    function: Callable
    loss_class: type
    oracle: Callable
    options: dict
    on_cosine: bool = False
    needs_negatives: bool = False

    def values(self, ids, embeddings, **keywords):
        """Per anchor, by position: the contrastive loss has other names for its two first arguments."""
        return self.function(ids, embeddings, **self.options, **keywords)

    def expected(self, ids, embeddings, **keywords):
        return self.oracle(ids, embeddings, **self.options, **keywords)

    def make(self, **keywords):
        return self.loss_class(**self.options, **keywords)

    def counts(self, ids) -> np.ndarray:
        return self.expected(ids, np.ones((len(ids), 1)))[1]


def nt_xent(temperature: float) -> LossOverSets:
    return LossOverSets(
        f"nt_xent_{temperature:g}",
        kc.losses.nt_xent_loss,
        kc.losses.NTXentLoss,
        oracles.nt_xent,
        {"temperature": temperature},
        on_cosine=True,
    )


def contrastive(distance: str, margin: float) -> LossOverSets:
    return LossOverSets(
        f"contrastive_{distance}",
        kc.losses.contrastive_loss,
        kc.losses.ContrastiveLoss,
        oracles.contrastive,
        {"distance": distance, "margin": margin},
        on_cosine=distance == "cosine",
        needs_negatives=True,
    )


# Margins near the typical distance of `rows()`, so that some negatives lie inside and some outside.
MARGINS = {
    "euclidean": 2.0,
    "squared_euclidean": 4.0,
    "cosine": 1.5,
    "inner_product": 1.0,
}
SOFTMAX = [nt_xent(0.1)]
LOSSES = SOFTMAX + [
    contrastive(distance, margin) for distance, margin in MARGINS.items()
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
softmax_losses = pytest.mark.parametrize("loss", SOFTMAX, ids=lambda loss: loss.name)
# One of each class, where the class and Keras are tested rather than the mathematics.
one_of_each_class = pytest.mark.parametrize(
    "loss", [LOSSES[0], LOSSES[1]], ids=lambda loss: loss.name
)

BIG = 2**24  # the first float32 whose successor is not an integer apart

PATTERNS = {
    "pairs": [0, 0, 1, 1, 2, 2],
    "two_views": [0, 1, 2, 0, 1, 2],
    "groups": [5, 5, 5, 9, 9, 7],
    "lone_anchors": [0, 0, 1, 2, 3, 4],
    "unknown": [-1, -1, 3, 3, -1, 8],
    "below_minus_one": [-2, -3, -2, -3, -1, -1],
    "large": [BIG, BIG + 1, BIG, BIG + 1, 2**53, 2**53 + 1],
    "one_class": [4] * 6,
    "no_positives": [0, 1, 2, 3, 4, 5],
}
patterns = pytest.mark.parametrize(
    "ids", [np.array(ids, np.int64) for ids in PATTERNS.values()], ids=list(PATTERNS)
)

# Labels shared 0, 1 and 2 times; row 3 shares none.
MULTI_HOT = np.array(
    [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]], np.float64
)


def rows(n: int = 6, dim: int = 4, seed: int = 0, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.7, (n, dim)).astype(dtype)


def value_and_gradient(function, rows) -> tuple[tf.Tensor, tf.Tensor]:
    """The values, and the gradient of a sum in which every anchor has a weight of its own."""
    with tf.GradientTape() as tape:
        tape.watch(rows)
        values = function(rows)
        # Not the plain sum: that would not see two anchors exchanged.
        weights = 1.0 + tf.cast(tf.range(tf.shape(values)[0]), values.dtype) / 4.0
        total = tf.reduce_sum(weights * values)
    return values, tape.gradient(total, rows, unconnected_gradients="zero")


def weighted_sum(values: np.ndarray) -> float:
    return float(np.sum((1.0 + np.arange(len(values)) / 4.0) * values))


def assert_matches_oracle(loss, ids, embeddings, **keywords) -> None:
    """Values in float64 and float32, and the gradient in float64, equal the oracle's."""
    expected, _ = loss.expected(ids, embeddings, **keywords)
    values, gradient = value_and_gradient(
        lambda z: loss.values(ids, z, **keywords), tf.constant(embeddings)
    )
    assert values.dtype == tf.float64
    np.testing.assert_allclose(values, expected, **FLOAT64)
    np.testing.assert_allclose(
        gradient,
        numerical_gradient(
            lambda z: weighted_sum(loss.expected(ids, z, **keywords)[0]), embeddings
        ),
        **NUMERICAL,
    )
    single = {name: as_float32(value) for name, value in keywords.items()}
    values = loss.values(ids, embeddings.astype(np.float32), **single)
    assert values.dtype == tf.float32
    np.testing.assert_allclose(values, expected, **FLOAT32)


def as_float32(value):
    return (
        value.astype(np.float32)
        if getattr(value, "dtype", None) == np.float64
        else value
    )


# ---- value and gradient


@every_loss
@patterns
def test_values_and_gradient_within_the_batch_match_the_oracle(loss, ids):
    assert_matches_oracle(loss, ids, rows())


def candidate_case(name: str) -> dict:
    """Five anchors against eight candidates, three of which are positives of nobody."""
    generator = np.random.default_rng(1)
    options = {
        "candidates": generator.normal(0.0, 0.7, (8, 4)),
        "candidate_ids": np.array([0, 1, 2, 3, 0, 1, 9, -1]),
    }
    own = {"self_index": np.array([0, 1, 2, 4, -1])}
    pairs = {"candidate_mask": generator.random((5, 8)) < 0.7}
    queue = {
        "negative_only": np.array([False, False, False, True, True, False, True, True])
    }
    extra = {
        "plain": {},
        "self_index": own,
        "mask_of_columns": {
            "candidate_mask": np.array(
                [True, True, False, True, True, False, True, True]
            )
        },
        "mask_of_pairs": pairs,
        "negative_only": queue,
        "all_at_once": {**own, **pairs, **queue},
    }
    return {**options, **extra[name]}


ANCHOR_IDS = np.array([0, 1, 2, 0, -1])


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
            loss.expected(ANCHOR_IDS, rows(5), candidates=c, **options)[0]
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


@softmax_losses
def test_candidate_log_probability_matches_the_oracle(loss):
    log_q = np.log(np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05]))
    options = candidate_case("all_at_once")
    assert_matches_oracle(
        loss, ANCHOR_IDS, rows(5), candidate_log_probability=log_q, **options
    )


@softmax_losses
def test_positives_replace_the_ids_as_weights(loss):
    weights = np.random.default_rng(4).random((5, 8)) * (np.arange(8) % 2)
    weights[2] = 0.0  # this anchor has no positive
    assert_matches_oracle(
        loss, ANCHOR_IDS, rows(5), positives=weights, **candidate_case("mask_of_pairs")
    )


@softmax_losses
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_gradient_of_a_temperature_tensor_matches_the_oracle(loss, temperature):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    tensor = tf.constant(temperature, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        values = loss.function(ids, embeddings, temperature=tensor)
        total = tf.reduce_sum(values)

    def total_at(t):
        return loss.oracle(ids, embeddings, temperature=float(t))[0].sum()

    np.testing.assert_allclose(total, total_at(temperature), **FLOAT64)
    expected = numerical_gradient(total_at, temperature)
    np.testing.assert_allclose(tape.gradient(total, tensor), expected, **NUMERICAL)


@every_loss
@settings(
    max_examples=30,
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
    # 1e-5: margin 2 times twice the floor of 1e-6 that a zero distance may take.
    np.testing.assert_allclose(
        values, loss.expected(ids, embeddings)[0], rtol=1e-9, atol=1e-5
    )
    assert np.isfinite(gradient).all()


# ---- the ways to run


def input_signature(n, dim, *more):
    return [tf.TensorSpec((n,), tf.int64), tf.TensorSpec((n, dim), tf.float32), *more]


@every_loss
@pytest.mark.parametrize("case", [None, "all_at_once"], ids=["batch", "candidates"])
def test_eager_graph_unknown_batch_and_xla_agree(loss, case):
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

    ways = {
        "graph": tf.function(run),
        "unknown": tf.function(run, input_signature=unknown),
        "xla": tf.function(run, jit_compile=True),
    }
    values, gradient = run(ids, embeddings, tensors)
    assert np.any(values.numpy() > 0)
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
    for n in (6, 5, 1, 0):
        ids, embeddings = np.array(PATTERNS["groups"])[:n], rows(n, dtype=np.float32)
        expected = oracles.reduced(*loss.expected(ids, embeddings))
        np.testing.assert_allclose(graph(ids, embeddings), expected, **FLOAT32)


@every_loss
def test_inside_a_dataset_map_gives_the_eager_values(loss):
    ids, embeddings = np.array(PATTERNS["groups"]), rows(dtype=np.float32)
    dataset = tf.data.Dataset.from_tensors((ids, embeddings)).map(loss.values)
    (values,) = list(dataset)
    np.testing.assert_allclose(values, loss.values(ids, embeddings), **FLOAT32)


# ---- what must not change the result


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
    assert unchanged == loss.on_cosine


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


# ---- degenerate batches stay finite

PAIRED = PATTERNS["pairs"]
DEGENERATE = {
    "one_row_of_zeros": (
        PAIRED,
        lambda: rows() * np.array([[0], [1], [1], [1], [1], [1]]),
    ),
    "all_zeros": (PAIRED, lambda: np.zeros((6, 4))),
    "equal_positives": (PAIRED, lambda: np.repeat(rows(3), 2, axis=0)),
    "all_rows_equal": (PAIRED, lambda: np.repeat(rows(1), 6, axis=0)),
    "opposite_positives": (
        PAIRED,
        lambda: np.repeat(rows(3), 2, axis=0) * np.tile([[1], [-1]], (3, 1)),
    ),
    "no_positives": (PATTERNS["no_positives"], rows),
    "all_unknown": ([-1] * 6, rows),
    "one_class": (PATTERNS["one_class"], rows),
    "huge_rows": (PAIRED, lambda: rows() * 1e4),
    "tiny_rows": (PAIRED, lambda: rows() * 1e-6),
}
EXTREME = [nt_xent(0.01), nt_xent(10.0)]


@functools.cache
def compiled(loss: LossOverSets) -> Callable:
    @tf.function(jit_compile=True)
    def run(ids, embeddings):
        return value_and_gradient(lambda z: loss.values(ids, z), embeddings)

    return run


@pytest.mark.parametrize("loss", LOSSES + EXTREME, ids=lambda loss: loss.name)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batch_has_finite_values_and_gradient(loss, case):
    ids, make_rows = DEGENERATE[case]
    ids, expected_counts = tf.constant(ids, tf.int64), loss.counts(ids)
    for dtype in (tf.float16, tf.bfloat16, tf.float32):
        embeddings = tf.cast(make_rows(), dtype)
        values, gradient = value_and_gradient(lambda z: loss.values(ids, z), embeddings)
        assert values.dtype == tf.float32
        assert gradient.dtype == dtype
        assert np.isfinite(values).all(), dtype
        # Gradients of rows of 1e4 that do not normalise are true numbers beyond float16.
        if not (case == "huge_rows" and dtype == tf.float16):
            assert np.isfinite(tf.cast(gradient, tf.float64)).all(), dtype
        assert not np.any(values.numpy()[~expected_counts]), dtype
    # XLA rewrites `where`: what is finite without it need not be with it.
    values, gradient = compiled(loss)(ids, tf.cast(make_rows(), tf.float32))
    assert np.isfinite(values).all() and np.isfinite(gradient).all()


@every_loss
def test_batch_of_one_is_zero_with_zero_gradient(loss):
    values, gradient = value_and_gradient(
        lambda z: loss.values(np.array([3]), z), tf.constant(rows(1))
    )
    np.testing.assert_array_equal(values, [0.0])
    np.testing.assert_array_equal(gradient, np.zeros((1, 4)))


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


# ---- the classes


@every_loss
def test_class_averages_over_the_anchors_that_count(loss):
    ids, embeddings = np.array(PATTERNS["lone_anchors"]), rows()
    expected, counts = loss.expected(ids, embeddings)
    assert 0 < counts.sum() < 6
    np.testing.assert_allclose(
        loss.make()(ids, embeddings), expected[counts].mean(), **FLOAT64
    )
    np.testing.assert_allclose(
        loss.make(reduction="sum")(ids, embeddings), expected.sum(), **FLOAT64
    )
    np.testing.assert_allclose(
        loss.make(reduction="none")(ids, embeddings), expected, **FLOAT64
    )


@every_loss
def test_sample_weight_weighs_the_anchors_that_count(loss):
    ids, embeddings = np.array(PATTERNS["lone_anchors"]), rows()
    # Heavy weights on lone anchors: they must not enter the denominator.
    weights = np.array([0.5, 2.0, 100.0, 100.0, 100.0, 0.0])
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
            (expected * weights).sum(),
            **FLOAT64,
        )
        np.testing.assert_allclose(
            loss.make(reduction="none")(ids, embeddings, sample_weight=sample_weight),
            expected * weights,
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


@softmax_losses
def test_class_takes_a_temperature_in_its_call(loss):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    expected = oracles.reduced(*loss.oracle(ids, embeddings, temperature=0.3))
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


@one_of_each_class
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


# ---- faults of other libraries


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
        name = "cosine" if loss.on_cosine else loss.options["distance"]
        d = [[oracles.distance_of(name, a, b) for b in rows] for a in rows]
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


@every_loss
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
        extra = {"draw": tf.constant([0, 1])} if loss.needs_negatives else {}
        return value_and_gradient(lambda z: loss.values(ids, z, **extra), embeddings)

    graph = (
        tf.function(run, input_signature=input_signature(n, dim))
        .get_concrete_function()
        .graph
    )
    sizes = {
        op.name: out.shape.num_elements()
        for op in graph.get_operations()
        for out in op.outputs
    }
    largest = max((size, name) for name, size in sizes.items() if size is not None)
    assert largest[0] >= n * n  # static shapes were seen
    assert largest[0] <= 2 * n * n, largest


@softmax_losses
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


@softmax_losses
def test_uniform_log_probability_changes_nothing_as_it_corrects_the_positive_too(loss):
    options = candidate_case("plain")
    plain = loss.values(ANCHOR_IDS, rows(5), **options)
    uniform = loss.values(
        ANCHOR_IDS, rows(5), candidate_log_probability=np.full(8, -9.0), **options
    )
    np.testing.assert_allclose(uniform, plain, **FLOAT64)


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


# ---- closed forms


@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
@pytest.mark.parametrize("images", [1, 2, 50])
def test_nt_xent_of_collapsed_embeddings_is_log_of_the_other_rows(images, temperature):
    ids = np.tile(np.arange(images), 2)
    rows = np.tile([[0.6, -0.8, 0.0]], (2 * images, 1))
    loss = kc.losses.NTXentLoss(temperature)(ids, rows)
    assert float(loss) == pytest.approx(math.log(2 * images - 1), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_nt_xent_of_orthonormal_pairs_is_log_1_plus_the_leak(temperature):
    images = 5
    ids = np.tile(np.arange(images), 2)
    loss = kc.losses.NTXentLoss(temperature)(ids, np.tile(np.eye(images), (2, 1)))
    expected = math.log1p((2 * images - 2) * math.exp(-1 / temperature))
    assert float(loss) == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_nt_xent_default_temperature_is_a_tenth():
    ids, embeddings = np.array(PATTERNS["pairs"]), rows()
    expected, _ = oracles.nt_xent(ids, embeddings, temperature=0.1)
    np.testing.assert_allclose(
        kc.losses.nt_xent_loss(ids, embeddings), expected, **FLOAT64
    )
    np.testing.assert_allclose(
        kc.losses.NTXentLoss()(ids, embeddings), expected.mean(), **FLOAT64
    )


def test_contrastive_rows_example_pulls_by_half_the_squared_distance():
    values = kc.losses.contrastive_loss([[0.0, 0.0]], [[0.5, 0.0]], [[0.0, 3.0]])
    np.testing.assert_allclose(values, [0.125], rtol=1e-6)


def test_contrastive_rows_at_half_the_margin_push_by_an_eighth_of_its_square():
    values = kc.losses.contrastive_loss(
        [[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 2.0]], margin=2.0
    )
    np.testing.assert_allclose(values, [0.5], rtol=1e-5)  # the floor of a zero distance


@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_contrastive_of_collapsed_embeddings_is_half_the_squared_margin(margin):
    ids, embeddings = np.array(PATTERNS["pairs"]), np.ones((6, 4))
    loss = kc.losses.ContrastiveLoss(margin=margin)(ids, embeddings)
    assert float(loss) == pytest.approx(
        margin**2 / 2, abs=1e-5
    )  # the floor of a zero distance


def test_contrastive_of_collapsed_pairs_on_orthonormal_rows_is_the_hinge_at_root_two():
    ids, embeddings = np.tile(np.arange(4), 2), np.tile(np.eye(4), (2, 1))
    loss = kc.losses.ContrastiveLoss(margin=2.0)(ids, embeddings)
    assert float(loss) == pytest.approx((2 - math.sqrt(2)) ** 2 / 2, abs=1e-5)


# ---- the contrastive loss by rows

by_distance = pytest.mark.parametrize("distance", MARGINS)


@by_distance
def test_contrastive_rows_match_the_oracle_in_value_and_every_gradient(distance):
    sides = [rows(5, seed=seed) for seed in (10, 11, 12)]
    options = {"distance": distance, "margin": MARGINS[distance]}
    expected, _ = oracles.contrastive_rows(*sides, **options)
    np.testing.assert_allclose(
        kc.losses.contrastive_loss(*sides, **options), expected, **FLOAT64
    )
    single = kc.losses.contrastive_loss(
        *[side.astype(np.float32) for side in sides], **options
    )
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, expected, **FLOAT32)
    for k in range(3):

        def replaced(side, k=k):
            return [*sides[:k], side, *sides[k + 1 :]]

        _, gradient = value_and_gradient(
            lambda side: kc.losses.contrastive_loss(*replaced(side), **options),
            tf.constant(sides[k]),
        )
        numerical = numerical_gradient(
            lambda side: weighted_sum(
                oracles.contrastive_rows(*replaced(side), **options)[0]
            ),
            sides[k],
        )
        assert np.abs(numerical).max() > 0.01
        np.testing.assert_allclose(gradient, numerical, **NUMERICAL)


@by_distance
def test_contrastive_rows_class_counts_every_row(distance):
    sides = [rows(5, seed=seed) for seed in (10, 11, 12)]
    options = {"distance": distance, "margin": MARGINS[distance]}
    loss = kc.losses.ContrastiveLoss(**options)
    values, counts = oracles.contrastive_rows(*sides, **options)
    total = loss(sides[0], sides[1], negative=sides[2])
    np.testing.assert_allclose(total, values.mean(), **FLOAT64)
    weights = np.array([1.0, 0.0, 2.0, 0.5, 3.0])
    np.testing.assert_allclose(
        loss(sides[0], sides[1], negative=sides[2], sample_weight=weights),
        oracles.reduced(values, counts, weights),
        **FLOAT64,
    )


@by_distance
def test_contrastive_rows_that_coincide_are_finite_with_and_without_xla(distance):
    options = {"distance": distance, "margin": MARGINS[distance]}

    def run(anchor):
        return value_and_gradient(
            lambda z: kc.losses.contrastive_loss(z, z, z, **options), anchor
        )

    jitted = tf.function(run, jit_compile=True)
    for batch in (np.zeros((3, 4)), np.ones((3, 4)), rows(3) * 10, rows(3) * 1e-6):
        for dtype, way in (
            (tf.float32, run),
            (tf.float16, run),
            (tf.bfloat16, run),
            (tf.float32, jitted),
        ):
            values, gradient = way(tf.cast(batch, dtype))
            assert values.dtype == tf.float32
            assert np.isfinite(values).all()
            assert np.isfinite(tf.cast(gradient, tf.float32)).all()


def test_contrastive_rows_negative_beyond_the_margin_has_no_gradient():
    anchor, positive = tf.zeros((1, 2)), tf.zeros((1, 2))
    _, gradient = value_and_gradient(
        lambda negative: kc.losses.contrastive_loss(anchor, positive, negative),
        tf.constant([[0.0, 1.5]]),
    )
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


@by_distance
def test_contrastive_rows_eager_graph_and_xla_agree(distance):
    sides = [tf.constant(rows(5, seed=seed, dtype=np.float32)) for seed in (10, 11, 12)]
    function = functools.partial(
        kc.losses.contrastive_loss, distance=distance, margin=MARGINS[distance]
    )
    expected = function(*sides)
    unknown = tf.function(
        function, input_signature=[tf.TensorSpec([None, None], tf.float32)] * 3
    )
    np.testing.assert_allclose(unknown(*sides), expected, **FLOAT32)
    np.testing.assert_allclose(
        tf.function(function, jit_compile=True)(*sides), expected, **FLOAT32
    )


@pytest.mark.parametrize("offset", [10.0, 100.0])
def test_contrastive_far_from_the_origin_keeps_its_digits(offset):
    # |a|^2 + |b|^2 - 2ab cancels: at offset 100, distances of 0.2 drown in float32's rounding of 4e4.
    ids = np.array(PATTERNS["groups"])
    embeddings = (offset + 0.2 * rows()).astype(np.float32)
    expected, _ = oracles.contrastive(ids, embeddings, margin=0.5)
    values = kc.losses.contrastive_loss(ids, embeddings, margin=0.5)
    # The rows themselves are given; only the mean's rounding (1e-5 at 100) may enter, against distances of 0.3.
    np.testing.assert_allclose(values, expected, rtol=1e-3)


# ---- the contrastive loss with drawn negatives


@by_distance
@pytest.mark.parametrize("case", [None, "all_at_once"], ids=["batch", "candidates"])
def test_drawn_negatives_give_values_between_the_best_and_the_worst_choice(
    distance, case
):
    options = {"distance": distance, "margin": MARGINS[distance]}
    keywords = candidate_case(case) if case else {}
    ids = ANCHOR_IDS if case else np.array([0, 0, 1, 1, 1])
    lowest, highest = oracles.contrastive_bounds(ids, rows(5), **options, **keywords)
    assert np.any(highest > lowest + 0.01)
    for step in range(10):
        values = kc.losses.contrastive_loss(
            ids, rows(5), draw=[3, step], **options, **keywords
        )
        assert values.dtype == tf.float64
        assert np.all(values >= lowest - 1e-9) and np.all(values <= highest + 1e-9)


@by_distance
def test_drawn_negative_without_a_choice_has_the_value_and_gradient_over_all(distance):
    ids, embeddings = np.array([0, 0, 1]), tf.constant(rows(3))
    options = {"distance": distance, "margin": 9.0}
    values, gradient = value_and_gradient(
        lambda z: kc.losses.contrastive_loss(ids, z, **options), embeddings
    )
    drawn, drawn_gradient = value_and_gradient(
        lambda z: kc.losses.contrastive_loss(ids, z, draw=[0, 1], **options), embeddings
    )
    assert np.all(values.numpy()[:2] > 0)
    np.testing.assert_allclose(drawn, values, **FLOAT64)
    np.testing.assert_allclose(drawn_gradient, gradient, **FLOAT64)


def draws(ids, embeddings, count: int, **options) -> np.ndarray:
    """`[count, n]`: the loss's values for the seeds (5, 0), (5, 1), ..."""
    one = tf.function(
        lambda draw: kc.losses.contrastive_loss(ids, embeddings, draw=draw, **options)
    )
    return np.stack(
        [one(tf.constant([5, step], tf.int64)).numpy() for step in range(count)]
    )


def test_drawn_negatives_average_to_the_value_over_all():
    ids, embeddings, count = np.array(PATTERNS["groups"]), rows(), 600
    found = draws(ids, embeddings, count, margin=2.0)
    expected, _ = oracles.contrastive(ids, embeddings, margin=2.0)
    lowest, highest = oracles.contrastive_bounds(ids, embeddings, margin=2.0)
    # A value within [lowest, highest] has at most half that range as its standard deviation; five of the mean's.
    bound = 5 * (highest - lowest) / 2 / math.sqrt(count) + 1e-9
    assert np.all(np.abs(found.mean(axis=0) - expected) <= bound)
    assert np.all(bound[:5] < (highest - lowest)[:5] / 5)


def test_drawn_negatives_are_uniform_over_the_anchors_negatives():
    ids, embeddings, count = np.array([0, 0, 1, 2, 3]), rows(5), 600
    found = draws(ids, embeddings, count, margin=9.0)[:, 0]
    (attractions, repulsions), *_ = oracles.contrastive_choices(
        ids, embeddings, margin=9.0
    )
    choices = (attractions[0][1] + np.array(repulsions)) / 2
    nearest = np.abs(found[:, None] - choices).argmin(axis=1)
    np.testing.assert_allclose(found, choices[nearest], **FLOAT64)
    # Binomial with p = 1/3: a standard deviation of 11.5 round 200; five of them.
    assert np.all(np.abs(np.bincount(nearest, minlength=3) - 200) < 58)


def test_drawn_negatives_differ_between_the_positives_of_an_anchor():
    # With one draw for each pair, two positives see any of 2 x 2 choices: three different sums, not two.
    ids, embeddings = np.array([0, 0, 0, 1, 2]), rows(5)
    found = draws(ids, embeddings, 60, margin=9.0)[:, 0]
    assert len(np.unique(found.round(9))) == 3


def test_drawn_negatives_differ_between_anchors():
    ids, embeddings = np.array([0, 0, 1, 1, 2, 2]), rows()
    (_, first), (_, second), *_ = oracles.contrastive_choices(
        ids, embeddings, margin=9.0
    )
    found = draws(ids, embeddings, 100, margin=9.0)
    lowest, _ = oracles.contrastive_bounds(ids, embeddings, margin=9.0)
    pulls = lowest - np.array([min(first), min(second), *[np.nan] * 4]) / 2
    chosen = [
        np.abs((found[:, i] - pulls[i])[:, None] - np.array(repulsions) / 2).argmin(
            axis=1
        )
        for i, repulsions in enumerate((first, second))
    ]
    # Both have the same four negatives; drawn apart they agree in a quarter of the steps (25 +- 4.3, five of them).
    agreements = int(np.sum(chosen[0] == chosen[1]))
    assert 3 < agreements < 47


def test_drawn_negatives_are_a_function_of_the_seed_in_every_way_to_run():
    ids, embeddings = (
        tf.constant(PATTERNS["groups"], tf.int64),
        tf.constant(rows(dtype=np.float32)),
    )

    def run(draw):
        return kc.losses.contrastive_loss(ids, embeddings, margin=3.0, draw=draw)

    graph, jitted = tf.function(run), tf.function(run, jit_compile=True)
    seen = set()
    for step in range(6):
        draw = tf.constant([7, step], tf.int64)
        expected = run(draw)
        np.testing.assert_array_equal(run(draw), expected)
        np.testing.assert_allclose(graph(draw), expected, **FLOAT32)
        np.testing.assert_allclose(jitted(draw), expected, **FLOAT32)
        seen.add(tuple(expected.numpy().round(4)))
    assert len(seen) > 1


@by_distance
def test_drawn_negatives_of_degenerate_batches_are_finite(distance):
    options = {
        "distance": distance,
        "margin": MARGINS[distance],
        "draw": tf.constant([0, 0]),
    }
    for case, (ids, make_rows) in DEGENERATE.items():
        ids = np.array(ids)
        values, gradient = value_and_gradient(
            lambda z, ids=ids: kc.losses.contrastive_loss(ids, z, **options),
            tf.constant(make_rows(), tf.float32),
        )
        assert np.isfinite(values).all() and np.isfinite(gradient).all(), case
        _, counts = oracles.contrastive(ids, make_rows())
        assert not np.any(values.numpy()[~counts]), case


def test_contrastive_class_takes_a_draw_in_its_call():
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    loss = kc.losses.ContrastiveLoss(margin=2.0)
    values = kc.losses.contrastive_loss(
        ids, embeddings, margin=2.0, draw=[1, 2]
    ).numpy()
    _, counts = oracles.contrastive(ids, embeddings, margin=2.0)
    np.testing.assert_allclose(
        loss(ids, embeddings, draw=[1, 2]), values[counts].mean(), **FLOAT64
    )


# ---- errors

NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]


@pytest.mark.parametrize("value", NOT_POSITIVE)
@pytest.mark.parametrize(
    "call, name",
    [
        (lambda v: kc.losses.NTXentLoss(temperature=v), "temperature"),
        (
            lambda v: kc.losses.nt_xent_loss([0, 0], rows(2), temperature=v),
            "temperature",
        ),
        (lambda v: kc.losses.ContrastiveLoss(margin=v), "margin"),
        (lambda v: kc.losses.contrastive_loss([0, 0], rows(2), margin=v), "margin"),
        (
            lambda v: kc.losses.contrastive_loss(rows(2), rows(2), rows(2), margin=v),
            "margin",
        ),
    ],
    ids=[
        "NTXentLoss",
        "nt_xent_loss",
        "ContrastiveLoss",
        "contrastive_loss",
        "contrastive_loss_rows",
    ],
)
def test_number_that_is_not_positive_and_finite_is_refused(call, name, value):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be .*> 0.* Received: {name}={value}"
    ):
        call(value)


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


@softmax_losses
@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"positives": np.ones((5, 7))}, r"`positives`.*Received.*\(5, 7\)"),
        (
            {"candidate_log_probability": np.zeros(7)},
            r"`candidate_log_probability`.*Received.*7",
        ),
    ],
    ids=["positives", "candidate_log_probability"],
)
def test_wrong_shape_of_a_softmax_argument_is_refused_by_name(loss, wrong, match):
    with pytest.raises(ValueError, match=match):
        loss.values(ANCHOR_IDS, rows(5), **candidate_case("plain"), **wrong)


@every_loss
def test_unknown_reduction_is_refused_with_the_valid_ones(loss):
    with pytest.raises(
        ValueError,
        match=r"`reduction` must be one of .*'sum_over_batch_size'.*Received",
    ):
        loss.make(reduction="average")


@pytest.mark.parametrize(
    "call",
    [
        lambda: kc.losses.ContrastiveLoss(distance="euclidian"),
        lambda: kc.losses.contrastive_loss([0, 0], rows(2), distance="euclidian"),
        lambda: kc.losses.contrastive_loss(
            rows(2), rows(2), rows(2), distance="euclidian"
        ),
    ],
    ids=["class", "sets", "rows"],
)
def test_unknown_distance_is_refused_with_the_nearest(call):
    with pytest.raises(
        ValueError,
        match=r"`distance` must be one of .*'euclidean'.*Received.*euclidian",
    ):
        call()


@pytest.mark.parametrize(
    "shapes",
    [((4, 3), (5, 3), (4, 3)), ((4, 3), (4, 3), (4, 2)), ((4,), (4,), (4,))],
    ids=str,
)
def test_contrastive_rows_of_other_shapes_are_refused(shapes):
    with pytest.raises(
        ValueError, match=r"`anchor`.*`negative` must have the same shape"
    ):
        kc.losses.contrastive_loss(*[np.ones(shape) for shape in shapes])
