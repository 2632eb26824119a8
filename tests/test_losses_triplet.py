"""What is particular to the triplet losses: three rows, the ways to mine, and the mean over triplets."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    FLOAT32,
    FLOAT64,
    NUMERICAL,
    PATTERNS,
    rows,
    value_and_gradient,
    weighted_sum,
)
from tests.oracles import losses as oracles
from tests.oracles import metric_losses as metric_oracles
from tests.oracles.gradients import numerical_gradient

# Margins at which some of the rows below add to the loss, and some do not.
MARGINS = {
    "euclidean": 0.5,
    "squared_euclidean": 2.0,
    "cosine": 0.2,
    "inner_product": 0.5,
}
by_distance = pytest.mark.parametrize("distance", MARGINS)
by_mining = pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])


def on_a_line(*places: float) -> np.ndarray:
    """Rows whose Euclidean distances are those of these numbers."""
    return np.array(places, np.float64)[:, None] * np.array([[0.6, 0.8]])


# ---- over rows


@pytest.mark.parametrize(
    "distance, expected",
    [
        ("euclidean", math.sqrt(10) - 3 + 2.5),
        ("squared_euclidean", 10 - 9 + 2.5),
        ("cosine", 1 - 2 + 2.5),
        ("inner_product", 0 - 2 + 2.5),
    ],
)
def test_triplet_rows_by_hand(distance, expected):
    sides = [[0.0, 1.0]], [[3.0, 0.0]], [[0.0, -2.0]]
    values = kc.losses.triplet_loss(*sides, margin=2.5, distance=distance)
    np.testing.assert_allclose(values, [expected], rtol=1e-6)


def test_triplet_defaults_are_the_euclidean_distance_and_a_margin_of_a_fifth():
    sides = [rows(5, seed=seed) for seed in (10, 11, 12)]
    expected, _ = metric_oracles.triplet_rows(*sides, margin=0.2, distance="euclidean")
    np.testing.assert_allclose(kc.losses.triplet_loss(*sides), expected, **FLOAT64)
    np.testing.assert_allclose(
        kc.losses.TripletLoss()(*sides), expected.mean(), **FLOAT64
    )


@by_distance
def test_triplet_rows_match_the_oracle_in_value_and_every_gradient(distance):
    sides = [rows(7, seed=seed) for seed in (10, 11, 12)]
    options = {"distance": distance, "margin": MARGINS[distance]}
    expected, _ = metric_oracles.triplet_rows(*sides, **options)
    assert np.any(expected == 0) and np.any(expected > 0)
    values = kc.losses.triplet_loss(*sides, **options)
    assert values.dtype == tf.float64
    np.testing.assert_allclose(values, expected, **FLOAT64)
    single = kc.losses.triplet_loss(
        *[side.astype(np.float32) for side in sides], **options
    )
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, expected, **FLOAT32)
    for k in range(3):

        def replaced(side, k=k):
            return [*sides[:k], side, *sides[k + 1 :]]

        _, gradient = value_and_gradient(
            lambda side: kc.losses.triplet_loss(*replaced(side), **options),
            tf.constant(sides[k]),
        )
        numerical = numerical_gradient(
            lambda side: weighted_sum(
                metric_oracles.triplet_rows(*replaced(side), **options)[0]
            ),
            sides[k],
        )
        assert np.abs(numerical).max() > 0.01
        np.testing.assert_allclose(gradient, numerical, **NUMERICAL)


@by_distance
def test_triplet_rows_class_counts_every_row(distance):
    sides = [rows(7, seed=seed) for seed in (10, 11, 12)]
    options = {"distance": distance, "margin": MARGINS[distance]}
    loss = kc.losses.TripletLoss(**options)
    values, counts = metric_oracles.triplet_rows(*sides, **options)
    for total in (loss(*sides), loss(sides[0], sides[1], negative=sides[2])):
        np.testing.assert_allclose(total, values.mean(), **FLOAT64)
    weights = np.array([1.0, 0.0, 2.0, 0.5, 3.0, 1.0, 1.0])
    np.testing.assert_allclose(
        loss(*sides, sample_weight=weights),
        oracles.reduced(values, counts, weights),
        **FLOAT64,
    )


@by_mining
def test_mining_plays_no_role_over_rows(mining):
    sides = [rows(5, seed=seed) for seed in (10, 11, 12)]
    expected, _ = metric_oracles.triplet_rows(*sides, margin=1.0)
    np.testing.assert_allclose(
        kc.losses.triplet_loss(*sides, margin=1.0, mining=mining), expected, **FLOAT64
    )
    np.testing.assert_allclose(
        kc.losses.TripletLoss(margin=1.0, mining=mining)(*sides),
        expected.mean(),
        **FLOAT64,
    )


@by_distance
def test_triplet_rows_that_coincide_are_the_margin_with_a_finite_gradient(distance):
    options = {"distance": distance, "margin": MARGINS[distance]}

    def run(anchor):
        return value_and_gradient(
            lambda z: kc.losses.triplet_loss(z, z, z, **options), anchor
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
            np.testing.assert_allclose(values, [options["margin"]] * 3, rtol=1e-5)
            assert np.isfinite(tf.cast(gradient, tf.float32)).all()


@by_distance
def test_triplet_rows_unknown_batch_and_xla_agree_with_eager(distance):
    sides = [tf.constant(rows(5, seed=seed, dtype=np.float32)) for seed in (10, 11, 12)]
    function = functools.partial(
        kc.losses.triplet_loss, distance=distance, margin=MARGINS[distance]
    )
    expected = function(*sides)
    unknown = tf.function(
        function, input_signature=[tf.TensorSpec([None, None], tf.float32)] * 3
    )
    np.testing.assert_allclose(unknown(*sides), expected, **FLOAT32)
    np.testing.assert_allclose(
        tf.function(function, jit_compile=True)(*sides), expected, **FLOAT32
    )


@pytest.mark.parametrize(
    "shapes",
    [((4, 3), (5, 3), (4, 3)), ((4, 3), (4, 3), (4, 2)), ((4,), (4,), (4,))],
    ids=str,
)
def test_triplet_rows_of_other_shapes_are_refused(shapes):
    with pytest.raises(
        ValueError, match=r"`anchor`.*`negative` must have the same shape"
    ):
        kc.losses.triplet_loss(*[np.ones(shape) for shape in shapes])


# ---- over sets, by hand


def test_all_triplets_count_those_within_the_margin_or_not():
    # d(0, 1) = 1 for both anchors, and their negative at 3 and at 2: [1 - 3 + 1.5]+ = 0 and [1 - 2 + 1.5]+ = 0.5.
    ids, embeddings = np.array([0, 0, 1]), on_a_line(0, 1, 3)
    values = kc.losses.triplet_loss(ids, embeddings, margin=1.5)
    np.testing.assert_allclose(values, [0.0, 0.5, 0.0], **FLOAT64)
    loss = kc.losses.TripletLoss(margin=1.5)(ids, embeddings)
    np.testing.assert_allclose(loss, 0.25, **FLOAT64)


def test_all_triplets_weigh_the_same_however_many_their_anchor_has():
    # Anchors of id 0 have 2 triplets each, the others 1 x 3 each.
    ids, embeddings = np.array([0, 0, 0, 1, 1]), on_a_line(0, 1, 2, 4, 7)
    triplets = [
        max(abs(a - p) - abs(a - n) + 3, 0.0)
        for places, others in (((0, 1, 2), (4, 7)), ((4, 7), (0, 1, 2)))
        for a in places
        for p in places
        if a != p
        for n in others
    ]
    assert len(triplets) == 3 * 2 * 2 + 2 * 1 * 3
    loss = kc.losses.TripletLoss(margin=3.0)(ids, embeddings)
    np.testing.assert_allclose(loss, np.mean(triplets), **FLOAT64)


SEMI_HARD = {
    "nearest_beyond": ((2.5, 5.0), 2.0 - 2.5),
    "nearer_ones_are_passed_over": ((0.5, 3.0, 5.0), 2.0 - 3.0),
    "as_far_is_not_beyond": ((-2.0, 2.5), 2.0 - 2.5),
    "none_beyond_the_farthest": ((0.5, 1.5), 2.0 - 1.5),
    "none_beyond_as_far": ((0.5, -2.0), 0.0),
}


@pytest.mark.parametrize("negatives, gap", SEMI_HARD.values(), ids=SEMI_HARD)
def test_semi_hard_negative_by_hand(negatives, gap):
    # The anchor at 0, its positive at 2, the negatives on the other side: but for one in the positive's own place,
    # which alone is as far to the last digit.
    candidates = on_a_line(2, *(-place for place in negatives))
    options = {
        "candidates": candidates,
        "candidate_ids": np.array([0] + [1] * len(negatives)),
    }
    for function in (
        kc.losses.triplet_semi_hard_loss,
        functools.partial(kc.losses.triplet_loss, mining="semi_hard"),
    ):
        values = function(np.array([0]), on_a_line(0), margin=2.0, **options)
        # Zero distances take a floor of 1e-6.
        np.testing.assert_allclose(values, [gap + 2.0], atol=1e-5)


def test_semi_hard_chooses_for_each_positive_not_once_for_the_anchor():
    # Positives at 1 (of weight 3) and 3, negatives at 2 and 3.5: 1 - 2 and 3 - 3.5.
    values = kc.losses.triplet_semi_hard_loss(
        np.array([0]),
        on_a_line(0),
        margin=1.5,
        candidates=on_a_line(1, 3, -2, -3.5),
        candidate_ids=np.array([0, 0, 1, 1]),
        positives=np.array([[3.0, 1.0, 0.0, 0.0]]),
    )
    np.testing.assert_allclose(values, [(3 * 0.5 + 1.0) / 4], **FLOAT64)


def test_semi_hard_class_averages_over_pairs_those_of_no_loss_too():
    ids, embeddings = np.array([0, 0, 0, 1, 1]), rows(5)
    values, counts = metric_oracles.triplet_semi_hard(ids, embeddings, margin=0.1)
    np.testing.assert_array_equal(counts, [2, 2, 2, 1, 1])
    assert np.any(values == 0) and np.any(values > 0)
    loss = kc.losses.TripletSemiHardLoss(margin=0.1)(ids, embeddings)
    np.testing.assert_allclose(loss, np.sum(counts * values) / 8, **FLOAT64)


def test_hard_takes_the_farthest_positive_and_the_nearest_negative():
    ids, embeddings = np.array([0, 0, 0, 1, 1]), on_a_line(0, 1, 3, -2, -6)
    values = kc.losses.triplet_hard_loss(ids, embeddings, margin=1.0)
    expected = [3 - 2 + 1, 2 - 3 + 1, 3 - 5 + 1, 4 - 2 + 1, 4 - 6 + 1]
    np.testing.assert_allclose(values, np.maximum(expected, 0.0), **FLOAT64)


def test_soft_margin_is_softplus_and_leaves_the_margin_out():
    ids, embeddings = np.array([0, 0, 0, 1, 1]), on_a_line(0, 1, 3, -2, -6)
    expected = [math.log1p(math.exp(x)) for x in (1, -1, -2, 2, -2)]
    for margin in (0.5, 5.0):
        values = kc.losses.triplet_hard_loss(ids, embeddings, margin=margin, soft=True)
        np.testing.assert_allclose(values, expected, **FLOAT64)


def test_default_margin_of_the_mined_losses_is_1():
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    for loss, oracle in (
        (kc.losses.TripletSemiHardLoss(), metric_oracles.triplet_semi_hard),
        (kc.losses.TripletHardLoss(), metric_oracles.triplet_hard),
    ):
        expected = oracles.reduced(*oracle(ids, embeddings, margin=1.0))
        np.testing.assert_allclose(loss(ids, embeddings), expected, **FLOAT64)


@by_distance
def test_mining_by_name_is_the_loss_of_that_name(distance):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    options = {"distance": distance, "margin": 2 * MARGINS[distance]}
    for mining, other, other_class in (
        ("hard", kc.losses.triplet_hard_loss, kc.losses.TripletHardLoss),
        ("semi_hard", kc.losses.triplet_semi_hard_loss, kc.losses.TripletSemiHardLoss),
    ):
        expected = other(ids, embeddings, **options)
        assert np.any(expected > 0)
        values = kc.losses.triplet_loss(ids, embeddings, mining=mining, **options)
        np.testing.assert_allclose(values, expected, **FLOAT64)
        np.testing.assert_allclose(
            kc.losses.TripletLoss(mining=mining, **options)(ids, embeddings),
            other_class(**options)(ids, embeddings),
            **FLOAT64,
        )


LOSSES = {
    "all": kc.losses.TripletLoss(margin=0.7),
    "semi_hard": kc.losses.TripletSemiHardLoss(margin=0.7),
    "hard": kc.losses.TripletHardLoss(margin=0.7),
}


@by_mining
def test_triplet_of_collapsed_embeddings_is_the_margin(mining):
    loss = LOSSES[mining](np.array(PATTERNS["pairs"]), np.ones((6, 4)))
    np.testing.assert_allclose(loss, 0.7, **FLOAT64)


def test_soft_margin_of_collapsed_embeddings_is_log_2():
    loss = kc.losses.TripletHardLoss(soft=True)
    total = loss(np.array(PATTERNS["pairs"]), np.ones((6, 4)))
    np.testing.assert_allclose(total, math.log(2), **FLOAT64)


@by_mining
def test_triplet_of_orthonormal_pairs_is_the_hinge_at_root_two(mining):
    ids, embeddings = np.tile(np.arange(4), 2), np.tile(np.eye(4), (2, 1))
    for margin in (1.0, 2.0):
        loss = type(LOSSES[mining])(margin=margin)(ids, embeddings)
        expected = max(margin - math.sqrt(2), 0.0)
        np.testing.assert_allclose(loss, expected, atol=1e-5)  # the floor of 0


@by_mining
def test_gradient_at_ties_is_finite_and_moves_no_centre_of_gravity(mining):
    # A square: each anchor's two negatives, or its negative and its positive, are equally far.
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    for ids in ([0, 0, 1, 1], [0, 1, 0, 1]):
        for embeddings in (square, np.repeat(square, 2, axis=0)):
            labels = np.repeat(ids, len(embeddings) // 4)
            value, gradient = value_and_gradient(
                lambda z, labels=labels: tf.reshape(LOSSES[mining](labels, z), [1]),
                tf.constant(embeddings),
            )
            assert float(value[0]) > 0
            assert np.isfinite(gradient).all()
            assert np.abs(gradient).max() < 10
            # Distances do not see a shift of all rows.
            np.testing.assert_allclose(np.sum(gradient, axis=0), [0, 0], atol=1e-9)


# ---- a large batch


def hinge_counts(own: np.ndarray, others: np.ndarray, margin: float, mining: str):
    """Of one anchor: the sum of hinges, its slope in each distance, and the number of terms."""
    slope_own, slope_others = np.zeros(len(own)), np.zeros(len(others))
    if mining == "all":
        gap = own[:, None] - others[None, :] + margin
        active = gap > 0
        return gap[active].sum(), active.sum(axis=1), -active.sum(axis=0), gap.size
    if mining == "hard":
        pairs = [(own.argmax(), others.argmin())]
    else:
        pairs = [
            (
                p,
                np.where(others > d, others, np.inf).argmin()
                if np.any(others > d)
                else others.argmax(),
            )
            for p, d in enumerate(own)
        ]
    total = 0.0
    for p, n in pairs:
        gap = own[p] - others[n] + margin
        if gap > 0:
            total += gap
            slope_own[p] += 1
            slope_others[n] -= 1
    return total, slope_own, slope_others, len(pairs)


def triplets_of_matrices(ids, embeddings, margin: float, mining: str):
    """Value and gradient of the class by matrices of float64 distances."""
    difference = embeddings[:, None] - embeddings[None]
    distance = np.sqrt(np.sum(difference**2, axis=-1))
    same, slope = ids[:, None] == ids[None], np.zeros_like(distance)
    np.fill_diagonal(same, False)
    total = terms = 0
    for i in range(len(ids)):
        own, others = np.flatnonzero(same[i]), np.flatnonzero(ids != ids[i])
        if len(own) and len(others):
            value, slope[i, own], slope[i, others], count = hinge_counts(
                distance[i, own], distance[i, others], margin, mining
            )
            total, terms = total + value, terms + count
    np.fill_diagonal(distance, 1.0)
    pull = (slope + slope.T) / distance
    gradient = np.einsum("ij,ijd->id", pull, difference)
    return total / terms, gradient / terms


@by_mining
def test_large_batch_has_the_value_and_gradient_of_float64_matrices(mining):
    # 300 rows of classes of 1 to 60 images: 5 million triplets.
    generator = np.random.default_rng(0)
    ids = np.minimum(generator.geometric(0.2, 300), 20)
    embeddings = generator.normal(size=(300, 8)) + 0.5 * generator.normal(
        size=(21, 8)
    ).take(ids, axis=0)
    expected, expected_gradient = triplets_of_matrices(ids, embeddings, 0.7, mining)
    assert 0.1 < expected < 10
    for dtype, rtol in ((np.float64, 1e-9), (np.float32, 1e-5)):
        value, gradient = value_and_gradient(
            lambda z: tf.reshape(LOSSES[mining](ids, z), [1]),
            tf.constant(embeddings.astype(dtype)),
        )
        np.testing.assert_allclose(value[0], expected, rtol=rtol)
        largest = np.abs(expected_gradient).max()
        # In float32 a hinge, or a choice, within 1e-6 of its corner may fall to the other side: one of thousands.
        bound = 1e-9 if dtype is np.float64 else 1e-2
        assert np.abs(gradient - expected_gradient).max() < bound * largest


@pytest.mark.parametrize("offset", [10.0, 100.0])
def test_triplets_far_from_the_origin_keep_their_digits(offset):
    # |a|^2 + |b|^2 - 2ab cancels: at offset 100, distances of 0.3 drown in float32's rounding of 4e4.
    ids = np.array(PATTERNS["groups"])
    embeddings = (offset + 0.2 * rows()).astype(np.float32)
    for mining in ("all", "hard"):
        expected, _ = metric_oracles.triplet(ids, embeddings, margin=0.5, mining=mining)
        values = kc.losses.triplet_loss(ids, embeddings, margin=0.5, mining=mining)
        # The rows themselves are given; only the mean's rounding (1e-5 at 100) may enter, against values of 0.1.
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kc.losses.TripletLoss(mining="semihard"),
        lambda: kc.losses.triplet_loss([0, 0], rows(2), mining="semihard"),
        lambda: kc.losses.triplet_loss(rows(2), rows(2), rows(2), mining="semihard"),
    ],
    ids=["class", "sets", "rows"],
)
def test_unknown_mining_is_refused_with_the_nearest(call):
    with pytest.raises(
        ValueError,
        match=r"`mining` must be one of .*'semi_hard'.*Received: mining='semihard'.*Did you mean 'semi_hard'",
    ):
        call()
