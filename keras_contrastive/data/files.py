"""Image files, decoded when they are asked for. Damaged ones are replaced in their batch, and listed."""

from __future__ import annotations

import abc
import copy
import itertools
import os
import stat
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_integer
from keras_contrastive.data.decoder import (
    FORMATS,
    Decoder,
    Unreadable,
    read_image,
)
from keras_contrastive.data.part import Examples, Part, checked_labels

PROGRESS_SECONDS = 5.0
TRIES = 1000  # how many examples are tried in place of one that cannot be read


class DecodedExamples(Examples):
    """Examples that are decoded when they are asked for, and may turn out to be unreadable.

    In place of an example that cannot be read comes another, with its own id: the next readable one of the same class
    or, without one, of any. In a pair or triplet it is never one that stands beside it, nor of another class: where
    there is none, another pair or triplet of the batch comes again. It depends on the examples alone, so that a
    resumed run sees the same ones.

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

    def read(self, rows):
        views = [] if self.views is None else [self.views]
        shape = (*views, *self.image_shape)
        return read_completely(rows, shape, self.attempt, self.complete)

    def in_memory(self) -> Part:
        return read_into_memory(self)[0]

    @property
    def images(self) -> np.ndarray:
        if self.views is not None:
            return super().images
        part, kept = read_into_memory(self)
        if len(kept) < len(self):
            raise ValueError(
                f"{len(self) - len(kept)} of {len(self)} examples cannot be read; `in_memory()` leaves them out. "
                f"The first: {self.skipped[0]}"
            )
        return part.images

    @abc.abstractmethod
    def key(self, row: int):
        """What an unreadable example is remembered by, here and in sets taken of this one."""

    def _taken(self, indices, **changed) -> DecodedExamples:
        """A copy with other examples, that shares the list of what cannot be read."""
        taken = copy.copy(self)
        if self.labels is not None:
            changed["labels"] = self.labels[indices]
        vars(taken).update(changed)
        return taken

    def try_example(self, row: int) -> np.ndarray | None:
        """`example`, or None if it cannot be read; then it is listed, once."""
        return self.settle(row, self.outcome(row))

    def try_examples(self, rows: list[int]) -> dict:
        """`try_example` of several, in threads; they are listed in the order of `rows`."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(pool.map(self.outcome, rows))
        return {row: self.settle(row, found) for row, found in zip(rows, outcomes)}

    def outcome(self, row: int):
        """`example`, or why it cannot be read; None where that is known already."""
        if self.key(row) in self._unreadable:
            return None
        try:
            return self.example(row)
        except Unreadable as error:
            return error

    def settle(self, row: int, outcome) -> np.ndarray | None:
        """The example of an `outcome`, or None; then it is listed, or stops what reads it."""
        if not isinstance(outcome, Unreadable):
            return outcome
        line = f"{self.name_of(row)}: {outcome}"
        if self.on_damage == "stop":
            raise ValueError(f'{line}. With on_damage="skip" it is left out.')
        with self._lock:
            if self.key(row) not in self._unreadable:
                self._unreadable.add(self.key(row))
                self.skipped.append(line)
        return None

    def complete(self, images, got, rows) -> tuple:
        """Read in Python what could not be read in TensorFlow, and replace what cannot be read at all.

        Args:
            images: `(*rows.shape, ...)`.
            got: bool, of the shape of `rows`: the image is there.
            rows: int64 `(batch,)` or `(batch, k)`.

        Returns:
            The images, and the rows that they are.
        """
        images, rows, got = images.copy(), rows.copy(), got.copy()
        wanted = np.unique(rows[~got]).tolist()
        found = self.try_examples(wanted)
        if rows.ndim == 1:
            for at in np.flatnonzero(~got):
                rows[at], images[at] = self._in_place_of(rows[at], found, set(), True)
            return images, rows
        lost = [
            at
            for at in np.flatnonzero(~got.all(axis=1))
            if not self._complete_tuple(images[at], got[at], rows[at], found)
        ]
        for at in lost:  # by another pair or triplet of the batch
            donor = next((k for k in range(len(rows)) if k not in lost), None)
            if donor is None:
                raise ValueError(
                    f"No pair or triplet of a batch of {len(rows)} could be read: {self.skipped[-1]}. "
                    "A larger batch leaves some."
                )
            rows[at], images[at] = rows[donor], images[donor]
        return images, rows

    def _complete_tuple(self, images, got, rows, found) -> bool:
        """`complete` for one pair or triplet, in place. False where it would no longer be of the classes it was."""
        for row in np.unique(rows[~got]).tolist():
            places = rows == row
            other = self._in_place_of(row, found, set(rows.tolist()), False)
            if other is None:
                return False
            rows[places], images[places] = other
        return True

    def _in_place_of(self, row: int, found: dict, beside: set, any_class: bool):
        """The example itself, if it was found, or another that is not in `beside`: its row and its image."""
        if found[row] is not None:
            return row, found[row]
        for candidate in itertools.islice(self._followers(row, any_class), TRIES):
            image = None if candidate in beside else self.try_example(candidate)
            if image is not None:
                return candidate, image
        if any_class:
            raise ValueError(_NO_SUBSTITUTE.format(self.name_of(row)))
        return None

    def _followers(self, row: int, any_class: bool):
        """The rows from `row` on, and round again: those of its class, and perhaps then all."""
        known = self.labels is not None and self.labels[row] >= 0
        if known:
            same = np.flatnonzero(self.labels == self.labels[row])
            yield from np.roll(same, -np.searchsorted(same, row)).tolist()
        if any_class or not known:
            yield from np.roll(np.arange(len(self)), -row).tolist()


_NO_SUBSTITUTE = (
    "{} cannot be read, nor any of up to " + str(TRIES) + " that could take its place."
)


def read_completely(rows: tf.Tensor, shape: tuple, attempt, complete, *more):
    """What TensorFlow reads, and where it cannot read all, what Python makes of that.

    Args:
        rows: int64 `(batch,)` or `(batch, k)`.
        shape: Of one example.
        attempt: Function from flat rows to images and which of them were read, `DecodedExamples.attempt`.
        complete: Function from images, which were read, rows, and `more`, NumPy arrays, to images and rows,
            `DecodedExamples.complete`.
        more: Tensors.

    Returns:
        uint8 `(*rows.shape, *shape)`, and the rows that they are.
    """
    images, got = attempt(tf.reshape(rows, [-1]))
    images = tf.reshape(images, tf.concat([tf.shape(rows), shape], axis=0))
    got = tf.reshape(got, tf.shape(rows))

    def completed():
        inputs, outputs = [images, got, rows, *more], [tf.uint8, tf.int64]
        return tuple(tf.numpy_function(complete, inputs, outputs))

    images, rows_read = tf.cond(tf.reduce_all(got), lambda: (images, rows), completed)
    images = tf.ensure_shape(images, [*rows.shape, *shape])
    return images, tf.ensure_shape(rows_read, rows.shape)


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
        max_pixels: Integer > 0: an image whose header says more is refused before it is decoded; GIF, BMP and WebP at most
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
        if len(paths) == 0:
            raise ValueError("`paths` must not be empty.")
        odd = next((path for path in paths if _blocks(path)), None)
        if odd is not None:
            raise ValueError(
                f"`paths` must be files. Received: a pipe or device, '{odd}'."
            )
        # As bytes: names need not be valid in any encoding.
        self.paths = np.array([os.fsencode(path) for path in paths], object)
        self._path_tensor = None
        self.decoder = Decoder(
            (image_size, image_size, 3),
            max_pixels,
            resizes=_size_of(paths[0]) != (image_size, image_size),
        )
        super().__init__(
            self.decoder.image_shape,
            *checked_labels(labels, class_names, len(paths)),
            on_damage=on_damage,
            skipped=skipped,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices) -> FilePart:
        return self._taken(indices, paths=self.paths[indices], _path_tensor=None)

    def key(self, row: int):
        return self.paths[row]

    @property
    def fingerprint(self) -> int:
        labels = b"" if self.labels is None else self.labels.tobytes()
        return zlib.crc32(labels, zlib.crc32(b"\0".join(self.paths)))

    def name_of(self, row: int) -> str:
        return os.fsdecode(self.paths[row])

    @property
    def content(self) -> list:
        """What a cache of the decoded images depends on: names, sizes, dates."""
        return [(path, *size_and_date(path)) for path in self.paths.tolist()]

    def example(self, row: int) -> np.ndarray:
        return self.decoder.fit(read_image(self.name_of(row), self.decoder.max_pixels))

    def attempt(self, rows):
        if self._path_tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._path_tensor = tf.constant(self.paths, tf.string)
        paths = tf.gather(self._path_tensor, rows)
        return self.decoder.attempt(paths, tf.io.read_file)


def _blocks(path) -> bool:
    """Whether reading might wait for ever. What is not there fails at once, when it is read."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _size_of(path) -> tuple[int, int] | None:
    """Width and height by the header of a file, or None."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its size, which counts later
            with Image.open(os.fsdecode(path), formats=FORMATS) as image:
                return image.size
    except Exception:  # what is wrong with it turns up when it is read
        return None


def size_and_date(path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


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
    for at in range(start, len(part), 256):
        rows = np.arange(at, min(at + 256, len(part)))
        with tf.device("CPU:0"):
            found, got = (tensor.numpy() for tensor in attempt(rows))
        images[rows] = found
        for row, image in part.try_examples(rows[~got].tolist()).items():
            readable[row] = image is not None
            if image is not None:
                images[row] = image
        if time.monotonic() > due:
            done = rows[-1] + 1
            print(f"Reading {part}: {done} of {len(part)} images", file=sys.stderr)
            due = time.monotonic() + PROGRESS_SECONDS
            if saved is not None:
                saved(int(done), readable)
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
