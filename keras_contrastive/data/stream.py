"""Examples that come one after the other: any `tf.data.Dataset`, or one for each of several shards."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import tensorflow as tf

from keras_contrastive._checks import check_choice, check_integer, shape_text
from keras_contrastive._random import shuffled
from keras_contrastive.data.decoder import Decoder
from keras_contrastive.data.files import DecodedExamples, read_completely
from keras_contrastive.data.part import Part


class Stream:
    """Examples without random access, of known or unknown number.

    `data.batches`, `triplets`, `pairs` and `class_balanced` take one in place of a part. They shuffle the order of
    its shards, cut the stream into windows of `buffer` examples, and draw from each window as if it were a part:
    how well a stream is mixed depends on the buffer. An order that any epoch and step can be started at needs a
    stream that always runs the same way, so it must not shuffle itself.

    The number of an example, its id by instance, is its place in the stream; with shards, its place in the shard
    plus 2^32 times the shard's number.

    Args:
        dataset: A `tf.data.Dataset` of images, `(image, label)`, or dictionaries with `image` and perhaps `label`,
            not batched. Images are uint8 `(h, w, c)` of one shape, or scalar strings: the bytes of JPEG or PNG
            files, which are decoded after sampling. Labels are integers, -1 unknown. Or, with `shards`, a function
            from a shard to such a dataset.
        shards: List of str: the shards, such as the names of files; each epoch has another order.
        buffer: Integer > 0: the examples in a window. Three windows are in memory at once.
        image_size: Integer > 0: encoded images are made squares of this side, 96 by default.
        channels: Of encoded images: 3 or 1.
        count: Integer > 0: the number of examples, if it is known and the dataset does not know it.
        on_damage: "skip": an encoded image that cannot be read is replaced by the next one of the window (of its
            class), and listed in `skipped`; "stop": it ends the iteration.
        max_pixels: As of `FilePart`.

    Raises:
        ValueError: the dataset's elements are no such examples, or it is endless (without shards), or there are none.

    Example:
        >>> files = tf.io.gfile.glob("images-*.tfrecord")
        >>> stream = Stream(lambda file: tf.data.TFRecordDataset(file).map(parse), shards=files)
        >>> model.fit(batches(stream, 256), steps_per_epoch=1000, shuffle=False)
    """

    def __init__(
        self,
        dataset: tf.data.Dataset | Callable,
        *,
        shards: list[str] | None = None,
        buffer: int = 4096,
        image_size: int | None = None,
        channels: int = 3,
        count: int | None = None,
        on_damage: str = "skip",
        max_pixels: int | None = None,
    ):
        check_integer(1, buffer=buffer)
        check_choice("channels", channels, [1, 3])
        check_choice("on_damage", on_damage, ["skip", "stop"])
        for name, value in {"image_size": image_size, "count": count}.items():
            if value is not None:
                check_integer(1, **{name: value})
        if callable(dataset) != (shards is not None):
            raise ValueError(
                "`dataset` must be a tf.data.Dataset, or, with `shards`, a function from a shard to one. "
                f"Received: {type(dataset).__name__}, shards={shards!r}."
            )
        if shards is not None and not len(shards):
            raise ValueError("`shards` must not be empty. Received: no shards.")
        self._dataset, self._shards = dataset, shards
        self.buffer, self.on_damage = buffer, on_damage
        self.skipped, self.unreadable = [], set()
        first = dataset(tf.constant(shards[0])) if shards else dataset
        image, label = _image_and_label(first.element_spec)
        self.labelled = label is not None
        self._encoded = image.dtype == tf.string
        if self._encoded:
            size = image_size or 96
            self.image_shape = (size, size, channels)
            self.decoder = Decoder(self.image_shape, max_pixels)
        else:
            self.image_shape = tuple(image.shape)
        self.count = count or _count(dataset, shards)

    def ordered(self, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
        """`(number, image, label)` of all examples, with the shards in the order of the epoch."""
        if self._shards is None:
            return self._dataset.enumerate().map(_example)
        shards = tf.constant(self._shards)
        count = len(self._shards)
        order = shuffled(tf.range(count, dtype=tf.int64), count, seed, epoch)

        def of_shard(number):
            examples = self._dataset(tf.gather(shards, number)).enumerate(
                number * 2**32
            )
            return examples.map(_example)

        return tf.data.Dataset.from_tensor_slices(order).flat_map(of_shard)

    def read(self, rows: tf.Tensor, window: tuple) -> tuple[tf.Tensor, tf.Tensor]:
        """The images of `rows` of a window, and the rows that they are. As `Examples.read`."""
        _, images, _ = window
        if not self._encoded:
            return tf.gather(images, rows), rows

        def attempt(rows):
            return self.decoder.attempt(tf.gather(images, rows), tf.identity)

        def complete(found, got, rows, *window):
            return _Window(self, *window).complete(found, got, rows)

        return read_completely(rows, self.image_shape, attempt, complete, *window)

    def __repr__(self) -> str:
        count = "unknown number of" if self.count is None else self.count
        known = "labelled" if self.labelled else "no labels"
        return f"Stream({count} images of {self.image_shape}, {known})"

    def windows(self, size: int, start: int = 0):
        """Yield the stream in pieces of `size` examples, as sets of examples: eagerly, for who reads it once."""
        ordered = self.ordered(0, tf.constant(0, tf.int64)).skip(start).batch(size)
        for numbers, images, labels in ordered.as_numpy_iterator():
            if self._encoded:
                yield _Window(self, numbers, images, labels)
            else:
                yield Part(images, labels if self.labelled else None)


class _Window(DecodedExamples):
    """A piece of a stream of encoded images."""

    def __init__(self, stream, numbers, encoded, labels):
        super().__init__(
            stream.image_shape,
            labels if stream.labelled else None,
            None,
            on_damage=stream.on_damage,
            skipped=stream.skipped,
        )
        self._stream, self._numbers, self._bytes = stream, numbers, encoded
        self._unreadable = stream.unreadable  # over all windows

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self, indices) -> _Window:
        return self._taken(
            indices, _numbers=self._numbers[indices], _bytes=self._bytes[indices]
        )

    @property
    def fingerprint(self) -> int:
        return zlib.crc32(b"\0".join(self._bytes))

    def key(self, row: int):
        return int(self._numbers[row])

    def name_of(self, row: int) -> str:
        return f"example {self._numbers[row]}"

    def example(self, row: int):
        return self._stream.decoder.decode(self._bytes[row])

    def attempt(self, rows):
        encoded = tf.gather(tf.constant(self._bytes, tf.string), rows)
        return self._stream.decoder.attempt(encoded, tf.identity)


def _example(number, *element) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    image, label = _image_and_label(element if len(element) > 1 else element[0])
    label = -1 if label is None else label
    return number, image, tf.reshape(tf.cast(label, tf.int64), [])


def _image_and_label(element):
    if isinstance(element, dict):
        image, label = element.get("image"), element.get("label")
    elif isinstance(element, tuple):
        image, label = (*element, None)[:2] if 1 <= len(element) <= 2 else (None, None)
    else:
        image, label = element, None
    spec = image if isinstance(image, tf.TypeSpec) else None
    if spec is None and not tf.is_tensor(image):
        raise ValueError(_refusal(element))
    if spec is not None and not _is_image(spec):
        raise ValueError(_refusal(element))
    if label is not None and not label.dtype.is_integer:
        raise ValueError(_refusal(element))
    return image, label


def _is_image(spec) -> bool:
    if spec.dtype == tf.string:
        return spec.shape.rank == 0
    whole = spec.shape.rank == 3 and spec.shape.is_fully_defined()
    return whole and spec.dtype == tf.uint8


def _refusal(element) -> str:
    specs = tf.nest.flatten(element)
    found = ", ".join(f"{s.dtype.name} {shape_text(s.shape)}" for s in specs)
    return (
        "`dataset` must have elements `image`, `(image, label)` or {'image': ..., 'label': ...}, not batched: images "
        "uint8 of one known shape (h, w, c), or strings with the bytes of a JPEG or PNG; labels integers. "
        f"Received: {found}."
    )


def _count(dataset, shards) -> int | None:
    if shards is not None:
        return None
    count = int(dataset.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`dataset` must end, or there is no epoch. Received: an endless one; leave out its `repeat()`."
        )
    return None if count == tf.data.UNKNOWN_CARDINALITY else count
