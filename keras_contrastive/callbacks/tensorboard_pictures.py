"""What the encoder is trained on, and what it makes of it, in TensorBoard's Images and Histograms tabs."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import normalize_rows
from keras_contrastive.callbacks._features import check_labels, make_embedder
from keras_contrastive.callbacks._thumbnails import thumbnails
from keras_contrastive.pictures._common import class_name
from keras_contrastive.pictures.sheets import neighbours_of, spread_queries

# Pictures smaller than this many pixels are enlarged by a whole factor: TensorBoard would blur them.
_LEGIBLE = 64
_GAP = 4
_FRAME = 4
# Green and vermilion of Okabe and Ito, which colour-blind readers can tell apart.
_RIGHT, _WRONG = (0, 158, 115), (213, 94, 0)
# How many neighbours a row has: of more, TensorBoard would show them too small.
_NEIGHBOURS = 6
# How many of the images neighbours are looked for among, and how many the similarities compare.
_MAX_REFERENCES = 1000
_MAX_COMPARED = 256


class TensorBoardPictures(keras.callbacks.Callback):
    """Write to TensorBoard, at the beginning of an epoch: views, neighbours and similarities.

    `views` (Images): the first `count` images, a row for each: the image, then the views that the model makes of it
    (`ContrastiveModel.make_views`) with the draws of the step at which the epoch begins. Look at the first one before
    training for hours: views that have lost what tells images apart cannot teach it. A batch that has views already, of
    a model with `augment=None`, is shown as it is; so are the images of a model that makes no views.

    `neighbours` (Images), where there are more than `count` images, which must be as the model takes them: a row for
    each of `count` of them, spread over the classes where there are labels: the image, then those whose features are
    most similar by cosine; in a green frame those of its class, in an orange one others. Row by row, the classes are
    named in the description of the picture.

    `similarity/negative` and `similarity/positive` (Histograms, Distributions), where the model makes views: cosines
    of the embeddings that the loss compares (`ContrastiveModel.embed` with `training=False`; views with their targets,
    where there is a target), positive: between views of one image, and negative: between views of different ones.
    Training pulls the two apart; both at 1 is collapse.

    Neighbours and similarities are written at the end of training too, under the number of epochs done: step e is the
    model after e epochs. The callback draws no random number but the views', and changes no weight.

    Args:
        log_dir: The run's folder of event files, the same as given to `keras.callbacks.TensorBoard`.
        images: uint8 `(n, height, width, channels)`, or `(n, views, height, width, channels)`, of 1 or 3
            channels. Those of rank 5 are shown alone: what is alike in them is not known. Of the others up to 1000
            are searched for neighbours, and up to 256 compared, the same random ones in every epoch.
        labels: int `(n,)` of the classes, for the frames of neighbours, or None; -1: unknown, no frame.
        class_names: Names of classes 0, 1, ..., or None: the labels are shown as they are.
        count: Integer >= 1: how many images have a row.
        every: Integer >= 1: write before every so many epochs, the first included.
        batch_size: Integer >= 1: how many images are embedded at once.

    Raises:
        ValueError: `images` is of another shape or type, `labels` are of another length, or a number is out of its range.

    Example:
        >>> pictures = TensorBoardPictures("runs/a/tensorboard", part.images, labels=part.labels)
        >>> model.fit(dataset, epochs=20, callbacks=[pictures])
    """

    def __init__(
        self,
        log_dir: str | Path,
        images,
        *,
        labels=None,
        class_names=None,
        count: int = 8,
        every: int = 1,
        batch_size: int = 256,
    ):
        super().__init__()
        check_integer(1, count=count, every=every, batch_size=batch_size)
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
        check_labels(labels, images)
        self.log_dir = str(log_dir)
        self.images = images[:count]
        # As they come, images are often sorted by class.
        order = np.random.default_rng(0).permutation(len(images))[:_MAX_REFERENCES]
        self.references = images[order]
        self.labels = None if labels is None else np.asarray(labels)[order]
        self.class_names = class_names
        self.every = every
        self.batch_size = batch_size
        self._queries = None
        if images.ndim == 4 and len(images) > count:
            most = len(self.references)
            self._queries = spread_queries(self.labels, most, min(count, most), seed=0)
        self._writer = None

    def set_model(self, model):
        super().set_model(model)
        self._features = make_embedder(model, self.references, self.batch_size)
        if hasattr(model, "embed"):
            self._embed = tf.function(
                lambda views: model.embed(views, training=False), reduce_retracing=True
            )

    def on_train_begin(self, logs=None):
        self._writer = tf.summary.create_file_writer(self.log_dir)
        self._epochs = None

    def on_epoch_begin(self, epoch, logs=None):
        if epoch % self.every == 0:
            with self._writer.as_default():
                tf.summary.image("views", self._sheet()[None], step=epoch)
            self._measure(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._epochs = epoch + 1

    def on_train_end(self, logs=None):
        if self._epochs is not None:
            self._measure(self._epochs)
        self._writer.close()

    def _measure(self, epochs: int) -> None:
        """Write what depends on the weights, as they are after so many epochs."""
        with self._writer.as_default():
            if self._queries is not None:
                tf.summary.image(
                    "neighbours",
                    self._neighbours()[None],
                    step=epochs,
                    description=self._describe_neighbours(),
                )
            for name, values in self._similarities().items():
                tf.summary.histogram(f"similarity/{name}", values, step=epochs)
        self._writer.flush()

    def _sheet(self) -> np.ndarray:
        """The picture of now: uint8 `(height, width, channels)`."""
        images = self.images
        columns = [images] if images.ndim == 4 else list(np.moveaxis(images, 1, 0))
        if getattr(self.model, "augment", None) is not None:
            # One tensor, or one for each size of views.
            for size in tf.nest.flatten(self._make_views(images)):
                columns += list(np.moveaxis(_as_uint8(size), 1, 0))
        return _contact_sheet(columns)

    def _make_views(self, images: np.ndarray):
        step = tf.convert_to_tensor(self.model.step)
        return self.model.make_views(tf.constant(images), step)

    def _neighbours(self) -> np.ndarray:
        """The sheet of neighbours of now: uint8 `(height, width, 3)`."""
        k = min(_NEIGHBOURS, len(self.references) - 1)
        found = neighbours_of(self._queries, self._features(), k)  # (queries, k)
        shown = np.column_stack([self._queries, found])
        colours = np.full((*shown.shape, 3), 255, np.uint8)  # the query has no frame
        if self.labels is not None:
            own, others = self.labels[self._queries, None], self.labels[found]
            colours[:, 1:][own == others] = _RIGHT
            colours[:, 1:][own != others] = _WRONG
            colours[:, 1:][(own < 0) | (others < 0)] = 255  # unknown
        columns = [
            _framed(self.references[images], frames)
            for images, frames in zip(shown.T, colours.swapaxes(0, 1))
        ]
        return _contact_sheet(columns)

    def _describe_neighbours(self) -> str:
        text = "A row: an image, then those with the most similar features."
        if self.labels is None:
            return text
        labels = self.labels[self._queries]
        names = ", ".join(class_name(label, self.class_names) for label in labels)
        return f"{text} Green: of its class; orange: of another. Rows: {names}."

    def _similarities(self) -> dict[str, np.ndarray]:
        images = self.references[:_MAX_COMPARED]
        makes_views = getattr(self.model, "augment", None) is not None
        if images.ndim != 4 or not makes_views or not hasattr(self.model, "embed"):
            return {}
        views = tf.data.Dataset.from_tensor_slices(self._make_views(images))
        embedded = [self._embed(block) for block in views.batch(self.batch_size)]
        rows, targets = zip(*embedded)
        targets = None if targets[0] is None else tf.concat(targets, axis=0)
        return _similarities(tf.concat(rows, axis=0), targets)


def _similarities(rows, targets) -> dict[str, np.ndarray]:
    """Cosines of positive and of negative pairs of views, each pair once, float32 `(pairs,)`.

    Args:
        rows: Float `(n, views, dim)`.
        targets: Float `(n, target_views, dim)` that the rows are compared with, or None: with each other.
    """
    first = normalize_rows(rows)
    second = first if targets is None else normalize_rows(targets)
    cosines = tf.einsum("ivd,jwd->vwij", first, second).numpy()
    v, w, i, j = np.ogrid[tuple(map(slice, cosines.shape))]
    if targets is None:  # where v > w, or i > j, stand the same pairs again
        pairs = {"negative": i < j, "positive": (i == j) & (v < w)}
    else:
        pairs = {"negative": i != j, "positive": (i == j) & (v != w)}
    # TensorBoard shows no histogram at all where one value is not finite.
    finite = np.isfinite(cosines)
    found = {name: cosines[mask & finite] for name, mask in pairs.items()}
    return {name: values for name, values in found.items() if values.size}


def _as_uint8(views: tf.Tensor) -> np.ndarray:
    if views.dtype == tf.uint8:
        return views.numpy()
    return np.round(np.clip(views.numpy().astype(np.float32), 0, 1) * 255).astype(
        np.uint8
    )


def _framed(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Thumbnails of images in frames of these colours, uint8 `(n, 3)`."""
    pictures = thumbnails(images)
    side = pictures.shape[1] + 2 * _FRAME
    framed = np.empty((len(pictures), side, side, 3), np.uint8)
    framed[:] = colours[:, None, None]
    framed[:, _FRAME:-_FRAME, _FRAME:-_FRAME] = pictures
    return framed


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
