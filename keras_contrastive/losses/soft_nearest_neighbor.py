"""The soft nearest neighbour loss: how likely a neighbour, drawn by its distance, is a positive."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_positive
from keras_contrastive._numerics import as_scalar, softplus
from keras_contrastive.losses._base import FunctionLoss, where_counted
from keras_contrastive.losses._distances import DISTANCES
from keras_contrastive.losses._pairs import all_pairs, log_sum_exp


def soft_nearest_neighbor_loss(
    ids, embeddings, *, temperature=1.0, distance="squared_euclidean", **sets
) -> tf.Tensor:
    """-log of how likely an anchor's neighbour is a positive, when neighbours are drawn by exp(-distance / t).

    Per anchor: -log( sum_p exp(-d_p / t) / sum_a exp(-d_a / t) ), with p over its positives and a over all its columns.

    Args:
        ids: int `(n,)`, or multi-hot `(n, classes)`: a positive is there as often as it shares labels.
        embeddings: Float `(n, dim)`, compared as they come unless `distance="cosine"`.
        temperature: Float > 0, or a float scalar tensor (gradients flow into it), in units of d.
        distance: `"squared_euclidean"`, `"euclidean"`, `"cosine"` (1 - cosine) or `"inner_product"` (the negated
            product).
        **sets: Keyword arguments of all losses over sets: see `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without a
        positive, which does not count. Far rows do not underflow.

    Raises:
        ValueError: `temperature` is not positive, `distance` is unknown, or a shape is known to be wrong.

    Reference:
        Frosst, Papernot, Hinton, 2019, Analyzing and Improving Representations with the Soft Nearest Neighbor Loss,
        Eq. 1; the paper learns 1 / t (here: `learn_temperature=True` of the loss layer).

    Example:
        >>> soft_nearest_neighbor_loss([7, 7, 8], [[0.0], [1.0], [1.0]]).numpy().round(4)
        array([0.6931, 1.3133, 0.    ], dtype=float32)
    """
    options = {"temperature": temperature, "distance": distance}
    return _soft_nearest_neighbor(ids, embeddings, **options, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class SoftNearestNeighborLoss(FunctionLoss):
    """`soft_nearest_neighbor_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        distance: `"squared_euclidean"`, `"euclidean"`, `"cosine"` or `"inner_product"`.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` is not a finite number > 0, or `distance` or `reduction` is unknown.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        distance: str = "squared_euclidean",
        reduction: str = "sum_over_batch_size",
        name: str = "soft_nearest_neighbor_loss",
    ):
        check_positive(temperature=temperature)
        check_choice("distance", distance, DISTANCES)
        options = {"temperature": temperature, "distance": distance}
        super().__init__(
            _soft_nearest_neighbor, options, reduction=reduction, name=name
        )


def _soft_nearest_neighbor(ids, embeddings, *, temperature, distance, **sets):
    check_positive(temperature=temperature)
    pairs = all_pairs(ids, embeddings, distance=distance, **sets)
    logits = -pairs.distance / as_scalar(temperature, pairs.distance.dtype)
    positives = log_sum_exp(logits, pairs.weight)
    negatives = log_sum_exp(logits, tf.cast(pairs.negative, logits.dtype))
    counts = tf.reduce_any(pairs.positive, axis=1)
    return where_counted(counts, softplus(negatives - positives))
