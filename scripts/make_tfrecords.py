"""Write images as TFRecord shards, with counts and checksums, for `--data tfrecords:DIR`.

Examples:
  python scripts/make_tfrecords.py --data folder:photos --image-size 96 --out shards
  python scripts/make_tfrecords.py --data tfds:food101 --image-size 224 --encoding jpeg --out shards
  sha256sum --check SHA256SUMS                                     (in shards: are they as they were written?)

Stopped, the same command goes on after the last complete shard. Images that cannot be read are left out and listed in
skipped.txt. Examples are written in a random order, so that neighbours in a shard are of all classes.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import (
    Failure,
    OneLineParser,
    import_quietly,
    integer,
    note,
    read_lines,
    run,
    write_lines,
)


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        metavar="SPEC",
        required=True,
        help="folder:DIR, csv:FILE of single images, npz:FILE, tfds:NAME, cifar10, ... as in train.py",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="where the shards go"
    )
    parser.add_argument(
        "--image-size",
        metavar="S",
        type=integer(1),
        help="side in pixels to which images are resized (default: as in train.py; with --encoding files, none are)",
    )
    parser.add_argument(
        "--encoding",
        choices=["png", "jpeg", "raw", "files"],
        default="png",
        help="png (lossless), jpeg (quality 95), raw (pixels: largest, nothing to decode), or files (of folders and CSV "
        "files: JPEG and PNG as they are, of any size) (default: png)",
    )
    parser.add_argument(
        "--examples-per-shard",
        metavar="N",
        type=integer(1),
        default=10_000,
        help="default: 10000",
    )
    parser.add_argument(
        "--seed",
        metavar="K",
        type=integer(0),
        default=0,
        help="of the split, where the data have none, and of the order (default: 0)",
    )
    parser.add_argument(
        "--on-damage",
        choices=["skip", "stop"],
        default="skip",
        help="leave out and list what cannot be read, or stop (default: skip)",
    )
    parser.add_argument(
        "--max-pixels",
        metavar="N",
        type=integer(1),
        help="leave out, undecoded, images of more pixels (default: 100000000)",
    )
    args = parser.parse_args(argv)
    if args.encoding == "files" and args.image_size is not None:
        parser.error("--encoding files keeps files as they are: leave out --image-size")
    return args


def main(argv=None):
    args = parse_args(argv)
    out = Path(args.out)
    import_quietly()
    import keras_contrastive as kc

    source = kc.data.load(
        args.data,
        image_size=args.image_size,
        seed=args.seed,
        cache="none",
        on_damage=args.on_damage,
        max_pixels=args.max_pixels,
    )
    if isinstance(source.train, kc.data.Given):
        raise Failure(
            "Given pairs and triplets stay in their CSV file: shards hold single images. Write those, and list pairs "
            "of them in your own code."
        )
    counts = kc.data.write_records(
        {"train": source.train, "test": source.test},
        out,
        encoding=args.encoding,
        examples_per_shard=args.examples_per_shard,
        seed=args.seed,
        progress=_show,
    )
    _list_skipped(out / "skipped.txt", source)
    written = sum(shard["count"] for shard in counts["shards"].values())
    print(
        f"{out}: {written} images in {len(counts['shards'])} shards\n"
        f"Next:\n  python scripts/train.py --data {shlex.quote(f'tfrecords:{out}')}"
    )
    return 0


def _list_skipped(file: Path, source) -> None:
    """Add what could not be read to what an earlier call that was stopped has listed."""
    listed = read_lines(file) if file.exists() else []
    found = [*source.skipped, *source.train.skipped, *source.test.skipped]
    lines = list(dict.fromkeys([*listed, *found]))
    if lines:
        write_lines(file, lines)
        note(f"{len(lines)} images could not be read; they are listed in {file}")


def _show(name: str, done: int, total: int) -> None:
    note(f"{name}: {done} of {total}")


if __name__ == "__main__":
    sys.exit(run(main))
