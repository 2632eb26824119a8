"""The sigmoid loss over pairs: SigLIP's. Every pair is a yes-or-no question, so no row needs the others."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_contrastive._checks import check_finite, check_positive
from keras_contrastive._numerics import as_scalar, softplus
from keras_contrastive.losses._base import LossLayer
from keras_contrastive.losses._blocks import PairSum, compiled
from keras_contrastive.losses._comparison import compare_pairs, compare_with_negatives
from keras_contrastive.losses.sets import check_negatives


def sigmoid_loss(first, second, *, scale=10.0, bias=-10.0, **pairs) -> tf.Tensor:
    """Logistic loss of telling each row's partner from all other rows, by cosine similarity.

    Per row i the sum over j of -log sigmoid(y_ij (a s(f_i, g_j) + b)), with f the rows of `first`, g those of
    `second`, s the cosine similarity, a the scale, b the bias, and y = 1 where the two belong together, else
    -1. The mean over rows is the paper's sum over pairs divided by n, not by n^2. Memory grows with n alone.

    Args:
        first: Float `(n, dim)`.
        second: Float `(n, dim)`; row i belongs to row i of `first`.
        scale: Float > 0, or a float scalar tensor (gradients flow into it).
        bias: Float, or a float scalar tensor. About -log(n) makes the first steps calm.
        **pairs: `ids`, `second_ids`, `positives` (its weight multiplies the term of a positive),
            `candidate_mask`, `negatives`, `negative_ids` and `negative_mask`, as of `symmetric_info_nce_loss`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 inputs, else float32, not reduced. Every row counts.

    Raises:
        ValueError: `scale` is not positive, `bias` is not finite, or a shape is known to be wrong.

    Reference:
        Zhai et al., 2023, Sigmoid Loss for Language Image Pre-Training, Eq. 2.

    Example:
        >>> images, texts = [[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 5.0]]
        >>> sigmoid_loss(images, texts, scale=1.0, bias=0.0).numpy().round(4)
        array([1.0064, 1.0064], dtype=float32)
    """
    return _sigmoid(first, second, scale=scale, bias=bias, **pairs)


@keras.saving.register_keras_serializable("keras_contrastive")
class SigmoidLoss(LossLayer):
    """`sigmoid_loss` as a layer that learns its scale and bias: `loss(first, second, sample_weight=None, **pairs)`.

    It returns the loss and adds it nowhere: `ContrastiveLossLayer(SigmoidLoss())` adds it (in
    `ContrastiveModel`, or as the last layer of a functional model: see `SymmetricInfoNCELoss`), or a model of
    your own does by `self.add_loss(self.loss(first, second))`. Computes in float32 under every policy.

    Args:
        scale: Float > 0, learned as its logarithm.
        bias: Float, learned.
        learn: Whether the two are learned; else they stay as they are.
        reduction: `"sum_over_batch_size"` (the sum over pairs / n), `"sum"` or `"none"`.

    Raises:
        ValueError: `scale` is not a finite number > 0, `bias` is not finite, or `reduction` is unknown.
    """

    families = ("pairs",)
    compares_ids = True

    def __init__(
        self,
        scale: float = 10.0,
        bias: float = -10.0,
        *,
        learn: bool = True,
        reduction: str = "sum_over_batch_size",
        name: str = "sigmoid_loss",
        **kwargs,
    ):
        check_positive(scale=scale)
        check_finite(bias=bias)
        options = {"scale": scale, "bias": bias, "learn": learn}
        super().__init__(options, reduction=reduction, name=name, **kwargs)
        self.log_scale = self._scalar("log_scale", math.log(scale))
        self.learned_bias = self._scalar("learned_bias", bias)
        self.built = True

    def _scalar(self, name: str, start: float):
        return self.add_weight(
            name=name,
            shape=(),
            initializer=keras.initializers.Constant(start),
            trainable=self.learn,
        )

    def values_and_counts(self, first, second, **pairs):
        """Loss of each row `(n,)`, and ones: every row counts."""
        scale = tf.exp(tf.convert_to_tensor(self.log_scale))
        bias = tf.convert_to_tensor(self.learned_bias)
        values = _sigmoid(first, second, scale=scale, bias=bias, **pairs)
        return values, tf.ones_like(values)


@compiled
def _sigmoid(
    first,
    second,
    *,
    scale,
    bias,
    negatives=None,
    negative_ids=None,
    negative_mask=None,
    ids=None,
    second_ids=None,
    positives=None,
    candidate_mask=None,
):
    check_positive(scale=scale)
    check_finite(bias=bias)
    check_negatives(
        first,
        negatives,
        ids=ids,
        negative_ids=negative_ids,
        negative_mask=negative_mask,
    )
    comparison = compare_pairs(
        first,
        second,
        scale=scale,
        ids=ids,
        second_ids=second_ids,
        positives=positives,
        candidate_mask=candidate_mask,
    )
    of_rows = tf.fill(tf.shape(first)[:1], as_scalar(bias, comparison.scale.dtype))
    term = PairSum("all", _question, 1)
    (values,) = comparison.statistics(term, parameters=(of_rows,))
    if negatives is not None:
        others = compare_with_negatives(
            comparison, negatives, negative_ids, negative_mask
        )
        values += others.statistics(term, parameters=(of_rows,))[0]
    return values


def _question(pair, bias):
    """-log sigmoid(y logit), where softplus(-x) = softplus(x) - x."""
    logit = pair.logit + bias
    yes = softplus(logit)
    return tf.where(pair.weight > 0, pair.weight * (yes - logit), yes)
