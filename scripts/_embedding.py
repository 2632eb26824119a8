"""From a data set to its embeddings in one file, over interruptions. Imported after TensorFlow has come quietly.

Nothing here grows with the number of images but the names of the images: embeddings go to a file as they come, and to the
.npz from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import sys
import time
import zlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from _console import Failure, note, write_lines
from _saved_encoder import SavedEncoder
from _training import images_of

import keras_contrastive as kc
from keras_contrastive.data.files import DecodedExamples, read_completely

COMMIT_SECONDS = 1.0  # between two times at which what is done is made to last
SHOWN_SECONDS = 5.0  # between two lines of progress, where there is no terminal
AHEAD = 2  # batches that are decoded while the model is at one


class Job:
    """One call of scripts/embed.py.

    Attributes:
        encoder: The `SavedEncoder`.
        done, total: Images that are embedded, or cannot be, and all that there are.
    """

    def __init__(self, args, *, command: str):
        self.args, self.command = args, command
        self.encoder = encoder = SavedEncoder(args.model)
        source = kc.data.load(
            args.data,
            image_size=encoder.image_size,
            cache="none",
            on_damage=args.on_damage,
            max_pixels=args.max_pixels,
        )
        parts = {"train": source.train, "test": source.test}
        parts = {name: images_of(part, args.data) for name, part in parts.items()}
        for part in parts.values():
            _check_channels(part, encoder, args.data)
        self.class_names = None if source.pair_ids else parts["train"].class_names
        self.listed = list(source.skipped)  # before any image was opened
        self.chosen = _chosen(parts, root_of(args.data), source.pair_ids)
        if all(isinstance(part, kc.data.FilePart) for part in parts.values()):
            self.chosen = [_in_one(self.chosen, args)]
        self.rows = {name: len(part) for name, part in parts.items()}
        self.total = sum(len(chosen.rows) for chosen in self.chosen)
        self.done = 0
        self._content = [_content_of(part) for part in parts.values()]

    def list_of(self, out: Path) -> Path:
        """Where the images are listed that could not be read."""
        return out.with_name(f"{out.stem}.skipped.txt")

    def run(self, out: Path) -> tuple[int, int]:
        """Write the file; returns how many images are in it, and how many lines in the list."""
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = out.with_name(f"{out.name}.part")
        shape = (self.total, self.encoder.dim)
        with Partial(folder, self._settings(), shape, self.args.overwrite) as partial:
            if partial.done:
                note(f"going on after {partial.done:,} of {self.total:,} images")
            self.done = partial.done
            with Progress(self.total, partial.done) as progress:
                first = 0
                for chosen in self.chosen:
                    self._embed(chosen, first, partial, progress)
                    first += len(chosen.rows)
            return self._write(out, partial)

    def _settings(self) -> dict:
        """What the embeddings depend on: none of a command that was stopped are mixed with those of another."""
        return {
            "model": self.encoder.fingerprint,
            "data": self._content,
            "images": [len(chosen.rows) for chosen in self.chosen],
            "image_size": self.encoder.image_size,
            "batch_size": self.args.batch_size,  # the last bit of a sum may depend on it
            "max_pixels": self.args.max_pixels,
            "tensorflow": tf.__version__,
        }

    def _embed(self, chosen: Chosen, first: int, partial: Partial, progress) -> None:
        """Embed what is left of the images of a part; `first` is the number of its first among all."""
        at = max(0, partial.done - first)
        for images, rows in chosen.batches(at, self.args.batch_size):
            embeddings, rows = self.encoder(images), rows.numpy()
            asked = chosen.rows[at : at + len(rows)]
            found = rows == asked
            lost = {
                first + at + int(place): chosen.line_of(int(asked[place]))
                for place in np.flatnonzero(~found)
            }
            _check_finite(embeddings[found], self.encoder.path)
            at += len(rows)
            partial.add(embeddings[found], first + at, lost)
            self.done = partial.done
            progress.show(partial.done)

    def _write(self, out: Path, partial: Partial) -> tuple[int, int]:
        partial.commit()
        kept = np.ones(self.total, bool)
        kept[list(partial.lost)] = False
        if not kept.any():
            line = next(iter(partial.lost.values()))
            raise Failure(f"None of {self.total} images can be read. The first: {line}")
        ids = np.array([each for chosen in self.chosen for each in chosen.ids])[kept]
        labels = np.concatenate([chosen.labels for chosen in self.chosen])[kept]
        names = {} if self.class_names is None else {"class_names": self.class_names}
        lines = list(dict.fromkeys([*self.listed, *partial.lost.values()]))
        about = {**self._about(), "images": len(ids), "left_out": len(lines)}
        if lines:
            write_lines(self.list_of(out), lines)
        else:
            self.list_of(out).unlink(missing_ok=True)
        arrays = {"embeddings": partial.embeddings, "ids": ids, "labels": labels}
        partial.finish(out, **arrays, **names, about=json.dumps(about))
        return len(ids), len(lines)

    def _about(self) -> dict:
        encoder = self.encoder
        return {
            "model": os.path.abspath(self.args.model),
            "model_created": encoder.created,
            "model_weights": encoder.weights,
            "data": absolute(self.args.data),
            "rows": self.rows,
            "image_size": encoder.image_size,
            "channels": encoder.channels,
            "max_pixels": self.args.max_pixels,
            "versions": {
                "keras_contrastive": kc.__version__,
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "command": self.command,
        }


def _content_of(part) -> int:
    """A number for what would be read: of files their names, sizes and dates."""
    if isinstance(part, kc.data.FilePart):
        return zlib.crc32(repr(part.content).encode())
    return part.fingerprint


def absolute(spec: str) -> str:
    """A spec that means the same from any folder."""
    kind, _, argument = spec.partition(":")
    if kind in ("folder", "csv", "npz", "tfrecords"):
        return f"{kind}:{os.path.abspath(os.path.expanduser(argument))}"
    return spec


def root_of(spec: str) -> str:
    """The folder that ids which are paths start from; of arrays and records "", as theirs are none."""
    kind, _, argument = spec.partition(":")
    path = Path(argument).expanduser()
    return str({"folder": path, "csv": path.parent}.get(kind, ""))


def _check_channels(part, encoder, spec: str) -> None:
    channels = part.image_shape[2]
    if channels != encoder.channels:
        of = {1: "1 channel (grey)", 3: "3 channels (colour)"}
        raise Failure(
            f"'{spec}' gives images of {of.get(channels, f'{channels} channels')}, and '{encoder.path}' takes "
            f"{of[encoder.channels]}. Use a model that was trained on such images."
        )


def _check_finite(embeddings: np.ndarray, path) -> None:
    if not np.isfinite(embeddings).all():
        raise Failure(
            f"'{path}' gives embeddings that are NaN or infinite: its weights are no good.",
            code=1,
        )


class Chosen:
    """The images of a part that are embedded: all that no earlier image has the name of.

    Attributes:
        rows: int64, which of the part.
        ids: Their names.
        labels: int64, -1 unknown.
    """

    def __init__(self, part, rows, ids, labels):
        self.part, self.rows, self.ids, self.labels = part, rows, ids, labels

    def batches(self, start: int, batch_size: int) -> tf.data.Dataset:
        """Images from `start` on, and the rows that they are; -1: it could not be read. Decoded while others are used."""
        with tf.device("CPU:0"):
            rows = tf.data.Dataset.from_tensor_slices(self.rows[start:])
        return rows.batch(batch_size).map(self._read).prefetch(AHEAD)

    def _read(self, rows):
        part = self.part
        if not isinstance(part, DecodedExamples):
            return part.read(rows)
        # Not `part.read`, which takes the trouble to find another in place of what cannot be read.
        return read_completely(rows, part.image_shape, part.attempt, self._complete)

    def _complete(self, images, got, rows) -> tuple:
        images, rows = images.copy(), rows.copy()
        found = self.part.try_examples(rows[~got].tolist())
        for at in np.flatnonzero(~got):
            image = found[rows[at]]
            if image is None:
                rows[at] = -1
            else:
                images[at] = image
        return images, rows

    def line_of(self, row: int) -> str:
        """What the part has said of an example that could not be read."""
        name = self.part.name_of(row)
        lines = reversed(self.part.skipped)  # it is one of the last
        return next(line for line in lines if line.startswith(f"{name}: "))


def _chosen(parts: dict, root: str, pair_ids: bool) -> list[Chosen]:
    seen, result = set(), []
    for name, part in parts.items():
        ids = _ids(name, part, root)
        fresh = []
        for row, each in enumerate(ids):
            if each not in seen:
                seen.add(each)
                fresh.append(row)
        rows = np.array(fresh, np.int64)
        labels = np.full(len(rows), -1, np.int64)
        if part.labels is not None and not pair_ids:  # those are no classes
            labels = part.labels[rows]
        result.append(Chosen(part, rows, [ids[row] for row in fresh], labels))
    twice = sum(map(len, parts.values())) - len(seen)
    if twice:
        note(f"{twice:,} images are listed more than once; each is embedded once.")
    return result


def _in_one(chosen: list[Chosen], args) -> Chosen:
    """Files of both parts in one pipeline: a second one would begin with nothing decoded ahead."""
    first = chosen[0].part
    paths = np.concatenate([each.part.paths[each.rows] for each in chosen])
    part = kc.data.FilePart(
        paths,
        image_size=first.image_shape[0],
        on_damage=args.on_damage,
        max_pixels=args.max_pixels,
        skipped=first.skipped,
    )
    ids = [name for each in chosen for name in each.ids]
    labels = np.concatenate([each.labels for each in chosen])
    return Chosen(part, np.arange(len(paths)), ids, labels)


def _ids(name: str, part, root: str) -> list[str]:
    if not isinstance(part, kc.data.FilePart):
        return [f"{name}/{row}" for row in range(len(part))]
    before = f"{root.rstrip(os.sep)}{os.sep}"
    return [os.fsdecode(path).removeprefix(before) for path in part.paths]


class Partial:
    """The folder of a file that is not complete yet: killed at any moment, it can be gone on with.

    config.json (its last file to be made) says what is embedded by what, embeddings.npy holds the rows so far, and
    progress.json, which is replaced as a whole, says how many these are.

    Attributes:
        done: Images that are behind us.
        lost: Those of them that could not be read: number -> line.
    """

    def __init__(self, folder: Path, settings: dict, shape: tuple, overwrite: bool):
        self.folder, self.settings = folder, settings
        self._shape, self._overwrite = shape, overwrite
        self._state = (0, 0)  # images done, rows kept: always of one moment
        self.lost: dict[int, str] = {}
        self._due = time.monotonic() + COMMIT_SECONDS

    @property
    def done(self) -> int:
        return self._state[0]

    @property
    def embeddings(self) -> np.ndarray:
        return self._rows[: self._state[1]]

    def __enter__(self) -> Partial:
        with contextlib.ExitStack() as stack:
            self._lock(stack)
            if not self._goes_on():
                self._begin()
            self._rows = np.lib.format.open_memmap(
                self.folder / "embeddings.npy", mode="r+"
            )
            self._opened = stack.pop_all()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        with self._opened:
            if kind is not None and self.folder.is_dir():
                self.commit()

    def add(self, rows: np.ndarray, done: int, lost: dict) -> None:
        """Add the rows of images before number `done`, and those among them that could not be read."""
        kept = self._state[1]
        self._rows[kept : kept + len(rows)] = rows
        self.lost.update(lost)
        self._state = (done, kept + len(rows))
        if time.monotonic() > self._due:
            self.commit()

    def commit(self) -> None:
        """Make what is done last: the rows first, then their number."""
        self._rows.flush()
        done, kept = self._state
        lost = [[row, line] for row, line in self.lost.items() if row < done]
        self._write_json("progress.json", {"done": done, "kept": kept, "lost": lost})
        self._due = time.monotonic() + COMMIT_SECONDS

    def finish(self, out: Path, **arrays) -> None:
        """Write the file, put it in its place, and remove the folder."""
        new = self.folder / "whole.npz"
        with open(new, "wb") as file:
            np.savez(file, **arrays)  # in pieces, also of a mapped file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, out)
        (self.folder / "config.json").unlink()  # nothing to go on with
        shutil.rmtree(self.folder)

    def _lock(self, stack) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise Failure(f"'{self.folder}' is in the way: delete or rename it.")
        self.folder.mkdir(exist_ok=True)
        lock = stack.enter_context(open(self.folder / "lock", "w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
        except BlockingIOError:
            raise Failure(f"Another process is writing '{self.folder}'.") from None

    def _goes_on(self) -> bool:
        """Read how far it is; False where there is nothing, or another thing that may be overwritten."""
        try:
            made = json.loads((self.folder / "config.json").read_text())
            progress = json.loads((self.folder / "progress.json").read_text())
        except FileNotFoundError:
            return False
        except ValueError as error:
            raise Failure(
                f"'{self.folder}' is damaged: {error}. Delete it, and start again."
            ) from error
        other = [
            name for name in self.settings if made.get(name) != self.settings[name]
        ]
        if other and not self._overwrite:
            raise Failure(
                f"'{self.folder}' is what an interrupted command with another {' and '.join(other)} has left. The same "
                "command goes on with it, --overwrite starts again."
            )
        if other:
            return False
        self.lost = {row: line for row, line in progress["lost"]}
        self._state = (progress["done"], progress["kept"])
        return True

    def _begin(self) -> None:
        (self.folder / "config.json").unlink(missing_ok=True)
        file = self.folder / "embeddings.npy"
        rows = np.lib.format.open_memmap(file, "w+", np.float32, shape=self._shape)
        rows.flush()
        if hasattr(os, "posix_fallocate"):  # a full disk shows now, not as a bus error
            with open(file, "r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, os.path.getsize(file))
        self._write_json("progress.json", {"done": 0, "kept": 0, "lost": []})
        self._write_json("config.json", self.settings)

    def _write_json(self, name: str, content) -> None:
        new = self.folder / f"{name}.new"
        new.write_text(json.dumps(content))
        os.replace(new, self.folder / name)


class Progress:
    """How far it is: a bar on a terminal, else a line now and then. On stderr."""

    def __init__(self, total: int, done: int):
        self.total, self._first, self._bar = total, None, None
        self._due = time.monotonic() + SHOWN_SECONDS
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (
                "{task.description}",
                progress.BarColumn(),
                "{task.fields[text]}",
            )
            self._bar = progress.Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(
                "embedding", total=total, completed=done, text=""
            )

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if self._first is None:  # the first batch waits for much that the others do not
            self._first = (now, done)
        if self._bar:
            self._bar.update(self._task, completed=done, text=self._text(done, now))
        elif now > self._due or (done == self.total and done > self._first[1]):
            note(self._text(done, now))
            self._due = now + SHOWN_SECONDS

    def _text(self, done: int, now: float) -> str:
        text = f"{done:,} of {self.total:,} images"
        start, before = self._first
        if done == before or now == start:
            return text
        rate = (done - before) / (now - start)
        left = (self.total - done) / rate
        time_left = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
        return f"{text}, {rate:,.0f} a second" + (
            f", about {time_left} left" if done < self.total else ""
        )
