"""Augmentation as the last stage of a `tf.data` pipeline, with the draws that the training step would make.

TensorFlow runs `Dataset.map` on the host, also where there is a GPU. So there the views are drawn on the host, and
copied ahead to the GPU once, as uint8; to have them drawn on the GPU, give the recipe to the model instead.
"""

from __future__ import annotations

import tensorflow as tf

from keras_contrastive._compat import has_gpu
from keras_contrastive.augment.recipe import Recipe, check_recipe, draw_views


def map_dataset(
    dataset: tf.data.Dataset, recipe: Recipe, *, seed: int = 0, step: int | None = 0
) -> tf.data.Dataset:
    """Turn the images of every batch into views.

    For a model built with `augment=None`. The views of a batch are those that a model of this seed would draw
    in the training step of the same number, rounded to uint8: floats do not travel through the pipeline.

    Args:
        dataset: Batches `(images, ...)` or images alone: uint8 `[batch, height, width, channels]`, or
            `[batch, views, ...]`. What stands beside the images is passed on.
        recipe: A `Recipe`.
        seed: Integer, the model's.
        step: Integer: the training step of the first batch; the count goes on over all passes. None: for
            validation: every batch has the fixed draws of `ContrastiveModel.test_step`.

    Returns:
        Dataset of uint8 views `[batch, views, height, width, channels]` (of `Recipes` of several sizes a tuple of
        such, which stands in a tuple of its own) and what stood beside the images; on the first GPU, where there is
        one.

    Raises:
        ValueError: `recipe` is not a `Recipe`; or it ends in `Normalize`, whose values uint8 does not hold.
    """
    check_recipe(recipe)
    if recipe.normalizes:
        raise ValueError(
            "`recipe` must not end in `Normalize` here: views travel as uint8, which does not hold its values. Put "
            "`keras.layers.Normalization(mean=..., variance=...)` into the encoder."
        )
    with tf.device("CPU:0"):
        next_step = tf.Variable(
            -1 if step is None else step, dtype=tf.int64, trainable=False
        )

    def number(*batch):
        return (
            next_step.assign_add(0 if step is None else 1) - (step is not None),
            batch,
        )

    def augment(now, batch):
        images, *rest = batch
        drawn = draw_views(images, None, recipe, seed, now, chunks=True)
        drawn = tf.nest.map_structure(_as_bytes, drawn)
        # A tuple of sizes alone would be taken for images and ids.
        return (drawn, *rest) if rest or isinstance(drawn, tuple) else drawn

    # Numbered one after the other, drawn in parallel.
    drawn = dataset.map(number).map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return copy_ahead(drawn.prefetch(tf.data.AUTOTUNE))


def copy_ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Copy batches to the first GPU before the step that takes them; without a GPU, nothing.

    The last stage of a pipeline: what follows it on the host would copy every batch back.

    Args:
        dataset: Dataset of numbers; batches of uint8 are a quarter of what floats would be to copy.

    Returns:
        Dataset of the same elements.
    """
    gpu = _first_gpu()
    if gpu is None:
        return dataset
    dataset = dataset.apply(tf.data.experimental.copy_to_device(gpu))
    with tf.device(gpu):
        return dataset.prefetch(2)


def _first_gpu() -> str | None:
    return "GPU:0" if has_gpu() else None


def _as_bytes(views):
    return tf.saturate_cast(tf.round(views * 255), tf.uint8)
