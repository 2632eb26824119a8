"""A cache of decoded images on disk: decoded once, read by every later run, larger than memory if need be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_contrastive.data.files import FilePart, decode_all
from keras_contrastive.data.part import Examples
from keras_contrastive.data.records import RecordPart

FORMAT = 1  # another where the same file would be decoded to other pixels


class MappedPart(Examples):
    """Decoded images in a file that is mapped into memory.

    Args:
        images: uint8 `numpy.memmap` `(m, h, w, c)`.
        rows: int64 `(n,)`: which of them are the examples.
        labels: int64 `(n,)` or None.
        class_names: List of str, or None.
        fingerprint: Integer that stands for the content of the file.
    """

    def __init__(self, images, rows, labels, class_names, fingerprint, skipped=None):
        super().__init__(labels, class_names, skipped)
        self._pixels, self._rows, self._fingerprint = images, rows, fingerprint

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._pixels.shape[1:]

    @property
    def fingerprint(self) -> int:
        return zlib.crc32(self._rows.tobytes(), self._fingerprint)

    def take(self, indices) -> MappedPart:
        labels = None if self.labels is None else self.labels[indices]
        rows = self._rows[indices]
        return MappedPart(
            self._pixels,
            rows,
            labels,
            self.class_names,
            self._fingerprint,
            self.skipped,
        )

    def read(self, rows):
        images = tf.numpy_function(
            lambda rows: np.asarray(self._pixels[self._rows[rows]]), [rows], tf.uint8
        )
        return tf.ensure_shape(images, [*rows.shape, *self.image_shape]), rows


def read_through_disk(
    part: FilePart | RecordPart, folder: Path
) -> tuple[MappedPart, np.ndarray]:
    """What can be read of `part`, decoded into a file below `folder`, or found there already.

    The file belongs to these examples as they are: their names, sizes and dates, the image size, and how large an
    image may be. Decoding that was stopped goes on where it was; of several processes one decodes, and the others
    wait for it.

    Args:
        part: The examples.
        folder: Where the cache is; made if it is missing.

    Returns:
        The part, and which examples these are, int64 `(m,)`.

    Raises:
        ValueError: nothing can be read, or the folder cannot be written; or damage, with `on_damage="stop"`.
    """
    import fcntl  # not on Windows, where what is in memory may be used

    belongs_to = (FORMAT, part.image_shape, part.decoder.max_pixels, part.content)
    key = hashlib.sha256(repr(belongs_to).encode()).hexdigest()
    file = folder / f"{key[:32]}.u8"
    shape = (len(part), *part.image_shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
            _decode_into(part, file, shape)
    except OSError as error:
        raise ValueError(
            f"The cache '{folder}' cannot be written: {error.strerror or error}. Name another folder."
        ) from error
    done = json.loads(file.with_suffix(".json").read_text())
    if part.on_damage == "stop" and done["skipped"]:
        raise ValueError(f'{done["skipped"][0]}. With on_damage="skip" it is left out.')
    part.skipped[:] = list(dict.fromkeys([*part.skipped, *done["skipped"]]))
    rows = np.delete(np.arange(len(part)), done["unreadable"])
    if not len(rows):
        raise ValueError(
            f"Found {len(part)} files, none of which can be read. The first: {part.skipped[0]}"
        )
    labels = None if part.labels is None else part.labels[rows]
    images = np.memmap(file, np.uint8, "r", shape=shape)
    mapped = MappedPart(
        images, rows, labels, part.class_names, int(key[:8], 16), part.skipped
    )
    return mapped, rows


def _decode_into(part, file: Path, shape: tuple) -> None:
    """Fill `file` and write what is known of it beside it, unless both are there."""
    if file.exists() and file.with_suffix(".json").exists():
        return
    unfinished, state_file = file.with_suffix(".part"), file.with_suffix(".state")
    state = {"next": 0, "unreadable": [], "skipped": []}
    if unfinished.exists() and state_file.exists():
        state = json.loads(state_file.read_text())
    mode = "r+" if state["next"] else "w+"
    size = int(np.prod(shape, dtype=np.int64))
    free = shutil.disk_usage(file.parent).free
    if mode == "w+" and size > free:  # a mapped file that outgrows the disk ends Python
        raise OSError(f"it needs {size / 1e9:.1f} GB, {free / 1e9:.1f} are free")
    images = np.memmap(unfinished, np.uint8, mode, shape=shape)
    listed = list(part.skipped)

    def record(next_row: int, readable) -> dict:
        lost = [*state["unreadable"], *np.flatnonzero(~readable).tolist()]
        new = [line for line in part.skipped if line not in listed]
        return {"next": next_row, "unreadable": lost, "skipped": state["skipped"] + new}

    def saved(next_row: int, readable) -> None:
        images.flush()
        _write(state_file, record(next_row, readable))

    readable = decode_all(part, images, state["next"], saved)
    images.flush()
    os.replace(unfinished, file)
    _write(file.with_suffix(".json"), record(len(part), readable))
    state_file.unlink(missing_ok=True)


def _write(path: Path, content: dict) -> None:
    new = path.with_suffix(".tmp")
    new.write_text(json.dumps(content))
    os.replace(new, path)
