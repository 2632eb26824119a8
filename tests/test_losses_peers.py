"""Faults of other libraries' metric-learning losses, one test each, named after what it guards.

Those that any loss over sets may have (the sign, the polarity of labels, NaN without a positive, float64, `[n, 1]` ids,
matrices for values, the last batch, tensors over triplets) are tested for all in test_losses_degenerate.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    FLOAT64,
    MULTI_HOT,
    PATTERNS,
    largest_tensor,
    rows,
    value_and_gradient,
)
from tests.oracles import losses as oracles
from tests.oracles import metric_losses as metric_oracles


@pytest.mark.parametrize(
    "distance", ["euclidean", "squared_euclidean", "cosine", "inner_product"]
)
def test_sign_of_triplet_rows_pulls_the_positive_in_and_pushes_the_negative_out(
    distance,
):
    # Four releases of one library had a similarity where a distance belonged: positives were pushed away.
    anchor, positive, negative = rows(5), rows(5, seed=1), rows(5, seed=2)
    options = {"distance": distance, "margin": 100.0}  # every row within the margin

    def gaps(positive, negative):
        return np.array(
            [
                oracles.distance_of(distance, a, p)
                - oracles.distance_of(distance, a, n)
                for a, p, n in zip(anchor, positive, negative)
            ]
        )

    _, of_positive = value_and_gradient(
        lambda z: kc.losses.triplet_loss(anchor, z, negative, **options),
        tf.constant(positive),
    )
    _, of_negative = value_and_gradient(
        lambda z: kc.losses.triplet_loss(anchor, positive, z, **options),
        tf.constant(negative),
    )
    before = gaps(positive, negative)
    after_positive = gaps(positive - 1e-3 * of_positive.numpy(), negative)
    after_negative = gaps(positive, negative - 1e-3 * of_negative.numpy())
    assert np.all(after_positive < before) and np.all(after_negative < before)


@pytest.mark.parametrize("ids", ["no_positives", "one_class"])
def test_semi_hard_without_a_valid_triplet_is_zero_in_fit_too(ids):
    # The mean over no pair was 0 / 0: one such batch, and all weights are NaN.
    inputs = tf.constant(rows(), tf.float32)
    kernel = tf.Variable(np.eye(4, dtype=np.float32))
    loss = kc.losses.TripletSemiHardLoss()

    @tf.function
    def step(ids):
        with tf.GradientTape() as tape:
            value = loss(ids, inputs @ kernel)
        kernel.assign_sub(0.1 * tape.gradient(value, kernel))
        return value

    assert float(step(tf.constant(PATTERNS[ids]))) == 0.0
    np.testing.assert_array_equal(kernel, np.eye(4))
    assert float(step(tf.constant(PATTERNS["groups"]))) > 0.0
    assert np.isfinite(kernel.numpy()).all()


def test_soft_margin_of_a_far_positive_is_the_gap_not_infinite():
    # log(1 + exp(x)) as it stands is infinite from x = 89 on in float32, and its gradient NaN.
    embeddings = tf.constant([[0.0], [1000.0], [0.5], [-1000.0]])
    values, gradient = value_and_gradient(
        lambda z: kc.losses.triplet_hard_loss(np.array([0, 0, 1, 2]), z, soft=True),
        embeddings,
    )
    gaps = [1000.0 - 0.5, math.log1p(math.exp(1000.0 - 999.5))]
    np.testing.assert_allclose(values, [*gaps, 0.0, 0.0], rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert gradient[0, 0] < 0 < gradient[1, 0]  # towards each other


def test_soft_margin_of_a_far_negative_is_zero_with_zero_gradient():
    embeddings = tf.constant([[0.0], [0.5], [1000.0]])
    values, gradient = value_and_gradient(
        lambda z: kc.losses.triplet_hard_loss(np.array([0, 0, 1]), z, soft=True),
        embeddings,
    )
    np.testing.assert_array_equal(values, [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(gradient, np.zeros((3, 1)))


def test_hard_triplet_of_one_class_is_zero_not_the_margin():
    for soft in (False, True):
        loss = kc.losses.TripletHardLoss(margin=0.7, soft=soft)
        assert float(loss(np.array(PATTERNS["one_class"]), rows())) == 0.0


def test_hard_triplet_leaves_out_anchors_without_a_positive():
    # Elsewhere they enter with a positive at distance 0, [0 - d + m]+, and in the denominator.
    ids, embeddings = np.array([0, 0, 1, 2]), np.array([[0.0], [3.0], [0.1], [50.0]])
    loss = kc.losses.TripletHardLoss(margin=1.0)(ids, embeddings)
    np.testing.assert_allclose(loss, (3 - 0.1 + 1 + 3 - 2.9 + 1) / 2, **FLOAT64)


def test_lifted_structure_is_the_papers():
    # Unordered pairs, the negatives of both ends, a hinge, its square, half the mean. One library has neither hinge
    # nor square, takes the farthest positive alone and adds 1 in the logarithm: 1.91 for 7.01.
    generator = np.random.default_rng(0)
    ids, embeddings = generator.integers(0, 8, 40), generator.normal(size=(40, 5))
    distance = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=-1)
    repelled = np.where(ids[:, None] != ids[None], np.exp(1.0 - distance), 0.0).sum(1)
    i, j = np.nonzero(np.triu(ids[:, None] == ids[None], 1))
    lifted = distance[i, j] + np.log(repelled[i] + repelled[j])
    expected = np.sum(np.maximum(lifted, 0.0) ** 2) / (2 * len(i))
    loss = kc.losses.LiftedStructLoss()(ids, embeddings)
    np.testing.assert_allclose(loss, expected, **FLOAT64)


def test_lifted_structure_of_far_rows_does_not_overflow():
    # exp(m - d) of rows 500 apart is 0 in float32, and its logarithm -inf.
    embeddings = tf.constant([[0.0], [2.0], [500.0], [502.0]])
    values, gradient = value_and_gradient(
        lambda z: kc.losses.lifted_struct_loss(np.array([0, 1, 0, 1]), z), embeddings
    )
    # J = 500 + 1 + log of exp(-2) + exp(-502) from the one end, exp(-498) + exp(-2) from the other.
    j = 501 + math.log(2 * math.exp(-2))
    np.testing.assert_allclose(values, [j**2 / 2] * 4, rtol=1e-5)
    assert np.isfinite(gradient).all()
    far = kc.losses.lifted_struct_loss(np.array([0, 0, 1, 1]), embeddings)
    np.testing.assert_array_equal(far, np.zeros(4))


def test_soft_nearest_neighbor_of_far_points_is_the_gap_not_nan():
    # All terms exp(-d) underflow; their ratio does not. An epsilon in the logarithm would give 20.7 for any of them.
    embeddings = tf.constant([[0.0], [100.0], [-90.0]])
    values, gradient = value_and_gradient(
        lambda z: kc.losses.soft_nearest_neighbor_loss(np.array([0, 0, 1]), z),
        embeddings,
    )
    np.testing.assert_allclose(values, [100.0**2 - 90.0**2, 0.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(gradient[:, 0], [2 * -190.0, 200.0, 180.0], rtol=1e-5)


def test_koleo_of_duplicates_in_half_precision_is_finite():
    # An epsilon of 1e-8 is 0 in float16; one infinite step, and a running average of the loss stays infinite.
    half = tf.constant(np.repeat(rows(3), 2, axis=0), tf.float16)
    loss = kc.losses.KoLeoLoss()(np.arange(6), half)
    np.testing.assert_allclose(loss, -math.log(1e-8), rtol=1e-6)


def test_circle_loss_is_one_softplus_of_both_sums():
    # log(1 + sum over positives) + log(1 + sum over negatives) agrees at a scale of 80 and is larger at 1.
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    loss = kc.losses.CircleLoss(scale=1.0)(ids, embeddings)
    expected = oracles.reduced(*metric_oracles.circle(ids, embeddings, scale=1.0))
    np.testing.assert_allclose(loss, expected, **FLOAT64)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    apart = 0.0
    for i in range(5):
        own = (ids == ids[i]) & (np.arange(6) != i)
        s_p, s_n = cosines[i, own], cosines[i, ids != ids[i]]
        apart += np.log1p(np.sum(np.exp(-(1.4 - s_p) * (s_p - 0.6)))) / 5
        apart += np.log1p(np.sum(np.exp(np.maximum(s_n + 0.4, 0) * (s_n - 0.4)))) / 5
    assert float(loss) < 0.97 * apart


def test_npairs_of_a_pair_alone_is_zero():
    # A 1 added to the denominator is not there in the paper's loss: it is the positive's own term.
    loss = kc.losses.NpairsLoss()(np.array([0, 0]), rows(2))
    np.testing.assert_allclose(loss, 0.0, atol=1e-12)


def test_npairs_leaves_the_own_row_out():
    # As its own positive a long row would hide what its true positive costs.
    embeddings = np.array([[10.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    values = kc.losses.npairs_loss(np.array([0, 0, 1]), embeddings)
    np.testing.assert_allclose(values[0], math.log(2), **FLOAT64)


def test_multilabel_npairs_of_a_row_without_a_shared_label_is_zero_not_nan():
    labels = np.concatenate([MULTI_HOT[:4], np.zeros((1, 4))])
    values, gradient = value_and_gradient(
        lambda z: kc.losses.npairs_multilabel_loss(labels, z), tf.constant(rows(5))
    )
    np.testing.assert_array_equal(values[3:], [0.0, 0.0])
    assert np.all(values[:3] > 0) and np.isfinite(gradient).all()


def test_triplets_without_loss_count_in_the_mean():
    # The mean over non-zero triplets stays near the margin while the share of such triplets falls.
    ids = np.array([0, 0, 1, 1])
    embeddings = np.array([[0.0], [1.0], [1.5], [9.0]])
    triplets = [
        max(abs(a - p) - abs(a - n) + 1.0, 0.0)
        for a, p, others in (
            (0.0, 1.0, (1.5, 9.0)),
            (1.0, 0.0, (1.5, 9.0)),
            (1.5, 9.0, (0.0, 1.0)),
            (9.0, 1.5, (0.0, 1.0)),
        )
        for n in others
    ]
    assert 0 in triplets
    loss = kc.losses.TripletLoss(margin=1.0)(ids, embeddings)
    np.testing.assert_allclose(loss, np.mean(triplets), **FLOAT64)


@pytest.mark.parametrize("mining", ["all", "semi_hard", "hard"])
def test_triplets_of_a_large_batch_need_no_tensor_over_triplets(mining):
    # Index tensors over the triplets of 1,024 rows have a thousand million entries.
    n, dim = 1024, 8

    def run(ids, embeddings):
        return value_and_gradient(
            lambda z: kc.losses.triplet_loss(ids, z, mining=mining), embeddings
        )

    function = tf.function(run, autograph=False).get_concrete_function(
        tf.TensorSpec((n,), tf.int64), tf.TensorSpec((n, dim), tf.float32)
    )
    size, name = largest_tensor(function)
    assert n * dim <= size <= 2 * n * n, name
