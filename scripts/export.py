"""Write the encoder of a run as a SavedModel, which TensorFlow alone can load and TensorFlow Serving serve.

Examples:
  python scripts/export.py runs/photos-simclr --versions served           into served/1, the next time into served/2
  python scripts/export.py runs/photos-simclr --out served/1              into this folder; what stands there is replaced
  python scripts/export.py runs/photos-simclr --versions served --classify --float16
  python scripts/export.py runs/photos-simclr --versions served --index photos.npz

Signatures: serving_default and resized (images -> embedding), encoded (JPEG or PNG bytes -> embedding, valid), similarity (two
batches of images -> cosine); with --classify also classify (images -> label), with --index search (bytes -> ids and
scores of the nearest). assets/model_card.json says where the model comes from.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run without installing

from _console import Failure, OneLineParser, import_quietly, integer, run
from _run_folder import RunFolder


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder of scripts/train.py")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--out",
        metavar="DIR",
        help="where to write; TensorFlow Serving wants a number as last part",
    )
    where.add_argument(
        "--versions",
        metavar="DIR",
        help="write the next numbered version in this folder, as TensorFlow Serving watches it",
    )
    parser.add_argument(
        "--float16",
        action="store_true",
        help="store weights in half the space; serves alone, cannot be fine-tuned",
    )
    parser.add_argument(
        "--classify",
        action="store_true",
        help="fit a linear probe on the run's labelled training images, and serve its labels",
    )
    parser.add_argument(
        "--index",
        metavar="FILE",
        help="serve the nearest of these embeddings, which scripts/embed.py has made with an export of this run",
    )
    parser.add_argument(
        "--top",
        metavar="K",
        type=integer(1),
        help="with --index: how many of them (default: 10)",
    )
    args = parser.parse_args(argv)
    if args.top is not None and args.index is None:
        parser.error("--top goes with --index")
    return args


def main(argv=None):
    args = parse_args(argv)
    folder = RunFolder(args.run)
    model_file = folder.model_file()
    if args.index is not None and not Path(args.index).is_file():
        raise Failure(f"--index: there is no file '{args.index}'.")
    import_quietly()
    import keras
    from _training import fitted_probe, made_by

    import keras_contrastive as kc

    out = Path(args.out) if args.out else kc.export.next_version(args.versions)
    config = folder.read("config.json")
    model = keras.models.load_model(model_file)
    card, labels = folder.card(), {}
    if args.classify:
        probe, names = fitted_probe(model, config)
        labels = {"classifier": probe.classifier, "class_names": names}
        card["figures"]["classify_accuracy"] = probe.accuracy
    index = None if args.index is None else made_by(model, args.index)
    kc.export.save(
        model,
        out,
        image_size=config["image_shape"][0],
        float16=args.float16,
        index=index,
        top_k=args.top or 10,
        card=card,
        **labels,
    )
    print(
        f"{out}: signatures serving_default (images), encoded (JPEG or PNG bytes), resized, similarity"
        f"{', classify' * args.classify}{', search' * bool(args.index)}{', train' * (not args.float16)}"
    )
    if args.classify:
        print(f"classify: {100 * probe.accuracy:.1f} % of the test images right")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
