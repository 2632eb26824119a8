"""Write what torchvision makes of given images with given parameters: tests/references/torchvision.npz.

The main suite compares keras_contrastive with this file, and so needs no torchvision. Run in the benchmarks'
environment (`make venv-benchmarks`); --check writes nothing and fails if torchvision no longer gives the same.

Examples:
  .venv-benchmarks/bin/python scripts/benchmarks/torchvision_reference.py
  .venv-benchmarks/bin/python scripts/benchmarks/torchvision_reference.py --check
"""

import argparse
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[2] / "tests" / "references" / "torchvision.npz"
N, HEIGHT, WIDTH = 4, 24, 20

# For each image one set of parameters. The tests read them from the file.
PARAMETERS = {
    "boxes": np.array([[0, 0, 24, 20], [3, 2, 9, 12], [10, 5, 14, 15], [20, 1, 3, 2]]),
    "factors": np.array([0.2, 0.7, 1.3, 1.8]),
    "turns": np.array([-0.2, -0.05, 0.1, 0.5]),
    "sigmas": np.array([0.1, 0.6, 1.1, 2.0]),
    "angles": np.array([0.0, 20.0, -35.0, 90.0]),
    "shifts": np.array([[0.0, 0.0], [3.0, -2.0], [0.0, 4.0], [1.0, 1.0]]),  # pixels
    "scales": np.array([1.0, 1.2, 0.8, 1.0]),
    "shears": np.array([0.0, 10.0, -15.0, 5.0]),
    "mean": np.array([0.485, 0.456, 0.406]),
    "std": np.array([0.229, 0.224, 0.225]),
}
SMALLER, LARGER = (10, 12), (32, 32)


def photographs() -> np.ndarray:
    """uint8 images of smooth colours with some noise: `[N, HEIGHT, WIDTH, 3]`."""
    generator = np.random.default_rng(0)
    down, right = np.mgrid[0:HEIGHT, 0:WIDTH][..., None]
    waves = generator.uniform(0.1, 0.5, (2, N, 1, 1, 3))
    phases = generator.uniform(0, 6, (N, 1, 1, 3))
    smooth = 0.5 + 0.4 * np.sin(waves[0] * down + waves[1] * right + phases)
    noisy = smooth + generator.normal(0, 0.03, smooth.shape)
    return np.clip(np.round(255 * noisy), 0, 255).astype(np.uint8)


def made_by_torchvision() -> dict[str, np.ndarray]:
    """Float results `[N, height, width, channels]` by the name of the operation; the images and parameters too."""
    import torch
    import torchvision
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    images, p = photographs(), PARAMETERS
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    def each(function, *parameters):
        """One image after the other, each with its own parameters."""
        rows = zip(tensors, *(p[name].tolist() for name in parameters))
        results = [function(image[None], *own)[0] for image, *own in rows]
        return torch.stack(results).permute(0, 2, 3, 1).numpy()

    def crop(size, mode):
        return each(
            lambda image, box: F.resized_crop(image, *box, size, mode, antialias=True),
            "boxes",
        )

    bilinear, bicubic = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
    return {
        "images": images,
        **p,
        "versions": f"torch {torch.__version__}, torchvision {torchvision.__version__}",
        "crop_smaller": crop(SMALLER, bilinear),
        "crop_larger": crop(LARGER, bilinear),
        "crop_smaller_bicubic": crop(SMALLER, bicubic),
        "crop_larger_bicubic": crop(LARGER, bicubic),
        "flip": each(F.horizontal_flip),
        "brightness": each(F.adjust_brightness, "factors"),
        "contrast": each(F.adjust_contrast, "factors"),
        "saturation": each(F.adjust_saturation, "factors"),
        "hue": each(F.adjust_hue, "turns"),
        "grayscale": each(lambda image: F.rgb_to_grayscale(image, 3)),
        "solarize": each(lambda image: F.solarize(image, 0.5)),
        "blur": each(lambda i, sigma: F.gaussian_blur(i, [5, 5], [sigma]), "sigmas"),
        "affine": each(
            lambda image, angle, shift, scale, shear: F.affine(
                image, angle, shift, scale, [shear, 0.0], bilinear
            ),
            "angles",
            "shifts",
            "scales",
            "shears",
        ),
        "cutout": each(
            lambda image, box: F.erase(image, *box, torch.tensor(0.0)), "boxes"
        ),
        "normalize": each(lambda i: F.normalize(i, list(p["mean"]), list(p["std"]))),
    }


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args(argv)
    made = made_by_torchvision()
    if not args.check:
        np.savez_compressed(FILE, **made)
        print(f"{FILE.name}: {made['versions']}")
        return 0
    stored = np.load(FILE)
    for name, values in made.items():
        if name == "versions":
            continue
        if not np.allclose(stored[name], values, atol=1e-5):
            print(f"{name}: torchvision now gives other values.", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
