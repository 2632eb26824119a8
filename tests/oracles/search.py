"""Search by cosine as it is defined: every row against every other, in float64."""

from __future__ import annotations

import math

import numpy as np


def unit(row) -> np.ndarray:
    """The row scaled to length 1; zeros stay. Python's integers and the largest entry keep any length finite."""
    row = np.array([float(x) for x in row], np.float64)
    largest = np.abs(row).max()
    if largest == 0:
        return row
    row = row / largest
    return row / math.sqrt(math.fsum(row**2))


def units(rows) -> np.ndarray:
    return np.array([unit(row) for row in rows], np.float64)


def similarities(queries, rows) -> np.ndarray:
    """The cosine of each query with each row, `(m, n)`; with a row of zeros it is 0."""
    rows = units(rows)
    cosines = [rows @ unit(query) for query in queries]
    return np.array(cosines, np.float64).reshape(len(queries), len(rows))


def neighbours(cosines, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and cosines of the k nearest rows, nearest first; of equally near ones the first.

    Args:
        cosines: `(m, n)`, of each query with each row.
        k: How many, if there are as many.
    """
    chosen = np.zeros((len(cosines), min(k, cosines.shape[1])), np.int64)
    for i, row in enumerate(cosines):
        # Rows that are equally near by design are so to 1e-9; those that are not differ by more.
        chosen[i] = np.argsort(-np.round(row, 9), kind="stable")[:k]
    return chosen, np.take_along_axis(cosines, chosen, axis=1)


def recall(found, nearest) -> float:
    """The share of each query's nearest that is among those found."""
    shares = [len(set(f) & set(n)) / len(set(n)) for f, n in zip(found, nearest)]
    return math.fsum(shares) / len(shares)


def near_pairs(rows, threshold: float) -> dict[tuple[int, int], float]:
    """The cosine of every two rows i < j that is at least the threshold."""
    rows = units(rows)
    pairs = {}
    for i, row in enumerate(rows):
        for j in range(i + 1, len(rows)):
            cosine = float(row @ rows[j])
            if round(cosine, 9) >= threshold:
                pairs[i, j] = cosine
    return pairs


def groups(pairs) -> list[set]:
    """The connected components of pairs, largest first."""
    group_of: dict = {}
    for first, second in pairs:
        a = group_of.setdefault(first, {first})
        b = group_of.setdefault(second, {second})
        if a is not b:
            a, b = (a, b) if len(a) >= len(b) else (b, a)
            a |= b
            for member in b:
                group_of[member] = a
    distinct = {id(group): group for group in group_of.values()}
    return sorted(distinct.values(), key=len, reverse=True)
