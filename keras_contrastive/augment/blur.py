"""Gaussian blur, of a width drawn for each image."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._random import between, units
from keras_contrastive.augment._images import on_planar, per_image, sizes
from keras_contrastive.augment._schedule import Stage, run_at_once
from keras_contrastive.augment.operation import (
    Operation,
    check_probability,
    check_range,
)


def gaussian_blur(images, kernel_size: int, sigma) -> tf.Tensor:
    """Blur each image by its own Gaussian, as torchvision's `gaussian_blur`.

    The weights are exp(-x^2 / (2 sigma^2)) at the pixels x of the kernel, scaled to sum to 1, along rows and then
    columns. Outside, the image is mirrored without repeating its edge.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`, any number of channels.
        kernel_size: Odd integer; its half must be less than the image's height and width.
        sigma: Standard deviation in pixels, >= 0, scalar or `[n]`; 0 changes nothing.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating, or too small; `kernel_size` is not odd.
    """
    _check_kernel_size(kernel_size)
    return on_planar(_gaussian_blur, images, kernel_size, sigma)


def _gaussian_blur(planar, kernel_size: int, sigma):
    return run_at_once(_stages(sizes(planar), kernel_size // 2, sigma), planar)


def _stages(shape, radius: int, sigma) -> list[Stage]:
    for size in shape[2:]:
        if isinstance(size, int) and size <= radius:
            raise ValueError(
                "Half the `kernel_size` must be less than height and width, to mirror the image. "
                f"Received: kernel_size={2 * radius + 1} for an image side of {size}."
            )
    sigma = tf.reshape(tf.cast(sigma, tf.float32), [-1, 1])
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    # At sigma 0 all weight is on the centre.
    weights = tf.exp(-0.5 * tf.square(offsets / tf.maximum(sigma, 1e-3)))
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    weights = tf.broadcast_to(weights, [shape[0], 2 * radius + 1])
    needed = tf.broadcast_to(sigma[:, 0] > 0, [shape[0]])
    taps = 2 * radius + 1
    return [
        Stage(function, (weights,), needed, cost=taps)
        for function in (_blur_rows, _blur_columns)
    ]


def _blur_rows(planar, weights):
    """A sum of shifted rows. Whole rows are taken, so the mirroring costs nothing."""
    height, radius = sizes(planar)[2], weights.shape[1] // 2
    shifted = tf.range(height)[:, None] + tf.range(-radius, radius + 1)
    shifted = height - 1 - tf.abs(height - 1 - tf.abs(shifted))  # [height, taps]
    return _weighted(lambda tap: tf.gather(planar, shifted[:, tap], axis=2), weights)


def _blur_columns(planar, weights):
    width, radius = sizes(planar)[3], weights.shape[1] // 2
    padding = [[0, 0], [0, 0], [0, 0], [radius, radius]]
    padded = tf.pad(planar, padding, "REFLECT")
    return _weighted(lambda tap: padded[:, :, :, tap : tap + width], weights)


def _weighted(shifted, weights):
    total = tf.add_n(
        [shifted(tap) * per_image(weights[:, tap]) for tap in range(weights.shape[1])]
    )
    return tf.minimum(total, 1.0)  # the weights may sum to a rounding above 1


@keras.saving.register_keras_serializable("keras_contrastive")
class GaussianBlur(Operation):
    """Blur each image, with a probability, by a Gaussian of random width.

    Args:
        kernel_size: Odd integer, in pixels.
        sigma: Pair of floats > 0: the standard deviation in pixels is uniform between them.
        probability: Float in 0..1.
        seed: Integer, for use as a layer (see `Operation`).

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Appendix A.
    """

    def __init__(
        self,
        kernel_size: int,
        sigma: tuple[float, float] = (0.1, 2.0),
        *,
        probability: float = 0.5,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        _check_kernel_size(kernel_size)
        check_range(1e-3, 1e3, sigma=sigma)
        check_probability(probability=probability)
        self.kernel_size, self.sigma, self.probability = (
            kernel_size,
            tuple(sigma),
            probability,
        )

    def draw(self, key, shape):
        chance, unit = units(key, shape[0], 2)
        sigma = between(unit, *self.sigma)
        return {"sigma": tf.where(chance < self.probability, sigma, 0.0)}

    def stages(self, shape, sigma):
        return _stages(shape, self.kernel_size // 2, sigma)

    def get_config(self):
        config = {
            "kernel_size": self.kernel_size,
            "sigma": self.sigma,
            "probability": self.probability,
        }
        return {**super().get_config(), **config}


def _check_kernel_size(kernel_size) -> None:
    check_integer(1, kernel_size=kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(
            f"`kernel_size` must be odd. Received: kernel_size={kernel_size}."
        )
