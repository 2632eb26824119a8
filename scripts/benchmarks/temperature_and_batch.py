"""kNN accuracy of simclr by temperature and batch size, to choose them by.

Every point trains on the same number of images, so that larger batches have fewer steps, at the learning rate of simclr
in methods.py times sqrt(batch / 256), with the encoder and the views of methods.py. It is judged on training images that
are held out: a choice of settings is none of the test part's business. Results go to
scripts/benchmarks/results/temperature_and_batch.json as they come: a run that was stopped goes on where it was.

Examples:
  python scripts/benchmarks/temperature_and_batch.py --data npz:cifar10_jpeg.npz   every point that has no result yet
  python scripts/benchmarks/temperature_and_batch.py --plot                        draw docs/temperature_and_batch.png
"""

import argparse
import math
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import _method_judging as judging  # noqa: E402
import _method_training as training  # noqa: E402
import _results  # noqa: E402
import methods  # noqa: E402
from _accuracy_over_time import spread  # noqa: E402
from _console import (  # noqa: E402
    Failure,
    OneLineParser,
    import_quietly,
    integer,
    note,
    positive,
    run,
)

NAME = "temperature_and_batch"
PICTURE = HERE.parents[1] / "docs" / f"{NAME}.png"
TEMPERATURES, BATCH_SIZES = (0.05, 0.1, 0.2, 0.5, 1.0), (64, 256, 1024)


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", metavar="SPEC", help="as in train.py")
    what.add_argument("--plot", action="store_true", help="draw the picture alone")
    parser.add_argument(
        "--temperatures",
        metavar="T",
        nargs="+",
        type=positive,
        default=TEMPERATURES,
        help=f"default: {' '.join(map(str, TEMPERATURES))}",
    )
    parser.add_argument(
        "--batch-sizes",
        metavar="N",
        nargs="+",
        type=integer(2),
        default=BATCH_SIZES,
        help=f"images (default: {' '.join(map(str, BATCH_SIZES))})",
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=integer(1),
        default=50_000,
        help="how many images a point trains on, in whole batches (default: 50000)",
    )
    parser.add_argument(
        "--seed", metavar="K", type=integer(0), default=0, help="default: 0"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="forget all points that are there"
    )
    return parser.parse_args(argv)


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if args.plot:
        if len(argv) > 1:
            raise Failure("--plot takes no other option.")
        plot(results()["points"])
        print(PICTURE)
        return 0
    import_quietly()
    settings = {
        "data": methods.short(args.data),
        "encoder": training.ENCODER,
        "images": args.images,
        "held_out": judging.HELD_OUT,
        "seed": args.seed,
        "learning_rate": training.learning_rate("simclr", {}),  # of batches of 256
    }
    points = kept_points(args, settings)
    done = {(point["temperature"], point["batch_size"]) for point in points}
    every = [(t, n) for n in args.batch_sizes for t in args.temperatures]
    left = [key for key in every if key not in done]
    if not left:
        print(f"{NAME}.json has all these points; --overwrite measures again.")
        return 0
    import keras_contrastive as kc

    source = kc.data.load(args.data, seed=0)
    train, test = judging.parts_of(source, args.data, hold_out=True)
    for number, (temperature, batch_size) in enumerate(left, 1):
        point = measured(
            train, test, temperature, batch_size, images=args.images, seed=args.seed
        )
        points.append(point)
        _results.write(
            NAME,
            {**settings, "points": points},
            seed=args.seed,
            command=methods.command(args, argv, f"{NAME}.py"),
        )
        note(
            f"{number} of {len(left)}: temperature {temperature:g}, batch {batch_size}: kNN {100 * point['knn_200']:.1f} %, "
            f"{point['seconds']:.0f} s"
        )
    print(_results.RESULTS / f"{NAME}.json")
    return 0


def results() -> dict:
    try:
        return _results.read(NAME)
    except FileNotFoundError as error:
        raise Failure("There are no results yet: measure with --data first.") from error


def kept_points(args, settings: dict) -> list[dict]:
    """The points that are there; they have to be of the same settings, for a picture has one."""
    if args.overwrite or not (_results.RESULTS / f"{NAME}.json").exists():
        return []
    found = results()
    for name, value in settings.items():
        if found.get(name) != value:
            raise Failure(
                f"The points that are there have {name} {found.get(name)}, not {value}; --overwrite forgets them."
            )
    return found["points"]


def measured(
    train, test, temperature: float, batch_size: int, *, images: int, seed: int
) -> dict:
    """Train a point, and judge it by the images that are held out."""
    import keras

    import keras_contrastive as kc

    keras.backend.clear_session()  # the model of the point before
    rate = training.learning_rate("simclr", {}) * math.sqrt(batch_size / 256)
    steps = max(1, round(images / batch_size))
    model = training.recipe_model(
        "simclr",
        train,
        steps=steps,
        seed=seed,
        batch_size=batch_size,
        options={"temperature": temperature, "learning_rate": rate},
    )
    clock = time.perf_counter()
    training.fit(model, kc.data.batches(train, batch_size, seed=seed), steps)
    seconds = time.perf_counter() - clock
    features = training.features_of(model, train, test)
    return {
        "temperature": temperature,
        "batch_size": batch_size,
        "learning_rate": rate,
        "steps": steps,
        "seconds": seconds,
        "knn_200": judging.knn_accuracy(features, (train.labels, test.labels)),
    }


def accuracies(points: list[dict]) -> dict:
    """Batch size -> temperature -> kNN accuracy in percent; both ascending."""
    found: dict = {}
    for point in sorted(points, key=lambda p: (p["batch_size"], p["temperature"])):
        of_batch = found.setdefault(point["batch_size"], {})
        of_batch[point["temperature"]] = 100 * point["knn_200"]
    return found


def plot(points: list[dict]) -> None:
    """A line for each batch size, its name at its end."""
    import_quietly()
    from keras_contrastive import pictures
    from keras_contrastive.pictures._common import QUIET, new_figure
    from keras_contrastive.pictures.charts import COLOURS

    lines = accuracies(points)
    figure = new_figure(6.4, 3.8, layout="constrained")
    axes = figure.subplots()
    for number, values in enumerate(lines.values()):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(*zip(*values.items()), "o-", color=colour, lw=1.8, markersize=4.5)
    _set_axes(axes, sorted({t for values in lines.values() for t in values}), QUIET)
    ends = [
        (
            list(values.values())[-1],
            f"batch {batch_size:,}",
            COLOURS[number % len(COLOURS)],
        )
        for number, (batch_size, values) in enumerate(lines.items())
    ]
    low, high = axes.get_ylim()
    for height, (_, text, colour) in spread(ends, 0.07 * (high - low)):
        axes.text(
            1.01,
            height,
            text,
            transform=axes.get_yaxis_transform(),
            color=colour,
            fontsize=9.5,
            va="center",
        )
    pictures.save(figure, PICTURE)


def _set_axes(axes, temperatures: list[float], quiet: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    axes.minorticks_off()
    axes.set_xlabel("temperature", fontsize=9, color=quiet)
    axes.set_title("kNN accuracy, %", fontsize=10.5, loc="left")
    axes.tick_params(labelsize=9, colors=quiet)
    axes.grid(axis="y", color="0.92", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")


if __name__ == "__main__":
    sys.exit(run(main))
