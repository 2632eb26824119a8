"""Norms at the edges, and exact top-k."""

import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive._numerics import most_similar, normalize_rows, safe_sqrt


@pytest.mark.parametrize("scale", [1e-15, 1e-7, 1.0, 1e15])
def test_normalized_rows_have_unit_length_whatever_their_scale(scale):
    rows = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(
        normalize_rows(rows * np.float32(scale)), expected, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_row_of_zeros_stays_zero_with_a_zero_gradient(dtype):
    rows = tf.cast([[0.0, 0.0], [3.0, 4.0]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        unit = normalize_rows(rows)
        total = tf.reduce_sum(unit[:, 0])
    np.testing.assert_allclose(unit, [[0, 0], [0.6, 0.8]], atol=1e-6)
    # d(x / |x|) / dx at (3, 4): (1 / 5)(1 - 9 / 25), -(1 / 5)(12 / 25); a half keeps three digits.
    gradient = tf.cast(tape.gradient(total, rows), tf.float64)
    np.testing.assert_allclose(gradient, [[0, 0], [0.128, -0.096]], atol=1e-3)


def test_large_float16_rows_do_not_overflow():
    rows = tf.constant(np.full((1, 100), 300), tf.float16)
    np.testing.assert_allclose(normalize_rows(rows), np.full((1, 100), 0.1), atol=1e-6)


def test_safe_sqrt_has_no_gradient_at_zero():
    x = tf.constant([0.0, 4.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        root = safe_sqrt(x)
    np.testing.assert_allclose(root, [1e-6, 2.0])
    np.testing.assert_allclose(tape.gradient(root, x), [0.0, 0.25])


@pytest.mark.parametrize("block", [1, 4, 100])
def test_most_similar_equals_a_full_sort(block):
    rng = np.random.default_rng(0)
    queries, rows = rng.normal(size=(9, 5)), rng.normal(size=(30, 5))
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (queries, rows)]
    similarity = unit[0] @ unit[1].T
    expected = np.argsort(-similarity, axis=1)[:, :3]
    values, indices = most_similar(queries, rows, 3, block=block)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(
        values, np.take_along_axis(similarity, expected, 1), atol=1e-6
    )
