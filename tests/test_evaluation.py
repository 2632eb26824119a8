"""`keras_contrastive.evaluation` against loops in float64, and what must not change its figures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive.evaluation import (
    few_label_accuracy,
    knn_accuracy,
    knn_predictions,
)
from tests.oracles import evaluation
from tests.oracles import neighbours as oracle


@pytest.fixture
def blobs():
    """Three overlapping classes in 6 dimensions: 60 training rows, 40 test rows."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 6))
    train_labels, test_labels = rng.integers(0, 3, 60), rng.integers(0, 3, 40)
    train = centres[train_labels] + 1.2 * rng.normal(size=(60, 6))
    test = centres[test_labels] + 1.2 * rng.normal(size=(40, 6))
    return train, train_labels, test, test_labels


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_accuracy_equals_votes_counted_in_loops(blobs, k, temperature):
    expected = oracle.knn_accuracy(*blobs, k=k, temperature=temperature)
    assert 0.4 < expected < 1.0  # neither chance nor trivial
    assert knn_accuracy(*blobs, k=k, temperature=temperature) == expected


def test_knn_accuracy_is_exact_across_blocks_of_test_rows(blobs):
    train, train_labels, test, test_labels = blobs
    repeats = 60  # 2400 test rows: three blocks, the last one shorter
    many = np.tile(test, (repeats, 1)), np.tile(test_labels, repeats)
    expected = oracle.knn_accuracy(*blobs, k=5, temperature=0.1)
    assert knn_accuracy(
        train, train_labels, *many, k=5, temperature=0.1
    ) == pytest.approx(expected)


def test_knn_accuracy_of_tiny_temperature_is_that_of_the_nearest_neighbour(blobs):
    # exp(1 / 1e-5) overflows float64 unless the largest similarity is taken off first.
    nearest = oracle.nearest_neighbour_accuracy(*blobs)
    assert knn_accuracy(*blobs, k=20, temperature=1e-5) == nearest


def test_knn_accuracy_of_huge_temperature_counts_heads():
    train = [[1.0, 0.0], [0.5, 1.0], [0.4, 1.0]]
    for temperature, label in (
        (0.01, 5),
        (1e6, 9),
    ):  # one near neighbour against two far ones
        assert (
            knn_accuracy(
                train, [5, 9, 9], [[1.0, 0.0]], [label], k=3, temperature=temperature
            )
            == 1.0
        )


@pytest.mark.parametrize("labels", [[7, 2], [2, 7]])
def test_knn_accuracy_of_equal_votes_takes_the_lowest_class(labels):
    train = [[1.0, 0.0], [1.0, 0.0]]
    assert knn_accuracy(train, labels, [[1.0, 0.0]], [2], k=2, temperature=0.1) == 1.0


def test_knn_accuracy_of_a_class_that_train_lacks_is_wrong():
    assert (
        knn_accuracy(
            [[1.0], [2.0]], [0, 0], [[1.0], [1.0]], [0, 1], k=1, temperature=0.1
        )
        == 0.5
    )


@pytest.mark.parametrize("k", [1, 7, 60])
def test_knn_predictions_equal_votes_counted_in_loops(blobs, k):
    train, train_labels, test, _ = blobs
    expected = evaluation.knn_predictions(
        train, train_labels, test, k=k, temperature=0.1
    )
    assert len(set(expected)) > 1
    got = knn_predictions(train, train_labels, test, k=k)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("options", [{}, {"k": 5}, {"k": 3, "temperature": 0.5}])
def test_knn_accuracy_is_the_share_of_right_predictions(blobs, options):
    train, train_labels, test, test_labels = blobs
    predictions = knn_predictions(train, train_labels, test, **options)
    assert predictions.shape == (40,)
    assert knn_accuracy(*blobs, **options) == np.mean(predictions == test_labels)


def test_knn_predictions_are_of_the_names_of_train(blobs):
    train, train_labels, test, _ = blobs
    names = np.array([3, 40, 500])
    got = knn_predictions(train, names[train_labels][:, None], test)
    np.testing.assert_array_equal(
        got, names[knn_predictions(train, train_labels, test)]
    )


@pytest.mark.parametrize(
    "n,k", [(12, 12), (20, 20), (60, 20), (9999, 20), (10_000, 200), (10_500, 200)]
)
def test_knn_hears_20_neighbours_or_200_of_many_unless_told(n, k):
    def prediction(labels):
        rows = np.tile([1.0, 0.0], (n, 1))  # all alike: the first k vote
        return knn_predictions(rows, labels[:n], [[1.0, 0.0]]).tolist()

    tie = [1] * (k // 2) + [0] * n
    assert prediction(tie) == [0]  # one neighbour fewer, and class 1 would win
    if n > k:
        assert prediction([2] + tie) == [1]  # one neighbour more, and it were a tie


def test_knn_of_one_training_row_hears_that_one():
    assert knn_predictions([[1.0, 2.0]], [7], [[-3.0, 1.0]]).tolist() == [7]


def test_knn_predictions_of_labels_of_another_length_are_refused(blobs):
    train, train_labels, test, _ = blobs
    with pytest.raises(ValueError, match=r"`train_labels` must hold one label"):
        knn_predictions(train, train_labels[1:], test)


def test_knn_predictions_of_rows_that_are_no_numbers_are_refused(blobs):
    train, train_labels, test, _ = blobs
    test[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"`test` must be finite. Received: 1 of 40"):
        knn_predictions(train, train_labels, test)
    with pytest.raises(ValueError, match=r"`test` must hold at least one row"):
        knn_predictions(train, train_labels, test[:0])


def test_few_label_accuracy_equals_loops_over_every_possible_draw():
    """With two examples a class, one of which is drawn, there are four draws; each is computed by loops."""
    rng = np.random.default_rng(1)
    train, labels = rng.normal(size=(4, 3)), np.array([0, 0, 1, 1])
    test, test_labels = rng.normal(size=(30, 3)), rng.integers(0, 2, 30)
    by_draw = [
        oracle.nearest_neighbour_accuracy(train[[i, j]], [0, 1], test, test_labels)
        for i, j in itertools.product([0, 1], [2, 3])
    ]
    assert len(set(by_draw)) > 1
    single = {
        few_label_accuracy(
            train, labels, test, test_labels, labels_per_class=1, draws=1, seed=s
        ).mean
        for s in range(40)
    }
    assert single == set(
        by_draw
    )  # each of four misses 40 fair draws with probability 0.75^40 = 1e-5
    mean, std = few_label_accuracy(
        train, labels, test, test_labels, labels_per_class=1, draws=400
    )
    error = np.std(by_draw) / np.sqrt(400)
    assert mean == pytest.approx(np.mean(by_draw), abs=5 * error)
    assert std == pytest.approx(np.std(by_draw), rel=0.2)


def test_few_label_accuracy_of_all_labels_is_that_of_the_nearest_neighbour(blobs):
    train, labels, test, test_labels = blobs
    smallest = np.bincount(labels).min()
    rows = np.concatenate([np.flatnonzero(labels == c)[:smallest] for c in range(3)])
    result = few_label_accuracy(
        train[rows],
        labels[rows],
        test,
        test_labels,
        labels_per_class=int(smallest),
        draws=3,
    )
    expected = oracle.nearest_neighbour_accuracy(
        train[rows], labels[rows], test, test_labels
    )
    assert result == (expected, 0.0)


def test_few_label_draws_are_the_same_for_every_embedding():
    labels = np.repeat([0, 1], 10)
    shares = []
    for one in range(
        10, 20
    ):  # an embedding in which the test row is right when row `one` is labelled
        train = np.tile([1.0, 0.0], (20, 1))
        train[one] = [0.0, 1.0]
        result = few_label_accuracy(
            train, labels, [[0.0, 1.0]], [1], labels_per_class=3, draws=50
        )
        shares.append(result.mean)
    # Three of the ten rows of class 1 are labelled in each draw. Were the draws others for each embedding,
    # the shares would add up to about 3, but not to exactly that.
    assert sum(shares) == pytest.approx(3.0, abs=1e-9)


def test_few_label_draws_follow_the_seed(blobs):
    def accuracy(seed):
        return few_label_accuracy(*blobs, labels_per_class=2, seed=seed)

    assert accuracy(1) == accuracy(1) != accuracy(2)


def test_few_label_draws_begin_with_those_of_fewer(blobs):
    first, _ = few_label_accuracy(*blobs, labels_per_class=2, draws=1)
    mean, std = few_label_accuracy(*blobs, labels_per_class=2, draws=2)
    assert std > 0  # two values are mean - std and mean + std
    assert abs(first - mean) == pytest.approx(std)


def _knn(*arrays):
    return knn_accuracy(*arrays, k=5, temperature=0.1)


def _few(*arrays):
    return few_label_accuracy(*arrays, labels_per_class=2)


BOTH = pytest.mark.parametrize("measure", [_knn, _few])


@BOTH
def test_accuracy_ignores_the_length_of_rows(measure, blobs):
    train, train_labels, test, test_labels = blobs
    rng = np.random.default_rng(2)
    # Powers of two change no digit of a float, only its exponent.
    train_scaled = train * 2.0 ** rng.integers(-20, 20, (60, 1))
    test_scaled = test * 2.0 ** rng.integers(-20, 20, (40, 1))
    assert measure(train_scaled, train_labels, test_scaled, test_labels) == measure(
        *blobs
    )


@BOTH
def test_accuracy_ignores_the_names_and_shape_of_labels(measure, blobs):
    train, train_labels, test, test_labels = blobs
    renamed = np.array([3, 40, 500])
    got = measure(
        train, renamed[train_labels][:, None], tf.constant(test), renamed[test_labels]
    )
    assert got == measure(*blobs)


@BOTH
def test_accuracy_of_raw_pixels_is_that_of_their_flat_rows(measure):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (80, 4, 4, 3), np.uint8)
    labels = np.arange(80) % 4
    images[..., 0] //= 1 + labels[:, None, None].astype(np.uint8)  # something to go by
    flat = images.reshape(80, -1).astype(np.float64)
    pixels = measure(images[:60], labels[:60], images[60:], labels[60:])
    assert pixels == measure(flat[:60], labels[:60], flat[60:], labels[60:])


@BOTH
def test_accuracy_of_labels_of_another_length_is_refused(measure, blobs):
    train, train_labels, test, test_labels = blobs
    with pytest.raises(
        ValueError,
        match=r"`train_labels` must hold .*shape=\(59,\), train.shape=\(60, 6\)",
    ):
        measure(train, train_labels[:-1], test, test_labels)


@BOTH
def test_accuracy_of_nan_is_refused(measure, blobs):
    train, train_labels, test, test_labels = blobs
    test[3, 1] = np.nan
    test[4] = np.inf
    with pytest.raises(
        ValueError, match=r"`test` must be finite. Received: 2 of 40 rows"
    ):
        measure(train, train_labels, test, test_labels)


@BOTH
def test_accuracy_of_nothing_is_refused(measure, blobs):
    train, train_labels, _, _ = blobs
    with pytest.raises(
        ValueError, match=r"`test` must hold at least one row.*\(0, 6\)"
    ):
        measure(train, train_labels, np.zeros((0, 6)), np.zeros(0, int))


@BOTH
def test_accuracy_of_rows_of_another_width_is_refused(measure, blobs):
    train, train_labels, test, test_labels = blobs
    with pytest.raises(ValueError, match=r"same width. Received: 6 and 5 numbers"):
        measure(train, train_labels, test[:, :5], test_labels)


def test_knn_accuracy_of_k_above_the_training_rows_is_refused(blobs):
    with pytest.raises(
        ValueError,
        match=r"`k` must be at most the number of training rows, 60. Received: k=61",
    ):
        knn_accuracy(*blobs, k=61, temperature=0.1)


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"k": 1.5}, {"temperature": 0.0}, {"temperature": np.nan}]
)
def test_knn_accuracy_of_an_option_out_of_range_is_refused(blobs, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        knn_accuracy(*blobs, **{"k": 5, "temperature": 0.1, **options})


def test_few_label_accuracy_of_a_small_class_names_it(blobs):
    train, labels, test, test_labels = blobs
    keep = np.concatenate(
        [np.flatnonzero(labels != 2), np.flatnonzero(labels == 2)[:4]]
    )
    with pytest.raises(
        ValueError,
        match=r"class 2 has 4 in `train_labels`. Received: labels_per_class=5",
    ):
        few_label_accuracy(
            train[keep], labels[keep], test, test_labels, labels_per_class=5
        )


@pytest.mark.parametrize("option", ["labels_per_class", "draws", "seed"])
def test_few_label_accuracy_of_an_option_out_of_range_is_refused(blobs, option):
    with pytest.raises(ValueError, match=f"`{option}` must be an integer >= "):
        few_label_accuracy(*blobs, **{"labels_per_class": 1, option: -1})
