"""A trained encoder as a SavedModel, which serves, searches and is fine-tuned with TensorFlow alone.

| signature | takes | gives |
|---|---|---|
| `serving_default` | `images`: uint8 `(n, height, width, channels)`, of any size | `embedding`: float32 `(n, dim)`, rows of unit length |
| `resized` | `images`: uint8 `(n, size, size, channels)`, of the size that the export is made for | the same |
| `encoded` | `bytes`: string `(n,)`, each a JPEG or PNG | the same, NaN for what cannot be read; `valid`: bool `(n,)` |
| `similarity` | `first`, `second`: uint8 `(n, height, width, channels)` each | `similarity`: float32 `(n,)`, cosine of row i with row i |
| `classify`, given a `classifier` | `images` | `label` `(n,)`, its `probability` `(n,)`, and `probabilities` `(n, classes)` |
| `search`, given an `index` | `bytes` | `ids` and `scores` `(n, k)` of the nearest, nearest first; `valid` |
| `train` | `images` | `features`: float32 `(n, dim)`, and their `embedding` |

Preprocessing is inside: images are resized and scaled as the loader does (`data.resize`), bytes decoded and turned as it
does (`data.decode`, EXIF orientation). An encoder of images of any size is served at the one size it is exported for.
Every row of an output depends on its own row of the input alone, so that a server may put requests together into one
batch; `similarity` also compares a single image with a whole batch, which a batching server must not mix.
`resized` is for TensorFlow Lite and ONNX, which have no such resize and no decoders.

`train` runs the encoder as in training: gradients reach `loaded.trainable_variables`, and batch normalisation uses and
moves its statistics. Put a classifier on its `features`; the other signatures serve the weights as they have become:

    loaded = tf.saved_model.load("served/1")
    with tf.GradientTape() as tape:
        loss = my_loss(labels, classifier(loaded.train(images)["features"]))
    gradients = tape.gradient(loss, loaded.trainable_variables)

`assets/model_card.json` says what the model is and where it comes from. Head, loss and optimizer are not in the export.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import platform
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer, shape_text
from keras_contrastive._compat import call_with_values, path_of, versions
from keras_contrastive._numerics import GROUP, normalize_rows, top_k_columns
from keras_contrastive._version import __version__
from keras_contrastive.data import decode_batch, resize

CARD = "model_card.json"


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
    encoder = getattr(model, "encoder", model)
    image_size, channels = _image_shape(encoder, image_size)
    check_integer(1, top_k=top_k)
    if max_pixels is not None:
        check_integer(1, max_pixels=max_pixels)
    dim = encoder.compute_output_shape((1, image_size, image_size, channels))[-1]
    _check_classifier(classifier, class_names, dim)
    _check_index(index, dim)
    path = Path(path)
    _check_replaceable(path)
    served = _Served(encoder, image_size, channels, max_pixels, float16)
    served.add_embedding()
    if classifier is not None:
        served.add_classify(classifier, class_names, getattr(model, "normalize", False))
    if index is not None:
        served.add_search(index, top_k)
    if not float16:
        served.add_train()
    about = {
        **{name: None for name in ("data", "method", "settings", "figures")},
        **(card or {}),
        **served.about,
        "class_names": None if class_names is None else [*map(str, class_names)],
        "indexed_images": None if index is None else len(index),
        "created": _now(),
        "versions": {
            "keras_contrastive": __version__,
            **versions(),
            "python": platform.python_version(),
        },
    }
    try:
        text = json.dumps(_finite(about), indent=2, allow_nan=False) + "\n"
    except TypeError as error:
        raise ValueError(f"`card` must be fit for JSON: {error}.") from error
    _write_whole(served.archive, text, path)


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


class _Served:
    """The signatures of an export, put together one by one.

    Attributes:
        archive: What is written.
        about: What the model card says of the encoder and its signatures.
    """

    def __init__(self, encoder, image_size, channels, max_pixels, float16):
        self._encoder, self._float16 = encoder, float16
        self._shape = (image_size, channels)
        self._max_pixels = max_pixels
        self.archive = keras.export.ExportArchive()
        self._halves = _half_weights(encoder) if float16 else []
        if not float16:  # else the float32 weights would be written beside the halves
            self.archive.track(encoder)
        self._images = tf.TensorSpec(
            (None, None, None, channels), tf.uint8, name="images"
        )
        self._bytes = tf.TensorSpec((None,), tf.string, name="bytes")
        self.about = {
            "encoder": encoder.name,
            "weights": int(encoder.count_params()),
            "weights_dtype": "float16" if float16 else "float32",
            "image_size": image_size,
            "channels": channels,
            "embedding_dim": None,
            "signatures": {},
        }

    def add_embedding(self) -> None:
        image_size, channels = self._shape

        def embed(images):
            return {"embedding": self._embed(self._resized(images))}

        def embed_resized(images):
            return {"embedding": self._embed(images)}

        def embed_encoded(encoded):
            embedding, valid = self._embed_encoded(encoded)
            return {"embedding": embedding, "valid": valid}

        def similarity(first, second):
            first, second = (self._embed(self._resized(x)) for x in (first, second))
            return {"similarity": tf.reduce_sum(first * second, axis=-1)}

        shape = (None, image_size, image_size, channels)
        resized = tf.TensorSpec(shape, tf.uint8, name="images")
        pair = [
            tf.TensorSpec(self._images.shape, tf.uint8, name=name)
            for name in ("first", "second")
        ]
        self._add("serving_default", embed, self._images)
        self._add("resized", embed_resized, resized)
        self._add("encoded", embed_encoded, self._bytes)
        self._add("similarity", similarity, *pair)

    def add_classify(self, classifier, class_names, normalize: bool) -> None:
        weights = tf.constant(classifier.weights, tf.float32)
        bias = tf.constant(classifier.bias, tf.float32)
        classes = np.asarray(classifier.classes)
        if class_names is not None:
            classes = np.array([str(class_names[label]) for label in classes])
        classes = tf.constant(
            classes if class_names is not None else classes.astype(np.int64)
        )

        def classify(images):
            features = self._features(self._resized(images))
            if normalize:
                features = normalize_rows(features)
            probabilities = tf.nn.softmax(tf.matmul(features, weights) + bias)
            return {
                "label": tf.gather(classes, tf.argmax(probabilities, axis=-1)),
                "probability": tf.reduce_max(probabilities, axis=-1),
                "probabilities": probabilities,
            }

        self._add("classify", classify, self._images)

    def add_search(self, index, top_k: int) -> None:
        top_k = min(top_k, len(index))
        capacity = (-(-len(index) // GROUP) | 1) * GROUP  # odd: see top_k_columns
        columns = np.zeros((index.dim, capacity), np.float32)
        columns[:, : len(index)] = index.embeddings.T
        # Variables: constants would be part of the graph, which must stay below 2 GB.
        columns = tf.Variable(columns, trainable=False, name="indexed_embeddings")
        ids = tf.Variable(index.ids, trainable=False, name="indexed_ids")
        nobody = "" if ids.dtype == tf.string else -1
        count = len(index)

        def search(encoded):
            embedding, valid = self._embed_encoded(encoded)
            # What could not be read is looked for as zeros, since NaN has no order.
            queries = tf.where(valid[:, None], embedding, tf.zeros_like(embedding))
            scores, rows = top_k_columns(
                queries, tf.convert_to_tensor(columns), tf.constant(count), top_k
            )
            found = tf.gather(ids, rows)
            return {
                "ids": tf.where(valid[:, None], found, tf.constant(nobody, ids.dtype)),
                "scores": tf.where(valid[:, None], scores, np.nan),
                "valid": valid,
            }

        self._add("search", search, self._bytes)

    def add_train(self) -> None:
        def train(images):
            features = self._encoder(self._scaled(self._resized(images)), training=True)
            features = tf.cast(features, tf.float32)
            return {"features": features, "embedding": normalize_rows(features)}

        self._add("train", train, self._images)

    def _add(self, name: str, function, *inputs) -> None:
        traced = tf.function(function, input_signature=inputs, autograph=False)
        outputs = traced.get_concrete_function().structured_outputs
        self.archive.add_endpoint(name, traced)
        if self.about["embedding_dim"] is None:
            self.about["embedding_dim"] = outputs["embedding"].shape[-1]
        self.about["signatures"][name] = {
            "inputs": {spec.name: _spec(spec) for spec in inputs},
            "outputs": {name: _spec(outputs[name]) for name in outputs},
        }

    def _resized(self, images):
        """uint8 of any size -> uint8 of the encoder's."""
        return resize(images, self._shape[0])

    @staticmethod
    def _scaled(images):
        """uint8 -> float32 0..1, what the encoder takes."""
        return tf.cast(images, tf.float32) / 255

    def _features(self, images):
        values = [(weight, tf.cast(half, tf.float32)) for weight, half in self._halves]
        features = call_with_values(self._encoder, values, self._scaled(images))
        return tf.cast(features, tf.float32)

    def _embed(self, images):
        return normalize_rows(self._features(images))

    def _embed_encoded(self, encoded):
        image_size, channels = self._shape
        images, valid = decode_batch(
            encoded, image_size, channels, max_pixels=self._max_pixels
        )
        embedding = self._embed(images)
        return tf.where(valid[:, None], embedding, np.nan), valid


def _half_weights(encoder) -> list:
    """Kernels with what is stored in their place. Statistics, scales and biases are few, and would lose range."""
    halves = []
    for weight in encoder.weights:
        value = np.asarray(weight.numpy())
        if value.ndim < 2 or value.dtype != np.float32:
            continue
        if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
            raise ValueError(
                "`float16` cannot hold weights above 65,504. "
                f"Received: {path_of(weight)} with {np.abs(value).max():g}."
            )
        halves.append((weight, tf.Variable(value.astype(np.float16), trainable=False)))
    return halves


def _spec(tensor) -> str:
    return f"{tensor.dtype.name} {shape_text(tensor.shape)}"


def _finite(value):
    """A value for JSON, which has no NaN: it and infinities become None."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds")


def _check_classifier(classifier, class_names, dim: int) -> None:
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
    if class_names is not None and not 0 <= classes.min() <= classes.max() < len(
        class_names
    ):
        raise ValueError(
            "`class_names` must have a name for every class of `classifier`. "
            f"Received: {len(class_names)} names, classes {classes.min()} to {classes.max()}."
        )


def _check_index(index, dim: int) -> None:
    if index is not None and (len(index) == 0 or index.dim != dim):
        raise ValueError(
            f"`index` must hold embeddings of this encoder, of dimension {dim}. "
            f"Received: {len(index)} embeddings of dimension {index.dim}."
        )


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


def _write_whole(archive, card: str, path: Path) -> None:
    """Write beside `path`, then rename: a server that watches the folder never sees half an export."""
    new, old = (path.parent / f".{path.name}.{stage}" for stage in ("new", "old"))
    if old.exists() and not path.exists():  # killed between the two renames below
        old.rename(path)
    for leftover in (new, old):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras prints every endpoint's signature; only Keras 3 can be told not to.
    with contextlib.redirect_stdout(io.StringIO()):
        archive.write_out(str(new))
    (new / "assets").mkdir(exist_ok=True)
    (new / "assets" / CARD).write_text(card)
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)
