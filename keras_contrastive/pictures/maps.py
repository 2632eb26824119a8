"""Maps of embeddings in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import normalize_rows
from keras_contrastive.pictures._common import (
    QUIET,
    as_labels,
    as_rows,
    check_length,
    class_name,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More points make a map slow (t-SNE) and no clearer.
_MAX_POINTS = 2000
_MIN_TSNE_POINTS = 10
# More names do not fit beside a map.
_MAX_LEGEND = 20


def embedding_map(
    panels: Mapping[str, np.ndarray], *, labels=None, class_names=None, seed: int = 0
) -> Figure:
    """Maps of embeddings in two dimensions, beside each other, coloured by class.

    Each panel is a t-SNE of the L2-normalised rows (a PCA where there are too few points, or they have
    collapsed into one). Of more than 2000 points a sample is drawn, the same for every panel.

    Args:
        panels: Title -> embeddings, numbers `(n, ...)` (flattened, so raw pixels do), all of the same n >= 2.
        labels: int `(n,)`, or None: one colour for all.
        class_names: Names of classes 0, 1, ..., or None: the labels are shown as they are.
        seed: Integer >= 0 of the sample and of t-SNE.

    Returns:
        A figure with one axes for each panel, and a legend where there are at most 20 classes.

    Raises:
        ValueError: There is no panel, or the arrays do not belong together or are not finite.
    """
    check_integer(0, seed=seed)
    if not panels:
        raise ValueError(
            "`panels` must hold at least one title with embeddings. Received: panels={}."
        )
    panels = {
        title: as_rows(rows, f"panels[{title!r}]") for title, rows in panels.items()
    }
    count = len(next(iter(panels.values())))
    for title, rows in panels.items():
        check_length(f"panels[{title!r}]", rows, count, minimum=2)
    labels = as_labels(labels, count)
    chosen = np.arange(count)
    if count > _MAX_POINTS:
        chosen = np.sort(
            np.random.default_rng(seed).choice(count, _MAX_POINTS, replace=False)
        )
    groups = _colour_groups(None if labels is None else labels[chosen], class_names)

    figure = new_figure(4.3 * len(panels) + 1.0, 4.7, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    for axes, (title, rows) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items()
    ):
        points = project(rows[chosen], seed=seed)
        for name, style, members in groups:
            axes.scatter(
                *points[members].T,
                s=_marker_size(len(chosen)),
                label=name,
                lw=0,
                **style,
            )
        axes.set_title(plain(title), fontsize=13)
        axes.set_box_aspect(1)
        axes.set(xticks=[], yticks=[])
        axes.margins(0.04)
        axes.spines[:].set_color("0.8")
    _add_map_legend(figure, groups)
    figure.supxlabel(_map_caption(len(chosen), count, groups), fontsize=9, color=QUIET)
    return figure


def project(rows, *, seed: int = 0) -> np.ndarray:
    """Embeddings in two dimensions, as `embedding_map` draws them.

    A t-SNE of the L2-normalised rows; a PCA of fewer than 10, and of rows that have all become one the first two
    numbers. Rows with the same neighbours come near each other; distances across the map mean nothing.

    Args:
        rows: Numbers `(n, ...)`, n >= 2, flattened. Above some 2,000 it takes long.
        seed: Integer >= 0.

    Returns:
        Float `(n, 2)`.

    Raises:
        ValueError: The rows are fewer than 2, of rank below 2 or not finite.

    Reference:
        van der Maaten and Hinton, 2008, Visualizing Data using t-SNE.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    check_integer(0, seed=seed)
    rows = as_rows(rows, "rows")
    check_length("rows", rows, len(rows), minimum=2)
    rows = normalize_rows(rows).numpy()
    if rows.shape[1] < 2:
        rows = np.pad(rows, [(0, 0), (0, 1)])
    # On unit rows the Euclidean distance orders as the cosine does. t-SNE asks more neighbours than few
    # points have, and divides by the spread of a PCA, which collapsed rows do not have.
    spread = rows.std(axis=0).max()
    if spread < 1e-5:
        return rows[:, :2]
    if len(rows) < _MIN_TSNE_POINTS:
        return PCA(2, random_state=seed).fit_transform(rows)
    tsne = TSNE(
        2,
        perplexity=min(30, (len(rows) - 1) / 3),
        init="pca",
        max_iter=500,
        random_state=seed,
    )
    with threadpool_limits(
        1, user_api="openmp"
    ):  # its threads spin: on a busy machine two take 5 times longer
        return tsne.fit_transform(rows)


def _colour_groups(
    labels: np.ndarray | None, class_names
) -> list[tuple[str | None, dict, np.ndarray]]:
    """(name, style, members) of each class; one group without a name where there are no labels."""
    from matplotlib import colormaps

    if labels is None:
        return [(None, {"color": "tab:blue"}, slice(None))]
    classes = np.unique(labels)
    if (
        len(classes) <= _MAX_LEGEND
    ):  # ten colours that the eye can tell apart, then again with another marker
        styles = [
            {"color": colormaps["tab10"](i % 10), "marker": "o^"[i // 10]}
            for i in range(len(classes))
        ]
    else:
        styles = [
            {"color": colour}
            for colour in colormaps["turbo"](np.linspace(0.03, 0.97, len(classes)))
        ]
    return [
        (plain(class_name(label, class_names)), style, labels == label)
        for label, style in zip(classes, styles)
    ]


def _add_map_legend(figure, groups) -> None:
    names = [name for name, _, _ in groups]
    if names == [None] or len(names) > _MAX_LEGEND:
        return
    legend = figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=10,
    )
    for handle in legend.legend_handles:
        handle.set_sizes([45])  # the dots of the map are too small to tell a colour by


def _map_caption(shown: int, count: int, groups) -> str:
    points = (
        f"{shown} images"
        if shown == count
        else f"{shown} of {count} images, drawn at random"
    )
    many = (
        f"; colour: class ({len(groups)} of them)" if len(groups) > _MAX_LEGEND else ""
    )
    method = "PCA" if shown < _MIN_TSNE_POINTS else "t-SNE"
    return f"{method} by cosine of {points}{many}"


def _marker_size(count: int) -> float:
    return float(np.clip(9000 / count, 5, 40))
