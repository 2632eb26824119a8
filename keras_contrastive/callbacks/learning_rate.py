"""The learning rate, beside the loss in the history."""

from __future__ import annotations

import keras

from keras_contrastive._compat import learning_rate_of


class LearningRate(keras.callbacks.Callback):
    """Add `learning_rate` to the logs at the end of an epoch: a float, the rate of the step that comes next.

    Of a schedule its value there; of a `LossScaleOptimizer` the rate of the optimizer inside it. The same number as
    `keras.callbacks.TensorBoard` shows, for `History`, `CSVLogger` and every other callback that stands after this one.

    Example:
        >>> history = model.fit(dataset, epochs=20, callbacks=[LearningRate()])
        >>> history.history["learning_rate"]
    """

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = learning_rate_of(self.model.optimizer)
