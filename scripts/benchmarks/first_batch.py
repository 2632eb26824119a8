"""How long a folder of a million files takes to its first batch: listing, the split, and the first batch.

Makes a temporary folder of links to a few JPEGs (a thousand classes of a thousand), then measures in a process of its
own, from the import on: `data.load("folder:...")`, and the first batch of `data.batches`. Memory is the largest that
process needed, less what it had after the imports.

Example:
  python scripts/benchmarks/first_batch.py --files 1000000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

CODE = """
import json, resource, sys, time
sys.path[:0] = {paths}
from _console import import_quietly
import_quietly()
import keras_contrastive as kc
def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = megabytes(), time.perf_counter()
source = kc.data.load("folder:{folder}", image_size=96)
loaded = time.perf_counter()
images, ids = next(iter(kc.data.batches(source.train, 256)))
first = time.perf_counter()
step = len(source.train) // 256 - 1
next(iter(kc.data.batches(source.train, 256, epoch=7, step=step)))
anywhere = time.perf_counter()
print(json.dumps({{
    "images": len(source.train) + len(source.test), "classes": len(source.train.class_names),
    "load_seconds": loaded - start, "first_batch_seconds": first - loaded,
    "last_batch_of_epoch_7_seconds": anywhere - first, "megabytes": megabytes() - before,
}}))
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000, help="default: 1000000")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_links(Path(folder), args.files)
        print(f"made {args.files} links in {time.perf_counter() - start:.0f} s")
        paths = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
        code = CODE.format(paths=paths, folder=Path(folder) / "images")
        run = [sys.executable, "-c", code]
        found = subprocess.run(run, stdout=subprocess.PIPE, check=True, text=True)
    measured = json.loads(found.stdout)
    print(found.stdout)
    import _results

    if args.files == 1_000_000:
        _results.write("first_batch", measured)
    return 0


def make_links(folder: Path, count: int) -> None:
    """`count` symbolic links to 100 JPEGs, a thousand in each folder."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "originals").mkdir()
    originals = []
    for number in range(100):
        image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        path = folder / "originals" / f"{number}.jpg"
        Image.fromarray(image).resize((400, 300)).save(path, quality=85)
        originals.append(str(path))
    for start in range(0, count, 1000):
        of_class = folder / "images" / f"class{start // 1000:04d}"
        of_class.mkdir(parents=True)
        for number in range(start, min(start + 1000, count)):
            os.symlink(originals[number % 100], of_class / f"{number:07d}.jpg")


if __name__ == "__main__":
    sys.exit(main())
