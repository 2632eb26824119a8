"""How fast training is, in images per second."""

from __future__ import annotations

import time

import keras

from keras_contrastive._checks import check_integer


class Throughput(keras.callbacks.Callback):
    """Add `images_per_second` to the logs at the end of an epoch.

    From the beginning of the epoch's first step to the end of its last one, with all that lies between: reading and
    augmenting images, checkpoints. Validation and what callbacks do around an epoch do not count. Nor does the first
    step of a `fit`, in which the step is compiled; an epoch of that step alone has no `images_per_second`. With
    `compile(steps_per_execution=...)` what counts as one step here is one execution.

    Args:
        batch_size: Integer >= 1: how many images a step takes; `fit` does not tell. Every batch counts as full.

    Raises:
        ValueError: `batch_size` is not a positive integer.

    Example:
        >>> history = model.fit(data.batches(part, 256), epochs=9, callbacks=[Throughput(256)])
        >>> history.history["images_per_second"]
    """

    def __init__(self, batch_size: int):
        super().__init__()
        check_integer(1, batch_size=batch_size)
        self.batch_size = batch_size

    def on_train_begin(self, logs=None):
        self._is_compiled = False

    def on_epoch_begin(self, epoch, logs=None):
        self._start = self._end = None  # (steps of the epoch so far, time)

    def on_train_batch_begin(self, batch, logs=None):
        if self._is_compiled and self._start is None:
            self._start = batch, time.perf_counter()

    # Keras hands over the step's logs as numbers, so the device is done with it.
    def on_train_batch_end(self, batch, logs=None):
        self._end = batch + 1, time.perf_counter()
        if not self._is_compiled:
            self._start, self._is_compiled = self._end, True

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or self._end is None or self._end == self._start:
            return
        steps, seconds = (end - start for start, end in zip(self._start, self._end))
        logs["images_per_second"] = steps * self.batch_size / seconds
