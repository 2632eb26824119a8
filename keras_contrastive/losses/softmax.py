"""The softmax losses over sets: how likely each anchor finds its positives among all its columns."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_positive
from keras_contrastive.losses._base import FunctionLoss, where_counted
from keras_contrastive.losses._blocks import (
    POSITIVE_LOGITS,
    POSITIVE_WEIGHT,
    LogSumExp,
    compiled,
)
from keras_contrastive.losses._comparison import compare_sets

POSITIONS = ("out", "in")


def nt_xent_loss(ids, embeddings, *, temperature=0.1, **sets) -> tf.Tensor:
    """Cross-entropy of finding an anchor's positive among all other rows, by cosine similarity.

    Per anchor i with the positives P: the mean over p in P of -s_ip / t + log sum_{a != i} exp(s_ia / t),
    with s the cosine similarity and t the temperature. With one positive each (two views of an image) this is
    SimCLR's loss; with several it is SupCon's with the sum outside the logarithm. Rows are normalised inside.

    Exact at any batch size: above some thousand rows the similarity matrix is never built, in the gradient
    neither, and memory grows with n alone (README, "Losses").

    Args:
        ids: int `(n,)`: rows with the same id are positives of each other, -1 matches nothing. Or multi-hot
            float or bool `(n, classes)`: a positive weighs as many labels as it shares.
        embeddings: Float `(n, dim)`.
        temperature: Float > 0, or a float scalar tensor (gradients flow into it). A number is a constant of
            the compiled code: to change it while training, give a tensor.
        **sets: Keyword arguments of all losses over sets:
            `candidates` float `(columns, dim)` replace the batch as the other side, with `candidate_ids`;
            `self_index` int `(n,)`: the anchor's own column, which is left out (-1: none);
            `candidate_mask` bool `(columns,)` or `(n, columns)`: False takes the column out;
            `negative_only` bool `(columns,)`: True leaves the column out for anchors of its id and makes it
            nobody's positive (a queue; accidental hits among sampled negatives);
            `positives` float `(n, columns)`: weights >= 0 in place of equal ids (graded similarity);
            `candidate_log_probability` float `(columns,)`: log of how likely a column was drawn, subtracted
            from its logit, the positive's too (logQ correction). Only the rows, the candidates and the temperature get
            a gradient.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without
        a positive, which does not count; so a batch of one, or of unknown ids, is 0 with a gradient of 0.
        Without negatives (all of one class) the positives alone are the columns. A row of zeros has similarity
        0 to all, and no gradient; equal rows are rows like others.

    Raises:
        ValueError: `temperature` is not positive, or a rank or length is known to be wrong.

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Eq. 1;
        Khosla et al., 2020, Supervised Contrastive Learning, Eq. 2 (several positives);
        Yi et al., 2019, Sampling-Bias-Corrected Neural Modeling, Eq. 4 (logQ).
        SimCLR's public code returns the sum of both directions, twice this mean.

    Example:
        >>> nt_xent_loss([7, 7], [[1.0, 0.0], [0.0, 1.0]]).numpy()  # one column: certain
        array([0., 0.], dtype=float32)
    """
    return softmax_over_sets(ids, embeddings, temperature=temperature, **sets)[0]


def info_nce_loss(ids, embeddings, *, temperature=0.1, **sets) -> tf.Tensor:
    """Cross-entropy of finding an anchor's positive among candidates, by cosine similarity.

    Per anchor i: the mean over its positives p of -s_ip / t + log sum_c exp(s_ic / t), over all candidates c.
    The same function as `nt_xent_loss`, by the name under which it is used against a set of `candidates`: keys
    of a momentum encoder and a queue, items of a catalogue. Gradients flow into the candidates too: MoCo's keys
    take none (`tf.stop_gradient`; targets of the loss layer have none).

    Args:
        ids: int `(n,)` or multi-hot `(n, classes)`, the anchors'.
        embeddings: Float `(n, dim)`, the anchors.
        temperature: Float > 0, or a float scalar tensor.
        **sets: `candidates` with `candidate_ids`, and the other keywords of `nt_xent_loss`. Without
            `candidates` the batch is its own other side.

    Returns:
        Float `(n,)`, >= 0, as of `nt_xent_loss`.

    Raises:
        ValueError: `temperature` is not positive, or a rank or length is known to be wrong.

    Reference:
        van den Oord et al., 2018, Representation Learning with Contrastive Predictive Coding, Eq. 4;
        He et al., 2020, Momentum Contrast for Unsupervised Visual Representation Learning, Eq. 1.

    Example:
        >>> candidates = [[1.0, 0.0], [0.0, 1.0]]
        >>> sets = {"candidates": candidates, "candidate_ids": [7, 8]}
        >>> info_nce_loss([7], [[1.0, 0.0]], temperature=1.0, **sets).numpy().round(4)
        array([0.3133], dtype=float32)
    """
    return softmax_over_sets(ids, embeddings, temperature=temperature, **sets)[0]


def sup_con_loss(
    ids, embeddings, *, temperature=0.1, position="out", **sets
) -> tf.Tensor:
    """Cross-entropy of finding an anchor's several positives, by cosine similarity.

    With the logarithm `position="out"` of the sum over the positives P, the mean over p in P of
    -s_ip / t + log sum_{a != i} exp(s_ia / t), as `nt_xent_loss`; with "in" -log of the mean over p in P of
    exp(s_ip / t) / sum_{a != i} exp(s_ia / t), which is never larger. The paper finds "out" to train better.

    Args:
        ids: int `(n,)`, the classes; or multi-hot `(n, classes)`.
        embeddings: Float `(n, dim)`.
        temperature: Float > 0, or a float scalar tensor.
        position: `"out"` or `"in"`.
        **sets: Keywords of `nt_xent_loss`.

    Returns:
        Float `(n,)`, >= 0, as of `nt_xent_loss`: 0 for an anchor without a positive, which does not count.

    Raises:
        ValueError: `temperature` is not positive, `position` is unknown, or a shape is known to be wrong.

    Reference:
        Khosla et al., 2020, Supervised Contrastive Learning, Eq. 2 and 3. The public code multiplies by the
        temperature over 0.07, and counts anchors without a positive; solo-learn's is "in" less log |P|.

    Example:
        >>> rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
        >>> sup_con_loss([5, 5, 5], rows, temperature=1.0, position="in").numpy().round(4)
        array([0.6931, 0.6931, 0.6931], dtype=float32)
    """
    options = {"temperature": temperature, "position": position}
    return _sup_con(ids, embeddings, **options, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class NTXentLoss(FunctionLoss):
    """`nt_xent_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Also for `model.compile(loss=NTXentLoss())` on labelled data, the labels being the ids.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` is not a finite number > 0, or `reduction` is unknown.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "nt_xent_loss",
    ):
        check_positive(temperature=temperature)
        options = {"temperature": temperature}
        super().__init__(softmax_over_sets, options, reduction=reduction, name=name)


@keras.saving.register_keras_serializable("keras_contrastive")
class InfoNCELoss(FunctionLoss):
    """`info_nce_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, candidates=..., **sets)`.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` is not a finite number > 0, or `reduction` is unknown.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "info_nce_loss",
    ):
        check_positive(temperature=temperature)
        options = {"temperature": temperature}
        super().__init__(softmax_over_sets, options, reduction=reduction, name=name)


@keras.saving.register_keras_serializable("keras_contrastive")
class SupConLoss(FunctionLoss):
    """`sup_con_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Also for `model.compile(loss=SupConLoss())` on labelled data, the labels being the ids.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        position: Of the logarithm, `"out"` of the sum over positives or `"in"` it.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` is not a finite number > 0, or `position` or `reduction` is unknown.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        position: str = "out",
        reduction: str = "sum_over_batch_size",
        name: str = "sup_con_loss",
    ):
        check_positive(temperature=temperature)
        check_choice("position", position, POSITIONS)
        options = {"temperature": temperature, "position": position}
        super().__init__(_sup_con, options, reduction=reduction, name=name)


@compiled
def softmax_over_sets(ids, embeddings, **options):
    """Values and counts of the softmax over an anchor's columns; `options` are those of `compare_sets`."""
    comparison = compare_sets(ids, embeddings, **options)
    everything, logits, weight = comparison.statistics(
        LogSumExp("all"), POSITIVE_LOGITS, POSITIVE_WEIGHT
    )
    values = everything - tf.math.divide_no_nan(logits, weight)
    return where_counted(weight > 0, tf.nn.relu(values))  # rounding may fall below 0


def _sup_con(ids, embeddings, *, position, **options):
    check_choice("position", position, POSITIONS)
    return (softmax_over_sets if position == "out" else _sup_con_in)(
        ids, embeddings, **options
    )


@compiled
def _sup_con_in(ids, embeddings, **options):
    comparison = compare_sets(ids, embeddings, **options)
    everything, positives, weight = comparison.statistics(
        LogSumExp("all"), LogSumExp("positives"), POSITIVE_WEIGHT
    )
    counts = weight > 0
    values = everything - positives + tf.math.log(tf.where(counts, weight, 1.0))
    return where_counted(counts, tf.nn.relu(values))
