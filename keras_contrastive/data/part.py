"""Sets of examples: what every pipeline of this package starts from. `Part` holds its images in memory."""

from __future__ import annotations

import abc
import copy
import zlib

import numpy as np
import tensorflow as tf

from keras_contrastive import _random
from keras_contrastive._checks import check_integer


class Examples(abc.ABC):
    """Images with random access, with or without labels, wherever they are.

    `Part` holds them in memory, `FilePart` and `RecordPart` read them from disk when they are asked for,
    `MappedPart` from a cache of decoded images on disk; `Given` holds pairs or triplets of them.

    Attributes:
        labels: int64 array `(n,)`, or None. A class is >= 0; -1 means unknown.
        class_names: List of str, or None.
        image_shape: `(h, w, c)`.
        skipped: A line "name: reason" for every example that could not be read so far.
    """

    views = None  # how many images an example has, where it is not one

    def __init__(self, labels=None, class_names=None, skipped=None):
        self.labels, self.class_names = labels, class_names
        self.skipped = [] if skipped is None else skipped

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @property
    @abc.abstractmethod
    def image_shape(self) -> tuple[int, int, int]: ...

    @abc.abstractmethod
    def take(self, indices) -> Examples:
        """The examples at `indices`, integers `(k,)`, as a set of their own."""

    @abc.abstractmethod
    def read(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The images of examples, inside a `tf.data` pipeline or eagerly.

        Args:
            rows: int64 `(batch,)` or `(batch, k)`, in 0..n-1.

        Returns:
            uint8 `(*rows.shape, h, w, c)`, and the rows that they are: others than asked for where an example
            could not be read and another takes its place.
        """

    @property
    @abc.abstractmethod
    def fingerprint(self) -> int:
        """A number for which examples these are: of their pixels in memory, of the names of files, of checksums."""

    @property
    def images(self) -> np.ndarray:
        """All images, uint8 `(n, h, w, c)`, read into memory now."""
        return np.concatenate(list(self.in_order(256).as_numpy_iterator()))

    def in_order(self, batch_size: int) -> tf.data.Dataset:
        """All images in their order, once: for `model.predict`. uint8 `(batch_size or fewer, h, w, c)`.

        What cannot be read is replaced, as in `read`; `in_memory()` leaves it out.
        """
        rows = tf.data.Dataset.range(len(self)).batch(batch_size)
        return rows.map(lambda rows: self.read(rows)[0]).prefetch(tf.data.AUTOTUNE)

    def in_memory(self) -> Part:
        """These examples as a `Part`, without what cannot be read."""
        return Part(self.images, self.labels, self.class_names)

    def ids(self, rows: tf.Tensor, by: str) -> tf.Tensor:
        """What the loss compares by: the examples' numbers, or their classes. int64, of the shape of `rows`."""
        if by == "instance":
            return rows
        return tf.gather(host_tensor(self.labels), rows)

    def __repr__(self) -> str:
        kind = {None: "images", 2: "pairs", 3: "triplets"}[self.views]
        known = "no labels"
        if self.labels is not None:
            known = f"{len(np.unique(self.labels))} classes"
        return (
            f"{type(self).__name__}({len(self)} {kind} of {self.image_shape}, {known})"
        )


class Part(Examples):
    """Images in memory, checked once, and what is known about them.

    Args:
        images: `(n, h, w, c)`, or grey `(n, h, w)`, which gains a channel; n > 0. uint8 in 0..255, or float in
            0..1, which is rounded to uint8. They are copied.
        labels: Integers `(n,)` or `(n, 1)` of any width, or None. A class is >= 0; -1 means unknown.
        class_names: One name for each class, or None.

    Attributes:
        images: uint8 array `(n, h, w, c)`, read-only.
        labels: int64 array `(n,)`, or None.
        class_names: List of str, or None.
        image_shape: `(h, w, c)`.
        image_tensor: `images` as a tensor in host memory, to which every dataset of this part refers.

    Raises:
        ValueError: wrong rank or dtype, no images, NaN or values out of range, labels that do not fit.
    """

    images = None

    def __init__(self, images, labels=None, class_names=None):
        self.image_tensor = host_tensor(_checked_images(images))
        # The tensor's own memory, read-only: no second copy.
        self.images = np.asarray(memoryview(self.image_tensor))
        super().__init__(*checked_labels(labels, class_names, len(self.images)))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    def take(self, indices) -> Part:
        labels = None if self.labels is None else self.labels[indices]
        return Part(self.images[indices], labels, self.class_names)

    def read(self, rows):
        return tf.gather(self.image_tensor, rows), rows

    def in_memory(self) -> Part:
        return self

    @property
    def fingerprint(self) -> int:
        return zlib.crc32(self.images)


def host_tensor(array) -> tf.Tensor:
    """`array` as a tensor in host memory, where `tf.data` runs."""
    with tf.init_scope(), tf.device("CPU:0"):  # never as a constant in a graph
        return tf.convert_to_tensor(array)


def checked_labels(labels, class_names, n: int):
    """`labels` as int64 `(n,)` and `class_names` as strings, or None each."""
    if labels is not None:
        labels = _checked_labels(labels, n)
    if class_names is not None:
        class_names = [str(name) for name in class_names]
    if class_names is not None and labels is not None:
        if labels.max() >= len(class_names):
            raise ValueError(
                "`class_names` must have a name for every class in `labels`. "
                f"Received: {len(class_names)} names, and label {labels.max()}."
            )
    return labels, class_names


def hold_out(
    part: Examples, seed: int, size: int | None = None, *, groups=None
) -> tuple[Examples, Examples]:
    """Split off a test part, stratified by label where there are labels.

    Every class gives its share, rounded down or up so that the sizes add up; the examples keep their order.

    Args:
        part: What to split; at least 2 examples.
        seed: Integer >= 0. The same seed gives the same split.
        size: How many are held out. None: a fifth, at least one.
        groups: Integers `(n,)`: examples of one number stay together, those of -1 are alone; a fifth of the groups
            is held out, whatever the labels.

    Returns:
        `(train, test)`: disjoint, together the whole.
    """
    n = len(part)
    if n < 2:
        raise ValueError(
            f"A test part can only be held out of 2 images or more. Received: {n} image. "
            "Add images, or a test part."
        )
    if groups is not None:
        return _hold_out_groups(part, seed, groups)
    size = max(1, round(n / 5)) if size is None else size
    strata = np.zeros(n, np.int64) if part.labels is None else part.labels
    # Epoch -1: the split must not be the order of an epoch in which the same examples are seen.
    order = _random.shuffled(np.arange(n), n, seed, -1).numpy()
    # By class, shuffled within each.
    order = order[np.argsort(strata[order], kind="stable")]
    _, starts, counts = np.unique(strata[order], return_index=True, return_counts=True)
    quotas = _shares(counts, size, seed)
    is_test = np.zeros(n, bool)
    for start, quota in zip(starts, quotas):
        is_test[order[start : start + quota]] = True
    return _split(part, is_test)


def keep_labels(part: Examples, per_class: int, *, seed: int = 0) -> Examples:
    """The same examples, of which a few in each class keep their label and all others are unknown (-1).

    Args:
        part: Examples with labels.
        per_class: Integer >= 1: how many of each class; of a smaller class, all.
        seed: Integer >= 0. The same seed keeps the same ones, and of a larger number the first are those of a smaller.

    Returns:
        A shallow copy of `part` with other `labels`.

    Raises:
        ValueError: `part` has no labels, or `per_class` is below 1.
    """
    check_integer(1, per_class=per_class)
    if part.labels is None:
        raise ValueError("`part` must have labels. Received: a part without.")
    n = len(part)
    # Epoch -2: neither the order of an epoch nor that of the split.
    order = _random.shuffled(np.arange(n), n, seed, -2).numpy()
    labels = np.full(n, -1, np.int64)
    for label in np.unique(part.labels[part.labels >= 0]):
        labels[order[part.labels[order] == label][:per_class]] = label
    copied = copy.copy(part)
    copied.labels = labels
    return copied


def _hold_out_groups(part, seed, groups) -> tuple[Examples, Examples]:
    groups = np.where(groups < 0, -2 - np.arange(len(part)), groups)
    _, group = np.unique(groups, return_inverse=True)
    count = group.max() + 1
    if count < 2:
        raise ValueError(
            "A test part can only be held out of 2 pair ids or more. Received: one."
        )
    order = _random.shuffled(np.arange(count), count, seed, -1).numpy()
    return _split(part, order[group] < max(1, round(count / 5)))


def _split(part, is_test) -> tuple[Examples, Examples]:
    return part.take(np.flatnonzero(~is_test)), part.take(np.flatnonzero(is_test))


def _shares(counts: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Integers that add up to `size`, each `counts * size / sum` rounded down or up (largest remainders)."""
    exact = counts * size
    shares, remainders = exact // counts.sum(), exact % counts.sum()
    # Equal remainders are frequent (equal classes): chance decides then, not the order of the class names.
    chance = _random.shuffled(np.arange(len(counts)), len(counts), seed, -1).numpy()
    shares[np.lexsort((chance, -remainders))[: size - shares.sum()]] += 1
    return shares


def _checked_images(images) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"`images` must be uint8 or float in 0..1. Received: images.dtype={images.dtype}."
        )
    if images.ndim not in (3, 4):
        raise ValueError(
            f"`images` must have shape (n, h, w, c), or (n, h, w). Received: images.shape={images.shape}."
        )
    if images.size == 0:
        raise ValueError(
            f"`images` must not be empty. Received: images.shape={images.shape}."
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise ValueError(
            f"`images` must have their channels last. Received: images.shape={images.shape}. "
            "Use np.moveaxis(images, 1, -1)."
        )
    if images.dtype != np.uint8:
        images = _rounded(images)
    return images


def _rounded(images: np.ndarray) -> np.ndarray:
    low, high = float(images.min()), float(images.max())  # NaN comes through both
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            "Float `images` must be finite and in 0..1. "
            f"Received: {images.dtype} with minimum {low:g} and maximum {high:g}. "
            "Give 0..255 as uint8."
        )
    rounded = np.empty(images.shape, np.uint8)
    for row, image in zip(rounded, images):  # row by row: no second copy in floats
        row[...] = np.rint(image.astype(np.float32, copy=False) * 255.0)
    return rounded


def _checked_labels(labels, n: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise ValueError(
            f"`labels` must be one for each image, shape ({n},). Received: labels.shape={labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be integers. Received: labels.dtype={labels.dtype}."
        )
    if labels.min() < -1 or labels.max() > np.iinfo(np.int64).max:
        raise ValueError(
            "`labels` must be classes from 0, or -1 for unknown. "
            f"Received: {labels.min()} to {labels.max()}."
        )
    return labels.astype(np.int64)
