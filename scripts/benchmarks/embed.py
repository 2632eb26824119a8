"""How fast photographs are embedded, from files to the .npz, beside how fast they are decoded alone.

1,000 JPEG files of 500 x 400 pixels, made from the photographs given. Three things are timed in turns, in one process:
reading and decoding alone, to pixels of the full size; reading as the loader does it, resized; and what scripts/embed.py
does with an untrained small_resnet, up to the .npz. Not counted is the start: to load the model, to build the pipelines.

Example:
  python scripts/benchmarks/embed.py --data folder:photos
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

SIDES, QUALITY = (500, 400), 90


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", metavar="SPEC", required=True, help="photographs: folder:DIR"
    )
    parser.add_argument(
        "--images", type=int, default=1000, help="how many files (default: 1000)"
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[32, 64, 96],
        help="sides in pixels that the encoder takes (default: 32 64 96)",
    )
    parser.add_argument("--turns", type=int, default=7, help="default: 7")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from _console import import_quietly

    import_quietly()
    import _results

    import keras_contrastive as kc

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = make_files(args.data, folder / "images", args.images)
        sizes = {}
        for size in args.sizes:
            exported = folder / f"served-{size}"
            kc.export.save(kc.encoders.small_resnet((size, size, 3)), exported)
            tasks = {
                "decoding": lambda: decode(files, args.batch_size),
                "loader": lambda size=size: read(files, size, args.batch_size),
                "embedding": lambda exported=exported: embed(
                    exported, folder / "images", folder / "out.npz", args.batch_size
                ),
            }
            sizes[size] = in_turns(tasks, args.turns, args.images)
            print(f"{size} px: {sizes[size]}", flush=True)
    _results.write(
        "embed",
        {"images": args.images, "image_sides": SIDES, "turns": args.turns}
        | {"images_per_second": sizes},
    )
    return 0


def in_turns(tasks: dict, turns: int, images: int) -> dict:
    """Median images a second of each task; a first turn does not count."""
    rates = {name: [] for name in tasks}
    for turn in range(turns + 1):
        for name, task in tasks.items():
            seconds = task()
            if turn:
                rates[name].append(images / seconds)
    return {name: round(statistics.median(found)) for name, found in rates.items()}


def make_files(spec: str, folder: Path, count: int) -> list[str]:
    """The photographs in turn, at 500 x 400, mirrored in every second round."""
    from PIL import Image

    import keras_contrastive as kc

    source = kc.data.load(spec, image_size=32, cache="none")
    paths = [p.decode() for part in (source.train, source.test) for p in part.paths]
    folder.mkdir()
    made = []
    for number in range(count):
        image = Image.open(paths[number % len(paths)]).convert("RGB")
        image = image.resize(SIDES, Image.Resampling.BICUBIC)
        if number // len(paths) % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        made.append(str(folder / f"{number:05d}.jpg"))
        image.save(made[-1], quality=QUALITY)
    return made


def decode(files: list, batch_size: int) -> float:
    """Seconds to read and decode, as accurately as the loader does, and nothing else."""
    import tensorflow as tf

    def pixels(file):
        image = tf.io.decode_jpeg(
            tf.io.read_file(file), channels=3, dct_method="INTEGER_ACCURATE"
        )
        return image[0, 0]  # what is handed over is no part of decoding

    dataset = tf.data.Dataset.from_tensor_slices(files)
    dataset = dataset.map(pixels, num_parallel_calls=tf.data.AUTOTUNE)
    return timed(dataset.batch(batch_size))


def read(files: list, size: int, batch_size: int) -> float:
    import keras_contrastive as kc

    return timed(kc.data.FilePart(files, image_size=size).in_order(batch_size))


def timed(dataset) -> float:
    start = time.perf_counter()
    for _ in dataset:
        pass
    return time.perf_counter() - start


def embed(exported: Path, images: Path, out: Path, batch_size: int) -> float:
    """Seconds from the first file to the written .npz, by the pipeline and the model of scripts/embed.py."""
    import numpy as np
    from _embedding import Job

    args = SimpleNamespace(
        model=str(exported),
        data=f"folder:{images}",
        batch_size=batch_size,
        overwrite=True,
        on_damage="skip",
        max_pixels=None,
    )
    job = Job(args, command="")
    datasets = [chosen.batches(0, batch_size) for chosen in job.chosen]
    size, channels = job.encoder.image_size, job.encoder.channels
    job.encoder(np.zeros((batch_size, size, size, channels), np.uint8))  # optimises it
    start = time.perf_counter()
    rows = [job.encoder(images) for dataset in datasets for images, _ in dataset]
    np.savez(out, embeddings=np.concatenate(rows))
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
