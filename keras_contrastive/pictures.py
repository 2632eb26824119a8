"""Pictures of embeddings, neighbours and views: arrays in, matplotlib figures out.

Every function returns a `matplotlib.figure.Figure` and touches neither pyplot nor a backend, so it works in
scripts, servers and notebooks alike; `save` writes it to a file. matplotlib and scikit-learn load when used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import most_similar, normalize_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More points make a map slow (t-SNE) and no clearer.
_MAX_POINTS = 2000
_MIN_TSNE_POINTS = 10
# More names do not fit beside a map.
_MAX_LEGEND = 20
# Green and vermilion of Okabe and Ito, which colour-blind readers can tell apart.
_RIGHT, _WRONG = "#009e73", "#d55e00"
_QUIET = "0.4"


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
        title: _rows(rows, f"panels[{title!r}]") for title, rows in panels.items()
    }
    count = len(next(iter(panels.values())))
    for title, rows in panels.items():
        _check_length(f"panels[{title!r}]", rows, count, minimum=2)
    labels = _labels(labels, count)
    chosen = np.arange(count)
    if count > _MAX_POINTS:
        chosen = np.sort(
            np.random.default_rng(seed).choice(count, _MAX_POINTS, replace=False)
        )
    groups = _colour_groups(None if labels is None else labels[chosen], class_names)

    figure = _figure(4.3 * len(panels) + 1.0, 4.7, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
    for axes, (title, rows) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items()
    ):
        points = _project(rows[chosen], seed)
        for name, style, members in groups:
            axes.scatter(
                *points[members].T,
                s=_marker_size(len(chosen)),
                label=name,
                lw=0,
                **style,
            )
        axes.set_title(title, fontsize=13)
        axes.set_box_aspect(1)
        axes.set(xticks=[], yticks=[])
        axes.margins(0.04)
        axes.spines[:].set_color("0.8")
    _add_map_legend(figure, groups)
    figure.supxlabel(_map_caption(len(chosen), count, groups), fontsize=9, color=_QUIET)
    return figure


def neighbours(
    images,
    embeddings,
    *,
    labels=None,
    class_names=None,
    queries: int = 8,
    k: int = 8,
    seed: int = 0,
) -> Figure:
    """Some images as queries, each with the k images whose embeddings are most similar by cosine.

    A query never finds itself. With labels, the queries are spread over the classes, and a frame tells
    neighbours of the query's class from others.

    Args:
        images: uint8 0..255 or float 0..1, `(n, height, width, channels)`.
        embeddings: Numbers `(n, dim)`.
        labels: int `(n,)` or None.
        class_names: Names of classes 0, 1, ..., or None: the labels are shown as they are.
        queries: Integer >= 1: how many rows (at most n).
        k: Integer >= 1: how many neighbours of each (at most n - 1).
        seed: Integer >= 0: which images are the queries.

    Returns:
        A figure with one axes that holds all pictures.

    Raises:
        ValueError: The arrays do not belong together or are not finite, or a number is out of its range.
    """
    check_integer(1, queries=queries, k=k)
    check_integer(0, seed=seed)
    images = _as_rgb(images, "images")
    rows = _rows(embeddings, "embeddings")
    _check_length("embeddings", rows, len(images), minimum=2)
    labels = _labels(labels, len(images))
    asked = _spread_queries(labels, len(images), min(queries, len(images)), seed)
    found = _neighbours_of(asked, rows, min(k, len(images) - 1))

    names = (
        None
        if labels is None
        else [_class_name(label, class_names) for label in labels[asked]]
    )
    sheet = _Sheet(
        rows=len(asked), columns=1 + found.shape[1], tile=images.shape[1:3], names=names
    )
    sheet.head("query", 0)
    sheet.head("most similar, from the left", 1)
    for row, (query, others) in enumerate(zip(asked, found)):
        sheet.show(images[query], row, 0)
        for column, other in enumerate(others, start=1):
            frame = (
                None
                if labels is None
                else (_RIGHT if labels[other] == labels[query] else _WRONG)
            )
            sheet.show(images[other], row, column, frame=frame)
    if labels is not None:
        sheet.explain({"same class as the query": _RIGHT, "another class": _WRONG})
    return sheet.figure


def views(images, views) -> Figure:
    """Images, each with the random views that training makes of it.

    Args:
        images: uint8 0..255 or float 0..1, `(n, height, width, channels)`.
        views: uint8 or float, `(n, views, height, width, channels)`, as `augment.views` makes them; or a tuple of
            such, one for each size.

    Returns:
        A figure with one axes that holds all pictures, a row for each image.

    Raises:
        ValueError: The arrays are no images, or do not belong together.
    """
    images = _as_rgb(images, "images")
    of_sizes = views if isinstance(views, tuple) else (views,)
    columns = [
        view for same in of_sizes for view in _views_as_rgb(np.asarray(same), images)
    ]
    tile = [max(view.shape[axis] for view in columns) for axis in (1, 2)]
    sheet = _Sheet(rows=len(images), columns=1 + len(columns), tile=images.shape[1:3])
    sheet.head("image", 0)
    sheet.head("its views" if len(columns) > 1 else "view", 1)
    for row, image in enumerate(images):
        sheet.show(image, row, 0)
        for column, view in enumerate(columns, start=1):
            sheet.show(_on_grey(view[row], tile), row, column)
    return sheet.figure


def _views_as_rgb(views, images) -> list[np.ndarray]:
    """`(n, views, height, width, channels)` as one uint8 `(n, height, width, 3)` for each view."""
    if views.ndim != 5 or views.size == 0 or len(views) != len(images):
        raise ValueError(
            "`views` must have shape (n, views, height, width, channels), n as in `images`. "
            f"Received: views.shape={views.shape}, images.shape={images.shape}."
        )
    return [_as_rgb(view, "views") for view in np.moveaxis(views, 1, 0)]


def _on_grey(picture: np.ndarray, size) -> np.ndarray:
    """A picture in the middle of a light grey one of this height and width: white ones keep their edge."""
    spare = [whole - side for whole, side in zip(size, picture.shape)]
    padding = [(space // 2, space - space // 2) for space in spare]
    return np.pad(picture, [*padding, (0, 0)], constant_values=215)


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure to a file; the suffix says the format (.png, .pdf, .svg).

    Args:
        figure: What a function of this module returned.
        path: File to write; its folder must exist.
    """
    figure.savefig(path, dpi=120, facecolor="white")


class _Sheet:
    """A contact sheet: a first column of pictures, a gap, and columns of what belongs to them.

    One axes in units of tiles: a hundred axes would take matplotlib seconds.
    """

    GAP = 0.06  # of a tile, between tiles
    FIRST_GAP = 0.3  # of a tile, after the first column

    def __init__(
        self,
        *,
        rows: int,
        columns: int,
        tile: tuple[int, int],
        names: list[str] | None = None,
    ):
        from matplotlib.patches import Rectangle

        self._rectangle = Rectangle
        self._aspect = tile[0] / tile[1]  # height of a tile; its width is 1
        # Small pictures are shown with the pixels they have; large ones are smoothed when drawn smaller.
        self._interpolation = "nearest" if max(tile) <= 64 else "antialiased"
        width, height = (
            self._left(columns) - self.GAP,
            rows * (self._aspect + self.GAP) - self.GAP,
        )
        names = [_shortened(name) for name in names or []]
        left = (
            0.15 + 0.1 * max(map(len, names), default=0) + 0.15 * bool(names)
        )  # inches, as below
        right, top, bottom = 0.15, 0.5, (0.5 if names else 0.15)
        inches = min(1.0, 13 / max(width, height))  # of a tile's width
        total = left + width * inches + right, top + height * inches + bottom
        self.figure = _figure(*total)
        self._axes = self.figure.add_axes(
            [
                left / total[0],
                bottom / total[1],
                width * inches / total[0],
                height * inches / total[1],
            ]
        )
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()
        for row, name in enumerate(names):
            self._write(
                name,
                (0, self._top(row) + self._aspect / 2),
                (-8, 0),
                ha="right",
                va="center",
            )

    def _left(self, column: int) -> float:
        return column * (1 + self.GAP) + (self.FIRST_GAP if column else 0)

    def _top(self, row: int) -> float:
        return row * (self._aspect + self.GAP)

    def head(self, text: str, column: int) -> None:
        """A heading over a column and what is right of it."""
        self._write(text, (self._left(column), 0), (0, 7))

    def _write(
        self, text: str, place: tuple[float, float], offset: tuple[int, int], **options
    ) -> None:
        """Text beside the axes: `offset` points away from `place`."""
        self._axes.annotate(
            text,
            place,
            offset,
            textcoords="offset points",
            fontsize=12,
            annotation_clip=False,
            **options,
        )

    def show(
        self, image: np.ndarray, row: int, column: int, *, frame: str | None = None
    ) -> None:
        left, top = self._left(column), self._top(row)
        self._axes.imshow(
            image,
            extent=(left, left + 1, top + self._aspect, top),
            interpolation=self._interpolation,
            aspect="auto",  # the axes has the shape of its tiles already
        )
        # A hairline round a picture without a frame: a digit on white paper would have no edge.
        style = {"ec": frame, "lw": 3} if frame else {"ec": "0.8", "lw": 0.6}
        self._axes.add_patch(
            self._rectangle(
                (left, top),
                1,
                self._aspect,
                fill=False,
                clip_on=False,
                joinstyle="miter",
                **style,
            )
        )

    def explain(self, colours: dict[str, str]) -> None:
        """What the frames' colours mean, under the sheet."""
        handles = [
            self._rectangle((0, 0), 1, 1, fill=False, ec=c, lw=3, label=n)
            for n, c in colours.items()
        ]
        self.figure.legend(
            handles=handles,
            loc="lower center",
            ncols=len(handles),
            frameon=False,
            handlelength=1,
            handleheight=1,
        )


def _figure(width: float, height: float, **options) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **options)


def _project(rows: np.ndarray, seed: int) -> np.ndarray:
    """Rows in two dimensions: float `(n, 2)`."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

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
        (_class_name(label, class_names), style, labels == label)
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


def _spread_queries(labels, count: int, queries: int, seed: int) -> np.ndarray:
    """Which images are asked: random, and where there are labels one of each class before a second."""
    order = np.random.default_rng(seed).permutation(count)
    if labels is None:
        return order[:queries]
    turn = np.zeros(count, np.int64)  # how many of its class come before it
    for label in np.unique(labels):
        own = labels[order] == label
        turn[own] = np.arange(np.count_nonzero(own))
    first = order[np.argsort(turn, kind="stable")][:queries]
    return first[np.argsort(labels[first], kind="stable")]


def _neighbours_of(asked: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The k rows most similar to each asked one, itself left out: int `(asked, k)`."""
    found = most_similar(rows[asked], rows, k + 1)[1]
    # A copy of the query may stand before it, or push it out: leave it out where it stands, else the last.
    return np.stack(
        [others[others != query][:k] for query, others in zip(asked, found)]
    )


def _as_rgb(images, name: str) -> np.ndarray:
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


def _rows(rows, name: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim < 2 or rows.size == 0:
        raise ValueError(
            f"`{name}` must have shape (n, dim) and not be empty. Received: shape {rows.shape}."
        )
    rows = rows.reshape(len(rows), -1).astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinite values.")
    return rows


def _labels(labels, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels).reshape(-1)
    _check_length("labels", labels, count, minimum=0)
    return labels


def _check_length(name: str, array: np.ndarray, count: int, *, minimum: int) -> None:
    if len(array) != count or count < minimum:
        raise ValueError(
            f"`{name}` must have one entry for each of the images, and at least {minimum}. "
            f"Received: {len(array)} entries for {count}."
        )


def _class_name(label, class_names) -> str:
    known = class_names is not None and 0 <= label < len(class_names)
    return str(class_names[label]) if known else str(label)


def _shortened(text: str, limit: int = 18) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
