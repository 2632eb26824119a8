"""`keras_contrastive.export`: what a SavedModel gives, in a process that has TensorFlow alone."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_contrastive as kc
from keras_contrastive import encoders, export, heads, losses
from keras_contrastive.data import FilePart, resize
from keras_contrastive.evaluation import LinearClassifier, linear_probe
from keras_contrastive.model import ContrastiveModel
from keras_contrastive.search import Index
from tests.oracles import search as oracle
from tests.test_data_encoded import encode, turned_by, with_exif
from tests.test_data_folder import picture, png_of_size

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


@pytest.fixture(scope="module")
def serving(saved):
    """The same, loaded once for those that change nothing."""
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
    export.save(model, tmp_path / "half", float16=True)
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
        half = tf.saved_model.load(r"{tmp_path}/half").signatures["serving_default"]
        half = half(images=tf.constant(images))["embedding"]
        lengths = [tf.norm(gradient) for gradient in gradients]
        np.savez(r"{tmp_path}/embeddings.npz", before=before, after=after, half=half, lengths=lengths)
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
    # The last batch normalisation takes away what the bias before it adds.
    names = [weight.name for weight in model.encoder.trainable_weights]
    still = [n for n, x in zip(names, embeddings["lengths"]) if x < 1e-3]
    assert [name.split("/")[-1] for name in still] in (["bias"], ["bias:0"])
    assert 0 < np.abs(embeddings["half"] - embeddings["before"]).max() < 2e-3


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


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_export_signatures_give_what_the_model_predicts(
    model, serving, tmp_path, batch
):
    rng = np.random.default_rng(batch)
    images = rng.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    expected = unit(model.predict(images, verbose=0))
    for name in ("serving_default", "resized"):
        embedding = serving.signatures[name](images=tf.constant(images))["embedding"]
        # float32, and another order of summation at most
        np.testing.assert_allclose(embedding, expected, atol=1e-5)

    contents = []
    for k in range(
        batch
    ):  # oblong, of two formats, turned in all ways, the first one too
        content = encode(
            picture(20 + k % 5, 31 - k % 7, seed=k), ("JPEG", "PNG")[k % 2]
        )
        contents.append(with_exif(content, turned_by("<>"[k % 3 % 2], (k + 5) % 8 + 1)))
        (tmp_path / f"{k:03d}").write_bytes(contents[-1])
    part = FilePart(sorted(tmp_path.iterdir()), image_size=SIZE)
    outputs = serving.signatures["encoded"](bytes=tf.constant(contents))
    assert outputs["valid"].numpy().all() and len(part) == batch
    expected = unit(model.predict(part.images, verbose=0))
    np.testing.assert_allclose(outputs["embedding"], expected, atol=1e-5)


def test_export_refuses_encoded_images_of_more_than_max_pixels(tmp_path):
    export.save(tiny_encoder(), tmp_path / "1", max_pixels=110)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    sizes = [(10, 11), (10, 12), (11, 10), (1, 111)]
    pictures = [encode(picture(*size), "PNG") for size in sizes]
    valid = loaded.signatures["encoded"](bytes=tf.constant(pictures))["valid"]
    assert valid.numpy().tolist() == [True, False, True, False]


def test_export_similarity_is_the_cosine_of_what_the_model_predicts(model, serving):
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (6, 13, 9, 3), np.uint8)
    second = rng.integers(0, 256, (6, SIZE, SIZE, 3), np.uint8)
    second[2] = resize(first[2], SIZE)
    rows = unit(model.predict(resize(first, SIZE).numpy(), verbose=0))
    columns = unit(model.predict(second, verbose=0))
    cosines = rows @ columns.T
    assert cosines[2, 2] == pytest.approx(1)
    assert cosines.min() < 0.9  # they differ

    def similarity(first, second):
        outputs = serving.signatures["similarity"](
            first=tf.constant(first), second=tf.constant(second)
        )
        assert [*outputs] == ["similarity"]
        return outputs["similarity"].numpy()

    np.testing.assert_allclose(similarity(first, second), cosines.diagonal(), atol=1e-5)
    np.testing.assert_allclose(similarity(first[:1], second), cosines[0], atol=1e-5)
    np.testing.assert_allclose(similarity(first, second[4:5]), cosines[:, 4], atol=1e-5)


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


def test_export_of_broken_bytes_gives_nan_and_spoils_no_other_row(loaded):
    sound = [encode(picture(seed=k), "PNG") for k in range(3)]
    broken = [b"", b"no image", b"GIF89a", sound[0][:-40], png_of_size(20_000, 20_000)]
    contents = [sound[0], *broken[:3], sound[1], *broken[3:], sound[2]]
    outputs = loaded.signatures["encoded"](bytes=tf.constant(contents))
    valid = outputs["valid"].numpy()
    assert valid.tolist() == [content in sound for content in contents]
    embedding = outputs["embedding"].numpy()
    assert np.isnan(embedding[~valid]).all()
    np.testing.assert_allclose(
        embedding[valid], serve_encoded(loaded, sound), atol=1e-6
    )
    outputs = loaded.signatures["encoded"](bytes=tf.constant(broken))
    assert np.isnan(outputs["embedding"]).all() and not outputs["valid"].numpy().any()


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

        def add_endpoint(self, name, fn): ...

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


def toy_classes(labels, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of classes that overlap: the brightness of each half says something of the class."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, len(labels), count)
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3))
    images[:, :, : SIZE // 2] //= (1 + codes % 2)[:, None, None, None]
    images[:, : SIZE // 2] //= (1 + codes // 2)[:, None, None, None]
    return images.astype(np.uint8), np.asarray(labels)[codes]


CLASSES = {  # labels, class_names, whether the model normalises
    "three": (np.array([2, 5, 9], np.uint8), None, False),
    "two named": (np.array([0, 1]), ["cat", "dog"], False),
    "four named, normalised": (np.array([0, 1, 3, 4]), [*"abcdé"], True),
}


# What scikit-learn 1.6 hands to SciPy is not ours to change.
@pytest.mark.filterwarnings("ignore:.*L-BFGS-B:DeprecationWarning")
@pytest.mark.parametrize("case", CLASSES)
def test_export_classify_equals_scikit_learn(tmp_path, case):
    labels, class_names, normalize = CLASSES[case]
    model = ContrastiveModel(tiny_encoder(), losses.NTXentLoss(), normalize=normalize)
    images, y = toy_classes(labels, 160)
    features = model.predict(images, verbose=0)
    probe = linear_probe(features[:80], y[:80], features[80:], y[80:], strengths=[0.01])
    export.save(
        model, tmp_path / "1", classifier=probe.classifier, class_names=class_names
    )
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    outputs = loaded.signatures["classify"](images=tf.constant(images[80:]))

    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    reference.fit(features[:80], y[:80])
    expected = reference.predict_proba(features[80:])
    assert expected.max(axis=1).min() < 0.7  # some are in doubt
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-4)
    np.testing.assert_allclose(outputs["probability"], expected.max(axis=1), atol=1e-4)
    best, second = np.sort(expected, axis=1)[:, :-3:-1].T
    sure = best - second > 2e-4  # where probabilities agree to 1e-4
    assert sure.mean() > 0.9
    found, wanted = outputs["label"].numpy(), reference.predict(features[80:])
    assert len({*wanted.tolist()}) > 1
    if class_names is not None:
        found = np.array([name.decode() for name in found])
        wanted = np.array([class_names[label] for label in wanted])
    np.testing.assert_array_equal(found[sure], wanted[sure])
    assert read_card(tmp_path / "1")["class_names"] == class_names
    kind = tf.int64 if class_names is None else tf.string
    assert outputs["label"].dtype == kind


@pytest.mark.parametrize("kind", ["names", "numbers"])
def test_export_search_finds_what_the_index_finds(model, tmp_path, kind):
    rng = np.random.default_rng(0)
    count, top_k = {"names": (1000, 7), "numbers": (50, 60)}[kind]
    images = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    features = model.predict(images, verbose=0)
    numbers = 3 * rng.permutation(count) + 2
    names = np.array([f"ordner/bild ü{number}.png" for number in numbers])
    index = Index(features, names if kind == "names" else numbers)
    export.save(model, tmp_path / "1", index=index, top_k=top_k)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    queries = rng.integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    queries[1] = images[33]
    contents = [tf.io.encode_png(query).numpy() for query in queries]
    contents.insert(1, contents[0][:50])
    outputs = loaded.signatures["search"](bytes=tf.constant(contents))

    sound, k = [0, 2, 3], min(top_k, count)
    assert outputs["valid"].numpy().tolist() == [True, False, True, True]
    ids, scores = outputs["ids"].numpy(), outputs["scores"].numpy()
    assert ids.shape == scores.shape == (4, k)
    nobody = b"" if kind == "names" else -1
    assert (ids[1] == nobody).all() and np.isnan(scores[1]).all()
    if kind == "names":
        ids = np.array([[name.decode() for name in row] for row in ids])
    found = model.predict(queries, verbose=0)
    expected = index.search(found, k=top_k)
    np.testing.assert_allclose(scores[sound], expected.scores, atol=1e-5)
    cosines = oracle.similarities(found, features)
    rows, wanted = oracle.neighbours(cosines, k)
    np.testing.assert_allclose(scores[sound], wanted, atol=1e-5)
    place = {i: row for row, i in enumerate(names if kind == "names" else numbers)}
    picked = np.array([[place[i] for i in row] for row in ids[sound]])
    np.testing.assert_allclose(
        np.take_along_axis(cosines, picked, axis=1), wanted, atol=1e-5
    )
    assert all(len(set(row)) == k for row in picked)
    # Which of two comes first may differ where the scores are the same to float32.
    gaps = np.diff(wanted, axis=1, prepend=np.inf, append=-np.inf) < -1e-6
    clear = gaps[:, :-1] & gaps[:, 1:]
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(picked[clear], rows[clear])
    np.testing.assert_array_equal(ids[sound][clear], expected.ids[clear])
    assert ids[2, 0] == (names if kind == "names" else numbers)[33]
    card = read_card(tmp_path / "1")
    assert card["indexed_images"] == count
    assert set(card["signatures"]) == set(loaded.signatures)


class FewRows:
    """As much of a `search.Index` as decides whether it fits."""

    def __init__(self, count: int, dim: int | None):
        self.dim, self._count = dim, count

    def __len__(self) -> int:
        return self._count


def layer(dim=6, bias=3, classes=(0, 1, 2)) -> LinearClassifier:
    return LinearClassifier(
        np.zeros((dim, 3), np.float32), np.zeros(bias, np.float32), np.array(classes)
    )


MISFITS = {
    "names alone": ({"class_names": ["a"]}, "`class_names` name .*without classifier"),
    "features": (
        {"classifier": layer(dim=5)},
        r"`classifier` must .*6 features.*weights of shape \(5, 3\)",
    ),
    "bias": ({"classifier": layer(bias=2)}, r"`classifier` must .*bias of \(2,\)"),
    "labels": (
        {"classifier": layer(classes=[0, 1])},
        "`classifier` must .*2 classes",
    ),
    "too few names": (
        {"classifier": layer(), "class_names": ["a", "b"]},
        "a name for every class.*2 names, classes 0 to 2",
    ),
    "class without name": (
        {"classifier": layer(classes=[-1, 0, 1]), "class_names": ["a", "b", "c"]},
        "a name for every class.*3 names, classes -1 to 1",
    ),
    "other index": ({"index": FewRows(3, 5)}, "`index` must .*dimension 6.*3 .* 5"),
    "empty index": ({"index": FewRows(0, None)}, "`index` must .*0 embeddings"),
    "top_k": ({"top_k": 0}, "`top_k` must be an integer >= 1.*top_k=0"),
    "max_pixels": ({"max_pixels": 0}, "`max_pixels` must be an integer >= 1"),
    "array in card": ({"card": {"figures": np.ones(2)}}, "`card` must be fit for JSON"),
    "set in card": ({"card": {"data": {1}}}, "`card` must be fit for JSON"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_export_of_what_does_not_fit_is_refused(tmp_path, case):
    options, message = MISFITS[case]
    with pytest.raises(ValueError, match=message):
        export.save(tiny_encoder(), tmp_path / "served" / "1", **options)
    assert [*tmp_path.iterdir()] == []


def read_card(path) -> dict:
    return json.loads((Path(path) / "assets" / "model_card.json").read_text())


def test_export_model_card_says_what_the_model_is(tmp_path):
    inputs = keras.layers.Input((None, None, 1))
    x = keras.layers.Conv2D(4, 3)(inputs)
    encoder = keras.Model(
        inputs, keras.layers.GlobalAveragePooling2D()(x), name="small"
    )
    given = {
        "data": "folder:bilder/ü",
        "settings": {"epochs": 3, "rate": 0.5, "nested": [None, True]},
        "figures": {"knn_accuracy": 0.8125, "classes": {"a": 1}},
        "licence": "CC0",
    }
    export.save(encoder, tmp_path / "1", image_size=12, card=given)
    card = read_card(tmp_path / "1")
    assert {name: card[name] for name in given} == given
    assert card["method"] is None
    assert card["encoder"] == "small"
    assert (card["image_size"], card["channels"], card["embedding_dim"]) == (12, 1, 4)
    assert card["weights"] == 4 * 9 + 4
    assert card["weights_dtype"] == "float32"
    assert card["class_names"] is None and card["indexed_images"] is None
    versions = card["versions"]
    assert versions["keras_contrastive"] == kc.__version__
    assert versions["tensorflow"] == tf.__version__
    assert versions["keras"] == keras.__version__
    created = datetime.datetime.fromisoformat(card["created"])
    age = datetime.datetime.now(datetime.timezone.utc) - created
    assert datetime.timedelta(-1) < age < datetime.timedelta(minutes=10)


def test_export_model_card_lists_the_signatures_that_are_served(saved, serving):
    listed = read_card(saved)["signatures"]
    assert set(listed) == set(serving.signatures)
    for name, served in serving.signatures.items():
        inputs = served.structured_input_signature[1]
        for found, specs in (
            (listed[name]["inputs"], inputs),
            (listed[name]["outputs"], served.structured_outputs),
        ):
            assert set(found) == set(specs)
            for key, text in found.items():
                dtype, shape = text.split(" ", 1)
                assert dtype == specs[key].dtype.name
                assert shape == str(tuple(specs[key].shape))


def test_next_version_is_one_more_than_the_largest(tmp_path):
    folder = tmp_path / "served"
    assert export.next_version(folder) == folder / "1"
    folder.mkdir()
    assert export.next_version(str(folder)) == folder / "1"
    for version in range(1, 11):
        assert export.next_version(folder) == folder / str(version)
        (folder / str(version)).mkdir()
    for name in (
        ".12.new",
        ".13.old",
        "14.old",
        "v15",
        "16a",
        "-17",
        "18.0",
        "١٩",
        "²",
    ):
        (folder / name).mkdir()
    assert export.next_version(folder) == folder / "11"


def files_in(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def test_export_that_is_killed_leaves_what_is_served(
    model, saved, serving, images, tmp_path
):
    served = tmp_path / "served"
    shutil.copytree(saved, served / "1")
    before = files_in(served / "1")
    script = f"""
        import os, signal
        import keras
        from keras_contrastive import export
        from tests.test_export import tiny_encoder

        archive = type(keras.export.ExportArchive())
        write_out = archive.write_out

        def killed(self, path, *args, **kwargs):
            write_out(self, path, *args, **kwargs)
            graph = os.path.join(path, "saved_model.pb")
            os.truncate(graph, os.path.getsize(graph) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        archive.write_out = killed
        export.save(tiny_encoder(), export.next_version(r"{served}"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    names = {path.name for path in served.iterdir()}
    assert len(names) == 2  # something is left beside it, not numbered
    assert [name for name in names if name.isdigit()] == ["1"]
    assert files_in(served / "1") == before
    loaded = tf.saved_model.load(str(served / "1"))
    np.testing.assert_array_equal(serve(loaded, images), serve(serving, images))

    assert export.next_version(served) == served / "2"
    export.save(model, export.next_version(served))
    assert sorted(path.name for path in served.iterdir()) == ["1", "2"]
    again = tf.saved_model.load(str(served / "2"))
    np.testing.assert_allclose(serve(again, images), serve(serving, images), atol=1e-6)


def test_export_killed_between_its_two_renames_is_put_back(
    saved, tmp_path, monkeypatch
):
    path = tmp_path / "1"
    shutil.copytree(saved, path)
    before, rename = files_in(path), Path.rename

    def stopped(self, target):
        if Path(target) == path:
            raise OSError("stopped")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(OSError, match="stopped"):
        export.save(tiny_encoder(), path)
    monkeypatch.undo()
    assert not path.exists()

    def full(self, path, **options):
        raise OSError("disk full")

    # The next one puts it back, even if it fails later.
    monkeypatch.setattr(type(keras.export.ExportArchive()), "write_out", full)
    with pytest.raises(OSError, match="disk full"):
        export.save(tiny_encoder(), path)
    assert files_in(path) == before


def test_export_is_never_seen_half_written(tmp_path):
    served, seen, done = tmp_path / "served", [], threading.Event()
    whole = ["saved_model.pb", "variables/variables.index", "assets/model_card.json"]

    def watch():
        while not done.is_set():
            versions = [p for p in served.glob("*") if p.name.isdigit()]
            seen.extend((p / name).is_file() for p in versions for name in whole)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        export.save(tiny_encoder(), served / "1")
        time.sleep(0.05)
    finally:
        done.set()
        watcher.join()
    assert len(seen) > 3 and all(seen)


def big_conv_net() -> keras.Model:
    inputs = keras.layers.Input((SIZE, SIZE, 3))
    x = encoders.FusedBatchNorm()(
        keras.layers.Conv2D(64, 3, padding="same", use_bias=False)(inputs)
    )
    x = keras.layers.Dense(128)(keras.layers.Flatten()(keras.layers.ReLU()(x)))
    return keras.Model(inputs, keras.layers.BatchNormalization()(x))


def big_vit() -> keras.Model:
    return encoders.small_vit((SIZE, SIZE, 3), width=64, depth=1, num_heads=2)


def nested() -> keras.Model:
    """As transfer learning makes it: a network within another, one layer used twice."""
    inputs = keras.layers.Input((SIZE, SIZE, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", activation="relu")
    backbone = keras.Sequential([inputs, shared, shared, keras.layers.Flatten()])
    outer = keras.layers.Input((SIZE, SIZE, 3))
    return keras.Model(outer, keras.layers.Dense(1000)(backbone(outer)))


@pytest.mark.parametrize("make", [big_conv_net, big_vit, nested])
def test_export_in_float16_takes_half_the_space_and_serves_the_same(
    images, tmp_path, make
):
    encoder = make()
    rng = np.random.default_rng(0)
    encoder.set_weights(
        [
            w + 0.05 * np.abs(rng.normal(size=w.shape)).astype(w.dtype)
            for w in encoder.get_weights()
        ]
    )
    weights = encoder.get_weights()
    expected = unit(encoder.predict(images / np.float32(255), verbose=0))
    export.save(encoder, tmp_path / "float16", float16=True)
    sizes = {name: len(x) for name, x in files_in(tmp_path / "float16").items()}
    values = sizes["variables/variables.data-00000-of-00001"]
    assert values < 0.6 * 4 * encoder.count_params()
    if make is big_conv_net:  # the whole of an export, its graph included
        export.save(encoder, tmp_path / "float32")
        whole = sum(map(len, files_in(tmp_path / "float32").values()))
        assert sum(sizes.values()) < 0.6 * whole
    loaded = tf.saved_model.load(str(tmp_path / "float16"))
    embedding = serve(loaded, images)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, atol=2e-3)
    assert np.abs(embedding - expected).max() > 1e-6  # it is half precision
    assert not hasattr(loaded, "train") and "train" not in loaded.signatures
    card = read_card(tmp_path / "float16")
    assert card["weights_dtype"] == "float16" and "train" not in card["signatures"]
    # The model is as it was.
    for old, new in zip(weights, encoder.get_weights()):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(
        expected, unit(encoder.predict(images / np.float32(255), verbose=0))
    )


def test_export_in_float16_under_mixed_precision_serves_what_the_model_predicts(
    images, tmp_path
):
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = ContrastiveModel(tiny_encoder(), losses.NTXentLoss())
    export.save(model, tmp_path / "1", float16=True)
    embedding = serve(tf.saved_model.load(str(tmp_path / "1")), images)
    expected = unit(model.predict(images, verbose=0))
    np.testing.assert_allclose(embedding, expected, atol=4 * 2**-10)


def test_export_in_float16_of_weights_that_it_cannot_hold_is_refused(tmp_path):
    encoder = tiny_encoder()
    kernel, bias = encoder.get_weights()
    kernel[0, 0] = -7e4
    encoder.set_weights([kernel, bias])
    with pytest.raises(ValueError, match=r"weights above 65,504.*kernel with 70000"):
        export.save(encoder, tmp_path / "1", float16=True)
    kernel[0, 0] = -65504
    encoder.set_weights([kernel, bias + 1e6])  # biases stay as they are
    export.save(encoder, tmp_path / "1", float16=True)
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    image = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    expected = unit(encoder.predict(image / np.float32(255), verbose=0))
    np.testing.assert_allclose(serve(loaded, image), expected, atol=2e-3)


def test_export_of_nothing_but_broken_files_gives_nan_alone(saved_with_index):
    loaded, _ = saved_with_index
    files = tf.constant([b"", b"no image", b"GIF89a"])
    encoded = loaded.signatures["encoded"](bytes=files)
    assert encoded["embedding"].shape == (3, 6)
    assert np.isnan(encoded["embedding"]).all() and not encoded["valid"].numpy().any()
    found = loaded.signatures["search"](bytes=files)
    assert (found["ids"].numpy() == -1).all() and np.isnan(found["scores"]).all()
    assert loaded.signatures["encoded"](bytes=files[:0])["embedding"].shape == (0, 6)
    assert loaded.signatures["search"](bytes=files[:0])["ids"].shape == (0, 4)


@pytest.fixture(scope="module")
def saved_with_index(model, tmp_path_factory):
    """An export that searches in blocks of 3 queries, and its index."""
    from keras_contrastive import search
    from keras_contrastive.export import _signatures

    rng = np.random.default_rng(3)
    index = search.Index(rng.normal(size=(70, 6)))
    path = tmp_path_factory.mktemp("indexed") / "1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_signatures, "_SCORES", 3 * 96)
        export.save(model, path, index=index, top_k=4)
    return tf.saved_model.load(str(path)), index


def test_export_search_in_blocks_finds_what_one_search_finds(model, saved_with_index):
    loaded, index = saved_with_index
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    files = [tf.io.encode_png(image) for image in images]
    files.insert(2, tf.constant(b"broken"))
    found = loaded.signatures["search"](bytes=tf.stack(files))
    expected = index.search(model.predict(images, verbose=0), k=4)
    kept = found["valid"].numpy()
    assert kept.tolist() == [True, True, False] + 6 * [True]
    np.testing.assert_array_equal(found["ids"].numpy()[kept], expected.ids)
    np.testing.assert_allclose(
        found["scores"].numpy()[kept], expected.scores, atol=1e-5
    )


def test_fingerprint_is_of_the_weights_alone(tmp_path):
    encoder = tiny_encoder()
    first = export.fingerprint(encoder)
    for name, options in {"1": {}, "2": {"float16": True}}.items():
        export.save(encoder, tmp_path / name, **options)
        assert read_card(tmp_path / name)["fingerprint"] == first
    kernel, bias = encoder.get_weights()
    encoder.set_weights([kernel, bias + 1e-6])
    assert export.fingerprint(encoder) != first


def test_export_of_a_card_with_numbers_that_json_does_not_know(tmp_path):
    figures = {
        "loss": np.float32(np.nan),
        "knn": np.float64(0.5),
        "steps": [np.int64(3)],
    }
    export.save(tiny_encoder(), tmp_path / "1", card={"figures": figures})
    assert read_card(tmp_path / "1")["figures"] == {
        "loss": None,
        "knn": 0.5,
        "steps": [3],
    }


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (np.array([0.5, 0.7]), "integers or strings as `classes`"),
        (np.array(["a", "b"]), None),
    ],
    ids=["floats", "names"],
)
def test_export_classify_by_classes_of_other_kinds(images, tmp_path, classes, message):
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(6, 2)), np.zeros(2)
    classifier = LinearClassifier(weights, bias, classes)
    if message is not None:
        with pytest.raises(ValueError, match=message):
            export.save(tiny_encoder(), tmp_path / "1", classifier=classifier)
        return
    export.save(tiny_encoder(), tmp_path / "1", classifier=classifier)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["classify"]
    found = served(images=tf.constant(images))
    best = found["probabilities"].numpy().argmax(axis=1)
    assert found["label"].numpy().tolist() == [b"ab"[i : i + 1] for i in best]


def test_export_whose_last_renaming_fails_leaves_the_earlier_one(
    images, tmp_path, monkeypatch
):
    from pathlib import Path

    first = serve(exported(tiny_encoder(), tmp_path), images)
    rename = Path.rename

    def fail_for_the_new(self, target):
        if self.name == ".1.new":
            raise OSError("no more names")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="no more names"):
        export.save(tiny_encoder(), tmp_path / "1")
    again = tf.saved_model.load(str(tmp_path / "1"))
    np.testing.assert_array_equal(serve(again, images), first)
