"""A folder of image files, decoded once into memory. Damaged files are left out, and listed."""

from __future__ import annotations

import io
import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_contrastive.data.images import JPEG_START, PNG_START, decode, resize
from keras_contrastive.data.part import Part, hold_out

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "BMP",
    "WEBP",
)  # Pillow would open many more, some by running programs
MAX_PIXELS = 100_000_000
PROGRESS_SECONDS = 5.0


def read_folder(
    folder: Path, image_size: int, seed: int
) -> tuple[Part, Part, list[str]]:
    """Read every image below `folder` into a train and a test part.

    Sub-folders are classes, by the first level; deeper ones belong to their class. An image beside the
    sub-folders has the label -1, unknown; without sub-folders there are no labels. If there are both a
    `train/` and a `test/` folder, they are the split, with one list of classes, and whatever lies beside them
    is not read; else a fifth is held out. Hidden files, other extensions and links that lead back up are passed
    over. Everything becomes RGB: see `read_image`.

    Args:
        folder: The folder.
        image_size: Integer > 0: images are resized to this square as soon as they are decoded.
        seed: Integer >= 0 for the split.

    Returns:
        `(train, test, skipped)`; `skipped` has a line "path: reason" for every file that could not be read.

    Raises:
        ValueError: the folder is missing, or nothing in it can be read.
    """
    if not folder.is_dir():
        raise ValueError(f"'{folder}' is not a folder.")
    skipped: list[str] = []
    roots = [folder / "train", folder / "test"]
    if not all(root.is_dir() for root in roots):
        _refuse_other_splits(folder)
        roots = [folder]
    files = [list(_image_files(root, skipped)) for root in roots]
    class_of = [
        [_first_folder(path, root) for path in paths]
        for paths, root in zip(files, roots)
    ]
    class_names = sorted(
        {name for names in class_of for name in names if name is not None}
    )
    parts = [
        _read_part(root, paths, names, class_names, image_size, skipped)
        for root, paths, names in zip(roots, files, class_of)
    ]
    train, test = parts if len(parts) == 2 else hold_out(parts[0], seed)
    return train, test, skipped


def _refuse_other_splits(folder: Path) -> None:
    """Raise where sub-folders are parts of a data set, by their names: they are no classes."""
    parts = {"train", "test", "val", "valid", "validation"}
    found = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name in parts
    )
    if found:
        raise ValueError(
            f"'{folder}' holds {', '.join(map(repr, found))}, which are no classes. A split needs both 'train' "
            "and 'test': name the parts so, or give one of them alone, as the folder."
        )


def read_image(path: str) -> np.ndarray:
    """Decode one file as RGB, the right way up.

    JPEG and PNG go through `decode`, so that an exported model sees the same pixels. The other formats go
    through Pillow: TensorFlow reads a BMP's palette as grey, and WebP on one of the two dependency lines only.
    Of an animation the first frame is taken; alpha is dropped; 16 bits keep the high byte.

    Args:
        path: The file.

    Returns:
        uint8 array `(h, w, 3)`.

    Raises:
        Unreadable: the file is not an image of one of `FORMATS`, is damaged, or has above `MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not os.path.isfile(path):  # a pipe would be waited for without end
            raise Unreadable("not a regular file")
        encoded = Path(path).read_bytes()
        if not encoded:
            raise Unreadable("empty file")
        with Image.open(
            io.BytesIO(encoded), formats=FORMATS
        ) as image:  # the header only
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Unreadable(
                    f"{width} x {height} pixels, above the limit of {MAX_PIXELS}"
                )
            turn = _orientation(image, encoded)
            if encoded.startswith((JPEG_START, PNG_START)):
                pixels = decode(encoded).numpy()
            else:
                pixels = np.asarray(image.convert("RGB"))
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(
            f"not an image in one of the formats {', '.join(FORMATS)}"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        raise Unreadable("damaged image data") from error
    except Exception as error:  # damaged headers make Pillow raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(reason.splitlines()[0]) from error
    return _UPRIGHT[turn](pixels)


class Unreadable(Exception):
    """A file that is left out; the message is the reason."""


# EXIF orientation -> the image as it is meant to be seen.
_UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}


def _orientation(image, encoded: bytes) -> int:
    # Pillow decodes the whole PNG before it answers, so it is asked only where there is something to find.
    if (
        encoded.startswith(PNG_START)
        and b"eXIf" not in encoded
        and b"exif" not in encoded
    ):
        return 1
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unreadable
        return 1
    return turn if turn in _UPRIGHT else 1


def _image_files(folder, skipped: list[str], above: frozenset = frozenset()):
    """Yield the paths of all images below `folder`, in the order of their names."""
    real = os.path.realpath(folder)
    if real in above:  # a link that leads back up
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        skipped.append(f"{folder}: {error.strerror}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _image_files(entry.path, skipped, above | {real})
        elif entry.name.lower().endswith(EXTENSIONS):
            yield entry.path


def _first_folder(path: str, root: Path) -> str | None:
    below = Path(path).relative_to(root).parts
    return below[0] if len(below) > 1 else None


def _read_part(root, paths, names, class_names, image_size, skipped) -> Part:
    images, readable = _read_all(root, paths, image_size, skipped)
    if not len(images):
        found = (
            f"{len(paths)} files, none of which can be read"
            if paths
            else "no such file"
        )
        raise ValueError(
            f"'{root}' must hold images ({', '.join(EXTENSIONS)}), directly or in sub-folders. Found {found}."
        )
    if not any(names):
        return Part(images)
    number = {name: k for k, name in enumerate(class_names)}
    labels = np.array([number.get(name, -1) for name in names])
    return Part(images, labels[readable], class_names)


def _read_all(root, paths, image_size, skipped) -> tuple[np.ndarray, np.ndarray]:
    """All readable images, uint8 `(n, size, size, 3)`, and which of `paths` they are, bool."""
    images = np.empty((len(paths), image_size, image_size, 3), np.uint8)

    def read(index):
        try:
            image = read_image(paths[index])
        except Unreadable as error:
            return f"{paths[index]}: {error}"
        with tf.device("CPU:0"):
            images[index] = resize(image, image_size).numpy()
        return None

    pool = ThreadPoolExecutor(os.cpu_count())  # decoding leaves Python's lock
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", module="PIL"
            )  # about single files; here they count or they do not
            reasons = list(
                _with_progress(pool.map(read, range(len(paths))), len(paths), root)
            )
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C do not read the rest
    skipped += [reason for reason in reasons if reason]
    readable = np.array([reason is None for reason in reasons], bool)
    return images if readable.all() else images[readable], readable


def _with_progress(items, total: int, root):
    """Pass `items` on; every few seconds say on stderr how far they are."""
    due = time.monotonic() + PROGRESS_SECONDS
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() > due:
            print(f"Reading {root}: {done} of {total} images", file=sys.stderr)
            due = time.monotonic() + PROGRESS_SECONDS
