"""Positives and negatives sampled on the fly: pairs, triplets, class-balanced and partly labelled batches.

All are drawn anew every epoch, and take a part with random access or a `Stream`, of which each window is sampled as if it were a part. What is
drawn is a function of (seed, epoch, step). By label, examples of unknown class (-1) take no part.
"""

from __future__ import annotations

from numbers import Integral
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_integer
from keras_contrastive._numerics import normalize_rows
from keras_contrastive._random import fold, integers, permuted, permuted_each, uniform
from keras_contrastive.data.batches import (
    Plan,
    batch_positions,
    check_arguments,
    pipeline,
)
from keras_contrastive.data.given import Given
from keras_contrastive.data.part import Examples
from keras_contrastive.data.stream import Stream

# Keeps these draws apart from whatever else is drawn from the same seed and small numbers.
_SAMPLING = 2**40


class HardSampler(tf.Module):
    """Draws hard examples more often, by embeddings that are refreshed now and then.

    For each anchor, `choices` candidates are drawn evenly, and of them one negative with the probability
    proportional to exp(hardness * s), one positive to exp(-hardness * s), with s the cosine similarity to the
    anchor: similar negatives and dissimilar positives. Until embeddings are set, every candidate is equally likely.

        sampler = HardSampler(part)
        dataset = triplets(part, 128, by="label", sampler=sampler)
        refresh = callbacks.RefreshEmbeddings(sampler, part)
        checkpoint = callbacks.RunCheckpoint(directory, sampler=sampler)
        model.fit(dataset, callbacks=[refresh, checkpoint])

    It is a `tf.Module`: in a checkpoint it keeps its embeddings, so that a run resumed in mid-epoch draws what it
    would have drawn.

    Args:
        part: The examples; or how many there are.
        hardness: Float >= 0, the inverse of a temperature; 0 draws evenly.
        choices: Integer >= 1: candidates for each draw. More make the draw harder, and longer.

    Raises:
        ValueError: an option is out of its range.

    Reference:
        Robinson et al., 2021, Contrastive Learning with Hard Negative Samples, Eq. 2: negatives tilted by
        exp(beta s). There the tilt weighs all negatives of a batch, here it draws one of the whole set.
    """

    def __init__(self, part, *, hardness: float = 10.0, choices: int = 64):
        super().__init__()
        check_at_least(0, hardness=hardness)
        check_integer(1, choices=choices)
        self.size = part if isinstance(part, Integral) else len(part)
        check_integer(1, part=self.size)
        self.hardness, self.choices = hardness, choices
        with tf.device("CPU:0"):  # where `tf.data` runs
            self.embeddings = tf.Variable(
                tf.zeros([0, 0]), shape=[None, None], trainable=False
            )
            self.epoch = tf.Variable(-1, dtype=tf.int64, trainable=False)

    def set_embeddings(self, array, *, epoch: int = -1) -> None:
        """Draw by these embeddings from now on.

        Args:
            array: Float `(len(part), dim)`, row i of example i; normalised here.
            epoch: Integer: when they were made, for who refreshes them.

        Raises:
            ValueError: the shape is another, or a value is not finite.
        """
        array = np.asarray(array, np.float32)
        if array.ndim != 2 or len(array) != self.size:
            raise ValueError(
                f"`array` must have shape ({self.size}, dim), a row for each example. "
                f"Received: array.shape={array.shape}."
            )
        if not np.isfinite(array).all():
            raise ValueError("`array` must be finite. Received: NaN or infinity.")
        with tf.device("CPU:0"):
            self.embeddings.assign(normalize_rows(tf.constant(array)))
        self.epoch.assign(epoch)

    def choose(self, key, anchors, candidates, *, similar: bool) -> tf.Tensor:
        """One of each anchor's candidates.

        Args:
            key: int64 `(2,)`.
            anchors: int64 `(batch,)`, examples.
            candidates: int64 `(batch, choices)`, examples.
            similar: Similar candidates are likelier; else dissimilar ones.

        Returns:
            int64 `(batch,)`, of `candidates`.
        """

        def weighted():
            table = tf.convert_to_tensor(self.embeddings)
            own, others = tf.gather(table, anchors), tf.gather(table, candidates)
            cosine = tf.linalg.matvec(others, own)  # (batch, choices)
            tilt = self.hardness if similar else -self.hardness
            # The largest of logits plus Gumbel noise is a draw from their softmax.
            unit = tf.maximum(uniform(key, tf.shape(cosine)), 2.0**-25)
            return tf.argmax(tilt * cosine - tf.math.log(-tf.math.log(unit)), axis=1)

        def first():
            return tf.zeros(tf.shape(anchors), tf.int64)

        known = tf.shape(tf.convert_to_tensor(self.embeddings))[0] > 0
        chosen = tf.cond(known, weighted, first)
        return tf.gather(candidates, chosen, batch_dims=1)


def triplets(
    part: Examples | Stream,
    batch_size: int,
    *,
    seed: int = 0,
    by: str = "instance",
    epoch: int = 0,
    step: int = 0,
    sampler: HardSampler | None = None,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Give every example once an epoch as an anchor, with a positive and a negative drawn for it.

    By instance, the positive is the anchor itself (augmentation tells the two apart) and the negative any
    other example. By label, the positive is another example of the anchor's class and the negative one of
    another class. Every candidate is equally likely, or, with a `sampler`, hard ones are likelier. No example is
    ever its own negative. Anchors come in the order of `batches`; passes, epochs, `step`, `input_context` and
    cardinality are as described there.

    By label, examples alone in their class are no anchors (they serve as negatives), and examples of unknown
    class (-1) take no part. An epoch is then as much shorter (for a stream: every window).

    Args:
        part: The images.
        batch_size: Integer from 1 to the number of anchors.
        seed: Integer >= 0.
        by: "instance" or "label".
        epoch: Integer >= 0: the epoch of the first pass.
        step: Integer >= 0: how many batches of that epoch are passed over.
        sampler: A `HardSampler` of this part; None: all candidates are equally likely. Not for streams.
        input_context: As of `batches`.

    Returns:
        Dataset of `(images, ids)`: uint8 `(batch_size, 3, h, w, c)`, anchor, positive, negative; int64
        `(batch_size, 3)`, `(a, a, n)` with a and n the examples' numbers or, by label, their classes.

    Raises:
        ValueError: an argument is outside its range, or no triplet can be drawn: fewer than two examples or,
            by label, no labels, fewer than two classes, or no class with two examples.
    """
    if by == "instance" and isinstance(part, Examples) and len(part) < 2:
        raise ValueError(
            f"A negative needs a second example. Received: a part of {len(part)} image."
        )
    return _anchored(
        part,
        batch_size,
        negatives=True,
        sampler=sampler,
        by=by,
        seed=seed,
        epoch=epoch,
        step=step,
        input_context=input_context,
    )


def pairs(
    part: Examples | Stream,
    batch_size: int,
    *,
    seed: int = 0,
    by: str = "instance",
    epoch: int = 0,
    step: int = 0,
    sampler: HardSampler | None = None,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Give every example once an epoch as an anchor, with a positive drawn for it.

    By instance, the positive is the anchor itself (augmentation tells the two apart). By label, it is another
    example of the anchor's class: with labels or pair ids, views that no augmentation makes. Every one is equally
    likely, or, with a `sampler`, those that look different are likelier. Anchors alone in their class and of
    unknown class are left out by label. Passes, epochs, `step`, `input_context` and cardinality are as of `batches`.

    Args:
        part: The images.
        batch_size: Integer from 1 to the number of anchors.
        seed: Integer >= 0.
        by: "instance" or "label".
        epoch: Integer >= 0: the epoch of the first pass.
        step: Integer >= 0: how many batches of that epoch are passed over.
        sampler: A `HardSampler` of this part, by label; None: all positives are equally likely. Not for streams.
        input_context: As of `batches`.

    Returns:
        Dataset of `(images, ids)`: uint8 `(batch_size, 2, h, w, c)`, anchor and positive; int64 `(batch_size,)`,
        the anchor's number or, by label, its class.

    Raises:
        ValueError: an argument is outside its range, or, by label, no pair can be drawn: no labels, or no class
            with two examples.
    """
    if sampler is not None and by == "instance":
        raise ValueError(
            '`sampler` has nothing to choose among with by="instance": the positive is the anchor itself.'
        )
    return _anchored(
        part,
        batch_size,
        negatives=False,
        sampler=sampler,
        by=by,
        seed=seed,
        epoch=epoch,
        step=step,
        input_context=input_context,
    )


def class_balanced(
    part: Examples | Stream,
    classes_per_batch: int,
    examples_per_class: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches of so many classes, with so many examples of each: for losses by label.

    Each batch has `classes_per_batch` different classes. Rounds of all classes follow each other, in another order
    each, so that every class comes equally often (those of a round's incomplete last batch are left out, others
    each round). A class goes through its examples in a shuffled order and begins again, shuffled anew; the
    examples of a batch are different ones. **A class with fewer than `examples_per_class` examples** fills its places
    by giving its examples again, each equally often to within one. Examples of unknown class (-1) take no part. (Of a
    class in which no file at all can be read, examples of others come, with their own ids.)

    An epoch has as many batches as the labelled examples fill, at least one. Passes, epochs, `step` and
    `input_context` are as of `batches`. A stream is sampled window by window; a window with fewer classes than
    `classes_per_batch` gives nothing.

    Args:
        part: The images, with labels.
        classes_per_batch: Integer from 1 to the number of classes.
        examples_per_class: Integer >= 1; 2 or more, or there are no positives but augmented ones.
        seed: Integer >= 0.
        epoch: Integer >= 0: the epoch of the first pass.
        step: Integer >= 0: how many batches of that epoch are passed over.
        input_context: As of `batches`.

    Returns:
        Dataset of `(images, ids)`: uint8 `(classes_per_batch * examples_per_class, h, w, c)`, class after class; int64
        of the same length, their classes.

    Raises:
        ValueError: an argument is outside its range, or there are no labels, or too few classes.

    Reference:
        Hermans, Beyer, Leibe, 2017, In Defense of the Triplet Loss for Person Re-Identification, Sec. 2: batches of
        P classes with K examples.
    """
    check_integer(1, classes_per_batch=classes_per_batch)
    check_integer(1, examples_per_class=examples_per_class)
    check_arguments(part, 1, seed=seed, by="label", epoch=epoch)
    if isinstance(part, Examples):
        found = len(np.unique(part.labels[part.labels >= 0]))
        if classes_per_batch > found:
            raise ValueError(
                f"`classes_per_batch` must not be above the number of classes, {found}. "
                f"Received: classes_per_batch={classes_per_batch}."
            )
    batch_size = classes_per_batch * examples_per_class

    def make_plan(labels, count):
        table = _class_table(labels)
        classes = tf.size(table.sizes, tf.int64)
        per_round = tf.maximum(classes // classes_per_batch, 1)

        def batch(number, key):
            round_ = number // per_round
            slots = batch_positions(number % per_round, classes_per_batch)
            drawn = permuted(slots, classes, fold(key, _SAMPLING + round_))
            places = _next_of_class(
                tf.gather(table.sizes, drawn), drawn, round_, examples_per_class, key
            )
            places += tf.repeat(tf.gather(table.starts, drawn), examples_per_class)
            return tf.ensure_shape(tf.gather(table.by_class, places), [batch_size])

        filled = tf.maximum(tf.size(table.by_class, tf.int64) // batch_size, 1)
        return Plan(tf.where(classes >= classes_per_batch, filled, 0), batch)

    return pipeline(
        part,
        make_plan,
        batch_size=batch_size,
        seed=seed,
        by="label",
        epoch=epoch,
        step=step,
        input_context=input_context,
    )


def partly_labelled(
    part: Examples | Stream,
    batch_size: int,
    *,
    labelled_per_batch: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches of a few labelled examples beside many of any kind: for training where some labels are known.

    The first `labelled_per_batch` examples of a batch are labelled ones, the classes in turn, so that all come equally
    often; a class goes through its examples in a shuffled order and begins again, shuffled anew. Of few labels each
    comes often: its views differ every time. The others are all examples, once an epoch, labelled or not. For a loss
    by label (`losses.SupConLoss`): those of one class attract each other, those of none their own views.

    Passes, epochs, `step` and `input_context` are as of `batches`. A stream is sampled window by window; a window
    without any label gives nothing.

    Args:
        part: The images, with labels, most of them -1: see `keep_labels`.
        batch_size: Integer >= 2.
        labelled_per_batch: Integer from 1 to `batch_size` - 1; None: a quarter of the batch.
        seed: Integer >= 0.
        epoch: Integer >= 0: the epoch of the first pass.
        step: Integer >= 0: how many batches of that epoch are passed over.
        input_context: As of `batches`.

    Returns:
        Dataset of `(images, ids)`: uint8 `(batch_size, h, w, c)`, int64 `(batch_size,)`, classes or -1.

    Raises:
        ValueError: an argument is outside its range, or there are no labels.
    """
    check_integer(2, batch_size=batch_size)
    if labelled_per_batch is None:
        labelled_per_batch = max(1, batch_size // 4)
    check_integer(1, labelled_per_batch=labelled_per_batch)
    others = batch_size - labelled_per_batch
    if others < 1:
        raise ValueError(
            f"`labelled_per_batch` must be below `batch_size`, {batch_size}. "
            f"Received: labelled_per_batch={labelled_per_batch}."
        )
    check_arguments(part, others, seed=seed, by="label", epoch=epoch)
    if isinstance(part, Examples) and not (part.labels >= 0).any():
        raise ValueError(
            "`part` must have some labels. Received: a part whose labels are all -1."
        )

    def make_plan(labels, count):
        table = _class_table(labels)
        classes = tf.size(table.sizes, tf.int64)

        def batch(number, key):
            slots = batch_positions(number, labelled_per_batch)
            turn, drawn = slots // classes, slots % classes  # every class in its turn
            size = tf.gather(table.sizes, drawn)
            order = drawn * 1_000_003 + turn // size
            within = permuted_each(turn % size, size, fold(key, _SAMPLING), order)
            labelled = tf.gather(
                table.by_class, tf.gather(table.starts, drawn) + within
            )
            rest = permuted(batch_positions(number, others), count, key)
            return tf.ensure_shape(tf.concat([labelled, rest], axis=0), [batch_size])

        return Plan(tf.where(classes > 0, count // others, 0), batch)

    return pipeline(
        part,
        make_plan,
        batch_size=batch_size,
        seed=seed,
        by="label",
        epoch=epoch,
        step=step,
        input_context=input_context,
    )


def _anchored(part, batch_size, *, negatives, sampler, by, seed, epoch, **where):
    """Pairs, or with `negatives` triplets: every example once as an anchor."""
    _check(part, batch_size, seed, by, epoch, sampler)

    def of_instances(labels, count):
        def batch(number, key):
            anchor = permuted(batch_positions(number, batch_size), count, key)
            rows = [anchor]
            if negatives:
                draws = fold(key, _SAMPLING + number)
                rows.append(_others(anchor, count, draws, sampler))
            return tf.stack(rows, axis=1)

        enough = count > 1 if negatives else True
        return Plan(tf.where(enough, count // batch_size, 0), batch)

    def of_classes(labels, count):
        table = _class_table(labels)

        def batch(number, key):
            positions = batch_positions(number, batch_size)
            anchor = tf.gather(table.anchors, permuted(positions, table.count, key))
            draws = fold(key, _SAMPLING + number)
            rows = [
                tf.gather(table.by_class, anchor),
                _of_own_class(table, anchor, fold(draws, 0), sampler),
            ]
            if negatives:
                rows.append(_of_another_class(table, anchor, fold(draws, 1), sampler))
            return tf.stack(rows, axis=1)

        enough = tf.size(table.sizes) > (1 if negatives else 0)
        return Plan(tf.where(enough, table.count // batch_size, 0), batch)

    def arrange(images, ids):
        if by == "instance":  # the anchor is its own positive: read once
            columns = [0, 0, 1] if negatives else [0, 0]
            images, ids = (tf.gather(t, columns, axis=1) for t in (images, ids))
        return images, ids if negatives else ids[:, 0]

    if by == "label":
        _check_classes(part, batch_size, least=2 if negatives else 1)
    return pipeline(
        part,
        of_classes if by == "label" else of_instances,
        batch_size=batch_size,
        by=by,
        seed=seed,
        epoch=epoch,
        arrange=arrange,
        whole=by == "instance" and not negatives,
        **where,
    )


def _next_of_class(sizes, classes, round_, examples: int, key) -> tf.Tensor:
    """What comes of each class in a round: int64 `(classes * examples,)`, in 0..sizes - 1.

    A class's shuffled order is cut into whole groups of `examples`, one for each round; then it is shuffled anew.
    """
    groups = tf.maximum(sizes // examples, 1)
    within = tf.range(examples, dtype=tf.int64)[None, :]
    positions = ((round_ % groups) * examples)[:, None] + within  # (classes, examples)
    positions %= sizes[:, None]  # of a small class some come again
    order = classes * 1_000_003 + round_ // groups
    return permuted_each(
        tf.reshape(positions, [-1]),
        tf.repeat(sizes, examples),
        fold(key, _SAMPLING - 1),
        tf.repeat(order, examples),
    )


class _ClassTable(NamedTuple):
    """Labelled examples sorted by class, so that a class is a range of places and a draw is arithmetic."""

    by_class: tf.Tensor
    """The example at each place, int64 `(places,)`."""
    starts: tf.Tensor
    """The first place of each class, int64 `(classes,)`, and `sizes`."""
    sizes: tf.Tensor
    start: tf.Tensor
    """Of the class at each place, int64 `(places,)`, and `size`."""
    size: tf.Tensor
    anchors: tf.Tensor
    """The places of examples that are not alone in their class, in the order of the examples."""
    count: tf.Tensor
    """How many anchors there are, int64."""


def _class_table(labels: tf.Tensor) -> _ClassTable:
    known = tf.where(labels >= 0)[:, 0]
    order = tf.argsort(tf.gather(labels, known), stable=True)
    by_class = tf.gather(known, order)
    _, index, sizes = tf.unique_with_counts(tf.gather(labels, by_class), tf.int64)
    starts = tf.cumsum(sizes, exclusive=True)
    start, size = tf.gather(starts, index), tf.gather(sizes, index)
    anchors = tf.where(size > 1)[:, 0]
    anchors = tf.gather(anchors, tf.argsort(tf.gather(by_class, anchors)))
    return _ClassTable(
        by_class, starts, sizes, start, size, anchors, tf.size(anchors, tf.int64)
    )


def _others(anchor, count, key, sampler) -> tf.Tensor:
    """Another example for each anchor, `(batch,)`."""
    return _drawn(
        key,
        anchor,
        count - 1,
        lambda drawn: _skipping(drawn, anchor[:, None], 1),
        sampler,
    )


def _of_own_class(table, anchor, key, sampler) -> tf.Tensor:
    """Another example of the class of each anchor, a place. `(batch,)`"""
    start, size = tf.gather(table.start, anchor), tf.gather(table.size, anchor)

    def rows(drawn):
        places = _skipping(start[:, None] + drawn, anchor[:, None], 1)
        return tf.gather(table.by_class, places)

    own = tf.gather(table.by_class, anchor)
    return _drawn(key, own, (size - 1)[:, None], rows, sampler, similar=False)


def _of_another_class(table, anchor, key, sampler) -> tf.Tensor:
    """An example of another class than that of each anchor, a place. `(batch,)`"""
    start, size = tf.gather(table.start, anchor), tf.gather(table.size, anchor)
    others = tf.size(table.by_class, tf.int64) - size

    def rows(drawn):
        places = _skipping(drawn, start[:, None], size[:, None])
        return tf.gather(table.by_class, places)

    own = tf.gather(table.by_class, anchor)
    return _drawn(key, own, others[:, None], rows, sampler)


def _drawn(key, anchors, limit, rows, sampler, similar: bool = True) -> tf.Tensor:
    """One of `rows(0..limit - 1)` for each anchor: drawn evenly, or chosen by the sampler among several so drawn."""
    choices = 1 if sampler is None else sampler.choices
    drawn = integers(key, tf.stack([tf.shape(anchors)[0], choices]), limit)
    candidates = rows(drawn)  # (batch, choices)
    if sampler is None:
        return candidates[:, 0]
    return sampler.choose(fold(key, 0), anchors, candidates, similar=similar)


def _skipping(numbers: tf.Tensor, start: tf.Tensor, length) -> tf.Tensor:
    """Count on past a gap: numbers from `start` on move up by `length`, so that none falls into the gap."""
    return tf.where(numbers >= start, numbers + length, numbers)


def _check(part, batch_size, seed, by, epoch, sampler) -> None:
    if isinstance(part, Given):
        raise ValueError(
            "`part` has its pairs or triplets already: give it to `data.batches`. Received: data.Given."
        )
    check_arguments(part, batch_size, seed=seed, by=by, epoch=epoch)
    if sampler is None:
        return
    if not isinstance(sampler, HardSampler):
        raise ValueError(
            f"`sampler` must be a `data.HardSampler`. Received: {type(sampler).__name__}."
        )
    if isinstance(part, Stream) or sampler.size != len(part):
        found = "a stream" if isinstance(part, Stream) else f"{len(part)} examples"
        raise ValueError(
            f"`sampler` must be of this part: it knows {sampler.size} examples. Received: {found}."
        )


def _check_classes(part, batch_size: int, least: int) -> None:
    """Raise unless pairs can be drawn by label, of `least` classes. What a stream holds is not known before."""
    if isinstance(part, Stream):
        return
    classes, sizes = np.unique(part.labels[part.labels >= 0], return_counts=True)
    named = [part.class_names[k] if part.class_names else str(k) for k in classes[:5]]
    listed = ", ".join(named) + (", ..." if len(classes) > 5 else "")
    if len(classes) < least:
        raise ValueError(
            '`by="label"` needs two classes, or there is no negative. '
            f'Found {len(classes)}: {listed or "none"}; add classes, or use by="instance".'
        )
    if not len(sizes) or sizes.max() < 2:
        raise ValueError(
            "No class has two images, so no positive pair can be drawn. "
            f'Found {len(classes)} classes of 1 image: {listed}; add images, or use by="instance".'
        )
    anchors = int(sizes[sizes > 1].sum())
    if batch_size > anchors:
        raise ValueError(
            f"`batch_size` must not be above the number of anchors, {anchors} (examples whose class has "
            f"another). Received: batch_size={batch_size}."
        )
