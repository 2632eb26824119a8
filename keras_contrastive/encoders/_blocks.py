"""What encoders are built of."""

from __future__ import annotations

import keras

from keras_contrastive._batch_norm import FusedBatchNorm


def conv_norm(x, channels: int, *, size: int = 3, strides: int = 1, relu: bool = True):
    """Convolution without bias, batch normalisation, and ReLU where wanted."""
    x = keras.layers.Conv2D(
        channels,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(x)
    x = FusedBatchNorm()(x)
    return keras.layers.ReLU()(x) if relu else x
