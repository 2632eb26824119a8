"""The shared battery of the losses over views that are no contrast with a batch: what it runs over.

A new loss joins by one line in `LOSSES`: its function, its class, its oracle and its options.
"""

from __future__ import annotations

import dataclasses
from typing import Callable

import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import weighted_sum
from tests.oracles import view_losses as oracles

SIDES = ("first", "second")
WIDTH, PROTOTYPES = 4, 6


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity
class LossOverViews:
    """What the battery needs to know about a loss."""

    name: str
    function: Callable
    loss_class: type
    oracle: Callable
    options: dict
    """Of the function and of the class."""
    class_options: dict = dataclasses.field(default_factory=dict)
    """Of the class alone."""
    weights: dict = dataclasses.field(default_factory=dict)
    """Tensors that the function takes as keywords and the layer owns under the same names."""
    sides: tuple = SIDES
    """What the function calls its two arguments."""
    constants: tuple = ()
    """Inputs into which no gradient may flow."""
    scalar: bool = False
    symmetric: bool = False
    on_unit_rows: bool = True
    freezes: bool = True
    """The oracle has parts that are constants for the gradient."""
    float32: dict = dataclasses.field(
        default_factory=lambda: {"rtol": 2e-5, "atol": 2e-5}
    )
    """Tolerance of float32 values; see `losses_battery.FLOAT32`."""

    def values(self, first, second, **keywords):
        return self.function(first, second, **{**self.options, **keywords})

    def inputs(self, n: int = 5, dtype=np.float64) -> dict:
        """The two sides and the weights, by name."""
        both = dict(zip(SIDES, sides(n, dtype=dtype)))
        return {**both, **{name: w.astype(dtype) for name, w in self.weights.items()}}

    def expected(self, first, second, *, frozen=None, **keywords):
        """Values `[n]`, or the scalar; `frozen` as of the oracles."""
        if frozen is not None and self.freezes:
            keywords["frozen"] = frozen
        found = self.oracle(first, second, **{**self.options, **keywords})
        return found if self.scalar else found[0]

    def make(self, **keywords):
        return self.loss_class(**{**self.options, **self.class_options, **keywords})

    def prepared(self, **keywords):
        """The class with the weights of `weights`."""
        made = self.make(**keywords)
        if self.weights and not made.built:
            made.build((None, WIDTH))
        for name, weight in self.weights.items():
            getattr(made, name).assign(weight.astype(np.float32))
        return made

    def prepared_expected(self, first, second):
        """What the prepared class sees: its weights are float32."""
        single = {
            name: weight.astype(np.float32).astype(np.float64)
            for name, weight in self.weights.items()
        }
        return self.expected(first, second, **single)


def drawn(n: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.7, (n, dim))


def sides(n: int = 5, dim: int = WIDTH, dtype=np.float64) -> list[np.ndarray]:
    first = drawn(n, dim, 0)
    second = 0.5 * first + drawn(n, dim, 1)
    return [first.astype(dtype), second.astype(dtype)]


def swav(suffix: str = "", float32: dict | None = None, **options) -> LossOverViews:
    more = {} if float32 is None else {"float32": float32}
    return LossOverViews(
        f"swav{suffix}",
        kc.losses.swav_loss,
        kc.losses.SwAVLoss,
        oracles.swav,
        options,
        class_options={"num_prototypes": PROTOTYPES},
        weights={"prototypes": drawn(PROTOTYPES, WIDTH, 7)},
        symmetric=True,
        **more,
    )


def dino(suffix: str = "", weights: dict | None = None, **options) -> LossOverViews:
    return LossOverViews(
        f"dino{suffix}",
        kc.losses.dino_loss,
        kc.losses.DINOLoss,
        oracles.dino,
        options,
        class_options={"dim": WIDTH},
        weights={"center": drawn(1, WIDTH, 8)[0]} if weights is None else weights,
        sides=("student", "teacher"),
        constants=("second", "center"),
        on_unit_rows=False,
    )


def of_a_batch(name: str, loss_class: str, suffix: str = "", **more) -> LossOverViews:
    """A loss of the statistics of a batch: a scalar."""
    return LossOverViews(
        f"{name}{suffix}",
        getattr(kc.losses, f"{name}_loss"),
        getattr(kc.losses, loss_class),
        getattr(oracles, name),
        scalar=True,
        symmetric=True,
        freezes=False,
        **more,
    )


UNIFORMITY = ("alignment_uniformity", "AlignmentUniformityLoss")
ONE_OF_EACH = [
    of_a_batch(
        "barlow_twins",
        "BarlowTwinsLoss",
        options={"redundancy_weight": 0.3},
        on_unit_rows=False,
    ),
    of_a_batch(
        "vicreg",
        "VICRegLoss",
        options={
            "invariance_weight": 2.0,
            "variance_weight": 3.0,
            "covariance_weight": 5.0,
        },
        on_unit_rows=False,
    ),
    LossOverViews(
        "cosine_prediction",
        kc.losses.cosine_prediction_loss,
        kc.losses.CosinePredictionLoss,
        oracles.cosine_prediction,
        {},
        sides=("prediction", "target"),
        constants=("second",),
    ),
    swav(temperature=0.2, epsilon=0.1, iterations=3),
    dino(student_temperature=0.3, teacher_temperature=0.2),
    of_a_batch(
        *UNIFORMITY,
        options={"alignment_weight": 2.0, "uniformity_weight": 0.5, "t": 3.0},
    ),
]
VARIANTS = [
    of_a_batch(
        "barlow_twins", "BarlowTwinsLoss", "_default", options={}, on_unit_rows=False
    ),
    of_a_batch("vicreg", "VICRegLoss", "_default", options={}, on_unit_rows=False),
    swav("_default"),
    swav("_one_round", iterations=1, epsilon=0.1),
    swav("_balanced", iterations=60, epsilon=0.2),
    # Scores go up to 1 / epsilon = 500 here: an error of 6e-8 is one of 3e-5 in each factor of Q.
    swav("_sharp", epsilon=0.002, float32={"rtol": 1e-3, "atol": 1e-3}),
    dino("_default"),
    dino("_without_center", weights={}),
    of_a_batch(*UNIFORMITY, "_default", options={}),
]
LOSSES = ONE_OF_EACH + VARIANTS
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
one_of_each_class = pytest.mark.parametrize(
    "loss", ONE_OF_EACH, ids=lambda loss: loss.name
)


def losses_where(holds: Callable) -> pytest.MarkDecorator:
    """One of each class for which `holds(loss)`."""
    chosen = [loss for loss in ONE_OF_EACH if holds(loss)]
    return pytest.mark.parametrize("loss", chosen, ids=lambda loss: loss.name)


def total_of(values) -> tf.Tensor:
    """A scalar as it is; of values `[n]` a sum in which every row has a weight of its own."""
    if values.shape.rank == 0:
        return values
    weights = 1.0 + tf.cast(tf.range(tf.shape(values)[0]), values.dtype) / 4.0
    return tf.reduce_sum(weights * values)


def oracle_total(values) -> float:
    return float(values) if np.ndim(values) == 0 else weighted_sum(values)


def by_name(loss) -> Callable:
    """A loss whose sides have the names of `SIDES`."""
    return lambda first, second: loss(first, second)


def value_and_gradients(function, inputs: dict):
    """`function(**inputs)`, and the gradients of `total_of` it, by name."""
    inputs = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
    with tf.GradientTape() as tape:
        tape.watch(list(inputs.values()))
        values = function(**inputs)
        total = total_of(values)
    gradients = tape.gradient(total, inputs, unconnected_gradients="zero")
    return values, gradients
