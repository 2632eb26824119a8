"""Sources by name: digits, arrays in a file, and the download-backed ones with their loaders replaced."""

from __future__ import annotations

import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from keras_contrastive import data
from tests.test_data_part import numbered, numbers


def pixels(n=20, size=8, channels=3):
    return np.random.default_rng(0).integers(
        0, 256, (n, size, size, channels), dtype=np.uint8
    )


def test_digits_are_the_whole_set_with_500_held_out_by_class():
    source = data.load("digits", image_size=8)
    digits = load_digits()
    assert (source.name, len(source.train), len(source.test)) == ("digits", 1297, 500)
    expected = {
        tuple(np.floor(image.ravel() * 255 / 16 + 0.5)): label
        for image, label in zip(digits.images, digits.target)
    }
    seen = set()
    for part in (source.train, source.test):
        for image, label in zip(part.images, part.labels):
            seen.add(tuple(image.ravel()))
            assert expected[tuple(image.ravel())] == label
    assert seen == set(expected)
    share = np.bincount(digits.target) * 500 / 1797
    assert np.all(np.abs(np.bincount(source.test.labels) - share) < 1)


def test_digits_are_16_pixels_wide_unless_asked_otherwise():
    assert data.load("digits").train.image_shape == (16, 16, 1)
    assert data.load("digits", image_size=20).test.image_shape == (20, 20, 1)


def test_digits_of_another_seed_have_another_test_part():
    first, again, other = (data.load("digits", seed=seed).test for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_npz_with_both_parts_takes_them_as_they_are(tmp_path):
    train, test = pixels(20), pixels(8)[::-1]
    np.savez_compressed(
        tmp_path / "sets.npz",
        x_train=train,
        y_train=np.arange(20, dtype=np.uint8) % 2,
        x_test=test,
        y_test=np.arange(8, dtype=np.int16) % 2,
        class_names=np.array(["cat", "dog"]),
        other=np.zeros(3),
    )
    source = data.load(f"npz:{tmp_path / 'sets.npz'}")
    assert (source.name, source.skipped) == ("sets", [])
    np.testing.assert_array_equal(source.train.images, train)
    np.testing.assert_array_equal(source.test.images, test)
    np.testing.assert_array_equal(source.test.labels, [0, 1] * 4)
    assert source.train.class_names == source.test.class_names == ["cat", "dog"]


def test_npz_without_a_test_part_has_a_fifth_held_out(tmp_path):
    np.savez(
        tmp_path / "a.npz", x_train=numbered(50)[..., 0], class_names=np.array([b"x"])
    )
    source = data.load(f"npz:{tmp_path / 'a.npz'}")
    held, kept = numbers(source.test.images), numbers(source.train.images)
    assert len(held) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate([held, kept])), np.arange(50))
    assert source.train.labels is None
    assert source.train.class_names == ["x"]


def test_npz_with_an_image_size_is_resized_as_single_images_are(tmp_path):
    images = pixels(5, 12)
    np.savez(tmp_path / "a.npz", x_train=images, x_test=images.astype(np.float32) / 255)
    source = data.load(f"npz:{tmp_path / 'a.npz'}", image_size=7)
    expected = [data.resize(image, 7) for image in images]
    np.testing.assert_array_equal(source.train.images, expected)
    np.testing.assert_array_equal(source.test.images, expected)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": pixels()}, r"must hold an array `x_train`.*has: none"),
        (
            {"x_train": np.zeros((4, 4), np.uint8)},
            r"`x_train`, `y_train` in .*a.npz.*\(4, 4\)",
        ),
        ({"x_train": np.zeros((4, 4, 4), np.int64)}, "images.dtype=int64"),
        ({"x_train": np.full((4, 4, 4), np.nan)}, "finite"),
        ({"x_train": pixels(), "y_train": np.arange(3)}, "one for each image"),
        ({"x_train": pixels(), "x_test": pixels(4, 9)}, "of one shape.*`image_size`"),
        ({"x_train": np.array([{}, None])}, "cannot be read as an .npz file.*pickle"),
    ],
)
def test_npz_with_unfit_arrays_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(f"npz:{tmp_path / 'a.npz'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "middle", "text", "empty"])
def test_npz_that_is_damaged_is_refused(tmp_path, damage):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x_train=pixels(200))
    content = bytearray(path.read_bytes())
    if damage == "middle":
        content[5000:5050] = bytes(50)
    content = {"cut": content[:3000], "text": b"words", "empty": b""}.get(
        damage, content
    )
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a.npz' (is not an|cannot be read as an) .npz file"
    ):
        data.load(f"npz:{path}")


def test_npz_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no file .*nowhere.npz'"):
        data.load(f"npz:{tmp_path / 'nowhere.npz'}")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist", (28, 28)),
        ("fashion_mnist", (28, 28)),
        ("cifar10", (32, 32, 3)),
        ("cifar100", (32, 32, 3)),
    ],
)
def test_keras_dataset_comes_with_its_own_split(monkeypatch, name, shape):
    def load_data():
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (30, *shape), dtype=np.uint8)
        labels = np.arange(30, dtype=np.uint8) % 10
        if name.startswith("cifar"):
            labels = labels[:, None]  # as Keras has them
        return (images[:20], labels[:20]), (images[20:], labels[20:])

    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", load_data)
    source = data.load(name)
    (x_train, y_train), (x_test, _) = load_data()
    assert (source.name, len(source.train), len(source.test)) == (name, 20, 10)
    np.testing.assert_array_equal(
        source.train.images, x_train.reshape(20, *shape[:2], -1)
    )
    np.testing.assert_array_equal(
        source.test.images, x_test.reshape(10, *shape[:2], -1)
    )
    np.testing.assert_array_equal(source.train.labels, y_train.ravel())
    if name != "cifar100":
        assert len(set(source.train.class_names)) == 10


def test_keras_dataset_that_cannot_be_downloaded_is_one_line(monkeypatch):
    def load_data():
        raise Exception("URL fetch failure\non https://example.com")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    with pytest.raises(
        ValueError, match=r"mnist` could not be loaded: URL fetch failure$"
    ):
        data.load("mnist")


class FakeFeature:
    def __init__(self, shape, names=None):
        self.shape = shape
        if names:
            self.names = names


def fake_tfds(features, supervised, splits):
    """A module with the part of tensorflow-datasets' interface that is used."""

    class Builder:
        info = types.SimpleNamespace(
            name="fake", features=features, supervised_keys=supervised, splits=splits
        )

        def download_and_prepare(self):
            pass

        def as_dataset(self, split, as_supervised):
            assert not as_supervised or supervised
            for example in splits[split]:
                yield (
                    tuple(example[key] for key in supervised)
                    if as_supervised
                    else example
                )

    def builder(name):
        if not name.startswith("fake"):
            raise RuntimeError(f"Dataset {name} not found.\nAvailable: many")
        return Builder()

    return types.SimpleNamespace(builder=builder, as_numpy=lambda dataset: dataset)


def examples(n, size=None, **more):
    rng = np.random.default_rng(n)
    sizes = [(size, size)] * n if size else [(8 + k, 12) for k in range(n)]
    return [
        {
            "image": rng.integers(0, 256, (*hw, 3), dtype=np.uint8),
            "label": k % 2,
            **more,
        }
        for k, hw in enumerate(sizes)
    ]


def test_tfds_with_labels_and_its_own_test_part(monkeypatch):
    features = {
        "image": FakeFeature((8, 8, 3)),
        "label": FakeFeature((), ["cat", "dog"]),
    }
    splits = {"train": examples(6, 8), "test": examples(4, 8)}
    fake = fake_tfds(features, ("image", "label"), splits)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    source = data.load("tfds:fake/small:1.0.0")
    assert source.name == "fake-small"
    for part, split in [(source.train, "train"), (source.test, "test")]:
        expected = [example["image"] for example in splits[split]]
        np.testing.assert_array_equal(part.images, expected)
        np.testing.assert_array_equal(part.labels, np.arange(len(expected)) % 2)
        assert part.class_names == ["cat", "dog"]


def test_tfds_of_many_sizes_without_labels_is_resized_and_split(monkeypatch):
    features = {"image": FakeFeature((None, None, 3)), "id": FakeFeature(())}
    splits = {
        "train": [{"image": example["image"], "id": 7} for example in examples(10)]
    }
    monkeypatch.setitem(
        sys.modules, "tensorflow_datasets", fake_tfds(features, None, splits)
    )
    source = data.load("tfds:fake")
    assert (len(source.train), len(source.test)) == (8, 2)
    assert source.train.image_shape == (96, 96, 3)
    assert source.train.labels is None
    assert data.load("tfds:fake", image_size=10).train.image_shape == (10, 10, 3)


def test_tfds_without_a_cache_is_a_stream_of_undecoded_images(monkeypatch):
    images = [example["image"] for example in examples(20)]
    seen = {}

    class Builder:
        info = types.SimpleNamespace(
            name="fake",
            features={
                "image": FakeFeature((None, None, 3)),
                "label": FakeFeature((), ["cat", "dog"]),
            },
            supervised_keys=("image", "label"),
            splits={"train": images},
        )

        def download_and_prepare(self):
            pass

        def as_dataset(self, split, shuffle_files, decoders):
            seen[split] = (shuffle_files, decoders)
            rows = images[:16] if split == "train[:80%]" else images[16:]
            content = {
                "image": [tf.io.encode_png(image).numpy() for image in rows],
                "label": np.arange(len(rows)) % 2,
            }
            return tf.data.Dataset.from_tensor_slices(content)

    decode = types.SimpleNamespace(SkipDecoding=lambda: "skip")
    fake = types.SimpleNamespace(builder=lambda name: Builder(), decode=decode)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    source = data.load("tfds:fake", image_size=8, cache="none")
    assert (source.train.count, source.test.count) == (16, 4)
    assert seen == dict.fromkeys(
        ["train[:80%]", "train[80%:]"], (False, {"image": "skip"})
    )
    for got, labels in data.batches(source.train, 4, by="label"):
        rows = [
            next(k for k in range(16) if np.array_equal(data.resize(images[k], 8), one))
            for one in got
        ]
        np.testing.assert_array_equal(labels, np.array(rows) % 2)


def test_tfds_that_cannot_serve_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match="pip install tensorflow-datasets"):
        data.load("tfds:mnist")
    text = fake_tfds({"text": FakeFeature(())}, None, {"train": []})
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", text)
    with pytest.raises(ValueError, match="no feature `image`"):
        data.load("tfds:fake")
    with pytest.raises(
        ValueError, match=r"could not prepare 'other': Dataset other not found.$"
    ):
        data.load("tfds:other")
    no_train = fake_tfds({"image": FakeFeature((8, 8, 3))}, None, {"all": []})
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", no_train)
    with pytest.raises(ValueError, match=r"split `train`. Found: all"):
        data.load("tfds:fake")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "digit",
            "must be one of 'digits', .*'folder:DIR'.*spec='digit'. Did you mean 'digits'",
        ),
        ("fashion-mnist", "Did you mean 'fashion_mnist'"),
        ("cifar", "Did you mean 'cifar10"),
        ("folders:photos", "Did you mean 'folder:DIR'"),
        ("", r"must be one of .*spec=''.$"),
        (None, "must be one of"),
        ("folder", "must have the form 'folder:DIR'"),
        ("folder:", "must have the form 'folder:DIR'"),
        ("npz", "must have the form 'npz:FILE'"),
        ("digits:3", "must have the form 'digits'"),
        ("digits:", "must have the form 'digits'"),
    ],
)
def test_load_of_an_unknown_spec_names_the_nearest(spec, message):
    with pytest.raises(ValueError, match=message):
        data.load(spec)


def test_load_of_a_bare_path_says_how_to_write_it(tmp_path):
    with pytest.raises(ValueError, match=f"Did you mean 'folder:{tmp_path}'"):
        data.load(str(tmp_path))
    (tmp_path / "a.npz").touch()
    with pytest.raises(ValueError, match=f"Did you mean 'npz:{tmp_path}/a.npz'"):
        data.load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size=0"),
        ({"image_size": 1.5}, "image_size=1.5"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_load_with_unfit_options_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.load("digits", **options)
