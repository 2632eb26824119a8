"""How good do features get in so many seconds of training? kNN accuracy against time, beside lightly.

Examples:
  python scripts/benchmarks/time_to_knn.py --data npz:cifar10_jpeg.npz --run simclr --seconds 600
  python scripts/benchmarks/time_to_knn.py --data npz:cifar10_jpeg.npz --run lightly --seconds 600 --seed 1
  python scripts/benchmarks/time_to_knn.py --data npz:cifar10_jpeg.npz --run simclr --seconds 225 --precision bfloat16
  python scripts/benchmarks/time_to_knn.py --data npz:cifar10_jpeg.npz --run simclr --hold-out --temperature 0.1
  python scripts/benchmarks/time_to_knn.py --data npz:cifar10_jpeg.npz --speed     views a second of all, in turns
  python scripts/benchmarks/time_to_knn.py --plot      docs/time_to_knn.png from all results

One run in a process of its own. It times the steps of a throwaway model first, so that the learning rate falls to 0
at the end of the time. At each mark the clock stands while the features of all images are written down; they are
judged after the training: weighted kNN (k = 200, temperature 0.1) of the test images among the training images. All
train on batches of 256 with as many threads, warm up over 5 % of the steps, and end on a cosine. The encoder is the
same in all runs but fast: four 3x3 convolutions with batch normalisation. A loader in processes of its own gets ahead
by a few batches while the clock stands: that is in lightly's favour.

--precision bfloat16 is Keras' policy mixed_bfloat16, and in the runs of the peers torch.autocast: weights, losses and
normalisation stay float32. It is for processors that multiply bfloat16 (avx512_bf16 or AMX in /proc/cpuinfo).

A result that is there is not made again without --overwrite. Settings are chosen with --hold-out alone: it trains
on nine tenths of the training images, judges on the others, and its results are in results/time_to_knn/tuning.
Runs of lightly and PyTorch need `make venv-benchmarks`.

Runs:
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import _fixed_time  # noqa: E402
import _results  # noqa: E402
import _workers  # noqa: E402
from _accuracy_over_time import drawn  # noqa: E402
from _console import (  # noqa: E402
    Failure,
    OneLineParser,
    import_quietly,
    integer,
    note,
    positive,
    run,
)

RUNS = {
    "simclr": "this library's recipe `simclr`",
    "fast": "this library's recipe `fast`, with an encoder of its own",
    "lightly": "lightly's SimCLR as it ships, with temperature, rate and views tuned as simclr's are",
    "lightly_defaults": "the same with lightly's own temperature, views and width of the head",
    "pytorch": "PyTorch made fast: batched views of kornia, both through the model at once, channels last",
    "pytorch_compiled": "the same with the model compiled by torch.compile, which needs g++",
}
# What was best on held-out images in 60 s, for simclr and for lightly; `strength` is as it was, pytorch not tuned.
SHARED = {
    "temperature": 0.1,
    "learning_rate": 3e-3,
    "optimizer": "adam",
    "min_area": 0.3,
    "strength": 0.5,
    "hidden_dim": _fixed_time.HIDDEN_DIM,
}
SETTINGS = {
    "simclr": SHARED,
    "fast": {},  # the recipe's own
    "lightly": SHARED,
    "lightly_defaults": {
        "temperature": 0.5,
        "learning_rate": 1e-3,
        "optimizer": "adam",
        "min_area": 0.08,
        "strength": 1.0,
        "gaussian_blur": 0.5,
        "hidden_dim": 2048,
    },
    "pytorch": SHARED,
    "pytorch_compiled": SHARED,
}
# What `fast` is without one of its parts; each on held-out images.
VARIANTS = {
    "no_whitening": "features as they are",
    "learned_filters": "a first layer of the same shape that is learned",
    "whole_views": "views of the image's size",
    "no_growth": "views of three quarters of it throughout",
    "temperature_0.5": "temperature 0.5",
    "rate_0.001": "Adam at 0.001",
    "paper_views": "SimCLR's crops and colour, of the same sizes",
}
FLOAT32, BFLOAT16 = PRECISIONS = ("float32", "bfloat16")
OVERRIDES = ("temperature", "learning_rate", "optimizer", "min_area", "strength")
LIGHTLY = ("lightly", "lightly_defaults")
PYTORCH = ("pytorch", "pytorch_compiled")
PEERS = (*LIGHTLY, *PYTORCH)
# Timed by --speed alone: what a step of the encoder's convolutions would take if all passes were as fast as forward.
CONVOLUTIONS = "convolutions"
# Blocks that are freed stay with the process: fresh pages cost it more than anything else.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
}
MARKS = (0, 30, 90, 240)  # seconds; the end is judged too
BATCH_SIZE, WORKERS, THREADS = 256, 2, 2
K, TEMPERATURE = 200, 0.1  # of the kNN classifier
# A throwaway model is timed for so long.
TIMED_SECONDS = 8.0
ROUNDS = 5  # of --speed
PICTURE = HERE.parents[1] / "docs" / "time_to_knn.png"


def parse_args(argv=None):
    runs = "\n".join(f"  {name:19}{what}" for name, what in RUNS.items())
    parser = OneLineParser(
        description=__doc__ + runs,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", metavar="npz:FILE", help="labelled colour images")
    parser.add_argument("--run", choices=RUNS, help="one of the runs above")
    parser.add_argument(
        "--speed",
        action="store_true",
        help=f"time steps of every run but fast in both precisions, one after the other, {ROUNDS} times, and judge nothing",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=at_least_one,
        default=600.0,
        help="of training (default: 600)",
    )
    parser.add_argument(
        "--seed", metavar="K", type=integer(0), default=0, help="default: 0"
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=integer(2),
        default=BATCH_SIZE,
        help="images (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=integer(0),
        help=f"processes of lightly's loader (default: {WORKERS})",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=FLOAT32,
        help="what convolutions and matrix products compute in (default: %(default)s)",
    )
    parser.add_argument(
        "--hold-out",
        action="store_true",
        help="judge on a tenth of the training images, and train on the others",
    )
    parser.add_argument("--temperature", metavar="T", type=positive, help="of the loss")
    parser.add_argument("--learning-rate", metavar="R", type=positive, help="its peak")
    parser.add_argument("--optimizer", choices=("adam", "sgd"))
    parser.add_argument(
        "--min-area",
        metavar="A",
        type=positive,
        help="of the smallest crop, as a share of the image",
    )
    parser.add_argument(
        "--strength", metavar="S", type=positive, help="of the colour jitter"
    )
    variants = "; ".join(f"{name}: {what}" for name, what in VARIANTS.items())
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        help=f"fast without one of its parts, with --hold-out. {variants}",
    )
    parser.add_argument("--overwrite", action="store_true", help="measure again")
    parser.add_argument("--plot", action="store_true", help="draw, and measure nothing")
    args = parser.parse_args(argv)
    if args.plot:
        return args
    refused = _refused(args)
    if refused:
        parser.error(refused)
    return args


def at_least_one(text: str) -> float:
    """A number of seconds, for `type=`."""
    if positive(text) < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, not {text!r}")
    return float(text)


def _refused(args) -> str | None:
    """What is wrong with options together, or None."""
    changed = [f"--{name.replace('_', '-')}" for name in _overrides(args)]
    if args.data is None or (args.run is None) != args.speed:
        return "--data and --run are needed, or --data and --speed, or --plot"
    if not args.data.startswith("npz:"):
        return (
            f"--data must be npz:FILE, which every framework reads, not {args.data!r}"
        )
    usual = (args.precision, args.batch_size) == (FLOAT32, BATCH_SIZE)
    if args.speed and (changed or args.hold_out or not usual):
        return "--speed goes with --data and --overwrite alone"
    if changed and not args.hold_out:
        return f"{', '.join(changed)}: settings are chosen on held-out images, add --hold-out"
    if changed and args.run in ("fast", "lightly_defaults"):
        return f"{', '.join(changed)}: {args.run} has settings of its own"
    if args.variant and not (args.run == "fast" and args.hold_out):
        return "--variant is for --run fast with --hold-out"
    if args.workers is not None and args.run not in LIGHTLY:
        return "--workers is for lightly and lightly_defaults"
    return None


def _overrides(args) -> dict:
    given = {name: getattr(args, name) for name in OVERRIDES}
    return {name: value for name, value in given.items() if value is not None}


def main(argv=None):
    args = parse_args(argv)
    if args.plot:
        print(plot(args))
        return 0
    name = "views_per_second" if args.speed else result_name(args)
    path = _results.RESULTS / f"{name}.json"
    if path.exists() and not args.overwrite:
        print(f"{path.name} is there already; --overwrite measures again.")
        return 0
    values = speeds(args) if args.speed else measured(args)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(_results.write(name, values, seed=args.seed))
    return 0


def result_name(args) -> str:
    """Name of the result under results/, without its suffix: it names all that is not the default."""
    stem = Path(args.data.partition(":")[2]).stem
    changed = "" if args.precision == FLOAT32 else f"-{args.precision}"
    changed += "".join(
        f"-{value}" if isinstance(value, str) else f"-{name}{value:g}"
        for name, value in _overrides(args).items()
    )
    if args.variant:
        changed += f"-{args.variant}"
    if args.batch_size != BATCH_SIZE:
        changed += f"-batch{args.batch_size}"
    if args.workers not in (None, WORKERS):
        changed += f"-workers{args.workers}"
    folder = "time_to_knn/tuning" if args.hold_out else "time_to_knn"
    return f"{folder}/{stem}-{args.run}{changed}-{args.seconds:g}s-seed{args.seed}"


def measured(args) -> dict:
    """Train in a process of its own, then judge what it wrote down."""
    settings = {**SETTINGS[args.run], **_overrides(args)}
    if args.variant:
        settings["variant"] = args.variant
    job = new_job(args, args.run, settings, args.precision)
    images = _fixed_time.load(job["data"], hold_out=args.hold_out)
    labels = images.train_labels, images.query_labels
    if len(images.train) < max(K, args.batch_size):
        needed = max(K, args.batch_size)
        raise Failure(f"--data must have {needed} images to train on or more.")
    del images
    with tempfile.TemporaryDirectory(prefix="time_to_knn-") as folder:
        found = ask(job, Path(folder))
        marks = judged(Path(folder), found.pop("marks"), labels)
    seen = 2 * args.batch_size * found["steps"]
    values = {
        "run": args.run,
        "data": args.data,
        "hold_out": args.hold_out,
        "settings": settings,
        "precision": args.precision,
        "batch_size": args.batch_size,
        "threads": THREADS,
        **({"workers": job["workers"]} if "workers" in job else {}),
        **found,
        "views_per_second": seen / found["seconds"],
        "marks": marks,
    }
    if args.run in PEERS:
        names = ("torch", "torchvision", "lightly", "kornia")
        values["peers"] = _workers.peer_versions(
            *(name for name in names if name != "kornia" or args.run in PYTORCH)
        )
    return values


def new_job(args, run_name: str, settings: dict, precision: str) -> dict:
    """What a worker is told."""
    job = {
        "run": run_name,
        "data": str(Path(args.data.partition(":")[2]).expanduser().resolve()),
        "hold_out": args.hold_out,
        "seconds": args.seconds,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "threads": THREADS,
        "marks": () if args.hold_out else MARKS,
        "timed_seconds": TIMED_SECONDS,
        "only_speed": args.speed,
        "settings": settings,
        "precision": precision,
    }
    if run_name in LIGHTLY:
        job["workers"] = WORKERS if args.workers is None else args.workers
    return job


def speeds(args) -> dict:
    """Views a second of the steps of every run on one encoder, in turns; of its convolutions alone, too."""
    forms = [
        (name, precision)
        for precision in PRECISIONS
        for name in (*SETTINGS, CONVOLUTIONS)
        if name != "fast"
    ]
    found: dict = {title(*form): [] for form in forms}
    for number in range(1, ROUNDS + 1):
        for form in forms:
            name, precision = form
            job = new_job(args, name, SETTINGS.get(name, {}), precision)
            with tempfile.TemporaryDirectory(prefix="time_to_knn-") as folder:
                step = ask(job, Path(folder))["seconds_per_step"]
            of_form = found[title(*form)]
            of_form.append(2 * args.batch_size / step)
            said = f"{title(*form)} {of_form[-1]:,.0f} views/s"
            note(f"round {number} of {ROUNDS}: {said}")
    return {
        "data": args.data,
        "batch_size": args.batch_size,
        "threads": THREADS,
        "workers": WORKERS,
        "views_per_second": found,
        "peers": _workers.peer_versions("torch", "torchvision", "lightly", "kornia"),
    }


def ask(job: dict, folder: Path) -> dict:
    """What the run's worker hands back; its progress goes straight to the terminal."""
    command = [sys.executable, str(HERE / "_simclr_keras.py"), str(folder)]
    environment = {"OMP_NUM_THREADS": str(job["threads"])}
    if job["run"] in PEERS:
        if not _workers.PEERS.exists():
            raise Failure(f"{job['run']} needs `make venv-benchmarks`.", 1)
        if job["run"] == "pytorch_compiled" and shutil.which("g++") is None:
            raise Failure("pytorch_compiled needs g++.", 1)
        command = [str(_workers.PEERS), str(HERE / "_simclr_torch.py"), str(folder)]
    else:
        for pool in ("INTRAOP", "INTEROP"):
            environment[f"TF_NUM_{pool}_THREADS"] = str(job["threads"])
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if job["run"] in PYTORCH:
        environment.update(KEEP_MEMORY, TORCHINDUCTOR_COMPILE_THREADS="1")
    (folder / "job.json").write_text(json.dumps(job))
    worker = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        code = worker.wait()
    finally:  # also on Ctrl-C
        if worker.poll() is None:
            worker.terminate()
            worker.wait()
    result = folder / "result.json"
    if code != 0 or not result.exists():
        raise Failure(f"{job['run']}: its process ended with exit code {code}.", 1)
    found = json.loads(result.read_text())
    if "failed" in found:
        raise Failure(f"{job['run']}: {found['failed']}", 1)
    return found


def judged(folder: Path, rows: list[dict], labels) -> list[dict]:
    """The marks with the accuracy of the features that were written down at each."""
    import numpy as np

    import_quietly()
    import keras_contrastive as kc

    marks = []
    for number, row in enumerate(rows):
        bank, queries = (
            np.load(folder / f"{name}-{number}.npy").astype(np.float32)
            for name in ("bank", "queries")
        )
        accuracy = kc.evaluation.knn_accuracy(
            bank, labels[0], queries, labels[1], k=K, temperature=TEMPERATURE
        )
        note(f"{row['seconds']:6.0f} s  kNN {100 * accuracy:.1f} %")
        marks.append({**row, "knn_200": accuracy})
    return marks


# ---- all results

TITLES = {
    "simclr": "simclr",
    "fast": "fast",
    "lightly": "lightly",
    "lightly_defaults": "lightly, its defaults",
    "pytorch": "PyTorch, batched views",
    "pytorch_compiled": "PyTorch, compiled",
    CONVOLUTIONS: "the encoder's convolutions alone, backward as fast as forward",
}


def title(run_name: str, precision: str) -> str:
    return TITLES[run_name] + ("" if precision == FLOAT32 else f", {precision}")


def results(stem: str) -> dict[str, dict[float, list[dict]]]:
    """Title -> seconds that were asked for -> its results, one for each seed. Other batch sizes and loaders are left out."""
    found: dict = {}
    for path in sorted((_results.RESULTS / "time_to_knn").glob(f"{stem}-*.json")):
        parts = _name_parts(path.stem)
        if parts and parts["stem"] == stem:
            form = title(parts["run"], parts["precision"] or FLOAT32)
            by_seconds = found.setdefault(form, {})
            of_seeds = by_seconds.setdefault(float(parts["seconds"]), [])
            of_seeds.append(json.loads(path.read_text()))
    titles = [title(name, precision) for name in RUNS for precision in PRECISIONS]
    return {name: found[name] for name in titles if name in found}


def _name_parts(name: str) -> re.Match | None:
    """Parts of a result's name; None where it is not of the usual batch size and loader."""
    runs = "|".join(RUNS)
    pattern = rf"(?P<stem>.+)-(?P<run>{runs})(-(?P<precision>{BFLOAT16}))?-(?P<seconds>[\d.]+)s-seed\d+"
    return re.fullmatch(pattern, name)


def plot(args) -> Path:
    from keras_contrastive import pictures

    folder = _results.RESULTS / "time_to_knn"
    names = [_name_parts(path.stem) for path in folder.glob("*.json")]
    stems = {parts["stem"] for parts in names if parts}
    if args.data:
        stems = {Path(args.data.partition(":")[2]).stem}
    if len(stems) != 1:
        found = ", ".join(sorted(stems)) or "none"
        raise Failure(f"--plot needs results of one data set; there are {found}.")
    found = results(stems.pop())
    if not found:
        raise Failure("There is no such result to draw.")
    pictures.save(drawn(found, dashed=f", {BFLOAT16}"), PICTURE)
    return PICTURE


if __name__ == "__main__":
    sys.exit(run(main))
