"""Sums over the positives that ids tell, in time and memory that grow with the number of rows alone.

The plain way masks a matrix of all pairs. Here the columns of every id are added up once, and an anchor takes the sum
of its id, less its own column.
"""

from __future__ import annotations

import tensorflow as tf

from keras_contrastive.losses.sets import Relation


class IdSums:
    """`sums(values)`: for each anchor the sum of the values `[columns, ...]` of its positives."""

    def __init__(self, relation: Relation):
        """`relation` has integer ids and no matrix over pairs; without candidate ids the batch is both sides."""
        ids, other, own = relation.ids, relation.candidate_ids, relation.self_index
        n = tf.shape(ids)[0]
        if other is None:
            other, own = ids, tf.range(n)
            labels = column_labels = _dense_labels(ids)
            self._size = n
        else:
            labels = _dense_labels(tf.concat([ids, other], axis=0))
            self._size = tf.shape(labels)[0]
            labels, column_labels = labels[:n], labels[n:]
        possible = other != -1
        for name, wanted in (("candidate_mask", True), ("negative_only", False)):
            of_columns = getattr(relation, name)
            if of_columns is not None:
                possible &= of_columns == wanted
        self._labels = labels
        self._column_labels = tf.where(possible, column_labels, -1)
        self._own = None
        if own is not None:
            index = tf.maximum(own, 0)
            counted = tf.gather(self._column_labels, index) == labels
            self._own = index, (own >= 0) & counted

    def __call__(self, values) -> tf.Tensor:
        total = _sums_by_label(values, self._column_labels, self._labels, self._size)
        if self._own is None:
            return total
        index, counted = self._own
        return total - _where_rows(counted, tf.gather(values, index))

    def number(self, dtype) -> tf.Tensor:
        """How many positives each anchor has: float `[n]`."""
        return self(tf.ones(tf.shape(self._column_labels), dtype))


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
