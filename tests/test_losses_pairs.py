"""The shared battery of every loss over pairs, then what is particular to one of them.

A new loss joins by one line in `LOSSES`: its function, its class, its oracle and its options.
"""

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
from keras_contrastive.losses import _blocks
from tests.losses_battery import FLOAT32, FLOAT64, NUMERICAL, as_float32, weighted_sum
from tests.oracles import losses as oracles
from tests.oracles.gradients import numerical_gradient

GRADIENT32 = {"rtol": 2e-4, "atol": 2e-4}


@dataclasses.dataclass(frozen=True, eq=False)
class LossOverPairs:
    """What the battery needs to know about a loss."""

    name: str
    function: Callable
    loss_class: type
    oracle: Callable
    options: dict
    keeps_swapped_rows: bool

    def values(self, first, second, **keywords):
        return self.function(first, second, **{**self.options, **keywords})

    def expected(self, first, second, **keywords):
        return self.oracle(first, second, **{**self.options, **keywords})

    def make(self, **keywords):
        return self.loss_class(**{**self.options, **keywords})


LOSSES = [
    LossOverPairs(
        "symmetric_info_nce",
        kc.losses.symmetric_info_nce_loss,
        kc.losses.SymmetricInfoNCELoss,
        oracles.symmetric_info_nce,
        {"temperature": 0.2},
        keeps_swapped_rows=True,
    ),
    LossOverPairs(
        "sigmoid",
        kc.losses.sigmoid_loss,
        kc.losses.SigmoidLoss,
        oracles.sigmoid,
        {"scale": 5.0, "bias": -1.5},
        keeps_swapped_rows=False,
    ),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)


def sides(n: int = 5, dim: int = 4, dtype=np.float64) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    first = generator.normal(0.0, 0.7, (n, dim))
    second = 0.5 * first + generator.normal(0.0, 0.7, (n, dim))
    return [first.astype(dtype), second.astype(dtype)]


def keywords_of(case: str, n: int = 5) -> dict:
    generator = np.random.default_rng(3)
    negatives = {"negatives": generator.normal(size=(7, 4))}
    ids = generator.integers(-1, 3, n)
    weights = generator.random((n, n)) * (generator.random((n, n)) < 0.5)
    weights[1] = 0.0  # this row has no partner
    labels = (generator.random((n + 7, 4)) < 0.4).astype(np.float64)
    return {
        "plain": {},
        "ids": {"ids": ids},
        "second_ids": {"ids": ids, "second_ids": generator.integers(-1, 3, n)},
        "multi_hot": {"ids": labels[:n]},
        "positives": {"positives": weights},
        "mask": {"candidate_mask": generator.random((n, n)) < 0.7},
        "negatives": negatives,
        "all_at_once": {
            **negatives,
            "ids": ids,
            "negative_ids": generator.integers(-1, 3, 7),
            "negative_mask": generator.random(7) < 0.7,
            "candidate_mask": generator.random((n, n)) < 0.7,
        },
    }[case]


CASES = ["plain", "ids", "second_ids", "multi_hot", "positives", "mask", "negatives"]
CASES += ["all_at_once"]


def value_and_gradients(function, *tensors):
    """Values, and the gradients of a sum in which every row has a weight of its own."""
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        values = function(*tensors)
        weights = 1.0 + tf.cast(tf.range(tf.shape(values)[0]), values.dtype) / 4.0
        total = tf.reduce_sum(weights * values)
    return values, tape.gradient(total, tensors, unconnected_gradients="zero")


@every_loss
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tile", [None, 2], ids=["at_once", "in_tiles"])
def test_values_and_gradients_match_the_oracle(loss, case, tile, monkeypatch):
    if tile is not None:
        monkeypatch.setattr(_blocks, "TILE", tile)
        monkeypatch.setattr(_blocks, "AT_ONCE", 0)
    keywords, both = keywords_of(case), sides()
    expected, _ = loss.expected(*both, **keywords)
    values, gradients = value_and_gradients(
        lambda first, second: loss.values(first, second, **keywords), *both
    )
    assert values.dtype == tf.float64 and np.any(expected > 0)
    np.testing.assert_allclose(values, expected, **FLOAT64)
    for k, gradient in enumerate(gradients):

        def total(side, k=k):
            moved = [side if i == k else other for i, other in enumerate(both)]
            return weighted_sum(loss.expected(*moved, **keywords)[0])

        np.testing.assert_allclose(
            gradient, numerical_gradient(total, both[k]), **NUMERICAL
        )
    single = {name: as_float32(value) for name, value in keywords.items()}
    values = loss.values(*sides(dtype=np.float32), **single)
    assert values.dtype == tf.float32
    np.testing.assert_allclose(values, expected, **FLOAT32)


@every_loss
@pytest.mark.parametrize("weights", ["equal", "different"])
def test_gradient_in_tiles_is_that_at_once_for_any_upstream_gradient(
    loss, weights, monkeypatch
):
    # The sigmoid loss finds its gradient beside its value, before it knows what the values are multiplied by.
    keywords, both = keywords_of("ids"), [tf.constant(side) for side in sides()]
    factors = np.full(5, -0.7) if weights == "equal" else np.linspace(-1, 2, 5)

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(both)
            total = tf.reduce_sum(factors * loss.values(*both, **keywords))
        return tape.gradient(total, both)

    at_once = gradients()
    monkeypatch.setattr(_blocks, "TILE", 2)
    monkeypatch.setattr(_blocks, "AT_ONCE", 0)
    for found, expected in zip(gradients(), at_once):
        np.testing.assert_allclose(found, expected, **FLOAT64)


@every_loss
def test_gradient_reaches_the_negatives(loss):
    keywords, both = keywords_of("all_at_once"), sides()
    negatives = keywords.pop("negatives")
    _, (gradient,) = value_and_gradients(
        lambda rows: loss.values(*both, negatives=rows, **keywords), negatives
    )
    expected = numerical_gradient(
        lambda rows: weighted_sum(loss.expected(*both, negatives=rows, **keywords)[0]),
        negatives,
    )
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient, expected, **NUMERICAL)


@every_loss
def test_gradients_of_the_numbers_match_the_oracle(loss):
    both, keywords = sides(), keywords_of("all_at_once")
    for name, value in loss.options.items():
        _, (gradient,) = value_and_gradients(
            lambda number, name=name: loss.values(*both, **{**keywords, name: number}),
            tf.constant(value, tf.float64),
        )
        expected = numerical_gradient(
            lambda number, name=name: weighted_sum(
                loss.expected(*both, **{**keywords, name: float(number)})[0]
            ),
            value,
        )
        np.testing.assert_allclose(gradient, expected, **NUMERICAL)


@every_loss
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_any_ids_and_coarse_rows_match_the_oracle(loss, data):
    n = data.draw(st.integers(1, 5), label="n")
    ids = np.array(
        data.draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n), label="ids")
    )
    quarters = st.lists(st.integers(-6, 6), min_size=6 * n, max_size=6 * n)
    both = np.array(data.draw(quarters, label="quarters")).reshape(2, n, 3) / 4.0
    values, gradients = value_and_gradients(
        lambda first, second: loss.values(first, second, ids=ids), *both
    )
    np.testing.assert_allclose(values, loss.expected(*both, ids=ids)[0], **FLOAT64)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@every_loss
def test_eager_graph_unknown_batch_and_xla_agree(loss):
    keywords = {k: as_float32(v) for k, v in keywords_of("all_at_once").items()}
    tensors = {k: tf.constant(v) for k, v in keywords.items()}
    both = [tf.constant(side) for side in sides(dtype=np.float32)]

    def run(first, second, tensors):
        return value_and_gradients(
            lambda *both: loss.values(*both, **tensors), first, second
        )

    unknown = [tf.TensorSpec([None, None], tf.float32)] * 2
    unknown.append(
        {
            name: tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype)
            for name, tensor in tensors.items()
        }
    )
    expected, expected_gradients = run(*both, tensors)
    for way in (
        tf.function(run, input_signature=unknown),
        tf.function(run, jit_compile=True),
    ):
        values, gradients = way(*both, tensors)
        np.testing.assert_allclose(values, expected, **FLOAT32)
        for found, wanted in zip(gradients, expected_gradients):
            np.testing.assert_allclose(found, wanted, **GRADIENT32)


@every_loss
def test_permuted_pairs_permute_the_values(loss):
    first, second = sides()
    order = np.random.default_rng(5).permutation(5)
    np.testing.assert_allclose(
        loss.values(first[order], second[order]),
        loss.values(first, second).numpy()[order],
        **FLOAT64,
    )


@every_loss
def test_swapped_sides_keep_the_loss(loss):
    first, second = sides()
    one, other = loss.values(first, second), loss.values(second, first)
    assert np.allclose(one, other, **FLOAT64) == loss.keeps_swapped_rows
    np.testing.assert_allclose(one.numpy().sum(), other.numpy().sum(), **FLOAT64)


@every_loss
def test_rotated_and_scaled_rows_change_nothing(loss):
    first, second = sides()
    rotation, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(4, 4)))
    scales = np.array([[0.1], [3.0], [1e-3], [50.0], [1.0]])
    np.testing.assert_allclose(
        loss.values(scales * first @ rotation, 7.0 * second @ rotation),
        loss.values(first, second),
        **FLOAT64,
    )


DEGENERATE = {
    "zeros": lambda: [np.zeros((5, 4))] * 2,
    "one_row_of_zeros": lambda: [
        side * np.array([[0], [1], [1], [1], [1]]) for side in sides()
    ],
    "equal_sides": lambda: [sides()[0]] * 2,
    "all_rows_equal": lambda: [np.ones((5, 4))] * 2,
    "opposite_sides": lambda: [sides()[0], -sides()[0]],
    "huge_rows": lambda: [1e4 * side for side in sides()],
    "tiny_rows": lambda: [1e-6 * side for side in sides()],
}
NUMBERS = {
    "symmetric_info_nce": [{"temperature": t} for t in (0.01, 0.2, 10.0)],
    "sigmoid": [{"scale": s, "bias": b} for s, b in ((100.0, -10.0), (0.1, 10.0))],
}


@functools.cache
def compiled(function: Callable) -> Callable:
    @tf.function(jit_compile=True)
    def run(first, second, numbers):
        return value_and_gradients(
            lambda *both: function(*both, **numbers), first, second
        )

    return run


@every_loss
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_sides_have_finite_values_and_gradients(loss, case):
    both = DEGENERATE[case]()
    for numbers in NUMBERS[loss.name]:
        given = {k: tf.constant(v, tf.float32) for k, v in numbers.items()}
        for dtype in (tf.float16, tf.bfloat16, tf.float32):
            rows = [tf.cast(side, dtype) for side in both]
            values_of = functools.partial(loss.values, **numbers)
            ways = [value_and_gradients(values_of, *rows)]
            if dtype != tf.bfloat16:
                ways.append(compiled(loss.function)(*rows, given))
            for values, gradients in ways:
                assert values.dtype == tf.float32
                assert np.isfinite(values).all(), (dtype, numbers)
                for gradient in gradients:
                    assert gradient.dtype == dtype
                    assert np.isfinite(tf.cast(gradient, tf.float32)).all()


@every_loss
def test_half_precision_rows_are_compared_in_float32(loss):
    for dtype in (tf.float16, tf.bfloat16):
        half = [tf.cast(side, dtype) for side in sides()]
        expected, _ = loss.expected(*[tf.cast(h, tf.float64).numpy() for h in half])
        np.testing.assert_allclose(loss.values(*half), expected, **FLOAT32)


# ---- the classes


@every_loss
def test_class_averages_over_the_rows_that_count_with_their_weights(loss):
    both, keywords = sides(), keywords_of("positives")
    expected, counts = loss.expected(*both, **keywords)
    weights = np.array([0.5, 9.0, 2.0, 0.0, 1.0])
    for sample_weight in (None, weights, weights[:, None]):
        np.testing.assert_allclose(
            loss.make()(*both, sample_weight=sample_weight, **keywords),
            oracles.reduced(
                expected, counts, None if sample_weight is None else weights
            ),
            rtol=1e-6,
        )
    np.testing.assert_allclose(
        loss.make(reduction="none")(*both, **keywords), expected * counts, rtol=1e-6
    )
    np.testing.assert_allclose(
        loss.make(reduction="sum")(*both, **keywords),
        (expected * counts).sum(),
        rtol=1e-6,
    )


@every_loss
def test_weights_of_zero_give_zero_not_nan(loss):
    both = sides()
    total, gradients = value_and_gradients(
        lambda *b: tf.reshape(loss.make()(*b, sample_weight=np.zeros(5)), [1]), *both
    )
    assert float(total[0]) == 0.0
    assert not any(np.any(gradient) for gradient in gradients)


@every_loss
def test_config_round_trip_keeps_every_argument(loss):
    original = loss.make(reduction="sum", name="mine")
    config = original.get_config()
    arguments = set(inspect.signature(loss.loss_class.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    assert {name: config[name] for name in loss.options} == loss.options
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(original)
    )
    assert type(copy) is loss.loss_class
    assert copy.get_config() == config
    np.testing.assert_array_equal(copy(*sides()), original(*sides()))


@every_loss
@pytest.mark.parametrize("learn", [False, True], ids=["fixed", "learned"])
def test_two_towers_in_plain_keras_learn(loss, learn):
    # The towers see two noisy pictures of one point, through different maps.
    generator = np.random.default_rng(0)
    points = generator.normal(size=(32, 4))
    noise = 0.1 * generator.normal(size=(2, 32, 4))
    pictures, words = (
        (points + noise[0]) @ generator.normal(size=(4, 6)),
        points - noise[1],
    )

    class Stack(keras.layers.Layer):
        def call(self, towers):
            return tf.stack(towers, axis=1)

    inputs = [keras.Input((6,)), keras.Input((4,)), keras.Input((), dtype="int64")]
    towers = [keras.layers.Dense(3)(tower) for tower in inputs[:2]]
    made, learns = loss.make(), learn
    if "learn" in inspect.signature(loss.loss_class.__init__).parameters:
        made, learns = loss.make(learn=learn), False
    layer = kc.ContrastiveLossLayer(made, learn_temperature=learns)
    model = keras.Model(inputs, layer(Stack()(towers), inputs[2]))
    model.compile(keras.optimizers.Adam(0.03))
    data = (pictures.astype("float32"), words.astype("float32"), np.arange(32))
    dataset = tf.data.Dataset.from_tensors((data,))
    losses = model.fit(dataset, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    learned = [weight for weight in layer.trainable_weights]
    assert bool(learned) == learn


@every_loss
def test_model_learns_from_views_with_a_queue_and_weights(loss):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(32, 1, 8))
    views = (points + 0.1 * generator.normal(size=(32, 2, 8))).astype(np.float32)
    data = tf.data.Dataset.from_tensors(
        (views, np.arange(32) // 2, np.linspace(0.5, 1.5, 32, dtype=np.float32))
    )
    encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu")])
    layer = kc.ContrastiveLossLayer(
        loss.make(), negatives=kc.negatives.EmbeddingQueue(48)
    )
    model = kc.ContrastiveModel(encoder, layer, head=kc.heads.mlp(4, hidden_dim=8))
    model.compile(keras.optimizers.Adam(0.02))
    history = model.fit(data, epochs=15, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    # The queue fills in two steps; from then on the loss is of the same columns.
    assert history["loss"][-1] < 0.9 * history["loss"][2]
    assert history["accuracy"][-1] > history["accuracy"][0]


# ---- faults of other libraries


@every_loss
def test_sign_gradient_descent_pulls_partners_in_and_pushes_others_out(loss):
    first, second = (1.0 + 0.3 * side for side in sides())

    def gap(first, second):
        s = [[oracles.cosine(a, b) for b in second] for a in first]
        return np.trace(s) / 5 - (np.sum(s) - np.trace(s)) / 20

    start = gap(first, second)
    for _ in range(60):
        _, (of_first, of_second) = value_and_gradients(loss.values, first, second)
        first, second = (
            first - 0.05 * of_first.numpy(),
            second - 0.05 * of_second.numpy(),
        )
    assert gap(first, second) > start + 0.1


@every_loss
def test_accidental_hit_left_out_by_a_mask_is_as_if_it_were_not_there(loss):
    first, second = (np.concatenate([side, side[:1]]) for side in sides())
    mask = np.ones((6, 6), bool)
    mask[0, 5] = mask[5, 0] = False
    masked = loss.values(first, second, candidate_mask=mask).numpy()
    alone = loss.values(*sides()).numpy()
    np.testing.assert_allclose(masked[[0, 5]], alone[[0, 0]], **FLOAT64)
    assert np.all(np.abs(loss.values(first, second).numpy()[0] - alone[0]) > 0.01)


@every_loss
def test_unknown_row_meets_every_negative_whatever_its_id(loss):
    both, negatives = sides(2), np.ones((1, 4))
    ids = np.array([-1, 3])
    for other in (-2, -9):
        values = loss.values(
            *both, ids=ids, negatives=negatives, negative_ids=np.array([other])
        )
        expected, _ = loss.expected(
            *both, ids=ids, negatives=negatives, negative_ids=np.array([other])
        )
        np.testing.assert_allclose(values, expected, **FLOAT64)


@every_loss
def test_ids_above_2_24_do_not_collide(loss):
    both, big = sides(), 2**24
    np.testing.assert_allclose(
        loss.values(*both, ids=np.array([big, big + 1, 2**53, 2**53 + 1, 5])),
        loss.values(*both),
        **FLOAT64,
    )


def test_sigmoid_mean_is_the_sum_over_pairs_divided_by_rows_not_by_pairs():
    # Dividing by n^2 is a known mistake: the learning rate then falls with the batch.
    n = 5
    loss = kc.losses.SigmoidLoss(scale=1.0, bias=0.0, learn=False)
    orthogonal = np.concatenate([np.eye(n), np.zeros((n, n))], axis=1)
    value = loss(orthogonal, np.roll(orthogonal, n, axis=1))  # all similarities are 0
    assert float(value) == pytest.approx(n * math.log(2), rel=1e-6)


def test_sigmoid_defaults_start_at_scale_10_and_bias_minus_10():
    loss = kc.losses.SigmoidLoss()
    both = sides()
    np.testing.assert_allclose(
        loss(*both), oracles.sigmoid(*both, scale=10.0, bias=-10.0)[0].mean(), rtol=1e-6
    )
    assert len(loss.trainable_weights) == 2


def test_sigmoid_layer_passes_gradients_to_its_scale_and_bias():
    loss, both = kc.losses.SigmoidLoss(5.0, -1.5), sides()
    with tf.GradientTape() as tape:
        total = loss(*both)
    # By the logarithm of the scale: d / d log a = a d / d a.
    expected = [
        numerical_gradient(
            lambda log: oracles.sigmoid(*both, scale=math.exp(log), bias=-1.5)[
                0
            ].mean(),
            math.log(5.0),
        ),
        numerical_gradient(
            lambda b: oracles.sigmoid(*both, scale=5.0, bias=float(b))[0].mean(), -1.5
        ),
    ]
    weights = [
        w if isinstance(w, tf.Variable) else w.value for w in loss.trainable_weights
    ]
    np.testing.assert_allclose(tape.gradient(total, weights), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
def test_symmetric_of_collapsed_sides_is_log_of_the_rows(temperature):
    rows = np.tile([[0.6, -0.8, 0.0]], (7, 1))
    loss = kc.losses.SymmetricInfoNCELoss(temperature)(rows, rows)
    assert float(loss) == pytest.approx(math.log(7), abs=1e-9)


def test_symmetric_log_probability_is_subtracted_in_both_directions():
    both, log_q = sides(), np.log([0.3, 0.1, 0.2, 0.25, 0.15])
    expected, _ = oracles.symmetric_info_nce(
        *both, temperature=0.2, candidate_log_probability=log_q
    )
    function = functools.partial(kc.losses.symmetric_info_nce_loss, temperature=0.2)
    np.testing.assert_allclose(
        function(*both, candidate_log_probability=log_q), expected, **FLOAT64
    )
    np.testing.assert_allclose(
        function(*both, candidate_log_probability=np.full(5, -9.0)),
        function(*both),
        **FLOAT64,
    )


def test_learned_logit_scale_stays_at_most_100():
    loss = kc.losses.SymmetricInfoNCELoss(0.0101)
    layer = kc.ContrastiveLossLayer(loss, learn_temperature=True)
    ids = keras.Input((), dtype="int64")
    rows = keras.Input((2, 3))
    model = keras.Model([rows, ids], layer(rows, ids))
    model.compile(keras.optimizers.SGD(10.0))
    # Partners that agree: a larger scale always pays.
    data = np.repeat(np.eye(3, dtype=np.float32)[:, None], 2, axis=1)
    data += 0.3 * np.random.default_rng(0).normal(size=data.shape).astype(np.float32)
    dataset = tf.data.Dataset.from_tensors(((data, np.arange(3)),)).repeat(20)
    model.fit(dataset, verbose=0)
    assert 0.01 <= float(layer.temperature) < 0.0102


# ---- errors


@every_loss
@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"second": np.ones((4, 4))}, r"`first`.*`second` must have the same shape"),
        ({"first": np.ones(5)}, r"`first`.*`second` must have the same shape"),
        ({"ids": np.arange(4)}, r"`ids`.*Received.*4"),
        ({"second_ids": np.arange(5)}, r"`second_ids` needs `ids`"),
        ({"positives": np.ones((5, 4))}, r"`positives`.*Received.*\(5, 4\)"),
        ({"candidate_mask": np.ones(5, bool)}, r"`candidate_mask`.*Received.*\(5,\)"),
        ({"negatives": np.ones((3, 5))}, r"`negatives` must have the same width"),
        (
            {
                "ids": np.arange(5),
                "negatives": np.ones((3, 4)),
                "negative_ids": np.arange(2),
            },
            r"`negative_ids`.*Received.*2",
        ),
        (
            {"negatives": np.ones((3, 4)), "negative_ids": np.arange(3)},
            r"`negative_ids` needs `ids`",
        ),
        ({"negative_mask": np.ones(3, bool)}, r"`negative_mask` needs `negatives`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_shape_is_refused_by_name(loss, wrong, match):
    first, second = sides()
    with pytest.raises(ValueError, match=match):
        loss.values(**{"first": first, "second": second, **wrong})


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "call, name",
    [
        (lambda v: kc.losses.SymmetricInfoNCELoss(temperature=v), "temperature"),
        (
            lambda v: kc.losses.symmetric_info_nce_loss(*sides(), temperature=v),
            "temperature",
        ),
        (lambda v: kc.losses.SigmoidLoss(scale=v), "scale"),
        (lambda v: kc.losses.sigmoid_loss(*sides(), scale=v), "scale"),
    ],
    ids=["SymmetricInfoNCELoss", "symmetric_info_nce_loss", "SigmoidLoss", "sigmoid"],
)
def test_number_that_is_not_positive_and_finite_is_refused(call, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be .*> 0.* Received: {name}"):
        call(value)


def test_bias_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"`bias` must be a finite number. Received"):
        kc.losses.SigmoidLoss(bias=math.nan)


def test_saved_model_keeps_what_the_sigmoid_loss_has_learned(tmp_path):
    generator = np.random.default_rng(0)
    views = generator.normal(size=(16, 2, 8)).astype(np.float32)
    data = tf.data.Dataset.from_tensors((views, np.arange(16)))
    encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model = kc.ContrastiveModel(encoder, kc.losses.SigmoidLoss(scale=5.0))
    model.compile(keras.optimizers.Adam(0.1))
    model.fit(data, epochs=3, verbose=0)
    learned = [w.numpy() for w in model.loss_layer.loss.trainable_weights]
    assert abs(learned[0] - math.log(5.0)) > 0.01 and abs(learned[1] + 10.0) > 0.01
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = [w.numpy() for w in loaded.loss_layer.loss.trainable_weights]
    np.testing.assert_array_equal(again, learned)
