"""Augmentation of whole batches: each image its own draws, the same draws wherever they are made.

| function | layer that draws its parameters | what |
|---|---|---|
| `crop_and_resize` | `RandomResizedCrop` | a box of each image, resized with antialiasing |
| `flip` | `RandomFlip` | left to right |
| `affine` | `RandomAffine` | rotation, scale, shear, shift |
| `adjust_brightness`, `adjust_contrast`, `adjust_saturation`, `adjust_hue` | `ColorJitter` | in random order |
| `to_grayscale` | `RandomGrayscale` | colour away, channels kept |
| `solarize` | `RandomSolarize` | bright pixels inverted |
| `gaussian_blur` | `GaussianBlur` | width drawn for each image |
| `cutout` | `RandomCutout` | a square painted over |
| `add_noise` | `GaussianNoise` | strength drawn for each image |
| `normalize` | `Normalize` | mean and deviation of each channel; nothing drawn |

| recipe | what |
|---|---|
| `simclr(image_size, strength)` | crop, flip, jitter, grayscale, blur above 32 pixels |
| `simclr_small(image_size)` | the same with weaker crop and colour |
| `fast(image_size, steps=)` | of half the image's size at first, then of three quarters |
| `moco_v2(image_size)` | crops of 20 % or more, half the colour, blur |
| `byol(image_size)` | SimCLR's with less colour, bicubic; blur and solarising differ between the two views |
| `multi_crop(global_size, local_size, n_local)` | two views of most of the image, several small ones of parts (SwAV, DINO) |
| `weak(image_size)` | crop and flip |
| `digits(image_size)` | affine |

`views(images, n, recipe, seed, step)` draws a `Recipe`, a list of these, of Keras layers and of functions of a batch;
`Recipes` is a recipe for each view, `PiecewiseRecipe` one for each part of the training.
`map_dataset` draws in the pipeline, `copy_ahead` copies ready batches to a GPU.
Images are `[n, height, width, channels]`, uint8 or floats in 0..1; results are float32 in 0..1.
"""

from keras_contrastive.augment.blur import GaussianBlur, gaussian_blur
from keras_contrastive.augment.color import (
    ColorJitter,
    Normalize,
    RandomGrayscale,
    RandomSolarize,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    normalize,
    solarize,
    to_grayscale,
)
from keras_contrastive.augment.damage import (
    GaussianNoise,
    RandomCutout,
    add_noise,
    cutout,
)
from keras_contrastive.augment.dataset import copy_ahead, map_dataset
from keras_contrastive.augment.geometry import (
    RandomAffine,
    RandomFlip,
    RandomResizedCrop,
    affine,
    crop_and_resize,
    flip,
)
from keras_contrastive.augment.operation import Operation
from keras_contrastive.augment.piecewise import PiecewiseRecipe
from keras_contrastive.augment.recipe import Recipe, Recipes, views
from keras_contrastive.augment.recipes import (
    RECIPES,
    byol,
    digits,
    fast,
    get,
    moco_v2,
    multi_crop,
    simclr,
    simclr_small,
    weak,
)

__all__ = [
    "RECIPES",
    "ColorJitter",
    "GaussianBlur",
    "GaussianNoise",
    "Normalize",
    "Operation",
    "PiecewiseRecipe",
    "RandomAffine",
    "RandomCutout",
    "RandomFlip",
    "RandomGrayscale",
    "RandomResizedCrop",
    "RandomSolarize",
    "Recipe",
    "Recipes",
    "add_noise",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "affine",
    "byol",
    "copy_ahead",
    "crop_and_resize",
    "cutout",
    "digits",
    "fast",
    "flip",
    "gaussian_blur",
    "get",
    "map_dataset",
    "moco_v2",
    "multi_crop",
    "normalize",
    "simclr",
    "simclr_small",
    "solarize",
    "to_grayscale",
    "views",
    "weak",
]
