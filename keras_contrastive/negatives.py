"""Past embeddings as further negatives: a queue that is a layer's state, and is saved with the model."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_integer


@keras.saving.register_keras_serializable("keras_contrastive")
class EmbeddingQueue(keras.layers.Layer):
    """The last `size` embeddings and their ids, oldest out first.

    `ContrastiveLossLayer(loss, negatives=EmbeddingQueue(4096))` compares every anchor with them. Float32.

    Args:
        size: Integer >= 1, in embeddings (not images: two views fill two slots).

    Raises:
        ValueError: `size` is not a positive integer.

    Reference:
        He et al., 2020, Momentum Contrast for Unsupervised Visual Representation Learning, Sec. 3.2.
    """

    def __init__(self, size: int, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        check_integer(1, size=size)
        self.size = size

    def build(self, input_shape):
        def state(name, shape, dtype):
            return self.add_weight(
                name=name,
                shape=shape,
                dtype=dtype,
                initializer="zeros",
                trainable=False,
            )

        self.embeddings = state("embeddings", (self.size, input_shape[-1]), "float32")
        self.ids = state("ids", (self.size,), "int64")
        self.added = state("added", (), "int64")
        self.built = True

    def rows(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Embeddings float32 `(size, dim)`, ids int64 `(size,)`, and bool `(size,)`: the slot is filled."""
        filled = tf.range(self.size, dtype=tf.int64) < tf.convert_to_tensor(self.added)
        return (
            tf.convert_to_tensor(self.embeddings),
            tf.convert_to_tensor(self.ids),
            filled,
        )

    def add(self, embeddings, ids) -> None:
        """Put rows in the places of the oldest; of more rows than there are slots, the last ones stay.

        Args:
            embeddings: Float `(n, dim)`.
            ids: int `(n,)`; -1 where unknown.
        """
        count = tf.shape(embeddings, out_type=tf.int64)[0]
        added = tf.convert_to_tensor(self.added)
        kept = tf.minimum(count, self.size)
        embeddings, ids = embeddings[count - kept :], ids[count - kept :]
        places = (added + tf.range(count - kept, count)) % self.size
        for weight, rows in ((self.embeddings, embeddings), (self.ids, ids)):
            old = tf.convert_to_tensor(weight)
            weight.assign(
                tf.tensor_scatter_nd_update(
                    old, places[:, None], tf.cast(rows, old.dtype)
                )
            )
        self.added.assign(added + count)

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("dtype", None)
        return {**config, "size": self.size}
