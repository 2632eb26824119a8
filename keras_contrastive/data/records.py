"""TFRecord shards with random access: an index says where each record begins, so any one can be read alone.

A folder of shards holds `NAME-00000-of-00010.tfrecord`, ... (`train`, and `test` if there is one); beside them, where
`write_records` wrote them:

- `counts.json`: the number of records in each shard, and what the images are;
- `SHA256SUMS`: `sha256sum --check SHA256SUMS` compares the shards with it;
- `NAME.index.npz`: where each record begins, how long it is, its CRC-32 and its label.

Shards of others have no index; then it is made when they are loaded, by reading all of them once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive.data.decoder import Decoder, Unreadable, check_lasting
from keras_contrastive.data.files import (
    PROGRESS_SECONDS,
    DecodedExamples,
    size_and_date,
)
from keras_contrastive.data.images import resize
from keras_contrastive.data.part import checked_labels

IMAGE_KEYS = ("image", "image/encoded", "image_raw", "encoded", "jpg", "png")
LABEL_KEYS = ("label", "image/class/label", "class", "target")
OPEN_FILES = 64  # shards that are open at the same time
HEADER, FOOTER = 12, 4  # bytes about a record: length and its checksum; checksum


_SHARD = re.compile(r"\.tfrecords?\b|-\d+-of-\d+$")


@dataclasses.dataclass
class Index:
    """Where the records of some shards are. All arrays are `(n,)`, but `files`, the paths of the shards."""

    files: list[str]
    shard: np.ndarray
    """int32: the number of the file."""
    number: np.ndarray
    """int32: which record of its file."""
    start: np.ndarray
    """int64: where the content begins in the file, in bytes."""
    length: np.ndarray
    """int64, in bytes."""
    crc32: np.ndarray
    """uint32 of the content."""
    labels: np.ndarray
    """int64, -1 where there is none."""

    def take(self, indices) -> Index:
        arrays = {name: getattr(self, name)[indices] for name in ARRAYS}
        return Index(self.files, **arrays)


ARRAYS = ("shard", "number", "start", "length", "crc32", "labels")


class RecordPart(DecodedExamples):
    """Examples in TFRecord shards, each read when it is asked for.

    A record is a `tf.train.Example` with the bytes of a JPEG or PNG, or plain pixels. Every record is compared
    with the checksum in the index when it is read.

    Args:
        folder: The folder of the shards, or a single one.
        name: "train" or "test": what the names of its shards begin with; "": all that are there.
        image_size: Integer > 0: images are made squares of this side. None: as they are or, where they are of many
            sizes, 96.
        on_damage: As of `FilePart`; the lines in `skipped` name file and record.
        max_pixels: As of `FilePart`.
        skipped: As of `FilePart`.

    Raises:
        ValueError: there are no such shards, or they hold no images; or damage, with `on_damage="stop"`.
    """

    def __init__(
        self,
        folder,
        name: str = "train",
        *,
        image_size: int | None = None,
        on_damage: str = "skip",
        max_pixels: int | None = None,
        skipped: list | None = None,
    ):
        skipped = [] if skipped is None else skipped
        index, form, counts = read_records(Path(folder), name, on_damage, skipped)
        if image_size is None and form.varies:
            image_size = 96
        shape = form.shape
        if image_size is not None:
            check_integer(1, image_size=image_size)
            shape = (image_size, image_size, form.shape[2])
        labels = index.labels if (index.labels >= 0).any() else None
        super().__init__(
            shape,
            *checked_labels(labels, counts.get("class_names"), len(index.start)),
            on_damage=on_damage,
            skipped=skipped,
        )
        self.index, self.form = index, form
        sized = image_size is not None
        self.decoder = Decoder(
            shape, max_pixels, sized=sized, resizes=sized and shape != form.shape
        )
        self._files = _OpenFiles(index.files)

    def __len__(self) -> int:
        return len(self.index.start)

    def take(self, indices) -> RecordPart:
        return self._taken(indices, index=self.index.take(indices))

    def key(self, row: int):
        return int(self.index.shard[row]), int(self.index.number[row])

    @property
    def fingerprint(self) -> int:
        labels = zlib.crc32(self.index.labels.tobytes())
        return zlib.crc32(self.index.crc32.tobytes(), labels)

    @property
    def content(self) -> list:
        """As of `FilePart`."""
        return [self.fingerprint, *((f, *size_and_date(f)) for f in self.index.files)]

    def name_of(self, row: int) -> str:
        file = self.index.files[self.index.shard[row]]
        return f"{file}, record {self.index.number[row]}"

    def example(self, row: int) -> np.ndarray:
        try:
            content = self._content(row)
            features = tf.train.Example.FromString(content).features.feature
            encoded = features[self.form.image_key].bytes_list.value[0]
        except Unreadable:
            raise
        except OSError as error:
            check_lasting(error)
            raise Unreadable(error.strerror or str(error)) from error
        except Exception as error:  # protobuf's own exceptions, or a missing feature
            raise Unreadable("not a record of an image") from error
        if not self.form.raw:
            return self.decoder.decode(encoded)
        if len(encoded) != np.prod(self.form.shape):
            raise Unreadable(f"{len(encoded)} bytes are no image of {self.form.shape}")
        image = np.frombuffer(encoded, np.uint8).reshape(self.form.shape)
        return self.decoder.fit(image)

    def attempt(self, rows):
        contents, sound = tf.numpy_function(
            self._contents, [rows], [tf.string, tf.bool]
        )
        contents = tf.ensure_shape(contents, [None])
        feature = {self.form.image_key: tf.io.FixedLenFeature([], tf.string, "")}
        encoded = tf.io.parse_example(contents, feature)[self.form.image_key]
        encoded = tf.reshape(encoded, [-1])
        if self.form.raw:
            return self._of_raw(encoded, tf.ensure_shape(sound, [None]))
        return self.decoder.attempt(encoded, tf.identity)

    def _of_raw(self, encoded, sound):
        size = int(np.prod(self.form.shape))
        sound &= tf.strings.length(encoded) == size
        blank = tf.constant(bytes(size))
        pixels = tf.io.decode_raw(tf.where(sound, encoded, blank), tf.uint8)
        images = tf.reshape(pixels, [-1, *self.form.shape])
        if self.image_shape != self.form.shape:
            images = resize(images, self.image_shape[0])
        return images, sound

    def _contents(self, rows):
        """The contents of records as bytes, and which of them are sound. Others are empty records."""
        contents, sound = [], np.ones(len(rows), bool)
        for at, row in enumerate(rows.tolist()):
            try:
                contents.append(self._content(row))
            except (OSError, Unreadable):
                contents.append(b"")
                sound[at] = False
        return np.array(contents, object), sound

    def _content(self, row: int) -> bytes:
        length = int(self.index.length[row])
        content = self._files.read(
            self.index.shard[row], int(self.index.start[row]), length
        )
        if len(content) < length:
            raise Unreadable(f"the file is cut short: {len(content)} of {length} bytes")
        if zlib.crc32(content) != self.index.crc32[row]:
            raise Unreadable("damaged: its checksum is another")
        return content


class _OpenFiles:
    """Files, of which the last few that were read from stay open."""

    def __init__(self, paths: list[str]):
        self._paths, self._open = paths, {}  # the oldest first
        self._lock = threading.Lock()

    def read(self, file: int, start: int, length: int) -> bytes:
        with self._lock:
            descriptor = self._open.pop(file, None)
            if descriptor is None:
                descriptor = os.open(self._paths[file], os.O_RDONLY)
            self._open[file] = descriptor
            if len(self._open) > OPEN_FILES:
                os.close(self._open.pop(next(iter(self._open))))
            return os.pread(descriptor, length, start)

    def __del__(self):
        for descriptor in self._open.values():
            os.close(descriptor)


@dataclasses.dataclass(frozen=True)
class Form:
    """What the images in records are: their shape, how they are stored, and under which names."""

    shape: tuple[int, int, int]
    raw: bool = False
    image_key: str = "image"

    @property
    def varies(self) -> bool:
        """Images are of many sizes: the shape says how many channels they have alone."""
        return self.shape[0] == 0


def read_records(
    folder: Path, name: str, on_damage: str, skipped: list[str]
) -> tuple[Index, Form, dict]:
    """Find the records of a part.

    Args:
        folder: The folder of the shards, or one shard.
        name: "train" or "test"; "": all shards.
        on_damage: "skip": list what a shard that is cut short has lost; "stop": raise.
        skipped: The list.

    Returns:
        The index, what the images are, and what `counts.json` says (empty without it).

    Raises:
        ValueError: there are no such shards, or they hold no images; or damage, with `on_damage="stop"`.
    """
    files = [folder] if folder.is_file() else shards_of(folder, name)
    if not files:
        raise ValueError(
            f"'{folder}' must hold TFRecord shards ({name or 'NAME'}-00000-of-00010.tfrecord, or the like)."
        )
    folder = folder.parent if folder.is_file() else folder
    counts = read_counts(folder)
    form = index = None
    if counts:
        form = Form(tuple(counts["image_shape"]), counts["encoding"] == "raw")
        index = _stored_index(folder, name, files)
    damage = []
    if index is None:
        index, form = scan(files, damage, form)
    index = _without_lost_ends(index, damage)
    if damage and on_damage == "stop":
        raise ValueError(f'{damage[0]}. With on_damage="skip" it is left out.')
    skipped += damage
    if not len(index.start):
        raise ValueError(f"'{files[0]}' and its like hold no record that can be read.")
    return index, form, counts


def shards_of(folder: Path, name: str) -> list[Path]:
    """The shards of a part, by their names: `train-00000-of-00010`, `x-train.tfrecord-00000-of-00010`, ...

    Args:
        folder: Their folder.
        name: "train", "test" (or validation, where there is no test) or "": all.
    """
    files = sorted(file for file in folder.iterdir() if _SHARD.search(file.name))
    files = [file for file in files if file.is_file()]  # a pipe would be waited for
    for word in {"": [""], "test": ["test", "validation", "val"]}.get(name, [name]):
        of_word = (
            re.compile(rf"(^|[-_.]){word}([-_.]|\d|$)") if word else re.compile("")
        )
        found = [file for file in files if of_word.search(file.name)]
        if found:
            return found
    return []


def read_counts(folder: Path) -> dict:
    """What `write_records` wrote down in a folder; empty where it did not."""
    try:
        counts = json.loads((folder / "counts.json").read_text())
        ours = isinstance(counts, dict) and "shards" in counts
        return counts if ours else {}
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise ValueError(
            f"'{folder / 'counts.json'}' cannot be read: {error}"
        ) from error


def _stored_index(folder: Path, name: str, files: list[Path]) -> Index | None:
    """The index that the writer left, or None where there is none, or it is of other shards."""
    stored = folder / f"{name}.index.npz"
    if not name or not stored.is_file():
        return None
    try:
        with np.load(stored) as arrays:
            names = [str(file) for file in arrays["files"]]
            found = Index(
                [str(folder / file) for file in names],
                **{key: arrays[key] for key in ARRAYS},
            )
    except Exception as error:  # a damaged zip ends in any of a dozen exceptions
        raise ValueError(
            f"'{stored}' cannot be read: {error}. Without it the index is made anew: delete it."
        ) from error
    return found if set(names) >= {file.name for file in files} else None


def _without_lost_ends(index: Index, damage: list[str]) -> Index:
    """Leave out, and list, the records beyond the ends of their files."""
    sizes = [os.path.getsize(f) if os.path.isfile(f) else 0 for f in index.files]
    ends = index.start + index.length + FOOTER
    lost = ends > np.array(sizes)[index.shard]
    for shard in np.unique(index.shard[lost]).tolist():
        numbers, file = index.number[lost & (index.shard == shard)], index.files[shard]
        reason = "the file is cut short" if os.path.isfile(file) else "no such file"
        damage.append(
            f"{file}, record {numbers.min()}: {reason}, {len(numbers)} records are lost"
        )
    return index.take(np.flatnonzero(~lost)) if lost.any() else index


def scan(
    files: list[Path], damage: list[str], form: Form | None = None
) -> tuple[Index, Form]:
    """Make the index of shards, and find out what their images are unless that is known."""
    rows = []
    due = time.monotonic() + PROGRESS_SECONDS
    for shard, file in enumerate(files):
        for number, start, content in scan_shard(file, damage):
            try:
                features = tf.train.Example.FromString(content).features.feature
                form = form or _form_of(features)
                images = features[form.image_key].bytes_list.value
                if len(images) != 1:
                    raise ValueError(f"`{form.image_key}` holds {len(images)} of them")
                label = _label_of(features)
            except Exception as error:  # protobuf's own exceptions, or a strange record
                damage.append(
                    f"{file}, record {number}: not a record of an image ({error})"
                )
                continue
            rows.append(
                (shard, number, start, len(content), zlib.crc32(content), label)
            )
            if time.monotonic() > due:
                print(f"Reading {file}: record {number}", file=sys.stderr)
                due = time.monotonic() + PROGRESS_SECONDS
    if form is None:
        reason = f" {damage[0]}." if damage else ""
        raise ValueError(f"'{files[0]}' and its like hold no images.{reason}")
    types = (np.int32, np.int32, np.int64, np.int64, np.uint32, np.int64)
    columns = zip(*rows) if rows else [()] * len(types)
    columns = [np.array(column, type_) for column, type_ in zip(columns, types)]
    return Index([str(file) for file in files], *columns), form


def _label_of(features) -> int:
    key = next((key for key in LABEL_KEYS if key in features), None)
    if key is None:
        return -1
    values = features[key].int64_list.value
    if len(values) != 1 or values[0] < -1:
        raise ValueError(f"`{key}` must be one integer >= -1")
    return values[0]


def scan_shard(file: Path, damage: list[str]):
    """Yield (number, start, content) of the records of a shard whose checksums are right, and list the others."""
    number = at = 0
    try:
        for content in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            yield number, at + HEADER, content
            number, at = number + 1, at + HEADER + len(content) + FOOTER
        if at < os.path.getsize(
            file
        ):  # TensorFlow takes a piece of a header for the end
            damage.append(f"{file}, record {number}: the file is cut short")
        return
    except tf.errors.DataLossError:
        pass  # TensorFlow goes on no further; the slow way does, and knows what is wrong
    with open(file, "rb") as shard:
        if shard.read(2) == b"\x1f\x8b":
            damage.append(f"{file}, record 0: a compressed file; unpack it first")
            return
        yield from _scan_slowly(shard, number, at, damage)


def _scan_slowly(shard, number: int, at: int, damage: list[str]):
    size = os.fstat(shard.fileno()).st_size
    shard.seek(at)
    while at < size:
        name = f"{shard.name}, record {number}"
        header = shard.read(HEADER)
        if len(header) < HEADER:
            damage.append(f"{name}: the file is cut short")
            return
        if _masked_crc32c(header[:8]) != header[8:]:
            damage.append(f"{name}: damaged, and with it all that follow in this file")
            return
        length = struct.unpack("<Q", header[:8])[0]
        content, footer = shard.read(length), shard.read(FOOTER)
        if len(footer) < FOOTER:
            damage.append(f"{name}: the file is cut short")
            return
        if _masked_crc32c(content) == footer:
            yield number, at + HEADER, content
        else:
            damage.append(f"{name}: damaged: its checksum is another")
        number, at = number + 1, at + HEADER + length + FOOTER


def _masked_crc32c(content: bytes) -> bytes:
    """The checksum of TFRecord files: CRC-32C (Castagnoli), rotated, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _crc32c_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC32C = _crc32c_table()


def _form_of(features) -> Form:
    image_key = next((key for key in IMAGE_KEYS if key in features), None)
    if image_key is None:
        raise ValueError(
            f"none of the features {', '.join(IMAGE_KEYS)}; it has {', '.join(sorted(features))}"
        )
    return Form((0, 0, 3), False, image_key)
