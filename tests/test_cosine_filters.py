"""The fixed first layer, against the definition of the cosine transform in float64 loops."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from keras_contrastive.encoders import CosineFilters, fast_conv_net
from keras_contrastive.encoders.cosine_filters import whitened_cosines


def cosine(frequency: int, place: int, n: int) -> float:
    scale = math.sqrt((1 if frequency == 0 else 2) / n)
    return scale * math.cos(math.pi * frequency * (2 * place + 1) / (2 * n))


def basis(size: int, channels: int) -> list[np.ndarray]:
    """The transform's functions of height, width and channel, each of length 1."""
    places = [
        (i, j, c) for i in range(size) for j in range(size) for c in range(channels)
    ]
    found = []
    for u, v, d in places:
        function = np.zeros((size, size, channels))
        for i, j, c in places:
            function[i, j, c] = (
                cosine(u, i, size) * cosine(v, j, size) * cosine(d, c, channels)
            )
        found.append(function)
    return found


@pytest.mark.parametrize(("size", "channels"), [(4, 3), (3, 1), (2, 4)])
def test_filters_are_the_cosine_basis_each_scaled(size, channels):
    filters = whitened_cosines(size, channels)
    assert filters.shape == (size, size, channels, size**2 * channels)
    lengths = np.sqrt((filters**2).sum(axis=(0, 1, 2)))
    assert (np.diff(lengths) >= -1e-12).all()  # the largest deviation first
    products = np.abs(
        [
            [np.vdot(b, f) for f in np.moveaxis(filters / lengths, -1, 0)]
            for b in basis(size, channels)
        ]
    )
    np.testing.assert_allclose(products.max(axis=0), 1, atol=1e-9)
    np.testing.assert_allclose(products.sum(axis=0), 1, atol=1e-7)


def test_output_is_both_signs_of_each_filter_at_every_place():
    layer = CosineFilters(5, size=2, strides=2)
    image = np.random.default_rng(0).random((1, 6, 4, 3)).astype("f4")
    found = np.asarray(layer(image))
    filters = whitened_cosines(2, 3)[..., :5]
    expected = np.zeros((3, 2, 10))
    for down in range(3):
        for across in range(2):
            patch = image[0, 2 * down : 2 * down + 2, 2 * across : 2 * across + 2]
            values = [((patch - 0.45) * filters[..., k]).sum() for k in range(5)]
            expected[down, across] = np.maximum([*values, *(-v for v in values)], 0)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    assert layer.compute_output_shape(image.shape) == found.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_there_are_no_more_filters_than_the_basis_has(channels):
    found = CosineFilters(1000, size=2)(np.zeros((1, 4, 4, channels), "f4"))
    assert found.shape == (1, 2, 2, 2 * 4 * channels)


def test_nothing_of_it_is_trained_and_it_comes_back_from_a_file(tmp_path):
    encoder = fast_conv_net((None, None, 3))
    layer = encoder.get_layer("cosine_filters")
    assert not layer.trainable_weights and len(layer.weights) == 2
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    image = np.random.default_rng(0).random((2, 16, 16, 3)).astype("f4")
    np.testing.assert_array_equal(loaded(image), encoder(image))


@pytest.mark.parametrize("name", ["count", "size", "strides"])
def test_what_is_no_count_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer >= 1"):
        CosineFilters(**{name: 0})
