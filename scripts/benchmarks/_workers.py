"""Measurements in processes of their own: ours in this environment, the peers' in theirs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".venv-benchmarks" / "bin" / "python"
ADDONS = ROOT / ".venv-addons" / "bin" / "python"


def ask(
    script: str, worker: list, *, threads: int, python=sys.executable, **environment
) -> dict:
    """What `script --worker ...` prints as its last line, or `{"failed": the last line of its errors}`."""
    options = ["--worker", *map(str, worker), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **environment}
    done = subprocess.run(
        [str(python), script, *options], env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        return {"failed": last}
    return json.loads(done.stdout.splitlines()[-1])


def limit_tensorflow(threads: int) -> None:
    """Let TensorFlow of this process have that many threads, and no say on the terminal."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)


def seconds_of(run, at_least: float, *, calls: int = 3) -> list[float]:
    """Times of single calls, as many as fill this many seconds, after two that warm up; a long call warms up once."""
    run()
    if calls > 1:
        run()
    seconds = []
    while len(seconds) < calls or sum(seconds) < at_least:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def peer_versions(*names: str, python=PEERS) -> dict:
    """Versions of packages in an environment of peers, by name; none without it."""
    if not python.exists():
        return {}
    program = (
        f"from importlib.metadata import version as v; print(*[v(n) for n in {names}])"
    )
    found = subprocess.run([python, "-c", program], capture_output=True, text=True)
    return dict(zip(names, found.stdout.split()))
