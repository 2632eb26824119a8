"""Losses of metric learning as loops over pairs and triplets, in the manner of `tests.oracles.losses`.

Each returns `(values, counts)`. A loss that is a mean over pairs or triplets counts an anchor by their number, so that
`reduced(values, counts)` is the mean over all pairs or triplets of the batch. A positive of weight w is as w positives.
Options and keywords are those of the losses; `**sides` are the keywords of `seen_by`.
"""

from __future__ import annotations

import math
from typing import Callable

import numpy as np

from tests.oracles.losses import (
    agreement,
    columns,
    cosine,
    distance_of,
    log_sum_exp,
    other_side,
    softplus,
    weighted_mean,
)


def seen_by(
    ids,
    embeddings,
    measure: Callable,
    *,
    candidates=None,
    candidate_ids=None,
    self_index=None,
    candidate_mask=None,
    negative_only=None,
    positives=None,
) -> list[tuple[list, list]]:
    """For each anchor its positives [(j, weight, measure)] and its negatives [(j, measure)], j the column."""
    embeddings = np.asarray(embeddings, np.float64)
    candidates, candidate_ids, self_index = other_side(
        ids, embeddings, candidates, candidate_ids, self_index
    )
    anchors = []
    for i, anchor in enumerate(embeddings):
        near, far = [], []
        for j, weight in columns(
            i,
            ids,
            candidate_ids,
            self_index=self_index,
            candidate_mask=candidate_mask,
            negative_only=negative_only,
            positives=positives,
        ):
            measured = measure(anchor, candidates[j])
            if weight > 0:
                near.append((j, weight, measured))
            else:
                far.append((j, measured))
        anchors.append((near, far))
    return anchors


def by_distance(name: str) -> Callable:
    return lambda a, b: distance_of(name, a, b)


def each_anchor(loss: Callable, anchors, *, needs_negatives: bool = True):
    """`(value, count) = loss(positives, negatives)` for each anchor that has what it needs, else (0, 0)."""
    values, counts = np.zeros(len(anchors)), np.zeros(len(anchors))
    for i, (positives, negatives) in enumerate(anchors):
        if positives and (negatives or not needs_negatives):
            values[i], counts[i] = loss(positives, negatives)
    return values, counts


def hinge(x: float) -> float:
    return max(x, 0.0)


def triplet(
    ids,
    embeddings,
    *,
    margin: float = 0.2,
    distance: str = "euclidean",
    mining: str = "all",
    **sides,
):
    """The mean of [D_ap - D_an + m]+ over all triplets, or over those that `mining` chooses.

    Schroff et al. 2015, Eq. 3, with a distance of one's choice.
    """
    options = {"margin": margin, "distance": distance}
    if mining == "semi_hard":
        return triplet_semi_hard(ids, embeddings, **options, **sides)
    if mining == "hard":
        return triplet_hard(ids, embeddings, **options, **sides)
    assert mining == "all", mining

    def loss(positives, negatives):
        terms = [
            (w, hinge(d_ap - d_an + margin))
            for _, w, d_ap in positives
            for _, d_an in negatives
        ]
        return weighted_mean(terms), sum(w for w, _ in terms)

    return each_anchor(loss, seen_by(ids, embeddings, by_distance(distance), **sides))


def triplet_semi_hard(
    ids,
    embeddings,
    *,
    margin: float = 1.0,
    distance: str = "euclidean",
    tie: float = 0.0,
    **sides,
):
    """Schroff et al. 2015: for each positive the nearest negative farther than it, and if there is none the farthest
    negative. The mean of [D_ap - D_an + m]+ over all pairs of an anchor and a positive.

    Farther is by more than `tie`. A small one gives the least value that rounding may give at equal distances, a
    small negative one the largest.
    """

    def loss(positives, negatives):
        terms = []
        for _, w, d_ap in positives:
            beyond = [d_an for _, d_an in negatives if d_an > d_ap + tie]
            chosen = min(beyond) if beyond else max(d_an for _, d_an in negatives)
            terms.append((w, hinge(d_ap - chosen + margin)))
        return weighted_mean(terms), sum(w for w, _ in terms)

    return each_anchor(loss, seen_by(ids, embeddings, by_distance(distance), **sides))


def triplet_hard(
    ids,
    embeddings,
    *,
    margin: float = 1.0,
    soft: bool = False,
    distance: str = "euclidean",
    **sides,
):
    """Hermans et al. 2017, Eq. 5: the farthest positive and the nearest negative; `soft`: softplus for the hinge,
    without a margin."""

    def loss(positives, negatives):
        gap = max(d for _, _, d in positives) - min(d for _, d in negatives)
        return (softplus(gap) if soft else hinge(gap + margin)), 1.0

    return each_anchor(loss, seen_by(ids, embeddings, by_distance(distance), **sides))


def triplet_rows(
    anchor, positive, negative, *, margin: float = 0.2, distance: str = "euclidean"
):
    """Row by row [d(a, p) - d(a, n) + m]+."""
    rows = [np.asarray(side, np.float64) for side in (anchor, positive, negative)]
    values = np.zeros(len(rows[0]))
    for i, (a, p, n) in enumerate(zip(*rows)):
        gap = distance_of(distance, a, p) - distance_of(distance, a, n)
        values[i] = hinge(gap + margin)
    return values, np.ones(len(values))


def npairs(ids, embeddings, *, candidate_log_probability=None, **sides):
    """Sohn 2016, Eq. 6: the softmax of inner products, -log(e^l_p / sum over all columns of e^l), and the mean of it
    over several positives. log Q is subtracted from every column's product."""
    log_q = candidate_log_probability

    def logit(j, product):
        return product - (0.0 if log_q is None else float(log_q[j]))

    def loss(positives, negatives):
        near = [(w, logit(j, s)) for j, w, s in positives]
        normaliser = log_sum_exp(
            [x for _, x in near] + [logit(j, s) for j, s in negatives]
        )
        return weighted_mean([(w, normaliser - x) for w, x in near]), 1.0

    anchors = seen_by(ids, embeddings, lambda a, b: float(a @ b), **sides)
    return each_anchor(loss, anchors, needs_negatives=False)


npairs_multilabel = npairs  # labels graded by how many are shared


def lifted_struct(
    ids,
    embeddings,
    *,
    margin: float = 1.0,
    distance: str = "euclidean",
    candidates=None,
    candidate_ids=None,
    candidate_mask=None,
    **sides,
):
    """Song et al. 2016, Eq. 4, for the ordered pairs (i, p): the mean of [J_ip]+^2 / 2, with
    J_ip = D_ip + log(sum over i's negatives of e^(m - D_ik) + sum over p's negatives of e^(m - D_pl)).

    p's negatives are those of row p of the batch; among candidates, the others that share nothing with it and that
    a mask of columns leaves.
    """
    d = by_distance(distance)
    anchors = seen_by(
        ids,
        embeddings,
        d,
        candidates=candidates,
        candidate_ids=candidate_ids,
        candidate_mask=candidate_mask,
        **sides,
    )

    def from_positive(p):
        if candidates is None:
            return [d_pl for _, d_pl in anchors[p][1]]
        denied = np.zeros(len(candidates), bool)
        if candidate_mask is not None and np.ndim(candidate_mask) == 1:
            denied = ~np.asarray(candidate_mask)
        return [
            d(candidates[p], candidates[j])
            for j in range(len(candidates))
            if j != p
            and not denied[j]
            and agreement(candidate_ids[p], candidate_ids[j]) == 0
        ]

    def loss(positives, negatives):
        terms = []
        for p, w, d_ip in positives:
            repelled = [d_ik for _, d_ik in negatives] + from_positive(p)
            j_ip = d_ip + log_sum_exp([margin - x for x in repelled])
            terms.append((w, hinge(j_ip) ** 2 / 2))
        return weighted_mean(terms), sum(w for w, _ in terms)

    return each_anchor(loss, anchors)


def multi_similarity(
    ids,
    embeddings,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    mining_epsilon=None,
    **sides,
):
    """Wang et al. 2019, Eq. 12 (the loss) and Eq. 10 and 11 (the mining, against all of the anchor's columns)."""

    def mined(positives, negatives):
        if mining_epsilon is None:
            return positives, negatives
        nearest_negative = max(s for _, s in negatives)
        farthest_positive = min(s for _, _, s in positives)
        return (
            [p for p in positives if p[2] < nearest_negative + mining_epsilon],
            [n for n in negatives if n[1] > farthest_positive - mining_epsilon],
        )

    def loss(positives, negatives):
        positives, negatives = mined(positives, negatives)
        pull = sum(w * math.exp(-alpha * (s - base)) for _, w, s in positives)
        push = sum(math.exp(beta * (s - base)) for _, s in negatives)
        return math.log1p(pull) / alpha + math.log1p(push) / beta, 1.0

    return each_anchor(loss, seen_by(ids, embeddings, cosine, **sides))


def circle(
    ids,
    embeddings,
    *,
    margin: float = 0.4,
    scale: float = 80.0,
    candidates=None,
    frozen=None,
    **sides,
):
    """Sun et al. 2020, Eq. 6, 8 and 9: softplus(LSE_n(g a_n (s_n - m)) + LSE_p(-g a_p (s_p - (1 - m)))).

    a_p = [1 + m - s_p]+ and a_n = [s_n + m]+ are constants for the gradient: `frozen`, a pair (embeddings,
    candidates), holds them at these rows.
    """

    def anchors_at(rows, others):
        return seen_by(ids, rows, cosine, candidates=others, **sides)

    anchors = anchors_at(embeddings, candidates)
    held = anchors if frozen is None else anchors_at(*frozen)
    paired = [
        (list(zip(positives, held_positives)), list(zip(negatives, held_negatives)))
        for (positives, negatives), (held_positives, held_negatives) in zip(
            anchors, held
        )
    ]

    def loss(positives, negatives):
        pull = [
            math.log(w) - scale * hinge(1 + margin - s_held) * (s - (1 - margin))
            for (_, w, s), (_, _, s_held) in positives
        ]
        push = [
            scale * hinge(s_held + margin) * (s - margin)
            for (_, s), (_, s_held) in negatives
        ]
        return softplus(log_sum_exp(push) + log_sum_exp(pull)), 1.0

    return each_anchor(loss, paired)


def soft_nearest_neighbor(
    ids,
    embeddings,
    *,
    temperature: float = 1.0,
    distance: str = "squared_euclidean",
    **sides,
):
    """Frosst et al. 2019, Eq. 1: -log(sum over positives of e^(-d / T) / sum over all columns of e^(-d / T))."""

    def loss(positives, negatives):
        near = log_sum_exp([math.log(w) - d / temperature for _, w, d in positives])
        everything = log_sum_exp([near] + [-d / temperature for _, d in negatives])
        return everything - near, 1.0

    anchors = seen_by(ids, embeddings, by_distance(distance), **sides)
    return each_anchor(loss, anchors, needs_negatives=False)


def koleo(
    ids,
    embeddings,
    *,
    epsilon: float = 1e-8,
    candidates=None,
    candidate_ids=None,
    self_index=None,
    candidate_mask=None,
    negative_only=None,
):
    """Sablayrolles et al. 2019, Sec. 3.2: -log(|z_i - z_nn| + epsilon), nn the most similar other unit row.

    It asks for no ids: every column that exists for the anchor is a neighbour.
    """

    def unit(row):
        norm = math.sqrt(float(row @ row))
        return row / norm if norm > 0 else row

    def measure(a, b):
        return cosine(a, b), distance_of("euclidean", unit(a), unit(b))

    nobody = np.full(len(embeddings), -1)
    others = None if candidates is None else np.full(len(candidates), -1)
    anchors = seen_by(
        nobody,
        embeddings,
        measure,
        candidates=candidates,
        candidate_ids=others,
        self_index=self_index,
        candidate_mask=candidate_mask,
    )
    values, counts = np.zeros(len(anchors)), np.zeros(len(anchors))
    for i, (_, seen) in enumerate(anchors):
        if seen:
            _, distance = max(measured for _, measured in seen)
            values[i], counts[i] = -math.log(distance + epsilon), 1.0
    return values, counts
