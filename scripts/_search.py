"""What scripts/search.py finds, in tables and on a page. Imported after TensorFlow has come quietly."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
from _console import Failure, note
from _saved_encoder import SavedEncoder, check_export
from _training import images_of
from rich.console import Console
from rich.table import Table
from rich.text import Text

import keras_contrastive as kc
from keras_contrastive.data.decoder import Decoder, Unreadable, read_image
from keras_contrastive.data.files import DecodedExamples
from keras_contrastive.report.gallery import LARGE, MOST, cut_in_the_middle

WIDTH = 110  # of a table, where there is no terminal
BATCH = 64  # queries that the model sees at a time
NAMED = 4  # images of a group that are named in the table


class Embedded:
    """A file of scripts/embed.py: an index, and what is known of its images.

    Attributes:
        index: `kc.search.Index`.
        about: What the file says of itself.
        pictures: The images themselves, by their ids: `Pictures`.
    """

    def __init__(self, file, *, model=None, data=None):
        self.name = Path(file).name
        self.index = kc.search.Index.load(file)
        with np.load(file, allow_pickle=False) as arrays:
            if "about" not in arrays or "labels" not in arrays:
                raise Failure(f"'{file}' was not written by scripts/embed.py.")
            self.about = json.loads(str(arrays["about"]))
            self._labels = arrays["labels"]
            names = arrays["class_names"] if "class_names" in arrays else None
        self._class_names = names
        self._row = {name: row for row, name in enumerate(self.index.ids.tolist())}
        self._model = model
        self.pictures = Pictures(data or self.about["data"], self.about)

    def __contains__(self, name) -> bool:
        return name in self._row

    def class_of(self, name: str) -> str | None:
        label = self._labels[self._row[name]]
        if label < 0:
            return None
        return str(label if self._class_names is None else self._class_names[label])

    def whitened(self) -> kc.search.Index:
        """The same images by whitened embeddings, in the same order."""
        whitened = kc.search.whiten(self.index.embeddings)
        return kc.search.Index(whitened, self.index.ids)

    def rows_of(self, names) -> list[int]:
        return [self._row[name] for name in names]

    def encoder(self) -> SavedEncoder:
        """The model that has made the embeddings.

        Raises:
            Failure: It is not there, or it is another one.
        """
        path = self._model or self.about["model"]
        check_export(path, "Name the model that made the embeddings with --model.")
        encoder = SavedEncoder(path)
        made_by = self.about["model_weights"]
        if encoder.dim != self.index.dim or encoder.weights != made_by:
            raise Failure(
                f"'{path}' is not the model, or no longer, that has made the embeddings in '{self.name}'. Name it with "
                "--model, or embed the images again: scripts/embed.py."
            )
        return encoder


class Pictures:
    """The images of a file of scripts/embed.py, small, from where they are now; None where they cannot be had."""

    def __init__(self, spec: str, about: dict):
        self._spec, self._about, self._parts = spec, about, None
        kind, _, argument = spec.partition(":")
        path = Path(argument).expanduser()
        self.root = {"folder": path, "csv": path.parent}.get(kind)

    def path_of(self, name: str) -> str | None:
        """Of images that are files."""
        return None if self.root is None else os.path.join(self.root, name)

    def __call__(self, name: str, side: int = kc.report.gallery.THUMBNAIL):
        try:
            image = self._image(name)
        except (Unreadable, OSError):
            return None
        return None if image is None else kc.report.thumbnail(image, side)

    def _image(self, name: str):
        if self.root is not None:
            return read_image(self.path_of(name), self._about["max_pixels"])
        part_name, _, row = name.partition("/")
        part = self._loaded().get(part_name)
        if part is None:
            return None
        if isinstance(part, DecodedExamples):
            return part.try_example(int(row))
        return part.images[int(row)]

    def _loaded(self) -> dict:
        """The parts of arrays and records by name, where they are as they were."""
        if self._parts is None:
            self._parts = self._load()
        return self._parts

    def _load(self) -> dict:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damage embed.py has told
                source = kc.data.load(self._spec, cache="none")
            parts = {"train": source.train, "test": source.test}
            parts = {name: images_of(part, self._spec) for name, part in parts.items()}
        except (Failure, ValueError, OSError) as error:
            note(f"note: no images: {error}")
            return {}
        if {name: len(part) for name, part in parts.items()} != self._about["rows"]:
            note(f"note: no images: '{self._spec}' has changed since.")
            return {}
        return parts


class Query:
    """An image file, or an image of the index by its id.

    Attributes:
        name: As it was typed.
        path: Of a file; None of an id.
    """

    def __init__(self, text: str, embedded: Embedded):
        self.name, self._embedded = text, embedded
        self.path = text if os.path.exists(text) else None
        if self.path is None and text not in embedded:
            raise Failure(
                f"'{text}' is neither a file nor the id of an image in '{embedded.name}'."
            )
        if self.path is not None and not os.path.isfile(text):
            raise Failure(f"'{text}' is not a file.")

    def is_itself(self, name: str) -> bool:
        """Whether an image of the index is this very one."""
        if self.path is None:
            return name == self.name
        other = self._embedded.pictures.path_of(name)
        try:
            return other is not None and os.path.samefile(self.path, other)
        except OSError:
            return False

    def class_of(self, found) -> str | None:
        """Its class, where it is in the index, and that is known."""
        own = [name for name, _ in found if self.is_itself(name)]
        return self._embedded.class_of(own[0]) if own else None

    def picture(self):
        if self.path is None:
            return self._embedded.pictures(self.name, LARGE)
        most = self._embedded.about["max_pixels"]
        return kc.report.thumbnail(read_image(self.path, most), LARGE)


def show_neighbours(embedded: Embedded, texts, top: int, html) -> None:
    """Print a table for each query, and write a page."""
    queries = [Query(text, embedded) for text in texts]
    # One more: a query that is in the index is not one of its own neighbours.
    found = embedded.index.search(_embeddings(queries, embedded), k=top + 1)
    results = []
    for query, ids, scores in zip(queries, found.ids, found.scores):
        near = list(zip(ids.tolist(), scores.tolist()))
        near.sort(key=lambda pair: not query.is_itself(pair[0]))
        own = query.is_itself(near[0][0])
        results.append((query, near[: top + own]))
    if html is not None:
        _write(html, _neighbours_page(embedded, results, top))
    console = _console()
    for query, near in results:
        console.print(_neighbours_table(embedded, query, near, console.width))
    _say_where(html)


def _embeddings(queries, embedded: Embedded) -> np.ndarray:
    """`(n, dim)`: of files by the model, of ids as they are in the index."""
    rows = np.zeros((len(queries), embedded.index.dim), np.float32)
    files = [at for at, query in enumerate(queries) if query.path is not None]
    known = [at for at, query in enumerate(queries) if query.path is None]
    if known:
        names = [queries[at].name for at in known]
        rows[known] = embedded.index.embeddings[embedded.rows_of(names)]
    if files:
        encoder = embedded.encoder()
        size, channels = encoder.image_size, encoder.channels
        decoder = Decoder((size, size, channels), embedded.about["max_pixels"])
        images = np.stack([_read(decoder, queries[at].path) for at in files])
        for start in range(0, len(files), BATCH):
            rows[files[start : start + BATCH]] = encoder(images[start : start + BATCH])
    return rows


def _read(decoder: Decoder, path: str) -> np.ndarray:
    try:
        return decoder.decode(Path(path).read_bytes())
    except (Unreadable, OSError) as error:
        raise Failure(
            f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def _neighbours_table(embedded, query, near, width: int) -> Table:
    table = _table(f"Most similar to {_cut(query.name, width - 16)}")
    table.add_column("", justify="right")
    table.add_column("similarity", justify="right")
    table.add_column("image", no_wrap=True)
    classes = [embedded.class_of(name) for name, _ in near]
    if any(classes):
        table.add_column("class")
    longest = max((len(_cut(each or "", 30)) for each in classes), default=0)
    rank = 0
    for (name, score), of_class in zip(near, classes):
        own = query.is_itself(name)
        rank += not own
        cells = ["" if own else str(rank), "itself" if own else f"{score:.3f}"]
        cells.append(_cut(name, max(20, width - 30 - longest)))
        if any(classes):
            cells.append(_cut(of_class or "", 30))
        table.add_row(*cells)
    return table


def _neighbours_page(embedded, results, top: int) -> str:
    shown = [
        (
            kc.report.Picture(query.name, query.picture(), query.class_of(near)),
            [
                _picture(embedded, name, score, itself=query.is_itself(name))
                for name, score in near
            ],
        )
        for query, near in results
    ]
    return kc.report.neighbours_page(
        shown,
        title=f"Most similar in {embedded.name}",
        lead=f"Each query beside the {top} most similar of {len(embedded.index):,} images, the nearest first. The number is "
        "the cosine similarity of two embeddings: 1 for equal images; how near to 1 it is for others depends on the encoder.",
        about=_about(embedded),
    )


def _picture(embedded, name, score, *, shown=True, itself=False) -> kc.report.Picture:
    image = embedded.pictures(name) if shown else None
    of_class = embedded.class_of(name)
    return kc.report.Picture(name, image, of_class, score, itself)


def show_duplicates(embedded: Embedded, threshold: float, top: int, html) -> None:
    """Print the largest groups of images that are nearly the same, and write a page."""
    index = embedded.whitened()
    groups, rows = index.duplicates(threshold), index.embeddings
    shown = [_with_similarities(embedded, rows, group) for group in groups[:top]]
    remarks = [*_of_groups(embedded, groups, shown, threshold)]
    if html is not None:
        _write(html, _groups_page(embedded, shown, " ".join(remarks)))
    if shown:
        console = _console()
        console.print(_groups_table(embedded, shown, console.width))
    print("\n".join(remarks))
    _say_where(html)


def _of_groups(embedded, groups, shown, threshold: float):
    """What there is to say of them, in sentences."""
    total, alike = len(embedded.index), f"at a similarity of {threshold:g} or more"
    if not groups:
        yield f"No two of {total:,} images are the same {alike}."
        return
    count = sum(map(len, groups))
    yield (
        f"{_count(len(groups), 'group')} with {count:,} of {total:,} images {alike}: {count - len(groups):,} beside the "
        "first of each group. Look before anything is deleted."
    )
    if any(score < threshold - 1e-4 for group in shown for _, score in group[1:]):
        yield (
            "Of a group each is so similar to another, which may lead from image to image to one that is not: raise "
            "--threshold if unlike ones stand together."
        )
    if len(groups) > len(shown):
        more = _count(len(groups) - len(shown), "more group")
        yield f"Not shown: {more}, no larger; --top {len(groups)} shows all."


def _groups_page(embedded, groups, lead: str) -> str:
    pictures = [
        [
            _picture(embedded, name, score, shown=at < MOST)
            for at, (name, score) in enumerate(group)
        ]
        for group in groups
    ]
    title = f"Duplicates in {embedded.name}"
    about = _about(embedded)
    return kc.report.groups_page(pictures, title=title, lead=lead, about=about)


def _with_similarities(embedded, rows, group) -> list[tuple]:
    """The ids of a group, with their similarity to its first."""
    rows = rows[embedded.rows_of(group.tolist())]
    scores = [None, *(rows[1:] @ rows[0]).tolist()]
    return list(zip(group.tolist(), scores))


def _groups_table(embedded, groups, width: int) -> Table:
    table = _table(None)
    table.add_column("", justify="right")
    table.add_column("images", justify="right")
    table.add_column("similarity to the first", justify="right")
    table.add_column("image", no_wrap=True)
    for number, group in enumerate(groups, 1):
        lowest = min(score for _, score in group[1:])
        lines = [_cut(name, max(20, width - 46)) for name, _ in group[:NAMED]]
        if len(group) > NAMED:
            lines.append(Text(f"and {len(group) - NAMED:,} more", style="italic"))
        similarity = f"{lowest:.3f}" if len(group) == 2 else f"{lowest:.3f} or more"
        table.add_row(
            str(number), f"{len(group):,}", similarity, Text("\n").join(lines)
        )
        table.add_section()
    return table


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _table(title) -> Table:
    return Table(title=title, title_justify="left", title_style="bold")


def _cut(name: str, limit: int) -> Text:
    """A name as it can be printed, in one line: not as markup, and without signs that move the cursor."""
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in name)
    return Text(cut_in_the_middle(shown, limit))


def _about(embedded: Embedded) -> str:
    about = embedded.about
    return (
        f"Images: {about['data']}. Model: {about['model']}. Made by keras_contrastive "
        f"{kc.__version__}, scripts/search.py."
    )


def _write(html, text: str) -> None:
    path = Path(html)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _say_where(html) -> None:
    if html is not None:
        print(f"{html}: a page with the images, to be opened in a browser")
