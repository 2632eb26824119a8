"""Features of images that a callback holds."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive.evaluation._training import in_blocks


def predicting(model, images: np.ndarray):
    """The model as it predicts: a function of a batch of such images.

    Not `predict`: inside `fit` it would run callbacks of its own. Traced once for all sizes of batches, when it is first
    called: the model may not be built before.
    """
    spec = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
    return tf.function(
        lambda batch: model(batch, training=False), input_signature=[spec]
    )


def make_embedder(
    model: keras.Model, images: np.ndarray, batch_size: int
) -> Callable[[], np.ndarray]:
    """A function without arguments that embeds these images with the model as it is when called.

    `training=False`: it draws no random number and changes no weight.

    Args:
        model: From images to features.
        images: `(n, ...)`, as the model takes them.
        batch_size: How many are embedded at once.

    Returns:
        A function that returns an array `(n, dim)`; features of higher rank are flattened.
    """
    embed = predicting(model, images)
    return lambda: in_blocks(embed, images, batch_size).reshape(len(images), -1)


def check_labels(labels, images: np.ndarray) -> None:
    """Raise unless there is one label for each image, or None for all."""
    if labels is not None and np.shape(labels) != (len(images),):
        raise ValueError(
            "`labels` must hold one label for each of the images. "
            f"Received: labels.shape={np.shape(labels)}, images.shape={images.shape}."
        )


def single_images(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Images as the encoder takes them: of a batch of views `(n, views, ...)` each image's first view."""
    shape = getattr(getattr(model, "encoder", model), "input_shape", None)
    has_views = shape is not None and images.ndim == len(shape) + 1
    return images[:, 0] if has_views else images
