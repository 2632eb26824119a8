"""Where pixels come from: flip, crop and resize, affine maps."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_choice, check_integer
from keras_contrastive._random import below, between, units
from keras_contrastive.augment._images import (
    from_planar,
    on_planar,
    resample,
    sizes,
    to_planar,
)
from keras_contrastive.augment._schedule import Stage, run_at_once
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


_MOST_TAPS = 32  # of a resize; more are done by whole products, which compile at once

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
    return run_at_once(_resize_stages(sizes(planar), boxes, size, method), planar)


def _resize_stages(shape, boxes, size, method) -> list[Stage]:
    """Columns first: picked from bytes, which is where single values are least slow to pick."""
    height, width = shape[2:]
    top, left, box_height, box_width = tf.unstack(tf.cast(boxes, tf.float32), axis=1)
    # Always true for a box that holds something; XLA does not know, so that it keeps the stages apart.
    some = box_height > 0
    kernel, radius = {"bilinear": (_triangle, 1), "bicubic": (_cubic, 2)}[method]
    known = isinstance(height, int) and isinstance(width, int)
    if not known or 2 * radius * max(height / size[0], width / size[1]) > _MOST_TAPS:
        rows = _dense_weights(kernel, top, box_height, height, size[0])
        columns = _dense_weights(kernel, left, box_width, width, size[1])
        return [Stage(_clipped_resample, (rows, columns), some, size=size)]
    rows = _tap_weights(kernel, radius, top, box_height, height, size[0])
    columns = _tap_weights(kernel, radius, left, box_width, width, size[1])
    return [
        Stage(
            _weigh_columns,
            columns,
            some,
            size=(height, size[1]),
            of_images=_weigh_columns_of_images,
        ),
        Stage(_weigh_rows, rows, some, size=size),
    ]


def _is_resize(stages) -> bool:
    functions = [getattr(stage, "function", None) for stage in stages]
    return functions == [_weigh_columns, _weigh_rows]


def _weigh_columns(planar, index, weights):
    """Each new column a weighted sum of a few old ones. `index`, `weights`: `[n, new_width, taps]`."""
    return tf.add_n(
        [
            tf.gather(planar, index[:, :, tap], axis=3, batch_dims=1)
            * weights[:, None, None, :, tap]
            for tap in range(index.shape[2])
        ]
    )


def _weigh_columns_of_images(images, index, weights):
    """`_weigh_columns` of `[n, height, width, channels]`, uint8 or unit floats, to planar ones."""
    if images.dtype == tf.uint8:
        weights *= 1 / 255
    total = tf.add_n(
        [
            tf.cast(
                tf.gather(images, index[:, :, tap], axis=2, batch_dims=1), tf.float32
            )
            * weights[:, None, :, None, tap]
            for tap in range(index.shape[2])
        ]
    )
    return to_planar(total)


def _weigh_rows(planar, index, weights):
    """So with rows; then no more overshoots, nor sums that are a rounding above 1."""
    n, channels, height, width = sizes(planar)
    # Every channel as an image of its own: rows are then taken whole, without turning the array.
    planes = tf.reshape(planar, [n * channels, height, width])
    index, weights = (tf.repeat(each, channels, axis=0) for each in (index, weights))
    total = tf.add_n(
        [
            tf.gather(planes, index[:, :, tap], axis=1, batch_dims=1)
            * weights[:, :, tap, None]
            for tap in range(index.shape[2])
        ]
    )
    total = tf.reshape(total, [n, channels, index.shape[1], width])
    return tf.clip_by_value(total, 0.0, 1.0)


def _clipped_resample(planar, rows, columns):
    return tf.clip_by_value(resample(planar, rows, columns), 0.0, 1.0)


def _triangle(distance):
    return tf.nn.relu(1 - distance)


def _cubic(distance):
    """Keys' kernel of distances >= 0, with a = -1/2: smooth, and exact on parabolas."""
    near = 1 + tf.square(distance) * (1.5 * distance - 2.5)
    far = 2 + distance * (distance * (2.5 - 0.5 * distance) - 4)
    return tf.where(distance < 1, near, tf.where(distance < 2, far, 0.0))


def _tap_weights(kernel, radius: int, start, length, size_in: int, size_out: int):
    """Which pixels make each of `size_out` and by what share: two of `[n, size_out, taps]`.

    As many taps as the largest box, the whole image, may need.
    """
    taps = math.ceil(2 * radius * max(1.0, size_in / size_out))
    centres, half_width = _centres(length, size_out)
    first = tf.floor(centres - radius * half_width + 0.5)
    pixels = first + tf.range(taps, dtype=tf.float32)
    weights = _normalized_weights(kernel, pixels, centres, half_width, length)
    pixels = tf.clip_by_value(pixels, 0.0, length[:, None, None] - 1)
    index = tf.cast(pixels + start[:, None, None], tf.int32)
    return tf.clip_by_value(index, 0, size_in - 1), weights


def _dense_weights(kernel, start, length, size_in, size_out: int):
    """The share of each of `size_in` pixels in each of `size_out`: `[n, size_out, size_in]`."""
    centres, half_width = _centres(length, size_out)
    pixels = tf.cast(tf.range(size_in), tf.float32) - start[:, None, None]
    return _normalized_weights(kernel, pixels, centres, half_width, length)


def _centres(length, size_out: int):
    """Of each new pixel, from the box's start, `[n, size_out, 1]`; and the kernel's scale, in old pixels."""
    scale = (length / size_out)[:, None, None]
    centres = (tf.range(size_out, dtype=tf.float32) + 0.5)[:, None] * scale
    return centres, tf.maximum(scale, 1.0)


def _normalized_weights(kernel, pixels, centres, half_width, length):
    """Of old pixels, counted from the box's start: none outside of it, and their sum is 1."""
    weights = kernel(tf.abs(pixels + 0.5 - centres) / half_width)
    inside = (pixels >= 0) & (pixels < length[:, None, None])
    weights = tf.where(inside, weights, 0.0)
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

    def stages(self, shape, where):
        return [Stage(_flip, (where,), where)]

    def follow(self, stages, shape, where):
        """After a resize: its columns in reverse."""
        if not _is_resize(stages[-2:]):
            return super().follow(stages, shape, where=where)
        *before, columns, rows = stages
        reverse = where[:, None, None]
        tensors = tuple(
            tf.where(reverse, tf.reverse(each, [1]), each) for each in columns.tensors
        )
        return [*before, columns._replace(tensors=tensors), rows]

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
        n, _, *size = shape
        height, width = (tf.cast(side, tf.int64) for side in size)
        *tries, down, right = units(key, n, 2 * _TRIES + 2)
        box_height, box_width = self._sizes(tf.stack(tries), height, width)
        top = below(down, height - box_height + 1)
        left = below(right, width - box_width + 1)
        return {"boxes": tf.stack([top, left, box_height, box_width], axis=1)}

    def _sizes(self, tries, height, width):
        """Height and width of each box, int64 `[n]`, by draws in 0..1 `[2 * _TRIES, n]` of area and aspect.

        In float64, as plain and compiled kernels differ in the last bit of an exponential, and in float32 that
        would now and then round to another pixel.
        """
        low, high = (math.log(bound) for bound in self.aspect)
        height, width = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
        tries = tf.cast(tries, tf.float64)
        area = between(tries[:_TRIES], *self.area) * height * width
        aspect = tf.exp(between(tries[_TRIES:], low, high))
        heights, widths = (
            tf.round(tf.sqrt(area / aspect)),
            tf.round(tf.sqrt(area * aspect)),
        )
        fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
        first = tf.argmax(tf.cast(fits, tf.int32), axis=0)  # of equals the first
        largest = (
            tf.minimum(height, tf.maximum(tf.round(width / self.aspect[0]), 1.0)),
            tf.minimum(width, tf.maximum(tf.round(height * self.aspect[1]), 1.0)),
        )
        found = tf.reduce_any(fits, axis=0)
        return [
            tf.cast(
                tf.where(
                    found,
                    tf.gather(tf.transpose(drawn), first, batch_dims=1),
                    fallback,
                ),
                tf.int64,
            )
            for drawn, fallback in zip((heights, widths), largest)
        ]

    def size_of(self, size):
        return self.size

    def stages(self, shape, boxes):
        return _resize_stages(shape, boxes, self.size, self.method)

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
        angle, right, down, scale, shear = units(key, shape[0], 5)
        shift = tf.stack([right, down], axis=1)
        return {
            "angle": between(angle, -self.rotation, self.rotation),
            "shift": between(shift, -self.shift, self.shift),
            "scale": between(scale, *self.scale),
            "shear": between(shear, -self.shear, self.shear),
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
