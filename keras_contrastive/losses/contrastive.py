"""The margin loss: positives together, negatives apart until the margin."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_positive, check_same_shape
from keras_contrastive._random import uniform
from keras_contrastive.losses._base import RowsOrSetsLoss
from keras_contrastive.losses._distances import DISTANCES, row_distances
from keras_contrastive.losses._pairs import all_pairs


def contrastive_loss(
    anchor,
    positive,
    negative=None,
    *,
    margin=1.0,
    distance="euclidean",
    draw=None,
    **sets,
) -> tf.Tensor:
    """Pull each positive to its anchor and push each negative out to `margin`.

    Over rows, called with three tensors: (d(anchor, positive)^2 + max(0, margin - d(anchor, negative))^2) / 2.
    Its mean is the loss of the paper, in the form with one negative drawn for each anchor.

    Over sets, called with `(ids, embeddings)`: per anchor (mean over its positives of d^2 + mean over its
    negatives of max(0, margin - d)^2) / 2, or, with `draw`, the mean over its positives of the row form with
    one negative drawn for each of them. An anchor without a positive or without a negative does not count.

    A negative beyond the margin adds nothing. Beware of the sides: there is no label that says "similar" here.

    Args:
        anchor: Float `(n, dim)`; over sets the ids: int `(n,)`, -1 matching nothing, or multi-hot
            `(n, classes)`.
        positive: Float `(n, dim)`, row i a positive of the anchor in row i; over sets the embeddings.
        negative: Float `(n, dim)`, row i a negative of the anchor in row i; over sets None.
        margin: Float > 0, in units of d. On the unit sphere the Euclidean distance is at most 2.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` (1 - cosine, normalises) or
            `"inner_product"` (the negated product). It takes the place of d, and is squared where d is: with
            `"inner_product"` positives are pulled to orthogonality, so it is of use for comparisons alone.
        draw: int `(2,)`, a seed, over sets alone: draw one negative for each positive pair.
        **sets: Over sets: `candidates` float `(columns, dim)` with `candidate_ids`; `self_index` int `(n,)`;
            `candidate_mask` bool `(columns,)` or `(n, columns)`; `negative_only` bool `(columns,)`;
            `positives` float `(n, columns)`: weights >= 0 in place of equal ids. As in `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 inputs, else float32: one loss per anchor, not reduced.

    Raises:
        ValueError: `margin` is not positive, `distance` is unknown, or shapes are known to be wrong.

    Reference:
        Hadsell, Chopra, LeCun, 2006, Dimensionality Reduction by Learning an Invariant Mapping, Eq. 4.
        tensorflow-addons has no half, takes distances, and labels that are 1 for similar pairs.

    Example:
        >>> origin, right, far = [[0.0, 0.0]], [[0.5, 0.0]], [[0.0, 3.0]]
        >>> contrastive_loss(origin, right, far).numpy()
        array([0.125], dtype=float32)
    """
    options = {"margin": margin, "distance": distance}
    if negative is not None:
        return _over_rows(anchor, positive, negative, **options)
    return _over_sets(anchor, positive, draw=draw, **options, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class ContrastiveLoss(RowsOrSetsLoss):
    """`contrastive_loss` as a Keras loss, over sets `(ids, embeddings)` or rows `(anchor, positive, negative)`.

    A third tensor of the shape of the first two is the negative; otherwise it is Keras' `sample_weight`.

    Args:
        margin: Float > 0, in units of the distance.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` or `"inner_product"`.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `margin` is not a finite number > 0, or `distance` or `reduction` is unknown.
    """

    draws = True

    def __init__(
        self,
        margin: float = 1.0,
        *,
        distance: str = "euclidean",
        reduction: str = "sum_over_batch_size",
        name: str = "contrastive_loss",
    ):
        check_positive(margin=margin)
        check_choice("distance", distance, DISTANCES)
        options = {"margin": margin, "distance": distance}
        super().__init__(
            _over_sets, _over_rows, options, reduction=reduction, name=name
        )


def _over_rows(anchor, positive, negative, *, margin, distance):
    check_positive(margin=margin)
    check_choice("distance", distance, DISTANCES)
    anchor, positive, negative = (
        tf.convert_to_tensor(t) for t in (anchor, positive, negative)
    )
    check_same_shape(anchor=anchor, positive=positive, negative=negative)
    attraction = tf.square(row_distances(anchor, positive, distance))  # (n,)
    repulsion = tf.square(
        tf.nn.relu(margin - row_distances(anchor, negative, distance))
    )
    return (attraction + repulsion) / 2


def _over_sets(ids, embeddings, *, margin, distance, draw=None, **sets):
    check_positive(margin=margin)
    pairs = all_pairs(ids, embeddings, distance=distance, **sets)
    weight, negatives = pairs.weight, pairs.negative
    attraction = _weighted_mean(tf.square(pairs.distance), weight)  # (n,)
    repulsions = tf.square(tf.nn.relu(margin - pairs.distance))
    if draw is None:
        repulsion = _weighted_mean(repulsions, tf.cast(negatives, weight.dtype))
    else:
        repulsion = _weighted_mean(_draw_columns(repulsions, negatives, draw), weight)
    counts = tf.cast(pairs.counts, weight.dtype)
    return counts * (attraction + repulsion) / 2, counts


def _weighted_mean(values, weights):
    """Mean of each row of `values`, 0 where all weights are 0. Both `(n, columns)`; returns `(n,)`."""
    return tf.math.divide_no_nan(
        tf.reduce_sum(weights * values, axis=1), tf.reduce_sum(weights, axis=1)
    )


def _draw_columns(values, allowed, draw):
    """For every entry of `values` `(n, columns)` one allowed value of its row, drawn uniformly."""
    # Allowed columns first; then a uniform place among them names a column.
    order = tf.argsort(
        tf.cast(allowed, tf.int32), axis=1, direction="DESCENDING", stable=True
    )
    count = tf.cast(tf.reduce_sum(tf.cast(allowed, tf.int32), axis=1), tf.float32)[
        :, None
    ]
    place = tf.cast(
        uniform(tf.cast(draw, tf.int64), tf.shape(values)) * count, tf.int32
    )
    return tf.gather(values, tf.gather(order, place, batch_dims=1), batch_dims=1)
