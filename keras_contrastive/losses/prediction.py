"""The loss of BYOL and SimSiam: a prediction of one view's embedding points where the other's does."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._numerics import as_real, inverse_lengths
from keras_contrastive.losses._base import FunctionLoss, rows_of_pairs


def cosine_prediction_loss(prediction, target) -> tf.Tensor:
    """Turn each prediction to its target: 2 - 2 cos, the squared distance of the two on the unit sphere.

    No gradient flows into the target, which is what keeps both from collapsing. A row of zeros has cosine 0.

    Args:
        prediction: Float `(n, dim)`, entries up to 1e18, of the predictor.
        target: Float `(n, dim)`, of the projection head: of the same encoder in SimSiam, of its moving average in
            BYOL. Row i is the target of row i of `prediction`, and of another view of the same image.

    Returns:
        Float `(n,)` in [0, 4] up to rounding, float64 for float64 inputs, else float32, not reduced.

    Raises:
        ValueError: The shapes are known to differ or not be rank 2.

    Reference:
        Grill et al., 2020, Bootstrap Your Own Latent, Eq. 2, of one direction: the paper adds both.
        Chen and He, 2021, Exploring Simple Siamese Representation Learning, Eq. 1, has -cos, the mean of both:
        the same up to a constant and a factor, as in lightly. TensorFlow Similarity leaves the gradient into the
        target to the model.

    Example:
        >>> cosine_prediction_loss([[1.0, 0.0], [3.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]).numpy()
        array([0., 2.], dtype=float32)
    """
    return _cosine_prediction(prediction, target)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class CosinePredictionLoss(FunctionLoss):
    """`cosine_prediction_loss` as a Keras loss: `loss(prediction, target, sample_weight=None)`.

    `ContrastiveLossLayer` pairs every view's prediction with the target of every other view.

    Args:
        reduction: `"sum_over_batch_size"` (the mean over rows), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `reduction` is unknown.
    """

    families = ("pairs",)

    def __init__(
        self,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "cosine_prediction_loss",
    ):
        super().__init__(_cosine_prediction, {}, reduction=reduction, name=name)


def _cosine_prediction(prediction, target):
    prediction, target = rows_of_pairs(prediction=prediction, target=target)
    target = tf.stop_gradient(target)
    rows = as_real(prediction)
    products = tf.reduce_sum(rows * tf.cast(target, rows.dtype), axis=-1)
    lengths = inverse_lengths(prediction) * tf.cast(inverse_lengths(target), rows.dtype)
    values = 2 - 2 * products * lengths
    return values, tf.ones_like(values)
