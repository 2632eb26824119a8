"""Classification from a handful of labels: what an encoder saves its user."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import most_similar
from keras_contrastive.evaluation._inputs import check_same_dim, labelled_rows


class FewLabelAccuracy(NamedTuple):
    """Accuracy over random draws of the labelled examples, fractions in 0..1."""

    mean: float
    std: float
    """Standard deviation over the draws (divided by their number, not by one less)."""


def few_label_accuracy(
    train,
    train_labels,
    test,
    test_labels,
    *,
    labels_per_class: int,
    draws: int = 20,
    seed: int = 0,
) -> FewLabelAccuracy:
    """Accuracy when each test row takes the label of its nearest labelled neighbour, by cosine.

    `labels_per_class` training rows of each class are labelled, drawn anew `draws` times. The draws depend on
    `train_labels`, `labels_per_class` and `seed` alone, never on the rows, so that two embeddings of the same
    data are compared on the same examples; more draws begin with those of fewer. Of equally near neighbours
    the lowest class decides. A test row of a class that `train` does not have counts as wrong.

    Args:
        train: Numbers `(n, dim)`, of any length; of higher rank, as raw pixels, they are flattened.
        train_labels: `(n,)` or `(n, 1)`, integers as a rule.
        test: Numbers `(m, dim)`.
        test_labels: `(m,)` or `(m, 1)`.
        labels_per_class: Integer >= 1, at most the size of the smallest class of `train`.
        draws: Integer >= 1.
        seed: Integer >= 0.

    Returns:
        `FewLabelAccuracy(mean, std)`.

    Raises:
        ValueError: An array is empty, not finite or of another width or length than its partner, an integer
            is out of its range, or a class has fewer examples than `labels_per_class`.

    Example:
        >>> rows, labels = [[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]], [0, 0, 1]
        >>> few_label_accuracy(rows, labels, [[3.0, 0.0]], [0], labels_per_class=1)
        FewLabelAccuracy(mean=1.0, std=0.0)
    """
    train, train_labels = labelled_rows(train, train_labels, "train")
    test, test_labels = labelled_rows(test, test_labels, "test")
    check_same_dim(train, test)
    check_integer(1, labels_per_class=labels_per_class, draws=draws)
    check_integer(0, seed=seed)
    members = _members(train_labels, labels_per_class)
    rng = np.random.default_rng([seed, labels_per_class])
    accuracies = []
    for _ in range(draws):
        drawn = [rng.choice(rows, labels_per_class, replace=False) for rows in members]
        labelled = np.concatenate(
            drawn
        )  # classes in ascending order, so that the first of ties is the lowest
        nearest = most_similar(test, train[labelled], 1)[1][:, 0]
        accuracies.append(np.mean(train_labels[labelled][nearest] == test_labels))
    return FewLabelAccuracy(float(np.mean(accuracies)), float(np.std(accuracies)))


def _members(labels: np.ndarray, labels_per_class: int) -> list[np.ndarray]:
    """The rows of each class, classes in ascending order."""
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < labels_per_class:
        raise ValueError(
            f"`labels_per_class` must be at most the number of examples of every class; class "
            f"{classes[counts.argmin()]} has {counts.min()} in `train_labels`. "
            f"Received: labels_per_class={labels_per_class}."
        )
    return [np.flatnonzero(labels == one) for one in classes]
