"""A folder of image files: which there are, and which class each is of."""

from __future__ import annotations

import os
from pathlib import Path

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def list_folder(folder: Path, skipped: list[str]) -> tuple[list, list[str] | None]:
    """Find every image below `folder`. Nothing is opened.

    Sub-folders are classes, by the first level; deeper ones belong to their class. An image beside the
    sub-folders has the label -1, unknown; without sub-folders there are no labels. If there are both a
    `train/` and a `test/` folder, they are the split, with one list of classes, and whatever lies beside them
    is not read. Hidden files, other extensions, links that lead back up, and links
    below a class to folders that are found without them are passed over.

    Args:
        folder: The folder.
        skipped: Lines "path: reason" are added to it for folders that cannot be listed and for what has an
            image's name and is no file.

    Returns:
        `(parts, class_names)`: for the train and the test part, or for the whole, `(root, paths, labels)` with
        the labels a list of integers or None; and the names of the classes, or None.

    Raises:
        ValueError: the folder is missing, holds parts of a data set in place of classes, or holds no images.
    """
    if not folder.is_dir():
        raise ValueError(f"'{folder}' is not a folder.")
    roots = [folder / "train", folder / "test"]
    if not all(root.is_dir() for root in roots):
        _refuse_other_splits(folder)
        roots = [folder]
    found = [list(_image_files(str(root), skipped)) for root in roots]
    for root, files in zip(roots, found):
        if not files:
            raise ValueError(
                f"'{root}' must hold images ({', '.join(EXTENSIONS)}), directly or in sub-folders. "
                "Found no such file."
            )
    names = sorted({name for files in found for _, name in files if name is not None})
    number = {name: k for k, name in enumerate(names)}
    parts = []
    for root, files in zip(roots, found):
        labels = [number.get(name, -1) for _, name in files]
        known = any(name is not None for _, name in files)
        parts.append((root, [path for path, _ in files], labels if known else None))
    return parts, names or None


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


def _image_files(root: str, skipped: list[str]):
    """Yield (path, class) of all images below `root`, in the order of their names."""
    real_root = os.path.realpath(root)
    seen = set()  # folders outside that links have led to

    def below(folder: str, class_name: str | None):
        try:
            with os.scandir(folder) as entries:
                entries = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            skipped.append(f"{folder}: {error.strerror}")
            return
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if _is(entry.is_dir):
                is_class = folder == root
                if not entry.is_symlink() or leads_on(entry.path, is_class):
                    of = name if is_class else class_name
                    yield from below(entry.path, of)
            elif name.lower().endswith(EXTENSIONS):
                if _is(entry.is_file):
                    yield entry.path, class_name
                else:  # a pipe would be waited for without end
                    skipped.append(f"{entry.path}: not a regular file")

    def leads_on(link: str, is_class: bool) -> bool:
        """Whether a link to a folder is followed: as a class of its own, or to images that are found nowhere else."""
        real = os.path.realpath(link)
        if _is_within(real_root, real):
            return False  # it leads back up
        if _is_within(real, real_root):
            return is_class  # else they have a place, and a class, already
        for other in seen:
            if _is_within(real, other) or _is_within(other, real):
                skipped.append(f"{link}: a second link to '{other}'")
                return False
        seen.add(real)
        return True

    yield from below(root, None)


def _is_within(folder: str, of: str) -> bool:
    return folder == of or folder.startswith(of.rstrip(os.sep) + os.sep)


def _is(kind) -> bool:
    try:
        return kind()
    except OSError:  # a link in a circle of links
        return False
