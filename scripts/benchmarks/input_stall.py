"""How much longer a training step takes because of its input: from arrays, TFRecord shards and a folder of JPEGs.

Times `fit` with the real pipeline (shuffled every epoch, views drawn in the step) beside the same step on one batch
that is in memory, in turns within one process: each measurement of a source next to one of the cached batch, of which
the median of the quotients is kept. The images are crops of scikit-learn's two sample photographs.

Example:
  python scripts/benchmarks/input_stall.py --image-size 32 --batch-size 256
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--encoder", default="small_resnet", help="default: small_resnet"
    )
    parser.add_argument(
        "--image-size", type=int, default=32, help="pixels (default: 32)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images (default: 256)"
    )
    parser.add_argument(
        "--steps", type=int, default=8, help="steps in a measurement (default: 8)"
    )
    parser.add_argument(
        "--repeats", type=int, default=9, help="measurements of each (default: 9)"
    )
    parser.add_argument(
        "--only", nargs="*", help="names of sources (default: all); nothing is kept"
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

    def step_time(dataset) -> float:
        start = time.perf_counter()
        model.fit(dataset, steps_per_epoch=args.steps, verbose=0, shuffle=False)
        return (time.perf_counter() - start) / args.steps

    with tempfile.TemporaryDirectory() as folder:
        parts = make_parts(Path(folder), args)
        if args.only:
            parts = {name: parts[name] for name in args.only}
        datasets = {
            name: kc.data.batches(part, args.batch_size) for name, part in parts.items()
        }
        batch = next(iter(datasets[next(iter(datasets))]))
        cached = tf.data.Dataset.from_tensors(batch).repeat()
        for dataset in (cached, *datasets.values()):
            step_time(dataset)  # compiles
        times = {name: [] for name in datasets}
        for _ in range(args.repeats):
            for name, dataset in datasets.items():
                times[name].append((step_time(cached), step_time(dataset)))
        alone = {name: read_time(d, args.steps) for name, d in datasets.items()}
    sources = {}
    for name, pairs in times.items():
        share = statistics.median(real / ready for ready, real in pairs) - 1
        sources[name] = {
            "slower": share,
            "seconds": statistics.median(real for _, real in pairs),
            "cached_seconds": statistics.median(ready for ready, _ in pairs),
            "input_alone_seconds": alone[name],
            "all_seconds": pairs,
        }
        print(
            f"{name:16} step {1e3 * sources[name]['seconds']:.0f} ms, {share:+.1%}; a batch alone "
            f"{1e3 * alone[name]:.1f} ms"
        )
    if not args.only:
        options = {name: getattr(args, name) for name in ("encoder", "image_size")}
        options["batch_size"] = args.batch_size
        _results.write("input_stall", {**options, "sources": sources})
    return 0


def read_time(dataset, steps: int) -> float:
    """Seconds for a batch where nothing else runs: what decoding costs."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in dataset:
            pass
        times.append((time.perf_counter() - start) / steps)
    return statistics.median(times)


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
