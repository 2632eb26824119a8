"""Encoders: functional Keras models from float images 0..1 to features. Any `keras.Model` will do instead.

| name | for | features |
|---|---|---|
| `conv_net` | the classic example: one convolution and a dense layer | 128 |
| `small_conv_net` | images of 8 to 64 pixels on a CPU, few of them | 256 |
| `small_resnet` | images of 8 to 96 pixels on a CPU | 128 |
| `resnet18` | images of 32 pixels and more on a GPU | 512 |
"""

from __future__ import annotations

from collections.abc import Callable

import keras

from keras_contrastive._batch_norm import FusedBatchNorm
from keras_contrastive._checks import check_choice, check_integer


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
    inputs = _images(image_shape, minimum=2, encoder="conv_net")
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
    x = inputs = _images(image_shape, minimum=8, encoder="small_conv_net")
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


def small_resnet(
    image_shape: tuple[int, int, int], *, name: str = "small_resnet"
) -> keras.Model:
    """A residual network for a CPU: a 3x3 stem of 32 channels, then one block each of 32, 64 and 128.

    Every block halves the resolution, the last features are averaged over the image.

    Args:
        image_shape: `(height, width, channels)`, height and width >= 8; `(None, None, channels)`: images of any size.
        name: Name of the model.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, 128)`.

    Raises:
        ValueError: `image_shape` is no image shape, or too small.
    """
    inputs = _images(image_shape, minimum=8, encoder="small_resnet", any_size=True)
    x = _conv_norm(inputs, 32)
    for channels in (32, 64, 128):
        x = _residual_block(x, channels, strides=2)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name=name)


def resnet18(
    image_shape: tuple[int, int, int], *, name: str = "resnet18"
) -> keras.Model:
    """ResNet-18 with the 3x3 stem of small images: no stride and no pooling before the first block.

    Args:
        image_shape: `(height, width, channels)`, height and width >= 8; `(None, None, channels)`: images of any size.
        name: Name of the model.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, 512)`.

    Raises:
        ValueError: `image_shape` is no image shape, or too small.

    Reference:
        He et al., 2016, Deep Residual Learning for Image Recognition, Table 1; the stem as in Chen et al.,
        2020, A Simple Framework for Contrastive Learning of Visual Representations, App. B.9.
    """
    inputs = _images(image_shape, minimum=8, encoder="resnet18", any_size=True)
    x = _conv_norm(inputs, 64)
    for channels, strides in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = _residual_block(x, channels, strides=strides)
        x = _residual_block(x, channels, strides=1)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name=name)


ENCODERS: dict[str, Callable[..., keras.Model]] = {
    "conv_net": conv_net,
    "small_conv_net": small_conv_net,
    "small_resnet": small_resnet,
    "resnet18": resnet18,
}


def get(name: str) -> Callable[..., keras.Model]:
    """The function that makes the encoder of this name: `get("conv_net")((32, 32, 3))`.

    Raises:
        ValueError: No encoder has this name; the message lists them.
    """
    check_choice("encoder", name, ENCODERS)
    return ENCODERS[name]


def _images(image_shape, *, minimum: int, encoder: str, any_size: bool = False):
    if any_size and tuple(image_shape)[:2] == (None, None) and len(image_shape) == 3:
        check_integer(1, channels=image_shape[2])
        return keras.Input(tuple(image_shape), name="images")
    if len(tuple(image_shape)) != 3:
        raise ValueError(
            f"`image_shape` must be (height, width, channels). Received: image_shape={image_shape!r}."
        )
    height, width, channels = (int(size) for size in image_shape)
    check_integer(1, channels=channels)
    if min(height, width) < minimum:
        raise ValueError(
            f"`{encoder}` takes images of at least {minimum} x {minimum} pixels. "
            f"Received: image_shape={(height, width, channels)}; choose a larger image size."
        )
    return keras.Input((height, width, channels), name="images")


def _conv_norm(x, channels: int, *, size: int = 3, strides: int = 1, relu: bool = True):
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


def _residual_block(x, channels: int, *, strides: int):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""
    shortcut = x
    if strides != 1 or x.shape[-1] != channels:
        shortcut = _conv_norm(x, channels, size=1, strides=strides, relu=False)
    x = _conv_norm(x, channels, strides=strides)
    x = _conv_norm(x, channels, relu=False)
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))
