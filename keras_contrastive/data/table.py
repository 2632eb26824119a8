"""A CSV of paths: with labels, with pair ids, or of given pairs and triplets."""

from __future__ import annotations

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np

PATHS = ("path", "file", "filename", "image")
LABELS = ("label", "class")


@dataclasses.dataclass
class Table:
    """What a CSV file says. See `read_table`.

    Attributes:
        paths: List of the files that are there, each once.
        labels: List of integers, -1 unknown, or None.
        class_names: List of str, or None.
        grouped: The labels are pair ids: examples of one belong into one part.
        rows: int64 `(n, 2)` or `(n, 3)`, given pairs or triplets of paths, or None.
        in_test: bool array, from a column `split`, for every path, or for every pair; or None, also where all are train.
    """

    paths: list[str]
    labels: list[int] | None = None
    class_names: list[str] | None = None
    grouped: bool = False
    rows: np.ndarray | None = None
    in_test: np.ndarray | None = None


def read_table(file: Path, skipped: list[str]) -> Table:
    """Read a CSV (or, by its name, TSV) file of paths, which are relative to it.

    With a column `path` (or file, filename, image): single images, with `label` (or class; words or integers >=
    0, empty is unknown) or `pair_id` (examples of one id belong together), and `split` (train or test). Else two
    columns are given pairs and three are given triplets: anchor, positive, negative. The first line is a header
    unless it names a file that is there. Files that are not there are left out and listed.

    Args:
        file: The CSV file, UTF-8.
        skipped: Lines "path: reason" are added to it.

    Returns:
        A `Table`.

    Raises:
        ValueError: the file is missing or no such table; the message names the line.
    """
    lines = _lines(file)
    first = lines[0][1]
    header = [name.strip().lower() for name in first]
    if len(lines) > 1 and len(header) in (2, 3):
        if all(_is_file(file, cell) for cell in lines[1][1]):
            header = ["anchor", "positive", "negative"][: len(header)]
    if len(set(header)) < len(header):
        raise ValueError(
            f"'{file}' must have columns of different names. Found: {first}."
        )
    if any(_is_file(file, cell) for cell in first):
        header = ["path", "label"][: len(first)]
        if any(_is_file(file, cells[1]) for _, cells in lines if len(cells) > 1):
            header = ["anchor", "positive", "negative"][: len(first)]
    else:
        lines = lines[1:]
    for number, cells in lines:
        if len(cells) != len(header):
            raise ValueError(
                f"'{file}', line {number}: {len(header)} columns are needed. Found {len(cells)}."
            )
    if not lines:
        raise ValueError(f"'{file}' has a header and no lines.")
    numbers = [number for number, _ in lines]
    columns = {
        name: [cells[at].strip() for _, cells in lines]
        for at, name in enumerate(header)
    }
    split = columns.pop("split", None)
    if split:
        split = _in_test(file, numbers, split)
    if not set(PATHS) & set(columns):
        return _given(file, columns, split, skipped)
    return _single(file, columns, split, skipped)


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    if not file.is_file():
        raise ValueError(f"There is no file '{file}'.")
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(
                text,
                delimiter="\t" if file.suffix.lower() == ".tsv" else ",",
                strict=True,
            )
            lines = [
                (reader.line_num, cells) for cells in reader if "".join(cells).strip()
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{file}' cannot be read as CSV: {error}") from error
    if not lines:
        raise ValueError(f"'{file}' is empty.")
    return lines


def _single(file, columns, split, skipped) -> Table:
    name = next(name for name in PATHS if name in columns)
    paths = [_resolved(file, cell) for cell in columns[name]]
    keep = [at for at, path in enumerate(paths) if _there(path, skipped)]
    table = Table([paths[at] for at in keep])
    label = next((name for name in LABELS if name in columns), None)
    if label:
        values = [columns[label][at] for at in keep]
        table.labels, table.class_names = _classes(file, values)
    elif "pair_id" in columns:
        values = [columns["pair_id"][at] for at in keep]
        table.labels, table.grouped = _numbered(values)[0], True
    if split is not None:
        table.in_test = split[keep]
    return _checked(file, table)


def _given(file, columns, split, skipped) -> Table:
    if len(columns) not in (2, 3):
        raise ValueError(
            f"'{file}' must have a column `path`, or two columns of paths (pairs), or three (triplets). "
            f"Found: {', '.join(columns)}."
        )
    cells = [[_resolved(file, cell) for cell in column] for column in columns.values()]
    every = list(dict.fromkeys(path for tuple_ in zip(*cells) for path in tuple_))
    table = Table([path for path in every if _there(path, skipped)])
    number = {path: at for at, path in enumerate(table.paths)}
    rows = np.array([[number.get(p, -1) for p in tuple_] for tuple_ in zip(*cells)])
    whole = (rows >= 0).all(axis=1)
    table.rows = rows[whole]
    if split is not None:
        table.in_test = split[whole]
    return _checked(file, table)


def _checked(file, table) -> Table:
    if not table.paths:
        raise ValueError(f"'{file}': none of the files that it names is there.")
    if table.rows is not None and not len(table.rows):
        raise ValueError(
            f"'{file}': none of the pairs or triplets that it names is there as a whole."
        )
    if table.in_test is not None and table.in_test.all():
        raise ValueError(
            f"'{file}' has no line of a file that is there whose `split` is 'train'."
        )
    if table.in_test is not None and not table.in_test.any():
        table.in_test = None  # no test part: one is held out
    return table


def _classes(file, values: list[str]) -> tuple[list[int], list[str] | None]:
    if all(
        (value.isascii() and value.isdigit()) or value in ("", "-1") for value in values
    ):
        labels = [int(value or -1) for value in values]
        if max(labels) > np.iinfo(np.int64).max:
            raise ValueError(
                f"'{file}' must have labels below 2^63. Found {max(labels)}."
            )
        return labels, None
    return _numbered(["" if value == "-1" else value for value in values])


def _numbered(values: list[str]) -> tuple[list[int], list[str]]:
    """Numbers in place of words, in the order of the words; -1 for none. And the words."""
    names = sorted({value for value in values if value})
    number = {name: at for at, name in enumerate(names)}
    return [number.get(value, -1) for value in values], names


def _in_test(file, numbers: list[int], values: list[str]) -> np.ndarray:
    for number, value in zip(numbers, values):
        if value not in ("train", "test"):
            raise ValueError(
                f"'{file}', line {number}: `split` must be 'train' or 'test'. Found: {value!r}."
            )
    return np.array([value == "test" for value in values])


def _resolved(file: Path, cell: str) -> str:
    return os.path.join(file.parent, os.path.expanduser(cell))


def _is_file(file: Path, cell: str) -> bool:
    return os.path.isfile(_resolved(file, cell.strip()))


def _there(path: str, skipped: list[str]) -> bool:
    if os.path.isfile(path):  # a pipe would be waited for without end
        return True
    reason = "not a regular file" if os.path.exists(path) else "no such file"
    skipped.append(f"{path}: {reason}")
    return False
