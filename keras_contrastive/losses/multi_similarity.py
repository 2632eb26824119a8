"""The multi-similarity loss: positives and negatives weighed by how hard they are, each by a log-sum-exp."""

from __future__ import annotations

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
from keras_contrastive.losses._pairs import all_pairs
from keras_contrastive.losses.sets import set_keywords


def multi_similarity_loss(
    ids,
    embeddings,
    *,
    alpha=2.0,
    beta=50.0,
    base=0.5,
    mining_epsilon=None,
    **sets,
) -> tf.Tensor:
    """Pull positives above a similarity and push negatives below it, hard ones more, by cosine.

    Per anchor: log(1 + sum_p exp(-alpha (s_p - base))) / alpha + log(1 + sum_n exp(beta (s_n - base))) / beta, over
    its positives p and negatives n, with s the cosine similarity. With `mining_epsilon` only positives less similar than
    the most similar negative plus epsilon, and negatives more similar than the least similar positive less epsilon,
    enter the sums.

    Args:
        ids: int `(n,)`, or multi-hot `(n, classes)`: a positive is there as often as it shares labels.
        embeddings: Float `(n, dim)`.
        alpha: Float > 0, how sharply the positives are weighed.
        beta: Float > 0, the same of the negatives.
        base: Float, the similarity that divides them.
        mining_epsilon: Float, or None: all pairs. 0.1 in the reference. Needs the matrix of similarities; without it
            memory grows with n alone.
        **sets: Keyword arguments of all losses over sets: see `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without a
        positive or without a negative, which does not count. One of which mining leaves nothing is 0 and counts.

    Raises:
        ValueError: `alpha` or `beta` is not positive, `base` or `mining_epsilon` is not finite, or a shape is wrong.

    Reference:
        Wang et al., 2019, Multi-Similarity Loss with General Pair Weighting, Eq. 15 (mining: Eq. 11 and 12). The
        public code drops duplicates of the anchor (similarities above 1 - 1e-5) from the positives; this does not.

    Example:
        >>> rows = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
        >>> multi_similarity_loss([7, 7, 8], rows).numpy().round(4)
        array([0.6566, 1.1566, 0.    ], dtype=float32)
    """
    options = {
        "alpha": alpha,
        "beta": beta,
        "base": base,
        "mining_epsilon": mining_epsilon,
    }
    return _multi_similarity(ids, embeddings, **options, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class MultiSimilarityLoss(FunctionLoss):
    """`multi_similarity_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        alpha: Float > 0, how sharply the positives are weighed.
        beta: Float > 0, the same of the negatives.
        base: Float, the similarity that divides them.
        mining_epsilon: Float, or None: all pairs.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: As of `multi_similarity_loss`, or `reduction` is unknown.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        *,
        mining_epsilon: float | None = None,
        reduction: str = "sum_over_batch_size",
        name: str = "multi_similarity_loss",
    ):
        options = {
            "alpha": alpha,
            "beta": beta,
            "base": base,
            "mining_epsilon": mining_epsilon,
        }
        _check(**options)
        super().__init__(_multi_similarity, options, reduction=reduction, name=name)


def _check(alpha, beta, base, mining_epsilon) -> None:
    check_positive(alpha=alpha, beta=beta)
    check_finite(base=base)
    if mining_epsilon is not None:
        check_finite(mining_epsilon=mining_epsilon)


def _multi_similarity(
    ids, embeddings, *, alpha, beta, base, mining_epsilon=None, **sets
):
    _check(alpha, beta, base, mining_epsilon)
    options = {"alpha": alpha, "beta": beta, "base": base}
    check_numbers(**options)
    if mining_epsilon is None:
        return _of_all(ids, embeddings, **options, **sets)
    pairs = all_pairs(ids, tf.stop_gradient(embeddings), distance="cosine", **sets)
    near, far = pairs.nearest(pairs.negative), pairs.farthest(pairs.positive)
    hard = tf.where(
        pairs.positive,
        pairs.distance > near[:, None] - mining_epsilon,
        pairs.negative & (pairs.distance < far[:, None] + mining_epsilon),
    )
    mined = _of_all(ids, embeddings, **options, **{**sets, "candidate_mask": hard})
    return where_counted(pairs.counts, mined[0])


@compiled
def _of_all(ids, embeddings, *, alpha, beta, base, **sets):
    comparison = compare_sets(ids, embeddings, **set_keywords(sets))
    near, far, weight = comparison.statistics(
        LogSumExp("positives", -alpha), LogSumExp("negatives", beta), POSITIVE_WEIGHT
    )
    values = softplus(near + alpha * base) / alpha + softplus(far - beta * base) / beta
    return where_counted((weight > 0) & ~is_empty(far), values)
