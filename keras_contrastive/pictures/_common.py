"""What all pictures share: figures without pyplot, and arrays checked once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUIET = "0.4"


def new_figure(width: float, height: float, **options) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure to a file; the suffix says the format (.png, .pdf, .svg).

    Args:
        figure: What a function of this module returned.
        path: File to write; its folder must exist.
    """
    figure.savefig(path, dpi=120, facecolor="white")


def as_rgb(images, name: str) -> np.ndarray:
    """Pictures as uint8 `(n, height, width, 3)`; grey ones, and those of odd channels by their mean, in grey."""
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0:
        raise ValueError(
            f"`{name}` must have shape (n, height, width, channels) and hold at least one image. "
            f"Received: {name}.shape={images.shape}."
        )
    if images.dtype != np.uint8:
        images = np.round(np.clip(images.astype(np.float32), 0, 1) * 255).astype(
            np.uint8
        )
    if images.shape[-1] != 3:
        images = (
            images.mean(axis=-1, keepdims=True)
            .round()
            .astype(np.uint8)
            .repeat(3, axis=-1)
        )
    return images


def as_rows(rows, name: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim < 2 or rows.size == 0:
        raise ValueError(
            f"`{name}` must have shape (n, dim) and not be empty. Received: shape {rows.shape}."
        )
    rows = rows.reshape(len(rows), -1).astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinite values.")
    return rows


def as_labels(labels, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels).reshape(-1)
    check_length("labels", labels, count, minimum=0)
    return labels


def check_length(name: str, array: np.ndarray, count: int, *, minimum: int) -> None:
    if len(array) != count or count < minimum:
        raise ValueError(
            f"`{name}` must have one entry for each of the images, and at least {minimum}. "
            f"Received: {len(array)} entries for {count}."
        )


def class_name(label, class_names) -> str:
    """The name of a class; of an integer without one the number, of -1 "unknown"; anything else as it is."""
    if not isinstance(label, (int, np.integer)):
        return str(label)
    if label < 0:
        return "unknown"
    known = class_names is not None and label < len(class_names)
    return str(class_names[label]) if known else str(label)


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: no formula between dollars, no name hidden by a leading underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def shortened(text: str, limit: int = 18) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
