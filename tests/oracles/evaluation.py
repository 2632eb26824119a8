"""Measures of embeddings as the papers say them: loops over rows, pairs and draws in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tests.oracles.neighbours import cosine


def unit(row) -> np.ndarray:
    row = np.asarray(row, np.float64)
    return row / np.linalg.norm(row)


# Neighbours


def knn_predictions(train, train_labels, test, *, k, temperature) -> list:
    """Wu et al., 2018: the class with the largest sum of exp(similarity / temperature) among the k nearest."""
    predictions = []
    for row in test:
        similarities = [cosine(row, other) for other in train]
        nearest = sorted(range(len(train)), key=lambda i: -similarities[i])[:k]
        votes: dict = {}
        for i in nearest:
            weight = math.exp((similarities[i] - 1.0) / temperature)
            votes[train_labels[i]] = votes.get(train_labels[i], 0.0) + weight
        predictions.append(max(sorted(votes), key=votes.get))
    return predictions


def rankings(embeddings, labels, queries=None, query_labels=None):
    """For each query that counts: its references from near to far, as a list of "is of its class".

    Without `queries`, each row is a query and all others are its references. Equally near references keep
    their order. Labels below 0 are unknown: no query has them, and no query matches them.
    """
    references = np.stack([unit(row) for row in embeddings])
    alone = queries is None
    if alone:
        queries, query_labels = embeddings, labels
    for i, (query, label) in enumerate(zip(queries, query_labels)):
        if label < 0:
            continue
        similarities = references @ unit(query)
        # Rows that are equal by design are so to 1e-9; rows that are not differ by more.
        order = np.argsort(-np.round(similarities, 9), kind="stable")
        matches = [bool(labels[j] == label) for j in order if not (alone and j == i)]
        if any(matches):
            yield matches


def retrieval(
    embeddings, labels, *, queries=None, query_labels=None, ks=(1, 5, 10)
) -> dict:
    """Musgrave et al., 2020, A Metric Learning Reality Check, Sec. 3: means over queries."""
    scores = []
    for matches in rankings(embeddings, labels, queries, query_labels):
        r = sum(matches)
        average, found = 0.0, 0
        for rank in range(1, r + 1):
            if matches[rank - 1]:
                found += 1
                average += found / rank / r
        scores.append(
            {
                "precision_at_1": float(matches[0]),
                "r_precision": found / r,
                "map_at_r": average,
                "mean_reciprocal_rank": 1.0 / (1 + matches.index(True)),
                **{k: float(any(matches[:k])) for k in ks},
            }
        )
    mean = {name: sum(s[name] for s in scores) / len(scores) for name in scores[0]}
    return {
        **{name: value for name, value in mean.items() if name not in ks},
        "recall_at_k": {k: mean[k] for k in ks},
        "num_queries": len(scores),
    }


# Geometry


def alignment(first, second, *, alpha) -> float:
    """Wang & Isola, 2020, Eq. 1 of Sec. 4: mean ||x - y||^alpha over positive pairs."""
    powers = [
        math.sqrt(sum((a - b) ** 2 for a, b in zip(unit(x), unit(y)))) ** alpha
        for x, y in zip(first, second)
    ]
    return sum(powers) / len(powers)


def uniformity(rows, *, t) -> float:
    """Wang & Isola, 2020, Sec. 4: log mean exp(-t ||x - y||^2) over pairs of different rows."""
    rows = [unit(row) for row in rows]
    potentials = [
        math.exp(-t * sum((a - b) ** 2 for a, b in zip(x, y)))
        for x, y in itertools.combinations(rows, 2)
    ]
    return math.log(sum(potentials) / len(potentials))


def effective_rank(rows) -> float:
    """Roy & Vetterli, 2007: exp of the entropy of the singular values' shares."""
    values = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)
    shares = [value / sum(values) for value in values]
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def embedding_std(rows) -> float:
    rows = [unit(row) for row in rows]
    dim = len(rows[0])
    deviations = []
    for d in range(dim):
        column = [row[d] for row in rows]
        mean = sum(column) / len(column)
        deviations.append(
            math.sqrt(sum((value - mean) ** 2 for value in column) / len(column))
        )
    return sum(deviations) / dim * math.sqrt(dim)


# Clusters


def adjusted_rand(labels, clusters) -> float:
    """Hubert & Arabie, 1985: agreement over pairs, beyond what chance gives."""
    together = same_label = same_cluster = pairs = 0
    for i, j in itertools.combinations(range(len(labels)), 2):
        a, b = labels[i] == labels[j], clusters[i] == clusters[j]
        pairs, together = pairs + 1, together + (a and b)
        same_label, same_cluster = same_label + a, same_cluster + b
    chance = same_label * same_cluster / pairs
    return (together - chance) / ((same_label + same_cluster) / 2 - chance)


def entropy(labels) -> float:
    counts = [sum(label == other for other in labels) for label in set(labels)]
    return -sum(c / len(labels) * math.log(c / len(labels)) for c in counts)


def mutual_information(labels, clusters) -> float:
    """H(labels) + H(clusters) - H(both)."""
    return entropy(labels) + entropy(clusters) - entropy(list(zip(labels, clusters)))


def normalized_mutual_information(labels, clusters) -> float:
    """Strehl & Ghosh, 2002, with the arithmetic mean of both entropies below."""
    mean = (entropy(labels) + entropy(clusters)) / 2
    return mutual_information(labels, clusters) / mean


def adjusted_mutual_information(labels, clusters, *, shuffles, rng) -> float:
    """Vinh et al., 2010, with the expectation over shuffled labels taken as a mean of draws."""
    mean = (entropy(labels) + entropy(clusters)) / 2
    by_chance = [
        mutual_information(list(rng.permutation(labels)), clusters)
        for _ in range(shuffles)
    ]
    expected = sum(by_chance) / shuffles
    return (mutual_information(labels, clusters) - expected) / (mean - expected)


# Rankings


def mean_ranks(values) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks."""
    return [
        sum(other < value for other in values)
        + (1 + sum(other == value for other in values)) / 2
        for value in values
    ]


def spearman(first, second) -> float:
    """Pearson's correlation of the ranks."""
    a, b = mean_ranks(first), mean_ranks(second)
    mean = (len(a) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b))
    squares = [sum((x - mean) ** 2 for x in ranks) for ranks in (a, b)]
    return covariance / math.sqrt(squares[0] * squares[1])


# Linear probe


def standardized(train, test) -> tuple[np.ndarray, np.ndarray]:
    """Each column less its mean over `train`, by its deviation there; constant columns are 0."""
    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    kept = deviation > 0
    scale = np.where(kept, deviation, 1.0)
    return (train - mean) / scale * kept, (test - mean) / scale * kept


def logistic_scores(train, labels, test, *, strength, steps) -> np.ndarray:
    """Scores `(m, classes)` that minimise strength * sum of cross-entropies + ||weights||^2 / 2.

    By plain gradient descent; the bias is not penalised.
    """
    train, test = standardized(train, test)
    classes = sorted(set(labels))
    hot = np.array([[float(label == c) for c in classes] for label in labels])
    weights, bias = np.zeros((train.shape[1], len(classes))), np.zeros(len(classes))
    # The Hessian of the cross-entropy is at most X^T X / 2, for weights and bias together.
    bound = strength * (np.linalg.norm(train, 2) ** 2 + len(train)) / 2 + 1.0
    for _ in range(steps):
        logits = train @ weights + bias
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = strength * (shares - hot)
        weights -= (train.T @ error + weights) / bound
        bias -= error.sum(axis=0) / bound
    return test @ weights + bias


# Significance


def all_bootstrap_means(values) -> np.ndarray:
    """The mean of every one of the n^n samples with replacement, sorted."""
    means = [
        sum(sample) / len(values)
        for sample in itertools.product(values, repeat=len(values))
    ]
    return np.sort(means)


def sign_flip_p_value(differences) -> float:
    """Share of all 2^n sign patterns whose |sum| is at least the one seen."""
    seen = abs(math.fsum(differences))
    extreme = [
        abs(math.fsum(s * d for s, d in zip(signs, differences))) >= seen - 1e-9
        for signs in itertools.product([1, -1], repeat=len(differences))
    ]
    return sum(extreme) / len(extreme)
