"""A trained encoder as a SavedModel, which serves and is fine-tuned with TensorFlow alone.

| endpoint | takes | gives |
|---|---|---|
| `serving_default` | `images`: uint8 `(batch, height, width, channels)`, any size | `embedding`: float32 `(batch, dim)`, rows of unit length |
| `encoded` | `bytes`: string `(batch,)`, each a JPEG or PNG | the same |
| `train` | `images`, as `serving_default` | `features`: float32 `(batch, dim)`, and their `embedding` |

All of them resize and scale inside, as the loader does (`data.decode`, `data.resize`), except that EXIF
orientation is not applied. An encoder of images of any size is served at the one size it is exported for.
`train` runs the encoder as in training: gradients reach `loaded.trainable_variables`, and batch normalisation uses and
moves its statistics. Put a classifier on its `features`; the other endpoints serve the weights as they have become:

    loaded = tf.saved_model.load("saved_model/1")
    with tf.GradientTape() as tape:
        loss = my_loss(labels, classifier(loaded.train(images)["features"]))
    gradients = tape.gradient(loss, loaded.trainable_variables)

Head, loss and optimizer are not in the export.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path

import keras
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import normalize_rows
from keras_contrastive.data import decode, resize


def save(
    model: keras.Model, path: str | os.PathLike, *, image_size: int | None = None
) -> None:
    """Write a model's encoder as a SavedModel with the endpoints above.

    Serving needs TensorFlow alone, neither Keras nor this package. TensorFlow Serving wants a numbered folder:
    `save(model, "saved_model/1")`. An export that stands at `path` is replaced once the new one is complete.

    Args:
        model: `ContrastiveModel`, or an encoder itself: a built `keras.Model` from square float images in
            0..1, of 1 or 3 channels, to features `(batch, dim)`.
        path: Folder to write. Parents are made.
        image_size: Side in pixels to which the export resizes images, >= 1. An encoder of images of any size,
            `(None, None, None, channels)`, needs it: take the size that it was trained at (of several, the
            largest). An encoder of one size has it already.

    Raises:
        ValueError: The encoder is not built, or takes other inputs; `image_size` is missing, or not the size that
            the encoder takes; or `path` is a file, or a folder that holds something other than a SavedModel.
    """
    encoder = getattr(model, "encoder", model)
    image_size, channels = _image_shape(encoder, image_size)
    path = Path(path)
    _check_replaceable(path)

    def scaled(images):  # uint8, any size -> float32 0..1, what the encoder takes
        return tf.cast(resize(images, image_size), tf.float32) / 255

    def embed(images):
        return {"embedding": normalize_rows(encoder(scaled(images), training=False))}

    def embed_encoded(encoded):
        return embed(
            tf.map_fn(
                lambda one: resize(decode(one, channels), image_size),
                encoded,
                fn_output_signature=tf.TensorSpec(
                    (image_size, image_size, channels), tf.uint8
                ),
            )
        )

    def train(images):
        features = tf.cast(encoder(scaled(images), training=True), tf.float32)
        return {"features": features, "embedding": normalize_rows(features)}

    images = tf.TensorSpec((None, None, None, channels), tf.uint8, name="images")
    encoded = tf.TensorSpec((None,), tf.string, name="bytes")
    archive = keras.export.ExportArchive()
    archive.track(encoder)
    archive.add_endpoint("serving_default", embed, input_signature=[images])
    archive.add_endpoint("encoded", embed_encoded, input_signature=[encoded])
    archive.add_endpoint("train", train, input_signature=[images])
    _write_whole(archive, path)


def _image_shape(encoder, image_size: int | None) -> tuple[int, int]:
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


def _check_replaceable(path: Path) -> None:
    if path.is_file():
        raise ValueError(
            f"`path` must be a folder or not exist yet. Received: path='{path}', a file."
        )
    if (
        path.is_dir()
        and any(path.iterdir())
        and not (path / "saved_model.pb").is_file()
    ):
        raise ValueError(
            f"`path` must not exist, be empty or hold a SavedModel, which is replaced. Received: path='{path}', "
            "a folder with other content; name a new folder in it."
        )


def _write_whole(archive, path: Path) -> None:
    """Write beside `path`, then rename: a server that watches the folder never sees half an export."""
    new, old = (path.parent / f".{path.name}.{stage}" for stage in ("new", "old"))
    for leftover in (new, old):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras prints every endpoint's signature; only Keras 3 can be told not to.
    with contextlib.redirect_stdout(io.StringIO()):
        archive.write_out(str(new))
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)
