"""Files decoded when they are asked for: the same pixels as decoded at once, and no damage that stops or mislabels."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_contrastive as kc
from keras_contrastive import data
from keras_contrastive.data.decoder import read_image
from keras_contrastive.data.images import resize
from tests.test_data_batches import read
from tests.test_data_folder import (
    MATRIX,
    damaged_files,
    picture,
    png_of_size,
    save,
    sixteen_bit,
)

SIZE = 16


def number_image(number, size=SIZE):
    """An image that carries its number in its colour, and survives JPEG."""
    image = np.zeros((size, size, 3), np.uint8)
    image[...] = [number // 8 * 8, number % 8 * 32, 128]
    return Image.fromarray(image)


def number_of(images):
    """The numbers of `number_image`s, (..., h, w, 3)."""
    red, green, _ = np.moveaxis(np.asarray(images)[..., 4, 4, :].astype(float), -1, 0)
    return (8 * np.rint(red / 8) + np.rint(green / 32)).astype(int)


def numbered_files(folder, count, suffix="png"):
    return [save(folder / f"{k:03d}.{suffix}", number_image(k)) for k in range(count)]


def test_files_read_in_batches_are_those_decoded_at_once(tmp_path):
    for k, (name, (file, make, options)) in enumerate(MATRIX.items()):
        save(tmp_path / f"{k:02d}-{name}-{file}", make(), **options)
    for k in range(20):
        save(tmp_path / f"x{k}.jpg", picture(20 + k, 40 - k, seed=k))
    at_once = data.load(f"folder:{tmp_path}", image_size=SIZE, cache="memory")
    whole = np.concatenate([at_once.train.images, at_once.test.images])
    part = data.FilePart(sorted(tmp_path.iterdir()), image_size=SIZE)
    for _ in range(2):  # before and after it is known that images have to be resized
        images, ids = read(data.batches(part, 6))
        for image, row in zip(images.reshape(-1, SIZE, SIZE, 3), ids.ravel()):
            alone = resize(read_image(part.name_of(row)), SIZE)
            np.testing.assert_array_equal(image, alone)
    assert {i.tobytes() for i in part.images} == {i.tobytes() for i in whole}
    assert part.skipped == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photographs_come_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    paths = [
        save(tmp_path / f"a.{suffix}", picture(), exif=exif)
        for suffix in ("jpg", "png")
    ]
    part = data.FilePart(paths, image_size=24)
    expected = [read_image(str(path)) for path in paths]
    np.testing.assert_array_equal(part.images, expected)


def test_names_with_spaces_and_in_any_encoding_are_read(tmp_path):
    names = [b"two words.png", "ünïcode 図.png".encode(), b"not\xff utf8.png"]
    for k, name in enumerate(names):
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, "wb") as file:
            number_image(k).save(file, "png")
    source = data.load(f"folder:{tmp_path}", image_size=SIZE, cache="none")
    found = number_of([*source.train.images, *source.test.images])
    assert sorted(found) == [0, 1, 2]


def test_damaged_files_are_replaced_with_their_ids_and_listed_once(tmp_path):
    reasons = damaged_files(tmp_path / "a")
    numbered_files(tmp_path / "a", 20)
    with pytest.warns(UserWarning, match="2 files could not be read"):  # no files
        source = data.load(f"folder:{tmp_path}", image_size=SIZE, cache="none")
    names = [
        os.path.basename(source.train.name_of(row)) for row in range(len(source.train))
    ]
    dataset = data.batches(source.train, 5)
    for _ in range(2):
        images, ids = read(dataset)
        wanted = [int(names[row].removesuffix(".png")) for row in ids.ravel()]
        np.testing.assert_array_equal(number_of(images).ravel(), wanted)
    read(data.batches(source.test, 1))
    assert len(source.skipped) == len(set(source.skipped)) == len(reasons)
    for line in source.skipped:
        assert os.path.basename(line.partition(": ")[0]) in reasons


def test_a_replacement_is_of_the_same_class_and_never_beside_itself(tmp_path):
    paths = numbered_files(tmp_path, 24)
    for k in (1, 2, 9, 17):
        paths[k].write_bytes(b"damaged")
    labels = np.arange(24) // 8
    part = data.FilePart(paths, labels, image_size=SIZE)
    for epoch in range(3):
        images, ids = read(data.triplets(part, 8, by="label", epoch=epoch))
        rows = number_of(images).reshape(-1, 3)
        np.testing.assert_array_equal(labels[rows], ids.reshape(-1, 3))
        assert np.all(labels[rows[:, 0]] == labels[rows[:, 1]])
        assert np.all(labels[rows[:, 0]] != labels[rows[:, 2]])
        assert np.all(rows[:, 0] != rows[:, 1])
        images, ids = read(data.triplets(part, 8, epoch=epoch))
        rows = number_of(images).reshape(-1, 3)
        np.testing.assert_array_equal(rows, ids.reshape(-1, 3))
        assert np.all(rows[:, 0] == rows[:, 1])
        assert np.all(rows[:, 0] != rows[:, 2])
        images, ids = read(data.class_balanced(part, 3, 2, epoch=epoch))
        np.testing.assert_array_equal(labels[number_of(images)], ids)
        assert all(np.all(np.bincount(batch) == 2) for batch in ids)


def test_a_triplet_for_which_there_is_no_replacement_gives_way_to_another(tmp_path):
    paths = numbered_files(tmp_path, 15)
    labels = np.array([0] * 6 + [1] * 6 + [2, 2, 3])
    for k in (13, 14):  # one of two of a class, and one alone in its class
        paths[k].write_bytes(b"damaged")
    part = data.FilePart(paths, labels, image_size=SIZE)
    for epoch in range(12):
        images, ids = read(data.triplets(part, 14, by="label", epoch=epoch))
        rows = number_of(images).reshape(-1, 3)
        np.testing.assert_array_equal(labels[rows], ids.reshape(-1, 3))
        assert np.all(labels[rows[:, 0]] == labels[rows[:, 1]])
        assert np.all(labels[rows[:, 0]] != labels[rows[:, 2]])
        assert np.all(rows[:, 0] != rows[:, 1])
    for path in paths[:13]:
        path.write_bytes(b"damaged")
    with pytest.raises(
        tf.errors.OpError,
        match=r"No pair or triplet of a batch of 14 could be read: .*\.png: ",
    ):
        read(data.triplets(part, 14, by="label"))


def test_a_resumed_run_sees_the_same_replacements(tmp_path):
    paths = numbered_files(tmp_path, 30)
    for k in range(0, 30, 4):
        paths[k].write_bytes(b"damaged")

    def make(**at):
        return data.batches(data.FilePart(paths, image_size=SIZE), 7, **at)

    dataset = make()
    read(dataset)
    images, ids = read(dataset)
    rest, rest_ids = read(make(epoch=1, step=2))
    np.testing.assert_array_equal(rest, images[2:])
    np.testing.assert_array_equal(rest_ids, ids[2:])


def test_starting_at_a_step_decodes_nothing_of_what_is_passed_over(tmp_path):
    paths = numbered_files(tmp_path, 40)
    expected = read(data.batches(data.FilePart(paths, image_size=SIZE), 8))[1]
    part = data.FilePart(paths, image_size=SIZE)
    for row in expected[:3].ravel():
        paths[row].unlink()  # were it read, it would be listed
    _, ids = read(data.batches(part, 8, step=3).take(2))
    np.testing.assert_array_equal(ids, expected[3:])
    assert part.skipped == []


def test_files_deleted_or_locked_after_listing_are_left_out(tmp_path, monkeypatch):
    paths = numbered_files(tmp_path, 20)
    part = data.FilePart(paths, image_size=SIZE)
    paths[3].unlink()
    paths[4].chmod(0)
    if os.access(paths[4], os.R_OK):  # root reads everything
        paths[4].unlink()
        paths[4].mkdir()
    images, ids = read(data.batches(part, 20))
    np.testing.assert_array_equal(number_of(images), ids)
    assert not {3, 4} & set(ids.ravel().tolist())
    assert {line.partition(": ")[0] for line in part.skipped} == {
        str(paths[3]),
        str(paths[4]),
    }


def test_an_image_larger_than_the_limit_is_not_decoded(tmp_path):
    paths = numbered_files(tmp_path, 4)
    paths[1].write_bytes(png_of_size(30_000, 30_000))
    save(tmp_path / "large.jpg", picture(40, 50))
    part = data.FilePart([*paths, tmp_path / "large.jpg"], image_size=SIZE)
    read(data.batches(part, 5))
    assert part.skipped == [
        f"{paths[1]}: 30000 x 30000 pixels, above the limit of 100000000"
    ]
    part = data.FilePart(
        [*paths, tmp_path / "large.jpg"], image_size=SIZE, max_pixels=1999
    )
    read(data.batches(part, 5))
    assert (
        f"{tmp_path / 'large.jpg'}: 50 x 40 pixels, above the limit of 1999"
        in part.skipped
    )


def test_damage_that_is_to_stop_names_the_file(tmp_path):
    paths = numbered_files(tmp_path, 8)
    content = paths[5].read_bytes()
    paths[5].write_bytes(content[: len(content) * 3 // 4])
    part = data.FilePart(paths, image_size=SIZE, on_damage="stop")
    with pytest.raises(tf.errors.OpError, match=r"005\.png: damaged.*is left out"):
        read(data.batches(part, 8))
    with pytest.raises(ValueError, match=r"005\.png: .*is left out"):
        data.load(f"folder:{tmp_path}", on_damage="stop")


def test_a_folder_of_nothing_readable_ends_in_an_error(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.jpg").write_text("words")
    part = data.FilePart(sorted(tmp_path.iterdir()), image_size=SIZE)
    with pytest.raises(tf.errors.OpError, match="nor any of up to 1000"):
        read(data.batches(part, 2))


def test_one_class_and_labels_of_one_example_are_told_apart(tmp_path):
    numbered_files(tmp_path / "only", 6)
    source = data.load(f"folder:{tmp_path}", image_size=SIZE, cache="none")
    read(data.pairs(source.train, 2, by="label"))
    with pytest.raises(ValueError, match=r"needs two classes.*Found 1: only"):
        data.triplets(source.train, 2, by="label")
    save(tmp_path / "lonely" / "a.png", number_image(9))
    part = data.load(f"folder:{tmp_path}", image_size=SIZE, cache="none").train
    _, ids = read(data.triplets(part, 2, by="label"))
    assert set(ids[..., 0].ravel()) == {1} and set(ids[..., 2].ravel()) == {0}


def damage(content: bytes, rng) -> bytes:
    """A file as disks, transfers and people spoil it."""
    kind = rng.integers(6)
    if kind == 0:
        return content[: rng.integers(len(content))]
    if kind == 1:
        return b""
    if kind == 2:
        return rng.bytes(int(rng.integers(1, 400)))
    if kind == 3:
        return b"<html>404 Not Found</html>"
    spoiled = bytearray(content)
    at = rng.integers(len(spoiled), size=rng.integers(1, 20))
    for place in at:
        spoiled[place] = rng.integers(256)
    if kind == 5:  # in the header, where sizes are
        spoiled[rng.integers(min(200, len(spoiled)))] ^= 0xFF
    return bytes(spoiled)


def encoded(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_training_goes_through_500_damaged_files(tmp_path, cache):
    rng = np.random.default_rng(0)
    forms = [("jpg", "JPEG", {}), ("jpg", "JPEG", {"progressive": True})]
    forms += [
        ("png", "PNG", {}),
        ("gif", "GIF", {}),
        ("webp", "WEBP", {}),
        ("bmp", "BMP", {}),
    ]
    sources = [picture(seed=k) for k in range(8)]
    sources.append(picture().convert("CMYK"))
    sources.append(sixteen_bit())
    for k in range(600):
        suffix, format, options = forms[k % len(forms)]
        image = sources[int(rng.integers(8))]
        if format == "JPEG" and k % 5 == 0:
            image = sources[8]
        if format == "PNG" and k % 5 == 0:
            image = sources[9]
        content = encoded(image, format, **options)
        path = tmp_path / "ab"[k % 2] / f"{k:03d}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if k < 100 else damage(content, rng))
    noticed = pytest.warns(UserWarning, match="could not be read")
    with noticed if cache == "memory" else contextlib.nullcontext():
        source = data.load(f"folder:{tmp_path}", image_size=SIZE, cache=cache)
    encoder = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(8)]
    )
    model = kc.recipes.simclr(encoder, augment=kc.augment.weak(SIZE))
    history = model.fit(
        data.batches(source.train, 40), epochs=2, shuffle=False, verbose=0
    )
    assert np.all(np.isfinite(history.history["loss"]))
    # Cut, empty, foreign and html files cannot be read; some with a few wrong bytes can.
    assert 200 < len(source.skipped) <= 500
    assert len(set(source.skipped)) == len(source.skipped)
    for line in source.skipped:
        assert int(os.path.basename(line.partition(": ")[0])[:3]) >= 100, line


def chunk(kind, content):
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def odd_but_readable(folder):
    """Images on which TensorFlow and Pillow do not agree. Returns their paths."""
    png = encoded(picture(), "PNG")
    text = bytearray(chunk(b"tEXt", b"Comment\0words"))
    text[-1] ^= 0xFF  # a checksum that matters to Pillow alone
    jpeg = encoded(picture(), "JPEG")
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture(), "JPEG", exif=exif)
    profile = b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000)
    contents = {
        "text.png": png[:33] + bytes(text) + png[33:],
        "xmp.jpg": jpeg[:2]
        + b"\xff\xe1"
        + struct.pack(">H", len(xmp) + 2)
        + xmp
        + jpeg[2:],
        "late.jpg": turned[:2] + 2 * profile + turned[2:],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_an_image_is_the_same_whatever_was_read_beside_it(tmp_path):
    odd = odd_but_readable(tmp_path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    for path in odd:
        alone = data.FilePart([path] * 8, image_size=24)
        beside = data.FilePart([path] * 7 + [broken], image_size=24)
        resized = data.FilePart([path] * 8, image_size=24)
        resized.decoder.fit(np.zeros((9, 9, 3), np.uint8))  # sizes differ from now on
        rows = tf.range(8, dtype=tf.int64)
        expected, _ = alone.read(rows)
        for part in (beside, resized):
            found, _ = part.read(rows)
            np.testing.assert_array_equal(found[:7], expected[:7], err_msg=path.name)
        assert alone.skipped == [] and len(beside.skipped) == 1
