"""What is particular to the other losses of metric learning: closed forms, limits, and how they relate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    FLOAT64,
    METRIC,
    MULTI_HOT,
    PATTERNS,
    rows,
    those,
    value_and_gradient,
)
from tests.oracles import losses as oracles
from tests.oracles import metric_losses as metric_oracles

# A distance of 0 may come back as 1e-6: a floor keeps its gradient finite.
FLOOR = {"rtol": 1e-9, "atol": 1e-5}


def pairs(images: int) -> np.ndarray:
    return np.tile(np.arange(images), 2)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@those([loss for loss in METRIC if not loss.takes_log_probability])
def test_positive_of_weight_two_is_as_two_positives(loss):
    # The softmax of N-pairs is the exception: its denominator has every column once.
    candidates, ids = rows(6, seed=3), np.array([0, 0, 0, 1, 2, 3])
    weights = np.array([[2.0, 1.0, 3.0, 0.0, 0.0, 0.0]])
    repeats = [2, 1, 3, 1, 1, 1]
    values = loss.values(
        np.array([0]),
        rows(1),
        candidates=candidates,
        candidate_ids=ids,
        positives=weights,
    )
    repeated = loss.values(
        np.array([0]),
        rows(1),
        candidates=np.repeat(candidates, repeats, axis=0),
        candidate_ids=np.repeat(ids, repeats),
    )
    assert values.numpy()[0] > 0.01
    np.testing.assert_allclose(values, repeated, **FLOAT64)


DEFAULTS = {
    "lifted_struct": ("LiftedStructLoss", {"margin": 1.0, "distance": "euclidean"}),
    "multi_similarity": (
        "MultiSimilarityLoss",
        {"alpha": 2.0, "beta": 50.0, "base": 0.5, "mining_epsilon": None},
    ),
    "circle": ("CircleLoss", {"margin": 0.4, "scale": 80.0}),
    "soft_nearest_neighbor": (
        "SoftNearestNeighborLoss",
        {"temperature": 1.0, "distance": "squared_euclidean"},
    ),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_papers(name):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    class_name, options = DEFAULTS[name]
    values, counts = getattr(metric_oracles, name)(ids, embeddings, **options)
    function = getattr(kc.losses, f"{name}_loss")
    np.testing.assert_allclose(function(ids, embeddings), values, **FLOAT64)
    loss = getattr(kc.losses, class_name)()
    assert {key: loss.get_config()[key] for key in options} == options
    np.testing.assert_allclose(
        loss(ids, embeddings), oracles.reduced(values, counts), **FLOAT64
    )


# ---- N-pairs


@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0])
def test_npairs_of_orthogonal_pairs_is_log_1_plus_the_leak(radius):
    # Products of r^2 with the partner and 0 with the others; the own column, r^2 too, is left out.
    images = 5
    embeddings = radius * np.tile(np.eye(images), (2, 1))
    loss = kc.losses.NpairsLoss()(pairs(images), embeddings)
    expected = math.log1p((2 * images - 2) * math.exp(-(radius**2)))
    np.testing.assert_allclose(loss, expected, rtol=1e-7)


def test_npairs_of_one_positive_is_the_papers_log_of_1_plus_the_sum_of_gaps():
    anchors, candidates = rows(5), rows(5, seed=1)
    products = anchors @ candidates.T
    expected = np.log(np.exp(products - products.diagonal()[:, None]).sum(axis=1))
    values = kc.losses.npairs_loss(
        np.arange(5), anchors, candidates=candidates, candidate_ids=np.arange(5)
    )
    np.testing.assert_allclose(values, expected, **FLOAT64)


def test_npairs_of_unit_rows_is_nt_xent_at_temperature_1():
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(
        kc.losses.npairs_loss(ids, unit),
        kc.losses.nt_xent_loss(ids, embeddings, temperature=1.0),
        **FLOAT64,
    )


def test_npairs_multilabel_is_cross_entropy_with_the_shared_labels_as_targets():
    candidates, products = rows(5, seed=1), rows(5) @ rows(5, seed=1).T
    shared = MULTI_HOT @ MULTI_HOT.T
    assert np.all(
        shared.sum(axis=1) > 0
    )  # each row shares a label with itself at least
    targets = shared / shared.sum(axis=1, keepdims=True)
    log_softmax = products - np.log(np.exp(products).sum(axis=1, keepdims=True))
    values = kc.losses.npairs_multilabel_loss(
        MULTI_HOT, rows(5), candidates=candidates, candidate_ids=MULTI_HOT
    )
    np.testing.assert_allclose(values, -(targets * log_softmax).sum(axis=1), **FLOAT64)


# ---- lifted structure


@pytest.mark.parametrize("images", [2, 5])
@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_lifted_structure_of_collapsed_embeddings(images, margin):
    # All distances are 0, and a pair sees the negatives of both its rows: J = log(2 (2n - 2) e^m).
    loss = kc.losses.LiftedStructLoss(margin)(pairs(images), np.ones((2 * images, 3)))
    j = margin + math.log(2 * (2 * images - 2))
    np.testing.assert_allclose(loss, j**2 / 2, **FLOOR)


def test_lifted_structure_of_orthonormal_pairs():
    images, margin = 4, 2.0
    loss = kc.losses.LiftedStructLoss(margin)(
        pairs(images), np.tile(np.eye(images), (2, 1))
    )
    j = margin - math.sqrt(2) + math.log(2 * (2 * images - 2))
    np.testing.assert_allclose(loss, j**2 / 2, **FLOOR)


def test_lifted_structure_of_far_negatives_is_zero_with_zero_gradient():
    # J = 1 + log(4 e^(1 - 10)) < 0.
    embeddings = np.array([[0.0, 0], [1, 0], [0, 10], [1, 10]])
    values, gradient = value_and_gradient(
        lambda z: kc.losses.lifted_struct_loss(np.array([0, 0, 1, 1]), z),
        tf.constant(embeddings),
    )
    np.testing.assert_array_equal(values, np.zeros(4))
    np.testing.assert_array_equal(gradient, np.zeros((4, 2)))


def test_lifted_structure_is_a_mean_over_pairs_not_over_anchors():
    ids, embeddings = np.array([0, 0, 0, 1, 1]), rows(5)
    values, counts = metric_oracles.lifted_struct(ids, embeddings)
    np.testing.assert_array_equal(counts, [2, 2, 2, 1, 1])
    loss = kc.losses.LiftedStructLoss()(ids, embeddings)
    np.testing.assert_allclose(loss, (counts * values).sum() / 8, **FLOAT64)
    assert abs(float(loss) - values.mean()) > 0.01


def lifted_line(**options):
    """One anchor at 0, its positive at 1, candidates of other ids at 3 and -2."""
    candidates = np.array([[1.0], [3.0], [-2.0]])
    return kc.losses.lifted_struct_loss(
        np.array([0]),
        np.zeros((1, 1)),
        **{
            "candidates": candidates,
            "candidate_ids": np.array([0, 1, 2]),
            **options,
        },
    )


@pytest.mark.parametrize(
    "options, repelled",
    [
        # From the anchor 3 and 2, from the positive 2 and 3.
        ({}, [3, 2, 2, 3]),
        # A mask of columns holds for the positive too, a mask of pairs for its anchor alone.
        ({"candidate_mask": np.array([True, False, True])}, [2, 3]),
        ({"candidate_mask": np.array([[True, False, True]])}, [2, 2, 3]),
        ({"negative_only": np.array([False, True, True])}, [3, 2, 2, 3]),
        # An id of -1 is a negative of the positive as of any other.
        ({"candidate_ids": np.array([0, -1, -1])}, [3, 2, 2, 3]),
    ],
    ids=["plain", "mask_of_columns", "mask_of_pairs", "negative_only", "unknown"],
)
def test_lifted_structure_among_candidates_by_hand(options, repelled):
    j = 1 + math.log(sum(math.exp(1 - d) for d in repelled))
    np.testing.assert_allclose(lifted_line(**options), [j**2 / 2], **FLOAT64)


# ---- multi-similarity


def test_multi_similarity_of_collapsed_embeddings():
    images, alpha, beta, base = 5, 2.0, 10.0, 0.6
    loss = kc.losses.MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
    total = loss(pairs(images), np.ones((2 * images, 3)))
    pull = math.log1p(math.exp(-alpha * (1 - base))) / alpha
    push = math.log1p((2 * images - 2) * math.exp(beta * (1 - base))) / beta
    np.testing.assert_allclose(total, pull + push, **FLOAT64)


def at_angles(*cosines: float) -> np.ndarray:
    """Unit rows of these cosines with the first axis."""
    return np.array([[c, math.sqrt(1 - c * c)] for c in cosines])


# Positives at 0.9 and 0.3, negatives at 0.5, 0.1 and -0.4 of the anchor: by epsilon, what remains.
MINED = {
    0.15: ([0.3], [0.5]),
    0.25: ([0.3], [0.5, 0.1]),
    0.45: ([0.9, 0.3], [0.5, 0.1]),
    None: ([0.9, 0.3], [0.5, 0.1, -0.4]),
}


@pytest.mark.parametrize("epsilon", MINED)
def test_multi_similarity_mines_positives_below_the_nearest_negative_and_the_reverse(
    epsilon,
):
    near, far = MINED[epsilon]
    values, gradient = value_and_gradient(
        lambda c: kc.losses.multi_similarity_loss(
            np.array([0]),
            np.array([[2.0, 0.0]]),
            beta=10.0,
            mining_epsilon=epsilon,
            candidates=c,
            candidate_ids=np.array([0, 0, 1, 2, 3]),
        ),
        tf.constant(at_angles(0.9, 0.3, 0.5, 0.1, -0.4)),
    )
    pull = math.log1p(sum(math.exp(-2 * (s - 0.5)) for s in near)) / 2
    push = math.log1p(sum(math.exp(10 * (s - 0.5)) for s in far)) / 10
    np.testing.assert_allclose(values, [pull + push], **FLOAT64)
    moved = np.abs(gradient).max(axis=1) > 0
    np.testing.assert_array_equal(
        moved, [s in near + far for s in (0.9, 0.3, 0.5, 0.1, -0.4)]
    )


def test_multi_similarity_anchor_of_which_nothing_is_mined_counts_as_zero():
    # The pair of id 0 is told apart by more than epsilon, the pair of id 1 is not.
    ids, embeddings = np.array([0, 0, 1, 1]), rows(4)
    embeddings[1] = embeddings[0] + 0.01
    values, counts = metric_oracles.multi_similarity(
        ids, embeddings, mining_epsilon=0.1
    )
    assert np.any(values == 0) and np.all(counts == 1)
    loss = kc.losses.MultiSimilarityLoss(mining_epsilon=0.1)
    np.testing.assert_allclose(loss(ids, embeddings), values.mean(), **FLOAT64)


def test_multi_similarity_keeps_duplicates_as_positives():
    # The reference code drops positives of a similarity above 1 - 1e-5.
    embeddings = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    loss = kc.losses.MultiSimilarityLoss()(np.array([0, 0, 1, 1]), embeddings)
    expected = softplus(-2 * 0.5) / 2 + math.log1p(2 * math.exp(-50 * 0.5)) / 50
    np.testing.assert_allclose(loss, expected, **FLOAT64)


# ---- circle


@pytest.mark.parametrize("margin, scale", [(0.4, 80.0), (0.25, 256.0), (0.25, 1.0)])
def test_circle_at_its_optimum_is_small_and_at_its_worst_is_large(margin, scale):
    # Orthonormal pairs: a_p = a_n = m, both logits -g m^2. Collapsed: a_n = 1 + m, its logit g (1 + m) (1 - m).
    images = 4
    loss = kc.losses.CircleLoss(margin=margin, scale=scale)
    log_pairs = math.log(2 * images - 2)
    best = loss(pairs(images), np.tile(np.eye(images), (2, 1)))
    np.testing.assert_allclose(
        best, softplus(log_pairs - 2 * scale * margin**2), rtol=1e-9
    )
    worst = loss(pairs(images), np.ones((2 * images, 3)))
    np.testing.assert_allclose(
        worst, softplus(log_pairs + scale * (1 - 2 * margin**2)), rtol=1e-9
    )


def test_circle_weights_are_constants_for_the_gradient():
    # One positive, one negative: dL/ds_n = sigmoid(z) g a_n, without the term of a_n's own slope.
    margin, scale, s_p, s_n = 0.3, 4.0, 0.8, 0.5
    similarity = tf.constant(at_angles(s_p, s_n))
    _, gradient = value_and_gradient(
        lambda c: kc.losses.circle_loss(
            np.array([0]),
            np.array([[1.0, 0.0]]),
            margin=margin,
            scale=scale,
            candidates=c,
            candidate_ids=np.array([0, 1]),
        ),
        similarity,
    )
    a_p, a_n = 1 + margin - s_p, s_n + margin
    z = scale * (a_n * (s_n - margin) - a_p * (s_p - (1 - margin)))
    sigmoid = 1 / (1 + math.exp(-z))
    # The cosine's gradient in a unit row c: e_1 - s c.
    for row, s, slope in ((0, s_p, -a_p), (1, s_n, a_n)):
        expected = (
            sigmoid * scale * slope * (np.array([1.0, 0.0]) - s * similarity[row])
        )
        np.testing.assert_allclose(gradient[row], expected, **FLOAT64)


def test_circle_forgets_pairs_beyond_their_optimum():
    # A negative beyond s = -m has a_n = 0: its logit is 0 and it has no gradient.
    _, gradient = value_and_gradient(
        lambda c: kc.losses.circle_loss(
            np.array([0]),
            np.array([[1.0, 0.0]]),
            candidates=c,
            candidate_ids=np.array([0, 1, 2]),
        ),
        tf.constant(at_angles(0.5, -0.6, 0.3)),
    )
    np.testing.assert_array_equal(gradient[1], [0.0, 0.0])
    assert np.abs(gradient[0]).max() > 0.1


# ---- soft nearest neighbours


@pytest.mark.parametrize("distance", ["squared_euclidean", "euclidean", "cosine"])
def test_soft_nearest_neighbor_of_collapsed_embeddings_is_log_of_the_share(distance):
    # Three of six share the id: two positives of five columns.
    loss = kc.losses.SoftNearestNeighborLoss(distance=distance)
    total = loss(np.array([0, 0, 0, 1, 1, 1]), np.ones((6, 3)))
    np.testing.assert_allclose(total, math.log(5 / 2), **FLOAT64)


def test_soft_nearest_neighbor_at_a_high_temperature_is_log_of_the_share():
    ids = np.array([0, 0, 0, 1, 1, 1])
    loss = kc.losses.SoftNearestNeighborLoss(temperature=1e9)(ids, rows())
    np.testing.assert_allclose(loss, math.log(5 / 2), rtol=1e-7)


def test_soft_nearest_neighbor_on_cosine_is_the_inner_sup_con_less_log_positives():
    ids = np.array([0, 0, 0, 1, 1, 1])
    embeddings, options = rows(), {"temperature": 0.3}
    np.testing.assert_allclose(
        kc.losses.soft_nearest_neighbor_loss(
            ids, embeddings, distance="cosine", **options
        ),
        kc.losses.sup_con_loss(ids, embeddings, position="in", **options) - math.log(2),
        **FLOAT64,
    )


def test_soft_nearest_neighbor_of_one_class_counts_as_zero():
    # Id 1 has no positive and does not count; masked from its only negative, the pair of id 0 counts with 0.
    ids, mask = np.array([0, 0, 1, 1, 2]), np.ones((5, 5), bool)
    mask[:2, 2:] = False
    embeddings = rows(5)
    values, counts = metric_oracles.soft_nearest_neighbor(
        ids, embeddings, candidate_mask=mask
    )
    np.testing.assert_array_equal(counts, [1, 1, 1, 1, 0])
    loss = kc.losses.SoftNearestNeighborLoss()(ids, embeddings, candidate_mask=mask)
    np.testing.assert_allclose(loss, values[2:4].sum() / 4, **FLOAT64)


# ---- what is refused


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.5"])
@pytest.mark.parametrize(
    "call, name",
    [
        (kc.losses.MultiSimilarityLoss, "base"),
        (kc.losses.MultiSimilarityLoss, "mining_epsilon"),
        (kc.losses.CircleLoss, "margin"),
        (kc.losses.LiftedStructLoss, "margin"),
    ],
    ids=["base", "mining_epsilon", "circle_margin", "lifted_margin"],
)
def test_number_that_is_not_finite_is_refused(call, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}="):
        call(**{name: value})
