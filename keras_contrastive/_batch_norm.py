"""Batch normalisation by TensorFlow's fused kernel, which Keras 3 does not use.

On a CPU the fused kernel makes a convolutional training step about 1.5 times faster.
"""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("keras_contrastive")
class FusedBatchNorm(keras.layers.Layer):
    """Batch normalisation of images `[batch, height, width, channels]`, over all axes but the last.

    As `keras.layers.BatchNormalization` of Keras 3: the moving average of the variance is that of the biased
    variance. Weights are float32 under every policy; the output has the dtype of the input.

    Args:
        momentum: Float in [0, 1): share of the moving averages kept in each training step.
        epsilon: Float > 0, added to the variance.

    Reference:
        Ioffe, Szegedy, 2015, Batch Normalization, Algorithms 1 and 2.
    """

    def __init__(self, *, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        # float32 weights, and inputs as they come: the kernel takes half precision beside float32 weights.
        kwargs.update(dtype="float32", autocast=False)
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon

    def build(self, input_shape):
        def weight(name, initializer, trainable):
            return self.add_weight(
                name=name,
                shape=(input_shape[-1],),
                initializer=initializer,
                trainable=trainable,
            )

        self.gamma = weight("gamma", "ones", True)
        self.beta = weight("beta", "zeros", True)
        self.moving_mean = weight("moving_mean", "zeros", False)
        self.moving_variance = weight("moving_variance", "ones", False)
        self.built = True

    def call(self, inputs, training=False):
        moving_mean = tf.convert_to_tensor(self.moving_mean)
        moving_variance = tf.convert_to_tensor(self.moving_variance)
        use_batch = bool(training) and self.trainable
        empty = tf.zeros(
            [0], tf.float32
        )  # the kernel's moving averages are not used when it trains
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(inputs, self._kernel_dtype(inputs.dtype)),
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=empty if use_batch else moving_mean,
            variance=empty if use_batch else moving_variance,
            epsilon=self.epsilon,
            is_training=use_batch,
        )
        if use_batch:
            self._move_averages(inputs, mean, variance)
        return tf.cast(outputs, inputs.dtype)

    @staticmethod
    def _kernel_dtype(dtype):
        """float16 on a CPU runs in float32: its fused kernel lacks a part there, and TensorFlow complains."""
        on_cpu = not tf.config.get_visible_devices("GPU")
        return tf.float32 if dtype == tf.float16 and on_cpu else dtype

    def _move_averages(self, inputs, mean, variance):
        count = tf.cast(
            tf.size(inputs) // tf.maximum(tf.shape(inputs)[-1], 1), tf.float32
        )
        variance *= (count - 1) / tf.maximum(
            count, 1
        )  # the kernel divides by count - 1
        for moving, batch in (
            (self.moving_mean, mean),
            (self.moving_variance, variance),
        ):
            old = tf.convert_to_tensor(moving)
            new = self.momentum * old + (1 - self.momentum) * batch
            moving.assign(
                tf.where(count > 0, new, old)
            )  # an empty batch has no mean: NaN

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.pop("autocast", None)
        return {**config, "momentum": self.momentum, "epsilon": self.epsilon}
