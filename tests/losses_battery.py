"""The shared battery of every loss over sets: what it runs over, and how it compares.

A new loss joins by one line in `LOSSES`: its function, its class, its oracle and its options.
"""

from __future__ import annotations

import dataclasses
from typing import Callable

import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.oracles import losses as oracles
from tests.oracles import metric_losses as metric_oracles
from tests.oracles.gradients import numerical_gradient

# float32 keeps 7 digits; a temperature of 0.1 and a sum over a few columns cost one or two of them.
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}
# float64 against the oracle. A distance below 1e-6 may come back as 1e-6 (a floor keeps its gradient finite).
FLOAT64 = {"rtol": 1e-9, "atol": 1e-9}
# Central differences of the oracle: see `numerical_gradient`.
NUMERICAL = {"rtol": 1e-5, "atol": 1e-6}


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: see `compiled`
class LossOverSets:
    """What the battery needs to know about a loss."""

    name: str
    function: Callable
    loss_class: type
    oracle: Callable
    options: dict
    distance: str = "cosine"
    """What the loss compares by, by its name in `distance_of`."""
    needs_negatives: bool = False
    zero_of_one_class: bool = False
    """An anchor without a negative counts, with the value 0."""
    takes_log_probability: bool = False
    freezes: bool = False
    """The oracle has weights that are constants for the gradient."""
    jumps: bool = False
    """Of two equal distances it matters which is the larger."""
    separable: bool = True
    """An anchor's value is its own affair."""

    def values(self, ids, embeddings, **keywords):
        """Per anchor, by position: the contrastive loss has other names for its two first arguments."""
        return self.function(ids, embeddings, **{**self.options, **keywords})

    def expected(self, ids, embeddings, *, held=None, **keywords):
        """`held`: the (embeddings, candidates) at which such weights are taken."""
        if self.freezes and held is not None:
            keywords["frozen"] = held
        return self.oracle(ids, embeddings, **{**self.options, **keywords})

    def bounds(self, ids, embeddings):
        """The least and the largest value that rounding may give at equal distances."""
        ties = [{"tie": 1e-6}, {"tie": -1e-6}] if self.jumps else [{}, {}]
        return [self.expected(ids, embeddings, **tie)[0] for tie in ties]

    def make(self, **keywords):
        return self.loss_class(**self.options, **keywords)

    def counts(self, ids) -> np.ndarray:
        """0 or 1 for each anchor, or its number of pairs or triplets."""
        return self.expected(ids, np.ones((len(ids), 1)))[1]

    @property
    def tempered(self) -> bool:
        return "temperature" in self.options


def softmax(name: str, loss_class: str, *, suffix: str = "", **options) -> LossOverSets:
    return LossOverSets(
        f"{name}{suffix}",
        getattr(kc.losses, f"{name}_loss"),
        getattr(kc.losses, loss_class),
        getattr(oracles, name),
        options,
        needs_negatives=name in ("decoupled", "debiased", "hard_negative"),
        takes_log_probability=True,
        freezes=options.get("weighted", False),
        separable=not options.get("weighted", False),
    )


def contrastive(distance: str, margin: float) -> LossOverSets:
    return LossOverSets(
        f"contrastive_{distance}",
        kc.losses.contrastive_loss,
        kc.losses.ContrastiveLoss,
        oracles.contrastive,
        {"distance": distance, "margin": margin},
        distance=distance,
        needs_negatives=True,
    )


def metric(name: str, loss_class: str, *, suffix: str = "", **options) -> LossOverSets:
    of_products = name.startswith("npairs")
    of_neighbors = name == "soft_nearest_neighbor"
    return LossOverSets(
        f"{name}{suffix}",
        getattr(kc.losses, f"{name}_loss"),
        getattr(kc.losses, loss_class),
        getattr(metric_oracles, name),
        options,
        distance="inner_product" if of_products else options.get("distance", "cosine"),
        needs_negatives=not (of_products or of_neighbors),
        zero_of_one_class=of_neighbors,
        takes_log_probability=of_products,
        freezes=name == "circle",
        jumps="semi_hard" in (name.removeprefix("triplet_"), options.get("mining")),
    )


# Margins near the typical distance of `rows()`, so that some negatives lie inside and some outside.
MARGINS = {
    "euclidean": 2.0,
    "squared_euclidean": 4.0,
    "cosine": 1.5,
    "inner_product": 1.0,
}
# Temperatures at which both branches of the debiased estimate occur among `rows()`.
SOFTMAX = [
    softmax("nt_xent", "NTXentLoss", temperature=0.1),
    softmax("info_nce", "InfoNCELoss", temperature=0.2),
    softmax("sup_con", "SupConLoss", temperature=0.1, position="out", suffix="_out"),
    softmax("sup_con", "SupConLoss", temperature=0.1, position="in", suffix="_in"),
    softmax("decoupled", "DecoupledLoss", temperature=0.1),
    softmax(
        "decoupled", "DecoupledLoss", temperature=0.2, weighted=True, suffix="_weighted"
    ),
    softmax("debiased", "DebiasedLoss", temperature=0.5, class_probability=0.1),
    softmax(
        "hard_negative",
        "HardNegativeLoss",
        temperature=0.5,
        class_probability=0.1,
        beta=1.0,
    ),
]
CONTRASTIVE = [contrastive(distance, margin) for distance, margin in MARGINS.items()]
# Every way to mine, every distance in one loss at least; scales at which all terms of `rows()` are seen.
METRIC = [
    metric("triplet", "TripletLoss", suffix="_cosine", distance="cosine", margin=0.5),
    metric(
        "triplet",
        "TripletLoss",
        suffix="_mining_semi_hard",
        distance="squared_euclidean",
        margin=3.0,
        mining="semi_hard",
    ),
    metric("triplet", "TripletLoss", distance="euclidean", margin=1.0, mining="all"),
    metric(
        "triplet_semi_hard", "TripletSemiHardLoss", distance="euclidean", margin=1.0
    ),
    metric(
        "triplet_hard",
        "TripletHardLoss",
        suffix="_soft",
        distance="inner_product",
        soft=True,
    ),
    metric("triplet_hard", "TripletHardLoss", distance="euclidean", margin=1.0),
    metric("npairs", "NpairsLoss"),
    metric("npairs_multilabel", "NpairsMultilabelLoss"),
    metric("lifted_struct", "LiftedStructLoss", distance="euclidean", margin=1.0),
    metric(
        "lifted_struct",
        "LiftedStructLoss",
        suffix="_cosine",
        distance="cosine",
        margin=0.7,
    ),
    metric("multi_similarity", "MultiSimilarityLoss", alpha=2.0, beta=10.0, base=0.4),
    metric(
        "multi_similarity",
        "MultiSimilarityLoss",
        suffix="_mined",
        alpha=2.0,
        beta=10.0,
        base=0.5,
        mining_epsilon=0.5,
    ),
    metric("circle", "CircleLoss", margin=0.3, scale=8.0),
    metric(
        "soft_nearest_neighbor",
        "SoftNearestNeighborLoss",
        suffix="_euclidean",
        temperature=0.5,
        distance="euclidean",
    ),
    metric(
        "soft_nearest_neighbor",
        "SoftNearestNeighborLoss",
        temperature=1.0,
        distance="squared_euclidean",
    ),
]
LOSSES = SOFTMAX + CONTRASTIVE + METRIC


def those(losses: list[LossOverSets]):
    return pytest.mark.parametrize("loss", losses, ids=lambda loss: loss.name)


every_loss = those(LOSSES)
softmax_losses = those(SOFTMAX)
separable_losses = those([loss for loss in LOSSES if loss.separable])
tempered_losses = those([loss for loss in LOSSES if loss.tempered])
log_probability_losses = those([loss for loss in LOSSES if loss.takes_log_probability])
# One of each class, where the class and Keras are tested rather than the mathematics.
one_of_each_class = those(list({loss.loss_class: loss for loss in LOSSES}.values()))

BIG = 2**24  # the first float32 whose successor is not an integer apart


PATTERNS = {
    "pairs": [0, 0, 1, 1, 2, 2],
    "two_views": [0, 1, 2, 0, 1, 2],
    "groups": [5, 5, 5, 9, 9, 7],
    "lone_anchors": [0, 0, 1, 2, 3, 4],
    "unknown": [-1, -1, 3, 3, -1, 8],
    "below_minus_one": [-2, -3, -2, -3, -1, -1],
    "large": [BIG, BIG + 1, BIG, BIG + 1, 2**53, 2**53 + 1],
    "one_class": [4] * 6,
    "no_positives": [0, 1, 2, 3, 4, 5],
}
patterns = pytest.mark.parametrize(
    "ids", [np.array(ids, np.int64) for ids in PATTERNS.values()], ids=list(PATTERNS)
)


# Labels shared 0, 1 and 2 times; row 3 shares none.
MULTI_HOT = np.array(
    [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]], np.float64
)


def rows(n: int = 6, dim: int = 4, seed: int = 0, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.7, (n, dim)).astype(dtype)


def value_and_gradient(function, rows) -> tuple[tf.Tensor, tf.Tensor]:
    """The values, and the gradient of a sum in which every anchor has a weight of its own."""
    with tf.GradientTape() as tape:
        tape.watch(rows)
        values = function(rows)
        # Not the plain sum: that would not see two anchors exchanged.
        weights = 1.0 + tf.cast(tf.range(tf.shape(values)[0]), values.dtype) / 4.0
        total = tf.reduce_sum(weights * values)
    gradient = tape.gradient(total, rows, unconnected_gradients="zero")
    return values, tf.convert_to_tensor(gradient)  # a gather's gradient is sparse


def weighted_sum(values: np.ndarray) -> float:
    return float(np.sum((1.0 + np.arange(len(values)) / 4.0) * values))


def assert_matches_oracle(loss, ids, embeddings, **keywords) -> None:
    """Values in float64 and float32, and the gradient in float64, equal the oracle's."""
    expected, _ = loss.expected(ids, embeddings, **keywords)
    held = embeddings, keywords.get("candidates")
    values, gradient = value_and_gradient(
        lambda z: loss.values(ids, z, **keywords), tf.constant(embeddings)
    )
    assert values.dtype == tf.float64
    np.testing.assert_allclose(values, expected, **FLOAT64)
    np.testing.assert_allclose(
        gradient,
        numerical_gradient(
            lambda z: weighted_sum(loss.expected(ids, z, held=held, **keywords)[0]),
            embeddings,
        ),
        **NUMERICAL,
    )
    single = {name: as_float32(value) for name, value in keywords.items()}
    values = loss.values(ids, embeddings.astype(np.float32), **single)
    assert values.dtype == tf.float32
    np.testing.assert_allclose(values, expected, **FLOAT32)


def as_float32(value):
    return (
        value.astype(np.float32)
        if getattr(value, "dtype", None) == np.float64
        else value
    )


def largest_tensor(function: tf.types.experimental.ConcreteFunction) -> tuple:
    """The largest tensor of known shape in a graph and in the functions that it calls."""
    graphs, seen = [function.graph], {}
    while graphs:
        graph = graphs.pop()
        for operation in graph.get_operations():
            for output in operation.outputs:
                size = output.shape.num_elements() if output.shape.rank else 1
                seen[f"{graph.name}/{output.name}"] = size or 0
        graphs += [inner.graph for inner in _inner_functions(graph)]
    return max((size, name) for name, size in seen.items())


def _inner_functions(graph):
    return [
        function
        for function in getattr(graph, "_functions", {}).values()
        if hasattr(function, "graph")
    ]


def candidate_case(name: str) -> dict:
    """Five anchors against eight candidates, three of which are positives of nobody."""
    generator = np.random.default_rng(1)
    options = {
        "candidates": generator.normal(0.0, 0.7, (8, 4)),
        "candidate_ids": np.array([0, 1, 2, 3, 0, 1, 9, -1]),
    }
    own = {"self_index": np.array([0, 1, 2, 4, -1])}
    pairs = {"candidate_mask": generator.random((5, 8)) < 0.7}
    queue = {
        "negative_only": np.array([False, False, False, True, True, False, True, True])
    }
    extra = {
        "plain": {},
        "self_index": own,
        "mask_of_columns": {
            "candidate_mask": np.array(
                [True, True, False, True, True, False, True, True]
            )
        },
        "mask_of_pairs": pairs,
        "negative_only": queue,
        "all_at_once": {**own, **pairs, **queue},
    }
    return {**options, **extra[name]}


ANCHOR_IDS = np.array([0, 1, 2, 0, -1])


PAIRED = PATTERNS["pairs"]
DEGENERATE = {
    "one_row_of_zeros": (
        PAIRED,
        lambda: rows() * np.array([[0], [1], [1], [1], [1], [1]]),
    ),
    "all_zeros": (PAIRED, lambda: np.zeros((6, 4))),
    "equal_positives": (PAIRED, lambda: np.repeat(rows(3), 2, axis=0)),
    "all_rows_equal": (PAIRED, lambda: np.repeat(rows(1), 6, axis=0)),
    "opposite_positives": (
        PAIRED,
        lambda: np.repeat(rows(3), 2, axis=0) * np.tile([[1], [-1]], (3, 1)),
    ),
    "no_positives": (PATTERNS["no_positives"], rows),
    "all_unknown": ([-1] * 6, rows),
    "one_class": (PATTERNS["one_class"], rows),
    "huge_rows": (PAIRED, lambda: rows() * 1e4),
    "tiny_rows": (PAIRED, lambda: rows() * 1e-6),
}
EXTREME = [
    dataclasses.replace(
        loss,
        name=f"{loss.name}_at_{temperature:g}",
        options={**loss.options, "temperature": temperature},
    )
    for loss in LOSSES
    if loss.tempered
    for temperature in ((0.01, 10.0) if loss is SOFTMAX[0] else (0.01,))
]
