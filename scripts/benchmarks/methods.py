"""Train every method for so many seconds, and judge its encoder: each run a process and a result of its own.

Examples:
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz            every run of the README's table
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method byol --seed 1
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method supcon --labels-per-class 10 --steps 195
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method simclr --hold-out --options '{"temperature": 0.1}'

Settings are those of `scripts/train.py --settings small`: narrow heads, simclr_small's views, or those of fast for fast;
but for the encoder, which is fast_conv_net in all, and the learning rate of Adam, which was chosen for each method by
runs on held-out images. The number of steps is --seconds by the time of a step, which is measured first on a model that
is thrown away: the learning rate and other schedules need to know it. The last step is judged, on the test part, which
is looked at once.

Without --method these are all methods but supervised, one after the other: seeds 0 to 2 of simclr, supcon, fast and the
untrained encoder, seed 0 of the others.

A result that is there is not made again without --overwrite, unless it is of other settings than are asked for now. A
length other than the table's is a part of its name. Results are in results/methods; those with --labels-per-class in
results/few_labels, and those of --hold-out (on held-out training images, to choose settings by) in
results/methods/hold_out, are judged by kNN and the known labels alone.
"""

import argparse
import inspect
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import _method_judging as judging
import _method_training as training
import _results
from _console import (
    Failure,
    OneLineParser,
    import_quietly,
    integer,
    note,
    positive,
    run,
)

SECONDS = 120.0
# Without recipes; the first two are not trained.
UNTRAINED, NO_RECIPES = ("pixels", "untrained"), ("pixels", "untrained", "supervised")
# What --labels-per-class is for: on all images without labels, on both, on the labelled ones alone.
KNOWING_FEW_LABELS = ("simclr", "supcon", "supervised")
# What the table has more than seed 0 of.
SEEDS = {name: (0, 1, 2) for name in ("untrained", "simclr", "supcon", "fast")}
# What the script gives every recipe itself.
GIVEN = ("encoder", "augment", "augment_on", "batch_size", "steps", "seed")


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="SPEC", required=True, help="as in train.py")
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="one run alone: of train.py's methods; or pixels; untrained; supervised: cross-entropy on the labels that "
        "are known (default: all but supervised)",
    )
    parser.add_argument(
        "--labels-per-class",
        metavar="N",
        type=integer(1),
        help="know so many labels of each class (supcon, supervised), or be judged by them (simclr)",
    )
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=positive,
        default=SECONDS,
        help=f"seconds of training (default: {SECONDS:g})",
    )
    parser.add_argument(
        "--steps",
        metavar="N",
        type=integer(1),
        help="training steps, in place of --seconds; nothing is timed",
    )
    parser.add_argument(
        "--seed", metavar="K", type=integer(0), help="of --method (default: 0)"
    )
    parser.add_argument(
        "--hold-out",
        action="store_true",
        help=f"judge on {judging.HELD_OUT:,} training images that are not trained on, in place of the test part",
    )
    parser.add_argument(
        "--options",
        metavar="JSON",
        type=json_object,
        default={},
        help='options of the recipe, with --hold-out alone, as \'{"temperature": 0.1, "learning_rate": 0.002}\'',
    )
    parser.add_argument("--overwrite", action="store_true", help="measure again")
    args = parser.parse_args(argv)
    if args.method is not None and args.seed is None:
        args.seed = 0
    return args


def json_object(text: str) -> dict:
    """A JSON object, for `type=`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"must be a JSON object, as '{{\"temperature\": 0.1}}', not {text!r}"
        )
    return value


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    check_together(args)
    import_quietly()
    if args.method is None:
        return measure_all(args)
    check_method(args)
    name = result_name(args)
    path = _results.RESULTS / f"{name}.json"
    if is_made(args) and not args.overwrite:
        print(f"{path.name} is there already; --overwrite measures again.")
        return 0
    values = measured(args)
    path.parent.mkdir(parents=True, exist_ok=True)
    print(_results.write(name, values, command=command(args, argv), seed=args.seed))
    return 0


def check_together(args) -> None:
    """Raise unless the options go together."""
    of_one = args.labels_per_class or args.hold_out or args.options
    if args.method is None and (of_one or args.seed is not None):
        raise Failure(
            "--labels-per-class, --hold-out, --options and --seed need --method."
        )
    if args.labels_per_class and args.method not in KNOWING_FEW_LABELS:
        raise Failure(f"--labels-per-class is for {', '.join(KNOWING_FEW_LABELS)}.")
    if args.method == "supervised" and not args.labels_per_class:
        raise Failure("supervised needs --labels-per-class.")
    if args.options and not args.hold_out:
        raise Failure(
            "--options is for --hold-out: settings are not chosen by the test part."
        )


def check_method(args) -> None:
    """Raise unless there is such a method, and its recipe has such options."""
    import keras_contrastive as kc

    names = [*NO_RECIPES, *kc.recipes.RECIPES]
    if args.method not in names:
        raise Failure(
            f"--method must be one of {', '.join(names)}. Received: {args.method}."
        )
    known = ["learning_rate"] if args.method == "supervised" else []
    if args.method not in NO_RECIPES:
        known = inspect.signature(kc.recipes.get(args.method).make).parameters
        known = [name for name in known if name not in GIVEN]
    if "optimizer" in args.options and "learning_rate" not in args.options:
        raise Failure("--options: an optimizer needs a learning_rate beside it.")
    for name in args.options:
        if name not in known:
            raise Failure(
                f"--options: {args.method} has no option {name!r} that can be chosen here. "
                f"It has: {', '.join(known) or 'none'}."
            )


def result_name(args) -> str:
    """The result's path without its suffix, beneath the results."""
    folder = "few_labels" if args.labels_per_class else "methods"
    parts = [Path(args.data.partition(":")[2] or args.data).stem, args.method]
    if args.labels_per_class:
        parts.append(f"{args.labels_per_class}")
    if args.hold_out:
        folder = "methods/hold_out"
        parts += [
            f"{name}={_text(args.options[name])}" for name in sorted(args.options)
        ]
    if args.method not in UNTRAINED:
        if args.steps:
            parts.append(f"{args.steps}steps")
        elif args.seconds != SECONDS:
            parts.append(f"{args.seconds:g}s")
    return f"{folder}/{'-'.join([*parts, f'seed{args.seed}'])}"


def _text(value) -> str:
    """A value as a part of a file's name."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.+-]+", "_", text)


def is_made(args) -> bool:
    """Whether there is a result, of the settings that are asked for now."""
    path = _results.RESULTS / f"{result_name(args)}.json"
    if not path.exists():
        return False
    made = json.loads(path.read_text())
    return all(made.get(name) == value for name, value in settings(args).items())


def settings(args) -> dict:
    """The settings that a result has, and has to share with what is asked for to be taken for it."""
    import keras_contrastive as kc

    found: dict = {"data": short(args.data), "encoder": training.ENCODER}
    if args.method == "pixels":
        found["encoder"] = None
    if args.method in UNTRAINED:
        return found
    entry = kc.recipes.RECIPES.get(args.method)
    found |= {
        "options": {**(entry.options if entry else {}), **args.options},
        "learning_rate": training.learning_rate(args.method, args.options),
        "budget_seconds": None if args.steps else args.seconds,
    }
    if args.steps:
        found["steps"] = args.steps
    # Batches of labelled images are as large as the classes let them be.
    if args.method != "supervised":
        found["batch_size"] = training.BATCH_SIZE
    return found


def short(spec: str) -> str:
    """The data's name as a result has it: without the folders that are on this machine."""
    kind, colon, place = spec.partition(":")
    return f"{kind}:{Path(place).name}" if colon else spec


def command(args, argv, script: str = "methods.py") -> str:
    """The command that a result names."""
    words = [word.replace(args.data, short(args.data)) for word in argv]
    return f"python scripts/benchmarks/{script} {shlex.join(words)}"


def measure_all(args) -> int:
    """The runs of the README's table, one after the other; those that fail are named at the end."""
    import keras_contrastive as kc

    runs = [
        (method, seed)
        for method in [*UNTRAINED, *kc.recipes.RECIPES]
        for seed in SEEDS.get(method, (0,))
    ]
    length = (
        ["--steps", args.steps] if args.steps else ["--seconds", f"{args.seconds:g}"]
    )
    overwrite = ["--overwrite"] if args.overwrite else []
    failed = []
    for number, (method, seed) in enumerate(runs, 1):
        asked = {**vars(args), "method": method, "seed": seed}
        if is_made(argparse.Namespace(**asked)) and not args.overwrite:
            continue
        note(f"{number} of {len(runs)}: {method}, seed {seed}")
        one = ["--data", args.data, "--method", method, "--seed", seed]
        words = [sys.executable, __file__, *one, *length, *overwrite]
        code = subprocess.run([str(word) for word in words]).returncode
        if code == 130:
            raise KeyboardInterrupt
        if code != 0:
            failed.append(f"{method}, seed {seed}")
    if failed:
        raise Failure(f"No result of: {'; '.join(failed)}.", code=1)
    print(f"All {len(runs)} runs have a result.")
    return 0


def measured(args) -> dict:
    import keras_contrastive as kc

    # One seed for all: data without a test part have the same one in every run.
    source = kc.data.load(args.data, seed=0)
    train, test = judging.parts_of(source, args.data, args.hold_out)
    told = {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0, "history": {}}
    if args.method == "pixels":
        features = [judging.flat_pixels(part.images) for part in (train, test)]
    else:
        if args.method == "untrained":
            model = training.untrained(args, train)
        else:
            model, told = training.trained(args, train)
        features = training.features_of(model, train, test)
    return {
        "method": args.method,
        "judged_on": f"{judging.HELD_OUT} held-out training images"
        if args.hold_out
        else "test",
        "labels_per_class": args.labels_per_class,
        **settings(args),
        **told,
        **judging.judged(args, features, train, test),
    }


if __name__ == "__main__":
    sys.exit(run(main))
