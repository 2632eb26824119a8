"""What the encoder is trained on, in TensorBoard's Images tab."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer

# Pictures smaller than this many pixels are enlarged by a whole factor: TensorBoard would blur them.
_LEGIBLE = 64
_GAP = 4


class TensorBoardPictures(keras.callbacks.Callback):
    """Write some images with their views as one picture to TensorBoard, at the beginning of an epoch.

    A row is an image, then the views that the model makes of it (`ContrastiveModel.make_views`) with the
    draws of the step at which the epoch begins. Look at the first one before training for hours: views that
    have lost what tells images apart cannot teach it. A batch that has views already, of a model with
    `augment=None`, is shown as it is; so are the images of a model that makes no views.

    Args:
        log_dir: The run's folder of event files, the same as given to `keras.callbacks.TensorBoard`.
        images: uint8 `(n, height, width, channels)`, or `(n, views, height, width, channels)`, of 1 or 3
            channels.
        count: Integer >= 1: how many of them are shown, the first ones.
        every: Integer >= 1: write before every so many epochs, the first included.

    Raises:
        ValueError: `images` is of another shape or type, or a number is out of its range.

    Example:
        >>> images, _ = next(iter(dataset))
        >>> model.fit(dataset, callbacks=[TensorBoardPictures("runs/a/tensorboard", images)])
    """

    def __init__(self, log_dir: str | Path, images, *, count: int = 8, every: int = 1):
        super().__init__()
        check_integer(1, count=count, every=every)
        images = np.asarray(images)
        if (
            images.dtype != np.uint8
            or images.ndim not in (4, 5)
            or images.size == 0
            or images.shape[-1] not in (1, 3)
        ):
            raise ValueError(
                "`images` must be uint8 (n, height, width, channels) or (n, views, height, width, channels), "
                "not empty, of 1 or 3 channels. "
                f"Received: images.shape={images.shape}, images.dtype={images.dtype}."
            )
        self.log_dir = str(log_dir)
        self.images = images[:count]
        self.every = every
        self._writer = None

    def on_train_begin(self, logs=None):
        self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch % self.every == 0:
            with self._writer.as_default():
                tf.summary.image("views", self._sheet()[None], step=epoch)
            self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def _sheet(self) -> np.ndarray:
        """The picture of now: uint8 `(height, width, channels)`."""
        images = self.images
        columns = [images] if images.ndim == 4 else list(np.moveaxis(images, 1, 0))
        if getattr(self.model, "augment", None) is not None:
            views = self.model.make_views(
                tf.constant(images), tf.convert_to_tensor(self.model.step)
            )
            for size in tf.nest.flatten(
                views
            ):  # one tensor, or one for each size of views
                columns += list(np.moveaxis(_as_uint8(size), 1, 0))
        return _contact_sheet(columns)


def _as_uint8(views: tf.Tensor) -> np.ndarray:
    if views.dtype == tf.uint8:
        return views.numpy()
    return np.round(np.clip(views.numpy().astype(np.float32), 0, 1) * 255).astype(
        np.uint8
    )


def _contact_sheet(columns: list[np.ndarray]) -> np.ndarray:
    """Columns `(n, height, width, channels)` side by side, smaller ones centred, on white."""
    height, width = (max(column.shape[axis] for column in columns) for axis in (1, 2))
    scale = max(1, -(-_LEGIBLE // min(height, width)))
    sheet = np.concatenate(
        [_on_white(column, height, width, scale) for column in columns], axis=2
    )
    return np.concatenate(list(sheet), axis=0)


def _on_white(images: np.ndarray, height: int, width: int, scale: int) -> np.ndarray:
    """Images on tiles of `height` x `width` with a gap round them, enlarged `scale` times."""
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    spare = [scale * height - images.shape[1], scale * width - images.shape[2]]
    top, left = (_GAP // 2 + space // 2 for space in spare)
    bottom, right = (_GAP // 2 + space - space // 2 for space in spare)
    return np.pad(
        images, [(0, 0), (top, bottom), (left, right), (0, 0)], constant_values=255
    )
