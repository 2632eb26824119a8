"""What images an encoder takes: one check for all of them."""

from __future__ import annotations

import keras

from keras_contrastive._checks import check_integer


def image_input(image_shape, *, encoder: str, minimum: int = 1, any_size: bool = False):
    """The input of images `(height, width, channels)`, named `images`.

    Args:
        image_shape: What the caller asked for.
        encoder: Name of the encoder, for the message.
        minimum: Least height and width.
        any_size: Whether `(None, None, channels)`, images of any size, will do.

    Raises:
        ValueError: `image_shape` is no image shape, or too small.
    """
    shape = tuple(image_shape)
    if len(shape) != 3:
        raise ValueError(
            f"`image_shape` must be (height, width, channels). Received: image_shape={image_shape!r}."
        )
    check_integer(1, channels=shape[2])
    if shape[:2] == (None, None) and any_size:
        return keras.Input(shape, name="images")
    if None in shape[:2]:
        sizes = "or neither height nor width" if any_size else "not any size"
        raise ValueError(
            f"`{encoder}` takes images of one height and width, {sizes}. Received: image_shape={shape}."
        )
    height, width, channels = (int(size) for size in shape)
    if min(height, width) < minimum:
        raise ValueError(
            f"`{encoder}` takes images of at least {minimum} x {minimum} pixels. "
            f"Received: image_shape={(height, width, channels)}; choose a larger image size."
        )
    return keras.Input((height, width, channels), name="images")
