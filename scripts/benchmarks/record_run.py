"""Keep the figures of a finished run of scripts/train.py as a result for the README.

Example:
  python scripts/benchmarks/record_run.py runs/digits-simclr --name run_digits --command "make train"
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _results

OPTIONS = (
    "data",
    "method",
    "encoder",
    "epochs",
    "batch_size",
    "image_size",
    "temperature",
    "seed",
)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a finished run folder")
    parser.add_argument("--name", required=True, help="name of the result")
    parser.add_argument(
        "--command", required=True, help="the command that made the run"
    )
    args = parser.parse_args(argv)
    config = json.loads((Path(args.run) / "config.json").read_text())
    metrics = json.loads((Path(args.run) / "metrics.json").read_text())
    skipped = Path(args.run) / "skipped.txt"
    metrics.pop("history")
    values = {
        **{name: config[name] for name in (*OPTIONS, "train_images", "image_shape")},
        "skipped_files": len(skipped.read_text().splitlines())
        if skipped.exists()
        else 0,
        **metrics,
    }
    print(_results.write(args.name, values, command=args.command, seed=config["seed"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
