"""Has the representation collapsed? A warning in the epoch in which it does, instead of a useless run."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_integer
from keras_contrastive._compat import draws_without_state, sublayers
from keras_contrastive.callbacks._features import single_images
from keras_contrastive.evaluation import embedding_std

# With fewer images the rank says more about their number than about the model.
_FEWEST = 32
_REMEDIES = (
    "Try: a target without gradient and a predictor (SimSiam, BYOL), a slower momentum target, more weight on "
    "variance or redundancy, softer mining of negatives, a larger batch, a lower learning rate or another temperature"
)


class CollapseWatch(keras.callbacks.Callback):
    """Warn, or stop, where the representation collapses: all images to one point, or into a few directions.

    Judged at the end of an epoch, by the encoder's features and, of a `ContrastiveModel` with a head, by projections,
    on images without augmentation. What is logged of them, as `feature_...` and `projection_...`:

    - `std`: `evaluation.embedding_std`, 0 where all rows have one direction. Collapsed below `min_std`.
    - `rank`: how many directions the variance falls on, exp of the entropy of the shares of variance of the principal
      components; from 1 to min(n - 1, dim). Centred, so that a part common to all rows does not count, as behind a
      ReLU. Collapsed below `min_share` of what it was before training.
    - `rank_in_batch`, where there is batch normalisation: the same with the statistics of the batch, as the loss sees
      the rows. Collapsed below `min_rank` (without batch normalisation `rank` is). Behind a head that ends in batch
      normalisation the std stays high in a collapse: this tells. (The other two are of the model as it predicts, by
      running averages, which in the first epochs of a short run are far behind.)

    Few directions alone are no collapse: a method may begin with few. They are where the views of an image are much alike
    already, the epoch's `positive_similarity`, which a `ContrastiveModel` logs, being above `agreement`, and where the
    rank has not risen since it was judged last.

    The defaults lie between runs of the methods in `recipes.RECIPES` with their small settings and runs whose guard was
    taken away, which the README lists (`scripts/benchmarks/collapse.py`). SimSiam without its stopped gradient or without
    its predictor was found by the second epoch, whether it has 20 steps or 78. The margin to BYOL is thin, which in
    photographs begins with about two directions and then gains some.
    Where the learning rate rises slowly, or epochs have few steps, it takes longer.

    Not found, since directions are not what they lose first: VICReg without variance (its rows shrink while their
    covariance is kept down), DINO without centring or without sharpening, BYOL without its predictor.

    A method that is trained by labels has about as many directions as classes, less one: with two to four classes
    lower `min_rank` and `min_share`. Of a model that goes on from a checkpoint, what it had then takes the place of
    the untrained.

    No weight is changed and no random number of the training's drawn: what a pass with the statistics of the batch moves is
    put back. (On Keras 2.15 Dropout's draws cannot be: with it there is no `rank_in_batch`.)

    Args:
        images: Array `(n, ...)`, images as the model takes them, 32 or more, better some hundreds of many kinds; of a
            batch of views the first ones are taken.
        stop: Stop the training as well (`model.stop_training`) at the end of that epoch.
        min_rank: Float >= 0.
        min_share: Float >= 0.
        min_std: Float >= 0.
        agreement: Float >= -1, a cosine: up to this `positive_similarity` the ranks are not judged.
        every: Integer >= 1: judge after every so many epochs.
        batch_size: Integer >= 1: how many images are embedded at once.

    Attributes:
        reason: What was found, as in the warning, or None. The first finding stays, and warns once.
        current: What was found the last time, or None: whether a finding still holds.
        untrained: The measures before training, by name; None before a `fit`.

    Raises:
        ValueError: An option is out of its range, or there are too few images.

    Reference:
        Jing et al., 2022, Understanding Dimensional Collapse in Contrastive Self-supervised Learning, Sec. 3; the rank:
        Roy, Vetterli, 2007, The Effective Rank, Sec. 2, here of the covariance.

    Example:
        >>> watch = CollapseWatch(test_images[:500], stop=True)
        >>> model.fit(dataset, epochs=100, callbacks=[watch])
        >>> watch.reason  # None: nothing was found
    """

    def __init__(
        self,
        images,
        *,
        stop: bool = False,
        min_rank: float = 2.4,
        min_share: float = 0.2,
        min_std: float = 0.03,
        agreement: float = 0.65,
        every: int = 1,
        batch_size: int = 256,
    ):
        super().__init__()
        check_integer(1, every=every, batch_size=batch_size)
        check_at_least(0, min_rank=min_rank, min_share=min_share, min_std=min_std)
        check_at_least(-1, agreement=agreement)
        self.images = np.asarray(images)
        if self.images.ndim < 2 or len(self.images) < _FEWEST:
            raise ValueError(
                f"`images` must hold at least {_FEWEST} images, of shape (n, ...). "
                f"Received: images.shape={self.images.shape}."
            )
        self.stop = stop
        self.min_rank, self.min_share, self.min_std = min_rank, min_share, min_std
        self.agreement = agreement
        self.every, self.batch_size = every, batch_size
        self.reason = self.current = None
        self._watched = None

    def set_model(self, model):
        super().set_model(model)
        if model is self._watched:  # a further `fit` of the same model
            return
        self._watched, self.untrained, self._last = model, None, None
        self.reason = self.current = None
        encoder, head = getattr(model, "encoder", model), getattr(model, "head", None)
        parts = [part for part in (encoder, head) if part is not None]
        self._names = ["feature", "projection"][: len(parts)]
        images = single_images(model, self.images)
        # In parts of about one size: a rest of a few images would have statistics of its own.
        self._batches = np.array_split(images, -(-len(images) // self.batch_size))
        self._embed = _embedder(model, parts, images, training=False)
        self._embed_in_batch = None
        if _normalizes_by_batch(parts):
            self._embed_in_batch = _embedder(model, parts, images, training=True)

    def on_train_begin(self, logs=None):
        if self.untrained is None:
            self.untrained = self._last = self.measure()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        measures = self.measure()
        similarity = (logs or {}).get("positive_similarity", 1.0)
        if logs is not None:
            logs.update(measures)
        found = self.judge(measures, self._last, positive_similarity=similarity)
        self._last = measures
        self.current = found
        if found is None:
            return
        if self.reason is None:
            self.reason = f"epoch {epoch + 1}: {found}"
            warnings.warn(
                f"The representation has collapsed in {self.reason}. {_REMEDIES}.",
                stacklevel=2,
            )
        if self.stop:
            self.model.stop_training = True

    def measure(self) -> dict[str, float]:
        """The measures now, by name; nan where rows are not finite. Needs a model: within `fit`, or after `set_model`."""
        measures = {}
        for name, rows in self._rows(self._embed).items():
            finite = bool(np.isfinite(rows).all())
            measures[f"{name}_std"] = embedding_std(rows) if finite else float("nan")
            measures[f"{name}_rank"] = _variance_rank(rows)
        if self._embed_in_batch is not None:
            for name, rows in self._rows(self._embed_in_batch).items():
                measures[f"{name}_rank_in_batch"] = _variance_rank(rows)
        return measures

    def _rows(self, embed) -> dict[str, np.ndarray]:
        """The features, and the projections where there are some, of all images: float32 `(n, dim)`."""
        found = [embed(batch) for batch in self._batches]
        rows = (np.concatenate(parts) for parts in zip(*found))
        return {
            name: each.reshape(len(each), -1).astype(np.float32)
            for name, each in zip(self._names, rows)
        }

    def judge(
        self,
        measures: dict[str, float],
        last: dict[str, float],
        *,
        positive_similarity: float = 1.0,
    ) -> str | None:
        """What is wrong with measures, compared with the last ones and those `untrained`; None where nothing is."""
        agree = positive_similarity > self.agreement
        for key, value in measures.items():
            if not np.isfinite(value):
                return f"{key} is {value}, as the numbers are not finite"
        for name in (n for n in ("feature", "projection") if f"{n}_std" in measures):
            std, rank = f"{name}_std", f"{name}_rank"
            in_batch = f"{rank}_in_batch" if f"{rank}_in_batch" in measures else rank
            before = self.untrained[rank]
            if measures[std] < self.min_std:
                return f"{std} is {measures[std]:.3f}, below min_std={self.min_std:g}: all images are near one point"
            has_risen = measures[in_batch] > last[in_batch]
            if agree and not has_risen and measures[in_batch] < self.min_rank:
                return (
                    f"{in_batch} is {measures[in_batch]:.3f}, below min_rank={self.min_rank:g}: hardly any directions "
                    "are left"
                )
            if agree and measures[rank] < self.min_share * before:
                return (
                    f"{rank} is {measures[rank]:.2f}, below min_share={self.min_share:g} of the {before:.2f} before "
                    "training: few directions are left"
                )
        return None


def _embedder(model, parts, images, *, training: bool):
    """A function from a batch of images to its features, and its projections where there is a head."""
    scales = hasattr(model, "encoder")  # a model that takes uint8 as well

    @tf.function(
        input_signature=[tf.TensorSpec((None, *images.shape[1:]), images.dtype)]
    )
    def embed(batch):
        if scales and batch.dtype == tf.uint8:
            batch = tf.cast(batch, tf.float32) / 255
        moving = [each for part in parts for each in part.non_trainable_variables]
        before = [tf.identity(tf.convert_to_tensor(each)) for each in moving]
        rows = [batch]
        for part in parts:
            rows.append(part(rows[-1], training=training))
        if training:
            for variable, value in zip(moving, before):
                variable.assign(value)
        return [tf.cast(each, tf.float32) for each in rows[1:]]

    return lambda batch: [rows.numpy() for rows in embed(batch)]


def _normalizes_by_batch(parts) -> bool:
    """Whether a layer has running averages, and a pass with the statistics of a batch leaves no trace."""
    layers = [layer for part in parts for layer in sublayers(part)]
    return any(hasattr(layer, "moving_mean") for layer in layers) and not any(
        draws_without_state(part) for part in parts
    )


def _variance_rank(rows: np.ndarray) -> float:
    """exp of the entropy of the principal components' shares of the variance; 0 where all rows are the same."""
    if not np.isfinite(rows).all():
        return float("nan")
    rows = rows.astype(np.float64)
    rows -= rows.mean(axis=0)
    few = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    variances = np.maximum(np.linalg.eigvalsh(few), 0)  # times n; rounding goes below 0
    shares = variances[variances > 0] / max(variances.sum(), np.finfo(float).tiny)
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0
