"""Whitened features: the same variance in every direction, followed while the encoder trains."""

from __future__ import annotations

import keras
import tensorflow as tf

# Share of the mean variance that is added in every direction, so that those in which nothing varies stay small.
RIDGE = 0.01
# The averages are of about so many calls back.
MEMORY = 200


@keras.saving.register_keras_serializable("keras_contrastive")
class FeatureWhitening(keras.layers.Layer):
    """Centre features and give them one variance in every direction, by averages over the features of late.

    Features share a few large directions, such as bright or dark: the cosine of any two is near 1, and is about these
    directions alone. Whitened, all that the encoder tells apart counts.

    `observe` follows mean and covariance; calling applies the last of them, with no gradient into them. Of the
    whitenings, which differ by a turn, it is the one of Cholesky; cosines and distances do not depend on the turn.
    A `ContrastiveModel(..., whiten=True)` has one, and shows it its images without augmentation.

    Weights are float32 under every policy.

    Input and output: `(batch, dim)`.

    Reference:
        Huang et al., 2018, Decorrelated Batch Normalization, section 3 (there by principal components, in training).
    """

    def __init__(self, **kwargs):
        kwargs.update(dtype="float32", autocast=False)
        super().__init__(**kwargs)

    def build(self, input_shape):
        dim = input_shape[-1]

        def weight(name, shape, initializer="zeros"):
            return self.add_weight(
                name=name, shape=shape, initializer=initializer, trainable=False
            )

        self.count = weight("count", ())
        self.mean = weight("mean", (dim,))
        self.covariance = weight("covariance", (dim, dim))
        self.kernel = weight("kernel", (dim, dim), "identity")
        self.built = True

    def observe(self, features) -> None:
        """Take features `(batch, dim)` into mean and covariance; those that are not finite, or none, change nothing."""
        features = tf.stop_gradient(tf.cast(features, tf.float32))
        finite = tf.reduce_all(tf.math.is_finite(features)) & (tf.size(features) > 0)

        def take():
            self._take(features)
            return True

        tf.cond(finite, take, lambda: False)

    def _take(self, features) -> None:
        count = tf.minimum(tf.convert_to_tensor(self.count) + 1, float(MEMORY))
        new, old = 1 / count, 1 - 1 / count
        mean, covariance = self.mean, self.covariance
        batch_mean = tf.reduce_mean(features, axis=0)
        shift = batch_mean - tf.convert_to_tensor(mean)
        centred = features - batch_mean
        batch_covariance = tf.matmul(centred, centred, transpose_a=True) / tf.cast(
            tf.shape(features)[0], tf.float32
        )
        between = old * tf.tensordot(shift, shift, axes=0)
        moved = old * tf.convert_to_tensor(covariance) + new * (
            batch_covariance + between
        )
        self.count.assign(count)
        mean.assign(tf.convert_to_tensor(mean) + new * shift)
        covariance.assign(moved)
        self.kernel.assign(whitening_of(moved))

    def call(self, features):
        centred = tf.cast(features, tf.float32) - tf.convert_to_tensor(self.mean)
        return tf.matmul(centred, tf.convert_to_tensor(self.kernel))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.pop("autocast", None)
        return config


def served_encoder(model: keras.Model) -> keras.Model:
    """A model's encoder, followed by the whitening where the model has one; an encoder as it is."""
    encoder = getattr(model, "encoder", model)
    whitening = getattr(model, "whitening", None)
    if whitening is None:
        return encoder
    images = keras.Input(encoder.input_shape[1:], name="images")
    return keras.Model(images, whitening(encoder(images)), name=encoder.name)


def whitening_of(covariance) -> tf.Tensor:
    """W `(dim, dim)` such that rows times W have the covariance 1, for rows of this covariance and some noise."""
    dim = covariance.shape[-1]
    noise = RIDGE * tf.linalg.trace(covariance) / dim + 1e-12
    root = tf.linalg.cholesky(covariance + noise * tf.eye(dim))
    return tf.transpose(tf.linalg.triangular_solve(root, tf.eye(dim)))
