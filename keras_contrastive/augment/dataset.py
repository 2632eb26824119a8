"""Augmentation as the last stage of a `tf.data` pipeline, with the draws that the training step would make."""

from __future__ import annotations

import tensorflow as tf

from keras_contrastive.augment.recipe import Recipe, views


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
        Dataset of uint8 views `[batch, views, height, width, channels]` and what stood beside the images.
    """
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
        drawn = views(images, None, recipe, seed, now)
        drawn = tf.nest.map_structure(_as_bytes, drawn)
        return (drawn, *rest) if rest else drawn

    # Numbered one after the other, drawn in parallel.
    numbered = dataset.map(number)
    return numbered.map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(
        tf.data.AUTOTUNE
    )
