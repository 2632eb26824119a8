"""Batches: every example once an epoch, another order each, and any position can be started at."""

from __future__ import annotations

import gc
import itertools
import pathlib
import resource

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import data
from tests.test_data_part import numbered, numbers

PIPELINES = {
    "batches": data.batches,
    "triplets": data.triplets,
    "pairs": data.pairs,
    "pairs_by_label": lambda *args, **kwargs: data.pairs(*args, by="label", **kwargs),
    "triplets_by_label": lambda *args, **kwargs: data.triplets(
        *args, by="label", **kwargs
    ),
}
every_pipeline = pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES)


def part_of(n=50, classes=5):
    return data.Part(numbered(n), np.arange(n) % classes)


def read(dataset):
    """One pass: images and ids of every batch, stacked."""
    images, ids = zip(*((images.numpy(), ids.numpy()) for images, ids in dataset))
    return np.stack(images), np.stack(ids)


def assert_equal_passes(got, expected):
    for left, right in zip(got, expected):
        np.testing.assert_array_equal(left, right)


def test_batches_of_an_epoch_hold_every_example_once_with_its_image():
    images, ids = read(data.batches(part_of(60), 12))
    np.testing.assert_array_equal(np.sort(ids.ravel()), np.arange(60))
    np.testing.assert_array_equal(numbers(images), ids)


def test_batches_have_static_shapes_and_known_cardinality():
    dataset = data.batches(data.Part(np.zeros((50, 4, 3, 3), np.uint8)), 8)
    images, ids = dataset.element_spec
    assert (images.shape, images.dtype) == ((8, 4, 3, 3), tf.uint8)
    assert (ids.shape, ids.dtype) == ((8,), tf.int64)
    assert int(dataset.cardinality()) == len(list(dataset)) == 6


def test_batches_with_a_remainder_leave_out_others_each_epoch():
    dataset = data.batches(part_of(50), 8)
    left_out = [set(range(50)) - set(read(dataset)[1].ravel()) for _ in range(4)]
    assert [len(left) for left in left_out] == [2] * 4
    assert len(set.union(*left_out)) > 2


def test_batches_by_label_come_in_the_same_order_with_classes_as_ids():
    part = part_of(50)
    images, ids = read(data.batches(part, 10, seed=1))
    same_images, labels = read(data.batches(part, 10, seed=1, by="label"))
    np.testing.assert_array_equal(images, same_images)
    np.testing.assert_array_equal(labels, part.labels[ids])


def test_batches_are_shuffled_anew_every_epoch_and_seed():
    dataset = data.batches(part_of(200), 200)
    orders = [read(dataset)[1].ravel() for _ in range(5)]
    orders.append(read(data.batches(part_of(200), 200, seed=1))[1].ravel())
    orders.append(np.arange(200))
    for first, second in itertools.combinations(orders, 2):
        # Two random orders agree at one place on average (Poisson): 8 or more has probability 1e-5.
        assert np.sum(first == second) < 8


@every_pipeline
def test_pipeline_started_anywhere_gives_what_would_have_come_there(make):
    whole = make(part_of(50), 8, seed=3)
    epochs = [read(whole) for _ in range(4)]
    for epoch, step in [(1, 0), (0, 2), (2, 5)]:
        started = make(part_of(50), 8, seed=3, epoch=epoch, step=step)
        rest = [column[step:] for column in epochs[epoch]]
        assert_equal_passes(read(started), rest)
        assert_equal_passes(read(started), epochs[epoch + 1])


@every_pipeline
def test_pipeline_with_equal_arguments_is_equal(make):
    first, again = (make(part_of(50), 8, seed=9, epoch=2) for _ in range(2))
    assert_equal_passes(read(first), read(again))


def test_batches_from_a_step_on_report_an_unknown_cardinality():
    dataset = data.batches(part_of(50), 8, step=2)
    assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
    assert [len(list(dataset)) for _ in range(3)] == [4, 6, 6]


def test_batches_count_a_pass_when_it_starts_and_no_unused_iterator():
    part = part_of(50)
    expected = data.batches(part, 10)
    epochs = [read(expected)[1] for _ in range(3)]
    dataset = data.batches(part, 10)
    iter(dataset), iter(dataset)
    np.testing.assert_array_equal(read(dataset)[1], epochs[0])
    next(iter(dataset))  # a look is a pass
    np.testing.assert_array_equal(read(dataset)[1], epochs[2])


def test_batches_outlive_what_they_were_made_from():
    dataset = data.batches(part_of(50), 10).map(lambda images, ids: ids)
    gc.collect()
    assert len(list(dataset)) == len(list(dataset)) == 5


def test_batches_share_the_images_of_their_part():
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc to see the memory in use")

    def megabytes():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6

    part = data.Part(np.zeros((40_000, 32, 32, 1), np.uint8))  # 41 MB
    before = megabytes()
    datasets = [data.batches(part, 10, seed=seed) for seed in range(5)]
    for dataset in datasets:
        next(iter(dataset))
    # A copy for each, as a constant in the graph would be, is 205 MB or more.
    assert megabytes() - before < 82


class Recorder(keras.Model):
    """Trains nothing to speak of; remembers, by a metric, the ids of every epoch."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        # The sum of id * position identifies an order well enough, and is exact in float32.
        self.record = keras.metrics.Sum(name="loss")
        self.position = tf.Variable(0.0, trainable=False)

    @property
    def metrics(self):
        return [self.record]

    def call(self, images):
        return self.dense(tf.cast(tf.reshape(images, [-1, 4]), tf.float32))

    def train_step(self, batch):
        images, ids = batch
        self(images, training=True)
        weights = tf.range(1.0, tf.cast(tf.size(ids), tf.float32) + 1.0)
        self.position.assign_add(1.0)
        self.record.update_state(
            tf.reduce_sum(weights * tf.cast(ids, tf.float32)) * self.position
        )
        return {"loss": self.record.result()}


def fit(dataset, **options):
    model = Recorder()
    model.compile(optimizer="sgd")
    return model.fit(dataset, shuffle=False, verbose=0, **options).history["loss"]


def fingerprints(epochs, start=0):
    """What `Recorder` should report, from ids read outside of Keras."""
    position, sums = itertools.count(start + 1), []
    for ids in epochs:
        weights = np.arange(1, ids.shape[1] + 1)
        sums.append(sum(float((weights * row).sum()) * next(position) for row in ids))
    return sums


@pytest.mark.parametrize("steps_per_execution", [1, 5])
def test_batches_in_fit_give_every_epoch_its_own_order(steps_per_execution):
    part = part_of(50)
    reference = data.batches(part, 10)
    expected = fingerprints([read(reference)[1] for _ in range(4)])
    model = Recorder()
    model.compile(optimizer="sgd", steps_per_execution=steps_per_execution)
    history = model.fit(data.batches(part, 10), epochs=4, shuffle=False, verbose=0)
    assert history.history["loss"] == expected


def test_batches_from_a_step_on_in_fit_give_the_rest_of_the_epoch():
    part = part_of(50)
    reference = data.batches(part, 10, epoch=2)
    rest, following = read(reference)[1][3:], read(reference)[1]
    cut = data.batches(part, 10, epoch=2, step=3)
    options = {"initial_epoch": 2, "epochs": 3, "steps_per_epoch": 2}
    assert fit(cut, **options) == fingerprints([rest])
    assert fit(
        data.batches(part, 10, epoch=3), initial_epoch=3, epochs=4
    ) == fingerprints([following])


@pytest.mark.parametrize(
    "make", [data.batches, data.triplets], ids=["batches", "triplets"]
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.0}, "`batch_size` must be an integer"),
        (
            {"batch_size": 51},
            "must not be above the number of images, 50.*batch_size=51",
        ),
        ({"seed": -1}, "seed=-1"),
        ({"epoch": -1}, "epoch=-1"),
        ({"step": -1}, "step=-1"),
        (
            {"step": 6},
            "below the number of batches in an epoch, 6.*step=6.*epoch=1, step=0",
        ),
        ({"by": "class"}, "`by` must be one of 'instance', 'label'.*by='class'"),
    ],
    ids=str,
)
def test_pipeline_with_unfit_arguments_is_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(part_of(50), **{"batch_size": 8, **arguments})


@pytest.mark.parametrize(
    "make", [data.batches, data.triplets], ids=["batches", "triplets"]
)
def test_pipeline_by_label_without_labels_is_refused(make):
    with pytest.raises(ValueError, match="needs a part with labels"):
        make(data.Part(numbered(10)), 2, by="label")


def test_batches_of_a_bare_array_are_refused():
    with pytest.raises(ValueError, match=r"Received: ndarray. Wrap arrays: data.Part"):
        data.batches(numbered(10), 2)
