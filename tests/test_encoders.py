"""Encoders and heads: shapes, limits, known numbers of weights, and weights that go from one to another."""

from __future__ import annotations

import functools

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from keras_contrastive.encoders import applications

WIDTH = {
    "conv_net": 128,
    "small_conv_net": 256,
    "fast_conv_net": 256,
    "small_resnet": 128,
    "resnet18": 512,
    "resnet50": 2048,
    "small_vit": 192,
}
ANY_SIZE = ["fast_conv_net", "small_resnet", "resnet18", "resnet50", "small_vit"]
MOBILE = "MobileNetV3Small"  # the one that Keras builds fastest


def make(encoder: str, image_shape=(8, 8, 3), **options) -> keras.Model:
    """An encoder by name, the transformer a small one."""
    if encoder == "small_vit":
        options = {"width": 24, "depth": 2, "num_heads": 2, **options}
    return kc.encoders.get(encoder)(image_shape, **options)


@functools.cache
def example(name: str) -> keras.Model:
    """An encoder of 8 x 8 images in float32, made once. Not to be changed."""
    assert keras.mixed_precision.global_policy().name == "float32"
    return make(name)


def images_of(*shape) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def with_random_weights(model: keras.Model) -> keras.Model:
    """All weights drawn from 0.1 to 1, so that no two of one shape are equal, as those of batch normalisation are."""
    rng = np.random.default_rng(1)
    model.set_weights([0.1 + 0.9 * rng.random(w.shape) for w in model.weights])
    return model


def assert_equal_weights(model, other):
    assert len(model.weights) == len(other.weights) > 0
    for weight, its in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(weight, its)


def save_older(model: keras.Model, path) -> None:
    """Weights in the format of Keras 1 and 2, as keras.applications publishes them, where Keras 3 reads it alone."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name for layer in model.layers]
        for layer in model.layers:
            group = file.require_group(
                layer.name
            )  # Keras 2 has Conv and Conv/BatchNorm
            weights = layer.trainable_weights + layer.non_trainable_weights
            names = [f"{layer.name}/weight_{i}:0" for i in range(len(weights))]
            group.attrs["weight_names"] = np.array(names, "S")
            for name, weight in zip(names, weights):
                group[name] = weight.numpy()


# Of all encoders


@pytest.mark.parametrize("name", WIDTH)
def test_encoder_gives_features_of_the_documented_width(name):
    width = 24 if name == "small_vit" else WIDTH[name]
    assert example(name).output_shape == (None, width)
    assert example(name)(images_of(3, 8, 8, 3)).shape == (3, width)


def test_every_encoder_is_tested():
    assert set(WIDTH) == set(kc.encoders.ENCODERS)


@pytest.mark.parametrize(
    ("policy", "name"),
    [("mixed_float16", name) for name in ("conv_net", "small_resnet", "small_vit")]
    + [("mixed_bfloat16", name) for name in ("small_resnet", "resnet50", "small_vit")],
)
def test_encoder_under_mixed_precision_gives_nearly_the_features_of_float32(
    policy, name
):
    images, encoder = images_of(4, 8, 8, 3), example(name)
    expected = encoder(images).numpy()
    keras.mixed_precision.set_global_policy(policy)
    half = make(name)
    half.set_weights(encoder.get_weights())
    features = half(images)
    assert features.dtype.name == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in half.weights} <= {"float32", tf.float32}
    # Numbers are rounded by up to 2^-11 or 2^-8 of their size, up to twice in each of 53 layers. Errors of independent
    # signs add up as the root of their number: ten or so of them.
    rounding = {"mixed_float16": 2**-11, "mixed_bfloat16": 2**-8}[policy]
    difference = np.abs(tf.cast(features, tf.float32) - expected).mean()
    assert 0 < difference < 10 * rounding * np.abs(expected).mean()


@pytest.mark.parametrize("name", WIDTH)
def test_saved_encoder_gives_the_same_features(name, tmp_path):
    encoder = example(name)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    images = images_of(4, 8, 8, 3)
    np.testing.assert_array_equal(encoder(images), loaded(images))


@pytest.mark.parametrize("name", ANY_SIZE)
def test_encoder_of_any_size_gives_the_features_of_that_of_one_size(name):
    any_size, encoder = make(name, (None, None, 3)), example(name)
    any_size.set_weights(encoder.get_weights())
    images = images_of(2, 8, 8, 3)
    np.testing.assert_allclose(any_size(images), encoder(images), rtol=1e-5, atol=1e-5)
    larger = any_size(images_of(2, 16, 12, 3))
    assert larger.shape == encoder(images).shape and np.isfinite(larger).all()


@pytest.mark.parametrize("name", WIDTH)
def test_step_against_the_gradient_lowers_a_loss(name):
    encoder = make(name)
    images, targets = images_of(4, 8, 8, 3), images_of(4, encoder.output_shape[-1])

    def loss_of():
        features = encoder(images, training=True)
        return tf.reduce_mean(tf.math.squared_difference(features, targets))

    weights = encoder.trainable_weights
    with tf.GradientTape() as tape:
        before = loss_of()
    gradients = tape.gradient(before, weights)
    assert all(gradient is not None for gradient in gradients)
    squared_length = tf.linalg.global_norm(gradients) ** 2
    for weight, gradient in zip(weights, gradients):
        weight.assign_sub(0.001 * before / squared_length * gradient)
    # To first order the loss falls by a thousandth.
    assert 0.5 < (before - loss_of()) / (0.001 * before) < 1.5


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("small_resnet", (4, 4, 1), "`small_resnet` takes images of at least 8 x 8"),
        ("resnet50", (4, 4, 1), "`resnet50` takes images of at least 8 x 8"),
        ("conv_net", (1, 9, 1), "`conv_net` takes images of at least 2 x 2"),
        ("resnet18", (32, 32), r"`image_shape` must be \(height, width, channels\)"),
        ("conv_net", (8, 8, 0), "`channels` must be an integer >= 1"),
        ("small_vit", (None, None, None), "`channels` must be an integer >= 1"),
        ("conv_net", (None, None, 3), "one height and width, not any size"),
        ("resnet18", (None, 32, 3), "one height and width, or neither"),
        ("small_vit", (32, 30, 3), r"multiples of `patch_size`.*\(32, 30, 3\), patch"),
        ("small_vit", (2, 2, 3), "`small_vit` takes images of at least 4 x 4"),
        (MOBILE, (16, 16, 3), rf"`{MOBILE}` does not take such.*\(16, 16, 3\).*32x32"),
        (MOBILE, (32, 32, 2), "takes images of 1 or 3 channels"),
        ("NASNetMobile", (None, None, 3), "one height and width, not any size"),
    ],
)
def test_image_shape_that_an_encoder_cannot_take_is_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        kc.encoders.get(name)(shape)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5", "'resnet50' or 'resnet18'"),
        ("Resnet50V2", "'ResNet50V2' or 'resnet50'"),
        ("MobileNetV3", "'MobileNetV2' or 'MobileNet'"),
    ],
)
def test_unknown_encoder_is_answered_with_the_nearest_of_ours_and_of_keras(name, near):
    with pytest.raises(ValueError, match=f"Did you mean {near}"):
        kc.encoders.get(name)


# Convolutional networks


def test_conv_net_is_the_articles_example():
    layers = kc.encoders.conv_net((28, 28, 1)).layers
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["InputLayer", "Conv2D", "MaxPooling2D", "Flatten", "Dense"]
    # 3 * 3 * 1 * 64 + 64, and 14 * 14 * 64 * 128 + 128.
    assert [layer.count_params() for layer in layers] == [0, 640, 0, 0, 1605760]


def test_resnet18_has_the_papers_number_of_weights():
    # Counted by hand for a 3x3 stem on 3 channels, without the classifier: convolutions 11,159,232, and
    # 4 numbers of batch normalisation for each of 4,800 channels.
    assert example("resnet18").count_params() == 11_159_232 + 4 * 4_800


@pytest.mark.parametrize(
    ("name", "weights"), [("resnet18", 11_176_512), ("resnet50", 23_508_032)]
)
def test_resnet_has_as_many_trained_weights_as_that_of_torchvision(name, weights):
    # torchvision 0.15 says 11,689,512 and 25,557,032; the classifiers have 512 * 1000 + 1000 and 2048 * 1000 + 1000.
    small = example(name), (7 * 7 - 3 * 3) * 3 * 64
    for encoder, missing in ((make(name, stem="imagenet"), 0), small):
        counts = [np.prod(weight.shape) for weight in encoder.trainable_weights]
        assert sum(counts) == weights - missing


@pytest.mark.parametrize(
    ("side", "kernel", "left"), [(64, 3, 64), (65, 7, 17), (None, 3, None)]
)
def test_stem_is_chosen_by_the_size_of_the_images(side, kernel, left):
    encoder = kc.encoders.resnet18((side, side, 3))
    assert encoder.weights[0].shape == (kernel, kernel, 3, 64)
    first = next(i for i in encoder.layers if isinstance(i, keras.layers.Add))
    assert first.output.shape[1:] == (left, left, 64)


def test_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="`stem` must be one of 'auto', 'small'"):
        kc.encoders.resnet50((32, 32, 3), stem="tiny")


def test_resnet50_halves_the_image_in_the_3x3_convolutions():
    layers = example("resnet50").layers
    convolutions = [i for i in layers if isinstance(i, keras.layers.Conv2D)]
    halving = [i.kernel_size[0] for i in convolutions if i.strides == (2, 2)]
    assert halving == 3 * [3, 1]  # the block's, then the shortcut's


def test_resnet18_keeps_the_order_of_its_weights_as_files_have_it():
    # Files of weights go by the order of the layers of a kind. As it was before there was a choice of stems: the
    # stem; then two blocks to a stage, with the shortcut after the convolutions where the channels change.
    expected = [(3, 3, 3, 64)]
    for before, now in ((64, 64), (64, 128), (128, 256), (256, 512)):
        expected += [(3, 3, before, now), (3, 3, now, now)]
        expected += [(1, 1, before, now)] if before != now else []
        expected += 2 * [(3, 3, now, now)]
    weights = example("resnet18").weights
    assert [tuple(w.shape) for w in weights if len(w.shape) == 4] == expected


def test_normalization_uses_the_fused_kernel():
    layers = example("resnet18").layers
    assert not [l for l in layers if isinstance(l, keras.layers.BatchNormalization)]  # noqa: E741


# The vision transformer


def test_small_vit_has_as_many_weights_as_counted_by_hand():
    # A patch of 4 * 4 * 3 numbers; six blocks of two normalisations, attention and perceptron; a normalisation.
    width, patch = 192, 48
    attention = width * 3 * width + 3 * width + width * width + width
    perceptron = 2 * width * 4 * width + 4 * width + width
    expected = patch * width + width + 6 * (4 * width + attention + perceptron)
    encoder = kc.encoders.small_vit((32, 32, 3))
    assert encoder.count_params() == expected + 2 * width
    assert encoder.output_shape == (None, WIDTH["small_vit"])


def test_positions_are_sines_and_cosines_of_column_and_row():
    patches = images_of(2, 3, 5, 8)
    tokens = kc.encoders.PatchPositions()(patches).numpy().reshape(2, 3, 5, 8)
    for row in range(3):
        for column in range(5):
            code = []
            for place in (column, row):
                angles = [place * 10000 ** (-k / 2) for k in range(2)]
                code += [*np.sin(angles), *np.cos(angles)]
            expected = patches[:, row, column] + np.array(code)
            np.testing.assert_allclose(tokens[:, row, column], expected, atol=1e-6)


def test_small_vit_knows_where_a_patch_is():
    encoder = example("small_vit")
    images = images_of(1, 8, 8, 3)
    upside_down = np.concatenate([images[:, 4:], images[:, :4]], axis=1)
    # The mean over patches would be the same without positions.
    assert np.abs(encoder(images) - encoder(upside_down)).max() > 1e-2


def test_attention_equals_that_of_keras():
    dim, heads = 12, 3
    tokens = images_of(2, 5, dim)
    ours = kc.encoders.SelfAttention(heads)
    ours.build(tokens.shape)
    kernel, bias, output_kernel, output_bias = with_random_weights(ours).get_weights()
    theirs = keras.layers.MultiHeadAttention(heads, dim // heads)
    theirs(tokens, tokens)
    weights = []
    for matrix, offset in zip(np.split(kernel, 3, axis=1), np.split(bias, 3)):
        weights += [matrix.reshape(dim, heads, -1), offset.reshape(heads, -1)]
    theirs.set_weights([*weights, output_kernel.reshape(heads, -1, dim), output_bias])
    np.testing.assert_allclose(ours(tokens), theirs(tokens, tokens), rtol=1e-5)


def test_small_vit_of_any_size_leaves_out_what_is_beyond_the_last_whole_patch():
    encoder = make("small_vit", (None, None, 3))
    images = images_of(2, 11, 9, 3)
    expected = encoder(images[:, :8, :8])
    np.testing.assert_allclose(encoder(images), expected, atol=1e-5)
    # The size unknown while it is traced
    np.testing.assert_allclose(encoder.predict(images, verbose=0), expected, atol=1e-5)


def test_small_vit_of_any_size_compiles_by_xla():
    encoder = make("small_vit", (None, None, 3))
    images = images_of(2, 12, 8, 3)
    compiled = tf.function(lambda images: encoder(images), jit_compile=True)
    np.testing.assert_allclose(compiled(images), encoder(images), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 30, "num_heads": 3}, "multiple of 4.*width=30"),
        ({"width": 32, "num_heads": 3}, "and of `num_heads`.*num_heads=3"),
        ({"depth": 0}, "`depth` must be an integer >= 1"),
    ],
    ids=["positions", "heads", "depth"],
)
def test_small_vit_of_such_numbers_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        kc.encoders.small_vit((8, 8, 3), **options)


# Models of keras.applications


def test_resnet50_of_keras_is_told_from_ours_by_case_and_has_its_preprocessing_inside():
    encoder = kc.encoders.get("ResNet50")((32, 32, 3))
    plain = encoder.layers[-1]  # as keras.applications gives it
    assert plain.name == "resnet50" and plain.get_layer("conv5_block3_out")
    assert kc.encoders.get("resnet50") is kc.encoders.resnet50
    images = images_of(2, 32, 32, 3)
    caffe = 255 * images[..., ::-1] - [103.939, 116.779, 123.68]  # blue, green, red
    expected = plain(caffe.astype(np.float32)).numpy()
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("VGG16", lambda x: 255 * x[..., ::-1] - [103.939, 116.779, 123.68]),
        ("MobileNetV2", lambda x: 2 * x - 1),
        ("DenseNet121", lambda x: (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("MobileNetV3Small", lambda x: 255 * x),
    ],
    ids=["caffe", "tf", "torch", "none"],
)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_preprocessing_is_that_of_the_paper(name, expected, policy):
    keras.mixed_precision.set_global_policy(policy)
    layer = kc.encoders.ApplicationPreprocessing(applications.family_of(name))
    images = images_of(2, 4, 4, 3)
    np.testing.assert_allclose(layer(images), expected(images), rtol=1e-5, atol=1e-4)
    grey = images[..., :1]
    repeated = np.repeat(grey, 3, axis=-1)
    np.testing.assert_allclose(layer(grey), expected(repeated), rtol=1e-5, atol=1e-4)


def test_every_application_has_a_preprocessing_of_its_family():
    names = applications.application_names()
    assert len(names) >= 38 and "ResNet50" in names
    for name in names:
        family = getattr(keras.applications, applications.family_of(name))
        assert callable(family.preprocess_input)


@pytest.fixture(scope="module")
def mobile() -> keras.Model:
    """A model of Keras itself, all its weights drawn anew. Not to be changed."""
    return with_random_weights(
        keras.applications.MobileNetV3Small(
            include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg"
        )
    )


@pytest.fixture(scope="module")
def mobile_files(mobile, tmp_path_factory):
    """Its weights in both formats."""
    folder = tmp_path_factory.mktemp("mobile")
    mobile.save_weights(folder / "new.weights.h5")
    save_older(mobile, folder / "older_notop.h5")
    return folder


@pytest.fixture(scope="module")
def mobile_encoder() -> keras.Model:
    """The same as an encoder of grey images. Its weights may be changed."""
    return kc.encoders.get(MOBILE)((32, 32, 1))


@pytest.mark.parametrize("file", ["new.weights.h5", "older_notop.h5"])
def test_application_takes_weights_of_the_model_of_keras(
    mobile, mobile_encoder, mobile_files, file
):
    mobile_encoder.set_weights([0 * w for w in mobile_encoder.get_weights()])
    kc.encoders.load_weights(mobile_encoder, mobile_files / file)
    assert_equal_weights(mobile_encoder, mobile)


def test_application_takes_grey_images(mobile, mobile_encoder):
    mobile_encoder.set_weights(mobile.get_weights())
    grey = images_of(2, 32, 32, 1)
    expected = mobile(255 * np.repeat(grey, 3, axis=-1)).numpy()
    np.testing.assert_allclose(mobile_encoder(grey), expected, rtol=1e-4)


def test_application_goes_with_its_preprocessing_and_weights_through_a_file(
    mobile, mobile_files, tmp_path
):
    path = mobile_files / "new.weights.h5"
    encoder = kc.encoders.get(MOBILE)((None, None, 3), weights=path, name="mine")
    assert encoder.name == "mine" and encoder.output_shape == (None, 576)
    assert_equal_weights(encoder, mobile)
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    images = images_of(2, 32, 32, 3)
    np.testing.assert_array_equal(loaded(images), encoder(images))


def test_application_takes_the_published_weights(mobile, monkeypatch):
    asked = []

    def download_or_build(*, weights, **options):
        asked.append(weights)
        return mobile if weights == "imagenet" else build(weights=weights, **options)

    build = getattr(keras.applications, MOBILE)
    download_or_build.__module__ = build.__module__
    monkeypatch.setattr(keras.applications, MOBILE, download_or_build)
    encoder = kc.encoders.application(MOBILE, (32, 32, 3), weights="imagenet")
    assert_equal_weights(encoder, mobile)
    assert asked.count("imagenet") == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("no.h5", f"no such file with the weights of `{MOBILE}`.*'no.h5'"),
        (1, "`weights` must be None, 'imagenet' or the path.*weights=1"),
    ],
    ids=["missing", "number"],
)
def test_application_with_such_weights_is_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        kc.encoders.application(MOBILE, (32, 32, 3), weights=weights)


def test_unknown_application_is_refused():
    with pytest.raises(ValueError, match=r"`name` must be one of .*mean 'ResNet50'"):
        kc.encoders.application("resnet50", (32, 32, 3))


def normalizing_encoder(family: str = "efficientnet") -> keras.Model:
    """As an EfficientNet begins: images in 0..1, a normalisation with weights; then a model of nothing else."""
    inner = keras.Input((2, 2, 3))
    x = keras.layers.Normalization()(keras.layers.Rescaling(1 / 255)(inner))
    backbone = keras.Model(inner, keras.layers.GlobalAveragePooling2D()(x))
    images = keras.Input((2, 2, 3))
    scaled = kc.encoders.ApplicationPreprocessing(family)(images)
    return keras.Model(images, backbone(scaled))


@pytest.mark.parametrize(
    "file",
    ["encoder.keras", "encoder.weights.h5", "encoder.h5", "inner.weights.h5"],
)
@pytest.mark.parametrize(
    ("family", "variance", "deviation"),
    [
        ("efficientnet", [0.229, 0.224, 0.225], [0.229, 0.224, 0.225]),
        ("efficientnet", [0.25, 0.5, 1.0], [0.5, 0.5**0.5, 1.0]),
        ("mobilenet_v3", [0.229, 0.224, 0.225], np.sqrt([0.229, 0.224, 0.225])),
    ],
    ids=["published", "of one's own", "other family"],
)
def test_normalization_follows_the_weights_and_is_put_right_in_published_ones(
    family, variance, deviation, file, tmp_path
):
    mean = [0.485, 0.456, 0.406]
    source, encoder = normalizing_encoder(family), normalizing_encoder(family)
    source.set_weights([np.array(mean), np.array(variance), np.array(0)])
    source.save(tmp_path / "encoder.keras")
    source.save_weights(tmp_path / "encoder.weights.h5")
    save_older(source, tmp_path / "encoder.h5")
    source.layers[-1].save_weights(tmp_path / "inner.weights.h5")
    kc.encoders.load_weights(encoder, tmp_path / file)
    images = images_of(3, 2, 2, 3)
    expected = ((images - mean) / deviation).mean(axis=(1, 2))
    np.testing.assert_allclose(encoder(images), expected, rtol=1e-4, atol=1e-5)


# Weights of another encoder


@pytest.fixture(scope="module")
def trained() -> keras.Model:
    return with_random_weights(make("small_resnet", (8, 8, 1)))


@pytest.mark.parametrize(
    "file", ["model.keras", "encoder.keras", "encoder.weights.h5", "encoder.h5"]
)
def test_encoder_takes_the_weights_of_another(trained, file, tmp_path):
    path = tmp_path / file
    if file == "model.keras":
        kc.ContrastiveModel(
            trained, kc.losses.NTXentLoss(), head=kc.heads.mlp(4, hidden_dim=5)
        ).save(path)
    elif file == "encoder.keras":
        trained.save(path)
    elif file == "encoder.weights.h5":
        trained.save_weights(path)
    else:
        save_older(trained, path)
    encoder = make("small_resnet", (None, None, 1))
    kc.encoders.load_weights(encoder, str(path))
    assert_equal_weights(encoder, trained)


def test_encoder_takes_the_weights_of_one_that_was_compiled(tmp_path):
    labelled = make("small_resnet", (8, 8, 1))
    labelled.compile(optimizer=keras.optimizers.Adam(), loss="mse", jit_compile=False)
    labelled.optimizer.build(labelled.trainable_variables)
    labelled.save_weights(tmp_path / "compiled.weights.h5")  # with Adam's moments
    encoder = make("small_resnet", (8, 8, 1))
    kc.encoders.load_weights(encoder, tmp_path / "compiled.weights.h5")
    assert_equal_weights(encoder, labelled)


def test_encoder_takes_the_weights_of_a_whole_model_in_the_older_format(
    trained, tmp_path
):
    save_older(trained, tmp_path / "weights.h5")
    with (
        h5py.File(tmp_path / "model.h5", "w") as whole,
        h5py.File(tmp_path / "weights.h5") as weights,
    ):
        weights.copy(weights, whole, "model_weights")
        # Keras cuts long lists of names into pieces.
        group = whole["model_weights"]
        names = group.attrs["layer_names"]
        del group.attrs["layer_names"]
        group.attrs["layer_names0"] = names[:5]
        group.attrs["layer_names1"] = names[5:]
    encoder = make("small_resnet", (8, 8, 1))
    kc.encoders.load_weights(encoder, tmp_path / "model.h5")
    assert_equal_weights(encoder, trained)


@pytest.mark.parametrize("file", ["other.keras", "other.weights.h5", "other.h5"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 32}, r"has the shape \(4, 4, 3, 24\), in the file.*\(4, 4, 3, 32\)"),
        ({"depth": 1}, r"\(24,?.*\) is missing in the file"),
        ({"depth": 3}, r"the file has .*\(24,?.*\) too"),
    ],
    ids=["wider", "shallower", "deeper"],
)
def test_weights_of_another_kind_are_refused_whole(file, options, message, tmp_path):
    other = make("small_vit", **options)
    path = tmp_path / file
    if file == "other.keras":
        other.save(path)
    elif file == "other.h5":
        save_older(other, path)
    else:
        other.save_weights(path)
    encoder = make("small_vit", name="mine")
    before = encoder.get_weights()
    with pytest.raises(
        ValueError, match=rf"{file}' does not hold .*`mine`: .*{message}"
    ):
        kc.encoders.load_weights(encoder, path)
    for old, weight in zip(before, encoder.get_weights()):
        np.testing.assert_array_equal(old, weight)


def test_weights_of_another_application_are_refused_with_the_remedy(
    mobile_encoder, tmp_path
):
    example("small_vit").save_weights(tmp_path / "other.weights.h5")
    message = rf"other.weights.h5' does not hold .*`{MOBILE}`: .*include_top=False"
    with pytest.raises(ValueError, match=message):
        kc.encoders.load_weights(mobile_encoder, tmp_path / "other.weights.h5")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.keras", "no such file .*`conv_net`.*none.keras"),
        ("notes.txt", r"must end in .keras .*notes.txt"),
        ("broken.keras", "broken.keras' is no saved model that can be loaded"),
        ("broken.weights.h5", "broken.weights.h5' is no HDF5 file"),
        ("broken.h5", "broken.h5' is no HDF5 file"),
    ],
)
def test_file_without_weights_is_refused(file, message, tmp_path):
    if not file.startswith("none"):
        (tmp_path / file).write_text("no weights")
    with pytest.raises(ValueError, match=message):
        kc.encoders.load_weights(example("conv_net"), tmp_path / file)


# Heads


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_mlp_head_has_so_many_dense_layers(num_layers):
    head = kc.heads.mlp(5, hidden_dim=7, num_layers=num_layers)
    head.build((None, 4))
    dense = [
        layer.units for layer in head.layers if isinstance(layer, keras.layers.Dense)
    ]
    assert dense == [7] * (num_layers - 1) + [5]
    assert head.output_shape == (None, 5)


def test_mlp_head_of_no_layers_is_refused():
    with pytest.raises(ValueError, match="`num_layers` must be an integer >= 1"):
        kc.heads.mlp(num_layers=0)
