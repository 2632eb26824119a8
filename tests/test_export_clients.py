"""`keras_contrastive.export` as others use it: TensorFlow's own tools, Keras, TensorFlow Lite, ONNX, TensorFlow Serving."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_contrastive import encoders, export
from keras_contrastive._compat import KERAS_3
from keras_contrastive.evaluation import linear_probe
from keras_contrastive.search import Index
from tests.test_data_encoded import encode
from tests.test_data_folder import picture

SIZE, DIM, TOP = 8, 6, 4


class Exported(NamedTuple):
    encoder: keras.Model
    base: Path
    """Folder of versions; that of the export is 1."""
    path: str


def images_of(count: int, size: int = SIZE) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, size, size, 3), np.uint8)


def predicted(encoder, images) -> np.ndarray:
    rows = encoder.predict(images / np.float32(255), verbose=0).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Exported:
    """An encoder with every signature, exported once. Not to be changed."""
    keras.utils.set_random_seed(0)
    inputs = keras.layers.Input((SIZE, SIZE, 3))
    x = encoders.FusedBatchNorm()(keras.layers.Conv2D(8, 3, use_bias=False)(inputs))
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    encoder = keras.Model(inputs, keras.layers.Dense(DIM)(x))
    for layer in encoder.layers:  # moving averages that are not what they start as
        if isinstance(layer, encoders.FusedBatchNorm):
            layer.moving_mean.assign(np.linspace(-0.5, 0.5, 8))
            layer.moving_variance.assign(np.linspace(0.5, 2, 8))
    features = encoder.predict(images_of(40) / np.float32(255), verbose=0)
    labels = np.arange(40) % 3
    base = tmp_path_factory.mktemp("served") / "digits"
    export.save(
        encoder,
        export.next_version(base),
        classifier=linear_probe(features, labels, features, labels).classifier,
        class_names=["ant", "bee", "cow"],
        index=Index(features, [f"image {row}" for row in range(40)]),
        top_k=TOP,
    )
    return Exported(encoder, base, str(base / "1"))


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(exported.path)


def run(*command) -> str:
    """What the command prints."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*map(str, command)],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ANY_SIZE = {"images": ("uint8", (-1, -1, -1, 3))}
EMBEDDING = {"embedding": ("float32", (-1, DIM))}
# As the module's docstring has it: inputs and outputs with dtype and shape.
SIGNATURES = {
    "serving_default": (ANY_SIZE, EMBEDDING),
    "resized": ({"images": ("uint8", (-1, SIZE, SIZE, 3))}, EMBEDDING),
    "encoded": ({"bytes": ("string", (-1,))}, {**EMBEDDING, "valid": ("bool", (-1,))}),
    "similarity": (
        {"first": ANY_SIZE["images"], "second": ANY_SIZE["images"]},
        {"similarity": ("float32", (-1,))},
    ),
    "classify": (
        ANY_SIZE,
        {
            "label": ("string", (-1,)),
            "probability": ("float32", (-1,)),
            "probabilities": ("float32", (-1, 3)),
        },
    ),
    "search": (
        {"bytes": ("string", (-1,))},
        {
            "ids": ("string", (-1, TOP)),
            "scores": ("float32", (-1, TOP)),
            "valid": ("bool", (-1,)),
        },
    ),
    "train": (ANY_SIZE, {**EMBEDDING, "features": ("float32", (-1, DIM))}),
}


def graph_of(exported):
    """The graph as TensorFlow Serving finds it in the folder."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((exported.base / "1" / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    return graph


def described(tensors) -> dict:
    return {
        name: (
            tf.as_dtype(info.dtype).name,
            tuple(dim.size for dim in info.tensor_shape.dim),
        )
        for name, info in tensors.items()
    }


def test_serving_finds_one_version_of_the_documented_signatures(exported):
    assert [path.name for path in exported.base.iterdir()] == ["1"]
    names = {path.name for path in (exported.base / "1").iterdir()}
    assert {"saved_model.pb", "variables", "assets"} <= names
    graph = graph_of(exported)
    assert [*graph.meta_info_def.tags] == ["serve"]
    definitions = dict(graph.signature_def)
    definitions.pop("__saved_model_init_op", None)
    assert set(definitions) == set(SIGNATURES)
    for name, (inputs, outputs) in SIGNATURES.items():
        definition = definitions[name]
        assert definition.method_name == "tensorflow/serving/predict"
        assert described(definition.inputs) == inputs, name
        assert described(definition.outputs) == outputs, name


def requests() -> dict[str, dict]:
    contents = [encode(picture(seed=k), ("PNG", "JPEG")[k % 2]) for k in range(3)]
    contents = np.array([*contents, b"no image"], object)
    large = images_of(4, 11)
    return {
        "serving_default": {"images": large},
        "resized": {"images": images_of(3)},
        "encoded": {"bytes": contents},
        "similarity": {"first": large, "second": images_of(4)},
        "classify": {"images": large},
        "search": {"bytes": contents},
        "train": {"images": images_of(5)},
    }


@pytest.mark.parametrize("name", SIGNATURES)
def test_serving_requests_and_responses_carry_every_signature(exported, loaded, name):
    """What a gRPC client and server do around the model, without the wire."""
    predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    if name == "train":
        loaded = tf.saved_model.load(exported.path)  # it moves statistics
    given = requests()[name]
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "digits", name
    for key, value in given.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    request = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    signature = loaded.signatures[request.model_spec.signature_name]
    inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
    outputs = signature(**{key: tf.constant(value) for key, value in inputs.items()})

    response = predict_pb2.PredictResponse()
    for key, value in outputs.items():
        response.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
    response = predict_pb2.PredictResponse.FromString(response.SerializeToString())
    got = {key: tf.make_ndarray(value) for key, value in response.outputs.items()}
    expected = signature(**{key: tf.constant(given[key]) for key in given})
    assert set(got) == set(expected) == set(SIGNATURES[name][1])
    for key, value in expected.items():
        if value.dtype == tf.float32:
            np.testing.assert_allclose(got[key], value, atol=1e-6)
        else:
            np.testing.assert_array_equal(got[key], value)
    if name == "resized":
        wanted = predicted(exported.encoder, given["images"])
        np.testing.assert_allclose(got["embedding"], wanted, atol=1e-5)


def test_serving_metadata_carries_the_signatures(exported):
    metadata = pytest.importorskip("tensorflow_serving.apis.get_model_metadata_pb2")
    served = metadata.SignatureDefMap()
    for name, definition in graph_of(exported).signature_def.items():
        served.signature_def[name].CopyFrom(definition)
    response = metadata.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(served)
    response = type(response).FromString(response.SerializeToString())
    got = metadata.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(got)
    for name, (inputs, outputs) in SIGNATURES.items():
        definition = got.signature_def[name]
        assert described(definition.inputs) == inputs
        assert described(definition.outputs) == outputs


CLI = Path(sys.executable).with_name("saved_model_cli")


def test_saved_model_cli_shows_every_signature(exported):
    if not CLI.exists():
        pytest.skip("TensorFlow's console scripts are not installed")
    text = run(CLI, "show", "--dir", exported.path, "--all")
    assert "MetaGraphDef with tag-set: 'serve'" in text
    kinds = {"uint8": "DT_UINT8", "string": "DT_STRING", "bool": "DT_BOOL"}
    for name, (inputs, outputs) in SIGNATURES.items():
        _, section = text.split(f"signature_def['{name}']:", 1)
        section = section.split("signature_def[")[0].split("Concrete Functions")[0]
        for word, tensors in (("inputs", inputs), ("outputs", outputs)):
            for key, (dtype, shape) in tensors.items():
                part = section.split(f"{word}['{key}'] tensor_info:", 1)[1]
                lines = [line.strip() for line in part.splitlines()[1:3]]
                shape = f"({', '.join(map(str, shape))})"
                assert lines == [
                    f"dtype: {kinds.get(dtype, 'DT_FLOAT')}",
                    f"shape: {shape}",
                ]


def test_saved_model_cli_runs_what_the_model_predicts(exported, tmp_path):
    if not CLI.exists():
        pytest.skip("TensorFlow's console scripts are not installed")
    np.save(tmp_path / "images.npy", images_of(3))
    options = ["--dir", exported.path, "--tag_set", "serve", "--outdir", tmp_path]
    options += ["--signature_def", "serving_default"]
    run(CLI, "run", *options, "--inputs", f"images={tmp_path}/images.npy")
    expected = predicted(exported.encoder, images_of(3))
    embedding = np.load(tmp_path / "embedding.npy")
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


@pytest.mark.skipif(not KERAS_3, reason="Keras 2.15 has no TFSMLayer")
def test_a_keras_model_on_top_is_trained_and_the_export_stays(exported):
    served = keras.layers.TFSMLayer(exported.path, call_endpoint="serving_default")
    # Keras would copy the variables, under names that its optimizers with slots refuse.
    served.trainable = False
    inputs = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    head = keras.layers.Dense(2, activation="softmax")
    model = keras.Model(inputs, head(served(inputs)["embedding"]))
    images, labels = images_of(16), np.arange(16) % 2
    images[labels == 1] //= 4
    np.testing.assert_allclose(
        served(images)["embedding"], predicted(exported.encoder, images), atol=1e-5
    )
    before = served(images)["embedding"].numpy(), head.get_weights()
    model.compile(keras.optimizers.Adam(0.3), "sparse_categorical_crossentropy")
    losses = model.fit(images, labels, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    for old, new in zip(before[1], head.get_weights()):
        assert np.abs(new - old).max() > 1e-3
    np.testing.assert_array_equal(served(images)["embedding"], before[0])


# tf.lite.Interpreter moves to another package (LiteRT), which neither line has yet.
lite_is_deprecated = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter")


@lite_is_deprecated
@pytest.mark.parametrize("optimized", [False, True], ids=["float32", "int8 weights"])
def test_tensorflow_lite_runs_the_resized_signature(exported, optimized):
    converter = tf.lite.TFLiteConverter.from_saved_model(
        exported.path, signature_keys=["resized"]
    )
    if optimized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # Without leave for other operations it refuses what TensorFlow Lite itself cannot run.
    assert converter.target_spec.supported_ops == {tf.lite.OpsSet.TFLITE_BUILTINS}
    assert not converter.allow_custom_ops
    content = converter.convert()
    assert b"Flex" not in content
    lite = tf.lite.Interpreter(model_content=content)
    assert [*lite.get_signature_list()] == ["resized"]
    for batch in (1, 3, 1):
        images = images_of(batch)
        embedding = lite.get_signature_runner("resized")(images=images)["embedding"]
        expected = predicted(exported.encoder, images)
        if optimized:
            assert np.einsum("nd,nd->n", embedding, expected).min() > 0.99
        else:
            np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_onnx_runtime_runs_the_resized_signature(exported, tmp_path):
    pytest.importorskip("tf2onnx", reason="of the main line only")
    onnxruntime = pytest.importorskip("onnxruntime", reason="of the main line only")
    file = tmp_path / "encoder.onnx"
    options = ["--saved-model", exported.path, "--signature_def", "resized"]
    options += ["--opset", "18", "--output", file]
    run(sys.executable, "-m", "tf2onnx.convert", *options)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["images"]
    for batch in (1, 5):
        images = images_of(batch)
        (embedding,) = session.run(["embedding"], {"images": images})
        expected = predicted(exported.encoder, images)
        np.testing.assert_allclose(embedding, expected, atol=1e-5)
