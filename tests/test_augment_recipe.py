"""Recipes: lists of operations, their views, and their way through a file."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import augment
from keras_contrastive._random import fold, make_key
from keras_contrastive.augment import _schedule
from tests.oracles import augment as oracle


def random_images(n=6, size=16, channels=3):
    return np.random.default_rng(0).integers(
        0, 256, (n, size, size, channels), np.uint8
    )


@keras.saving.register_keras_serializable("tests")
def registered_negative(images):
    return 1 - images


def unregistered_negative(images):
    return 1 - images


@pytest.fixture(scope="module")
def simclr():
    """One object, as each is compiled once."""
    return augment.simclr(16)


def test_views_are_float_in_range_and_each_is_drawn_anew(simclr):
    images = np.repeat(random_images(n=1), 6, axis=0)
    views = augment.views(images, 2, simclr, seed=0, step=0).numpy()
    assert views.shape == (6, 2, 16, 16, 3) and views.dtype == np.float32
    assert views.min() >= 0 and views.max() <= 1
    assert len(np.unique(views.reshape(12, -1), axis=0)) == 12


def test_views_belong_to_their_image():
    """View j of image i shows image i, for all i and j: the batch is not interleaved wrongly."""
    images = (
        np.full([4, 8, 8, 1], 1.0, np.float32) * np.arange(4).reshape(4, 1, 1, 1) / 4
    )
    views = augment.views(
        images, 3, augment.Recipe([augment.RandomResizedCrop(8)]), 0, 0
    ).numpy()
    expected = np.broadcast_to(images[:, None], views.shape)
    np.testing.assert_allclose(views, expected, atol=1e-6)


def test_views_of_one_seed_and_step_repeat_and_others_differ(simclr):
    images = random_images()

    def draw(seed, step):
        return augment.views(images, 2, simclr, seed, step).numpy()

    first = draw(0, 5)
    np.testing.assert_array_equal(draw(0, 5), first)
    for other in (draw(0, 6), draw(1, 5), draw(5, 0)):
        # As all are drawn afresh, hardly an image is the same.
        assert (np.abs(other - first).max(axis=(2, 3, 4)) > 0.01).mean() > 0.9


def test_views_are_the_same_in_the_step_and_in_the_pipeline(simclr):
    images = random_images()
    eager = augment.views(images, 2, simclr, 3, 9).numpy()
    plain = tf.function(lambda step: augment.views(images, 2, simclr, 3, step))
    compiled = tf.function(plain.python_function, jit_compile=True)
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(6, drop_remainder=False)
    dataset = dataset.map(lambda batch: augment.views(batch, 2, simclr, 3, 9))
    key = make_key(3, 9)
    uncompiled = simclr(np.repeat(images, 2, axis=0), key)
    step = tf.constant(9, tf.int64)
    for other in (
        plain(step),
        compiled(step),
        next(iter(dataset)),
        tf.reshape(uncompiled, eager.shape),
    ):
        # A hue near grey, the quotient of small differences, makes the most of roundings.
        np.testing.assert_allclose(other, eager, atol=1e-3)
        assert np.abs(other - eager).mean() < 1e-6


def test_views_of_many_steps_are_traced_once():
    traces = []

    class Counted(augment.Operation):
        def draw(self, key, shape):
            traces.append(shape)
            return {}

        def transform(self, planar):
            return planar

    recipe, images = augment.Recipe([Counted()]), random_images()
    for step in range(4):
        augment.views(images, 2, recipe, 0, step)
        augment.views(images, 2, recipe, step, tf.constant(step))
    assert len(traces) == 1


def test_views_of_images_with_views_draws_once_for_each():
    images = random_images().reshape(2, 3, 16, 16, 3)
    recipe = augment.Recipe([augment.RandomFlip()])
    flat = recipe(images.reshape(6, 16, 16, 3), make_key(1, 2)).numpy()
    for n in (None, 3):
        views = augment.views(images, n, recipe, 1, 2)
        np.testing.assert_array_equal(views, flat.reshape(images.shape))


def test_views_without_a_number_are_as_many_as_the_recipe_says():
    recipe = augment.Recipe([augment.RandomFlip()], num_views=3)
    assert augment.views(random_images(), None, recipe, 0, 0).shape[1] == 3


def test_operations_of_a_recipe_draw_independently():
    """Two flips of probability 1/2 undo each other in half the images; one coin for both, in all."""
    images = np.repeat(random_images(n=1, size=4), 400, axis=0)
    recipe = augment.Recipe([augment.RandomFlip(), augment.RandomFlip()])
    changed = (
        np.abs(recipe(images, make_key(0, 0)) - images / 255).max(axis=(1, 2, 3))
        > 0.001
    )
    assert abs(changed.mean() - 0.5) < 5 * 0.5 / np.sqrt(400)  # five standard errors


def test_recipe_takes_keras_layers_and_functions():
    layer = keras.layers.RandomBrightness(0.5, value_range=(0, 1), seed=1)
    recipe = augment.Recipe([augment.RandomFlip(0.0), layer, lambda images: 1 - images])
    images = np.full((4, 8, 8, 3), 102, np.uint8)
    views = augment.views(images, 2, recipe, 0, 0).numpy()
    assert views.shape == (4, 2, 8, 8, 3)
    levels = np.unique(views.round(5).reshape(8, -1), axis=0)
    assert len(levels) > 1  # the layer draws, so it was called with training=True
    assert (np.abs(levels - levels[:, :1]) < 1e-5).all() and not np.allclose(
        levels, 0.4
    )


def test_recipe_takes_a_layer_that_knows_no_training():
    recipe = augment.Recipe([keras.layers.Rescaling(2.0, offset=-0.5)])
    views = augment.views(
        np.array([0, 102, 255], np.uint8).reshape(1, 1, 3, 1), 1, recipe, 0, 0
    )
    # 2 x - 0.5, clipped to 0..1.
    np.testing.assert_allclose(tf.reshape(views, [-1]), [0, 0.3, 1.0], atol=1e-6)


def test_recipe_with_a_foreign_function_maps_over_a_dataset():
    recipe = augment.Recipe([lambda images: images[:, ::2, ::2]])
    dataset = tf.data.Dataset.from_tensors(random_images()).map(
        lambda batch: augment.views(batch, 2, recipe, 0, 0)
    )
    assert next(iter(dataset)).shape == (6, 2, 8, 8, 3)


def test_recipe_from_config_draws_the_same(simclr):
    config = keras.saving.serialize_keras_object(
        augment.Recipe(
            [
                *simclr.operations[:2],
                keras.layers.Rescaling(0.5),
                registered_negative,
            ],
            num_views=4,
        )
    )
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.num_views == 4
    assert restored.operations[3] is registered_negative
    images, key = random_images(), make_key(0, 0)
    np.testing.assert_array_equal(
        restored(images, key),
        1 - 0.5 * augment.Recipe(simclr.operations[:2])(images, key).numpy(),
    )


@pytest.mark.parametrize(
    "function, name",
    [
        (unregistered_negative, "unregistered_negative"),
        (lambda images: images, "<lambda>"),
    ],
    ids=["function", "lambda"],
)
def test_config_with_a_function_keras_cannot_save_names_it(function, name):
    with pytest.raises(
        ValueError, match=f"The function `.*{name}` in the recipe cannot be saved"
    ):
        augment.Recipe([function]).get_config()


def test_config_of_a_function_that_is_not_registered_here_names_it():
    config = {"operations": [{"function": "tests>gone"}], "num_views": 2}
    with pytest.raises(
        ValueError, match="'tests>gone' of the recipe is not registered"
    ):
        augment.Recipe.from_config(config)


# A recipe for each view.


def dark_and_bright(**numbers):
    """View 0 halves the grey levels, the others leave them."""
    return augment.Recipes(
        [
            augment.Recipe([lambda images: images / 2], num_views=1),
            augment.Recipe([augment.RandomFlip(0.0)], **numbers),
        ]
    )


def test_recipes_draw_each_view_by_its_own():
    images = random_images()
    views = augment.views(images, None, dark_and_bright(num_views=2), 0, 0).numpy()
    assert views.shape == (6, 3, 16, 16, 3)
    for view, share in enumerate([0.5, 1.0, 1.0]):
        np.testing.assert_allclose(views[:, view], share * images / 255, atol=1e-6)


def test_recipes_asked_for_more_views_begin_again():
    images = random_images()
    views = augment.views(images, 5, dark_and_bright(num_views=1), 0, 0).numpy()
    for view, share in enumerate([0.5, 1.0, 0.5, 1.0, 0.5]):
        np.testing.assert_allclose(views[:, view], share * images / 255, atol=1e-6)


def test_recipes_on_images_with_views_take_each_view_by_its_recipe():
    images = random_images(n=6).reshape(2, 3, 16, 16, 3)
    views = augment.views(images, None, dark_and_bright(num_views=1), 0, 0).numpy()
    for view, share in enumerate([0.5, 1.0, 0.5]):
        np.testing.assert_allclose(
            views[:, view], share * images[:, view] / 255, atol=1e-6
        )


def test_recipes_of_several_sizes_give_a_tuple_with_the_first_size_first():
    recipe = augment.multi_crop(16, 8, 3)
    assert recipe.num_views == 5
    large, small = augment.views(random_images(n=4, size=20), None, recipe, 0, 0)
    assert large.shape == (4, 2, 16, 16, 3) and small.shape == (4, 3, 8, 8, 3)
    mapped = augment.map_dataset(
        tf.data.Dataset.from_tensors((random_images(n=4, size=20), np.arange(4))),
        recipe,
    )
    (large_bytes, small_bytes), ids = next(iter(mapped))
    np.testing.assert_array_equal(ids, np.arange(4))
    for floats, mapped_bytes in ((large, large_bytes), (small, small_bytes)):
        assert mapped_bytes.dtype == tf.uint8
        # A value that lies between two levels may be rounded either way.
        np.testing.assert_allclose(mapped_bytes / 255, floats, atol=0.51 / 255)


def test_recipes_from_config_draw_the_same():
    recipe = augment.byol(16)
    config = keras.saving.serialize_keras_object(recipe)
    restored = keras.saving.deserialize_keras_object(config)
    images = random_images()
    np.testing.assert_array_equal(
        augment.views(images, None, restored, 0, 1),
        augment.views(images, None, recipe, 0, 1),
    )


def sequence(recipe):
    """The operations by name, with their settings."""
    return {type(op).__name__: op.get_config() for op in recipe.operations}


def test_byol_has_the_settings_of_the_paper():
    """Grill et al., Table 6."""
    first, second = augment.byol(224).recipes
    for recipe, blur, solarize in ((first, 1.0, None), (second, 0.1, 0.2)):
        assert recipe.num_views == 1
        ops = sequence(recipe)
        assert ops["RandomResizedCrop"]["area"] == (0.08, 1.0)
        assert ops["RandomResizedCrop"]["method"] == "bicubic"
        jitter = ops["ColorJitter"]
        names = ("brightness", "contrast", "saturation", "hue", "probability")
        assert [jitter[name] for name in names] == [0.4, 0.4, 0.2, 0.1, 0.8]
        assert ops["GaussianBlur"]["probability"] == blur
        assert ops["GaussianBlur"]["kernel_size"] == 23
        assert ops.get("RandomSolarize", {}).get("probability") == solarize


@pytest.mark.parametrize(
    ("style", "areas"),
    [
        ("swav", [(0.14, 1.0), (0.05, 0.14)]),
        ("dino", [(0.4, 1.0), (0.4, 1.0), (0.05, 0.4)]),
    ],
)
def test_multi_crop_has_the_areas_of_the_papers(style, areas):
    recipes = augment.multi_crop(224, n_local=8, style=style).recipes
    crops = [sequence(recipe)["RandomResizedCrop"] for recipe in recipes]
    assert [crop["area"] for crop in crops] == areas
    assert crops[-1]["size"] == (96, 96) and recipes[-1].num_views == 8


# Independence: of images, of views, of recipes.


@pytest.mark.parametrize("several", [False, True], ids=["Recipe", "Recipes"])
def test_draws_of_images_and_views_are_independent(several):
    """Coins of two views, and of an image and the next, agree in half the cases."""
    n = 4000
    images = np.tile(np.array([0, 255], np.uint8).reshape(1, 1, 2, 1), (n, 1, 1, 1))
    flip = augment.Recipe([augment.RandomFlip()], num_views=1)
    recipe = augment.Recipes([flip, flip]) if several else flip
    flipped = augment.views(images, 2, recipe, 3, 4).numpy()[:, :, 0, 0, 0] > 0.5
    bound = 5 * 0.5 / np.sqrt(n)  # five standard errors
    assert abs((flipped[:, 0] == flipped[:, 1]).mean() - 0.5) < bound
    assert abs((flipped[1:, 0] == flipped[:-1, 0]).mean() - 0.5) < bound


# How a recipe runs.


def test_batches_of_known_size_pass_in_chunks(monkeypatch):
    """The decision, from a batch of a dataset with `drop_remainder` through to the program."""
    chunks, decide = [], _schedule._chunk_size
    monkeypatch.setattr(
        _schedule, "_chunk_size", lambda *sizes: chunks.append(decide(*sizes))
    )
    dataset = tf.data.Dataset.from_tensor_slices(random_images(n=8, size=64))
    for drop, expected in ((True, 16), (False, None)):
        batches = dataset.batch(8, drop_remainder=drop)
        recipe = augment.Recipe([augment.RandomResizedCrop(72)])
        next(iter(augment.map_dataset(batches, recipe)))
        assert chunks.pop() == expected
        chunks.clear()


def test_sizes_unknown_while_tracing_give_the_same():
    images = random_images()
    recipe = augment.Recipe(
        [augment.RandomResizedCrop(12), augment.RandomFlip(), augment.ColorJitter(0.4)]
    )
    unknown = tf.function(
        lambda images: augment.views(images, 2, recipe, 0, 0),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    expected = augment.views(images, 2, recipe, 0, 0)
    np.testing.assert_allclose(unknown(images), expected, atol=1e-5)


def test_large_images_shrink_by_products_as_by_taps():
    """40 times smaller: more taps than are written out one by one."""
    images = random_images(n=2, size=160)
    shrunk = augment.crop_and_resize(images, [[0, 0, 160, 160]] * 2, 4)
    expected = [
        oracle.crop_and_resize(i / 255, (0, 0, 160, 160), (4, 4)) for i in images
    ]
    np.testing.assert_allclose(shrunk, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["simclr", "moco_v2", "digits"])
def test_chunks_give_what_all_images_at_once_give(name, monkeypatch):
    """Chunks of 4 of 18 views, the last overlapping; sorted by what they need, and put back."""
    images = random_images(n=9, size=40)
    monkeypatch.setattr(_schedule, "_chunk_size", lambda *_: None)
    at_once = augment.views(images, 2, augment.get(name)(40), 0, 0).numpy()
    monkeypatch.setattr(_schedule, "_chunk_size", lambda *_: 4)
    chunked = augment.views(images, 2, augment.get(name)(40), 0, 0).numpy()
    # Near the threshold of a comparison of channels a rounding decides which is the largest.
    np.testing.assert_allclose(chunked, at_once, atol=1e-3)
    assert np.abs(chunked - at_once).mean() < 1e-6


def test_operation_of_ones_own_may_change_the_size():
    class Halved(augment.Operation):
        def draw(self, key, shape):
            return {}

        def transform(self, planar):
            return planar[:, :, ::2, ::2]

        def size_of(self, size):
            return size[0] // 2, size[1] // 2

    images = random_images()
    recipe = augment.Recipe([Halved(), augment.RandomFlip(0.0)])
    views = augment.views(images, 1, recipe, 0, 0).numpy()
    np.testing.assert_allclose(views[:, 0], images[:, ::2, ::2] / 255, atol=1e-6)


def test_flip_after_a_crop_is_the_flip_of_the_crop():
    """Joined into the crop, it is still the flip drawn for the image."""
    images = random_images(n=64)
    crop, flip = augment.RandomResizedCrop(12), augment.RandomFlip()
    key = make_key(1, 2)
    both = augment.Recipe([crop, flip])(images, key)
    cropped = augment.Recipe([crop])(images, key)
    where = flip.draw(fold(key, 1), [64, 3, 12, 12])["where"]
    np.testing.assert_allclose(both, augment.flip(cropped, where), atol=1e-6)


def test_copy_ahead_changes_the_device_and_nothing_else():
    """On a second logical CPU in place of a GPU."""
    program = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_contrastive import augment
from keras_contrastive.augment import dataset as module
images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
source = tf.data.Dataset.from_tensors((images, np.arange(4))).repeat(3)
recipe = augment.Recipe([augment.RandomFlip()])
here = list(augment.map_dataset(source, recipe))
module._first_gpu = lambda: "CPU:1"
there = list(augment.map_dataset(source, recipe))
for (views, ids), (copied, copied_ids) in zip(here, there):
    assert "CPU:1" in copied.device, copied.device
    np.testing.assert_array_equal(views, copied)
    np.testing.assert_array_equal(ids, copied_ids)
assert len(here) == len(there) == 3
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_simclr_blurs_large_images_only():
    def kinds(size):
        return [type(step).__name__ for step in augment.simclr(size).operations]

    common = ["RandomResizedCrop", "RandomFlip", "ColorJitter", "RandomGrayscale"]
    assert kinds(32) == common
    assert kinds(96) == [*common, "GaussianBlur"]


def test_simclr_has_the_settings_of_the_paper():
    crop, flip, jitter, gray, blur = (
        op.get_config() for op in augment.simclr(224, 0.5).operations
    )
    assert crop["area"] == (0.08, 1.0) and crop["aspect"] == (3 / 4, 4 / 3)
    assert flip["probability"] == 0.5 and gray["probability"] == 0.2
    strengths = [
        jitter[name] for name in ("brightness", "contrast", "saturation", "hue")
    ]
    np.testing.assert_allclose(strengths, [0.4, 0.4, 0.4, 0.1])
    assert jitter["probability"] == 0.8
    assert (
        blur["kernel_size"] == 23
        and blur["sigma"] == (0.1, 2.0)
        and blur["probability"] == 0.5
    )


def test_moco_v2_has_the_settings_of_the_public_code():
    crop, jitter, gray, blur, flip = (
        op.get_config() for op in augment.moco_v2(224).operations
    )
    assert crop["area"] == (0.2, 1.0) and crop["aspect"] == (3 / 4, 4 / 3)
    names = ("brightness", "contrast", "saturation", "hue", "probability")
    assert [jitter[name] for name in names] == [0.4, 0.4, 0.4, 0.1, 0.8]
    assert gray["probability"] == 0.2 and flip["probability"] == 0.5
    assert blur["sigma"] == (0.1, 2.0) and blur["probability"] == 0.5


@pytest.mark.parametrize("name", sorted(augment.RECIPES))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_recipe_gives_views_of_its_size(name, channels):
    recipe = augment.get(name)(16)
    views = augment.views(random_images(n=3, channels=channels), 2, recipe, 0, 0)
    views = views.numpy()
    side = 12 if name == "fast" else 16  # three quarters, which grow up to the image
    assert views.shape == (3, 2, side, side, channels)
    assert views.min() >= 0 and views.max() <= 1 and views.std() > 0.01


def test_digits_are_not_mirrored_and_stay_in_the_picture():
    """An L, wherever it is moved to, looks more like an L than like its mirror image."""
    letter = np.zeros((16, 16), np.float32)
    letter[3:13, 5:7], letter[11:13, 5:12] = 1, 1
    images = np.repeat(letter[None, :, :, None], 100, axis=0)
    views = augment.views(images, 1, augment.digits(16), 0, 0).numpy()[:, 0, :, :, 0]

    def likeness(template):
        moves = [(down, across) for down in range(-5, 6) for across in range(-5, 6)]
        moved = [np.roll(template, move, axis=(0, 1)) for move in moves]
        return np.einsum("nhw,mhw->nm", views, moved).max(axis=1)

    assert (likeness(letter) > likeness(letter[:, ::-1])).all()
    ink = views.sum(axis=(1, 2)) / letter.sum()
    assert (
        0.6 < ink.min() and ink.max() < 1.15**2 + 0.1
    )  # the scale squared, all inside


BAD = {
    "name": (
        lambda: augment.get("simcrl"),
        "`name` must be one of .* Did you mean 'simclr'",
    ),
    "callable": (lambda: augment.Recipe([3]), "`operations` must be .* Received: 3"),
    "num_views": (
        lambda: augment.Recipe([], num_views=0),
        "`num_views` must be an integer >= 1",
    ),
    "recipe": (
        lambda: augment.views(random_images(), 2, [], 0, 0),
        "`recipe` must be an",
    ),
    "rank": (
        lambda: augment.views(random_images()[0], 2, augment.Recipe([]), 0, 0),
        r"`images` must be \[batch.*\(16, 16, 3\)",
    ),
    "n": (
        lambda: augment.views(random_images(), 0, augment.Recipe([]), 0, 0),
        "`n` must be an integer >= 1",
    ),
    "dtype": (
        lambda: augment.views(
            random_images().astype(np.int32), 2, augment.weak(8), 0, 0
        ),
        "`images` must be uint8",
    ),
    "dtype of a recipe": (
        lambda: augment.weak(8)(random_images().astype(np.int32), make_key(0, 0)),
        "`images` must be uint8",
    ),
    "recipe in a recipe": (
        lambda: augment.Recipe([augment.weak(8)]),
        "must not hold recipes",
    ),
    "mapped list": (
        lambda: augment.map_dataset(
            tf.data.Dataset.from_tensors(random_images()), [augment.RandomFlip()]
        ),
        "`recipe` must be an",
    ),
    "normalize of one channel": (
        lambda: augment.normalize(random_images(channels=1), (0, 0, 0), 1.0),
        "one for each channel",
    ),
    "recipes": (
        lambda: augment.Recipes([augment.RandomFlip()]),
        "`recipes` must be a list of `augment.Recipe`s",
    ),
    "no recipes": (lambda: augment.Recipes([]), "at least one recipe"),
    "style": (lambda: augment.multi_crop(16, style="dinno"), "Did you mean 'dino'"),
    "n_local": (lambda: augment.multi_crop(16, 8, 0), "`n_local` must be an integer"),
    "normalize first": (
        lambda: augment.Recipe([augment.Normalize(), augment.RandomFlip()]),
        "`Normalize` must be the last",
    ),
    "normalize as bytes": (
        lambda: augment.map_dataset(
            tf.data.Dataset.from_tensors(random_images()),
            augment.Recipe([augment.Normalize()]),
        ),
        "`recipe` must not end in `Normalize`",
    ),
    "std": (lambda: augment.Normalize(std=0.0), "`std` must be > 0"),
    "other n": (
        lambda: augment.views(random_images()[None], 2, augment.Recipe([]), 0, 0),
        "`n` must be None or the number of views",
    ),
}


@pytest.mark.parametrize("call, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
