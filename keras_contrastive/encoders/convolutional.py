"""Plain convolutional encoders for small images."""

from __future__ import annotations

import keras

from keras_contrastive.encoders._blocks import conv_norm
from keras_contrastive.encoders._images import image_input
from keras_contrastive.encoders.cosine_filters import CosineFilters


def conv_net(
    image_shape: tuple[int, int, int], *, name: str = "conv_net"
) -> keras.Model:
    """The classic example's encoder: 3x3 convolution to 64 channels, ReLU, 2x2 max pooling, dense 128, ReLU.

    Args:
        image_shape: `(height, width, channels)`, height and width >= 2.
        name: Name of the model.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, 128)`.

    Raises:
        ValueError: `image_shape` is no image shape, or too small.
    """
    inputs = image_input(image_shape, minimum=2, encoder="conv_net")
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(128, activation="relu")(x), name=name)


def small_conv_net(
    image_shape: tuple[int, int, int], *, name: str = "small_conv_net"
) -> keras.Model:
    """Three 3x3 convolutions to 32, 64 and 128 channels, each with ReLU and 2x2 max pooling, then dense 256, ReLU.

    Without batch normalisation, which did worse on a thousand digits.

    Args:
        image_shape: `(height, width, channels)`, height and width >= 8.
        name: Name of the model.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, 256)`, >= 0.

    Raises:
        ValueError: `image_shape` is no image shape, or too small.
    """
    x = inputs = image_input(image_shape, minimum=8, encoder="small_conv_net")
    for channels in (32, 64, 128):
        x = keras.layers.Conv2D(
            channels,
            3,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
        )(x)
        x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(256, activation="relu")(x), name=name)


def fast_conv_net(
    image_shape: tuple[int, int, int], *, name: str = "fast_conv_net"
) -> keras.Model:
    """The encoder of `recipes.fast`, for minutes on a CPU: fixed filters, then three 3x3 convolutions that are learned.

    `CosineFilters` halve the resolution, and need no training, which at the full resolution is the dearest of all.
    Then come 64, 128 and 256 channels, the last two at half the resolution of the one before, each with batch
    normalisation and ReLU, and the average over the image.

    Args:
        image_shape: `(height, width, channels)`, height and width >= 8; `(None, None, channels)`: images of any size.
        name: Name of the model.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, 256)`, >= 0.

    Raises:
        ValueError: `image_shape` is no image shape, or too small.
    """
    inputs = image_input(image_shape, minimum=8, encoder="fast_conv_net", any_size=True)
    x = CosineFilters(name="cosine_filters")(inputs)
    for channels, strides in ((64, 1), (128, 2), (256, 2)):
        x = conv_norm(x, channels, strides=strides)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name=name)
