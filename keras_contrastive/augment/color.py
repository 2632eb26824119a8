"""What pixels look like: brightness, contrast, saturation, hue, grayscale, solarised.

Colour is defined on three channels, red, green and blue. An image of one channel has none to change:
saturation, hue and grayscale leave it as it is.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_at_least, shape_text
from keras_contrastive._random import fold, uniform
from keras_contrastive.augment._images import on_planar, per_image, sizes
from keras_contrastive.augment.operation import Operation, check_probability, occurs

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def adjust_brightness(images, factor) -> tf.Tensor:
    """clip(factor * image).

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`, any number of channels.
        factor: >= 0, scalar or `[n]`; 1 changes nothing, 0 gives black.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating.
    """
    return on_planar(_blend, images, factor, 0.0)


def adjust_contrast(images, factor) -> tf.Tensor:
    """clip(factor * image + (1 - factor) * mean), with the mean over the pixels of the image's grayscale.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`. The grayscale of other than three channels
            is their mean.
        factor: >= 0, scalar or `[n]`; 1 changes nothing, 0 gives one grey.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating.
    """
    return on_planar(
        lambda planar: _blend(planar, factor, _mean(_gray(planar))), images
    )


def adjust_saturation(images, factor) -> tf.Tensor:
    """clip(factor * image + (1 - factor) * grayscale).

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`, 1 or 3 channels.
        factor: >= 0, scalar or `[n]`; 1 changes nothing, 0 gives the grayscale.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, have neither 1 nor 3 channels, or are neither uint8 nor floating.
    """
    return on_planar(
        lambda planar: (
            _blend(planar, factor, _gray(planar)) if _has_color(planar) else planar
        ),
        images,
    )


def adjust_hue(images, turns) -> tf.Tensor:
    """Turn the hue of the colour wheel HSV; saturation and value stay.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`, 1 or 3 channels.
        turns: Scalar or `[n]`, in turns of the wheel: 0 changes nothing, 1 / 3 makes red green.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, have neither 1 nor 3 channels, or are neither uint8 nor floating.
    """
    return on_planar(
        lambda planar: _turn_hue(planar, turns) if _has_color(planar) else planar,
        images,
    )


def to_grayscale(images, where=True) -> tf.Tensor:
    """Replace the chosen images by 0.299 red + 0.587 green + 0.114 blue, in all three channels.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`, 1 or 3 channels.
        where: bool, scalar or `[n]`: which images.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, have neither 1 nor 3 channels, or are neither uint8 nor floating.
    """
    return on_planar(_to_grayscale, images, where)


def solarize(images, threshold=0.5, where=True) -> tf.Tensor:
    """Invert what is at or above the threshold: there 1 - pixel.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`, any number of channels.
        threshold: Float in 0..1, scalar or `[n]`. 0.5 inverts the grey levels of uint8 from 128 on.
        where: bool, scalar or `[n]`: which images.

    Returns:
        float32 in 0..1, of the shape of `images`.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating.
    """
    return on_planar(_solarize, images, threshold, where)


def _solarize(planar, threshold, where):
    where = tf.reshape(tf.cast(where, tf.bool), [-1, 1, 1, 1])
    return tf.where(where & (planar >= per_image(threshold)), 1 - planar, planar)


def _has_color(planar) -> bool:
    """True for three channels, False for one; colour operations know no others."""
    channels = planar.shape[1]
    if channels not in (1, 3):
        shape = shape_text([planar.shape[axis] for axis in (0, 2, 3, 1)])
        raise ValueError(
            f"`images` must have 1 or 3 channels to change their colour. Received: images.shape={shape}."
        )
    return channels == 3


def _gray(planar):
    channels = planar.shape[1]
    shares = _LUMA if channels == 3 else (1 / channels,) * channels
    # Not a product with a matrix: this fuses with the arithmetic round it.
    return tf.add_n([share * planar[:, i : i + 1] for i, share in enumerate(shares)])


def _mean(gray):
    return tf.reduce_mean(gray, axis=[1, 2, 3], keepdims=True)


def _blend(planar, factor, target):
    factor = per_image(factor)
    return tf.clip_by_value(factor * planar + (1 - factor) * target, 0.0, 1.0)


def _to_grayscale(planar, where):
    if not _has_color(planar):
        return planar
    return tf.where(tf.reshape(where, [-1, 1, 1, 1]), _gray(planar), planar)


def _turn_hue(planar, turns):
    red, green, blue = planar[:, 0], planar[:, 1], planar[:, 2]
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    per_chroma = 1 / tf.where(
        chroma > 0, chroma, 1.0
    )  # grey: any hue, as the chroma is 0
    sixths = tf.where(
        value == red,
        (green - blue) * per_chroma,
        tf.where(
            value == green,
            (blue - red) * per_chroma + 2,
            (red - green) * per_chroma + 4,
        ),
    )
    turns = per_image(turns)
    # Of each channel, by how much it lies below the value, over the chroma: a trapezium along the wheel.
    place = (sixths[:, None] + 6 * turns) + tf.constant([5.0, 3.0, 1.0])[:, None, None]
    place -= 6 * tf.floor(place * (1 / 6))
    below = tf.clip_by_value(tf.minimum(place, 4 - place), 0.0, 1.0)
    turned = value[:, None] - chroma[:, None] * below
    return tf.where(turns == 0, planar, turned)


@keras.saving.register_keras_serializable("keras_contrastive")
class ColorJitter(Operation):
    """Change brightness, contrast, saturation and hue of each image at random, in an order drawn for each.

    Factors are uniform in [max(0, 1 - strength), 1 + strength], turns of the hue in [-hue, hue]. All 24 orders
    are as likely, and every step ends with a clip, as in the reference.

    Args:
        brightness: Strength >= 0; 0 leaves the step out. So for the next two.
        contrast: Strength >= 0.
        saturation: Strength >= 0.
        hue: In turns of the colour wheel, 0..0.5.
        probability: Float in 0..1: how many images are changed at all.
        seed: Integer, for use as a layer (see `Operation`).

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Appendix A;
        torchvision's `ColorJitter`.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        *,
        probability: float = 1.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        check_at_least(
            0, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
        )
        if hue > 0.5:
            raise ValueError(f"`hue` must be in 0..0.5. Received: hue={hue!r}.")
        check_probability(probability=probability)
        self.brightness, self.contrast, self.saturation = (
            brightness,
            contrast,
            saturation,
        )
        self.hue, self.probability = hue, probability

    def draw(self, key, shape):
        n = shape[0]
        chosen = occurs(fold(key, 0), n, self.probability)

        def factor(number, strength):
            drawn = uniform(
                fold(key, number), [n], max(0.0, 1 - strength), 1 + strength
            )
            return tf.where(chosen, drawn, 1.0)

        return {
            "brightness": factor(1, self.brightness),
            "contrast": factor(2, self.contrast),
            "saturation": factor(3, self.saturation),
            "hue": tf.where(
                chosen, uniform(fold(key, 4), [n], -self.hue, self.hue), 0.0
            ),
            "order": _random_order(fold(key, 5), n),
        }

    def transform(self, planar, brightness, contrast, saturation, hue, order):
        """Take the steps of each image in its own order.

        `order`, int32 `[n, 4]`, is the place of brightness, contrast, saturation and hue in the sequence. All
        images pass the same operations, with neutral parameters where it is not their turn. The first three are
        blends with black, the mean and the grayscale: one blend at each of the four places does them all. Hue, the
        dear one, is computed twice instead of four times: after place 0 for the images that have it first or
        second, after place 2 for those that have it third or last. That is in order, since an image does not
        blend at its hue's place.
        """
        shape = sizes(planar)
        colored = (self.saturation > 0 or self.hue > 0) and _has_color(planar)
        blends = (brightness, contrast, saturation)

        def two_places(half, planar):
            planar = _blend_in_turn(planar, blends, order, 2 * half, colored)
            if colored and self.hue > 0:
                planar = _turn_hue(planar, tf.where(order[:, 3] // 2 == half, hue, 0.0))
            return half + 1, _blend_in_turn(
                planar, blends, order, 2 * half + 1, colored
            )

        # A loop, not written out: XLA would fuse each step into all readers of the next, and compute it many
        # times over. One long row of pixels, as XLA vectorises along rows.
        planar = tf.reshape(planar, [*shape[:2], 1, shape[2] * shape[3]])
        _, planar = tf.while_loop(lambda half, _: half < 2, two_places, (0, planar))
        return tf.reshape(planar, shape)

    def get_config(self):
        config = {
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
            "probability": self.probability,
        }
        return {**super().get_config(), **config}


def _blend_in_turn(planar, factors, order, place, colored: bool):
    """Of brightness, contrast and saturation the one whose place this is, for each image; or none."""
    turns = [per_image(tf.equal(order[:, step], place)) for step in range(3)]  # 0 or 1
    factor = 1 + tf.add_n(
        [turn * (per_image(value) - 1) for turn, value in zip(turns, factors)]
    )
    gray = _gray(planar)
    target = turns[1] * _mean(gray)
    if colored:
        target += turns[2] * gray
    return tf.clip_by_value(factor * planar + (1 - factor) * target, 0.0, 1.0)


def _random_order(key, n):
    """A permutation of 0..3 for each of n: int32 `[n, 4]`, the place of each step."""
    priority = uniform(key, [n, 4])
    mine, other = priority[:, :, None], priority[:, None, :]
    listed_before = np.tri(4, k=-1, dtype=bool)  # decides between equals
    before = (other < mine) | ((other == mine) & listed_before)
    return tf.reduce_sum(tf.cast(before, tf.int32), axis=2)


@keras.saving.register_keras_serializable("keras_contrastive")
class RandomGrayscale(Operation):
    """Take the colour from each image, with a probability; the number of channels stays.

    Args:
        probability: Float in 0..1.
        seed: Integer, for use as a layer (see `Operation`).
    """

    def __init__(self, probability: float = 0.2, *, seed: int = 0, **kwargs):
        super().__init__(seed=seed, **kwargs)
        check_probability(probability=probability)
        self.probability = probability

    def draw(self, key, shape):
        return {"where": occurs(key, shape[0], self.probability)}

    def transform(self, planar, where):
        return _to_grayscale(planar, where)

    def get_config(self):
        return {**super().get_config(), "probability": self.probability}


@keras.saving.register_keras_serializable("keras_contrastive")
class RandomSolarize(Operation):
    """Invert what is bright in each image, with a probability.

    Args:
        probability: Float in 0..1.
        threshold: Float in 0..1: pixels at or above it are inverted.
        seed: Integer, for use as a layer (see `Operation`).

    Reference:
        Grill et al., 2020, Bootstrap Your Own Latent, Appendix B.
    """

    def __init__(
        self,
        probability: float = 0.2,
        *,
        threshold: float = 0.5,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        check_probability(probability=probability, threshold=threshold)
        self.probability, self.threshold = probability, threshold

    def draw(self, key, shape):
        return {"where": occurs(key, shape[0], self.probability)}

    def transform(self, planar, where):
        return _solarize(planar, self.threshold, where)

    def get_config(self):
        config = {"probability": self.probability, "threshold": self.threshold}
        return {**super().get_config(), **config}
