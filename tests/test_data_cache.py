"""The disk cache: decoded once, for these files as they are, by one process, and gone on with after a stop."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from keras_contrastive import data
from keras_contrastive.data import cache as cache_module
from keras_contrastive.data import files as files_module
from keras_contrastive.data import source as source_module
from keras_contrastive.data.cache import read_through_disk
from keras_contrastive.data.decoder import Decoder
from tests.test_data_batches import assert_equal_passes, read
from tests.test_data_folder import picture, save

pytestmark = pytest.mark.filterwarnings("ignore:.* files could not be read")


@pytest.fixture
def folder(tmp_path):
    """Twelve files of two classes, two of them damaged."""
    for k in range(12):
        save(
            tmp_path / "images" / "ab"[k % 2] / f"{k:02d}.png", picture(16, 16, seed=k)
        )
    for name in ("a/04", "b/07"):
        (tmp_path / "images" / f"{name}.png").write_text("words")
    return tmp_path / "images"


def load(folder, cache="disk", **options):
    options = {"image_size": 16, "cache_dir": folder.parent / "cache", **options}
    return data.load(f"folder:{folder}", cache=cache, **options)


def caches(folder):
    return sorted(file.name for file in (folder.parent / "cache").glob("*.u8"))


def assert_equal_sources(got, expected):
    assert sorted(got.skipped) == sorted(expected.skipped)
    for one, other in [(got.train, expected.train), (got.test, expected.test)]:
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert (one.class_names, one.image_shape) == (
            other.class_names,
            other.image_shape,
        )


def test_load_through_the_disk_equals_load_into_memory(folder):
    on_disk, in_memory = load(folder), load(folder, "memory")
    assert isinstance(in_memory.train, data.Part)
    assert isinstance(on_disk.train, cache_module.MappedPart)
    assert len(on_disk.train) + len(on_disk.test) == 10
    assert_equal_sources(on_disk, in_memory)
    for make in (data.batches, data.triplets):
        got, expected = (
            read(make(source.train, 4, seed=1, by="label", epoch=2))
            for source in (on_disk, in_memory)
        )
        assert_equal_passes(got, expected)


def test_load_of_pairs_through_the_disk_equals_load_into_memory(folder):
    pairs = [(0, 2), (1, 3), (4, 6), (8, 10), (5, 9), (11, 1)]
    names = [f"{'ab'[k % 2]}/{k:02d}.png" for k in range(12)]
    rows = [f"{names[a]},{names[b]}\n" for a, b in pairs]
    (folder / "pairs.csv").write_text("".join(rows))
    on_disk, in_memory = (
        data.load(
            f"csv:{folder / 'pairs.csv'}",
            image_size=16,
            cache=cache,
            cache_dir=folder.parent / "cache",
        )
        for cache in ("disk", "memory")
    )
    assert len(on_disk.train) + len(on_disk.test) == 5
    np.testing.assert_array_equal(on_disk.train.images, in_memory.train.images)
    assert_equal_passes(
        read(data.batches(on_disk.train, 2)), read(data.batches(in_memory.train, 2))
    )


def test_load_of_records_through_the_disk_decodes_a_repaired_shard_again(tmp_path):
    images = np.stack([np.asarray(picture(16, 16, seed=k)) for k in range(8)])
    shards = tmp_path / "shards"
    data.write_records({"train": data.Part(images)}, shards)
    part = data.RecordPart(shards)
    file, content = next(shards.glob("*.tfrecord")), bytearray()
    content[:] = sound = file.read_bytes()
    content[int(part.index.start[3] + part.index.length[3] // 2)] ^= 255
    for state, lost in [(bytes(content), 1), (sound, 0)]:
        file.write_bytes(state)
        source = data.load(
            f"tfrecords:{shards}", cache="disk", cache_dir=tmp_path / "cache"
        )
        assert len(source.skipped) == lost
        assert len(source.train) + len(source.test) == 8 - lost


def test_second_load_decodes_nothing_and_lists_the_same(folder, monkeypatch):
    first = load(folder)
    assert len(first.skipped) == 2

    def fail(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(Decoder, "attempt", fail)
    monkeypatch.setattr(files_module, "read_image", fail)
    assert_equal_sources(load(folder), first)
    with pytest.raises(AssertionError, match="decoded again"):
        load(folder, image_size=17)


def test_changed_files_and_options_make_another_cache(folder):
    load(folder)
    load(folder, seed=4)
    assert len(caches(folder)) == 1
    load(folder, image_size=8)
    assert len(caches(folder)) == 2
    file = folder / "a" / "00.png"
    before = file.stat()
    save(file, picture(16, 16, seed=99))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    source = load(folder)
    assert len(caches(folder)) == 3
    together = np.concatenate([source.train.images, source.test.images])
    assert np.asarray(picture(16, 16, seed=99)).tobytes() in {
        image.tobytes() for image in together
    }
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 2 * 10**9))
    load(folder)
    assert len(caches(folder)) == 4


def test_cache_of_a_lower_limit_of_pixels_is_another(folder):
    save(folder / "a" / "large.png", picture(40, 40, seed=20))
    limited = load(folder, max_pixels=1000)
    assert any("above the limit of 1000" in line for line in limited.skipped)
    assert len(load(folder).skipped) == len(limited.skipped) - 1


def test_load_of_cached_damage_stops_where_it_must(folder):
    with pytest.raises(ValueError, match=r"04\.png: not an image.*on_damage"):
        load(folder, on_damage="stop")
    load(folder)
    with pytest.raises(ValueError, match=r"04\.png: not an image.*on_damage"):
        load(folder, on_damage="stop")


class Stopped(Exception):
    pass


def many_files(tmp_path, n=600):
    """More than two of the pieces in which they are decoded; two damaged, in different pieces."""
    save(tmp_path / "many" / "0000.png", picture(8, 8))
    content = (tmp_path / "many" / "0000.png").read_bytes()
    paths = [tmp_path / "many" / f"{k:04d}.png" for k in range(n)]
    for k, path in enumerate(paths):
        path.write_bytes(b"words" if k in (100, 300) else content)
    return lambda: data.FilePart(paths, np.arange(n) % 3, image_size=8)


def test_decoding_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    make = many_files(tmp_path)
    whole, kept = read_through_disk(make(), tmp_path / "whole")
    monkeypatch.setattr(files_module, "PROGRESS_SECONDS", -1.0)
    write, states = cache_module._write, []

    def write_twice_and_stop(path, content):
        write(path, content)
        states.append(content)
        if len(states) == 2:
            raise Stopped

    monkeypatch.setattr(cache_module, "_write", write_twice_and_stop)
    with pytest.raises(Stopped):
        read_through_disk(make(), tmp_path / "cut")
    assert [state["next"] for state in states] == [256, 512]
    assert [state["unreadable"] for state in states] == [[100], [100, 300]]
    assert not list((tmp_path / "cut").glob("*.u8"))

    monkeypatch.setattr(cache_module, "_write", write)
    decoded = []
    part = make()
    attempt = part.attempt
    # Traced once, so the rows are seen where they are fetched.
    monkeypatch.setattr(
        files_module.tf,
        "function",
        lambda function, **_: lambda rows: decoded.extend(rows) or attempt(rows),
    )
    resumed, rows = read_through_disk(part, tmp_path / "cut")
    assert sorted(decoded) == list(range(512, 600))
    np.testing.assert_array_equal(rows, kept)
    assert kept.tolist() == [k for k in range(600) if k not in (100, 300)]
    np.testing.assert_array_equal(resumed.images, whole.images)
    np.testing.assert_array_equal(resumed.labels, whole.labels)
    assert sorted(resumed.skipped) == sorted(whole.skipped)
    assert len(resumed.skipped) == 2
    names = {file.suffix for file in (tmp_path / "cut").iterdir()}
    assert names == {".u8", ".json", ".lock"}


def test_of_two_loads_at_once_one_decodes_and_the_other_waits(folder, monkeypatch):
    decoding, go_on, calls, got = threading.Event(), threading.Event(), [], []
    decode_all = cache_module.decode_all

    def slow(*args):
        calls.append(args)
        decoding.set()
        assert go_on.wait(20)
        return decode_all(*args)

    monkeypatch.setattr(cache_module, "decode_all", slow)
    threads = [
        threading.Thread(target=lambda: got.append(load(folder))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    assert decoding.wait(20)
    threads[0].join(0.5)
    threads[1].join(0.5)
    assert (len(calls), got) == (1, [])
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(calls) == 1
    assert len(got) == 2
    assert_equal_sources(*got)


def test_load_with_a_cache_that_cannot_be_written_is_refused(folder, monkeypatch):
    (folder.parent / "file").write_text("no folder")
    for place in ("file", "file/below"):
        with pytest.raises(
            ValueError, match=rf"The cache '.*{place}' cannot be written: .+\. Name"
        ) as caught:
            load(folder, cache_dir=folder.parent / place)
        assert "\n" not in str(caught.value)
    usage = type("Usage", (), {"free": 12 * 16 * 16 * 3 - 1})
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"cannot be written: it needs 0\.0 GB"):
        load(folder)


def test_load_through_the_disk_of_which_nothing_is_readable_is_refused(tmp_path):
    for k in range(3):
        save(tmp_path / "images" / f"{k}.png").write_text("words")
    for _ in range(2):  # decoded, and found
        with pytest.raises(ValueError, match="Found 3 files, none of which can be"):
            load(tmp_path / "images")


def test_cache_is_below_the_folder_that_the_environment_names(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "home"))
    load(folder, cache_dir=None)
    assert len(list((folder.parent / "home" / "keras_contrastive").glob("*.u8"))) == 1


def memory_of(monkeypatch, size):
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": size}
    monkeypatch.setattr(source_module.os, "sysconf", pages.__getitem__)


def test_load_into_less_memory_than_it_needs_is_refused(folder, monkeypatch):
    needed = 12 * 16 * 16 * 3
    memory_of(monkeypatch, needed)
    with pytest.raises(
        ValueError, match=r'12 images of \(16, 16, 3\) .*too much for `cache="memory"`'
    ) as caught:
        load(folder, "memory")
    assert "\n" not in str(caught.value)
    memory_of(monkeypatch, 2 * needed)
    assert isinstance(load(folder, "memory").train, data.Part)


def test_auto_cache_is_memory_up_to_its_limits_and_none_beyond(folder, monkeypatch):
    def kind():
        return type(load(folder, "auto").train)

    monkeypatch.setattr(source_module, "AUTO_IMAGES", 12)
    assert kind() is data.Part
    monkeypatch.setattr(source_module, "AUTO_IMAGES", 11)
    assert kind() is data.FilePart
    monkeypatch.setattr(source_module, "AUTO_IMAGES", 12)
    memory_of(monkeypatch, 4 * 12 * 16 * 16 * 3)
    assert kind() is data.Part
    memory_of(monkeypatch, 4 * 12 * 16 * 16 * 3 - 1)
    assert kind() is data.FilePart
    assert caches(folder) == []


def test_mapped_part_taken_apart_keeps_its_images(folder):
    part = load(folder).train
    rows = np.array([5, 0, 3])
    taken = part.take(rows)
    np.testing.assert_array_equal(taken.images, part.images[rows])
    np.testing.assert_array_equal(taken.labels, part.labels[rows])
    assert taken.fingerprint != part.fingerprint
    assert taken.fingerprint == load(folder).train.take(rows).fingerprint
