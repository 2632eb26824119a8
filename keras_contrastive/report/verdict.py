"""What a person would say of a run who knows the field: did it work, what is odd, what to try next."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from keras_contrastive import data
from keras_contrastive.pictures._common import class_name
from keras_contrastive.report.measures import Evaluation

DRAWS = 20  # of the labelled images, behind the deviation of a few-label accuracy
# Below so many images a run learns little that a larger set of the same kind would not teach better.
FEW_IMAGES = 5_000
# Methods whose accuracy says how often the other view is found among all others in the batch.
WITH_NEGATIVES = ("simclr", "dcl", "nnclr", "moco_v3")
FEW_STEPS = 1_000  # fewer seldom teach an encoder anything
PROBED = 200  # images that have a say in the kNN of a training
# A confusion matrix of more classes than this would take more memory than it tells.
CONFUSED_CLASSES = 1000
MOST_ADVICE = 4


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run and how it was judged: what a report tells of.

    Attributes:
        name: What the reader calls it.
        row: What the evaluation calls its features.
        baseline: What the evaluation calls the features of the same encoder before training.
        pixels: What it calls the images themselves.
        evaluation: With both of them.
        config: How it was trained, as in `config.json`.
        history: Lists over the epochs by name, None where an epoch has no such value.
        test: The images that it was judged by.
        features: By name, features of the test images, `(m, width)`: what the map shows, the run's own last.
        views: Some images `(k, h, w, c)` and the views of them that it was trained on, or None.
        warnings: A line for whatever went wrong, in training or since.
        seconds: How long the training took, or None.
        collapsed: Whether the watch of the training says so.
    """

    name: str
    row: str
    baseline: str
    evaluation: Evaluation
    config: Mapping
    history: Mapping[str, Sequence]
    test: data.Part
    features: Mapping[str, np.ndarray]
    pixels: str = "pixels"
    views: tuple | None = None
    warnings: Sequence[str] = ()
    seconds: float | None = None
    collapsed: bool = False


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`level` is "good", "unsure", "bad" or "unknown"; `headline` a sentence, `reason` what it rests on."""

    level: str
    headline: str
    reason: str


def verdict(run: Run) -> Verdict:
    """Whether a run has worked: better than the same encoder before, by more than chance, and not worse than pixels.

    By retrieval, where classes cannot be predicted, it is compared with the encoder before alone.
    """
    measures = run.evaluation.measures
    if len(np.unique(run.evaluation.labels)) == 1 and "knn" in measures:
        found = Verdict(
            "unknown",
            "All test images are of one class, so there is nothing to tell apart.",
            "Give test images of two classes or more.",
        )
    elif "knn" in measures:
        found = _by_accuracy(run)
    elif "retrieval" in measures:
        found = _by_retrieval(run)
    else:
        found = Verdict(
            "unknown",
            "There are no labels to judge it by."
            if len(run.evaluation.labels) == 0
            else "The labels are too few to judge it by: no class of the test images is known from training or has two.",
            "Look at the neighbours below: are they alike in what matters to you?",
        )
    # An alarm in training that the figures do not bear out stays a warning.
    if run.collapsed and found.level != "good":
        return Verdict(
            "bad",
            "The features have collapsed: they differ too little from image to image.",
            found.reason,
        )
    return found


def _by_accuracy(run: Run) -> Verdict:
    reason = _sentence(run, run.baseline)
    gained, lost = _changes(run, run.baseline)
    if lost and not gained:
        return Verdict("bad", "Training made the features worse.", reason)
    if not gained:
        return Verdict(
            "unsure",
            "Not shown to have worked: no better than the untrained encoder by more than chance.",
            reason,
        )
    if run.pixels in run.evaluation.measures["knn"]:
        above, below = _changes(run, run.pixels)
        if below and not above:
            return Verdict(
                "unsure",
                "It has learned, but raw pixels are still better.",
                f"{reason} {_sentence(run, run.pixels)}",
            )
    if lost:
        return Verdict(
            "unsure",
            f"Better than {run.baseline} by {gained[0]}, worse by {lost[0]}.",
            reason,
        )
    by = " and ".join(gained)
    return Verdict("good", f"It worked: better than {run.baseline} by {by}.", reason)


def _by_retrieval(run: Run) -> Verdict:
    scores = run.evaluation.measures["retrieval"]
    after, before = (scores[name]["precision_at_1"] for name in (run.row, run.baseline))
    reason = (
        f"The most similar image is of the same class for {_percent(after)} of the test images, {_percent(before)} "
        f"{run.baseline}."
    )
    # Each share has the deviation of a coin: at twice that of the difference it is more than chance.
    queries = scores[run.row]["num_queries"]
    deviation = math.sqrt(
        (after * (1 - after) + before * (1 - before)) / max(1, queries)
    )
    if after - before > 2 * deviation:
        return Verdict("good", "It worked: better than before by search.", reason)
    if before - after > 2 * deviation:
        return Verdict("bad", "Training made the features worse.", reason)
    return Verdict(
        "unsure",
        "Not shown to have worked: no better than the untrained encoder by more than chance.",
        reason,
    )


def _changes(run: Run, other: str) -> tuple[list[str], list[str]]:
    """By which measures the run is better than another representation, and by which worse, beyond chance."""
    gained, lost = [], []
    names = {"knn": "kNN", "linear_probe": "the linear probe"}
    # Three measures are looked at, so each has to be surer: Bonferroni's correction.
    compared = run.evaluation.compare(other, run.row, level=1 - 0.05 / 3)
    for measure, found in compared.items():
        if found.significant:
            (gained if found.difference > 0 else lost).append(names[measure])
    few_label = run.evaluation.measures["few_label"]
    count = next(iter(few_label[run.row]), None)
    if count is not None and other in few_label:
        after, before = few_label[run.row][count], few_label[other][count]
        difference = after["mean"] - before["mean"]
        if abs(difference) > 2.4 * _few_label_deviation(
            (after, before), len(run.evaluation.labels)
        ):
            name = f"the accuracy from {_labels(count)}"
            (gained if difference > 0 else lost).append(name)
    return gained, lost


def _few_label_deviation(cells, images: int) -> float:
    """Of a difference of two means: by the draws of labelled images, and by which images are tested on."""
    return math.sqrt(
        sum(
            each["std"] ** 2 / DRAWS + each["mean"] * (1 - each["mean"]) / images
            for each in cells
        )
    )


def _sentence(run: Run, other: str) -> str:
    """The accuracies of a run, each with another representation's in brackets."""
    measures, parts = run.evaluation.measures, []
    few_label = measures["few_label"]
    count = next(iter(few_label[run.row]), None)
    if count is not None:
        after, before = few_label[run.row][count], few_label[other][count]
        parts.append(
            f"from {_labels(count)} {_percent(after['mean'])} ({_percent(before['mean'])})"
        )
    for measure, title in {
        "knn": "by kNN",
        "linear_probe": "by a linear probe",
    }.items():
        if other in measures.get(measure, {}):
            after, before = measures[measure][run.row], measures[measure][other]
            parts.append(f"{title} {_percent(after)} ({_percent(before)})")
    return f"Test images right (in brackets: {other}): {', '.join(parts)}."


def warnings(run: Run) -> list[str]:
    """What a reader should know before believing the figures."""
    found = list(run.warnings)
    protocol = run.evaluation.measures["protocol"]
    if not protocol:
        found.append(
            "There are no labels in train and test, so no accuracy could be measured."
        )
    elif "neighbours" not in protocol and "retrieval" in run.evaluation.measures:
        found.append(
            "Train and test have no class in common (a split by classes), so classes could not be predicted from the "
            "training images: search and clusters within the test part are judged instead."
        )
    width = _width_of_interval(run)
    if width is not None and width > 0.06:
        found.append(
            f"Only {protocol['test_images']} test images: an accuracy is known to ± {50 * width:.1f} points only."
        )
    return found


def _width_of_interval(run: Run) -> float | None:
    interval = run.evaluation.measures["intervals"].get("knn", {}).get(run.row)
    return None if interval is None else interval[1] - interval[0]


def advice(run: Run) -> list[str]:
    """What to try next, the most promising first; each with the figure that speaks for it."""
    return list(_advice(run))[:MOST_ADVICE]


def _advice(run: Run) -> Iterator[str]:
    config, history = run.config, run.history
    method = config.get("method", "")
    worked = verdict(run).level
    collapsed = run.collapsed and worked != "good"
    if collapsed:
        yield _against_collapse(method)
        yield "A smaller learning rate (--learning-rate) with the same settings; then another method."
    yield from _by_history(run, history.get("knn_accuracy", ()))
    yield from _by_task(config, history)
    if worked == "good":
        yield (
            "Use it: scripts/export.py writes a SavedModel of embeddings for search; with labels, fine-tune the whole "
            "network (--fine-tune of this script tells what that brings)."
        )
    steps = _steps(config)
    if worked in ("unsure", "bad") and steps is not None and steps < FEW_STEPS:
        yield (
            f"Train longer: {steps:,} steps in all are few. More --epochs; some thousand steps are usual, even for a small "
            "set."
        )
    if worked in ("unsure", "bad") and not collapsed:
        yield (
            "Look at the views below: can you still tell which belong together, and do they keep what tells your classes "
            "apart? If not, choose another --augment."
        )
    images = config.get("train_images")
    if images is not None and images < FEW_IMAGES:
        yield (
            f"More images: {images:,} are few"
            + (
                "."
                if method == "supcon"
                else " for learning without labels, and unlabelled ones are enough."
            )
            + (
                ""
                if config.get("init")
                else " Or begin from weights that have seen more (--init)."
            )
        )
    pair = most_confused(run)
    if pair is not None:
        yield pair


def _steps(config) -> int | None:
    """How many training steps a run had; None where its configuration does not tell."""
    known = [config.get(key) for key in ("train_images", "batch_size", "epochs")]
    if None in known:
        return None
    images, batch_size, epochs = known
    return images // batch_size * epochs


def _against_collapse(method: str) -> str:
    if method in ("byol", "simsiam"):
        return (
            f"{method} has no negatives: what keeps it from collapsing is a predictor, and that no gradient reaches its "
            "target. Check that neither was taken away; use larger batches (--batch-size)."
        )
    if method == "dino":
        return (
            "dino is kept from collapsing by centring and sharpening what its teacher says: keep the temperatures and the "
            "momentum of its paper (--settings paper), and use larger batches (--batch-size)."
        )
    if method in ("vicreg", "barlow_twins", "swav"):
        return (
            f"{method} is kept apart by statistics of the batch: use larger batches (--batch-size) and the weights of its "
            "paper (--settings paper)."
        )
    if method in ("siamese", "triplet"):
        return "A larger --margin, and negatives that are easier: the hardest ones draw everything to one point."
    return "More negatives: larger batches (--batch-size)."


def _by_history(run: Run, values) -> Iterator[str]:
    known = [(epoch, v) for epoch, v in enumerate(values, 1) if v is not None]
    if len(known) < 3:
        return
    third = len(values) / 3
    recent = [v for epoch, v in known if epoch > 2 * third] or [known[-1][1]]
    earlier = [v for epoch, v in known if third < epoch <= 2 * third] or [known[0][1]]
    before, after = float(np.mean(earlier)), float(np.mean(recent))
    # Twice the deviation of an accuracy that so many images have a say in: less is noise.
    noise = 2 * math.sqrt(max(after * (1 - after), 0.01) / PROBED)
    epochs = run.config.get("epochs", len(values))
    best_epoch, best = max(known, key=lambda each: each[1])
    if after > before + noise / 2:
        yield (
            f"Train longer: kNN was still rising at the end ({_percent(before)} to {_percent(after)} from the second third to "
            f"the last). --epochs {2 * epochs}, or go on from this encoder with --init."
        )
    elif best > after + noise:
        yield (
            f"kNN was best in epoch {best_epoch} ({_percent(best)}) and {_percent(after)} at the end: fewer epochs, "
            "stronger views, or a smaller learning rate."
        )


def _by_task(config, history) -> Iterator[str]:
    values = [v for v in history.get("accuracy", ()) if v is not None]
    if not values or config.get("method") not in WITH_NEGATIVES:
        return
    drawn = config.get("augment") == "digits"  # never mirrored or recoloured
    if values[-1] > 0.95:
        views = "" if drawn else "Stronger views (--augment simclr), "
        yield (
            f"Make the task harder: the other view is found among all in {_percent(values[-1])} of the cases, so little is "
            f"left to learn. {views}{'l' if views else 'L'}arger batches, or a smaller --temperature."
        )
    elif values[-1] < 0.1:
        views = "" if drawn else "Weaker views (--augment weak), or "
        yield (
            f"Make the task easier: the other view is found among all in only {_percent(values[-1])} of the cases. "
            f"{views}{'m' if views else 'M'}ore epochs."
        )


def most_confused(run: Run) -> str | None:
    """The two classes that the probe mixes up most, as a sentence; None where it mixes up few."""
    matrix, classes = confusion(run)
    if matrix is None:
        return None
    both = np.triu(matrix + matrix.T, 1)
    first, second = np.unravel_index(both.argmax(), both.shape)
    total = matrix[[first, second]].sum()
    if both[first, second] < 0.05 * total:
        return None
    one, other = (
        class_name(classes[at], run.test.class_names) for at in (first, second)
    )
    return (
        f"“{one}” and “{other}” are mixed up most ({both[first, second]} of {total} images): do the views erase what "
        "tells them apart?"
    )


def confusion(run: Run) -> tuple[np.ndarray | None, np.ndarray]:
    """How often the probe takes a class for another: int `(true, predicted)`, and the classes; None without a probe, or of very many."""
    predictions = run.evaluation.predictions
    measure = "linear_probe" if "linear_probe" in predictions else "knn"
    if measure not in predictions:
        return None, np.arange(0)
    guesses, labels = predictions[measure][run.row], run.evaluation.labels
    if len(np.unique(labels)) > CONFUSED_CLASSES:
        return None, np.arange(0)
    classes, codes = np.unique(np.concatenate([labels, guesses]), return_inverse=True)
    true, guessed = np.split(codes.reshape(-1), 2)
    cells = np.bincount(true * len(classes) + guessed, minlength=len(classes) ** 2)
    return cells.reshape(len(classes), len(classes)), classes


def _labels(count: str) -> str:
    return f"{count} label{'s' if count != '1' else ''} per class"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
