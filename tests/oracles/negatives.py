"""Past rows as further columns, as loops over all rows there ever were; and masks over columns."""

from __future__ import annotations

import numpy as np

from tests.oracles.losses import cosine


def hardest(anchors, candidates, k, mask) -> np.ndarray:
    """bool `[n, m]`: the k most similar of the columns that `mask` `[n, m]` leaves; of equal ones the first."""
    chosen = np.zeros((len(anchors), len(candidates)), bool)
    for i, anchor in enumerate(anchors):
        left = [j for j in range(len(candidates)) if mask[i, j]]
        left.sort(key=lambda j: (-cosine(anchor, candidates[j]), j))
        chosen[i, left[:k]] = True
    return chosen


def below(anchors, candidates, max_similarity) -> np.ndarray:
    """bool `[n, m]`: the cosine is at most this."""
    return np.array(
        [[cosine(a, c) <= max_similarity for c in candidates] for a in anchors]
    )


class Past:
    """Every row and id added so far, of which an anchor is compared with some."""

    def __init__(
        self, size, *, top_k=None, max_similarity=None, start=0, positives=False
    ):
        self.size, self.top_k, self.max_similarity = size, top_k, max_similarity
        self.start, self.positives = start, positives
        self.rows = []

    def add(self, rows, ids) -> None:
        self.rows += [
            (np.asarray(row, np.float64), int(i)) for row, i in zip(rows, ids)
        ]

    def seen_by(self, anchor, own: int) -> list[tuple[float, float]]:
        """(weight as a positive, cosine) of each row that an anchor of id `own` is compared with."""
        if len(self.rows) < self.start:
            return []
        positives, negatives = [], []
        for row, other in self.rows[-self.size :]:
            similarity = cosine(anchor, row)
            if own == other and own != -1:
                if self.positives:
                    positives.append((1.0, similarity))
            elif self.max_similarity is None or similarity <= self.max_similarity:
                negatives.append((0.0, similarity))
        negatives.sort(key=lambda column: -column[1])
        return positives + negatives[: self.top_k]
