"""The scripts on data of real sizes: shards made and trained on, folders decoded as they are asked for, given pairs."""

from __future__ import annotations

import hashlib
import json
import os
import signal

import numpy as np
import pytest

from tests.test_data_files import numbered_files
from tests.test_scripts import QUICK, call, spawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 images of two classes, two of which cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("cats", "dogs"):
        numbered_files(folder / name, 30)
        (folder / name / "007.png").write_bytes(b"damaged")
    return folder


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "shards"
    options = ["--image-size", 16, "--examples-per-shard", 10]
    assert (
        call("make_tfrecords", "--data", f"folder:{folder}", "--out", out, *options)
        == 0
    )
    return out


def test_make_tfrecords_writes_counted_and_summed_shards(shards):
    counts = json.loads((shards / "counts.json").read_text())["shards"]
    assert sum(shard["count"] for shard in counts.values()) == 58
    for line in (shards / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((shards / name).read_bytes()).hexdigest() == digest
        assert counts[name]["sha256"] == digest
    skipped = (shards / "skipped.txt").read_text().splitlines()
    assert len(skipped) == 2 and all("007.png: not an image" in s for s in skipped)


def test_make_tfrecords_again_goes_on_and_keeps_the_list(folder, shards, capsys):
    before = {file: file.stat().st_mtime_ns for file in shards.glob("*.tfrecord")}
    (lost,) = (file for file in before if "train-00001" in file.name)
    content = lost.read_bytes()
    lost.unlink()
    options = ["--image-size", 16, "--examples-per-shard", 10]
    arguments = ["--data", f"folder:{folder}", "--out", shards, *options]
    assert call("make_tfrecords", *arguments) == 0
    assert lost.read_bytes() == content
    for file in set(before) - {lost}:
        assert file.stat().st_mtime_ns == before[file]
    assert len((shards / "skipped.txt").read_text().splitlines()) == 2
    assert "58 images in 7 shards" in capsys.readouterr().out
    assert call("make_tfrecords", *arguments, "--encoding", "raw") == 2
    assert "was written with encoding='png'" in capsys.readouterr().err


def test_make_tfrecords_refuses_what_it_cannot_write_in_one_line(tmp_path, capsys):
    numbered_files(tmp_path, 4)
    (tmp_path / "pairs.csv").write_text("000.png,001.png\n002.png,003.png\n")
    pairs = ["--data", f"csv:{tmp_path / 'pairs.csv'}"]
    assert call("make_tfrecords", *pairs, "--out", tmp_path / "a") == 2
    assert "Given pairs and triplets stay" in capsys.readouterr().err
    digits = ["--data", "digits", "--encoding", "files"]
    assert call("make_tfrecords", *digits, "--out", tmp_path / "a") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_train_on_shards_and_evaluate(shards, tmp_path):
    out = tmp_path / "run"
    data = ["--data", f"tfrecords:{shards}", "--cache", "none"]
    assert call("train", *data, *QUICK, "--out", out) == 0
    measured = json.loads((out / "metrics.json").read_text())
    assert set(measured["knn"]) == {"pixels", "untrained", "trained"}
    assert call("evaluate", out) == 0


def test_train_on_a_folder_that_is_decoded_as_asked_for_resumes(folder, tmp_path):
    out = tmp_path / "run"
    data = ["--data", f"folder:{folder}", "--image-size", 16, "--cache", "none"]
    process = spawn("train", *data, *QUICK, "--epochs", 400, "--out", out)
    for line in process.stderr:
        if line.startswith("epoch"):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert len((out / "skipped.txt").read_text().splitlines()) == 2
    assert call("train", "--out", out, "--resume", "--cache", "memory") == 2


def test_train_stops_at_damage_in_one_line(folder, tmp_path, capsys):
    data = ["--data", f"folder:{folder}", "--image-size", 16, "--cache", "none"]
    options = [*QUICK, "--on-damage", "stop", "--out", tmp_path / "run"]
    assert call("train", *data, *options) != 0
    error = capsys.readouterr().err.splitlines()[-1]
    assert "007.png: not an image" in error and "is left out" in error


def test_train_on_given_pairs(folder, tmp_path):
    names = [f"{folder}/cats/{k:03d}.png" for k in range(30)]
    lines = [f"{a},{b}" for a, b in zip(names[::2], names[1::2])]
    (tmp_path / "pairs.csv").write_text("\n".join(["left,right", *lines]) + "\n")
    out = tmp_path / "run"
    data = ["--data", f"csv:{tmp_path / 'pairs.csv'}", "--image-size", 16]
    assert call("train", *data, *QUICK, "--batch-size", 4, "--out", out) == 0
    history = json.loads((out / "metrics.json").read_text())["history"]
    assert np.all(np.isfinite(history["loss"]))


def test_show_views_draws_of_shards(shards, tmp_path):
    out = tmp_path / "views.png"
    assert call("show_views", "--data", f"tfrecords:{shards}", "--out", out) == 0
    assert out.stat().st_size > 1000


def test_train_by_pair_ids_trains_on_pairs_and_judges_by_no_class(folder, tmp_path):
    names = [f"{folder}/cats/{k:03d}.png" for k in range(30)]
    lines = [f"{name},{k // 2}" for k, name in enumerate(names)]
    (tmp_path / "ids.csv").write_text("\n".join(["path,pair_id", *lines]) + "\n")
    out = tmp_path / "run"
    data = ["--data", f"csv:{tmp_path / 'ids.csv'}", "--image-size", 16]
    assert call("train", *data, *QUICK, "--out", out) == 0
    measured = json.loads((out / "metrics.json").read_text())
    assert "knn" not in measured and np.all(np.isfinite(measured["history"]["loss"]))


def test_a_damaged_file_of_any_name_is_listed(tmp_path):
    numbered_files(tmp_path / "images", 12)
    name = os.path.join(os.fsencode(tmp_path / "images"), b"caf\xe9.jpg")
    with open(name, "wb") as file:
        file.write(b"damaged")
    for cache in ("memory", "none"):
        out = tmp_path / cache
        data = ["--data", f"folder:{tmp_path / 'images'}", "--cache", cache]
        options = ["--image-size", 16, *QUICK, "--out", out]
        assert call("train", *data, *options) == 0
        assert b"caf\xe9.jpg: " in (out / "skipped.txt").read_bytes()


def test_one_loss_trains_on_labels_and_keeps_the_figures(tmp_path, capsys, monkeypatch):
    generator = np.random.default_rng(0)
    labels = np.arange(80) % 4
    images = np.clip(
        60 * labels[:, None, None] + generator.normal(0, 9, (80, 8, 8)), 0, 255
    )
    data = tmp_path / "images.npz"
    np.savez(data, x_train=images.astype(np.uint8), y_train=labels)
    options = ["--data", f"npz:{data}", "--epochs", 2, "--batch-size", 20]
    assert call("one_loss", *options, "--loss", "SupConLoss") == 0
    out = capsys.readouterr().out
    assert out.count("kNN (k = 20)") == 3 and "trained" in out


def test_one_loss_refuses_images_without_labels(tmp_path, capsys):
    data = tmp_path / "images.npz"
    np.savez(data, x_train=np.zeros((8, 8, 8), np.uint8))
    assert call("one_loss", "--data", f"npz:{data}") == 2
    assert "`--data` must have labels" in capsys.readouterr().err
