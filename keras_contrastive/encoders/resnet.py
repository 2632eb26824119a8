"""Residual networks: a small one for CPUs, ResNet-18 and ResNet-50."""

from __future__ import annotations

import keras

from keras_contrastive._checks import check_choice
from keras_contrastive.encoders._blocks import conv_norm
from keras_contrastive.encoders._images import image_input

SMALL_IMAGE = 64  # pixels: up to here, `stem="auto"` keeps the resolution


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
    inputs = image_input(image_shape, minimum=8, encoder="small_resnet", any_size=True)
    x = conv_norm(inputs, 32)
    for channels in (32, 64, 128):
        x = _residual_block(x, channels, strides=2)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name=name)


def resnet18(
    image_shape: tuple[int, int, int], *, stem: str = "auto", name: str = "resnet18"
) -> keras.Model:
    """ResNet-18: four stages of two blocks of two 3x3 convolutions, of 64, 128, 256 and 512 channels.

    Args:
        image_shape: `(height, width, channels)`, height and width >= 8; `(None, None, channels)`: images of any size.
        stem: What stands before the first block, each with batch normalisation and ReLU. "small": a 3x3 convolution,
            which keeps the resolution, for images of 32 pixels or so. "imagenet": a 7x7 convolution of stride 2, then
            3x3 max pooling of stride 2. "auto": "small" for images of up to 64 pixels and of any size, else "imagenet".
        name: Name of the model.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, 512)`.

    Raises:
        ValueError: `image_shape` is no image shape, or too small; or there is no such `stem`.

    Reference:
        He et al., 2016, Deep Residual Learning for Image Recognition, Table 1; the small stem as in Chen et al.,
        2020, A Simple Framework for Contrastive Learning of Visual Representations, App. B.9.
    """
    inputs = image_input(image_shape, minimum=8, encoder="resnet18", any_size=True)
    x = _stem(inputs, stem)
    for channels, strides in ((64, 1), (128, 2), (256, 2), (512, 2)):
        x = _residual_block(x, channels, strides=strides)
        x = _residual_block(x, channels, strides=1)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name=name)


def resnet50(
    image_shape: tuple[int, int, int], *, stem: str = "auto", name: str = "resnet50"
) -> keras.Model:
    """ResNet-50: four stages of 3, 4, 6 and 3 bottleneck blocks, of 256, 512, 1024 and 2048 channels.

    The stride is that of the 3x3 convolution ("v1.5"), not of the first 1x1 as in the paper. To start from published
    weights take `get("ResNet50")`, which is Keras' own.

    Args:
        image_shape: `(height, width, channels)`, height and width >= 8; `(None, None, channels)`: images of any size.
        stem: As of `resnet18`.
        name: Name of the model.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, 2048)`.

    Raises:
        ValueError: `image_shape` is no image shape, or too small; or there is no such `stem`.

    Reference:
        He et al., 2016, Deep Residual Learning for Image Recognition, Table 1; the place of the stride as in Goyal
        et al., 2017, Accurate, Large Minibatch SGD, Section 5.1.
    """
    inputs = image_input(image_shape, minimum=8, encoder="resnet50", any_size=True)
    x = _stem(inputs, stem)
    for channels, blocks, strides in (
        (64, 3, 1),
        (128, 4, 2),
        (256, 6, 2),
        (512, 3, 2),
    ):
        x = _bottleneck_block(x, channels, strides=strides)
        for _ in range(blocks - 1):
            x = _bottleneck_block(x, channels, strides=1)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name=name)


def _stem(images, stem: str):
    """64 channels, at the resolution of the images or at a quarter of it."""
    check_choice("stem", stem, ("auto", "small", "imagenet"))
    height, width = images.shape[1:3]
    if stem == "auto":
        small = height is None or max(height, width) <= SMALL_IMAGE
        stem = "small" if small else "imagenet"
    if stem == "small":
        return conv_norm(images, 64)
    x = conv_norm(images, 64, size=7, strides=2)
    return keras.layers.MaxPooling2D(3, strides=2, padding="same")(x)


def _residual_block(x, channels: int, *, strides: int):
    """Two 3x3 convolutions beside a shortcut."""
    shortcut = _shortcut(x, channels, strides=strides)
    x = conv_norm(x, channels, strides=strides)
    x = conv_norm(x, channels, relu=False)
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))


def _bottleneck_block(x, channels: int, *, strides: int):
    """1x1, 3x3 and 1x1 convolutions, the last to four times the channels, beside a shortcut."""
    shortcut = _shortcut(x, 4 * channels, strides=strides)
    x = conv_norm(x, channels, size=1)
    x = conv_norm(x, channels, strides=strides)
    x = conv_norm(x, 4 * channels, size=1, relu=False)
    return keras.layers.ReLU()(keras.layers.Add()([x, shortcut]))


def _shortcut(x, channels: int, *, strides: int):
    """The input itself, or a 1x1 convolution of it where the shape changes."""
    if strides == 1 and x.shape[-1] == channels:
        return x
    return conv_norm(x, channels, size=1, strides=strides, relu=False)
