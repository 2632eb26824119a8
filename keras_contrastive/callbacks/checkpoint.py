"""Checkpoints from which a run goes on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._compat import build_optimizer, optimizer_variables, path_of


class RunCheckpoint(keras.callbacks.Callback):
    """Save model and optimizer every so many steps and at each epoch's end; restore them exactly.

    With a dataset that starts where the model's step counter stands (`data.batches(..., epoch=, step=)`) a
    resumed run ends in the same weights as one never interrupted, bit for bit on a CPU. The sums behind the
    epoch's metrics are kept too, so the history of a cut epoch covers the whole of it.

    (Not so with Dropout on Keras 2.15, whose draws cannot be saved.)

    Weights that are not finite are never saved: the last good checkpoint stays.

    `keras.callbacks.BackupAndRestore` starts the dataset of a cut epoch again from its beginning.

    Args:
        directory: Folder of the checkpoints; made when the first one is saved.
        every: Integer >= 1: save after every so many steps, and at each epoch's end.
        keep: Integer >= 1: how many checkpoints are kept.
        sampler: A `data.HardSampler` whose embeddings are saved and restored too; any `tf.Module`.

    Raises:
        ValueError: `every` or `keep` is not a positive integer.

    Example:
        >>> checkpoint = RunCheckpoint("runs/a/checkpoints", every=50)
        >>> step = checkpoint.restore(model)  # 0 where there is nothing to restore
        >>> epoch = step // steps_per_epoch  # where the run was cut at an epoch's end
        >>> dataset = data.batches(part, 128, epoch=epoch)
        >>> model.fit(dataset, initial_epoch=epoch, epochs=9, callbacks=[checkpoint], shuffle=False)
    """

    def __init__(
        self,
        directory,
        *,
        every: int = 100,
        keep: int = 2,
        sampler: tf.Module | None = None,
    ):
        super().__init__()
        check_integer(1, every=every, keep=keep)
        self.directory = Path(directory)
        self.every = every
        self.keep = keep
        self.sampler = sampler
        self._manager = None
        self._sums = None
        self._is_own = False  # whether the checkpoints in the directory are of this run
        self._on_disk = None  # the step of the newest checkpoint
        self._epoch_is_over = False

    def restore(self, model: keras.Model) -> int:
        """Load the newest checkpoint into a compiled model.

        Returns:
            The number of training steps that the model has done: 0 where there is no checkpoint.

        Raises:
            ValueError: The newest checkpoint is of another model or optimizer, or damaged.
        """
        newest = self._attach(model).latest_checkpoint
        self._is_own = True
        if newest is None:
            return 0
        try:
            status = self._manager.checkpoint.restore(newest)
            status.assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"The checkpoint '{newest}' does not fit this model: {reason}"
            ) from error
        self._sums = [sums.numpy() for sums in self._metric_variables()]
        self._on_disk = self.step
        return self.step

    @property
    def step(self) -> int:
        """How many training steps the model has done."""
        return int(np.asarray(tf.convert_to_tensor(self.model.step)))

    def save(self) -> None:
        """Save now, unless this step is saved already or a weight is not finite.

        Between an epoch's last step and its end nothing is saved: its metrics are not reported yet.
        """
        manager = self._attach(self.model)
        if self._on_disk == self.step or self._epoch_is_over:
            return
        if self._all_finite():
            manager.save(checkpoint_number=self.step)
            # Not asked of the manager: it names a checkpoint the newest before it has recorded it, and Ctrl-C
            # may come between the two.
            self._on_disk = self.step

    def on_train_begin(self, logs=None):
        newest = self._attach(self.model).latest_checkpoint
        if newest is not None and not self._is_own:
            raise ValueError(
                f"'{self.directory}' holds checkpoints of another run. Call `restore(model)` to go on with "
                "it, or choose another `directory`."
            )
        self._is_own = True
        self._saved = self.step

    def on_epoch_begin(self, epoch, logs=None):
        # `fit` has just set the sums to zero. After a restore they are those of the epoch's first part.
        if self._sums is not None:
            for variable, value in zip(self._metric_variables(), self._sums):
                variable.assign(value)
            self._sums = None

    def on_train_batch_end(self, batch, logs=None):
        steps = (self.params or {}).get("steps")
        self._epoch_is_over = steps is not None and batch + 1 >= steps
        if self.step - self._saved >= self.every and not self._epoch_is_over:
            self.save()
            self._saved = self.step

    def on_epoch_end(self, epoch, logs=None):
        # The next epoch begins with sums of zero; those of this one must not come back with a restore.
        self.model.reset_metrics()
        self._epoch_is_over = False
        self.save()
        self._saved = self.step

    def _attach(self, model) -> tf.train.CheckpointManager:
        """The manager, made when model and optimizer have all their variables."""
        if self._manager is None or self._manager_model is not model:
            if getattr(model, "optimizer", None) is None:
                raise ValueError(
                    "The model must be compiled before its checkpoints are used. Call `compile` first."
                )
            self.set_model(model)
            build_optimizer(model.optimizer, model.trainable_variables)
            # Dropout's state on Keras 3, which a Checkpoint of the model alone leaves out.
            seeds = [v.value for v in model.variables if "seed_generator" in path_of(v)]
            more = {} if self.sampler is None else {"sampler": self.sampler}
            checkpoint = tf.train.Checkpoint(
                model=model,
                optimizer=model.optimizer,
                sums=self._metric_variables(),
                seeds=seeds,
                **more,
            )
            self._manager_model = model
            self._manager = tf.train.CheckpointManager(
                checkpoint, str(self.directory), max_to_keep=self.keep
            )
        return self._manager

    def _metric_variables(self) -> list[tf.Variable]:
        variables = [v for metric in self.model.metrics for v in metric.variables]
        return [v if isinstance(v, tf.Variable) else v.value for v in variables]

    def _all_finite(self) -> bool:
        weights = [*self.model.weights, *optimizer_variables(self.model.optimizer)]
        tensors = [tf.convert_to_tensor(weight) for weight in weights]
        floating = [tensor for tensor in tensors if tensor.dtype.is_floating]
        return all(
            bool(tf.reduce_all(tf.math.is_finite(tensor))) for tensor in floating
        )


class StopOnNaN(keras.callbacks.Callback):
    """Stop training with an error when the loss is no longer a finite number.

    `keras.callbacks.TerminateOnNaN` ends `fit` as if it had finished; this raises `FloatingPointError` with
    the epoch and the step, so that nothing after it takes the run for a good one.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if not np.isfinite(loss):
            step = int(np.asarray(tf.convert_to_tensor(self.model.step)))
            raise FloatingPointError(
                f"The loss became {loss} in epoch {self._epoch + 1}, at step {step}. "
                "A smaller learning rate or a larger temperature often helps."
            )
