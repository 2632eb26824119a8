"""kNN accuracy during training, on labelled data that training does not see."""

from __future__ import annotations

import keras
import numpy as np

from keras_contrastive._checks import check_integer, check_positive
from keras_contrastive.callbacks._features import predicting
from keras_contrastive.evaluation import knn_accuracy
from keras_contrastive.evaluation._training import in_blocks


class KNNProbe(keras.callbacks.Callback):
    """Add `knn_accuracy` to the logs at the end of an epoch: are the features getting better?

    The loss of a contrastive run says little about that. The probe embeds both parts with the model as it
    predicts (`training=False`) and lets the training part's neighbours vote on the test part; see
    `evaluation.knn_accuracy`. It draws no random number and changes no weight, so a run with it ends in the
    same weights as one without. Works with any Keras model from images to features.

    `History`, the progress bar and every callback that stands *after* the probe in `fit(callbacks=[...])` see
    the value: put it before `TensorBoard`, `CSVLogger`, `ModelCheckpoint` and `EarlyStopping`, and give the
    last two `monitor="knn_accuracy", mode="max"`. In epochs without a probe the key is missing, as
    `val_loss` is with `validation_freq`.

    Args:
        train_images: Array `(n, ...)`, images as the model takes them: uint8 for `ContrastiveModel`.
        train_labels: `(n,)`.
        test_images: Array `(m, ...)`.
        test_labels: `(m,)`.
        k: Integer in 1..n: how many neighbours vote.
        temperature: Float > 0 of the votes.
        every: Integer >= 1: probe after every so many epochs.
        batch_size: Integer >= 1: how many images are embedded at once.

    Raises:
        ValueError: An option is out of its range, or labels are of another length than their images.

    Example:
        >>> probe = KNNProbe(train_images, train_labels, test_images, test_labels)
        >>> history = model.fit(dataset, epochs=20, callbacks=[probe])
        >>> history.history["knn_accuracy"]
    """

    def __init__(
        self,
        train_images,
        train_labels,
        test_images,
        test_labels,
        *,
        k: int = 20,
        temperature: float = 0.1,
        every: int = 1,
        batch_size: int = 256,
    ):
        super().__init__()
        check_integer(1, k=k, every=every, batch_size=batch_size)
        check_positive(temperature=temperature)
        self.train_images, self.train_labels = _labelled(
            train_images, train_labels, "train"
        )
        self.test_images, self.test_labels = _labelled(test_images, test_labels, "test")
        if k > len(self.train_images):
            raise ValueError(
                "`k` must be at most the number of `train_images`, "
                f"{len(self.train_images)}. Received: k={k}."
            )
        self.k = k
        self.temperature = temperature
        self.every = every
        self.batch_size = batch_size

    def set_model(self, model):
        super().set_model(model)
        self._embed = predicting(model, self.train_images)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 and logs is not None:
            logs["knn_accuracy"] = self.measure()

    def measure(self) -> float:
        """The accuracy now, in 0..1. Needs a model: within `fit`, or after `set_model`."""
        return knn_accuracy(
            in_blocks(self._embed, self.train_images, self.batch_size),
            self.train_labels,
            in_blocks(self._embed, self.test_images, self.batch_size),
            self.test_labels,
            k=self.k,
            temperature=self.temperature,
        )


def _labelled(images, labels, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(images), np.asarray(labels)
    if len(images) == 0 or len(labels) != len(images):
        raise ValueError(
            f"`{part}_labels` must hold one label for each of `{part}_images`, and at least one. "
            f"Received: {len(labels)} labels, {len(images)} images."
        )
    return images, labels
