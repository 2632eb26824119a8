"""Pages of pictures to look at: queries with what is most similar to them, and groups of what is there twice.

Each is one file that needs no network. Everything that a file or a class may be called is escaped; where an image cannot
be had any more, its name stands in a grey tile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_contrastive.report._html import Html, data_uri, document, tag

THUMBNAIL = 160  # pixels of the longer side, at most
MOST = 60  # images of a group that are shown
LARGE = 320  # of a query, which is shown larger
_NAME = 44  # characters of a name; the whole one shows under the pointer
_STYLE = ["page.css", "gallery.css"]
_SIGNS = {"same": "=", "other": "≠"}  # besides colours, which not everyone tells apart


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image in a gallery, and what is written under it.

    Attributes:
        name: What it is called.
        image: uint8 `(h, w, c)`, or None where it cannot be shown. `thumbnail` makes it small.
        class_name: Of its class, or None where that is not known.
        similarity: Cosine similarity to what it stands beside, or None.
        itself: It is the query.
    """

    name: str
    image: np.ndarray | None
    class_name: str | None = None
    similarity: float | None = None
    itself: bool = False


def thumbnail(image: np.ndarray, side: int = THUMBNAIL) -> np.ndarray:
    """A small copy of an image: uint8 `(h, w, 1 or 3)`, its longer side at most `side` pixels, its shape kept.

    Args:
        image: uint8 `(h, w, c)`. Of other than 1 and 3 channels the mean is taken.
        side: Integer >= 1. A smaller image keeps its size.
    """
    height, width, channels = image.shape
    if channels not in (1, 3):
        image = image.mean(axis=-1, keepdims=True).round().astype(np.uint8)
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    with tf.device("CPU:0"):
        small = tf.image.resize(image, size, antialias=True)
        return tf.cast(tf.round(small), tf.uint8).numpy()


def neighbours_page(
    queries: Sequence[tuple[Picture, Sequence[Picture]]],
    *,
    title: str,
    lead="",
    about="",
) -> str:
    """Each query, large, beside what is most similar to it.

    Where the classes of a query and of a neighbour are known, a mark says whether they are the same.

    Args:
        queries: At least one: the query, and its neighbours in the order in which they are shown.
        title: Of the page.
        lead: What it shows, in a sentence.
        about: How it was made: a command, versions.

    Returns:
        A complete HTML document.
    """
    sections = [
        tag(
            "section",
            tag("div", _figure(query, None, None, LARGE), class_="left"),
            tag("div", [_tile(each, query) for each in found], class_="tiles"),
            class_="gallery beside",
        )
        for query, found in queries
    ]
    marked = any(_mark(each, query) for query, found in queries for each in found)
    return _page(title, lead, marked, "the query", sections, about)


def groups_page(
    groups: Sequence[Sequence[Picture]],
    *,
    title: str,
    lead="",
    about="",
    most: int = MOST,
) -> str:
    """Groups of images that are alike.

    Args:
        groups: Of two pictures or more each. `similarity` is that to the first of the group, and the first has none.
        title: As of `neighbours_page`.
        lead: As of `neighbours_page`.
        about: As of `neighbours_page`.
        most: Integer >= 1: so many of a group are shown, and the number of the others is said. Those need no `image`.

    Returns:
        A complete HTML document.
    """
    sections = [_group(number, group, most) for number, group in enumerate(groups, 1)]
    marked = any(_mark(each, group[0]) for group in groups for each in group[1:])
    return _page(title, lead, marked, "the first of the group", sections, about)


def _page(title, lead, marked: bool, reference: str, sections, about) -> str:
    marks = None
    if marked:
        meanings = {"same": f"of the class of {reference}", "other": "of another class"}
        marks = [
            tag("span", tag("i", _SIGNS[mark]), meaning, class_=mark)
            for mark, meaning in meanings.items()
        ]
    header = tag(
        "header",
        tag("h1", _text(title)),
        tag("p", _text(lead), class_="lead") if lead else None,
        tag("p", marks, class_="marks") if marks else None,
    )
    body = [header, sections, tag("footer", _text(about))]
    return document(_text(title), body, style=_STYLE)


def _group(number: int, group: Sequence[Picture], most: int) -> Html:
    first, others = group[0], group[1:]
    lowest = min(each.similarity for each in others)
    more = None
    if len(group) > most:
        more = tag("p", f"And {len(group) - most:,} more.", class_="note")
    tiles = [_figure(first, None, "first"), *(_tile(e, first) for e in others)][:most]
    return tag(
        "section",
        tag("h2", f"{number}: {len(group):,} images"),
        tag("p", f"Similarity to the first: {lowest:.3f} or more", class_="note"),
        tag("div", tiles, class_="tiles"),
        more,
        class_="gallery",
    )


def _tile(picture: Picture, reference: Picture) -> Html:
    head = None if picture.similarity is None else f"{picture.similarity:.3f}"
    return _figure(
        picture,
        _mark(picture, reference),
        "itself" if picture.itself else head,
    )


def _mark(picture: Picture, reference: Picture) -> str | None:
    """Whether two are of the same class, where that is known of both."""
    if picture.itself or None in (picture.class_name, reference.class_name):
        return None
    return "same" if picture.class_name == reference.class_name else "other"


def _figure(
    picture: Picture, mark: str | None, head: str | None, side: int = THUMBNAIL
) -> Html:
    name, of_class = _text(picture.name), picture.class_name
    if picture.image is None:
        shown = tag("div", name, class_="missing")
    else:
        shown = _image(thumbnail(picture.image, side), name, side)
    lines = []
    if head is not None:
        sign = None if mark is None else tag("i", _SIGNS[mark])
        lines.append(tag("span", tag("b", head), sign, class_="head"))
    if of_class is not None:
        lines.append(
            tag("span", cut_in_the_middle(_text(of_class), _NAME), class_="class")
        )
    lines.append(tag("span", cut_in_the_middle(name, _NAME), class_="name"))
    return tag(
        "figure",
        tag("div", shown, class_="frame"),
        tag("figcaption", lines),
        class_=mark,
        title=name,
    )


def _image(image: np.ndarray, name: str, side: int) -> Html:
    small = max(image.shape) <= side // 2  # shown larger, as the pixels that it is
    if small:
        source = data_uri(tf.io.encode_png(image).numpy(), "image/png")
    else:
        source = data_uri(tf.io.encode_jpeg(image, quality=88).numpy(), "image/jpeg")
    return tag("img", src=source, alt=name, class_="pixels" if small else None)


def cut_in_the_middle(text: str, limit: int) -> str:
    """Text of at most so many characters: of a longer one the middle is left out, as names differ at their ends."""
    if len(text) <= limit:
        return text
    end = (limit - 1) * 2 // 3
    return f"{text[: limit - 1 - end]}…{text[len(text) - end :]}"


def _text(text) -> str:
    """Without what is no character: names of files need not be valid in any encoding."""
    return str(text).encode("utf-8", "replace").decode("utf-8")
