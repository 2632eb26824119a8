"""How much longer a training step takes because of its input: from arrays, TFRecord shards and a folder of JPEGs.

Times `fit` with the real pipeline (shuffled every epoch, views drawn in the step) and the same step on one batch that is
in memory, in rounds within one process: each round measures all of them, one after the other. Kept are the fastest
rounds by the clock (what else slows a machine down only ever adds), every round, the medians of the processors' time,
and what a batch costs where nothing else runs. The images are crops of scikit-learn's two sample photographs.

Example:
  python scripts/benchmarks/input_stall.py --image-size 32 --batch-size 256
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import _steps


def parse_args(argv=None):
    parser = _steps.parser(__doc__, steps=16)
    parser.add_argument(
        "--rounds", type=int, default=12, help="measurements of each (default: 12)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from _console import import_quietly

    import_quietly()
    import _results
    import keras
    import tensorflow as tf

    import keras_contrastive as kc

    shape = (args.image_size, args.image_size, 3)
    keras.utils.set_random_seed(0)
    encoder = kc.encoders.get(args.encoder)(shape)
    model = kc.recipes.simclr(encoder, augment=kc.augment.simclr(args.image_size))

    with tempfile.TemporaryDirectory() as folder:
        parts = make_parts(Path(folder), args)
        datasets = {
            name: kc.data.batches(part, args.batch_size) for name, part in parts.items()
        }
        batch = next(iter(datasets["arrays"]))
        datasets["cached"] = tf.data.Dataset.from_tensors(batch).repeat()
        for dataset in datasets.values():
            _steps.step_time(model, dataset, args.steps)  # compiles
        times = {name: [] for name in datasets}
        for _ in range(args.rounds):
            for name, dataset in datasets.items():
                times[name].append(_steps.step_time(model, dataset, args.steps))
        alone = {name: batch_time(datasets[name], args.steps) for name in parts}
    fastest = {name: min(clock for clock, _ in t) for name, t in times.items()}
    cached = fastest["cached"]
    cached_busy = statistics.median(busy for _, busy in times["cached"])
    sources = {}
    for name in parts:
        clock, busy = alone[name]
        sources[name] = {
            "slower": fastest[name] / cached - 1,
            "share_of_processors": busy / cached_busy,
            "step_seconds": fastest[name],
            "batch_alone_seconds": clock,
            "batch_alone_processor_seconds": busy,
        }
        print(
            f"{name:16} step {1e3 * fastest[name]:.0f} ms, {sources[name]['slower']:+.1%}; a batch alone "
            f"{1e3 * clock:.1f} ms, {busy / cached_busy:.1%} of the processors' time"
        )
    options = {
        name: getattr(args, name)
        for name in ("encoder", "image_size", "rounds", "steps")
    }
    _results.write(
        "input_stall",
        {
            **options,
            "batch_size": args.batch_size,
            "cached_seconds": cached,
            "cached_processor_seconds": cached_busy,
            "sources": sources,
            "seconds": times,
        },
    )
    return 0


def batch_time(dataset, steps: int) -> tuple[float, float]:
    """Seconds for a batch where nothing else runs, by the clock and of the processors."""
    times = []
    for _ in range(9):
        clock, busy = time.perf_counter(), time.process_time()
        for _ in dataset:
            pass
        clock, busy = time.perf_counter() - clock, time.process_time() - busy
        times.append((clock / steps, busy / steps))
    return tuple(statistics.median(column) for column in zip(*times))


def make_parts(folder: Path, args) -> dict:
    """The same images from each kind of source, by name."""
    import keras_contrastive as kc
    from keras_contrastive.data.cache import read_through_disk

    images = make_images(args.batch_size * args.steps, args.image_size)
    part = kc.data.Part(images)
    write_jpegs(folder / "images" / "all", images)
    parts = {"arrays": part}
    for encoding in ("raw", "png", "jpeg"):
        shards = folder / encoding
        kc.data.write_records({"train": part}, shards, encoding=encoding)
        parts[f"tfrecords {encoding}"] = kc.data.RecordPart(shards)
    paths = sorted((folder / "images" / "all").iterdir())
    files = kc.data.FilePart(paths, image_size=args.image_size)
    parts["folder"] = files
    parts["folder, memory"] = files.in_memory()
    parts["folder, disk"], _ = read_through_disk(files, folder / "cache")
    return parts


def make_images(count: int, size: int):
    """Random crops of scikit-learn's photographs, shrunk by half: uint8 `(count, size, size, 3)`."""
    import numpy as np
    from sklearn.datasets import load_sample_images

    photos = [photo[::2, ::2] for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        photo = photos[rng.integers(len(photos))]
        y, x = (rng.integers(side - size + 1) for side in photo.shape[:2])
        image[...] = photo[y : y + size, x : x + size]
    return images


def write_jpegs(folder: Path, images) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:06d}.jpg", quality=75)


if __name__ == "__main__":
    sys.exit(main())
