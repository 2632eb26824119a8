"""The decoder against Pillow's; the resize against a direct computation."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_contrastive import data


def picture(height=37, width=53, channels=3):
    """Smooth colours with some noise, as uint8."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [
        127 + 100 * np.sin(x / (7 + 3 * c) + y / (11 + c)) for c in range(channels)
    ]
    noise = np.random.default_rng(0).normal(0, 8, (height, width, channels))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_decode_of_jpeg_equals_pillow():
    # TensorFlow's default transform differs by up to 5 levels.
    content = encoded(Image.fromarray(picture()), format="JPEG", quality=75)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(data.decode(content), expected)


def test_decode_of_png_is_lossless():
    content = encoded(Image.fromarray(picture()), format="PNG")
    np.testing.assert_array_equal(data.decode(content), picture())


def test_decode_of_16_bit_png_keeps_the_high_byte():
    values = np.random.default_rng(0).integers(0, 2**16, (9, 11), dtype=np.uint16)
    content = encoded(Image.fromarray(values), format="PNG")
    expected = np.repeat((values >> 8)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(data.decode(content), expected)


def test_decode_of_rgba_png_drops_alpha_without_compositing():
    rgba = np.dstack([picture(), np.arange(37 * 53).reshape(37, 53) % 256]).astype(
        np.uint8
    )
    content = encoded(Image.fromarray(rgba), format="PNG")
    np.testing.assert_array_equal(data.decode(content), rgba[..., :3])


def test_decode_to_one_channel_is_grey():
    grey = picture(channels=1)[..., 0]
    content = encoded(Image.fromarray(grey), format="PNG")
    np.testing.assert_array_equal(data.decode(content, channels=1)[..., 0], grey)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image at all",
        encoded(Image.fromarray(picture()), format="GIF"),
        encoded(Image.fromarray(picture()), format="WEBP"),
        encoded(Image.fromarray(picture()), format="BMP"),
        encoded(Image.fromarray(picture()), format="JPEG")[:900],
        encoded(Image.fromarray(picture()), format="PNG")[:900],
    ],
    ids=["empty", "text", "gif", "webp", "bmp", "cut_jpeg", "cut_png"],
)
def test_decode_of_other_or_damaged_content_fails(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        data.decode(content)


def test_decode_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="`channels` must be one of 1, 3"):
        data.decode(b"", channels=4)


def test_decode_and_resize_in_a_saved_model_equal_the_eager_ones(tmp_path):
    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def read(self, contents):
            return tf.map_fn(
                lambda content: data.resize(data.decode(content), 16),
                contents,
                fn_output_signature=tf.TensorSpec([16, 16, 3], tf.uint8),
            )

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
        def resize(self, images):
            return data.resize(images, 16)

    tf.saved_model.save(Reader(), str(tmp_path / "reader"))
    reader = tf.saved_model.load(str(tmp_path / "reader"))
    image = Image.fromarray(picture())
    contents = [encoded(image, format="JPEG"), encoded(image, format="PNG")]
    expected = [data.resize(data.decode(content), 16) for content in contents]
    np.testing.assert_array_equal(reader.read(tf.constant(contents)), expected)
    np.testing.assert_array_equal(reader.resize(picture()[None]), expected[1][None])
    with pytest.raises(tf.errors.InvalidArgumentError, match="JPEG or a PNG"):
        reader.read(tf.constant([b"text"]))


def triangle_weights(old, new):
    """Rows of weights `(new, old)`: the triangle filter, widened by the factor of reduction, cut at the edges."""
    scale = max(old / new, 1.0)
    weights = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new
        for j in range(old):
            weights[i, j] = max(0.0, 1.0 - abs(j + 0.5 - centre) / scale)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "shape",
    [(40, 60), (60, 40), (17, 51), (16, 31), (9, 9), (5, 8), (100, 16), (1, 7)]
    # So long that only the middle is resampled.
    + [(300, 16), (16, 403), (9, 200), (1, 41), (200, 3), (40, 900)],
    ids=str,
)
def test_resize_equals_scaling_the_shorter_side_and_cropping_the_centre(shape):
    size = 16
    image = picture(*shape)
    height, width = (int(side * size / min(shape) + 0.5) for side in shape)
    rows, columns = (
        triangle_weights(shape[0], height),
        triangle_weights(shape[1], width),
    )
    scaled = np.einsum("ih,jw,hwc->ijc", rows, columns, image.astype(np.float64))
    top, left = (height - size) // 2, (width - size) // 2
    expected = scaled[top : top + size, left : left + size]
    got = data.resize(image, size).numpy()
    assert got.shape == (size, size, 3)
    assert got.dtype == np.uint8
    # Half a level by rounding, and float32 in the kernel.
    assert np.abs(got - expected).max() < 0.51


def test_resize_of_a_checkerboard_to_a_quarter_is_grey():
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None]
    inner = data.resize(board, 16).numpy()[1:-1, 1:-1]
    assert (
        np.abs(inner.astype(int) - 127.5).max() < 2
    )  # without antialiasing: 0 and 255


def test_resize_to_the_same_size_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (4, 33, 33, 3), dtype=np.uint8)
    np.testing.assert_array_equal(data.resize(images, 33), images)


@pytest.mark.parametrize("shape", [(29, 45), (11, 8)], ids=str)
def test_resize_of_a_batch_equals_that_of_its_images(shape):
    images = np.random.default_rng(0).integers(0, 256, (5, *shape, 3), dtype=np.uint8)
    alone = np.stack([data.resize(image, 12) for image in images])
    np.testing.assert_array_equal(data.resize(images, 12), alone)


def test_resize_in_a_graph_with_unknown_sizes_equals_eager():
    image = picture()
    spec = tf.TensorSpec([None, None, None], tf.uint8)
    traced = tf.function(lambda x: data.resize(x, 16), input_signature=[spec])
    assert traced.get_concrete_function().output_shapes.as_list() == [16, 16, None]
    np.testing.assert_array_equal(traced(image), data.resize(image, 16))


def test_resize_of_floats_rounds_and_stays_in_range():
    image = np.array([[-3.0, 300.0], [1.6, 254.4]], np.float32)[..., None]
    np.testing.assert_array_equal(data.resize(image, 2)[..., 0], [[0, 255], [2, 254]])


def test_resize_of_a_panorama_does_not_build_the_scaled_whole():
    # Scaled as a whole it would be 96 x 28.8 million pixels.
    panorama = np.full((1, 300_000, 3), 77, np.uint8)
    np.testing.assert_array_equal(data.resize(panorama, 96), np.full((96, 96, 3), 77))


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [
        ((4, 4), 8, r"images.shape=\(4, 4\)"),
        ((1, 1, 4, 4, 3), 8, "must have shape"),
        ((4, 4, 3), 0, "image_size=0"),
        ((4, 4, 3), 8.0, "`image_size` must be an integer"),
    ],
)
def test_resize_of_unfit_arguments_is_refused(shape, size, message):
    with pytest.raises(ValueError, match=message):
        data.resize(np.zeros(shape, np.uint8), size)
