"""What is particular to the contrastive loss: its rows, and its drawn negatives."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    ANCHOR_IDS,
    DEGENERATE,
    FLOAT32,
    FLOAT64,
    MARGINS,
    NUMERICAL,
    PATTERNS,
    candidate_case,
    rows,
    value_and_gradient,
    weighted_sum,
)
from tests.oracles import losses as oracles
from tests.oracles.gradients import numerical_gradient


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
