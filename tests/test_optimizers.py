"""Optimizers and schedules: their steps number by number, and the same steps wherever Keras can run them."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import optimizers
from keras_contrastive._compat import (
    KERAS_3,
    build_optimizer,
    optimizer_variables,
    path_of,
    scale_loss,
    unscale_gradients,
)
from keras_contrastive.optimizers import (
    LARS,
    MomentumSGD,
    WarmupCosine,
    scale_learning_rate,
)
from tests.oracles import optimizers as oracle

EXCLUDE = ("bias", "gamma")
SHAPES = {"kernel": (4, 3), "filters": (3, 3, 2, 4), "bias": (3,), "gamma": (4,)}
RATES = [0.5, 0.5, 0.25, 1.0, 0.125]
# Five steps of a few float32 roundings, each of 6e-8 of numbers of about 1.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
both = pytest.mark.parametrize("make", [MomentumSGD, LARS])
keras_3_only = pytest.mark.skipif(not KERAS_3, reason="Keras 2.15 does not accumulate")


def options_of(make, **options):
    """Options under which every part of the formula moves the weights visibly, for `make` and the oracle alike."""
    options = {"momentum": 0.75, "weight_decay": 0.125, "exclude": EXCLUDE, **options}
    return {"trust_coefficient": 0.0625, **options} if make is LARS else options


def problem(num_steps=5, dtype=np.float32):
    """Weights and, for each step, gradients; two of the weights start without length, or have no slope at first."""
    rng = np.random.default_rng(0)

    def draw():
        shapes = {**SHAPES, "without_length": (5,), "without_slope": (5,)}
        return {name: rng.normal(size=s).astype(dtype) for name, s in shapes.items()}

    weights, gradients = draw(), [draw() for _ in range(num_steps)]
    weights["without_length"][:] = 0
    for step in gradients[:2]:
        step["without_slope"][:] = 0
    return weights, gradients


def variables_of(weights):
    return {
        name: tf.Variable(value, name=f"block/{name}")
        for name, value in weights.items()
    }


def train(optimizer, weights, gradients, rates=None):
    """The weights after as many steps as there are gradients, with `learning_rate` set before each."""
    variables = variables_of(weights)
    for i, step in enumerate(gradients):
        if rates is not None:
            optimizer.learning_rate = rates[i]
        optimizer.apply_gradients([(step[name], v) for name, v in variables.items()])
    return {name: v.numpy() for name, v in variables.items()}


def as_tensors(gradients):
    return [{name: tf.constant(g) for name, g in step.items()} for step in gradients]


def assert_weights(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name, **tolerance)


def network():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(3, 3, activation="relu", name="bias_net"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Flatten(),
            keras.layers.Dense(2, name="dense"),
        ]
    )
    return model


def data(n=16):
    rng = np.random.default_rng(1)
    images = rng.normal(size=(n, 4, 4, 1)).astype(np.float32)
    return images, images.mean(axis=(1, 2)) * [1.0, -2.0] + 1


def fit(model, epochs=1):
    """Two steps an epoch. Returns the losses."""
    history = model.fit(
        *data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0
    ).history
    return history["loss"]


@pytest.mark.parametrize("nesterov", [False, True], ids=["plain", "nesterov"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.125], ids=["no_decay", "decay"])
@both
def test_steps_are_those_of_the_formula(make, weight_decay, nesterov):
    options = options_of(make, weight_decay=weight_decay, nesterov=nesterov)
    weights, gradients = problem()
    found = train(make(0.5, **options), weights, as_tensors(gradients), RATES)
    expected = oracle.train(weights, gradients, RATES, **options)
    assert_weights(found, expected, **CLOSE)


def test_larc_is_bounded_by_the_rate_where_the_ratio_is_larger():
    weights, gradients = problem()
    # |w| / |g| is about 1: with 0.5 the ratio is above some of the rates and below others.
    options = options_of(LARS, trust_coefficient=0.5, clip=True)
    found = train(LARS(0.5, **options), weights, as_tensors(gradients), RATES)
    expected = oracle.train(weights, gradients, RATES, **options)
    assert_weights(found, expected, **CLOSE)
    free = oracle.train(weights, gradients, RATES, **{**options, "clip": False})
    assert not np.allclose(expected["kernel"], free["kernel"])
    # Ratio 10 with rate 0.25: a quarter of the gradient; ratio 0.1: a tenth.
    for trust, step in ((10.0, 0.25), (0.1, 0.1)):
        optimizer = LARS(0.25, 0.0, trust_coefficient=trust, clip=True)
        moved = train(optimizer, {"w": np.ones(4)}, [{"w": tf.ones(4)}])["w"]
        np.testing.assert_allclose(moved, 1 - step, rtol=1e-6)


@both
def test_steps_of_float64_variables_are_computed_in_float64(make):
    weights, gradients = problem(dtype=np.float64)
    options = options_of(make, nesterov=True)
    found = train(make(0.5, **options), weights, as_tensors(gradients), RATES)
    expected = oracle.train(weights, gradients, RATES, **options)
    assert_weights(found, expected, rtol=1e-12, atol=1e-13)


def test_steps_of_half_variables_are_computed_in_float32():
    # The squares, of 1e-8, are 0 in float16. |w| / |g| = 1e4, so a step is 1e-4 * 1e4 * 0.125.
    weights, gradient = np.ones((4, 4), np.float16), np.full((4, 4), 1e-4, np.float16)
    found = train(LARS(0.125, 0.0, 0.0, 1.0), {"w": weights}, [{"w": gradient}])
    np.testing.assert_array_equal(found["w"], 0.875)


def test_momentum_sgd_of_a_constant_gradient_approaches_the_rate_over_one_minus_momentum():
    """v after n steps is lr g (1 - m^n) / (1 - m), so the last of 40 steps is lr g / (1 - m) up to 0.5^40."""
    steps = [{"w": tf.constant([2.0])}] * 40
    before = train(MomentumSGD(0.25, 0.5), {"w": np.zeros(1, np.float32)}, steps[1:])
    after = train(MomentumSGD(0.25, 0.5), {"w": np.zeros(1, np.float32)}, steps)
    assert after["w"][0] - before["w"][0] == pytest.approx(-0.25 * 2 / (1 - 0.5))


@pytest.mark.parametrize("nesterov", [False, True], ids=["plain", "nesterov"])
def test_momentum_sgd_without_decay_is_that_of_keras(nesterov):
    weights, gradients = problem()
    gradients = as_tensors(gradients)
    ours = MomentumSGD(0.5, 0.75, nesterov=nesterov)
    theirs = keras.optimizers.SGD(0.5, 0.75, nesterov=nesterov)
    assert_weights(
        train(ours, weights, gradients, RATES),
        train(theirs, weights, gradients, RATES),
        **CLOSE,
    )


def test_decay_is_the_gradient_of_half_the_squared_weights():
    weights, gradients = problem()
    variables = variables_of(weights)
    optimizer = MomentumSGD(0.5, 0.75, nesterov=True)
    for step in gradients:
        with tf.GradientTape() as tape:
            terms = [
                tf.reduce_sum(step[name] * v + 0.125 / 2 * tf.square(v))
                for name, v in variables.items()
            ]
            loss = tf.add_n(terms)
        slopes = tape.gradient(loss, list(variables.values()))
        optimizer.apply_gradients(zip(slopes, variables.values()))
    decayed = MomentumSGD(0.5, 0.75, 0.125, nesterov=True)
    found = train(decayed, weights, as_tensors(gradients))
    assert_weights(found, {n: v.numpy() for n, v in variables.items()}, **CLOSE)


def test_lars_moves_by_a_share_of_the_length_whatever_the_gradients_scale():
    weights, gradients = problem(1)
    for scale in (1e-6, 1.0, 1e6):
        step = {"kernel": tf.constant(gradients[0]["kernel"] * scale)}
        found = train(LARS(0.5, 0.0, 0.0, 0.25), {"kernel": weights["kernel"]}, [step])
        moved = np.linalg.norm(found["kernel"] - weights["kernel"])
        expected = 0.5 * 0.25 * np.linalg.norm(weights["kernel"])
        assert moved == pytest.approx(expected, rel=1e-5), scale


def test_lars_of_what_has_no_length_or_no_slope_takes_the_plain_step():
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    weights = {"no_length": zeros, "no_slope": ones, "neither": zeros}
    gradients = {"no_length": ones, "no_slope": zeros, "neither": zeros}
    optimizer = LARS(0.5)
    found = train(optimizer, weights, as_tensors([gradients]))
    expected = {"no_length": -0.5 * ones, "no_slope": ones, "neither": zeros}
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        ratio = optimizer.trust_ratio(
            tf.constant(weights[name]), tf.constant(gradients[name])
        )
        assert ratio.numpy() == 1, name


def test_steps_follow_a_schedule():
    weights, gradients = problem(7)
    peak = {"peak": 1.0, "steps": 6, "warmup": 2, "initial": 0.25, "final": 0.125}
    schedule = WarmupCosine(
        1.0, 6, warmup_steps=2, initial_learning_rate=0.25, final_learning_rate=0.125
    )
    for make in (MomentumSGD, LARS):
        options = options_of(make)
        rates = [oracle.warmup_cosine(step, **peak) for step in range(7)]
        found = train(make(schedule, **options), weights, as_tensors(gradients))
        expected = oracle.train(weights, gradients, rates, **options)
        assert_weights(found, expected, **CLOSE)


@both
def test_exclusion_is_by_the_last_component_of_the_path(make):
    """A layer called "bias_net" has a kernel that decays, and a bias that does not."""
    variables = network().trainable_variables
    for variable in variables:
        variable.assign(tf.ones(variable.shape))
    optimizer = make(0.5, 0.0, 0.5, exclude=("bias", "gamma", "bet", "dense"))
    optimizer.apply_gradients([(tf.zeros(v.shape), v) for v in variables])
    moved = {
        "/".join(path_of(v).split("/")[-2:]): bool((v.numpy() != 1).all())
        for v in variables
    }
    assert moved == {
        "bias_net/kernel": True,
        "bias_net/bias": False,
        "norm/gamma": False,
        "norm/beta": True,
        "dense/kernel": True,
        "dense/bias": False,
    }


def test_lars_excludes_biases_and_normalization_by_default():
    weights, gradients = problem(1)
    weights["beta"], gradients[0]["beta"] = weights["gamma"], gradients[0]["gamma"]
    found = train(LARS(0.5, weight_decay=0.5), weights, as_tensors(gradients))
    plain = {n: weights[n] - 0.5 * gradients[0][n] for n in weights}
    same = {n for n in weights if np.allclose(found[n], plain[n], rtol=1e-6)}
    assert same == {"bias", "gamma", "beta", "without_length"}  # the last has ratio 1


def test_momentum_sgd_excludes_nothing_by_default():
    weights = {name: np.ones(2, np.float32) for name in ("kernel", "bias", "gamma")}
    zeros = {name: tf.zeros(2) for name in weights}
    for value in train(MomentumSGD(0.5, 0.0, 0.5), weights, [zeros]).values():
        np.testing.assert_array_equal(value, 0.75)


def test_keras_way_to_exclude_is_refused():
    with pytest.raises(ValueError, match="takes `exclude` in the constructor"):
        LARS(0.5).exclude_from_weight_decay(var_names=["bias"])


def sparse(gradient, indices):
    return tf.IndexedSlices(
        tf.constant(gradient), tf.constant(indices), tf.constant([5, 3])
    )


@both
def test_sparse_gradient_is_the_dense_one_with_repeated_rows_added_up(make):
    rng = np.random.default_rng(0)
    weights = {"embeddings": rng.normal(size=(5, 3)).astype(np.float32)}
    rows = rng.normal(size=(4, 4, 3)).astype(np.float32)
    indices = [[0, 4, 4, 1], [2, 2, 2, 2], [3, 0, 1, 0], [1, 4, 2, 3]]
    dense = np.zeros((4, 5, 3))
    for step in range(4):
        for row, index in zip(rows[step], indices[step]):
            dense[step, index] += row
    found = train(
        make(0.5, **options_of(make)),
        weights,
        [{"embeddings": sparse(g, i)} for g, i in zip(rows, indices)],
    )
    gradients = [{"embeddings": g} for g in dense]
    expected = oracle.train(weights, gradients, [0.5] * 4, **options_of(make))
    assert_weights(found, expected, **CLOSE)


@both
def test_variable_without_gradient_neither_moves_nor_decays(make):
    variable, other = tf.Variable([2.0], name="w"), tf.Variable([2.0], name="other")
    optimizer = make(0.5, weight_decay=0.5)
    optimizer.build([variable, other])
    optimizer.apply_gradients([(tf.constant([1.0]), variable), (None, other)])
    assert other.numpy() == 2.0 and variable.numpy() < 2.0


@pytest.mark.parametrize(
    ("option", "factor"),
    # All gradients are 3, 4: of norm 5, together of 5 sqrt(2).
    [("clipnorm", 1 / 5), ("global_clipnorm", 1 / (5 * 2**0.5)), ("clipvalue", None)],
    ids=["clipnorm", "global_clipnorm", "clipvalue"],
)
def test_options_of_keras_clip_the_gradient_before_the_decay(option, factor):
    weights = {name: np.array([2.0, -2.0], np.float32) for name in ("a", "b")}
    gradients = [{name: np.array([3.0, 4.0], np.float32) for name in weights}]
    clipped = np.ones(2) if factor is None else factor * np.array([3.0, 4.0])
    found = train(
        MomentumSGD(0.5, 0.0, 0.5, **{option: 1.0}), weights, as_tensors(gradients)
    )
    expected = {n: w - 0.5 * (clipped + 0.5 * w) for n, w in weights.items()}
    assert_weights(found, expected, rtol=1e-6)


@both
def test_moving_average_of_keras_ends_in_the_weights(make):
    weights, gradients = problem(2)
    options = options_of(make)
    steps = as_tensors(gradients)
    first, second = (
        train(make(0.5, **options), weights, steps[:n]) for n in range(1, 3)
    )
    optimizer = make(
        0.5, **options, use_ema=True, ema_momentum=0.75, ema_overwrite_frequency=2
    )
    found = train(optimizer, weights, steps)
    # The average starts at the first step's weights on Keras 3, before it on 2.15.
    start = (
        first if KERAS_3 else {n: 0.75 * weights[n] + 0.25 * first[n] for n in first}
    )
    expected = {n: 0.75 * start[n] + 0.25 * second[n] for n in first}
    assert_weights(found, expected, **CLOSE)


@keras_3_only
@both
def test_momentum_sees_the_mean_of_accumulated_gradients_once(make):
    weights, gradients = problem(6)
    optimizer = make(0.5, **options_of(make), gradient_accumulation_steps=2)
    assert_weights(train(optimizer, weights, as_tensors(gradients[:1])), weights)
    optimizer = make(0.5, **options_of(make), gradient_accumulation_steps=2)
    means = [
        {name: (first[name] + second[name]) / 2 for name in first}
        for first, second in zip(gradients[::2], gradients[1::2])
    ]
    expected = oracle.train(weights, means, [0.5] * 3, **options_of(make))
    found = train(optimizer, weights, as_tensors(gradients))
    assert_weights(found, expected, **CLOSE)


@keras_3_only
def test_accumulated_sparse_gradients_are_the_dense_ones():
    weights = {"embeddings": np.ones((5, 3), np.float32)}
    rows = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    optimizer = LARS(0.5, **options_of(LARS), gradient_accumulation_steps=2)
    steps = [{"embeddings": sparse(g, [0, 4, 0])} for g in rows]
    mean = np.zeros((5, 3))
    mean[0], mean[4] = (rows[:, 0] + rows[:, 2]).mean(0), rows[:, 1].mean(0)
    expected = oracle.train(weights, [{"embeddings": mean}], [0.5], **options_of(LARS))
    assert_weights(train(optimizer, weights, steps), expected, **CLOSE)


@both
def test_loss_scaling_changes_no_step_and_skips_what_overflows(make):
    weights, gradients = problem()
    variables = variables_of(weights)
    inner = make(0.5, **options_of(make))
    optimizer = keras.mixed_precision.LossScaleOptimizer(inner)
    build_optimizer(optimizer, list(variables.values()))
    infinite = {name: np.full_like(g, np.inf) for name, g in gradients[0].items()}
    for step in [*gradients[:2], infinite, *gradients[2:]]:
        with tf.GradientTape() as tape:
            terms = [tf.reduce_sum(step[name] * v) for name, v in variables.items()]
            scaled = scale_loss(optimizer, tf.add_n(terms))
        slopes = tape.gradient(scaled, list(variables.values()))
        slopes = unscale_gradients(optimizer, slopes)
        optimizer.apply_gradients(zip(slopes, variables.values()))
    expected = oracle.train(weights, gradients, [0.5] * 5, **options_of(make))
    found = {name: v.numpy() for name, v in variables.items()}
    assert_weights(found, expected, **CLOSE)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_training_in_mixed_precision_learns_with_float32_state(policy):
    keras.mixed_precision.set_global_policy(policy)
    model = network()
    model.compile(LARS(0.2, trust_coefficient=0.1), loss="mse", jit_compile=False)
    losses = fit(model, epochs=15)
    # The variance of the answers and their squared mean are what a constant 0 misses by: above 1.
    assert losses[0] > 1 and losses[-1] < 0.3
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert len(inner.velocities) == 6
    assert {tf.as_dtype(v.dtype) for v in inner.velocities} == {tf.float32}


@both
def test_compiled_by_xla_trains_the_same(make):
    weights = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = network()
        schedule = WarmupCosine(0.25, 4, warmup_steps=2)
        optimizer = make(schedule, **options_of(make))
        model.compile(optimizer, loss="mse", jit_compile=jit_compile)
        start = model.get_weights()
        fit(model, epochs=2)
        weights.append(dict(enumerate(model.get_weights())))
    moved = [np.abs(w - start[i]).max() for i, w in weights[0].items()]
    assert min(moved) > 1e-3
    # Sums in another order, and batch normalisation over 32 numbers.
    assert_weights(weights[1], weights[0], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(KERAS_3, reason="Keras 3 optimizers have no jit_compile")
@both
def test_compiled_by_the_optimizer_itself_steps_are_the_same(make):
    weights, gradients = problem()
    optimizer = make(0.5, **options_of(make))
    optimizer.jit_compile = True  # the constructor's is dropped where there is no GPU
    found = train(optimizer, weights, as_tensors(gradients))
    expected = oracle.train(weights, gradients, [0.5] * 5, **options_of(make))
    assert_weights(found, expected, **CLOSE)


def test_two_replicas_train_as_one_device():
    """Gradients are summed before decay, norms and momentum; names are found among the replicas' own."""
    program = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests import test_optimizers as here

def train(strategy, make):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        # Without batch normalisation, whose statistics are a replica's own.
        model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 3, activation="relu"),
                                  keras.layers.Flatten(), keras.layers.Dense(2)])
        schedule = here.WarmupCosine(0.25, 6, warmup_steps=2, initial_learning_rate=0.125)
        model.compile(make(schedule, **here.options_of(make)), loss="mse", jit_compile=False)
    start = model.get_weights()
    here.fit(model, epochs=3)
    optimizer = model.optimizer
    assert len(optimizer.velocities) == 4 and optimizer._excluded == {1, 3}, optimizer._excluded
    return start, model.get_weights()

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
for make in (here.MomentumSGD, here.LARS):
    start, expected = train(tf.distribute.get_strategy(), make)
    _, found = train(two, make)
    for before, one, both in zip(start, expected, found):
        assert np.abs(one - before).max() > 1e-3
        np.testing.assert_allclose(both, one, rtol=1e-4, atol=1e-5)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def compiled(make):
    model = network()
    schedule = WarmupCosine(0.25, 8, warmup_steps=2)
    optimizer = make(schedule, **options_of(make), nesterov=True)
    model.compile(optimizer, loss="mse", jit_compile=False)
    return model


def assert_same_state(first, second):
    """All weights and all of the optimizer's variables are equal to the last bit."""
    states = [
        [*model.get_weights(), *(v.numpy() for v in optimizer_variables(o))]
        for model, o in ((first, first.optimizer), (second, second.optimizer))
    ]
    assert len(states[0]) == len(states[1]) >= 8 + 6 + 1
    for one, other in zip(*states):
        np.testing.assert_array_equal(one, other)


@both
def test_saved_model_goes_on_exactly(make, tmp_path):
    model = compiled(make)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is make
    assert_same_state(model, loaded)
    for going_on in (model, loaded):
        fit(going_on, epochs=2)
    assert_same_state(model, loaded)


@both
def test_checkpoint_goes_on_exactly(make, tmp_path):
    model, resumed = compiled(make), compiled(make)
    fit(model)
    saved = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = saved.write(str(tmp_path / "checkpoint"))
    build_optimizer(resumed.optimizer, resumed.trainable_variables)
    restored = tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer)
    restored.read(path).assert_existing_objects_matched()
    assert_same_state(model, resumed)
    for going_on in (model, resumed):
        fit(going_on, epochs=2)
    assert_same_state(model, resumed)


@pytest.mark.parametrize("scheduled", [False, True], ids=["number", "schedule"])
@both
def test_config_holds_every_argument_and_comes_back(make, scheduled):
    options = {
        "momentum": 0.5,
        "weight_decay": 0.25,
        "nesterov": True,
        "exclude": ["scale"],
        "name": "mine",
        "clipnorm": 2.0,
    }
    if make is LARS:
        options.update(trust_coefficient=0.125, clip=True)
    given = set(inspect.signature(make).parameters) - {"kwargs", "learning_rate"}
    assert given <= set(options)
    rate = WarmupCosine(0.5, 7, warmup_steps=3) if scheduled else 0.5
    optimizer = make(rate, **options)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(loaded) is make
    for config in (optimizer.get_config(), loaded.get_config()):
        assert {key: config[key] for key in options} == options
        again = config["learning_rate"]
        assert (again["config"] if scheduled else again) == (
            rate.get_config() if scheduled else rate
        )


SCHEDULES = {
    "cosine": (0.3, 100),
    "warmup": (0.3, 100, 10),
    "all": (1.6, 1000, 7, 0.1, 0.02),
    "warmup_only": (0.3, 10, 10, 0.1, 0.05),
    "one_step": (0.3, 1),
    "rising": (0.1, 50, 5, 0.2, 0.9),
}


def schedule_of(rate, steps, warmup=0, initial=0.0, final=0.0):
    return WarmupCosine(
        rate,
        steps,
        warmup_steps=warmup,
        initial_learning_rate=initial,
        final_learning_rate=final,
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_cosine_is_the_formula_at_every_step(name):
    steps = range(-1, SCHEDULES[name][1] + 5)
    schedule = schedule_of(*SCHEDULES[name])
    found = schedule(np.array(steps))
    expected = [oracle.warmup_cosine(step, *SCHEDULES[name]) for step in steps]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-16)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_cosine_meets_its_corners_exactly(name):
    rate, steps, warmup, initial, final = (*SCHEDULES[name], 0, 0.0, 0.0)[:5]
    schedule = schedule_of(*SCHEDULES[name])
    assert schedule(warmup).numpy() == np.float32(rate)
    assert schedule(steps + 1).numpy() == np.float32(final)
    assert schedule(10 * steps + 10**12).numpy() == np.float32(final)
    if warmup:
        assert schedule(0).numpy() == np.float32(initial)
    if warmup < steps:
        assert schedule(steps).numpy() == np.float32(final)


@pytest.mark.parametrize("warmup", [0, 2**40 - 1000], ids=["cosine", "late_cosine"])
def test_warmup_cosine_is_exact_at_steps_that_float32_cannot_hold(warmup):
    """Neighbouring steps at 2^40 are one number in float32, where steps lie 2^17 apart."""
    steps = 2**40
    schedule = schedule_of(0.3, steps, warmup)
    near = [warmup + 1, steps - 500, steps - 499, steps - 1]
    # (1 + cos(pi f)) / 2 = sin(pi (1 - f) / 2)^2, which has its digits near the end as well.
    left = [(steps - step) / (steps - warmup) for step in near]
    expected = 0.3 * np.sin(np.pi / 2 * np.array(left)) ** 2
    found = [schedule(tf.constant(step, tf.int64)).numpy() for step in near]
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert found[1] != found[2]


def counter(step):
    """An optimizer's own, which Keras hands to a schedule."""
    iterations = MomentumSGD().iterations
    iterations.assign(step)
    return iterations


@pytest.mark.parametrize(
    "convert",
    [
        int,
        float,
        np.int32,
        np.int64,
        np.float32,
        tf.constant,
        lambda step: tf.constant(step, tf.int64),
        lambda step: tf.constant(step, tf.float16),
        lambda step: tf.Variable(step, dtype=tf.int64),
        counter,
    ],
    ids="int float int32 int64 float32 tensor long half variable counter".split(),
)
def test_warmup_cosine_takes_any_kind_of_step(convert):
    schedule = WarmupCosine(0.5, 80, warmup_steps=8)
    for step in (4, 44):  # halfway up, halfway down
        rate = schedule(convert(step))
        assert rate.dtype == tf.float32
        assert rate.numpy() == pytest.approx(0.25, rel=1e-7)


def test_warmup_cosine_compiles_to_the_same_numbers():
    schedule = schedule_of(*SCHEDULES["all"])
    compiled = tf.function(schedule, jit_compile=True)
    steps = tf.range(1010, dtype=tf.int64)
    np.testing.assert_allclose(compiled(steps), schedule(steps), rtol=2e-7, atol=1e-16)
    assert compiled(steps)[7].numpy() == np.float32(1.6)


def test_warmup_cosine_config_comes_back():
    schedule = schedule_of(*SCHEDULES["all"])
    config = schedule.get_config()
    assert set(config) == set(inspect.signature(WarmupCosine).parameters)
    serialized = keras.optimizers.schedules.serialize(schedule)
    loaded = keras.optimizers.schedules.deserialize(serialized)
    assert type(loaded) is WarmupCosine and loaded.get_config() == config
    assert loaded(500).numpy() == schedule(500).numpy()


def test_scaled_learning_rate_is_that_of_the_rule():
    assert scale_learning_rate(0.3, 4096) == pytest.approx(4.8)
    assert scale_learning_rate(0.2, 64, base_batch_size=512) == pytest.approx(0.025)
    assert scale_learning_rate(0.1, 512, base_batch_size=32, rule="sqrt") == (
        pytest.approx(0.4)
    )
    for rule in optimizers.RULES:
        unscaled = scale_learning_rate(1, 256, rule=rule)
        assert unscaled == 1.0 and type(unscaled) is float


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LARS(-1.0), "`learning_rate` .* >= 0. Received: learning_rate=-1.0"),
        (lambda: LARS("fast"), "`learning_rate` must be .*learning_rate='fast'"),
        (lambda: MomentumSGD(momentum=1.0), "`momentum` must be < 1.*momentum=1.0"),
        (lambda: LARS(momentum=-0.1), "`momentum` must be .* >= 0.*momentum=-0.1"),
        (lambda: LARS(weight_decay=None), "`weight_decay` must be .*=None"),
        (lambda: MomentumSGD(weight_decay=-1), "`weight_decay` must be .*=-1"),
        (lambda: LARS(trust_coefficient=0), "`trust_coefficient` must be .*=0"),
        (
            lambda: LARS(trust_coefficient=tf.constant(1.0)),
            "`trust_coefficient` must be a number, not a tensor",
        ),
        (lambda: LARS(nesterov="yes"), "`nesterov` must be one of .*nesterov='yes'"),
        (lambda: LARS(exclude="bias"), "`exclude` must be a list .*exclude='bias'"),
        (lambda: LARS(exclude=["net/bias"]), "`exclude` must be .*'net/bias'"),
        (lambda: LARS(exclude=[""]), "`exclude` must be a list of names"),
        (lambda: WarmupCosine(0, 9), "`learning_rate` must be .* > 0.*=0"),
        (lambda: WarmupCosine(0.1, 9.5), "`steps` must be an integer >= 1.*=9.5"),
        (lambda: WarmupCosine(0.1, 0), "`steps` must be an integer >= 1.*=0"),
        (
            lambda: WarmupCosine(0.1, 9, warmup_steps=-1),
            "`warmup_steps` must be an integer >= 0.*=-1",
        ),
        (
            lambda: WarmupCosine(0.1, 9, warmup_steps=10),
            "at most `steps`. Received: warmup_steps=10, steps=9",
        ),
        (
            lambda: WarmupCosine(0.1, 9, initial_learning_rate=-0.1),
            "`initial_learning_rate` must be .*=-0.1",
        ),
        (
            lambda: WarmupCosine(0.1, 9, final_learning_rate=float("nan")),
            "`final_learning_rate` must be .*=nan",
        ),
        (lambda: scale_learning_rate(0, 8), "`learning_rate` must be .* > 0.*=0"),
        (lambda: scale_learning_rate(0.1, 0), "`batch_size` must be .*=0"),
        (
            lambda: scale_learning_rate(0.1, 8, base_batch_size=0.5),
            "`base_batch_size` must be .*=0.5",
        ),
        (
            lambda: scale_learning_rate(0.1, 8, rule="root"),
            "`rule` must be one of 'linear', 'sqrt'.*rule='root'",
        ),
    ],
)
def test_bad_argument_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_examples_of_docstrings_hold():
    runner = doctest.DocTestRunner(verbose=False)
    for example in doctest.DocTestFinder().find(optimizers):
        runner.run(example)
    assert runner.failures == 0 and runner.tries >= 10
