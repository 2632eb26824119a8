"""Losses that keep the columns of embeddings apart, so that no negatives are needed: Barlow Twins and VICReg."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least
from keras_contrastive._numerics import as_real, inverse_lengths
from keras_contrastive.losses._base import FunctionLoss, rows_of_pairs

# Added to VICReg's variances, under the square root.
VARIANCE_EPSILON = 1e-4


def barlow_twins_loss(first, second, *, redundancy_weight=0.005) -> tf.Tensor:
    """Make each column agree with its partner on the other side, and with no other column.

    sum_j (C_jj - 1)^2 + w sum_{j != k} C_jk^2, with C_jk the correlation over the batch of column j of `first`
    with column k of `second`, and w the redundancy weight. No epsilon: the scale of a column plays no role, and
    a constant column correlates with none (C = 0).

    Args:
        first: Float `(n, dim)`.
        second: Float `(n, dim)`; row i belongs to row i of `first`.
        redundancy_weight: Float >= 0, w.

    Returns:
        Float scalar, >= 0, float64 for float64 inputs, else float32. 0 for fewer than two rows.

    Raises:
        ValueError: `redundancy_weight` is not a finite number >= 0, or the shapes are known to differ or not be
            rank 2.

    Reference:
        Zbontar et al., 2021, Barlow Twins: Self-Supervised Learning via Redundancy Reduction, Eq. 1 and 2. Its
        code has w = 0.0051 and adds 1e-5 to the variances; VISSL and solo-learn multiply the loss by 0.024 or so.

    Example:
        >>> first = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
        >>> second = [[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]]
        >>> float(barlow_twins_loss(first, second, redundancy_weight=0.5))
        1.5
    """
    return _barlow_twins(first, second, redundancy_weight=redundancy_weight)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class BarlowTwinsLoss(FunctionLoss):
    """`barlow_twins_loss` as a Keras loss: `loss(first, second)`.

    It is one number for the batch as a whole, so it takes no `sample_weight`, and `reduction` changes nothing.

    Args:
        redundancy_weight: Float >= 0.
        reduction: `"sum_over_batch_size"`, `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `redundancy_weight` is not a finite number >= 0, or `reduction` is unknown.
    """

    families = ("pairs",)
    symmetric = True

    def __init__(
        self,
        redundancy_weight: float = 0.005,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "barlow_twins_loss",
    ):
        check_at_least(0, redundancy_weight=redundancy_weight)
        options = {"redundancy_weight": redundancy_weight}
        super().__init__(_barlow_twins, options, reduction=reduction, name=name)


def vicreg_loss(
    first,
    second,
    *,
    invariance_weight=25.0,
    variance_weight=25.0,
    covariance_weight=1.0,
) -> tf.Tensor:
    """Pull partners together, while every column keeps a deviation of 1 and columns do not vary together.

    The weighted sum of three terms, as in the official code:
    invariance: the mean over rows and columns of (first - second)^2;
    variance: the mean over both sides and all columns of max(0, 1 - sqrt(Var_j + 1e-4));
    covariance: the sum over both sides of sum_{j != k} Cov_jk^2 / dim.
    Var and Cov are the unbiased ones over the batch. Rows are compared as they come, not normalised.

    Args:
        first: Float `(n, dim)`.
        second: Float `(n, dim)`; row i belongs to row i of `first`.
        invariance_weight: Float >= 0.
        variance_weight: Float >= 0.
        covariance_weight: Float >= 0.

    Returns:
        Float scalar, >= 0, float64 for float64 inputs, else float32. Of one row the invariance alone; of none 0.

    Raises:
        ValueError: A weight is not a finite number >= 0, or the shapes are known to differ or not be rank 2.

    Reference:
        Bardes et al., 2022, VICReg: Variance-Invariance-Covariance Regularization, Eq. 1 to 6. There the variance
        is the sum over both sides, twice the code's, as in solo-learn, and the invariance sums over columns.

    Example:
        >>> first, second = [[1.0, 0.0], [-1.0, 0.0]], [[1.0, 1.0], [-1.0, 1.0]]
        >>> float(vicreg_loss(first, second, variance_weight=0.0))
        12.5
    """
    return _vicreg(
        first,
        second,
        invariance_weight=invariance_weight,
        variance_weight=variance_weight,
        covariance_weight=covariance_weight,
    )[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class VICRegLoss(FunctionLoss):
    """`vicreg_loss` as a Keras loss: `loss(first, second)`.

    It is one number for the batch as a whole, so it takes no `sample_weight`, and `reduction` changes nothing.

    Args:
        invariance_weight: Float >= 0.
        variance_weight: Float >= 0.
        covariance_weight: Float >= 0.
        reduction: `"sum_over_batch_size"`, `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: A weight is not a finite number >= 0, or `reduction` is unknown.
    """

    families = ("pairs",)
    symmetric = True

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "vicreg_loss",
    ):
        options = {
            "invariance_weight": invariance_weight,
            "variance_weight": variance_weight,
            "covariance_weight": covariance_weight,
        }
        check_at_least(0, **options)
        super().__init__(_vicreg, options, reduction=reduction, name=name)


def _barlow_twins(first, second, *, redundancy_weight):
    check_at_least(0, redundancy_weight=redundancy_weight)
    first, second = rows_of_pairs(first=first, second=second)
    squares, agreement = _correlations(first, second)
    redundancy = squares - tf.reduce_sum(tf.square(agreement))
    value = tf.reduce_sum(tf.square(1 - agreement)) + redundancy_weight * redundancy
    return _for_two_rows(first, value), tf.ones_like(value)


def _vicreg(first, second, *, invariance_weight, variance_weight, covariance_weight):
    check_at_least(
        0,
        invariance_weight=invariance_weight,
        variance_weight=variance_weight,
        covariance_weight=covariance_weight,
    )
    first, second = rows_of_pairs(first=first, second=second)
    sides = as_real(first), as_real(second)
    gap = tf.math.squared_difference(*sides)
    size = tf.cast(tf.size(gap), gap.dtype)
    invariance = tf.math.divide_no_nan(tf.reduce_sum(gap), size)
    spread = [_spread(side, variance_weight / 2, covariance_weight) for side in sides]
    value = invariance_weight * invariance + _for_two_rows(first, tf.add_n(spread))
    return value, tf.ones_like(value)


def _spread(rows, variance_weight, covariance_weight) -> tf.Tensor:
    """The terms of VICReg that are of one side."""
    deviations = _deviations(rows)
    degrees = tf.cast(tf.maximum(tf.shape(rows)[0] - 1, 1), rows.dtype)
    squares, variances = _products(deviations, deviations)
    squares, variances = squares / tf.square(degrees), variances / degrees
    hinge = tf.nn.relu(1 - tf.sqrt(variances + VARIANCE_EPSILON))  # (dim,)
    covariance = tf.nn.relu(squares - tf.reduce_sum(tf.square(variances))) / tf.cast(
        tf.shape(rows)[1], rows.dtype
    )
    return variance_weight * tf.reduce_mean(hinge) + covariance_weight * covariance


def _deviations(rows) -> tf.Tensor:
    """Columns less their means. Less the first row before, as a mean rounds: so equal rows give zeros exactly.

    For products of such columns alone: their gradients are combinations of columns of mean 0 again, so what would
    flow through the mean adds nothing.
    """
    rows -= tf.stop_gradient(rows[:1])
    return rows - tf.stop_gradient(tf.reduce_mean(rows, axis=0))


def _correlations(first, second) -> tuple[tf.Tensor, tf.Tensor]:
    """Of the correlations of a column of `first` with one of `second`: as `_products`. Constant columns have none."""
    sides = [_deviations(as_real(side)) for side in (first, second)]
    scales = [
        inverse_lengths(deviations, axis=0, dtype=side.dtype)  # (dim,)
        for deviations, side in zip(sides, (first, second))
    ]
    if _is_wide(first):
        return _products(*(side * scale for side, scale in zip(sides, scales)))

    # By hand: the rows are scaled neither here nor in the gradient, only the smaller matrix.
    @tf.custom_gradient
    def compute(first, second):
        scale = scales[0][:, None] * scales[1]
        correlation = scale * tf.matmul(first, second, transpose_a=True)  # (dim, dim)

        def gradient(upstream):
            along = upstream * correlation
            upstream *= scale
            of_first = tf.square(scales[0]) * tf.reduce_sum(along, axis=1)
            of_second = tf.square(scales[1]) * tf.reduce_sum(along, axis=0)
            return (
                tf.matmul(second, upstream, transpose_b=True) - of_first * first,
                tf.matmul(first, upstream) - of_second * second,
            )

        return correlation, gradient

    return _summed(compute(*sides))


def _products(first, second) -> tuple[tf.Tensor, tf.Tensor]:
    """Of the products of a column of `first` with one of `second`: the sum of all squares, and those of partners.

    The squares are |F^T S|^2 = <F F^T, S S^T>. In a batch of fewer rows than columns the latter is cheaper.
    """
    if not _is_wide(first):
        return _summed(tf.matmul(first, second, transpose_a=True))
    of_rows = [tf.matmul(side, side, transpose_b=True) for side in (first, second)]
    squares = tf.reduce_sum(of_rows[0] * of_rows[1])
    return squares, tf.reduce_sum(first * second, axis=0)


def _summed(products) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.reduce_sum(tf.square(products)), tf.linalg.diag_part(products)


def _is_wide(rows) -> bool:
    n, dim = rows.shape
    return None not in (n, dim) and n < dim


def _for_two_rows(first, value) -> tf.Tensor:
    """`value`, which needs two rows at least; 0, without a gradient, for fewer."""
    return tf.where(tf.shape(first)[0] > 1, value, tf.zeros_like(value))
