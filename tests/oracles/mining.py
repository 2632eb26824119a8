"""Miners as loops over pairs: for each anchor the set of columns that stay."""

from __future__ import annotations

import numpy as np

from tests.oracles.losses import columns, distance_of, other_side


def seen(ids, embeddings, distance: str, sets: dict):
    """For each anchor its positives and negatives, as lists of (column, distance)."""
    sets = dict(sets)
    embeddings = np.asarray(embeddings, np.float64)
    candidates, candidate_ids, own = other_side(
        ids,
        embeddings,
        sets.pop("candidates", None),
        sets.pop("candidate_ids", None),
        sets.pop("self_index", None),
    )
    given = {"candidate_mask": None, "negative_only": None, "positives": None, **sets}
    for i, anchor in enumerate(embeddings):
        positives, negatives = [], []
        for j, weight in columns(i, ids, candidate_ids, self_index=own, **given):
            d = distance_of(distance, anchor, candidates[j])
            (positives if weight > 0 else negatives).append((j, d))
        yield positives, negatives


def hardest(positives, negatives) -> set:
    """Hermans et al. 2017, Eq. 5: the farthest positive, the nearest negative."""
    kept = set()
    if positives:
        kept.add(max(positives, key=lambda pair: pair[1])[0])
    if negatives:
        kept.add(min(negatives, key=lambda pair: pair[1])[0])
    return kept


def semi_hard(positives, negatives, margin: float) -> set:
    """Schroff et al. 2015, Sec. 3.2: d_p < d_n < d_p + margin for some positive p."""
    kept = {j for j, _ in positives}
    for j, d in negatives:
        if any(near < d < near + margin for _, near in positives):
            kept.add(j)
    return kept


def top_k(positives, negatives, k: int) -> set:
    """The k nearest negatives."""
    nearest = sorted(negatives, key=lambda pair: pair[1])[:k]
    return {j for j, _ in positives + nearest}


def distance_weights(distances, dim: int, cutoff: float, max_distance: float):
    """Wu et al. 2017, Eq. 4 and 5: in proportion to 1 / q(d), q(d) = d^(dim-2) (1 - d^2/4)^((dim-3)/2)."""
    weights = []
    for d in distances:
        near = max(d, cutoff)
        density = near ** (dim - 2) * (1 - near**2 / 4) ** ((dim - 3) / 2)
        weights.append(1 / density if near < max_distance else 0.0)
    return np.array(weights) / np.sum(weights)
