"""The folder of an export: whole, or not there."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path

CARD = "model_card.json"


def check_replaceable(path: Path) -> None:
    if path.is_file():
        raise ValueError(
            f"`path` must be a folder or not exist yet. Received: path='{path}', a file."
        )
    if (
        path.is_dir()
        and any(path.iterdir())
        and not (path / "saved_model.pb").is_file()
    ):
        raise ValueError(
            f"`path` must not exist, be empty or hold a SavedModel, which is replaced. Received: path='{path}', "
            "a folder with other content; name a new folder in it."
        )


def write_whole(archive, card: str, path: Path) -> None:
    """Write beside `path`, then rename: a server that watches the folder never sees half an export.

    Where an export stands at `path`, two names change: killed in that instant, it leaves the old one as `.NAME.old`, which
    the next call puts back.
    """
    new, old = (path.parent / f".{path.name}.{stage}" for stage in ("new", "old"))
    if old.exists() and not path.exists():  # killed between the two renames below
        old.rename(path)
    for leftover in (new, old):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras prints every endpoint's signature; only Keras 3 can be told not to.
    with contextlib.redirect_stdout(io.StringIO()):
        archive.write_out(str(new))
    (new / "assets").mkdir(exist_ok=True)
    (new / "assets" / CARD).write_text(card)
    for written in [*new.rglob("*"), new]:  # a power cut leaves the whole, or nothing
        _sync(written)
    replaced = path.exists()
    if replaced:
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if replaced:
            old.rename(path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
