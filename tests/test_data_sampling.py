"""Triplets: the rules of positives and negatives, over many draws, and their even spread."""

from __future__ import annotations

import numpy as np
import pytest

from keras_contrastive import data
from tests.test_data_batches import part_of, read
from tests.test_data_part import numbered, numbers


def draws(part, batch_size, epochs, **options):
    """The numbers of the examples `(epochs * anchors, 3)` and the ids, alike."""
    dataset = data.triplets(part, batch_size, **options)
    images, ids = zip(*(read(dataset) for _ in range(epochs)))
    return numbers(np.concatenate(images)).reshape(-1, 3), np.concatenate(ids).reshape(
        -1, 3
    )


def assert_evenly_spread(counts):
    """Chi-square of counts that should be equal: mean k - 1, variance 2 (k - 1); within 5 deviations."""
    counts = np.asarray(counts, float)
    freedom = counts.size - 1
    chi_square = np.sum((counts - counts.mean()) ** 2 / counts.mean())
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_triplets_by_instance_keep_the_rules_and_spread_evenly():
    n, epochs = 1000, 4
    rows, ids = draws(part_of(n), 250, epochs)
    np.testing.assert_array_equal(rows, ids)
    anchors, positives, negatives = rows.T
    np.testing.assert_array_equal(anchors, positives)
    assert np.all(anchors != negatives)
    np.testing.assert_array_equal(np.bincount(anchors), np.full(n, epochs))
    assert_evenly_spread(np.bincount(negatives, minlength=n))
    # How far from the anchor they lie, too: an example next to the gap must not come twice as often.
    assert_evenly_spread(np.bincount((negatives - anchors) % n, minlength=n)[1:])


def test_triplets_by_label_keep_the_rules_and_spread_evenly():
    # Classes of 150, 250 and 600, mixed; the number of a class is not its rank.
    sizes, epochs = {7: 150, 0: 250, 4: 600}, 4
    labels = np.repeat(list(sizes), list(sizes.values()))
    labels = np.random.default_rng(0).permutation(labels)
    rows, ids = draws(data.Part(numbered(1000), labels), 250, epochs, by="label")
    np.testing.assert_array_equal(ids, labels[rows])
    anchors, positives, negatives = rows.T
    assert np.all(labels[anchors] == labels[positives])
    assert np.all(labels[anchors] != labels[negatives])
    assert np.all(anchors != positives)
    np.testing.assert_array_equal(np.bincount(anchors), np.full(1000, epochs))
    for label, size in sizes.items():
        of_class = labels[anchors] == label
        own, others = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        counts = np.bincount(negatives[of_class], minlength=1000)
        assert_evenly_spread(counts[others])
        rank = np.searchsorted(own, rows[of_class])  # of the anchor and the positive
        assert_evenly_spread(np.bincount(rank[:, 1], minlength=size))
        steps = np.bincount((rank[:, 1] - rank[:, 0]) % size, minlength=size)
        assert_evenly_spread(steps[1:])


def test_triplets_come_in_the_order_of_batches():
    part = part_of(50)
    for by in ("instance", "label"):
        images, _ = read(data.triplets(part, 10, seed=2, by=by))
        expected, _ = read(data.batches(part, 10, seed=2, by=by))
        np.testing.assert_array_equal(images[:, :, 0], expected)


def test_triplets_have_static_shapes_and_known_cardinality():
    for by in ("instance", "label"):
        dataset = data.triplets(part_of(50), 8, by=by)
        images, ids = dataset.element_spec
        assert images.shape == (8, 3, 2, 2, 1)
        assert ids.shape == (8, 3)
        assert (images.dtype, ids.dtype) == ("uint8", "int64")
        assert int(dataset.cardinality()) == len(list(dataset)) == 6


def test_triplets_draw_other_negatives_every_epoch_and_seed():
    part = part_of(100)

    def negatives(seed, epoch):
        _, ids = read(data.triplets(part, 100, seed=seed, epoch=epoch))
        return ids.reshape(-1, 3)[np.argsort(ids.reshape(-1, 3)[:, 0]), 2]

    first, second, third = negatives(0, 0), negatives(0, 1), negatives(1, 0)
    for one, other in [(first, second), (first, third), (second, third)]:
        # Equal by chance: 1 of 99 each, one on average; 10 or more has probability 1e-7.
        assert np.sum(one == other) < 10


def test_triplets_by_label_leave_out_lonely_anchors_and_unknown_examples():
    labels = np.array([0, 0, 1, -1, 2, 2, 2, -1])
    labels = np.tile(labels, 10)
    labels[[2, 12]] = 8, 9  # two classes of one example
    alone, unknown = {2, 12}, set(np.flatnonzero(labels == -1))
    rows, _ = draws(data.Part(numbered(80), labels), 58, 12, by="label")
    anchors, positives, negatives = (set(column) for column in rows.T)
    assert anchors == positives == set(range(80)) - unknown - alone
    # 12 * 58 draws from some 50 each: that one is never drawn has probability 1e-4.
    assert negatives == set(range(80)) - unknown


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 2, -1],
            r"No class has two images.*3 classes of 1 image: ant, bee, cat;",
        ),
        ([1, 1, 1, -1], r"needs two classes.*Found 1: bee"),
        ([-1, -1, -1, -1], r"needs two classes.*Found 0: none"),
    ],
)
def test_triplets_by_label_of_classes_without_pairs_are_refused(labels, message):
    part = data.Part(numbered(4), labels, ["ant", "bee", "cat"])
    with pytest.raises(ValueError, match=message):
        data.triplets(part, 1, by="label")


def test_triplets_by_label_of_fewer_anchors_than_the_batch_are_refused():
    part = data.Part(numbered(4), [0, 0, 1, 2])
    with pytest.raises(ValueError, match=r"number of anchors, 2 .*batch_size=3"):
        data.triplets(part, 3, by="label")


def test_triplets_of_one_image_are_refused():
    with pytest.raises(ValueError, match="second example"):
        data.triplets(data.Part(numbered(1)), 1)
