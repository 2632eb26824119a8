"""The losses with a weight for each class: the battery, then what is particular to one of them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from typing import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_contrastive as kc
from tests.losses_battery import BIG, FLOAT32, FLOAT64, NUMERICAL
from tests.oracles import class_losses as oracles
from tests.oracles import losses as shared_oracles
from tests.oracles.gradients import numerical_gradient
from tests.view_battery import oracle_total, value_and_gradients

GRADIENT32 = {"rtol": 5e-4, "atol": 2e-4}
CLASSES, WIDTH = 4, 3
# Two rows do not count; one class has no row.
IDS = np.array([0, 2, -1, 2, 4, 0, 1])
KNOWN = (IDS >= 0) & (IDS < CLASSES)


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity
class LossWithClasses:
    """What the battery needs to know about a loss."""

    name: str
    function: Callable
    loss_class: type
    oracle: Callable
    weights: str
    """The keyword of the function; the layer's variable is `variable`."""
    options: dict
    scalar: bool = False

    @property
    def variable(self) -> str:
        return "class_weights" if self.weights == "weights" else self.weights

    def values(self, ids, rows, weights, **keywords):
        given = {**self.options, self.weights: weights, **keywords}
        return self.function(ids, rows, **given)

    def expected_and_counts(self, ids, rows, weights, **keywords):
        given = {**self.options, self.weights: weights, **keywords}
        found = self.oracle(ids, rows, **given)
        return (found, None) if self.scalar else found

    def expected(self, ids, rows, weights, **keywords):
        return self.expected_and_counts(ids, rows, weights, **keywords)[0]

    def make(self, num_classes: int = CLASSES, **keywords):
        return self.loss_class(num_classes, **{**self.options, **keywords})

    def prepared(self, weights, **keywords):
        """The layer with these weights."""
        made = self.make(len(weights), **keywords)
        made.build((None, np.shape(weights)[1]))
        getattr(made, self.variable).assign(np.asarray(weights, np.float32))
        return made


def with_classes(name: str, loss_class: str, suffix: str = "", **options):
    proxies = name.startswith("proxy")
    return LossWithClasses(
        f"{name}{suffix}",
        getattr(kc.losses, f"{name}_loss"),
        getattr(kc.losses, loss_class),
        getattr(oracles, name),
        "proxies" if proxies else "weights",
        options,
        scalar=name == "proxy_anchor",
    )


ONE_OF_EACH = [
    with_classes("arcface", "ArcFaceLoss", margin=0.4, scale=8.0),
    with_classes("cosface", "CosFaceLoss", margin=0.2, scale=8.0),
    with_classes("proxy_anchor", "ProxyAnchorLoss", margin=0.2, scale=4.0),
    with_classes("proxy_nca", "ProxyNCALoss", scale=3.0),
]
VARIANTS = [
    with_classes("arcface", "ArcFaceLoss", "_default"),
    with_classes("arcface", "ArcFaceLoss", "_wide", margin=2.0, scale=8.0),
    with_classes("cosface", "CosFaceLoss", "_default"),
    with_classes("proxy_anchor", "ProxyAnchorLoss", "_default"),
    with_classes("proxy_nca", "ProxyNCALoss", "_default"),
    with_classes(
        "proxy_nca", "ProxyNCALoss", "_with_positive", positive_in_denominator=True
    ),
]
LOSSES = ONE_OF_EACH + VARIANTS
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
one_of_each_class = pytest.mark.parametrize(
    "loss", ONE_OF_EACH, ids=lambda loss: loss.name
)
losses_by_row = pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES if not loss.scalar], ids=lambda loss: loss.name
)


def drawn(n: int, seed: int = 0, dim: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.7, (n, dim))


def inputs(n: int = len(IDS), dtype=np.float64) -> dict:
    return {
        "rows": drawn(n).astype(dtype),
        "weights": drawn(CLASSES, seed=1).astype(dtype),
    }


def reduced(loss, ids, rows, weights, sample_weight=None) -> float:
    values, counts = loss.expected_and_counts(ids, rows, weights)
    if loss.scalar:
        return values
    return shared_oracles.reduced(values, counts, sample_weight)


def single(weights) -> np.ndarray:
    """What a layer keeps of them."""
    return weights.astype(np.float32).astype(np.float64)


# ---- the oracles, by hand


def test_oracle_of_proxy_anchor_by_hand():
    # One row on the first of three orthonormal proxies: pulled by it, pushed off the two others.
    expected = math.log1p(math.exp(-2.0 * (1.0 - 0.1)))
    expected += (math.log1p(math.exp(2.0 * (0.0 + 0.1)))) * 2 / 3
    row = np.array([[5.0, 0.0, 0.0]])
    found = oracles.proxy_anchor([0], row, proxies=np.eye(3), margin=0.1, scale=2.0)
    assert found == pytest.approx(expected)
    # Two rows of one class: both sit in the same logarithm, which counts once.
    twice = math.log1p(2.0 * math.exp(-1.8)) + math.log1p(2.0 * math.exp(0.2)) * 2 / 3
    found = oracles.proxy_anchor(
        [0, 0], np.repeat(row, 2, axis=0), proxies=np.eye(3), margin=0.1, scale=2.0
    )
    assert found == pytest.approx(twice)


def test_oracle_of_arcface_by_hand():
    # At an angle of 60 degrees from its class, 30 from the other.
    row = np.array([[math.cos(math.pi / 3), math.sin(math.pi / 3)]])
    target, other = math.cos(math.pi / 3 + 0.5), math.cos(math.pi / 6)
    expected = math.log1p(math.exp(2.0 * (other - target)))
    values, counts = oracles.arcface([0], row, weights=np.eye(2), margin=0.5, scale=2.0)
    assert values[0] == pytest.approx(expected) and counts[0]


# ---- the battery


@every_loss
def test_values_and_gradients_match_the_oracle(loss):
    given = inputs()
    expected, counts = loss.expected_and_counts(IDS, **given)
    values, gradients = value_and_gradients(
        lambda rows, weights: loss.values(IDS, rows, weights), given
    )
    assert values.dtype == tf.float64
    assert values.shape == (() if loss.scalar else IDS.shape)
    assert loss.scalar or np.array_equal(counts, KNOWN)
    np.testing.assert_allclose(values, expected, **FLOAT64)
    for name, point in given.items():
        wanted = numerical_gradient(
            lambda moved, name=name: oracle_total(
                loss.expected(IDS, **{**given, name: moved})
            ),
            point,
        )
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(gradients[name], wanted, **NUMERICAL)
    assert not np.any(gradients["rows"].numpy()[~KNOWN])
    values = loss.values(IDS, **inputs(dtype=np.float32))
    assert values.dtype == tf.float32
    np.testing.assert_allclose(values, expected, **FLOAT32)


@one_of_each_class
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_any_ids_and_coarse_rows_match_the_oracle(loss, data):
    n = data.draw(st.sampled_from([1, 2, 5]), label="n")
    ids = np.array(
        data.draw(st.lists(st.integers(-2, 4), min_size=n, max_size=n), label="ids")
    )
    size = (n + CLASSES) * WIDTH
    quarters = st.lists(st.integers(-2, 2), min_size=size, max_size=size)
    both = np.array(data.draw(quarters, label="quarters")).reshape(-1, WIDTH) / 4.0
    given = {"rows": both[:n], "weights": both[n:]}
    values, gradients = value_and_gradients(
        lambda rows, weights: loss.values(ids, rows, weights), given
    )
    # A floor below the sine keeps its slope finite: at equal directions the angle is off by up to 1e-6.
    np.testing.assert_allclose(
        values, loss.expected(ids, **given), rtol=1e-5, atol=1e-5
    )
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@functools.cache
def compiled(loss):
    @tf.function(jit_compile=True)
    def run(ids, given):
        return value_and_gradients(
            lambda rows, weights: loss.values(ids, rows, weights), given
        )

    return run


def tensors(given: dict, dtype=tf.float32) -> dict:
    return {name: tf.cast(value, dtype) for name, value in given.items()}


@one_of_each_class
def test_eager_graph_unknown_batch_and_xla_agree(loss):
    ids, given = tf.constant(IDS), tensors(inputs())

    def run(ids, given):
        return value_and_gradients(
            lambda rows, weights: loss.values(ids, rows, weights), given
        )

    expected, expected_gradients = run(ids, given)
    unknown = {name: tf.TensorSpec([None, None]) for name in given}
    signature = [tf.TensorSpec([None], tf.int64), unknown]
    graph = tf.function(run, input_signature=signature)
    for way in (graph, compiled(loss)):
        values, gradients = way(ids, given)
        np.testing.assert_allclose(values, expected, **FLOAT32)
        for name, wanted in expected_gradients.items():
            np.testing.assert_allclose(gradients[name], wanted, **GRADIENT32)
    for n in (1, 0):  # through the graph that was made for any batch
        values, gradients = graph(ids[:n], tensors(inputs(n)))
        wanted = loss.expected(IDS[:n], **inputs(n))
        np.testing.assert_allclose(values, wanted, **FLOAT32)
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@one_of_each_class
def test_loss_runs_inside_a_dataset(loss):
    given = inputs(dtype=np.float32)
    data = tf.data.Dataset.from_tensors((IDS, given))
    data = data.map(lambda ids, given: loss.values(ids, **given))
    np.testing.assert_allclose(
        next(iter(data)), loss.expected(IDS, **inputs()), **FLOAT32
    )


@one_of_each_class
def test_half_precision_rows_are_compared_in_float32(loss):
    for dtype in (tf.float16, tf.bfloat16):
        half = tensors(inputs(), dtype)
        values, gradients = value_and_gradients(
            lambda rows, weights: loss.values(IDS, rows, weights), half
        )
        exact = {name: tf.cast(h, tf.float64).numpy() for name, h in half.items()}
        assert values.dtype == tf.float32
        np.testing.assert_allclose(values, loss.expected(IDS, **exact), **FLOAT32)
        assert all(gradient.dtype == dtype for gradient in gradients.values())


def of_their_classes(sign: float) -> np.ndarray:
    """Rows in the direction of their class's weight, or opposite to it."""
    return sign * 2.0 * inputs()["weights"][np.clip(IDS, 0, CLASSES - 1)]


DEGENERATE = {
    "zeros": lambda: {"rows": np.zeros((7, WIDTH))},
    "one_row_of_zeros": lambda: {"rows": drawn(7) * np.array([[0]] + [[1]] * 6)},
    "zero_weights": lambda: {"weights": np.zeros((CLASSES, WIDTH))},
    "all_rows_equal": lambda: {"rows": np.full((7, WIDTH), 0.1)},
    "all_weights_equal": lambda: {"weights": np.full((CLASSES, WIDTH), 0.1)},
    "on_their_classes": lambda: {"rows": of_their_classes(1.0)},
    "opposite_to_their_classes": lambda: {"rows": of_their_classes(-1.0)},
    "axes": lambda: {"rows": np.eye(3)[IDS % 3], "weights": np.eye(3)[[0, 1, 2, 0]]},
    "huge_rows": lambda: {"rows": 1e4 * drawn(7)},
    "tiny_rows": lambda: {"rows": 1e-6 * drawn(7)},
}


@one_of_each_class
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_rows_have_finite_values_and_gradients(loss, case):
    for dtype in (tf.float16, tf.bfloat16, tf.float32):
        given = tensors({**inputs(), **DEGENERATE[case]()}, dtype)
        ways = [
            value_and_gradients(
                lambda rows, weights: loss.values(IDS, rows, weights), given
            )
        ]
        if dtype == tf.float32:
            ways.append(compiled(loss)(tf.constant(IDS), given))
        for values, gradients in ways:
            assert values.dtype == tf.float32
            assert np.isfinite(values).all(), dtype
            for gradient in gradients.values():
                assert np.isfinite(tf.cast(gradient, tf.float32)).all(), dtype


@one_of_each_class
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_rows_match_the_oracle(loss, case):
    given = {**inputs(), **DEGENERATE[case]()}
    # As above: a sine of 0 may come back as 1e-6, times the scale of 8.
    np.testing.assert_allclose(
        loss.values(IDS, **given), loss.expected(IDS, **given), rtol=2e-5, atol=2e-5
    )


@every_loss
def test_large_scale_stays_finite(loss):
    given = tensors(inputs())
    values, gradients = value_and_gradients(
        lambda rows, weights: loss.values(IDS, rows, weights, scale=1e4), given
    )
    expected = loss.expected(IDS, **inputs(), scale=1e4)
    np.testing.assert_allclose(values, expected, rtol=1e-3)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@one_of_each_class
def test_permuted_batch_permutes_the_values(loss):
    given, order = inputs(), np.random.default_rng(5).permutation(7)
    values = loss.values(IDS, **given).numpy()
    moved = loss.values(IDS[order], given["rows"][order], given["weights"])
    np.testing.assert_allclose(
        moved, values if loss.scalar else values[order], **FLOAT64
    )


@one_of_each_class
def test_renamed_classes_change_nothing(loss):
    given, order = inputs(), np.array([2, 0, 3, 1])
    renamed = np.where(KNOWN, np.argsort(order)[np.clip(IDS, 0, 3)], IDS)
    np.testing.assert_allclose(
        loss.values(renamed, given["rows"], given["weights"][order]),
        loss.values(IDS, **given),
        **FLOAT64,
    )


@one_of_each_class
def test_lengths_of_rows_and_weights_change_nothing(loss):
    given = inputs()
    moved = {
        "rows": given["rows"] * np.linspace(0.1, 50.0, 7)[:, None],
        "weights": given["weights"] * np.array([[0.01], [1.0], [3.0], [100.0]]),
    }
    np.testing.assert_allclose(
        loss.values(IDS, **moved), loss.values(IDS, **given), **FLOAT64
    )


# ---- ids


@one_of_each_class
@pytest.mark.parametrize(
    "dtype", [np.int32, np.int64, np.uint8, np.int8], ids=lambda dtype: dtype.__name__
)
def test_ids_of_every_integer_type_and_as_a_column(loss, dtype):
    ids, given = np.array([0, 2, 3, 2, 4, 0, 1]), inputs()
    expected = loss.expected(ids, **given)
    for shape in ((-1,), (-1, 1)):
        found = loss.values(ids.astype(dtype).reshape(shape), **given)
        np.testing.assert_allclose(found, expected, **FLOAT64)


@one_of_each_class
@pytest.mark.parametrize("outside", [-1, -7, CLASSES, BIG, BIG + 1, 2**53, 2**32 + 1])
def test_ids_outside_the_classes_do_not_count(loss, outside):
    # 2^32 + 1 must not come back as class 1.
    given = inputs()
    ids = np.array([0, 2, outside, 2, 1, 0, 1])
    without = np.delete(np.arange(7), 2)
    made = loss.prepared(given["weights"])
    np.testing.assert_allclose(
        made(ids, given["rows"]),
        reduced(loss, ids[without], given["rows"][without], single(given["weights"])),
        rtol=1e-6,
    )
    if not loss.scalar:
        assert loss.values(ids, **given).numpy()[2] == 0.0


@one_of_each_class
def test_ids_all_outside_give_zero_with_zero_gradient(loss):
    made = loss.prepared(inputs()["weights"])
    with tf.GradientTape() as tape:
        rows = tf.constant(drawn(3))
        tape.watch(rows)
        total = made(np.array([-1, 4, 9]), rows)
    assert float(total) == 0.0
    watched = [rows, *made.trainable_weights]
    for gradient in tape.gradient(total, watched, unconnected_gradients="zero"):
        assert not np.any(gradient)


def test_class_2_24_plus_1_is_not_class_2_24():
    # As float32 the two ids are one. The row lies on the weight of the one, opposite to all others.
    weights = np.ones((BIG + 2, 1), np.float32)
    weights[BIG + 1] = -1.0
    row = np.array([[-3.0]], np.float32)
    values = kc.losses.cosface_loss([BIG + 1], row, weights=weights, margin=0.0)
    # log(1 + 2^24 exp(-128))
    np.testing.assert_allclose(values, [0.0], atol=1e-4)
    values = kc.losses.cosface_loss([BIG], row, weights=weights, margin=0.0)
    np.testing.assert_allclose(values, [128.0], atol=1e-4)


@one_of_each_class
@pytest.mark.parametrize(
    "ids",
    [
        np.eye(CLASSES)[[0, 1, 2, 3, 0, 1, 2]],
        np.eye(CLASSES, dtype=bool)[[0, 1, 2, 3, 0, 1, 2]],
        np.eye(CLASSES, dtype=np.int64)[[0, 1, 2, 3, 0, 1, 2]],
        np.zeros(7),
    ],
    ids=["float", "bool", "int", "float_ids"],
)
def test_multi_hot_ids_are_refused(loss, ids):
    given = inputs()
    with pytest.raises(ValueError, match=r"`ids`.*Received: ids.shape="):
        loss.values(ids, **given)
    with pytest.raises(ValueError, match=r"`ids`.*Received: ids.shape="):
        loss.make()(ids, given["rows"])


# ---- the layers


@every_loss
def test_layer_is_its_function_over_the_rows_that_count(loss):
    given = inputs()
    weights = single(given["weights"])
    expected, counts = loss.expected_and_counts(IDS, given["rows"], weights)
    made = loss.prepared(given["weights"])
    total = made(IDS, given["rows"])
    assert total.dtype == tf.float64 and total.shape == ()
    np.testing.assert_allclose(
        total, reduced(loss, IDS, given["rows"], weights), rtol=1e-6
    )
    assert made(IDS, given["rows"].astype(np.float32)).dtype == tf.float32
    summed = loss.prepared(given["weights"], reduction="sum")(IDS, given["rows"])
    np.testing.assert_allclose(summed, np.sum(expected), rtol=1e-6)
    each = loss.prepared(given["weights"], reduction="none")(IDS, given["rows"])
    np.testing.assert_allclose(each, expected, rtol=1e-6)
    assert counts is None or not np.any(each.numpy()[~counts])


@losses_by_row
def test_sample_weight_weighs_the_rows_that_count(loss):
    given = inputs()
    weights, made = single(given["weights"]), loss.prepared(given["weights"])
    # Heavy weights on the rows that do not count must not enter the denominator.
    sample_weight = np.array([0.5, 2.0, 100.0, 0.0, 100.0, 1.0, 3.0])
    for column in (sample_weight, sample_weight[:, None]):
        np.testing.assert_allclose(
            made(IDS, given["rows"], sample_weight=column),
            reduced(loss, IDS, given["rows"], weights, sample_weight),
            rtol=1e-6,
        )
    total, gradients = value_and_gradients(
        lambda rows: made(IDS, rows, sample_weight=np.zeros(7)), {"rows": given["rows"]}
    )
    assert float(total) == 0.0 and not np.any(gradients["rows"])


def test_sample_weight_of_proxy_anchor_is_refused():
    loss = kc.losses.ProxyAnchorLoss(CLASSES)
    with pytest.raises(ValueError, match=r"`sample_weight` .*Received: sample_weight"):
        loss(IDS, drawn(7), sample_weight=np.ones(7))


@one_of_each_class
def test_gradient_reaches_the_weights_of_the_layer(loss):
    given = inputs()
    made = loss.prepared(given["weights"])
    with tf.GradientTape() as tape:
        total = made(IDS, given["rows"])
    (found,) = tape.gradient(total, made.trainable_weights)
    wanted = numerical_gradient(
        lambda weights: reduced(loss, IDS, given["rows"], weights),
        single(given["weights"]),
    )
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(
        tf.convert_to_tensor(found), wanted, rtol=1e-4, atol=1e-6
    )


@one_of_each_class
@pytest.mark.parametrize("way", ["call", "build"])
def test_weights_are_made_at_the_first_call_or_build(loss, way):
    made = loss.make()
    assert not made.built
    if way == "build":
        made.build((None, WIDTH))
    else:
        made(IDS, drawn(7))
    (weight,) = made.trainable_weights
    assert weight is getattr(made, loss.variable)
    assert tuple(weight.shape) == (CLASSES, WIDTH)
    assert len(made.weights) == 1
    # Two classes alike would be one: they start in directions of their own, none of them without length.
    unit = weight.numpy() / np.linalg.norm(weight.numpy(), axis=1, keepdims=True)
    assert np.abs((unit @ unit.T)[~np.eye(CLASSES, dtype=bool)]).max() < 1 - 1e-4


@one_of_each_class
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_layer_computes_in_float32_under_every_policy(loss, policy):
    # Elsewhere mixed precision made the class weights themselves halves.
    given = inputs(dtype=np.float32)
    expected = loss.prepared(given["weights"])(IDS, given["rows"])
    keras.mixed_precision.set_global_policy(policy)
    made = loss.prepared(given["weights"])
    np.testing.assert_allclose(made(IDS, given["rows"]), expected, rtol=1e-6)
    assert tf.as_dtype(getattr(made, loss.variable).dtype) == tf.float32
    half = made(IDS, tf.cast(given["rows"], tf.float16))
    assert half.dtype == tf.float32 and np.isfinite(half)


@one_of_each_class
def test_config_round_trip_keeps_every_argument(loss):
    original = loss.make(reduction="sum", name="mine")
    config = original.get_config()
    arguments = set(inspect.signature(loss.loss_class.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    wanted = {**loss.options, "num_classes": CLASSES, "reduction": "sum"}
    assert {name: config[name] for name in wanted} == wanted
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(original)
    )
    assert type(copy) is loss.loss_class and copy.get_config() == config
    for each in (copy, original):
        each(IDS, drawn(7))
    copy.set_weights(original.get_weights())
    np.testing.assert_array_equal(copy(IDS, drawn(7)), original(IDS, drawn(7)))


DEFAULTS = {
    "ArcFaceLoss": {"margin": 0.5, "scale": 64.0},
    "CosFaceLoss": {"margin": 0.35, "scale": 64.0},
    "ProxyAnchorLoss": {"margin": 0.1, "scale": 32.0},
    "ProxyNCALoss": {"scale": 8.0, "positive_in_denominator": False},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_class_defaults_are_the_papers(name):
    config = getattr(kc.losses, name)(5).get_config()
    assert {key: config[key] for key in DEFAULTS[name]} == DEFAULTS[name]
    assert config["num_classes"] == 5


def toy_classes() -> tuple[np.ndarray, np.ndarray]:
    """Three classes, each about a point of its own, in five dimensions."""
    generator = np.random.default_rng(0)
    centers, ids = generator.normal(size=(3, 5)), np.arange(48) % 3
    rows = centers[ids] + 0.4 * generator.normal(size=(48, 5))
    return ids, rows.astype(np.float32)


def accuracy(rows, weights, ids) -> float:
    units = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    return float(np.mean((rows @ units.T).argmax(axis=1) == ids))


@one_of_each_class
def test_steps_of_descent_bring_the_weights_to_their_classes(loss):
    ids, rows = toy_classes()
    # The class weights start at those of the wrong classes.
    start = np.stack([rows[ids == k].mean(axis=0) for k in (1, 2, 0)])
    made = loss.prepared(start)
    optimizer = keras.optimizers.SGD(0.5, momentum=0.5)
    assert accuracy(rows, start, ids) < 0.4
    losses = []
    for _ in range(15):
        with tf.GradientTape() as tape:
            total = made(ids, rows)
        gradients = tape.gradient(total, made.trainable_weights)
        optimizer.apply_gradients(zip(gradients, made.trainable_weights))
        losses.append(float(total))
    assert losses[-1] < losses[0]
    assert accuracy(rows, getattr(made, loss.variable).numpy(), ids) > 0.8


# ---- in models


def some_layers(*names: str) -> pytest.MarkDecorator:
    """One layer of each file will do where Keras is tested, not the mathematics."""
    chosen = [loss for loss in ONE_OF_EACH if loss.name in names]
    return pytest.mark.parametrize("loss", chosen, ids=lambda loss: loss.name)


def functional(layer):
    images, ids = keras.Input((1, 5)), keras.Input((), dtype="int64")
    model = keras.Model([images, ids], layer(keras.layers.Dense(3)(images), ids))
    model.compile(keras.optimizers.Adam(0.05))
    return model


@some_layers("arcface", "proxy_nca")
def test_last_layer_of_a_functional_model_trains_and_loads(loss, tmp_path):
    ids, rows = toy_classes()
    model = functional(kc.ContrastiveLossLayer(loss.make(3)))
    data = tf.data.Dataset.from_tensors(((rows[:, None], ids.astype(np.int64)),))
    assert len(model.trainable_weights) == 3  # kernel, bias, and the classes'
    before = model.get_weights()
    losses = model.fit(data, epochs=8, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = model.get_weights()
    moved = [np.abs(a - b).max() for a, b in zip(after, before) if a.shape == (3, 3)]
    assert moved and min(moved) > 0.01
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for found, wanted in zip(loaded.get_weights(), after):
        np.testing.assert_array_equal(found, wanted)
    assert loaded.evaluate(data, verbose=0, return_dict=True) == pytest.approx(
        model.evaluate(data, verbose=0, return_dict=True), rel=1e-6
    )


def contrastive_model(loss):
    encoder = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6, "relu")])
    model = kc.ContrastiveModel(encoder, loss, head=kc.heads.mlp(3, hidden_dim=6))
    model.compile(keras.optimizers.Adam(0.02), run_eagerly=True)
    return model


@some_layers("cosface", "proxy_anchor")
def test_contrastive_model_trains_the_classes_and_loads(loss, tmp_path):
    ids, rows = toy_classes()
    views = np.repeat(rows[:, None], 2, axis=1)
    data = tf.data.Dataset.from_tensors((views, ids))
    model = contrastive_model(loss.make(3))
    before = {id(w): w.numpy() for w in model.trainable_weights}
    losses = model.fit(data, epochs=8, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    variable = getattr(model.loss_layer.loss, loss.variable)
    assert id(variable) in before  # made by the model's build, before the first step
    assert np.abs(variable.numpy() - before[id(variable)]).max() > 0.01
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found = getattr(loaded.loss_layer.loss, loss.variable).numpy()
    np.testing.assert_array_equal(found, variable.numpy())
    again = [
        m.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
        for m in (model, loaded)
    ]
    assert again[0] == again[1]


# ---- ArcFace and CosFace


@pytest.mark.parametrize("loss", ONE_OF_EACH[:2], ids=lambda loss: loss.name)
def test_margin_of_zero_is_a_plain_normalised_softmax(loss):
    given = inputs()
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in given.values()]
    logits = loss.options["scale"] * units[0] @ units[1].T
    expected = [
        shared_oracles.log_sum_exp(row) - row[label] if known else 0.0
        for row, label, known in zip(logits, np.clip(IDS, 0, CLASSES - 1), KNOWN)
    ]
    np.testing.assert_allclose(
        loss.values(IDS, **given, margin=0.0), expected, rtol=1e-7, atol=1e-9
    )


def on_a_circle(angles) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def target_logits(angles, margin: float) -> np.ndarray:
    """What ArcFace makes of the target at these angles: two classes, opposite to each other, of scale 1."""
    values = kc.losses.arcface_loss(
        np.zeros(len(angles), np.int64),
        on_a_circle(angles),
        weights=np.array([[1.0, 0.0], [-1.0, 0.0]]),
        margin=margin,
        scale=1.0,
    )
    # value = log(1 + exp(other - target)), other = -cos(angle)
    return -np.cos(angles) - np.log(np.expm1(np.asarray(values)))


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_arcface_margin_is_added_to_the_angle_in_radians(margin):
    # Elsewhere it is in degrees: half a degree would change next to nothing.
    angles = np.linspace(0.01, math.pi - margin - 0.01, 9)
    found = target_logits(angles, margin)
    np.testing.assert_allclose(found, np.cos(angles + margin), atol=1e-6)


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_arcface_target_never_rises_with_the_angle(margin):
    # cos(theta + m) alone would rise again from theta = pi - m on.
    angles = np.linspace(0.001, math.pi - 0.001, 400)
    found = target_logits(angles, margin)
    assert np.all(np.diff(found) < 0)
    beyond = angles > math.pi - margin
    np.testing.assert_allclose(
        found[beyond], np.cos(angles[beyond]) - margin * math.sin(margin), atol=1e-6
    )


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["on_it", "opposite"])
@pytest.mark.parametrize("way", ["float32", "float64", "xla"])
def test_arcface_at_a_cosine_of_one_has_a_finite_small_gradient(sign, way):
    # acos has an infinite slope at 1 and -1; that of the loss is at most the scale, for each of two logits.
    dtype = np.float64 if way == "float64" else np.float32
    weights, ids = drawn(3, seed=2).astype(dtype), np.arange(3)
    given = {"rows": tf.constant(sign * weights), "weights": tf.constant(weights)}

    def run(given):
        return value_and_gradients(
            lambda rows, weights: kc.losses.arcface_loss(ids, rows, weights=weights),
            given,
        )

    run = tf.function(run, jit_compile=True) if way == "xla" else run
    values, gradients = run(given)
    expected, _ = oracles.arcface(ids, sign * weights, weights=weights)
    # A cosine that is off by a rounding is an angle that is off by 3e-4 in float32: times the scale, 0.02.
    np.testing.assert_allclose(values, expected, rtol=0.02, atol=0.02)
    shortest = np.linalg.norm(weights, axis=1).min()
    for gradient in gradients.values():
        length = np.linalg.norm(gradient, axis=1).max()
        assert np.isfinite(length) and length * shortest < 1.5 * 2 * 64.0


def test_cosface_takes_its_margin_off_the_cosine():
    weights, row = np.eye(2), on_a_circle(np.array([0.3]))
    values = kc.losses.cosface_loss([0], row, weights=weights, margin=0.4, scale=3.0)
    gap = 3.0 * (math.sin(0.3) - (math.cos(0.3) - 0.4))
    assert float(values[0]) == pytest.approx(math.log1p(math.exp(gap)))


# ---- proxies


def test_proxy_anchor_by_hand():
    row = np.array([[5.0, 0.0, 0.0]])
    found = kc.losses.proxy_anchor_loss(
        [0], row, proxies=np.eye(3), margin=0.1, scale=2.0
    )
    expected = math.log1p(math.exp(-1.8)) + math.log1p(math.exp(0.2)) * 2 / 3
    assert float(found) == pytest.approx(expected)


def test_proxy_anchor_pushes_by_the_mean_over_all_proxies():
    # The first mean is over the proxies with a positive alone, the second over all of them.
    one = functools.partial(
        kc.losses.proxy_anchor_loss, [0], np.eye(4)[:1], margin=0.1, scale=2.0
    )
    pull = math.log1p(math.exp(-1.8))
    for classes in (2, 4):
        rest = math.log1p(math.exp(0.2)) * (classes - 1) / classes
        found = one(proxies=np.eye(4)[:classes])
        assert float(found) == pytest.approx(pull + rest)


def test_proxy_anchor_of_one_class_has_no_negatives():
    found = kc.losses.proxy_anchor_loss(
        [0, 0], np.eye(2), proxies=np.array([[1.0, 0.0]]), margin=0.1, scale=2.0
    )
    expected = math.log1p(math.exp(-1.8) + math.exp(0.2))
    assert float(found) == pytest.approx(expected)


def test_proxy_nca_leaves_the_positive_out_of_the_denominator_so_it_may_be_negative():
    # On its proxy d = 0, the other is orthogonal: d = 2. -log(1 / e^-16) = -16.
    rows, proxies = 5.0 * np.eye(2), np.eye(2)
    values = kc.losses.proxy_nca_loss([0, 1], rows, proxies=proxies, scale=8.0)
    np.testing.assert_allclose(values, [-16.0, -16.0], rtol=1e-6)


def test_proxy_nca_with_the_positive_is_a_cross_entropy():
    given = inputs()
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in given.values()]
    logits = 2.0 * 8.0 * units[0] @ units[1].T  # d = 2 - 2 cos
    expected = [
        shared_oracles.log_sum_exp(row) - row[label] if known else 0.0
        for row, label, known in zip(logits, np.clip(IDS, 0, CLASSES - 1), KNOWN)
    ]
    values = kc.losses.proxy_nca_loss(
        IDS, given["rows"], proxies=given["weights"], positive_in_denominator=True
    )
    np.testing.assert_allclose(values, expected, rtol=1e-7, atol=1e-9)
    assert np.all(np.asarray(values) >= 0)


def test_proxy_nca_of_one_class_does_not_count():
    loss = kc.losses.ProxyNCALoss(1)
    total, gradients = value_and_gradients(
        lambda rows: loss(np.zeros(3, np.int64), rows), {"rows": drawn(3)}
    )
    assert float(total) == 0.0 and not np.any(gradients["rows"])
    values = kc.losses.proxy_nca_loss([0], drawn(1), proxies=drawn(1, seed=1))
    np.testing.assert_array_equal(values, [0.0])
    loss = kc.losses.ProxyNCALoss(1, positive_in_denominator=True)
    assert float(loss(np.zeros(3, np.int64), drawn(3))) == pytest.approx(0.0, abs=1e-9)


# ---- errors


@one_of_each_class
def test_unknown_reduction_is_refused(loss):
    with pytest.raises(ValueError, match=r"`reduction` must be one of.*'mean'"):
        loss.make(reduction="mean")


@one_of_each_class
@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"rows": np.ones((7, 2))}, r"`(weights|proxies)`.*Received.*shape="),
        ({"weights": np.ones(3)}, r"`(weights|proxies)`.*Received.*shape="),
        ({"weights": np.ones((4, 3, 1))}, r"`(weights|proxies)`.*Received.*shape="),
        ({"rows": np.ones(7)}, r"`embeddings`.*Received.*embeddings.shape=\(7,"),
        ({"rows": np.ones((7, 3, 1))}, r"`embeddings`.*Received.*embeddings.shape="),
        ({"rows": np.ones((6, 3))}, r"`(ids|embeddings)`.*Received.*[67]"),
    ],
    ids=[
        "other_width",
        "weights_rank_1",
        "weights_rank_3",
        "rank_1",
        "rank_3",
        "other_batch",
    ],
)
def test_wrong_shape_is_refused_by_name(loss, wrong, match):
    with pytest.raises(ValueError, match=match):
        loss.values(IDS, **{**inputs(), **wrong})


@every_loss
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_scale_that_is_not_positive_and_finite_is_refused(loss, value):
    match = rf"`scale` must be .*> 0.* Received: scale={value}"
    with pytest.raises(ValueError, match=match):
        loss.make(scale=value)
    with pytest.raises(ValueError, match=match):
        loss.values(IDS, **inputs(), scale=value)


@pytest.mark.parametrize("loss", ONE_OF_EACH[:3], ids=lambda loss: loss.name)
@pytest.mark.parametrize("value", [math.nan, math.inf, "0.5"])
def test_margin_that_is_no_finite_number_is_refused(loss, value):
    with pytest.raises(ValueError, match=r"`margin` must be .*Received: margin="):
        loss.make(margin=value)


@pytest.mark.parametrize("loss", ONE_OF_EACH[:2], ids=lambda loss: loss.name)
def test_negative_margin_is_refused(loss):
    with pytest.raises(ValueError, match=r"`margin` must be .*Received: margin=-0.1"):
        loss.make(margin=-0.1)


@one_of_each_class
@pytest.mark.parametrize("value", [0, -1, 2.5])
def test_number_of_classes_that_is_no_positive_integer_is_refused(loss, value):
    with pytest.raises(ValueError, match=r"`num_classes` must be .*Received: num_cl"):
        loss.make(value)


@one_of_each_class
def test_candidates_are_not_taken(loss):
    # These losses compare with their own weights alone.
    with pytest.raises((TypeError, ValueError), match="candidates"):
        loss.make()(IDS, drawn(7), candidates=drawn(3))


def test_lists_are_taken_as_arrays_are():
    loss = kc.losses.ArcFaceLoss(3)
    value = loss([0, 1, 2], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    expected = loss(
        np.arange(3), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], np.float32)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_wrong_first_call_leaves_the_loss_as_it_was():
    loss, embeddings = kc.losses.ArcFaceLoss(3), np.eye(3, dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"must be embeddings of shape \(n, dim\).*ArcFaceLoss"
    ):
        loss(embeddings, np.arange(3))  # the wrong way round
    assert np.isfinite(loss(np.arange(3), embeddings))
