"""What the README's tables of results share."""

from __future__ import annotations

import statistics

import _results


def found_results(pattern: str) -> list[dict]:
    """The results whose paths beneath the folder of results fit."""
    paths = sorted(_results.RESULTS.glob(f"{pattern}.json"))
    return [
        _results.read(str(path.relative_to(_results.RESULTS).with_suffix("")))
        for path in paths
    ]


def mean(values: list[float]) -> str:
    """In percent, with half the range where there are several."""
    text = f"{100 * statistics.mean(values):.1f}"
    if len(values) > 1:
        text += f" ± {50 * (max(values) - min(values)):.1f}"
    return text


def machine(result: dict) -> str:
    """The machine and the versions that a result was made with."""
    versions, found = result["versions"], result["machine"]
    return (
        f"{found['cpus']} CPU cores ({found['processor']}), no GPU; TensorFlow {versions['tensorflow']}, "
        f"Keras {versions['keras']}."
    )
