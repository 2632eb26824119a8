"""Contact sheets: neighbours, and views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import most_similar
from keras_contrastive.pictures._common import (
    as_labels,
    as_rgb,
    as_rows,
    check_length,
    class_name,
    new_figure,
    plain,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Green and vermilion of Okabe and Ito, which colour-blind readers can tell apart.
_RIGHT, _WRONG = "#009e73", "#d55e00"


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
    images = as_rgb(images, "images")
    rows = as_rows(embeddings, "embeddings")
    check_length("embeddings", rows, len(images), minimum=2)
    labels = as_labels(labels, len(images))
    asked = spread_queries(labels, len(images), min(queries, len(images)), seed)
    found = neighbours_of(asked, rows, min(k, len(images) - 1))

    names = (
        None
        if labels is None
        else [class_name(label, class_names) for label in labels[asked]]
    )
    sheet = _Sheet(
        rows=len(asked), columns=1 + found.shape[1], tile=images.shape[1:3], names=names
    )
    sheet.head("query", 0)
    sheet.head("most similar, from the left", 1)
    for row, (query, others) in enumerate(zip(asked, found)):
        sheet.show(images[query], row, 0)
        for column, other in enumerate(others, start=1):
            frame = None
            if labels is not None and min(labels[query], labels[other]) >= 0:
                frame = _RIGHT if labels[other] == labels[query] else _WRONG
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
    images = as_rgb(images, "images")
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
    return [as_rgb(view, "views") for view in np.moveaxis(views, 1, 0)]


def _on_grey(picture: np.ndarray, size) -> np.ndarray:
    """A picture in the middle of a light grey one of this height and width: white ones keep their edge."""
    spare = [whole - side for whole, side in zip(size, picture.shape)]
    padding = [(space // 2, space - space // 2) for space in spare]
    return np.pad(picture, [*padding, (0, 0)], constant_values=215)


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
        names = [plain(shortened(name)) for name in names or []]
        left = (
            0.15 + 0.1 * max(map(len, names), default=0) + 0.15 * bool(names)
        )  # inches, as below
        right, top, bottom = 0.15, 0.5, (0.5 if names else 0.15)
        inches = min(1.0, 13 / max(width, height))  # of a tile's width
        total = left + width * inches + right, top + height * inches + bottom
        self.figure = new_figure(*total)
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


def spread_queries(labels, count: int, queries: int, seed: int) -> np.ndarray:
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


def neighbours_of(asked: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The k rows most similar to each asked one, itself left out: int `(asked, k)`."""
    found = most_similar(rows[asked], rows, k + 1)[1]
    # A copy of the query may stand before it, or push it out: leave it out where it stands, else the last.
    return np.stack(
        [others[others != query][:k] for query, others in zip(asked, found)]
    )
