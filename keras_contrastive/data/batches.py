"""Shuffled batches whose order is a function of (seed, epoch), and the pipeline under all that is sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_contrastive._checks import check_choice, check_integer
from keras_contrastive._random import fold, make_key, permuted
from keras_contrastive.data.part import Examples, host_tensor
from keras_contrastive.data.stream import Stream

# Keeps the keys of a stream's windows apart from whatever else is folded into the same key.
_WINDOW = 2**41
_NOTHING_DRAWN = (
    "No window of the stream gives a batch: its examples are too few, or too much alike (sorted by class?). Mix the "
    "stream, or give it a larger `buffer`."
)


def batches(
    part: Examples | Stream,
    batch_size: int,
    *,
    seed: int = 0,
    by: str = "instance",
    epoch: int = 0,
    step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
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

    A `Stream` is shuffled as far as that goes without random access: its shards change their order, and then each
    window of `buffer` examples is shuffled. The last window is shorter, and the batch size is taken out of every
    window.

    Several workers: with `input_context` each gets its share of every global batch: together, and in the order
    of their numbers, the batches of all workers at a step are the batch of that step which one worker would get
    with `num_input_pipelines * batch_size`. Shares are disjoint, and all have the same number of batches.

        strategy.distribute_datasets_from_function(
            lambda context: batches(part, context.get_per_replica_batch_size(256), input_context=context))

    Args:
        part: The images.
        batch_size: Integer from 1 to `len(part)`; of one worker.
        seed: Integer >= 0.
        by: What the ids are: "instance", the examples' numbers; "label", their classes.
        epoch: Integer >= 0: the epoch of the first pass.
        step: Integer >= 0: how many batches of that epoch are passed over. They are not decoded.
        input_context: Which of how many workers this is; None: the only one.

    Returns:
        Dataset of `(images, ids)`: uint8 `(batch_size, h, w, c)` and int64 `(batch_size,)`, prefetched. Of `Given`
        pairs or triplets, `(batch_size, 2 or 3, h, w, c)`, with their ids. Its cardinality is
        `len(part) // batch_size` (divided by the number of workers), or unknown if `step` > 0 or the length of a
        stream is.

    Raises:
        ValueError: an argument is outside its range, or `by="label"` and the part has no labels.
    """
    check_arguments(part, batch_size, seed=seed, by=by, epoch=epoch)

    def make_plan(labels, count):
        def batch(number, key):
            return permuted(batch_positions(number, batch_size), count, key)

        return Plan(count // batch_size, batch)

    return pipeline(
        part,
        make_plan,
        batch_size=batch_size,
        seed=seed,
        by=by,
        epoch=epoch,
        step=step,
        input_context=input_context,
        whole=True,
    )


class Plan(NamedTuple):
    """What is drawn in an epoch, or in a window of a stream."""

    num_batches: int | tf.Tensor
    """Over all workers."""
    batch: Callable
    """`batch(number, key)`: the examples of a batch, int64 `(batch,)` or `(batch, k)`."""


def pipeline(
    part: Examples | Stream,
    make_plan: Callable,
    *,
    batch_size: int,
    seed: int,
    by: str,
    epoch: int,
    step: int,
    input_context,
    arrange=lambda images, ids: (images, ids),
    whole: bool = False,
) -> tf.data.Dataset:
    """The dataset of what is drawn of a part, or of each window of a stream.

    Args:
        part: The images.
        make_plan: Function of labels, int64 `(n,)` or None, and n to a `Plan`.
        batch_size: Examples that count in a batch.
        seed: As of `batches`, and so are `by`, `epoch`, `step`, `input_context`.
        arrange: Function from images and ids, as they were drawn, to those of the batch.
        whole: The plan has `n // batch_size` batches for any n.
    """
    workers, worker = _workers(input_context)
    if isinstance(part, Stream):
        steps = None
        unit = batch_size * workers
        if whole and part.count is not None:
            steps = part.count // unit
            _check_workers(steps, 1, workers, batch_size)
        _check_step(step, steps, epoch)
        dataset = _of_stream(
            part,
            make_plan,
            unit,
            seed=seed,
            by=by,
            epoch=epoch,
            step=step,
            arrange=arrange,
            workers=workers,
            worker=worker,
        )
        if steps is not None and step == 0:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(steps))
        return dataset.prefetch(tf.data.AUTOTUNE)
    labels = None if part.labels is None else host_tensor(part.labels)
    plan = make_plan(labels, len(part))
    batches = int(plan.num_batches)
    _check_workers(batches, workers, workers, batch_size)

    def load(epoch, step):
        rows = plan.batch(step * workers + worker, make_key(seed, epoch))
        images, rows = part.read(rows)
        return arrange(images, part.ids(rows, by))

    dataset = passes(batches // workers, epoch, step).map(load)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _of_stream(
    stream, make_plan, unit, *, seed, by, epoch, step, arrange, workers, worker
) -> tf.data.Dataset:
    """Windows of whole `unit`s of a stream, each sampled as if it were a part. Only what is drawn is decoded."""
    window_size = max(1, stream.buffer // unit) * unit
    with tf.device("CPU:0"):
        drawn = tf.Variable(0, dtype=tf.int64, trainable=False)  # in this pass

    def one_pass(now, start):
        drawn.assign(0)

        def batches_of(window, content):
            numbers, _, labels = content
            plan = make_plan(
                labels if stream.labelled else None, tf.shape(numbers, tf.int64)[0]
            )
            key = fold(make_key(seed, now), _WINDOW + window)
            count = plan.num_batches // workers
            drawn.assign_add(count)

            def draw(number):
                # A reference to the window goes with every batch, no copy.
                return plan.batch(number * workers + worker, key), content

            return tf.data.Dataset.range(count).map(draw)

        windows = stream.ordered(seed, now).batch(window_size).enumerate()
        batches = windows.prefetch(1).flat_map(batches_of)

        def end(_):
            some = tf.debugging.Assert(drawn > 0, [_NOTHING_DRAWN])
            with tf.control_dependencies([some]):
                return batches.take(tf.zeros([], tf.int64))

        return batches.concatenate(tf.data.Dataset.range(1).flat_map(end)).skip(start)

    def load(rows, content):
        images, rows = stream.read(rows, content)
        numbers, _, labels = content
        return arrange(images, tf.gather(numbers if by == "instance" else labels, rows))

    return _each_pass(one_pass, epoch, step).map(load)


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
    _check_step(step, steps, epoch)

    def one_pass(now, start):
        return tf.data.Dataset.range(start, steps).map(lambda position: (now, position))

    dataset = _each_pass(one_pass, epoch, step)
    if step > 0:
        return dataset
    return dataset.apply(tf.data.experimental.assert_cardinality(steps))


def _check_workers(batches: int, needed: int, workers: int, batch_size: int) -> None:
    if batches < needed:
        raise ValueError(
            f"Each of the {workers} workers of `input_context` needs a batch of {batch_size}. "
            "Received: too few examples for that."
        )


def _check_step(step, steps, epoch) -> None:
    check_integer(0, step=step)
    if steps is not None and step >= steps:
        raise ValueError(
            f"`step` must be below the number of batches in an epoch, {steps}. Received: step={step}. "
            f"The next epoch starts at epoch={epoch + 1}, step=0."
        )


def _each_pass(one_pass: Callable, epoch: int, step: int) -> tf.data.Dataset:
    """The dataset `one_pass(epoch, step)`, of the next epoch in every pass; `step` counts in the first alone."""
    with tf.device("CPU:0"):
        next_epoch = tf.Variable(epoch, dtype=tf.int64, trainable=False)

    def begin(_):
        now = next_epoch.assign_add(1) - 1
        return one_pass(
            now, tf.where(tf.equal(now, epoch), tf.constant(step, tf.int64), 0)
        )

    # An iterator runs `begin` when its first element is asked for. So iterators that Keras makes and drops
    # unused do not count, and prefetching does not reach into the next pass.
    return tf.data.Dataset.range(1).flat_map(begin)


def batch_positions(number: tf.Tensor, batch_size: int) -> tf.Tensor:
    """The positions in the epoch's order that make up batch `number`. Returns int64 `(batch_size,)`."""
    return number * batch_size + tf.range(batch_size, dtype=tf.int64)


def check_arguments(
    part: Examples | Stream, batch_size: int, *, seed: int, by: str, epoch: int
) -> None:
    """What `batches` and its like ask of their arguments alike."""
    if not isinstance(part, (Examples, Stream)):
        raise ValueError(
            f"`part` must be a `data.Part`, as `source.train` is. Received: {type(part).__name__}. "
            "Wrap arrays: data.Part(images, labels); wrap a tf.data.Dataset: data.Stream(dataset)."
        )
    check_integer(1, batch_size=batch_size)
    check_integer(0, seed=seed, epoch=epoch)
    check_choice("by", by, ["instance", "label"])
    count = part.count if isinstance(part, Stream) else len(part)
    if count is not None and batch_size > count:
        raise ValueError(
            f"`batch_size` must not be above the number of images, {count}. "
            f"Received: batch_size={batch_size}."
        )
    if by == "label" and not has_labels(part):
        raise ValueError(
            '`by="label"` needs a part with labels. This one has none; use by="instance".'
        )


def has_labels(part: Examples | Stream) -> bool:
    return part.labelled if isinstance(part, Stream) else part.labels is not None


def _workers(context) -> tuple[int, int]:
    """How many workers there are, and which this is."""
    if context is None:
        return 1, 0
    if not isinstance(context, tf.distribute.InputContext):
        raise ValueError(
            "`input_context` must be a tf.distribute.InputContext. "
            f"Received: {type(context).__name__}."
        )
    return context.num_input_pipelines, context.input_pipeline_id
