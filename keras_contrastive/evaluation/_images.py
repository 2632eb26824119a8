"""What is handed to an evaluation that takes an encoder: images, and a known class for each."""

from __future__ import annotations

import numpy as np


def labelled_images(images, labels, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as an array `(n, ...)` and their labels as integers `(n,)`.

    Args:
        images: Array `(n, ...)`.
        labels: Integers >= 0, `(n,)` or `(n, 1)`.
        part: "train" or "test": the arguments are called `{part}_images` and `{part}_labels`.

    Raises:
        ValueError: There are no images, or the labels are no such integers or not one for each image.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim < 2 or len(images) == 0:
        raise ValueError(
            f"`{part}_images` must hold at least one image, of shape (n, ...). "
            f"Received: {part}_images.shape={images.shape}."
        )
    if labels.shape not in ((len(images),), (len(images), 1)):
        raise ValueError(
            f"`{part}_labels` must hold one label for each of `{part}_images`. "
            f"Received: {part}_labels.shape={labels.shape}, {part}_images.shape={images.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        received = (
            f"{part}_labels.dtype={labels.dtype}"
            if not np.issubdtype(labels.dtype, np.integer)
            else f"{np.count_nonzero(labels < 0)} of {len(labels)} labels below 0"
        )
        raise ValueError(
            f"`{part}_labels` must be integers >= 0; leave out images of unknown class (-1). Received: {received}."
        )
    return images, labels.reshape(-1)


def class_codes(train_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes in ascending order, `(c,)`, and of each label its place among them, int64 `(n,)`.

    Raises:
        ValueError: There is one class alone.
    """
    classes, codes = np.unique(train_labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"`train_labels` must hold at least two classes. Received: class {classes[0]} alone."
        )
    return classes, codes.astype(np.int64)


def stratified_rows(codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows that hold `share` of each class, rounded, at least one; a smaller share's are among a larger one's.

    Args:
        codes: int64 `(n,)`, the class of each row, from 0.
        share: Float in (0, 1].
        seed: Integer >= 0.

    Returns:
        int64, ascending.
    """
    order = np.random.default_rng(seed).permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]  # class by class
    counts = np.bincount(codes)
    rank_in_class = np.arange(len(codes)) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    kept = np.maximum(1, np.rint(share * counts))
    return np.sort(order[rank_in_class < kept[codes[order]]])
