"""Losses with a weight for each class, as loops in float64.

Those that split by row return `(values, counts)`: float64 `[n]`, and bool `[n]`: ids outside [0, classes) do not
count. ProxyAnchor returns a float. Everything is compared by cosine, so by angle.
"""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.losses import cosine, log_sum_exp, softplus


def cosines(embeddings, weights) -> list[list[float]]:
    """Cosine of each row with each class, kept within -1..1."""
    rows, classes = np.asarray(embeddings, np.float64), np.asarray(weights, np.float64)
    return [
        [min(1.0, max(-1.0, cosine(row, weight))) for weight in classes] for row in rows
    ]


def over_classes(ids, embeddings, weights, row_loss):
    """`row_loss(cosines, class)` of each row whose id names a class; 0 for the others."""
    ids = np.reshape(ids, -1)
    values, counts = np.zeros(len(ids)), np.zeros(len(ids), bool)
    for i, similarities in enumerate(cosines(embeddings, weights)):
        if 0 <= ids[i] < len(similarities):
            value = row_loss(similarities, int(ids[i]))
            if value is not None:
                values[i], counts[i] = value, True
    return values, counts


def softmax_of(similarities, label: int, target: float, scale: float) -> float:
    """Cross-entropy of `scale` times the similarities, that of the label replaced by `target`."""
    logits = [scale * (target if k == label else s) for k, s in enumerate(similarities)]
    return log_sum_exp(logits) - logits[label]


def arcface(ids, embeddings, *, weights, margin: float = 0.5, scale: float = 64.0):
    """Deng et al. 2019, Eq. 3: the target is cos(theta + m); beyond theta = pi - m it is cos theta - m sin m."""

    def row_loss(similarities, label):
        angle = math.acos(similarities[label])
        if angle > math.pi - margin:
            target = similarities[label] - margin * math.sin(margin)
        else:
            target = math.cos(angle + margin)
        return softmax_of(similarities, label, target, scale)

    return over_classes(ids, embeddings, weights, row_loss)


def cosface(ids, embeddings, *, weights, margin: float = 0.35, scale: float = 64.0):
    """Wang et al. 2018, Eq. 4: the target is cos theta - m."""

    def row_loss(similarities, label):
        return softmax_of(similarities, label, similarities[label] - margin, scale)

    return over_classes(ids, embeddings, weights, row_loss)


def log_one_plus(exponents) -> float:
    """log(1 + sum exp(exponents)); 0 of none."""
    return softplus(log_sum_exp(exponents)) if exponents else 0.0


def proxy_anchor(
    ids, embeddings, *, proxies, margin: float = 0.1, scale: float = 32.0
) -> float:
    """Kim et al. 2020, Eq. 4: every proxy is an anchor of the batch; the first mean is over those with a positive."""
    ids, num_classes = np.reshape(ids, -1), len(proxies)
    similarities = cosines(embeddings, proxies)
    known = [i for i in range(len(ids)) if 0 <= ids[i] < num_classes]
    if not known:
        return 0.0
    pull, push, with_positive = 0.0, 0.0, 0
    for p in range(num_classes):
        mine = [-scale * (similarities[i][p] - margin) for i in known if ids[i] == p]
        rest = [scale * (similarities[i][p] + margin) for i in known if ids[i] != p]
        with_positive += bool(mine)
        pull += log_one_plus(mine)
        push += log_one_plus(rest)
    return pull / with_positive + push / num_classes


def proxy_nca(
    ids,
    embeddings,
    *,
    proxies,
    scale: float = 8.0,
    positive_in_denominator: bool = False,
):
    """Movshovitz-Attias et al. 2017, Eq. 4: -log( e^{-s d_y} / sum_{k != y} e^{-s d_k} ), d = 2 - 2 cos.

    With one class and its proxy left out of the denominator there is nothing to compare with: no count.
    """

    def row_loss(similarities, label):
        distances = [2.0 - 2.0 * s for s in similarities]
        terms = [
            -scale * d
            for k, d in enumerate(distances)
            if positive_in_denominator or k != label
        ]
        return scale * distances[label] + log_sum_exp(terms) if terms else None

    return over_classes(ids, embeddings, proxies, row_loss)
