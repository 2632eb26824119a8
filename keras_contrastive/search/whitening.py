"""Embeddings whose every direction counts the same: for telling images apart, not classes."""

from __future__ import annotations

import numpy as np

from keras_contrastive._checks import check_integer
from keras_contrastive.search._inputs import unit_embeddings

# Rows by which the covariance is estimated, and rows that are turned at a time.
_ESTIMATED, _BLOCK = 100_000, 8192


def whiten(embeddings, *, seed: int = 0) -> np.ndarray:
    """Centre embeddings, and scale their principal directions to one variance: for `Index(...).duplicates`.

    Features are often all positive and share a few large directions (bright or dark, plain or textured), so that the
    cosine of any two is near 1 and near-duplicates hardly stand out. Whitened, unrelated rows are about orthogonal, and a
    threshold means about the same for one encoder and another. kNN with many labelled rows gains from it as well, in the
    README's table of methods in every row; a model of `ContrastiveModel(whiten=True)` serves such features by itself.

    The covariance is that of the unit rows, shrunk as Ledoit and Wolf have it, so that few rows are not overfitted, on
    100,000 of them at most. Needs scikit-learn.

    Args:
        embeddings: Numbers `(n, dim)` of any length.
        seed: Integer >= 0: which rows estimate the covariance, where there are more.

    Returns:
        float32 `(n, dim)`, not of unit length. Where all rows are equal there is nothing to scale: the unit rows.

    Raises:
        ValueError: `embeddings` are no finite numbers, or have another rank.

    Reference:
        Jégou, Chum, 2012, Negative Evidences and Co-occurences in Image Retrieval: the Benefit of PCA and Whitening,
        Section 3; Ledoit, Wolf, 2004, A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Section 3.

    Example:
        >>> groups = Index(whiten(embeddings), ids=paths).duplicates(threshold=0.7)
    """
    from sklearn.covariance import ledoit_wolf

    check_integer(0, seed=seed)
    rows = unit_embeddings(embeddings, "embeddings", None)
    if len(rows) == 0:
        return rows
    some = rows
    if len(rows) > _ESTIMATED:
        drawn = np.random.default_rng(seed).choice(len(rows), _ESTIMATED, replace=False)
        some = rows[np.sort(drawn)]
    mean = some.mean(axis=0, dtype=np.float64)
    if np.abs(some - mean).max() < 1e-6:
        return rows
    covariance, _ = ledoit_wolf(some - mean, assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    # float64 could not hold the inverse of 0, of a direction that no row has.
    least = 1e-12 * variances[-1]
    turn = (directions / np.sqrt(np.maximum(variances, least))).astype(np.float32)
    mean = mean.astype(np.float32)
    whitened = np.empty_like(rows)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        whitened[part] = (rows[part] - mean) @ turn
    return whitened
