"""One page about one or more runs, in a single file that needs no network: what was trained, did it work, what next.

The order is that of a reader's questions: the verdict, what to try next and what to be wary of come before any table.
Everything that a folder or a file may be called is escaped.
"""

from __future__ import annotations

import colorsys
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from keras_contrastive import pictures
from keras_contrastive.pictures._common import as_rows, class_name
from keras_contrastive.pictures.sheets import neighbours_of
from keras_contrastive.report._html import (
    Html,
    document,
    figure,
    json_data,
    sprite,
    tag,
)
from keras_contrastive.report.measures import Column, columns, representations
from keras_contrastive.report.verdict import (
    Run,
    advice,
    confusion,
    verdict,
    warnings,
)

MOST_POINTS = 1200  # in the maps of a page, over all runs
THUMBNAIL = 40  # pixels of the longer side, at most
NEAR = 8  # images shown as similar to the one under the pointer
MOST_CLASSES = 20  # named in a legend or a confusion matrix

# Title of a panel of curves -> (what the history calls it, the name of its line).
_CURVES = {
    "Loss": {"loss": "training", "val_loss": "validation"},
    "kNN accuracy during training": {"knn_accuracy": ""},
    "Positive is the most similar (accuracy)": {"accuracy": ""},
    "Cosine similarity": {
        "positive_similarity": "positives",
        "negative_similarity": "negatives",
    },
    "Spread of embeddings (0: collapsed)": {"embedding_std": ""},
    "Effective rank of features": {"effective_rank": ""},
    "Alignment (lower: views closer)": {"alignment": ""},
    "Uniformity (lower: more even)": {"uniformity": ""},
    "Linear probe during training": {"linear_probe_accuracy": ""},
    "Learning rate": {"learning_rate": ""},
    "Images per second": {"images_per_second": ""},
}


def page(
    runs: Sequence[Run], *, measures: Mapping, title: str, comparisons=(), about=""
) -> str:
    """The report of one or more runs.

    Args:
        runs: At least one.
        measures: Of all representations of all runs: see `Evaluation.measures`.
        title: Of the page.
        comparisons: Of pairs of runs: `(name, other name, measure, evaluation.Comparison)`.
        about: How the page was made: a command, versions.

    Returns:
        A complete HTML document.
    """
    body = [_head(runs, title)]
    if len(runs) == 1:
        body += [*_first_answers(runs[0])]
    else:
        body.append(_in_short(runs))
    body += [_table(measures, runs), _differences(comparisons), _curves(runs)]
    points = max(150, MOST_POINTS // len(runs))
    for number, run in enumerate(runs):
        parts = [
            *(_first_answers(run) if len(runs) > 1 else ()),
            _map(run, number, points),
            _neighbours(run),
            _confusion(run),
            _views(run),
            _configuration(run),
        ]
        if len(runs) > 1:
            shown = tag("summary", f"{run.name} in detail")
            parts = [tag("details", shown, parts, open=number == 0 or None)]
        body += parts
    body.append(tag("footer", about))
    return document(title, body, style=["page.css"], script="page.js")


def _head(runs, title: str) -> Html:
    if len(runs) == 1:
        lead = _in_one_sentence(runs[0])
    else:
        lead = f"{len(runs)} runs: {', '.join(run.name for run in runs)}."
    return tag("header", tag("h1", title), tag("p", lead, class_="lead"))


def _in_short(runs) -> Html:
    items = [
        tag(
            "li", tag("b", run.name), f": {verdict(run).headline} {verdict(run).reason}"
        )
        for run in runs
    ]
    return tag("section", tag("h2", "In short"), tag("ul", items))


def _in_one_sentence(run: Run) -> str:
    config = run.config
    size = " x ".join(str(side) for side in config.get("image_shape", ()))
    labels = (
        "with their labels"
        if config.get("method") == "supcon"
        else "without looking at a label"
    )
    took = "" if run.seconds is None else f" in {_duration(run.seconds)}"
    start = f", going on from {config['init']}" if config.get("init") else ""
    return (
        f"An encoder ({config.get('encoder')}) trained by {config.get('method')} on {config.get('train_images', 0):,} "
        f"images of {config.get('data')} ({size}) {labels}: {config.get('epochs')} epochs{took}{start}. Judged by "
        f"{len(run.test):,} other images."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _first_answers(run: Run) -> Iterator[Html]:
    """Did it work; what to try next; what to be wary of."""
    found = verdict(run)
    yield tag(
        "section",
        tag("h2", found.headline),
        tag("p", found.reason),
        tag("div", [*_tiles(run)], class_="tiles"),
        class_=f"verdict {found.level}",
    )
    next_steps = advice(run)
    if next_steps:
        items = tag("ul", [tag("li", each) for each in next_steps])
        yield tag("section", tag("h2", "What to try next"), items)
    noted = warnings(run)
    if noted:
        items = tag("ul", [tag("li", each) for each in noted])
        yield tag("section", tag("h2", "Warnings"), items, class_="warnings")


def _tiles(run: Run) -> Iterator[Html]:
    """The figures that matter most, with what training has added to them."""
    measures, shown = run.evaluation.measures, 0
    for column in columns(measures):
        value, before = (
            column.value(measures, name) for name in (run.row, run.baseline)
        )
        if value is None or shown == 4 or not (column.percent or shown == 0):
            continue
        shown += 1
        unit = " %" if column.percent else ""
        scale = 100 if column.percent else 1
        yield tag(
            "div",
            tag("span", column.title),
            tag("b", f"{scale * value:.1f}{unit}"),
            None if before is None else _delta(scale * (value - before), run.baseline),
            class_="tile",
        )


def _delta(change: float, baseline: str) -> Html:
    kind = "same" if abs(change) < 0.05 else "up" if change > 0 else "down"
    return tag("span", f"{change:+.1f} to {baseline}", class_=f"delta {kind}")


def _table(measures, runs) -> Html:
    shown, own = list(columns(measures)), {run.row for run in runs}
    names = representations(measures)
    rows = [
        tag(
            "tr",
            tag("td", name),
            [_cell(column, measures, name, names) for column in shown],
            class_="own" if name in own else None,
        )
        for name in names
    ]
    head = tag(
        "tr", tag("th", ""), [tag("th", each.title, title=each.note) for each in shown]
    )
    meanings: dict = {}  # columns that differ by a number alone have one
    for each in shown:
        meanings.setdefault(each.note, []).append(each.title)
    notes = [
        tag("li", tag("b", ", ".join(titles)), f": {note}.")
        for note, titles in meanings.items()
    ]
    return tag(
        "section",
        tag("h2", "What the features are worth"),
        tag("p", "Percent (but for the rank), on images that training did not see. Bold: the best of a column. Small: the "
            "95 % interval, from which test images there happen to be.", class_="note"),
        tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="wide"),
        tag("ul", notes, class_="note"),
    )  # fmt: skip


def _cell(column: Column, measures, name: str, names) -> Html:
    values = [column.value(measures, each) for each in names]
    value = column.value(measures, name)
    is_best = value is not None and value == max(v for v in values if v is not None)
    interval = column.interval(measures, name)
    small = None
    if interval is not None:
        small = tag("small", f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}")
    best = "best" if is_best and column.percent and len(names) > 1 else None
    return tag("td", column.text(measures, name), small, class_=best)


def _differences(comparisons) -> Html | None:
    if not comparisons:
        return None
    head = ("", "by", "difference", "95 % interval", "p", "more than chance?")
    rows = [
        tag(
            "tr",
            tag("td", f"{second} against {first}"),
            tag("td", measure),
            tag("td", f"{100 * found.difference:+.1f} points"),
            tag("td", f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"),
            tag("td", "< 0.001" if found.p_value < 0.001 else f"{found.p_value:.3f}"),
            tag("td", "yes" if found.significant else "no"),
        )
        for first, second, measure, found in comparisons
    ]
    return tag(
        "section",
        tag("h2", "Is the difference more than chance?"),
        tag("p", "Compared image by image on the same test images. This is about which images there happen to be: how far "
            "two seeds of one and the same method lie apart it does not say. p: how often so large a difference comes about "
            "where the two are equally good; where they differ on few images it is stricter than the interval.",
            class_="note"),
        tag("div", tag("table", tag("thead", tag("tr", [tag("th", each) for each in head])), tag("tbody", rows)),
            class_="wide"),
    )  # fmt: skip


def _curves(runs) -> Html | None:
    panels = {}
    for title, lines in _CURVES.items():
        found = {
            (run.name, line): run.history[key]
            for run in runs
            for key, line in lines.items()
            if any(value is not None for value in run.history.get(key, ()))
        }
        # A line is called by what it differs in from the others.
        differ = len(runs) > 1, len({line for _, line in found}) > 1
        if found:
            panels[title] = {
                ", ".join(itertools.compress(name, differ)): values
                for name, values in found.items()
            }
    if not panels:
        return None
    drawn = figure(pictures.curves(panels), "Curves over the epochs", vector=True)
    return tag("section", tag("h2", "Training"), drawn)


def _map(run: Run, number: int, points: int) -> Html:
    """The test images in two dimensions, before and after, that answer the pointer."""
    count = len(run.test)
    chosen = np.arange(count)
    if count > points:
        chosen = np.sort(np.random.default_rng(0).choice(count, points, replace=False))
    labels = None if run.test.labels is None else run.test.labels[chosen]
    classes = np.arange(0) if labels is None else np.unique(labels)
    names = [class_name(each, run.test.class_names) for each in classes]
    codes = (
        np.zeros(len(chosen), int)
        if labels is None
        else np.searchsorted(classes, labels)
    )
    colours = _colours(max(1, len(classes)))
    panels = [
        _panel(title, pictures.project(rows[chosen]), codes, colours)
        for title, rows in run.features.items()
    ]
    thumbnails = _thumbnails(run.test.images[chosen])
    across = int(np.ceil(np.sqrt(len(chosen))))
    trained = list(run.features.values())[-1][chosen]
    near = min(NEAR, len(trained) - 1)
    data = {
        "sprite": sprite(thumbnails, across),
        "columns": across,
        "height": thumbnails.shape[1],
        "width": thumbnails.shape[2],
        "labels": codes.tolist(),
        "classes": names,
        "unknown": 0 if len(classes) and classes[0] < 0 else None,
        "near": neighbours_of(
            np.arange(len(trained)), as_rows(trained, "features"), near
        ).tolist(),
    }
    legend = [
        tag(
            "button",
            tag("i", style=f"background:{colours[at]}"),
            name,
            data_class=at,
            title=name,
            type="button",
        )
        for at, name in enumerate(names)
    ]
    hint = tag(
        "p",
        "Point at a dot to see its image and what is most similar to it; click to hold it.",
    )
    sample = (
        ""
        if len(chosen) == count
        else f" {len(chosen):,} of {count:,}, drawn at random."
    )
    return tag(
        "section",
        tag("h2", "Map of the test images"),
        tag("p", "Images whose features are alike lie near each other (t-SNE by cosine). "
            f"{'Colours are classes. ' if names else ''}Distances across the map mean nothing.{sample}", class_="note"),
        tag("div", panels, tag("div", hint, class_="looked-at"), class_="map", data_of=f"map-{number}"),
        tag("div", legend if len(names) <= MOST_CLASSES else [], class_="legend"),
        json_data(f"map-{number}", data),
    )  # fmt: skip


def _panel(title: str, points: np.ndarray, codes: np.ndarray, colours) -> Html:
    """A map as SVG in a square of 400, a group of circles for each class."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.where(high - low > 0, high - low, 1)
    places = 12 + (points - low) / span * 376
    radius = float(np.clip(110 / np.sqrt(len(points)), 2.6, 6))
    groups = []
    for code in np.unique(codes):
        circles = "".join(
            f'<circle data-i="{i}" cx="{places[i, 0]:.1f}" cy="{400 - places[i, 1]:.1f}" r="{radius:.1f}"/>'
            for i in np.flatnonzero(codes == code)
        )
        groups.append(tag("g", Html(circles), fill=colours[code]))
    drawn = tag(
        "svg", groups, viewBox="0 0 400 400", role="img", aria_label=f"map, {title}"
    )
    return tag("div", tag("h3", title), drawn, class_="panel")


def _colours(count: int) -> list[str]:
    """Colours that differ: ten that the eye tells apart well, of more classes evenly spaced hues in two shades."""
    ten = "#0072b2 #d55e00 #009e73 #cc79a7 #e6ab02 #56b4e9 #7a4b1f #e31a6b #6a51a3 #525252".split()
    if count <= len(ten):
        return ten[:count]
    found = []
    for at in range(count):
        red, green, blue = colorsys.hls_to_rgb(at / count, (0.42, 0.6)[at % 2], 0.65)
        found.append(
            f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
        )
    return found


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Small copies, uint8, of 1 or 3 channels."""
    height, width, channels = images.shape[1:]
    if channels not in (1, 3):
        images = images.mean(axis=-1, keepdims=True).round().astype(np.uint8)
    scale = THUMBNAIL / max(height, width)
    if scale >= 1:
        return images
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    small = tf.image.resize(images, size, method="area")
    return tf.cast(tf.round(small), tf.uint8).numpy()


def _neighbours(run: Run) -> Html:
    rows = list(run.features.values())[-1]
    sheet = pictures.neighbours(
        run.test.images, rows, labels=run.test.labels, class_names=run.test.class_names
    )
    return tag(
        "section",
        tag("h2", "What it finds alike"),
        tag("p", "Test images, and those most similar to them by the trained features.", class_="note"),
        figure(sheet, "Query images with their most similar images"),
    )  # fmt: skip


def _confusion(run: Run) -> Html | None:
    matrix, classes = confusion(run)
    if matrix is None:
        return None
    by = "linear probe" if "linear_probe" in run.evaluation.predictions else "kNN"
    names = [class_name(each, run.test.class_names) for each in classes]
    note = f"Rows: the true class. Columns: what the {by} takes it for."
    if len(classes) > MOST_CLASSES:
        shown = _most_mixed(matrix, names)
        note = f"The pairs that the {by} mixes up most."
    else:
        shown = _matrix(matrix, names)
    return tag(
        "section",
        tag("h2", f"What the {by} mixes up"),
        tag("p", note, class_="note"),
        tag("div", shown, class_="wide"),
    )


def _matrix(matrix: np.ndarray, names) -> Html:
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))

    def cell(row, column):
        share, count = shares[row, column], matrix[row, column]
        # Right ones blue, wrong ones orange: the darker, the larger the share of the true class.
        hue = "0,114,178" if row == column else "213,94,0"
        strength = share if row == column else min(1.0, 3 * share)
        ink = "#fff" if strength > 0.55 else "#1d2430"
        style = (
            f"background:rgba({hue},{0.9 * strength:.2f});color:{ink}"
            if count
            else None
        )
        what = f"{names[row]} taken for {names[column]}: {count} of {matrix[row].sum()}"
        return tag("td", str(count) if count else "", style=style, title=what)

    size = range(len(names))
    turned = "turned" if max(map(len, names)) > 3 else None
    heads = [tag("th", tag("span", name, class_=turned), title=name) for name in names]
    head = tag("tr", tag("th", ""), heads)
    rows = [
        tag(
            "tr",
            tag("th", names[row], title=names[row]),
            [cell(row, column) for column in size],
        )
        for row in size
    ]
    return tag("table", tag("thead", head), tag("tbody", rows), class_="confusion")


def _most_mixed(matrix: np.ndarray, names, most: int = 15) -> Html:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows = [
        tag(
            "tr",
            tag("td", f"{names[true]} taken for {names[taken]}"),
            tag("td", f"{wrong[true, taken]} of {matrix[true].sum()}"),
        )
        for true, taken in zip(*np.unravel_index(order, wrong.shape))
        if wrong[true, taken]
    ]
    return tag("table", rows)


def _views(run: Run) -> Html | None:
    if run.views is None:
        return None
    sheet = figure(pictures.views(*run.views), "Images beside random views of them")
    return tag(
        "section",
        tag("h2", "What it was trained on"),
        tag("p", "If you cannot tell which views belong together, neither can the encoder; what the views erase, it learns "
            "to ignore.", class_="note"),
        sheet,
    )  # fmt: skip


def _configuration(run: Run) -> Html:
    rows = [
        tag("tr", tag("th", key.replace("_", " ")), tag("td", _value(value)))
        for key, value in run.config.items()
        if value is not None
    ]
    half = -(-len(rows) // 2)
    tables = [tag("table", part, class_="facts") for part in (rows[:half], rows[half:])]
    return tag(
        "section",
        tag("h2", "Configuration"),
        tag("div", tables, class_="facts-columns"),
    )


def _value(value) -> str:
    if isinstance(value, (list, tuple)):
        return " x ".join(map(str, value))
    return str(value)
