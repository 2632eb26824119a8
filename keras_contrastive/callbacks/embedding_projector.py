"""The features of some images, before and after training, in TensorBoard's Projector tab."""

from __future__ import annotations

import io
import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import normalize_rows
from keras_contrastive.callbacks._features import check_labels, make_embedder
from keras_contrastive.callbacks._thumbnails import thumbnails
from keras_contrastive.pictures._common import class_name

# Pixels. A larger texture is refused by some graphics cards.
_MAX_SPRITE = 8192
_FOLDER = "projector"
_CONFIG = "projector_config.pbtxt"
# A metadata file has one image on each line, and a tab between its columns.
_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


class EmbeddingProjector(keras.callbacks.Callback):
    """Write L2-normalised features, labels and thumbnails of images for TensorBoard's Projector tab.

    There are two embeddings to choose from: `untrained`, written when `fit` begins with a model that has made no step,
    and `trained`, written every so many epochs and at the end of training, each time over the last one. A resumed run
    leaves `untrained` as it is. The projector shows them by PCA, t-SNE or UMAP; search and colour points by `label`;
    `image` is the image's place in `images`. A TensorBoard that is running shows new files when it is started anew.

    In `log_dir`, where TensorBoard looks for it, stands `projector_config.pbtxt`; in `log_dir/projector` what it names:
    `untrained.tsv`, `trained.tsv`, `metadata.tsv` and `sprite.png`. Draws no random number of training's and changes
    no weight.

    Args:
        log_dir: The run's folder of event files, the same as given to `keras.callbacks.TensorBoard`. A local one.
        images: Array `(n, height, width, channels)`, images as the model takes them: uint8 for `ContrastiveModel`.
            Thumbnails show floats as 0..1.
        labels: `(n,)`: class numbers, or anything that `str` makes a name of; or None.
        class_names: Names of classes 0, 1, ..., or None: the labels are shown as they are.
        count: Integer >= 1: how many images are shown at most; of more, a random sample.
        every: Integer >= 1: write after every so many epochs.
        batch_size: Integer >= 1: how many images are embedded at once.

    Raises:
        ValueError: `images` are no images, `labels` are of another length, or a number is out of its range.

    Example:
        >>> projector = EmbeddingProjector("runs/a/tensorboard", part.images, part.labels)
        >>> model.fit(dataset, epochs=20, callbacks=[projector])
    """

    def __init__(
        self,
        log_dir: str | Path,
        images,
        labels=None,
        *,
        class_names=None,
        count: int = 2000,
        every: int = 10,
        batch_size: int = 256,
    ):
        super().__init__()
        check_integer(1, count=count, every=every, batch_size=batch_size)
        images = np.asarray(images)
        if images.ndim != 4 or images.size == 0:
            raise ValueError(
                "`images` must have shape (n, height, width, channels) and hold at least one image. "
                f"Received: images.shape={images.shape}."
            )
        check_labels(labels, images)
        self.log_dir = Path(log_dir)
        order = np.random.default_rng(0).permutation(len(images))
        self.indices = np.sort(order[:count])
        self.images = images[self.indices]
        self.names = None
        if labels is not None:
            labels = np.asarray(labels)[self.indices]
            self.names = [class_name(label, class_names) for label in labels]
        self.every = every
        self.batch_size = batch_size

    def set_model(self, model):
        super().set_model(model)
        self._features = make_embedder(model, self.images, self.batch_size)

    def on_train_begin(self, logs=None):
        # Called with the folder of several runs, TensorBoard takes this for one of them where it holds an event file.
        # One that came after another writer's would keep it from reading on there.
        if not any(self.log_dir.glob("events.out.tfevents.*")):
            tf.summary.create_file_writer(str(self.log_dir)).close()
        sprite, self._thumbnail = _sprite(self.images)
        self._write("sprite.png", tf.io.encode_png(sprite).numpy())
        self._write("metadata.tsv", self._metadata().encode())
        if self._steps_done() == 0:
            self._write_features("untrained")

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            self._write_features("trained")

    def on_train_end(self, logs=None):
        self._write_features("trained")

    def _steps_done(self) -> int:
        # A model of ours goes on counting when it is compiled again.
        steps = getattr(self.model, "step", self.model.optimizer.iterations)
        return int(tf.convert_to_tensor(steps).numpy())

    def _metadata(self) -> str:
        """One line for each image. A header where there are two columns, as the projector has it."""
        if self.names is None:
            return "".join(f"{index}\n" for index in self.indices)
        rows = [
            f"{name.translate(_ESCAPES)}\t{index}\n"
            for name, index in zip(self.names, self.indices)
        ]
        return "label\timage\n" + "".join(rows)

    def _write_features(self, name: str) -> None:
        table = io.StringIO()
        rows = normalize_rows(self._features()).numpy()
        np.savetxt(table, rows, fmt="%.5g", delimiter="\t")
        self._write(f"{name}.tsv", table.getvalue().encode())
        self._write_config()

    def _write_config(self) -> None:
        """Tell TensorBoard of the embeddings that there are, the trained one first: it is shown at first."""
        from google.protobuf import text_format
        from tensorboard.plugins.projector import ProjectorConfig

        config = ProjectorConfig()
        for name in ("trained", "untrained"):
            if (self.log_dir / _FOLDER / f"{name}.tsv").exists():
                embedding = config.embeddings.add(
                    tensor_name=name,
                    tensor_path=f"{_FOLDER}/{name}.tsv",
                    metadata_path=f"{_FOLDER}/metadata.tsv",
                )
                embedding.sprite.image_path = f"{_FOLDER}/sprite.png"
                embedding.sprite.single_image_dim.extend([self._thumbnail] * 2)
        _replace(self.log_dir / _CONFIG, text_format.MessageToString(config).encode())

    def _write(self, name: str, content: bytes) -> None:
        (self.log_dir / _FOLDER).mkdir(parents=True, exist_ok=True)
        _replace(self.log_dir / _FOLDER / name, content)


def _replace(path: Path, content: bytes) -> None:
    """Write a file such that it is never seen half written."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _sprite(images: np.ndarray) -> tuple[np.ndarray, int]:
    """Images as one square picture of thumbnails, row by row, and the side of each in it."""
    columns = int(np.ceil(np.sqrt(len(images))))
    tiles = thumbnails(images, min(64, _MAX_SPRITE // columns))
    side = tiles.shape[1]
    sprite = np.full((columns**2, side, side, 3), 255, np.uint8)
    sprite[: len(images)] = tiles
    sprite = sprite.reshape(columns, columns, side, side, 3).swapaxes(1, 2)
    return sprite.reshape(columns * side, columns * side, 3), side
