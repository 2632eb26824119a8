"""Views per second of the SimCLR recipe, ours against what else there is.

Every library draws random resized crop, mirror, colour jitter (strength 1) and grayscale, without blur and with it
(probability 0.5, kernel a tenth of the image), from 256 uint8 images in memory to one batch of float views; each
measurement in a process of its own, on the same number of threads, libraries in turns, round after round. Results
go to scripts/benchmarks/results/augment.json as they come: a run that was stopped goes on where it was, --overwrite
starts anew.

What the others are:
  torchvision   v2 transforms of single images, in as many processes of a DataLoader as there are threads
  lightly       SimCLRTransform (of Pillow images), in a DataLoader too
  kornia        augmentations of the whole batch
  keras         Keras' layers; it has no resized crop: random zoom and shift stand in, as in Keras' own example
  tf_image      functions of tf.image on single images in Dataset.map; its crops are not antialiased

At 224 pixels a batch of views is 147 MiB, and fresh memory of that size is what a program waits for most. So ours and
the best of the others are measured there once more with memory in huge pages (GLIBC_TUNABLES=glibc.malloc.hugetlb=1),
and the time that it takes to write the views once, which nothing can avoid, is measured too.

The first three need `make venv-benchmarks` (Python 3.11); without it the others alone are measured.

Examples:
  python scripts/benchmarks/augment.py                 all, about forty minutes on an otherwise idle machine
  python scripts/benchmarks/augment.py --sizes 96      one size
  python scripts/benchmarks/augment.py --parts         what each operation of ours costs
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import _workers  # noqa: E402

BATCH = 256
SIZES = (32, 96, 224)
OWN_LIBRARIES = ("ours", "keras", "tf_image")
FLOOR = "write_once"
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
HUGE_PAGES_SIZE = 224
PEER_LIBRARIES = ("torchvision", "lightly", "kornia")
SIGMA = (0.1, 2.0)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, help="default: 32 96 224"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of each library (default: 3)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads of every library (default: 2)"
    )
    parser.add_argument("--overwrite", action="store_true", help="forget old results")
    parser.add_argument(
        "--parts", action="store_true", help="time our operations one by one, and stop"
    )
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def source_images(size: int, number: int = BATCH):
    """uint8 images that are smooth, as photographs are, with some noise: `[number, size, size, 3]`."""
    import numpy as np

    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 255, (2, 2, number, 1, 1, 3))
    down, right = np.mgrid[0 : 1 : 1j * size, 0 : 1 : 1j * size][..., None]
    smooth = sum(
        corners[i, j] * (down if i else 1 - down) * (right if j else 1 - right)
        for i in (0, 1)
        for j in (0, 1)
    )
    noisy = smooth + generator.normal(0, 10, smooth.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def blur_kernel(size: int) -> int:
    return 2 * (size // 20) + 1


# ---- one library each: a function that makes one batch of views


def ours(size: int, blur: bool, threads: int):
    import tensorflow as tf

    import keras_contrastive as kc

    recipe = our_recipe(size, blur)
    images = tf.constant(source_images(size))
    step = tf.Variable(0, dtype=tf.int64)

    @tf.function  # as in a training step
    def run():
        views = kc.augment.views(images, 1, recipe, 0, step.assign_add(1))
        return views, views[0, 0, 0, 0, 0]

    return lambda: run()[1].numpy()


def our_recipe(size: int, blur: bool):
    from keras_contrastive import augment

    operations = augment.simclr(size).operations
    operations = [o for o in operations if not isinstance(o, augment.GaussianBlur)]
    if blur:
        operations.append(augment.GaussianBlur(blur_kernel(size), SIGMA))
    return augment.Recipe(operations)


def keras(size: int, blur: bool, threads: int):
    import keras
    import tensorflow as tf

    layers = [
        keras.layers.RandomTranslation(0.2, 0.2),
        keras.layers.RandomZoom((-0.7, 0.0), (-0.7, 0.0)),
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomColorJitter(
            value_range=(0, 1),
            brightness_factor=0.8,
            contrast_factor=0.8,
            saturation_factor=(0.1, 0.9),
            hue_factor=0.2,
        ),
        keras.layers.RandomGrayscale(0.2),
    ]
    if blur:
        layers.append(
            keras.layers.RandomGaussianBlur(
                0.5, kernel_size=blur_kernel(size), sigma=SIGMA, value_range=(0, 1)
            )
        )
    images = tf.constant(source_images(size))

    @tf.function
    def run(images):
        images = tf.cast(images, tf.float32) / 255
        for layer in layers:
            images = layer(images, training=True)
        return images, images[0, 0, 0, 0]

    run(images)
    return lambda: run(images)[1].numpy()


def tf_image(size: int, blur: bool, threads: int):
    import tensorflow as tf

    def color(image):
        steps = [
            lambda x: x * tf.random.uniform([], 0.2, 1.8),
            lambda x: tf.image.random_contrast(x, 0.2, 1.8),
            lambda x: tf.image.random_saturation(x, 0.2, 1.8),
            lambda x: tf.image.random_hue(x, 0.2),
        ]
        order = tf.random.shuffle(tf.range(4))
        for place in range(4):
            branches = [lambda s=s, x=image: s(x) for s in steps]
            image = tf.switch_case(order[place], branches)
            image = tf.clip_by_value(image, 0.0, 1.0)
        return image

    def blurred(image):
        radius = blur_kernel(size) // 2
        sigma = tf.random.uniform([], *SIGMA)
        taps = tf.exp(-tf.square(tf.range(-radius, radius + 1.0)) / (2 * sigma**2))
        taps = tf.tile((taps / tf.reduce_sum(taps))[:, None, None, None], [1, 1, 3, 1])
        padding = [[radius, radius], [radius, radius], [0, 0]]
        image = tf.pad(image, padding, "REFLECT")[None]
        for kernel in (taps, tf.transpose(taps, [1, 0, 2, 3])):
            image = tf.nn.depthwise_conv2d(image, kernel, [1, 1, 1, 1], "VALID")
        return image[0]

    def sometimes(probability, function, image):
        chosen = tf.random.uniform([]) < probability
        return tf.cond(chosen, lambda: function(image), lambda: image)

    def view(image):
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            [size, size, 3],
            tf.zeros([0, 0, 4]),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.resize(tf.slice(image, begin, extent), [size, size]) / 255
        image = tf.image.random_flip_left_right(image)
        image = sometimes(0.8, color, image)
        image = sometimes(
            0.2,
            lambda x: tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(x)),
            image,
        )
        image = sometimes(0.5, blurred, image) if blur else image
        return tf.ensure_shape(image, [size, size, 3])

    dataset = tf.data.Dataset.from_tensor_slices(source_images(size)).repeat()
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    dataset = dataset.map(view, threads, deterministic=False).batch(BATCH)
    batches = iter(dataset.with_options(options))
    return lambda: next(batches)[0, 0, 0, 0].numpy()


def torchvision(size: int, blur: bool, threads: int):
    import torch
    from torchvision.transforms import v2

    steps = [
        v2.RandomResizedCrop(size, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
        v2.RandomGrayscale(0.2),
    ]
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(blur_kernel(size), SIGMA)], 0.5))
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
    images = torch.from_numpy(source_images(size)).permute(0, 3, 1, 2).contiguous()
    return _from_loader(images, transform, threads)


def lightly(size: int, blur: bool, threads: int):
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    transform = SimCLRTransform(
        size, gaussian_blur=0.5 if blur else 0.0, normalize=None
    )
    images = [Image.fromarray(image) for image in source_images(size)]
    # It makes two views of an image.
    return _from_loader(images, transform, threads, batch=BATCH // 2)


def _from_loader(images, transform, threads: int, batch: int = BATCH):
    import torch

    class Views(torch.utils.data.Dataset):
        def __len__(self):
            return 10**9

        def __getitem__(self, i):
            return transform(images[i % len(images)])

    loader = torch.utils.data.DataLoader(
        Views(),
        batch,
        sampler=iter(range(10**9)),
        num_workers=threads,
        worker_init_fn=lambda _: torch.set_num_threads(1),
    )
    batches = iter(loader)
    # What stands ready when the clock starts is a batch or two for each process; it runs long enough to even that out.
    return lambda: next(batches)


def kornia(size: int, blur: bool, threads: int):
    import torch
    from kornia import augmentation

    layers = [
        augmentation.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
    ]
    if blur:
        kernel = (blur_kernel(size),) * 2
        layers.append(augmentation.RandomGaussianBlur(kernel, SIGMA, p=0.5))
    transform = torch.nn.Sequential(*layers)
    images = torch.from_numpy(source_images(size)).permute(0, 3, 1, 2).contiguous()

    def run():
        with torch.no_grad():
            return transform(images.float() / 255)

    return run


def write_once(size: int, blur: bool, threads: int):
    """Not a library: one number into every value of a batch of views."""
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def run(value):
        return tf.fill([BATCH, size, size, 3], value)

    return lambda: run(tf.constant(0.5))[0, 0, 0, 0].numpy()


def work(library: str, size: int, blur: bool, threads: int) -> dict:
    if library in (*OWN_LIBRARIES, FLOOR):
        _workers.limit_tensorflow(threads)
    else:
        import torch

        torch.set_num_threads(threads)
    run = globals()[library](size, blur, threads)
    run()
    start = time.perf_counter()
    run()
    slow = time.perf_counter() - start > 5
    seconds = _workers.seconds_of(run, 0 if slow else 3.0, calls=1 if slow else 4)
    # By the mean, not the median: a loader's batches come in bunches.
    return {"views_per_second": BATCH * len(seconds) / sum(seconds)}


def parts(size: int) -> dict[str, float]:
    """Views per second of each of our operations alone."""
    import tensorflow as tf

    import keras_contrastive as kc

    images = tf.constant(source_images(size))
    found = {}
    for operation in our_recipe(size, blur=True).operations:
        recipe = kc.augment.Recipe([operation])
        seconds = _workers.seconds_of(
            lambda r=recipe: kc.augment.views(images, 1, r, 0, 0)[0, 0, 0, 0].numpy(),
            1.5,
        )
        found[type(operation).__name__] = BATCH / statistics.median(seconds)
    return found


# ---- all measurements, in turns


def measure(args) -> None:
    import _results

    try:
        results = {} if args.overwrite else _results.read("augment")["results"]
    except FileNotFoundError:
        results = {}
    libraries = [*OWN_LIBRARIES, *(PEER_LIBRARIES if _workers.PEERS.exists() else ())]
    for size in args.sizes:
        for turn in range(args.rounds):
            cases = [(blur, name, {}) for blur in (0, 1) for name in libraries]
            cases.append((0, FLOOR, {}))
            if size == HUGE_PAGES_SIZE:
                names = ("ours", "tf_image", FLOOR)
                cases += [(blur, n, HUGE_PAGES) for n in names for blur in (0, 1)]
            for blur, name, environment in cases:
                kind = ("blur" if blur else "plain") + ("_huge" if environment else "")
                key = f"{size}/{kind}/{name}/{turn}"
                if key in results:
                    continue
                results[key] = _workers.ask(
                    __file__,
                    [name, size, blur],
                    threads=args.threads,
                    python=_workers.PEERS if name in PEER_LIBRARIES else sys.executable,
                    **environment,
                )
                print(key, json.dumps(results[key]), file=sys.stderr, flush=True)
                _write(args, results)


def _write(args, results: dict) -> None:
    import _results

    peers = _workers.peer_versions("torch", "torchvision", "lightly", "kornia")
    record = {"peers": peers, "threads": args.threads, "results": results}
    _results.write("augment", record, command="python scripts/benchmarks/augment.py")


def summary(results: dict) -> list[dict]:
    """A row for each size and kind: medians of views per second by library."""
    rows = []
    for size in SIZES:
        for kind in ("plain", "blur", "plain_huge", "blur_huge"):
            speeds = {}
            for name in (*OWN_LIBRARIES, *PEER_LIBRARIES, FLOOR):
                found = [
                    result["views_per_second"]
                    for key, result in results.items()
                    if key.startswith(f"{size}/{kind}/{name}/")
                    and "views_per_second" in result
                ]
                if found:
                    speeds[name] = statistics.median(found)
            if "ours" in speeds:
                floor = speeds.pop(FLOOR, None)
                rows.append(
                    {"size": size, "kind": kind, "speeds": speeds, "floor": floor}
                )
    return rows


def best_peer(speeds: dict) -> tuple[float, str] | None:
    """Views per second and name of the fastest of the others."""
    others = [(speed, name) for name, speed in speeds.items() if name != "ours"]
    return max(others) if others else None


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        library, size, blur = args.worker
        print(json.dumps(work(library, int(size), bool(int(blur)), args.threads)))
        return 0
    if args.parts:
        _workers.limit_tensorflow(args.threads)
        for size in args.sizes:
            for name, speed in parts(size).items():
                print(f"{size:4} px  {name:20} {speed:10,.0f} views/s", flush=True)
        return 0
    if not _workers.PEERS.exists():
        print(
            "No .venv-benchmarks: measuring without torchvision, lightly and kornia. "
            "`make venv-benchmarks` brings them.",
            file=sys.stderr,
        )
    measure(args)
    import _results

    for row in summary(_results.read("augment")["results"]):
        speeds, best = row["speeds"], best_peer(row["speeds"])
        line = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
        ratio = f"; {speeds['ours'] / best[0]:.1f} times {best[1]}" if best else ""
        print(f"{row['size']:4} px  {row['kind']:10}  {line}{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
