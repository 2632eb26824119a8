"""The engine below the losses: tile by tile, every loss has the value and gradient that it has at once."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from keras_contrastive.losses import _blocks
from tests.losses_battery import FLOAT64, METRIC, SOFTMAX, largest_tensor, those
from tests.oracles import losses as oracles

# What the engine serves beside the softmax family.
OTHERS = ("npairs", "multi_similarity", "circle")
TILED = SOFTMAX + [loss for loss in METRIC if loss.name in OTHERS]
tiled_losses = those(TILED)
# Of float32, at a temperature of 0.1 or more, over some dozens of columns; gradients grow with 1 / temperature.
VALUE = {"rtol": 2e-5, "atol": 2e-5}
GRADIENT = {"rtol": 2e-4, "atol": 2e-4}
ANY_SIZE = 10**9


def set_tile(monkeypatch, tile: int, by_xla: bool = False) -> None:
    """Tiles of this side from now on: of 11 rows three or one, padded."""
    monkeypatch.setattr(_blocks, "TILE", tile)
    monkeypatch.setattr(_blocks, "AT_ONCE", 0)
    monkeypatch.setattr(_blocks, "SMALL", 0 if by_xla else ANY_SIZE)


def batch(n: int = 11, dim: int = 5, dtype=np.float64):
    generator = np.random.default_rng(0)
    return generator.integers(-1, 4, n), generator.normal(size=(n, dim)).astype(dtype)


def sets_of(case: str, n: int = 11, dim: int = 5, dtype=np.float64) -> dict:
    """Keywords of a loss over sets for `n` anchors, against 9 candidates in most cases."""
    generator = np.random.default_rng(5)
    candidates = {
        "candidates": generator.normal(size=(9, dim)).astype(dtype),
        "candidate_ids": generator.integers(-1, 4, 9),
    }
    rare = generator.random((n, 9)) < 0.2
    labels = (generator.random((n + 9, 4)) < 0.3).astype(dtype)
    return {
        "batch": {},
        "log_probability": {
            "candidate_log_probability": np.log(generator.random(n)).astype(dtype)
        },
        "candidates": candidates,
        "queue": {
            **candidates,
            "candidate_mask": np.arange(9) < 7,
            "negative_only": np.arange(9) >= 4,
        },
        "masks": {
            **candidates,
            "self_index": generator.integers(-1, 9, n),
            "candidate_mask": generator.random((n, 9)) < 0.8,
            "negative_only": generator.random(9) < 0.3,
            "candidate_log_probability": np.log(generator.random(9)).astype(dtype),
        },
        "positives": {
            **candidates,
            "positives": (generator.random((n, 9)) * rare).astype(dtype),
        },
        "multi_hot": {**candidates, "ids": labels[:n], "candidate_ids": labels[n:]},
        # At most one positive each: functions of it need no visit to all pairs.
        "one_positive": {
            "ids": np.r_[np.arange(n - 1) // 2, -1],
            "candidate_log_probability": np.log(generator.random(n)).astype(dtype),
        },
        "one_candidate": {
            **candidates,
            "ids": np.arange(n) % 8,
            "candidate_ids": np.r_[np.arange(8), -1],
        },
    }[case]


def results(function, rows, others, temperature, **keywords):
    """Values, and the gradients of rows, others and temperature of a sum that tells the rows apart."""
    sources = [tf.constant(rows), tf.constant(others)]
    sources.append(tf.constant(temperature, sources[0].dtype))
    with tf.GradientTape() as tape:
        tape.watch(sources)
        values = function(*sources, **keywords)
        weights = 1.0 + tf.cast(tf.range(tf.shape(values)[0]), values.dtype) / 4.0
        total = tf.reduce_sum(weights * values)
    gradients = tape.gradient(total, sources, unconnected_gradients="zero")
    return [values.numpy(), *[gradient.numpy() for gradient in gradients]]


def of_sets(loss, ids, embeddings, keywords):
    keywords = dict(keywords)
    ids = keywords.pop("ids", ids)
    others = keywords.pop("candidates", None)

    def function(rows, others, temperature):
        sets = {"candidates": others} if "candidate_ids" in keywords else {}
        if loss.tempered:
            sets["temperature"] = temperature
        return loss.values(ids, rows, **sets, **keywords)

    return results(function, embeddings, embeddings if others is None else others, 0.2)


CASES = ("batch", "log_probability", "candidates", "queue", "masks") + (
    "positives",
    "multi_hot",
    "one_positive",
    "one_candidate",
)


@tiled_losses
def test_tiles_give_the_values_and_gradients_of_the_matrix_at_once(loss, monkeypatch):
    cases = CASES
    if not loss.takes_log_probability:
        cases = [
            case for case in CASES if "candidate_log_probability" not in sets_of(case)
        ]
    for case in cases:
        at_once = of_sets(loss, *batch(), sets_of(case))
        assert np.any(at_once[0] != 0) and np.any(at_once[1] != 0), case
        # One larger than the batch has to do with padding alone.
        for tile in (4, 16) if case in ("batch", "masks") else (4,):
            with monkeypatch.context() as patched:
                set_tile(patched, tile)
                in_tiles = of_sets(loss, *batch(), sets_of(case))
            for found, expected in zip(in_tiles, at_once):
                np.testing.assert_allclose(found, expected, **FLOAT64, err_msg=case)


@pytest.mark.parametrize("loss", [SOFTMAX[0], SOFTMAX[-1]], ids=lambda loss: loss.name)
def test_tiles_by_xla_give_the_values_and_gradients_of_the_matrix_at_once(
    loss, monkeypatch
):
    # All losses, and the masks, reach the compiled loop in the battery's test of an unknown batch.
    ids, embeddings = batch(25, 5, np.float32)
    at_once = of_sets(loss, ids, embeddings, {})
    set_tile(monkeypatch, 8, by_xla=True)
    in_tiles = of_sets(loss, ids, embeddings, {})
    np.testing.assert_allclose(in_tiles[0], at_once[0], **VALUE)
    for found, expected in zip(in_tiles[1:], at_once[1:]):
        np.testing.assert_allclose(found, expected, **GRADIENT)


def test_tiles_give_the_uniformity_of_the_matrix_at_once(monkeypatch):
    _, first = batch()
    second = first[::-1].copy()

    def function(first, second, _):
        loss = kc.losses.alignment_uniformity_loss
        return tf.reshape(loss(first, second, uniformity_weight=0.7), [1])

    at_once = results(function, first, second, 1.0)
    assert np.any(at_once[1] != 0)
    set_tile(monkeypatch, 4)
    for found, expected in zip(results(function, first, second, 1.0), at_once):
        np.testing.assert_allclose(found, expected, **FLOAT64)


def two_views(images: int, dim: int, spread: float, dtype=np.float32):
    generator = np.random.default_rng(1)
    first = generator.normal(size=(images, dim))
    second = first + spread * generator.normal(size=(images, dim))
    return np.tile(np.arange(images), 2), np.concatenate([first, second]).astype(dtype)


def nt_xent_of_two_views(rows, temperature: float):
    """Value and gradient of the mean by matrices in float64, for ids as of `two_views`."""
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit, n = rows / norms, len(rows)
    logits = unit @ unit.T / temperature
    np.fill_diagonal(logits, -np.inf)
    top = logits.max(axis=1, keepdims=True)
    normalizer = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    own, partner = np.arange(n), (np.arange(n) + n // 2) % n
    value = (normalizer[:, 0] - logits[own, partner]).mean()
    of_logits = np.exp(logits - normalizer)
    of_logits[own, partner] -= 1
    of_unit = (of_logits + of_logits.T) @ unit / (n * temperature)
    along = (of_unit * unit).sum(axis=1, keepdims=True)
    return value, (of_unit - along * unit) / norms


@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.1, 10.0])
def test_large_batch_has_the_value_and_gradient_of_float64_matrices(temperature):
    # 2,100 rows: three blocks of 700. 0.02 and below need the running maximum, above it the logits' bound is enough.
    ids, embeddings = two_views(1050, 16, 0.7)
    rows = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = kc.losses.NTXentLoss(temperature)(ids, rows)
    expected, expected_gradient = nt_xent_of_two_views(embeddings, temperature)
    # The cosine's rounding of 1e-7 is divided by the temperature.
    np.testing.assert_allclose(value, expected, rtol=1e-6 + 3e-7 / temperature)
    largest = np.abs(expected_gradient).max()
    error = np.abs(tape.gradient(value, rows) - expected_gradient).max() / largest
    assert error < 5e-6 + 1e-6 / temperature


def test_eager_call_after_a_graph_of_unknown_batch_size_compiles_anew():
    ids, embeddings = two_views(1050, 16, 0.7)
    loss = kc.losses.InfoNCELoss(0.3)
    specs = tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, 16), tf.float32)
    unknown = tf.function(loss, input_signature=specs, autograph=False)
    value = unknown(ids, embeddings)
    np.testing.assert_allclose(loss(ids, embeddings), value, rtol=1e-6)


def test_anchor_far_from_all_columns_of_a_tight_tile_does_not_underflow():
    # Of the fixed shift 1 / T: (1 - best similarity) / T is 200 here, and exp(-200) is 0 in float32.
    ids, embeddings = two_views(1050, 16, 1e-3)
    embeddings[:] = np.abs(embeddings[:1])
    embeddings[[0, 1050]] = -embeddings[0], -embeddings[0]
    embeddings[1050, 0] *= -1
    loss = kc.losses.NTXentLoss(0.01, reduction="none")
    rows = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        values = loss(ids, rows, candidate_mask=None)
    expected, _ = oracles.nt_xent(
        ids[[0, 1050, 1]], embeddings[[0, 1050, 1]].astype(float), temperature=0.01
    )
    assert np.isfinite(values).all()
    assert np.isfinite(tape.gradient(values, rows)).all()
    # The anchor's own partner is its best column; the others of the tile are 200 below.
    np.testing.assert_allclose(values[0], expected[0], atol=1e-3)


@tiled_losses
def test_ids_that_no_matrix_holds_need_no_matrix(loss):
    """Above the size of one tile no tensor of the graph, forwards or backwards, is as large as the matrix."""
    n, dim = 4096, 8

    def run(ids, rows):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            total = tf.reduce_sum(loss.values(ids, rows))
        return tape.gradient(total, rows)

    function = tf.function(run, autograph=False).get_concrete_function(
        tf.TensorSpec((n,), tf.int64), tf.TensorSpec((n, dim), tf.float32)
    )
    size, name = largest_tensor(function)
    assert n * dim <= size < n * n / 8, name
