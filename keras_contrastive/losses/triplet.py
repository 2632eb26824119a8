"""The triplet losses: a positive must be nearer than a negative, by a margin.

They differ in which triplets they take: all of a batch, for each positive pair the nearest negative beyond it
(semi-hard), or for each anchor its farthest positive and nearest negative (hard). No tensor over triplets is made:
sorting each anchor's distances once is enough for all of them.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_positive, check_same_shape
from keras_contrastive._numerics import softplus
from keras_contrastive.losses._base import FunctionLoss, RowsOrSetsLoss, where_counted
from keras_contrastive.losses._distances import DISTANCES, row_distances
from keras_contrastive.losses._pairs import Pairs, all_pairs, best_row


def triplet_loss(
    anchor,
    positive,
    negative=None,
    *,
    margin=0.2,
    distance="euclidean",
    mining="all",
    **sets,
) -> tf.Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), over the triplets that `mining` takes.

    Over rows, called with three tensors: row by row; `mining` plays no role. Over sets, called with
    `(ids, embeddings)`, per anchor the mean over its triplets: with `mining="all"` every positive with every negative,
    `"semi_hard"` as `triplet_semi_hard_loss`, `"hard"` as `triplet_hard_loss`. The class weighs each anchor by how many
    triplets it has: its value is the mean over all of them, those of value 0 too.

    Args:
        anchor: Float `(n, dim)`; over sets the ids: int `(n,)`, -1 matching nothing, or multi-hot `(n, classes)`, where
            a positive is there as often as it shares labels.
        positive: Float `(n, dim)`, row i a positive of the anchor in row i; over sets the embeddings.
        negative: Float `(n, dim)`, row i a negative of the anchor in row i; over sets None.
        margin: Float > 0, in units of d. On the unit sphere the Euclidean distance is at most 2.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` (1 - cosine, normalises) or `"inner_product"` (the
            negated product).
        mining: `"all"`, `"semi_hard"` or `"hard"`.
        **sets: Over sets: keyword arguments of all losses over sets, see `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 inputs, else float32, not reduced: over sets 0 for an anchor without a
        positive or without a negative, which does not count.

    Raises:
        ValueError: `margin` is not positive, `distance` or `mining` is unknown, or shapes are known to be wrong.

    Reference:
        Schroff et al., 2015, FaceNet: A Unified Embedding for Face Recognition and Clustering, Eq. 3, which has the
        squared distance of unit rows. pytorch-metric-learning averages over the triplets above 0 alone.

    Example:
        >>> triplet_loss([[0.0]], [[0.5]], [[0.6]]).numpy().round(4)
        array([0.1], dtype=float32)
    """
    options = {"margin": margin, "distance": distance, "mining": mining}
    if negative is not None:
        return _over_rows(anchor, positive, negative, **options)
    return _over_sets(anchor, positive, **options, **sets)[0]


def triplet_semi_hard_loss(
    ids, embeddings, *, margin=1.0, distance="euclidean", **sets
) -> tf.Tensor:
    """max(0, d_ap - d_an + margin) for each positive pair, with the nearest negative beyond the positive.

    Where no negative is farther than the positive, the farthest one takes its place. Per anchor the mean over its
    positives; the class averages over all positive pairs.

    Args:
        ids: int `(n,)`, or multi-hot `(n, classes)`: a positive weighs as many labels as it shares.
        embeddings: Float `(n, dim)`, compared as they come unless `distance="cosine"`. Usually of unit length.
        margin: Float > 0, in units of d.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` or `"inner_product"`.
        **sets: Keyword arguments of all losses over sets: see `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without a
        positive or without a negative, which does not count.

    Raises:
        ValueError: `margin` is not positive, `distance` is unknown, or a shape is known to be wrong.

    Reference:
        Schroff et al., 2015, FaceNet, Sec. 3.2, in the form of tensorflow-addons, which is NaN without a positive pair.
        TensorFlow Similarity takes one triplet of each anchor.

    Example:
        >>> triplet_semi_hard_loss([7, 7, 8, 8], [[0.0], [1.0], [1.5], [3.0]]).numpy().round(4)
        array([0.5, 0. , 1. , 0.5], dtype=float32)
    """
    return _semi_hard(ids, embeddings, margin=margin, distance=distance, **sets)[0]


def triplet_hard_loss(
    ids, embeddings, *, margin=1.0, soft=False, distance="euclidean", **sets
) -> tf.Tensor:
    """max(0, d_ap - d_an + margin) for each anchor, with its farthest positive and its nearest negative.

    Args:
        ids: int `(n,)`, or multi-hot `(n, classes)`: sharing a label makes a positive.
        embeddings: Float `(n, dim)`, compared as they come unless `distance="cosine"`.
        margin: Float > 0, in units of d.
        soft: Whether log(1 + exp(d_ap - d_an)) takes the place of the hinge; the margin plays no role then.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` or `"inner_product"`.
        **sets: Keyword arguments of all losses over sets: see `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without a
        positive or without a negative, which does not count.

    Raises:
        ValueError: `margin` is not positive, `distance` is unknown, or a shape is known to be wrong.

    Reference:
        Hermans, Beyer, Leibe, 2017, In Defense of the Triplet Loss for Person Re-Identification, Eq. 5 and Sec. 2
        (soft margin). tensorflow-addons counts anchors without a positive, at distance 0.

    Example:
        >>> triplet_hard_loss([7, 7, 8], [[0.0], [1.0], [1.5]]).numpy().round(4)
        array([0.5, 1.5, 0. ], dtype=float32)
    """
    options = {"margin": margin, "soft": soft, "distance": distance}
    return _hard(ids, embeddings, **options, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class TripletLoss(RowsOrSetsLoss):
    """`triplet_loss` as a Keras loss, over sets `(ids, embeddings)` or rows `(anchor, positive, negative)`.

    A third tensor of the shape of the first two is the negative; otherwise it is Keras' `sample_weight`.

    Args:
        margin: Float > 0, in units of the distance.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` or `"inner_product"`.
        mining: `"all"`, `"semi_hard"` or `"hard"`.
        reduction: `"sum_over_batch_size"` (the mean over triplets), `"sum"` or `"none"`: for each anchor the sum over
            its triplets (the function gives the mean).
        name: Name of the loss.

    Raises:
        ValueError: `margin` is not a finite number > 0, or `distance`, `mining` or `reduction` is unknown.
    """

    def __init__(
        self,
        margin: float = 0.2,
        *,
        distance: str = "euclidean",
        mining: str = "all",
        reduction: str = "sum_over_batch_size",
        name: str = "triplet_loss",
    ):
        _check(margin, distance)
        check_choice("mining", mining, MINING)
        options = {"margin": margin, "distance": distance, "mining": mining}
        super().__init__(
            _over_sets, _over_rows, options, reduction=reduction, name=name
        )


@keras.saving.register_keras_serializable("keras_contrastive")
class TripletSemiHardLoss(FunctionLoss):
    """`triplet_semi_hard_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        margin: Float > 0, in units of the distance.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` or `"inner_product"`.
        reduction: `"sum_over_batch_size"` (the mean over positive pairs), `"sum"` or `"none"`: for each anchor the sum
            over its positives (the function gives the mean).
        name: Name of the loss.

    Raises:
        ValueError: `margin` is not a finite number > 0, or `distance` or `reduction` is unknown.
    """

    def __init__(
        self,
        margin: float = 1.0,
        *,
        distance: str = "euclidean",
        reduction: str = "sum_over_batch_size",
        name: str = "triplet_semi_hard_loss",
    ):
        _check(margin, distance)
        options = {"margin": margin, "distance": distance}
        super().__init__(_semi_hard, options, reduction=reduction, name=name)


@keras.saving.register_keras_serializable("keras_contrastive")
class TripletHardLoss(FunctionLoss):
    """`triplet_hard_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        margin: Float > 0, in units of the distance.
        soft: Whether log(1 + exp(d_ap - d_an)) takes the place of the hinge.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` or `"inner_product"`.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `margin` is not a finite number > 0, or `distance` or `reduction` is unknown.
    """

    def __init__(
        self,
        margin: float = 1.0,
        soft: bool = False,
        *,
        distance: str = "euclidean",
        reduction: str = "sum_over_batch_size",
        name: str = "triplet_hard_loss",
    ):
        _check(margin, distance)
        options = {"margin": margin, "soft": soft, "distance": distance}
        super().__init__(_hard, options, reduction=reduction, name=name)


def _check(margin, distance) -> None:
    check_positive(margin=margin)
    check_choice("distance", distance, DISTANCES)


def _over_rows(anchor, positive, negative, *, margin, distance, mining):
    _check(margin, distance)
    check_choice("mining", mining, MINING)
    anchor, positive, negative = (
        tf.convert_to_tensor(t) for t in (anchor, positive, negative)
    )
    check_same_shape(anchor=anchor, positive=positive, negative=negative)
    near = row_distances(anchor, positive, distance)
    return tf.nn.relu(near - row_distances(anchor, negative, distance) + margin)


def _over_sets(ids, embeddings, *, mining, **options):
    check_choice("mining", mining, MINING)
    return MINING[mining](ids, embeddings, **options)


def _all(ids, embeddings, *, margin, distance, **sets):
    _check(margin, distance)
    pairs = all_pairs(ids, embeddings, distance=distance, **sets)
    num_negatives = tf.reduce_sum(tf.cast(pairs.negative, pairs.weight.dtype), axis=1)
    counts = tf.reduce_sum(pairs.weight, axis=1) * num_negatives
    total = _sum_of_hinges(pairs, margin)
    return tf.math.divide_no_nan(total, counts), counts


def _semi_hard(ids, embeddings, *, margin, distance, **sets):
    _check(margin, distance)
    pairs = all_pairs(ids, embeddings, distance=distance, **sets)
    far = tf.stop_gradient(_nearest_beyond(pairs))
    hinge = tf.nn.relu(
        pairs.distance - tf.gather(pairs.distance, far, batch_dims=1) + margin
    )
    total = tf.reduce_sum(pairs.weight * hinge, axis=1)
    number = tf.reduce_sum(pairs.weight, axis=1)
    counts = tf.where(pairs.counts, number, tf.zeros_like(number))
    values = tf.math.divide_no_nan(total, number)
    return tf.where(counts > 0, values, tf.zeros_like(values)), counts


def _hard(ids, embeddings, *, margin, distance, soft=False, candidates=None, **sets):
    _check(margin, distance)
    embeddings = tf.convert_to_tensor(embeddings)
    columns = embeddings if candidates is None else tf.convert_to_tensor(candidates)
    pairs = all_pairs(
        ids,
        tf.stop_gradient(embeddings),
        distance=distance,
        candidates=None if candidates is None else tf.stop_gradient(columns),
        **sets,
    )
    # The rows that were found are compared once more, with gradients for them alone: no matrix of gradients.
    near, far = (
        row_distances(embeddings, best_row(columns, scores), distance)
        for scores in (
            pairs.where(pairs.positive, below=True),
            -pairs.where(pairs.negative),
        )
    )
    values = softplus(near - far) if soft else tf.nn.relu(near - far + margin)
    return where_counted(pairs.counts, values)


MINING = {"all": _all, "semi_hard": _semi_hard, "hard": _hard}


def _nearest_beyond(pairs: Pairs) -> tf.Tensor:
    """For each pair the column of the anchor's nearest negative farther than it, or else of the farthest negative.

    int `[n, columns]`. The negatives are sorted once for each anchor, and every distance looked up among them.
    """
    negatives = pairs.where(pairs.negative)
    order = tf.argsort(negatives, axis=1)
    ordered = tf.gather(negatives, order, batch_dims=1)
    place = tf.searchsorted(ordered, pairs.distance, side="right")  # (n, columns)
    last = tf.reduce_sum(tf.cast(pairs.negative, tf.int32), axis=1, keepdims=True) - 1
    place = tf.minimum(place, tf.maximum(last, 0))
    return tf.gather(order, place, batch_dims=1)


def _sum_of_hinges(pairs: Pairs, margin) -> tf.Tensor:
    """sum_pn w_p max(0, d_p - d_n + margin) of each anchor `(n,)`.

    With d_p + margin and d_n sorted together, a positive's sum needs how many negatives come before it, and their sum;
    a negative's gradient the weight of the positives behind it. In float64: differences of long sums.
    """

    @tf.custom_gradient
    def compute(distance):
        shifted = pairs._replace(distance=distance + margin)
        keys = tf.where(pairs.negative, distance, shifted.where(pairs.positive))
        order = tf.argsort(keys, axis=1)
        key, negative, weight = (
            tf.gather(tf.cast(part, tf.float64), order, batch_dims=1)
            for part in (keys, pairs.negative, pairs.weight)
        )
        key = tf.where((negative > 0) | (weight > 0), key, tf.zeros_like(key))
        before = tf.cumsum(negative, axis=1)
        sum_before = tf.cumsum(negative * key, axis=1)
        total = tf.reduce_sum(weight * (key * before - sum_before), axis=1)

        def gradient(upstream):
            behind = tf.cumsum(weight, axis=1, exclusive=True, reverse=True)
            slope = tf.cast(weight * before - negative * behind, distance.dtype)
            return upstream[:, None] * _unsort(slope, order)

        return tf.cast(tf.nn.relu(total), distance.dtype), gradient

    return compute(pairs.distance)


def _unsort(values, order) -> tf.Tensor:
    """Of `tf.gather(result, order, batch_dims=1) == values`, the result. Both `(n, columns)`."""
    rows = tf.repeat(tf.range(tf.shape(order)[0])[:, None], tf.shape(order)[1], axis=1)
    return tf.scatter_nd(tf.stack([rows, order], axis=2), values, tf.shape(values))
