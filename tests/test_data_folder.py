"""Folders of files of every kind, sound and damaged, against Pillow's reading of them."""

from __future__ import annotations

import os
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_contrastive import data
from keras_contrastive.data import decoder as decoder_module
from keras_contrastive.data import files as files_module
from keras_contrastive.data.decoder import Unreadable, read_image


def picture(height=24, width=24, seed=0):
    """Smooth colours, different for every seed, as a Pillow image."""
    y, x = np.mgrid[0:height, 0:width] / 8.0
    phases = np.random.default_rng(seed).uniform(0, 6, 3)
    colours = [127 + 110 * np.sin(x + phase) * np.cos(y - phase) for phase in phases]
    return Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))


def save(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(path, **options)
    return path


def with_alpha(image):
    alpha = Image.fromarray((np.arange(24 * 24).reshape(24, 24) % 256).astype(np.uint8))
    image.putalpha(alpha)
    return image


def sixteen_bit():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 2**16, (24, 24), dtype=np.uint16))


MATRIX = {
    "jpeg": ("a.jpg", picture, {"quality": 75}),
    "jpeg_progressive": ("a.jpeg", picture, {"progressive": True}),
    "jpeg_grey": ("a.JPG", lambda: picture().convert("L"), {}),
    "jpeg_cmyk": ("a.jpg", lambda: picture().convert("CMYK"), {"quality": 95}),
    "png": ("a.png", picture, {}),
    "png_grey": ("a.png", lambda: picture().convert("L"), {}),
    "png_grey_alpha": ("a.png", lambda: with_alpha(picture().convert("L")), {}),
    "png_rgba": ("a.png", lambda: with_alpha(picture()), {}),
    "png_palette": ("a.png", lambda: picture().quantize(32), {}),
    "png_palette_alpha": ("a.png", lambda: picture().quantize(32), {"transparency": 3}),
    "png_one_bit": ("a.png", lambda: picture().convert("1"), {}),
    "png_16_bit": ("a.png", sixteen_bit, {}),
    "gif": ("a.gif", lambda: picture().quantize(64), {}),
    "bmp": ("a.bmp", picture, {}),
    "bmp_palette": ("a.bmp", lambda: picture().quantize(32), {}),
    "bmp_one_bit": ("a.bmp", lambda: picture().convert("1"), {}),
    "webp": ("a.webp", picture, {}),
    "webp_rgba": ("a.webp", lambda: with_alpha(picture()), {"lossless": True}),
    "png_named_jpg": ("a.jpg", picture, {"format": "PNG"}),
}


@pytest.mark.parametrize("case", MATRIX)
def test_read_image_of_every_format_equals_pillow(tmp_path, case):
    name, make, options = MATRIX[case]
    path = save(tmp_path / name, make(), **options)
    got = read_image(str(path))
    with Image.open(path) as image:
        if case == "png_16_bit":
            high = np.asarray(image).astype(np.uint16) >> 8
            expected = np.repeat(high[..., None], 3, axis=-1)
        else:
            expected = np.asarray(image.convert("RGB"))
    assert got.shape == (24, 24, 3)
    assert got.dtype == np.uint8
    # CMYK alone is converted by formulas that round differently.
    tolerance = 2 if case == "jpeg_cmyk" else 0
    assert np.abs(got.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_read_image_of_an_animation_takes_the_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (24, 24), colour) for colour in ("red", "blue")]
    save(
        tmp_path / name,
        frames[0],
        save_all=True,
        append_images=frames[1:],
        lossless=True,
    )
    assert read_image(str(tmp_path / name))[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_honours_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, "lossless": True} if suffix == "webp" else {"exif": exif}
    path = save(tmp_path / f"a.{suffix}", picture(16, 24), **options)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_image(str(path)), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\xff\xff"])
def test_read_image_with_damaged_exif_reads_the_pixels(tmp_path, block):
    path = save(tmp_path / "a.jpg", exif=block)
    assert read_image(str(path)).shape == (24, 24, 3)


def png_of_size(width, height):
    """A small file that claims to be a large picture."""

    def chunk(kind, content):
        body = kind + content
        return (
            struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def damaged_files(folder):
    """Write files that cannot be read. Returns name -> what the reason says."""
    sound = {
        suffix: save(folder / f"sound.{suffix}")
        for suffix in ("jpg", "png", "gif", "webp")
    }
    reasons = {}
    for suffix, path in sound.items():
        content = path.read_bytes()
        (folder / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
        reasons[f"cut.{suffix}"] = ".+"
        path.unlink()
    flipped = bytearray(content)
    flipped[8:12] = b"XXXX"
    (folder / "header.webp").write_bytes(flipped)
    reasons["header.webp"] = "not an image"
    (folder / "empty.jpg").write_bytes(b"")
    reasons["empty.jpg"] = "empty file"
    (folder / "text.jpg").write_text("these are words")
    reasons["text.jpg"] = "not an image"
    (folder / "bomb.png").write_bytes(png_of_size(12_000, 12_000))
    reasons["bomb.png"] = "12000 x 12000 pixels"
    (folder / "larger.png").write_bytes(png_of_size(60_000, 60_000))
    reasons["larger.png"] = "pixels"
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    reasons["dangling.jpg"] = "not a regular file"
    os.mkfifo(folder / "pipe.jpg")
    reasons["pipe.jpg"] = "not a regular file"
    return reasons


def test_load_of_a_folder_with_damaged_files_skips_warns_once_and_lists_them(tmp_path):
    reasons = damaged_files(tmp_path)
    for k in range(10):
        save(tmp_path / f"good{k}.png", picture(seed=k))
    with pytest.warns(
        UserWarning, match=f"{len(reasons)} files could not be read"
    ) as caught:
        source = data.load(f"folder:{tmp_path}", image_size=24)
    assert len(caught) == 1
    assert len(source.skipped) == len(reasons)
    for name, reason in reasons.items():
        listed = [
            line for line in source.skipped if line.startswith(f"{tmp_path / name}: ")
        ]
        assert len(listed) == 1, name
        assert re.search(reason, listed[0])
        assert "\n" not in listed[0]
    together = np.concatenate([source.train.images, source.test.images])
    found = {image.tobytes() for image in together}
    assert found == {np.asarray(picture(seed=k)).tobytes() for k in range(10)}


def test_read_image_without_permission_is_unreadable(tmp_path, monkeypatch):
    path = save(tmp_path / "a.jpg")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(Unreadable, match="Permission denied"):
        read_image(str(path))


def test_read_image_above_the_limit_is_refused_before_decoding(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", picture(10, 20))
    monkeypatch.setattr(decoder_module, "MAX_PIXELS", 199)
    monkeypatch.setattr(
        decoder_module, "decode", lambda content: pytest.fail("decoded")
    )
    with pytest.raises(Unreadable, match="10 pixels, above the limit of 199"):
        read_image(str(path))


def test_load_of_sub_folders_makes_them_classes(tmp_path):
    for k in range(10):
        save(tmp_path / "cats" / f"{k}.png", picture(seed=k))
        save(tmp_path / "dogs" / "young" / "small" / f"{k}.png", picture(seed=10 + k))
    save(tmp_path / ".hidden" / "a.png")
    save(tmp_path / "cats" / ".a.png")
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "a.pdf").write_text("no image")
    source = data.load(f"folder:{tmp_path}", image_size=24)
    assert source.name == tmp_path.name
    assert source.train.class_names == source.test.class_names == ["cats", "dogs"]
    assert (len(source.train), len(source.test), source.skipped) == (16, 4, [])
    expected = {np.asarray(picture(seed=k)).tobytes(): k // 10 for k in range(20)}
    for part in (source.train, source.test):
        np.testing.assert_array_equal(
            np.bincount(part.labels), np.full(2, len(part) // 2)
        )
        for image, label in zip(part.images, part.labels):
            assert expected[image.tobytes()] == label


def test_load_of_images_beside_sub_folders_leaves_them_unknown(tmp_path):
    for k in range(5):
        save(tmp_path / "cats" / f"{k}.png")
        save(tmp_path / f"{k}.png")
    source = data.load(f"folder:{tmp_path}")
    labels = np.concatenate([source.train.labels, source.test.labels])
    assert sorted(labels) == [-1] * 5 + [0] * 5


def test_load_of_a_flat_folder_has_no_labels_and_the_default_size(tmp_path):
    for k in range(5):
        save(tmp_path / f"{k}.jpg", picture(30 + k, 50 - k))
    source = data.load(f"folder:{tmp_path}")
    assert source.train.labels is None
    assert source.train.image_shape == (96, 96, 3)
    assert (len(source.train), len(source.test)) == (4, 1)


def test_load_of_train_and_test_folders_takes_them_as_the_split(tmp_path):
    for k in range(6):
        save(tmp_path / "train" / "b" / f"{k}.png", picture(seed=k))
        save(tmp_path / "test" / "ac"[k % 2] / f"{k}.png", picture(seed=10 + k))
    save(tmp_path / "other" / "a.png")
    source = data.load(f"folder:{tmp_path}", image_size=24)
    assert source.train.class_names == source.test.class_names == ["a", "b", "c"]
    np.testing.assert_array_equal(source.train.labels, [1] * 6)
    np.testing.assert_array_equal(source.test.labels, [0, 0, 0, 2, 2, 2])
    for k in range(6):
        np.testing.assert_array_equal(
            source.train.images[k], np.asarray(picture(seed=k))
        )


def test_load_of_a_folder_with_links_back_up_ends(tmp_path):
    for k in range(5):
        save(tmp_path / "cats" / f"{k}.png")
    (tmp_path / "cats" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "dogs").symlink_to(tmp_path / "cats", target_is_directory=True)
    source = data.load(f"folder:{tmp_path}")
    assert len(source.train) + len(source.test) == 10
    assert source.train.class_names == ["cats", "dogs"]


def test_load_of_a_folder_twice_is_equal(tmp_path):
    for k in range(20):
        save(tmp_path / "ab"[k % 2] / f"{k}.jpg", picture(20 + k, 24, seed=k))
    first, again = (
        data.load(f"folder:{tmp_path}", image_size=16, seed=4) for _ in range(2)
    )
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.test.images, again.test.images)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)


def test_load_of_a_folder_says_on_stderr_how_far_it_is(tmp_path, monkeypatch, capsys):
    for k in range(3):
        save(tmp_path / f"{k}.png")
    data.load(f"folder:{tmp_path}")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(files_module, "PROGRESS_SECONDS", -1.0)
    data.load(f"folder:{tmp_path}")
    captured = capsys.readouterr()
    assert "3 of 3 images" in captured.err
    assert captured.out == ""


def test_load_of_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere' is not a folder"):
        data.load(f"folder:{tmp_path / 'nowhere'}")


def test_load_of_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"must hold images .* Found no such file"):
        data.load(f"folder:{tmp_path}")


def test_load_of_a_folder_in_which_nothing_is_readable_is_refused(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.jpg").write_text("words")
    with pytest.raises(ValueError, match="Found 3 files, none of which can be read"):
        data.load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    "names", [["train", "val"], ["train"], ["cats", "test"]], ids=str
)
def test_folders_named_like_parts_are_no_classes(names, tmp_path):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="which are no classes"):
        data.load(f"folder:{tmp_path}")


def test_links_between_class_folders_are_passed_over_and_those_that_lead_out_followed(
    tmp_path,
):
    root, outside = tmp_path / "photos", tmp_path / "elsewhere"
    names = [f"class{k}" for k in range(10)]
    for name in names:
        save(root / name / "own.png")
    for name in names:  # followed, these would be found some 10! times
        for other in names:
            (root / name / f"to-{other}").symlink_to(root / other)
    save(outside / "deep" / "far.png")
    (root / "class0" / "out").symlink_to(outside)
    (root / "class1" / "out").symlink_to(outside / "deep")
    with pytest.warns(UserWarning, match="a second link to"):
        source = data.load(f"folder:{root}", image_size=8)
    assert len(source.train) + len(source.test) == 11
    labels = np.concatenate([source.train.labels, source.test.labels])
    np.testing.assert_array_equal(np.bincount(labels), [2] + [1] * 9)
