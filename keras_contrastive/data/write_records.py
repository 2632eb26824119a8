"""Write examples as TFRecord shards, with counts, checksums and an index; stopped, it goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_integer
from keras_contrastive._random import shuffled
from keras_contrastive.data.decoder import Unreadable, orientation, read_bytes
from keras_contrastive.data.files import DecodedExamples, FilePart
from keras_contrastive.data.images import JPEG_START, PNG_START
from keras_contrastive.data.part import Examples
from keras_contrastive.data.records import ARRAYS, Form, read_counts, scan
from keras_contrastive.data.stream import Stream

ENCODINGS = ("png", "jpeg", "raw", "files")
JPEG_QUALITY = 95
CHUNK = 256


def write_records(
    parts: dict[str, Examples | Stream],
    folder,
    *,
    encoding: str = "png",
    examples_per_shard: int = 10_000,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict:
    """Write the examples of `parts` into TFRecord shards below `folder`.

    In a random order, so that neighbours in a shard are of all classes (of a `Stream`: shard by shard). Each record
    is a `tf.train.Example` with `image` (bytes), `label` (int64, -1 unknown) and `number` (int64, which example of
    its part it was). A shard appears when it is complete; called again with the same arguments, the function writes
    what is missing.

    Args:
        parts: "train" and, if there is one, "test", with their examples: single images of one shape. What cannot be
            read is left out.
        folder: Where to; made if it is missing.
        encoding: How images are stored: "png" (lossless), "jpeg" (quality 95), "raw" (pixels: the largest files,
            and no decoding), or "files" (of a `FilePart`: JPEG and PNG files as they are, not resized; other
            formats and turned photographs as PNG).
        examples_per_shard: Integer > 0.
        seed: Integer >= 0 of the order.
        progress: Function called with the part's name, how many of its examples are done, and how many there are.

    Returns:
        The content of `counts.json`.

    Raises:
        ValueError: an option is out of its range, the examples are no such, or `folder` holds shards of other
            examples or options, or a damaged one, or cannot be written.
    """
    check_choice("encoding", encoding, ENCODINGS)
    check_integer(1, examples_per_shard=examples_per_shard)
    check_integer(0, seed=seed)
    folder = Path(folder)
    _check_parts(parts, encoding)
    first = next(iter(parts.values()))
    keep_files = encoding == "files"
    made = {
        "encoding": encoding,
        "image_shape": [0, 0, 3] if keep_files else list(first.image_shape),
        "class_names": getattr(first, "class_names", None),
        "examples_per_shard": int(examples_per_shard),  # NumPy's are not for JSON
        "seed": int(seed),
        "examples": {name: _fingerprint(part) for name, part in parts.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        counts = _begun(folder, made)
        for name, part in parts.items():
            _write_part(folder, name, part, counts, progress)
            _write_index(folder, name, counts)
        sums = [
            f"{shard['sha256']}  {file}\n" for file, shard in counts["shards"].items()
        ]
        _write(folder / "SHA256SUMS", "".join(sums))
    except OSError as error:
        raise ValueError(
            f"'{folder}' cannot be written: {error.strerror or error}."
        ) from error
    except (tf.errors.PermissionDeniedError, tf.errors.ResourceExhaustedError) as error:
        raise ValueError(f"'{folder}' cannot be written: {error.message}.") from error
    return counts


def _check_parts(parts: dict, encoding: str) -> None:
    if not parts:
        raise ValueError("`parts` must not be empty.")
    if encoding == "files":
        if not all(isinstance(part, FilePart) for part in parts.values()):
            raise ValueError(
                '`encoding="files"` needs image files. Received: examples that are none; use "png".'
            )
        return
    for name, part in parts.items():
        if isinstance(part, Examples) and part.views is not None:
            raise ValueError(
                f"`parts` must be of single images. Received: {name} is a {type(part).__name__}."
            )
    shapes = [tuple(part.image_shape) for part in parts.values()]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"`parts` must have images of one shape. Received: {', '.join(map(str, shapes))}."
        )
    if encoding != "raw" and shapes[0][2] not in (1, 3):
        raise ValueError(
            f'`encoding="{encoding}"` is for images of 1 or 3 channels. Received: {shapes[0]}; use "raw".'
        )


def _begun(folder: Path, made: dict) -> dict:
    """What was written before, by the same arguments; or a new beginning."""
    counts = read_counts(folder)
    if not counts:
        others = sorted(folder.glob("*.tfrecord*"))
        if others:
            raise ValueError(
                f"'{folder}' holds shards that were not written by this function ('{others[0].name}'). "
                "Name another folder."
            )
        return {**made, "shards": {}}
    for name, value in made.items():
        if counts.get(name) != value:
            raise ValueError(
                f"'{folder}' was written with {name}={counts.get(name)!r}, this is {name}={value!r}. "
                "Name another folder, or delete it."
            )
    return counts


def _write_part(folder, name, part, counts, progress) -> None:
    size = counts["examples_per_shard"]
    total = _count(part)
    shards = -(-total // size)
    files = [f"{name}-{shard:05d}-of-{shards:05d}.tfrecord" for shard in range(shards)]
    done = [f in counts["shards"] and (folder / f).exists() for f in files]
    first = done.index(False) if False in done else shards
    # The rows of a piece of a stream are counted from its beginning.
    offset = size if isinstance(part, Stream) else 0
    for shard, (examples, rows) in enumerate(_pieces(part, size, counts, first), first):
        if shard == shards:
            raise ValueError(
                f"`count` of the stream must be the number of its examples. Received: {total}; there are more."
            )
        file = folder / files[shard]
        if not done[shard]:
            written = _write_shard(
                file, examples, rows, counts["encoding"], shard * offset
            )
            counts["shards"][file.name] = {"count": written, "sha256": _sha256(file)}
            _write(folder / "counts.json", json.dumps(counts, indent=2) + "\n")
        if progress is not None:
            progress(name, min(total, (shard + 1) * size), total)


def _pieces(part, size: int, counts: dict, first: int):
    """The examples of each shard from `first` on: a set of examples, and rows of it in the order to be written."""
    if isinstance(part, Stream):
        for shard, window in enumerate(part.windows(size, first * size), first):
            order = np.arange(len(window))
            yield window, shuffled(order, len(window), counts["seed"], shard).numpy()
        return
    # Epoch -2: neither the order of an epoch nor that of the part held out.
    order = shuffled(np.arange(len(part)), len(part), counts["seed"], -2).numpy()
    for at in range(first * size, len(part), size):
        yield part, order[at : at + size]


def _fingerprint(part) -> int | str:
    return repr(part.image_shape) if isinstance(part, Stream) else part.fingerprint


def _count(part) -> int:
    if not isinstance(part, Stream):
        return len(part)
    if part.count is not None:
        return part.count
    examples = part.ordered(0, tf.constant(0, tf.int64))
    return int(examples.reduce(np.int64(0), lambda count, *_: count + 1))


def _write_shard(
    file: Path, part: Examples, rows: np.ndarray, encoding: str, offset: int
) -> int:
    """Write one shard, and return how many records it has. It appears under its name when it is complete."""
    unfinished = file.with_suffix(".tmp")
    written = 0
    with tf.io.TFRecordWriter(str(unfinished)) as writer:
        for at in range(0, len(rows), CHUNK):
            some = rows[at : at + CHUNK]
            for row, image in zip(some.tolist(), _encoded(part, some, encoding)):
                if image is not None:
                    label = -1 if part.labels is None else part.labels[row]
                    writer.write(_example(image, label, offset + row))
                    written += 1
    with open(unfinished, "rb") as content:
        os.fsync(content.fileno())  # a power cut leaves the whole of it, or nothing
    os.replace(unfinished, file)
    return written


def _encoded(part: Examples, rows: np.ndarray, encoding: str):
    """The bytes of the images of some examples, in turn; None for what cannot be read."""
    if encoding == "files":
        for row in rows.tolist():
            yield None if part.try_example(row) is None else _own_bytes(part, row)
        return
    if isinstance(part, DecodedExamples):
        images, got = (tensor.numpy() for tensor in part.attempt(tf.constant(rows)))
    else:
        images, got = part.read(tf.constant(rows))[0].numpy(), np.ones(len(rows), bool)
    for row, image, sound in zip(rows.tolist(), images, got):
        image = image if sound else part.try_example(row)
        yield None if image is None else encode(image, encoding)


def _own_bytes(part: FilePart, row: int) -> bytes:
    """The file as it is, where a reader that knows only plain JPEG and PNG sees the same image; else as PNG."""
    path = part.name_of(row)
    try:
        content = Path(path).read_bytes()
        image = read_bytes(content, part.decoder.max_pixels)
    except (OSError, Unreadable) as error:
        raise ValueError(
            f"'{path}' could be read once, and not again: {error}"
        ) from error
    if content.startswith((JPEG_START, PNG_START)) and orientation(content) == 1:
        return content
    return encode(image, "png")


def encode(image: np.ndarray, encoding: str) -> bytes:
    if encoding == "raw":
        return image.tobytes()
    if encoding == "png":
        return tf.io.encode_png(image).numpy()
    return tf.io.encode_jpeg(
        image, quality=JPEG_QUALITY, chroma_downsampling=False
    ).numpy()


def _example(image: bytes, label: int, number: int) -> bytes:
    def integers(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "label": integers(label),
        "number": integers(number),
    }
    features = tf.train.Features(feature=feature)
    return tf.train.Example(features=features).SerializeToString()


def _write_index(folder: Path, name: str, counts: dict) -> None:
    """Read the shards of a part back, which proves them, and write where their records are."""
    files = sorted(folder.glob(f"{name}-*.tfrecord"))
    damage = []
    form = Form(tuple(counts["image_shape"]), counts["encoding"] == "raw")
    index, _ = scan(files, damage, form)
    if damage:
        raise ValueError(f"{damage[0]}. Delete the file and write it again.")
    found = np.bincount(index.shard, minlength=len(files)).tolist()
    for file, count in zip(files, found):
        wanted = counts["shards"][file.name]["count"]
        if count != wanted:
            raise ValueError(
                f"'{file}' holds {count} of its {wanted} records. Delete the file and write it again."
            )
    arrays = {key: getattr(index, key) for key in ARRAYS}
    new = folder / f"{name}.index.tmp.npz"
    np.savez(new, files=np.array([file.name for file in files]), **arrays)
    os.replace(new, folder / f"{name}.index.npz")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _write(file: Path, text: str) -> None:
    new = file.with_name(file.name + ".tmp")
    new.write_text(text)
    os.replace(new, file)
