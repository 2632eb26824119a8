"""`evaluation.similarity_ranking` against loops over ranks, SciPy and closed forms."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import spearmanr

from keras_contrastive.evaluation import similarity_ranking
from tests.oracles import evaluation as oracle


@pytest.fixture
def pairs():
    """Thirty pairs in 5 dimensions, and a score for each that their cosine tells in part."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(30, 5))
    second = first + rng.normal(size=(30, 5)) * rng.uniform(0.1, 3.0, (30, 1))
    cosines = np.array([oracle.cosine(a, b) for a, b in zip(first, second)])
    return first, second, cosines + 0.3 * rng.normal(size=30)


def cosines_of(first, second):
    return [oracle.cosine(a, b) for a, b in zip(first, second)]


def at_angles(degrees):
    """Pairs of unit rows that stand at these angles."""
    angles = np.deg2rad(np.asarray(degrees, float))
    first = np.tile([1.0, 0.0], (len(angles), 1))
    return first, np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_similarity_ranking_equals_loops_over_ranks(pairs):
    first, second, scores = pairs
    expected = oracle.spearman(cosines_of(first, second), scores.tolist())
    assert 0.2 < expected < 0.95  # neither chance nor trivial
    got = similarity_ranking(first, second, scores)
    assert got == pytest.approx(expected)
    assert type(got) is float


def test_similarity_ranking_gives_equal_scores_their_mean_rank(pairs):
    first, second, scores = pairs
    coarse = np.round(scores * 2)  # a few grades, as people give them
    assert 3 <= len(set(coarse)) <= 8
    cosines = cosines_of(first, second)
    got = similarity_ranking(first, second, coarse)
    assert got == pytest.approx(oracle.spearman(cosines, coarse.tolist()))
    assert got == pytest.approx(spearmanr(cosines, coarse).statistic)


def test_similarity_ranking_gives_equal_pairs_their_mean_rank():
    first = np.eye(4)
    second = np.eye(4)[[0, 1, 3, 2]]  # cosines 1, 1, 0, 0
    got = similarity_ranking(first, second, [4, 3, 2, 1])
    assert got == pytest.approx(oracle.spearman([1, 1, 0, 0], [4, 3, 2, 1]))


def test_similarity_ranking_in_the_order_of_scores_is_1_and_reversed_minus_1():
    first, second = at_angles([5, 20, 60, 90, 130, 175])
    scores = np.array([5.0, 4.0, 3.5, 1.0, 0.5, -7.0])
    assert similarity_ranking(first, second, scores) == pytest.approx(1.0)
    assert similarity_ranking(first, second, -scores) == pytest.approx(-1.0)


def test_similarity_ranking_worked_by_hand():
    # 1 - 6 sum d^2 / (n (n^2 - 1)), d = 0, 1, -1, 0, 0: 1 - 12 / 120.
    first, second = at_angles([150, 120, 90, 60, 30])
    got = similarity_ranking(first, second, [1, 3, 2, 4, 5])
    assert got == pytest.approx(0.9)


def test_similarity_ranking_goes_by_ranks_alone(pairs):
    first, second, scores = pairs
    expected = similarity_ranking(first, second, scores)
    for same in (np.exp(scores), scores * 100 - 3, scores**3):
        assert similarity_ranking(first, second, same) == pytest.approx(expected)


def test_similarity_ranking_ignores_lengths_rotation_order_and_sides(pairs):
    first, second, scores = pairs
    rng = np.random.default_rng(1)
    expected = similarity_ranking(first, second, scores)
    lengths = 2.0 ** rng.integers(-20, 20, (2, 30, 1))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    order = rng.permutation(30)
    for got in (
        similarity_ranking(first * lengths[0], second * lengths[1], scores),
        similarity_ranking(first @ turn, second @ turn, scores),
        similarity_ranking(first[order], second[order], scores[order]),
        similarity_ranking(second, first, scores),
    ):
        assert got == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_similarity_ranking_of_another_dtype_is_that_of_the_same_numbers(pairs, dtype):
    first, second, scores = (part.astype(dtype) for part in pairs)
    expected = oracle.spearman(cosines_of(first, second), scores.tolist())
    got = similarity_ranking(first, second, scores)
    assert got == pytest.approx(expected)


def test_similarity_ranking_of_tensors_and_integer_scores(pairs):
    first, second, scores = pairs
    grades = np.round(scores * 2).astype(np.int32)
    got = similarity_ranking(
        tf.constant(first), tf.constant(second), tf.constant(grades)
    )
    assert got == similarity_ranking(first, second, grades.astype(np.float64))


def test_similarity_ranking_of_pictures_is_that_of_their_flat_rows():
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 256, (2, 20, 3, 3, 2), np.uint8)
    flat = first.reshape(20, 18), second.reshape(20, 18)
    assert similarity_ranking(first, second, range(20)) == pytest.approx(
        oracle.spearman(cosines_of(*flat), list(range(20)))
    )


def test_similarity_ranking_of_constant_scores_is_refused(pairs):
    first, second, _ = pairs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"`scores` must .*Received: "):
            similarity_ranking(first, second, np.full(30, 2.5))


def test_similarity_ranking_of_pairs_that_are_all_alike_is_refused():
    eye = np.eye(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"Received: "):
            similarity_ranking(eye, eye[::-1], range(6))


def test_similarity_ranking_of_equal_sides_is_refused(pairs):
    """All cosines are 1; the last digits that rounding leaves are no ranking."""
    first, _, scores = pairs
    with pytest.raises(ValueError, match=r"Received: "):
        similarity_ranking(first, first, scores)


@pytest.mark.parametrize("change", [np.s_[:-1], np.s_[:, :-1]], ids=["rows", "dim"])
def test_similarity_ranking_of_sides_of_different_shapes_is_refused(pairs, change):
    first, second, scores = pairs
    with pytest.raises(ValueError, match=r"`first`.*`second`.*Received: "):
        similarity_ranking(first, second[change], scores)


@pytest.mark.parametrize("shape", [(29,), (31,), (30, 2), ()], ids=str)
def test_similarity_ranking_of_scores_of_another_shape_is_refused(pairs, shape):
    first, second, _ = pairs
    with pytest.raises(ValueError, match=r"`?scores`? .*Received: "):
        similarity_ranking(first, second, np.arange(np.prod(shape)).reshape(shape))


def test_similarity_ranking_of_numbers_that_are_not_finite_is_refused(pairs):
    first, second, scores = pairs
    broken, broken_scores = second.copy(), scores.copy()
    broken[3, 1], broken_scores[2] = np.inf, np.nan
    with pytest.raises(ValueError, match=r"`second` must be finite"):
        similarity_ranking(first, broken, scores)
    with pytest.raises(ValueError, match=r"`scores` must .*finite"):
        similarity_ranking(first, second, broken_scores)


@pytest.mark.parametrize("n", [0, 1])
def test_similarity_ranking_of_fewer_than_two_pairs_is_refused(n):
    with pytest.raises(ValueError, match=r"Received: "):
        similarity_ranking(np.ones((n, 3)), np.ones((n, 3)), np.ones(n))
