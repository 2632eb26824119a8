"""What is asked of an encoder, a classifier and an index before anything is exported."""

from __future__ import annotations

import numpy as np

from keras_contrastive._checks import check_integer


def check_classifier(classifier, class_names, dim: int) -> None:
    if classifier is None:
        if class_names is not None:
            raise ValueError(
                "`class_names` name the classes of a `classifier`. Received: class_names without classifier."
            )
        return
    weights, bias = np.shape(classifier.weights), np.shape(classifier.bias)
    classes = np.asarray(classifier.classes)
    if weights != (dim, len(classes)) or bias != (len(classes),):
        raise ValueError(
            f"`classifier` must have `weights` (dim, classes) and `bias` (classes,), of the encoder's {dim} features. "
            f"Received: weights of shape {weights}, bias of {bias}, {len(classes)} classes."
        )
    numbers = classes.dtype.kind in "iu"
    if not numbers and any(not isinstance(label, str) for label in classes.tolist()):
        raise ValueError(
            f"`classifier` must have integers or strings as `classes`. Received: classes of dtype {classes.dtype}."
        )
    if class_names is not None and not (
        numbers and 0 <= classes.min() <= classes.max() < len(class_names)
    ):
        raise ValueError(
            "`class_names` must have a name for every class of `classifier`, a number. "
            f"Received: {len(class_names)} names, classes {min(classes.tolist())} to {max(classes.tolist())}."
        )


def check_index(index, dim: int) -> None:
    if index is not None and (len(index) == 0 or index.dim != dim):
        raise ValueError(
            f"`index` must hold embeddings of this encoder, of dimension {dim}. "
            f"Received: {len(index)} embeddings of dimension {index.dim}."
        )


def image_shape(encoder, image_size: int | None) -> tuple[int, int]:
    """Side and channels of the images that the encoder is exported for."""
    if image_size is not None:
        check_integer(1, image_size=image_size)
    shape = (
        getattr(encoder, "input_shape", None)
        if getattr(encoder, "built", False)
        else None
    )
    if shape is None:
        raise ValueError(
            "`model` must be built before it is exported: make the encoder a functional keras.Model, or call "
            f"it on images once. Received: model={encoder!r}."
        )
    known = isinstance(shape, tuple) and len(shape) == 4
    if not known or shape[1] != shape[2] or shape[3] not in (1, 3):
        raise ValueError(
            "`model` must take square images of 1 or 3 channels: (None, size, size, channels), or (None, None, "
            f"None, channels) for any size. Received: encoder.input_shape={shape}."
        )
    side, channels = shape[2:]
    if side is None and image_size is None:
        raise ValueError(
            "`image_size` must be given where the encoder takes images of any size: the side in pixels at which they "
            f"are served, as in training. Received: image_size=None, encoder.input_shape={shape}."
        )
    if None not in (side, image_size) and side != image_size:
        raise ValueError(
            f"`image_size` must be {side} or left out: the encoder takes images of that size alone. "
            f"Received: image_size={image_size}, encoder.input_shape={shape}."
        )
    return side or image_size, channels
