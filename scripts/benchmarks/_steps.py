"""Times of training steps: the options that such benchmarks share, and the clock."""

from __future__ import annotations

import argparse
import time


def parser(description: str, *, steps: int) -> argparse.ArgumentParser:
    """The options of a benchmark of training steps; `steps` is the default of `--steps`."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument(
        "--encoder", default="small_resnet", help="default: small_resnet"
    )
    options.add_argument(
        "--image-size", type=int, default=32, help="pixels (default: 32)"
    )
    options.add_argument(
        "--batch-size", type=int, default=256, help="images (default: 256)"
    )
    options.add_argument(
        "--steps",
        type=int,
        default=steps,
        help=f"steps in a measurement (default: {steps})",
    )
    return options


def step_time(model, dataset, steps: int) -> tuple[float, float]:
    """Seconds of a step of `fit`, by the clock and of the processors."""
    clock, busy = time.perf_counter(), time.process_time()
    model.fit(dataset, steps_per_epoch=steps, verbose=0, shuffle=False)
    clock, busy = time.perf_counter() - clock, time.process_time() - busy
    return clock / steps, busy / steps
