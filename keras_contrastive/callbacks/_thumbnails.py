"""Small pictures of images that a callback holds."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_contrastive.pictures._common import as_rgb

# Pixels. TensorBoard blurs smaller pictures, so they are enlarged by a whole factor.
_LEGIBLE = 32


def thumbnails(images, limit: int = 64) -> np.ndarray:
    """Images as squares of at most `limit` pixels, in their proportions, on white.

    Args:
        images: uint8 or float 0..1, `(n, height, width, channels)`.
        limit: Integer >= 1.

    Returns:
        uint8 `(n, side, side, 3)`.
    """
    images = as_rgb(images, "images")
    height, width = images.shape[1:3]
    longer = max(height, width)
    if longer > limit:
        size = [max(1, side * limit // longer) for side in (height, width)]
        smaller = tf.image.resize(images, size, method="area")
        images = smaller.numpy().round().astype(np.uint8)
    else:
        scale = min(-(-_LEGIBLE // longer), limit // longer)
        images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    side = max(images.shape[1:3])
    spare = [side - images.shape[1], side - images.shape[2]]
    padding = [(space // 2, space - space // 2) for space in spare]
    return np.pad(images, [(0, 0), *padding, (0, 0)], constant_values=255)
