"""Does `callbacks.CollapseWatch` tell a collapse from a good run? Both are trained for a short while and watched.

A broken run is a method whose guard against collapse has been taken away. Small settings of the methods, small_resnet
(digits: small_conv_net), the first --images of the training part, test images to watch. One result for each data set,
which keeps what was measured of the runs before; a run that is there is not made again without --overwrite.

Examples:
  python scripts/benchmarks/collapse.py --data digits
  python scripts/benchmarks/collapse.py --data npz:cifar10_jpeg.npz --images 2560 --runs simsiam simsiam-both-gradients
"""

import argparse
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import _results
from _console import OneLineParser, import_quietly, integer, note, run

# Name of a broken run -> (its method, options of the recipe, what is done to the model).
BROKEN = {
    "simsiam-both-gradients": ("simsiam", {}, "both_gradients"),
    "simsiam-no-predictor": ("simsiam", {}, "no_predictor"),
    "byol-both-gradients": ("byol", {}, "both_gradients"),
    "byol-no-predictor": ("byol", {}, "no_predictor"),
    "barlow_twins-no-redundancy": ("barlow_twins", {"redundancy_weight": 1e-6}, None),
    "vicreg-no-variance": ("vicreg", {"variance_weight": 1e-6}, None),
    "dino-no-centre": ("dino", {"center_momentum": 1.0}, None),
    "triplet-hard": ("triplet", {"mining": "hard"}, None),
}


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="SPEC", required=True, help="as in train.py")
    parser.add_argument(
        "--runs",
        metavar="NAME",
        nargs="+",
        help=f"methods of train.py, or of {', '.join(BROKEN)} (default: all)",
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=integer(128),
        help="so many training images (default: all)",
    )
    parser.add_argument(
        "--epochs", metavar="N", type=integer(1), default=2, help="default: 2"
    )
    parser.add_argument(
        "--seed", metavar="K", type=integer(0), default=0, help="default: 0"
    )
    parser.add_argument("--overwrite", action="store_true", help="measure again")
    parser.add_argument(
        "--judge-again",
        action="store_true",
        help="train nothing; judge what was measured by the bounds as they are now",
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    import_quietly()
    import keras_contrastive as kc

    names = args.runs or [*kc.recipes.RECIPES, *BROKEN]
    for name in names:
        if name not in BROKEN:
            kc.recipes.get(name)
    source = kc.data.load(args.data, seed=0)
    part = source.train
    part = part if args.images is None else part.take(range(args.images))
    stem = Path(args.data.partition(":")[2] or args.data).stem
    result = f"collapse/{stem}-{len(part)}-epochs{args.epochs}-seed{args.seed}"
    path = _results.RESULTS / f"{result}.json"
    path.parent.mkdir(exist_ok=True)
    found = _results.read(result)["runs"] if path.exists() else {}
    for name in names:
        if args.judge_again:
            if name not in found:
                continue
            found[name]["reason"] = judged(found[name])
        elif name in found and not args.overwrite:
            continue
        else:
            found[name] = watched(
                name, part, source.test, args, is_digits=stem == "digits"
            )
        note(f"{name}: {found[name]['reason'] or 'no alarm'}")
        values = {"images": len(part), "epochs": args.epochs, "runs": found}
        images = "" if args.images is None else f" --images {args.images}"
        _results.write(
            result,
            values,
            seed=args.seed,
            command=f"python scripts/benchmarks/collapse.py --data {args.data}{images} --epochs {args.epochs}",
        )
    print(path)
    return 0


def watched(name: str, part, test, args, *, is_digits: bool) -> dict:
    """What the watch measured in each epoch of a run, and what it found."""
    import keras

    import keras_contrastive as kc

    method, options, change = BROKEN.get(name, (name, {}, None))
    entry = kc.recipes.get(method)
    keras.utils.set_random_seed(args.seed)
    size = part.image_shape[0]
    encoder = "small_conv_net" if is_digits else "small_resnet"
    augment = "digits" if is_digits else "simclr_small"
    dataset = entry.dataset(part, 128, seed=args.seed)
    model = entry.make(
        kc.encoders.get(encoder)(part.image_shape),
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        batch_size=128,
        augment=kc.augment.get(augment)(size),
        steps=int(dataset.cardinality()) * args.epochs,
        seed=args.seed,
        **{**entry.options, **options},
    )
    if change is not None:
        model = {"both_gradients": both_gradients, "no_predictor": no_predictor}[
            change
        ](model)
    watch = kc.callbacks.CollapseWatch(test.images[:: max(1, len(test) // 500)][:500])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the alarm itself
        history = model.fit(
            dataset, epochs=args.epochs, shuffle=False, verbose=0, callbacks=[watch]
        ).history
    names = list(watch.untrained)
    untrained = {key: float(watch.untrained[key]) for key in names}
    kept = [
        *names,
        *(["positive_similarity"] if "positive_similarity" in history else []),
    ]
    epochs = {key: [round(float(value), 3) for value in history[key]] for key in kept}
    return {"reason": watch.reason, "untrained": untrained, "by_epoch": epochs}


def judged(found: dict) -> str | None:
    """The first finding in what was measured, as the watch would have told it."""
    import numpy as np

    import keras_contrastive as kc

    watch = kc.callbacks.CollapseWatch(np.zeros((32, 1, 1, 1), np.uint8))
    watch.untrained, by_epoch = found["untrained"], dict(found["by_epoch"])
    epochs = len(by_epoch["feature_std"])
    similarity = by_epoch.pop("positive_similarity", [1.0] * epochs)
    last = watch.untrained
    for epoch in range(epochs):
        measures = {key: values[epoch] for key, values in by_epoch.items()}
        reason = watch.judge(measures, last, positive_similarity=similarity[epoch])
        last = measures
        if reason is not None:
            return f"epoch {epoch + 1}: {reason}"
    return None


def both_gradients(model):
    """The same value of the loss, 2 - 2 cosine, but the target learns as well."""
    import keras_contrastive as kc

    loss = kc.losses.AlignmentUniformityLoss(uniformity_weight=0)
    return rebuilt(model, loss=loss, target=kc.targets.SharedTarget())


def no_predictor(model):
    return rebuilt(model, predictor=None)


def rebuilt(model, *, loss=None, **parts):
    """The model with other parts, compiled with its own optimizer."""
    import keras_contrastive as kc

    layer = kc.ContrastiveLossLayer(
        model.loss_layer.loss if loss is None else loss, weight=model.loss_layer.weight
    )
    parts = {"target": model.target, "predictor": model.predictor, **parts}
    other = kc.ContrastiveModel(
        model.encoder,
        layer,
        head=model.head,
        augment=model.augment,
        seed=model.seed,
        **parts,
    )
    other.compile(type(model.optimizer).from_config(model.optimizer.get_config()))
    return other


if __name__ == "__main__":
    sys.exit(run(main))
