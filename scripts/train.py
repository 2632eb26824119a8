"""Train an encoder on images without labels, judge it, and export it for serving.

Examples:
  python scripts/train.py                                        scikit-learn's digits, a few minutes
  python scripts/train.py --data folder:photos --image-size 96   your own photographs
  python scripts/train.py --data npz:images.npz --method byol --epochs 20 --out runs/mine
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
    not_negative,
    note,
    positive,
    reason,
    run,
)
from _run_folder import RunFolder

DEFAULTS = {
    "data": "digits",
    "split": "examples",
    "method": "simclr",
    "settings": "small",
    "encoder": None,
    "init": None,
    "augment": None,
    "epochs": None,
    "batch_size": None,
    "image_size": None,
    "labels_per_class": None,
    "optimizer": None,
    "learning_rate": None,
    "weight_decay": None,
    "seed": 0,
    "augment_on": "auto",
    "precision": "float32",
    "cache": "auto",
    "on_damage": "skip",
    "max_pixels": None,
}

# Options that some methods have: type, what it is, which methods.
METHOD_OPTIONS = {
    "temperature": (
        positive,
        "softmax temperature, > 0; smaller weighs similar negatives more",
        "simclr, fast, supcon, dcl, moco, moco_v3, nnclr, swav",
    ),
    "margin": (positive, "how far negatives are pushed, > 0", "siamese, triplet"),
    "momentum": (
        positive,
        "of the moving copy of the encoder, < 1; nearer to 1 moves slower",
        "moco, moco_v3, byol, dino",
    ),
    "queue_size": (
        integer(0),
        "past embeddings that are remembered",
        "moco, nnclr, swav",
    ),
    "projection_dim": (
        integer(1),
        "width of the projections",
        "all but dino and siamese",
    ),
    "projection_layers": (
        integer(1),
        "dense layers of the projection head; simclr: 2, in its version 2 3",
        "simclr, simsiam",
    ),
    "hidden_dim": (
        integer(1),
        "width of hidden layers of the heads",
        "all but simsiam, siamese and triplet",
    ),
    "predictor_dim": (
        integer(1),
        "width of the predictor's hidden layer",
        "nnclr, simsiam",
    ),
    "num_prototypes": (integer(1), "clusters", "swav"),
    "output_dim": (integer(1), "prototypes", "dino"),
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
        "--split",
        choices=["examples", "classes"],
        help="examples: the data's own test part, or a fifth held out. classes: the first half of the classes trains and "
        "the other half tests, as in metric learning (default: examples)",
    )
    what.add_argument(
        "--method",
        metavar="NAME",
        help="with negatives: simclr, fast (the same for minutes on a CPU), supcon (by labels), dcl, siglip_views, moco, moco_v3, nnclr, siamese (margin loss "
        "on triplets), triplet; without: byol, simsiam, barlow_twins, vicreg, swav, dino (default: simclr)",
    )
    what.add_argument(
        "--settings",
        choices=["small", "paper", "cifar10"],
        help="where what follows comes from if it is not given. small: Adam at 0.001 and narrow heads, for minutes on a "
        "small machine. paper: the optimizer and widths of the method's paper. cifar10: published settings for CIFAR-10, "
        "ResNet-18, 1,000 epochs, on a GPU (default: small)",
    )
    what.add_argument(
        "--encoder",
        metavar="NAME",
        help="conv_net, small_conv_net, fast_conv_net, small_resnet (for a CPU), small_vit, resnet18, resnet50 (for a GPU), or a model "
        "of keras.applications: MobileNetV3Small, ... (default: small_resnet; fast: fast_conv_net; digits: small_conv_net; --settings "
        "cifar10: resnet18)",
    )
    what.add_argument(
        "--init",
        metavar="RUN",
        help="go on from the encoder of an earlier run (its folder), or from a file of weights: model.keras, "
        "encoder.weights.h5, or one that keras.applications publishes (*_notop.h5) (default: random weights)",
    )
    what.add_argument(
        "--augment",
        metavar="NAME",
        help="how views are made: simclr (crop, flip, colour), simclr_small (the same, weaker), moco_v2 (between "
        "the two), byol (the two views differ), multi_crop (two large, six small; encoders that take any size), fast "
        "(small at first, then larger; the same), weak (crop, flip), digits (rotation, scale, shear, shift), or auto: digits for handwritten digits, fast for --method fast, simclr_small up "
        "to 32 pixels, else simclr; show_views.py draws them (default: auto)",
    )
    what.add_argument(
        "--labels-per-class",
        metavar="N",
        type=integer(1),
        help="of supcon: know so many labels of each class and no more; a quarter of each batch is labelled "
        "(default: all)",
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
        "--optimizer",
        metavar="NAME",
        help="adam, adamw, sgd (with momentum), lars, or larc (LARS that never exceeds the rate) (default: adam)",
    )
    how.add_argument(
        "--learning-rate",
        metavar="X",
        type=positive,
        help="> 0; warmed up, then falling along a cosine (default: 0.001; of another optimizer than adam: the paper's, "
        "or a usual one, for the batch size)",
    )
    how.add_argument(
        "--weight-decay",
        metavar="X",
        type=not_negative,
        help=">= 0 (default: 0; --settings paper: the paper's)",
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
        help="what layers compute in: mixed_bfloat16 is for GPUs and for processors that multiply bfloat16 "
        "(avx512_bf16 or AMX), mixed_float16 for GPUs (default: float32)",
    )
    own = parser.add_argument_group(
        "options of some methods", "Defaults depend on the method and on --settings."
    )
    for name, (kind, what_it_is, methods) in METHOD_OPTIONS.items():
        own.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="X",
            type=kind,
            help=f"{what_it_is} ({methods})",
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

    job = Job(*_options(args, folder))
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


def _options(args, folder) -> tuple[dict, dict]:
    """What was asked for, with --resume the run's own where it was not, and defaults; and options of the method alone."""
    made = folder.read("config.json") if args.resume and folder.started else {}

    def asked(names):
        given = {name: getattr(args, name) for name in names}
        given = {name: value for name, value in given.items() if value is not None}
        return {**{name: made[name] for name in names if name in made}, **given}

    return {**DEFAULTS, **asked(DEFAULTS)}, asked(METHOD_OPTIONS)


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
