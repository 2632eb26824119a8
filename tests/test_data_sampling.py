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


def balanced(part, classes, examples, epochs, **options):
    """Numbers of examples and ids of every batch, `(batches, classes * examples)`."""
    dataset = data.class_balanced(part, classes, examples, **options)
    images, ids = zip(*(read(dataset) for _ in range(epochs)))
    return numbers(np.concatenate(images)), np.concatenate(ids)


def test_class_balanced_batches_are_composed_exactly_and_spread_evenly():
    # 7 classes of 40 to 100 examples, and unknown ones.
    sizes = [40, 50, 60, 70, 80, 90, 100, 30]
    labels = np.random.default_rng(0).permutation(np.repeat([*range(7), -1], sizes))
    part = data.Part(numbered(sum(sizes)), labels)
    rows, ids = balanced(part, 4, 5, 60)
    assert len(rows) == 60 * (490 // 20)
    np.testing.assert_array_equal(ids, labels[rows])
    for batch, its_ids in zip(rows, ids):
        assert len(set(batch)) == 20
        classes = its_ids.reshape(4, 5)
        assert np.all(classes == classes[:, :1]) and len(set(classes[:, 0])) == 4
    # Every class comes equally often; within a class, every example.
    assert_evenly_spread(np.bincount(ids[:, ::5].ravel(), minlength=7))
    counts = np.bincount(rows.ravel(), minlength=len(labels))
    for label in range(7):
        assert_evenly_spread(counts[labels == label])
    # Which classes meet is even too: each pair of 7 in a batch of 4.
    meetings = np.zeros((7, 7), int)
    for batch in ids[:, ::5]:
        meetings[np.ix_(batch, batch)] += 1
    assert_evenly_spread(meetings[np.triu_indices(7, 1)])


def test_class_balanced_goes_through_a_class_before_it_begins_again():
    part = part_of(60, classes=3)
    rows, _ = balanced(part, 3, 4, 1)  # 5 batches: 20 of each class, all its examples
    np.testing.assert_array_equal(np.sort(rows.ravel()), np.arange(60))


def test_class_balanced_gives_examples_of_small_classes_again_and_equally_often():
    labels = np.repeat([0, 1, 2, 3], [1, 3, 8, 20])
    rows, ids = balanced(data.Part(numbered(32), labels), 4, 8, 30)
    np.testing.assert_array_equal(ids, labels[rows])
    for batch in rows.reshape(-1, 4, 8):
        by_class = [
            np.bincount(group, minlength=32)[labels == label]
            for group, label in zip(batch, labels[batch[:, 0]])
        ]
        for counts in by_class:
            assert counts.sum() == 8
            if len(counts) <= 8:
                assert counts.max() - counts.min() <= 1
            else:
                assert counts.max() == 1
    # The three examples of class 1 share what is left over: 8 = 3 + 3 + 2.
    assert_evenly_spread(np.bincount(rows[labels[rows] == 1])[1:4])


def test_class_balanced_resumes_and_depends_on_the_seed():
    part = part_of(90, classes=9)
    whole = data.class_balanced(part, 4, 3, seed=1)
    epochs = [read(whole)[1] for _ in range(2)]
    assert int(whole.cardinality()) == len(epochs[0]) == 7
    np.testing.assert_array_equal(
        read(data.class_balanced(part, 4, 3, seed=1, epoch=1, step=3))[1], epochs[1][3:]
    )
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], read(data.class_balanced(part, 4, 3))[1])


def test_class_balanced_of_fewer_examples_than_a_batch_gives_one():
    rows, _ = balanced(part_of(6, classes=3), 3, 4, 1)
    assert rows.shape == (1, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((6, 2), r"number of classes, 5.*classes_per_batch=6"),
        ((0, 2), "classes_per_batch=0"),
        ((2, 0), "examples_per_class=0"),
    ],
    ids=str,
)
def test_class_balanced_with_unfit_arguments_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.class_balanced(part_of(50), *arguments)
    with pytest.raises(ValueError, match="needs a part with labels"):
        data.class_balanced(data.Part(numbered(10)), 2, 2)


def test_pairs_by_label_keep_the_rules_and_spread_evenly():
    sizes, epochs = {7: 150, 0: 250, 4: 600}, 4
    labels = np.repeat(list(sizes), list(sizes.values()))
    labels = np.random.default_rng(0).permutation(labels)
    dataset = data.pairs(data.Part(numbered(1000), labels), 250, by="label")
    images, ids = zip(*(read(dataset) for _ in range(epochs)))
    rows = numbers(np.concatenate(images)).reshape(-1, 2)
    np.testing.assert_array_equal(labels[rows[:, 0]], np.concatenate(ids).ravel())
    assert np.all(labels[rows[:, 0]] == labels[rows[:, 1]])
    assert np.all(rows[:, 0] != rows[:, 1])
    np.testing.assert_array_equal(np.bincount(rows[:, 0]), np.full(1000, epochs))
    for label, size in sizes.items():
        of_class = rows[labels[rows[:, 0]] == label]
        rank = np.searchsorted(np.flatnonzero(labels == label), of_class)
        assert_evenly_spread(np.bincount(rank[:, 1], minlength=size))
        steps = np.bincount((rank[:, 1] - rank[:, 0]) % size, minlength=size)
        assert_evenly_spread(steps[1:])


def test_pairs_by_instance_show_every_example_twice():
    dataset = data.pairs(part_of(50), 10)
    images, ids = read(dataset)
    assert images.shape == (5, 10, 2, 2, 2, 1)
    np.testing.assert_array_equal(numbers(images), np.repeat(ids[..., None], 2, -1))
    np.testing.assert_array_equal(np.sort(ids.ravel()), np.arange(50))
    assert int(dataset.cardinality()) == 5


def test_pairs_by_label_leave_out_lonely_and_unknown_examples():
    labels = [0, 0, 1, -1, 2, 2, 2, -1]
    images, _ = read(data.pairs(data.Part(numbered(8), labels), 5, by="label"))
    assert set(numbers(images).ravel()) == {0, 1, 4, 5, 6}
    with pytest.raises(ValueError, match="No class has two images"):
        data.pairs(data.Part(numbered(3), [0, 1, -1]), 1, by="label")
    # One class is enough: there is no negative to find.
    assert len(read(data.pairs(data.Part(numbered(3), [4, 4, -1]), 2, by="label"))) == 2
