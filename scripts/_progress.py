"""What a training shows and keeps while it runs: one bar over all epochs, and the history."""

import sys
import time

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINES = 20  # at most so many where stderr is no terminal


class TrainingProgress(keras.callbacks.Callback):
    """Shows epoch, loss and accuracies: a bar on a terminal, else a line now and then. On stderr.

    Args:
        steps: Training steps in an epoch.
        epochs: Epochs of the whole run.
        done: Steps done before, by the run that is resumed.
    """

    def __init__(self, steps: int, epochs: int, done: int):
        super().__init__()
        self.steps, self.epochs, self.done = steps, epochs, done
        self._start = None  # set after the first epoch, in which everything is compiled
        self._every = max(1, epochs // LINES)
        self._bar = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(
                "compiling", total=steps * epochs, completed=done
            )
            self._bar.start()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.done += 1
        if self._bar:
            text = self._describe(self._epoch, logs)
            self._bar.update(self._task, completed=self.done, description=text)

    def on_epoch_end(self, epoch, logs=None):
        if self._start is None:
            self._start, self._first = time.monotonic(), self.done
        last = epoch + 1 == self.epochs
        if not self._bar and ((epoch + 1) % self._every == 0 or epoch == 0 or last):
            line = f"{self._describe(epoch, logs)}  {self._left()}".rstrip()
            print(line, file=sys.stderr, flush=True)

    def close(self):
        """Take the bar down; also after an interruption."""
        if self._bar:
            self._bar.stop()

    def _describe(self, epoch, logs) -> str:
        shown = {"loss": "loss", "accuracy": "accuracy", "knn_accuracy": "kNN"}
        values = [
            f"{text} {float(logs[name]):.3f}"
            for name, text in shown.items()
            if name in logs
        ]
        return (
            f"epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}  "
            + "  ".join(values)
        )

    def _left(self) -> str:
        if self.done == self._first:
            return ""
        per_step = (time.monotonic() - self._start) / (self.done - self._first)
        return f"about {per_step * (self.steps * self.epochs - self.done):.0f} s left"


class RunHistory(keras.callbacks.Callback):
    """Keeps the logs of every epoch in the run folder's history.json, over interruptions.

    Stands before the checkpoint among the callbacks: killed between the two, the epoch's end is trained again
    and its row written again.

    Args:
        folder: The `RunFolder`.
        first_epoch: The epoch that comes now; rows from there on are of what was not saved.
    """

    def __init__(self, folder, *, first_epoch: int):
        super().__init__()
        self.folder = folder
        kept = (
            folder.read("history.json") if (folder / "history.json").is_file() else []
        )
        self.rows = kept[:first_epoch]

    def on_epoch_begin(self, epoch, logs=None):
        self._start, self._steps = time.monotonic(), 0

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1

    def on_epoch_end(self, epoch, logs=None):
        row = {name: float(value) for name, value in (logs or {}).items()}
        # Of an epoch that was cut, time and steps are those of its last part.
        seconds = time.monotonic() - self._start
        self.rows.append({**row, "seconds": seconds, "steps": self._steps})
        self.folder.write("history.json", self.rows)

    def columns(self) -> dict:
        """Lists over the epochs by name; None where an epoch has no such value."""
        names = sorted({name for row in self.rows for name in row})
        return {name: [row.get(name) for row in self.rows] for name in names}
