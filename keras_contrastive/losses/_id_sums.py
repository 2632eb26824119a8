"""Sums over the positives that ids tell, in time and memory that grow with the number of rows alone."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_contrastive.losses.sets import Relation


class PositiveSums(NamedTuple):
    """Sums over the positives of each anchor: tensors `[n]`."""

    product: tf.Tensor
    bias: tf.Tensor | None
    number: tf.Tensor


def positive_sums(anchors, columns, relation: Relation, bias=None) -> PositiveSums:
    """The products of an anchor with its positives, their bias, and their number.

    The plain way masks a matrix of all pairs. Here the columns of every id are added up once, and an anchor
    takes its product with the sum of its id, less its own column.

    Args:
        anchors: Float `[n, dim]`.
        columns: Float `[columns, dim]`; None: the anchors are their own columns.
        relation: Integer ids, no matrix over pairs.
        bias: Float `[columns]`, or None.
    """
    n = tf.shape(anchors)[0]
    ids, other, own = relation.ids, relation.candidate_ids, relation.self_index
    if columns is None:
        columns, other, own = anchors, ids, tf.range(n)
        labels = column_labels = _dense_labels(ids)
        size = n
    else:
        labels = _dense_labels(tf.concat([ids, other], axis=0))
        size = tf.shape(labels)[0]
        labels, column_labels = labels[:n], labels[n:]
    possible = other != -1
    if relation.candidate_mask is not None:
        possible &= relation.candidate_mask
    if relation.negative_only is not None:
        possible &= ~relation.negative_only
    column_labels = tf.where(possible, column_labels, -1)

    def sums(values):
        """For each anchor the sum of the values `[columns, ...]` of its positives."""
        total = _sums_by_label(values, column_labels, labels, size)
        if own is None:
            return total
        index = tf.maximum(own, 0)
        its_own = (own >= 0) & (tf.gather(column_labels, index) == labels)
        return total - _where_rows(its_own, tf.gather(values, index))

    return PositiveSums(
        product=tf.reduce_sum(anchors * sums(columns), axis=1),
        bias=None if bias is None else sums(bias),
        number=sums(tf.ones_like(columns[:, 0])),
    )


@tf.custom_gradient
def _sums_by_label(values, labels, wanted, size):
    """For each entry of `wanted` the sum of the values of that label; the label -1 is in no sum, and has none."""

    def gradient(upstream):  # a linear map, transposed
        return _sums_by_label(upstream, wanted, labels, size), None, None, None

    total = tf.math.unsorted_segment_sum(values, labels, size)
    return _where_rows(wanted >= 0, tf.gather(total, tf.maximum(wanted, 0))), gradient


def _where_rows(mask, values) -> tf.Tensor:
    mask = tf.reshape(mask, [-1] + [1] * (values.shape.rank - 1))
    return tf.where(mask, values, tf.zeros_like(values))


def _dense_labels(ids) -> tf.Tensor:
    """The ids numbered from 0 on, int32: equal where the ids are equal."""
    order = tf.argsort(ids)
    ordered = tf.gather(ids, order)
    changes = tf.cast(ordered[1:] != ordered[:-1], tf.int32)
    labels = tf.cumsum(tf.concat([tf.zeros_like(order[:1]), changes], axis=0))
    return tf.scatter_nd(order[:, None], labels, tf.shape(ids))
