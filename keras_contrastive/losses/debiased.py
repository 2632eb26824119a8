"""The softmax with a better estimate of its negatives: without the positives among them, and with the hard ones."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_positive
from keras_contrastive.losses._base import FunctionLoss, where_counted
from keras_contrastive.losses._blocks import (
    POSITIVE_WEIGHT,
    LogSumExp,
    PairSum,
    compiled,
    is_empty,
)
from keras_contrastive.losses._comparison import compare_sets


def debiased_loss(
    ids, embeddings, *, temperature=0.5, class_probability=0.1, **sets
) -> tf.Tensor:
    """`nt_xent_loss` corrected for negatives that are of the anchor's own class without our knowing.

    Per anchor i the mean over its positives p of -log(e_p / (e_p + G)), with e = exp(s / t), s the cosine
    similarity, t the temperature, and G = max((sum_k e_k - c m e_p) / (1 - c), m exp(-1 / t)) over its m
    negatives k; c is the probability that a negative is of the anchor's class. Several positives are taken one
    at a time, the others left out. With c = 0 and one positive this is `nt_xent_loss`.

    Args:
        ids: int `(n,)` or multi-hot `(n, classes)`, as of `nt_xent_loss`.
        embeddings: Float `(n, dim)`.
        temperature: Float > 0, or a float scalar tensor.
        class_probability: Float in [0, 1): the paper's tau+.
        **sets: Keywords of `nt_xent_loss`. A logQ correction divides every e by Q, those of the floor too, so
            that a constant Q changes nothing.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without
        a positive or without a negative, which does not count.

    Raises:
        ValueError: `temperature` is not positive, `class_probability` is not in [0, 1), or a shape is known to
            be wrong.

    Reference:
        Chuang et al., 2020, Debiased Contrastive Learning, Eq. 8, with one sample for the positive part (M = 1).

    Example:
        >>> rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
        >>> debiased_loss([7, 7, 8], rows, temperature=1.0, class_probability=0.0).numpy().round(4)
        array([0.3133, 0.3133, 0.    ], dtype=float32)
    """
    options = {"temperature": temperature, "class_probability": class_probability}
    return _debiased(ids, embeddings, beta=None, **options, **sets)[0]


def hard_negative_loss(
    ids, embeddings, *, temperature=0.5, class_probability=0.1, beta=1.0, **sets
) -> tf.Tensor:
    """`debiased_loss` in which every negative weighs the more the closer it is to the anchor.

    The sum over the negatives is sum_k w_k e_k with w_k = e_k^beta / mean_l e_l^beta. Gradients flow through w.
    With `beta` = 0 this is `debiased_loss`.

    Args:
        ids: int `(n,)` or multi-hot `(n, classes)`, as of `nt_xent_loss`.
        embeddings: Float `(n, dim)`.
        temperature: Float > 0, or a float scalar tensor.
        class_probability: Float in [0, 1): the paper's tau+.
        beta: Float >= 0: how far hard negatives are preferred. It multiplies s / t, not s.
        **sets: Keywords of `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, as of `debiased_loss`.

    Raises:
        ValueError: `temperature` is not positive, `class_probability` is not in [0, 1), `beta` is negative, or
            a shape is known to be wrong.

    Reference:
        Robinson et al., 2021, Contrastive Learning with Hard Negative Samples, Eq. 4 and Sec. 4.1.

    Example:
        >>> rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
        >>> options = {"temperature": 1.0, "class_probability": 0.0}
        >>> hard_negative_loss([7, 7, 8, 9], rows, beta=0.0, **options).numpy().round(4)
        array([0.4076, 0.4076, 0.    , 0.    ], dtype=float32)
        >>> hard_negative_loss([7, 7, 8, 9], rows, beta=2.0, **options).numpy().round(4)
        array([0.519, 0.519, 0.   , 0.   ], dtype=float32)
    """
    options = {"temperature": temperature, "class_probability": class_probability}
    check_at_least(0.0, beta=beta)
    return _debiased(ids, embeddings, beta=beta, **options, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class DebiasedLoss(FunctionLoss):
    """`debiased_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        class_probability: Float in [0, 1): how likely a negative is of the anchor's class.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` is not a finite number > 0, `class_probability` is not in [0, 1), or
            `reduction` is unknown.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        class_probability: float = 0.1,
        reduction: str = "sum_over_batch_size",
        name: str = "debiased_loss",
    ):
        check_positive(temperature=temperature)
        _check(class_probability)
        options = {"temperature": temperature, "class_probability": class_probability}
        super().__init__(_debiased, options, reduction=reduction, name=name)


@keras.saving.register_keras_serializable("keras_contrastive")
class HardNegativeLoss(FunctionLoss):
    """`hard_negative_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        class_probability: Float in [0, 1): how likely a negative is of the anchor's class.
        beta: Float >= 0: how far hard negatives are preferred.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` is not a finite number > 0, `class_probability` is not in [0, 1), `beta` is
            negative, or `reduction` is unknown.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        class_probability: float = 0.1,
        beta: float = 1.0,
        reduction: str = "sum_over_batch_size",
        name: str = "hard_negative_loss",
    ):
        check_positive(temperature=temperature)
        _check(class_probability)
        check_at_least(0.0, beta=beta)
        options = {
            "temperature": temperature,
            "class_probability": class_probability,
            "beta": beta,
        }
        super().__init__(_debiased, options, reduction=reduction, name=name)


def _check(class_probability, beta=None) -> None:
    check_at_least(0.0, class_probability=class_probability)
    if class_probability >= 1:
        raise ValueError(
            "`class_probability` must be a number in [0, 1). "
            f"Received: class_probability={class_probability!r}."
        )
    if beta is not None:
        check_at_least(0.0, beta=beta)


@compiled
def _debiased(ids, embeddings, *, class_probability, beta=None, **options):
    _check(class_probability, beta)
    comparison = compare_sets(ids, embeddings, **options)
    estimates = [LogSumExp("negatives")]
    if beta is not None:
        estimates = [LogSumExp("negatives", scale) for scale in (1 + beta, beta)]
    counted, shift, shifts = [PairSum("negatives")], 0.0, ()
    if comparison.bias is not None:
        shift = tf.reduce_max(comparison.bias)
        shifts = (tf.fill(tf.shape(embeddings)[:1], shift),)
        counted.append(PairSum("negatives", _correction, 1))
    negatives, *others = comparison.statistics(*estimates, *counted, parameters=shifts)
    if beta is None:
        number, *others = others
    else:
        weights, number, *others = others
        negatives = tf.where(number > 0, _log(number) + negatives - weights, negatives)
    least = _log(others[0]) + shift if others else _log(number)
    parameters = (negatives, _log(number), least - comparison.scale)
    # Each positive has an estimate of its own, so the positives are seen once more, knowing the negatives.
    surprise = PairSum("positives", _Surprise(class_probability), len(parameters))
    total, weight = comparison.statistics(
        surprise, POSITIVE_WEIGHT, parameters=parameters
    )
    counts = (weight > 0) & ~is_empty(negatives)
    return where_counted(counts, tf.math.divide_no_nan(total, weight))


def _log(number):
    """The logarithm, finite where there are no negatives to take it of."""
    return tf.math.log(tf.maximum(number, 1e-37))


def _correction(pair, shift):
    """1 / Q of the column, where a logQ correction is made, over its largest: 1 / Q itself may be infinite."""
    return tf.exp(pair.bias - shift)


class _Surprise(NamedTuple):
    """-log(e_p / (e_p + G)) = softplus(log G - l_p), in logarithms throughout: e itself may be beyond the dtype."""

    class_probability: float

    def __call__(self, pair, negatives, log_number, floor):
        logit = pair.logit
        above = negatives - logit  # log(sum_k e_k / e_p)
        if self.class_probability > 0:
            # log(1 - c m e_p / sum_k e_k), where that is positive.
            share = math.log(self.class_probability) + log_number - above
            left = -tf.math.expm1(tf.minimum(share, tf.zeros_like(share)))
            some = left > 0
            logarithm = tf.math.log(tf.where(some, left, tf.ones_like(left)))
            estimate = above + logarithm - math.log1p(-self.class_probability)
            above = tf.where(some, estimate, floor - logit)
        return tf.math.softplus(tf.maximum(above, floor - logit))
