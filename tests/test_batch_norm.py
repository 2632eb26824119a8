"""The fused batch normalisation, against its definition."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive._batch_norm import FusedBatchNorm


def layer_and_images():
    images = np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 6, 3)).astype(np.float32)
    layer = FusedBatchNorm(momentum=0.8, epsilon=1e-3)
    layer.build((None, 5, 6, 3))
    layer.gamma.assign([1.0, 2.0, 3.0])
    layer.beta.assign([0.0, 1.0, -1.0])
    return layer, images


def test_training_normalizes_by_the_batch_and_moves_the_biased_averages():
    layer, images = layer_and_images()
    exact = images.astype(np.float64)
    mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    expected = (exact - mean) / np.sqrt(variance + 1e-3) * [1, 2, 3] + [0, 1, -1]
    np.testing.assert_allclose(layer(images, training=True), expected, atol=1e-5)
    np.testing.assert_allclose(
        tf.convert_to_tensor(layer.moving_mean), 0.2 * mean, rtol=1e-5
    )
    np.testing.assert_allclose(
        tf.convert_to_tensor(layer.moving_variance), 0.8 + 0.2 * variance, rtol=1e-5
    )


def test_inference_uses_the_moving_averages_and_leaves_them():
    layer, images = layer_and_images()
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    layer.moving_variance.assign([4.0, 9.0, 16.0])
    expected = (images - np.array([1, 2, 3])) / np.sqrt(np.array([4, 9, 16]) + 1e-3)
    expected = expected * [1, 2, 3] + [0, 1, -1]
    np.testing.assert_allclose(layer(images, training=False), expected, atol=1e-5)
    np.testing.assert_array_equal(tf.convert_to_tensor(layer.moving_mean), [1, 2, 3])


def test_frozen_layer_uses_the_moving_averages_in_training_too():
    layer, images = layer_and_images()
    layer.trainable = False
    np.testing.assert_array_equal(
        layer(images, training=True), layer(images, training=False)
    )


def test_gradient_equals_finite_differences():
    layer, images = layer_and_images()
    images = images[:1, :2, :2]
    target = np.random.default_rng(1).normal(size=images.shape)

    def loss(x):
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        outputs = (x - mean) / np.sqrt(variance + 1e-3) * [1, 2, 3] + [0, 1, -1]
        return np.sum(outputs * target)

    expected = np.zeros(images.shape)
    for place in np.ndindex(images.shape):
        step = np.zeros(images.shape)
        step[place] = 1e-5
        expected[place] = (loss(images + step) - loss(images - step)) / 2e-5
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(layer(x, training=True) * tf.cast(target, tf.float32))
    np.testing.assert_allclose(tape.gradient(value, x), expected, atol=2e-4)


def test_empty_batch_leaves_the_moving_averages():
    layer, images = layer_and_images()
    layer(images[:0], training=True)
    np.testing.assert_array_equal(tf.convert_to_tensor(layer.moving_mean), [0, 0, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_inputs_keep_their_dtype_and_the_weights_float32(dtype):
    keras.mixed_precision.set_global_policy(f"mixed_{dtype}")
    layer, images = layer_and_images()
    outputs = layer(tf.cast(images, dtype), training=True)
    assert outputs.dtype == dtype
    assert layer.gamma.dtype == "float32"
    keras.mixed_precision.set_global_policy("float32")
    layer, images = layer_and_images()
    # A half keeps 3 digits, a bfloat16 2, of values up to about 10.
    tolerance = 0.02 if dtype == "float16" else 0.15
    np.testing.assert_allclose(
        tf.cast(outputs, tf.float32), layer(images, training=True), atol=tolerance
    )


def test_config_round_trip_keeps_the_arguments():
    layer = FusedBatchNorm.from_config(
        FusedBatchNorm(momentum=0.7, epsilon=1e-4).get_config()
    )
    assert (layer.momentum, layer.epsilon) == (0.7, 1e-4)
