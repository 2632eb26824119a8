"""Is it more than chance? Intervals and paired tests over the examples of a test part."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_contrastive._checks import check_integer

# How many drawn numbers are held at once.
_BLOCK = 2**22


class Interval(NamedTuple):
    """A mean and the interval about it."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """How much better the second of two is."""

    difference: float
    """Mean of the second minus mean of the first: above 0 where the second is larger."""
    low: float
    """Lower end of the interval of the difference."""
    high: float
    """Upper end."""
    p_value: float
    """How often a difference at least as large, of either sign, comes about where the two are interchangeable."""
    significant: bool
    """Whether `p_value` is below 1 - level."""


def confidence_interval(
    values, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """The mean of values and its percentile bootstrap interval.

    As many values as there are are drawn with replacement, `draws` times; the interval holds the middle `level`
    of the means. It covers the chance in which examples were tested, not that in training.

    Args:
        values: Numbers or booleans `(n,)`, one for each test example, such as `predictions == labels`.
        level: Float between 0 and 1.
        draws: Integer >= 1.
        seed: Integer >= 0.

    Returns:
        `Interval(mean, low, high)`, in units of the values.

    Raises:
        ValueError: The values are empty, not finite or of another rank, or an option is out of its range.

    Reference:
        Efron, 1979, Bootstrap Methods: Another Look at the Jackknife; Efron, Tibshirani, 1993, An Introduction to
        the Bootstrap, Sec. 13.3.

    Example:
        >>> confidence_interval([True] * 50)
        Interval(mean=1.0, low=1.0, high=1.0)
    """
    values = _checked("values", values)
    _check_options(level, draws, seed)
    rng = np.random.default_rng(seed)

    def draw(count):
        return values[rng.integers(0, len(values), (count, len(values)))].mean(axis=1)

    low, high = np.quantile(
        _in_blocks(draw, draws, len(values)), [(1 - level) / 2, (1 + level) / 2]
    )
    return Interval(float(values.mean()), float(low), float(high))


def compare(
    first, second, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Comparison:
    """Whether the second of two models does better than the first on the same examples, and by how much.

    Paired: only the differences example by example count, so that an example that both get right says nothing.
    The interval is `confidence_interval` of the differences. The p-value is two-sided, by a permutation test that
    gives each difference a random sign: (1 + as large ones) / (1 + draws), so it is never 0.

    Args:
        first: Numbers or booleans `(n,)`, one for each test example, such as `predictions == labels`.
        second: Numbers or booleans `(n,)` of the same examples in the same order.
        level: Float between 0 and 1.
        draws: Integer >= 1, both of the bootstrap and of the permutations. The p-value is at least 1 / (1 + draws).
        seed: Integer >= 0.

    Returns:
        `Comparison(difference, low, high, p_value, significant)`.

    Raises:
        ValueError: The values are empty, not finite, of another rank or of different lengths, or an option is out
            of its range.

    Reference:
        Fisher, 1935, The Design of Experiments, Sec. 21 (the test); Phipson, Smyth, 2010, Permutation P-values
        Should Never Be Zero, Eq. 2 (its exact form).

    Example:
        >>> compare([1, 0, 1], [1, 0, 1])
        Comparison(difference=0.0, low=0.0, high=0.0, p_value=1.0, significant=False)
    """
    first, second = _checked("first", first), _checked("second", second)
    if len(first) != len(second):
        raise ValueError(
            "`first` and `second` must hold values of the same examples. "
            f"Received: {len(first)} and {len(second)} values."
        )
    differences = second - first
    interval = confidence_interval(differences, level=level, draws=draws, seed=seed)
    p_value = _sign_flip_p_value(differences, draws, seed)
    return Comparison(*interval, p_value, bool(p_value < 1 - level))


def _sign_flip_p_value(differences: np.ndarray, draws: int, seed: int) -> float:
    differing = differences[differences != 0]
    rng = np.random.default_rng([seed, 1])  # not the numbers of the bootstrap

    def draw(count):
        flipped = rng.integers(0, 2, (count, len(differing)), np.int8)
        return differing.sum() - 2 * (flipped @ differing)

    sums = _in_blocks(draw, draws, len(differing))
    # The same sum in another order differs in its last digits, and counts as the same.
    rounding = 1e-12 * np.abs(differing).sum()
    as_large = np.count_nonzero(np.abs(sums) >= abs(differing.sum()) - rounding)
    return float((1 + as_large) / (1 + draws))


def _in_blocks(draw: Callable, draws: int, size: int) -> np.ndarray:
    """`draw(count)` gives `count` figures of `size` drawn numbers each. Returns `draws` of them, `(draws,)`."""
    block = max(1, _BLOCK // max(1, size))
    starts = range(0, draws, block)
    return np.concatenate([draw(min(block, draws - start)) for start in starts])


def _checked(name: str, values) -> np.ndarray:
    """The values as float64 `(n,)`."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"`{name}` must hold at least one value, of shape (n,). Received: {name}.shape={values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"`{name}` must be finite. Received: {np.count_nonzero(~np.isfinite(values))} of {len(values)} that are not."
        )
    return values


def _check_options(level, draws, seed) -> None:
    if (
        isinstance(level, bool)
        or not isinstance(level, numbers.Real)
        or not 0 < level < 1
    ):
        raise ValueError(
            f"`level` must be a number between 0 and 1. Received: level={level!r}."
        )
    check_integer(1, draws=draws)
    check_integer(0, seed=seed)
