"""The softmax without the positive in its denominator: decoupled contrastive learning."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_positive
from keras_contrastive._numerics import as_scalar
from keras_contrastive.losses._base import FunctionLoss, where_counted
from keras_contrastive.losses._blocks import (
    POSITIVE_LOGITS,
    POSITIVE_WEIGHT,
    LogSumExp,
    PairSum,
    compiled,
    is_empty,
)
from keras_contrastive.losses._comparison import compare_sets


def decoupled_loss(
    ids, embeddings, *, temperature=0.1, weighted=False, sigma=0.5, **sets
) -> tf.Tensor:
    """`nt_xent_loss` without the positives in the denominator, which trains better in small batches.

    Per anchor i with the positives P and the negatives N: the mean over p in P of -w_ip s_ip / t, plus
    log sum_{k in N} exp(s_ik / t); s is the cosine similarity, t the temperature, w = 1 (DCL). With `weighted`
    (DCLW) w_ip = 2 - exp(s_ip / sigma) / mean of exp(s / sigma), which weighs far positives more: the mean is
    over the positives of an anchor, then over the anchors that count. No gradient flows through w.

    Args:
        ids: int `(n,)` or multi-hot `(n, classes)`, as of `nt_xent_loss`.
        embeddings: Float `(n, dim)`.
        temperature: Float > 0, or a float scalar tensor.
        weighted: Whether positives are weighted (DCLW).
        sigma: Float > 0, the temperature of the weights.
        **sets: Keywords of `nt_xent_loss`.

    Returns:
        Float `(n,)`, may be negative, float64 for float64 embeddings, else float32, not reduced: 0 for an
        anchor without a positive or without a negative, which does not count.

    Raises:
        ValueError: `temperature` or `sigma` is not positive, or a shape is known to be wrong.

    Reference:
        Yeh et al., 2021, Decoupled Contrastive Learning, Eq. 5 and 6. lightly takes the mean of the weights
        over the images of one replica.

    Example:
        >>> rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
        >>> decoupled_loss([7, 7, 8], rows, temperature=1.0).numpy()  # -1 + log exp(0)
        array([-1., -1.,  0.], dtype=float32)
    """
    options = {"temperature": temperature, "weighted": weighted, "sigma": sigma}
    return _decoupled(ids, embeddings, **options, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class DecoupledLoss(FunctionLoss):
    """`decoupled_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        weighted: Whether positives are weighted (DCLW).
        sigma: Float > 0, the temperature of the weights.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` or `sigma` is not a finite number > 0, or `reduction` is unknown.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        weighted: bool = False,
        sigma: float = 0.5,
        reduction: str = "sum_over_batch_size",
        name: str = "decoupled_loss",
    ):
        check_positive(temperature=temperature, sigma=sigma)
        options = {"temperature": temperature, "weighted": weighted, "sigma": sigma}
        super().__init__(_decoupled, options, reduction=reduction, name=name)


@compiled
def _decoupled(ids, embeddings, *, weighted, sigma, **options):
    check_positive(sigma=sigma)
    comparison = compare_sets(ids, embeddings, **options)
    terms = [LogSumExp("negatives"), POSITIVE_LOGITS, POSITIVE_WEIGHT]
    if not weighted:
        negatives, logits, weight = comparison.statistics(*terms)
        counts = (weight > 0) & ~is_empty(negatives)
        return where_counted(counts, negatives - _mean(logits, weight))
    factor = 1 / (as_scalar(sigma, comparison.scale.dtype) * comparison.scale)
    factor, scale = (
        tf.fill(tf.shape(embeddings)[:1], tf.stop_gradient(number))
        for number in (factor, comparison.scale)
    )
    terms += [PairSum("positives", _product, linear=True)]
    terms += [PairSum("positives", f, 2) for f in (_closeness, _close_product)]
    negatives, logits, weight, *close = comparison.statistics(
        *terms, parameters=(factor, scale) * 2
    )
    counts = (weight > 0) & ~is_empty(negatives)
    product, closeness, close_product = (_mean(total, weight) for total in close)
    closeness, counted = where_counted(counts, tf.stop_gradient(closeness))
    mean = _mean(tf.reduce_sum(closeness), tf.reduce_sum(counted))
    # The weight 2 - exp(s / sigma) / mean is of the similarity alone, not of its logQ correction.
    near = _mean(logits, weight) + product - _mean(close_product, mean)
    return where_counted(counts, negatives - near)


_mean = tf.math.divide_no_nan


def _product(pair):
    return pair.product


def _closeness(pair, factor, scale):
    """exp((s - 1) / sigma): only ratios count, and this does not overflow."""
    return tf.stop_gradient(tf.exp((pair.product - scale) * factor))


def _close_product(pair, factor, scale):
    return _closeness(pair, factor, scale) * pair.product
