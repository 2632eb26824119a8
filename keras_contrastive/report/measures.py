"""What features are worth, measured the same way wherever it is told: every measure by representation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from keras_contrastive import data, evaluation

LABELS_PER_CLASS = (1, 5, 10)
NEIGHBOURS, TEMPERATURE = 20, 0.1
# The field's number of neighbours; fewer training images than this have too few of each class for it.
FIELD_NEIGHBOURS, FIELD_FROM = 200, 10_000
# The pixels of larger images are not probed: it would take more time and memory than all else.
PROBED_COLUMNS = 4096
# Clustering looks at so many test images at most.
CLUSTERED = 5_000
# What two runs are compared by: these give a right or wrong for every test image.
COMPARED = ("knn", "linear_probe")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        measures: Plain numbers, fit for JSON: measure -> representation -> its value or values. `few_label`: by labels
            per class `mean` and `std`; `knn`, `knn_200`, `linear_probe`: an accuracy; `retrieval`, `clustering`,
            `geometry`: the fields of the results in `evaluation`; `intervals`: of the accuracies the 95 % bootstrap
            intervals over test images, measure -> representation -> `[low, high]`; `protocol`: how it was measured.
        predictions: Measure -> representation -> the class predicted for every labelled test image, `(m,)`.
        labels: The classes of those images, `(m,)`; empty where there are none to predict.
    """

    measures: dict
    predictions: dict
    labels: np.ndarray
    _compared: dict = dataclasses.field(default_factory=dict, repr=False)

    def right(self, measure: str, name: str) -> np.ndarray:
        """Which of the labelled test images a representation gets right. Bool `(m,)`."""
        return self.predictions[measure][name] == self.labels

    def compare(
        self, first: str, second: str, *, level: float = 0.95
    ) -> dict[str, evaluation.Comparison]:
        """By measure, whether `second` is better or worse than `first` by more than chance, image by image."""
        if (first, second, level) not in self._compared:  # it takes seconds
            self._compared[first, second, level] = {
                measure: evaluation.compare(
                    self.right(measure, first),
                    self.right(measure, second),
                    level=level,
                )
                for measure in COMPARED
                if {first, second} <= set(self.predictions.get(measure, ()))
            }
        return self._compared[first, second, level]


def measure(
    source: data.Source, features: dict[str, tuple[np.ndarray, np.ndarray]]
) -> dict:
    """Few-label and kNN accuracy on the test part, for each of several representations: in seconds.

    Few-label accuracy is measured at 1, 5 and 10 labels of each class (fewer columns where a class of the
    training part has fewer images), the kNN accuracy with 20 neighbours and temperature 0.1, all labels known.
    Test classes that do not occur in training (`split="classes"`) cannot be predicted: there, precision@1 and MAP@R
    of retrieval within the test part.

    Args:
        source: Labelled train and test parts.
        features: By name, the features of the train and the test images: `(n, width)` each, or images.

    Returns:
        `{"few_label": {name: {"1": {"mean", "std"}, ...}}, "knn": {name: accuracy}}`, or
        `{"retrieval": {name: {...}}}`, fractions of 1; an empty dict where the source has no labels.
    """
    known = _Known.of(source)
    if known is None:
        return {}
    if not known.share_classes and not known.has_relatives:
        return {}
    if not known.share_classes:
        return {"retrieval": _by_name(known.retrieval, features)}
    return {
        "few_label": _by_name(known.few_label, features),
        "knn": _by_name(lambda rows: known.knn(rows, NEIGHBOURS)[0], features),
    }


def evaluate(
    source: data.Source,
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    views: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """All that can be said of representations without training a network: `measure`, and more.

    Few-label accuracy; kNN with 20 neighbours and, from 10,000 training images, with the field's 200; a linear probe;
    retrieval and k-means within the test part; geometry. Where train and test have no class in common
    (`split="classes"`) the last three; without labels the geometry alone.

    Args:
        source: Train and test parts.
        features: By name, the features of the train and the test images: `(n, width)` each, or images.
        views: By name, the features of two views of some images, `(k, width)` each: for the alignment.
        progress: Called with the name of each measure that begins.

    Returns:
        An `Evaluation`.
    """
    progress = progress or (lambda line: None)
    known, views = _Known.of(source), views or {}
    found: dict = {"protocol": _protocol(known), "intervals": {}}
    predictions: dict = {}

    def each(measure: str, take, of=features) -> None:
        progress(measure.replace("_", " "))
        for name, rows in of.items():
            found.setdefault(measure, {})[name] = take(name, rows)

    def predicted(measure: str, take, of=features) -> None:
        def by_prediction(name, rows):
            accuracy, guesses = take(rows)
            predictions.setdefault(measure, {})[name] = guesses
            interval = evaluation.confidence_interval(guesses == known.test_labels)
            of_measure = found["intervals"].setdefault(measure, {})
            of_measure[name] = [interval.low, interval.high]
            return accuracy

        each(measure, by_prediction, of)

    if known is not None and known.share_classes:
        each("few_label", lambda name, rows: known.few_label(rows))
        predicted("knn", lambda rows: known.knn(rows, NEIGHBOURS))
        if len(known.train_rows) >= FIELD_FROM:
            predicted("knn_200", lambda rows: known.knn(rows, FIELD_NEIGHBOURS))
        if known.can_probe:
            narrow = {
                name: rows
                for name, rows in features.items()
                if np.prod(rows[0].shape[1:]) <= PROBED_COLUMNS
            }
            predicted("linear_probe", known.linear_probe, narrow)
    if known is not None and known.has_relatives:
        each("retrieval", lambda name, rows: known.retrieval(rows))
        each("clustering", lambda name, rows: known.clustering(rows))
    each(
        "geometry",
        lambda name, rows: evaluation.geometry(rows[1], views.get(name))._asdict(),
    )
    labels = np.arange(0) if known is None else known.test_labels
    return Evaluation(found, predictions, labels)


class _Known:
    """The labelled rows of a source, and what can be measured by them."""

    def __init__(self, train_rows, train_labels, test_rows, test_labels):
        self.train_rows, self.train_labels = train_rows, train_labels
        self.test_rows, self.test_labels = test_rows, test_labels
        classes, counts = np.unique(train_labels, return_counts=True)
        self.smallest_class = counts.min()
        self.share_classes = bool(np.isin(test_labels, classes).any())
        self.can_probe = len(classes) > 1
        self.has_relatives = bool(
            (np.unique(test_labels, return_counts=True)[1] > 1).any()
        )

    @classmethod
    def of(cls, source) -> _Known | None:
        rows = [labelled_rows(part) for part in (source.train, source.test)]
        if not all(map(len, rows)):
            return None
        return cls(
            rows[0], source.train.labels[rows[0]], rows[1], source.test.labels[rows[1]]
        )

    def _arguments(self, features) -> tuple:
        train, test = features
        return (
            train[self.train_rows],
            self.train_labels,
            test[self.test_rows],
            self.test_labels,
        )

    def few_label(self, features) -> dict:
        found = {}
        for count in LABELS_PER_CLASS:
            if count <= self.smallest_class:
                accuracy = evaluation.few_label_accuracy(
                    *self._arguments(features), labels_per_class=count
                )
                found[str(count)] = accuracy._asdict()
        return found

    def knn(self, features, neighbours: int) -> tuple[float, np.ndarray]:
        guesses = evaluation.knn_predictions(
            *self._arguments(features)[:3],
            k=min(neighbours, len(self.train_rows)),
            temperature=TEMPERATURE,
        )
        return float(np.mean(guesses == self.test_labels)), guesses

    def linear_probe(self, features) -> tuple[float, np.ndarray]:
        result = evaluation.linear_probe(*self._arguments(features))
        return result.accuracy, result.predictions

    def retrieval(self, features) -> dict:
        rows = features[1][self.test_rows]
        scores = evaluation.retrieval(rows, self.test_labels)._asdict()
        at = {str(k): value for k, value in scores["recall_at_k"].items()}
        return {**scores, "recall_at_k": at}

    def clustering(self, features) -> dict:
        rows, labels = features[1][self.test_rows], self.test_labels
        some = np.random.default_rng(0).permutation(len(rows))[:CLUSTERED]
        return evaluation.clustering(rows[some], labels[some])._asdict()


def _by_name(take, features) -> dict:
    return {name: take(rows) for name, rows in features.items()}


def _protocol(known) -> dict:
    """How it was measured, in numbers."""
    if known is None:
        return {}
    protocol = {
        "train_images": len(known.train_rows),
        "test_images": len(known.test_rows),
        "temperature": TEMPERATURE,
        "interval": "95 %, bootstrap over the test images",
    }
    if known.share_classes:
        protocol["neighbours"] = min(NEIGHBOURS, len(known.train_rows))
    return protocol


def labelled_rows(part: data.Part) -> np.ndarray:
    """The numbers of the images whose class is known: a label of -1 is none. int64 `(n,)`."""
    if part.labels is None:
        return np.arange(0)
    return np.flatnonzero(part.labels >= 0)


@dataclasses.dataclass(frozen=True)
class Column:
    """A measure as tables show it."""

    title: str
    note: str
    """What it means, in half a sentence."""
    value: Callable[[dict, str], float | None]
    """Of measures and the name of a representation; None where it was not measured."""
    spread: Callable[[dict, str], float | None] = lambda measures, name: None
    interval: Callable[[dict, str], list | None] = lambda measures, name: None
    percent: bool = True

    def text(self, measures: dict, name: str) -> str:
        """The cell: percent with a spread where there is one."""
        value, spread = self.value(measures, name), self.spread(measures, name)
        if value is None:
            return "-"
        scale = 100 if self.percent else 1
        shown = f"{scale * value:.1f}"
        return shown if spread is None else f"{shown} ± {scale * spread:.1f}"


def columns(measures: dict) -> Iterator[Column]:
    """The columns that there are measures for, in the order of tables."""
    for count in _keys(measures, "few_label"):
        yield _few_label_column(count)
    for column, measured in _COLUMNS:
        if measured(measures):
            yield column
    for share in _keys(measures, "fine_tune"):
        yield _fine_tuned_column(share)


def _keys(measures: dict, measure: str) -> list[str]:
    """What a measure was taken at, in order: numbers of labels, shares."""
    values = measures.get(measure, {}).values()
    return list(dict.fromkeys(key for by_key in values for key in by_key))


def _fine_tuned_column(share: str) -> Column:
    percent = f"{100 * float(share):g} %"
    return Column(
        f"fine-tuned, {percent}",
        f"the whole network trained on {percent} of the labels",
        lambda measures, name: measures["fine_tune"].get(name, {}).get(share),
    )


def _few_label_column(count: str) -> Column:
    def at(key):
        return lambda measures, name: (
            measures["few_label"].get(name, {}).get(count, {}).get(key)
        )

    return Column(
        f"{count} label{'s' if count != '1' else ''} per class",
        "nearest labelled image, when so many of each class are known; mean and deviation over 20 draws",
        at("mean"),
        spread=at("std"),
    )


def _accuracy_column(measure: str, title: str, note: str) -> tuple:
    column = Column(
        title,
        note,
        lambda measures, name: measures[measure].get(name),
        interval=lambda measures, name: (
            measures.get("intervals", {}).get(measure, {}).get(name)
        ),
    )
    return column, lambda measures: bool(measures.get(measure))


def _field_column(measure: str, field: str, title: str, note: str, *, percent=True):
    column = Column(
        title,
        note,
        lambda measures, name: measures[measure].get(name, {}).get(field),
        percent=percent,
    )
    return column, lambda measures: bool(measures.get(measure))


_COLUMNS = [
    _accuracy_column(
        "knn",
        "kNN, all labels",
        "vote of the 20 most similar training images, or of all if they are fewer",
    ),
    _accuracy_column(
        "knn_200", "kNN, k = 200", "the same with 200, as papers report it"
    ),
    _accuracy_column(
        "linear_probe", "linear probe", "logistic regression on the features"
    ),
    _accuracy_column(
        "sgd_probe",
        "SGD probe",
        "a linear layer trained on the features of augmented images",
    ),
    _field_column(
        "retrieval",
        "precision_at_1",
        "precision@1",
        "the most similar test image is of the same class",
    ),
    _field_column(
        "retrieval",
        "map_at_r",
        "MAP@R",
        "how well whole classes come first in a search",
    ),
    _field_column(
        "clustering", "nmi", "NMI", "how much k-means clusters say about the classes"
    ),
    _field_column(
        "geometry",
        "effective_rank",
        "eff. rank",
        "how many directions the features use; compare it between encoders of one kind",
        percent=False,
    ),
]


def table(measures: dict, *, title: str = "") -> object:
    """The measures as a `rich.table.Table`, in percent, one row for each representation."""
    from rich.table import Table

    result = Table(title=title, title_justify="left")
    result.add_column("representation")
    shown = list(columns(measures))
    for column in shown:
        result.add_column(column.title, justify="right")
    for name in representations(measures):
        result.add_row(name, *(column.text(measures, name) for column in shown))
    return result


def representations(measures: dict) -> list[str]:
    """The names of all that was measured, in order."""
    known = ("few_label", "knn", "retrieval", "geometry")
    return list(dict.fromkeys(name for key in known for name in measures.get(key, {})))
