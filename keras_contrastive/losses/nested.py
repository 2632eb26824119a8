"""A loss at several widths of the embedding at once: Matryoshka representations."""

from __future__ import annotations

import numbers

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least, shape_text
from keras_contrastive.losses._base import (
    ContrastiveLossBase,
    LossLayer,
    is_row_call,
    take_traits,
)

# Keywords that are rows of embeddings, beside the second argument, and the first where it is no ids.
ROWS = ("candidates", "negative", "negatives")


@keras.saving.register_keras_serializable("keras_contrastive")
class NestedDimensions(ContrastiveLossBase):
    """The sum over `dims` of a loss of the first so many dimensions of all embeddings.

    Trains an encoder whose embeddings may be cut: the first 32 of 256 numbers are an embedding as well. Called as the
    loss is; `sum_d weight_d * loss(first d dimensions)`. A loss with weights of its own (`ArcFaceLoss`) is copied, so that
    every width has its own; those are trained within `ContrastiveLossLayer` or `ContrastiveModel`.

    Args:
        loss: A loss of this package, over sets, pairs or rows.
        dims: Integers >= 1, increasing, the largest at most the width of the embeddings.
        weights: Floats >= 0, one for each width; None: 1 each.
        name: Name of the loss.

    Raises:
        ValueError: `loss` is not callable, `dims` are no increasing integers, `weights` are of another number or negative;
            in the call, an embedding is known to be narrower than the largest width.

    Reference:
        Kusupati et al., 2022, Matryoshka Representation Learning, Eq. 1.

    Example:
        >>> from keras_contrastive.losses import NTXentLoss
        >>> loss = NestedDimensions(NTXentLoss(1.0), dims=[1, 2])
        >>> float(loss([7, 7], [[1.0, 0.0], [0.0, 1.0]]))  # one column at either width: certain
        0.0
    """

    def __init__(self, loss, dims, weights=None, *, name: str = "nested_dimensions"):
        if not callable(loss):
            raise ValueError(
                "`loss` must be a loss, such as keras_contrastive.losses.NTXentLoss(). "
                f"Received: loss={loss!r}."
            )
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        super().__init__(reduction=reduction, name=name)
        self.dims = _checked_dims(dims)
        self.weights = None if weights is None else _checked_weights(weights, self.dims)
        self.loss = loss
        self.parts = [_part(loss, dim) for dim in self.dims]
        take_traits(self, loss)

    def build(self, input_shape) -> None:
        """Build the copies of a loss with weights, for embeddings whose shape ends in `dim`."""
        for part, dim in zip(self.parts, self.dims):
            if isinstance(part, LossLayer) and not part.built:
                part.build((*input_shape[:-1], dim))

    def update(self, targets) -> None:
        """What moves in a training step (the centers of DINO), from targets float `(..., dim)`."""
        for part, dim in zip(self.parts, self.dims):
            if hasattr(part, "update"):
                part.update(targets[..., :dim])

    def __call__(self, first, second, *third, sample_weight=None, **keywords):
        """The reduced loss; arguments as of the loss."""
        if (
            third
            and "negative" not in keywords
            and is_row_call(first, second, third[0])
        ):
            keywords["negative"], *third = third
        if third:
            (sample_weight,) = third
        return self._sum(
            lambda part, *sides, **more: part(
                *sides, sample_weight=sample_weight, **more
            ),
            first,
            second,
            keywords,
        )

    def values_and_counts(self, first, second, **keywords):
        """The sum over widths of the loss of each anchor, and how much each counts, by the smallest width."""
        counts = []

        def values_of(part, *sides, **more):
            values, own = part.values_and_counts(*sides, **more)
            counts.append(own)
            return values

        values = self._sum(values_of, first, second, keywords)
        return values, counts[0]

    def _sum(self, of_part, first, second, keywords: dict):
        """The weighted sum of `of_part(part, first, second, **keywords)` over the widths."""
        rows = {"second": tf.convert_to_tensor(second)}
        if "sets" not in self.families or keywords.get("negative") is not None:
            rows["first"] = tf.convert_to_tensor(first)
        for name in ROWS:
            if keywords.get(name) is not None:
                rows[name] = tf.convert_to_tensor(keywords[name])
        self._check_width(rows)
        self._check_built()
        self.build(rows["second"].shape)
        total = []
        for part, dim, weight in zip(self.parts, self.dims, self._weights()):
            cut = {name: tensor[:, :dim] for name, tensor in rows.items()}
            sides = cut.pop("first", first), cut.pop("second")
            total.append(weight * of_part(part, *sides, **{**keywords, **cut}))
        return tf.add_n(total)

    def _check_built(self) -> None:
        unbuilt = [p for p in self.parts if isinstance(p, LossLayer) and not p.built]
        if unbuilt and tf.inside_function():
            raise ValueError(
                f"{type(self.loss).__name__} has weights of its own, which `compile(loss=...)` would not train: use "
                "ContrastiveLossLayer(NestedDimensions(...)), or call `build` first."
            )

    def _weights(self) -> list[float]:
        return [1.0] * len(self.dims) if self.weights is None else self.weights

    def _check_width(self, rows: dict) -> None:
        for name, tensor in rows.items():
            width = tensor.shape[-1] if tensor.shape.rank else None
            if width is not None and width < self.dims[-1]:
                raise ValueError(
                    f"`dims` must be at most the embeddings' width. Received: dims={self.dims}, "
                    f"{name}.shape={shape_text(tensor.shape)}."
                )

    def get_config(self) -> dict:
        return {
            "loss": keras.saving.serialize_keras_object(self.loss),
            "dims": self.dims,
            "weights": self.weights,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


def _part(loss, dim: int):
    """The loss of one width: itself, or a copy with weights of its own."""
    if not isinstance(loss, LossLayer):
        return loss
    config = {**loss.get_config(), "name": f"{loss.name}_{dim}"}
    if "dim" in config:
        config["dim"] = dim
    return type(loss).from_config(config)


def _checked_dims(dims) -> list[int]:
    listed = list(dims) if hasattr(dims, "__iter__") else []
    whole = all(
        isinstance(d, numbers.Integral) and not isinstance(d, bool) for d in listed
    )
    if not (listed and whole and listed[0] >= 1 and listed == sorted(set(listed))):
        raise ValueError(
            f"`dims` must be a list of increasing integers >= 1. Received: dims={dims!r}."
        )
    return [int(d) for d in listed]


def _checked_weights(weights, dims) -> list[float]:
    weights = list(weights) if hasattr(weights, "__iter__") else [weights]
    if len(weights) != len(dims):
        raise ValueError(
            f"`weights` must have one number for each of `dims`. Received: weights={weights}, dims={dims}."
        )
    for weight in weights:
        check_at_least(0, weights=weight)
    return [float(weight) for weight in weights]
