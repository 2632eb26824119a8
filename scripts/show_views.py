"""Draw images with the random views that training would make of them: see what the model will see.

Examples:
  python scripts/show_views.py --data digits --augment digits --out views.png
  python scripts/show_views.py --data folder:photos --augment simclr --out views.png --views 8
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import Failure, OneLineParser, import_quietly, integer, run

SUFFIXES = (".png", ".pdf", ".svg")


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        metavar="SPEC",
        default="digits",
        help="digits, mnist, cifar10, npz:FILE, folder:DIR, tfds:NAME, ... as in train.py (default: digits)",
    )
    parser.add_argument(
        "--augment",
        metavar="NAME",
        default="auto",
        help="simclr, simclr_small, fast, moco_v2, byol, multi_crop, weak, digits, or auto: what train.py would take "
        "(default: auto)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="the picture, which is replaced; .png, .pdf or .svg",
    )
    parser.add_argument(
        "--images", metavar="N", type=integer(1), default=8, help="default: 8"
    )
    parser.add_argument(
        "--views",
        metavar="K",
        type=integer(1),
        help="views of each image (default: 6, or as many as the recipe makes)",
    )
    parser.add_argument(
        "--image-size",
        metavar="S",
        type=integer(1),
        help="side in pixels to which images are resized first, as in train.py",
    )
    parser.add_argument(
        "--seed", metavar="K", type=integer(0), default=0, help="default: 0"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    out = Path(args.out)
    if out.suffix not in SUFFIXES:
        raise Failure(f"--out must end in {', '.join(SUFFIXES)}. Received: '{out}'.")
    if not out.absolute().parent.is_dir():
        raise Failure(f"There is no folder '{out.parent}' to write '{out.name}' into.")
    import_quietly()
    import numpy as np
    from _training import augment_name, images_of

    import keras_contrastive as kc

    if args.augment != "auto":
        kc.augment.get(args.augment)  # before the data, which may take a while
    source = kc.data.load(args.data, image_size=args.image_size, seed=args.seed)
    part = images_of(source.train, args.data)
    size, width, _ = part.image_shape
    if size != width:
        raise Failure(
            "Views are square, and these images are not: give --image-size. "
            f"Received: {size} x {width}."
        )
    name = augment_name(vars(args), size)
    generator = np.random.default_rng(args.seed)
    count = min(args.images, len(part))
    chosen = (
        part.take(np.sort(generator.choice(len(part), count, replace=False)))
        .in_memory()
        .images
    )
    recipe = kc.augment.get(name)(size)
    number = args.views or max(6, recipe.num_views)
    views = kc.augment.views(chosen, number, recipe, args.seed, 0)
    kc.pictures.save(kc.pictures.views(chosen, views), out)
    print(
        f"{out}: {len(chosen)} images of {args.data}, {number} views of each by {name}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
