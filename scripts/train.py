"""Train an encoder on images without labels, judge it, and export it for serving.

Examples:
  python scripts/train.py                                        scikit-learn's digits, a few minutes
  python scripts/train.py --data folder:photos --image-size 96   your own photographs
  python scripts/train.py --data npz:images.npz --epochs 20 --out runs/mine
  python scripts/train.py --out runs/mine --resume               go on with a run that was stopped

The run folder then holds model.keras, saved_model/1 (for TensorFlow alone), metrics.json, config.json,
pictures (embeddings.png, neighbours.png, views.png), tensorboard/ and checkpoints/.
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
    positive,
    reason,
    run,
)
from _run_folder import RunFolder

DEFAULTS = {
    "data": "digits",
    "method": "simclr",
    "encoder": "small_resnet",
    "augment": "auto",
    "epochs": None,
    "batch_size": None,
    "image_size": None,
    "learning_rate": 1e-3,
    "temperature": 0.2,
    "projection_layers": 2,
    "margin": 1.0,
    "seed": 0,
    "augment_on": "auto",
    "precision": "float32",
    "cache": "auto",
    "on_damage": "skip",
    "max_pixels": None,
}

# Where a set is best served by others: chosen on a part of the training images.
DEFAULTS_OF = {
    "digits": {"encoder": "small_conv_net", "temperature": 1.0, "projection_layers": 1},
}


def parse_args(argv=None):
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to train on what")
    what.add_argument(
        "--data",
        metavar="SPEC",
        help="digits, mnist, fashion_mnist, cifar10, cifar100, npz:FILE (x_train, optional y_train, x_test, "
        "y_test), folder:DIR (images; sub-folders are labels, used to judge alone), csv:FILE (paths, with labels or "
        "pair ids; or given pairs or triplets), tfrecords:DIR (shards, as make_tfrecords.py writes them), tfds:NAME "
        "(default: digits)",
    )
    what.add_argument(
        "--method",
        metavar="NAME",
        help="simclr (two views of an image against all others) or siamese (margin loss on triplets) "
        "(default: simclr)",
    )
    what.add_argument(
        "--encoder",
        metavar="NAME",
        help="conv_net, small_conv_net, small_resnet (for a CPU) or resnet18 (for a GPU) "
        "(default: small_resnet; digits: small_conv_net)",
    )
    what.add_argument(
        "--augment",
        metavar="NAME",
        help="how views are made: simclr (crop, flip, colour), simclr_small (the same, weaker), moco_v2 (between "
        "the two), byol (the two views differ), weak (crop, flip), digits (rotation, scale, shear, shift), or auto: "
        "digits for handwritten digits, simclr_small up to 32 pixels, else simclr; show_views.py draws them. Not "
        "multi_crop, whose views have two sizes (default: auto)",
    )
    what.add_argument(
        "--image-size",
        metavar="S",
        type=integer(1),
        help="side in pixels to which images are resized (default: as they are; digits 16, folders 96)",
    )
    what.add_argument(
        "--cache",
        choices=["auto", "memory", "disk", "none"],
        help="decode images once into memory or into a file (in ~/.cache/keras_contrastive), or each time (none); auto: "
        "memory up to 100,000 images and a quarter of the machine's memory, else none (default: auto)",
    )
    what.add_argument(
        "--on-damage",
        choices=["skip", "stop"],
        help="files and records that cannot be read are left out and listed in skipped.txt, or stop the run "
        "(default: skip)",
    )
    what.add_argument(
        "--max-pixels",
        metavar="N",
        type=integer(1),
        help="leave out, undecoded, images of more pixels (default: 100000000)",
    )
    how = parser.add_argument_group("how to train")
    how.add_argument(
        "--epochs",
        metavar="N",
        type=integer(1),
        help="passes over the images (default: 100)",
    )
    how.add_argument(
        "--batch-size",
        metavar="B",
        type=integer(2),
        help="images in a step, >= 2; more give harder negatives (default: 128, or the set if smaller)",
    )
    how.add_argument(
        "--learning-rate",
        metavar="X",
        type=positive,
        help="of Adam, > 0; warmed up, then falling along a cosine (default: 0.001)",
    )
    how.add_argument(
        "--temperature",
        metavar="T",
        type=positive,
        help="of simclr, > 0; smaller weighs similar negatives more (default: 0.2; digits: 1.0)",
    )
    how.add_argument(
        "--projection-layers",
        metavar="L",
        type=integer(1),
        help="dense layers of simclr's projection head (default: 2; digits: 1)",
    )
    how.add_argument(
        "--margin",
        metavar="M",
        type=positive,
        help="of siamese, > 0; how far negatives are pushed (default: 1.0)",
    )
    how.add_argument(
        "--seed",
        metavar="K",
        type=integer(0),
        help="of all that is random (default: 0)",
    )
    how.add_argument(
        "--augment-on",
        choices=["auto", "step", "pipeline"],
        help="draw views in the training step, on its device (auto), or in the input pipeline (default: auto)",
    )
    how.add_argument(
        "--precision",
        choices=["float32", "mixed_bfloat16", "mixed_float16"],
        help="what layers compute in; the mixed ones are for GPUs (default: float32)",
    )
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/DATA-METHOD)"
    )
    where.add_argument(
        "--resume",
        action="store_true",
        help="go on with the unfinished run in the folder; options not given are the run's own",
    )
    where.add_argument(
        "--overwrite", action="store_true", help="replace the run in the folder"
    )
    args = parser.parse_args(argv)
    if args.resume and args.overwrite:
        parser.error("--resume and --overwrite exclude each other")
    return args


def main(argv=None):
    args = parse_args(argv)
    data, method = args.data or DEFAULTS["data"], args.method or DEFAULTS["method"]
    folder = RunFolder(args.out or f"runs/{_data_name(data)}-{method}")
    if args.resume and folder.finished:
        print(f"The run in '{folder}' is finished; there is nothing to resume.")
        return 0
    folder.check(resume=args.resume, overwrite=args.overwrite)
    import_quietly()
    from _training import Job

    job = Job(_options(args, folder))
    if args.resume and not folder.started:
        note(f"Nothing to resume in '{folder}': starting.")
    folder.open(overwrite=args.overwrite)
    job.claim(folder)
    try:
        job.run(folder)
    except KeyboardInterrupt:
        job.save_now()
        note(
            "Stopped; what was done is saved. Go on with:\n"
            f"  python scripts/train.py --out {shlex.quote(str(folder))} --resume"
        )
        return 130
    except FloatingPointError as error:
        raise Failure(str(error), code=1) from error
    except (
        Exception
    ) as error:  # one line instead of a traceback: disk full, out of memory, ...
        raise Failure(reason(error), code=1) from error
    return 0


def _options(args, folder) -> dict:
    """What was asked for; with --resume, what was not is the run's own; the rest are defaults."""
    given = {
        name: getattr(args, name)
        for name in DEFAULTS
        if getattr(args, name) is not None
    }
    made = folder.read("config.json") if args.resume and folder.started else {}
    own = {name: made[name] for name in DEFAULTS if name in made}
    data = {**DEFAULTS, **own, **given}["data"]
    return {**DEFAULTS, **DEFAULTS_OF.get(data, {}), **own, **given}


def _data_name(spec: str) -> str:
    """The name in `runs/NAME-METHOD`: the data's, or the file's or folder's stem."""
    kind, _, argument = spec.partition(":")
    if not argument:
        return kind
    if kind in ("npz", "csv"):
        return Path(argument).stem
    if kind in ("folder", "tfrecords"):
        path = Path(argument).resolve()
        return path.stem if path.is_file() else path.name
    return argument.replace("/", "-")


if __name__ == "__main__":
    sys.exit(run(main))
