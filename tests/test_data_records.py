"""TFRecord shards: written, stopped, resumed, damaged in every place, and read back by index or without one."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_contrastive import data
from keras_contrastive.data import records as records_module
from keras_contrastive.data.part import host_tensor
from tests.test_data_batches import read
from tests.test_data_folder import damaged_files, picture, save
from tests.test_data_part import numbered

NAMES = ["ant", "bee", "cow"]


def pictures(n, channels=3):
    images = np.stack([np.asarray(picture(16, 16, seed=k)) for k in range(n)])
    return images[..., :channels]


def part_of(n=20, channels=3):
    return data.Part(pictures(n, channels), np.arange(n) % 3, NAMES)


def written(folder, n=20, encoding="png", **options):
    """Shards of 7 records: the last one is shorter."""
    options = {"examples_per_shard": 7, "seed": 5, **options}
    data.write_records({"train": part_of(n)}, folder, encoding=encoding, **options)
    return folder


def without_index(folder):
    for file in [folder / "counts.json", *folder.glob("*.index.npz")]:
        file.unlink()


def shard_of(part, row):
    return Path(part.index.files[part.index.shard[row]])


def change(file, at, how=lambda byte: byte ^ 0xFF):
    content = bytearray(file.read_bytes())
    content[at] = how(content[at])
    file.write_bytes(content)


def cut(file, at):
    file.write_bytes(file.read_bytes()[:at])


def plain_examples(files):
    """What a reader that knows nothing of this package gets: it checks the checksums."""
    parsed = []
    for content in tf.data.TFRecordDataset([str(file) for file in files]):
        parsed.append(tf.train.Example.FromString(content.numpy()).features.feature)
    return parsed


def by_content(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("encoding", ["png", "jpeg", "raw"])
def test_records_hold_what_was_written(tmp_path, encoding, channels):
    original = part_of(20, channels)
    data.write_records({"train": original}, tmp_path, encoding=encoding, seed=1)
    part = data.RecordPart(tmp_path)
    assert (len(part), part.image_shape) == (20, (16, 16, channels))
    assert (part.class_names, part.skipped) == (NAMES, [])
    numbers = [
        f["number"].int64_list.value[0]
        for f in plain_examples(sorted(tmp_path.glob("*.tfrecord")))
    ]
    np.testing.assert_array_equal(part.labels, original.labels[numbers])
    # JPEG of quality 95 rounds and smoothes: some levels at the worst pixel.
    difference = np.abs(part.images.astype(int) - original.images[numbers])
    assert difference.max() <= (12 if encoding == "jpeg" else 0)
    assert difference.mean() < 2


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_load_of_records_gives_both_parts_from_disk(tmp_path, encoding):
    train, test = part_of(20).take(np.arange(15)), part_of(20).take(np.arange(15, 20))
    data.write_records({"train": train, "test": test}, tmp_path, encoding=encoding)
    source = data.load(f"tfrecords:{tmp_path}", cache="none")
    assert isinstance(source.train, data.RecordPart)
    assert source.train.class_names == source.test.class_names == NAMES
    for got, expected in [(source.train, train), (source.test, test)]:
        assert by_content(got.images, got.labels) == by_content(
            expected.images, expected.labels
        )
    small = data.load(f"tfrecords:{tmp_path}", cache="none", image_size=8).train
    order = data.RecordPart(tmp_path).images
    np.testing.assert_array_equal(small.images, data.resize(order, 8))


def test_load_of_records_holds_out_a_fifth_and_reads_a_single_shard(tmp_path):
    source = data.load(f"tfrecords:{written(tmp_path, 20)}", cache="none")
    assert (len(source.train), len(source.test)) == (16, 4)
    images, ids = read(data.batches(source.train, 4))
    order = source.train.images
    np.testing.assert_array_equal(images, order[ids])
    one = data.load(f"tfrecords:{tmp_path / 'train-00002-of-00003.tfrecord'}")
    assert len(one.train) + len(one.test) == 6
    assert one.train.image_shape == (16, 16, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_records_of_files_show_what_the_files_show(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        save(tmp_path / "a.png", picture(30, 20, seed=0)),
        save(tmp_path / "b.jpg", picture(20, 30, seed=1)),
        save(tmp_path / "c.webp", picture(24, 24, seed=2)),
        save(tmp_path / "d.jpg", picture(20, 30, seed=3), exif=exif),
        save(tmp_path / "e.jpg", picture(20, 30, seed=4), exif=b"Exif\0\0garbage"),
    ]
    part = data.FilePart(files, range(5), image_size=16)
    out = tmp_path / "out"
    data.write_records({"train": part}, out, encoding="files")
    got = data.RecordPart(out, image_size=16)
    np.testing.assert_array_equal(got.images, part.images[got.labels])
    assert data.RecordPart(out).image_shape == (96, 96, 3)
    stored = {
        f["label"].int64_list.value[0]: f["image"].bytes_list.value[0]
        for f in plain_examples(out.glob("*.tfrecord"))
    }
    for k in (0, 1, 4):
        assert stored[k] == files[k].read_bytes()
    for k in (2, 3):
        assert stored[k].startswith(b"\x89PNG")


def test_write_records_shuffles_by_its_seed(tmp_path):
    def order(seed, name):
        written(tmp_path / name, seed=seed)
        shards = sorted((tmp_path / name).glob("*.tfrecord"))
        return [f["number"].int64_list.value[0] for f in plain_examples(shards)]

    first, again, other = order(0, "a"), order(0, "b"), order(1, "c")
    assert first == again
    assert sorted(first) == list(range(20))
    for one, two in [(first, other), (first, list(range(20)))]:
        # Two random orders agree at one place on average (Poisson): 8 or more has probability 1e-5.
        assert sum(a == b for a, b in zip(one, two)) < 8


def test_written_shards_are_plain_tfrecords(tmp_path):
    original = part_of(20)
    examples = plain_examples(sorted(written(tmp_path).glob("*.tfrecord")))
    assert len(examples) == 20
    for features in examples:
        number = features["number"].int64_list.value[0]
        image = tf.io.decode_png(features["image"].bytes_list.value[0])
        np.testing.assert_array_equal(image, original.images[number])
        assert features["label"].int64_list.value[:] == [original.labels[number]]


def test_write_records_counts_and_sums_its_shards(tmp_path):
    counts = data.write_records(
        {"train": part_of(20), "test": part_of(5)}, tmp_path, examples_per_shard=7
    )
    assert counts == json.loads((tmp_path / "counts.json").read_text())
    expected = {"train-0000%d-of-00003": [7, 7, 6], "test-0000%d-of-00001": [5]}
    expected = {
        f"{name % k}.tfrecord": size
        for name, sizes in expected.items()
        for k, size in enumerate(sizes)
    }
    found = {name: shard["count"] for name, shard in counts["shards"].items()}
    assert found == expected
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    sums = dict(reversed(line.split("  ")) for line in lines)
    assert sums.keys() == expected.keys()
    for name, digest in sums.items():
        content = (tmp_path / name).read_bytes()
        assert digest == hashlib.sha256(content).hexdigest()
        assert counts["shards"][name]["sha256"] == digest


class Stopped(Exception):
    pass


def stop(name, done, total):
    raise Stopped


def test_write_records_that_was_stopped_goes_on_where_it_was(tmp_path):
    whole = written(tmp_path / "whole")
    with pytest.raises(Stopped):
        written(tmp_path / "cut", progress=stop)
    shards = list((tmp_path / "cut").glob("*.tfrecord"))
    assert [shard.name for shard in shards] == ["train-00000-of-00003.tfrecord"]
    before = shards[0].stat()
    seen = []
    written(tmp_path / "cut", progress=lambda *now: seen.append(now))
    assert seen == [("train", 14, 20), ("train", 20, 20)]
    after = shards[0].stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    names = {file.name for file in whole.iterdir()}
    assert {file.name for file in (tmp_path / "cut").iterdir()} == names
    for name in names:
        cut_one = (tmp_path / "cut" / name).read_bytes()
        assert cut_one == (whole / name).read_bytes(), name


def test_write_records_writes_a_missing_shard_again(tmp_path):
    written(tmp_path)
    lost = tmp_path / "train-00001-of-00003.tfrecord"
    others = [f for f in tmp_path.glob("*.tfrecord") if f != lost]
    content, dates = lost.read_bytes(), [f.stat().st_mtime_ns for f in others]
    lost.unlink()
    written(tmp_path)
    assert lost.read_bytes() == content
    assert [f.stat().st_mtime_ns for f in others] == dates


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoding": "raw"}, "was written with encoding='png', this is encoding='raw"),
        ({"examples_per_shard": 5}, "examples_per_shard=7, this is .*=5"),
        ({"seed": 6}, "with seed=5, this is seed=6"),
        ({"n": 19}, "with examples="),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_write_records_with_another_option_into_the_same_folder_is_refused(
    tmp_path, changed, message
):
    written(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message) as caught:
        written(tmp_path, **changed)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_write_records_into_a_folder_of_foreign_shards_is_refused(tmp_path):
    (tmp_path / "other.tfrecord").write_bytes(b"")
    with pytest.raises(ValueError, match=r"not written by this .*'other\.tfrecord'"):
        written(tmp_path)


def test_write_records_where_it_cannot_write_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"file' cannot be written: .+") as caught:
        written(tmp_path / "file")
    assert "\n" not in str(caught.value)

    def full(file):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.io, "TFRecordWriter", full)
    with pytest.raises(ValueError, match="disk' cannot be written: No space left"):
        written(tmp_path / "disk")


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ({}, {}, "`parts` must not be empty"),
        ({"train": part_of(3)}, {"encoding": "gif"}, "`encoding` must be one of"),
        ({"train": part_of(3)}, {"encoding": "files"}, "needs image files"),
        ({"train": part_of(3)}, {"examples_per_shard": 0}, "`examples_per_shard`"),
        ({"train": part_of(3)}, {"seed": -1}, "`seed`"),
        (
            {"train": part_of(3), "test": part_of(3, channels=1)},
            {},
            r"of one shape.*\(16, 16, 3\).*\(16, 16, 1\)",
        ),
        ({"train": data.Given(part_of(3), [[0, 1]])}, {}, "single images.*Given"),
        ({"train": part_of(3, channels=2)}, {}, '1 or 3 channels.*"raw"'),
    ],
    ids=lambda value: value[:16] if isinstance(value, str) else "",
)
def test_write_records_of_what_it_cannot_write_is_refused(
    tmp_path, parts, options, message
):
    with pytest.raises(ValueError, match=message):
        data.write_records(parts, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_write_records_takes_numpy_integers_and_images_of_two_channels(tmp_path):
    part = part_of(6, channels=2)
    counts = data.write_records(
        {"train": part},
        tmp_path,
        encoding="raw",
        seed=np.int64(0),
        examples_per_shard=np.int32(4),
    )
    assert counts["examples_per_shard"] == 4
    got = data.RecordPart(tmp_path)
    assert by_content(got.images, got.labels) == by_content(part.images, part.labels)


def test_write_records_of_damaged_files_leaves_them_out_and_counts_the_rest(tmp_path):
    reasons = damaged_files(tmp_path)
    del reasons["pipe.jpg"]  # `load` leaves pipes out before they get so far
    good = [save(tmp_path / f"good{k}.png", picture(seed=k)) for k in range(5)]
    part = data.FilePart([*(tmp_path / name for name in reasons), *good], image_size=24)
    out = tmp_path / "out"
    for encoding in ("png", "files"):
        counts = data.write_records({"train": part}, out / encoding, encoding=encoding)
        assert [shard["count"] for shard in counts["shards"].values()] == [5]
        got = data.RecordPart(out / encoding, image_size=24)
        assert {image.tobytes() for image in got.images} == {
            np.asarray(picture(seed=k)).tobytes() for k in range(5)
        }
        assert got.labels is None
    assert len(part.skipped) == len(reasons)


def test_write_records_of_damaged_files_alone_can_be_called_and_not_read(tmp_path):
    (tmp_path / "a.png").write_text("words")
    part = data.FilePart([tmp_path / "a.png"])
    counts = data.write_records({"train": part}, tmp_path / "out")
    assert [shard["count"] for shard in counts["shards"].values()] == [0]
    with pytest.raises(ValueError, match="hold no record that can be read"):
        data.RecordPart(tmp_path / "out")


@pytest.mark.parametrize("encoded", [False, True])
def test_write_records_of_a_stream_numbers_examples_by_their_place(tmp_path, encoded):
    images, lost = pictures(20), [4, 11] if encoded else []
    contents = [
        b"words" if k in lost else tf.io.encode_png(images[k]).numpy()
        for k in range(20)
    ]
    dataset = tf.data.Dataset.from_tensor_slices(
        (contents if encoded else images, np.arange(20) % 3)
    )
    dataset = dataset.filter(lambda image, label: True)  # of unknown length
    stream = data.Stream(dataset, image_size=16 if encoded else None)
    seen = []
    counts = data.write_records(
        {"train": stream},
        tmp_path,
        examples_per_shard=8,
        progress=lambda *now: seen.append(now),
    )
    assert seen == [("train", done, 20) for done in (8, 16, 20)]
    expected = [7, 7, 4] if encoded else [8, 8, 4]
    assert [shard["count"] for shard in counts["shards"].values()] == expected
    assert len(stream.skipped) == len(lost)
    numbers = []
    for features in plain_examples(sorted(tmp_path.glob("*.tfrecord"))):
        number = features["number"].int64_list.value[0]
        image = tf.io.decode_png(features["image"].bytes_list.value[0])
        np.testing.assert_array_equal(image, images[number])
        assert features["label"].int64_list.value[0] == number % 3
        numbers.append(number)
    assert sorted(numbers) == [k for k in range(20) if k not in lost]
    assert numbers != sorted(numbers)


def test_write_records_of_a_stream_that_was_stopped_goes_on_where_it_was(tmp_path):
    def write(name, **options):
        dataset = tf.data.Dataset.from_tensor_slices(pictures(20))
        parts = {"train": data.Stream(dataset)}
        data.write_records(parts, tmp_path / name, examples_per_shard=8, **options)

    write("whole")
    with pytest.raises(Stopped):
        write("cut", progress=stop)
    write("cut")
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / file.name).read_bytes() == file.read_bytes()


# Damage


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The examples in the order of their records, which is that of every encoding."""
    folder = written(tmp_path_factory.mktemp("clean"), encoding="raw")
    return data.RecordPart(folder).in_memory()


def assert_passes_are_sound(part, clean, lost):
    """Two passes without the lost rows: each image belongs to its id, and each label to its image."""
    order = clean.images
    labels = {image.tobytes(): label for image, label in zip(order, clean.labels)}
    assert len(labels) == len(order)
    ids_seen = set()
    dataset = data.batches(part, len(part) // 2)
    for images, ids in (read(dataset) for _ in range(2)):
        np.testing.assert_array_equal(images, order[ids])
        images, ids = np.concatenate(images), np.concatenate(ids)
        assert [labels[i.tobytes()] for i in images] == part.labels[ids].tolist()
        ids_seen |= set(ids.tolist())
    assert ids_seen == set(range(len(part))) - set(lost)


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_records_with_a_flipped_byte_are_replaced_by_their_class_and_listed(
    tmp_path, encoding, clean
):
    part = data.RecordPart(written(tmp_path / "torn", encoding=encoding))
    row = 9
    index = part.index
    change(shard_of(part, row), int(index.start[row] + index.length[row] // 2))
    name = f"{tmp_path}/torn/train-00001-of-00003.tfrecord, record 2"
    assert_passes_are_sound(part, clean, [row])
    assert part.skipped == [f"{name}: damaged: its checksum is another"]
    images, of = part.read(tf.constant([3, row], tf.int64))
    assert (int(of[0]), int(of[1]) != row) == (3, True)
    assert part.labels[int(of[1])] == part.labels[row]
    np.testing.assert_array_equal(images[1], clean.images[int(of[1])])

    with pytest.warns(UserWarning, match="1 files could not be read"):
        source = data.load(f"tfrecords:{tmp_path / 'torn'}", cache="memory")
    assert len(source.train) + len(source.test) == 19
    with pytest.raises(ValueError, match=re.escape(name) + ".*on_damage"):
        data.load(f"tfrecords:{tmp_path / 'torn'}", cache="memory", on_damage="stop")
    stopping = data.RecordPart(tmp_path / "torn", on_damage="stop")
    with pytest.raises(tf.errors.OpError, match=re.escape(name)):
        list(data.batches(stopping, 20))


def test_records_in_a_shard_that_is_cut_short_are_left_out_when_it_is_loaded(
    tmp_path, clean
):
    part = data.RecordPart(written(tmp_path / "torn"))
    cut(shard_of(part, 10), int(part.index.start[10]) + 20)
    name = f"{tmp_path}/torn/train-00001-of-00003.tfrecord, record 3"
    part = data.RecordPart(tmp_path / "torn")
    assert part.skipped == [f"{name}: the file is cut short, 4 records are lost"]
    kept = np.r_[:10, 14:20]
    assert_passes_are_sound(part, clean.take(kept), [])
    with pytest.warns(UserWarning, match="record 3: the file is cut short"):
        source = data.load(f"tfrecords:{tmp_path / 'torn'}", cache="none")
    assert len(source.train) + len(source.test) == 16
    with pytest.raises(ValueError, match=re.escape(name) + ".*on_damage"):
        data.load(f"tfrecords:{tmp_path / 'torn'}", on_damage="stop")


def test_records_cut_short_after_loading_are_replaced(tmp_path, clean):
    part = data.RecordPart(written(tmp_path / "torn"))
    cut(shard_of(part, 12), int(part.index.start[12]) + 20)
    assert_passes_are_sound(part, clean, [12, 13])
    lines = sorted(part.skipped)
    assert len(lines) == 2
    assert re.search(r"record 5: the file is cut short: 20 of \d+ bytes", lines[0])
    assert "record 6: the file is cut short: 0 of" in lines[1]


def test_records_of_a_missing_shard_are_listed(tmp_path):
    lost = written(tmp_path) / "train-00001-of-00003.tfrecord"
    lost.unlink()
    part = data.RecordPart(tmp_path)
    assert len(part) == 13
    assert part.skipped == [f"{lost}, record 0: no such file, 7 records are lost"]
    with pytest.raises(ValueError, match="record 0: no such file"):
        data.RecordPart(tmp_path, on_damage="stop")


def damage(how, part, row):
    """Damage a record's content, its length, or the end of its file."""
    file, start = shard_of(part, row), int(part.index.start[row])
    if how == "content":
        change(file, start + int(part.index.length[row]) // 2)
    elif how == "length":
        change(file, start - records_module.HEADER)
    elif how == "cut in the content":
        cut(file, start + 20)
    elif how == "cut in the header":
        cut(file, start - 5)
    elif how == "cut in the footer":
        cut(file, start + int(part.index.length[row]) + 1)


@pytest.mark.parametrize(
    ("how", "reason", "lost"),
    [
        ("content", "damaged: its checksum is another", [9]),
        ("length", "damaged, and with it all that follow", range(9, 14)),
        ("cut in the content", "the file is cut short", range(9, 14)),
        ("cut in the header", "the file is cut short", range(9, 14)),
        ("cut in the footer", "the file is cut short", range(9, 14)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_records_without_index_are_read_around_damage(
    tmp_path, how, reason, lost, clean
):
    torn = data.RecordPart(written(tmp_path / "torn"))
    without_index(tmp_path / "torn")
    damage(how, torn, 9)
    part = data.RecordPart(tmp_path / "torn", image_size=16)
    name = f"{tmp_path}/torn/train-00001-of-00003.tfrecord, record 2"
    assert len(part.skipped) == 1
    assert part.skipped[0].startswith(f"{name}: {reason}")
    kept = np.delete(np.arange(20), lost)
    np.testing.assert_array_equal(part.labels, clean.labels[kept])
    for key in records_module.ARRAYS:
        np.testing.assert_array_equal(
            getattr(part.index, key), getattr(torn.index, key)[kept]
        )
    np.testing.assert_array_equal(part.images, clean.images[kept])
    with pytest.raises(ValueError, match=re.escape(f"{name}: {reason}")):
        data.RecordPart(tmp_path / "torn", on_damage="stop")


def test_records_without_index_equal_those_with_one(tmp_path):
    clean = data.RecordPart(written(tmp_path))
    without_index(tmp_path)
    part = data.RecordPart(tmp_path, image_size=16)
    assert part.class_names is None
    for name in records_module.ARRAYS:
        np.testing.assert_array_equal(
            getattr(part.index, name), getattr(clean.index, name)
        )
    np.testing.assert_array_equal(part.images, clean.images)
    assert data.RecordPart(tmp_path).image_shape == (96, 96, 3)


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_records_whose_index_alone_is_missing_keep_their_form(tmp_path, encoding):
    clean = data.RecordPart(written(tmp_path, encoding=encoding))
    (tmp_path / "train.index.npz").unlink()
    part = data.RecordPart(tmp_path)
    assert (part.class_names, part.image_shape) == (NAMES, (16, 16, 3))
    np.testing.assert_array_equal(part.images, clean.images)


def test_compressed_shards_are_refused_with_the_reason(tmp_path):
    written(tmp_path)
    without_index(tmp_path)
    for file in list(tmp_path.glob("*.tfrecord")):
        Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    with pytest.raises(
        ValueError, match=r"tfrecord\.gz, record 0: a compressed file; unpack it first"
    ) as caught:
        data.load(f"tfrecords:{tmp_path}")
    assert "\n" not in str(caught.value)


def write_foreign(file, records):
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            feature = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
                if isinstance(value[0], bytes)
                else tf.train.Feature(int64_list=tf.train.Int64List(value=value))
                for key, value in record.items()
            }
            features = tf.train.Features(feature=feature)
            writer.write(tf.train.Example(features=features).SerializeToString())


def foreign(k, **other):
    image = tf.io.encode_png(np.asarray(picture(16, 16, seed=k))).numpy()
    return {"image/encoded": [image], "image/class/label": [k % 2], **other}


def test_load_of_foreign_records_knows_the_usual_names_of_features(tmp_path):
    for name, numbers in {"train": range(8), "test": range(8, 12)}.items():
        file = tmp_path / f"{name}-00000-of-00001"
        write_foreign(f"{file}.tfrecord", [foreign(k) for k in numbers])
    source = data.load(f"tfrecords:{tmp_path}", image_size=16, cache="none")
    np.testing.assert_array_equal(source.train.images, pictures(8))
    np.testing.assert_array_equal(source.test.images, pictures(12)[8:])
    np.testing.assert_array_equal(source.train.labels, [0, 1] * 4)
    images, ids = read(data.batches(source.train, 4))
    np.testing.assert_array_equal(images, pictures(8)[ids])


@pytest.mark.parametrize(
    "strange",
    [
        {"image/encoded": [b"one", b"two"], "image/class/label": [0]},
        {"image/encoded": [7], "image/class/label": [0]},
        {"image/class/label": [0]},
    ],
    ids=["two images", "a number", "no image"],
)
def test_foreign_records_that_are_no_image_are_left_out_and_listed(tmp_path, strange):
    records = [foreign(0), strange, foreign(2), foreign(3)]
    write_foreign(tmp_path / "train.tfrecord", records)
    part = data.RecordPart(tmp_path, image_size=16)
    assert len(part.skipped) == 1
    assert re.match(
        rf"{tmp_path}/train.tfrecord, record 1: not a record of an image",
        part.skipped[0],
    )
    images, ids = read(data.batches(part, 3))
    np.testing.assert_array_equal(images, pictures(4)[[0, 2, 3]][ids])


def test_foreign_records_whose_image_is_damaged_are_replaced(tmp_path):
    records = [foreign(k) for k in range(6)]
    records[0]["image/encoded"] = [records[0]["image/encoded"][0][:100]]
    records[4]["image/encoded"] = [b"words"]
    write_foreign(tmp_path / "train.tfrecord", records)
    part = data.RecordPart(tmp_path, image_size=16)
    images, ids = read(data.batches(part, len(part), by="label"))
    found = {image.tobytes(): k for k, image in enumerate(pictures(6))}
    assert [found[i.tobytes()] % 2 for i in images[0]] == ids[0].tolist()
    assert {found[i.tobytes()] for i in images[0]} <= {1, 2, 3, 5}
    lines = sorted(part.skipped)
    assert len(lines) == 2
    assert re.search("record 0: .*damaged image data", lines[0])
    assert re.search("record 4: not an image in one of the formats", lines[1])


def test_records_without_images_are_refused_with_their_features(tmp_path):
    write_foreign(tmp_path / "train.tfrecord", [{"sound": [b"a"], "length": [3]}])
    with pytest.raises(ValueError, match=r"hold no images\..*it has length, sound"):
        data.RecordPart(tmp_path)


def test_load_of_records_that_are_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no folder or file '.*nowhere'"):
        data.load(f"tfrecords:{tmp_path / 'nowhere'}")
    os.mkfifo(tmp_path / "train.tfrecord")  # a pipe would be waited for without end
    with pytest.raises(ValueError, match=r"must hold TFRecord shards"):
        data.load(f"tfrecords:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("counts.json", "{", "counts.json' cannot be read: .+"),
        ("train.index.npz", "words", "index.npz' cannot be read: .* delete it"),
    ],
    ids=["counts", "index"],
)
def test_records_with_a_damaged_file_beside_them_are_refused(
    tmp_path, name, content, message
):
    (written(tmp_path) / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.RecordPart(tmp_path)
    assert "\n" not in str(caught.value)
    if name == "counts.json":
        with pytest.raises(ValueError, match=message):
            written(tmp_path)


def test_records_beside_a_counts_file_of_somebody_else_are_read(tmp_path):
    write_foreign(tmp_path / "train.tfrecord", [foreign(k) for k in range(4)])
    (tmp_path / "counts.json").write_text('["cats", "dogs"]')
    part = data.RecordPart(tmp_path, image_size=16)
    np.testing.assert_array_equal(part.images, pictures(4))


def test_masked_checksum_equals_the_published_one():
    # RFC 3720, B.4: CRC-32C of 32 bytes of zeros is 8A9136AA, of 32 bytes of ones 62A8AB43.
    for content, crc in [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]:
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        assert records_module._masked_crc32c(content) == masked.to_bytes(4, "little")


def test_record_part_taken_apart_keeps_its_records(tmp_path):
    part = data.RecordPart(written(tmp_path))
    rows = np.array([17, 2, 8])
    taken = part.take(rows)
    np.testing.assert_array_equal(taken.images, part.images[rows])
    np.testing.assert_array_equal(taken.labels, part.labels[rows])
    assert taken.fingerprint != part.fingerprint
    assert taken.fingerprint == data.RecordPart(tmp_path).take(rows).fingerprint
    images, of = part.read(host_tensor(np.array([[1, 2], [3, 1]])))
    np.testing.assert_array_equal(images, part.images[np.array([[1, 2], [3, 1]])])
    np.testing.assert_array_equal(of, [[1, 2], [3, 1]])


def test_more_shards_than_may_be_open_are_all_read(tmp_path):
    part = data.Part(numbered(300, size=4))
    data.write_records({"train": part}, tmp_path, encoding="raw", examples_per_shard=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 120, hard))
    try:
        records = data.RecordPart(tmp_path)
        _, ids = read(data.batches(records, 50))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(np.sort(ids.ravel()), np.arange(300))
    assert records.skipped == []


@pytest.mark.parametrize(
    "form",
    ["{}-00000-of-00001.tfrecord", "x-{}.tfrecord-00000-of-00001", "{}-00000-of-00001"],
)
@pytest.mark.parametrize("test", ["test", "validation"])
def test_shards_by_the_names_of_others_are_split_as_they_say(tmp_path, form, test):
    for name, count in (("train", 6), (test, 3)):
        folder = tmp_path / f"made-{name}"
        parts = {"train": data.Part(numbered(count, size=4))}
        data.write_records(parts, folder)
        (made,) = folder.glob("*.tfrecord")
        (tmp_path / "all").mkdir(exist_ok=True)
        made.rename(tmp_path / "all" / form.format(name))
    source = data.load(f"tfrecords:{tmp_path / 'all'}", image_size=4)
    assert (len(source.train), len(source.test)) == (6, 3)


def test_shards_written_again_after_they_were_emptied_are_not_taken_for_whole(tmp_path):
    part = data.Part(numbered(20, size=4))
    data.write_records({"train": part}, tmp_path, examples_per_shard=5)
    shard = sorted(tmp_path.glob("*.tfrecord"))[1]
    shard.write_bytes(b"")
    with pytest.raises(ValueError, match=r"00001-of-00004.* 0 of its 5 records"):
        data.write_records({"train": part}, tmp_path, examples_per_shard=5)
