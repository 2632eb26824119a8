"""Find the images most similar to one, or those that are there twice, in what scripts/embed.py has written.

Examples:
  python scripts/search.py photos.npz --query new.jpg                            the 10 images most similar to a file
  python scripts/search.py photos.npz --query a.jpg b.png --top 20 --html similar.html      several, and a page to look at
  python scripts/search.py digits.npz --query test/3 test/14                     of images in the file, by their ids
  python scripts/search.py photos.npz --duplicates                               groups of images that are nearly the same
  python scripts/search.py photos.npz --duplicates --threshold 0.5 --html twice.html        less alike, and a page

Similarity is the cosine of two embeddings: 1 for equal images; how near to 1 it is for others depends on the encoder. For
--duplicates embeddings are whitened first, after which it is about 0 for unrelated images. What counts as nearly the same
is yours to say: look at --html, and move --threshold. The page is one file that needs no network.

Neither model nor images need to be where they were when the file was made: --model and --data say where they are now. The
model is needed for queries that are files, the images for --html.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import Failure, OneLineParser, import_quietly, integer, run

# Similarity of whitened embeddings from which on two images count as the same: scripts/benchmarks/duplicates.py.
DUPLICATE = 0.7
NEIGHBOURS, GROUPS = 10, 20  # shown, unless --top says otherwise


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "file", metavar="FILE.npz", help="what scripts/embed.py has written"
    )
    parser.add_argument(
        "--query",
        metavar="IMAGE",
        nargs="+",
        help="image files (JPEG, PNG, GIF, BMP, WebP), or ids of images in FILE.npz",
    )
    parser.add_argument(
        "--duplicates",
        action="store_true",
        help="groups of images of which each is nearly the same as another one of the group, the largest groups first",
    )
    parser.add_argument(
        "--threshold",
        metavar="T",
        type=_cosine,
        help=f"of --duplicates: the least similarity of two, > 0 and at most 1 (default: {DUPLICATE})",
    )
    parser.add_argument(
        "--top",
        metavar="K",
        type=integer(1),
        help=f"how many neighbours of each query, or how many groups (default: {NEIGHBOURS} and {GROUPS})",
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write a page with the images to this file"
    )
    parser.add_argument(
        "--model",
        metavar="SAVED_MODEL",
        help="where the model is that has embedded the images (default: where it was then)",
    )
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help="where the images are (default: where they were then)",
    )
    args = parser.parse_args(argv)
    if args.duplicates == (args.query is not None):
        parser.error("say what to look for: either --query IMAGE... or --duplicates")
    if args.threshold is not None and not args.duplicates:
        parser.error("--threshold goes with --duplicates")
    return args


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be a number > 0 and at most 1, not {text!r}"
        )
    return value


def main(argv=None):
    args = parse_args(argv)
    if not Path(args.file).is_file():
        raise Failure(f"There is no file '{args.file}'. scripts/embed.py writes one.")
    if args.html is not None and Path(args.html).is_dir():
        raise Failure(f"'{args.html}' is a folder; --html must name a file.")
    import_quietly()
    from _search import Embedded, show_duplicates, show_neighbours

    embedded = Embedded(args.file, model=args.model, data=args.data)
    if args.duplicates:
        threshold = DUPLICATE if args.threshold is None else args.threshold
        show_duplicates(embedded, threshold, args.top or GROUPS, args.html)
    else:
        show_neighbours(embedded, args.query, args.top or NEIGHBOURS, args.html)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
