"""Features of images that a callback holds."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf


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
    spec = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
    # Not `predict`: inside `fit` it would run callbacks of its own. Traced once for all sizes of batches.
    embed = tf.function(
        lambda batch: model(batch, training=False), input_signature=[spec]
    )

    def embedder() -> np.ndarray:
        starts = range(0, len(images), batch_size)
        rows = [embed(images[at : at + batch_size]).numpy() for at in starts]
        return np.concatenate(rows).reshape(len(images), -1)

    return embedder


def single_images(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Images as the encoder takes them: of a batch of views `(n, views, ...)` each image's first view."""
    shape = getattr(getattr(model, "encoder", model), "input_shape", None)
    has_views = shape is not None and images.ndim == len(shape) + 1
    return images[:, 0] if has_views else images
