"""Curves over the epochs of one or more runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_contrastive.pictures._common import QUIET, new_figure, plain, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
# Okabe and Ito's colours, which colour-blind readers can tell apart, yellow left out: it is too light for a line.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#000000",
)
# More epochs than this need no dot for each.
_MAX_DOTS = 30


def curves(panels: Mapping[str, Mapping[str, Sequence]]) -> Figure:
    """Values over epochs: a panel for each measure, in it a line for each run or part.

    Args:
        panels: Title -> name of the line -> its values of epochs 1, 2, ...; None where an epoch has none. A panel
            whose lines have no name but "" has no legend of its own.

    Returns:
        A figure with three panels in a row, each with its own scale.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise ValueError("`panels` must hold at least one title. Received: panels={}.")
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(4.0 * columns, 2.5 * rows, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, lines) in zip(all_axes, panels.items()):
        _draw_panel(axes, title, lines)
    for axes in all_axes[len(panels) :]:
        axes.set_axis_off()
    return figure


def _draw_panel(axes, title: str, lines: Mapping[str, Sequence]) -> None:
    last = 1
    for number, (name, values) in enumerate(lines.items()):
        values = np.array([np.nan if v is None else v for v in values], np.float64)
        epochs = 1 + np.flatnonzero(np.isfinite(values))
        known = values[epochs - 1]
        marker = "o" if len(known) <= _MAX_DOTS else None
        axes.plot(
            epochs,
            known,
            color=COLOURS[number % len(COLOURS)],
            linestyle=("-", "--", ":")[number // len(COLOURS) % 3],
            marker=marker,
            markersize=3,
            lw=1.6,
            label=plain(shortened(name, 28)) if name else None,
        )
        last = max(last, len(values))
    axes.set_title(plain(title), fontsize=10.5, loc="left")
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
    axes.tick_params(labelsize=8, colors=QUIET)
    axes.grid(axis="y", color="0.92", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")
    axes.set_xlabel("epoch", fontsize=8, color=QUIET)
    if any(lines):
        axes.legend(fontsize=8, frameon=False)
