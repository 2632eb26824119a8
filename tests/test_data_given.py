"""Given pairs and triplets: whole, in their order, with ids that connect what belongs together."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import data
from tests.test_data_batches import assert_equal_passes, part_of, read
from tests.test_data_folder import picture, save
from tests.test_data_part import numbers

PAIRS = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [1, 10], [11, 3]])
TRIPLETS = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 0], [8, 9, 1], [2, 10, 11]])
both = pytest.mark.parametrize("rows", [PAIRS, TRIPLETS], ids=["pairs", "triplets"])


def picture_array(k):
    return np.asarray(picture(16, 16, seed=k))


def files(folder, n=12, lost=()):
    for k in range(n):
        save(folder / f"{k}.png", picture(16, 16, seed=k))
    for k in lost:
        (folder / f"{k}.png").write_text("words")
    return data.FilePart([folder / f"{k}.png" for k in range(n)], image_size=16)


def shown(images):
    """Which pictures these are, of the shape of the batch and its views."""
    known = {picture_array(k).tobytes(): k for k in range(12)}
    flat = images.reshape(-1, *images.shape[-3:])
    return np.array([known[i.tobytes()] for i in flat]).reshape(images.shape[:-3])


def connected(pairs):
    """For each pair, the smallest example of its set: sets are merged one by one."""
    sets = {}
    for pair in np.asarray(pairs).tolist():
        merged = set().union(*(sets.get(k, {k}) for k in pair))
        sets.update(dict.fromkeys(merged, merged))
    return [min(sets[first]) for first, _ in np.asarray(pairs).tolist()]


@both
@pytest.mark.parametrize("kind", ["memory", "files"])
def test_batches_of_given_rows_hold_each_once_with_its_images(rows, kind, tmp_path):
    examples = part_of(12) if kind == "memory" else files(tmp_path)
    given = data.Given(examples, rows)
    dataset = data.batches(given, len(rows), seed=2)
    views = rows.shape[1]
    ids_shape = (len(rows),) if views == 2 else (len(rows), 3)
    spec = dataset.element_spec
    assert spec[0].shape == (len(rows), views, *examples.image_shape)
    assert (spec[0].dtype, spec[1].dtype) == (tf.uint8, tf.int64)
    assert spec[1].shape == ids_shape
    images, ids = read(dataset)
    found = numbers(images[0]) if kind == "memory" else shown(images[0])
    assert sorted(found.tolist()) == sorted(rows.tolist())
    assert found.tolist() != rows.tolist()
    if views == 3:
        np.testing.assert_array_equal(ids[0], found[:, [0, 0, 2]])
    else:
        expected = dict(zip(map(tuple, rows.tolist()), connected(rows)))
        assert ids[0].tolist() == [expected[tuple(pair)] for pair in found.tolist()]


@pytest.mark.parametrize("seed", range(8))
def test_ids_of_pairs_connect_over_shared_examples(seed):
    rng = np.random.default_rng(seed)
    # About as many pairs as half the examples: sets of all sizes.
    pairs = rng.integers(0, 60, (rng.integers(15, 45), 2))
    given = data.Given(part_of(60), pairs)
    ids = given.ids(tf.range(len(pairs), dtype=tf.int64), "instance")
    expected = connected(pairs)
    assert ids.numpy().tolist() == expected
    assert 1 < len(set(expected)) < len(pairs)


def test_ids_of_a_long_chain_are_one():
    pairs = np.stack([np.arange(499), np.arange(1, 500)], axis=1)
    pairs = np.random.default_rng(0).permutation(pairs)
    given = data.Given(part_of(500), pairs)
    ids = given.ids(tf.range(499, dtype=tf.int64), "instance")
    assert set(ids.numpy().tolist()) == {0}


@both
def test_take_of_given_keeps_rows_and_only_their_examples(rows, tmp_path):
    given = data.Given(files(tmp_path), rows)
    chosen = np.array([3, 0])
    taken = given.take(chosen)
    assert len(taken) == 2
    assert len(taken.examples) == len(np.unique(rows[chosen]))
    np.testing.assert_array_equal(shown(taken.images), rows[chosen])
    assert taken.fingerprint != given.fingerprint


@both
def test_given_in_memory_leaves_out_what_is_not_whole(rows, tmp_path):
    given = data.Given(files(tmp_path, lost=[3]), rows)
    decoded = given.in_memory()
    assert isinstance(decoded.examples, data.Part)
    whole = rows[(rows != 3).all(axis=1)]
    np.testing.assert_array_equal(shown(decoded.images), whole)
    again = decoded.in_memory()
    np.testing.assert_array_equal(again.images, decoded.images)


def test_given_in_memory_of_which_nothing_is_whole_is_refused(tmp_path):
    given = data.Given(files(tmp_path, lost=[3]), [[3, 1], [0, 3]])
    with pytest.raises(ValueError, match="No pair or triplet is left"):
        given.in_memory()


@both
def test_given_with_a_damaged_file_are_replaced_as_a_whole_and_listed(rows, tmp_path):
    given = data.Given(files(tmp_path, lost=[5]), rows)
    lost = np.flatnonzero((rows == 5).any(axis=1)).tolist()
    assert len(lost) == 1
    ids_of = given.ids(tf.range(len(rows), dtype=tf.int64), "instance").numpy()
    whole = {tuple(row): k for k, row in enumerate(rows.tolist()) if k not in lost}
    dataset = data.batches(given, len(rows))
    for images, ids in (read(dataset) for _ in range(2)):
        at = [whole[tuple(row)] for row in shown(images[0]).tolist()]
        np.testing.assert_array_equal(ids[0], ids_of[at])
        assert set(at) == set(whole.values())
    name = f"{tmp_path / '5.png'}"
    (line,) = given.skipped
    assert line.startswith(f"{name}: not an image")


def test_given_with_a_damaged_file_stop_where_they_must(tmp_path):
    files(tmp_path, lost=[5])
    paths = [tmp_path / f"{k}.png" for k in range(12)]
    examples = data.FilePart(paths, image_size=16, on_damage="stop")
    with pytest.raises(tf.errors.OpError, match=r"5\.png: not an image"):
        list(data.batches(data.Given(examples, PAIRS), len(PAIRS)))


def test_given_over_records_equal_those_over_memory(tmp_path):
    part = data.Part(np.stack([picture_array(k) for k in range(12)]))
    data.write_records({"train": part}, tmp_path)
    records = data.RecordPart(tmp_path)
    expected = read(data.batches(data.Given(records.in_memory(), PAIRS), 3))
    assert_equal_passes(read(data.batches(data.Given(records, PAIRS), 3)), expected)


@both
def test_given_started_anywhere_give_what_would_have_come_there(rows, tmp_path):
    given = data.Given(files(tmp_path, lost=[4]), rows)
    whole = data.batches(given, 2, seed=3)
    epochs = [read(whole) for _ in range(3)]
    for epoch, step in [(1, 0), (0, 1), (1, 1)]:
        fresh = data.Given(files(tmp_path, lost=[4]), rows)
        started = data.batches(fresh, 2, seed=3, epoch=epoch, step=step)
        rest = [column[step:] for column in epochs[epoch]]
        assert_equal_passes(read(started), rest)
        assert_equal_passes(read(started), epochs[epoch + 1])


@pytest.mark.parametrize("make", [data.pairs, data.triplets])
def test_pairs_and_triplets_of_given_ones_are_refused(make):
    given = data.Given(part_of(12), PAIRS)
    with pytest.raises(ValueError, match=r"has its pairs or triplets already"):
        make(given, 2)


def test_batches_of_given_rows_by_label_are_refused():
    with pytest.raises(ValueError, match="needs a part with labels"):
        data.batches(data.Given(part_of(12), PAIRS), 2, by="label")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 1, 2, 3]], r"pairs \(n, 2\) or triplets .*rows.shape=\(1, 4\)"),
        ([0, 1], r"rows.shape=\(2,\)"),
        (np.zeros((0, 2), int), r"n > 0.*rows.shape=\(0, 2\)"),
        ([[0.0, 1.0]], "must be integers from 0 to 11.*float64"),
        ([[0, 12]], "integers from 0 to 11.* 0 to 12"),
        ([[-1, 0]], "integers from 0 to 11.*-1 to 0"),
        ([[0, 1, 2], [3, 4, 3]], r"negative must be neither.*rows\[1\]=\[3, 4, 3\]"),
        ([[0, 1, 1]], r"negative must be neither.*rows\[0\]=\[0, 1, 1\]"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_given_of_unfit_rows_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        data.Given(part_of(12), rows)
