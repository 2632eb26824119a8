"""One image from its bytes: plain ones in TensorFlow's own threads, the odd ones in Python, with the same result.

The plain case runs a few images at a time within a nested dataset that drops what fails. That is read again in Python,
where a failure has a reason, and where the odd cases are known: other formats, turned photographs.
"""

from __future__ import annotations

import errno
import io
import os
import re
import struct
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive.data.images import JPEG_START, PNG_START, decode, resize

FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "WEBP",
)  # Pillow would open many more, some by running programs
MAX_PIXELS = 100_000_000
CHUNK = 8  # images decoded by one call: a call costs more than a small image
# The shortest header with a size, 1 x 1.
_JPEG_OF_NO_SIZE = bytes.fromhex(
    "ffd8ffc0000b080001000101011100ffda0008010100003f00ffd9"
)
# A JPEG's EXIF entry for an orientation that is not upright: tag, type and count, in either byte order.
_ENTRY = (
    r"(?:\x12\x01[\x03\x04]\x00\x01\x00\x00\x00[\x02-\x08]"
    r"|\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
    r"|\x01\x12\x00\x04\x00\x00\x00\x01\x00\x00\x00[\x02-\x08])"
)
TURNED, _TURNED_BYTES = rf"\C*{_ENTRY}\C*", _ENTRY.encode()


class Decoder:
    """Decodes images into one shape: plain ones in TensorFlow's own threads, any that can be in Python.

    In TensorFlow there are no branches, which would cost more than a small image. So images are taken as they are,
    several by one call, or all are resized, one by one: a square of the right size is not changed by that. The latter
    from the beginning with `resizes`, else when an image of another size has been seen.

    Args:
        image_shape: `(h, w, c)`.
        max_pixels: Integer, or None for `MAX_PIXELS`.
        sized: Images are resized to `image_shape`, a square. If not, others than of this shape cannot be read.
        resizes: Images of other sizes are expected.
    """

    def __init__(
        self,
        image_shape,
        max_pixels: int | None,
        *,
        sized: bool = True,
        resizes: bool = False,
    ):
        if max_pixels is not None:
            check_integer(1, max_pixels=max_pixels)
        self.image_shape, self.sized = tuple(image_shape), sized
        self.max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
        self._resizes = resizes
        with tf.device("CPU:0"):
            self._resizes_now = tf.Variable(resizes, trainable=False)

    def fit(self, image: np.ndarray) -> np.ndarray:
        """A decoded image, in the right shape. Raises `Unreadable`."""
        if image.shape == self.image_shape:
            return image
        if not self.sized:
            raise Unreadable(f"its shape is {image.shape}, not {self.image_shape}")
        if not self._resizes:
            self._resizes = True
            self._resizes_now.assign(True)
        with tf.device("CPU:0"):
            return resize(image, self.image_shape[0]).numpy()

    def decode(self, encoded: bytes) -> np.ndarray:
        """The content of a file, by all means. Raises `Unreadable`."""
        return self.fit(read_bytes(encoded, self.max_pixels, self.image_shape[2]))

    def attempt(self, items: tf.Tensor, read) -> tuple[tf.Tensor, tf.Tensor]:
        """Decode plain JPEG and PNG images, `CHUNK` at a time; one that fails costs its chunk and no other.

        Args:
            items: String `(m,)`.
            read: Function from an item, a scalar, to the encoded image.

        Returns:
            uint8 `(m, h, w, c)`, and bool `(m,)`: the image was decoded.
        """

        def as_they_are():
            return self._in_chunks(items, CHUNK, read, tf.identity)

        def resized():
            side = self.image_shape[0]
            # One by one: every batch takes time in proportion to the operations written out here.
            return self._in_chunks(items, 1, read, lambda image: resize(image, side))

        if not self.sized:
            return as_they_are()
        return tf.cond(self._resizes_now, resized, as_they_are)

    def _in_chunks(self, items, size: int, read, resized):
        shape = self.image_shape
        count = tf.shape(items)[0]
        chunks = -(-count // size)
        padded = tf.gather(items, tf.minimum(tf.range(chunks * size), count - 1))
        padded = tf.reshape(padded, tf.stack([chunks, size]))

        def decode_chunk(number, items):
            items = tf.unstack(tf.ensure_shape(items, [size]))
            encoded = tf.stack([read(item) for item in items])
            with tf.control_dependencies([self._assert_plain(encoded)]):
                images = [resized(self._decoded(one)) for one in tf.unstack(encoded)]
            return number, tf.stack([tf.ensure_shape(image, shape) for image in images])

        numbered = tf.data.Dataset.from_tensor_slices((tf.range(chunks), padded))
        decoded = numbered.map(
            decode_chunk, num_parallel_calls=os.cpu_count(), deterministic=True
        ).ignore_errors()
        nothing = (tf.zeros([0], tf.int32), tf.zeros([0, size, *shape], tf.uint8))
        together = decoded.batch(2**31 - 1).concatenate(
            tf.data.Dataset.from_tensors(nothing)
        )
        numbers, images = together.take(1).get_single_element()
        got = tf.scatter_nd(numbers[:, None], tf.ones_like(numbers), [chunks]) > 0
        images = tf.cond(
            tf.reduce_all(got),
            lambda: images,
            lambda: tf.scatter_nd(
                numbers[:, None], images, tf.stack([chunks, size, *shape])
            ),
        )
        images = tf.reshape(images, tf.stack([chunks * size, *shape]))[:count]
        got = tf.repeat(got, size)[:count]
        return tf.ensure_shape(images, [None, *shape]), tf.ensure_shape(got, [None])

    def _assert_plain(self, encoded: tf.Tensor):
        """Fail unless all are JPEG or PNG files, upright and not too large: `(n,)` at once, without branches."""
        is_png = tf.strings.substr(encoded, 0, len(PNG_START)) == PNG_START
        is_jpeg = tf.strings.substr(encoded, 0, len(JPEG_START)) == JPEG_START
        # The smallest stand-ins for what is of the other format.
        png = tf.where(is_png, encoded, bytes(24))
        jpeg = tf.where(is_jpeg, encoded, _JPEG_OF_NO_SIZE)
        of_png = tf.io.decode_raw(
            tf.strings.substr(png, 16, 8), tf.int32, little_endian=False
        )
        of_jpeg = [tf.io.extract_jpeg_shape(one)[:2] for one in tf.unstack(jpeg)]
        sides = tf.maximum(of_png, tf.stack(of_jpeg))  # (n, 2)
        pixels = tf.reduce_prod(tf.cast(sides, tf.int64), axis=1)
        # EXIF stands first in a JPEG. In a PNG it may be anywhere.
        head = tf.strings.substr(jpeg, 0, 2**16)
        odd = tf.strings.regex_full_match(head, TURNED) | tf.strings.regex_full_match(
            png, r"\C*(?:eXIf|exif)\C*"
        )
        plain = (is_png | is_jpeg) & (pixels <= self.max_pixels) & ~odd
        return tf.debugging.Assert(tf.reduce_all(plain), ["not plain"])

    def _decoded(self, encoded: tf.Tensor) -> tf.Tensor:
        """What `images.decode` gives, of what is known to be a JPEG or PNG."""
        image = tf.io.decode_jpeg(
            encoded, channels=self.image_shape[2], dct_method="INTEGER_ACCURATE"
        )
        return tf.ensure_shape(image, [None, None, self.image_shape[2]])


def read_image(path: str, max_pixels: int | None = None) -> np.ndarray:
    """Decode one file as RGB, the right way up.

    JPEG and PNG go through `decode`, so that an exported model sees the same pixels. The other formats go
    through Pillow: TensorFlow reads a BMP's palette as grey, and WebP on one of the two dependency lines only.
    Of an animation the first frame is taken; alpha is dropped; 16 bits keep the high byte.

    Args:
        path: The file.
        max_pixels: Integer: an image whose header says more is refused before it is decoded. None: `MAX_PIXELS`.

    Returns:
        uint8 array `(h, w, 3)`.

    Raises:
        Unreadable: the file is not an image of one of `FORMATS`, is damaged, or too large.
    """
    try:
        if not os.path.isfile(path):  # a pipe would be waited for without end
            raise Unreadable("not a regular file")
        return read_bytes(Path(path).read_bytes(), max_pixels)
    except OSError as error:
        check_lasting(error)
        raise Unreadable(error.strerror or str(error)) from error


def read_bytes(
    encoded: bytes, max_pixels: int | None = None, channels: int = 3
) -> np.ndarray:
    """`read_image` of a file's content; with `channels` 1, as grey."""
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if not encoded:
        raise Unreadable("empty file")
    if not encoded.startswith((JPEG_START, PNG_START)):
        return _read_by_pillow(encoded, limit, channels)
    # As `Decoder.attempt` does it: what an image is must not depend on which of the two has read it.
    try:
        if encoded.startswith(PNG_START):
            sides = struct.unpack(">II", encoded[16:24])
        else:
            sides = tf.io.extract_jpeg_shape(encoded).numpy()[1::-1].tolist()
        _check_size(*sides, limit)
        pixels = decode(encoded, channels).numpy()
    except (struct.error, tf.errors.InvalidArgumentError) as error:
        raise Unreadable("damaged image data") from error
    return _UPRIGHT[orientation(encoded)](pixels)


def _read_by_pillow(encoded: bytes, limit: int, channels: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            _check_size(*image.size, limit)  # from the header
            turn = image.getexif().get(0x0112, 1)
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
            return _UPRIGHT.get(turn, _UPRIGHT[1])(
                pixels.reshape(*image.size[::-1], channels)
            )
    except Unreadable:
        raise
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(
            f"not an image in one of the formats {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # damaged headers make Pillow raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(reason.splitlines()[0]) from error


def check_lasting(error: OSError) -> None:
    """Raise an error that is the machine's at this moment, not the file's."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR):
        raise error


def _check_size(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise Unreadable(f"{width} x {height} pixels, above the limit of {limit}")


class Unreadable(Exception):
    """A file that is left out; the message is the reason."""


# EXIF orientation -> the image as it is meant to be seen.
_UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


def orientation(encoded: bytes) -> int:
    """How a JPEG or PNG has to be turned, by its EXIF block, where that is one of those that `Decoder` finds."""
    from PIL import Image

    if encoded.startswith(PNG_START):
        marked = b"eXIf" in encoded or b"exif" in encoded
    else:
        marked = re.search(_TURNED_BYTES, encoded[: 2**16])
    if not marked:
        return 1
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            turn = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unreadable
        return 1
    return turn if turn in _UPRIGHT else 1
