"""`scripts/embed.py` and `scripts/search.py`: what is embedded, survives, is refused, and is found."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_contrastive as kc
from keras_contrastive import export
from tests.test_scripts import ROOT, call, script, spawn

SIZE = 8


def tiny_encoder(channels: int = 3) -> keras.Model:
    inputs = keras.layers.Input((SIZE, SIZE, channels))
    x = keras.layers.Conv2D(6, 3, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(6)(keras.layers.Flatten()(x)))


def exported(folder, channels: int = 3):
    keras.utils.set_random_seed(0)
    export.save(tiny_encoder(channels), folder / "1", image_size=SIZE)
    return folder / "1"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An export for colour images."""
    return exported(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def grey_model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("grey"), channels=1)


def photo(path, seed: int, **options) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((40, 30), Image.BICUBIC).save(path, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """26 images of two classes; among them a copy, a name that is markup, one that is not UTF-8, and two that are damaged."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for seed in range(24):
        name, suffix = ("cats", "dogs")[seed % 2], ("jpg", "png", "bmp")[seed % 3]
        photo(folder / name / f"{seed:02d}.{suffix}", seed)
    shutil.copy(folder / "cats" / "00.jpg", folder / "dogs" / "copy.jpg")
    photo(folder / "dogs" / "<b>&.png", 50)
    odd = os.path.join(os.fsencode(folder / "dogs"), b"caf\xe9.png")
    shutil.copy(os.fsencode(folder / "dogs" / "<b>&.png"), odd)
    (folder / "cats" / "97.jpg").write_bytes(b"damaged")
    (folder / "dogs" / "98.png").write_bytes(b"")
    return folder


def embed(model, data, out, *options) -> int:
    return call("embed", model, "--data", data, "--out", out, *options)


@pytest.fixture(scope="module")
def file(model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedded") / "photos.npz"
    assert embed(model, f"folder:{folder}", out, "--batch-size", 5) == 0
    return out


def arrays_of(file) -> dict:
    with np.load(file) as arrays:
        return dict(arrays)


def embeddings_by_loader(model, source) -> np.ndarray:
    """What the export gives of what the loader decodes at once."""
    served = tf.saved_model.load(str(model)).signatures["serving_default"]
    images = np.concatenate([source.train.images, source.test.images])
    return served(images=tf.constant(images))["embedding"].numpy()


def one_line(capsys) -> str:
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1, error
    return error[0]


# embed.py


def test_embeddings_are_those_of_the_model_on_the_pixels_of_the_loader(
    model, folder, file
):
    found = arrays_of(file)
    parts = kc.data.load(f"folder:{folder}", image_size=SIZE, cache="none")
    names, rows = [], []
    for part in (parts.train, parts.test):
        for row, path in enumerate(part.paths):
            image = part.try_example(row)
            if image is not None:
                names.append(os.path.relpath(os.fsdecode(path), folder))
                rows.append(image)
    served = tf.saved_model.load(str(model)).signatures["serving_default"]
    expected = served(images=tf.constant(np.stack(rows)))["embedding"].numpy()
    assert found["ids"].tolist() == names and len(names) == 27
    # The width of a batch may change the order of a sum.
    np.testing.assert_allclose(found["embeddings"], expected, atol=1e-6)
    classes = found["class_names"][found["labels"]]
    assert classes.tolist() == [name.split(os.sep)[0] for name in names]
    skipped = (file.parent / "photos.skipped.txt").read_text().splitlines()
    assert sorted(line.split(": ")[0][-11:] for line in skipped) == [
        "cats/97.jpg",
        "dogs/98.png",
    ]
    assert not (file.parent / "photos.npz.part").exists()
    assert json.loads(str(found["about"]))["left_out"] == 2


def test_file_opens_as_an_index(file):
    index = kc.search.Index.load(file)
    found = arrays_of(file)
    assert index.ids.tolist() == found["ids"].tolist()
    np.testing.assert_array_equal(index.embeddings, found["embeddings"])


def test_arrays_are_embedded_by_their_numbers(grey_model, tmp_path):
    out = tmp_path / "new" / "digits.npz"
    assert embed(grey_model, "digits", out, "--batch-size", 512) == 0
    found, source = arrays_of(out), kc.data.load("digits", image_size=SIZE)
    train, test = (np.arange(len(part)) for part in (source.train, source.test))
    names = [f"train/{row}" for row in train] + [f"test/{row}" for row in test]
    assert found["ids"].tolist() == names
    labels = np.concatenate([source.train.labels, source.test.labels])
    np.testing.assert_array_equal(found["labels"], labels)
    expected = embeddings_by_loader(grey_model, source)
    np.testing.assert_allclose(found["embeddings"], expected, atol=1e-6)
    assert not list(out.parent.glob("*skipped*"))


def test_records_and_pairs_are_embedded_once_each(model, folder, tmp_path):
    data = ["--data", f"folder:{folder}", "--image-size", SIZE]
    assert call("make_tfrecords", *data, "--out", tmp_path / "shards") == 0
    assert embed(model, f"tfrecords:{tmp_path / 'shards'}", tmp_path / "r.npz") == 0
    assert len(np.unique(arrays_of(tmp_path / "r.npz")["ids"])) == 27
    # The first image is in a pair of either part.
    lines = ["left,right,split", *(f"cats/00.jpg,dogs/0{k}.png,train" for k in (1, 7))]
    lines += ["cats/00.jpg,dogs/13.png,test"]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    assert embed(model, f"csv:{folder / 'pairs.csv'}", tmp_path / "p.npz") == 0
    found = arrays_of(tmp_path / "p.npz")
    names = ["cats/00.jpg", "dogs/01.png", "dogs/07.png", "dogs/13.png"]
    assert sorted(found["ids"].tolist()) == names
    assert (found["labels"] == -1).all() and "class_names" not in found


@pytest.fixture(scope="module")
def interrupted(model, tmp_path_factory):
    """60 images, two of them damaged; the arguments that embed them; and the file of an uninterrupted call."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(60):
        photo(folder / "images" / f"{seed:03d}.png", seed)
    for damaged in ("000.png", "059.png"):
        (folder / "images" / damaged).write_bytes(b"damaged")
    arguments = [model, "--data", f"folder:{folder / 'images'}", "--batch-size", 2]
    whole = folder / "whole" / "a.npz"
    assert call("embed", *arguments, "--out", whole) == 0
    return arguments, whole


def assert_same_file(out, whole) -> None:
    found, expected = arrays_of(out), arrays_of(whole)
    assert len(found["ids"]) == 58
    for name in ("embeddings", "ids", "labels"):
        assert found[name].tobytes() == expected[name].tobytes()
    lists = [file.with_name("a.skipped.txt").read_text() for file in (out, whole)]
    assert sorted(lists[0].splitlines()) == sorted(lists[1].splitlines())
    assert len(lists[0].splitlines()) == 2
    assert sorted(path.name for path in out.parent.glob("a.*")) == [
        *("a.npz", "a.skipped.txt")
    ]


def done_of(out) -> int:
    """How many images the folder of an unfinished file says are done."""
    try:
        progress = out.with_name(f"{out.name}.part") / "progress.json"
        return json.loads(progress.read_text())["done"]
    except FileNotFoundError:
        return 0


SLOW = """
import sys, time
sys.path.insert(0, {scripts!r})
import embed, _console
_console.import_quietly()
import _embedding
_embedding.COMMIT_SECONDS = 0.0
class SlowEncoder(_embedding.SavedEncoder):
    def __call__(self, images):
        time.sleep(0.1)
        return super().__call__(images)
_embedding.SavedEncoder = SlowEncoder
sys.exit(embed.run(embed.main))
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_file_and_says_little(
    interrupted, tmp_path, capsys
):
    arguments, whole = interrupted
    out = tmp_path / "a.npz"
    program = SLOW.format(scripts=str(ROOT / "scripts"))
    slow = [sys.executable, "-c", program, *map(str, arguments), "--out", str(out)]
    process = subprocess.Popen(slow, stderr=subprocess.PIPE, text=True)
    while not done_of(out):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    # Another moment each time; the result must not depend on it.
    time.sleep(float(np.random.default_rng().uniform(0, 1)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = done_of(out)
    assert not out.exists() and 0 < done < 60 and done % 2 == 0
    # With other settings it is refused, and stays.
    assert call("embed", *arguments[:3], "--batch-size", 3, "--out", out) == 2
    assert "with another batch_size has left" in capsys.readouterr().err
    process = spawn("embed", *arguments, "--out", out)
    printed, error = process.communicate(timeout=120)
    assert printed.startswith(f"{out}: 58 images, 6 numbers each\n")
    listed = tmp_path / "a.skipped.txt"
    lines = [
        f"going on after {done} of 60 images",
        "(?:.* images, .*\n)*60 of 60 images, [0-9,]+ a second",  # more on slow machines
        f"2 could not be read and are left out: they are in {listed}",
    ]
    assert re.fullmatch("\n".join(lines) + "\n", error), error
    assert_same_file(out, whole)


def test_ctrl_c_says_that_the_same_command_goes_on(
    interrupted, tmp_path, capsys, monkeypatch
):
    arguments, whole = interrupted
    out = tmp_path / "a.npz"
    script("embed")
    import _embedding

    embed, batches = _embedding.SavedEncoder.__call__, []

    def stopped_after_four(self, images):
        batches.append(len(images))
        if len(batches) == 5:
            raise KeyboardInterrupt
        return embed(self, images)

    with monkeypatch.context() as patched:
        patched.setattr(_embedding.SavedEncoder, "__call__", stopped_after_four)
        assert call("embed", *arguments, "--out", out) == 130
    line = "Stopped after 8 of 60 images, which are saved. The same command goes on."
    assert line in capsys.readouterr().err.splitlines()
    assert call("embed", *arguments, "--out", out) == 0
    assert "going on after 8 of 60" in capsys.readouterr().err
    assert_same_file(out, whole)


def test_search_says_nothing_but_its_result(file, folder, tmp_path):
    query = ["--query", folder / "cats" / "00.jpg", "--html", tmp_path / "x.html"]
    printed, error = spawn("search", file, *query).communicate(timeout=120)
    assert error == "" and "itself" in printed
    assert printed.splitlines()[-1].startswith(f"{tmp_path / 'x.html'}: a page")


def test_finished_file_is_kept_unless_it_is_overwritten(
    model, folder, tmp_path, capsys
):
    out = tmp_path / "a.npz"
    out.write_bytes(b"years of work")
    data = f"folder:{folder}"
    assert embed(model, data, out) == 2
    assert "--overwrite" in one_line(capsys)
    assert out.read_bytes() == b"years of work"
    assert embed(model, data, out, "--overwrite") == 0
    assert len(arrays_of(out)["ids"]) == 27


def test_a_second_process_is_refused_the_same_file(model, folder, tmp_path, capsys):
    import fcntl

    (tmp_path / "a.npz.part").mkdir()
    with open(tmp_path / "a.npz.part" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert embed(model, f"folder:{folder}", tmp_path / "a.npz") == 2
    assert "Another process is writing" in one_line(capsys)


def test_damage_stops_where_that_is_asked_for(model, folder, tmp_path, capsys):
    data = f"folder:{folder}"
    assert embed(model, data, tmp_path / "a.npz", "--on-damage", "stop") == 1
    assert re.search(r"9[78]\.(jpg|png): .* is left out", one_line(capsys))
    assert not (tmp_path / "a.npz").exists()


def test_what_cannot_be_embedded_is_refused_in_one_line(
    model, grey_model, folder, tmp_path, capsys
):
    data, out = f"folder:{folder}", tmp_path / "a.npz"
    refused = {
        "has no saved_model.pb": [tmp_path, data, out],
        f"Did you mean '{model}'": [model.parent, data, out],
        "'digits' gives images of 1 channel (grey)": [model, "digits", out],
        "3 channels (colour)": [grey_model, data, out],
        "`spec`": [model, "flickr", out],
        "is not a folder": [model, f"folder:{tmp_path / 'none'}", out],
        "must be a name that ends in .npz": [model, data, tmp_path / "a"],
    }
    for message, arguments in refused.items():
        assert embed(*arguments) == 2
        assert message in one_line(capsys)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "saved_model.pb").write_bytes(b"damaged")
    assert embed(tmp_path / "bad", data, out) == 2
    assert "cannot be loaded as a SavedModel" in one_line(capsys)
    old = tf.Module()
    old.serve = tf.function(lambda x: x, input_signature=[tf.TensorSpec([], tf.int32)])
    tf.saved_model.save(old, str(tmp_path / "old"))
    capsys.readouterr()
    assert embed(tmp_path / "old", data, out) == 2
    assert "export it again with scripts/export.py" in one_line(capsys)
    for k in range(3):
        (tmp_path / "none").mkdir(exist_ok=True)
        (tmp_path / "none" / f"{k}.jpg").write_bytes(b"damaged")
    assert embed(model, f"folder:{tmp_path / 'none'}", out) == 2
    assert "None of 3 images can be read" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_nothing_grows_with_the_images_but_a_mapped_file(model, tmp_path, monkeypatch):
    """Rows are written where they belong, and the array that is saved is that file."""
    script("embed")
    import _embedding

    saved = []
    monkeypatch.setattr(
        _embedding.np,
        "savez",
        lambda file, **arrays: saved.append(arrays["embeddings"]),
    )
    images = np.random.default_rng(0).integers(0, 256, (9, SIZE, SIZE, 3), np.uint8)
    np.savez_compressed(tmp_path / "images.npz", x_train=images)
    assert embed(model, f"npz:{tmp_path / 'images.npz'}", tmp_path / "a.npz") == 0
    assert isinstance(saved[0], np.memmap) and saved[0].shape == (9, 6)


# search.py


def table_rows(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_query_finds_itself_and_its_copy_first(file, folder, tmp_path, capsys):
    assert call("search", file, "--query", folder / "cats" / "00.jpg", "--top", 3) == 0
    rows = table_rows(capsys.readouterr().out)
    assert rows[0] == ["", "itself", "cats/00.jpg", "cats"]
    assert rows[1] == ["1", "1.000", "dogs/copy.jpg", "dogs"]
    assert len(rows) == 4
    # Elsewhere it is a file like any other, and equal to both.
    shutil.copy(folder / "cats" / "00.jpg", tmp_path / "new.jpg")
    assert call("search", file, "--query", tmp_path / "new.jpg", "--top", 3) == 0
    rows = table_rows(capsys.readouterr().out)
    assert {row[2] for row in rows[:2]} == {"cats/00.jpg", "dogs/copy.jpg"}
    assert [row[1] for row in rows[:2]] == ["1.000", "1.000"] and len(rows) == 3


def test_query_by_id_needs_no_model(file, capsys):
    arguments = ["--query", "cats/00.jpg", "dogs/01.png", "--top", 1]
    assert call("search", file, *arguments, "--model", "nowhere") == 0
    printed = capsys.readouterr().out
    assert printed.count("Most similar to") == 2
    assert ["1", "1.000", "dogs/copy.jpg", "dogs"] in table_rows(printed)
    # Equal ones come in the order of the file; the query itself before them.
    assert call("search", file, "--query", "dogs/copy.jpg", "--top", 1) == 0
    rows = table_rows(capsys.readouterr().out)
    assert [row[1:3] for row in rows] == [
        ["itself", "dogs/copy.jpg"],
        ["1.000", "cats/00.jpg"],
    ]


def test_page_of_neighbours_holds_all_names_escaped(file, folder, tmp_path, capsys):
    page = tmp_path / "pages" / "x.html"
    arguments = ["--query", folder / "dogs" / "<b>&.png", "--top", 40, "--html", page]
    assert call("search", file, *arguments) == 0
    html = page.read_text(encoding="utf-8")
    names = [
        name.encode("utf-8", "replace").decode() for name in arrays_of(file)["ids"]
    ]
    for name in names:
        name = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert f'title="{name}"' in html
    assert "<b>&" not in html and "script" not in html.replace("scripts/", "")
    assert (
        html.count("<img ") == 1 + len(names)
        and "missing" not in html.split("</style>")[-1]
    )
    assert "default-src 'none'" in html.replace("&#x27;", "'")


def test_images_that_are_gone_are_grey_tiles_with_their_names(model, tmp_path, capsys):
    for seed in range(5):
        photo(tmp_path / "few" / f"{seed}.jpg", seed)
    assert embed(model, f"folder:{tmp_path / 'few'}", tmp_path / "few.npz") == 0
    (tmp_path / "few").rename(tmp_path / "moved")
    (tmp_path / "moved" / "4.jpg").write_bytes(b"damaged")
    arguments = ["--query", tmp_path / "moved" / "0.jpg", "--html", tmp_path / "x.html"]
    assert call("search", tmp_path / "few.npz", *arguments) == 0
    assert (tmp_path / "x.html").read_text().count('class="missing"') == 5
    arguments += ["--data", f"folder:{tmp_path / 'moved'}"]
    assert call("search", tmp_path / "few.npz", *arguments) == 0
    assert (tmp_path / "x.html").read_text().count('class="missing"') == 1


def test_arrays_are_shown_from_where_they_are(grey_model, tmp_path, capsys):
    out, page = tmp_path / "digits.npz", tmp_path / "x.html"
    assert embed(grey_model, "digits", out, "--batch-size", 512) == 0
    photo(tmp_path / "colour.png", 0)  # served as grey, as the model takes it
    arguments = ["--query", "test/3", tmp_path / "colour.png", "--html", page]
    assert call("search", out, *arguments) == 0
    html = page.read_text()
    assert html.count("<img ") == 1 + 11 + 1 + 10 and 'class="pixels"' in html
    label = kc.data.load("digits").test.labels[3]
    assert table_rows(capsys.readouterr().out)[0] == [
        "",
        "itself",
        "test/3",
        str(label),
    ]
    # The same number of another set is another image: none is shown.
    np.savez(tmp_path / "o.npz", x_train=np.zeros((9, 8, 8), np.uint8))
    other = ["--query", "test/3", "--html", page, "--data", f"npz:{tmp_path / 'o.npz'}"]
    assert call("search", out, *other) == 0
    assert "has changed since" in one_line(capsys)
    assert page.read_text().count("<img ") == 0


def test_duplicates_are_the_planted_copies(file, tmp_path, capsys):
    page = tmp_path / "x.html"
    arguments = ["--duplicates", "--threshold", 0.99999, "--html", page]
    assert call("search", file, *arguments) == 0
    printed = capsys.readouterr().out
    assert "2 groups with 4 of 27 images" in printed and "2 beside the first" in printed
    rows = table_rows(printed)
    assert ["cats/00.jpg", "dogs/copy.jpg"] in [
        sorted([one[3], other[3]]) for one, other in zip(rows[::2], rows[1::2])
    ]
    assert all(row[2] == "1.000" for row in rows[::2])
    assert page.read_text(encoding="utf-8").count("<img ") == 4
    assert call("search", file, "--duplicates", "--threshold", 1e-9, "--top", 1) == 0
    printed = capsys.readouterr().out
    assert "1 group with" in printed and "more" in printed
    assert call("search", file, *arguments[:3], "--top", 1) == 0
    assert "Not shown: 1 more group, no larger; --top 2" in capsys.readouterr().out


def test_what_cannot_be_searched_is_refused_in_one_line(
    file, folder, model, tmp_path, capsys
):
    good = folder / "cats" / "00.jpg"
    (tmp_path / "x.npz").write_bytes(b"damaged")
    kc.search.Index(np.eye(3)).save(tmp_path / "own.npz")
    refused = {
        "either --query IMAGE... or --duplicates": [file],
        "or --duplicates (see": [file, "--query", good, "--duplicates"],
        "--threshold goes with": [file, "--query", good, "--threshold", 0.9],
        "must be a number > 0 and at most 1": [file, "--duplicates", "--threshold", 98],
        "There is no file": [tmp_path / "none.npz", "--duplicates"],
        "no .npz file": [tmp_path / "x.npz", "--duplicates"],
        "was not written by scripts/embed.py": [tmp_path / "own.npz", "--duplicates"],
        "is neither a file nor the id": [file, "--query", "cats/96.jpg"],
        "97.jpg' cannot be read: not an image": [
            *(file, "--query", good, folder / "cats" / "97.jpg")
        ],
        "cats' is not a file": [file, "--query", folder / "cats"],
        "with --model": [file, "--query", good, "--model", tmp_path],
    }
    for message, arguments in refused.items():
        assert call("search", *arguments) == 2
        assert message in one_line(capsys)


def test_another_model_is_refused(file, folder, model, tmp_path, capsys):
    arguments = [file, "--query", folder / "cats" / "00.jpg", "--top", 1, "--model"]
    wide = tf.Module()
    images = tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8, name="images")
    embed_wide = tf.function(lambda images: {"embedding": tf.zeros([1, 7])}, [images])
    tf.saved_model.save(wide, str(tmp_path / "wide"), {"resized": embed_wide})
    capsys.readouterr()
    assert call("search", *arguments, tmp_path / "wide") == 2
    assert "is not the model" in one_line(capsys)
    shutil.copytree(model, tmp_path / "copied")
    assert call("search", *arguments, tmp_path / "copied") == 0
    assert capsys.readouterr().err == ""
    # Of the same width and with other weights, by its card.
    file_of_card = tmp_path / "copied" / "assets" / "model_card.json"
    card = json.loads(file_of_card.read_text())
    file_of_card.write_text(json.dumps({**card, "fingerprint": "0" * 16}))
    assert call("search", *arguments, tmp_path / "copied") == 2
    assert "is not the model" in one_line(capsys)


def test_long_names_are_cut_in_the_middle_and_stay_in_their_row(capsys):
    script("search")
    import _search

    name = "a/very/long/path" * 10 + "\n\x1b[31m\udce9/end.jpg"
    shown = _search._cut(name, 40).plain
    assert len(shown) == 40 and shown.startswith("a/very/long") and "…" in shown
    assert shown.endswith("/end.jpg") and shown.isprintable()
