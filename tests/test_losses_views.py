"""The losses over views that are no contrast with a batch: the battery, then what is particular to one of them."""

from __future__ import annotations

import functools
import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_contrastive as kc
from tests.losses_battery import FLOAT32, FLOAT64, NUMERICAL
from tests.oracles import losses as shared_oracles
from tests.oracles import view_losses as oracles
from tests.oracles.gradients import numerical_gradient
from tests.view_battery import (
    PROTOTYPES,
    SIDES,
    WIDTH,
    by_name,
    drawn,
    every_loss,
    losses_where,
    one_of_each_class,
    oracle_total,
    sides,
    value_and_gradients,
)

GRADIENT32 = {"rtol": 5e-4, "atol": 2e-4}
scalar_losses = losses_where(lambda loss: loss.scalar)
losses_by_row = losses_where(lambda loss: not loss.scalar)


# ---- the oracles, by hand


def test_oracle_of_barlow_twins_by_hand():
    # The first two columns agree with themselves alone; the third repeats the first.
    columns = [[1, 1, -1, -1], [1, -1, 1, -1], [1, 1, -1, -1]]
    rows = np.array(columns, float).T
    assert oracles.barlow_twins(rows[:, :2], 3.0 + 2.0 * rows[:, :2]) == 0.0
    assert oracles.barlow_twins(rows, rows, redundancy_weight=0.5) == pytest.approx(1.0)
    # The two sides disagree in every column: (1 - -1)^2 each.
    assert oracles.barlow_twins(rows[:, :2], -rows[:, :2]) == pytest.approx(8.0)


def test_oracle_of_sinkhorn_balances_rows_and_prototypes():
    scores = drawn(5, 3, 0)
    once = oracles.sinkhorn(scores, epsilon=0.5, iterations=1)
    np.testing.assert_allclose(once.sum(axis=1), np.ones(5))
    assert np.abs(once.sum(axis=0) - 5 / 3).max() > 0.01
    balanced = oracles.sinkhorn(scores, epsilon=0.5, iterations=200)
    np.testing.assert_allclose(balanced.sum(axis=1), np.ones(5))
    np.testing.assert_allclose(balanced.sum(axis=0), np.full(3, 5 / 3))
    # One round, as the paper's matrix operations have it.
    mass = np.exp(scores / 0.5)
    mass = mass / mass.sum(axis=0) / 3
    np.testing.assert_allclose(once, mass / mass.sum(axis=1, keepdims=True))


# ---- the battery


@every_loss
def test_values_and_gradients_match_the_oracle(loss):
    inputs = loss.inputs()
    expected = loss.expected(**inputs)
    values, gradients = value_and_gradients(loss.values, inputs)
    assert values.dtype == tf.float64
    assert values.shape == (() if loss.scalar else (5,))
    assert np.any(np.abs(expected) > 1e-3)
    np.testing.assert_allclose(values, expected, **FLOAT64)
    for name, point in inputs.items():
        if name in loss.constants:
            assert not np.any(gradients[name])
            continue

        def total(moved, name=name):
            moved = {**inputs, name: moved}
            return oracle_total(loss.expected(**moved, frozen=inputs))

        wanted = numerical_gradient(total, point)
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(gradients[name], wanted, **NUMERICAL)
    values = loss.values(**loss.inputs(dtype=np.float32))
    assert values.dtype == tf.float32
    np.testing.assert_allclose(values, expected, **loss.float32)


@one_of_each_class
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_coarse_rows_match_the_oracle(loss, data):
    # Rows of zeros, equal rows, opposite rows and constant columns come up often.
    n = data.draw(st.sampled_from([1, 2, 5]), label="n")
    size = 2 * n * WIDTH
    quarters = st.lists(st.integers(-2, 2), min_size=size, max_size=size)
    both = np.array(data.draw(quarters, label="quarters")).reshape(2, n, WIDTH) / 4.0
    inputs = {**loss.inputs(n), **dict(zip(SIDES, both))}
    values, gradients = value_and_gradients(loss.values, inputs)
    np.testing.assert_allclose(values, loss.expected(**inputs), **FLOAT64)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@functools.cache
def compiled(loss):
    @tf.function(jit_compile=True)
    def run(inputs):
        return value_and_gradients(loss.values, inputs)

    return run


def tensors(inputs: dict, dtype=tf.float32) -> dict:
    return {name: tf.cast(value, dtype) for name, value in inputs.items()}


@one_of_each_class
def test_eager_graph_unknown_batch_and_xla_agree(loss):
    inputs = tensors(loss.inputs())
    expected, expected_gradients = value_and_gradients(loss.values, inputs)
    unknown = {
        name: tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype)
        for name, tensor in inputs.items()
    }
    graph = tf.function(
        functools.partial(value_and_gradients, loss.values), input_signature=[unknown]
    )
    for way in (graph, compiled(loss)):
        values, gradients = way(inputs)
        np.testing.assert_allclose(values, expected, **FLOAT32)
        for name, wanted in expected_gradients.items():
            np.testing.assert_allclose(gradients[name], wanted, **GRADIENT32)
    for n in (1, 0):  # through the graph that was made for any batch
        values, gradients = graph(tensors(loss.inputs(n)))
        np.testing.assert_allclose(values, loss.expected(**loss.inputs(n)), **FLOAT32)
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@one_of_each_class
def test_loss_runs_inside_a_dataset(loss):
    inputs = loss.inputs(dtype=np.float32)
    data = tf.data.Dataset.from_tensors(inputs).map(lambda i: loss.values(**i))
    np.testing.assert_allclose(next(iter(data)), loss.values(**inputs), **FLOAT32)


@one_of_each_class
def test_half_precision_rows_are_compared_in_float32(loss):
    for dtype in (tf.float16, tf.bfloat16):
        half = tensors(loss.inputs(), dtype)
        values, gradients = value_and_gradients(loss.values, half)
        exact = {name: tf.cast(h, tf.float64).numpy() for name, h in half.items()}
        assert values.dtype == tf.float32
        np.testing.assert_allclose(values, loss.expected(**exact), **FLOAT32)
        assert all(gradient.dtype == dtype for gradient in gradients.values())


def scaled(factor: float):
    return lambda n: [factor * side for side in sides(n)]


DEGENERATE = {
    "zeros": lambda n: [np.zeros((n, WIDTH))] * 2,
    "one_row_of_zeros": lambda n: [
        side * np.array([[0]] + [[1]] * (n - 1)) for side in sides(n)
    ],
    "equal_sides": lambda n: [sides(n)[0]] * 2,
    "opposite_sides": lambda n: [sides(n)[0], -sides(n)[0]],
    "duplicate_rows": lambda n: [side[[0, 0, 1, 1, 2]] for side in sides(n)],
    "all_rows_equal": lambda n: [np.full((n, WIDTH), 0.1)] * 2,
    "constant_column": lambda n: [
        np.where(np.arange(WIDTH) == 1, 0.1, side) for side in sides(n)
    ],
    "huge_rows": scaled(1e4),
    "tiny_rows": scaled(1e-6),
}


@one_of_each_class
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_sides_have_finite_values_and_gradients(loss, case):
    rows = dict(zip(SIDES, DEGENERATE[case](5)))
    for dtype in (tf.float16, tf.bfloat16, tf.float32):
        inputs = {**tensors(loss.inputs(), dtype), **tensors(rows, dtype)}
        ways = [value_and_gradients(loss.values, inputs)]
        if dtype == tf.float32:
            ways.append(compiled(loss)(inputs))
        # A gradient as steep as 1e6, or of rows squared, does not fit a half.
        fits = dtype != tf.float16 or loss.on_unit_rows or "_rows" not in case
        for values, gradients in ways:
            assert values.dtype == tf.float32
            assert np.isfinite(values).all(), dtype
            for gradient in gradients.values():
                finite = np.isfinite(tf.cast(gradient, tf.float32))
                assert finite.all() or not fits, dtype


@one_of_each_class
@pytest.mark.parametrize("case", ["zeros", "all_rows_equal", "duplicate_rows"])
def test_degenerate_sides_match_the_oracle(loss, case):
    inputs = {**loss.inputs(), **dict(zip(SIDES, DEGENERATE[case](5)))}
    np.testing.assert_allclose(
        loss.values(**inputs), loss.expected(**inputs), **FLOAT64
    )
    values = loss.values(**tensors(inputs))
    np.testing.assert_allclose(values, loss.expected(**inputs), **FLOAT32)


@losses_where(lambda loss: loss.on_unit_rows)
@pytest.mark.parametrize("factor", [1e4, 1e-6], ids=["huge", "tiny"])
def test_length_of_rows_changes_nothing(loss, factor):
    inputs = loss.inputs()
    first = factor * np.array([[1.0], [2.0], [0.5], [3.0], [1.0]]) * inputs["first"]
    moved = {**inputs, "first": first, "second": factor * inputs["second"]}
    np.testing.assert_allclose(
        loss.values(**tensors(moved)), loss.expected(**inputs), **FLOAT32
    )


@one_of_each_class
def test_swapped_sides_keep_a_symmetric_loss(loss):
    inputs = loss.inputs()
    swapped = {**inputs, "first": inputs["second"], "second": inputs["first"]}
    one, other = loss.values(**inputs), loss.values(**swapped)
    if loss.name != "cosine_prediction":  # its value is, its gradient is not
        assert np.allclose(one, other, **FLOAT64) == loss.symmetric


@one_of_each_class
def test_permuted_batch_permutes_the_values(loss):
    inputs = loss.inputs()
    order = np.random.default_rng(5).permutation(5)
    moved = {**inputs, **{side: inputs[side][order] for side in SIDES}}
    values = loss.values(**inputs).numpy()
    np.testing.assert_allclose(
        loss.values(**moved), values if loss.scalar else values[order], **FLOAT64
    )


# ---- the classes


@one_of_each_class
def test_class_is_its_function(loss):
    both = sides()
    expected = loss.prepared_expected(*both)
    made = loss.prepared()
    np.testing.assert_allclose(made(*both), np.mean(expected), rtol=1e-6)
    summed = loss.prepared(reduction="sum")(*both)
    np.testing.assert_allclose(summed, np.sum(expected), rtol=1e-6)
    each = loss.prepared(reduction="none")(*both)
    np.testing.assert_allclose(each, expected, rtol=1e-6)
    assert made(*both).dtype == tf.float64
    assert made(*sides(dtype=np.float32)).dtype == tf.float32


@losses_by_row
def test_sample_weight_weighs_the_rows(loss):
    both, made = sides(), loss.prepared()
    expected = loss.prepared_expected(*both)
    weights = np.array([0.5, 9.0, 2.0, 0.0, 1.0])
    for sample_weight in (weights, weights[:, None]):  # Keras 2 makes it a column
        np.testing.assert_allclose(
            made(*both, sample_weight=sample_weight),
            shared_oracles.reduced(expected, np.ones(5), weights),
            rtol=1e-6,
        )
    none = loss.prepared(reduction="none")(*both, sample_weight=weights)
    np.testing.assert_allclose(none, weights * expected, rtol=1e-6)
    total = loss.prepared(reduction="sum")(*both, sample_weight=weights)
    np.testing.assert_allclose(total, np.sum(weights * expected), rtol=1e-6)


@losses_by_row
def test_sample_weights_of_zero_give_zero_not_nan(loss):
    made = loss.prepared()
    total, gradients = value_and_gradients(
        lambda first, second: made(first, second, sample_weight=np.zeros(5)),
        dict(zip(SIDES, sides())),
    )
    assert float(total) == 0.0
    assert not any(np.any(gradient) for gradient in gradients.values())


@scalar_losses
def test_sample_weight_of_a_loss_of_the_batch_is_refused(loss):
    with pytest.raises(ValueError, match=r"`sample_weight`") as refused:
        loss.make()(*sides(), sample_weight=np.ones(5))
    assert "\n" not in str(refused.value)


@one_of_each_class
def test_batch_of_nothing_gives_zero(loss):
    total, gradients = value_and_gradients(
        by_name(loss.prepared()), dict(zip(SIDES, sides(0, dtype=np.float32)))
    )
    assert total.shape == () and float(total) == 0.0
    assert all(gradient.shape == (0, WIDTH) for gradient in gradients.values())


@one_of_each_class
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_class_computes_in_float32_under_every_policy(loss, policy):
    both = sides(dtype=np.float32)
    expected = loss.prepared()(*both)
    keras.mixed_precision.set_global_policy(policy)
    made = loss.prepared()
    np.testing.assert_allclose(made(*both), expected, rtol=1e-6)
    assert all(w.dtype == "float32" for w in getattr(made, "weights", []))
    half = [tf.cast(side, tf.float16) for side in both]
    assert made(*half).dtype == tf.float32


@one_of_each_class
def test_config_round_trip_keeps_every_argument(loss):
    original = loss.make(reduction="sum", name="mine")
    config = original.get_config()
    arguments = set(inspect.signature(loss.loss_class.__init__).parameters)
    assert arguments - {"self", "kwargs"} <= set(config)
    given = {**loss.options, **loss.class_options, "reduction": "sum", "name": "mine"}
    assert {name: config[name] for name in given} == given
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(original)
    )
    assert type(copy) is loss.loss_class
    assert copy.get_config() == config
    for each in (copy, original):
        each(*sides())
    if loss.weights:
        copy.set_weights(original.get_weights())
    np.testing.assert_array_equal(copy(*sides()), original(*sides()))


DEFAULTS = {
    "BarlowTwinsLoss": {"redundancy_weight": 0.005},
    "VICRegLoss": {
        "invariance_weight": 25.0,
        "variance_weight": 25.0,
        "covariance_weight": 1.0,
    },
    "CosinePredictionLoss": {},
    "SwAVLoss": {
        "num_prototypes": 3000,
        "temperature": 0.1,
        "epsilon": 0.05,
        "iterations": 3,
    },
    "DINOLoss": {
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "center_momentum": 0.9,
    },
    "AlignmentUniformityLoss": {
        "alignment_weight": 1.0,
        "uniformity_weight": 1.0,
        "t": 2.0,
    },
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_class_defaults_are_the_papers(name):
    made = getattr(kc.losses, name)(**({"dim": 4} if name == "DINOLoss" else {}))
    config = made.get_config()
    assert {key: config[key] for key in DEFAULTS[name]} == DEFAULTS[name]
    assert config["reduction"] == "sum_over_batch_size"


@losses_where(lambda loss: loss.weights)
def test_weights_are_there_after_the_first_call(loss):
    (name, weight), made = next(iter(loss.weights.items())), loss.make()
    made(*sides())
    variable = getattr(made, name)
    assert tuple(variable.shape) == weight.shape
    assert tf.as_dtype(variable.dtype) == tf.float32
    trained = loss.name != "dino"
    assert [w is variable for w in made.trainable_weights] == [True] * trained
    assert [w is variable for w in made.weights] == [True]


# ---- Barlow Twins


def hadamard() -> np.ndarray:
    """Four rows, three columns without correlation, of mean 0 and standard deviation 1."""
    return np.array(
        [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=np.float64
    )


def test_barlow_of_equal_views_without_redundancy_is_zero():
    rows = 0.3 + 5.0 * hadamard()
    assert float(kc.losses.barlow_twins_loss(rows, rows)) == pytest.approx(0, abs=1e-12)


def test_barlow_has_no_further_scale():
    # C = -1 on the diagonal: (1 - -1)^2 for each of three columns. VISSL multiplies by 0.024.
    rows = hadamard()
    assert float(kc.losses.barlow_twins_loss(rows, -rows)) == pytest.approx(12.0)


def test_barlow_counts_each_pair_of_columns_twice_with_its_weight():
    rows = hadamard()[:, [0, 0]]  # a column repeated: C is 1 everywhere
    assert float(kc.losses.barlow_twins_loss(rows, rows)) == pytest.approx(0.01)
    assert float(
        kc.losses.barlow_twins_loss(rows, rows, redundancy_weight=0.5)
    ) == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-6, 12345.6])
def test_barlow_of_a_constant_column_takes_its_correlations_as_zero(value, dtype):
    # The mean of eleven times 0.1 is off by a rounding, which standardising must not blow up.
    first, second = sides(11, 2)
    first[:, 1] = value
    expected = oracles.barlow_twins(first, second)
    assert expected >= 1.0  # (1 - C_22)^2, with C_22 = 0
    found, gradients = value_and_gradients(
        kc.losses.barlow_twins_loss,
        {"first": first.astype(dtype), "second": second.astype(dtype)},
    )
    np.testing.assert_allclose(found, expected, **FLOAT32)
    # No direction is better than another for a column that does not vary.
    np.testing.assert_allclose(
        gradients["first"].numpy()[:, 1], np.zeros(11), atol=1e-6
    )


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_barlow_has_no_epsilon(scale):
    # An epsilon of 1e-5 beside the variance, as of batch normalisation, would rule at 1e-6.
    first, second = sides()
    found = kc.losses.barlow_twins_loss(
        (scale * first).astype(np.float32), (scale * second).astype(np.float32)
    )
    np.testing.assert_allclose(found, oracles.barlow_twins(first, second), **FLOAT32)


def test_barlow_of_columns_far_from_zero_keeps_its_digits():
    first, second = sides()
    found = kc.losses.barlow_twins_loss(
        (first + 100.0).astype(np.float32), (second - 100.0).astype(np.float32)
    )
    # Of the 7 digits of 100.x four are of the deviation.
    np.testing.assert_allclose(found, oracles.barlow_twins(first, second), rtol=1e-4)


def test_barlow_of_one_row_is_zero_with_zero_gradient():
    value, gradients = value_and_gradients(
        by_name(kc.losses.BarlowTwinsLoss()), dict(zip(SIDES, sides(1)))
    )
    assert float(value) == 0.0
    assert not any(np.any(gradient) for gradient in gradients.values())


# ---- VICReg


def test_vicreg_by_hand():
    # Unbiased variance 2: no hinge. Covariance 2 between the two columns: (4 + 4) / 2 for each side.
    first = np.array([[1.0, 1.0], [-1.0, -1.0]])
    assert float(kc.losses.vicreg_loss(first, first)) == pytest.approx(8.0)
    # Both columns move by 1/2: a mean square over rows and columns of 1/4.
    assert float(kc.losses.vicreg_loss(first, first + 0.5)) == pytest.approx(14.25)


def test_vicreg_variance_is_unbiased():
    # Three rows 0.9, 0, -0.9: unbiased variance 0.81, biased 0.54.
    rows = np.array([[0.9], [0.0], [-0.9]])
    expected = 25.0 * (1.0 - math.sqrt(0.81 + 1e-4))
    assert float(kc.losses.vicreg_loss(rows, rows)) == pytest.approx(expected)


def test_vicreg_variance_term_is_the_mean_of_both_sides():
    # All rows equal: a standard deviation of sqrt(1e-4). A sum over the sides would be twice this.
    rows = np.ones((4, 3))
    assert float(kc.losses.vicreg_loss(rows, rows)) == pytest.approx(25.0 * 0.99)
    second = 10.0 * hadamard()
    one = kc.losses.vicreg_loss(rows, second, invariance_weight=0.0)
    assert float(one) == pytest.approx(25.0 * 0.99 / 2)


def test_vicreg_of_collapsed_rows_has_a_finite_gradient_that_is_zero():
    # At a variance of 0 every direction spreads alike: the gradient of the root is 1e2 times 0.
    _, gradients = value_and_gradients(
        by_name(kc.losses.VICRegLoss()), dict(zip(SIDES, [np.full((4, 3), 0.1)] * 2))
    )
    for gradient in gradients.values():
        np.testing.assert_allclose(gradient, np.zeros((4, 3)), atol=1e-9)


def test_vicreg_of_one_row_is_the_invariance_alone():
    first, second = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]])
    assert float(kc.losses.vicreg_loss(first, second)) == pytest.approx(25.0 * 2.0)


def test_vicreg_of_columns_far_from_zero_keeps_its_digits():
    first, second = sides()
    found = kc.losses.vicreg_loss(
        (first + 100.0).astype(np.float32), (second + 100.0).astype(np.float32)
    )
    np.testing.assert_allclose(found, oracles.vicreg(first, second), rtol=1e-4)


def test_vicreg_weight_of_zero_takes_a_term_out():
    both = sides()
    parts = [
        kc.losses.vicreg_loss(
            *both,
            invariance_weight=a,
            variance_weight=b,
            covariance_weight=c,
        )
        for a, b, c in ((25.0, 0.0, 0.0), (0.0, 25.0, 0.0), (0.0, 0.0, 1.0))
    ]
    assert all(float(part) > 0 for part in parts)
    np.testing.assert_allclose(sum(parts), kc.losses.vicreg_loss(*both), **FLOAT64)


# ---- predictions


def test_cosine_prediction_is_0_of_equal_2_of_orthogonal_and_4_of_opposite_rows():
    prediction = [[3.0, 0.0], [3.0, 0.0], [3.0, 0.0], [0.0, 0.0]]
    target = [[7.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 0.0]]
    values = kc.losses.cosine_prediction_loss(prediction, target)
    np.testing.assert_allclose(values, [0.0, 2.0, 4.0, 2.0], atol=1e-6)


@losses_where(lambda loss: loss.constants)
def test_stop_gradient_is_in_the_loss_not_left_to_the_model(loss):
    # One network on both sides: only the first side may move it.
    first, second = sides()
    made = loss.prepared()

    def through_one_network(scale):
        return made(scale * first, scale * second)

    def held(scale):
        return made(scale * first, second)

    ones = {"scale": np.ones((5, WIDTH))}
    _, found = value_and_gradients(through_one_network, ones)
    _, wanted = value_and_gradients(held, ones)
    assert np.any(np.abs(wanted["scale"]) > 1e-3)
    np.testing.assert_allclose(found["scale"], wanted["scale"], **FLOAT64)


# ---- SwAV


def test_swav_of_rows_on_their_prototypes_by_hand():
    # Balanced already: each row's assignment is softmax([1, 0] / epsilon).
    eye = np.eye(2)
    share = 1.0 / (1.0 + math.exp(-1.0 / 0.5))
    expected = share * math.log1p(math.exp(-10.0))
    expected += (1.0 - share) * math.log1p(math.exp(10.0))
    values = kc.losses.swav_loss(eye, 4.0 * eye, prototypes=3.0 * eye, epsilon=0.5)
    np.testing.assert_allclose(values, np.full(2, expected), rtol=1e-6)


@pytest.mark.parametrize("iterations", [1, 3])
def test_swav_of_collapsed_rows_is_assigned_to_all_prototypes_alike(iterations):
    # Which is what keeps them from staying there: a softmax without balancing would be content.
    rows, prototypes = np.tile([[0.6, 0.8, 0.0]], (5, 1)), np.eye(3)
    logits = np.array([0.6, 0.8, 0.0]) / 0.1
    expected = np.mean(shared_oracles.log_sum_exp(logits) - logits)
    values = kc.losses.swav_loss(
        rows, rows, prototypes=prototypes, iterations=iterations
    )
    np.testing.assert_allclose(values, np.full(5, expected), rtol=1e-6)


@pytest.mark.parametrize(
    "dtype", [tf.float16, tf.bfloat16, tf.float32], ids=lambda dtype: dtype.name
)
@pytest.mark.parametrize("epsilon", [0.05, 0.002, 1e-4])
def test_swav_scores_never_overflow(epsilon, dtype):
    # exp(1 / 0.05) is inf in half precision; exp(1 / 0.002) in any. Underflow to 0 / 0 would be as bad.
    rows = tf.cast(np.concatenate([np.eye(4), -np.eye(4)]), dtype)
    inputs = {
        "first": rows,
        "second": rows[::-1],
        "prototypes": tf.cast(np.eye(4), dtype),
    }
    loss = functools.partial(kc.losses.swav_loss, epsilon=epsilon)
    values, gradients = value_and_gradients(loss, inputs)
    exact = {name: tf.cast(x, tf.float64).numpy() for name, x in inputs.items()}
    expected, _ = oracles.swav(**exact, epsilon=epsilon)
    np.testing.assert_allclose(values, expected, rtol=1e-3)
    for gradient in gradients.values():
        assert np.isfinite(tf.cast(gradient, tf.float32)).all()


def test_swav_permuted_prototypes_change_nothing():
    loss = functools.partial(kc.losses.swav_loss, *sides())
    prototypes = drawn(PROTOTYPES, WIDTH, 7)
    np.testing.assert_allclose(
        loss(prototypes=prototypes[::-1]), loss(prototypes=prototypes), **FLOAT64
    )


def test_swav_temperature_of_the_call_takes_the_place_of_its_own():
    made, other = kc.losses.SwAVLoss(3, temperature=0.5), sides()
    made(*other)
    expected, _ = oracles.swav(
        *other, prototypes=made.prototypes.numpy(), temperature=0.2
    )
    given = made(*other, temperature=tf.constant(0.2, tf.float64))
    np.testing.assert_allclose(given, expected.mean(), rtol=1e-6)


def test_swav_gradient_of_the_temperature_matches_the_oracle():
    both, prototypes = sides(), drawn(PROTOTYPES, WIDTH, 7)
    _, gradients = value_and_gradients(
        lambda temperature: kc.losses.swav_loss(
            *both, prototypes=prototypes, temperature=temperature
        ),
        {"temperature": tf.constant(0.2, tf.float64)},
    )

    def at(temperature):
        found = oracles.swav(
            *both, prototypes=prototypes, temperature=float(temperature)
        )
        return oracle_total(found[0])

    np.testing.assert_allclose(
        gradients["temperature"], numerical_gradient(at, 0.2), **NUMERICAL
    )


def test_swav_prototypes_train():
    loss, both = kc.losses.SwAVLoss(3), sides(16)
    loss(*both)
    optimizer = keras.optimizers.SGD(0.1)
    before, losses = loss.get_weights()[0], []
    for _ in range(20):
        with tf.GradientTape() as tape:
            total = loss(*both)
        gradients = tape.gradient(total, loss.trainable_weights)
        optimizer.apply_gradients(zip(gradients, loss.trainable_weights))
        losses.append(float(total))
    assert losses[-1] < losses[0]
    assert np.abs(loss.get_weights()[0] - before).max() > 0.01


# ---- DINO


def test_dino_of_a_teacher_at_its_center_is_uniform():
    # Then the loss is the mean of -log softmax of the student over the classes.
    student, teacher = sides()
    values = kc.losses.dino_loss(
        student, np.tile(teacher[:1], (5, 1)), center=teacher[0]
    )
    logits = student / 0.1
    expected = [shared_oracles.log_sum_exp(row) - np.mean(row) for row in logits]
    np.testing.assert_allclose(values, expected, **FLOAT64)


def test_dino_of_a_constant_student_is_log_dim():
    values = kc.losses.dino_loss(np.full((5, 4), 3.0), sides()[1])
    np.testing.assert_allclose(values, np.full(5, math.log(4)), rtol=1e-9)


def test_dino_of_shifted_logits_is_the_same():
    student, teacher = sides()
    shift = np.array([[5.0], [-3.0], [0.0], [1.0], [100.0]])
    np.testing.assert_allclose(
        kc.losses.dino_loss(student + shift, teacher - shift),
        kc.losses.dino_loss(student, teacher),
        rtol=1e-7,
    )


def test_dino_center_moves_by_hand():
    loss = kc.losses.DINOLoss(2, center_momentum=0.75)
    loss.update(np.array([[4.0, 0.0], [0.0, 8.0]], np.float32))  # mean 2, 4
    np.testing.assert_allclose(loss.center.numpy(), [0.5, 1.0], rtol=1e-6)
    loss.update(np.zeros((3, 2, 2), np.float32))  # of any rank
    np.testing.assert_allclose(loss.center.numpy(), [0.375, 0.75], rtol=1e-6)
    loss.update(np.array([[0.375, 4.75]], np.float32))  # of one row
    np.testing.assert_allclose(loss.center.numpy(), [0.375, 1.75], rtol=1e-6)


def test_dino_center_is_the_mean_over_all_target_views():
    targets = drawn(12, 3, 0).reshape(4, 3, 3)
    loss = kc.losses.DINOLoss(3)
    for _ in range(2):
        expected = oracles.moved_center(loss.center.numpy(), targets)
        loss.update(targets.astype(np.float32))
        np.testing.assert_allclose(loss.center.numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", ["eager", "graph"])
def test_dino_call_uses_the_center_and_never_moves_it(way):
    # A centre moved before its use would have seen the very targets that it is taken from.
    loss, both = kc.losses.DINOLoss(WIDTH), sides(dtype=np.float32)
    start = loss(*both)
    call = loss if way == "eager" else tf.function(lambda *both: loss(*both))
    for training in (True, False):
        np.testing.assert_allclose(call(*both), start, rtol=1e-6)
        np.testing.assert_array_equal(loss.center.numpy(), np.zeros(WIDTH))
        np.testing.assert_allclose(loss(*both, training=training), start, rtol=1e-6)
    loss.update(both[1])
    center = loss.center.numpy().astype(np.float64)
    np.testing.assert_allclose(center, 0.1 * both[1].mean(axis=0), rtol=1e-5)
    expected, _ = oracles.dino(*both, center=center)
    np.testing.assert_allclose(call(*both), expected.mean(), rtol=1e-5)
    assert abs(float(start) - expected.mean()) > 1e-3


def test_dino_center_is_float32_and_finite_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    loss = kc.losses.DINOLoss(3)
    loss.update(tf.fill([4000, 3], tf.constant(60.0, tf.float16)))  # their sum: 240 000
    np.testing.assert_allclose(loss.center.numpy(), np.full(3, 6.0), rtol=1e-6)
    assert tf.as_dtype(loss.center.dtype) == tf.float32


def test_dino_center_of_an_empty_batch_stays():
    loss = kc.losses.DINOLoss(3)
    loss.update(np.ones((2, 3), np.float32))
    before = loss.center.numpy()
    loss.update(np.zeros((0, 3), np.float32))
    np.testing.assert_array_equal(loss.center.numpy(), before)


# ---- alignment and uniformity


def test_alignment_uniformity_of_orthonormal_rows_is_minus_2_t():
    # |x - y|^2 = 2 for every pair, so log exp(-2 t); the default t is 2.
    rows = 3.0 * np.eye(4)
    assert float(kc.losses.alignment_uniformity_loss(rows, rows)) == pytest.approx(-4.0)
    assert float(
        kc.losses.alignment_uniformity_loss(rows, rows, t=1.0)
    ) == pytest.approx(-2.0)


def test_uniformity_leaves_the_rows_themselves_out():
    # Two opposite points, one pair: -4 t. With the pairs (i, i) it would be about log(1 / 2).
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert float(kc.losses.alignment_uniformity_loss(rows, rows)) == pytest.approx(-8.0)


def test_uniformity_is_the_mean_of_both_sides():
    first, second = np.eye(3), np.ones((3, 3))  # -4, and 0
    expected = np.mean(np.sum((np.eye(3) - 1 / math.sqrt(3)) ** 2, axis=1))
    value = kc.losses.alignment_uniformity_loss(first, second)
    assert float(value) == pytest.approx(expected - 2.0)


def test_alignment_of_one_row_is_alone():
    value = kc.losses.alignment_uniformity_loss([[2.0, 0.0]], [[0.0, 3.0]])
    assert float(value) == pytest.approx(2.0)


@pytest.mark.parametrize("t", [2.0, 200.0])
def test_uniformity_does_not_underflow(t):
    # exp(-800) is 0 in float32: the log of the mean needs its largest term taken out.
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    value = kc.losses.alignment_uniformity_loss(rows, rows, t=t)
    assert float(value) == pytest.approx(-4.0 * t, rel=1e-6)


# ---- effects


def descended(loss, both, rate: float, steps: int = 40) -> list[np.ndarray]:
    """The two sides after some steps of descent."""
    first, second = both
    for _ in range(steps):
        _, gradients = value_and_gradients(
            by_name(loss), {"first": first, "second": second}
        )
        first = first - rate * gradients["first"].numpy()
        second = second - rate * gradients["second"].numpy()
    return [first, second]


def correlation(rows) -> float:
    """The mean size of what two columns correlate."""
    return np.abs(np.corrcoef(rows.T) - np.eye(WIDTH)).mean()


def test_barlow_descent_takes_the_correlations_out_of_the_columns():
    loss, both = kc.losses.BarlowTwinsLoss(0.5), sides(16)
    both[0][:, 1] += both[0][:, 0]
    after = descended(loss, both, 0.3)
    assert float(loss(*after)) < 0.1 * float(loss(*both))
    assert correlation(after[0]) < 0.7 * correlation(both[0])


def test_vicreg_descent_spreads_collapsed_rows():
    loss, both = kc.losses.VICRegLoss(), [1.0 + 0.05 * side for side in sides(16)]
    after = descended(loss, both, 0.1)
    assert float(loss(*after)) < 0.3 * float(loss(*both))
    assert after[0].std(axis=0).min() > 0.5 > 0.1 > both[0].std(axis=0).max()


# ---- errors


@one_of_each_class
def test_unknown_reduction_is_refused(loss):
    with pytest.raises(ValueError, match=r"`reduction` must be one of.*'mean'"):
        loss.make(reduction="mean")


@one_of_each_class
@pytest.mark.parametrize(
    "shapes",
    [((5, 4), (6, 4)), ((5, 4), (5, 3)), ((5,), (5,)), ((5, 4, 2), (5, 4, 2))],
    ids=["other_batch", "other_width", "rank_1", "rank_3"],
)
def test_wrong_shape_is_refused_by_name(loss, shapes):
    first, second = loss.sides
    match = rf"`{first}`.*`{second}` must have the same shape.*{first}.shape=\({shapes[0][0]},"
    more = {name: weight for name, weight in loss.weights.items()}
    with pytest.raises(ValueError, match=match):
        loss.values(np.ones(shapes[0]), np.ones(shapes[1]), **more)


@pytest.mark.parametrize(
    "shape", [(6, 3), (4,), (6, 4, 1)], ids=["other_width", "rank_1", "rank_3"]
)
def test_prototypes_of_another_shape_are_refused_by_name(shape):
    with pytest.raises(ValueError, match=r"`prototypes`.*Received.*prototypes.shape="):
        kc.losses.swav_loss(*sides(), prototypes=np.ones(shape))


@pytest.mark.parametrize("shape", [(3,), (1, 4), ()], ids=str)
def test_center_of_another_shape_is_refused_by_name(shape):
    with pytest.raises(ValueError, match=r"`center`.*Received.*center.shape="):
        kc.losses.dino_loss(*sides(), center=np.ones(shape))


def test_dino_of_another_width_is_refused_by_name():
    loss = kc.losses.DINOLoss(8)
    with pytest.raises(ValueError, match=r"`(dim|center)`"):
        loss(*sides())
    with pytest.raises(ValueError, match=r"`(dim|targets)`"):
        loss.update(np.ones((6, 4), np.float32))  # 24 numbers would be 3 rows of 8


POSITIVE = {
    "swav": ["temperature", "epsilon"],
    "dino": ["student_temperature", "teacher_temperature"],
    "alignment_uniformity": ["t"],
}
NOT_NEGATIVE = {
    "barlow_twins": ["redundancy_weight"],
    "vicreg": ["invariance_weight", "variance_weight", "covariance_weight"],
    "alignment_uniformity": ["alignment_weight", "uniformity_weight"],
}
LOSS_NAMED = {loss.name: loss for loss in one_of_each_class.args[1]}


@pytest.mark.parametrize(
    "name, option",
    [(name, option) for name, options in POSITIVE.items() for option in options],
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_number_that_is_not_positive_and_finite_is_refused(name, option, value):
    loss = LOSS_NAMED[name]
    match = rf"`{option}` must be .*> 0.* Received: {option}={value}"
    with pytest.raises(ValueError, match=match):
        loss.make(**{option: value})
    with pytest.raises(ValueError, match=match):
        loss.values(**loss.inputs(), **{option: value})


@pytest.mark.parametrize(
    "name, option",
    [(name, option) for name, options in NOT_NEGATIVE.items() for option in options],
)
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weight_that_is_negative_or_not_finite_is_refused(name, option, value):
    loss = LOSS_NAMED[name]
    match = rf"`{option}` must be .*Received: {option}={value}"
    with pytest.raises(ValueError, match=match):
        loss.make(**{option: value})
    with pytest.raises(ValueError, match=match):
        loss.values(**loss.inputs(), **{option: value})


@pytest.mark.parametrize(
    "make, option",
    [
        (lambda: kc.losses.SwAVLoss(0), "num_prototypes"),
        (lambda: kc.losses.SwAVLoss(2.5), "num_prototypes"),
        (lambda: kc.losses.SwAVLoss(iterations=-1), "iterations"),
        (lambda: kc.losses.SwAVLoss(iterations=1.5), "iterations"),
        (lambda: kc.losses.DINOLoss(0), "dim"),
        (lambda: kc.losses.DINOLoss(4, center_momentum=-0.1), "center_momentum"),
        (lambda: kc.losses.DINOLoss(4, center_momentum=1.5), "center_momentum"),
        (lambda: kc.losses.DINOLoss(4, center_momentum=math.nan), "center_momentum"),
    ],
)
def test_option_of_a_layer_that_makes_no_sense_is_refused(make, option):
    with pytest.raises(ValueError, match=rf"`{option}` must be .*Received: {option}="):
        make()


@pytest.mark.parametrize(
    "loss",
    [
        kc.losses.barlow_twins_loss,
        kc.losses.vicreg_loss,
        kc.losses.cosine_prediction_loss,
        kc.losses.dino_loss,
        kc.losses.alignment_uniformity_loss,
        lambda a, b: kc.losses.swav_loss(a, b, prototypes=np.eye(4)),
    ],
    ids=[
        "barlow_twins",
        "vicreg",
        "cosine_prediction",
        "dino",
        "alignment_uniformity",
        "swav",
    ],
)
def test_sides_of_two_float_types_are_compared_in_that_of_the_first(loss):
    first, second = np.random.default_rng(0).normal(size=(2, 6, 4))
    expected = loss(first, second)
    for one, other in ((np.float64, np.float32), (np.float32, np.float64)):
        value = loss(first.astype(one), second.astype(other))
        assert value.dtype == tf.as_dtype(one)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
