"""What is called to export: checks, signatures, card, files."""

from __future__ import annotations

import os
from pathlib import Path

import keras

from keras_contrastive._checks import check_integer
from keras_contrastive.export._checks import (
    check_classifier,
    check_index,
    image_shape,
)
from keras_contrastive.export._files import check_replaceable, write_whole
from keras_contrastive.export._signatures import Signatures
from keras_contrastive.export.card import as_json, card_of
from keras_contrastive.whitening import served_encoder


def save(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    image_size: int | None = None,
    float16: bool = False,
    classifier=None,
    class_names=None,
    index=None,
    top_k: int = 10,
    max_pixels: int | None = None,
    card: dict | None = None,
) -> None:
    """Write a model's encoder as a SavedModel with the signatures above.

    Serving needs TensorFlow alone, neither Keras nor this package. TensorFlow Serving wants a numbered folder, and serves
    the largest number: `save(model, next_version("served"))` adds one. The folder appears once it is complete; a crash on
    the way leaves what is served as it was. An export that stands at `path` is replaced once the new one is complete.

    Args:
        model: `ContrastiveModel`, or an encoder itself: a built `keras.Model` from square float images in
            0..1, of 1 or 3 channels, to features `(batch, dim)`.
        path: Folder to write. Parents are made.
        image_size: Side in pixels to which the export resizes images, >= 1. An encoder of images of any size,
            `(None, None, None, channels)`, needs it: take the size that it was trained at (of several, the
            largest). An encoder of one size has it already.
        float16: Store weights as float16, in half the space. Computed is in the encoder's own precision. Such an export
            serves alone: it has no `train`.
        classifier: Linear layer for `classify`, as `evaluation.linear_probe(...).classifier` on the features that
            `model.predict` gives: an object with `weights` `(dim, classes)`, `bias` `(classes,)`, `classes` `(classes,)`.
        class_names: List of str: `label` is `class_names[class]`. None: it is the class, int64.
        index: `search.Index` for `search`, of embeddings of this encoder. It is searched exactly.
        top_k: Integer >= 1: how many neighbours `search` gives; of a smaller index all.
        max_pixels: Integer >= 1: `encoded` and `search` refuse an image whose header says more before it takes memory. None:
            100,000,000, as the loader.
        card: Dict for the model card, fit for JSON. Expected: `data`, `method`, `settings`, `figures`.

    Raises:
        ValueError: The encoder is not built, or takes other inputs; `image_size` is missing, or not the size that
            the encoder takes; `classifier`, `class_names` or `index` do not fit the encoder or one another; an option is
            out of its range; or `path` is a file, or a folder that holds something other than a SavedModel.
    """
    image_size, channels = image_shape(getattr(model, "encoder", model), image_size)
    encoder = served_encoder(model)
    check_integer(1, top_k=top_k)
    if max_pixels is not None:
        check_integer(1, max_pixels=max_pixels)
    dim = encoder.compute_output_shape((1, image_size, image_size, channels))[-1]
    check_classifier(classifier, class_names, dim)
    check_index(index, dim)
    path = Path(path)
    check_replaceable(path)
    about = card_of(card, class_names, index)
    as_json(about)  # before the work
    signatures = Signatures(encoder, (image_size, channels), dim, max_pixels, float16)
    signatures.add_embedding()
    if classifier is not None:
        normalize = getattr(model, "normalize", False)
        signatures.add_classify(classifier, class_names, normalize)
    if index is not None:
        signatures.add_search(index, top_k)
    if not float16:
        signatures.add_train()
    write_whole(signatures.archive, as_json({**about, **signatures.about}), path)


def next_version(folder: str | os.PathLike) -> Path:
    """Where the next version in a served folder goes: `folder/1`, or one more than the largest number there.

    Args:
        folder: Folder of numbered versions, as TensorFlow Serving watches it. It need not exist.

    Example:
        >>> next_version("served")
        PosixPath('served/1')
    """
    folder = Path(folder)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    numbers = [int(name) for name in names if name.isascii() and name.isdigit()]
    return folder / str(max(numbers, default=0) + 1)
