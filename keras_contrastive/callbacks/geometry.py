"""Alignment, uniformity and effective rank of the features during training: what can be seen without labels."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive import evaluation
from keras_contrastive._checks import check_integer
from keras_contrastive.callbacks._features import make_embedder, single_images
from keras_contrastive.layers import VALIDATION_STEP


class Geometry(keras.callbacks.Callback):
    """Add `alignment`, `uniformity` and `effective_rank` to the logs at the end of an epoch.

    All three are of the encoder's features, `model(images)`: what is kept after training. (What the loss sees, the
    embeddings behind the head, has metrics of its own: those of the loss layer.) `uniformity` and `effective_rank` are
    of the images as they are; `alignment` is between the first two views of each image: those that the model makes with
    the draws of its validation, the same in every epoch, or those that `images` brings with `augment=None`. Where there
    are no two views, as with a plain Keras model, the key is missing.

    Features behind a ReLU have a large part in common, which `effective_rank`, not centred as in its papers, counts as
    one large direction: compare its values over a run or between runs of one encoder, not with the number of features.

    The model embeds as it predicts (`training=False`): no random number is drawn, no weight changed. As with
    `KNNProbe`, callbacks that stand behind this one see the values.

    Args:
        images: Array `(n, ...)`, n >= 2, images as the model takes them: uint8 for `ContrastiveModel`. With views
            `(n, views, ...)`, the first stands for the image.
        every: Integer >= 1: measure after every so many epochs.
        batch_size: Integer >= 1: how many images are embedded at once.

    Raises:
        ValueError: An option is out of its range, or there are fewer than two images; at the end of an epoch, the
            features are not finite.

    Reference:
        Wang, Isola, 2020, Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere, Sec. 4; Garrido et al., 2023, RankMe, Eq. 1.

    Example:
        >>> model.fit(dataset, epochs=20, callbacks=[Geometry(test_images[:1000])])
    """

    def __init__(self, images, *, every: int = 1, batch_size: int = 256):
        super().__init__()
        check_integer(1, every=every, batch_size=batch_size)
        self.images = np.asarray(images)
        if self.images.ndim < 2 or len(self.images) < 2:
            raise ValueError(
                "`images` must hold at least two images, of shape (n, ...). "
                f"Received: images.shape={self.images.shape}."
            )
        self.every = every
        self.batch_size = batch_size

    def set_model(self, model):
        super().set_model(model)
        images = single_images(model, self.images)
        self._embed = make_embedder(model, images, self.batch_size)
        self._embed_views = None
        if hasattr(model, "make_views") and (
            model.augment is not None or images.ndim < self.images.ndim
        ):
            self._embed_views = make_embedder(
                self._view_features, self.images, self.batch_size
            )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 and logs is not None:
            logs.update(self.measure())

    def measure(self) -> dict[str, float]:
        """The measures now, by name. Needs a model: within `fit`, or after `set_model`."""
        features = self._embed()
        measures = {
            "uniformity": evaluation.uniformity(features),
            "effective_rank": evaluation.effective_rank(features),
        }
        if self._embed_views is None:
            return measures
        views = self._embed_views().reshape(len(features), -1, features.shape[1])
        if views.shape[1] < 2:
            return measures
        alignment = evaluation.alignment(views[:, 0], views[:, 1])
        return {"alignment": alignment, **measures}

    def _view_features(self, images, training):
        """Features `(n, 2, dim)` of the first two views of images, or `(n, 1, dim)` of the only one."""
        views = self.model.make_views(images, VALIDATION_STEP)
        views = views[0] if isinstance(views, tuple) else views  # of the first size
        features = [
            self.model(view, training=training)
            for view in tf.unstack(views[:, :2], axis=1)
        ]
        return tf.stack(features, axis=1)
