"""Fresh embeddings for a sampler of hard examples, at the start of an epoch."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer


class RefreshEmbeddings(keras.callbacks.Callback):
    """Embed all examples with the model as it is, and hand them to a sampler: `sampler.set_embeddings(array)`.

    At the start of an epoch, before its first batch is drawn. With the sampler in the checkpoint,
    `RunCheckpoint(..., sampler=sampler)`, a run resumed in mid-epoch draws by the embeddings of that epoch's start.

    Args:
        sampler: A `data.HardSampler`, or anything with its `set_embeddings`, `epoch` and `size`. It remembers the epoch
            of its embeddings: a new run, from epoch 0, needs a new one.
        part: The examples that the sampler draws from.
        every: Integer >= 1: refresh in every so many epochs, and in the first.
        batch_size: Integer >= 1: how many images are embedded at once.

    Raises:
        ValueError: an option is not a positive integer, or the sampler is of another number of examples.

    Example:
        >>> sampler = data.HardSampler(part)
        >>> dataset = data.triplets(part, 128, by="label", sampler=sampler)
        >>> model.fit(dataset, callbacks=[RefreshEmbeddings(sampler, part)], shuffle=False)
    """

    def __init__(self, sampler, part, *, every: int = 1, batch_size: int = 256):
        super().__init__()
        check_integer(1, every=every, batch_size=batch_size)
        if sampler.size != len(part):
            raise ValueError(
                f"`sampler` must be of this part, {len(part)} examples. Received: one of {sampler.size}."
            )
        self.sampler, self.part = sampler, part
        self.every, self.batch_size = every, batch_size

    def set_model(self, model):
        super().set_model(model)
        # Not `predict`: inside `fit` it would run callbacks of its own.
        images = tf.TensorSpec([None, *self.part.image_shape], tf.uint8)
        self._embed = tf.function(
            lambda images: model(images, training=False), input_signature=[images]
        )

    def on_epoch_begin(self, epoch, logs=None):
        due = epoch - epoch % self.every
        if int(self.sampler.epoch.numpy()) != due:
            self.sampler.set_embeddings(self.embeddings(), epoch=due)

    def embeddings(self) -> np.ndarray:
        """The features of all examples now, float32 `(n, dim)`. Needs a model: within `fit`, or after `set_model`."""
        batches = self.part.in_order(self.batch_size)
        return np.concatenate([self._embed(images).numpy() for images in batches])
