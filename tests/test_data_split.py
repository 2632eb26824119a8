"""Train and test classes that are disjoint, of every form of data, and data that have no classes to split."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest

from keras_contrastive import data
from keras_contrastive.data.split import split_by_class
from tests.test_data_folder import picture, save
from tests.test_data_source import FakeFeature, fake_tfds

NAMES = ["ant", "bee", "cow", "dog", "eel"]
TRAIN = {0, 1, 2}  # the first half of five, rounded up
LABELS = np.arange(25) % 6 - 1  # 4 of each class and 5 of none, mixed
IN_TEST = np.arange(25) % 4 == 3  # some of every class
PICTURES = np.stack([np.asarray(picture(16, 16, seed=k)) for k in range(25)])


def npz(folder, monkeypatch, parts):
    arrays = {"class_names": np.array(NAMES)}
    for suffix, rows in parts.items():
        arrays[f"x_{suffix}"], arrays[f"y_{suffix}"] = PICTURES[rows], LABELS[rows]
    np.savez(folder / "a.npz", **arrays)
    return f"npz:{folder / 'a.npz'}"


def keras_dataset(folder, monkeypatch, parts):
    arrays = tuple((PICTURES[rows], LABELS[rows]) for rows in parts.values())
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: arrays)
    monkeypatch.setattr(data.source, "_CLASS_NAMES", {"cifar10": NAMES})
    return "cifar10"


def folder_of(folder, monkeypatch, parts):
    for name, rows in parts.items():
        root = folder / name if len(parts) > 1 else folder
        for k in rows:
            of = root / NAMES[LABELS[k]] if LABELS[k] >= 0 else root
            save(of / f"{k:02}.png", picture(16, 16, seed=k))
    return f"folder:{folder}"


def csv(folder, monkeypatch, parts):
    lines = ["path,label,split"]
    for name, rows in parts.items():
        for k in rows:
            save(folder / f"{k:02}.png", picture(16, 16, seed=k))
            word = NAMES[LABELS[k]] if LABELS[k] >= 0 else ""
            lines.append(f"{k:02}.png,{word},{name}")
    (folder / "t.csv").write_text("\n".join(lines))
    return f"csv:{folder / 't.csv'}"


def tfrecords(folder, monkeypatch, parts):
    sets = {n: data.Part(PICTURES[r], LABELS[r], NAMES) for n, r in parts.items()}
    data.write_records(sets, folder)
    return f"tfrecords:{folder}"


def tfds(folder, monkeypatch, parts):
    features = {"image": FakeFeature((16, 16, 3)), "label": FakeFeature((), NAMES)}
    splits = {
        name: [{"image": PICTURES[k], "label": LABELS[k]} for k in rows]
        for name, rows in parts.items()
    }
    fake = fake_tfds(features, ("image", "label"), splits)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    return "tfds:fake"


WHOLE = [(folder_of, cache) for cache in ("memory", "disk", "none")]
WHOLE += [(npz, "auto"), (csv, "none"), (tfrecords, "auto"), (tfds, "auto")]
OWN_TEST = [(folder_of, "disk"), (npz, "auto"), (csv, "memory"), (tfrecords, "none")]
OWN_TEST += [(tfds, "auto"), (keras_dataset, "auto")]


def ids(forms):
    return [f"{make.__name__}-{cache}" for make, cache in forms]


def shown(part):
    """Which pictures these are, in their order."""
    known = {image.tobytes(): k for k, image in enumerate(PICTURES)}
    return [known[image.tobytes()] for image in part.images]


def loaded(tmp_path, spec, cache, **options):
    options = {"split": "classes", "image_size": 16, "cache": cache, **options}
    return data.load(spec, cache_dir=tmp_path / "cache", **options)


def check(source, train, test):
    """The parts hold the pictures of `train` and `test`, with the labels and names that they had."""
    for part, expected in ((source.train, train), (source.test, test)):
        seen = shown(part)
        assert sorted(seen) == sorted(expected)
        assert part.labels.tolist() == LABELS[seen].tolist()
        assert part.class_names == NAMES
        assert len(part) == len(expected)


@pytest.mark.parametrize(("make", "cache"), WHOLE, ids=ids(WHOLE))
def test_classes_of_data_without_a_test_part_are_split_in_halves(
    tmp_path, monkeypatch, make, cache
):
    spec = make(tmp_path, monkeypatch, {"train": range(25)})
    check(
        loaded(tmp_path, spec, cache),
        [k for k in range(25) if LABELS[k] in TRAIN],
        [k for k in range(25) if LABELS[k] >= 0 and LABELS[k] not in TRAIN],
    )


@pytest.mark.parametrize(("make", "cache"), OWN_TEST, ids=ids(OWN_TEST))
def test_classes_of_data_with_a_test_part_keep_what_it_sets_apart(
    tmp_path, monkeypatch, make, cache
):
    parts = {"train": np.flatnonzero(~IN_TEST), "test": np.flatnonzero(IN_TEST)}
    check(
        loaded(tmp_path, make(tmp_path, monkeypatch, parts), cache),
        [k for k in parts["train"] if LABELS[k] in TRAIN],
        [k for k in parts["test"] if LABELS[k] >= 0 and LABELS[k] not in TRAIN],
    )


@pytest.mark.parametrize("make", [npz, folder_of, tfrecords])
def test_classes_are_the_same_for_every_seed(tmp_path, monkeypatch, make):
    spec = make(tmp_path, monkeypatch, {"train": range(25)})
    first, other = (loaded(tmp_path, spec, "none", seed=seed) for seed in (0, 1))
    assert first.train.fingerprint == other.train.fingerprint
    assert first.test.fingerprint == other.test.fingerprint


def test_classes_of_digits_are_all_images_of_ten():
    source = data.load("digits", split="classes")
    assert np.unique(source.train.labels).tolist() == [0, 1, 2, 3, 4]
    assert np.unique(source.test.labels).tolist() == [5, 6, 7, 8, 9]
    assert len(source.train) + len(source.test) == 1797
    assert source.test.class_names == list("0123456789")


def test_split_by_examples_is_the_default():
    default, asked = data.load("digits"), data.load("digits", split="examples")
    np.testing.assert_array_equal(default.test.images, asked.test.images)


@pytest.mark.parametrize(
    ("labels", "train"),
    [([7, 3], [3]), ([9, 4, 4, 6], [4, 4, 6]), ([0, 5, -1, 5, 90, 91], [0, 5, 5])],
)
def test_classes_are_halved_by_their_order_whatever_their_numbers(labels, train):
    parts = split_by_class([data.Part(PICTURES[: len(labels)], labels)])
    assert sorted(parts[0].labels) == train
    assert sorted(parts[1].labels) == sorted({*labels} - {*train, -1})


def test_classes_are_those_of_both_parts():
    # As metric learning's sets come: no class is in both parts. Alone, the train part would give up its 2 and 3.
    train = data.Part(PICTURES[:4], [0, 1, 2, 3])
    test = data.Part(PICTURES[4:7], [4, 5, 6])
    parts = split_by_class([train, test])
    assert [part.labels.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6]]


def test_classes_of_damaged_files_are_the_same_with_every_cache(tmp_path, monkeypatch):
    spec = folder_of(tmp_path, monkeypatch, {"train": range(25)})
    for file in (tmp_path / "ant").iterdir():
        file.write_bytes(b"no image")
    with pytest.warns(UserWarning, match="4 files could not be read"):
        source = loaded(tmp_path, spec, "memory")
    assert np.unique(source.train.labels).tolist() == [1, 2]
    assert np.unique(source.test.labels).tolist() == [3, 4]
    source = loaded(tmp_path, spec, "none")  # what is damaged turns up later
    assert np.unique(source.train.labels).tolist() == [0, 1, 2]
    assert np.unique(source.test.labels).tolist() == [3, 4]


def arrays(labels=None, test_labels=None, with_test=False):
    found = {"x_train": PICTURES[:6], "y_train": labels}
    if with_test:
        found.update(x_test=PICTURES[6:9], y_test=test_labels)
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (arrays(), r"needs images with classes. Received: no labels\.$"),
        (arrays(with_test=True), "Received: no labels in the train part"),
        (arrays([0, 1] * 3, with_test=True), "Received: no labels in the test part"),
        (arrays([3] * 6), r"needs 2 classes or more.* Found: 1\.$"),
        (arrays([-1] * 6), r"needs 2 classes or more.* Found: 0\.$"),
        (
            arrays([0, 1, 2, 3, 4, 4], [0, 2, -1], True),
            "of the classes 3 to 4 in the test part. Found none: its labels are -1 to 2",
        ),
        (
            arrays([2, 3] * 3, [0, 1, 2], True),
            "of the classes 0 to 1 in the train part. Found none: its labels are 2 to 3",
        ),
    ],
)
def test_classes_of_arrays_that_have_none_to_split_are_refused(
    tmp_path, content, message
):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(f"npz:{tmp_path / 'a.npz'}", split="classes")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("path,pair_id\n0.png,a\n1.png,a\n2.png,b\n3.png,b", "Received: pair ids"),
        ("0.png,1.png\n2.png,3.png", r"Received: given pairs\.$"),
        ("0.png,1.png,2.png\n2.png,3.png,0.png", r"Received: given triplets\.$"),
        ("path\n0.png\n1.png", r"Received: no labels\.$"),
    ],
)
def test_classes_of_tables_without_any_are_refused(tmp_path, rows, message, cache):
    for k in range(4):
        save(tmp_path / f"{k}.png", picture(16, 16, seed=k))
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path, f"csv:{tmp_path / 't.csv'}", cache)


def test_classes_of_a_folder_without_sub_folders_are_refused_undecoded(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")  # decoding would end in another error
    with pytest.raises(ValueError, match=r"Received: no labels\.$"):
        loaded(tmp_path, f"folder:{tmp_path}", "memory")


def test_classes_of_streams_are_refused():
    dataset = data.Part(PICTURES, LABELS).in_order(1).unbatch()
    with pytest.raises(
        ValueError, match="Received: a stream; use another `cache` than"
    ):
        split_by_class([data.Stream(dataset)] * 2)


def test_split_of_another_name_is_refused():
    with pytest.raises(ValueError, match="`split` must be one of 'examples', 'class"):
        data.load("digits", split="class")
