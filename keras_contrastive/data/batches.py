"""Shuffled batches of a part, whose order is a function of (seed, epoch)."""

from __future__ import annotations

import tensorflow as tf

from keras_contrastive._checks import check_choice, check_integer
from keras_contrastive._random import shuffled
from keras_contrastive.data.part import Part


def batches(
    part: Part,
    batch_size: int,
    *,
    seed: int = 0,
    by: str = "instance",
    epoch: int = 0,
    step: int = 0,
) -> tf.data.Dataset:
    """Shuffle the whole part anew every epoch and give it in batches.

    One pass over the dataset is one epoch, in which every example comes once (those of an incomplete last
    batch are left out, others each epoch); the next pass *of the same dataset object* is the next epoch. A
    pass counts from its first batch on, also if it is left early: looking at one batch uses up an epoch.

    The order is computed, not stored: it takes no memory, and any epoch and step can be started at. With
    `step` > 0 the first pass is shorter than those that follow, so the dataset reports an unknown cardinality
    (a fixed one would make Keras cut the later epochs short). Resume a cut epoch like this:

        rest = batches(part, batch_size, seed=seed, epoch=e, step=s)
        model.fit(rest, initial_epoch=e, epochs=e + 1, steps_per_epoch=len(part) // batch_size - s)
        model.fit(batches(part, batch_size, seed=seed, epoch=e + 1), initial_epoch=e + 1, epochs=n)

    For validation, where every pass should be the same, append `.cache()`.

    Args:
        part: The images.
        batch_size: Integer from 1 to `len(part)`.
        seed: Integer >= 0.
        by: What the ids are: "instance", the examples' numbers; "label", their classes.
        epoch: Integer >= 0: the epoch of the first pass.
        step: Integer >= 0: how many batches of that epoch are passed over.

    Returns:
        Dataset of `(images, ids)`: uint8 `(batch_size, h, w, c)` and int64 `(batch_size,)`, prefetched. Its
        cardinality is `len(part) // batch_size`, or unknown if `step` > 0.

    Raises:
        ValueError: an argument is outside its range, or `by="label"` and the part has no labels.
    """
    check_arguments(part, batch_size, seed=seed, by=by, epoch=epoch)
    count = len(part)
    images = part.image_tensor
    labels = host_tensor(part.labels) if by == "label" else None

    def gather(epoch, step):
        positions = batch_positions(step, batch_size)
        rows = shuffled(positions, count, seed, epoch)  # (batch,)
        ids = rows if labels is None else tf.gather(labels, rows)
        return tf.gather(images, rows), ids

    dataset = passes(count // batch_size, epoch, step).map(gather)
    return dataset.prefetch(tf.data.AUTOTUNE)


def passes(steps: int, epoch: int, step: int) -> tf.data.Dataset:
    """The `(epoch, step)` of every batch: each pass over this dataset runs through the next epoch.

    Args:
        steps: Integer > 0: the number of batches in a whole epoch.
        epoch: Integer: the epoch of the first pass.
        step: Integer: where in it the first pass starts.

    Returns:
        Dataset of two int64 scalars. Its cardinality is `steps`, or unknown if `step` > 0.

    Raises:
        ValueError: `step` is not within the epoch.
    """
    check_integer(0, step=step)
    if step >= steps:
        raise ValueError(
            f"`step` must be below the number of batches in an epoch, {steps}. Received: step={step}. "
            f"The epoch after ends in epoch={epoch + 1}, step=0."
        )
    with tf.device("CPU:0"):
        next_epoch = tf.Variable(epoch, dtype=tf.int64, trainable=False)

    def one_pass(_):
        now = next_epoch.assign_add(1) - 1
        start = tf.where(tf.equal(now, epoch), tf.constant(step, tf.int64), 0)
        return tf.data.Dataset.range(start, steps).map(lambda position: (now, position))

    # An iterator runs `one_pass` when its first element is asked for. So iterators that Keras makes and drops
    # unused do not count, and prefetching does not reach into the next pass.
    dataset = tf.data.Dataset.range(1).flat_map(one_pass)
    if step > 0:
        return dataset
    return dataset.apply(tf.data.experimental.assert_cardinality(steps))


def batch_positions(step: tf.Tensor, batch_size: int) -> tf.Tensor:
    """The positions in the epoch's order that make up batch `step`. Returns int64 `(batch_size,)`."""
    return step * batch_size + tf.range(batch_size, dtype=tf.int64)


def host_tensor(array) -> tf.Tensor:
    """`array` as a tensor in host memory, where `tf.data` runs."""
    with tf.device("CPU:0"):
        return tf.convert_to_tensor(array)


def check_arguments(
    part: Part, batch_size: int, *, seed: int, by: str, epoch: int
) -> None:
    """What `batches` and `triplets` ask of their arguments alike."""
    if not isinstance(part, Part):
        raise ValueError(
            f"`part` must be a `data.Part`, as `source.train` is. Received: {type(part).__name__}. "
            "Wrap arrays: data.Part(images, labels)."
        )
    check_integer(1, batch_size=batch_size)
    check_integer(0, seed=seed, epoch=epoch)
    check_choice("by", by, ["instance", "label"])
    if batch_size > len(part):
        raise ValueError(
            f"`batch_size` must not be above the number of images, {len(part)}. "
            f"Received: batch_size={batch_size}."
        )
    if by == "label" and part.labels is None:
        raise ValueError(
            '`by="label"` needs a part with labels. This one has none; use by="instance".'
        )
