"""Judge trained runs: how good are the features, is the difference more than chance, what to try next.

Examples:
  python scripts/evaluate.py runs/digits-simclr                     one run beside pixels and its untrained encoder
  python scripts/evaluate.py runs/a runs/b runs/c                   several runs in one table, compared in pairs
  python scripts/evaluate.py runs/digits-simclr --data npz:new.npz  the same encoder on other labelled images
  python scripts/evaluate.py runs/a --fine-tune                     with networks fine-tuned on 1, 10, 100 % of the labels

Prints a table and writes evaluation.json and report.html (one file, to be opened in a browser, no network needed) into
the run folder; of several runs into each one's folder, and one about all of them into --out.
"""

import argparse
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import Failure, OneLineParser, import_quietly, run
from _run_folder import RunFolder


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="a run folder of scripts/train.py"
    )
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help="labelled images, as in train.py (default: those of each run)",
    )
    parser.add_argument(
        "--sgd-probe",
        action="store_true",
        help="also train a linear layer on the frozen features of augmented images, as papers do (minutes)",
    )
    parser.add_argument(
        "--fine-tune",
        action="store_true",
        help="also fine-tune the whole network on 1, 10 and 100 %% of the labels, from trained and from untrained weights "
        "(minutes to hours)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for evaluation.json and report.html (default: the run folder; of several runs the folder that they "
        "are all in)",
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    folders = [RunFolder(path) for path in args.runs]
    for folder in folders:
        folder.model_file()  # before TensorFlow is loaded
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise Failure("A run is named twice.")
    out = None if args.out is None else Path(args.out)
    if out is not None and out.exists() and not out.is_dir():
        raise Failure(f"'{out}' is a file; --out must name a folder.")
    parents = {folder.path.resolve().parent for folder in folders}
    if out is None and len(parents) > 1:
        raise Failure("The runs are in several folders: say with --out where to write.")
    import_quietly()
    from _evaluation import judge

    judge(
        folders,
        data=args.data,
        out=out,
        sgd_probe=args.sgd_probe,
        fine_tune=args.fine_tune,
        command=f"python scripts/evaluate.py {shlex.join(argv or sys.argv[1:])}",
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
