"""Search by similarity, scored by class: does a query find its own kind, and how far down the list?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import unit_rows
from keras_contrastive.evaluation._inputs import check_same_dim, labelled_rows


class RetrievalScores(NamedTuple):
    """Means over the queries, fractions in 0..1; higher is better."""

    precision_at_1: float
    """Share of queries whose nearest reference is of their class."""
    recall_at_k: dict[int, float]
    """For each k: share of queries with at least one reference of their class among the k nearest."""
    r_precision: float
    """Share of the R nearest that are of the query's class, R being the number of all references of that class."""
    map_at_r: float
    """Mean average precision at R: r_precision that also rewards the order within the R nearest."""
    mean_reciprocal_rank: float
    """1 / rank of the first reference of the query's class."""
    num_queries: int
    """How many queries were scored: those with at least one reference of their class."""


def retrieval(
    embeddings,
    labels,
    *,
    queries=None,
    query_labels=None,
    ks: tuple[int, ...] = (1, 5, 10),
    block: int = 256,
) -> RetrievalScores:
    """Rank the references by cosine to each query, and score where those of the query's class stand.

    Without `queries` each row queries all others; its own index never counts. Exact: every reference is
    compared. Of equally similar references the one of the lower index is nearer. A label below 0 means unknown:
    such a row is no query, and as a reference it stands in the way but matches nothing. Queries without a
    reference of their class are left out.

    Per query, with R references of its class and P(i) the share of its class among the i nearest:
    map_at_r = 1/R * the sum of P(i) over those i <= R whose reference is of its class.

    Args:
        embeddings: Numbers `(n, dim)`, of any length: the references.
        labels: `(n,)` or `(n, 1)`, integers as a rule.
        queries: Numbers `(m, dim)`, or None.
        query_labels: `(m,)` or `(m, 1)`, given if and only if `queries` is.
        ks: Integers >= 1, the k of `recall_at_k`. Where there are fewer references than k, all of them count.
        block: Integer >= 1: how many queries are compared at once. Memory is block * n floats; no score depends
            on it.

    Returns:
        `RetrievalScores`.

    Raises:
        ValueError: An array is empty, not finite or of another width or length than its partner, only one of
            `queries` and `query_labels` is given, an integer is out of its range, or no query has a reference
            of its class.

    Reference:
        Musgrave, Belongie, Lim, 2020, A Metric Learning Reality Check, Sec. 3.2, Eq. 4-5 (map_at_r); Oh Song et
        al., 2016, Deep Metric Learning via Lifted Structured Feature Embedding, Sec. 6 (recall_at_k).

    Example:
        >>> rows, labels = [[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [0.0, 1.0]], [0, 0, 1, 1]
        >>> retrieval(rows, labels, ks=(1, 2)).recall_at_k
        {1: 0.75, 2: 0.75}
    """
    embeddings, labels = labelled_rows(embeddings, labels, "embeddings", "labels")
    check_integer(1, block=block, **{f"ks[{i}]": k for i, k in enumerate(ks)})
    if (queries is None) != (query_labels is None):
        raise ValueError(
            "`queries` and `query_labels` must be given together. "
            f"Received: only {'query_labels' if queries is None else 'queries'}."
        )
    references = unit_rows(embeddings)
    leave_one_out = queries is None
    if leave_one_out:
        queries, query_labels = references, labels
    else:
        queries, query_labels = labelled_rows(
            queries, query_labels, "queries", "query_labels"
        )
        check_same_dim(embeddings, queries, ("embeddings", "queries"))
        queries = unit_rows(queries)
    codes, query_codes = _codes(labels, query_labels)
    asked = _answerable(codes, query_codes, leave_one_out)
    first, r_precision, average_precision = _scores(
        references, codes, queries, query_codes, asked, leave_one_out, block
    )
    return RetrievalScores(
        precision_at_1=float(np.mean(first == 1)),
        recall_at_k={int(k): float(np.mean(first <= k)) for k in ks},
        r_precision=float(np.mean(r_precision)),
        map_at_r=float(np.mean(average_precision)),
        mean_reciprocal_rank=float(np.mean(1 / first)),
        num_queries=len(asked),
    )


def _codes(labels, query_labels) -> tuple[np.ndarray, np.ndarray]:
    """The labels of references and queries as numbers of one list of classes, -1 where unknown."""
    joined = np.concatenate([labels, query_labels])
    codes = np.unique(joined, return_inverse=True)[1]
    if np.issubdtype(joined.dtype, np.number):
        codes[joined < 0] = -1
    return codes[: len(labels)], codes[len(labels) :]


def _answerable(codes, query_codes, leave_one_out: bool) -> np.ndarray:
    """The indices of those queries that have at least one reference of their class."""
    known = query_codes >= 0
    counts = np.bincount(codes[codes >= 0], minlength=max(query_codes.max() + 1, 1))
    asked = np.flatnonzero(known & (counts[query_codes] > int(leave_one_out)))
    if len(asked) == 0:
        raise ValueError(
            "At least one query must have a reference of its class (labels below 0 are unknown). "
            f"Received: {len(query_codes)} queries, none of which has one."
        )
    return asked


def _scores(
    references, codes, queries, query_codes, asked, leave_one_out: bool, block: int
) -> np.ndarray:
    """First rank, r_precision and average precision at R of each query that is asked. Returns float64 `(3, asked)`."""
    # TensorFlow's product, not NumPy's, whose last columns may be rounded otherwise: equal references would not tie.
    references = tf.constant(references)
    scores = []

    def score(similarities, query):
        relevant = codes == query_codes[query]
        if leave_one_out:
            similarities[query], relevant[query] = -np.inf, False
        return _score(similarities, relevant)

    with (
        ThreadPoolExecutor() as threads
    ):  # NumPy sorts and compares outside Python's lock
        for start in range(0, len(asked), block):
            indices = asked[start : start + block]
            product = tf.matmul(queries[indices], references, transpose_b=True)
            scores.extend(threads.map(score, product.numpy(), indices))  # rows (n,)
    return np.array(scores).T


def _score(similarities, relevant) -> tuple[float, float, float]:
    """First rank, r_precision and average precision at R of one query, from its references `(n,)`."""
    num_relevant = np.count_nonzero(relevant)
    hits = relevant[_nearest(similarities, num_relevant)]  # (R,)
    ranks = np.flatnonzero(hits) + 1
    precisions = np.arange(1, len(ranks) + 1) / ranks
    first = ranks[0] if len(ranks) else _first_rank(similarities, relevant)
    return first, len(ranks) / num_relevant, precisions.sum() / num_relevant


def _nearest(similarities, count: int) -> np.ndarray:
    """The indices of the `count` largest, largest first, of equal ones the lowest index first."""
    place = len(similarities) - count
    least = np.partition(similarities, place)[place]
    candidates = np.flatnonzero(similarities >= least)  # more than `count` with ties
    order = np.argsort(-similarities[candidates], kind="stable")
    return candidates[order[:count]]


def _first_rank(similarities, relevant) -> int:
    """The rank of the nearest relevant reference, by counting those before it: it may stand far down."""
    members = np.flatnonzero(relevant)
    first = members[similarities[members].argmax()]  # of equal ones the lowest index
    nearer = np.count_nonzero(similarities > similarities[first])
    return 1 + nearer + np.count_nonzero(similarities[:first] == similarities[first])
