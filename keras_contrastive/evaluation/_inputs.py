"""What every evaluation is handed, checked once: rows to compare, and a label for each."""

from __future__ import annotations

import numpy as np


def labelled_rows(rows, labels, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows as float32 `(n, dim)` and their labels `(n,)`.

    Args:
        rows: Numbers `(n, ...)` of any rank from 2: raw pixels are flattened.
        labels: `(n,)` or `(n, 1)`: anything that sorts, integers as a rule.
        name: What the caller's argument is called; the labels' is `{name}_labels`.

    Raises:
        ValueError: The rows are empty, not finite or of rank below 2, or the labels do not belong to them.
    """
    rows, labels = np.asarray(rows), np.asarray(labels)
    if rows.ndim < 2 or rows.size == 0:
        raise ValueError(
            f"`{name}` must hold at least one row, of shape (n, dim) or (n, ...). "
            f"Received: {name}.shape={rows.shape}."
        )
    if labels.shape not in ((len(rows),), (len(rows), 1)):
        raise ValueError(
            f"`{name}_labels` must hold one label for each row of `{name}`. "
            f"Received: {name}_labels.shape={labels.shape}, {name}.shape={rows.shape}."
        )
    rows = rows.reshape(len(rows), -1).astype(np.float32, copy=False)
    broken = np.count_nonzero(~np.isfinite(rows).all(axis=1))
    if broken:
        raise ValueError(
            f"`{name}` must be finite. Received: {broken} of {len(rows)} rows with NaN or infinite values."
        )
    return rows, labels.reshape(-1)


def check_same_dim(train: np.ndarray, test: np.ndarray) -> None:
    """Raise unless both have rows of one width."""
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            "`train` and `test` must have rows of the same width. "
            f"Received: {train.shape[1]} and {test.shape[1]} numbers in a row."
        )
