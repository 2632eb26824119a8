"""The picture of time_to_knn.py."""

from __future__ import annotations

import itertools
import statistics


def drawn(found: dict[str, dict[float, list[dict]]], *, dashed: str):
    """Accuracy in percent over seconds: a line for each run and length, thin ones for its seeds.

    What a line is stands in its colour at the right, in the order of their ends. A title that ends on `dashed` has the
    colour of that without it, and a dashed line.
    """
    from keras_contrastive.pictures._common import QUIET, new_figure
    from keras_contrastive.pictures.charts import COLOURS

    figure = new_figure(8.2, 4.6, layout="constrained")
    axes = figure.subplots()
    last, labels = 0.0, []
    bases = dict.fromkeys(title.removesuffix(dashed) for title in found)
    colours = dict(zip(bases, itertools.cycle(COLOURS)))
    for title, runs in found.items():
        colour = colours[title.removesuffix(dashed)]
        style = "--" if title.endswith(dashed) else "-"
        for _, of_seeds in sorted(runs.items()):
            lines = [_line(result) for result in of_seeds]
            times, accuracies = _mean_line(lines)
            last = max(last, *(line[0][-1] for line in lines))
            for line in lines if len(lines) > 1 else []:
                axes.plot(*line, style, color=colour, lw=0.8, alpha=0.4)
            axes.plot(
                times, accuracies, style, color=colour, lw=2, marker="o", markersize=3
            )
            text = f"{title}  {accuracies[-1]:.1f} at {times[-1]:.0f} s"
            labels.append((accuracies[-1], text, colour))
    bottom, top = axes.get_ylim()
    for height, (_, text, colour) in spread(labels, (top - bottom) / 20):
        axes.annotate(
            text,
            (last, height),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
        )
    axes.set_xlim(0, 1.01 * last)
    axes.set_xlabel(
        "seconds of training (a line ends where its learning rate has fallen to 0)",
        fontsize=8,
        color=QUIET,
    )
    axes.set_title("kNN accuracy on test images, %", fontsize=10.5, loc="left")
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.grid(axis="y", color="0.92", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")
    return figure


def _line(result: dict) -> tuple[list[float], list[float]]:
    marks = result["marks"]
    return [m["seconds"] for m in marks], [100 * m["knn_200"] for m in marks]


def _mean_line(lines) -> tuple[list[float], list[float]]:
    """The mean over seeds, mark by mark; a mark that one of them has not is left out, the end is not."""
    count = min(len(times) for times, _ in lines)
    places = [*range(count - 1), -1]
    return tuple(
        [statistics.fmean(line[axis][place] for line in lines) for place in places]
        for axis in (0, 1)
    )


def spread(labels, gap: float):
    """Heights for labels, in the order of their values and at least `gap` apart."""
    heights: list[float] = []
    for accuracy, *_ in sorted(labels):
        heights.append(max(accuracy, heights[-1] + gap) if heights else accuracy)
    return zip(heights, sorted(labels))
