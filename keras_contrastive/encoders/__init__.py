"""Encoders: functional Keras models from float images 0..1 to features. Any `keras.Model` will do instead.

| name | for | features |
|---|---|---|
| `conv_net` | the classic example: one convolution and a dense layer | 128 |
| `small_conv_net` | images of 8 to 64 pixels on a CPU, few of them | 256 |
| `fast_conv_net` | minutes on a CPU: the encoder of `recipes.fast` | 256 |
| `small_resnet` | images of 8 to 96 pixels on a CPU | 128 |
| `resnet18` | images of 32 pixels and more on a GPU | 512 |
| `resnet50` | the encoder of most papers, on a GPU | 2048 |
| `small_vit` | a vision transformer for images of 32 to 96 pixels on a GPU | 192 |
| `ResNet50`, `EfficientNetV2B0`, ... | any model of `keras.applications`, with or without its weights | its own |

`resnet50` is ours, with the stem that fits the images; `ResNet50` is that of Keras, to which published weights belong.
`fast_conv_net`, the residual networks, `small_vit` and those of Keras take `(None, None, channels)` too: images of
any size, as views of several sizes (multi-crop) need them.

`load_weights` gives an encoder the weights of another, from a saved model or a file of weights.
"""

from __future__ import annotations

from collections.abc import Callable

import keras

from keras_contrastive._batch_norm import FusedBatchNorm
from keras_contrastive._checks import check_choice
from keras_contrastive.encoders.applications import (
    ApplicationPreprocessing,
    application,
    application_maker,
    application_names,
)
from keras_contrastive.encoders.convolutional import (
    conv_net,
    fast_conv_net,
    small_conv_net,
)
from keras_contrastive.encoders.cosine_filters import CosineFilters
from keras_contrastive.encoders.resnet import resnet18, resnet50, small_resnet
from keras_contrastive.encoders.vision_transformer import (
    PatchPositions,
    SelfAttention,
    small_vit,
)
from keras_contrastive.encoders.weights import load_weights

__all__ = [
    "ENCODERS",
    "ApplicationPreprocessing",
    "CosineFilters",
    "FusedBatchNorm",
    "PatchPositions",
    "SelfAttention",
    "application",
    "conv_net",
    "fast_conv_net",
    "get",
    "load_weights",
    "resnet18",
    "resnet50",
    "small_conv_net",
    "small_resnet",
    "small_vit",
]

ENCODERS: dict[str, Callable[..., keras.Model]] = {
    "conv_net": conv_net,
    "small_conv_net": small_conv_net,
    "fast_conv_net": fast_conv_net,
    "small_resnet": small_resnet,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "small_vit": small_vit,
}


def get(name: str) -> Callable[..., keras.Model]:
    """The function that makes the encoder of this name: `get("conv_net")((32, 32, 3))`.

    For a name of `keras.applications`, as "ResNet50", the function is
    `(image_shape, *, weights=None, name=None) -> keras.Model`: see `application`.

    Raises:
        ValueError: No encoder has this name; the message lists them.
    """
    check_choice("encoder", name, [*ENCODERS, *application_names()])
    return ENCODERS[name] if name in ENCODERS else application_maker(name)
