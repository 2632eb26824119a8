"""Write the encoder of a run as a SavedModel, which TensorFlow alone can load and TensorFlow Serving serve.

Its signature `serving_default` takes `images` (uint8, any size), `encoded` takes `bytes` (JPEG or PNG); both
give `embedding`, float32 of unit length.

Example:
  python scripts/export.py runs/digits-simclr --out served/1
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import OneLineParser, import_quietly, run
from _run_folder import RunFolder


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder of scripts/train.py")
    parser.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="where to write; a number as last part serves",
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    folder, out = RunFolder(args.run), Path(args.out)
    model_file = folder.model_file()
    import_quietly()
    import keras

    import keras_contrastive as kc

    kc.export.save(keras.models.load_model(model_file), out)
    print(
        f"{out}: signatures serving_default (images) and encoded (bytes), each giving embedding"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
