"""Losses as loops over pairs. Each returns `(values, counts)`: float64 `[n]`, and how far the anchor counts.

Over sets, an anchor i sees the columns that exist for it:
- not its own: column `self_index[i]`, or row i where the batch is its own other side;
- not a column that `candidate_mask` denies it;
- not a `negative_only` column of its own id.
A column is its positive with the weight w > 0 that the ids (or `positives`) say, unless it is `negative_only`;
with w = 0 it is a negative.
The keywords that say so are those of `compared`; a loss hands them on as `**sides`.

Over pairs, each row of `first` is an anchor among the rows of `second`, and the other way round: see
`compared_pairs`, whose keywords a loss hands on as `**sides`. A row's count may be a half.
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
            # Left out if the ids say that it belongs to the anchor, or the positives do.
            by_id = candidate_ids is not None and agreement(ids[i], candidate_ids[j])
            if weight > 0 or by_id:
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


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def split(seen):
    """An anchor's columns (weight, logit, cosine) as positives, and as negatives (logit, cosine)."""
    positives = [column for column in seen if column[0] > 0]
    return positives, [column[1:] for column in seen if column[0] == 0]


def compared(
    ids,
    embeddings,
    *,
    temperature: float,
    candidates=None,
    candidate_ids=None,
    self_index=None,
    candidate_mask=None,
    negative_only=None,
    positives=None,
    candidate_log_probability=None,
):
    """Per anchor, its positives [(weight, logit, cosine)] and its negatives [(logit, cosine)].

    logit = cosine / temperature - log Q(column), the positives' columns too (Yi et al. 2019).
    """
    embeddings = np.asarray(embeddings, np.float64)
    candidates, candidate_ids, self_index = other_side(
        ids, embeddings, candidates, candidate_ids, self_index
    )
    log_q = candidate_log_probability
    for i, anchor in enumerate(embeddings):
        seen = []
        for j, weight in columns(
            i,
            ids,
            candidate_ids,
            self_index=self_index,
            candidate_mask=candidate_mask,
            negative_only=negative_only,
            positives=positives,
        ):
            similarity = cosine(anchor, candidates[j])
            correction = 0.0 if log_q is None else float(log_q[j])
            seen.append((weight, similarity / temperature - correction, similarity))
        yield split(seen)


def per_anchor(loss, anchors, *, needs_negatives: bool = False):
    """`loss(positives, negatives)` of each anchor that has a positive (and, where needed, a negative)."""
    anchors = list(anchors)
    values, counts = np.zeros(len(anchors)), np.zeros(len(anchors), bool)
    for i, (positives, negatives) in enumerate(anchors):
        if positives and (negatives or not needs_negatives):
            values[i], counts[i] = loss(positives, negatives), True
    return values, counts


def weighted_mean(terms) -> float:
    """sum(w x) / sum(w) over the pairs (w, x)."""
    return sum(w * x for w, x in terms) / sum(w for w, _ in terms)


def log_of_all(positives, negatives) -> float:
    """log sum_a exp(l_a) over all columns of an anchor."""
    return log_sum_exp([p[1] for p in positives] + [n[0] for n in negatives])


def softmax_loss(positives, negatives) -> float:
    """sum_p w_p (log sum_a exp(l_a) - l_p) / sum_p w_p, where a runs over all columns that exist."""
    normaliser = log_of_all(positives, negatives)
    return weighted_mean([(w, normaliser - logit) for w, logit, _ in positives])


def nt_xent(ids, embeddings, *, temperature: float = 0.1, **sides):
    """Chen et al. 2020, Eq. 1; with several positives the mean over them (Khosla et al. 2020, L_out)."""
    return per_anchor(
        softmax_loss, compared(ids, embeddings, temperature=temperature, **sides)
    )


def info_nce(ids, embeddings, *, temperature: float = 0.1, **sides):
    """van den Oord et al. 2018, Eq. 4, with exp(cosine / temperature) for the density ratio."""
    return nt_xent(ids, embeddings, temperature=temperature, **sides)


def sup_con(
    ids, embeddings, *, temperature: float = 0.1, position: str = "out", **sides
):
    """Khosla et al. 2020: Eq. 2 (out: the mean of the logs) or Eq. 3 (in: the log of the mean).

    in: -log( (sum_p w_p exp(l_p) / sum_p w_p) / sum_a exp(l_a) ).
    """
    if position == "out":
        return nt_xent(ids, embeddings, temperature=temperature, **sides)
    assert position == "in", position

    def loss(positives, negatives):
        mean = log_sum_exp([math.log(w) + logit for w, logit, _ in positives])
        mean -= math.log(sum(w for w, _, _ in positives))
        return log_of_all(positives, negatives) - mean

    return per_anchor(loss, compared(ids, embeddings, temperature=temperature, **sides))


def decoupled_weights(anchors, sigma: float) -> list[list[float]]:
    """Yeh et al. 2021, L_DCW, for each anchor's positives: 2 - exp(s_ip / sigma) / mean exp(s / sigma).

    The mean runs over the anchors that count, each by the mean over its positives.
    """

    def loss(positives, _):
        return weighted_mean([(w, math.exp(s / sigma)) for w, _, s in positives])

    mean = reduced(*per_anchor(loss, anchors, needs_negatives=True))
    mean = mean or 1.0  # no anchor counts, so no weight is used
    return [[2 - math.exp(p[2] / sigma) / mean for p in ps] for ps, _ in anchors]


def decoupled(
    ids,
    embeddings,
    *,
    temperature: float = 0.1,
    weighted: bool = False,
    sigma: float = 0.5,
    candidates=None,
    frozen=None,
    **sides,
):
    """Yeh et al. 2021: the mean over positives of -omega_ip s_ip / t, plus log sum_k exp(l_ik) over negatives k.

    A correction, log Q, is subtracted from the positive's term as well, which omega does not multiply.
    omega is 1 (L_DC), or if `weighted` that of `decoupled_weights` (L_DCW): a constant for the gradient.
    `frozen`, a pair (embeddings, candidates), holds it at these rows.
    """

    def anchors_at(rows, others):
        return list(
            compared(ids, rows, temperature=temperature, candidates=others, **sides)
        )

    anchors = anchors_at(embeddings, candidates)
    if weighted:
        omegas = decoupled_weights(
            anchors if frozen is None else anchors_at(*frozen), sigma
        )
        anchors = [
            (
                [
                    (w, logit + (omega - 1) * s / temperature, s)
                    for omega, (w, logit, s) in zip(row, ps)
                ],
                ns,
            )
            for row, (ps, ns) in zip(omegas, anchors)
        ]

    def loss(positives, negatives):
        attraction = weighted_mean([(w, -logit) for w, logit, _ in positives])
        return attraction + log_sum_exp([logit for logit, _ in negatives])

    return per_anchor(loss, anchors, needs_negatives=True)


def debiased_loss(
    positives, negatives, log_of_negatives, *, temperature, class_probability
):
    """Mean over positives p of -log( e^l_p / (e^l_p + Ng) ) = log(1 + Ng / e^l_p).

    Ng = max( (S - tau n e^l_p) / (1 - tau), sum_k e^(-1 / temperature - log Q_k) ), S the sum over the n
    negatives k, whose log comes in. Without a correction the floor is the paper's n e^(-1 / temperature).
    Everything is divided by e^l_p, so that nothing overflows.
    """

    def one(logit):
        ratio = math.exp(log_of_negatives - logit)
        of_own_class = class_probability * len(negatives)
        estimate = (ratio - of_own_class) / (1 - class_probability)
        corrections = [cosine / temperature - logit_k for logit_k, cosine in negatives]
        least = sum(math.exp(-1 / temperature - c - logit) for c in corrections)
        return math.log1p(max(estimate, least))

    return weighted_mean([(w, one(logit)) for w, logit, _ in positives])


def debiased(
    ids,
    embeddings,
    *,
    temperature: float = 0.5,
    class_probability: float = 0.1,
    **sides,
):
    """Chuang et al. 2020, with M = 1: see `debiased_loss`, with S = sum_k exp(l_k)."""
    options = {"temperature": temperature, "class_probability": class_probability}

    def loss(positives, negatives):
        total = log_sum_exp([logit for logit, _ in negatives])
        return debiased_loss(positives, negatives, total, **options)

    anchors = compared(ids, embeddings, temperature=temperature, **sides)
    return per_anchor(loss, anchors, needs_negatives=True)


def hard_negative(
    ids,
    embeddings,
    *,
    temperature: float = 0.5,
    class_probability: float = 0.1,
    beta: float = 1.0,
    **sides,
):
    """Robinson et al. 2021: see `debiased_loss`, with S = sum_k w_k exp(l_k).

    w_k = exp(beta l_k) / mean_m exp(beta l_m), over the anchor's negatives.
    """
    options = {"temperature": temperature, "class_probability": class_probability}

    def loss(positives, negatives):
        logits = [logit for logit, _ in negatives]
        log_mean = log_sum_exp([beta * logit for logit in logits])
        log_mean -= math.log(len(logits))
        total = log_sum_exp([beta * logit - log_mean + logit for logit in logits])
        return debiased_loss(positives, negatives, total, **options)

    anchors = compared(ids, embeddings, temperature=temperature, **sides)
    return per_anchor(loss, anchors, needs_negatives=True)


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
    positives=None,
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
            positives=positives,
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


def pair_weight(i: int, j: int, *, ids, second_ids, positives) -> float:
    """How far row i of `first` and row j of `second` are positives."""
    if positives is not None:
        return float(positives[i][j])
    if ids is None:
        return float(i == j)
    if second_ids is None and np.ndim(ids) == 1 and i == j:
        return 1.0  # an id of -1 too: nothing but its own row
    return agreement(ids[i], (ids if second_ids is None else second_ids)[j])


def compared_pairs(
    first,
    second,
    *,
    ids=None,
    second_ids=None,
    positives=None,
    candidate_mask=None,
    negatives=None,
    negative_ids=None,
    negative_mask=None,
):
    """For each i, the columns (j, weight, cosine) of first i, and those of second i.

    The further `negatives` are columns of `first` alone, with j None and weight 0; those of the anchor's id
    are left out. A pair that `candidate_mask` denies exists in neither direction.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    negatives = [] if negatives is None else np.asarray(negatives, np.float64)

    def exists(i, j):
        return candidate_mask is None or candidate_mask[i][j]

    def weight(i, j):
        return pair_weight(i, j, ids=ids, second_ids=second_ids, positives=positives)

    def is_negative(i, k):
        if negative_mask is not None and not negative_mask[k]:
            return False
        if ids is None or negative_ids is None:
            return True
        return agreement(ids[i], negative_ids[k]) == 0

    n = len(first)
    for i in range(n):
        forward, backward = [], []
        for j in range(n):
            if exists(i, j):
                forward.append((j, weight(i, j), cosine(first[i], second[j])))
            if exists(j, i):
                backward.append((j, weight(j, i), cosine(second[i], first[j])))
        for k, row in enumerate(negatives):
            if is_negative(i, k):
                forward.append((None, 0.0, cosine(first[i], row)))
        yield forward, backward


def symmetric_info_nce(
    first,
    second,
    *,
    temperature: float = 0.07,
    candidate_log_probability=None,
    **sides,
):
    """Radford et al. 2021, Fig. 3: the mean of `softmax_loss` from `first` and from `second`.

    A direction without a positive is left out of row i's mean; the count is the share of directions left.
    log Q is subtracted from the column of pair j in both directions, not from the further negatives.
    """
    log_q = candidate_log_probability

    def anchor(seen):
        def logit(j, similarity):
            corrected = j is not None and log_q is not None
            return similarity / temperature - (float(log_q[j]) if corrected else 0.0)

        return split([(weight, logit(j, s), s) for j, weight, s in seen])

    rows = list(compared_pairs(first, second, **sides))
    forward, c1 = per_anchor(softmax_loss, [anchor(seen) for seen, _ in rows])
    backward, c2 = per_anchor(softmax_loss, [anchor(seen) for _, seen in rows])
    directions = c1.astype(float) + c2.astype(float)
    return (c1 * forward + c2 * backward) / np.maximum(directions, 1), directions / 2


def sigmoid(first, second, *, scale: float = 10.0, bias: float = -10.0, **sides):
    """Zhai et al. 2023, the sum over one row: sum_j -log sigmoid(y_ij (scale s_ij + bias)).

    y = 1 for a positive, whose term is weighted, and -1 for a negative. The mean over rows is the paper's loss.
    """
    values = np.zeros(len(first))
    for i, (seen, _) in enumerate(compared_pairs(first, second, **sides)):
        for _, weight, similarity in seen:
            logit = scale * similarity + bias
            values[i] += weight * softplus(-logit) if weight > 0 else softplus(logit)
    return values, np.ones(len(values))


def reduced(values, counts, sample_weight=None) -> float:
    """sum(w counts loss) / sum(w counts); 0 where nothing counts."""
    weights = (
        np.ones(len(values))
        if sample_weight is None
        else np.asarray(sample_weight, np.float64)
    )
    total = sum(w * count for w, count in zip(weights, counts))
    if total == 0:
        return 0.0
    return sum(w * count * v for w, v, count in zip(weights, values, counts)) / total
