"""Image files, decoded when they are asked for. Damaged ones are replaced in their batch, and listed.

The plain case runs in TensorFlow's own threads: files are read and decoded `CHUNK` at a time, within one nested
dataset that drops a chunk when anything in it fails. The images of such a chunk are read again one by one, in
Python, where a failure has a reason, and where the odd cases are known: other formats, turned photographs.
"""

from __future__ import annotations

import abc
import io
import itertools
import logging
import os
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_integer
from keras_contrastive.data.images import JPEG_START, PNG_START, decode, resize
from keras_contrastive.data.part import Examples, Part, checked_labels

FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "WEBP",
)  # Pillow would open many more, some by running programs
MAX_PIXELS = 100_000_000
PROGRESS_SECONDS = 5.0
CHUNK = 16  # images decoded by one call: single calls cost more than a small image
TRIES = 1000  # how many examples are tried in place of one that cannot be read

# A JPEG's EXIF entry for an orientation that is not upright: tag, type and count, in either byte order.
_TURNED = (
    r"\C*(?:\x12\x01[\x03\x04]\x00\x01\x00\x00\x00[\x02-\x08]"
    r"|\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
    r"|\x01\x12\x00\x04\x00\x00\x00\x01\x00\x00\x00[\x02-\x08])\C*"
)


class DecodedExamples(Examples):
    """Examples that are decoded when they are asked for, and may turn out to be unreadable.

    In place of an example that cannot be read comes another, with its own id: the next readable one of the same
    class or, without one, of any, and never one that stands beside it in a pair or triplet. It depends on the
    examples alone, so that a resumed run sees the same ones.

    Args:
        image_shape: `(h, w, c)`.
        labels: int64 `(n,)` or None.
        class_names: List of str, or None.
        on_damage: "skip": replace and list what cannot be read; "stop": raise.
        skipped: The list to which "name: reason" is added.
    """

    def __init__(self, image_shape, labels, class_names, *, on_damage="skip", skipped):
        super().__init__(labels, class_names, skipped)
        check_choice("on_damage", on_damage, ["skip", "stop"])
        self._image_shape = tuple(image_shape)
        self.on_damage = on_damage
        self._unreadable = set()
        self._lock = threading.Lock()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._image_shape

    @abc.abstractmethod
    def attempt(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Try to read examples.

        Args:
            rows: int64 `(m,)`.

        Returns:
            uint8 `(m, ...)`, and bool `(m,)`: the example was read. What was not may be readable by `example`.
        """

    @abc.abstractmethod
    def example(self, row: int) -> np.ndarray:
        """One example, by all means. Raises `Unreadable`."""

    @abc.abstractmethod
    def name_of(self, row: int) -> str: ...

    @property
    def content(self) -> list:
        """What a cache of the decoded images depends on: names, sizes, dates."""
        raise NotImplementedError

    def read(self, rows):
        images, got = self.attempt(tf.reshape(rows, [-1]))
        images = tf.reshape(
            images, tf.concat([tf.shape(rows), tf.shape(images)[1:]], 0)
        )
        got = tf.reshape(got, tf.shape(rows))

        def complete():
            return tuple(
                tf.numpy_function(
                    self._complete, [images, got, rows], [tf.uint8, tf.int64]
                )
            )

        found, of = tf.cond(tf.reduce_all(got), lambda: (images, rows), complete)
        views = [] if self.views is None else [self.views]
        return (
            tf.ensure_shape(found, [*rows.shape, *views, *self.image_shape]),
            tf.ensure_shape(of, rows.shape),
        )

    def try_example(self, row: int) -> np.ndarray | None:
        """`example`, or None if it cannot be read; then it is listed, once."""
        if row in self._unreadable:
            return None
        try:
            return self.example(row)
        except Unreadable as error:
            line = f"{self.name_of(row)}: {error}"
        if self.on_damage == "stop":
            raise ValueError(f'{line}. With on_damage="skip" it is left out.')
        with self._lock:
            if row not in self._unreadable:
                self._unreadable.add(row)
                self.skipped.append(line)
                logging.getLogger("keras_contrastive").info("left out %s", line)
        return None

    def _complete(self, images, got, rows):
        return complete(images, got, rows, self.try_example, self._candidates)

    def _candidates(self, row: int):
        return followers(row, len(self), self.labels)


def complete(images, got, rows, try_example, candidates) -> tuple:
    """Read in Python what could not be read in TensorFlow, and replace what cannot be read at all.

    Args:
        images: `(*rows.shape, ...)`.
        got: bool, of the shape of `rows`: the image is there.
        rows: int64 `(batch,)` or `(batch, k)`.
        try_example: Function from a row to its image, or None.
        candidates: Function from a row to those that may take its place, the best first.

    Returns:
        The images, and the rows that they are.
    """
    images, rows, got = images.copy(), rows.copy(), got.copy()
    wanted = np.unique(rows[~got]).tolist()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(wanted, pool.map(try_example, wanted)))
    rows_of, images_of = rows, images
    if rows.ndim == 1:
        rows_of, images_of, got = rows[:, None], images[:, None], got[:, None]
    for at in np.flatnonzero(~got.all(axis=1)):
        for row in np.unique(rows_of[at][~got[at]]).tolist():
            image, places = found[row], rows_of[at] == row
            if image is None:
                beside = set(rows_of[at].tolist())
                tried = itertools.islice(candidates(row), TRIES)
                row, image = _first_readable(tried, beside, try_example)
            rows_of[at][places] = row
            images_of[at][places] = image
    return images, rows


def followers(row: int, count: int, labels):
    """The rows from `row` on, and round again: first those of its class."""
    rows = np.arange(count)
    if labels is not None and labels[row] >= 0:
        same = np.flatnonzero(labels == labels[row])
        yield from np.roll(same, -np.searchsorted(same, row)).tolist()
    yield from np.roll(rows, -row).tolist()


def _first_readable(rows, beside: set, try_example) -> tuple[int, np.ndarray]:
    for row in rows:
        image = None if row in beside else try_example(row)
        if image is not None:
            return row, image
    raise ValueError(
        f"An example cannot be read, nor any of the {TRIES} that could take its place."
    )


class FilePart(DecodedExamples):
    """Image files, read and decoded when they are asked for.

    Files of any size and of the formats `FORMATS`, made RGB and resized as `data.load` does. JPEG and PNG are
    decoded by TensorFlow's own threads, the other formats in Python.

    Args:
        paths: The files, `str` or path-like.
        labels: As of `Part`.
        class_names: As of `Part`.
        image_size: Integer > 0: images are made squares of this side, in pixels.
        on_damage: "skip": a file that cannot be read is replaced in its batch by the next readable one of its
            class (without labels: of all), and listed in `skipped`; "stop": it ends the iteration with an error
            that names it.
        max_pixels: Integer > 0: an image whose header says more is refused before it is decoded; at most
            178,956,970, where Pillow refuses.
        skipped: A list to add "path: reason" to, for every file that cannot be read; None: a new one.

    Raises:
        ValueError: no paths, labels that do not fit, or an option out of its range.
    """

    def __init__(
        self,
        paths,
        labels=None,
        class_names=None,
        *,
        image_size: int = 96,
        on_damage: str = "skip",
        max_pixels: int | None = None,
        skipped: list | None = None,
    ):
        check_integer(1, image_size=image_size)
        if max_pixels is not None:
            check_integer(1, max_pixels=max_pixels)
        if len(paths) == 0:
            raise ValueError("`paths` must not be empty.")
        # As bytes: names need not be valid in any encoding.
        self.paths = np.array([os.fsencode(path) for path in paths], object)
        self.image_size, self.max_pixels = image_size, max_pixels
        self._path_tensor = None
        super().__init__(
            (image_size, image_size, 3),
            *checked_labels(labels, class_names, len(paths)),
            on_damage=on_damage,
            skipped=skipped,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices) -> FilePart:
        return FilePart(
            self.paths[indices],
            None if self.labels is None else self.labels[indices],
            self.class_names,
            image_size=self.image_size,
            on_damage=self.on_damage,
            max_pixels=self.max_pixels,
            skipped=self.skipped,
        )

    @property
    def fingerprint(self) -> int:
        labels = b"" if self.labels is None else self.labels.tobytes()
        return zlib.crc32(labels, zlib.crc32(b"\0".join(self.paths)))

    def name_of(self, row: int) -> str:
        return os.fsdecode(self.paths[row])

    @property
    def content(self) -> list:
        return [(path, *_size_and_date(path)) for path in self.paths.tolist()]

    def example(self, row: int) -> np.ndarray:
        image = read_image(self.name_of(row), self.max_pixels)
        with tf.device("CPU:0"):
            return resize(image, self.image_size).numpy()

    def attempt(self, rows):
        if self._path_tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._path_tensor = tf.constant(self.paths, tf.string)
        return decode_in_chunks(
            tf.gather(self._path_tensor, rows),
            lambda paths: [tf.io.read_file(path) for path in tf.unstack(paths)],
            self.image_shape,
            self.max_pixels,
        )


def _size_and_date(path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def decode_in_chunks(
    items: tf.Tensor, read, image_shape: tuple, max_pixels: int | None, sized=True
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode plain JPEG and PNG images `CHUNK` at a time, where one that fails costs its chunk alone.

    Args:
        items: String `(m,)`.
        read: Function from `(CHUNK,)` items to a list of the encoded images.
        image_shape: `(h, w, c)`.
        max_pixels: Integer, or None for `MAX_PIXELS`.
        sized: Images are resized to `image_shape`, a square. If not, others than of this shape fail.

    Returns:
        uint8 `(m, h, w, c)`, and bool `(m,)`: the image was decoded.
    """
    max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
    count = tf.shape(items)[0]
    chunks = -(-count // CHUNK)
    padded = tf.gather(items, tf.minimum(tf.range(chunks * CHUNK), count - 1))

    def decode_chunk(number, items):
        images = [
            _decode_plain(encoded, image_shape[2], max_pixels)
            for encoded in read(items)
        ]
        fits = [tf.reduce_all(tf.shape(i)[:2] == image_shape[:2]) for i in images]

        def as_they_are():
            return tf.stack([tf.ensure_shape(image, image_shape) for image in images])

        def resized():
            return tf.stack([resize(image, image_shape[0]) for image in images])

        if not sized:
            return number, as_they_are()
        return number, tf.cond(tf.reduce_all(fits), as_they_are, resized)

    dataset = tf.data.Dataset.from_tensor_slices(
        (tf.range(chunks), tf.reshape(padded, [chunks, CHUNK]))
    )
    decoded = dataset.map(
        decode_chunk, num_parallel_calls=os.cpu_count(), deterministic=True
    )
    nothing = (tf.zeros([0], tf.int32), tf.zeros([0, CHUNK, *image_shape], tf.uint8))
    together = (
        decoded.ignore_errors()
        .batch(2**31 - 1)
        .concatenate(tf.data.Dataset.from_tensors(nothing))
    )
    numbers, images = together.take(1).get_single_element()
    got = tf.scatter_nd(numbers[:, None], tf.ones_like(numbers), [chunks]) > 0
    images = tf.cond(
        tf.reduce_all(got),
        lambda: images,
        lambda: tf.scatter_nd(
            numbers[:, None], images, tf.stack([chunks, CHUNK, *image_shape])
        ),
    )
    images = tf.reshape(images, tf.stack([chunks * CHUNK, *image_shape]))[:count]
    return images, tf.repeat(got, CHUNK)[:count]


def _decode_plain(encoded: tf.Tensor, channels: int, max_pixels: int) -> tf.Tensor:
    """Decode a JPEG or PNG that is upright and not too large; anything else fails."""

    def of_png():
        size = tf.io.decode_raw(
            tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False
        )
        return size, tf.strings.regex_full_match(encoded, r"\C*(?:eXIf|exif)\C*")

    def of_jpeg():
        size = tf.io.extract_jpeg_shape(encoded)[:2]
        head = tf.strings.substr(encoded, 0, 2**16)  # EXIF stands first
        return size, tf.strings.regex_full_match(head, _TURNED)

    is_png = tf.strings.substr(encoded, 0, len(PNG_START)) == PNG_START
    is_jpeg = tf.strings.substr(encoded, 0, len(JPEG_START)) == JPEG_START
    known = tf.debugging.Assert(is_png | is_jpeg, ["another format"])
    with tf.control_dependencies([known]):
        size, turned = tf.cond(is_png, of_png, of_jpeg)
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    plain = tf.debugging.Assert((pixels <= max_pixels) & ~turned, ["not plain"])
    with tf.control_dependencies([plain]):
        return decode(encoded, channels)


def decode_all(part: DecodedExamples, images, start: int = 0, saved=None) -> np.ndarray:
    """Read all examples of `part` into `images`, in order; every few seconds say on stderr how far that is.

    Args:
        part: The examples.
        images: uint8 `(n, h, w, c)`, written to.
        start: Where to begin.
        saved: Function called now and then with the number of the next example, or None.

    Returns:
        bool `(n,)`: which ones could be read; those before `start` count as read.
    """
    readable = np.ones(len(part), bool)
    attempt = tf.function(
        part.attempt, input_signature=[tf.TensorSpec([None], tf.int64)]
    )
    due = time.monotonic() + PROGRESS_SECONDS
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for at in range(start, len(part), 16 * CHUNK):
            rows = np.arange(at, min(at + 16 * CHUNK, len(part)))
            with tf.device("CPU:0"):
                found, got = (tensor.numpy() for tensor in attempt(rows))
            images[rows] = found
            missing = rows[~got].tolist()
            for row, image in zip(missing, pool.map(part.try_example, missing)):
                readable[row] = image is not None
                if image is not None:
                    images[row] = image
            if time.monotonic() > due:
                done = rows[-1] + 1
                print(f"Reading {part}: {done} of {len(part)} images", file=sys.stderr)
                due = time.monotonic() + PROGRESS_SECONDS
                if saved is not None:
                    saved(int(done), readable)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C do not read the rest
    return readable


def read_into_memory(part: DecodedExamples) -> tuple[Part, np.ndarray]:
    """What can be read of `part`, decoded now, and which examples these are, int64 `(m,)`."""
    images = np.empty((len(part), *part.image_shape), np.uint8)
    readable = decode_all(part, images)
    if not readable.any():
        raise ValueError(
            f"Found {len(part)} files, none of which can be read. The first: {part.skipped[0]}"
        )
    labels = None if part.labels is None else part.labels[readable]
    images = images if readable.all() else images[readable]
    return Part(images, labels, part.class_names), np.flatnonzero(readable)


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
        raise Unreadable(error.strerror or str(error)) from error


def read_bytes(
    encoded: bytes, max_pixels: int | None = None, channels: int = 3
) -> np.ndarray:
    """`read_image` of a file's content; with `channels` 1, as grey."""
    from PIL import Image, UnidentifiedImageError

    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        if not encoded:
            raise Unreadable("empty file")
        # Reads the header only.
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
            if width * height > limit:
                raise Unreadable(
                    f"{width} x {height} pixels, above the limit of {limit}"
                )
            turn = _orientation(image, encoded)
            if encoded.startswith((JPEG_START, PNG_START)):
                pixels = decode(encoded, channels).numpy()
            else:
                pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
                pixels = pixels.reshape(height, width, channels)
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(
            f"not an image in one of the formats {', '.join(FORMATS)}"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        raise Unreadable("damaged image data") from error
    except Exception as error:  # damaged headers make Pillow raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(reason.splitlines()[0]) from error
    return _UPRIGHT[turn](pixels)


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


def _orientation(image, encoded: bytes) -> int:
    # Pillow decodes the whole PNG before it answers, so it is asked only where there is something to find.
    if (
        encoded.startswith(PNG_START)
        and b"eXIf" not in encoded
        and b"exif" not in encoded
    ):
        return 1
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unreadable
        return 1
    return turn if turn in _UPRIGHT else 1
