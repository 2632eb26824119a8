"""Losses of how embeddings spread over the unit sphere: alignment and uniformity, and KoLeo."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_positive
from keras_contrastive._numerics import normalize_rows
from keras_contrastive.losses._base import FunctionLoss, rows_of_pairs, where_counted
from keras_contrastive.losses._blocks import LogSumExp, compiled, lowest
from keras_contrastive.losses._comparison import compare_sets
from keras_contrastive.losses._pairs import best_row
from keras_contrastive.losses.sets import check_sets


def alignment_uniformity_loss(
    first, second, *, alignment_weight=1.0, uniformity_weight=1.0, t=2.0
) -> tf.Tensor:
    """Two views close together, all images spread evenly: the two things a contrastive loss does, apart.

    `alignment_weight` times the mean of |f_i - g_i|^2, plus `uniformity_weight` times the mean over both sides of
    log mean_{i < j} exp(-t |f_i - f_j|^2), with f the rows of `first` and g those of `second`, normalised inside.
    Memory grows with n alone.

    Args:
        first: Float `(n, dim)`.
        second: Float `(n, dim)`; row i belongs to row i of `first`.
        alignment_weight: Float >= 0.
        uniformity_weight: Float >= 0.
        t: Float > 0, how local uniformity is.

    Returns:
        Float scalar, may be negative, float64 for float64 inputs, else float32. A single row has no uniformity: 0.
        A row of zeros counts as orthogonal to all others, as everywhere where cosines are compared.

    Raises:
        ValueError: `t` is not positive, a weight is negative or not finite, or the shapes are known to differ.

    Reference:
        Wang, Isola, 2020, Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere, Sec. 4.1. lightly's HypersphereLoss has t = 1.

    Example:
        >>> first = [[1.0, 0.0], [-1.0, 0.0]]
        >>> float(alignment_uniformity_loss(first, first))  # 0, and log exp(-2 * 4)
        -8.0
    """
    options = {"alignment_weight": alignment_weight}
    options.update(uniformity_weight=uniformity_weight, t=t)
    return _alignment_uniformity(first, second, **options)[0]


def koleo_loss(ids, embeddings, *, epsilon=1e-8, **sets) -> tf.Tensor:
    """-log of the distance to the nearest other row, of unit rows: spreads a batch evenly.

    The Kozachenko-Leonenko estimate of the entropy, negated. The ids play no role, so that views of one image would
    push each other away: the loss layer calls it view by view.

    Args:
        ids: Taken as by all losses over sets, and not used.
        embeddings: Float `(n, dim)`.
        epsilon: Float > 0, added to the distance: a duplicate has the value -log(epsilon), and no gradient.
        **sets: `candidates` float `(columns, dim)`, `self_index` int `(n,)` and `candidate_mask` bool `(columns,)` or
            `(n, columns)`, as in `nt_xent_loss`; `candidate_ids` and `negative_only` are not used.

    Returns:
        Float `(n,)`, >= -log(2 + epsilon), float64 for float64 embeddings, else float32, not reduced: 0 for a row without
        another, which does not count.

    Raises:
        ValueError: `epsilon` is not positive, or a shape is known to be wrong.

    Reference:
        Sablayrolles et al., 2019, Spreading Vectors for Similarity Search, Eq. 2; DINOv2 adds epsilon to every entry
        of the difference as well, and weighs the loss by 0.1.

    Example:
        >>> koleo_loss([0, 1], [[1.0, 0.0], [0.0, 1.0]]).numpy().round(4)  # -log sqrt(2)
        array([-0.3466, -0.3466], dtype=float32)
    """
    return _koleo(ids, embeddings, epsilon=epsilon, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class AlignmentUniformityLoss(FunctionLoss):
    """`alignment_uniformity_loss` as a Keras loss: `loss(first, second)`.

    Args:
        alignment_weight: Float >= 0.
        uniformity_weight: Float >= 0.
        t: Float > 0, how local uniformity is.
        reduction: Of no effect: the loss is a scalar, and takes no sample weights.
        name: Name of the loss.

    Raises:
        ValueError: As of `alignment_uniformity_loss`, or `reduction` is unknown.
    """

    families = ("pairs",)
    symmetric = True

    def __init__(
        self,
        alignment_weight: float = 1.0,
        uniformity_weight: float = 1.0,
        t: float = 2.0,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "alignment_uniformity_loss",
    ):
        options = {"alignment_weight": alignment_weight}
        options.update(uniformity_weight=uniformity_weight, t=t)
        _check(**options)
        super().__init__(_alignment_uniformity, options, reduction=reduction, name=name)


@keras.saving.register_keras_serializable("keras_contrastive")
class KoLeoLoss(FunctionLoss):
    """`koleo_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        epsilon: Float > 0, added to the distance.
        reduction: `"sum_over_batch_size"` (the mean over rows that have another), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `epsilon` is not a finite number > 0, or `reduction` is unknown.
    """

    takes_candidates = False
    view_by_view = True

    def __init__(
        self,
        epsilon: float = 1e-8,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "koleo_loss",
    ):
        check_positive(epsilon=epsilon)
        super().__init__(_koleo, {"epsilon": epsilon}, reduction=reduction, name=name)


def _check(alignment_weight, uniformity_weight, t) -> None:
    weights = {"alignment_weight": alignment_weight}
    check_at_least(0, **weights, uniformity_weight=uniformity_weight)
    check_positive(t=t)


@compiled
def _alignment_uniformity(first, second, *, alignment_weight, uniformity_weight, t):
    _check(alignment_weight, uniformity_weight, t)
    first, second = rows_of_pairs(first=first, second=second)
    unit = normalize_rows(first)
    products = unit * tf.cast(normalize_rows(second), unit.dtype)
    aligned = 2 - 2 * tf.reduce_sum(products, axis=-1)
    n = tf.cast(tf.shape(aligned)[0], aligned.dtype)
    alignment = tf.math.divide_no_nan(tf.reduce_sum(aligned), n)
    uniformity = (_uniformity(first, t) + _uniformity(second, t)) / 2
    value = alignment_weight * alignment + uniformity_weight * uniformity
    return value, tf.ones_like(value)


def _uniformity(rows, t) -> tf.Tensor:
    """log mean_{i != j} exp(-t |f_i - f_j|^2), where |f_i - f_j|^2 = 2 - 2 cosine; 0 for a single row."""
    n = tf.shape(rows)[0]
    comparison = compare_sets(tf.range(n), rows, temperature=1 / (2 * t))
    (of_rows,) = comparison.statistics(LogSumExp("all"))
    pairs = tf.cast(n, of_rows.dtype) * tf.cast(n - 1, of_rows.dtype)
    several = n > 1
    # One more term, of no weight: a sum over no rows at all has no gradient either.
    of_rows = tf.concat([of_rows, [lowest(of_rows.dtype)]], axis=0)
    total = tf.reduce_logsumexp(of_rows) - tf.math.log(tf.maximum(pairs, 1.0))
    return tf.where(several, total - 2 * t, tf.zeros_like(total))


def _koleo(
    ids,
    embeddings,
    *,
    epsilon,
    candidates=None,
    candidate_ids=None,
    self_index=None,
    candidate_mask=None,
    negative_only=None,
):
    check_positive(epsilon=epsilon)
    embeddings = tf.convert_to_tensor(embeddings)
    columns = embeddings if candidates is None else tf.convert_to_tensor(candidates)
    # The ids say nothing here: any will do.
    check_sets(
        tf.range(tf.shape(embeddings)[0]),
        embeddings,
        candidates=columns,
        candidate_ids=tf.range(tf.shape(columns)[0]),
        self_index=self_index,
        candidate_mask=candidate_mask,
    )
    anchors = normalize_rows(embeddings)
    if candidates is None:
        columns = anchors
    else:
        columns = tf.cast(normalize_rows(columns), anchors.dtype)
    similarity = tf.stop_gradient(tf.matmul(anchors, columns, transpose_b=True))
    in_batch = candidates is None and self_index is None and candidate_mask is None
    if in_batch:
        counts = tf.fill(tf.shape(anchors)[:1], tf.shape(anchors)[0] > 1)
        # The row itself is no neighbour. The same as below, in one pass.
        nowhere = tf.fill(tf.shape(anchors)[:1], tf.constant(-4.0, anchors.dtype))
        similarity = tf.linalg.set_diag(similarity, nowhere)
    else:
        if candidates is None and self_index is None:
            self_index = tf.range(tf.shape(anchors)[0])
        exists = _exists(similarity, self_index, candidate_mask)
        counts = tf.reduce_any(exists, axis=1)
        similarity = tf.where(exists, similarity, -4.0)
    nearest = best_row(columns, similarity)
    difference = anchors - nearest
    squared = tf.reduce_sum(tf.square(difference), axis=-1)
    apart = counts & (squared > 0)  # the square root of 0 has no gradient
    distance = tf.where(
        apart, tf.sqrt(tf.where(apart, squared, tf.ones_like(squared))), 0.0
    )
    return where_counted(counts, -tf.math.log(distance + epsilon))


def _exists(similarity, self_index, candidate_mask) -> tf.Tensor:
    """Whether a column exists for an anchor: bool `(n, columns)`."""
    exists = tf.ones_like(similarity, tf.bool)
    if self_index is not None:
        own = tf.cast(self_index, tf.int32)[:, None]
        exists = tf.range(tf.shape(similarity)[1]) != own
    if candidate_mask is not None:
        exists &= tf.cast(candidate_mask, tf.bool)
    return exists
