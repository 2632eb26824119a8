"""Time and peak memory of a loss's value and gradient, ours against other libraries.

Every measurement runs in a process of its own, on the same rows (normal, two noisy views, dimension 128), on the same
number of threads; libraries take turns, round after round. Values and gradients are compared first. Results go to
scripts/benchmarks/results/losses.json as they come: a run that was stopped goes on where it was, --overwrite starts
anew. At the end the curves are drawn into docs/losses.png.

The others need `make venv-benchmarks` (Python 3.11), tensorflow-addons the environment of `make test-addons`; what is not
there is not measured.

Examples:
  python scripts/benchmarks/losses.py                      all, about an hour on an otherwise idle machine
  python scripts/benchmarks/losses.py --losses sup_con     one loss
  python scripts/benchmarks/losses.py --plot               the picture again, from the results
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]

import _workers  # noqa: E402
from _loss_cases import CASES, DIM  # noqa: E402

PICTURE = ROOT / "docs" / "losses.png"

OWN_LIBRARIES = ("ours", "tensorflow_xla")
TENSORFLOW = (*OWN_LIBRARIES, "tensorflow_addons")
LARGE = 8192  # pairs from which one round has to do


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--losses",
        nargs="+",
        choices=CASES,
        metavar="LOSS",
        help=f"default: all of {', '.join(CASES)}",
    )
    parser.add_argument(
        "--pairs", nargs="+", type=int, help="sizes to measure (default: each loss's)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of each library (default: 3)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of every library (default: 2)"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="forget the old results of these losses",
    )
    parser.add_argument("--plot", action="store_true", help="draw the picture alone")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# ---- one measurement, in its own process


def program(library: str, loss: str, pairs: int):
    """What computes value and gradients once: `(value, functions that give the gradients as arrays)`."""
    case = CASES[loss]
    rows = case.rows(pairs)
    make = case.ours if library == "ours" else case.peers[library][1]
    function, weights = make(_modules(library), rows)
    sides = [rows.first, rows.second] if case.over_pairs else [rows.stacked]
    run = _by_tensorflow if library in TENSORFLOW else _by_torch
    options = {"jit_compile": True} if library == "tensorflow_xla" else {}
    ids = None if case.over_pairs else rows.ids
    return run(function, sides, ids, weights, **options)


def _modules(library: str):
    """What the makers of a library's losses need of it."""
    if library == "ours":
        import keras_contrastive

        return keras_contrastive
    if library == "tensorflow_xla":
        import tensorflow

        return tensorflow
    if library == "tensorflow_addons":
        import tensorflow_addons

        return tensorflow_addons
    if library == "lightly":
        import lightly.loss

        return lightly.loss
    if library == "open_clip":
        import open_clip.loss

        return open_clip.loss
    import pytorch_metric_learning
    from pytorch_metric_learning import (  # noqa: F401
        distances,
        losses,
        miners,
        reducers,
    )

    return pytorch_metric_learning


def _by_tensorflow(function, sides, ids, weights, jit_compile=None):
    import tensorflow as tf

    sides = [tf.constant(side) for side in sides]
    given = [] if ids is None else [tf.constant(ids)]
    weights = [weight.value for weight in weights]

    @tf.function(jit_compile=jit_compile)
    def compute(*sides):
        with tf.GradientTape() as tape:
            tape.watch(sides)
            value = function(*given, *sides)
        return value, tape.gradient(value, [*sides, *weights])

    def run():
        value, gradients = compute(*sides)
        gradients = [gradient for gradient in gradients if gradient is not None]
        for gradient in gradients:
            gradient.numpy()  # waits for it; no copy on a CPU
        return float(value), [gradient.numpy for gradient in gradients]

    return run


def _by_torch(function, sides, ids, weights):
    import torch

    sides = [torch.tensor(side, requires_grad=True) for side in sides]
    given = [] if ids is None else [torch.tensor(ids)]
    watched = [*sides, *weights]

    def run():
        for tensor in watched:
            tensor.grad = None
        value = function(*given, *sides)
        value.backward()
        gradients = [t.grad for t in watched if t.grad is not None]
        return float(value.detach()), [gradient.numpy for gradient in gradients]

    return run


def machine_rates() -> dict:
    """Seconds of a tile's two kinds of product and of its exponentials, less those of an empty call."""
    import tensorflow as tf

    side = 1024
    rows, square = tf.random.normal((side, DIM)), tf.random.normal((side, side))
    programs = {
        "empty": lambda: rows[:1],
        "outer": lambda: tf.matmul(rows, rows, transpose_b=True),
        "product": lambda: tf.matmul(square, rows),
        "exponentials": lambda: tf.exp(square),
    }
    found = {}
    for name, program in programs.items():
        compiled = tf.function(program, jit_compile=True, autograph=False)
        found[name] = statistics.median(
            _workers.seconds_of(lambda c=compiled: c()[0, 0].numpy(), 1.0)
        )
    empty = found.pop("empty")
    return {name: seconds - empty for name, seconds in found.items()}


def status(field: str) -> int:
    """A field of the process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"The system tells no {field}.")


def extra_memory(run) -> int:
    """Bytes by which a second call, which compiles nothing, rises above what the process held before it."""
    run()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    run()
    return status("VmHWM") - before


def work(library: str, loss: str, pairs: int, what: str, threads: int) -> dict:
    import numpy as np

    if library in TENSORFLOW or library == "machine":
        _workers.limit_tensorflow(threads)
    else:
        import torch

        torch.set_num_threads(threads)
    if library == "machine":
        return machine_rates()
    run = program(library, loss, pairs)
    if what == "memory":
        return {"extra_bytes": extra_memory(run)}
    value, gradients = run()  # also the compilation
    norm = float(
        np.sqrt(sum(np.sum(np.square(g(), dtype=np.float64)) for g in gradients))
    )
    large = pairs >= LARGE
    seconds = _workers.seconds_of(run, 0.0 if large else 1.5, calls=1 if large else 3)
    return {
        "value": value,
        "gradient_norm": norm,
        "seconds": statistics.median(seconds),
        "calls": len(seconds),
    }


# ---- all measurements, in turns


def ask(library: str, loss: str, pairs: int, what: str, threads: int) -> dict:
    """A measurement in a fresh process."""
    environment = {}
    if what == "memory":
        # Large blocks go back to the system when they are freed: what is resident is what is in use.
        environment["MALLOC_MMAP_THRESHOLD_"] = environment[
            "MALLOC_TRIM_THRESHOLD_"
        ] = "65536"
        # oneDNN keeps a pool of its own, which would hide what a call needs.
        environment["TF_ENABLE_ONEDNN_OPTS"] = "0"
    worker = [library, loss, pairs, what]
    python = environment_of(library)
    return _workers.ask(__file__, worker, threads=threads, python=python, **environment)


def environment_of(library: str) -> Path:
    """The Python that has the library."""
    if library == "tensorflow_addons":
        return _workers.ADDONS
    own = library in (*OWN_LIBRARIES, "machine")
    return Path(sys.executable) if own else _workers.PEERS


def measure(args) -> None:
    import _results

    try:
        results = _results.read("losses")["results"]
    except FileNotFoundError:
        results = {}
    if args.overwrite:
        chosen = args.losses or [*CASES, "machine"]
        results = {k: v for k, v in results.items() if k.split("/")[0] not in chosen}
    results.setdefault("machine", ask("machine", "", 0, "time", args.threads))
    for loss in args.losses or CASES:
        case = CASES[loss]
        for pairs in args.pairs or case.pairs:
            libraries = ["ours"] + [
                name
                for name, (most, _) in case.peers.items()
                if pairs <= most and environment_of(name).exists()
            ]
            rounds = args.rounds if pairs < LARGE else 1
            turns = [("time", i, name) for i in range(rounds) for name in libraries]
            turns += [("memory", 0, name) for name in libraries]
            for what, turn, name in turns:
                key = f"{loss}/{pairs}/{name}/{what}/{turn}"
                if key in results:
                    continue
                results[key] = ask(name, loss, pairs, what, args.threads)
                print(key, json.dumps(results[key]), file=sys.stderr, flush=True)
                _write(args, results)


def _write(args, results: dict) -> None:
    import _results

    peers = _workers.peer_versions(
        "torch", "lightly", "pytorch-metric-learning", "open_clip_torch"
    )
    peers.update(_workers.peer_versions("tensorflow-addons", python=_workers.ADDONS))
    record = {"peers": peers, "threads": args.threads, "results": results}
    _results.write("losses", record, command="python scripts/benchmarks/losses.py")


def summary(results: dict) -> list[dict]:
    """A row for each loss, size and library: medians over the rounds, and ratios to ours."""
    rows = []
    for loss, case in CASES.items():
        for pairs in case.pairs:
            found = {}
            for name in ("ours", *case.peers):
                key = f"{loss}/{pairs}/{name}"
                times = [
                    result
                    for other, result in results.items()
                    if other.startswith(f"{key}/time/") and "seconds" in result
                ]
                if not times:
                    continue
                memory = results.get(f"{key}/memory/0", {}).get("extra_bytes")
                found[name] = {
                    "loss": loss,
                    "pairs": pairs,
                    "library": name,
                    "seconds": statistics.median(t["seconds"] for t in times),
                    "extra_bytes": memory,
                    "value": times[0]["value"],
                    "gradient_norm": times[0]["gradient_norm"],
                }
            rows += found.values()
    return rows


def limit_seconds(machine: dict, pairs: int) -> float:
    """What NT-Xent cannot beat by symmetry alone: two products of all rows, and every exponential once."""
    tiles = (2 * pairs / 1024) ** 2
    return tiles * (machine["product"] + machine["outer"] + machine["exponentials"])


def plot(results: dict) -> None:
    """Time and memory of NT-Xent over the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in summary(results) if row["loss"] == "nt_xent"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = {
        "ours": "keras_contrastive",
        "lightly": "lightly",
        "pytorch_metric_learning": "pytorch-metric-learning",
    }
    colors = dict(zip(names, ("#1b6ca8", "#d95f02", "#888888")))
    for axis, field, unit in (
        (axes[0], "seconds", 1e3),
        (axes[1], "extra_bytes", 2**-20),
    ):
        for name, label in names.items():
            own = [row for row in rows if row["library"] == name and row[field]]
            axis.loglog(
                [row["pairs"] for row in own],
                [unit * row[field] for row in own],
                "o-",
                color=colors[name],
                label=label,
            )
        axis.set_xlabel("pairs in a batch (twice as many rows)")
        axis.grid(alpha=0.3)
    sizes = CASES["nt_xent"].pairs
    limits = [1e3 * limit_seconds(results["machine"], n) for n in sizes]
    axes[0].loglog(sizes, limits, "k:", label="limit: products and exponentials alone")
    for axis in axes:
        axis.set_xticks(sizes[:4], [f"{size:,}" for size in sizes[:4]])
        axis.minorticks_off()
    axes[0].set_title("value and gradient, milliseconds")
    axes[1].set_title("memory beyond the inputs, MiB")
    axes[0].legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        library, loss, pairs, what = args.worker
        print(json.dumps(work(library, loss, int(pairs), what, args.threads)))
        return 0
    import _results

    if not _workers.PEERS.exists() and not args.plot:
        print(
            "No .venv-benchmarks: measuring ours alone. `make venv-benchmarks` brings the others.",
            file=sys.stderr,
        )
    if not args.plot:
        measure(args)
    results = _results.read("losses")["results"]
    for row in summary(results):
        memory = row["extra_bytes"]
        print(
            f"{row['loss']:20} {row['pairs']:6} pairs  {row['library']:24} {1e3 * row['seconds']:10.1f} ms  "
            f"{'' if memory is None else f'{memory / 2**20:8.0f} MiB'}  value {row['value']:.6f}"
        )
    plot(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
