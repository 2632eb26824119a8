"""Streams: windows of any dataset sampled as parts are, started anywhere, shared among workers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import data
from tests.test_data_batches import assert_equal_passes, read
from tests.test_data_files import SIZE, number_image, number_of
from tests.test_data_part import numbered, numbers

COUNT, CLASSES = 100, 5


def labels_of(count=COUNT):
    return np.arange(count) % CLASSES


def of_arrays(**options):
    examples = (numbered(COUNT), labels_of())
    dataset = tf.data.Dataset.from_tensor_slices(examples)
    return data.Stream(dataset, **{"buffer": 40, **options})


def encoded(numbers_):
    return [tf.io.encode_png(np.asarray(number_image(k))).numpy() for k in numbers_]


def of_bytes(spoil=(), **options):
    images = encoded(range(COUNT))
    for k in spoil:
        images[k] = images[k][: len(images[k]) // 2]
    dataset = tf.data.Dataset.from_tensor_slices(
        {"image": images, "label": labels_of()}
    )
    return data.Stream(dataset, image_size=SIZE, **{"buffer": 40, **options})


def of_shards(**options):
    """Four shards of different length, of unknown cardinality."""
    bounds = {"a": (0, 10), "b": (10, 40), "c": (40, 75), "d": (75, 100)}
    images, labels = tf.constant(numbered(COUNT)), tf.constant(labels_of())
    table = tf.constant(list(bounds.values()), tf.int64)

    def shard(name):
        number = tf.argmax(tf.cast(name == tf.constant(list(bounds)), tf.int32))
        start, stop = tf.unstack(tf.gather(table, number))
        rows = tf.data.Dataset.range(start, stop)
        return rows.map(lambda row: (tf.gather(images, row), tf.gather(labels, row)))

    return data.Stream(shard, shards=list(bounds), **{"buffer": 40, **options})


STREAMS = {"arrays": of_arrays, "bytes": of_bytes, "shards": of_shards}
PIPELINES = {
    "batches": lambda stream, **at: data.batches(stream, 8, **at),
    "pairs": lambda stream, **at: data.pairs(stream, 8, by="label", **at),
    "triplets": lambda stream, **at: data.triplets(stream, 8, **at),
    "triplets_by_label": lambda stream, **at: data.triplets(
        stream, 8, by="label", **at
    ),
    "class_balanced": lambda stream, **at: data.class_balanced(stream, 3, 2, **at),
}
every_stream = pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)


def content(stream, images):
    """The numbers of examples, whatever the images are."""
    is_encoded = stream.image_shape == (SIZE, SIZE, 3)
    return number_of(images) if is_encoded else numbers(images)


@every_stream
def test_batches_of_a_stream_hold_every_example_once_with_its_image(make):
    stream = make()
    images, ids = read(data.batches(stream, 20))
    found = content(stream, images)
    np.testing.assert_array_equal(np.sort(found.ravel()), np.arange(COUNT))
    if make is of_shards:
        starts = np.array([0, 10, 40, 75])
        ids = starts[ids >> 32] + ids % 2**32
    np.testing.assert_array_equal(found, ids)
    _, labels = read(data.batches(stream, 20, by="label"))
    np.testing.assert_array_equal(labels, found % CLASSES)


# Every kind of stream and every way to draw, not each with each.
@pytest.mark.parametrize(
    ("make", "draw"),
    [(STREAMS[name], PIPELINES["batches"]) for name in STREAMS]
    + [(of_arrays, draw) for name, draw in PIPELINES.items() if name != "batches"]
    + [(of_shards, PIPELINES["class_balanced"])],
)
def test_stream_started_anywhere_gives_what_would_have_come_there(make, draw):
    whole = draw(make(), seed=3)
    epochs = [read(whole) for _ in range(3)]
    for epoch, step in [(1, 0), (0, 2), (1, 7)]:
        started = draw(make(), seed=3, epoch=epoch, step=step)
        rest = [column[step:] for column in epochs[epoch]]
        assert_equal_passes(read(started), rest)
        assert_equal_passes(read(started), epochs[epoch + 1])


def test_windows_bound_how_far_a_stream_is_mixed():
    _, ids = read(data.batches(of_arrays(buffer=25), 5))
    windows = ids.reshape(4, 25)
    for number, window in enumerate(windows):
        assert set(window) == set(range(25 * number, 25 * number + 25))
        assert not np.array_equal(window, np.sort(window))


def test_shards_change_their_order_every_epoch():
    dataset = data.batches(of_shards(buffer=1), 1)
    orders = [
        tuple(k for k, _ in itertools.groupby(read(dataset)[1].ravel() >> 32))
        for _ in range(8)
    ]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(orders)) > 3  # of 24; 8 draws give 3 or fewer with probability 1e-4


def test_cardinality_of_a_stream_is_known_where_its_length_is():
    assert int(data.batches(of_arrays(), 8).cardinality()) == 12
    assert len(read(data.batches(of_arrays(), 8))[1]) == 12
    assert int(data.batches(of_shards(count=COUNT), 8).cardinality()) == 12
    for unknown in (
        data.batches(of_shards(), 8),
        data.batches(of_arrays(), 8, step=1),
        data.triplets(of_arrays(), 8, by="label"),
    ):
        assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY


@every_stream
def test_sampling_from_windows_keeps_the_rules(make):
    stream = make()
    images, ids = read(data.triplets(stream, 10))
    rows = content(stream, images).reshape(-1, 3)
    assert np.all(rows[:, 0] == rows[:, 1]) and np.all(rows[:, 0] != rows[:, 2])
    assert np.all(ids[..., 0] == ids[..., 1]) and np.all(ids[..., 0] != ids[..., 2])
    images, ids = read(data.triplets(stream, 10, by="label"))
    rows = content(stream, images).reshape(-1, 3)
    np.testing.assert_array_equal(rows % CLASSES, ids.reshape(-1, 3))
    assert np.all(rows[:, 0] != rows[:, 1])
    assert np.all(rows[:, 0] % CLASSES == rows[:, 1] % CLASSES)
    assert np.all(rows[:, 0] % CLASSES != rows[:, 2] % CLASSES)
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.arange(COUNT))
    images, ids = read(data.pairs(stream, 10, by="label"))
    rows = content(stream, images).reshape(-1, 2)
    assert np.all(rows[:, 0] != rows[:, 1])
    np.testing.assert_array_equal(
        rows % CLASSES, np.repeat(ids.ravel(), 2).reshape(-1, 2)
    )
    images, ids = read(data.class_balanced(stream, 4, 3))
    np.testing.assert_array_equal(content(stream, images) % CLASSES, ids)
    for batch in ids:
        assert sorted(np.bincount(batch, minlength=CLASSES)) == [0, 3, 3, 3, 3]


def test_damaged_images_of_a_stream_are_replaced_and_listed():
    spoiled = {3, 4, 50, 51, 52}
    stream = of_bytes(spoil=spoiled)
    dataset = data.batches(stream, 20)
    for _ in range(2):
        images, ids = read(dataset)
        np.testing.assert_array_equal(number_of(images), ids)
        assert not spoiled & set(ids.ravel().tolist())
    assert sorted(stream.skipped) == sorted(
        f"example {k}: damaged image data" for k in spoiled
    )
    images, ids = read(data.batches(stream, 20, by="label"))
    np.testing.assert_array_equal(number_of(images) % CLASSES, ids)
    with pytest.raises(tf.errors.OpError, match="example 3: damaged image data"):
        read(data.batches(of_bytes(spoil=[3], on_damage="stop"), 20))


def test_streams_without_labels_have_ids_by_instance_alone():
    stream = data.Stream(tf.data.Dataset.from_tensor_slices(numbered(20)))
    images, ids = read(data.batches(stream, 5))
    np.testing.assert_array_equal(numbers(images), ids)
    for draw in (
        lambda: data.batches(stream, 5, by="label"),
        lambda: data.class_balanced(stream, 2, 2),
    ):
        with pytest.raises(ValueError, match="needs a part with labels"):
            draw()


def test_streams_of_endless_datasets_and_odd_elements_are_refused():
    images = tf.data.Dataset.from_tensor_slices(numbered(8))
    with pytest.raises(ValueError, match=r"must end.*leave out its `repeat"):
        data.Stream(images.repeat())
    with pytest.raises(ValueError, match=r"not batched.*uint8 \(None, 2, 2, 1\)"):
        data.Stream(images.batch(4))
    with pytest.raises(ValueError, match=r"Received: float32 \(2, 2, 1\)"):
        data.Stream(images.map(lambda image: tf.cast(image, tf.float32)))
    with pytest.raises(ValueError, match=r"labels integers.*float32 \(\)"):
        data.Stream(images.map(lambda image: (image, 0.5)))
    with pytest.raises(ValueError, match="a function from a shard"):
        data.Stream(images, shards=["a"])
    with pytest.raises(ValueError, match="number of images, 8"):
        data.batches(data.Stream(images), 9)
    with pytest.raises(ValueError, match=r"wrap a tf.data.Dataset: data.Stream"):
        data.batches(images, 2)


def test_a_stream_of_which_no_window_gives_a_batch_says_so():
    # Sorted by class: ten windows of one class each.
    labels = np.repeat(np.arange(10), 10)
    dataset = tf.data.Dataset.from_tensor_slices((numbered(100), labels))
    sorted_by_class = data.Stream(dataset, buffer=10)
    with pytest.raises(tf.errors.OpError, match="Mix the stream, or give it a larger"):
        read(data.class_balanced(sorted_by_class, 2, 5))
    # A larger buffer mends it, and a pass that begins beyond the last batch ends as it did.
    mixed = data.Stream(dataset, buffer=100)
    assert len(read(data.class_balanced(mixed, 2, 3))[1]) == 16
    assert len(list(data.class_balanced(mixed, 2, 3, step=16))) == 0


def test_streams_and_given_pairs_say_what_they_are():
    assert repr(of_arrays()) == "Stream(100 images of (2, 2, 1), labelled)"
    assert repr(of_shards()).startswith("Stream(unknown number of images")
    given = data.Given(data.Part(numbered(4)), [[0, 1], [2, 3]])
    assert repr(given) == "Given(2 pairs of (2, 2, 1), no labels)"
