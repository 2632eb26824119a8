"""Augmentations of one image `[height, width, channels]` in 0..1, written plainly from their definitions."""

from __future__ import annotations

import colorsys
import math

import numpy as np


def grayscale(image):
    """`[height, width]`: ITU-R BT.601 luma of three channels, the mean of any other number."""
    if image.shape[-1] == 3:
        return image @ np.array([0.299, 0.587, 0.114])
    return image.mean(axis=-1)


def brightness(image, factor):
    return np.clip(image * factor, 0, 1)


def contrast(image, factor):
    return np.clip(factor * image + (1 - factor) * grayscale(image).mean(), 0, 1)


def saturation(image, factor):
    if image.shape[-1] == 1:
        return image
    return np.clip(factor * image + (1 - factor) * grayscale(image)[..., None], 0, 1)


def hue(image, turns):
    if image.shape[-1] == 1:
        return image
    result = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[place])
        result[place] = colorsys.hsv_to_rgb((h + turns) % 1.0, s, v)
    return result


def gaussian_blur(image, kernel_size, sigma):
    """Weights exp(-x^2 / (2 sigma^2)) scaled to sum to 1; the border mirrored without the edge pixel."""
    radius = kernel_size // 2
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-(taps**2) / (2 * sigma**2))
    weights /= weights.sum()
    padded = np.pad(image, [(radius, radius), (radius, radius), (0, 0)], mode="reflect")
    result = np.zeros_like(image)
    height, width = image.shape[:2]
    for i, down in enumerate(weights):
        for j, across in enumerate(weights):
            result += down * across * padded[i : i + height, j : j + width]
    return result


def triangle(x):
    return max(0.0, 1 - x)


def keys_cubic(x, a=-0.5):
    """Keys 1981, Eq. 4 with his two free constants tied to a; a = -1/2 is Eq. 15."""
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def resize_rows(image, size, kernel=triangle):
    """Antialiased along the first axis: weights by the distance from each output pixel's centre."""
    length = len(image)
    scale = length / size
    half_width = max(scale, 1.0)
    result = []
    for out in range(size):
        centre = (out + 0.5) * scale
        weights = [kernel(abs(i + 0.5 - centre) / half_width) for i in range(length)]
        total = sum(weights)
        result.append(sum(weight / total * row for weight, row in zip(weights, image)))
    return np.array(result)


def crop_and_resize(image, box, size, kernel=triangle):
    """Crop first, then resize: pixels outside of the box do not count."""
    top, left, height, width = (int(value) for value in box)
    cropped = image[top : top + height, left : left + width]
    rows = resize_rows(cropped, size[0], kernel)
    resized = resize_rows(rows.swapaxes(0, 1), size[1], kernel).swapaxes(0, 1)
    return np.clip(resized, 0, 1)


def cutout(image, box, fill):
    top, left, height, width = (int(value) for value in box)
    result = image.copy()
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            if top <= row < top + height and left <= column < left + width:
                result[row, column] = fill
    return result


def solarize(image, threshold):
    return np.where(image < threshold, image, 1 - image)


def affine(image, angle, shift, scale, shear, fill):
    """Each output pixel is looked up, bilinearly, where the inverse of the forward 3x3 matrix puts it."""
    height, width, channels = image.shape
    turn, slope = math.radians(angle), math.tan(math.radians(shear))

    def moved(x, y):
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])

    rotation = np.array(
        [
            [math.cos(turn), -math.sin(turn), 0],
            [math.sin(turn), math.cos(turn), 0],
            [0, 0, 1],
        ]
    )
    sheared = np.array([[1, -slope, 0], [0, 1, 0], [0, 0, 1]])
    centre = ((width - 1) / 2, (height - 1) / 2)
    forward = (
        moved(*centre)
        @ moved(shift[0] * width, shift[1] * height)
        @ rotation
        @ sheared
        @ np.diag([scale, scale, 1])
        @ moved(-centre[0], -centre[1])
    )
    inverse = np.linalg.inv(forward)

    def pixel(row, column):
        inside = 0 <= row < height and 0 <= column < width
        return image[row, column] if inside else np.full(channels, fill)

    result = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            x, y, _ = inverse @ [column, row, 1]
            left, top = math.floor(x), math.floor(y)
            a, b = x - left, y - top
            result[row, column] = (1 - b) * (
                (1 - a) * pixel(top, left) + a * pixel(top, left + 1)
            ) + b * ((1 - a) * pixel(top + 1, left) + a * pixel(top + 1, left + 1))
    return result
