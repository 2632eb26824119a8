"""Layouts and ranges: images as users hold them, and the planar form that operations work on.

Planar is float32 `[n, channels, height, width]`: a channel is one run of memory, so that rows are taken whole and
colour arithmetic runs along them.
"""

from __future__ import annotations

import tensorflow as tf

from keras_contrastive._checks import check_rank, shape_text


def unit_images(images, *, rank: int | None = 4) -> tf.Tensor:
    """float32 images in 0..1: uint8 is divided by 255, floats are taken as they come.

    Raises:
        ValueError: The rank is known and not `rank` (None: any), or the dtype is neither uint8 nor floating.
    """
    images = checked_images(images)
    if rank is not None:
        check_rank(rank, images=images)
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) * (1 / 255)
    return tf.cast(images, tf.float32)


def checked_images(images) -> tf.Tensor:
    """A tensor of the images.

    Raises:
        ValueError: They are neither uint8 nor floating.
    """
    images = tf.convert_to_tensor(images)
    if images.dtype != tf.uint8 and not images.dtype.is_floating:
        raise ValueError(
            "`images` must be uint8 in 0..255 or floats in 0..1. "
            f"Received: images.dtype={images.dtype.name}, images.shape={shape_text(images.shape)}."
        )
    return images


def to_planar(images: tf.Tensor) -> tf.Tensor:
    """`[n, height, width, channels]` to `[n, channels, height, width]`."""
    return tf.transpose(images, [0, 3, 1, 2])


def from_planar(planar: tf.Tensor) -> tf.Tensor:
    """`[n, channels, height, width]` to `[n, height, width, channels]`."""
    return tf.transpose(planar, [0, 2, 3, 1])


def on_planar(function, images, *arguments) -> tf.Tensor:
    """Give images to a function of planar ones: uint8 or float NHWC in, float32 NHWC out."""
    return from_planar(function(to_planar(unit_images(images)), *arguments))


def per_image(values) -> tf.Tensor:
    """A scalar or `[n]` as float32 that broadcasts over planar images: `[1, 1, 1, 1]` or `[n, 1, 1, 1]`."""
    return tf.reshape(tf.cast(values, tf.float32), [-1, 1, 1, 1])


def sizes(tensor: tf.Tensor) -> list:
    """The shape: an int where it is known, a scalar tensor where it is not."""
    dynamic = tf.shape(tensor)
    return [
        dynamic[axis] if size is None else size
        for axis, size in enumerate(tensor.shape)
    ]


def resample(planar: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Each new row a weighted sum of the old ones, then each new column.

    Two batched products, for sizes that are not known while tracing, so that the number of taps is not either.

    Args:
        planar: `[n, channels, height, width]`.
        rows: `[n or 1, new_height, height]`.
        columns: `[n or 1, new_width, width]`.

    Returns:
        `[n, channels, new_height, new_width]`.
    """
    n, channels, height, width = sizes(planar)
    new_height, new_width = sizes(rows)[1], sizes(columns)[1]
    # Never let `matmul` broadcast: TensorFlow 2.21's oneDNN kernel then corrupts the heap (seen for a batch
    # [n, 1, height, width] times one [1, 1, width, width]).
    rows = tf.broadcast_to(rows, [n, new_height, height])
    columns = tf.broadcast_to(columns, [n, new_width, width])
    by_row = tf.reshape(
        tf.transpose(planar, [0, 2, 1, 3]), [n, height, channels * width]
    )
    mixed = tf.reshape(tf.matmul(rows, by_row), [n, new_height * channels, width])
    mixed = tf.matmul(mixed, columns, transpose_b=True)
    return tf.transpose(
        tf.reshape(mixed, [n, new_height, channels, new_width]), [0, 2, 1, 3]
    )
