"""Results of benchmarks: JSON files with what is needed to make them again."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("tensorflow", "keras", "numpy")


def write(
    name: str, values: dict, *, command: str | None = None, seed: int = 0
) -> Path:
    """Write `results/NAME.json`: the values, with command, seed, versions and machine."""
    arguments = [Path(sys.argv[0]).name, *sys.argv[1:]]
    record = {
        "command": command or f"python scripts/benchmarks/{shlex.join(arguments)}",
        "seed": seed,
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "processor": _processor(),
            "gpu": "none",
        },
        **values,
    }
    path = RESULTS / f"{name}.json"
    new = path.with_suffix(".json.new")
    new.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(new, path)  # in one go: no stop leaves half a result
    return path


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _versions() -> dict:
    return {package: metadata.version(package) for package in PACKAGES}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
