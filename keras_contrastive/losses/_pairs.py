"""All pairs of anchors and columns as matrices, for losses that have to sort, rank or select them."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_contrastive._checks import check_choice
from keras_contrastive.losses._distances import DISTANCES, pairwise_distances
from keras_contrastive.losses.sets import check_sets, match, set_keywords


class Pairs(NamedTuple):
    """Tensors `[n, columns]`."""

    distance: tf.Tensor
    """Float; of columns that do not exist as well."""
    weight: tf.Tensor
    """Float >= 0: the weight as a positive, 0 where the column is none."""
    negative: tf.Tensor
    """bool: the column exists and is no positive."""

    @property
    def positive(self) -> tf.Tensor:
        return self.weight > 0

    @property
    def counts(self) -> tf.Tensor:
        """bool `[n]`: the anchor has a positive and a negative."""
        positive, negative = (
            tf.reduce_any(mask, axis=1) for mask in (self.positive, self.negative)
        )
        return positive & negative

    def where(self, mask, *, below: bool = False) -> tf.Tensor:
        """The distances where bool `mask` `[n, columns]`; elsewhere above (or below) any distance."""
        # Finite, so that no difference of two is NaN.
        dtype = self.distance.dtype
        beyond = tf.constant((dtype.min if below else dtype.max) / 8, dtype)
        return tf.where(mask, self.distance, beyond)

    def farthest(self, mask) -> tf.Tensor:
        """The largest distance where bool `mask`, for each anchor `[n]`; very low where there is none."""
        return tf.reduce_max(self.where(mask, below=True), axis=1)

    def nearest(self, mask) -> tf.Tensor:
        """The smallest distance where bool `mask`, for each anchor `[n]`; very high where there is none."""
        return tf.reduce_min(self.where(mask), axis=1)


def all_pairs(ids, embeddings, *, distance, candidates=None, **sets) -> Pairs:
    """Distances of every anchor to every column, and how they belong together.

    Args:
        ids: int `(n,)`, or multi-hot float or bool `(n, classes)`.
        embeddings: Float `(n, dim)`.
        distance: A name of `DISTANCES`.
        candidates: Float `(columns, dim)`, or None: the batch.
        **sets: The other keywords of a loss over sets.

    Raises:
        ValueError: `distance` is unknown, or a rank or length is known to be wrong.
    """
    check_choice("distance", distance, DISTANCES)
    sets = set_keywords(sets)
    check_sets(ids, embeddings, candidates=candidates, **sets)
    columns = embeddings if candidates is None else candidates
    distances = pairwise_distances(embeddings, columns, distance)
    exists, weight = match(
        ids,
        num_candidates=None if candidates is None else tf.shape(distances)[1],
        dtype=distances.dtype,
        **sets,
    )
    return Pairs(distances, weight, exists & (weight == 0))


def best_column(scores) -> tf.Tensor:
    """The column of the largest score of each row: int64 `[n]`; 0 where there are no columns."""
    if not scores.shape[1]:  # unknown, or really none: `argmax` of nothing is an error
        lowest = scores.dtype.min
        scores = tf.pad(scores, [[0, 0], [0, 1]], constant_values=lowest)
    return tf.argmax(scores, axis=1)


def best_row(columns, scores) -> tf.Tensor:
    """The row of `columns` `[c, dim]` whose score `[n, c]` is the largest: `[n, dim]`; zeros where there are none."""
    if not columns.shape[0]:
        columns = tf.pad(columns, [[0, 1], [0, 0]])
    return tf.gather(columns, best_column(scores))


def log_sum_exp(logits, weight) -> tf.Tensor:
    """log sum_j w_ij exp(l_ij) of each row, with weights >= 0; very low, without a gradient, where all are 0.

    Args:
        logits: Float `[n, columns]`.
        weight: Float of the same shape.
    """
    there = weight > 0
    low = tf.constant(logits.dtype.min / 8, logits.dtype)
    top = tf.stop_gradient(tf.reduce_max(tf.where(there, logits, low), axis=1))
    terms = tf.exp(tf.where(there, logits - top[:, None], low))
    total = tf.reduce_sum(weight * terms, axis=1)
    empty = total == 0
    value = top + tf.math.log(tf.where(empty, tf.ones_like(total), total))
    return tf.where(empty, low, value)
