"""One decoder and one resize, in TensorFlow operations, for the loader and for exported models alike."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_integer, shape_text

JPEG_START = b"\xff\xd8\xff"
# With the chunk that says the size: of another chunk in its place, which libpng would pass over, nothing is decoded.
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
# From how many times as long as it is wide on only the middle of an image is resampled.
_LONG = 16


def decode(encoded, channels: int = 3) -> tf.Tensor:
    """Decode one JPEG or PNG, the same way wherever images enter.

    JPEG uses the accurate integer transform, with which the pixels equal Pillow's. A 16-bit PNG keeps its high
    byte. Alpha is dropped, not composited. EXIF orientation is *not* applied (the folder loader does that).
    Works eagerly, in `tf.data`, in `tf.map_fn` and in a SavedModel.

    Args:
        encoded: Scalar string tensor (or `bytes`): the content of a JPEG or PNG file.
        channels: 3 (RGB) or 1 (grey). Palettes, grey and CMYK are converted.

    Returns:
        uint8 tensor `(h, w, channels)`; h and w are not known statically.

    Raises:
        ValueError: `channels` is neither 1 nor 3.
        tf.errors.InvalidArgumentError: when run, if the bytes are no JPEG or PNG, or are damaged.
    """
    check_choice("channels", channels, [1, 3])
    encoded = tf.convert_to_tensor(encoded, tf.string)
    # TensorFlow's kernel would take a GIF or WebP too, and give it another rank.
    is_jpeg = tf.equal(tf.strings.substr(encoded, 0, len(JPEG_START)), JPEG_START)
    is_png = tf.equal(tf.strings.substr(encoded, 0, len(PNG_START)), PNG_START)
    known = tf.debugging.Assert(
        tf.logical_or(is_jpeg, is_png), ["`encoded` must hold a JPEG or a PNG."]
    )
    with tf.control_dependencies([] if known is None else [known]):
        # One kernel reads both formats; only this name of it has `dct_method`.
        pixels = tf.io.decode_jpeg(
            encoded, channels=channels, dct_method="INTEGER_ACCURATE"
        )
    return tf.ensure_shape(pixels, [None, None, channels])


def resize(images, image_size: int) -> tf.Tensor:
    """Scale the shorter side to `image_size` (antialiased, bilinear), crop the centre, round.

    The longer side becomes `longer * image_size / shorter`, rounded, of which the middle stays. A square of
    `image_size` comes back unchanged, bit for bit. An image gives the same pixels alone and in a batch.

    Args:
        images: `(h, w, c)` or `(n, h, w, c)`, uint8, or float in 0..255 (not 0..1). Sizes may be unknown
            until run; the rank may not.
        image_size: Integer > 0: the side of the square, in pixels.

    Returns:
        uint8 tensor `(image_size, image_size, c)` or `(n, image_size, image_size, c)`.

    Raises:
        ValueError: the rank is not 3 or 4, or `image_size` is not an integer > 0.
    """
    check_integer(1, image_size=image_size)
    image_size = int(image_size)  # NumPy's integers have a dtype of their own
    images = tf.convert_to_tensor(images)
    if images.shape.rank not in (3, 4):
        raise ValueError(
            "`images` must have shape (h, w, c) or (n, h, w, c). "
            f"Received: images.shape={shape_text(images.shape)}."
        )
    if images.shape.rank == 3:
        return resize(images[None], image_size)[0]

    old = tf.shape(images, tf.int64)[1:3]  # (2,)
    shorter = tf.reduce_min(old)
    new = (2 * old * image_size + shorter) // (
        2 * shorter
    )  # rounded; the shorter side is exact
    # What `tf.image.resize(images, new, antialias=True)` runs, but drawing only the window that is kept. The kernel
    # holds all of the longer side in memory, so of very long images it is given what the window is made of.
    first, end = (new - image_size) // 2, (new + image_size) // 2 + 1
    margin = old // new + 2  # what the kernel reaches beyond, in pixels of the image
    start = tf.maximum(first * old // new - margin, 0)
    stop = tf.minimum(end * old // new + margin + 1, old)
    is_long = tf.reduce_max(old) > _LONG * shorter
    start = tf.where(is_long, start, tf.zeros_like(start))
    stop = tf.where(is_long, stop, old)
    images = images[:, start[0] : stop[0], start[1] : stop[1]]
    scale = tf.cast(new, tf.float32) / tf.cast(old, tf.float32)
    shift = tf.cast(first, tf.float32) - tf.cast(start, tf.float32) * scale
    window = tf.raw_ops.ScaleAndTranslate(
        images=images,
        size=[image_size, image_size],
        scale=scale,
        translation=-shift,
        kernel_type="triangle",
        antialias=True,
    )
    window = tf.cast(tf.clip_by_value(tf.round(window), 0.0, 255.0), tf.uint8)
    return tf.ensure_shape(
        window, [images.shape[0], image_size, image_size, images.shape[3]]
    )


def resize_array(images: np.ndarray, image_size: int, chunk: int = 1024) -> np.ndarray:
    """`resize` of a whole uint8 array `(n, h, w, c)`, in chunks: the floats in between are 4 times as large."""
    if images.shape[1:3] == (image_size, image_size):
        return images
    resized = np.empty((len(images), image_size, image_size, images.shape[3]), np.uint8)
    with tf.device("CPU:0"):
        for start in range(0, len(images), chunk):
            rows = slice(start, start + chunk)
            resized[rows] = resize(images[rows], image_size).numpy()
    return resized
