"""Any model of `keras.applications` as an encoder: with its own preprocessing inside, and its weights if wanted."""

from __future__ import annotations

import os
from collections.abc import Callable

import keras

from keras_contrastive._checks import check_choice
from keras_contrastive.encoders._images import image_input
from keras_contrastive.encoders._preprocessing import ApplicationPreprocessing, settle
from keras_contrastive.encoders.weights import check_file, load_weights


def application(
    name: str,
    image_shape: tuple[int, int, int],
    *,
    weights: str | os.PathLike | None = None,
) -> keras.Model:
    """A model of `keras.applications` without its classifier, from images in 0..1 to the average over its last map.

    It is two layers: the preprocessing (`ApplicationPreprocessing`), and the model of Keras, `encoder.layers[-1]`, of
    which parts can be frozen. That takes three channels always; grey images are repeated. Batch normalisation is Keras'
    own, and EfficientNets hold dropout also where no classifier is. A saved ConvNeXt loads in Keras 3 alone: Keras 2.15
    does not know its own `LayerScale` again; `load_weights` from a file of weights works in both.

    Args:
        name: Name as in `keras.applications`, as "ResNet50" or "MobileNetV3Small".
        image_shape: `(height, width, channels)` with 1 or 3 channels; `(None, None, channels)`: images of any size, but
            for NASNets. Most models take images from 32 pixels on, and are made for 224. MobileNetV2, V3 and EfficientNetB
            of any size pad images whose sides are no multiples of 32 otherwise than those made for that size do.
        weights: None for random ones; "imagenet" for those that Keras publishes, downloaded by Keras; or the path of
            a file of weights without the classifier: one of those that Keras publishes (`..._notop.h5`) or what
            `load_weights` takes.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, width)`.

    Raises:
        ValueError: There is no such model, it does not take such images, or the file does not hold its weights.

    Example:
        >>> encoder = kc.encoders.application("MobileNetV3Small", (96, 96, 3))
        >>> encoder.output_shape
        (None, 576)
    """
    check_choice("name", name, application_names())
    return application_maker(name)(image_shape, weights=weights)


def application_names() -> list[str]:
    """The names of the models in this Keras' `keras.applications`, as "ResNet50"."""
    found = vars(keras.applications).items()
    return sorted(name for name, it in found if name[0].isupper() and callable(it))


def application_maker(application_name: str) -> Callable[..., keras.Model]:
    """The function `(image_shape, *, weights=None, name=None) -> keras.Model` of one application."""

    def make(image_shape, *, weights=None, name=None) -> keras.Model:
        if not isinstance(weights, (str, os.PathLike, type(None))):
            raise ValueError(
                "`weights` must be None, 'imagenet' or the path of a file of weights. "
                f"Received: weights={weights!r}."
            )
        name = name or application_name
        if weights not in (None, "imagenet"):
            check_file(weights, name)  # before the model is built, which takes seconds
        encoder = _encoder(application_name, image_shape, name)
        if weights == "imagenet":
            _give_published_weights(encoder, application_name)
        elif weights is not None:
            load_weights(encoder, weights)
        return encoder

    make.__name__ = application_name
    make.__doc__ = f"`keras.applications.{application_name}`: see `application`."
    return make


def _encoder(application_name: str, image_shape, name: str) -> keras.Model:
    # Keras builds NASNets of any size, but which layers they need depends on the size.
    any_size = not application_name.startswith("NASNet")
    inputs = image_input(image_shape, encoder=application_name, any_size=any_size)
    if inputs.shape[-1] not in (1, 3):
        raise ValueError(
            f"`{application_name}` takes images of 1 or 3 channels. Received: image_shape={tuple(image_shape)}."
        )
    try:
        backbone = _backbone(application_name, (*inputs.shape[1:3], 3), None)
    except ValueError as error:
        raise ValueError(
            f"`{application_name}` does not take such images. Received: image_shape={tuple(image_shape)}. {error}"
        ) from error
    preprocessed = ApplicationPreprocessing(family_of(application_name))(inputs)
    return keras.Model(inputs, backbone(preprocessed), name=name)


def family_of(application_name: str) -> str:
    """The module of `keras.applications` with the model's `preprocess_input`: "resnet" for "ResNet50"."""
    return getattr(keras.applications, application_name).__module__.split(".")[-1]


def _backbone(application_name: str, image_shape, weights: str | None) -> keras.Model:
    return getattr(keras.applications, application_name)(
        include_top=False, weights=weights, input_shape=image_shape, pooling="avg"
    )


def _give_published_weights(encoder, application_name: str) -> None:
    """Copy them from a model of Keras that has downloaded them, whose layers may differ: see `settle`."""
    published = _backbone(application_name, (224, 224, 3), "imagenet")
    encoder.set_weights(published.get_weights())
    settle(encoder)
