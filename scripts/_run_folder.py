"""The run folder: what is in it, and when it may be written to."""

import json
import os
import shutil
from pathlib import Path

from _console import Failure

# Everything that a run writes. Nothing else is ever deleted.
CONTENTS = (
    "checkpoints",
    "tensorboard",
    "saved_model",
    "config.json",
    "history.json",
    "metrics.json",
    "model.keras",
    "skipped.txt",
    "warnings.txt",
    "evaluation.json",
    "report.html",
    "embeddings.png",
    "neighbours.png",
    "views.png",
)
# How the line in warnings.txt begins that a collapse leaves.
COLLAPSED = "The representation collapsed in"


class RunFolder:
    """A folder of one run. `config.json` is its first file, `metrics.json` its last."""

    def __init__(self, path):
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __str__(self) -> str:
        return str(self.path)

    @property
    def started(self) -> bool:
        return (self / "config.json").is_file()

    @property
    def finished(self) -> bool:
        return (self / "metrics.json").is_file()

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Make sure that the folder may be used.

        Raises:
            Failure: It holds something else, or a run and no option says what to do with it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise Failure(f"'{self}' is a file; --out must name a folder.")
        if self.started and not (resume or overwrite):
            raise Failure(
                f"'{self}' holds a finished run. --overwrite replaces it, --out names another folder."
                if self.finished
                else f"'{self}' holds an unfinished run. --resume goes on with it, --overwrite starts again."
            )
        foreign = self._foreign() if self.path.is_dir() and not self.started else []
        if foreign:
            raise Failure(
                f"'{self}' is not a run folder, and not empty (it holds '{foreign[0]}'). "
                "Name another with --out."
            )

    def open(self, *, overwrite: bool) -> None:
        """Make the folder, and empty it of an earlier run with `overwrite`.

        Raises:
            Failure: It cannot be written.
        """
        try:
            if overwrite:
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            (self / ".tmp").write_text("")
            (self / ".tmp").unlink()
        except OSError as error:
            raise Failure(f"'{self}' cannot be written: {error.strerror}.") from error

    def model_file(self) -> Path:
        """The trained model.

        Raises:
            Failure: This is no run folder, or its run has not come so far.
        """
        self.read("config.json")
        if not (self / "model.keras").is_file():
            raise Failure(
                f"'{self}' has no model.keras yet: finish the run with --resume."
            )
        return self / "model.keras"

    def card(self) -> dict:
        """What an export's model card says of the run."""
        config = self.read("config.json")
        figures = self.read("metrics.json") if self.finished else {}
        figures.pop("history", None)
        images = ("train_images", "image_shape", "images_crc32")
        data = {"spec": config["data"], **{name: config.get(name) for name in images}}
        settings = {
            name: value
            for name, value in config.items()
            if name not in ("data", "method", *images)
        }
        method = config.get("method", "simclr")
        return {
            "data": data,
            "method": method,
            "settings": settings,
            "figures": figures,
        }

    def read(self, name: str):
        """The content of a JSON file of the run."""
        try:
            return json.loads((self / name).read_text())
        except FileNotFoundError:
            raise Failure(
                f"'{self}' is not a run folder of scripts/train.py: it has no {name}."
            ) from None
        except ValueError as error:
            raise Failure(f"'{self / name}' is damaged: {error}.") from error

    def write(self, name: str, content) -> None:
        """Write a JSON file in one go: killed at any moment, the old one or the new one is there."""
        new = self / f"{name}.tmp"
        new.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(new, self / name)

    def _foreign(self) -> list[str]:
        known = {*CONTENTS, ".tmp", *(f"{name}.tmp" for name in CONTENTS)}
        return sorted(
            entry.name for entry in self.path.iterdir() if entry.name not in known
        )

    def _clear(self) -> None:
        # The marks of a finished and of a started run go first and last: killed here, it is never half a run.
        for name in ("metrics.json", *CONTENTS[:3], *CONTENTS[4:], "config.json"):
            target = self / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
