"""`keras_contrastive.export`: what a SavedModel gives, in a process that has TensorFlow alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import encoders, export, heads, losses
from keras_contrastive.data import resize
from keras_contrastive.model import ContrastiveModel

SIZE = 8


def encoder_of(channels: int = 3) -> keras.Model:
    """Small, with what an export could lose: both kinds of batch normalisation, and dropout."""
    inputs = keras.layers.Input((SIZE, SIZE, channels))
    x = encoders.FusedBatchNorm()(keras.layers.Conv2D(8, 3, use_bias=False)(inputs))
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(6)(x))
    return keras.Model(inputs, keras.layers.Dropout(0.2)(x))


def tiny_encoder(channels: int = 3) -> keras.Model:
    inputs = keras.layers.Input((SIZE, SIZE, channels))
    return keras.Model(inputs, keras.layers.Dense(6)(keras.layers.Flatten()(inputs)))


@pytest.fixture(scope="module")
def model() -> ContrastiveModel:
    """Trained for some steps, so that moving averages are not what they start as. Not to be changed."""
    keras.utils.set_random_seed(0)
    model = ContrastiveModel(
        encoder_of(), losses.NTXentLoss(), head=heads.mlp(4, hidden_dim=5)
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=False)
    views = np.random.default_rng(1).integers(0, 256, (16, 2, SIZE, SIZE, 3), np.uint8)
    model.fit(views, np.arange(16), batch_size=8, epochs=2, verbose=0)
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> str:
    """Where that model is exported."""
    path = tmp_path_factory.mktemp("saved_model") / "1"
    export.save(model, path)
    return str(path)


@pytest.fixture
def loaded(saved):
    return tf.saved_model.load(saved)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def serve(loaded, images) -> np.ndarray:
    return loaded.signatures["serving_default"](images=tf.constant(images))[
        "embedding"
    ].numpy()


def serve_encoded(loaded, encoded) -> np.ndarray:
    return loaded.signatures["encoded"](bytes=tf.stack(encoded))["embedding"].numpy()


def exported(model, folder):
    export.save(model, folder / "1")
    return tf.saved_model.load(str(folder / "1"))


def test_export_serves_what_the_model_predicts_where_there_is_tensorflow_alone(
    model, saved, images, tmp_path
):
    np.save(tmp_path / "images.npy", images)
    script = f"""
        import sys
        sys.modules["keras"] = sys.modules["keras_contrastive"] = None  # an import of either raises
        import numpy as np, tensorflow as tf
        loaded = tf.saved_model.load(r"{saved}")
        images = np.load(r"{tmp_path}/images.npy")
        serve = loaded.signatures["serving_default"]
        before = serve(images=tf.constant(images))["embedding"]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(loaded.train(tf.constant(images))["features"] - 1))
        gradients = tape.gradient(loss, loaded.trainable_variables)
        for variable, gradient in zip(loaded.trainable_variables, gradients):
            variable.assign_sub(0.01 * gradient)
        after = serve(images=tf.constant(images))["embedding"]
        np.savez(r"{tmp_path}/embeddings.npz", before=before, after=after)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    embeddings = np.load(tmp_path / "embeddings.npz")
    assert embeddings["before"].dtype == np.float32
    # float32, and another order of summation in another process at most
    np.testing.assert_allclose(
        embeddings["before"], unit(model.predict(images, verbose=0)), atol=1e-5
    )
    assert (
        np.abs(embeddings["after"] - embeddings["before"]).max() > 1e-3
    )  # fine-tuned there, too


def test_export_of_a_model_with_normalised_features_serves_those(images, tmp_path):
    model = ContrastiveModel(tiny_encoder(), losses.NTXentLoss(), normalize=True)
    embedding = serve(exported(model, tmp_path), images)
    np.testing.assert_allclose(embedding, model.predict(images, verbose=0), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_export_under_mixed_precision_serves_float32(images, tmp_path, policy):
    keras.mixed_precision.set_global_policy(policy)
    model = ContrastiveModel(tiny_encoder(), losses.NTXentLoss())
    embedding = serve(exported(model, tmp_path), images)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(
        np.linalg.norm(embedding, axis=1), 1, atol=1e-6
    )  # not to 3 digits only
    half = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}[
        policy
    ]  # the spacing of its numbers at 1
    np.testing.assert_allclose(
        embedding, unit(model.predict(images, verbose=0)), atol=4 * half
    )


@pytest.mark.parametrize("shape", [(20, 30), (31, 9), (8, 8), (3, 5), (1, 1)], ids=str)
def test_export_of_images_of_any_size_embeds_them_as_the_loader_resizes_them(
    model, loaded, shape
):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), np.uint8)
    expected = unit(model.predict(resize(images, SIZE).numpy(), verbose=0))
    np.testing.assert_allclose(serve(loaded, images), expected, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_export_of_png_bytes_equals_that_of_images(tmp_path, channels):
    model = ContrastiveModel(tiny_encoder(channels), losses.NTXentLoss())
    loaded = exported(model, tmp_path)
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (*size, channels), np.uint8)
        for size in ((8, 8), (20, 13), (9, 40))
    ]
    embeddings = serve_encoded(
        loaded, [tf.io.encode_png(picture) for picture in pictures]
    )
    one_by_one = np.concatenate([serve(loaded, picture[None]) for picture in pictures])
    np.testing.assert_allclose(embeddings, one_by_one, atol=1e-6)


def test_export_of_jpeg_bytes_equals_that_of_accurately_decoded_images(loaded):
    smooth = tf.image.resize(
        np.random.default_rng(0).uniform(0, 255, (6, 6, 3)), (40, 24), "bicubic"
    )
    encoded = tf.io.encode_jpeg(tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8))
    decoded = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    embeddings = serve_encoded(loaded, [encoded, tf.io.encode_png(decoded)])
    np.testing.assert_allclose(
        embeddings[0], serve(loaded, decoded[None])[0], atol=1e-6
    )
    np.testing.assert_allclose(
        embeddings[0], embeddings[1], atol=1e-6
    )  # both kinds in one batch


@pytest.mark.parametrize(
    "broken", [b"", b"no image", b"GIF89a"], ids=["empty", "text", "gif"]
)
def test_export_of_broken_bytes_raises(loaded, broken):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must hold a JPEG or a PNG"
    ):
        serve_encoded(loaded, [tf.constant(broken)])


def test_export_holds_the_variables_of_the_encoder_alone(model, saved, loaded):
    weights = {
        "trainable_variables": model.encoder.trainable_weights,
        "non_trainable_variables": model.encoder.non_trainable_weights,
    }
    for name, own in weights.items():
        # Keras 3 counts dropout's int64 seed among the variables; its weights are floats, all of them.
        shapes = [tuple(v.shape) for v in getattr(loaded, name) if v.dtype.is_floating]
        assert shapes == [tuple(weight.shape) for weight in own]
    saved = {
        name for name, _ in tf.train.list_variables(f"{saved}/variables/variables")
    }
    assert not [
        name
        for name in saved
        if "head" in name or "optimizer" in name or "loss" in name
    ]


def test_export_train_gives_features_before_normalisation(loaded, images):
    outputs = loaded.train(tf.constant(images))
    lengths = np.linalg.norm(outputs["features"], axis=1)
    assert np.abs(lengths - 1).max() > 0.1
    np.testing.assert_allclose(
        outputs["embedding"], unit(outputs["features"]), atol=1e-6
    )


def test_export_train_fine_tunes_what_the_other_endpoints_serve(loaded):
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = rng.integers(0, 256, (32, SIZE, SIZE, 3), np.uint8)
    images[:, :, : SIZE // 2] //= (1 + 3 * labels)[:, None, None, None].astype(np.uint8)
    classifier = tf.Variable(0.1 * rng.normal(size=(6, 2)).astype(np.float32))
    before = (
        serve(loaded, images),
        [v.numpy() for v in loaded.non_trainable_variables if v.dtype.is_floating],
    )

    def step():
        with tf.GradientTape() as tape:
            logits = tf.matmul(
                loaded.train(tf.constant(images))["features"], classifier
            )
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            )
        variables = [*loaded.trainable_variables, classifier]
        gradients = tape.gradient(loss, variables)
        assert all(gradient is not None for gradient in gradients)
        for variable, gradient in zip(variables, gradients):
            variable.assign_sub(0.1 * gradient)
        return float(loss)

    history = [step() for _ in range(40)]
    assert history[0] > 0.4  # near the log 2 of knowing nothing
    assert np.mean(history[-5:]) < 0.35  # dropout makes a single one jump
    moved = [v.numpy() for v in loaded.non_trainable_variables if v.dtype.is_floating]
    for old, new in zip(
        before[1], moved
    ):  # the statistics of both batch normalisations
        assert np.abs(new - old).max() > 1e-3
    assert np.abs(serve(loaded, images) - before[0]).max() > 0.1


def test_export_of_an_encoder_alone_is_that_of_its_model(
    model, loaded, images, tmp_path
):
    alone = exported(model.encoder, tmp_path)
    np.testing.assert_allclose(serve(alone, images), serve(loaded, images), atol=1e-6)


def test_export_of_an_encoder_of_any_size_is_that_of_one_of_its_size(images, tmp_path):
    def encoder_of_size(size):
        inputs = keras.layers.Input((size, size, 3))
        x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
        x = encoders.FusedBatchNorm()(x)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    any_size, fixed = encoder_of_size(None), encoder_of_size(SIZE)
    fixed.set_weights(any_size.get_weights())
    export.save(any_size, tmp_path / "any", image_size=SIZE)
    export.save(fixed, tmp_path / "fixed", image_size=SIZE)
    loaded, expected = (
        tf.saved_model.load(str(tmp_path / name)) for name in ("any", "fixed")
    )
    large = np.random.default_rng(0).integers(0, 256, (2, 20, 13, 3), np.uint8)
    for given in (images, large):
        np.testing.assert_allclose(
            serve(loaded, given), serve(expected, given), atol=1e-6
        )
    pictures = [tf.io.encode_png(large[0]), tf.io.encode_png(images[0])]
    np.testing.assert_allclose(
        serve_encoded(loaded, pictures), serve_encoded(expected, pictures), atol=1e-6
    )
    np.testing.assert_allclose(
        loaded.train(tf.constant(large))["features"],
        expected.train(tf.constant(large))["features"],
        atol=1e-5,  # normalised by the batch's own statistics
    )
    # Not at the size of the images given: the features of those differ.
    at_their_size = unit(any_size(large.astype(np.float32) / 255))
    assert np.abs(serve(loaded, large) - at_their_size).max() > 1e-4


def test_export_of_a_vision_transformer_of_any_size_serves_its_features(
    images, tmp_path
):
    encoder = encoders.small_vit((None, None, 3), width=8, depth=1, num_heads=2)
    export.save(encoder, tmp_path / "1", image_size=SIZE)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    expected = unit(encoder.predict(images / np.float32(255), verbose=0))
    np.testing.assert_allclose(serve(loaded, images), expected, atol=1e-5)


def test_export_replaces_an_earlier_one_and_leaves_nothing_beside_it(images, tmp_path):
    (tmp_path / ".1.new").mkdir()  # of a process that was killed
    encoder = tiny_encoder()
    first = serve(exported(encoder, tmp_path), images)
    kernel, bias = encoder.get_weights()
    encoder.set_weights([-kernel, bias + 1])
    second = serve(exported(encoder, tmp_path), images)
    assert np.abs(first - second).max() > 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_export_that_fails_leaves_the_earlier_one(images, tmp_path, monkeypatch):
    class FullDisk:
        def track(self, resource): ...

        def add_endpoint(self, name, fn, input_signature): ...

        def write_out(self, path):
            raise OSError("disk full")

    first = serve(exported(tiny_encoder(), tmp_path), images)
    monkeypatch.setattr(keras.export, "ExportArchive", FullDisk)
    with pytest.raises(OSError, match="disk full"):
        export.save(tiny_encoder(), tmp_path / "1")
    again = tf.saved_model.load(str(tmp_path / "1"))
    np.testing.assert_array_equal(serve(again, images), first)


def test_export_prints_nothing(tmp_path, capfd):
    export.save(tiny_encoder(), tmp_path / "1")
    assert capfd.readouterr().out == ""


def test_export_to_a_file_is_refused(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match=r"`path` must be a folder .*notes', a file"):
        export.save(tiny_encoder(), tmp_path / "notes")


def test_export_to_a_folder_with_other_content_is_refused(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(
        ValueError, match="must not exist, be empty or hold a SavedModel"
    ):
        export.save(tiny_encoder(), tmp_path)
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((None, None, 3), r"`image_size` must be given.*\(None, None, None, 3\)"),
        ((None, 8, 3), r"square images of 1 or 3.*\(None, None, 8, 3\)"),
        ((8, 9, 3), r"square images of 1 or 3.*\(None, 8, 9, 3\)"),
        ((8, 8, 2), r"of 1 or 3 channels.*\(None, 8, 8, 2\)"),
        ((8,), r"square images.*\(None, 8\)"),
    ],
    ids=["no size", "half a size", "oblong", "channels", "rows"],
)
def test_export_of_an_encoder_of_other_inputs_is_refused(tmp_path, shape, message):
    inputs = keras.layers.Input(shape)
    with pytest.raises(ValueError, match=message):
        export.save(keras.Model(inputs, keras.layers.Dense(2)(inputs)), tmp_path / "1")


@pytest.mark.parametrize(
    ("image_size", "message"),
    [(9, r"`image_size` must be 8 or left out.*image_size=9"), (0, "integer >= 1")],
    ids=["other", "zero"],
)
def test_export_at_a_size_that_the_encoder_does_not_take_is_refused(
    tmp_path, image_size, message
):
    with pytest.raises(ValueError, match=message):
        export.save(tiny_encoder(), tmp_path / "1", image_size=image_size)


def test_export_of_an_unbuilt_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`model` must be built before it is exported"):
        export.save(keras.Sequential([keras.layers.Flatten()]), tmp_path / "1")
