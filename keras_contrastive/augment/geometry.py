"""Where pixels come from: flip, crop and resize, affine maps."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_choice, check_integer
from keras_contrastive._random import fold, integers, uniform
from keras_contrastive.augment._images import (
    from_planar,
    on_planar,
    resample,
    sizes,
    to_planar,
)
from keras_contrastive.augment.operation import (
    Operation,
    check_probability,
    check_range,
    occurs,
)

_TRIES = 10  # boxes drawn for each image, of which the first that fits is taken: the reference's number


def flip(images, where) -> tf.Tensor:
    """Mirror the chosen images left to right.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`.
        where: bool `[n]` or scalar: which images are mirrored.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating.
    """
    return on_planar(_flip, images, where)


def _flip(planar, where):
    where = tf.reshape(tf.cast(where, tf.bool), [-1, 1, 1, 1])
    return tf.where(where, tf.reverse(planar, [3]), planar)


METHODS = ("bilinear", "bicubic")


def crop_and_resize(
    images, boxes, size: int | tuple[int, int], *, method: str = "bilinear"
) -> tf.Tensor:
    """Cut a box out of each image and resize it, antialiased.

    As torchvision's `resized_crop(..., antialias=True)`: pixels outside of the box do not count; each output
    pixel is the weighted mean of input pixels round its centre. The weights are a triangle whose half width is one
    input pixel, or one output pixel where the box shrinks; or, bicubic, Keys' cubic with a = -1/2, twice as wide,
    whose overshoots are clipped. Not rounded to grey levels.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`.
        boxes: `[n, 4]`, whole pixels: top, left, height, width, inside the image and not empty (not checked).
        size: Height and width of the output, or one integer for both.
        method: `"bilinear"` or `"bicubic"`.

    Returns:
        float32 in 0..1, `[n, size, size, channels]`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating; a size is not an integer >= 1; `method` is
            unknown.

    Reference:
        Keys, 1981, Cubic Convolution Interpolation for Digital Image Processing, Eq. 4 and 15.
    """
    check_choice("method", method, METHODS)
    return on_planar(_crop_and_resize, images, boxes, _pair_of_sizes(size), method)


def _crop_and_resize(planar, boxes, size, method="bilinear"):
    height, width = sizes(planar)[2:]
    top, left, box_height, box_width = tf.unstack(tf.cast(boxes, tf.float32), axis=1)
    kernel = {"bilinear": _triangle, "bicubic": _cubic}[method]
    rows = _resize_weights(kernel, top, box_height, height, size[0])
    columns = _resize_weights(kernel, left, box_width, width, size[1])
    resized = resample(planar, rows, columns)
    return resized if method == "bilinear" else tf.clip_by_value(resized, 0.0, 1.0)


def _triangle(distance):
    return tf.nn.relu(1 - distance)


def _cubic(distance):
    """Keys' kernel of distances >= 0, with a = -1/2: smooth, and exact on parabolas."""
    near = 1 + tf.square(distance) * (1.5 * distance - 2.5)
    far = 2 + distance * (distance * (2.5 - 0.5 * distance) - 4)
    return tf.where(distance < 1, near, tf.where(distance < 2, far, 0.0))


def _resize_weights(kernel, start, length, size_in, size_out: int):
    """The share of each of `size_in` pixels in each of `size_out`: `[n, size_out, size_in]`, rows sum to 1."""
    scale = (length / size_out)[:, None, None]
    centres = (tf.range(size_out, dtype=tf.float32) + 0.5)[
        :, None
    ] * scale  # (n, out, 1), from the box's start
    pixels = (
        tf.cast(tf.range(size_in), tf.float32) + 0.5 - start[:, None, None]
    )  # (n, 1, in)
    weights = kernel(tf.abs(pixels - centres) / tf.maximum(scale, 1.0))
    weights = tf.where((pixels > 0) & (pixels < length[:, None, None]), weights, 0.0)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def affine(
    images, *, angle=0.0, shift=(0.0, 0.0), scale=1.0, shear=0.0, fill=0.0
) -> tf.Tensor:
    """Scale, shear, rotate about the centre and shift each image, in this order; bilinear.

    Where a pixel of the image goes, seen from the centre, x to the right and y down:
    `R(angle) [[1, -tan(shear)], [0, 1]] scale (x, y) + shift`, torchvision's map. Not antialiased.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`.
        angle: Degrees, clockwise. This and all that follow: a scalar, or one for each image.
        shift: `[2]` or `[n, 2]`: right and down, as shares of width and height.
        scale: > 0; above 1 enlarges.
        shear: Degrees in (-90, 90); above 0 leans the upper part to the right.
        fill: Float in 0..1: what lies outside of the image. 0 continues the black ground of digits.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating.
    """
    return on_planar(_affine, images, angle, shift, scale, shear, fill)


def _affine(planar, angle, shift, scale, shear, fill):
    n, channels, height, width = sizes(planar)
    x, y = _source_points(
        angle, shift, scale, shear, height, width
    )  # (n, height * width) or (1, ...)
    left, top = tf.floor(x), tf.floor(y)
    pixels = tf.reshape(planar, [n, channels, height * width]) - fill
    total = 0.0
    for across in (0, 1):
        for down in (0, 1):
            column, row = left + across, top + down
            weight = (1 - tf.abs(x - column)) * (1 - tf.abs(y - row))
            last_column, last_row = (
                tf.cast(width - 1, tf.float32),
                tf.cast(height - 1, tf.float32),
            )
            inside = (
                (column >= 0) & (column <= last_column) & (row >= 0) & (row <= last_row)
            )
            column = tf.cast(tf.clip_by_value(column, 0.0, last_column), tf.int32)
            row = tf.cast(tf.clip_by_value(row, 0.0, last_row), tf.int32)
            index = tf.broadcast_to(row * width + column, [n, height * width])
            taken = tf.gather(
                pixels, index, axis=2, batch_dims=1
            )  # (n, channels, height * width)
            total += tf.where(inside, weight, 0.0)[:, None] * taken
    # Four weights may sum to a rounding above 1.
    return tf.clip_by_value(
        tf.reshape(total + fill, [n, channels, height, width]), 0.0, 1.0
    )


def _source_points(angle, shift, scale, shear, height, width):
    """Column and row of the input, fractional, for each pixel of the output: two of `[n, height * width]`."""
    height_f, width_f = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    angle, scale, shear = (
        tf.reshape(tf.cast(value, tf.float32), [-1, 1])
        for value in (angle, scale, shear)
    )
    shift = tf.reshape(tf.cast(shift, tf.float32), [-1, 2])
    cosine, sine = tf.cos(angle * (math.pi / 180)), tf.sin(angle * (math.pi / 180))
    slope = tf.tan(shear * (math.pi / 180))
    columns = tf.cast(tf.range(width), tf.float32) - (width_f - 1) / 2
    rows = tf.cast(tf.range(height), tf.float32) - (height_f - 1) / 2
    x, y = (tf.reshape(axis, [1, -1]) for axis in tf.meshgrid(columns, rows))
    x, y = x - shift[:, :1] * width_f, y - shift[:, 1:] * height_f
    x, y = cosine * x + sine * y, cosine * y - sine * x  # the inverse rotation
    x, y = (x + slope * y) / scale, y / scale
    return x + (width_f - 1) / 2, y + (height_f - 1) / 2


@keras.saving.register_keras_serializable("keras_contrastive")
class RandomFlip(Operation):
    """Mirror each image left to right, with a probability.

    Args:
        probability: Float in 0..1.
        seed: Integer, for use as a layer (see `Operation`).
    """

    def __init__(self, probability: float = 0.5, *, seed: int = 0, **kwargs):
        super().__init__(seed=seed, **kwargs)
        check_probability(probability=probability)
        self.probability = probability

    def draw(self, key, shape):
        return {"where": occurs(key, shape[0], self.probability)}

    def transform(self, planar, where):
        return _flip(planar, where)

    def get_config(self):
        return {**super().get_config(), "probability": self.probability}


@keras.saving.register_keras_serializable("keras_contrastive")
class RandomResizedCrop(Operation):
    """Cut a random box out of each image and resize it, antialiased: the "Inception crop".

    A box has a share of the image's area that is uniform in `area`, and width / height log-uniform in `aspect`,
    in whole pixels; ten are drawn and the first that fits is placed at random. If none fits, it is the largest
    box of an allowed aspect. Not training, the layer takes the largest centred box of the output's aspect.

    Args:
        size: Height and width of the output, or one integer for both.
        area: Pair of floats in (0, 1].
        aspect: Pair of floats > 0.
        method: `"bilinear"` or `"bicubic"`, as of `crop_and_resize`.
        seed: Integer, for use as a layer (see `Operation`).

    Reference:
        Szegedy et al., 2015, Going Deeper with Convolutions, section 6; torchvision's `RandomResizedCrop`, which
        places the box of the last case in the centre.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        area: tuple[float, float] = (0.08, 1.0),
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
        method: str = "bilinear",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        self.size = _pair_of_sizes(size)
        check_range(1e-6, 1, area=area)
        check_range(1e-3, 1e3, aspect=aspect)
        check_choice("method", method, METHODS)
        self.area, self.aspect, self.method = tuple(area), tuple(aspect), method

    def draw(self, key, shape):
        n, _, height, width = shape
        box_height, box_width = self._draw_sizes(key, n, height, width)
        top = integers(fold(key, 2), [n], height - box_height + 1)
        left = integers(fold(key, 3), [n], width - box_width + 1)
        return {"boxes": tf.stack([top, left, box_height, box_width], axis=1)}

    def _draw_sizes(self, key, n, height, width):
        """Height and width of each box, int64 `[n]`.

        In float64, as plain and compiled kernels differ in the last bit of an exponential, and in float32 that
        would now and then round to another pixel.
        """
        low, high = (math.log(bound) for bound in self.aspect)
        height, width = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
        unit = [tf.cast(uniform(fold(key, k), [n, _TRIES]), tf.float64) for k in (0, 1)]
        area = (self.area[0] + (self.area[1] - self.area[0]) * unit[0]) * height * width
        aspect = tf.exp(low + (high - low) * unit[1])
        heights, widths = (
            tf.round(tf.sqrt(area / aspect)),
            tf.round(tf.sqrt(area * aspect)),
        )
        fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
        first = tf.argmax(tf.cast(fits, tf.int32), axis=1)  # of equals the first
        largest = (
            tf.minimum(height, tf.maximum(tf.round(width / self.aspect[0]), 1.0)),
            tf.minimum(width, tf.maximum(tf.round(height * self.aspect[1]), 1.0)),
        )
        found = tf.reduce_any(fits, axis=1)
        return [
            tf.cast(
                tf.where(found, tf.gather(drawn, first, batch_dims=1), fallback),
                tf.int64,
            )
            for drawn, fallback in zip((heights, widths), largest)
        ]

    def transform(self, planar, boxes):
        return _crop_and_resize(planar, boxes, self.size, self.method)

    def at_rest(self, images):
        planar = to_planar(images)
        n, _, height, width = sizes(planar)
        box_height = tf.minimum(
            height, tf.maximum(width * self.size[0] // self.size[1], 1)
        )
        box_width = tf.minimum(
            width, tf.maximum(height * self.size[1] // self.size[0], 1)
        )
        box = [
            (height - box_height) // 2,
            (width - box_width) // 2,
            box_height,
            box_width,
        ]
        boxes = tf.broadcast_to(tf.stack(box), [n, 4])
        return from_planar(_crop_and_resize(planar, boxes, self.size, self.method))

    def get_config(self):
        config = {
            "size": self.size,
            "area": self.area,
            "aspect": self.aspect,
            "method": self.method,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_contrastive")
class RandomAffine(Operation):
    """Rotate, scale, shear and shift each image at random: `affine` with parameters drawn uniformly.

    Args:
        rotation: Degrees >= 0: the angle is in [-rotation, rotation].
        shift: Share of width and of height, >= 0: each shift is in [-shift, shift].
        scale: Pair of floats > 0.
        shear: Degrees in [0, 90): the shear is in [-shear, shear].
        fill: Float in 0..1: what lies outside of the image.
        seed: Integer, for use as a layer (see `Operation`).
    """

    def __init__(
        self,
        *,
        rotation: float = 0.0,
        shift: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        shear: float = 0.0,
        fill: float = 0.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        check_at_least(0, rotation=rotation, shift=shift, shear=shear)
        check_range(0, 89.9, shear=(shear, shear))
        check_range(1e-3, 1e3, scale=scale)
        check_probability(fill=fill)
        self.rotation, self.shift, self.scale = rotation, shift, tuple(scale)
        self.shear, self.fill = shear, fill

    def draw(self, key, shape):
        n = shape[0]
        return {
            "angle": uniform(fold(key, 0), [n], -self.rotation, self.rotation),
            "shift": uniform(fold(key, 1), [n, 2], -self.shift, self.shift),
            "scale": uniform(fold(key, 2), [n], *self.scale),
            "shear": uniform(fold(key, 3), [n], -self.shear, self.shear),
        }

    def transform(self, planar, angle, shift, scale, shear):
        return _affine(planar, angle, shift, scale, shear, self.fill)

    def get_config(self):
        config = {
            "rotation": self.rotation,
            "shift": self.shift,
            "scale": self.scale,
            "shear": self.shear,
            "fill": self.fill,
        }
        return {**super().get_config(), **config}


def _pair_of_sizes(size) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2:
        raise ValueError(
            f"`size` must be an integer or a pair of them. Received: size={size!r}."
        )
    for value in pair:
        check_integer(1, size=value)
    return pair
