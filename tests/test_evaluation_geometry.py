"""`evaluation.alignment`, `uniformity`, `effective_rank`, `embedding_std` and `geometry` against loops, SciPy and closed forms."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.linalg import svdvals
from scipy.spatial.distance import pdist
from scipy.special import ive, logsumexp
from scipy.stats import entropy

from keras_contrastive import ContrastiveLossLayer
from keras_contrastive.evaluation import (
    alignment,
    effective_rank,
    embedding_std,
    geometry,
    uniformity,
)
from keras_contrastive.losses import NTXentLoss
from tests.oracles import evaluation as oracle

# Rows are float32: a squared distance is good to about 1e-6, and t scales that.
CLOSE = 1e-5


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(40, 6)) + 0.5


@pytest.fixture
def views(rows):
    return rows, rows + 0.5 * np.random.default_rng(1).normal(size=(40, 6))


def rotation(dim):
    return np.linalg.qr(np.random.default_rng(2).normal(size=(dim, dim)))[0]


# Alignment


@pytest.mark.parametrize("alpha", [0.5, 1, 2.0, 3.0])
def test_alignment_equals_loops(views, alpha):
    expected = oracle.alignment(*views, alpha=alpha)
    assert alignment(*views, alpha=alpha) == pytest.approx(expected, abs=CLOSE)
    assert alignment(*views[::-1], alpha=alpha) == pytest.approx(expected, abs=CLOSE)


def test_alignment_takes_the_square_unless_told(views):
    assert alignment(*views) == alignment(*views, alpha=2.0)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alignment_of_equal_orthogonal_and_opposite_rows(rows, alpha):
    # Of equal rows sqrt(rounding) may be left for alpha = 1: sqrt(1e-7) = 3e-4.
    assert alignment(rows, 3.0 * rows, alpha=alpha) == pytest.approx(0.0, abs=1e-3)
    assert alignment(rows, -rows, alpha=alpha) == pytest.approx(2.0**alpha, abs=CLOSE)
    eye = np.eye(4)
    assert alignment(eye, eye[::-1], alpha=alpha) == pytest.approx(
        math.sqrt(2.0) ** alpha, abs=CLOSE
    )


def test_alignment_compares_rows_of_one_place(rows):
    order = np.random.default_rng(3).permutation(40)
    other = rows[::-1]
    assert alignment(rows[order], other[order]) == pytest.approx(alignment(rows, other))
    assert alignment(rows, rows[order]) > 0.1


# Uniformity


@pytest.mark.parametrize("t", [0.5, 2.0, 5])
def test_uniformity_equals_loops_over_pairs(rows, t):
    expected = oracle.uniformity(rows, t=t)
    assert uniformity(rows, t=t) == pytest.approx(expected, abs=CLOSE)


def test_uniformity_takes_2_unless_told(rows):
    assert uniformity(rows) == uniformity(rows, t=2.0)


def test_uniformity_equals_scipy_across_blocks():
    rows = np.random.default_rng(4).normal(size=(2500, 3))  # the last block is shorter
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    squared = pdist(unit, "sqeuclidean")
    expected = logsumexp(-2.0 * squared) - math.log(len(squared))
    assert uniformity(rows) == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_uniformity_of_opposite_equal_and_orthogonal_rows(t):
    assert uniformity([[3.0, 4.0], [-6.0, -8.0]], t=t) == pytest.approx(
        -4 * t, abs=CLOSE
    )
    assert uniformity(np.ones((30, 5)), t=t) == pytest.approx(0.0, abs=CLOSE)
    assert uniformity(np.eye(30), t=t) == pytest.approx(-2 * t, abs=CLOSE)


@pytest.mark.parametrize("n", [16, 3000])
def test_uniformity_of_a_regular_polygon_is_a_bessel_function(n):
    # ||x - y||^2 = 2 - 2 cos(angle), so the mean of exp(-2 ||x - y||^2) over all n others and itself is
    # exp(-4) I0(4), but for terms of I_n(4) < 1e-8. `ive(0, 4)` is exp(-4) I0(4).
    angles = 2 * np.pi * np.arange(n) / n
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    expected = math.log((n * ive(0, 4.0) - 1) / (n - 1))
    assert uniformity(rows, t=2.0) == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("t", [100.0, 1000.0])
def test_uniformity_of_large_t_is_finite(t):
    # exp(-2000) is 0 in any float; the logarithm of the mean is still known.
    assert uniformity(np.eye(8), t=t) == pytest.approx(-2 * t, rel=CLOSE)


def test_uniformity_ignores_the_order_of_rows(rows):
    order = np.random.default_rng(5).permutation(40)
    assert uniformity(rows[order]) == pytest.approx(uniformity(rows), abs=CLOSE)


def test_uniformity_of_one_row_is_refused():
    with pytest.raises(ValueError, match=r"two rows|2 rows"):
        uniformity([[1.0, 2.0]])


# Effective rank


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (20, 20)], ids=str)
def test_effective_rank_equals_scipy(shape):
    rows = np.random.default_rng(6).normal(size=shape) * 0.7 ** np.arange(shape[1])
    values = svdvals(rows)
    expected = math.exp(entropy(values / values.sum()))
    assert 1.5 < expected < 0.9 * min(shape)
    # RankMe adds 1e-7 to each share: a change of about 1e-7 log(1e-7) for each of 20.
    assert effective_rank(rows) == pytest.approx(expected, rel=1e-4)
    assert effective_rank(rows) == pytest.approx(oracle.effective_rank(rows), rel=1e-4)


@pytest.mark.parametrize("n", [1, 2, 17, 100])
def test_effective_rank_of_orthonormal_rows_is_their_number(n):
    assert effective_rank(rotation(100)[:n]) == pytest.approx(n, rel=1e-4)


def test_effective_rank_of_equal_rows_is_1():
    row = np.random.default_rng(7).normal(size=50)
    # Centred, nothing would be left of them.
    assert effective_rank(np.tile(row, (200, 1))) == pytest.approx(1.0, abs=1e-3)


def test_effective_rank_takes_rows_as_they_come():
    # Singular values 3 and 1: shares 3/4 and 1/4. Normalised rows would give 2.
    expected = math.exp(entropy([0.75, 0.25]))
    assert effective_rank([[3.0, 0.0], [0.0, 1.0]]) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_weighs_singular_values_not_their_squares():
    # RankMe's p are singular values over their sum; squares would give the entropy of 16/17 and 1/17.
    rows = np.diag([4.0, 1.0, 0.0])
    expected = math.exp(entropy([0.8, 0.2]))
    assert effective_rank(rows) == pytest.approx(expected, rel=1e-5)


def test_effective_rank_ignores_rotation_order_and_scale(rows):
    expected = effective_rank(rows)
    order = np.random.default_rng(8).permutation(40)
    for same in (rows @ rotation(6), rows[order], 1e-6 * rows, 1e6 * rows):
        assert effective_rank(same) == pytest.approx(expected, rel=1e-4)


def test_effective_rank_of_repeated_rows_is_that_of_one_copy(rows):
    # All singular values grow by sqrt(50): more rows than columns, beyond any block.
    assert effective_rank(np.tile(rows, (50, 1))) == pytest.approx(
        effective_rank(rows), rel=1e-4
    )


def test_effective_rank_of_zero_rows_is_no_nan():
    assert effective_rank(np.zeros((5, 3))) in (0.0, 1.0)


# Spread


def test_embedding_std_equals_loops(rows):
    assert embedding_std(rows) == pytest.approx(oracle.embedding_std(rows), abs=CLOSE)


def test_embedding_std_is_the_metric_of_the_loss_layer(rows):
    layer = ContrastiveLossLayer(NTXentLoss(temperature=0.5))
    views = tf.constant(rows.reshape(20, 2, 6), tf.float32)
    layer(views, tf.range(20, dtype=tf.int64))
    metric = {m.name: float(m.result()) for m in layer.metrics}["embedding_std"]
    assert embedding_std(rows) == pytest.approx(metric, abs=CLOSE)


def test_embedding_std_of_equal_and_of_orthonormal_rows():
    assert embedding_std(np.ones((9, 4))) == pytest.approx(0.0, abs=CLOSE)
    # Each column is 1 once and 0 else: variance 1/n - 1/n^2, times dim = n.
    assert embedding_std(np.eye(10)) == pytest.approx(math.sqrt(0.9), abs=CLOSE)


def test_embedding_std_of_the_whole_sphere_is_about_1():
    rows = np.random.default_rng(9).normal(size=(4000, 16))
    # Each of 16 deviations is known to 1 / sqrt(2 n) = 1 %, their mean to 0.3 %.
    assert embedding_std(rows) == pytest.approx(1.0, abs=0.015)


# All of them


@pytest.mark.parametrize("measure", [uniformity, embedding_std])
def test_measure_ignores_lengths_of_rows(rows, measure):
    lengths = 2.0 ** np.random.default_rng(10).integers(-20, 20, (40, 1))
    assert measure(rows * lengths) == pytest.approx(measure(rows), abs=1e-6)


def test_alignment_ignores_lengths_and_rotation(views):
    first, second = views
    lengths = 2.0 ** np.random.default_rng(11).integers(-20, 20, (2, 40, 1))
    expected = alignment(first, second)
    assert alignment(first * lengths[0], second * lengths[1]) == pytest.approx(
        expected, abs=1e-6
    )
    turned = alignment(first @ rotation(6), second @ rotation(6))
    assert turned == pytest.approx(expected, abs=CLOSE)


def test_geometry_is_the_four_measures(rows, views):
    got = geometry(rows, views)
    assert got.alignment == pytest.approx(alignment(*views))
    assert got.uniformity == pytest.approx(uniformity(rows))
    assert got.effective_rank == pytest.approx(effective_rank(rows))
    assert got.embedding_std == pytest.approx(embedding_std(rows))
    assert {type(value) for value in got} == {float}
    assert len(got) == 4


def test_geometry_without_views_has_no_alignment(rows, views):
    got = geometry(rows)
    assert got.alignment is None
    assert got[1:] == geometry(rows, views)[1:]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_geometry_of_another_dtype_is_that_of_the_same_numbers(rows, dtype):
    narrow = rows.astype(dtype)
    wide = narrow.astype(np.float64)
    got, expected = (
        geometry(narrow, (narrow, narrow[::-1])),
        geometry(wide, (wide, wide[::-1])),
    )
    assert got == pytest.approx(expected)
    assert got.uniformity == pytest.approx(oracle.uniformity(wide, t=2.0), abs=CLOSE)


def test_geometry_of_tensors_and_pictures_is_that_of_their_flat_rows():
    images = np.random.default_rng(12).integers(0, 256, (20, 3, 3, 2), np.uint8)
    flat = images.reshape(20, 18).astype(np.float64)
    got = geometry(tf.constant(images), (images, images[::-1]))
    assert got == pytest.approx(geometry(flat, (flat, flat[::-1])))


MEASURES = {
    "alignment": lambda rows: alignment(rows, rows),
    "uniformity": uniformity,
    "effective_rank": effective_rank,
    "embedding_std": embedding_std,
    "geometry": geometry,
}
EACH = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@EACH
def test_measure_of_numbers_that_are_not_finite_is_refused(measure, rows):
    rows[3, 2], rows[7, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"must be finite. Received: 2 of 40 rows"):
        measure(rows)


@EACH
@pytest.mark.parametrize("shape", [(0, 6), (40, 0), (40,)], ids=str)
def test_measure_of_no_rows_is_refused(measure, shape):
    with pytest.raises(ValueError, match=r"at least (one|two) row.*Received: "):
        measure(np.ones(shape))


@pytest.mark.parametrize("change", [np.s_[:-1], np.s_[:, :-1]], ids=["rows", "dim"])
def test_alignment_of_views_of_different_shapes_is_refused(views, change):
    first, second = views
    with pytest.raises(ValueError, match=r"`first`.*`second`.*Received: "):
        alignment(first, second[change])
    with pytest.raises(ValueError, match=r"Received: "):
        geometry(first, (first, second[change]))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, "2"])
def test_alpha_and_t_out_of_range_are_refused(rows, value):
    with pytest.raises(ValueError, match="`alpha` must be a finite number > 0"):
        alignment(rows, rows, alpha=value)
    with pytest.raises(ValueError, match="`t` must be a finite number > 0"):
        uniformity(rows, t=value)


def test_geometry_is_exact_under_mixed_precision(rows):
    keras.mixed_precision.set_global_policy("mixed_float16")
    assert geometry(rows).uniformity == pytest.approx(
        oracle.uniformity(rows, t=2.0), abs=CLOSE
    )
