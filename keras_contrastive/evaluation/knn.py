"""The weighted k-nearest-neighbour classifier: no training, no parameters to tune on the test part."""

from __future__ import annotations

import numpy as np

from keras_contrastive._checks import check_integer, check_positive
from keras_contrastive._numerics import most_similar
from keras_contrastive.evaluation._inputs import (
    check_same_dim,
    finite_rows,
    labelled_rows,
)

# How many test rows vote at once: memory is this many times the number of classes.
_BLOCK = 1024


def knn_accuracy(
    train,
    train_labels,
    test,
    test_labels,
    *,
    k: int | None = None,
    temperature: float = 0.1,
) -> float:
    """Share of test rows whose class is the one that `knn_predictions` gives them.

    A test row of a class that `train` does not have counts as wrong.

    Args:
        train: Numbers `(n, dim)`, of any length; of higher rank, as raw pixels, they are flattened.
        train_labels: `(n,)` or `(n, 1)`, integers as a rule.
        test: Numbers `(m, dim)`.
        test_labels: `(m,)` or `(m, 1)`.
        k: Integer in 1..n: how many neighbours vote. None: as in `knn_predictions`.
        temperature: Float > 0, in units of cosine; the smaller, the more the nearest decide.

    Returns:
        Float in 0..1.

    Raises:
        ValueError: An array is empty, not finite or of another width or length than its partner, `k` is no
            integer in 1..n, or `temperature` is not positive.

    Reference:
        Wu et al., 2018, Unsupervised Feature Learning via Non-Parametric Instance Discrimination, Sec. 3.4
        (there k = 200, temperature = 0.07).

    Example:
        >>> knn_accuracy([[1.0, 0.0], [0.0, 1.0]], [3, 7], [[2.0, 0.1]], [3], k=1)
        1.0
    """
    test, test_labels = labelled_rows(test, test_labels, "test")
    predictions = knn_predictions(
        train, train_labels, test, k=k, temperature=temperature
    )
    return float(np.mean(predictions == test_labels))


def knn_predictions(
    train, train_labels, test, *, k: int | None = None, temperature: float = 0.1
) -> np.ndarray:
    """The class of each test row by the vote of its k most similar training rows.

    Each neighbour votes for its class with weight exp(similarity / temperature), by cosine. Exact: every
    training row is compared. Of equal votes the lowest class wins; of equally similar rows at the k-th place,
    the first ones vote.

    Args:
        train: Numbers `(n, dim)`, of any length; of higher rank, as raw pixels, they are flattened.
        train_labels: `(n,)` or `(n, 1)`, integers as a rule.
        test: Numbers `(m, dim)`.
        k: Integer in 1..n: how many neighbours vote. None: 200, as the field has it, from 10,000 training rows
            on, below that 20, and never more than n.
        temperature: Float > 0, in units of cosine; the smaller, the more the nearest decide.

    Returns:
        Labels `(m,)`, of the dtype of `train_labels`.

    Raises:
        ValueError: An array is empty, not finite or of another width or length than its partner, `k` is no
            integer in 1..n, or `temperature` is not positive.

    Reference:
        Wu et al., 2018, Unsupervised Feature Learning via Non-Parametric Instance Discrimination, Sec. 3.4.

    Example:
        >>> knn_predictions([[1.0, 0.0], [0.0, 1.0]], [3, 7], [[2.0, 0.1]], k=1)
        array([3])
    """
    train, train_labels = labelled_rows(train, train_labels, "train")
    test = finite_rows(test, "test")
    check_same_dim(train, test)
    check_positive(temperature=temperature)
    if k is None:
        k = min(200 if len(train) >= 10_000 else 20, len(train))
    check_integer(1, k=k)
    if k > len(train):
        raise ValueError(
            f"`k` must be at most the number of training rows, {len(train)}. Received: k={k}."
        )
    similarities, neighbours = most_similar(test, train, k)  # (m, k)
    classes, codes = np.unique(train_labels, return_inverse=True)
    winners = [
        _vote(similarities[block], codes[neighbours[block]], len(classes), temperature)
        for block in _blocks(len(test))
    ]
    return classes[np.concatenate(winners)]


def _vote(similarities, codes, num_classes: int, temperature: float) -> np.ndarray:
    """The class with the largest sum of weights, for each row. Returns int `(rows,)`."""
    similarities = similarities.astype(np.float64)
    # Dividing a row's weights by the largest changes no winner, and exp(1 / 0.001) would be infinite.
    weights = np.exp(
        (similarities - similarities[:, :1]) / temperature
    )  # (rows, k), sorted: first is largest
    cells = np.arange(len(codes))[:, None] * num_classes + codes
    votes = np.bincount(
        cells.ravel(), weights.ravel(), minlength=len(codes) * num_classes
    )
    return votes.reshape(len(codes), num_classes).argmax(axis=1)


def _blocks(length: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, length, _BLOCK)]
