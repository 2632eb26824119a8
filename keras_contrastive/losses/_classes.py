"""What losses share that have a row of weights for every class: cosines to the classes, and whose class is whose."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_contrastive._checks import check_rank, shape_text
from keras_contrastive._numerics import normalize_rows
from keras_contrastive.losses.sets import canonical_ids, check_sets


class Classes(NamedTuple):
    """Rows and classes."""

    cosines: tf.Tensor
    """Float `[n, classes]`: float64 for float64 embeddings, else float32."""
    own: tf.Tensor
    """bool `[n, classes]`: the class is the row's."""
    known: tf.Tensor
    """bool `[n]`: the row has a class; its id is in [0, classes)."""

    def of_own(self, values) -> tf.Tensor:
        """The entry of `values` `[n, classes]` at the row's class: `[n]`, 0 for rows without one."""
        return tf.reduce_sum(tf.where(self.own, values, 0.0), axis=1)


def compare_with_classes(ids, embeddings, **weights) -> Classes:
    """Compare every row with every class.

    Args:
        ids: int `(n,)` or `(n, 1)`.
        embeddings: Float `(n, dim)`.
        **weights: One float `(classes, dim)`, under the name by which the loss takes it.

    Raises:
        ValueError: `ids` are multi-hot, or a rank, length or width is known to be wrong.
    """
    ((name, rows),) = weights.items()
    embeddings, rows = tf.convert_to_tensor(embeddings), tf.convert_to_tensor(rows)
    ids = tf.convert_to_tensor(ids)
    one_each = ids.shape.rank != 2 or ids.shape[1] in (None, 1)
    if not (ids.dtype.is_integer and one_each):
        raise ValueError(
            "`ids` must be integers of shape (n,): a row has one class here, not multi-hot labels. (`compile(loss=...)` makes "
            "floats of them, and would not train the weights: wrap the loss in ContrastiveLossLayer.) "
            f"Received: ids.shape={shape_text(ids.shape)}, ids.dtype={ids.dtype.name}."
        )
    check_sets(ids, embeddings)
    check_rank(2, **{name: rows})
    if not embeddings.shape[1:].is_compatible_with(rows.shape[1:]):
        raise ValueError(
            f"`embeddings` and `{name}` must have rows of one width. Received: "
            f"embeddings.shape={shape_text(embeddings.shape)}, {name}.shape={shape_text(rows.shape)}."
        )
    ids = canonical_ids(ids, "ids")
    unit = normalize_rows(embeddings)
    rows = tf.cast(normalize_rows(rows), unit.dtype)
    cosines = tf.matmul(unit, rows, transpose_b=True)
    classes = tf.range(tf.shape(rows)[0], dtype=ids.dtype)
    own = ids[:, None] == classes[None, :]
    return Classes(cosines, own, (ids >= 0) & (ids < tf.size(classes, ids.dtype)))
