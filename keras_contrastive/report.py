"""What a run has reached, measured the same way wherever it is told: accuracies by representation."""

from __future__ import annotations

import numpy as np

from keras_contrastive import data, evaluation

LABELS_PER_CLASS = (1, 5, 10)
NEIGHBOURS, TEMPERATURE = 20, 0.1


def measure(
    source: data.Source, features: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict:
    """Few-label and kNN accuracy on the test part, for each of several representations.

    Few-label accuracy is measured at 1, 5 and 10 labels of each class (fewer columns where a class of the
    training part has fewer images), the kNN accuracy with 20 neighbours and temperature 0.1, all labels known.

    Args:
        source: Labelled train and test parts.
        features: By name, the features of the train and the test images: `(n, width)` each, or images.

    Returns:
        `{"few_label": {name: {"1": {"mean", "std"}, ...}}, "knn": {name: accuracy}}`, fractions of 1; an empty
        dict where the source has no labels.
    """
    train_rows, test_rows = labelled_rows(source.train), labelled_rows(source.test)
    if len(train_rows) == 0 or len(test_rows) == 0:
        return {}
    train_labels, test_labels = (
        source.train.labels[train_rows],
        source.test.labels[test_rows],
    )
    fewest = np.unique(train_labels, return_counts=True)[1].min()
    counts = [count for count in LABELS_PER_CLASS if count <= fewest]
    neighbours = min(NEIGHBOURS, len(train_labels))
    few_label, knn = {}, {}
    for name, (train, test) in features.items():
        known = (train[train_rows], train_labels, test[test_rows], test_labels)
        few_label[name] = {}
        for count in counts:
            found = evaluation.few_label_accuracy(*known, labels_per_class=count)
            few_label[name][str(count)] = {"mean": found.mean, "std": found.std}
        knn[name] = evaluation.knn_accuracy(
            *known, k=neighbours, temperature=TEMPERATURE
        )
    return {"few_label": few_label, "knn": knn}


def labelled_rows(part: data.Part) -> np.ndarray:
    """The numbers of the images whose class is known: a label of -1 is none. int64 `(n,)`."""
    if part.labels is None:
        return np.arange(0)
    return np.flatnonzero(part.labels >= 0)


def table(measures: dict, *, title: str = "") -> object:
    """The measures as a `rich.table.Table`, in percent, one row for each representation."""
    from rich.table import Table

    result = Table(title=title, title_justify="left")
    result.add_column("representation")
    counts = list(next(iter(measures["few_label"].values())))
    for count in counts:
        result.add_column(
            f"{count} label{'s' if count != '1' else ''} per class", justify="right"
        )
    result.add_column("kNN, all labels", justify="right")
    for name, by_count in measures["few_label"].items():
        cells = [
            f"{100 * by_count[c]['mean']:.1f} ± {100 * by_count[c]['std']:.1f}"
            for c in counts
        ]
        result.add_row(name, *cells, f"{100 * measures['knn'][name]:.1f}")
    return result
