"""The scripts as people type them: what they write, refuse, survive, and say."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc

ROOT = Path(kc.__file__).resolve().parents[1]
# A run of seconds: images of 8 x 8, 2 epochs of batches of 8.
QUICK = [
    "--encoder",
    "conv_net",
    "--augment",
    "digits",
    "--epochs",
    "2",
    "--batch-size",
    "8",
]


def script(name):
    """The script as a module, imported as `python scripts/NAME.py` would."""
    folder = str(ROOT / "scripts")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(
        f"script_{name}", f"{folder}/{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name, *arguments):
    """Run a script in this process; returns its exit code."""
    module = script(name)
    try:
        return module.run(
            lambda: module.main([str(argument) for argument in arguments])
        )
    except SystemExit as stop:  # argparse
        return stop.code


def spawn(name, *arguments):
    """A script in a process of its own, which Ctrl-C reaches: a shell's background jobs are born deaf to it."""
    command = [
        sys.executable,
        str(ROOT / "scripts" / f"{name}.py"),
        *map(str, arguments),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return write_quarters(tmp_path_factory.mktemp("data") / "quarters.npz")


def write_quarters(path):
    """Images of four classes, each a bright quarter on noise."""
    rng = np.random.default_rng(0)

    def part(count):
        labels = np.arange(count) % 4
        images = rng.integers(0, 100, (count, 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels):
            image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 150
        return images, labels

    (x, y), (x_test, y_test) = part(48), part(20)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="module")
def finished(npz, tmp_path_factory):
    """A finished run, and what it printed. In a process of its own, as a user would start it."""
    out = tmp_path_factory.mktemp("runs") / "quarters"
    process = spawn("train", "--data", f"npz:{npz}", *QUICK, "--out", out)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return out, stdout, stderr


def test_train_leaves_everything_in_the_run_folder(finished):
    out, _, _ = finished
    for name in (
        "config.json",
        "metrics.json",
        "model.keras",
        "saved_model/1/saved_model.pb",
    ):
        assert (out / name).is_file(), name
    assert list((out / "tensorboard").rglob("events*"))
    assert list((out / "checkpoints").glob("*.index"))
    for name in ("embeddings", "neighbours", "views"):
        picture = tf.io.decode_png((out / f"{name}.png").read_bytes(), channels=3)
        assert tf.math.reduce_std(tf.cast(picture, tf.float32)) > 1  # not blank


def test_metrics_hold_what_the_documentation_says(finished):
    metrics = json.loads((finished[0] / "metrics.json").read_text())
    assert set(metrics) == {
        "history",
        "few_label",
        "knn",
        "seconds",
        "images_per_second",
    }
    assert len(metrics["history"]["loss"]) == 2
    for representation in ("pixels", "untrained", "trained"):
        assert 0 <= metrics["knn"][representation] <= 1
        assert set(metrics["few_label"][representation]) == {"1", "5", "10"}
        for cell in metrics["few_label"][representation].values():
            assert 0 <= cell["mean"] <= 1 and cell["std"] >= 0


def test_config_holds_the_options_and_the_version(finished):
    config = json.loads((finished[0] / "config.json").read_text())
    assert config["version"] == kc.__version__
    assert (config["encoder"], config["epochs"], config["batch_size"]) == (
        "conv_net",
        2,
        8,
    )


def test_output_says_what_happens_without_alarming(finished):
    out, stdout, stderr = finished
    assert "pixels" in stdout and "untrained" in stdout and "trained" in stdout
    assert f"scripts/evaluate.py {out}" in stdout
    assert "48 images" in stderr and "epoch" in stderr
    alarming = r"(?i)warning|error|traceback|deprecat|could not|failed|unable"
    assert not re.search(alarming, stdout + stderr), stdout + stderr


def test_saved_model_of_the_run_serves_what_the_model_predicts(finished, npz):
    images = np.load(npz)["x_test"][..., None]
    served = tf.saved_model.load(str(finished[0] / "saved_model" / "1"))
    embedding = served.signatures["serving_default"](images=tf.constant(images))[
        "embedding"
    ]
    features = keras.models.load_model(finished[0] / "model.keras").predict(
        images, verbose=0
    )
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_evaluate_repeats_the_table_of_the_run(finished, capsys):
    out, stdout, _ = finished
    assert call("evaluate", out) == 0

    def numbers(text):
        return [
            re.findall(r"\d+\.\d", line)
            for line in text.splitlines()
            if "trained" in line and "│" in line
        ]

    again, before = numbers(capsys.readouterr().out), numbers(stdout)
    # Few labels, each with a deviation, and kNN; then come measures that train.py does not take.
    assert [row[:7] for row in again] == before
    assert all(len(row) > len(before[0]) for row in again)


def test_evaluate_measures_on_other_data(finished, npz, capsys):
    assert call("evaluate", finished[0], "--data", f"npz:{npz}") == 0
    assert "trained" in capsys.readouterr().out


def test_export_writes_a_saved_model(finished, tmp_path, capsys):
    assert call("export", finished[0], "--out", tmp_path / "served" / "1") == 0
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
    assert "serving_default" in capsys.readouterr().out


def test_export_says_nothing_but_its_result(finished, tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")  # the tests' own, which hides errors too
    process = spawn("export", finished[0], "--out", tmp_path / "1", "--float16")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0 and stderr == ""
    assert len(stdout.splitlines()) == 1


def test_export_of_versions_serves_labels_and_neighbours(
    finished, npz, tmp_path, capsys
):
    run, served = finished[0], tmp_path / "served"
    assert call("export", run, "--versions", served) == 0
    found = tmp_path / "found.npz"
    data = f"npz:{npz}"
    assert call("embed", served / "1", "--data", data, "--out", found) == 0
    more = ["--classify", "--float16", "--index", found, "--top", 3]
    assert call("export", run, "--versions", served, *more) == 0
    assert "% of the test images right" in capsys.readouterr().out
    assert sorted(path.name for path in served.iterdir()) == ["1", "2"]
    card = json.loads((served / "2" / "assets" / "model_card.json").read_text())
    assert card["data"]["spec"] == data
    assert card["method"] == "simclr"
    assert card["settings"]["epochs"] == 2
    assert (
        card["figures"]["knn"] == json.loads((run / "metrics.json").read_text())["knn"]
    )
    assert (card["weights_dtype"], card["indexed_images"]) == ("float16", 68)
    with np.load(npz) as arrays:
        images, labels = arrays["x_test"][..., None], arrays["y_test"]
    signatures = tf.saved_model.load(str(served / "2")).signatures
    predicted = signatures["classify"](images=tf.constant(images))["label"]
    right = np.mean(predicted.numpy() == labels)
    assert right == pytest.approx(card["figures"]["classify_accuracy"], abs=0.051)
    encoded = tf.stack([tf.io.encode_png(image) for image in images[:4]])
    ids = signatures["search"](bytes=encoded)["ids"].numpy()
    assert ids.shape == (4, 3)
    # Each is in the index itself.
    assert ids[:, 0].tolist() == [b"test/0", b"test/1", b"test/2", b"test/3"]


def test_export_with_embeddings_of_another_model_is_refused(finished, tmp_path, capsys):
    kc.export.save(kc.encoders.conv_net((8, 8, 1)), tmp_path / "other")
    embeddings = np.eye(3, 128, dtype=np.float32)
    about = {"model_weights": "0" * 16}
    arrays = {"embeddings": embeddings, "about": np.array(json.dumps(about))}
    np.savez(tmp_path / "other.npz", **arrays)
    served = tmp_path / "served"
    options = ["--versions", served, "--index", tmp_path / "other.npz"]
    assert call("export", finished[0], *options) == 2
    assert "was not made by this run's encoder" in one_line(capsys)
    assert not served.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of the arguments --out --versions is required"),
        (["--out", "a", "--versions", "b"], "not allowed with argument"),
        (["--out", "a", "--index", "no.npz"], "there is no file 'no.npz'"),
        (["--out", "a", "--top", "3"], "--top goes with --index"),
    ],
    ids=["nowhere", "twice", "index", "top"],
)
def test_bad_option_of_export_gives_one_line(finished, options, message, capsys):
    assert call("export", finished[0], *options) == 2
    assert message in one_line(capsys)


def test_finished_run_is_refused_and_resume_says_so(finished, npz, capsys):
    arguments = ["--data", f"npz:{npz}", *QUICK, "--out", finished[0]]
    assert call("train", *arguments) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert call("train", *arguments, "--resume") == 0
    assert "finished" in capsys.readouterr().out


def weights(out):
    return keras.models.load_model(out / "model.keras").get_weights()


@pytest.fixture(scope="module")
def long_epochs(npz, tmp_path_factory):
    """Options of a run of 2 epochs of 75 steps, and the folder of one that was never interrupted."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 8, 8), dtype=np.uint8)
    np.savez(folder / "long.npz", x_train=images, x_test=images[:20])
    arguments = ["--data", f"npz:{folder / 'long.npz'}", *QUICK]
    assert call("train", *arguments, "--out", folder / "whole") == 0
    return arguments, folder / "whole"


def assert_same_run(out, whole):
    for one, other in zip(weights(whole), weights(out)):
        np.testing.assert_array_equal(one, other)
    history = [
        json.loads((o / "metrics.json").read_text())["history"] for o in (whole, out)
    ]
    assert history[0]["loss"] == history[1]["loss"]


def test_run_killed_at_random_steps_resumes_to_the_same_weights(
    long_epochs, tmp_path, capsys
):
    arguments, whole = long_epochs
    out = tmp_path / "killed"
    process = spawn("train", *arguments, "--out", out)
    while not list(out.glob("checkpoints/*.index")):  # that of step 50 of 75
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = spawn("train", *arguments, "--out", out, "--resume")
    for line in process.stderr:
        if "resuming" in line:
            break
    # Another moment each time; the result must not depend on it.
    time.sleep(float(np.random.default_rng().uniform(0, 4)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    capsys.readouterr()
    if not (out / "metrics.json").exists():
        assert call("train", *arguments, "--out", out, "--resume") == 0
        assert "resuming after step" in capsys.readouterr().err
    assert_same_run(out, whole)


def test_ctrl_c_saves_and_the_run_goes_on_from_there(long_epochs, tmp_path, capsys):
    arguments, whole = long_epochs
    out = tmp_path / "stopped"
    process = spawn("train", *arguments, "--out", out)
    while not list(out.glob("checkpoints/*.index")):  # that of step 50 of 75
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "--resume" in stderr and "Traceback" not in stderr
    assert not (out / "metrics.json").exists()
    # Options that are not given are the run's own.
    assert call("train", "--out", out, "--resume") == 0
    assert "resuming after step" in capsys.readouterr().err
    assert_same_run(out, whole)


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ({}, ["--temperature", "0.3"]),
        ({}, ["--encoder", "small_conv_net"]),
        ({"version": "0"}, []),
        ({"train_images": 47}, []),
    ],
    ids=["temperature", "encoder", "version", "data"],
)
def test_resume_with_another_configuration_is_refused(
    changed, options, finished, tmp_path, capsys
):
    config = json.loads((finished[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
    assert call("train", "--out", tmp_path, *options, "--resume") == 2
    name = next(iter(changed), options[0][2:] if options else "")
    assert f"was made with {name}=" in one_line(capsys)


def test_loss_that_turns_nan_ends_with_exit_code_1_and_keeps_the_checkpoint(
    npz, tmp_path, capsys, monkeypatch
):
    take_loss = kc.ContrastiveModel.take_loss

    def poisoned(model, *args, **kwargs):
        loss = take_loss(model, *args, **kwargs)
        return tf.where(tf.convert_to_tensor(model.step) < 8, loss, np.nan)

    monkeypatch.setattr(kc.ContrastiveModel, "take_loss", poisoned)
    out = tmp_path / "nan"
    assert call("train", "--data", f"npz:{npz}", *QUICK, "--out", out) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "loss became nan in epoch 2, at step 9" in error
    assert not (out / "metrics.json").exists()
    assert [path.stem for path in (out / "checkpoints").glob("*.index")] == ["ckpt-6"]


def test_unlabelled_folder_trains_and_skips_broken_files(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        image = tf.constant(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))
        (photos / f"{number}.png").write_bytes(tf.io.encode_png(image).numpy())
    (photos / "broken.jpg").write_bytes(b"no picture")
    out = tmp_path / "run"
    quick = [
        "--encoder",
        "conv_net",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--image-size",
        "16",
    ]
    assert call("train", "--data", f"folder:{photos}", *quick, "--out", out) == 0
    shown = capsys.readouterr()
    assert "No labels" in shown.out
    assert "broken.jpg" in (out / "skipped.txt").read_text()
    metrics = json.loads((out / "metrics.json").read_text())
    assert "few_label" not in metrics and len(metrics["history"]["loss"]) == 1


def test_augmentation_in_the_pipeline_trains_like_in_the_step(npz, tmp_path):
    for place in ("step", "pipeline"):
        options = ["--augment-on", place, "--out", tmp_path / place]
        assert call("train", "--data", f"npz:{npz}", *QUICK, *options) == 0
    history = [
        json.loads((tmp_path / place / "metrics.json").read_text())["history"]["loss"]
        for place in ("step", "pipeline")
    ]
    # The same draws; views through the pipeline are rounded to 1/255.
    np.testing.assert_allclose(*history, rtol=0.02)


def one_line(capsys) -> str:
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "digit"], "Did you mean 'digits'"),
        (["--data", "npz:no/such.npz"], "no file"),
        (["--data", "folder:no/such"], "no/such"),
        (["--method", "simcrl"], "Did you mean 'simclr'"),
        (["--encoder", "resnet"], "Did you mean"),
        (["--augment", "digit"], "Did you mean 'digits'"),
        (["--batch-size", "1"], "must be an integer >= 2"),
        (["--batch-size", "5000"], "1297"),
        (["--temperature", "0"], "must be a finite number > 0"),
        (["--temperature", "nan"], "must be a finite number > 0"),
        (["--method", "siamese", "--margin", "-1"], "must be a finite number > 0"),
        (["--learning-rate", "inf"], "must be a finite number > 0"),
        (["--epochs", "0"], "must be an integer >= 1"),
        (["--image-size", "4"], "at least 8 x 8"),
        (["--out", "/proc/run"], "cannot be written"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--precision", "float8"], "invalid choice"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_bad_option_gives_one_line_and_exit_code_2(
    options, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call("train", *options) == 2
    assert message in one_line(capsys)
    assert not list(tmp_path.rglob("config.json"))


def bad_arrays():
    good = np.zeros((20, 8, 8), np.uint8)
    nan = np.full((20, 8, 8), np.nan, np.float32)
    yield "rank", {"x_train": good[0]}
    yield "dtype", {"x_train": good.astype(np.int32)}
    yield "nan", {"x_train": nan}
    yield "labels", {"x_train": good, "y_train": np.zeros(19, int)}
    yield "missing", {"images": good}


@pytest.mark.parametrize(
    "arrays", [pytest.param(a, id=name) for name, a in bad_arrays()]
)
def test_bad_arrays_give_one_line_and_exit_code_2(arrays, tmp_path, capsys):
    np.savez(tmp_path / "bad.npz", **arrays)
    assert (
        call("train", "--data", f"npz:{tmp_path}/bad.npz", "--out", tmp_path / "run")
        == 2
    )
    assert "bad.npz" in one_line(capsys)


def test_single_test_image_is_refused_before_the_training(tmp_path, capsys):
    images = np.zeros((20, 8, 8), np.uint8)
    np.savez(tmp_path / "one.npz", x_train=images, x_test=images[:1])
    assert (
        call("train", "--data", f"npz:{tmp_path}/one.npz", "--out", tmp_path / "run")
        == 2
    )
    assert "two images or more" in one_line(capsys)


def test_empty_folder_gives_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    assert (
        call("train", "--data", f"folder:{tmp_path}/photos", "--out", tmp_path / "run")
        == 2
    )
    assert "photos" in one_line(capsys)


def test_show_views_draws_a_row_for_each_image(npz, tmp_path, capsys, monkeypatch):
    drawn = []
    views = kc.pictures.views
    monkeypatch.setattr(
        kc.pictures, "views", lambda *arrays: drawn.append(arrays) or views(*arrays)
    )
    out = tmp_path / "views.png"
    options = ["--data", f"npz:{npz}", "--augment", "weak", "--out", out]
    assert call("show_views", *options, "--images", "3", "--views", "4") == 0
    assert "3 images" in capsys.readouterr().out
    images, made = drawn[0]
    assert made.shape == (3, 4, *images.shape[1:])
    expected = kc.augment.views(images, 4, kc.augment.weak(images.shape[1]), 0, 0)
    np.testing.assert_allclose(made, expected, atol=1e-6)
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--augment", "digit", "--out", "a.png"], "Did you mean 'digits'"),
        (["--data", "digit", "--out", "a.png"], "Did you mean 'digits'"),
        (["--out", "a.txt"], "must end in .png"),
        (["--out", "nowhere/a.png"], "no folder 'nowhere'"),
        (["--images", "0", "--out", "a.png"], "must be an integer >= 1"),
    ],
    ids=["augment", "data", "suffix", "folder", "images"],
)
def test_bad_option_of_show_views_gives_one_line_and_no_file(
    options, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call("show_views", *options) == 2
    assert message in one_line(capsys)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_no_run_is_never_emptied(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    for option in ([], ["--overwrite"], ["--resume"]):
        assert call("train", "--out", tmp_path, *option) == 2
        assert "not a run folder" in one_line(capsys)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "name", ["train", "evaluate", "export", "embed", "search", "show_views"]
)
def test_help_answers_without_loading_tensorflow(name):
    code = f"import sys; sys.path.insert(0, 'scripts'); sys.argv = ['{name}.py', '--help']\n"
    code += f"try:\n    import {name}; {name}.main()\n"
    code += "finally:\n    assert 'tensorflow' not in sys.modules"
    environment = {**os.environ, "COLUMNS": "100"}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert shown.returncode == 0, shown.stderr
    assert "python scripts/" in shown.stdout


def test_help_of_train_names_every_method_encoder_and_recipe(capsys):
    assert call("train", "--help") == 0
    shown = capsys.readouterr().out
    for name in [*kc.recipes.RECIPES, *kc.encoders.ENCODERS, *kc.augment.RECIPES]:
        assert name in shown
    assert call("show_views", "--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in kc.augment.RECIPES)
