"""The circle loss: similarities weighed by how far they are from where they should be."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from keras_contrastive._checks import check_finite, check_numbers, check_positive
from keras_contrastive._numerics import softplus
from keras_contrastive.losses._base import FunctionLoss, where_counted
from keras_contrastive.losses._blocks import (
    POSITIVE_WEIGHT,
    LogSumExp,
    compiled,
    is_empty,
)
from keras_contrastive.losses._comparison import compare_sets
from keras_contrastive.losses.sets import set_keywords


def circle_loss(ids, embeddings, *, margin=0.4, scale=80.0, **sets) -> tf.Tensor:
    """Push all of an anchor's negatives below all of its positives, by cosine, each at a pace of its own.

    Per anchor, with s the cosine similarity, m the margin and g the scale:
    log(1 + sum_n exp(g a_n (s_n - m)) sum_p exp(-g a_p (s_p - (1 - m)))), where a_p = max(0, 1 + m - s_p) and
    a_n = max(0, s_n + m) are weights through which no gradient flows.

    Args:
        ids: int `(n,)`, or multi-hot `(n, classes)`: a positive is there as often as it shares labels.
        embeddings: Float `(n, dim)`.
        margin: Float: positives are pulled above 1 - margin, negatives pushed below it.
        scale: Float > 0, the inverse temperature.
        **sets: Keyword arguments of all losses over sets: see `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without a
        positive or without a negative, which does not count.

    Raises:
        ValueError: `scale` is not positive, `margin` is not finite, or a shape is known to be wrong.

    Reference:
        Sun et al., 2020, Circle Loss: A Unified Perspective of Pair Similarity Optimization, Eq. 6 and 8. The paper has
        margin 0.25 and scale 256 for faces, 0.4 and 80 for retrieval. TensorFlow Similarity adds the logarithms of
        both sums, and lets a gradient flow through the weights.

    Example:
        >>> rows = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
        >>> circle_loss([7, 7, 8], rows, margin=0.5, scale=1.0).numpy().round(4)
        array([0.9741, 1.7014, 0.    ], dtype=float32)
    """
    return _circle(ids, embeddings, margin=margin, scale=scale, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class CircleLoss(FunctionLoss):
    """`circle_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        margin: Float: positives are pulled above 1 - margin, negatives pushed below it.
        scale: Float > 0, the inverse temperature.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `scale` is not a finite number > 0, `margin` is not finite, or `reduction` is unknown.
    """

    def __init__(
        self,
        margin: float = 0.4,
        scale: float = 80.0,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "circle_loss",
    ):
        check_finite(margin=margin)
        check_positive(scale=scale)
        options = {"margin": margin, "scale": scale}
        super().__init__(_circle, options, reduction=reduction, name=name)


@compiled
def _circle(ids, embeddings, *, margin, scale, **sets):
    check_finite(margin=margin)
    check_positive(scale=scale)
    check_numbers(margin=margin, scale=scale)
    comparison = compare_sets(ids, embeddings, **set_keywords(sets))
    far, near, weight = comparison.statistics(
        LogSumExp("negatives", function=_Negative(margin, scale)),
        LogSumExp("positives", function=_Positive(margin, scale)),
        POSITIVE_WEIGHT,
    )
    return where_counted((weight > 0) & ~is_empty(far), softplus(far + near))


@dataclasses.dataclass(frozen=True)  # compared by class, too
class _Negative:
    """g a_n (s_n - m) of a pair."""

    margin: float
    scale: float

    def __call__(self, pair):
        pace = tf.stop_gradient(tf.nn.relu(pair.product + self.margin))
        return self.scale * pace * (pair.product - self.margin)


@dataclasses.dataclass(frozen=True)
class _Positive:
    """-g a_p (s_p - (1 - m)) of a pair."""

    margin: float
    scale: float

    def __call__(self, pair):
        pace = tf.stop_gradient(tf.nn.relu(1 + self.margin - pair.product))
        return -self.scale * pace * (pair.product - (1 - self.margin))
