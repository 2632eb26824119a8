"""Train on some classes and test on others, as metric learning does."""

from __future__ import annotations

import numpy as np

from keras_contrastive.data.part import Examples


def split_by_class(
    parts: list[Examples], *, pair_ids: bool = False
) -> tuple[Examples, Examples]:
    """The first half of the classes, rounded up, to train on; the others to test on.

    Classes are in the order of their labels, and are those of all parts. Of data that bring a test part of their own,
    the training images are those of its train part, and the test images those of its test part, so that nothing is
    mixed that the data keep apart. Images of unknown class (-1) are in neither. The examples keep their order, their
    labels, and the names of all classes. Nothing is drawn.

    Args:
        parts: `[whole]`, or `[train, test]` as the data have them.
        pair_ids: The labels are ids of pairs, not classes.

    Returns:
        `(train, test)`: no class is in both, and neither is empty.

    Raises:
        ValueError: the examples are a stream, or given pairs or triplets, or have no classes, or fewer than 2; or
            the data's own part has no image of the classes that are wanted of it.

    Reference:
        Oh Song, Xiang, Jegelka, Savarese, 2016, Deep Metric Learning via Lifted Structured Feature Embedding,
        where the first half of the classes of CUB-200-2011 and of Cars196 trains, and the other half tests.
    """
    names = [""] if len(parts) == 1 else [" in the train part", " in the test part"]
    for part, of in zip(parts, names):
        _check_classes(part, of, pair_ids)
    classes = np.unique(np.concatenate([part.labels for part in parts]))
    classes = classes[classes >= 0]
    if len(classes) < 2:
        raise ValueError(
            '`split="classes"` needs 2 classes or more: one to train on, one to test on. '
            f"Found: {len(classes)}."
        )
    halves = np.split(classes, [(len(classes) + 1) // 2])
    train, test = (
        _of_classes(part, half, of)
        for part, half, of in zip((parts[0], parts[-1]), halves, (names[0], names[-1]))
    )
    return train, test


def _check_classes(part, of: str, pair_ids: bool) -> None:
    if not isinstance(part, Examples):
        found = 'a stream; use another `cache` than "none"'
    elif part.views is not None:
        found = f"given {'pairs' if part.views == 2 else 'triplets'}"
    elif pair_ids:
        found = "pair ids, which are no classes"
    elif part.labels is None:
        found = f"no labels{of}"
    else:
        return
    raise ValueError(f'`split="classes"` needs images with classes. Received: {found}.')


def _of_classes(part: Examples, classes: np.ndarray, of: str) -> Examples:
    rows = np.flatnonzero(np.isin(part.labels, classes))
    if not len(rows):
        raise ValueError(
            f'`split="classes"` needs images of the classes {classes[0]} to {classes[-1]}{of}. Found none: '
            f"its labels are {part.labels.min()} to {part.labels.max()}."
        )
    return part.take(rows)
