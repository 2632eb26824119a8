"""Measure a trained run again: few-label and kNN accuracy of pixels, the untrained and the trained encoder.

Examples:
  python scripts/evaluate.py runs/digits-simclr                     the table that train.py ended with
  python scripts/evaluate.py runs/digits-simclr --data npz:new.npz  the same encoder on other labelled images
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import OneLineParser, import_quietly, run, show_measures
from _run_folder import RunFolder


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder of scripts/train.py")
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help="labelled images, as in train.py (default: those of the run)",
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    folder = RunFolder(args.run)
    folder.model_file()  # before TensorFlow is loaded
    import_quietly()
    from _training import measure_run

    show_measures(measure_run(folder, args.data))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
