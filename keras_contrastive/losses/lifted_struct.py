"""The lifted structure loss: every positive pair against the negatives of both its rows."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_finite
from keras_contrastive.losses._base import FunctionLoss
from keras_contrastive.losses._distances import DISTANCES
from keras_contrastive.losses._pairs import Pairs, all_pairs, log_sum_exp


def lifted_struct_loss(
    ids, embeddings, *, margin=1.0, distance="euclidean", **sets
) -> tf.Tensor:
    """Pull every positive pair together, and push the negatives of both its rows away.

    For a positive pair (i, p): J = d_ip + log( sum_k exp(m - d_ik) + sum_l exp(m - d_pl) ), with k over the negatives of
    i and l over those of p. Per anchor: the mean over its positives of max(0, J)^2 / 2. The mean over anchors, each
    weighed by its number of positives, is the paper's sum over pairs divided by twice their number.

    Args:
        ids: int `(n,)`, or multi-hot `(n, classes)`: a positive weighs as many labels as it shares.
        embeddings: Float `(n, dim)`, compared as they come unless `distance="cosine"`.
        margin: Float, m, in units of d.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` (1 - cosine) or `"inner_product"` (the negated
            product).
        **sets: Keyword arguments of all losses over sets: see `nt_xent_loss`. With `candidates` the negatives of a
            positive p are the candidates of other ids, less those that a `candidate_mask` of shape `(columns,)` takes
            out; a mask `(n, columns)` says nothing about candidates among each other.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without a
        positive or without a negative, which does not count.

    Raises:
        ValueError: `margin` is not finite, `distance` is unknown, a shape is known to be wrong, or `positives` come
            with `candidates` but without `candidate_ids`.

    Reference:
        Song et al., 2016, Deep Metric Learning via Lifted Structured Feature Embedding, Eq. 4. Equal to
        tensorflow-addons' but for anchors that do not count. TensorFlow Similarity's is another function.

    Example:
        >>> lifted_struct_loss([7, 7, 8], [[0.0], [1.0], [3.0]]).numpy().round(4)
        array([0.0491, 0.0491, 0.    ], dtype=float32)
    """
    return _lifted_struct(ids, embeddings, margin=margin, distance=distance, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class LiftedStructLoss(FunctionLoss):
    """`lifted_struct_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        margin: Float, in units of the distance.
        distance: `"euclidean"`, `"squared_euclidean"`, `"cosine"` or `"inner_product"`.
        reduction: `"sum_over_batch_size"` (the mean over positive pairs), `"sum"` or `"none"`: for each anchor the sum
            over its positives (the function gives the mean).
        name: Name of the loss.

    Raises:
        ValueError: `margin` is not a finite number, or `distance` or `reduction` is unknown.
    """

    def __init__(
        self,
        margin: float = 1.0,
        *,
        distance: str = "euclidean",
        reduction: str = "sum_over_batch_size",
        name: str = "lifted_struct_loss",
    ):
        check_finite(margin=margin)
        check_choice("distance", distance, DISTANCES)
        options = {"margin": margin, "distance": distance}
        super().__init__(_lifted_struct, options, reduction=reduction, name=name)


def _lifted_struct(
    ids, embeddings, *, margin, distance, candidates=None, candidate_ids=None, **sets
):
    check_finite(margin=margin)
    pairs = all_pairs(
        ids,
        embeddings,
        distance=distance,
        candidates=candidates,
        candidate_ids=candidate_ids,
        **sets,
    )
    of_anchor = of_column = _repulsion(pairs, margin)  # (n,)
    if candidates is not None:
        if candidate_ids is None:
            raise ValueError(
                "`candidates` needs `candidate_ids` here, which say what the negatives of a positive are. "
                "Received: candidate_ids=None."
            )
        mask = sets.get("candidate_mask")
        if mask is not None and tf.convert_to_tensor(mask).shape.rank != 1:
            mask = None
        among = all_pairs(
            candidate_ids, candidates, distance=distance, candidate_mask=mask
        )
        of_column = tf.cast(_repulsion(among, margin), of_anchor.dtype)  # (columns,)
    repulsion = _log_add_exp(of_anchor[:, None], of_column[None, :])
    hinge = tf.nn.relu(pairs.distance + repulsion)
    number = tf.reduce_sum(pairs.weight, axis=1)
    counts = tf.where(pairs.counts, number, tf.zeros_like(number))
    total = tf.reduce_sum(
        tf.where(pairs.positive, pairs.weight * tf.square(hinge), 0.0), axis=1
    )
    values = tf.math.divide_no_nan(total, 2 * number)
    return tf.where(counts > 0, values, tf.zeros_like(values)), counts


def _repulsion(pairs: Pairs, margin) -> tf.Tensor:
    """log sum_k exp(m - d_ik) over the negatives of each row `(n,)`."""
    negative = tf.cast(pairs.negative, pairs.distance.dtype)
    return log_sum_exp(margin - pairs.distance, negative)


def _log_add_exp(first, second) -> tf.Tensor:
    """log(exp(first) + exp(second))."""
    top = tf.stop_gradient(tf.maximum(first, second))
    return top + tf.math.log(tf.exp(first - top) + tf.exp(second - top))
