"""Train an encoder on labelled images with one loss of this library and nothing else of it: plain Keras.

The network is that of tensorflow-addons' tutorial on triplet losses (docs/one-loss.md has it as a snippet). Its
script ran with `from tensorflow_addons import losses` where this one says `from keras_contrastive import losses`.
Ends with kNN accuracy on the test part: of pixels, the untrained and the trained network.

Examples:
  python scripts/one_loss.py                                             Fashion-MNIST through keras.datasets
  python scripts/one_loss.py --data npz:fashion_mnist.npz --epochs 5
  python scripts/one_loss.py --loss MultiSimilarityLoss
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import OneLineParser, import_quietly, integer, run

LOSSES = (
    "TripletSemiHardLoss",
    "TripletHardLoss",
    "TripletLoss",
    "LiftedStructLoss",
    "NpairsLoss",
    "SupConLoss",
    "MultiSimilarityLoss",
    "CircleLoss",
    "SoftNearestNeighborLoss",
)
K, TEMPERATURE = 20, 0.1  # of the kNN classifier


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="fashion_mnist",
        metavar="SPEC",
        help="labelled images, as in train.py (default: %(default)s)",
    )
    parser.add_argument(
        "--loss",
        default="TripletSemiHardLoss",
        choices=LOSSES,
        metavar="NAME",
        help=f"one of {', '.join(LOSSES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=integer(1), default=5, help="default: %(default)s"
    )
    parser.add_argument(
        "--batch-size", type=integer(1), default=128, help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--record",
        metavar="NAME",
        help="keep the figures as scripts/benchmarks/results/NAME.json",
    )
    return parser.parse_args(argv)


def network(image_shape):
    """Images 0..255 in, embeddings `(batch, 256)` of unit length out."""
    import keras

    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(64, 2, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Dropout(0.3),
            keras.layers.Conv2D(32, 2, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Dropout(0.3),
            keras.layers.Flatten(),
            keras.layers.Dense(256),
            keras.layers.UnitNormalization(),
        ]
    )


def train(model, images, labels, loss: str, *, epochs: int, batch_size: int):
    """Compile and fit; the Keras history."""
    import keras

    from keras_contrastive import losses

    model.compile(optimizer=keras.optimizers.Adam(0.001), loss=getattr(losses, loss)())
    return model.fit(images, labels, batch_size=batch_size, epochs=epochs, verbose=2)


def main(argv=None):
    args = parse_args(argv)
    import_quietly()
    import keras

    import keras_contrastive as kc

    keras.utils.set_random_seed(args.seed)
    source = kc.data.load(args.data, seed=args.seed)
    parts = source.train, source.test
    labels = [part.labels for part in parts]
    if labels[0] is None:
        raise ValueError(f"`--data` must have labels. Received: {args.data!r}.")

    def accuracy(embed) -> float:
        train_rows, test_rows = (embed(part.images) for part in parts)
        return kc.evaluation.knn_accuracy(
            train_rows, labels[0], test_rows, labels[1], k=K, temperature=TEMPERATURE
        )

    model = network(source.train.image_shape)
    predict = lambda images: model.predict(images, verbose=0)  # noqa: E731
    knn = {
        "pixels": accuracy(lambda images: images.reshape(len(images), -1)),
        "untrained": accuracy(predict),
    }
    start = time.perf_counter()
    options = {"epochs": args.epochs, "batch_size": args.batch_size}
    history = train(model, source.train.images, labels[0], args.loss, **options)
    seconds = time.perf_counter() - start
    knn["trained"] = accuracy(predict)
    for name, value in knn.items():
        print(f"{name:10} kNN (k = {K}) {100 * value:.1f} %")
    if args.record:
        sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))
        import _results

        values = {"loss": args.loss, "train_images": len(labels[0]), **options}
        values.update(seconds=seconds, knn=knn, history=history.history["loss"])
        command = f"python scripts/one_loss.py --data {_public(args.data)} --epochs {args.epochs}"
        if args.loss != "TripletSemiHardLoss":
            command += f" --loss {args.loss}"
        _results.write(args.record, values, command=command, seed=args.seed)
    return 0


def _public(spec: str) -> str:
    """The spec without the folder of its file."""
    kind, _, path = spec.partition(":")
    return f"{kind}:{Path(path).name}" if path else kind


if __name__ == "__main__":
    sys.exit(run(main))
