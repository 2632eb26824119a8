"""How much of a training step goes into the input pipeline and the augmentation.

Times `fit` as it is (shuffled batches of an array, views drawn by the recipe) beside the same step on one batch of
ready views, in turns within one process; prints and keeps the medians and their difference as a share.

Example:
  python scripts/benchmarks/input_share.py --image-size 32 --batch-size 256
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import _steps


def parse_args(argv=None):
    parser = _steps.parser(__doc__, steps=8)
    parser.add_argument(
        "--repeats", type=int, default=7, help="measurements of each (default: 7)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from _console import import_quietly

    import_quietly()
    import _results
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_contrastive as kc

    size, batch_size = args.image_size, args.batch_size
    shape = (size, size, 3)
    rng = np.random.default_rng(0)
    part = kc.data.Part(
        rng.integers(0, 256, (batch_size * args.steps, *shape), dtype=np.uint8)
    )
    recipe = kc.augment.simclr(size)
    keras.utils.set_random_seed(0)
    encoder = kc.encoders.get(args.encoder)(shape)

    real = kc.recipes.simclr(encoder, augment=recipe)
    ready = kc.recipes.simclr(encoder, augment_on="pipeline")
    images, ids = next(iter(kc.data.batches(part, batch_size)))
    views = np.rint(kc.augment.views(images, 2, recipe, 0, 0).numpy() * 255).astype(
        np.uint8
    )
    cases = {
        "real": (real, kc.data.batches(part, batch_size)),
        "ready": (ready, tf.data.Dataset.from_tensors((views, ids)).repeat()),
    }
    for case in cases.values():
        _steps.step_time(*case, args.steps)  # compiles
    times = {name: [] for name in cases}
    for _ in range(args.repeats):
        for name, case in cases.items():
            times[name].append(_steps.step_time(*case, args.steps)[0])
    medians = {name: statistics.median(values) for name, values in times.items()}
    share = 1 - medians["ready"] / medians["real"]
    print(
        f"step {1e3 * medians['real']:.1f} ms, on ready views {1e3 * medians['ready']:.1f} ms: {share:.1%}"
    )
    options = {"encoder": args.encoder, "image_size": size, "batch_size": batch_size}
    _results.write(
        "input_share",
        {**options, "median_seconds": medians, "share": share, "seconds": times},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
