"""`evaluation.clustering` against loops, scikit-learn and closed forms, where k-means has one answer."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

from keras_contrastive.evaluation import clustering
from tests.oracles import evaluation as oracle


def directions(groups, dim, rng, *, spread=0.05):
    """Rows of any length along one axis for each group: k-means on unit rows finds the groups again."""
    rows = np.eye(dim)[groups] + spread * rng.normal(size=(len(groups), dim))
    return rows * rng.uniform(0.5, 50.0, (len(groups), 1))


@pytest.fixture
def noisy():
    """Six plain groups, and labels of which a third is wrong: rows, groups, labels."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 6, 120)
    labels = np.where(rng.random(120) < 1 / 3, rng.integers(0, 6, 120), groups)
    return directions(groups, 8, rng), groups, labels


def test_clustering_equals_loops_over_the_groups_it_must_find(noisy):
    rows, groups, labels = noisy
    got = clustering(rows, labels)
    assert 0.3 < got.nmi < 0.8  # neither chance nor trivial
    assert got.nmi == pytest.approx(
        oracle.normalized_mutual_information(labels.tolist(), groups.tolist())
    )
    assert got.ari == pytest.approx(oracle.adjusted_rand(labels, groups))
    # What a shuffle gives varies by about 0.02; the mean of 200 is known to 0.0015, and enters almost whole.
    expected = oracle.adjusted_mutual_information(
        labels.tolist(), groups.tolist(), shuffles=200, rng=np.random.default_rng(1)
    )
    assert got.ami == pytest.approx(expected, abs=0.008)


def test_clustering_equals_scikit_learn_on_the_groups_it_must_find(noisy):
    rows, groups, labels = noisy
    expected = (
        normalized_mutual_info_score(labels, groups),
        adjusted_mutual_info_score(labels, groups),
        adjusted_rand_score(labels, groups),
    )
    got = clustering(rows, labels)
    assert (got.nmi, got.ami, got.ari) == pytest.approx(expected)
    assert {type(value) for value in got} == {float}


def test_clustering_of_perfect_embeddings_is_1():
    labels = np.random.default_rng(2).permutation(np.arange(60) % 5)
    got = clustering(directions(labels, 5, np.random.default_rng(3)), labels)
    assert got == pytest.approx((1.0, 1.0, 1.0))


def test_clustering_of_noise_is_about_0_but_for_nmi():
    rng = np.random.default_rng(4)
    got = clustering(rng.normal(size=(200, 10)), rng.integers(0, 4, 200))
    # Adjusted scores of independent partitions have mean 0. 2 n MI is about chi-squared of 9 degrees: its
    # deviation of 4.2 gives an NMI of 4.2 / 400 / log(4) = 0.008; five of them are 0.04.
    assert abs(got.ami) < 0.04
    assert abs(got.ari) < 0.04


def test_clustering_of_two_clusters_a_class_has_a_closed_form():
    # H(class) = log 3, H(cluster) = log 6, and the cluster tells the class: 2 log 3 / (log 3 + log 6).
    groups = np.random.default_rng(5).permutation(np.repeat(np.arange(6), 15))
    rows = directions(groups, 6, np.random.default_rng(6))
    got = clustering(rows, groups // 2, num_clusters=6)
    assert got.nmi == pytest.approx(2 * math.log(3) / (math.log(3) + math.log(6)))
    assert got.ari == pytest.approx(oracle.adjusted_rand(groups // 2, groups))


def test_clustering_has_as_many_clusters_as_classes_unless_told(noisy):
    rows, groups, _ = noisy
    assert clustering(rows, groups) == clustering(rows, groups, num_clusters=6)
    assert clustering(rows, groups, num_clusters=3).nmi < 0.9


def test_clustering_into_one_cluster_tells_nothing(noisy):
    rows, groups, _ = noisy
    assert clustering(rows, groups, num_clusters=1) == pytest.approx(
        (0, 0, 0), abs=1e-9
    )


def test_clustering_goes_by_direction_not_by_length():
    rng = np.random.default_rng(7)
    labels = np.arange(40) % 2
    rows = np.array([[1.0, 0.2], [0.2, 1.0]])[labels]
    lengths = np.where(rng.random(40) < 0.5, 1.0, 1000.0)[:, None]
    assert clustering(rows * lengths, labels) == pytest.approx((1.0, 1.0, 1.0))


def test_clustering_ignores_order_rotation_and_names(noisy):
    rows, _, labels = noisy
    rng = np.random.default_rng(8)
    order, turn = rng.permutation(120), np.linalg.qr(rng.normal(size=(8, 8)))[0]
    expected = clustering(rows, labels)
    names = np.array([31, 4, 15, 9, 26, 5])
    got = clustering(tf.constant((rows @ turn)[order]), names[labels[order]][:, None])
    assert got == pytest.approx(expected)


def test_clustering_follows_its_seed_alone():
    rng = np.random.default_rng(9)
    rows, labels = rng.normal(size=(80, 6)), np.arange(80) % 10  # many local optima
    np.random.seed(1)
    first = clustering(rows, labels, seed=3)
    drawn = np.random.random()
    np.random.seed(1)
    assert np.random.random() == drawn  # no number of the global stream was used
    np.random.seed(2)
    assert clustering(rows, labels, seed=3) == first
    assert len({clustering(rows, labels, seed=seed) for seed in range(3)}) > 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_clustering_of_another_dtype_finds_the_groups(noisy, dtype):
    rows, groups, _ = noisy
    assert clustering(rows.astype(dtype), groups) == pytest.approx((1.0, 1.0, 1.0))


def test_clustering_of_many_rows_finds_the_groups():
    rng = np.random.default_rng(10)
    labels = rng.integers(0, 4, 30_000)
    got = clustering(directions(labels, 4, rng), labels)
    assert got == pytest.approx((1.0, 1.0, 1.0))


def test_clustering_of_fewer_directions_than_clusters_warns_of_nothing():
    rows = np.repeat(np.eye(2), 10, axis=0)  # two distinct rows, four classes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = clustering(rows, np.arange(20) // 5)
    # As of two classes a cluster: H(cluster) = log 2, all of it told by the class of log 4.
    assert got.nmi == pytest.approx(2 * math.log(2) / (math.log(2) + math.log(4)))


def test_clustering_of_labels_of_another_length_is_refused(noisy):
    rows, _, labels = noisy
    with pytest.raises(ValueError, match=r"label for each row.*\(119,\).*\(120, 8\)"):
        clustering(rows, labels[1:])


def test_clustering_of_numbers_that_are_not_finite_is_refused(noisy):
    rows, _, labels = noisy
    rows[5, 0] = np.nan
    with pytest.raises(ValueError, match=r"must be finite. Received: 1 of 120 rows"):
        clustering(rows, labels)


def test_clustering_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"at least one row.*\(0, 8\)"):
        clustering(np.zeros((0, 8)), np.zeros(0, int))


def test_clustering_into_more_clusters_than_rows_is_refused():
    with pytest.raises(ValueError, match=r"`num_clusters` must be .*4.*num_clusters=5"):
        clustering(np.eye(4), [0, 0, 1, 1], num_clusters=5)


@pytest.mark.parametrize(
    "options", [{"num_clusters": 0}, {"num_clusters": 2.5}, {"seed": -1}], ids=str
)
def test_clustering_of_an_option_out_of_range_is_refused(noisy, options):
    rows, _, labels = noisy
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be an integer"):
        clustering(rows, labels, **options)
