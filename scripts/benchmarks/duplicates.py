"""How well near-duplicates of photographs are found: by an encoder's embeddings, by raw pixels, by a perceptual hash.

Altered copies of some photographs are planted among all of them, one kind of alteration at a time, and all together.
Pairs are then ranked by similarity. A pair of a photograph and its own copy (or of two copies of it) is right.

Example:
  python scripts/benchmarks/duplicates.py runs/photos/saved_model/1 --data folder:photos

Reported: average precision; how many of the right pairs are found by the threshold that lets through one wrong pair in
twenty; and precision and recall of the whitened embeddings, by which scripts/search.py --duplicates goes, by fixed
thresholds.
"""

import argparse
import functools
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from PIL import Image, ImageEnhance

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
PRECISION = 0.95
PIXELS = 32  # side to which raw pixels are resized: details would only shift


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "saved_model", metavar="SAVED_MODEL", help="an export of a trained encoder"
    )
    parser.add_argument(
        "--data", metavar="SPEC", required=True, help="photographs: folder:DIR"
    )
    parser.add_argument(
        "--untrained",
        metavar="SAVED_MODEL",
        help="an export of the same encoder before training, to compare with",
    )
    parser.add_argument(
        "--copies",
        metavar="N",
        type=int,
        default=200,
        help="how many photographs get a copy (default: 200)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    from _console import import_quietly

    import_quietly()
    import _results
    import tensorflow as tf

    import keras_contrastive as kc

    source = kc.data.load(args.data, image_size=32, cache="none")
    files = [
        Path(name.decode())
        for part in (source.train, source.test)
        for name in part.paths
    ]
    originals = [file.read_bytes() for file in sorted(files)]
    planted = plant(originals, args.copies, args.seed)
    measures = {"raw pixels": pixel_similarity, "perceptual hash": hash_similarity}
    models = {"embeddings": args.saved_model, "untrained encoder": args.untrained}
    for name, path in models.items():
        if path is not None:
            served = tf.saved_model.load(path).signatures["encoded"]
            for how in (False, True):
                measures[f"{name}{', whitened' * how}"] = functools.partial(
                    embedding_similarity, served, whitened=how
                )
    found = {}
    for kind, copies in planted.items():
        images = originals + [image for _, image in copies]
        origin = np.array([*range(len(originals)), *(at for at, _ in copies)])
        found[kind] = {}
        for name, similarity in measures.items():
            scores, right = ranked_pairs(similarity(images), origin)
            found[kind][name] = judged(scores, right)
            print(
                f"{kind:14} {name:28} average precision {found[kind][name]['average_precision']:.3f}  "
                f"recall at {PRECISION:.0%} precision {found[kind][name]['recall']:.3f}",
                flush=True,
            )
    _results.write(
        "duplicates",
        {
            "photographs": len(originals),
            "copies": args.copies,
            "precision": PRECISION,
            "kinds": found,
        },
        seed=args.seed,
    )
    return 0


def plant(originals: list, copies: int, seed: int) -> dict:
    """By kind of alteration: pairs of an original's number and an altered copy, JPEG bytes."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(originals))[:copies])
    planted = {
        kind: [(int(at), altered(originals[at], kind, rng)) for at in chosen]
        for kind in ALTERATIONS
    }
    planted["all kinds"] = [copy for kind in planted.values() for copy in kind]
    return planted


def altered(encoded: bytes, kind: str, rng) -> bytes:
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    image, quality = ALTERATIONS[kind](image, rng)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return written.getvalue()


def crop(image, rng):
    """70 to 90 % of each side, anywhere."""
    share = rng.uniform(0.7, 0.9, 2)
    sides = np.maximum(1, np.array(image.size) * share).astype(int)
    left, top = (rng.integers(0, np.array(image.size) - sides + 1)).tolist()
    return image.crop((left, top, left + int(sides[0]), top + int(sides[1]))), 90


def recompress(image, rng):
    """Half the size, quality 20."""
    return image.resize([max(1, side // 2) for side in image.size]), 20


def flip(image, rng):
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90


def shift_colors(image, rng):
    """Brightness, contrast and saturation by up to 40 %, and one channel up by 20 %."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.6, 1.4))
    pixels = np.asarray(image, np.float32)
    pixels = pixels * np.where(np.arange(3) == rng.integers(3), 1.2, 1.0)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), 90


ALTERATIONS = {
    "crop": crop,
    "recompression": recompress,
    "flip": flip,
    "colour shift": shift_colors,
}


def embedding_similarity(served, images: list, *, whitened=False) -> np.ndarray:
    import tensorflow as tf

    from keras_contrastive import search

    rows = [
        served(bytes=tf.constant(images[start : start + 64]))["embedding"].numpy()
        for start in range(0, len(images), 64)
    ]
    rows = np.concatenate(rows)
    if whitened:
        rows = search.Index(search.whiten(rows)).embeddings
    return rows @ rows.T


def pixel_similarity(images: list) -> np.ndarray:
    """Correlation of images of 32 pixels, in colour."""
    rows = np.stack([small(image, PIXELS, "RGB").ravel() for image in images])
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9
    return rows @ rows.T


def hash_similarity(images: list) -> np.ndarray:
    """Share of equal bits of pHash: signs, about their median, of the 8 x 8 lowest cosine frequencies of 32 grey pixels."""
    from scipy.fft import dctn

    low = [dctn(small(image, 32, "L"))[:8, :8].ravel() for image in images]
    bits = np.stack([values > np.median(values) for values in low])
    signs = np.where(bits, 1.0, -1.0).astype(np.float32)
    return (1 + signs @ signs.T / 64) / 2


def small(encoded: bytes, side: int, mode: str) -> np.ndarray:
    image = Image.open(io.BytesIO(encoded)).convert(mode)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX), np.float32)


def ranked_pairs(similarity: np.ndarray, origin: np.ndarray):
    """All pairs, most similar first: their scores, and whether both are of one photograph."""
    first, second = np.triu_indices(len(origin), 1)
    scores = similarity[first, second]
    order = np.argsort(-scores, kind="stable")
    return scores[order], (origin[first] == origin[second])[order]


def judged(scores: np.ndarray, right: np.ndarray) -> dict:
    """Average precision, recall where precision is still high enough, and both by fixed thresholds.

    Pairs of one score stand or fall together: a hash gives many.
    """
    ends = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    hits = np.cumsum(right)[ends]
    precision, recall = hits / (ends + 1), hits / right.sum()
    enough = precision >= PRECISION
    best = ends[enough][-1] if enough.any() else None
    by_threshold = {}
    for threshold in THRESHOLDS:
        count = int(np.searchsorted(-scores, -threshold, side="right"))
        hit = int(right[:count].sum())
        by_threshold[str(threshold)] = {
            "precision": hit / count if count else None,
            "recall": hit / int(right.sum()),
        }
    return {
        "average_precision": float(np.sum(np.diff(recall, prepend=0) * precision)),
        "recall": float(recall[enough][-1]) if enough.any() else 0.0,
        "threshold": None if best is None else float(scores[best]),
        "by_threshold": by_threshold,
    }


if __name__ == "__main__":
    sys.exit(main())
