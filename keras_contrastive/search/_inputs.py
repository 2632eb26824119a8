"""What an index is handed: rows to compare, and a number or a name for each."""

from __future__ import annotations

import numbers

import numpy as np

from keras_contrastive._numerics import unit_rows


def as_array(rows, name: str) -> np.ndarray:
    """An array of what was given.

    Raises:
        ValueError: Its rows are of different lengths.
    """
    try:
        return np.asarray(rows)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must hold rows of one length. Received: {name} of {type(rows).__name__}, which NumPy makes "
            "no array of."
        ) from error


def unit_embeddings(rows, name: str, dim: int | None) -> np.ndarray:
    """Rows of unit length, float32 `(n, dim)`; rows of zeros stay zero.

    Args:
        rows: Numbers `(n, dim)`; n may be 0.
        name: What the caller's argument is called.
        dim: The width they must have, None for any.

    Raises:
        ValueError: The rows are no finite numbers, or not of that shape.
    """
    rows = as_array(rows, name)
    if rows.ndim != 2 or rows.shape[1] == 0 or dim not in (None, rows.shape[1]):
        width = "dim" if dim is None else dim
        raise ValueError(
            f"`{name}` must be of shape (n, {width}). Received: {name}.shape={rows.shape}."
        )
    if rows.dtype.kind in "OSUcmM":
        raise ValueError(
            f"`{name}` must be real numbers. Received: {name}.dtype={rows.dtype}."
        )
    if rows.dtype.kind == "f" and rows.dtype.itemsize > 4:
        # float32 ends at 3e38. Not finite rows stay so, for the check.
        with np.errstate(invalid="ignore"):
            largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
            rows = rows / np.where(largest == 0, 1, largest)
    rows = rows.astype(np.float32, copy=False)
    broken = np.count_nonzero(~np.isfinite(rows).all(axis=1))
    if broken:
        raise ValueError(
            f"`{name}` must be finite. Received: {broken} of {len(rows)} rows with NaN or infinite values."
        )
    return unit_rows(rows)


def as_ids(ids) -> np.ndarray:
    """Ids as int64 `(n,)`, or as an object array `(n,)` of str.

    Raises:
        ValueError: They are neither all integers nor all strings, or not of rank 1.
    """
    if hasattr(ids, "numpy"):
        ids = ids.numpy()
    elif isinstance(ids, str) or not hasattr(ids, "__len__"):
        ids = np.asarray(ids)
    elif not isinstance(ids, np.ndarray):
        # np.asarray would make strings of the integers among strings.
        ids = np.fromiter(ids, object, len(ids))
    if ids.ndim != 1:
        raise ValueError(
            f"`ids` must have rank 1, an id for each row. Received: ids.shape={ids.shape}."
        )
    if ids.dtype.kind == "U" or _all(ids, str):
        names = np.empty(len(ids), object)
        names[:] = [str(name) for name in ids.tolist()]
        if any("\0" in name for name in names):
            raise ValueError("`ids` must not hold the character NUL. Received: one.")
        return names
    try:
        if ids.dtype.kind in "iu" or _all(ids, numbers.Integral):
            return np.array(ids.tolist(), np.int64)
    except OverflowError:
        pass
    if not len(ids):
        return np.zeros(0, np.int64)
    kinds = sorted({type(one).__name__ for one in ids.tolist()})
    raise ValueError(
        f"`ids` must be all integers of 64 bits or all strings. Received: ids of {', '.join(kinds)}."
    )


def _all(ids: np.ndarray, kind: type) -> bool:
    if ids.dtype != object or not len(ids):
        return False
    return all(isinstance(one, kind) and not isinstance(one, bool) for one in ids)
