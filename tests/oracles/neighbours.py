"""Nearest neighbours as the papers say them: loops over rows in float64."""

from __future__ import annotations

import math

import numpy as np


def cosine(a, b) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def knn_accuracy(train, train_labels, test, test_labels, *, k, temperature) -> float:
    """Wu et al., 2018: the k most similar rows vote with exp(similarity / temperature)."""
    right = 0
    for row, label in zip(test, test_labels):
        similarities = [cosine(row, other) for other in train]
        nearest = sorted(range(len(train)), key=lambda i: -similarities[i])[:k]
        votes: dict[int, float] = {}
        for i in nearest:
            weight = math.exp(similarities[i] / temperature)
            votes[train_labels[i]] = votes.get(train_labels[i], 0.0) + weight
        right += max(votes, key=votes.get) == label
    return right / len(test)


def nearest_neighbour_accuracy(train, train_labels, test, test_labels) -> float:
    right = 0
    for row, label in zip(test, test_labels):
        nearest = max(range(len(train)), key=lambda i: cosine(row, train[i]))
        right += train_labels[nearest] == label
    return right / len(test)
