"""The N-pairs losses: the softmax over inner products, of rows that keep their length."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive.losses._base import FunctionLoss
from keras_contrastive.losses.sets import set_keywords
from keras_contrastive.losses.softmax import softmax_over_sets


def npairs_loss(ids, embeddings, **sets) -> tf.Tensor:
    """Cross-entropy of finding an anchor's positives among all its columns, by inner products.

    Per anchor i with the positives P: the mean over p in P of -f_i.f_p + log sum_a exp(f_i.f_a). That is `nt_xent_loss`
    without its normalisation and at temperature 1: rows choose their length, which a small L2 penalty on the embeddings
    (`activity_regularizer` of the layer that gives them) keeps in bounds, as the paper advises.

    Args:
        ids: int `(n,)`, or multi-hot `(n, classes)`: a positive weighs as many labels as it shares.
        embeddings: Float `(n, dim)`, compared as they come.
        **sets: Keywords of `nt_xent_loss`. With `candidates` (and no `self_index`) every column is there; without, the
            anchor's own is left out.

    Returns:
        Float `(n,)`, >= 0, as of `nt_xent_loss`: 0 for an anchor without a positive, which does not count.

    Raises:
        ValueError: A rank or length is known to be wrong.

    Reference:
        Sohn, 2016, Improved Deep Metric Learning with Multi-class N-pair Loss Objective, Eq. 6.
        tensorflow-addons takes the matrix of similarities: `candidates=positives` equals it on
        `embeddings @ positives^T`. pytorch-metric-learning picks one pair of every class.

    Example:
        >>> npairs_loss([7, 7, 8], [[1.0], [1.0], [0.0]]).numpy().round(4)  # log(1 + exp(0 - 1)), twice
        array([0.3133, 0.3133, 0.    ], dtype=float32)
    """
    return _npairs(ids, embeddings, **sets)[0]


def npairs_multilabel_loss(ids, embeddings, **sets) -> tf.Tensor:
    """`npairs_loss`, by the name under which it is used for several labels each: positives weigh by shared labels.

    Args:
        ids: Multi-hot float or bool `(n, classes)`; or int `(n,)`.
        embeddings: Float `(n, dim)`, compared as they come.
        **sets: As of `npairs_loss`; `candidate_ids` are multi-hot as well.

    Returns:
        Float `(n,)`, >= 0: 0 for an anchor that shares no label, which does not count.

    Raises:
        ValueError: A rank or length is known to be wrong.

    Reference:
        tensorflow-addons' NpairsMultilabelLoss, which keeps the anchor's own column (as `candidates` equal to the
        batch do here), and is NaN for a row without labels.

    Example:
        >>> labels = [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
        >>> npairs_multilabel_loss(labels, [[1.0], [1.0], [1.0]]).numpy().round(4)
        array([0.6931, 0.6931, 0.6931], dtype=float32)
    """
    return _npairs(ids, embeddings, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class NpairsLoss(FunctionLoss):
    """`npairs_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `reduction` is unknown.
    """

    def __init__(
        self, *, reduction: str = "sum_over_batch_size", name: str = "npairs_loss"
    ):
        super().__init__(_npairs, {}, reduction=reduction, name=name)


@keras.saving.register_keras_serializable("keras_contrastive")
class NpairsMultilabelLoss(FunctionLoss):
    """`npairs_multilabel_loss` as a Keras loss: `loss(labels, embeddings, sample_weight=None, **sets)`.

    Args:
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `reduction` is unknown.
    """

    def __init__(
        self,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "npairs_multilabel_loss",
    ):
        super().__init__(_npairs, {}, reduction=reduction, name=name)


def _npairs(ids, embeddings, **sets):
    sets = set_keywords(sets, softmax=True)
    return softmax_over_sets(ids, embeddings, similarity="inner_product", **sets)
