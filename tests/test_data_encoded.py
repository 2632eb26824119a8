"""`data.decode_batch` against the loader, which reads one file after another with Pillow's help, and Pillow alone."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from keras_contrastive.data import decode_batch, resize
from keras_contrastive.data.decoder import Unreadable, read_bytes
from keras_contrastive.data.encoded import orientation
from tests.test_data_folder import MATRIX, picture, png_of_size

SIZE = 24  # the side of `picture`: its pixels come through as they are
ORDERS = {"little": "<", "big": ">"}
TURN, SHORT, LONG = 0x0112, 3, 4


def encode(image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def entry(order: str, tag: int, dtype: int, value: int, count: int = 1) -> bytes:
    """One entry of a TIFF directory, 12 bytes. A short value stands first of its four bytes."""
    stored = (
        struct.pack(f"{order}HH", value, 0)
        if dtype == SHORT
        else struct.pack(f"{order}I", value)
    )
    return struct.pack(f"{order}HHI", tag, dtype, count) + stored


def tiff(order: str, *entries: bytes, offset: int = 8, count: int | None = None):
    """A TIFF block of one directory, as it stands in an EXIF block."""
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, offset)
    number = struct.pack(f"{order}H", len(entries) if count is None else count)
    padding = bytes(max(0, min(offset, 1000) - 8))
    return start + padding + number + b"".join(entries) + bytes(4)


def turned_by(order: str, value: int, dtype: int = SHORT) -> bytes:
    return tiff(order, entry(order, TURN, dtype, value))


def with_exif(content: bytes, block: bytes) -> bytes:
    """The JPEG or PNG with an EXIF block before its pixels."""
    if content.startswith(b"\xff\xd8"):
        body = b"Exif\0\0" + block
        return (
            content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
        ) + content[2:]
    chunk = b"eXIf" + block
    chunk = struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:33] + chunk + content[33:]  # behind IHDR


def loaded(content: bytes, size: int = SIZE, channels: int = 3):
    """What the loader makes of a file's content; None where it cannot be read."""
    try:
        pixels = read_bytes(content, None, channels)
    except Unreadable:
        return None
    return resize(pixels, size).numpy()


def upright(content: bytes) -> np.ndarray:
    """What Pillow alone makes of it."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def assert_read(contents, expected, channels: int = 3, **options):
    """The batch holds the images that are expected, in order, and zeros for None."""
    images, valid = decode_batch(contents, SIZE, channels, **options)
    assert images.dtype == tf.uint8 and valid.dtype == tf.bool
    assert images.shape == (len(contents), SIZE, SIZE, channels)
    assert valid.numpy().tolist() == [image is not None for image in expected]
    for row, (image, wanted) in enumerate(zip(images.numpy(), expected)):
        wanted = np.zeros_like(image) if wanted is None else wanted
        np.testing.assert_array_equal(image, wanted, err_msg=f"row {row}")


JPEG, PNG = encode(picture(), "JPEG"), encode(picture(), "PNG")
KINDS = {"jpeg": JPEG, "png": PNG}
# What a client may send by mistake, and nothing of it is to be read.
BROKEN = {
    "empty": b"",
    "text": b"no image",
    "gif": encode(picture().quantize(8), "GIF"),
    "cut jpeg": JPEG[: len(JPEG) // 2],
    "cut png": PNG[: len(PNG) // 2],
    "jpeg start": b"\xff\xd8\xff",
    "png start": PNG[:8],
    "png header": PNG[:33],
    "no size": png_of_size(0, 0),
    "negative size": png_of_size(2**31, 2**31),
}


@pytest.fixture(scope="module")
def decode_any():
    """One graph for many batches: an eager call makes a new one."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(encoded):
        return (*decode_batch(encoded, SIZE), tf.map_fn(orientation, encoded, tf.int32))

    return decode


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_decode_batch_of_every_jpeg_and_png_equals_the_loader(channels):
    contents = [
        encode(make(), **{"format": name.split("_")[0], **options})
        for name, (_, make, options) in MATRIX.items()
        if name.startswith(("jpeg", "png"))
    ]
    assert len(contents) == 13  # grey, CMYK, palettes, 16 bits, alpha, progressive
    contents += [encode(picture(31, 57), "JPEG"), encode(picture(9, 5), "PNG")]
    assert_read(contents, [loaded(c, channels=channels) for c in contents], channels)


def test_decode_batch_of_pngs_equals_pillow():
    images = [picture(), picture(seed=1).convert("L"), picture(seed=2).quantize(16)]
    assert_read(
        [encode(image, "PNG") for image in images],
        [np.asarray(image.convert("RGB")) for image in images],
    )
    deep = np.random.default_rng(0).integers(0, 2**16, (SIZE, SIZE), np.uint16)
    high = (deep >> 8).astype(np.uint8)
    assert_read([encode(Image.fromarray(deep), "PNG")], [high[..., None]], channels=1)


@pytest.mark.parametrize("dtype", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_decode_batch_turns_photographs_as_pillow_does(decode_any, order, dtype):
    blocks = [turned_by(order, value, dtype) for value in range(1, 9)]
    contents = [with_exif(kind, block) for kind in (JPEG, PNG) for block in blocks]
    images, valid, turns = decode_any(contents)
    assert valid.numpy().all()
    assert turns.numpy().tolist() == [*range(1, 9)] * 2
    expected = [upright(content) for content in contents]
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(images, [loaded(content) for content in contents])
    assert len({image.tobytes() for image in expected[:8]}) == 8


def test_decode_batch_turns_oblong_photographs_before_they_are_resized():
    wide = [encode(picture(20, 33), kind) for kind in ("JPEG", "PNG")]
    contents = [with_exif(c, turned_by(">", value)) for c in wide for value in (3, 6)]
    expected = [resize(upright(content), SIZE).numpy() for content in contents]
    assert_read(contents, expected)


def others(order: str) -> list[bytes]:
    """Entries that a camera writes before the orientation."""
    return [
        entry(order, 0x0100, LONG, 4000),
        entry(order, 0x0101, SHORT, 3000),
        entry(order, 0x010F, 2, 0, count=4),
    ]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_orientation_is_found_among_other_entries(decode_any, order):
    turn, rest = entry(order, TURN, SHORT, 6), others(order)
    blocks = [
        tiff(order, *rest, turn),
        tiff(order, rest[0], turn, *rest[1:]),
        tiff(order, *(70 * rest), turn),
        tiff(order, turn, offset=26),
        tiff(order, turn, *rest) + bytes(40_000),
    ]
    contents = [with_exif(kind, block) for kind in (JPEG, PNG) for block in blocks]
    # Another segment before it, as JFIF's is in most files.
    comment = b"\xff\xfe" + struct.pack(">H", 1002) + 1000 * b"c"
    contents.append(JPEG[:2] + comment + with_exif(JPEG, blocks[0])[2:])
    images, _, turns = decode_any(contents)
    assert turns.numpy().tolist() == [6] * len(contents)
    np.testing.assert_array_equal(images, [loaded(content) for content in contents])


def unusable_blocks(order: str) -> dict[str, bytes]:
    """EXIF blocks that say nothing of how the image is turned; most hold an entry, where none is looked for."""
    turn = entry(order, TURN, SHORT, 6)
    whole = tiff(order, turn)
    blocks = {
        f"orientation {v}": turned_by(order, v, dtype)
        for v, dtype in [(0, SHORT), (9, SHORT), (65535, SHORT), (9, LONG), (0, LONG)]
    }
    blocks["orientation 65536 + 6"] = turned_by(order, 65536 + 6, LONG)
    blocks["orientation 256 + 6"] = turned_by(order, 256 + 6)
    for offset in (60_000, 2**31 - 1, 2**32 - 1, 2**31):
        start = whole[:4] + struct.pack(f"{order}I", offset)
        blocks[f"offset {offset}"] = start + whole[8:]
    # Where entries would be found if such an offset were taken for the beginning.
    blocks["offset before the beginning"] = (
        whole[:4] + struct.pack(f"{order}I", 2**32 - 1) + bytes(6) + turn + bytes(20)
    )
    blocks["no entries"] = tiff(order, turn, count=0)
    blocks["huge count"] = tiff(order, *others(order), count=65535)
    blocks["count beyond the block"] = tiff(order, entry(order, 1, SHORT, 6), count=9)
    blocks["cut entry"] = whole[:18]
    blocks["cut value"] = whole[: 8 + 2 + 10]
    blocks["cut directory"] = whole[:9]
    blocks["cut header"] = whole[:5]
    blocks["nothing"] = b""
    blocks["neither byte order"] = b"XX" + whole[2:]
    blocks["no TIFF"] = whole[:2] + struct.pack(f"{order}H", 77) + whole[4:]
    blocks["thumbnail alone"] = (  # the second directory is the thumbnail's
        tiff(order, *others(order))[:-4] + struct.pack(f"{order}I", 46) + whole[8:]
    )
    return blocks


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of the damage
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_orientation_of_a_damaged_or_senseless_block_is_upright(decode_any, order):
    blocks = unusable_blocks(order)
    contents = {
        f"{kind}, {name}": with_exif(content, block)
        for kind, content in KINDS.items()
        for name, block in blocks.items()
    }
    images, valid, turns = decode_any([*contents.values()])
    turned = {name: t for name, t in zip(contents, turns.numpy()) if t != 1}
    assert not turned
    assert valid.numpy().all()
    expected = [upright(KINDS[name.split(",")[0]]) for name in contents]
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(images, [loaded(c) for c in contents.values()])


def test_orientation_of_a_png_is_found_behind_its_pixels_too():
    # The PNG specification lets eXIf follow the pixels, and the loader finds it there.
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    content = encode(Image.fromarray(noise), "PNG")
    assert len(content) > 2**16
    chunk = with_exif(PNG, turned_by("<", 6))[33 : 33 + 12 + 26]
    content = content[:-12] + chunk + content[-12:]
    np.testing.assert_array_equal(loaded(content, 160), upright(content))
    images, _ = decode_batch([content], 160)
    np.testing.assert_array_equal(images[0], upright(content))


def test_decode_batch_leaves_broken_images_out_and_keeps_the_order():
    sound = [
        encode(picture(seed=k), kind) for k in range(6) for kind in ("JPEG", "PNG")
    ]
    contents = [c for pair in zip(sound, BROKEN.values()) for c in pair] + sound[-2:]
    expected = [None if c in BROKEN.values() else loaded(c) for c in contents]
    assert sum(image is None for image in expected) == len(BROKEN)
    assert_read(contents, expected)


@pytest.mark.parametrize(
    "contents", [[], [PNG], [b"no image"], [b""] * 3], ids=["0", "1", "bad", "all bad"]
)
def test_decode_batch_of_none_of_one_and_of_broken_ones(contents):
    assert_read(contents, [loaded(c) if c == PNG else None for c in contents])


def test_decode_batch_takes_images_of_as_many_pixels_as_max_pixels():
    contents = [encode(picture(10, 14), kind) for kind in ("JPEG", "PNG")]
    images = [loaded(content) for content in contents]
    assert_read(contents, images, max_pixels=140)
    assert_read(contents, [None, None], max_pixels=139)


def test_decode_batch_refuses_by_default_what_the_loader_refuses():
    # 100,000,000 pixels and one row more; the first is damaged, and refused for that.
    contents = [png_of_size(10_000, 10_001), jpeg_of_size(10_000, 10_001), PNG]
    assert_read(contents, [None, None, loaded(PNG)])


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small file whose frame header claims to be a large picture."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def test_decode_batch_refuses_a_png_whose_size_does_not_come_first():
    """libpng passes over a chunk before the header, in whose place a smaller size could stand."""

    def chunk(name, content):
        check = zlib.crc32(name + content)
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
        )

    sound = tf.io.encode_png(np.zeros((300, 300, 3), np.uint8)).numpy()
    start, rest = sound[:8], sound[8:]
    hidden = start + chunk(b"teSt", struct.pack(">II", 1, 1)) + rest
    assert decode_batch([sound], 8)[1].numpy().tolist() == [True]
    assert decode_batch([hidden], 8)[1].numpy().tolist() == [False]
    with pytest.raises(Unreadable):
        read_bytes(hidden, 1000)


def test_decode_batch_refuses_large_images_before_they_take_memory(tmp_path):
    """TensorFlow itself refuses 60,000 x 60,000; 20,000 x 20,000, 1.2 GB, it decodes, which shows that this measures."""
    sizes = {"huge": (60_000, 60_000), "large": (20_000, 20_000)}
    for name, size in sizes.items():
        (tmp_path / f"{name}.png").write_bytes(png_of_size(*size))
        jpeg_size = (65_000, 65_000) if name == "huge" else size
        (tmp_path / f"{name}.jpg").write_bytes(jpeg_of_size(*jpeg_size))
    (tmp_path / "sound.png").write_bytes(PNG)
    # Of few pixels, and of a side that must not be resampled as a whole.
    long = tf.io.encode_png(np.zeros((1, 1_000_000, 3), np.uint8)).numpy()
    (tmp_path / "long.png").write_bytes(long)
    script = """
        import json, re
        from pathlib import Path
        import tensorflow as tf
        from keras_contrastive.data import decode_batch

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def usual(encoded):
            return decode_batch(encoded, 24)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def unlimited(encoded):
            return decode_batch(encoded, 24, max_pixels=2**40)

        def peak():  # of the addresses asked for: pages that nothing is written to take no RAM
            return int(re.search(r"VmPeak:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

        names = ["huge.png", "huge.jpg", "large.png", "large.jpg", "long.png", "sound.png"]
        contents = [Path(name).read_bytes() for name in names]
        for decode in (usual, unlimited):
            decode(contents[-1:] * 5)
        before = peak()
        valid = usual(contents)[1].numpy().tolist()
        used = peak() - before
        unlimited(contents[2:3])
        print(json.dumps({"valid": valid, "used": used, "unlimited": peak() - before}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["valid"] == [False, False, False, False, True, True]
    assert found["used"] < 200e6
    assert found["unlimited"] > 1e9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, r"`image_size` must be an integer >= 1.*image_size=0"),
        ({"image_size": 2.5}, r"`image_size` must be an integer >= 1.*image_size=2.5"),
        ({"channels": 2}, r"`channels` must be .*1.*3.*2"),
        ({"max_pixels": 0}, r"`max_pixels` must be an integer >= 1.*max_pixels=0"),
        ({"max_pixels": "9"}, r"`max_pixels` must be an integer >= 1.*max_pixels='9'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_decode_batch_of_bad_options_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        decode_batch([PNG], **{"image_size": SIZE, **options})


def test_decode_batch_in_a_graph_takes_batches_of_any_size(decode_any):
    shapes = [spec.shape for spec in decode_any.get_concrete_function().outputs[:2]]
    assert [shape.as_list() for shape in shapes] == [[None, SIZE, SIZE, 3], [None]]
    for contents in ([], [JPEG], [PNG, b"", JPEG] * 9):
        images, valid, _ = decode_any(tf.constant(contents, tf.string))
        expected = [loaded(c) if c else np.zeros((SIZE, SIZE, 3)) for c in contents]
        assert valid.numpy().tolist() == [c != b"" for c in contents]
        np.testing.assert_array_equal(images, np.reshape(expected, (-1, SIZE, SIZE, 3)))


def test_decode_batch_within_a_dataset_gives_every_batch():
    contents = [PNG, b"", JPEG, with_exif(JPEG, turned_by("<", 6)), b"no image"]
    dataset = tf.data.Dataset.from_tensor_slices(contents).batch(2)
    dataset = dataset.map(lambda encoded: decode_batch(encoded, SIZE))
    assert dataset.element_spec[0].shape.as_list() == [None, SIZE, SIZE, 3]
    batches = [*dataset.as_numpy_iterator()]
    assert [valid.tolist() for _, valid in batches] == [
        [True, False],
        [True] * 2,
        [False],
    ]
    images = np.concatenate([images for images, _ in batches])
    for row in (0, 2, 3):
        np.testing.assert_array_equal(images[row], loaded(contents[row]))


def spoil(draw, content: bytes, first: int, last: int) -> bytes:
    """Some of the bytes from first to last changed, left out or put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(first, last - 1))
        old, new = draw(st.sampled_from([(1, 1), (1, 1), (1, 0), (0, 1), (5, 0)]))
        put = draw(st.binary(min_size=new, max_size=new))
        content = content[:at] + put + content[at + old :]
    return content


@st.composite
def spoiled_file(draw) -> bytes:
    """Random bytes, or a file that is damaged anywhere but in its EXIF block."""
    content = draw(st.sampled_from([b"", JPEG, PNG, JPEG, PNG]))
    if not content:
        start = draw(st.sampled_from([b"", b"\xff\xd8\xff", PNG[:8], PNG[:33]]))
        return start + draw(st.binary(max_size=300))
    last = draw(st.sampled_from([60, len(content)]))  # the header more often
    content = spoil(draw, content, 0, last)
    if draw(st.booleans()):
        content = with_exif(content, turned_by(draw(st.sampled_from("<>")), 6))
    return content[: draw(st.none() | st.integers(0, len(content)))]


@st.composite
def spoiled_block(draw) -> bytes:
    """A photograph whose EXIF block is damaged."""
    order, value = draw(st.sampled_from("<>")), draw(st.integers(1, 8))
    block = tiff(order, *others(order), entry(order, TURN, SHORT, value))
    block = spoil(draw, block, 0, len(block))
    return with_exif(draw(st.sampled_from([JPEG, PNG])), block)


fuzzed = settings(
    max_examples=100,
    deadline=None,  # of a machine that others use
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@fuzzed
@given(content=spoiled_file())
def test_decode_batch_of_a_spoiled_file_gives_the_loaders_image_or_none(
    decode_any, content
):
    images, valid, _ = decode_any([PNG, content, JPEG])
    assert valid.numpy()[[0, 2]].all()
    np.testing.assert_array_equal(images[0], loaded(PNG))
    np.testing.assert_array_equal(images[2], loaded(JPEG))
    # What is neither JPEG nor PNG the loader may read with Pillow: GIF, BMP, WebP.
    known = content.startswith((JPEG[:3], PNG[:8]))
    expected = loaded(content) if known else None
    assert bool(valid[1]) == (expected is not None)
    if expected is not None:
        np.testing.assert_array_equal(images[1], expected)


@fuzzed
@given(content=spoiled_block())
def test_decode_batch_of_a_spoiled_exif_block_gives_the_image_all_the_same(
    decode_any, content
):
    images, valid, turns = decode_any([content])
    assert valid.numpy().all() and 1 <= turns[0] <= 8
    plain = loaded(PNG if content.startswith(PNG[:8]) else JPEG)
    turned = with_exif(encode(Image.fromarray(plain), "PNG"), turned_by("<", turns[0]))
    np.testing.assert_array_equal(images[0], upright(turned))
