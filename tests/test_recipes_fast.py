"""The recipe for minutes on a CPU."""

from __future__ import annotations

import numpy as np
import pytest

import keras_contrastive as kc
from tests.test_scripts_methods import call, config_of, write_quarters


def images_of(n=64, side=16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)


def test_it_trains_as_it_comes():
    model = kc.recipes.fast(image_size=16, steps=4, batch_size=16)
    batches = kc.data.batches(kc.data.Part(images_of()), 16, seed=0)
    history = model.fit(batches, epochs=1, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.encoder.name == "fast_conv_net"
    sides = [model.make_views(images_of(4), step).shape[2] for step in (1, 2)]
    assert sides == [8, 12]
    assert model.predict(images_of(5), verbose=0).shape == (5, 256)
    assert float(model.whitening.count) == 4


def test_views_have_the_size_of_an_encoder_that_has_one():
    model = kc.recipes.fast(kc.encoders.small_resnet((16, 16, 3)), steps=10)
    assert model.make_views(images_of(4), 0).shape == (4, 2, 16, 16, 3)


def test_images_are_of_32_pixels_where_nothing_tells():
    assert kc.recipes.fast().make_views(images_of(4, 32), 0).shape[2] == 24


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 3e-3),
        ({"learning_rate": 0.1}, 0.1),
        ({"optimizer": "sgd", "batch_size": 512}, 0.1),
    ],
)
def test_learning_rate_is_its_own_or_the_one_given(options, rate):
    optimizer = kc.recipes.fast(image_size=16, **options).optimizer
    assert float(np.asarray(optimizer.learning_rate)) == pytest.approx(rate)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="`image_size` must be an integer >= 1"):
        kc.recipes.fast(image_size=0)
    with pytest.raises(ValueError, match="temperature"):
        kc.recipes.fast(temperature=-1)


def test_script_takes_encoder_and_views_with_the_method(tmp_path):
    data = write_quarters(tmp_path / "quarters.npz")
    options = ["--method", "fast", "--epochs", 1, "--batch-size", 8]
    out = tmp_path / "run"
    assert call("train", "--data", f"npz:{data}", *options, "--out", out) == 0
    config = config_of(out)
    assert (config["encoder"], config["augment"]) == ("fast_conv_net", "fast")
    assert config["learning_rate"] == 3e-3
    assert call("evaluate", out) == 0
