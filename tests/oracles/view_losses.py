"""Losses over pairs of views that are no contrast with a batch, as loops in float64.

Those that split by row return `(values, counts)`: float64 `[n]`, and ones. The others return a float.
`frozen`, a dict of a loss's own inputs, holds what is a constant for the gradient (an assignment, a target)
at those inputs, so that central differences see the gradient that the paper means.
"""

from __future__ import annotations

import math

import numpy as np

from tests.oracles.losses import cosine, log_sum_exp


def unit(row) -> np.ndarray:
    """The row scaled to length 1; zeros stay."""
    row = np.asarray(row, np.float64)
    largest = max(abs(float(x)) for x in row)
    if largest == 0:
        return np.zeros_like(row)
    row = row / largest
    return row / math.sqrt(sum(float(x) ** 2 for x in row))


def standardised(column) -> list[float]:
    """Mean 0 and biased standard deviation 1; a constant column gives zeros."""
    n = len(column)
    if max(column) == min(column):
        return [0.0] * n
    mean = math.fsum(column) / n
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in column) / n)
    return [(x - mean) / deviation for x in column]


def barlow_twins(first, second, *, redundancy_weight: float = 0.005) -> float:
    """Zbontar et al. 2021, Eq. 1: sum_i (1 - C_ii)^2 + w sum_{i != j} C_ij^2, C the correlations of columns."""
    n, dim = np.shape(first)
    if n < 2:
        return 0.0
    a = [standardised([float(x) for x in column]) for column in np.transpose(first)]
    b = [standardised([float(x) for x in column]) for column in np.transpose(second)]
    total = 0.0
    for i in range(dim):
        for j in range(dim):
            c = math.fsum(a[i][k] * b[j][k] for k in range(n)) / n
            total += (1.0 - c) ** 2 if i == j else redundancy_weight * c**2
    return total


def covariance(column, other) -> float:
    """Unbiased."""
    n = len(column)
    m, o = math.fsum(column) / n, math.fsum(other) / n
    return math.fsum((x - m) * (y - o) for x, y in zip(column, other)) / (n - 1)


def variance_term(rows) -> float:
    """mean_j [1 - sqrt(var_j + 1e-4)]+ with the unbiased variance."""
    columns = np.transpose(rows)
    terms = [max(0.0, 1.0 - math.sqrt(covariance(c, c) + 1e-4)) for c in columns]
    return math.fsum(terms) / len(columns)


def covariance_term(rows) -> float:
    """sum_{i != j} C_ij^2 / dim."""
    columns = np.transpose(rows)
    squares = [
        covariance(columns[i], columns[j]) ** 2
        for i in range(len(columns))
        for j in range(len(columns))
        if i != j
    ]
    return math.fsum(squares) / len(columns)


def vicreg(
    first,
    second,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> float:
    """Bardes et al. 2022, as in their code: the variance term is the mean of both sides', covariance the sum."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    n, dim = first.shape
    squares = [(first[i, j] - second[i, j]) ** 2 for i in range(n) for j in range(dim)]
    invariance = math.fsum(squares) / (n * dim) if n else 0.0
    if n < 2:
        return invariance_weight * invariance
    variance = (variance_term(first) + variance_term(second)) / 2
    redundancy = covariance_term(first) + covariance_term(second)
    return (
        invariance_weight * invariance
        + variance_weight * variance
        + covariance_weight * redundancy
    )


def cosine_prediction(first, second, *, frozen=None):
    """Grill et al. 2020, Eq. 2, row by row: 2 - 2 cos(prediction, target), the target held."""
    target = np.asarray(second if frozen is None else frozen["second"], np.float64)
    values = [
        2.0 - 2.0 * cosine(p, t) for p, t in zip(np.asarray(first, np.float64), target)
    ]
    return np.array(values, np.float64), np.ones(len(values))


def scores_of(rows, prototypes) -> np.ndarray:
    """Cosine of each row with each prototype."""
    units = [unit(prototype) for prototype in prototypes]
    return np.array(
        [[float(unit(row) @ p) for p in units] for row in rows], np.float64
    ).reshape(len(rows), len(units))


def sinkhorn(scores, *, epsilon: float, iterations: int) -> np.ndarray:
    """Caron et al. 2020, A.1, in logarithms: each round gives prototypes equal shares, then rows a sum of 1.

    The paper's marginals are 1 / K and 1 / n; here times n, so that a row is a distribution.
    """
    n, k = scores.shape
    logs = [[scores[i, j] / epsilon for j in range(k)] for i in range(n)]
    for _ in range(iterations):
        for j in range(k):
            mass = log_sum_exp([logs[i][j] for i in range(n)])
            for i in range(n):
                logs[i][j] += math.log(n / k) - mass
        for i in range(n):
            mass = log_sum_exp(logs[i])
            logs[i] = [entry - mass for entry in logs[i]]
    return np.array([[math.exp(entry) for entry in row] for row in logs])


def cross_entropy(probabilities, logits) -> float:
    """-sum_k p_k log softmax(logits)_k."""
    everything = log_sum_exp(logits)
    return math.fsum(p * (everything - x) for p, x in zip(probabilities, logits))


def swav(
    first,
    second,
    *,
    prototypes,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    frozen=None,
):
    """Caron et al. 2020, Eq. 2 per row: each side predicts the other's assignment, the mean of both."""
    held = frozen or {"first": first, "second": second, "prototypes": prototypes}
    n = len(first)
    if n == 0:
        return np.zeros(0), np.zeros(0)
    assigned = [
        sinkhorn(
            scores_of(held[side], held["prototypes"]),
            epsilon=epsilon,
            iterations=iterations,
        )
        for side in ("first", "second")
    ]
    own = [scores_of(side, prototypes) / temperature for side in (first, second)]
    values = [
        (
            cross_entropy(assigned[1][i], own[0][i])
            + cross_entropy(assigned[0][i], own[1][i])
        )
        / 2
        for i in range(n)
    ]
    return np.array(values), np.ones(n)


def dino(
    first,
    second,
    *,
    center=None,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    frozen=None,
):
    """Caron et al. 2021, Eq. 1 per row: cross-entropy of the student with the centred, sharpened teacher."""
    held = frozen or {"second": second, "center": center}
    teacher, center = np.asarray(held["second"], np.float64), held.get("center")
    center = np.zeros(np.shape(first)[1]) if center is None else center
    values = []
    for student, target in zip(np.asarray(first, np.float64), teacher):
        logits = [(t - c) / teacher_temperature for t, c in zip(target, center)]
        everything = log_sum_exp(logits)
        probabilities = [math.exp(logit - everything) for logit in logits]
        values.append(
            cross_entropy(probabilities, [s / student_temperature for s in student])
        )
    return np.array(values, np.float64), np.ones(len(values))


def moved_center(center, targets, *, momentum: float = 0.9) -> np.ndarray:
    """Caron et al. 2021, Eq. 4: m c + (1 - m) mean over all rows of the targets."""
    rows = np.asarray(targets, np.float64).reshape(-1, np.shape(targets)[-1])
    return np.array(
        [
            momentum * c + (1.0 - momentum) * math.fsum(column) / len(column)
            for c, column in zip(center, rows.T)
        ]
    )


def squared_distance(a, b) -> float:
    return math.fsum((float(x) - float(y)) ** 2 for x, y in zip(a, b))


def apart(a, b) -> float:
    """|a - b|^2 of unit rows as 2 - 2 cosine, where a row of zeros is orthogonal to all."""
    return 2.0 - 2.0 * math.fsum(float(x) * float(y) for x, y in zip(a, b))


def uniformity(rows, *, t: float = 2.0) -> float:
    """Wang & Isola 2020: log of the mean over unordered pairs of exp(-t |x_i - x_j|^2), on unit rows."""
    units = [unit(row) for row in rows]
    exponents = [
        -t * apart(units[i], units[j]) for i in range(len(units)) for j in range(i)
    ]
    return log_sum_exp(exponents) - math.log(len(exponents))


def alignment_uniformity(
    first,
    second,
    *,
    alignment_weight: float = 1.0,
    uniformity_weight: float = 1.0,
    t: float = 2.0,
) -> float:
    """Wang & Isola 2020: w_a mean |x_i - y_i|^2 + w_u times the mean of both sides' uniformity."""
    distances = [apart(unit(a), unit(b)) for a, b in zip(first, second)]
    alignment = math.fsum(distances) / len(distances) if distances else 0.0
    if len(distances) < 2:
        return alignment_weight * alignment
    both = (uniformity(first, t=t) + uniformity(second, t=t)) / 2
    return alignment_weight * alignment + uniformity_weight * both


def koleo(rows, *, epsilon: float = 1e-8) -> float:
    """Sablayrolles et al. 2019: the mean of -log(|z_i - z_nn| + epsilon), nn the most similar other unit row."""
    units = [unit(row) for row in rows]
    values = []
    for i, row in enumerate(units):
        others = [other for j, other in enumerate(units) if j != i]
        nearest = max(others, key=lambda other: float(row @ other))
        values.append(-math.log(math.sqrt(squared_distance(row, nearest)) + epsilon))
    return math.fsum(values) / len(values)
