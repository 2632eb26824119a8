"""Values beside torchvision's v2 transforms, on the same images and parameters.

What is expected is in references/torchvision.npz, written by scripts/benchmarks/torchvision_reference.py in the
benchmarks' environment (its versions are in the file). Where that environment is installed, the last test makes
torchvision compute it again.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from keras_contrastive import augment

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-benchmarks" / "bin" / "python"
CLOSE = 1e-4  # 0.03 grey levels: both compute in float32


@pytest.fixture(scope="module")
def reference():
    with np.load(ROOT / "tests" / "references" / "torchvision.npz") as file:
        return dict(file)


def _affine(r):
    shift = r["shifts"] / [20, 24]  # torchvision's are in pixels
    return augment.affine(
        r["images"],
        angle=r["angles"],
        shift=shift,
        scale=r["scales"],
        shear=r["shears"],
    )


def _crop(r, size, method):
    return augment.crop_and_resize(r["images"], r["boxes"], size, method=method)


OURS = {
    "crop_smaller": lambda r: _crop(r, (10, 12), "bilinear"),
    "crop_larger": lambda r: _crop(r, 32, "bilinear"),
    "crop_smaller_bicubic": lambda r: _crop(r, (10, 12), "bicubic"),
    "crop_larger_bicubic": lambda r: _crop(r, 32, "bicubic"),
    "flip": lambda r: augment.flip(r["images"], True),
    "brightness": lambda r: augment.adjust_brightness(r["images"], r["factors"]),
    "contrast": lambda r: augment.adjust_contrast(r["images"], r["factors"]),
    "saturation": lambda r: augment.adjust_saturation(r["images"], r["factors"]),
    "hue": lambda r: augment.adjust_hue(r["images"], r["turns"]),
    "grayscale": lambda r: augment.to_grayscale(r["images"]),
    "solarize": lambda r: augment.solarize(r["images"], 0.5),
    "blur": lambda r: augment.gaussian_blur(r["images"], 5, r["sigmas"]),
    "affine": _affine,
    "cutout": lambda r: augment.cutout(r["images"], r["boxes"]),
    "normalize": lambda r: augment.normalize(r["images"], r["mean"], r["std"]),
}


@pytest.mark.parametrize("name", OURS)
def test_values_are_torchvisions(name, reference):
    expected = reference[name]
    if name.endswith("bicubic"):
        expected = np.clip(expected, 0, 1)  # of floats it leaves the overshoots
    difference = np.abs(OURS[name](reference).numpy() - expected)
    if name == "affine":
        # A point that falls on the border to within a rounding is inside for one and outside for the other.
        assert np.mean(difference > CLOSE) < 0.01
        difference = np.where(difference > CLOSE, 0, difference)
    assert difference.max() < CLOSE


@pytest.mark.skipif(not PEERS.exists(), reason="needs `make venv-benchmarks`")
def test_torchvision_still_gives_the_stored_values():
    script = ROOT / "scripts" / "benchmarks" / "torchvision_reference.py"
    done = subprocess.run(
        [PEERS, script, "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
