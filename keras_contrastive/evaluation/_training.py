"""What trains a classifier: its linear layer, its steps, and the images that each step takes."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import shape_text
from keras_contrastive._compat import scale_loss, unscale_gradients
from keras_contrastive._random import make_key


class Head:
    """A linear layer on standardised features. It begins at 0, which draws no random number.

    Args:
        dim: Integer >= 1, the width of the features.
        num_classes: Integer >= 2.
        mean: Float32 `(dim,)` or scalar, taken off the features.
        spread: Float32 `(dim,)` or scalar, by which they are then divided.
    """

    def __init__(self, dim: int, num_classes: int, mean=0.0, spread=1.0):
        self.mean, self.spread = mean, spread
        self.dense = keras.layers.Dense(
            num_classes, kernel_initializer="zeros", dtype="float32", name="probe"
        )
        self.dense.build((None, dim))
        self.variables = self.dense.trainable_variables

    def __call__(self, features) -> tf.Tensor:
        """Logits, float32 `(n, num_classes)`."""
        features = tf.cast(features, tf.float32)
        return self.dense((features - self.mean) / self.spread)


def standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature, float32 `(dim,)`; the deviation of a constant one is 1."""
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    # What rounding leaves of a constant is no deviation.
    spread = np.where(spread > 1e-6 * np.abs(mean), spread, 1.0)
    return mean.astype(np.float32), spread.astype(np.float32)


def concrete(function, *specs):
    """A function, traced for tensors like these.

    TensorFlow warns of frequent retracing where new `tf.function`s take the place of those before in memory. Of
    one that is traced at once it does not.
    """
    return tf.function(function).get_concrete_function(*specs)


def traced(function, images: np.ndarray):
    """A function of a batch, `concrete` for batches of such images, of any length."""
    return concrete(function, tf.TensorSpec((None, *images.shape[1:]), images.dtype))


def in_blocks(function, images: np.ndarray, size: int) -> np.ndarray:
    """What a function of a batch gives for all images, `size` of them at a time."""
    starts = range(0, len(images), size)
    blocks = (tf.convert_to_tensor(images[at : at + size]) for at in starts)
    return np.concatenate([function(block).numpy() for block in blocks])


def update_step(logits_of, variables: list, optimizer, *, losses=list):
    """A step of training by softmax cross-entropy, as a `tf.function`.

    Args:
        logits_of: Function from images (or features) to logits.
        variables: What is trained.
        optimizer: A new Keras optimizer.
        losses: Function to further losses, asked after `logits_of`.

    Returns:
        Function of images and codes, int64 `(n,)`, to be traced once for batches of one size.
    """
    optimizer.build(variables)

    def update(images, codes):
        with tf.GradientTape() as tape:
            cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels=codes, logits=logits_of(images)
            )
            added = [tf.cast(loss, tf.float32) for loss in losses()]
            loss = tf.add_n([tf.reduce_mean(cross_entropy), *added])
            loss = scale_loss(optimizer, loss)
        gradients = unscale_gradients(optimizer, tape.gradient(loss, variables))
        # What the logits do not depend on, as the head of a `ContrastiveModel`, has none.
        pairs = [pair for pair in zip(gradients, variables) if pair[0] is not None]
        optimizer.apply_gradients(pairs)

    return tf.function(update)


class Plan:
    """Which images each step takes: whole batches of an order that each epoch draws anew.

    Args:
        n: Integer >= 1, how many images there are.
        epochs: Integer >= 1.
        batch_size: Integer >= 1; at most n is used.
        seed: Integer >= 0, or a list of them.
    """

    def __init__(self, n: int, epochs: int, batch_size: int, seed):
        self.n, self.epochs, self.seed = n, epochs, seed
        self.batch_size = min(batch_size, n)

    def cosine(self, learning_rate: float):
        """A learning rate that falls to 0 at the last step."""
        steps = self.epochs * (self.n // self.batch_size)
        return keras.optimizers.schedules.CosineDecay(float(learning_rate), steps)

    def batches(self):
        """The rows of each step, int64 `(batch_size,)`."""
        rng = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            order = rng.permutation(self.n)
            for end in range(self.batch_size, self.n + 1, self.batch_size):
                yield order[end - self.batch_size : end]

    def train(self, update, images, codes, draw=None) -> None:
        """Take all steps, on images (or features) as floats, drawn by `draw(images, key)` unless that is None."""
        for step, rows in enumerate(self.batches()):
            batch = unit_images(tf.convert_to_tensor(images[rows]))
            if draw is not None:
                batch = draw(batch, make_key(self.seed, step))
            batch = batch, tf.convert_to_tensor(codes[rows])
            # The same one at each step; see `concrete`.
            update.get_concrete_function(*batch)(*batch)


def unit_images(images: tf.Tensor) -> tf.Tensor:
    """uint8 images as float32 in 0..1, floats as they come."""
    scaled = tf.cast(images, tf.float32)
    return scaled / 255 if images.dtype == tf.uint8 else scaled


def compiled_augment(augment, shape: tuple):
    """`augment` as a compiled function of float32 batches of `shape` and a key; None of None.

    Raises:
        ValueError: It is no function, or does not give one view of each image.
    """
    if augment is None:
        return None
    if not callable(augment):
        raise ValueError(
            "`augment` must be an `augment.Recipe`, a function of images and a key, or None. "
            f"Received: augment={augment!r}."
        )
    if getattr(augment, "normalizes", False):
        raise ValueError(
            "`augment` must not end in `Normalize`: the encoder is tested on images that are not normalised. "
            f"Received: augment={augment!r}."
        )
    specs = [tf.TensorSpec(shape, tf.float32), tf.TensorSpec((2,), tf.int64)]
    draw = concrete(lambda images, key: augment(images, key), *specs)
    drawn = tf.nest.flatten(draw.structured_outputs)
    one_each = tf.TensorShape([shape[0], *[None] * (len(shape) - 1)])
    if len(drawn) != 1 or not one_each.is_compatible_with(drawn[0].shape):
        raise ValueError(
            f"`augment` must give one view of each image: {shape[0]} images of rank {len(shape)}. Received: "
            f"{' and '.join(shape_text(each.shape) for each in drawn)}. Of `augment.Recipes` give one, such as "
            "`recipes.recipes[0]`."
        )
    return draw
