"""Does similarity rank pairs as people do? Graded pairs instead of classes."""

from __future__ import annotations

import numpy as np

from keras_contrastive.evaluation._inputs import paired_rows


def similarity_ranking(first, second, scores) -> float:
    """Spearman's rank correlation of the cosine of each pair with the score it was given.

    Equal values share their mean rank. Cosines that are equal in float32, the precision of the rows, are equal.

    Args:
        first: Numbers `(n, dim)`, of any length. A row of zeros has cosine 0 to everything.
        second: Numbers `(n, dim)`. Row i makes a pair with row i of `first`.
        scores: Numbers `(n,)` or `(n, 1)`, larger for more similar pairs; only their order counts.

    Returns:
        Float in -1..1: 1 where cosine orders the pairs as the scores do.

    Raises:
        ValueError: An array is empty, not finite or of another shape than its partner, or all cosines or all
            scores are equal, so that there is no order.

    Reference:
        Spearman, 1904, The Proof and Measurement of Association between Two Things; as a measure of embeddings:
        Agirre et al., 2012, SemEval-2012 Task 6: A Pilot on Semantic Textual Similarity.

    Example:
        >>> similarity_ranking([[1.0, 0.0]] * 3, [[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]], [5, 3, 1])
        1.0
    """
    from scipy.stats import spearmanr

    first, second = paired_rows(first, second)
    scores = np.asarray(scores, np.float64)
    if scores.shape not in ((len(first),), (len(first), 1)):
        raise ValueError(
            "`scores` must hold one number for each row of `first`. "
            f"Received: scores.shape={scores.shape}, first.shape={first.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"`scores` must be finite. Received: {np.count_nonzero(~np.isfinite(scores))} of {len(scores)} that are not."
        )
    cosines, scores = _cosines(first, second), scores.reshape(-1)
    for name, values in {"cosines": cosines, "`scores`": scores}.items():
        if np.ptp(values) == 0:
            raise ValueError(
                f"The {name} must not all be equal: equal ones have no order. Received: {len(values)} times {values[0]:g}."
            )
    return float(spearmanr(cosines, scores)[0])


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The cosine of each pair, float32 `(n,)`: computed in float64, so that those of parallel rows are all 1."""
    inner, first_squared, second_squared = (
        np.einsum("nd,nd->n", left, right, dtype=np.float64)
        for left, right in ((first, second), (first, first), (second, second))
    )
    lengths = np.sqrt(first_squared) * np.sqrt(second_squared)
    return np.divide(
        inner, lengths, out=np.zeros_like(inner), where=lengths > 0
    ).astype(np.float32)
