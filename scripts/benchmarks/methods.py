"""Train one method for so many seconds, and judge its encoder: one command, one run, one result.

Examples:
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --all      what the README's table needs and has not
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method byol --seed 1
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method supcon --labels-per-class 10 --steps 195
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method simclr --hold-out --options '{"temperature": 0.1}'

Settings are those of `scripts/train.py --settings small`: narrow heads, simclr_small's views, or those of fast for fast;
but for the encoder, which is fast_conv_net in all, and the learning rate of Adam, which was chosen for each method by
runs on held-out images. The number of steps is --seconds by the time of a step, which is measured first on a model that
is thrown away: the learning rate and other schedules need to know it. The last step is judged, on the test part, which
is looked at once.

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
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import _fixed_time
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

ENCODER, BATCH_SIZE = "fast_conv_net", 256
SECONDS = 120.0
# Of Adam, the better of 0.001 and 0.003 on held-out images; that of the recipe's entry elsewhere.
LEARNING_RATES = {
    "simclr": 0.001,
    "supcon": 0.003,
    "dcl": 0.001,
    "siglip_views": 0.001,
    "moco": 0.003,
    "moco_v3": 0.003,
    "nnclr": 0.003,
    "byol": 0.001,
    "simsiam": 0.001,
    "barlow_twins": 0.003,
    "vicreg": 0.003,
    "swav": 0.003,
    "dino": 0.001,
    "siamese": 0.003,
    "triplet": 0.001,
    "supervised": 0.003,
}
LABELLED_PER_BATCH = BATCH_SIZE // 4
# A throwaway model is timed for so long.
TIMED_SECONDS = 6.0
HELD_OUT = 5_000
# Without recipes; the first two are not trained.
UNTRAINED, NO_RECIPES = ("pixels", "untrained"), ("pixels", "untrained", "supervised")
# What --labels-per-class is for: on all images without labels, on both, on the labelled ones alone.
KNOWING_FEW_LABELS = ("simclr", "supcon", "supervised")
# What the table has more than seed 0 of.
SEEDS = {name: (0, 1, 2) for name in ("untrained", "simclr", "supcon", "fast")}
LABELS_PER_CLASS = (1, 5, 10, 100)
K, TEMPERATURE = 200, 0.1  # of kNN
# Thousands of pixels on all images take the probe half an hour. The penalty is the strongest that the probe tries.
PIXEL_PROBE_IMAGES, PIXEL_PROBE_STRENGTH = 10_000, 0.001
# What the script gives every recipe itself.
GIVEN = ("encoder", "augment", "augment_on", "batch_size", "steps", "seed")


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="SPEC", required=True, help="as in train.py")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--method",
        metavar="NAME",
        default="simclr",
        help="of train.py; or pixels; untrained; supervised: cross-entropy on the labels that are known (default: simclr)",
    )
    which.add_argument(
        "--all",
        action="store_true",
        help="every run of the README's table that has no result, one after the other, each in a process of its own",
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
        "--seed", metavar="K", type=integer(0), default=0, help="default: 0"
    )
    parser.add_argument(
        "--hold-out",
        action="store_true",
        help=f"judge on {HELD_OUT:,} training images that are not trained on, in place of the test part",
    )
    parser.add_argument(
        "--options",
        metavar="JSON",
        type=json_object,
        default={},
        help='options of the recipe, with --hold-out alone, as \'{"temperature": 0.1, "learning_rate": 0.002}\'',
    )
    parser.add_argument("--overwrite", action="store_true", help="measure again")
    return parser.parse_args(argv)


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
    if args.all:
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
    if args.all and (
        args.labels_per_class or args.hold_out or args.options or args.seed
    ):
        raise Failure("--all goes with --data, --seconds, --steps and --overwrite.")
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

    found: dict = {"data": short(args.data), "encoder": ENCODER}
    if args.method == "pixels":
        found["encoder"] = None
    if args.method in UNTRAINED:
        return found
    entry = kc.recipes.RECIPES.get(args.method)
    found |= {
        "options": {**(entry.options if entry else {}), **args.options},
        "learning_rate": learning_rate(args.method, args.options),
        "budget_seconds": None if args.steps else args.seconds,
    }
    if args.steps:
        found["steps"] = args.steps
    # Batches of labelled images are as large as the classes let them be.
    if args.method != "supervised":
        found["batch_size"] = BATCH_SIZE
    return found


def learning_rate(method: str, options: dict) -> float:
    """Adam's rate."""
    import keras_contrastive as kc

    entry = kc.recipes.RECIPES.get(method)
    usual = 1e-3 if entry is None else entry.learning_rate
    return options.get("learning_rate", LEARNING_RATES.get(method, usual))


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
    return 0


def measured(args) -> dict:
    import keras_contrastive as kc

    # One seed for all: data without a test part have the same one in every run.
    source = kc.data.load(args.data, seed=0)
    train, test = parts_of(source, args.data, args.hold_out)
    training = {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0, "history": {}}
    is_trained = args.method not in UNTRAINED
    if args.method == "pixels":
        features = [flat_pixels(part.images) for part in (train, test)]
    else:
        if is_trained:
            model, training = trained(args, train)
        else:
            model = untrained(args, train)
        features = features_of(model, train, test)
    return {
        "method": args.method,
        "judged_on": f"{HELD_OUT} held-out training images"
        if args.hold_out
        else "test",
        "labels_per_class": args.labels_per_class,
        **settings(args),
        **training,
        **judged(args, features, train, test),
    }


def parts_of(source, spec: str, hold_out: bool) -> tuple:
    """What is trained on, and what is judged by: the test part, or some of the training part, always the same."""
    from keras_contrastive.data import part

    if source.train.labels is None or source.test.labels is None:
        raise Failure(f"'{spec}' has no labels to judge by.")
    if not hold_out:
        return source.train, source.test
    if len(source.train) < 2 * HELD_OUT:
        raise Failure(
            f"--hold-out needs {2 * HELD_OUT:,} training images. Found: {len(source.train):,}."
        )
    return part.hold_out(source.train, 0, HELD_OUT)


def trained(args, part) -> tuple:
    """The model after training, and what there is to tell of it."""
    import keras_contrastive as kc

    if args.labels_per_class and args.method != "simclr":
        part = kc.data.keep_labels(part, args.labels_per_class, seed=args.seed)
    prepare = supervised if args.method == "supervised" else contrastive
    steps, step_seconds = args.steps, None
    if steps is None:
        # The views of fast have one size for the first half of the steps, and another for the second.
        lengths = (1000, 1) if args.method == "fast" else (1000,)
        step_seconds = statistics.mean(
            seconds_of_step(*prepare(args, part, steps=length)[:2])
            for length in lengths
        )
        steps = 2 * max(1, round(args.seconds / step_seconds / 2))  # see `fit`
        note(f"{args.method}: {1e3 * step_seconds:.0f} ms a step, {steps} steps")
    fitted, dataset, model = prepare(args, part, steps=steps)
    clock, processor = time.perf_counter(), time.process_time()
    history = fit(fitted, dataset, steps)
    training = {
        "steps": steps,
        "step_seconds": step_seconds,  # of the throwaway model
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - processor,  # of all cores
        "history": history,
    }
    rows = [f"{name} {values[-1]:.3f}" for name, values in history.items()]
    note(f"{args.method}: {training['seconds']:.0f} s; at the end {', '.join(rows)}")
    return model, training


def new_encoder(part, seed: int):
    """The encoder with the initial weights of this seed."""
    import keras

    import keras_contrastive as kc

    keras.utils.set_random_seed(seed)
    return kc.encoders.get(ENCODER)((None, None, part.image_shape[2]))


def views_of(part, method: str = "simclr", steps: int | None = None):
    import keras_contrastive as kc

    if method == "fast":
        return kc.augment.fast(part.image_shape[0], steps=steps)
    return kc.augment.simclr_small(part.image_shape[0])


def untrained(args, part):
    import keras_contrastive as kc

    encoder = new_encoder(part, args.seed)
    return kc.ContrastiveModel(encoder, kc.losses.NTXentLoss())


def contrastive(args, part, *, steps: int) -> tuple:
    """The model of a recipe, what it is fitted on, and the model again."""
    import keras_contrastive as kc

    entry = kc.recipes.get(args.method)
    make, options = entry.dataset, {}
    if args.labels_per_class and args.method != "simclr":
        make = kc.data.partly_labelled
        options = {"labelled_per_batch": LABELLED_PER_BATCH}
    dataset = make(part, BATCH_SIZE, seed=args.seed, **options)
    try:
        model = recipe_model(
            args.method, part, steps=steps, seed=args.seed, options=args.options
        )
    except TypeError as error:  # of what the recipe itself does not check
        if not args.options:
            raise
        raise Failure(f"--options: {error}") from error
    return model, dataset, model


def recipe_model(
    method: str,
    part,
    *,
    steps: int,
    seed: int,
    options: dict,
    batch_size: int = BATCH_SIZE,
):
    """A method's model in the settings of `scripts/train.py --settings small`, but for `options`."""
    import keras_contrastive as kc

    entry = kc.recipes.get(method)
    usual = {
        "optimizer": "adam",
        "learning_rate": learning_rate(method, options),
        "weight_decay": 0.0,
    }
    return entry.make(
        new_encoder(part, seed),
        batch_size=batch_size,
        augment=views_of(part, method, steps),
        steps=steps,
        seed=seed,
        **{**usual, **entry.options, **options},
    )


def supervised(args, part, *, steps: int) -> tuple:
    """A classifier, trained by cross-entropy on the labelled images alone, in the same views; its data; its encoder.

    As many of them in a batch as supcon has, or as is a multiple of the classes.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_contrastive as kc

    encoder = new_encoder(part, args.seed)
    labelled = part.take(np.flatnonzero(part.labels >= 0))
    classes = len(np.unique(labelled.labels))
    each = max(1, LABELLED_PER_BATCH // classes)
    batches = kc.data.class_balanced(labelled, classes, each, seed=args.seed)
    views = kc.augment.map_dataset(batches.repeat(), views_of(part), seed=args.seed)

    def flat(images, ids):
        images = tf.cast(images, tf.float32) / 255
        return tf.concat(tf.unstack(images, axis=1), 0), tf.tile(ids, [2])

    outputs = keras.layers.Dense(classes)(encoder.output)
    classifier = keras.Model(encoder.input, outputs)
    peak = learning_rate(args.method, args.options)
    rate = kc.optimizers.WarmupCosine(peak, steps, warmup_steps=max(1, steps // 20))
    classifier.compile(
        keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    model = kc.ContrastiveModel(encoder, kc.losses.NTXentLoss())
    return classifier, views.map(flat), model


def seconds_of_step(model, dataset) -> float:
    """Of `fit`; the model is of no use afterwards."""
    import keras

    pace = _fixed_time.Pace(TIMED_SECONDS)

    def after_step(batch, logs):
        model.stop_training = pace.after_step()

    model.fit(
        dataset.repeat(),
        steps_per_epoch=1_000_000,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=after_step)],
    )
    return pace.seconds_per_step()


def fit(model, dataset, steps: int) -> dict:
    """Train for exactly so many steps; the history tells an even number in two halves."""
    halves = 1 if steps % 2 else 2
    history = model.fit(
        dataset.repeat(),
        epochs=halves,
        steps_per_epoch=steps // halves,
        shuffle=False,
        verbose=0,
    ).history
    return {
        name: [float(value) for value in values] for name, values in history.items()
    }


def features_of(model, *parts) -> list:
    return [model.predict(part.images, batch_size=500, verbose=0) for part in parts]


def flat_pixels(images):
    """Pixels as features, float32 in 0..1 `(n, h * w * c)`."""
    return images.reshape(len(images), -1).astype("float32") / 255


def judged(args, features, train, test) -> dict:
    """Accuracies of the features on what is judged, by the labels of all training images and by a few of them."""
    import numpy as np

    import keras_contrastive as kc

    labels = train.labels, test.labels
    arrays = (features[0], train.labels, features[1], test.labels)
    found = {
        f"knn_{K}": knn_accuracy(features, labels),
        "known_labels": known_labels(args, train, *arrays),
    }
    if args.hold_out or args.labels_per_class:
        return found
    found[f"knn_{K}_whitened"] = knn_accuracy(whitened(*features), labels)
    few_label = {
        str(count): kc.evaluation.few_label_accuracy(
            *arrays, labels_per_class=count
        )._asdict()
        for count in LABELS_PER_CLASS
        if count <= np.bincount(train.labels).min()
    }
    return {
        **found,
        **linear_probe(args.method, *arrays),
        "few_label": few_label,
    }


def knn_accuracy(features, labels) -> float:
    """Of the second features by the first."""
    import keras_contrastive as kc

    (bank, queries), (known, expected) = features, labels
    return kc.evaluation.knn_accuracy(
        bank, known, queries, expected, k=K, temperature=TEMPERATURE
    )


def whitened(features, others) -> list:
    """Both whitened by the mean and the covariance of the first."""
    import keras_contrastive as kc

    layer = kc.FeatureWhitening()
    layer.build(features.shape)
    layer.observe(features)
    return [layer(rows).numpy() for rows in (features, others)]


def linear_probe(method: str, features, labels, *test) -> dict:
    """The linear probe's accuracy, and how many images it is fitted on."""
    import numpy as np

    import keras_contrastive as kc

    options = {}
    if method == "pixels":
        some = np.random.default_rng(0).permutation(len(labels))[:PIXEL_PROBE_IMAGES]
        features, labels = features[some], labels[some]
        options = {"strengths": (PIXEL_PROBE_STRENGTH,)}
    found = kc.evaluation.linear_probe(features, labels, *test, **options)
    return {
        "linear_probe": found.accuracy,
        "linear_probe_images": len(labels),
        "linear_probe_strength": found.strength,
    }


def known_labels(args, part, train, labels, test, expected) -> float | None:
    """Accuracy of logistic regression on the very images whose labels --labels-per-class keeps."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    import keras_contrastive as kc

    if args.labels_per_class is None:
        return None
    scale = train.std(axis=0) + 1e-6
    few = kc.data.keep_labels(part, args.labels_per_class, seed=args.seed)
    rows = np.flatnonzero(few.labels >= 0)
    probe = LogisticRegression(C=1.0, max_iter=1000)
    probe.fit(train[rows] / scale, labels[rows])
    return float(np.mean(probe.predict(test / scale) == expected))


if __name__ == "__main__":
    sys.exit(run(main))
