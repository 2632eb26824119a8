"""A part checks what it is given; what is held out is stratified, disjoint and complete."""

from __future__ import annotations

import numpy as np
import pytest

from keras_contrastive.data import Part
from keras_contrastive.data.part import hold_out


def numbered(n, size=2):
    """Images that carry their own number in their first two pixels."""
    images = np.zeros((n, size, size, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(n) % 256, np.arange(n) // 256
    return images


def numbers(images):
    images = np.asarray(images).astype(np.int64)
    return images[..., 0, 0, 0] + 256 * images[..., 0, 1, 0]


def test_part_of_uint8_keeps_the_pixels_and_leaves_the_array_to_its_owner():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    part = Part(images)
    np.testing.assert_array_equal(part.images, images)
    assert (len(part), part.image_shape, part.labels) == (5, (4, 3, 3), None)
    before = part.images.copy()
    images[:] = 0
    np.testing.assert_array_equal(part.images, before)
    with pytest.raises(ValueError, match="read-only"):
        part.images[0] = 0


def test_part_shares_one_copy_between_array_and_tensor():
    part = Part(np.zeros((8, 16, 16, 3), np.uint8))
    assert np.shares_memory(part.images, np.asarray(memoryview(part.image_tensor)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_part_of_floats_rounds_to_the_nearest_of_256_levels(dtype):
    # k / 255 for every k, moved by up to 0.4 of a level where the dtype can say so.
    levels = np.arange(256.0)
    offset = 0.0 if dtype == np.float16 else 0.4
    values = np.clip((levels + offset) / 255, 0, 1).astype(dtype)
    part = Part(values.reshape(1, 16, 16))
    np.testing.assert_array_equal(part.images.ravel(), levels)


def test_part_of_grey_images_gains_a_channel():
    assert Part(np.zeros((3, 4, 5), np.uint8)).image_shape == (4, 5, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"must have shape .* images.shape=\(4, 4\)"),
        (np.zeros((1, 2, 2, 2, 3), np.uint8), "must have shape"),
        (np.zeros((2, 4, 4, 3), np.int32), "images.dtype=int32"),
        (np.zeros((2, 4, 4, 3), bool), "images.dtype=bool"),
        (np.zeros((0, 4, 4, 3), np.uint8), "must not be empty"),
        (np.zeros((2, 0, 4, 3), np.uint8), "must not be empty"),
        (np.zeros((2, 3, 32, 32), np.uint8), "channels last"),
        (np.full((2, 4, 4, 3), 1.01, np.float32), "in 0..1.*maximum 1.01.*uint8"),
        (np.full((2, 4, 4, 3), -0.1, np.float32), "minimum -0.1"),
        (np.array([0.0, np.nan, 0.5, 1.0]).reshape(1, 2, 2, 1), "finite.*nan"),
        (np.array([0.0, np.inf, 0.5, 1.0]).reshape(1, 2, 2, 1), "finite.*inf"),
    ],
    ids=lambda value: None if isinstance(value, np.ndarray) else value[:12],
)
def test_part_of_unfit_images_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        Part(images)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_part_takes_labels_of_any_integer_dtype(dtype):
    labels = Part(numbered(3), np.array([2, 0, 1], dtype)).labels
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, [2, 0, 1])


def test_part_takes_a_column_of_labels_and_unknown_ones():
    part = Part(numbered(3), [[0], [-1], [1]], class_names=np.array(["cat", "dog"]))
    np.testing.assert_array_equal(part.labels, [0, -1, 1])
    assert part.class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], r"one for each image, shape \(3,\).*\(2,\)"),
        (np.zeros((3, 2), int), r"labels.shape=\(3, 2\)"),
        ([0.0, 1.0, 2.0], "integers.*float64"),
        (["a", "b", "c"], "integers"),
        ([0, -2, 1], "from 0, or -1 .*-2 to 1"),
        (np.array([0, 1, 2**63], np.uint64), "classes from 0"),
        ([0, 1, 2], "Received: 2 names, and label 2"),
    ],
)
def test_part_with_unfit_labels_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        Part(numbered(3), labels, class_names=["a", "b"])


def test_hold_out_by_label_takes_the_share_of_every_class():
    labels = np.repeat([0, 1, 2], [101, 57, 42])
    train, test = hold_out(Part(numbered(200), labels), seed=0)
    held, kept = numbers(test.images), numbers(train.images)
    np.testing.assert_array_equal(np.sort(np.concatenate([held, kept])), np.arange(200))
    assert len(held) == 40
    np.testing.assert_array_equal(test.labels, labels[held])
    np.testing.assert_array_equal(train.labels, labels[kept])
    # A fifth of each, rounded down or up: 20.2, 11.4, 8.4.
    counts = np.bincount(test.labels)
    assert np.all(np.abs(counts - np.array([20.2, 11.4, 8.4])) < 1)


def test_hold_out_of_equal_classes_is_equal():
    _, test = hold_out(Part(numbered(100), np.arange(100) % 10), seed=3)
    np.testing.assert_array_equal(np.bincount(test.labels), np.full(10, 2))


def test_hold_out_depends_on_the_seed_and_on_nothing_else():
    part = Part(numbered(300))
    first, again, other = (
        numbers(hold_out(part, seed)[1].images) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    # Two random fifths share a fifth of their members: 12 of 60, standard deviation 2.8.
    assert len(np.intersect1d(first, other)) < 30


def test_hold_out_of_one_image_is_refused():
    with pytest.raises(ValueError, match="2 images or more"):
        hold_out(Part(numbered(1)), seed=0)


def test_hold_out_of_two_images_gives_one_each():
    assert [len(part) for part in hold_out(Part(numbered(2), [0, 0]), seed=0)] == [1, 1]
