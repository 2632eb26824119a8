"""A batch of encoded images inside a graph: what an exported model makes of the files that it is sent.

TensorFlow operations alone, so that it is served without Python. The pixels are those that the loader gives, of turned
photographs too.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive.data.decoder import MAX_PIXELS, TURNED
from keras_contrastive.data.images import JPEG_START, PNG_START, decode, resize

# What is read of a JPEG to learn how it has to be turned. An EXIF block holds at most as much.
_HEAD = 2**16
_ENTRIES = 1024  # of a directory, at most
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
# Bytes of a value by TIFF's number of its type; of unknown ones nothing is read.
_SIZES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0])


def decode_batch(
    encoded, image_size: int, channels: int = 3, *, max_pixels: int | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode, turn upright and resize images, of which one that cannot be read spoils no other.

    Images are decoded in parallel. One whose header says more than `max_pixels` is refused before its pixels take
    memory. Works eagerly, in a `tf.function` and in a SavedModel; not under XLA.

    Args:
        encoded: String tensor `(n,)`: each the content of a JPEG or PNG file.
        image_size: Integer > 0: the side of the square, in pixels, to which `resize` brings the images.
        channels: 3 (RGB) or 1 (grey).
        max_pixels: Integer > 0. None: 100,000,000, as for the loader.

    Returns:
        uint8 `(n, image_size, image_size, channels)`, zeros where an image could not be read; and bool `(n,)`: it was
        read. Upright photographs and those that their EXIF block turns come as the loader gives them.

    Raises:
        ValueError: An option is out of its range.

    Example:
        >>> files = tf.stack([tf.io.encode_png(tf.zeros([9, 5, 3], tf.uint8)), b"no image"])
        >>> images, valid = decode_batch(files, 4)
        >>> images.shape, valid.numpy()
        (TensorShape([2, 4, 4, 3]), array([ True, False]))
    """
    check_integer(1, image_size=image_size)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    check_integer(1, max_pixels=limit)
    encoded = tf.convert_to_tensor(encoded, tf.string)
    shape = (image_size, image_size, channels)

    def decode_one(number, content):
        with tf.control_dependencies([_assert_size(content, limit)]):
            pixels = decode(content, channels)
        return number, resize(_upright(pixels, orientation(content)), image_size)

    numbers = tf.range(tf.shape(encoded, tf.int64)[0])
    decoded = tf.data.Dataset.from_tensor_slices((numbers, encoded))
    decoded = decoded.map(decode_one, num_parallel_calls=tf.data.AUTOTUNE)
    nothing = (tf.zeros([0], tf.int64), tf.zeros([0, *shape], tf.uint8))
    together = decoded.ignore_errors().batch(2**31 - 1)
    together = together.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1)
    read, images = together.get_single_element()
    count = tf.shape(encoded, tf.int64)[:1]
    valid = tf.scatter_nd(read[:, None], tf.ones_like(read), count) > 0
    images = tf.scatter_nd(read[:, None], images, tf.concat([count, shape], axis=0))
    return tf.ensure_shape(images, [encoded.shape[0], *shape]), valid


def _assert_size(encoded: tf.Tensor, limit: int):
    """Fail where the header of a JPEG or PNG says more pixels than `limit`."""
    is_png = tf.strings.substr(encoded, 0, len(PNG_START)) == PNG_START
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG_START)) == JPEG_START

    def of_png():
        return tf.io.decode_raw(
            tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False
        )

    def of_jpeg():
        return tf.io.extract_jpeg_shape(encoded)[:2]

    sides = tf.case(
        [(is_png, of_png), (is_jpeg, of_jpeg)], default=lambda: tf.constant([-1, -1])
    )
    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    fits = tf.reduce_all(sides > 0) & (pixels <= limit)
    return tf.debugging.Assert(fits, ["not an image of so many pixels at most"])


def orientation(encoded) -> tf.Tensor:
    """How a JPEG or PNG has to be turned, by its EXIF block: 1 (upright) to 8, as EXIF numbers it.

    Args:
        encoded: Scalar string tensor.

    Returns:
        int32 scalar. 1 where there is no such entry, or the block is damaged before it. A block that a PNG holds as text
        is not looked at.

    Reference:
        TIFF 6.0, Section 2 (the directory of 12-byte entries); Exif 2.3, Section 4.6.4 (tag 0x0112).
    """
    encoded = tf.convert_to_tensor(encoded, tf.string)
    is_png = tf.strings.substr(encoded, 0, len(PNG_START)) == PNG_START
    # EXIF stands first in a JPEG. In a PNG it may be anywhere.
    head = tf.where(is_png, encoded, tf.strings.substr(encoded, 0, _HEAD))
    turned = tf.strings.regex_full_match(head, TURNED)
    return tf.cond(
        turned, lambda: _read_orientation(head, is_png), lambda: tf.constant(1)
    )


def _read_orientation(head: tf.Tensor, is_png: tf.Tensor) -> tf.Tensor:
    block = tf.cond(is_png, lambda: _png_block(head), lambda: _jpeg_block(head))
    length = tf.cast(tf.strings.length(block), tf.int64)
    little = tf.strings.substr(block, 0, 4) == b"II*\x00"
    known = little | (tf.strings.substr(block, 0, 4) == b"MM\x00*")
    # Zeros behind it: what a damaged block points to is there, and says nothing.
    block = tf.strings.join([block, tf.constant(bytes(12 * _ENTRIES + 16))])

    def integers(start, size, dtype):
        ordered = (
            _integers(_part(block, start, size), dtype, little_endian=end)
            for end in (True, False)
        )
        return tf.where(little, *ordered)

    directory = integers(4, 4, tf.uint32)[0]
    directory = tf.minimum(directory, length)
    count = tf.minimum(integers(directory, 2, tf.uint16)[0], _ENTRIES)
    start, size = directory + 2, 12 * count
    # Each entry: tag, type, how many values, and the values or where they are.
    tags, types = tf.unstack(
        tf.reshape(integers(start, size, tf.uint16), [-1, 6])[:, :2], axis=1
    )
    numbers, values = tf.unstack(
        tf.reshape(integers(start, size, tf.uint32), [-1, 3])[:, 1:], axis=1
    )
    # A short integer stands at the start of the value's four bytes.
    short = tf.where(little, values % 2**16, values // 2**16)
    turns = tf.where(types == _SHORT, short, values)
    # Readers stop at an entry that is cut, or whose values lie beyond the block.
    sizes = numbers * tf.gather(_SIZES, tf.minimum(types, len(_SIZES) - 1))
    ends = start + 12 * (1 + tf.range(count))
    whole = (ends <= length) & ((sizes <= 4) | (values + sizes <= length))
    readable = tf.math.cumprod(tf.cast(whole, tf.int32)) > 0
    asked = (tags == _ORIENTATION) & ((types == _SHORT) | (types == _LONG))
    turns = tf.boolean_mask(turns, known & readable & asked & (numbers == 1))
    turn = tf.concat([[1], turns], axis=0)[-1]
    return tf.where((turn >= 1) & (turn <= 8), tf.cast(turn, tf.int32), 1)


def _jpeg_block(head: tf.Tensor) -> tf.Tensor:
    """The TIFF block of a JPEG's EXIF segment, whose length stands before it and counts itself and its name."""
    found = tf.strings.regex_replace(
        head, r"\A\C*?(\C\C)Exif\x00\x00(\C*)\z", r"\1\2", replace_global=False
    )
    length = _integers(_part(found, 0, 2), tf.uint16)[0]
    return _part(found, 2, tf.maximum(length - 8, 0))


def _png_block(head: tf.Tensor) -> tf.Tensor:
    """The TIFF block of a PNG's `eXIf` chunk, before whose name its length stands."""
    found = tf.strings.regex_replace(
        head, r"\A\C*?(\C\C\C\C)eXIf(\C*)\z", r"\1\2", replace_global=False
    )
    length = _integers(_part(found, 0, 4), tf.uint32)[0]
    return _part(found, 4, tf.minimum(length, _HEAD))


def _part(text: tf.Tensor, start, length) -> tf.Tensor:
    return tf.strings.substr(text, tf.cast(start, tf.int64), tf.cast(length, tf.int64))


def _integers(raw: tf.Tensor, dtype, *, little_endian: bool = False) -> tf.Tensor:
    """Unsigned integers from bytes, int64."""
    if dtype == tf.uint32:  # which `decode_raw` does not know
        signed = tf.io.decode_raw(raw, tf.int32, little_endian=little_endian)
        return tf.cast(tf.bitcast(signed, tf.uint32), tf.int64)
    return tf.cast(tf.io.decode_raw(raw, dtype, little_endian=little_endian), tf.int64)


def _upright(pixels: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
    """An image `(h, w, c)` as it is meant to be seen."""

    def swap():
        # By numbers: at a transposition of uint8 oneDNN makes a remark on stderr, whether an image is turned or not.
        height, width = tf.unstack(tf.shape(pixels)[:2])
        numbers = tf.range(height)[None] * width + tf.range(width)[:, None]  # (w, h)
        return tf.gather(tf.reshape(pixels, [-1, pixels.shape[2]]), numbers)

    def turned():
        swapped = tf.cond(turn >= 5, swap, lambda: pixels)
        flips = tf.gather(tf.constant(_FLIPS), turn - 1)
        return tf.reverse(swapped, tf.boolean_mask([0, 1], flips))

    upright = tf.cond(turn > 1, turned, lambda: pixels)
    return tf.ensure_shape(upright, [None, None, pixels.shape[2]])


# EXIF orientation 1 to 8 -> whether rows, and columns, are reversed after rows and columns of 5 to 8 are swapped.
_FLIPS = np.array(
    [
        (False, False),
        (False, True),
        (True, True),
        (True, False),
        (False, False),
        (False, True),
        (True, True),
        (True, False),
    ]
)
