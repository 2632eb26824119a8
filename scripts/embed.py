"""Embed all images of a data set with an exported encoder, into one .npz file that scripts/search.py searches.

Examples:
  python scripts/embed.py served/1 --data folder:photos --out photos.npz
  python scripts/embed.py runs/digits-simclr/saved_model/1 --data digits --out digits.npz
  python scripts/search.py photos.npz --query new.jpg --html similar.html        (and then: what is similar to it?)
  python scripts/search.py photos.npz --duplicates                               (or: what is there twice?)

The train and the test part are embedded, one after the other. The file holds `embeddings` (float32, rows of unit length),
`ids` (each file's path as it stands in the folder or CSV file; of arrays and records train/0, train/1, ..., test/0, ...),
`labels` (-1: unknown), `class_names` where there are some, and `about` (JSON: which model, which data). np.load opens it,
and keras_contrastive.search.Index.load.

It appears once it is complete. Stopped or killed, the same command goes on where it was. Images that cannot be read are
left out and listed beside it, in NAME.skipped.txt.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import Failure, OneLineParser, import_quietly, integer, note, reason, run
from _saved_encoder import check_export


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model",
        metavar="SAVED_MODEL",
        help="an export: of scripts/export.py, or saved_model/1 in a run folder",
    )
    parser.add_argument(
        "--data",
        metavar="SPEC",
        required=True,
        help="folder:DIR, csv:FILE, npz:FILE, tfrecords:DIR, digits, cifar10, ... as in train.py; images are resized to "
        "the model's size",
    )
    parser.add_argument(
        "--out", metavar="FILE.npz", required=True, help="the file to write"
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=integer(1),
        default=64,
        help="images that the model sees at a time (default: 64)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace FILE.npz, and what an interrupted command of other settings has left",
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
    if Path(args.out).suffix != ".npz":
        parser.error(f"--out must be a name that ends in .npz, not '{args.out}'")
    return args


def main(argv=None):
    args = parse_args(argv)
    out = Path(args.out)
    check_export(args.model)
    if out.is_dir():
        raise Failure(f"'{out}' is a folder; --out must name a file.")
    if out.exists() and not args.overwrite:
        raise Failure(
            f"'{out}' is there already. --overwrite replaces it, --out names another file."
        )
    import_quietly()
    from _embedding import Job

    command = shlex.join(map(str, sys.argv[1:] if argv is None else argv))
    job = Job(args, command=f"python scripts/embed.py {command}")
    try:
        count, lost = job.run(out)
    except KeyboardInterrupt:
        note(
            f"Stopped after {job.done:,} of {job.total:,} images, which are saved. The same command goes on."
        )
        return 130
    except (Failure, OSError):
        raise
    except (
        Exception
    ) as error:  # one line instead of a traceback: damage, no memory, ...
        raise Failure(reason(error), code=1) from error
    if lost:
        note(
            f"{lost:,} could not be read and are left out: they are in {job.list_of(out)}"
        )
    here = shlex.quote(str(out))
    print(
        f"{out}: {count:,} images, {job.encoder.dim} numbers each\n"
        "Next:\n"
        f"  python scripts/search.py {here} --query IMAGE --html similar.html\n"
        f"  python scripts/search.py {here} --duplicates"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
