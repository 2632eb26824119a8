"""What every evaluation is handed, checked once: rows to compare, and a label for each."""

from __future__ import annotations

import numpy as np


def finite_rows(rows, name: str) -> np.ndarray:
    """Rows as float32 `(n, dim)`.

    Args:
        rows: Numbers `(n, ...)` of any rank from 2: raw pixels are flattened.
        name: What the caller's argument is called.

    Raises:
        ValueError: The rows are empty, not finite or of rank below 2.
    """
    rows = np.asarray(rows)
    if rows.ndim < 2 or rows.size == 0:
        raise ValueError(
            f"`{name}` must hold at least one row, of shape (n, dim) or (n, ...). "
            f"Received: {name}.shape={rows.shape}."
        )
    rows = rows.reshape(len(rows), -1).astype(np.float32, copy=False)
    broken = np.count_nonzero(~np.isfinite(rows).all(axis=1))
    if broken:
        raise ValueError(
            f"`{name}` must be finite. Received: {broken} of {len(rows)} rows with NaN or infinite values."
        )
    return rows


def labelled_rows(
    rows, labels, name: str, labels_name: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows as float32 `(n, dim)` and their labels `(n,)`.

    Args:
        rows: Numbers `(n, ...)` of any rank from 2: raw pixels are flattened.
        labels: `(n,)` or `(n, 1)`: anything that sorts, integers as a rule.
        name: What the caller's argument is called.
        labels_name: What the labels' is called; `{name}_labels` where it is not given.

    Raises:
        ValueError: The rows are empty, not finite or of rank below 2, or the labels do not belong to them.
    """
    labels_name = labels_name or f"{name}_labels"
    rows, labels = finite_rows(rows, name), np.asarray(labels)
    if labels.shape not in ((len(rows),), (len(rows), 1)):
        raise ValueError(
            f"`{labels_name}` must hold one label for each row of `{name}`. "
            f"Received: {labels_name}.shape={labels.shape}, {name}.shape={rows.shape}."
        )
    return rows, labels.reshape(-1)


def paired_rows(first, second) -> tuple[np.ndarray, np.ndarray]:
    """`first` and `second` as float32 `(n, dim)` both: row i of the one belongs to row i of the other.

    Raises:
        ValueError: The rows are empty, not finite or of rank below 2, or the shapes differ.
    """
    first, second = finite_rows(first, "first"), finite_rows(second, "second")
    if first.shape != second.shape:
        raise ValueError(
            "`first` and `second` must have the same shape (n, dim). "
            f"Received: first.shape={first.shape}, second.shape={second.shape}."
        )
    return first, second


def check_same_dim(
    first: np.ndarray, second: np.ndarray, names: tuple[str, str] = ("train", "test")
) -> None:
    """Raise unless both have rows of one width."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must have rows of the same width. "
            f"Received: {first.shape[1]} and {second.shape[1]} numbers in a row."
        )
