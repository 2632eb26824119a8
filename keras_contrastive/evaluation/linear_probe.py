"""Logistic regression on frozen features: what a linear layer can read from them."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from keras_contrastive._checks import check_integer, check_positive
from keras_contrastive.evaluation._inputs import check_same_dim, labelled_rows

# How many training rows choose the strength: enough for that, and it bounds the time.
_MAX_VALIDATED = 10_000
_DEFAULT_STRENGTH = 1.0


class LinearClassifier(NamedTuple):
    """A linear layer on features as they are: class probabilities are softmax(features @ weights + bias)."""

    weights: np.ndarray
    """float32 `(dim, classes)`."""
    bias: np.ndarray
    """float32 `(classes,)`."""
    classes: np.ndarray
    """The label of each column, `(classes,)`, sorted."""


class LinearProbeResult(NamedTuple):
    """What a linear probe found."""

    accuracy: float
    """Share of test rows that were predicted right, in 0..1."""
    predictions: np.ndarray
    """The predicted label of each test row, `(m,)`."""
    strength: float
    """The inverse strength of the L2 penalty (scikit-learn's C) that was chosen."""
    classifier: LinearClassifier
    """What was fitted, for features that are not standardised: `export.save(model, path, classifier=...)` serves it."""


def linear_probe(
    train,
    train_labels,
    test,
    test_labels,
    *,
    strengths: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0),
    folds: int = 5,
    seed: int = 0,
) -> LinearProbeResult:
    """Accuracy of multinomial logistic regression on the features as they are.

    Features are standardised by the mean and standard deviation of the training rows; those that are constant
    there are left out. The strength is chosen by stratified cross-validation within the training rows, on 10,000
    of them where there are more; of equally good strengths the smallest, which is the strongest penalty. Then all
    training rows are fitted. A test row of a class that `train` does not have counts as wrong.

    A class of fewer rows than `folds` lowers the number of folds; a class of one row leaves nothing to validate,
    and the strength is 1.

    Args:
        train: Numbers `(n, dim)`; of higher rank, as raw pixels, they are flattened.
        train_labels: `(n,)` or `(n, 1)`, of at least two classes, integers as a rule.
        test: Numbers `(m, dim)`.
        test_labels: `(m,)` or `(m, 1)`.
        strengths: Floats > 0, the candidates for scikit-learn's C; the larger, the weaker the penalty.
        folds: Integer >= 2.
        seed: Integer >= 0: which rows validate, and their folds.

    Returns:
        `LinearProbeResult(accuracy, predictions, strength, classifier)`.

    Raises:
        ValueError: An array is empty, not finite or of another width or length than its partner, `train` has one
            class alone, or an option is out of its range.

    Reference:
        Kornblith, Shlens, Le, 2019, Do Better ImageNet Models Transfer Better?, Sec. 3 (logistic regression on
        fixed features, with L2 and lbfgs).

    Example:
        >>> rows, labels = [[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1]
        >>> linear_probe(rows, labels, [[2.0]], [0]).accuracy
        1.0
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    train, train_labels = labelled_rows(train, train_labels, "train")
    test, test_labels = labelled_rows(test, test_labels, "test")
    check_same_dim(train, test)
    check_integer(2, folds=folds)
    check_integer(0, seed=seed)
    if len(strengths) == 0:
        raise ValueError("`strengths` must hold at least one number. Received: none.")
    check_positive(**{f"strengths[{i}]": value for i, value in enumerate(strengths)})
    classes, codes = np.unique(train_labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"`train_labels` must hold at least two classes, to tell apart. Received: class {classes[0]} alone."
        )
    mean, scale = _standardization(train)
    train, test = (_standardized(rows, mean, scale) for rows in (train, test))
    # One core for each fit: on a busy machine several spend most of the time on waiting for one another.
    with threadpool_limits(1), warnings.catch_warnings():
        # Where the last digits of a float32 loss stop the search, the classes have long been settled.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Many classes of few rows each are no regression.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        # What scikit-learn 1.6 hands to SciPy is not the user's to change.
        warnings.filterwarnings("ignore", ".*L-BFGS-B", DeprecationWarning)
        strength = _best_strength(train, codes, sorted(strengths), folds, seed)
        model = _model(max_iter=1000).set_params(C=strength).fit(train, codes)
    predictions = classes[model.predict(test)]
    accuracy = float(np.mean(predictions == test_labels))
    classifier = _unstandardized(model, mean, scale, classes)
    return LinearProbeResult(accuracy, predictions, strength, classifier)


def _standardization(train) -> tuple[np.ndarray, np.ndarray]:
    """What is subtracted, and then multiplied by, for mean 0 and standard deviation 1; float32 `(dim,)`.

    Columns that are constant in the training part are multiplied by 0.
    """
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    constant = train.min(axis=0) == train.max(axis=0)
    centred = train - mean
    squared = np.einsum("nd,nd->d", centred, centred, dtype=np.float64)
    deviation = np.sqrt(squared / len(train))
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation))
    return mean, scale.astype(np.float32)


def _standardized(rows, mean, scale) -> np.ndarray:
    rows = rows - mean
    rows *= scale
    return rows


def _unstandardized(model, mean, scale, classes) -> LinearClassifier:
    """The fitted model as a layer on features as they come."""
    coefficients, bias = model.coef_, model.intercept_
    if len(classes) == 2:  # scikit-learn keeps the second class's logit alone
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        bias = np.concatenate([np.zeros_like(bias), bias])
    weights = (coefficients * scale.astype(np.float64)).T
    bias = bias - mean.astype(np.float64) @ weights
    return LinearClassifier(
        weights.astype(np.float32), bias.astype(np.float32), classes
    )


def _best_strength(rows, codes, strengths, folds: int, seed: int) -> float:
    """The strength with the best accuracy in cross-validation."""
    from sklearn.model_selection import StratifiedKFold

    if len(strengths) == 1:
        return float(strengths[0])
    drawn = _drawn(codes, folds, seed)
    rows, codes = rows[drawn], codes[drawn]
    folds = int(min(folds, np.unique(codes, return_counts=True)[1].min()))
    if folds < 2:
        return _DEFAULT_STRENGTH
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = [
        (rows[fitted], codes[fitted], rows[held_out], codes[held_out])
        for fitted, held_out in splits.split(rows, codes)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        right = sum(threads.map(lambda part: _num_right(*part, strengths), parts))
    return float(strengths[right.argmax()])


def _num_right(rows, codes, held_out, held_out_codes, strengths) -> np.ndarray:
    """How many held-out rows each strength gets right, int `(strengths,)`."""
    # Each strength goes on from the end of the weaker one before, and need not end to be compared.
    model = _model(max_iter=100)
    predictions = [
        model.set_params(C=strength).fit(rows, codes).predict(held_out)
        for strength in strengths
    ]
    return np.count_nonzero(predictions == held_out_codes, axis=1)


def _drawn(codes: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """At most 10,000 rows: `folds` of each class, so that all can be validated, then in proportion."""
    order = np.random.default_rng(seed).permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]  # class by class
    counts = np.bincount(codes)
    place = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = np.where(place < folds, -1, place / np.repeat(counts, counts))
    return order[np.argsort(share, kind="stable")[:_MAX_VALIDATED]]


def _model(max_iter: int):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=max_iter, warm_start=True)
