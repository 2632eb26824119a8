"""Accuracy of an online linear probe during training, on labelled data that training does not see."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer, check_positive
from keras_contrastive.evaluation._images import (
    class_codes,
    labelled_images,
    stratified_rows,
)
from keras_contrastive.evaluation._inputs import labelled_rows
from keras_contrastive.evaluation._training import (
    Head,
    Plan,
    in_blocks,
    standard,
    traced,
    update_step,
)


class LinearProbe(keras.callbacks.Callback):
    """Train a linear layer beside the model, and add its accuracy to the logs at the end of an epoch.

    It has its own labelled images, layer and optimizer (Adam, softmax cross-entropy). Each probe embeds the images
    with the model as it predicts (`training=False`), standardises the features by mean and standard deviation of those
    of the training part, trains the layer some passes on from where the probe before left it, and lets it
    classify the test part. Nothing of that reaches the model: it draws no global random number and changes no weight,
    so a run with it ends in the same weights as one without. Works with any Keras model from images to features. The
    layer begins at 0 with another model; it is not saved, so a run that is taken up again trains it anew.

    `History`, the progress bar and every callback that stands *after* the probe in `fit(callbacks=[...])` see
    `linear_probe_accuracy`, as they see that of `KNNProbe`. It costs a pass over the images, and little else.

    Args:
        train_images: Array `(n, ...)`, images as the model takes them: uint8 for `ContrastiveModel`. Or, without
            `train_labels`, a finite `tf.data.Dataset` of batches `(images, labels)`, which is read into memory once.
        train_labels: Integers >= 0, `(n,)` or `(n, 1)`, of two classes or more.
        test_images: Array `(m, ...)`, or a dataset, as `train_images`. None: a fifth of each class of the training
            part is held out and tested on, at least one image of each class that has two.
        test_labels: Integers >= 0, `(m,)` or `(m, 1)`. An image of a class that is not trained on counts as wrong.
        every: Integer >= 1: probe after every so many epochs.
        passes: Integer >= 1: how often each probe goes through its training part.
        batch_size: Integer >= 1: how many images are embedded at once, and of how many a step is.
        learning_rate: Float > 0.
        seed: Integer >= 0, of what is held out and of the order.

    Raises:
        ValueError: An option is out of its range, labels are no integers >= 0, of one class alone or not one for each
            image, a dataset is endless or of other elements, or nothing can be held out. At the end of an epoch:
            features are not finite.

    Reference:
        As an online probe: Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations,
        Appendix B.6; there on the batches of the run.

    Example:
        >>> probe = LinearProbe(train_images, train_labels, test_images, test_labels)
        >>> history = model.fit(dataset, epochs=20, callbacks=[probe])
        >>> history.history["linear_probe_accuracy"]
    """

    def __init__(
        self,
        train_images,
        train_labels=None,
        test_images=None,
        test_labels=None,
        *,
        every: int = 1,
        passes: int = 10,
        batch_size: int = 256,
        learning_rate: float = 0.01,
        seed: int = 0,
    ):
        super().__init__()
        check_integer(1, every=every, passes=passes, batch_size=batch_size)
        check_positive(learning_rate=learning_rate)
        check_integer(0, seed=seed)
        train_images, train_labels = _given(train_images, train_labels, "train")
        if test_images is None and test_labels is None:
            held_out = _held_out(class_codes(train_labels)[1], seed)
            test_images, test_labels = train_images[held_out], train_labels[held_out]
            train_images, train_labels = (
                train_images[~held_out],
                train_labels[~held_out],
            )
        else:
            test_images, test_labels = _given(test_images, test_labels, "test")
            _check_alike(train_images, test_images)
        self.train_images, self.train_labels = train_images, train_labels
        self.test_images, self.test_labels = test_images, test_labels
        self.classes, self._codes = class_codes(train_labels)
        self.every = every
        self.passes = passes
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.seed = seed

    def set_model(self, model):
        if self.model is not model:
            self._head, self._probes = None, 0
        super().set_model(model)
        self._embed = None  # traced when it is first used: the model may not be built

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0 and logs is not None:
            logs["linear_probe_accuracy"] = self.measure()

    def measure(self) -> float:
        """Train the layer on, and return its accuracy, in 0..1. Needs a model: within `fit`, or after `set_model`."""
        if self._embed is None:
            # Not `predict`: inside `fit` it would run callbacks of its own. One trace for all sizes of batches.
            model = self.model
            self._embed = traced(
                lambda images: model(images, training=False), self.train_images
            )
        train = self._features(self.train_images, self.train_labels, "train")
        test = self._features(self.test_images, self.test_labels, "test")
        mean, spread = standard(train)
        if self._head is None:
            self._head = Head(train.shape[1], len(self.classes))
            optimizer = keras.optimizers.Adam(float(self.learning_rate))
            self._update = update_step(self._head, self._head.variables, optimizer)
        order = [self.seed, self._probes]  # another in each probe
        plan = Plan(len(train), self.passes, self.batch_size, order)
        plan.train(self._update, (train - mean) / spread, self._codes)
        self._probes += 1
        logits = self._head((test - mean) / spread).numpy()
        return float(np.mean(self.classes[logits.argmax(axis=1)] == self.test_labels))

    def _features(self, images, labels, part: str) -> np.ndarray:
        return labelled_rows(
            in_blocks(self._embed, images, self.batch_size), labels, part
        )[0]


def _given(images, labels, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as arrays; those of a dataset are read."""
    if isinstance(images, tf.data.Dataset):
        images, labels = _read(images, labels, part)
    return labelled_images(images, labels, part)


def _check_alike(train_images: np.ndarray, test_images: np.ndarray) -> None:
    train, test = (
        (images.shape[1:], images.dtype) for images in (train_images, test_images)
    )
    if train != test:
        raise ValueError(
            "`train_images` and `test_images` must be of one shape and dtype. "
            f"Received: {train[1]} {train[0]} and {test[1]} {test[0]}."
        )


def _read(dataset, labels, part: str) -> tuple[np.ndarray, np.ndarray]:
    spec = dataset.element_spec
    if labels is not None or not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            f"A dataset of `{part}_images` must give batches (images, labels), and `{part}_labels` be None. "
            f"Received: element_spec={spec}, {part}_labels={labels!r}."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"A dataset of `{part}_images` must end: it is read into memory. Received: one that repeats for ever."
        )
    batches = list(dataset.as_numpy_iterator())
    if not batches:
        raise ValueError(
            f"`{part}_images` must hold at least one image. Received: an empty dataset."
        )
    images, labels = zip(*batches)
    return np.concatenate(images), np.concatenate(labels)


def _held_out(codes: np.ndarray, seed: int) -> np.ndarray:
    """Which images are tested on, bool `(n,)`: a fifth of each class that has two."""
    held_out = np.zeros(len(codes), bool)
    held_out[stratified_rows(codes, 0.2, seed)] = True
    held_out &= np.bincount(codes)[codes] > 1
    if not held_out.any():
        raise ValueError(
            "`train_labels` must name some class twice, so that images can be held out to test on. "
            f"Received: {len(codes)} images of as many classes. Give `test_images` and `test_labels`."
        )
    return held_out
