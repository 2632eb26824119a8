"""Batches of a few labelled examples beside many of any kind, and the labels that are kept."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import data
from tests.test_data_batches import part_of, read
from tests.test_data_part import numbered, numbers
from tests.test_data_sampling import assert_evenly_spread


def batches_of(part, batch_size, epochs=1, **options):
    """Numbers of examples and ids of every batch, `(batches, batch_size)`."""
    dataset = data.partly_labelled(part, batch_size, **options)
    images, ids = zip(*(read(dataset) for _ in range(epochs)))
    return numbers(np.concatenate(images)), np.concatenate(ids)


def test_batch_begins_with_labelled_examples_of_all_classes_in_turn():
    part = data.keep_labels(part_of(200, classes=5), 4)
    rows, ids = batches_of(part, 32, epochs=3, labelled_per_batch=10)
    np.testing.assert_array_equal(ids, part.labels[rows])
    first = ids[:, :10]
    assert (first >= 0).all()
    for batch in first:
        np.testing.assert_array_equal(np.bincount(batch, minlength=5), np.full(5, 2))


def test_rest_of_the_batches_is_every_example_once_an_epoch():
    part = data.keep_labels(part_of(220, classes=5), 4)
    rows, _ = batches_of(part, 32, labelled_per_batch=10)
    assert rows.shape == (10, 32)
    np.testing.assert_array_equal(np.sort(rows[:, 10:].ravel()), np.arange(220))


def test_labelled_examples_come_equally_often_also_of_unequal_classes():
    labels = np.full(300, -1)
    labels[:3], labels[3:10], labels[10:11] = 0, 1, 2
    rows, ids = batches_of(
        data.Part(numbered(300), labels), 30, epochs=20, labelled_per_batch=7
    )
    labelled = rows[:, :7].ravel()
    # Classes in turn, over all batches of an epoch: 13 batches of 7 are 91 places, 30 or 31 of each class.
    counts = np.bincount(ids[:, :7].ravel(), minlength=3)
    assert counts.max() - counts.min() <= 20
    for members in (range(3), range(3, 10)):
        own = np.bincount(labelled, minlength=300)[list(members)]
        assert own.max() - own.min() <= 20  # of each pass through a class at most one
        assert own.min() > 0


def test_order_within_a_class_is_drawn_anew():
    part = data.keep_labels(part_of(100, classes=2), 8)
    rows, _ = batches_of(part, 20, epochs=60, labelled_per_batch=2)
    # Which example of its class begins an epoch is even over epochs.
    firsts = rows.reshape(60, -1, 20)[:, 0, 0]
    assert_evenly_spread(np.unique(firsts, return_counts=True)[1])
    assert len(set(firsts)) == 8


def test_resumes_anywhere_and_depends_on_the_seed():
    part = data.keep_labels(part_of(90, classes=3), 2)
    rows, ids = batches_of(part, 12, epochs=2, seed=1)
    per_epoch = len(rows) // 2
    again, again_ids = batches_of(part, 12, seed=1, epoch=1, step=3)
    np.testing.assert_array_equal(again, rows[per_epoch + 3 :])
    np.testing.assert_array_equal(again_ids, ids[per_epoch + 3 :])
    assert not np.array_equal(rows[:per_epoch], batches_of(part, 12, seed=2)[0])
    assert not np.array_equal(rows[:per_epoch], rows[per_epoch:])


def test_a_quarter_is_labelled_by_default_and_shapes_are_static():
    part = data.keep_labels(part_of(90, classes=3), 2)
    dataset = data.partly_labelled(part, 16)
    assert dataset.element_spec[0].shape[0] == 16
    assert int(dataset.cardinality()) == 90 // 12
    _, ids = next(iter(dataset))
    assert (ids.numpy()[:4] >= 0).all()


def test_stream_is_sampled_window_by_window():
    part = data.keep_labels(part_of(120, classes=3), 10)
    stream = data.Stream(
        tf.data.Dataset.from_tensor_slices((part.images, part.labels)), buffer=60
    )
    _, ids = batches_of(stream, 20, labelled_per_batch=6)
    assert len(ids) == 2 * (60 // 14)
    assert (ids[:, :6] >= 0).all()


def test_workers_share_the_batches_of_one():
    part = data.keep_labels(part_of(240, classes=4), 3)
    contexts = [
        tf.distribute.InputContext(2, worker, num_replicas_in_sync=2)
        for worker in range(2)
    ]
    rows = [batches_of(part, 16, input_context=one)[0] for one in contexts]
    assert rows[0].shape == rows[1].shape
    rest = np.concatenate([each[:, 4:].ravel() for each in rows])
    assert len(set(rest)) == len(rest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 1}, "batch_size=1"),
        ({"batch_size": 8, "labelled_per_batch": 8}, "below `batch_size`, 8"),
        ({"batch_size": 8, "labelled_per_batch": 0}, "labelled_per_batch=0"),
    ],
    ids=["one", "all", "none"],
)
def test_unfit_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.partly_labelled(part_of(50), **arguments)


def test_part_without_any_label_is_refused():
    with pytest.raises(ValueError, match="must have some labels"):
        data.partly_labelled(data.Part(numbered(20), np.full(20, -1)), 8)
    with pytest.raises(ValueError, match="needs a part with labels"):
        data.partly_labelled(data.Part(numbered(20)), 8)


def test_keep_labels_keeps_so_many_of_each_class_and_all_of_smaller_ones():
    labels = np.repeat([0, 1, 2, -1], [20, 3, 10, 5])
    part = data.Part(numbered(38), labels)
    kept = data.keep_labels(part, 4)
    assert kept.images is part.images
    known = kept.labels >= 0
    np.testing.assert_array_equal(kept.labels[known], labels[known])
    np.testing.assert_array_equal(np.bincount(kept.labels[known]), [4, 3, 4])
    np.testing.assert_array_equal(part.labels, labels)  # the part is as it was


def test_keep_labels_of_more_begin_with_those_of_fewer_and_depend_on_the_seed():
    part = part_of(100, classes=5)
    few, more = (data.keep_labels(part, count, seed=3).labels for count in (2, 5))
    assert (more[few >= 0] >= 0).all()
    assert not np.array_equal(few, data.keep_labels(part, 2, seed=4).labels)
    # Every example is as likely to keep its label.
    counts = sum(data.keep_labels(part, 5, seed=s).labels >= 0 for s in range(400))
    assert_evenly_spread(counts)


def test_keep_labels_of_a_part_without_is_refused():
    with pytest.raises(ValueError, match="must have labels"):
        data.keep_labels(data.Part(numbered(5)), 1)
    with pytest.raises(ValueError, match="per_class=0"):
        data.keep_labels(part_of(), 0)
