"""Negatives sampled on the fly: triplets drawn anew every epoch."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_contrastive._random import fold, integers, make_key, shuffled
from keras_contrastive.data.batches import (
    batch_positions,
    check_arguments,
    host_tensor,
    passes,
)
from keras_contrastive.data.part import Part

# Keeps these draws apart from whatever else is drawn from the same seed and small numbers.
_SAMPLING = 2**40


def triplets(
    part: Part,
    batch_size: int,
    *,
    seed: int = 0,
    by: str = "instance",
    epoch: int = 0,
    step: int = 0,
) -> tf.data.Dataset:
    """Give every example once an epoch as an anchor, with a positive and a negative drawn for it.

    By instance, the positive is the anchor itself (augmentation tells the two apart) and the negative any
    other example. By label, the positive is another example of the anchor's class and the negative one of
    another class; every candidate is equally likely. No example is ever its own negative. Anchors come in the
    order of `batches`; passes, epochs, `step` and cardinality are as described there. The draws are a function
    of (seed, epoch, step).

    By label, examples alone in their class are no anchors (they serve as negatives), and examples of unknown
    class (-1) take no part. An epoch is then as much shorter.

    Args:
        part: The images.
        batch_size: Integer from 1 to the number of anchors.
        seed: Integer >= 0.
        by: "instance" or "label".
        epoch: Integer >= 0: the epoch of the first pass.
        step: Integer >= 0: how many batches of that epoch are passed over.

    Returns:
        Dataset of `(images, ids)`: uint8 `(batch_size, 3, h, w, c)`, anchor, positive, negative; int64
        `(batch_size, 3)`, `(a, a, n)` with a and n the examples' numbers or, by label, their classes.

    Raises:
        ValueError: an argument is outside its range, or no triplet can be drawn: fewer than two examples or,
            by label, no labels, fewer than two classes, or no class with two examples.
    """
    check_arguments(part, batch_size, seed=seed, by=by, epoch=epoch)
    count, draw = _by_label(part) if by == "label" else _by_instance(part)
    if batch_size > count:
        raise ValueError(
            f"`batch_size` must not be above the number of anchors, {count} (examples whose class has "
            f"another). Received: batch_size={batch_size}."
        )
    images = part.image_tensor

    def gather(epoch, step):
        positions = shuffled(batch_positions(step, batch_size), count, seed, epoch)
        rows, ids = draw(positions, fold(make_key(seed, epoch), _SAMPLING + step))
        return tf.gather(images, rows), ids

    dataset = passes(count // batch_size, epoch, step).map(gather)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _by_instance(part: Part):
    """The number of anchors, and a function from anchors and a key to rows `(batch, 3)` and ids `(batch, 3)`."""
    count = len(part)
    if count < 2:
        raise ValueError(
            f"A negative needs a second example. Received: a part of {count} image."
        )

    def draw(anchors, key):
        others = integers(key, tf.shape(anchors), count - 1)
        negatives = _skipping(others, anchors, 1)
        rows = tf.stack([anchors, anchors, negatives], axis=1)  # (batch, 3)
        return rows, rows

    return count, draw


def _by_label(part: Part):
    """As `_by_instance`. Examples are sorted by class, so that a class is a range and a draw is arithmetic."""
    known = np.flatnonzero(part.labels >= 0)
    by_class = known[np.argsort(part.labels[known], kind="stable")]  # place -> example
    names, first, size = np.unique(
        part.labels[by_class], return_index=True, return_counts=True
    )
    _check_classes(part, names, size)
    first, size = np.repeat(first, size), np.repeat(size, size)  # at each place
    total = len(by_class)
    anchors = np.flatnonzero(size > 1)  # places
    anchors = anchors[np.argsort(by_class[anchors])]  # in the examples' order
    count = len(anchors)
    by_class, first, size, anchors, labels = map(
        host_tensor, (by_class, first, size, anchors, part.labels)
    )

    def draw(positions, key):
        anchor = tf.gather(anchors, positions)  # (batch,)
        start, length = tf.gather(first, anchor), tf.gather(size, anchor)
        choices = tf.stack([length - 1, total - length])  # (2, batch)
        positive, negative = tf.unstack(integers(key, tf.shape(choices), choices))
        positive = _skipping(start + positive, anchor, 1)
        negative = _skipping(negative, start, length)
        places = tf.stack([anchor, positive, negative], axis=1)  # (batch, 3)
        rows = tf.gather(by_class, places)
        return rows, tf.gather(labels, rows)

    return count, draw


def _skipping(numbers: tf.Tensor, start: tf.Tensor, length) -> tf.Tensor:
    """Count on past a gap: numbers from `start` on move up by `length`, so that none falls into the gap."""
    return tf.where(numbers >= start, numbers + length, numbers)


def _check_classes(part: Part, classes: np.ndarray, sizes: np.ndarray) -> None:
    named = [part.class_names[k] if part.class_names else str(k) for k in classes[:5]]
    listed = ", ".join(named) + (", ..." if len(classes) > 5 else "")
    if len(classes) < 2:
        raise ValueError(
            '`by="label"` needs two classes, or there is no negative. '
            f'Found {len(classes)}: {listed or "none"}; add classes, or use by="instance".'
        )
    if sizes.max() < 2:
        raise ValueError(
            "No class has two images, so no positive pair can be drawn. "
            f'Found {len(classes)} classes of 1 image: {listed}; add images, or use by="instance".'
        )
