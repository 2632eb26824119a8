"""What every loss class shares: integer ids stay integers, and the mean is over the anchors that count."""

from __future__ import annotations

from typing import Callable

import keras
import tensorflow as tf

from keras_contrastive._checks import check_choice
from keras_contrastive._numerics import as_real

REDUCTIONS = ("sum_over_batch_size", "sum", "none")


class ContrastiveLossBase(keras.losses.Loss):
    """Base class of the losses: `values_and_counts` is all that a subclass adds to its options.

    Replaces Keras' `Loss.__call__`, which casts the ids to float32, where ids above 2^24 collide.

    Args:
        reduction: `"sum_over_batch_size"` (the mean over the anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.
    """

    # Which forms of call the loss knows: "sets" (ids, embeddings), "rows" (anchor, positive, negative) or
    # "pairs" (first, second). The loss layer adapts to them.
    families = ("sets",)
    # Of "pairs": swapping the sides changes nothing, so one order of two views will do; the call takes the
    # keywords of `symmetric_info_nce_loss`. A loss that is no subclass may leave all of these out.
    symmetric = False
    compares_ids = False
    # Whether the call takes `draw=`, the seed of a random choice.
    draws = False

    def __init__(
        self, *, reduction: str = "sum_over_batch_size", name: str | None = None
    ):
        check_choice("reduction", reduction, REDUCTIONS)
        super().__init__(reduction=reduction, name=name)

    def __call__(self, y_true, y_pred, sample_weight=None, **keywords) -> tf.Tensor:
        """The reduced loss of `(ids, embeddings)`; `keywords` are those of the loss's function."""
        values, counts = self.values_and_counts(y_true, y_pred, **keywords)
        return reduce_loss(values, counts, sample_weight, self.reduction)

    def call(self, y_true, y_pred, **keywords) -> tf.Tensor:
        """Loss of each anchor, not reduced: float `[n]`, 0 where the anchor does not count."""
        return self.values_and_counts(y_true, y_pred, **keywords)[0]

    def values_and_counts(
        self, y_true, y_pred, **keywords
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Loss of each anchor `[n]`, and how much each counts `[n]`: 0 or 1, or its number of pairs."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `values_and_counts`."
        )

    def get_config(self) -> dict:
        return {"reduction": self.reduction, "name": self.name}


class FunctionLoss(ContrastiveLossBase):
    """A loss that is a function of its two arguments and of options, which are attributes of the same names.

    Args:
        function: From `(y_true, y_pred, **options, **keywords)` to values and counts.
        options: The options and their values.
        reduction: As of every loss.
        name: Name of the loss.
    """

    def __init__(self, function: Callable, options: dict, *, reduction: str, name: str):
        super().__init__(reduction=reduction, name=name)
        self._function = function
        self._options = tuple(options)
        for option, value in options.items():
            setattr(self, option, value)

    def values_and_counts(self, y_true, y_pred, *, temperature=None, **keywords):
        """`temperature`, if it is given, takes the place of the loss's own."""
        if temperature is not None:
            keywords["temperature"] = temperature
        options = {name: getattr(self, name) for name in self._options}
        return self._function(y_true, y_pred, **{**options, **keywords})

    def get_config(self) -> dict:
        options = {name: getattr(self, name) for name in self._options}
        return {**super().get_config(), **options}


def where_counted(counts, values) -> tuple[tf.Tensor, tf.Tensor]:
    """Values and counts `[n]`: both 0, and without a gradient, where the bool `counts` is False."""
    values = tf.where(counts, values, tf.zeros_like(values))
    return values, tf.cast(counts, values.dtype)


def reduce_loss(values, counts, sample_weight, reduction: str) -> tf.Tensor:
    """sum(w counts values) / sum(w counts), or its numerator, or its terms; 0 where nothing counts."""
    weights = counts
    if sample_weight is not None:
        sample_weight = tf.reshape(tf.cast(as_real(sample_weight), values.dtype), [-1])
        weights = counts * sample_weight
    weighted = weights * values
    if reduction == "none":
        return weighted
    total = tf.reduce_sum(weighted)
    return (
        total
        if reduction == "sum"
        else tf.math.divide_no_nan(total, tf.reduce_sum(weights))
    )
