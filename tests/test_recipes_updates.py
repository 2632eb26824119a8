"""Every recipe against its paper's algorithm in NumPy: all weights after each of a few training steps.

The cases are tiny: 3 x 3 images, an encoder of one dense layer with batch normalisation, views that are given. The
optimizer is plain gradient descent, so that a wrong factor of the loss shows. What the paper leaves open (where the
queue and the moving statistics start, one batch for all views) is the library's choice, as its documentation says.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.oracles import methods

BATCH, STEPS = 5, 3
NORM_MOMENTUM = 0.8
# Float32 against float64, and the error of central differences, which is below 1e-8. Gradients come through divisions
# by temperatures of 0.04 to 0.1 and by deviations of batches of ten rows, each of which makes one rounding of 6e-8 some
# tens of times larger; three steps add up. What a mistake changes is 1e-3 and more: see the tests of `leaky`.
TOLERANCE = 2e-5
# Hidden layers are wide enough that no row has all its units at 0: its embedding would be 0, which has no direction.
WIDTHS = {"projection_dim": 4, "hidden_dim": 8}
# Heads as the papers have them; the hidden layers before a normalisation have no bias.
NORMED = ["linear", "norm", "relu", "dense"]
NORMED_3 = ["linear", "norm", "relu", *NORMED]
PLAIN = ["dense", "relu", "dense"]
WHITENED = ["linear", "norm", "relu", "linear", "whiten"]
WHITENED_3 = ["linear", "norm", "relu", *WHITENED]
PROTOTYPED = ["dense", "gelu", "dense", "gelu", "dense", "cosine"]


class Case(NamedTuple):
    """A recipe with its options, and the oracle with the same settings."""

    recipe: str
    oracle: type
    options: dict
    settings: dict = {}
    head: list = NORMED
    predictor: list | None = None
    rate: float = 0.1
    ids: list | None = None  # of a batch; None: there are none
    views: int = 2

    def networks(self, encoder):
        networks = {"encoder": encoder, "head": self.head}
        return {**networks, "predictor": self.predictor} if self.predictor else networks


def case(recipe, oracle, *, same=None, options=None, settings=None, **more):
    """`same`: options that the oracle has under the same names."""
    options = {**WIDTHS, **(same or {}), **(options or {})}
    options = {name: value for name, value in options.items() if value is not None}
    return Case(recipe, oracle, options, {**(same or {}), **(settings or {})}, **more)


LABELS = [3, 1, 3, 7, 1]
CASES = {
    "simclr": case("simclr", methods.SimCLR, same={"temperature": 0.4}),
    "supcon": case(
        "supcon", methods.SupCon, same={"temperature": 0.2}, head=PLAIN, ids=LABELS
    ),
    "supcon-in": case(
        "supcon",
        methods.SupCon,
        same={"temperature": 0.2, "position": "in"},
        head=PLAIN,
        ids=LABELS,
    ),
    "dcl": case("dcl", methods.Decoupled, same={"temperature": 0.2}),
    "dclw": case("dcl", methods.Decoupled, same={"temperature": 0.2, "weighted": True}),
    "siglip_views": case("siglip_views", methods.SigLIPViews, rate=0.02),
    "moco2": case(  # the queue is full after two steps and takes part from the second
        "moco",
        methods.MoCo2,
        same={"temperature": 0.2, "momentum": 0.9, "queue_size": 20},
        options={"version": 2},
        head=PLAIN,
    ),
    "moco3": case(
        "moco",
        methods.MoCo3,
        same={"temperature": 0.5, "momentum": 0.9},
        options={"version": 3},
        head=WHITENED,
        predictor=NORMED,
    ),
    "byol": case("byol", methods.BYOL, same={"momentum": 0.9}, predictor=NORMED),
    "byol-steps": case(
        "byol",
        methods.BYOL,
        same={"momentum": 0.7},
        options={"steps": 4},
        settings={"momentum_steps": 4},
        predictor=NORMED,
    ),
    "simsiam": case(
        "simsiam",
        methods.SimSiam,
        options={"hidden_dim": None, "projection_dim": 6, "predictor_dim": 5},
        head=WHITENED_3,
        predictor=NORMED,
    ),
    "barlow_twins": case(
        "barlow_twins",
        methods.BarlowTwins,
        same={"redundancy_weight": 0.1},
        head=NORMED_3,
        rate=0.02,
    ),
    "vicreg": case("vicreg", methods.VICReg, head=NORMED_3, rate=0.002),
    "nnclr": case(  # five rows enter at each step
        "nnclr",
        methods.NNCLR,
        same={"temperature": 0.2, "queue_size": 10},
        options={"predictor_dim": 8},
        head=WHITENED_3,
        predictor=NORMED,
    ),
    "swav": case("swav", methods.SwAV, options={"num_prototypes": 6, "queue_size": 0}),
    "swav-queue": case(  # full after the first step, used in the third
        "swav",
        methods.SwAV,
        same={"queue_size": 10, "queue_start": 2, "freeze_steps": 1},
        options={"num_prototypes": 6},
    ),
    "dino": case(
        "dino",
        methods.DINO,
        same={
            "momentum": 0.9,
            "teacher_temperature": 0.06,
            "warmup_temperature": 0.04,
            "warmup_steps": 2,
            "freeze_steps": 1,
        },
        options={"projection_dim": None, "bottleneck_dim": 4, "output_dim": 6},
        head=PROTOTYPED,
    ),
    "siamese": case(
        "siamese",
        methods.Siamese,
        same={"margin": 1.0},
        options=dict.fromkeys(WIDTHS),
        head=[],
        views=3,
        ids=[[i, i, i + BATCH] for i in range(BATCH)],
    ),
    "triplet": case(
        "triplet",
        methods.Triplet,
        same={"margin": 0.5},
        options={"hidden_dim": None},
        head=["dense", "unit"],
        ids=LABELS,
    ),
}
# Those with the most state run as `fit` does by itself.
COMPILED = ["swav-queue", "dino"]
SIZES = ["swav-queue", "dino"]
# What a paper holds still, in the methods where a gradient into it would not change the value of the loss.
HELD = ["dclw", "moco3", "byol", "simsiam", "nnclr", "swav", "dino"]


def dense_encoder():
    return keras.Sequential(
        [
            keras.Input((3, 3, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(
                momentum=NORM_MOMENTUM, epsilon=methods.NORM_EPSILON
            ),
            keras.layers.Activation("tanh"),
        ]
    )


def encoder_of_any_size():
    inputs = keras.Input((None, None, 4))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(5, activation="tanh")(pooled))


DENSE_ENCODER = ["flatten", "dense", "norm", "tanh"]
ANY_SIZE = ["pool", "dense", "tanh"]


def array(value):
    return np.asarray(tf.convert_to_tensor(value))


def trained(layer) -> list:
    """The weights that have a gradient, in order, float64."""
    weights = getattr(layer, "trainable_weights", [])
    return [array(weight).astype(np.float64) for weight in weights]


def statistics(layer) -> list:
    """The moving means and variances, in order, float64."""
    state = [array(weight) for weight in getattr(layer, "non_trainable_weights", [])]
    return [a.astype(np.float64) for a in state if a.ndim and a.dtype == np.float32]


def state_of(copied, online) -> tuple[list, list]:
    """As `trained` and `statistics`, of a copy whose weights may all be without a gradient."""
    has_gradient = {id(weight) for weight in getattr(online, "trainable_weights", [])}
    weights = zip(getattr(copied, "weights", []), getattr(online, "weights", []))
    pairs = [(array(own), id(one) in has_gradient) for own, one in weights]
    floats = [(a, moves) for a, moves in pairs if a.dtype == np.float32]
    return [a for a, moves in floats if moves], [a for a, moves in floats if not moves]


def parts_of(model):
    names = ["encoder", "head", *(["predictor"] if model.predictor is not None else [])]
    return {name: getattr(model, name) for name in names}


def scattered(model) -> None:
    """Move every weight by noise, so that no bias is 0 and no two are equal; the target's copies with them."""
    rng = np.random.default_rng(3)
    for name, part in parts_of(model).items():
        if part is None:
            continue
        for index, weight in enumerate(part.weights):
            if array(weight).dtype != np.float32:
                continue
            value = array(weight) + rng.uniform(-0.4, 0.4, weight.shape)
            weight.assign(value)
            copied = getattr(model.target, name, None)
            if copied is not None:
                copied.weights[index].assign(value)


def recipe_of(given: Case, encoder, *, compiled=False):
    keras.utils.set_random_seed(0)
    model = getattr(kc.recipes, given.recipe)(
        encoder(),
        optimizer=keras.optimizers.SGD(given.rate),
        augment_on="pipeline",
        **given.options,
    )
    scattered(model)
    # Tracing takes seconds, three steps by hand a few tenths.
    model.run_eagerly = not compiled
    return model


def oracle_of(given: Case, model, networks, **options):
    parameters = {name: trained(part) for name, part in parts_of(model).items()}
    learned = trained(model.loss_layer.loss)
    if learned:
        parameters["loss"] = learned
    kind = type(given.oracle.__name__, (given.oracle,), dict(given.settings))
    return kind(
        given.networks(networks),
        parameters,
        {name: statistics(part) for name, part in parts_of(model).items()},
        rate=given.rate,
        norm_momentum={"encoder": NORM_MOMENTUM, "head": 0.9, "predictor": 0.9},
        **options,
    )


def batch_of(given: Case, number: int):
    """Views and the ids, or None."""
    rng = np.random.default_rng(10 + number)
    views = rng.uniform(size=(BATCH, given.views, 3, 3, 1)).astype(np.float32)
    return views, None if given.ids is None else np.array(given.ids, np.int64)


def fit(model, views, ids) -> float:
    """One training step; the loss before it."""
    data = tf.data.Dataset.from_tensors(views if ids is None else (views, ids))
    return model.fit(data, verbose=0, shuffle=False).history["loss"][0]


def assert_same(given, expected, what):
    assert len(given) == len(expected), what
    for number, (one, other) in enumerate(zip(given, expected)):
        np.testing.assert_allclose(
            one, other, rtol=0, atol=TOLERANCE, err_msg=f"{what} {number}"
        )


def matrix_of(layer, shape):
    """The one float32 weight of this shape that has no gradient: what the layer remembers."""
    found = [
        array(weight)
        for weight in layer.weights
        if not weight.trainable and tuple(weight.shape) == shape
    ]
    assert len(found) == 1
    return found[0]


def memory_of(model, shape):
    layer = model.loss_layer if model.loss_layer.negatives is not None else model.target
    layer = model.loss_layer.loss if hasattr(model.loss_layer.loss, "queue") else layer
    return matrix_of(layer, shape)


def assert_same_state(model, oracle, step):
    for name, part in parts_of(model).items():
        assert_same(trained(part), oracle.parameters[name], f"{name}, step {step}")
        moments = oracle.statistics[name]
        assert_same(statistics(part), moments, f"moments of {name}, step {step}")
    if "loss" in oracle.parameters:
        learned = trained(model.loss_layer.loss)
        assert_same(learned, oracle.parameters["loss"], f"loss, step {step}")
    for name, follower in getattr(oracle, "followers", {}).items():
        copied, online = getattr(model.target, name), getattr(model, name)
        weights, moments = state_of(copied, online)
        assert_same(weights, follower, f"target {name}, step {step}")
        expected = oracle.follower_statistics[name]
        assert_same(moments, expected, f"moments of target {name}, step {step}")
    if getattr(oracle, "queue_size", 0):
        remembered = memory_of(model, (oracle.queue_size, oracle.queue.shape[1]))
        assert_remembered(remembered, oracle.queue)
    if hasattr(oracle, "center"):
        center = matrix_of(model.loss_layer.loss, oracle.center.shape)
        assert_same([center], [oracle.center], f"centre, step {step}")


def assert_remembered(slots, rows):
    """Each of `rows` is in a slot of its own, whatever the order; slots that are empty hold what they like."""
    lengths = np.linalg.norm(slots, axis=1, keepdims=True)
    slots = slots / np.maximum(lengths, 1e-12)
    distances = np.linalg.norm(rows[:, None] - slots[None], axis=-1)
    nearest = distances.argmin(axis=1)
    assert len(set(nearest)) == len(rows)
    assert distances.min(axis=1).max() < TOLERANCE


@pytest.mark.parametrize("name", list(CASES))
def test_every_weight_after_each_step_is_that_of_the_papers_algorithm(name):
    given = CASES[name]
    model = recipe_of(given, dense_encoder, compiled=name in COMPILED)
    oracle = oracle_of(given, model, DENSE_ENCODER)
    before = [a.copy() for arrays in oracle.parameters.values() for a in arrays]
    for step in range(STEPS):
        views, ids = batch_of(given, step)
        expected = oracle.step(views, ids)
        assert fit(model, views, ids) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert_same_state(model, oracle, step)
    after = [a for arrays in oracle.parameters.values() for a in arrays]
    moved = [np.abs(old - new).max() for old, new in zip(before, after)]
    # Far more than the tolerance, all but the bias before a normalisation, which has no effect.
    assert sorted(moved)[len(moved) // 3] > 50 * TOLERANCE


def prototypes(model):
    loss = model.loss_layer.loss
    return trained(loss if hasattr(loss, "prototypes") else model.head)[-1]


@pytest.mark.parametrize("name", SIZES)
def test_views_of_two_sizes_learn_from_the_targets_of_the_first(name):
    given = CASES[name]
    model = recipe_of(given, encoder_of_any_size)
    oracle = oracle_of(given, model, ANY_SIZE)
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        # Colours of their own, as the encoder sees nothing but the mean over an image.
        sizes = [(BATCH, 2, 3, 3, 4), (BATCH, 2, 2, 2, 4)]
        large, small = (
            rng.uniform(size=shape) * rng.uniform(0, 4, (BATCH, 2, 1, 1, 4))
            for shape in sizes
        )
        large, small = large.astype(np.float32), small.astype(np.float32)
        ids = BATCH * step + np.arange(BATCH)
        expected, before = oracle.step([large, small], ids), prototypes(model)
        loss = fit(model, (large, small), ids)
        assert loss == pytest.approx(expected, rel=1e-4)
        assert_same_state(model, oracle, step)
        # They stand still in the first step, and nothing else does.
        moved = np.abs(prototypes(model) - before).max()
        assert moved == 0 if step < given.settings["freeze_steps"] else moved > 1e-3


@pytest.mark.parametrize("name", HELD)
def test_a_gradient_into_what_the_paper_holds_still_would_be_seen(name):
    given = CASES[name]
    model = recipe_of(given, dense_encoder)
    held, leaky = (
        oracle_of(given, model, DENSE_ENCODER, leaky=leaks) for leaks in (False, True)
    )
    views, ids = batch_of(given, 0)
    for oracle in (held, leaky):
        oracle.step(views, ids)
    differences = [
        np.abs(one - other).max()
        for name in held.parameters
        for one, other in zip(held.parameters[name], leaky.parameters[name])
    ]
    assert max(differences) > 50 * TOLERANCE
