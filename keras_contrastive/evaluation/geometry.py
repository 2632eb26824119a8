"""The shape of a cloud of embeddings, without labels: is it spread out, or has it collapsed?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_positive
from keras_contrastive._numerics import unit_rows
from keras_contrastive.evaluation._inputs import finite_rows, paired_rows

# How many rows meet all later ones at once.
_BLOCK = 256


class Geometry(NamedTuple):
    """The figures of `geometry`."""

    alignment: float | None
    """Mean squared distance between two views of an image, 0..4; lower is better. None without views."""
    uniformity: float
    """Log of the mean Gaussian potential of all pairs, <= 0; the lower, the more evenly spread."""
    effective_rank: float
    """How many directions are in use, from 1 to min(n, dim); 0 for rows of zeros."""
    embedding_std: float
    """0 where all rows have one direction, about 1 for directions spread evenly over the sphere."""


def alignment(first, second, *, alpha: float = 2.0) -> float:
    """How far apart the two rows of a positive pair are: the mean of |x - y|^alpha of the L2-normalised rows.

    Args:
        first: Numbers `(n, dim)`, of any length.
        second: Numbers `(n, dim)`. Row i is a positive of row i of `first`, as another view of the same image.
        alpha: Float > 0.

    Returns:
        Float in 0..2^alpha; lower is better.

    Raises:
        ValueError: An array is empty or not finite, the shapes differ, or `alpha` is not positive.

    Reference:
        Wang, Isola, 2020, Understanding Contrastive Representation Learning through Alignment and Uniformity on
        the Hypersphere, Sec. 4.1.

    Example:
        >>> alignment([[1.0, 0.0]], [[0.0, 3.0]])
        2.0
    """
    first, second = paired_rows(first, second)
    check_positive(alpha=alpha)
    apart = unit_rows(first)
    apart -= unit_rows(second)
    squared = np.einsum("nd,nd->n", apart, apart, dtype=np.float64)
    return float(np.mean(squared ** (alpha / 2)))


def uniformity(rows, *, t: float = 2.0) -> float:
    """How evenly rows are spread: the log of the mean over pairs i < j of exp(-t |x_i - x_j|^2), L2-normalised.

    Exact: every pair is compared, in blocks. 0 where all rows have one direction; even on the sphere it falls
    towards -2t as dim grows.

    Args:
        rows: Numbers `(n, dim)`, n >= 2, of any length.
        t: Float > 0.

    Returns:
        Float in -4t..0; lower is better.

    Raises:
        ValueError: There are fewer than two rows, they are not finite, or `t` is not positive.

    Reference:
        Wang, Isola, 2020, Understanding Contrastive Representation Learning through Alignment and Uniformity on
        the Hypersphere, Sec. 4.1 (there t = 2).

    Example:
        >>> uniformity([[1.0, 0.0], [-3.0, 0.0]])
        -8.0
    """
    rows = finite_rows(rows, "rows")
    check_positive(t=t)
    if len(rows) < 2:
        raise ValueError(
            f"`rows` must hold at least two rows, to make a pair. Received: {len(rows)}."
        )
    unit = tf.constant(unit_rows(rows))
    potentials = []  # logs of sums: exp(-4t) alone would be 0 for a large t
    for start in range(0, len(rows) - 1, _BLOCK):  # the last row has no later one
        block = unit[start : start + _BLOCK]
        cosines = tf.matmul(block, unit[start:], transpose_b=True).numpy()
        cosines[
            np.tril_indices(len(block))
        ] = -np.inf  # each pair once, no row with itself
        potentials.append(_log_potential(cosines, t))
    num_pairs = len(rows) * (len(rows) - 1) / 2
    return float(np.logaddexp.reduce(potentials) - np.log(num_pairs))


def _log_potential(cosines: np.ndarray, t: float) -> float:
    """log of the sum of exp(-t (2 - 2 cosine)), in the memory of the cosines."""
    exponents = np.subtract(cosines, 1, out=cosines)
    np.minimum(exponents, 0, out=exponents)  # rounding may take a cosine above 1
    exponents *= 2 * t
    largest = exponents.max()
    exponents -= largest
    # Summed along rows, then in float64: one float32 sum of millions of terms would lose digits.
    sums = np.exp(exponents, out=exponents).sum(axis=1)
    return float(largest) + float(np.log(sums.sum(dtype=np.float64)))


def effective_rank(rows) -> float:
    """How many directions rows use: exp of the entropy of the singular values, divided by their sum.

    Rows are taken as they come, neither centred nor normalised. Computed in float64; singular values
    below about 1e-7 of the largest, the rounding of float32 rows, count as 0.

    Args:
        rows: Numbers `(n, dim)`.

    Returns:
        Float from 1 (all rows on one line) to min(n, dim) (equal singular values); 0 where all rows are zeros, as
        the rank is.

    Raises:
        ValueError: The rows are empty or not finite.

    Reference:
        Roy, Vetterli, 2007, The Effective Rank: A Measure of Effective Dimensionality, Sec. 2; on features, as
        RankMe: Garrido et al., 2023, RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
        Representations by Their Rank, Eq. 1 (which adds 1e-7 to each share, so that its figures are a hair larger).

    Example:
        >>> effective_rank([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        2.0
    """
    squared = np.linalg.eigvalsh(_gram(finite_rows(rows, "rows")))  # ascending
    # Below 1e-7 or so of the largest, a singular value is the rounding of float32 rows.
    rounding = len(squared) * np.finfo(np.float64).eps * squared[-1]
    used = np.sqrt(squared[squared > rounding])
    if len(used) == 0:
        return 0.0
    shares = used / used.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _gram(rows: np.ndarray) -> np.ndarray:
    """The smaller one of rows' rows and rows rows', float64, whose eigenvalues are the squared singular values."""
    if len(rows) < rows.shape[1]:
        rows = rows.T
    gram = np.zeros([rows.shape[1]] * 2)
    for start in range(0, len(rows), 4096):  # float64 holds few rows at once
        block = tf.constant(rows[start : start + 4096], tf.float64)
        gram += tf.matmul(block, block, transpose_a=True).numpy()
    return gram


def embedding_std(rows) -> float:
    """Standard deviation of the L2-normalised rows, averaged over dimensions, times sqrt(dim).

    The measure that the loss layers log, here of all rows at once: near 0 the encoder has collapsed.

    Args:
        rows: Numbers `(n, dim)`, of any length.

    Returns:
        Float in 0..1: 0 where all rows have one direction, about 1 for directions spread evenly over the sphere.

    Raises:
        ValueError: The rows are empty or not finite.

    Reference:
        Chen, He, 2021, Exploring Simple Siamese Representation Learning, Sec. 4.1.

    Example:
        >>> embedding_std([[1.0, 0.0], [2.0, 0.0]])
        0.0
    """
    unit = unit_rows(finite_rows(rows, "rows"))
    unit -= unit.mean(axis=0, dtype=np.float64).astype(np.float32)
    variance = np.einsum("nd,nd->d", unit, unit, dtype=np.float64) / len(unit)
    return float(np.sqrt(variance).mean() * np.sqrt(unit.shape[1]))


def geometry(rows, views=None) -> Geometry:
    """Alignment, uniformity, effective rank and spread of embeddings: what can be said without labels.

    Args:
        rows: Numbers `(n, dim)`, n >= 2, of any length: the effective rank is that of the rows as they come.
        views: A pair of numbers `(m, dim)`: embeddings of two views of the same images, row by row. None: no
            alignment.

    Returns:
        `Geometry(alignment, uniformity, effective_rank, embedding_std)`, each with its function's own defaults.

    Raises:
        ValueError: An array is empty or not finite, there are fewer than two rows, or `views` is not a pair of
            equal shapes.

    Example:
        >>> geometry([[1.0, 0.0], [0.0, 1.0]]).uniformity
        -4.0
    """
    if views is not None and len(views) != 2:
        raise ValueError(
            f"`views` must be a pair (first, second). Received: {len(views)} items."
        )
    return Geometry(
        alignment=None if views is None else alignment(*views),
        uniformity=uniformity(rows),
        effective_rank=effective_rank(rows),
        embedding_std=embedding_std(rows),
    )
