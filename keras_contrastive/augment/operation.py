"""What every augmentation layer shares: a draw of parameters for each image, then a deterministic transform."""

from __future__ import annotations

import zlib

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least
from keras_contrastive._random import fold, make_key, uniform
from keras_contrastive.augment._images import from_planar, sizes, to_planar, unit_images
from keras_contrastive.augment._schedule import Repeated, Stage, run_at_once


class Operation(keras.layers.Layer):
    """Base class of the augmentations: `draw` parameters for each image, `transform` the images with them.

    An operation is used in one of two ways. In a `Recipe` it is a pure function, `apply(images, key)`, whose result
    depends on its arguments alone. In a model of your own it is a Keras layer: the identity unless
    training, and then it draws from `(seed, step)`, where `step` is a weight that counts its calls.

    A new operation implements `draw` and `transform` (and `size_of`, if it changes height or width) in operations
    that XLA compiles, takes everything random from `key`, and returns its arguments in `get_config`. (Those of this
    package give `stages` instead of `transform`: parts that a recipe can skip for images that do not need them.)

    Args:
        seed: Integer; used by the layer, not by `apply`. Two layers of one class in a model need two seeds.
    """

    def __init__(self, *, seed: int = 0, **kwargs):
        kwargs["dtype"] = (
            "float32"  # under half-precision policies too: views are float32
        )
        super().__init__(**kwargs)
        self.seed = seed

    def draw(self, key: tf.Tensor, shape: list) -> dict[str, tf.Tensor]:
        """Draw the parameters of each image.

        Args:
            key: int64 `[2]`.
            shape: `[n, channels, height, width]`, ints or scalar tensors.

        Returns:
            The keyword arguments of `transform`: tensors whose first axis is n.
        """
        raise NotImplementedError

    def transform(self, planar: tf.Tensor, *values, **parameters) -> tf.Tensor:
        """The deterministic part: float32 `[n, channels, height, width]` in 0..1 to the same, image by image."""
        if type(self).stages is Operation.stages:
            raise NotImplementedError(
                f"`{type(self).__name__}` must implement `transform` (or `stages`)."
            )
        return run_at_once(self.stages(sizes(planar), *values, **parameters), planar)

    def stages(self, shape: list, **parameters) -> list[Stage | Repeated]:
        """`transform` in parts, for images of this `[n, channels, height, width]`."""
        names = list(parameters)

        def transform(planar, *values):
            return self.transform(planar, **dict(zip(names, values)))

        changes = type(self).size_of is not Operation.size_of
        size = tuple(self.size_of(tuple(shape[2:]))) if changes else None
        return [Stage(transform, tuple(parameters.values()), size=size)]

    def follow(
        self, stages: list[Stage | Repeated], shape: list, **parameters
    ) -> list[Stage | Repeated]:
        """The stages of the operations before and this one's: where two can be had as one, they are."""
        return [*stages, *self.stages(shape, **parameters)]

    def size_of(self, size: tuple) -> tuple:
        """Height and width of the result for images of this height and width: the same, unless overridden."""
        return size

    def apply(self, images: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """Draw with `key` and transform: the same images and key give the same result anywhere.

        Args:
            images: uint8 or float in 0..1, `[n, height, width, channels]`.
            key: int64 `[2]`.

        Returns:
            float32 in 0..1, `[n, height, width, channels]`.

        Raises:
            ValueError: `images` are not rank 4, or neither uint8 nor floating.
        """
        planar = to_planar(unit_images(images))
        drawn = self.draw(key, sizes(planar))
        return from_planar(self.transform(planar, **drawn))

    def at_rest(self, images: tf.Tensor) -> tf.Tensor:
        """What the layer does when it is not training: nothing."""
        return images

    def build(self, input_shape):
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self.built = True

    def call(self, images, training=None):
        images = unit_images(images)
        if not training:
            return self.at_rest(images)
        key = make_key(self.seed, tf.convert_to_tensor(self.step))
        self.step.assign_add(1)
        # The class has its say, or flip and grayscale of one seed would always go together.
        return self.apply(images, fold(key, zlib.crc32(type(self).__name__.encode())))

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def occurs(key: tf.Tensor, n, probability: float) -> tf.Tensor:
    """bool `[n]`, each True with `probability`."""
    return uniform(key, [n]) < probability


def check_probability(**values) -> None:
    """Raise unless each value is a number in 0..1."""
    check_at_least(0, **values)
    for name, value in values.items():
        if value > 1:
            raise ValueError(
                f"`{name}` must be a number in 0..1. Received: {name}={value!r}."
            )


def check_range(low, high, **values) -> None:
    """Raise unless each value is a pair of numbers with low <= first <= second <= high."""
    for name, value in values.items():
        try:
            first, second = (float(bound) for bound in value)
        except (TypeError, ValueError):
            first, second = 1.0, 0.0
        if not low <= first <= second <= high:
            raise ValueError(
                f"`{name}` must be a pair of numbers, {low} <= first <= second <= {high}. "
                f"Received: {name}={value!r}."
            )
