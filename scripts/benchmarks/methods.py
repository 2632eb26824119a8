"""Train one method for a short while, and judge its encoder: one command, one run, one result.

Examples:
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method byol
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method supcon --labels-per-class 10
  python scripts/benchmarks/methods.py --data npz:cifar10_jpeg.npz --method supervised --labels-per-class 10

Settings are those of `scripts/train.py --settings small`: Adam at 0.001, narrow heads, simclr_small's views. The last
epoch is judged on the test part, which is looked at once. A result that is there is not made again without --overwrite.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import _results
from _console import Failure, OneLineParser, import_quietly, integer, note, run

ENCODER, BATCH_SIZE = "small_resnet", 128
LABELLED_PER_BATCH = 32


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="SPEC", required=True, help="as in train.py")
    parser.add_argument(
        "--method",
        metavar="NAME",
        default="simclr",
        help="of train.py; or untrained, or supervised: cross-entropy on the labels that are known (default: simclr)",
    )
    parser.add_argument(
        "--labels-per-class",
        metavar="N",
        type=integer(1),
        help="know so many labels of each class (supcon and supervised; default: all)",
    )
    parser.add_argument(
        "--steps",
        metavar="N",
        type=integer(1),
        default=400,
        help="training steps of 128 images (default: 400)",
    )
    parser.add_argument(
        "--seed", metavar="K", type=integer(0), default=0, help="default: 0"
    )
    parser.add_argument("--overwrite", action="store_true", help="measure again")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    stem = Path(args.data.partition(":")[2] or args.data).stem
    known = f"-{args.labels_per_class}" if args.labels_per_class else ""
    name = f"methods/{stem}-{args.method}{known}-seed{args.seed}"
    path = _results.RESULTS / f"{name}.json"
    if path.exists() and not args.overwrite:
        print(f"{path.name} is there already; --overwrite measures again.")
        return 0
    if args.labels_per_class and args.method not in ("supcon", "supervised"):
        raise Failure("--labels-per-class is for supcon and supervised.")
    import_quietly()
    values = measured(args)
    path.parent.mkdir(exist_ok=True)
    print(_results.write(name, values, seed=args.seed))
    return 0


def measured(args) -> dict:
    import keras

    import keras_contrastive as kc

    if args.method not in ("untrained", "supervised"):
        kc.recipes.get(args.method)
    source = kc.data.load(args.data, seed=args.seed)
    part = source.train
    if args.labels_per_class:
        part = kc.data.keep_labels(part, args.labels_per_class, seed=args.seed)
    keras.utils.set_random_seed(args.seed)
    encoder = kc.encoders.get(ENCODER)(part.image_shape)
    augment = kc.augment.simclr_small(part.image_shape[0])
    train = {"untrained": untrained, "supervised": supervised}.get(
        args.method, contrastive
    )
    start, processor = time.perf_counter(), time.process_time()
    model, history = train(args, encoder, augment, part)
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - processor
    if history:
        rows = [f"{name} {values[-1]:.3f}" for name, values in history.items()]
        note(f"{args.method}: {seconds:.0f} s; at the end {', '.join(rows)}")
    return {
        "method": args.method,
        "data": args.data,
        "labels_per_class": args.labels_per_class,
        "encoder": ENCODER,
        "batch_size": BATCH_SIZE,
        "steps": args.steps,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # of both cores, whatever else ran beside
        "history": history,
        **judged(source, args.seed, model),
    }


def untrained(args, encoder, augment, part):
    import keras_contrastive as kc

    return kc.ContrastiveModel(encoder, kc.losses.NTXentLoss()), {}


def contrastive(args, encoder, augment, part):
    import keras_contrastive as kc

    entry = kc.recipes.get(args.method)
    make, options = entry.dataset, {}
    if args.labels_per_class:
        make, options = (
            kc.data.partly_labelled,
            {"labelled_per_batch": LABELLED_PER_BATCH},
        )
    dataset = make(part, BATCH_SIZE, seed=args.seed, **options)
    model = entry.make(
        encoder,
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        augment=augment,
        steps=args.steps,
        seed=args.seed,
        **entry.options,
    )
    return model, fitted(model, dataset, args.steps)


def supervised(args, encoder, augment, part):
    """Cross-entropy of a linear layer on the labelled images alone, in the same views, for as many steps."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_contrastive as kc

    labelled = part.take(np.flatnonzero(part.labels >= 0))
    classes = len(np.unique(labelled.labels))
    each = min(len(labelled) // classes, LABELLED_PER_BATCH // classes)
    batches = kc.data.class_balanced(labelled, classes, max(1, each), seed=args.seed)
    views = kc.augment.map_dataset(batches.repeat(), augment, seed=args.seed)

    def flat(images, ids):
        images = tf.cast(images, tf.float32) / 255
        return tf.concat(tf.unstack(images, axis=1), 0), tf.tile(ids, [2])

    outputs = keras.layers.Dense(classes)(encoder.output)
    classifier = keras.Model(encoder.input, outputs)
    rate = kc.optimizers.WarmupCosine(
        1e-3, args.steps, warmup_steps=max(1, args.steps // 20)
    )
    classifier.compile(
        keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    history = fitted(classifier, views.map(flat), args.steps)
    return kc.ContrastiveModel(encoder, kc.losses.NTXentLoss()), history


def fitted(model, dataset, steps: int) -> dict:
    """Train for so many steps, told in two parts."""
    history = model.fit(
        dataset.repeat(),
        epochs=2,
        steps_per_epoch=steps // 2,
        shuffle=False,
        verbose=2,
    ).history
    return {
        name: [float(value) for value in values] for name, values in history.items()
    }


def judged(source, seed: int, model) -> dict:
    """Accuracies of the features on the test part, by the labels of all training images and by those known."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    import keras_contrastive as kc

    train, test = (
        model.predict(each.images, batch_size=500, verbose=0)
        for each in (source.train, source.test)
    )
    labels, expected = source.train.labels, source.test.labels
    result = {
        "knn_20": kc.evaluation.knn_accuracy(
            train, labels, test, expected, k=20, temperature=0.1
        ),
        "knn_200": kc.evaluation.knn_accuracy(
            train, labels, test, expected, k=200, temperature=0.1
        ),
        "few_label": {},
    }
    scale = train.std(axis=0) + 1e-6
    for count in (1, 5, 10):
        few = kc.data.keep_labels(source.train, count, seed=seed)
        rows = np.flatnonzero(few.labels >= 0)
        probe = LogisticRegression(C=1.0, max_iter=1000)
        probe.fit(train[rows] / scale, labels[rows])
        accuracy = float(np.mean(probe.predict(test / scale) == expected))
        result["few_label"][str(count)] = accuracy
    return result


if __name__ == "__main__":
    sys.exit(run(main))
