"""Classification by angle, with a margin: ArcFace and CosFace."""

from __future__ import annotations

import math
from typing import Callable

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_integer, check_positive
from keras_contrastive._numerics import safe_sqrt
from keras_contrastive.losses._base import LossLayer, where_counted
from keras_contrastive.losses._classes import compare_with_classes


def arcface_loss(ids, embeddings, *, weights, margin=0.5, scale=64.0) -> tf.Tensor:
    """Cross-entropy of telling a row's class by its angles to the classes, its own made larger by a margin.

    Per row -log( e^{s t} / (e^{s t} + sum_{k != y} e^{s cos_k}) ), with cos_k the cosine of row and class k, y its
    class, s the scale and t = cos(theta_y + m); where theta_y + m is beyond pi, t = cos_y - m sin m, so that it goes
    on falling.

    Args:
        ids: int `(n,)`, the classes of the rows. A row whose id is not in [0, classes) does not count.
        embeddings: Float `(n, dim)`, normalised inside.
        weights: Float `(classes, dim)`, a row for each class, normalised inside.
        margin: Float in [0, pi], m, in radians.
        scale: Float > 0, s.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for rows that do not count.

    Raises:
        ValueError: `margin` is not in [0, pi], `scale` is not positive, `ids` are multi-hot, or shapes are known to
            be wrong.

    Reference:
        Deng et al., 2019, ArcFace: Additive Angular Margin Loss for Deep Face Recognition, Eq. 3, with the official
        code's way beyond pi. pytorch-metric-learning takes the margin in degrees: 28.6 is 0.5 here.

    Example:
        >>> rows, weights = [[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> arcface_loss([0], rows, weights=weights, scale=1.0).numpy().round(4)  # log(1 + e^-cos(0.5))
        array([0.3477], dtype=float32)
    """
    return _arcface(ids, embeddings, weights=weights, margin=margin, scale=scale)[0]


def cosface_loss(ids, embeddings, *, weights, margin=0.35, scale=64.0) -> tf.Tensor:
    """Cross-entropy of telling a row's class by its cosines to the classes, its own made smaller by a margin.

    As `arcface_loss`, with t = cos_y - m.

    Args:
        ids: int `(n,)`, the classes of the rows. A row whose id is not in [0, classes) does not count.
        embeddings: Float `(n, dim)`, normalised inside.
        weights: Float `(classes, dim)`, a row for each class, normalised inside.
        margin: Float >= 0, m, in units of the cosine.
        scale: Float > 0, s.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for rows that do not count.

    Raises:
        ValueError: `margin` is negative, `scale` is not positive, `ids` are multi-hot, or shapes are known to be
            wrong.

    Reference:
        Wang et al., 2018, CosFace: Large Margin Cosine Loss for Deep Face Recognition, Eq. 4.

    Example:
        >>> rows, weights = [[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> cosface_loss([0], rows, weights=weights, scale=1.0).numpy().round(4)  # log(1 + e^-(1 - 0.35))
        array([0.4201], dtype=float32)
    """
    return _cosface(ids, embeddings, weights=weights, margin=margin, scale=scale)[0]


class _MarginLoss(LossLayer):
    """What both layers share: weights `(num_classes, dim)`, of a `function` from ids, embeddings and these."""

    def __init__(self, function: Callable, options: dict, **kwargs):
        check_integer(1, num_classes=options["num_classes"])
        check_positive(scale=options["scale"])
        super().__init__(options, **kwargs)
        self._function = function

    def make_weights(self, dim):
        self.class_weights = self.add_weight(
            name="class_weights",
            shape=(self.num_classes, dim),
            initializer="glorot_uniform",
        )

    def values_and_counts(self, ids, embeddings):
        """Loss of each row `(n,)`, and whether it counts: 1 for ids in [0, num_classes), else 0."""
        return self._function(
            ids,
            embeddings,
            weights=tf.convert_to_tensor(self.class_weights),
            margin=self.margin,
            scale=self.scale,
        )


@keras.saving.register_keras_serializable("keras_contrastive")
class ArcFaceLoss(_MarginLoss):
    """`arcface_loss` as a layer that learns the weights of the classes: `loss(ids, embeddings, sample_weight=None)`.

    It returns the loss and adds it nowhere: see `SigmoidLoss`. The weights, `class_weights` `(num_classes, dim)`,
    are made at the first call.

    Args:
        num_classes: Integer >= 1; ids are in [0, num_classes).
        margin: Float in [0, pi], in radians.
        scale: Float > 0.
        reduction: `"sum_over_batch_size"` (the mean over rows that count), `"sum"` or `"none"`.
        name: Name of the layer.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: An argument is out of its range, or `reduction` is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 0.5,
        scale: float = 64.0,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "arcface_loss",
        **kwargs,
    ):
        _check_angle(margin)
        options = {"num_classes": num_classes, "margin": margin, "scale": scale}
        super().__init__(_arcface, options, reduction=reduction, name=name, **kwargs)


@keras.saving.register_keras_serializable("keras_contrastive")
class CosFaceLoss(_MarginLoss):
    """`cosface_loss` as a layer that learns the weights of the classes: `loss(ids, embeddings, sample_weight=None)`.

    It returns the loss and adds it nowhere: see `SigmoidLoss`. The weights, `class_weights` `(num_classes, dim)`,
    are made at the first call.

    Args:
        num_classes: Integer >= 1; ids are in [0, num_classes).
        margin: Float >= 0, in units of the cosine.
        scale: Float > 0.
        reduction: `"sum_over_batch_size"` (the mean over rows that count), `"sum"` or `"none"`.
        name: Name of the layer.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: An argument is out of its range, or `reduction` is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 0.35,
        scale: float = 64.0,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "cosface_loss",
        **kwargs,
    ):
        check_at_least(0, margin=margin)
        options = {"num_classes": num_classes, "margin": margin, "scale": scale}
        super().__init__(_cosface, options, reduction=reduction, name=name, **kwargs)


def _arcface(ids, embeddings, *, weights, margin, scale):
    _check_angle(margin)
    return _margin_softmax(ids, embeddings, weights, margin, 0.0, scale)


def _cosface(ids, embeddings, *, weights, margin, scale):
    check_at_least(0, margin=margin)
    return _margin_softmax(ids, embeddings, weights, 0.0, margin, scale)


def _check_angle(margin) -> None:
    check_at_least(0, margin=margin)
    if margin > math.pi:
        raise ValueError(
            f"`margin` must be at most pi: it is in radians. Received: margin={margin!r}."
        )


def _margin_softmax(ids, embeddings, weights, angle: float, shift: float, scale: float):
    """Values and counts; the cosine of the own class is that of an angle larger by `angle`, less `shift`."""
    check_positive(scale=scale)
    classes = compare_with_classes(ids, embeddings, weights=weights)
    target = _turned(classes.of_own(classes.cosines), angle) - shift  # (n,)
    logits = scale * tf.where(classes.own, target[:, None], classes.cosines)
    values = tf.reduce_logsumexp(logits, axis=1) - scale * target
    return where_counted(classes.known, tf.nn.relu(values))


def _turned(cosine, angle: float) -> tf.Tensor:
    """cos(theta + angle), up to theta + angle = pi; beyond, where it would rise again, cosine - angle sin(angle)."""
    sine = safe_sqrt(1 - tf.square(cosine))
    turned = cosine * math.cos(angle) - sine * math.sin(angle)
    return tf.where(
        cosine >= -math.cos(angle), turned, cosine - angle * math.sin(angle)
    )
