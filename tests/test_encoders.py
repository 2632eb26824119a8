"""Encoders and heads: shapes, limits, and that a saved one comes back."""

import keras
import numpy as np
import pytest

import keras_contrastive as kc

WIDTH = {"conv_net": 128, "small_conv_net": 256, "small_resnet": 128, "resnet18": 512}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", WIDTH)
def test_encoder_gives_features_of_the_documented_width(name, channels):
    encoder = kc.encoders.get(name)((16, 16, channels))
    assert encoder.input_shape == (None, 16, 16, channels)
    assert encoder.output_shape == (None, WIDTH[name])


def test_every_encoder_is_tested():
    assert set(WIDTH) == set(kc.encoders.ENCODERS)


def test_conv_net_is_the_articles_example():
    layers = kc.encoders.conv_net((28, 28, 1)).layers
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["InputLayer", "Conv2D", "MaxPooling2D", "Flatten", "Dense"]
    # 3 * 3 * 1 * 64 + 64, and 14 * 14 * 64 * 128 + 128.
    assert [layer.count_params() for layer in layers] == [0, 640, 0, 0, 1605760]


def test_resnet18_has_the_papers_number_of_weights():
    # Counted by hand for a 3x3 stem on 3 channels, without the classifier: convolutions 11,159,232, and
    # 4 numbers of batch normalisation for each of 4,800 channels.
    assert kc.encoders.resnet18((32, 32, 3)).count_params() == 11_159_232 + 4 * 4_800


def test_normalization_uses_the_fused_kernel():
    layers = kc.encoders.resnet18((32, 32, 3)).layers
    assert not [l for l in layers if isinstance(l, keras.layers.BatchNormalization)]  # noqa: E741


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("small_resnet", (4, 4, 1), "`small_resnet` takes images of at least 8 x 8"),
        ("conv_net", (1, 9, 1), "`conv_net` takes images of at least 2 x 2"),
        ("resnet18", (32, 32), r"`image_shape` must be \(height, width, channels\)"),
        ("conv_net", (8, 8, 0), "`channels` must be an integer >= 1"),
    ],
    ids=["small_resnet", "conv_net", "rank", "channels"],
)
def test_image_shape_that_an_encoder_cannot_take_is_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        kc.encoders.get(name)(shape)


@pytest.mark.parametrize("name", ["small_conv_net", "small_resnet"])
def test_saved_encoder_gives_the_same_features(name, tmp_path):
    encoder = kc.encoders.get(name)((8, 8, 1))
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(
        encoder.predict(images, verbose=0), loaded.predict(images, verbose=0)
    )


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_mlp_head_has_so_many_dense_layers(num_layers):
    head = kc.heads.mlp(5, hidden_dim=7, num_layers=num_layers)
    head.build((None, 4))
    dense = [
        layer.units for layer in head.layers if isinstance(layer, keras.layers.Dense)
    ]
    assert dense == [7] * (num_layers - 1) + [5]
    assert head.output_shape == (None, 5)


def test_mlp_head_of_no_layers_is_refused():
    with pytest.raises(ValueError, match="`num_layers` must be an integer >= 1"):
        kc.heads.mlp(num_layers=0)
