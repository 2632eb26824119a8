"""An index in one .npz file."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np


def write_arrays(path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file such that it is never seen half written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())  # a power cut leaves the whole of it, or nothing
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_arrays(path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the arrays of an .npz file that it has.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}' to load an index from.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"'{path}' is no index, or cut off: it is no .npz file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names if name in file.files}
    except (
        EOFError,
        KeyError,
        NotImplementedError,
        OSError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"'{path}' is no index, or damaged: {error}.") from error
