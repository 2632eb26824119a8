"""`evaluation.linear_probe` against gradient descent in loops, scikit-learn and what must not change it."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from keras_contrastive.evaluation import linear_probe
from tests.oracles import evaluation as oracle

ONE = {"strengths": (0.1,)}  # nothing to choose: no cross-validation


@pytest.fixture
def blobs():
    """Three overlapping classes in 6 dimensions of different scale and place: 90 training rows, 60 test rows."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 6))
    labels = rng.integers(0, 3, 150)
    rows = centres[labels] + rng.normal(size=(150, 6))
    rows = rows * [1.0, 10.0, 0.01, 1.0, 100.0, 1.0] + [0.0, 5.0, 0.0, -3.0, 0.0, 1.0]
    return rows[:90], labels[:90], rows[90:], labels[90:]


@contextlib.contextmanager
def no_warnings():
    """Warnings as errors, but for what scikit-learn hears from SciPy, which Python does not show."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def reference(strength, **options):
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, max_iter=5000, **options)
    )


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_linear_probe_equals_gradient_descent_to_the_end(blobs, strength):
    train, labels, test, test_labels = blobs
    scores = oracle.logistic_scores(train, labels, test, strength=strength, steps=4000)
    best, second = np.sort(scores, axis=1)[:, -1], np.sort(scores, axis=1)[:, -2]
    # lbfgs stops at a gradient of 1e-4; where two classes are as near as that, either is right.
    assert (best - second).min() > 1e-3
    got = linear_probe(*blobs, strengths=(strength,))
    np.testing.assert_array_equal(got.predictions, scores.argmax(axis=1))
    assert got.strength == strength
    assert 0.5 < got.accuracy < 1.0
    assert got.accuracy == pytest.approx(np.mean(got.predictions == test_labels))


def test_linear_probe_equals_scikit_learn_at_the_strength_it_chose(blobs):
    train, labels, test, _ = blobs
    got = linear_probe(*blobs)
    expected = reference(got.strength, tol=1e-8).fit(train, labels).predict(test)
    np.testing.assert_array_equal(got.predictions, expected)


def test_linear_probe_gives_plain_numbers_and_one_prediction_a_row(blobs):
    got = linear_probe(*blobs, **ONE)
    assert type(got.accuracy) is type(got.strength) is float
    assert got.predictions.shape == (60,)
    assert set(got.predictions) <= {0, 1, 2}


# The choice of the strength


def test_linear_probe_chooses_a_strong_penalty_where_a_weak_one_learns_noise():
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 2  # a little of the class in each of 96 columns
    rows = rng.normal(size=(120, 96)) + 0.3 * (labels - 0.5)[:, None]
    strong, weak = (
        cross_val_score(reference(c), rows, labels, cv=StratifiedKFold(5)).mean()
        for c in (1e-3, 1e4)
    )
    assert (
        strong > weak + 0.04
    )  # though on rows it was fitted to, the weak is always right
    got = linear_probe(rows, labels, rows, labels, strengths=(1e-3, 1e4))
    assert got.strength == 1e-3


def test_linear_probe_chooses_a_weak_penalty_where_a_strong_one_learns_nothing():
    labels = (np.arange(100) % 5 == 0).astype(int)
    rows = np.random.default_rng(2).normal(size=(100, 2)) + 5.0 * labels[:, None]
    # 1e-6 leaves the larger class alone: 80 % right, against all but all.
    for strengths in ((1e-6, 1.0), (1.0, 1e-6)):
        got = linear_probe(rows, labels, rows, labels, strengths=strengths)
        assert got.strength == 1.0
        assert got.accuracy > 0.95


def test_linear_probe_chooses_by_training_rows_alone(blobs):
    train, labels, test, test_labels = blobs
    seen = linear_probe(*blobs)
    other = linear_probe(train, labels, -test[::-1], (test_labels + 1) % 3)
    assert other.strength == seen.strength


def test_linear_probe_of_sorted_rows_beyond_the_bound_sees_all_classes():
    """12,000 rows, of which the last 2,000 alone are of the third class."""
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], [5000, 5000, 2000])
    rows = 4.0 * np.eye(3)[labels] + rng.normal(size=(12_000, 3))
    got = linear_probe(rows, labels, rows[::40], labels[::40], strengths=(0.1, 1.0))
    assert got.accuracy > 0.95


@pytest.mark.parametrize("smallest", [2, 3])
def test_linear_probe_of_a_class_below_the_folds_takes_fewer_folds(blobs, smallest):
    train, labels, test, test_labels = blobs
    keep = np.concatenate(
        [np.flatnonzero(labels != 2), np.flatnonzero(labels == 2)[:smallest]]
    )
    with no_warnings():
        got = linear_probe(train[keep], labels[keep], test, test_labels)
    expected = (
        reference(got.strength, tol=1e-8).fit(train[keep], labels[keep]).predict(test)
    )
    np.testing.assert_array_equal(got.predictions, expected)


def test_linear_probe_of_a_class_of_one_row_takes_strength_1(blobs):
    train, labels, test, test_labels = blobs
    keep = np.concatenate(
        [np.flatnonzero(labels != 2), np.flatnonzero(labels == 2)[:1]]
    )
    with no_warnings():
        got = linear_probe(train[keep], labels[keep], test, test_labels)
    assert got.strength == 1.0
    expected = reference(1.0, tol=1e-8).fit(train[keep], labels[keep]).predict(test)
    np.testing.assert_array_equal(got.predictions, expected)


def test_linear_probe_is_the_same_for_the_same_seed(blobs):
    np.random.seed(1)
    first = linear_probe(*blobs, seed=4)
    drawn = np.random.random()
    np.random.seed(1)
    assert np.random.random() == drawn  # no number of the global stream was used
    second = linear_probe(*blobs, seed=4)
    assert (first.accuracy, first.strength) == (second.accuracy, second.strength)
    np.testing.assert_array_equal(first.predictions, second.predictions)


def test_linear_probe_draws_its_folds_by_seed():
    rng = np.random.default_rng(4)  # labels without any signal: the choice is by chance
    rows, labels = rng.normal(size=(60, 5)), np.arange(60) % 2
    chosen = {
        linear_probe(rows, labels, rows, labels, seed=seed).strength
        for seed in range(8)
    }
    assert len(chosen) > 1


# What must not matter


def test_linear_probe_ignores_scale_and_place_of_columns(blobs):
    train, labels, test, test_labels = blobs
    scale = 2.0 ** np.arange(-9, 9, 3)
    moved = linear_probe(train * scale + 1.0, labels, test * scale + 1.0, test_labels)
    expected = linear_probe(*blobs)
    np.testing.assert_array_equal(moved.predictions, expected.predictions)
    assert moved.strength == expected.strength


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e4])
def test_linear_probe_ignores_a_column_that_is_constant_in_training(blobs, value):
    train, labels, test, test_labels = blobs
    constant = np.full((90, 1), value), np.arange(60.0)[:, None]  # but not in the test
    with no_warnings():
        got = linear_probe(
            np.concatenate([train, constant[0]], axis=1),
            labels,
            np.concatenate([test, constant[1]], axis=1),
            test_labels,
        )
    np.testing.assert_array_equal(got.predictions, linear_probe(*blobs).predictions)


def test_linear_probe_ignores_the_order_of_rows(blobs):
    train, labels, test, test_labels = blobs
    order = np.random.default_rng(5).permutation(90)
    got = linear_probe(
        train[order], labels[order], test[::-1], test_labels[::-1], **ONE
    )
    expected = linear_probe(*blobs, **ONE)
    np.testing.assert_array_equal(got.predictions[::-1], expected.predictions)


def test_linear_probe_gives_classes_their_own_names(blobs):
    train, labels, test, test_labels = blobs
    names = np.array([3, 40, 500], np.int32)
    got = linear_probe(
        tf.constant(train), names[labels][:, None], test, names[test_labels]
    )
    expected = linear_probe(*blobs)
    np.testing.assert_array_equal(got.predictions, names[expected.predictions])
    assert got.accuracy == expected.accuracy


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_linear_probe_of_another_dtype_is_that_of_the_same_numbers(blobs, dtype):
    train, labels, test, test_labels = blobs
    narrow = train.astype(dtype), test.astype(dtype)
    got = linear_probe(narrow[0], labels, narrow[1], test_labels, **ONE)
    wide = [part.astype(np.float64) for part in narrow]
    expected = reference(0.1, tol=1e-8).fit(wide[0], labels).predict(wide[1])
    np.testing.assert_array_equal(got.predictions, expected)


def test_linear_probe_of_pictures_is_that_of_their_flat_rows():
    rng = np.random.default_rng(6)
    images, labels = rng.integers(0, 256, (60, 3, 3, 1), np.uint8), np.arange(60) % 2
    flat = images.reshape(60, 9).astype(np.float64)
    got = linear_probe(images[:40], labels[:40], images[40:], labels[40:], **ONE)
    expected = linear_probe(flat[:40], labels[:40], flat[40:], labels[40:], **ONE)
    np.testing.assert_array_equal(got.predictions, expected.predictions)


def test_linear_probe_of_a_class_that_train_lacks_is_wrong(blobs):
    train, labels, test, test_labels = blobs
    unknown = np.where(np.arange(60) < 15, 9, test_labels)
    got, expected = linear_probe(train, labels, test, unknown), linear_probe(*blobs)
    np.testing.assert_array_equal(got.predictions, expected.predictions)
    right = (expected.predictions == test_labels)[15:]
    assert got.accuracy == pytest.approx(right.sum() / 60)


def test_linear_probe_of_classes_far_apart_is_right_and_silent():
    """Separable rows have no finite optimum without the penalty: lbfgs runs longest there."""
    rng = np.random.default_rng(7)
    labels = np.arange(200) % 10
    rows = np.eye(10)[labels] + 0.01 * rng.normal(size=(200, 10))
    with no_warnings():
        got = linear_probe(rows[:100], labels[:100], rows[100:], labels[100:])
        strong = linear_probe(
            rows[:100], labels[:100], rows[100:], labels[100:], strengths=(1e8,)
        )
    assert got.accuracy == strong.accuracy == 1.0


# Bad input


def test_linear_probe_of_one_class_is_refused(blobs):
    train, _, test, test_labels = blobs
    with pytest.raises(ValueError, match=r"two classes|2 classes"):
        linear_probe(train, np.full(90, 3), test, test_labels)


@pytest.mark.parametrize("part", ["train", "test"])
def test_linear_probe_of_labels_of_another_length_is_refused(blobs, part):
    arrays = list(blobs)
    place = {"train": 1, "test": 3}[part]
    arrays[place] = arrays[place][1:]
    with pytest.raises(ValueError, match=f"`{part}_labels` must hold one label"):
        linear_probe(*arrays)


@pytest.mark.parametrize("part", ["train", "test"])
def test_linear_probe_of_numbers_that_are_not_finite_is_refused(blobs, part):
    arrays = list(blobs)
    place = {"train": 0, "test": 2}[part]
    arrays[place][4, 2] = np.nan
    with pytest.raises(ValueError, match=f"`{part}` must be finite. Received: 1 of "):
        linear_probe(*arrays)


def test_linear_probe_of_rows_of_another_width_is_refused(blobs):
    train, labels, test, test_labels = blobs
    with pytest.raises(ValueError, match=r"same width. Received: 6 and 5 numbers"):
        linear_probe(train, labels, test[:, 1:], test_labels)


@pytest.mark.parametrize(
    "options",
    [{"folds": 1}, {"seed": -1}, {"strengths": ()}, {"strengths": (1.0, 0.0)}],
    ids=str,
)
def test_linear_probe_of_an_option_out_of_range_is_refused(blobs, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}.* must .*Received: "):
        linear_probe(*blobs, **options)
