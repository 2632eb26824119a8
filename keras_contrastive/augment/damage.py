"""What is lost of an image: a square cut out, noise on every pixel."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._random import below, between, fold, normal, units
from keras_contrastive.augment._images import on_planar, per_image, sizes, to_planar
from keras_contrastive.augment.operation import (
    Operation,
    check_probability,
    check_range,
)


def cutout(images, boxes, *, fill=0.0) -> tf.Tensor:
    """Paint a box of each image in one grey.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`, any number of channels.
        boxes: `[n, 4]`, whole pixels: top, left, height, width. What lies outside of the image does not count; a box
            of height or width 0 changes nothing.
        fill: Float in 0..1, scalar or `[n]`.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating.
    """
    return on_planar(_cutout, images, boxes, fill)


def _cutout(planar, boxes, fill):
    height, width = sizes(planar)[2:]
    top, left, box_height, box_width = tf.unstack(tf.cast(boxes, tf.int32), axis=1)

    def inside(start, length, size):
        """bool `[n, size]`."""
        place = tf.range(size) - start[:, None]
        return (place >= 0) & (place < length[:, None])

    rows, columns = inside(top, box_height, height), inside(left, box_width, width)
    covered = rows[:, None, :, None] & columns[:, None, None, :]
    return tf.where(covered, per_image(fill), planar)


def add_noise(images, noise) -> tf.Tensor:
    """clip(image + noise).

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`, any number of channels.
        noise: Float, of the shape of `images`; 1 is the whole range from black to white.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating.
    """
    noise = to_planar(tf.cast(noise, tf.float32))
    return on_planar(_add_noise, images, noise)


def _add_noise(planar, noise):
    return tf.clip_by_value(planar + noise, 0.0, 1.0)


@keras.saving.register_keras_serializable("keras_contrastive")
class RandomCutout(Operation):
    """Paint a square of each image in one grey, with a probability.

    Its centre is a pixel of the image, all as likely, so part of the square may lie outside.

    Args:
        length: Integer >= 1: the square's side in pixels.
        fill: Float in 0..1.
        probability: Float in 0..1.
        seed: Integer, for use as a layer (see `Operation`).

    Reference:
        DeVries and Taylor, 2017, Improved Regularization of Convolutional Neural Networks with Cutout.
    """

    def __init__(
        self,
        length: int,
        *,
        fill: float = 0.0,
        probability: float = 1.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        check_integer(1, length=length)
        check_probability(fill=fill, probability=probability)
        self.length, self.fill, self.probability = length, fill, probability

    def draw(self, key, shape):
        n, _, height, width = shape
        chance, down, right = units(key, n, 3)
        length = tf.constant(self.length, tf.int64)
        side = tf.where(chance < self.probability, length, 0)
        top, left = below(down, height) - length // 2, below(right, width) - length // 2
        return {"boxes": tf.stack([top, left, side, side], axis=1)}

    def transform(self, planar, boxes):
        return _cutout(planar, boxes, self.fill)

    def get_config(self):
        config = {
            "length": self.length,
            "fill": self.fill,
            "probability": self.probability,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_contrastive")
class GaussianNoise(Operation):
    """Add independent normal noise to every pixel and channel, of a strength drawn for each image.

    Args:
        deviation: Pair of floats >= 0: the standard deviation is uniform between them; 1 is the whole range from
            black to white.
        probability: Float in 0..1.
        seed: Integer, for use as a layer (see `Operation`).
    """

    def __init__(
        self,
        deviation: tuple[float, float] = (0.0, 0.1),
        *,
        probability: float = 1.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        check_range(0, 1e3, deviation=deviation)
        check_probability(probability=probability)
        self.deviation, self.probability = tuple(deviation), probability

    def draw(self, key, shape):
        chance, unit = units(fold(key, 0), shape[0], 2)
        deviation = between(unit, *self.deviation)
        deviation = tf.where(chance < self.probability, deviation, 0.0)
        return {"noise": per_image(deviation) * normal(fold(key, 1), shape)}

    def transform(self, planar, noise):
        return _add_noise(planar, noise)

    def get_config(self):
        config = {"deviation": self.deviation, "probability": self.probability}
        return {**super().get_config(), **config}
