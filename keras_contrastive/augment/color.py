"""What pixels look like: brightness, contrast, saturation, hue, grayscale, solarised.

Colour is defined on three channels, red, green and blue. An image of one channel has none to change:
saturation, hue and grayscale leave it as it is.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_at_least, shape_text
from keras_contrastive._random import between, units
from keras_contrastive.augment._images import on_planar, per_image
from keras_contrastive.augment._schedule import Repeated, Stage
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
    return on_planar(_brighten, images, factor)


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
    return on_planar(_contrast, images, factor)


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
            _blend(planar, factor, _gray(planar))
            if _has_color(planar.shape)
            else planar
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
        lambda planar: _turn_hue(planar, turns) if _has_color(planar.shape) else planar,
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


def normalize(images, mean, std) -> tf.Tensor:
    """(image - mean) / std, channel by channel.

    Args:
        images: uint8 or float in 0..1, `[n, height, width, channels]`.
        mean: Float in 0..1, or one for each channel.
        std: Float > 0, or one for each channel.

    Returns:
        float32 of the shape of `images`, no longer in 0..1.

    Raises:
        ValueError: `images` are not rank 4, or neither uint8 nor floating; or `mean` or `std` are for another number
            of channels.
    """
    return on_planar(_normalize, images, mean, std)


def _normalize(planar, mean, std):
    for each in (mean, std):
        if np.size(each) not in (1, planar.shape[1]):
            raise ValueError(
                "`mean` and `std` must be one number, or one for each channel. "
                f"Received: {np.size(each)} for images of {planar.shape[1]} channels."
            )
    mean, std = (
        tf.reshape(tf.cast(each, tf.float32), [1, -1, 1, 1]) for each in (mean, std)
    )
    return (planar - mean) / std


def _solarize(planar, threshold, where):
    where = tf.reshape(tf.cast(where, tf.bool), [-1, 1, 1, 1])
    return tf.where(where & (planar >= per_image(threshold)), 1 - planar, planar)


def _has_color(shape) -> bool:
    """Of `[n, channels, height, width]`: True for three channels, False for one; colour knows no others."""
    known = [None if tf.is_tensor(size) else size for size in shape]
    channels = known[1]
    if channels not in (1, 3):
        shape = shape_text([known[axis] for axis in (0, 2, 3, 1)])
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


def _brighten(planar, factor):
    return _blend(planar, factor, 0.0)


def _contrast(planar, factor):
    return _blend(planar, factor, _mean(_gray(planar)))


def _to_grayscale(planar, where):
    if not _has_color(planar.shape):
        return planar
    return tf.where(tf.reshape(where, [-1, 1, 1, 1]), _gray(planar), planar)


def _turn_hue(planar, turns):
    """HSV's hue, without its quotients.

    Along the wheel a channel lies below the value by the chroma times a trapezium of period 6: 1 from place 1 to 3
    and 0 from place 4 to 6, which is clip(2 - |place - 2|, 0, 1) with the distance taken round the wheel. All of it
    is computed times the chroma, so nothing is divided; and the wheel is closed by absolute values: with
    y = |place - 5| in 0..8, | |y - 3| - 3 | is 3 less that distance.
    """
    red, green, blue = planar[:, :1], planar[:, 1:2], planar[:, 2:]
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    sixths = tf.where(
        value == red,
        green - blue,
        tf.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    turns = per_image(turns)
    offsets = 6 * (turns - tf.round(turns)) + tf.reshape(
        [0.0, -2.0, -4.0], [1, 3, 1, 1]
    )
    y = tf.abs(sixths + offsets * chroma)
    below = tf.abs(tf.abs(y - 3 * chroma) - 3 * chroma) - chroma
    turned = value - tf.minimum(tf.nn.relu(below), chroma)
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
        chance, bright, contrast, saturation, hue, *priority = units(key, shape[0], 9)
        chosen = chance < self.probability

        def factor(unit, strength):
            drawn = between(unit, max(0.0, 1 - strength), 1 + strength)
            return tf.where(chosen, drawn, 1.0)

        return {
            "brightness": factor(bright, self.brightness),
            "contrast": factor(contrast, self.contrast),
            "saturation": factor(saturation, self.saturation),
            "hue": tf.where(chosen, between(hue, -self.hue, self.hue), 0.0),
            "order": _ranks(tf.stack(priority, axis=1)),
        }

    def stages(self, shape, brightness, contrast, saturation, hue, order):
        """At each of the four places a blend, a contrast and a hue, of which an image takes its own one.

        `order`, int32 `[n, 4]`, is the place of brightness, contrast, saturation and hue in the sequence.
        """
        colored = (self.saturation > 0 or self.hue > 0) and _has_color(shape)

        def at_places(step, values, neutral):
            """`[n, 4]`: the step's value at its place, elsewhere what changes nothing."""
            return tf.where(
                tf.equal(order[:, step, None], tf.range(4)), values[:, None], neutral
            )

        bright, contrasted = at_places(0, brightness, 1.0), at_places(1, contrast, 1.0)
        saturated, turned = at_places(2, saturation, 1.0), at_places(3, hue, 0.0)
        stages = []
        if colored and self.saturation > 0:
            needed = (bright != 1) | (saturated != 1)
            stages.append(Stage(_brighten_or_saturate, (bright, saturated), needed))
        elif self.brightness > 0:
            stages.append(Stage(_brighten, (bright,), bright != 1))
        if self.contrast > 0:
            stages.append(Stage(_contrast, (contrasted,), contrasted != 1, cost=2))
        if colored and self.hue > 0:
            stages.append(Stage(_turn_hue, (turned,), turned != 0, cost=4))
        return [Repeated(stages, 4)]

    def get_config(self):
        config = {
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
            "probability": self.probability,
        }
        return {**super().get_config(), **config}


def _brighten_or_saturate(planar, brightness, saturation):
    """Of brightness and saturation the one that is not 1, for each image."""
    factor = per_image(brightness) * per_image(saturation)
    target = (1 - per_image(saturation)) * _gray(planar)
    return tf.clip_by_value(factor * planar + target, 0.0, 1.0)


def _ranks(priority):
    """Of each of four numbers how many are smaller, `[n, 4]` to int32: a permutation of 0..3."""
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

    def stages(self, shape, where):
        return [Stage(_to_grayscale, (where,), where)]

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


@keras.saving.register_keras_serializable("keras_contrastive")
class Normalize(Operation):
    """(image - mean) / std, training or not; the last operation of a recipe, if it is in one.

    For networks of others that want it. `ContrastiveModel` takes no recipe with it: what it trains is served images
    in 0..1. There a layer of the encoder, `keras.layers.Normalization(mean=..., variance=...)`, does the same.

    Args:
        mean: Float in 0..1, or one for each channel; the default is ImageNet's.
        std: Float > 0, or one for each channel.
        seed: Integer, not used: nothing is drawn.
    """

    def __init__(
        self,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        *,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        self.mean, self.std = (_numbers(each) for each in (mean, std))
        for number in self.mean:
            check_probability(mean=number)
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be > 0. Received: std={std!r}.")

    def draw(self, key, shape):
        return {}

    def transform(self, planar):
        return _normalize(planar, self.mean, self.std)

    def at_rest(self, images):
        return normalize(images, self.mean, self.std)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std}


def _numbers(value) -> tuple[float, ...]:
    return tuple(float(number) for number in np.ravel(value))
