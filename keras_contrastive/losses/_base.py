"""What every loss class shares: integer ids stay integers, and the mean is over the anchors that count.

`FunctionLoss` is a loss that is a function and options, `RowsOrSetsLoss` one that may be called with three rows as
well, `LossLayer` one with weights or state of its own.
"""

from __future__ import annotations

from typing import Callable

import keras
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_same_shape, shape_text
from keras_contrastive._numerics import as_real

REDUCTIONS = ("sum_over_batch_size", "sum", "none")
# What the loss layer asks of a loss: see `ContrastiveLossBase`.
TRAITS = (
    "families",
    "symmetric",
    "compares_ids",
    "takes_candidates",
    "view_by_view",
    "draws",
)


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
    # Of "sets": the loss compares with `candidates` too: targets, a queue.
    takes_candidates = True
    # Of "sets": the views of an image are no neighbours of each other, so each view is a set of its own.
    view_by_view = False
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


class RowsOrSetsLoss(FunctionLoss):
    """A loss over sets `(ids, embeddings)` that is one over rows `(anchor, positive, negative)` as well.

    A third tensor of the shape of the first two is the negative; otherwise it is Keras' `sample_weight`.

    Args:
        function: Over sets, as of `FunctionLoss`.
        over_rows: From `(anchor, positive, negative, **options)` to the values `[n]`.
        options: As of `FunctionLoss`.
        reduction: As of every loss.
        name: Name of the loss.
    """

    families = ("sets", "rows")

    def __init__(
        self,
        function: Callable,
        over_rows: Callable,
        options: dict,
        *,
        reduction: str,
        name: str,
    ):
        super().__init__(function, options, reduction=reduction, name=name)
        self._over_rows = over_rows

    def __call__(
        self, y_true, y_pred, *third, negative=None, sample_weight=None, **keywords
    ):
        """The reduced loss. `third`: the negative, over rows, then the sample weight."""
        if third and negative is None and is_row_call(y_true, y_pred, third[0]):
            negative, *third = third
        if third:
            (sample_weight,) = third
        if negative is not None:
            keywords["negative"] = negative
        return super().__call__(y_true, y_pred, sample_weight, **keywords)

    def values_and_counts(self, y_true, y_pred, *, negative=None, **keywords):
        if negative is None:
            return super().values_and_counts(y_true, y_pred, **keywords)
        options = {name: getattr(self, name) for name in self._options}
        values = self._over_rows(y_true, y_pred, negative, **options)
        return values, tf.ones_like(values)


class LossLayer(keras.layers.Layer):
    """A loss with weights or state: a layer that is called as the losses of its family are, and returns the loss.

    It adds the loss nowhere: `ContrastiveLossLayer(loss)` does (in `ContrastiveModel`, or as the last layer of a
    functional model), or a model of your own by `self.add_loss(self.loss(...))`. Not for `compile(loss=...)`: Keras trains
    nothing that a loss holds. Computes in float32 under every policy,
    float64 inputs in float64. A subclass defines `values_and_counts`, and `make_weights` if it has any.

    Args:
        options: The constructor's own arguments, which become attributes of the same names.
        reduction: As of every loss.
        name: Name of the layer.
        **kwargs: Of `keras.layers.Layer`.
    """

    # As of `ContrastiveLossBase`.
    families = ("sets",)
    symmetric = False
    compares_ids = False
    takes_candidates = False
    view_by_view = False
    draws = False

    def __init__(self, options: dict, *, reduction: str, name: str, **kwargs):
        check_choice("reduction", reduction, REDUCTIONS)
        # float64 inputs stay as they are, and half ones come as they are.
        super().__init__(name=name, autocast=False, **{**kwargs, "dtype": "float32"})
        self._options = tuple(options)
        for option, value in options.items():
            setattr(self, option, value)
        self.reduction = reduction

    def __call__(self, first, second, *args, **kwargs):
        first, second = (
            side if hasattr(side, "shape") else tf.convert_to_tensor(side)
            for side in (first, second)
        )
        # Keras would build by the first argument, which may be ids; the width is that of the second.
        if not self.built:
            shape = tf.TensorShape(second.shape)
            if shape.rank != 2 or shape[-1] is None:
                raise ValueError(
                    "The second argument must be embeddings of shape (n, dim), of a known width, to make the weights of "
                    f"{type(self).__name__}. Received: shape={shape_text(shape)}."
                )
            self.build(shape)
        return super().__call__(first, second, *args, **kwargs)

    def build(self, input_shape):
        """Make the weights for embeddings whose shape ends in `dim`."""
        self.make_weights(int(input_shape[-1]))
        self.built = True

    def make_weights(self, dim: int) -> None:
        """Add the weights for embeddings of this width."""

    def call(self, first, second, sample_weight=None, training=None, **keywords):
        """The reduced loss; `sample_weight` float `(n,)`, `keywords` those of the loss's function.

        `training` changes nothing: Keras 2.15 hands it to every layer that takes keywords.
        """
        values, counts = self.values_and_counts(first, second, **keywords)
        return reduce_loss(values, counts, sample_weight, self.reduction)

    def values_and_counts(
        self, first, second, **keywords
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As of `ContrastiveLossBase`."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `values_and_counts`."
        )

    def compute_output_shape(self, *args, **kwargs):
        return ()

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("dtype", None)
        config.pop("autocast", None)
        options = {name: getattr(self, name) for name in self._options}
        return {**config, **options, "reduction": self.reduction}


def take_traits(wrapper, loss) -> None:
    """Let the wrapper of a loss say of itself to the loss layer what the loss says."""
    for name in TRAITS:
        setattr(wrapper, name, getattr(loss, name, getattr(ContrastiveLossBase, name)))
    if hasattr(loss, "temperature"):
        wrapper.temperature = loss.temperature


def rows_of_pairs(**sides) -> list[tf.Tensor]:
    """The two sides of a loss over pairs as tensors of one precision, that of the first.

    Raises:
        ValueError: Their shapes are known to differ or not be rank 2.
    """
    sides = {name: tf.convert_to_tensor(side) for name, side in sides.items()}
    check_same_shape(**sides)
    first, second = sides.values()
    if as_real(first[:0]).dtype != as_real(second[:0]).dtype:
        second = tf.cast(second, as_real(first[:0]).dtype)
    return [first, second]


def is_row_call(first, second, third) -> bool:
    """Whether three arguments are three rank-2 float tensors of one shape: anchor, positive, negative."""
    if third is None:
        return False
    first, second, third = (tf.convert_to_tensor(t) for t in (first, second, third))
    return (
        third.shape.rank == 2
        and first.dtype.is_floating
        and third.shape.is_compatible_with(second.shape)
        and first.shape.is_compatible_with(second.shape)
    )


def where_counted(counts, values) -> tuple[tf.Tensor, tf.Tensor]:
    """Values and counts `[n]`: both 0, and without a gradient, where the bool `counts` is False."""
    values = tf.where(counts, values, tf.zeros_like(values))
    return values, tf.cast(counts, values.dtype)


def reduce_loss(values, counts, sample_weight, reduction: str) -> tf.Tensor:
    """sum(w counts values) / sum(w counts), or its numerator, or its terms; 0 where nothing counts.

    Raises:
        ValueError: Weights come with a scalar: the loss does not split by anchor.
    """
    weights = counts
    if sample_weight is not None and values.shape.rank == 0:
        raise ValueError(
            "`sample_weight` needs a loss of single anchors; this one is of the batch as a whole. Received: "
            f"sample_weight.shape={shape_text(tf.convert_to_tensor(sample_weight).shape)}."
        )
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
