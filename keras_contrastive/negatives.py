"""Past embeddings as further candidates, and masks that say which candidates an anchor is compared with.

`EmbeddingQueue` remembers negatives (MoCo), `CrossBatchMemory` positives as well (labels). Both are layers: what they
hold is saved with the model. `ContrastiveLossLayer(loss, negatives=...)` puts them behind the batch; by hand, `rows()`
gives what a loss over sets takes as candidates, and the masks (of `losses.mining`) are its `candidate_mask`.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import replace_oldest
from keras_contrastive.losses.mining import (
    check_similarity,
    false_negative_mask,
    hard_negative_mask,
)

__all__ = [
    "CrossBatchMemory",
    "EmbeddingQueue",
    "false_negative_mask",
    "hard_negative_mask",
]


@keras.saving.register_keras_serializable("keras_contrastive")
class EmbeddingQueue(keras.layers.Layer):
    """The last `size` embeddings and their ids, oldest out first.

    `ContrastiveLossLayer(loss, negatives=EmbeddingQueue(4096))` compares every anchor with them. Float32. Rows of the
    anchor's own id are left out of its comparison: they are no negatives.

    Args:
        size: Integer >= 1, in embeddings (not images: two views fill two slots).
        top_k: Integer >= 1: each anchor is compared with the `top_k` rows most similar to it alone, by cosine, of
            those that are its negatives. None: with all.
        max_similarity: Float in -1..1: rows more similar to the anchor than this, by cosine, are taken for images of
            its kind and left out of its comparison. None: none are.
        in_batch: Whether the batch's other images are negatives too. False: of the batch, an anchor is compared with
            its own target alone, and all negatives come from the queue, as in MoCo. Needs a model with a target.

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        He et al., 2020, Momentum Contrast for Unsupervised Visual Representation Learning, Sec. 3.2. Leaving out
        similar rows: Huynh et al., 2022, Boosting Contrastive Self-Supervised Learning with False Negative
        Cancellation, Sec. 3.2 (elimination), there by the similarity to further views.
    """

    negative_only = True  # rows of the anchor's id are left out, not its positives

    def __init__(
        self,
        size: int,
        *,
        top_k: int | None = None,
        max_similarity: float | None = None,
        in_batch: bool = True,
        **kwargs,
    ):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        check_integer(1, size=size)
        if top_k is not None:
            check_integer(1, top_k=top_k)
        if max_similarity is not None:
            check_similarity(max_similarity)
        self.size, self.top_k, self.max_similarity = size, top_k, max_similarity
        self.in_batch = in_batch

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

    @property
    def selects(self) -> bool:
        """Whether different anchors are compared with different rows."""
        return self.top_k is not None or self.max_similarity is not None

    def mask(self, anchors, ids) -> tf.Tensor:
        """Which rows each anchor is compared with.

        Args:
            anchors: Float `(n, dim)`.
            ids: int64 `(n,)`.

        Returns:
            bool `(size,)`, the same for all anchors, or, where `top_k` or `max_similarity` choose, `(n, size)`.
        """
        rows, row_ids, filled = self.rows()
        if not self.selects:
            return filled
        same = (ids[:, None] == row_ids[None, :]) & (ids[:, None] != -1)
        mask = filled[None, :] & ~(same & self.negative_only)
        if self.max_similarity is not None:
            mask &= false_negative_mask(anchors, rows, self.max_similarity) | same
        if self.top_k is None:
            return mask
        hardest = hard_negative_mask(anchors, rows, self.top_k, mask=mask & ~same)
        return hardest | (mask & same)

    def add(self, embeddings, ids) -> None:
        """Put rows in the places of the oldest; of more rows than there are slots, the last ones stay.

        Args:
            embeddings: Float `(n, dim)`.
            ids: int `(n,)`; -1 where unknown.
        """
        added = tf.convert_to_tensor(self.added)
        for weight, rows in ((self.embeddings, embeddings), (self.ids, ids)):
            weight.assign(replace_oldest(tf.convert_to_tensor(weight), rows, added))
        self.added.assign(added + tf.shape(embeddings, out_type=tf.int64)[0])

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("dtype", None)
        return {
            **config,
            "size": self.size,
            "top_k": self.top_k,
            "max_similarity": self.max_similarity,
            "in_batch": self.in_batch,
        }


@keras.saving.register_keras_serializable("keras_contrastive")
class CrossBatchMemory(EmbeddingQueue):
    """The last `size` embeddings as positives and negatives by label: metric learning beyond the batch.

    As `EmbeddingQueue`, but rows of the anchor's id are its positives. For ids by label (`data.class_balanced`);
    by instance, an image meets itself in the memory of the epoch before. `top_k` and `max_similarity` choose among
    the negatives; positives all stay.

    Args:
        size: As of `EmbeddingQueue`, and so are `top_k` and `max_similarity`.
        start: Integer >= 0: how many embeddings are passed over before the memory is used at all: early embeddings
            change too fast to be worth remembering.

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        Wang et al., 2020, Cross-Batch Memory for Embedding Learning, Sec. 3.3.
    """

    negative_only = False

    def __init__(self, size: int, *, start: int = 0, **kwargs):
        super().__init__(size, **kwargs)
        check_integer(0, start=start)
        self.start = start

    def rows(self):
        embeddings, ids, filled = super().rows()
        return (
            embeddings,
            ids,
            filled & (tf.convert_to_tensor(self.added) >= self.start),
        )

    def get_config(self) -> dict:
        return {**super().get_config(), "start": self.start}
