"""Do the classes fall into clusters of their own, without a label having been seen?"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import unit_rows
from keras_contrastive.evaluation._inputs import labelled_rows

# From how many rows on mini-batches stand in for all rows.
_MANY_ROWS = 10_000


class ClusteringScores(NamedTuple):
    """How far clusters and classes agree; 1 where they are the same partition."""

    nmi: float
    """Normalised mutual information, 0..1, by the arithmetic mean of the entropies. Grows with the number of clusters."""
    ami: float
    """Adjusted mutual information: about 0 for clusters drawn by chance."""
    ari: float
    """Adjusted Rand index, of pairs of rows: about 0 for clusters drawn by chance."""


def clustering(
    embeddings, labels, *, num_clusters: int | None = None, seed: int = 0
) -> ClusteringScores:
    """Cluster the L2-normalised rows by k-means, and compare the clusters with the classes.

    The best of five starts of k-means; from 10,000 rows on, of three starts of mini-batch k-means in batches of
    4,096. Every label counts as a class: leave unlabelled rows out.

    Args:
        embeddings: Numbers `(n, dim)`, of any length.
        labels: `(n,)` or `(n, 1)`, integers as a rule.
        num_clusters: Integer in 1..n. None: the number of classes.
        seed: Integer >= 0.

    Returns:
        `ClusteringScores(nmi, ami, ari)`.

    Raises:
        ValueError: An array is empty, not finite or of another length than its partner, or an integer is out of
            its range.

    Reference:
        Vinh, Epps, Bailey, 2010, Information Theoretic Measures for Clusterings Comparison (nmi: NMI_sum; ami);
        Hubert, Arabie, 1985, Comparing Partitions, Eq. 5 (ari).

    Example:
        >>> clustering([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]], [0, 0, 1])
        ClusteringScores(nmi=1.0, ami=1.0, ari=1.0)
    """
    from sklearn import metrics

    embeddings, labels = labelled_rows(embeddings, labels, "embeddings", "labels")
    classes, codes = np.unique(labels, return_inverse=True)
    num_clusters = len(classes) if num_clusters is None else num_clusters
    check_integer(1, num_clusters=num_clusters)
    check_integer(0, seed=seed)
    if num_clusters > len(embeddings):
        raise ValueError(
            f"`num_clusters` must be at most the number of rows, {len(embeddings)}. Received: num_clusters={num_clusters}."
        )
    found = _clusters(unit_rows(embeddings), num_clusters, seed)
    return ClusteringScores(
        nmi=float(metrics.normalized_mutual_info_score(codes, found)),
        ami=float(metrics.adjusted_mutual_info_score(codes, found)),
        ari=float(metrics.adjusted_rand_score(codes, found)),
    )


def _clusters(unit: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    """The cluster of each row, int `(n,)`."""
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if len(unit) < _MANY_ROWS:
        model = KMeans(num_clusters, n_init=5, random_state=seed)
    else:
        model = MiniBatchKMeans(
            num_clusters, n_init=3, batch_size=4096, random_state=seed
        )
    # One core: on a busy machine several spend minutes on waiting for one another.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct rows than clusters: a collapsed encoder, which the scores say.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit_predict(unit)
