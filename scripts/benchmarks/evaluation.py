"""How long the measures of embeddings take, and how much memory: each in a process of its own.

Random embeddings in clusters; k-NN and the linear probe hold a tenth of them out. Prints and keeps the seconds of one call (data and import excluded)
and the peak resident memory of the whole process, TensorFlow included.

Example:
  python scripts/benchmarks/evaluation.py --rows 100000 --dim 512
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

# Name: how many classes the rows fall into.
MEASURES = {
    "knn_accuracy": 1000,
    "retrieval_1000_classes": 1000,
    "retrieval_10_classes": 10,
    "uniformity": 1000,
    "effective_rank": 1000,
    "clustering": 1000,
    "linear_probe": 10,
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=100_000, help="embeddings (default: 100000)"
    )
    parser.add_argument(
        "--dim", type=int, default=512, help="numbers in each (default: 512)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=MEASURES,
        default=list(MEASURES),
        help="these measures alone; nothing is kept unless all run (default: all)",
    )
    parser.add_argument("--child", choices=MEASURES, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if args.child:
        print(json.dumps(measure(args.child, args.rows, args.dim)))
        return 0
    import _results

    found = {}
    for name in args.only:
        found[name] = in_child(name, args)
        print(
            f"{name}: {found[name]['seconds']:.1f} s, {found[name]['peak_mib']} MiB",
            flush=True,
        )
    if len(found) == len(MEASURES):
        _results.write(
            "evaluation", {"rows": args.rows, "dim": args.dim, "measures": found}
        )
    return 0


def in_child(name: str, args) -> dict:
    command = [sys.executable, __file__, "--child", name]
    options = ["--rows", str(args.rows), "--dim", str(args.dim)]
    done = subprocess.run(
        command + options, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, num_rows: int, dim: int) -> dict:
    from _console import import_quietly

    import_quietly()
    from keras_contrastive import evaluation

    rows, labels = clustered(num_rows, dim, min(MEASURES[name], num_rows // 10))
    test = num_rows // 10
    held_out = (rows[test:], labels[test:], rows[:test], labels[:test])
    calls = {
        "knn_accuracy": lambda: evaluation.knn_accuracy(*held_out),
        "linear_probe": lambda: evaluation.linear_probe(*held_out).accuracy,
        "uniformity": lambda: evaluation.uniformity(rows),
        "effective_rank": lambda: evaluation.effective_rank(rows),
        "clustering": lambda: evaluation.clustering(rows, labels),
    }
    call = calls.get(name, lambda: evaluation.retrieval(rows, labels))
    start, cpu_start = time.perf_counter(), time.process_time()
    value = call()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_mib": peak // 1024,
        "classes": int(labels.max()) + 1,
        "value": value._asdict() if hasattr(value, "_asdict") else value,
    }


def clustered(num_rows: int, dim: int, num_classes: int):
    """Float32 rows about a centre for each class, and labels in turn."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(num_rows) % num_classes)
    centres = 0.2 * rng.standard_normal((num_classes, dim), np.float32)
    rows = rng.standard_normal((num_rows, dim), np.float32)
    for start in range(0, num_rows, 4096):  # a copy of all rows would count as memory
        rows[start : start + 4096] += centres[labels[start : start + 4096]]
    return rows, labels


if __name__ == "__main__":
    sys.exit(main())
