"""A first layer that needs no training: filters that whiten small patches of natural images."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer

# Deviations of brightness and of the two colours in patches of natural images, in 0..1, at frequency 0: about as in
# CIFAR-10, where they fall as (1 + frequency)^-2. What is below the last number is taken for noise.
_DEVIATIONS, _NOISE = (1.4, 0.44, 0.2), 0.03
_MEAN_PIXEL = 0.45


@keras.saving.register_keras_serializable("keras_contrastive")
class CosineFilters(keras.layers.Layer):
    """A convolution of fixed weights with ReLU, which whitens small patches of natural images.

    The filters are the cosine basis over height, width and channels (of colours: brightness, red against blue, green
    against both), which is close to the principal components of natural images. Each is divided by the deviation that
    such images have along it, so that fine detail and colour weigh as much as brightness. Those of the largest
    deviations are taken, each and its negative, so that ReLU keeps both signs.

    Args:
        count: How many filters, without the negatives; all, if there are fewer.
        size: Height and width of the patches, in pixels.
        strides: Of the convolution.

    Input and output: `(batch, height, width, channels)` in 0..1 to `(batch, ceil(height / strides), ceil(width /
    strides), 2 * count)`, >= 0.

    Raises:
        ValueError: An argument is not an integer >= 1.

    Reference:
        Coates, Ng, 2012, Learning Feature Representations with K-means, section 2 (whitened patches); Shang et al.,
        2016, Understanding and Improving Convolutional Neural Networks via Concatenated Rectified Linear Units.
    """

    def __init__(self, count: int = 24, *, size: int = 4, strides: int = 2, **kwargs):
        super().__init__(**kwargs)
        check_integer(1, count=count, size=size, strides=strides)
        self.count, self.size, self.strides = count, size, strides

    def build(self, input_shape):
        filters = whitened_cosines(self.size, input_shape[-1])[..., : self.count]
        values = np.concatenate([filters, -filters], axis=-1).astype("float32")
        self.kernel = self._fixed("kernel", values)
        self.bias = self._fixed("bias", -_MEAN_PIXEL * values.sum(axis=(0, 1, 2)))
        self.built = True

    def _fixed(self, name: str, values: np.ndarray):
        def initializer(shape, dtype=None):
            return tf.cast(values, dtype)

        return self.add_weight(
            name=name, shape=values.shape, initializer=initializer, trainable=False
        )

    def call(self, images):
        kernel = tf.convert_to_tensor(self.kernel)
        filtered = tf.nn.conv2d(images, kernel, self.strides, "SAME")
        return tf.nn.relu(filtered + tf.convert_to_tensor(self.bias))

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        sides = [None if side is None else -(-side // self.strides) for side in sides]
        return (batch, *sides, 2 * min(self.count, self.size**2 * channels))

    def get_config(self):
        own = {"count": self.count, "size": self.size, "strides": self.strides}
        return {**super().get_config(), **own}


def whitened_cosines(size: int, channels: int) -> np.ndarray:
    """All filters, `(size, size, channels, filters)`, the largest deviation first."""
    over_size, over_channels = _cosines(size), _cosines(channels)
    basis = np.einsum("ui,vj,dc->uvdijc", over_size, over_size, over_channels)
    frequency = np.hypot.outer(np.arange(size), np.arange(size))[..., None]
    colour = np.minimum(np.arange(channels), len(_DEVIATIONS) - 1)
    deviation = (np.take(_DEVIATIONS, colour) / (1 + frequency) ** 2).ravel()
    order = np.argsort(-deviation, kind="stable")
    filters = basis.reshape(-1, size, size, channels)[order]
    filters /= np.hypot(deviation, _NOISE)[order, None, None, None]
    return np.moveaxis(filters, 0, -1)


def _cosines(n: int) -> np.ndarray:
    """The orthonormal cosine basis of n values, a row each (the DCT-II)."""
    frequencies, places = np.mgrid[:n, :n]
    rows = np.cos(np.pi * frequencies * (places + 0.5) / n)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
