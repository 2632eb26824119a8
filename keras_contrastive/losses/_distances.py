"""Distances, by name: smaller is closer. Euclidean ones compare rows as they come, cosine normalises."""

from __future__ import annotations

import tensorflow as tf

from keras_contrastive._numerics import as_real, normalize_rows, safe_sqrt

DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product")


def row_distances(first, second, distance: str) -> tf.Tensor:
    """Distance of row i of `first` to row i of `second`. Both `(n, dim)`; returns `(n,)`."""
    if distance == "cosine":
        first, second = normalize_rows(first), normalize_rows(second)
        return 1 - tf.reduce_sum(first * tf.cast(second, first.dtype), axis=-1)
    first = as_real(first)
    second = tf.cast(as_real(second), first.dtype)
    if distance == "inner_product":
        return -tf.reduce_sum(first * second, axis=-1)
    squared = tf.reduce_sum(tf.math.squared_difference(first, second), axis=-1)
    return squared if distance == "squared_euclidean" else safe_sqrt(squared)


def pairwise_distances(rows, columns, distance: str) -> tf.Tensor:
    """Distance of every row to every column. `(n, dim)` and `(c, dim)`; returns `(n, c)`, of the rows' dtype."""
    if distance == "cosine":
        rows, columns = normalize_rows(rows), normalize_rows(columns)
        return 1 - tf.matmul(rows, tf.cast(columns, rows.dtype), transpose_b=True)
    rows = as_real(rows)
    columns = tf.cast(as_real(columns), rows.dtype)
    if distance == "inner_product":
        return -tf.matmul(rows, columns, transpose_b=True)
    squared = _squared_distances(rows, columns)
    return squared if distance == "squared_euclidean" else safe_sqrt(squared)


def _squared_distances(rows, columns) -> tf.Tensor:
    """|a|^2 + |b|^2 - 2 ab, in float64: in float32 the sum cancels, and near rows lose all digits.

    Centred first, since the error grows with the rows' distance from the origin. The plain way, the
    differences of all pairs, would hold n * c * dim numbers.
    """
    count = tf.cast(tf.shape(columns)[0], columns.dtype)
    mean = tf.math.divide_no_nan(tf.reduce_sum(columns, axis=0), count)
    center = tf.stop_gradient(mean)
    a, b = tf.cast(rows - center, tf.float64), tf.cast(columns - center, tf.float64)
    products = tf.matmul(a, b, transpose_b=True)
    lengths = (
        tf.reduce_sum(a * a, axis=1)[:, None] + tf.reduce_sum(b * b, axis=1)[None, :]
    )
    return tf.cast(tf.nn.relu(lengths - 2 * products), rows.dtype)
