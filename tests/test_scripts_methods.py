"""train.py with every method: what it trains, from which settings, starting from which weights, and what it refuses."""

from __future__ import annotations

import inspect
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.test_scripts import call, one_line, script, write_quarters

# Nothing but the methods: images of 8 x 8, 2 epochs of batches of 8, and heads that are narrower still.
QUICK = "--encoder conv_net --augment digits --epochs 2 --batch-size 8".split()
NARROW = {
    "projection_dim": 8,
    "hidden_dim": 8,
    "predictor_dim": 8,
    "queue_size": 32,
    "num_prototypes": 8,
    "output_dim": 8,
}


@pytest.fixture(scope="module")
def quarters(tmp_path_factory):
    return write_quarters(tmp_path_factory.mktemp("data") / "quarters.npz")


def narrow(method):
    """Options that make the heads of a method small."""
    options = kc.recipes.RECIPES[method].options
    return [
        part
        for name, value in NARROW.items()
        if name in options
        for part in (f"--{name.replace('_', '-')}", value)
    ]


def config_of(out):
    return json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("method", kc.recipes.RECIPES)
def test_every_method_is_made_for_a_small_machine(method, quarters):
    job = job_of("--data", f"npz:{quarters}", *QUICK, "--method", method)
    assert type(job.model.optimizer).__name__ == "Adam"
    assert job.own == kc.recipes.RECIPES[method].options
    assert job.steps == 6  # 48 images by 8, or as many triplets


@pytest.mark.parametrize("method", ["moco", "nnclr", "swav"])
def test_run_of_a_method_with_state_is_saved_and_exported(
    method, quarters, tmp_path, capsys
):
    out = tmp_path / "run"
    options = [*QUICK, "--method", method, *narrow(method), "--out", out]
    assert call("train", "--data", f"npz:{quarters}", *options) == 0
    said = capsys.readouterr().err
    assert f"method    {method} (" in said and "Adam at 0.001" in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert np.isfinite(metrics["history"]["loss"]).all()
    model = keras.models.load_model(out / "model.keras")
    images = np.load(quarters)["x_test"][..., None]
    served = tf.saved_model.load(str(out / "saved_model" / "1"))
    embedding = served.signatures["serving_default"](images=tf.constant(images))
    features = model.predict(images, verbose=0)
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding["embedding"], expected, atol=1e-5)


def test_settings_of_the_paper_bring_its_optimizer_and_rate(quarters, tmp_path, capsys):
    options = [*QUICK, "--settings", "paper", "--method", "byol", "--hidden-dim", 8]
    assert (
        call("train", "--data", f"npz:{quarters}", *options, "--out", tmp_path / "run")
        == 0
    )
    # LARS at 0.2 for a batch of 256, scaled to 8.
    assert f"LARS at {0.2 * 8 / 256:.4g}" in capsys.readouterr().err
    config = config_of(tmp_path / "run")
    assert (config["settings"], config["hidden_dim"]) == ("paper", 8)


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ([], "Adam at 0.001"),
        (["--optimizer", "sgd", "--learning-rate", "0.5"], "MomentumSGD at 0.5"),
        (["--weight-decay", "0.01"], "AdamW at 0.001"),
        (["--optimizer", "lars", "--batch-size", "16"], "LARS at 0.01875"),
    ],
    ids=["default", "rate", "decay", "lars"],
)
def test_optimizer_rate_and_decay_are_what_was_asked_for(options, rate, quarters):
    job = job_of("--data", f"npz:{quarters}", *QUICK, *options)
    optimizer = type(job.model.optimizer).__name__
    assert f"{optimizer} at {job._peak_rate():.4g}" == rate


def job_of(*arguments):
    train = script("train")
    from _run_folder import RunFolder
    from _training import Job

    args = train.parse_args([str(argument) for argument in arguments])
    return Job(*train._options(args, RunFolder("no such folder")))


def test_settings_of_cifar10_are_the_published_ones(quarters, monkeypatch):
    monkeypatch.setattr(kc.encoders, "get", lambda name: kc.encoders.conv_net)
    job = job_of(
        *("--data", f"npz:{quarters}", "--settings", "cifar10", "--method", "moco"),
        *("--batch-size", 8, "--queue-size", 16),
    )
    options = job.options
    assert (options["encoder"], options["epochs"]) == ("resnet18", 1000)
    assert (options["optimizer"], options["learning_rate"]) == ("sgd", 0.3)
    assert options["weight_decay"] == 1e-4
    assert job.model.loss_layer.loss.temperature == 0.2
    assert job.model.loss_layer.negatives.size == 16  # asked for
    assert (
        job.model.target.momentum == 0.99 and job.model.target.final_momentum == 0.999
    )


def test_every_published_setting_makes_its_recipe():
    for name, entry in kc.recipes.RECIPES.items():
        if entry.cifar10 is None:
            continue
        small = {
            key: min(value, 16) if key in NARROW else value
            for key, value in entry.cifar10.items()
            if key != "augment"
        }
        model = entry.make(kc.encoders.conv_net((8, 8, 3)), steps=1000, **small)
        assert model.optimizer is not None, name
        kc.augment.get(entry.cifar10["augment"])


def test_help_says_which_methods_have_an_option():
    for option, (_, _, text) in script("train").METHOD_OPTIONS.items():
        named = set(re.findall(r"\w+", text)) & set(kc.recipes.RECIPES)
        if text.startswith("all but"):
            named = set(kc.recipes.RECIPES) - named
        having = {
            name
            for name, entry in kc.recipes.RECIPES.items()
            if option in inspect.signature(entry.make).parameters
        }
        assert named == having - ({"moco_v3"} if option == "queue_size" else set())


def test_init_goes_on_from_the_encoder_of_an_earlier_run(quarters, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    data = ("--data", f"npz:{quarters}")
    assert call("train", *data, *QUICK, "--out", first) == 0
    capsys.readouterr()
    options = [*QUICK, "--method", "byol", *narrow("byol"), "--init", first]
    assert call("train", *data, *options, "--out", second) == 0
    shown = capsys.readouterr()
    assert f"going on from {first}" in shown.err
    assert "before" in shown.out and "untrained" not in shown.out
    # What the second run measured before training is what the first measured after.
    before = json.loads((second / "metrics.json").read_text())["knn"]["before"]
    assert before == json.loads((first / "metrics.json").read_text())["knn"]["trained"]


def test_init_starts_the_momentum_target_from_the_same_weights(quarters, tmp_path):
    encoder = kc.encoders.conv_net((8, 8, 1))
    encoder.save_weights(tmp_path / "encoder.weights.h5")
    job = job_of(
        *("--data", f"npz:{quarters}", *QUICK, "--method", "byol", *narrow("byol")),
        *("--init", tmp_path / "encoder.weights.h5"),
    )
    for part in (job.model.encoder, job.model.target.encoder):
        for got, expected in zip(part.get_weights(), encoder.get_weights()):
            np.testing.assert_array_equal(got, expected)


def test_few_labels_are_all_that_the_training_sees(quarters):
    job = job_of(
        *("--data", f"npz:{quarters}", *QUICK, "--method", "supcon"),
        *("--labels-per-class", 2),
    )
    np.testing.assert_array_equal(
        np.unique(job.train_part.labels, return_counts=True)[1], [40, 2, 2, 2, 2]
    )
    _, ids = next(iter(job._batches(0, 0)))
    assert (ids.numpy()[:2] >= 0).all()  # a quarter of 8
    assert (job.judged.train.labels >= 0).all()  # judged by all


def test_multi_crop_trains_an_encoder_of_any_size_and_exports_it(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x_train=images, y_train=np.arange(48) % 4)
    out = tmp_path / "run"
    options = "--encoder small_resnet --augment multi_crop --epochs 1 --batch-size 8"
    options = [*options.split(), "--method", "dino", *narrow("dino"), "--out", out]
    assert call("train", "--data", f"npz:{tmp_path}/images.npz", *options) == 0
    assert keras.models.load_model(out / "model.keras").encoder.input_shape[1] is None
    served = tf.saved_model.load(str(out / "saved_model" / "1"))
    embedding = served.signatures["serving_default"](images=tf.constant(images[:2]))
    assert embedding["embedding"].shape == (2, 128)
    capsys.readouterr()
    assert call("evaluate", out) == 0
    assert "trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "byol", "--temperature", "0.1"], "--temperature is not an option of byol"),
        (["--queue-size", "8"], "--queue-size is not an option of simclr"),
        (["--method", "dcl", "--settings", "cifar10"], "no published settings of dcl"),
        (["--optimizer", "adams"], "Did you mean 'adam'"),
        (["--weight-decay", "-1"], "must be a finite number > 0"),
        (["--init", "no/such/run"], "no run folder or file 'no/such/run'"),
        (["--labels-per-class", "5"], "uses labels: supcon"),
        (["--augment", "multi_crop", "--image-size", "16"], "small_conv_net"),
        (["--settings", "tiny"], "invalid choice"),
        (["--method", "moco", "--queue-size", "0"], "`queue_size` must be an integer"),
        (["--method", "nnclr", "--queue-size", "0"], "`queue_size` must be an integer"),
        (["--method", "moco", "--momentum", "1.5"], "`momentum` must be at most 1"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_option_of_a_method_gives_one_line_and_exit_code_2(
    options, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call("train", *options) == 2
    assert message in one_line(capsys)
    assert not list(tmp_path.rglob("config.json"))
