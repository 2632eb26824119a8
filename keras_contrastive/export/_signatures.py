"""The graphs of an export, put together one by one."""

from __future__ import annotations

import os

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import shape_text
from keras_contrastive._compat import call_with_values, path_of
from keras_contrastive._numerics import GROUP, normalize_rows, top_k_columns
from keras_contrastive.data import decode_batch, resize
from keras_contrastive.export.card import fingerprint

# How many scores `search` holds at a time, 64 MiB of them.
_SCORES = 2**24


class Signatures:
    """The signatures of an export, put together one by one.

    Attributes:
        archive: What is written.
        about: What the model card says of the encoder and its signatures.
    """

    def __init__(self, encoder, shape, dim, max_pixels, float16):
        self._encoder, self._max_pixels = encoder, max_pixels
        self._shape = image_size, channels = shape
        self.archive = keras.export.ExportArchive()
        self._halves = _half_weights(encoder) if float16 else []
        if not float16:  # else the float32 weights would be written beside the halves
            self.archive.track(encoder)
        self._images = tf.TensorSpec(
            (None, None, None, channels), tf.uint8, name="images"
        )
        self._bytes = tf.TensorSpec((None,), tf.string, name="bytes")
        self.embedding_dim = int(dim)
        self.about = {
            "encoder": encoder.name,
            "fingerprint": fingerprint(encoder),
            "weights": int(encoder.count_params()),
            "weights_dtype": "float16" if float16 else "float32",
            "image_size": image_size,
            "channels": channels,
            "embedding_dim": self.embedding_dim,
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
        classes = tf.constant(_without_encoding(classes))

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
        ids = _without_encoding(index.ids)
        ids = tf.Variable(ids, trainable=False, name="indexed_ids")
        nobody = "" if ids.dtype == tf.string else -1
        count = len(index)

        def nearest(queries):
            return top_k_columns(
                queries, tf.convert_to_tensor(columns), tf.constant(count), top_k
            )

        def search(encoded):
            embedding, valid = self._embed_encoded(encoded)
            read = tf.where(valid)  # (read, 1)
            scores, rows = _in_blocks(
                nearest, tf.gather_nd(embedding, read), _SCORES // capacity, top_k
            )
            found = tf.scatter_nd(read, rows, [tf.size(valid, tf.int64), top_k])
            scores = tf.scatter_nd(read, scores, tf.shape(found, tf.int64))
            known = valid[:, None]
            nobodies = tf.constant(nobody, ids.dtype)
            return {
                "ids": tf.where(known, tf.gather(ids, found), nobodies),
                "scores": tf.where(known, scores, np.nan),
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
        """The embedding, NaN where the image could not be read, which takes no time; and where it could."""
        image_size, channels = self._shape
        images, valid = decode_batch(
            encoded, image_size, channels, max_pixels=self._max_pixels
        )
        read = tf.where(valid)  # (read, 1)
        images = tf.gather_nd(images, read)
        # One image at least: TensorFlow's convolutions do not bear an empty batch.
        nobody = tf.cast(tf.shape(images)[0] == 0, tf.int32)
        images = tf.pad(images, [[0, nobody], [0, 0], [0, 0], [0, 0]])
        embedding = self._embed(images)[: tf.shape(read)[0]]
        shape = [tf.size(valid, tf.int64), self.embedding_dim]
        embedding = tf.scatter_nd(read, embedding, shape)
        return tf.where(valid[:, None], embedding, np.nan), valid


def _in_blocks(nearest, queries, size: int, k: int):
    """`nearest` of queries `(m, dim)`, so many at a time, which bounds the memory of their scores."""
    count = tf.shape(queries)[0]
    size = tf.clip_by_value(count, 1, max(1, size))
    blocks = tf.maximum(1, -(-count // size))
    padded = tf.pad(queries, [[0, blocks * size - count], [0, 0]])
    padded = tf.reshape(padded, tf.stack([blocks, size, queries.shape[1]]))
    specs = (tf.TensorSpec((None, k), tf.float32), tf.TensorSpec((None, k), tf.int64))
    found = tf.map_fn(nearest, padded, fn_output_signature=specs, parallel_iterations=1)
    return tuple(tf.reshape(part, [-1, k])[:count] for part in found)


def _without_encoding(values) -> np.ndarray:
    """Texts as bytes, since names of files need not be valid in any encoding; integers as int64."""
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    return np.array([os.fsencode(str(value)) for value in values.tolist()], object)


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
