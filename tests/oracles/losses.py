"""Losses as loops over pairs. Each returns `(values, counts)`: float64 `[n]`, and whether the anchor counts.

Over sets, an anchor i sees the columns that exist for it:
- not its own: column `self_index[i]`, or row i where the batch is its own other side;
- not a column that `candidate_mask` denies it;
- not a `negative_only` column of its own id.
A column is its positive with the weight w > 0 that the ids (or `positives`) say, unless it is `negative_only`;
with w = 0 it is a negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def agreement(left, right) -> float:
    """How far two identities agree: 1 for equal ids, -1 excepted; the shared labels of two multi-hot rows."""
    if np.ndim(left) == 0:
        return float(left == right and left != -1)
    return float(sum(float(a) * float(b) for a, b in zip(left, right)))


def columns(
    i: int, ids, candidate_ids, *, self_index, candidate_mask, negative_only, positives
) -> Iterator[tuple[int, float]]:
    """Each column j that exists for anchor i, with its weight as a positive (0: a negative)."""
    for j in range(len(candidate_ids)):
        if j == self_index[i]:
            continue
        if (
            candidate_mask is not None
            and not np.broadcast_to(candidate_mask, (len(ids), len(candidate_ids)))[
                i, j
            ]
        ):
            continue
        weight = (
            agreement(ids[i], candidate_ids[j])
            if positives is None
            else float(positives[i][j])
        )
        if negative_only is not None and negative_only[j]:
            if weight > 0:
                continue
            weight = 0.0
        yield j, weight


def other_side(ids, embeddings, candidates, candidate_ids, self_index):
    """The candidates, their ids, and each anchor's own column: by default the batch itself."""
    n = len(embeddings)
    if candidates is None:
        candidates, candidate_ids = embeddings, ids
        self_index = np.arange(n) if self_index is None else self_index
    elif self_index is None:
        self_index = np.full(n, -1)
    return np.asarray(candidates, np.float64), candidate_ids, self_index


def cosine(a, b) -> float:
    norms = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / norms if norms > 0 else 0.0


def distance_of(name: str, a, b) -> float:
    difference = a - b
    if name == "euclidean":
        return math.sqrt(float(difference @ difference))
    if name == "squared_euclidean":
        return float(difference @ difference)
    if name == "cosine":
        return 1.0 - cosine(a, b)
    if name == "inner_product":
        return -float(a @ b)
    raise AssertionError(name)


def log_sum_exp(logits) -> float:
    largest = max(logits)
    return largest + math.log(sum(math.exp(logit - largest) for logit in logits))


def nt_xent(
    ids,
    embeddings,
    *,
    temperature: float = 0.1,
    candidates=None,
    candidate_ids=None,
    self_index=None,
    candidate_mask=None,
    negative_only=None,
    positives=None,
    candidate_log_probability=None,
):
    """Chen et al. 2020, Eq. 1; with several positives the mean over them (Khosla et al. 2020, L_out).

    For anchor i and its positives p with weights w: sum_p w_p (log sum_a exp(l_ia) - l_ip) / sum_p w_p, where a
    runs over all columns that exist and l = cosine / temperature - log Q(column).
    """
    embeddings = np.asarray(embeddings, np.float64)
    candidates, candidate_ids, self_index = other_side(
        ids, embeddings, candidates, candidate_ids, self_index
    )
    log_q = (
        np.zeros(len(candidates))
        if candidate_log_probability is None
        else candidate_log_probability
    )
    values, counts = np.zeros(len(embeddings)), np.zeros(len(embeddings), bool)
    for i, anchor in enumerate(embeddings):
        seen = list(
            columns(
                i,
                ids,
                candidate_ids,
                self_index=self_index,
                candidate_mask=candidate_mask,
                negative_only=negative_only,
                positives=positives,
            )
        )
        total = sum(weight for _, weight in seen)
        if total == 0:
            continue
        logits = {
            j: cosine(anchor, candidates[j]) / temperature - float(log_q[j])
            for j, _ in seen
        }
        normaliser = log_sum_exp(list(logits.values()))
        values[i] = sum(weight * (normaliser - logits[j]) for j, weight in seen) / total
        counts[i] = True
    return values, counts


def contrastive_choices(
    ids,
    embeddings,
    *,
    margin: float = 1.0,
    distance: str = "euclidean",
    candidates=None,
    candidate_ids=None,
    self_index=None,
    candidate_mask=None,
    negative_only=None,
):
    """For each anchor its positives' (weight, d^2) and its negatives' max(0, margin - d)^2."""
    embeddings = np.asarray(embeddings, np.float64)
    candidates, candidate_ids, self_index = other_side(
        ids, embeddings, candidates, candidate_ids, self_index
    )
    for i, anchor in enumerate(embeddings):
        attractions, repulsions = [], []
        for j, weight in columns(
            i,
            ids,
            candidate_ids,
            self_index=self_index,
            candidate_mask=candidate_mask,
            negative_only=negative_only,
            positives=None,
        ):
            d = distance_of(distance, anchor, candidates[j])
            if weight > 0:
                attractions.append((weight, d**2))
            else:
                repulsions.append(max(0.0, margin - d) ** 2)
        yield attractions, repulsions


def contrastive(ids, embeddings, **options):
    """Hadsell et al. 2006, Eq. 4, over sets: per anchor (mean of d^2 over its positives + mean of
    max(0, margin - d)^2 over its negatives) / 2; an anchor without either does not count."""
    values, counts = np.zeros(len(embeddings)), np.zeros(len(embeddings), bool)
    for i, (attractions, repulsions) in enumerate(
        contrastive_choices(ids, embeddings, **options)
    ):
        if attractions and repulsions:
            pull = sum(w * a for w, a in attractions) / sum(w for w, _ in attractions)
            values[i] = (pull + sum(repulsions) / len(repulsions)) / 2
            counts[i] = True
    return values, counts


def contrastive_bounds(ids, embeddings, **options):
    """The least and the largest value per anchor over all ways to draw one negative for each positive."""
    lowest, highest = np.zeros(len(embeddings)), np.zeros(len(embeddings))
    for i, (attractions, repulsions) in enumerate(
        contrastive_choices(ids, embeddings, **options)
    ):
        if attractions and repulsions:
            pull = sum(w * a for w, a in attractions) / sum(w for w, _ in attractions)
            lowest[i], highest[i] = (
                (pull + min(repulsions)) / 2,
                (pull + max(repulsions)) / 2,
            )
    return lowest, highest


def contrastive_rows(
    anchor, positive, negative, *, margin: float = 1.0, distance: str = "euclidean"
):
    """Hadsell et al. 2006, Eq. 4, row by row: (d(a, p)^2 + max(0, margin - d(a, n))^2) / 2."""
    rows = [np.asarray(side, np.float64) for side in (anchor, positive, negative)]
    values = np.zeros(len(rows[0]))
    for i, (a, p, n) in enumerate(zip(*rows)):
        pull = distance_of(distance, a, p) ** 2
        push = max(0.0, margin - distance_of(distance, a, n)) ** 2
        values[i] = (pull + push) / 2
    return values, np.ones(len(values), bool)


def reduced(values, counts, sample_weight=None) -> float:
    """sum(w counts loss) / sum(w counts); 0 where nothing counts."""
    weights = (
        np.ones(len(values))
        if sample_weight is None
        else np.asarray(sample_weight, np.float64)
    )
    total = sum(w for w, count in zip(weights, counts) if count)
    if total == 0:
        return 0.0
    return sum(w * v for w, v, count in zip(weights, values, counts) if count) / total
