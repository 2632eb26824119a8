"""What runs of a fixed time share in both frameworks: the images, the encoder's shape, the clock.

Of NumPy and the standard library alone: the peers' environment has no TensorFlow, ours no PyTorch.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

# The encoder: 3x3 convolutions without bias, each with batch normalisation and ReLU, then the mean over places.
CHANNELS, STRIDES = (32, 64, 128, 256), (1, 2, 2, 2)
HIDDEN_DIM, PROJECTION_DIM = 256, 128
WARMUP = 0.05
# So many images are embedded at once.
BLOCK = 500
_HELD_OUT = 0.1
# A loader's batches come in bunches: the steps between two clocks are so many.
_WINDOW = 4
_SKIPPED = 3


class Images(NamedTuple):
    """Those trained on, which are the bank of the neighbours too, and those judged."""

    train: np.ndarray
    train_labels: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray


def load(path: str, *, hold_out: bool) -> Images:
    """The images of an .npz file, uint8 `(n, side, side, 3)`, with labels `(n,)`.

    Args:
        path: File with x_train, y_train, x_test, y_test.
        hold_out: Judge on a tenth of the training images, always the same, and train on the others.

    Raises:
        ValueError: There is no such file, or it holds something else.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file '{path}'.")
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in names]
    except (KeyError, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"'{path}' must be an .npz file with {', '.join(names)}."
        ) from error
    images = Images(arrays[0], arrays[1].ravel(), arrays[2], arrays[3].ravel())
    for part in (images.train, images.queries):
        square = part.ndim == 4 and part.shape[1] == part.shape[2]
        if part.dtype != np.uint8 or not square or part.shape[3] != 3:
            raise ValueError(
                "Images must be uint8 (n, side, side, 3). "
                f"Received: {part.dtype} of shape {part.shape}."
            )
    if not hold_out:
        return images
    order = np.random.default_rng(0).permutation(len(images.train))
    held, kept = np.split(order, [int(_HELD_OUT * len(order))])
    return Images(
        images.train[kept],
        images.train_labels[kept],
        images.train[held],
        images.train_labels[held],
    )


def encoder_parameters() -> int:
    """How many weights of the encoder are trained: kernels, and scale and offset of each normalisation."""
    inputs = (3, *CHANNELS[:-1])
    return sum(9 * before * c + 2 * c for before, c in zip(inputs, CHANNELS))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """As `optimizers.WarmupCosine` in the recipes: up in a straight line from 0, then half a cosine to 0."""
    warmup = min(steps, max(1, int(WARMUP * steps)))
    if step < warmup:
        return peak * step / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return peak * (1 + math.cos(math.pi * min(1.0, share))) / 2


class Pace:
    """How long a step takes, from the ends of a throwaway model's steps."""

    def __init__(self, at_least: float = 8.0):
        self._at_least = at_least
        self._ends: list[float] = []

    def after_step(self) -> bool:
        """Note the end of a step; whether that is enough of them."""
        self._ends.append(time.perf_counter())
        counted = self._ends[_SKIPPED - 1 :]
        return len(counted) > 2 and counted[-1] - counted[0] >= self._at_least

    def seconds_per_step(self) -> float:
        """The median over windows of a few steps each."""
        ends = self._ends[_SKIPPED - 1 :]
        window = min(_WINDOW, len(ends) - 1)
        return statistics.median(
            (end - start) / window for start, end in zip(ends, ends[window:])
        )


class Watch:
    """The clock of a run. It stands while features are written down for the judge.

    Args:
        job: What was asked for: `run`, `marks` in seconds, and the rest.
        folder: Where the features go.
        images: What is embedded.
        steps: How many there will be.
        features: Function of uint8 images to their features `(n, dim)`.
        mean_loss: Function without arguments to the mean loss since its last call.
    """

    def __init__(
        self,
        job: dict,
        folder: Path,
        images: Images,
        *,
        steps: int,
        features: Callable,
        mean_loss: Callable,
    ):
        self.job, self.folder, self.images, self.steps = job, folder, images, steps
        self.features, self.mean_loss = features, mean_loss
        self.step, self.rows = 0, []
        self._marks = sorted(job["marks"])
        self._parent = os.getppid()

    def start(self) -> None:
        """Start the clock: the steps begin now."""
        self._start = time.perf_counter()
        if self._marks and self._marks[0] == 0:
            self._write_down(0.0)

    def after_step(self) -> None:
        """Look at the clock, after each step."""
        self.step += 1
        seconds = time.perf_counter() - self._start
        at_mark = bool(self._marks) and seconds >= self._marks[0]
        if at_mark or self.step == self.steps:
            self._write_down(seconds)
        if os.getppid() != self._parent:
            sys.exit("Whoever asked for this run is gone.")

    def _write_down(self, seconds: float) -> None:
        since = time.perf_counter()
        self._marks = [mark for mark in self._marks if mark > seconds]
        loss = float(self.mean_loss()) if self.step else None
        for name, part in (
            ("bank", self.images.train),
            ("queries", self.images.queries),
        ):
            blocks = [
                np.asarray(self.features(part[i : i + BLOCK]), np.float16)
                for i in range(0, len(part), BLOCK)
            ]
            path = self.folder / f"{name}-{len(self.rows)}.npy"
            np.save(path, np.concatenate(blocks))
        self.rows.append({"seconds": seconds, "step": self.step, "loss": loss})
        told = "" if loss is None else f", loss {loss:.3f}"
        print(
            f"{self.job['run']}: {seconds:.0f} s, step {self.step} of {self.steps}{told}",
            file=sys.stderr,
            flush=True,
        )
        self._start += time.perf_counter() - since

    def result(self, seconds_per_step: float) -> dict:
        """What the worker hands back."""
        return {
            "steps": self.steps,
            "seconds": self.rows[-1]["seconds"],
            "seconds_per_step": seconds_per_step,
            "marks": self.rows,
        }


def steps_in(seconds: float, seconds_per_step: float) -> int:
    return max(1, round(seconds / seconds_per_step))


def serve(folder: str, work: Callable[[dict, Path], dict]) -> int:
    """Do the job that lies in a folder and leave the result there, or in one line why there is none."""
    # Ctrl-C is for the process that asked, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    place = Path(folder)
    job = json.loads((place / "job.json").read_text())
    try:
        result = work(job, place)
    except Exception as error:
        last = (str(error).strip() or "no message").splitlines()[-1]
        result = {"failed": f"{type(error).__name__}: {last}"}
    (place / "result.json").write_text(json.dumps(result))
    return 0
