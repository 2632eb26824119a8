"""Each operation: its values by definition, its draws, the same in every mode, as a layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import augment
from keras_contrastive._random import make_key
from tests.oracles import augment as oracle

# float32 arithmetic on values in 0..1, a few dozen roundings of 6e-8.
CLOSE = 5e-6
# The inverse map is computed to about 1e-6 pixels, and neighbouring pixels differ by up to 1.
AFFINE_CLOSE = 2e-5

LAYERS = {
    "crop": lambda: augment.RandomResizedCrop((10, 7), area=(0.2, 0.9)),
    "flip": lambda: augment.RandomFlip(),
    "affine": lambda: augment.RandomAffine(
        rotation=40, shift=0.2, scale=(0.7, 1.4), shear=20, fill=0.3
    ),
    "jitter": lambda: augment.ColorJitter(0.8, 0.8, 0.8, 0.2, probability=0.8),
    "grayscale": lambda: augment.RandomGrayscale(0.5),
    "bicubic": lambda: augment.RandomResizedCrop((10, 7), method="bicubic"),
    "solarize": lambda: augment.RandomSolarize(0.5, threshold=0.6),
    "blur": lambda: augment.GaussianBlur(5, (0.1, 2.0), probability=0.7),
    "cutout": lambda: augment.RandomCutout(4, fill=0.2, probability=0.7),
    "noise": lambda: augment.GaussianNoise((0.01, 0.2), probability=0.7),
}
every_layer = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS.keys())
grey_and_color = pytest.mark.parametrize("channels", [1, 3])


def random_images(n=5, height=9, width=12, channels=3):
    """Random, with pixels that are grey, black, white and of one pure colour: the corners of HSV."""
    images = np.random.default_rng(0).random((n, height, width, channels))
    images[:, 0, 0], images[:, 0, 1], images[:, 0, 2] = 0.0, 1.0, 0.4
    images[:, 0, 3] = np.eye(channels)[0]
    return images.astype(np.float32)


def expect_close(actual, images, function, *parameters, tolerance=CLOSE):
    """Compare with an oracle, image by image, each with its own parameters."""
    assert actual.dtype == tf.float32
    expected = [
        function(image.astype(np.float64), *own)
        for image, *own in zip(images, *parameters)
    ]
    np.testing.assert_allclose(actual, np.stack(expected), atol=tolerance, rtol=0)


FACTORS = np.array([0.0, 0.3, 1.0, 1.7, 2.5])


@grey_and_color
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_adjust_by_factors_equals_definition(name, channels):
    images = random_images(channels=channels)
    actual = getattr(augment, f"adjust_{name}")(images, FACTORS)
    expect_close(actual, images, getattr(oracle, name), FACTORS)


@grey_and_color
def test_adjust_hue_equals_hsv(channels):
    images, turns = (
        random_images(channels=channels),
        np.array([-0.5, -0.13, 0.0, 1 / 3, 1.2]),
    )
    expect_close(augment.adjust_hue(images, turns), images, oracle.hue, turns)


def test_to_grayscale_of_chosen_images_equals_luma():
    images, where = random_images(), [True, False, True, False, False]
    actual = augment.to_grayscale(images, where)
    luma = np.repeat(oracle.grayscale(images.astype(np.float64))[..., None], 3, axis=-1)
    expected = np.where(np.reshape(where, [-1, 1, 1, 1]), luma, images)
    np.testing.assert_allclose(actual, expected, atol=CLOSE)


def test_flip_of_chosen_images_reverses_columns():
    images = random_images(n=2)
    actual = augment.flip(images, [False, True]).numpy()
    np.testing.assert_array_equal(actual[0], images[0])
    np.testing.assert_array_equal(actual[1], images[1, :, ::-1])


@pytest.mark.parametrize(
    "size", [(9, 12), (4, 5), (20, 3)], ids=["same", "down", "mixed"]
)
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_crop_and_resize_equals_loops(method, size):
    images = random_images()
    boxes = [[0, 0, 9, 12], [2, 3, 7, 9], [0, 5, 1, 1], [8, 11, 1, 1], [1, 0, 8, 5]]
    actual = augment.crop_and_resize(images, boxes, size, method=method)
    kernel = {"bilinear": oracle.triangle, "bicubic": oracle.keys_cubic}[method]
    expect_close(
        actual,
        images,
        lambda image, box: oracle.crop_and_resize(image, box, size, kernel),
        boxes,
    )


def test_bicubic_enlarges_a_parabola_exactly():
    """Keys' kernel reproduces polynomials of degree 2, away from the border; a triangle cuts the corners."""
    x = (np.arange(12) + 0.5) / 12
    images = np.tile(x**2, (12, 1))[None, :, :, None].astype(np.float32)
    larger = augment.crop_and_resize(images, [[0, 0, 12, 12]], 48, method="bicubic")
    fine = (np.arange(48) + 0.5) / 48
    np.testing.assert_allclose(larger[0, 24, 8:-8, 0], fine[8:-8] ** 2, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_cutout_paints_the_box_and_nothing_else(channels):
    images = random_images(channels=channels)
    boxes = [[0, 0, 9, 12], [-2, 3, 5, 4], [7, 10, 4, 4], [3, 3, 0, 5], [2, 5, 1, 1]]
    fill = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    actual = augment.cutout(images, boxes, fill=fill)
    expect_close(actual, images, oracle.cutout, boxes, fill)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_solarize_inverts_bright_pixels_of_chosen_images(channels):
    images = random_images(channels=channels)
    threshold = np.array([0.0, 0.3, 0.5, 0.9, 1.0])
    actual = augment.solarize(images, threshold)
    expect_close(actual, images, oracle.solarize, threshold)
    np.testing.assert_array_equal(augment.solarize(images, 0.5, False), images)


def test_solarize_of_uint8_inverts_from_grey_level_128_on():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    actual = np.round(augment.solarize(levels).numpy() * 255).astype(int).ravel()
    expected = [level if level < 128 else 255 - level for level in range(256)]
    np.testing.assert_array_equal(actual, expected)


def test_add_noise_is_added_and_clipped():
    images = np.array([0.1, 0.5, 0.9], np.float32).reshape(1, 1, 3, 1)
    noise = np.array([-0.2, 0.25, 0.2], np.float32).reshape(1, 1, 3, 1)
    actual = augment.add_noise(images, noise).numpy().ravel()
    np.testing.assert_allclose(actual, [0.0, 0.75, 1.0], atol=1e-7)


def test_crop_and_resize_of_shrunk_checkerboard_is_grey():
    """Without antialiasing it would keep single pixels: black and white."""
    board = np.indices((32, 32)).sum(axis=0) % 2
    images = board[None, :, :, None].astype(np.float32)
    shrunk = augment.crop_and_resize(images, [[0, 0, 32, 32]], 8).numpy()
    np.testing.assert_allclose(shrunk, 0.5, atol=0.01)  # exactly 0.5 but at the border


@grey_and_color
def test_gaussian_blur_equals_definition(channels):
    images, sigma = (
        random_images(channels=channels),
        np.array([0.1, 0.5, 1.0, 2.0, 9.0]),
    )
    actual = augment.gaussian_blur(images, 7, sigma)
    expect_close(
        actual, images, lambda image, own: oracle.gaussian_blur(image, 7, own), sigma
    )


@grey_and_color
def test_affine_equals_inverse_lookup(channels):
    images = random_images(channels=channels)
    angle, shear = np.array([0, 30, -110, 5, 0]), np.array([0, 10, -35, 0, 20])
    shift = np.array([[0.25, 0], [0, -0.1], [0.3, 0.2], [-0.9, 0], [0, 0]])
    scale = np.array([1, 0.6, 1.5, 2.2, 1])
    actual = augment.affine(
        images, angle=angle, shift=shift, scale=scale, shear=shear, fill=0.25
    )
    parameters = (angle, shift, scale, shear, np.full(5, 0.25))
    expect_close(actual, images, oracle.affine, *parameters, tolerance=AFFINE_CLOSE)


def test_affine_with_positive_angle_turns_clockwise():
    """Torchvision's sense: the top right corner goes to the bottom right."""
    image = np.zeros((1, 5, 5, 1), np.float32)
    image[0, 0, 4] = 1.0
    turned = augment.affine(image, angle=90.0).numpy()
    np.testing.assert_allclose(turned[0, 4, 4], 1.0, atol=AFFINE_CLOSE)


NEUTRAL = {
    "brightness": lambda images: augment.adjust_brightness(images, 1.0),
    "contrast": lambda images: augment.adjust_contrast(images, 1.0),
    "saturation": lambda images: augment.adjust_saturation(images, 1.0),
    "hue": lambda images: augment.adjust_hue(images, 0.0),
    "grayscale": lambda images: augment.to_grayscale(images, False),
    "flip": lambda images: augment.flip(images, False),
    "blur": lambda images: augment.gaussian_blur(images, 5, 0.0),
    "affine": lambda images: augment.affine(images),
    "solarize": lambda images: augment.solarize(images, where=False),
    "cutout": lambda images: augment.cutout(images, [[2, 2, 0, 0]] * len(images)),
    "noise": lambda images: augment.add_noise(images, np.zeros(images.shape)),
    "bicubic": lambda images: augment.crop_and_resize(
        images,
        [[0, 0, *images.shape[1:3]]] * len(images),
        images.shape[1:3],
        method="bicubic",
    ),
    "crop": lambda images: augment.crop_and_resize(
        images, [[0, 0, *images.shape[1:3]]] * len(images), images.shape[1:3]
    ),
}


@grey_and_color
@pytest.mark.parametrize("apply", NEUTRAL.values(), ids=NEUTRAL.keys())
def test_neutral_parameters_leave_images_unchanged(apply, channels):
    images = random_images(channels=channels)
    np.testing.assert_allclose(apply(images), images, atol=2e-7)  # one or two roundings


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_adjust_of_five_channels_equals_definition(name):
    images = random_images(channels=5)
    expect_close(
        getattr(augment, f"adjust_{name}")(images, FACTORS),
        images,
        getattr(oracle, name),
        FACTORS,
    )


@pytest.mark.parametrize("training", [False, True])
def test_normalize_layer_takes_mean_and_deviation_of_each_channel(training):
    images = random_images()
    layer = augment.Normalize((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    expected = (images - [0.1, 0.2, 0.3]) / [0.5, 1.0, 2.0]
    np.testing.assert_allclose(layer(images, training=training), expected, atol=CLOSE)
    restored = augment.Normalize.from_config(layer.get_config())
    views = augment.views(images, 1, augment.Recipe([restored]), 0, 0)
    np.testing.assert_allclose(views[:, 0], expected, atol=CLOSE)


def test_functions_of_uint8_scale_by_255():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_allclose(
        augment.adjust_brightness(images, 1.0), images / 255, atol=1e-7
    )


def test_jitter_of_given_order_equals_steps_one_after_the_other():
    """All 24 orders, an image each; strong factors, so that the clips make the order matter."""
    from itertools import permutations

    sequences = list(permutations(range(4)))  # the step that comes first, second, ...
    places = np.argsort(sequences, axis=1)  # the place of each step
    rng = np.random.default_rng(1)
    images = rng.random((24, 6, 5, 3)).astype(np.float32)
    factors, turns = rng.uniform(0.4, 1.9, (3, 24)), rng.uniform(-0.4, 0.4, 24)
    actual = augment.ColorJitter(1, 1, 1, 0.5).transform(
        tf.transpose(images, [0, 3, 1, 2]),
        *(tf.constant(values, tf.float32) for values in (*factors, turns)),
        order=tf.constant(places, tf.int32),
    )
    steps = [oracle.brightness, oracle.contrast, oracle.saturation, oracle.hue]
    for i, sequence in enumerate(sequences):
        expected = images[i].astype(np.float64)
        for step in sequence:
            expected = steps[step](expected, (*factors, turns)[step][i])
        # A hue near grey is the quotient of small differences, so roundings grow: 1e-4 is 0.03 grey levels.
        np.testing.assert_allclose(
            np.transpose(actual[i], [1, 2, 0]), expected, atol=1e-4
        )


# Draws. Bounds are five standard errors of the named distribution: a false alarm in 2 million.


def five_errors(standard_deviation, n):
    return 5 * standard_deviation / np.sqrt(n)


def draw(layer, n=4000, height=100, width=100, step=0):
    drawn = layer.draw(make_key(3, step), [n, 3, height, width])
    return {name: values.numpy() for name, values in drawn.items()}


def test_crop_boxes_lie_inside_and_follow_area_and_aspect():
    """On 1000 x 1000 pixels rounding is negligible, and few draws (aspect off 1, area near 1) do not fit."""
    n = 4000
    layer = augment.RandomResizedCrop(8, area=(0.1, 0.5), aspect=(0.5, 2.0))
    top, left, height, width = draw(layer, n, 1000, 1000)["boxes"].T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 1000).all() and (left + width <= 1000).all()
    # Largest box: area 0.5 at aspect 2 is 1000 x 500. Everything fits: area uniform, log aspect uniform.
    area, aspect = height * width / 1e6, np.log(width / height)
    assert 0.099 < area.min() < 0.105 and 0.495 < area.max() < 0.501
    assert abs(area.mean() - 0.3) < five_errors(0.4 / np.sqrt(12), n)
    assert abs(area.std() - 0.4 / np.sqrt(12)) < 0.005
    assert abs(aspect.mean()) < five_errors(2 * np.log(2) / np.sqrt(12), n)
    assert abs(aspect.std() - 2 * np.log(2) / np.sqrt(12)) < 0.02
    # Uniform over the positions that are left, and independent of the size.
    place = top / np.maximum(1000 - height, 1)
    assert abs(place.mean() - 0.5) < five_errors(1 / np.sqrt(12), n) + 1e-3
    assert abs(np.corrcoef(area, aspect)[0, 1]) < five_errors(1, n)


def test_crop_that_never_fits_takes_the_largest_box_of_an_allowed_aspect():
    """A strip of 10 x 200: no box of 90 % of it has an aspect of at most 4/3."""
    boxes = draw(augment.RandomResizedCrop(8, area=(0.9, 1.0)), 50, 10, 200)["boxes"]
    assert set(boxes[:, 2]) == {10} and set(boxes[:, 3]) == {13}


def test_crop_of_one_pixel_is_that_pixel():
    boxes = draw(augment.RandomResizedCrop(8), 20, 1, 1)["boxes"]
    np.testing.assert_array_equal(boxes, [[0, 0, 1, 1]] * 20)


def test_jitter_factors_are_uniform_and_applied_with_their_probability():
    n = 4000
    drawn = draw(augment.ColorJitter(0.8, 0.4, 1.5, 0.2, probability=0.8), n)
    applied = drawn["hue"] != 0
    assert abs(applied.mean() - 0.8) < five_errors(0.4, n)  # sqrt(0.8 * 0.2)
    ranges = {
        "brightness": (0.2, 1.8),
        "contrast": (0.6, 1.4),
        "saturation": (0.0, 2.5),
        "hue": (-0.2, 0.2),
    }
    for name, (low, high) in ranges.items():
        values = drawn[name][applied].astype(np.float64)
        spread = (high - low) / np.sqrt(12)
        assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
        assert abs(values.mean() - (low + high) / 2) < five_errors(spread, len(values))
        assert (
            abs(values.std() - spread) < 0.05 * spread
        )  # its standard error is 0.008 of it
        np.testing.assert_array_equal(
            drawn[name][~applied], 0.0 if name == "hue" else 1.0
        )
    correlations = np.corrcoef([drawn[name][applied] for name in ranges])
    assert np.abs(correlations - np.eye(4)).max() < five_errors(1, applied.sum())


def test_jitter_orders_are_all_permutations_equally_often():
    n = 12000
    orders, counts = np.unique(
        draw(augment.ColorJitter(0.1), n)["order"], axis=0, return_counts=True
    )
    np.testing.assert_array_equal(np.sort(orders, axis=1), [[0, 1, 2, 3]] * 24)
    # Binomial(n, 1/24).
    assert np.abs(counts / n - 1 / 24).max() < five_errors(np.sqrt(23) / 24, n)


@pytest.mark.parametrize(
    "build", [augment.RandomFlip, augment.RandomGrayscale, augment.RandomSolarize]
)
@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_random_choice_occurs_with_its_probability(build, probability):
    share = draw(build(probability))["where"].mean()
    assert abs(share - probability) <= five_errors(
        np.sqrt(probability * (1 - probability)), 4000
    )


def test_cutout_squares_are_of_the_length_and_centred_anywhere():
    layer = augment.RandomCutout(4, probability=0.6)
    boxes = draw(layer, height=20, width=30)["boxes"]
    applied = boxes[boxes[:, 2] > 0]
    assert abs(len(applied) / 4000 - 0.6) < five_errors(np.sqrt(0.24), 4000)
    assert (applied[:, 2:] == 4).all()
    for axis, size in ((0, 20), (1, 30)):
        centres = applied[:, axis] + 2
        assert set(centres) == set(range(size))
        spread = np.sqrt((size**2 - 1) / 12)
        error = five_errors(spread, len(applied))
        assert abs(centres.mean() - (size - 1) / 2) < error


def test_noise_is_normal_with_a_deviation_of_its_own_for_each_image():
    layer = augment.GaussianNoise((0.1, 0.3), probability=0.5)
    drawn = draw(layer, height=10, width=10)["noise"]
    deviations = drawn.std(axis=(1, 2, 3))
    applied = deviations[deviations > 0]
    assert abs(len(applied) / 4000 - 0.5) < five_errors(0.5, 4000)
    assert abs(applied.mean() - 0.2) < 0.01
    assert abs(applied.std() - 0.2 / np.sqrt(12)) < 0.01
    unit = (drawn[deviations > 0] / applied[:, None, None, None]).ravel()
    assert abs((np.abs(unit) < 1).mean() - 0.683) < 0.01


def test_blur_width_is_uniform_and_applied_with_its_probability():
    sigma = draw(augment.GaussianBlur(3, (0.5, 2.5), probability=0.3))["sigma"]
    applied = sigma[sigma > 0]
    assert abs(len(applied) / 4000 - 0.3) < five_errors(np.sqrt(0.21), 4000)
    assert applied.min() >= 0.5 and applied.max() <= 2.5
    assert abs(applied.mean() - 1.5) < five_errors(2 / np.sqrt(12), len(applied))


def test_affine_parameters_are_uniform_and_independent():
    drawn = draw(
        augment.RandomAffine(rotation=30, shift=0.1, scale=(0.8, 1.5), shear=10)
    )
    columns = [drawn["angle"], *drawn["shift"].T, drawn["scale"], drawn["shear"]]
    for values, (low, high) in zip(
        columns, [(-30, 30), (-0.1, 0.1), (-0.1, 0.1), (0.8, 1.5), (-10, 10)]
    ):
        spread = (high - low) / np.sqrt(12)
        assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
        assert abs(values.astype(np.float64).mean() - (low + high) / 2) < five_errors(
            spread, 4000
        )
    assert np.abs(np.corrcoef(columns) - np.eye(5)).max() < five_errors(1, 4000)


# Every layer.


@grey_and_color
@every_layer
def test_apply_is_the_same_in_every_mode(build, channels):
    """Eagerly, in a graph of unknown batch, under XLA and in `Dataset.map`, pixels to rounding."""
    layer, key = build(), make_key(5, 7)
    images = random_images(n=8, height=12, channels=channels)
    eager = layer.apply(images, key).numpy()
    unknown = tf.TensorSpec([None, *images.shape[1:]], tf.float32)
    graph = tf.function(
        layer.apply, input_signature=[unknown, tf.TensorSpec([2], tf.int64)]
    )
    compiled = tf.function(layer.apply, jit_compile=True)
    dataset = tf.data.Dataset.from_tensors(images).map(
        lambda batch: layer.apply(batch, key)
    )
    for other in (graph(images, key), compiled(images, key), next(iter(dataset))):
        np.testing.assert_allclose(other, eager, atol=5e-5)
    assert eager.min() >= 0 and eager.max() <= 1


@every_layer
def test_draws_are_the_same_with_and_without_xla(build):
    """The parameters themselves, on enough images that a coin that falls the other way would be met."""
    layer, key = build(), make_key(5, 7)

    n = 100 if isinstance(layer, augment.GaussianNoise) else 2000  # one number a pixel

    def parameters(key):
        return layer.draw(key, [n, 3, 96, 96])

    eager, compiled = parameters(key), tf.function(parameters, jit_compile=True)(key)
    for name, values in eager.items():
        if values.dtype.is_floating:
            # XLA may join a product and a sum: an ulp of the range, up to 80 degrees.
            np.testing.assert_allclose(compiled[name], values, atol=1e-5)
        else:
            np.testing.assert_array_equal(compiled[name], values)


@every_layer
def test_apply_draws_for_each_image_and_each_key(build):
    layer = build()
    same = np.repeat(random_images(n=1, height=12), 16, axis=0)
    first, again, other = (
        layer.apply(same, make_key(0, step)).numpy() for step in (0, 0, 1)
    )
    np.testing.assert_array_equal(again, first)
    assert np.abs(other - first).max() > 0.01
    assert len(np.unique(first.reshape(16, -1), axis=0)) > 1


@every_layer
def test_layer_is_the_identity_unless_training(build):
    layer = build()
    images = (random_images(n=4, height=10, width=7) * 255).astype(np.uint8)
    for quiet in (layer(images), layer(images, training=False)):
        np.testing.assert_allclose(quiet, images / 255, atol=3e-7)
    assert int(tf.convert_to_tensor(layer.step)) == 0


@every_layer
def test_layer_in_training_draws_anew_each_call_and_repeats_with_its_seed(build):
    images = random_images(n=8, height=12)
    first, second = build(), build()
    calls = [first(images, training=True).numpy() for _ in range(2)]
    assert np.abs(calls[0] - calls[1]).max() > 0.01
    np.testing.assert_array_equal(second(images, training=True), calls[0])
    assert int(tf.convert_to_tensor(first.step)) == 2


@every_layer
def test_layer_from_config_draws_the_same(build):
    layer, images = build(), random_images(n=8, height=12)
    config = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.get_config() == layer.get_config()
    key = make_key(1, 2)
    np.testing.assert_array_equal(restored.apply(images, key), layer.apply(images, key))


@every_layer
def test_layer_of_half_precision_images_gives_finite_float32(build):
    keras.mixed_precision.set_global_policy("mixed_float16")
    result = build()(random_images(height=12).astype(np.float16), training=True)
    assert result.dtype == tf.float32 and np.isfinite(result).all()


def test_layers_in_a_model_train_save_and_load(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            augment.RandomResizedCrop(8, seed=4),
            augment.ColorJitter(0.4, hue=0.1),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    images, path = random_images(n=8, height=12), str(tmp_path / "model.keras")
    model.compile("sgd", "mse")
    model.fit(images, np.zeros((8, 1)), batch_size=4, epochs=2, verbose=0)
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded(images), model(images), atol=1e-6)
    assert int(tf.convert_to_tensor(loaded.layers[0].step)) == 4
    np.testing.assert_allclose(
        loaded(images, training=True), model(images, training=True), atol=1e-5
    )


def test_crop_layer_at_rest_takes_the_centre():
    images = np.zeros((1, 6, 10, 1), np.float32)
    images[:, :, 2:8] = 1.0  # the centred square
    np.testing.assert_allclose(augment.RandomResizedCrop(3)(images), 1.0, atol=1e-6)


def test_layers_of_one_seed_do_not_go_together():
    """Flip and grayscale with the default seed: both coins from one number would always agree."""
    images = np.repeat(random_images(n=1), 400, axis=0)
    flipped = augment.RandomFlip(0.5)(images, training=True).numpy()
    gray = augment.RandomGrayscale(0.5)(images, training=True).numpy()
    flipped = np.abs(flipped - images).max(axis=(1, 2, 3)) > 0
    gray = np.abs(gray - images).max(axis=(1, 2, 3)) > 0
    # Independent fair coins: agreement is binomial with deviation 0.5.
    assert abs((flipped == gray).mean() - 0.5) < five_errors(0.5, 400)


BAD = {
    "rank": (
        lambda: augment.flip(np.zeros((4, 4, 3), np.float32), True),
        "`images` must have rank 4",
    ),
    "dtype": (
        lambda: augment.flip(np.zeros((1, 4, 4, 3), np.int32), True),
        "`images` must be uint8",
    ),
    "channels": (
        lambda: augment.adjust_hue(np.zeros((1, 4, 4, 2), np.float32), 0.1),
        r"`images` must have 1 or 3 channels.*\(1, 4, 4, 2\)",
    ),
    "even": (lambda: augment.GaussianBlur(4), "`kernel_size` must be odd"),
    "wide": (
        lambda: augment.gaussian_blur(np.zeros((1, 4, 4, 3), np.float32), 9, 1.0),
        "Half the `kernel_size` must be less",
    ),
    "size": (lambda: augment.RandomResizedCrop(0), "`size` must be an integer >= 1"),
    "pair": (
        lambda: augment.RandomResizedCrop((1, 2, 3)),
        "`size` must be an integer or a pair",
    ),
    "area": (
        lambda: augment.RandomResizedCrop(8, area=(0.5, 1.5)),
        "`area` must be a pair",
    ),
    "aspect": (
        lambda: augment.RandomResizedCrop(8, aspect=1.0),
        "`aspect` must be a pair",
    ),
    "probability": (
        lambda: augment.RandomFlip(1.5),
        "`probability` must be a number in 0..1",
    ),
    "hue": (lambda: augment.ColorJitter(hue=0.6), "`hue` must be in 0..0.5"),
    "strength": (
        lambda: augment.ColorJitter(-0.1),
        "`brightness` must be a finite number >= 0",
    ),
    "shear": (lambda: augment.RandomAffine(shear=90), "`shear` must be"),
    "method": (
        lambda: augment.RandomResizedCrop(8, method="nearest"),
        "`method` must be",
    ),
    "length": (lambda: augment.RandomCutout(0), "`length` must be an integer >= 1"),
    "deviation": (
        lambda: augment.GaussianNoise((0.2, 0.1)),
        "`deviation` must be a pair",
    ),
    "threshold": (
        lambda: augment.RandomSolarize(threshold=2),
        "`threshold` must be a number in 0..1",
    ),
}


@pytest.mark.parametrize("call, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
