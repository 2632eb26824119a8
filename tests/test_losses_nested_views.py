"""`NestedDimensions` over losses of pairs of views and over layers, whose every width has weights of its own."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import FLOAT64, NUMERICAL
from tests.oracles import class_losses
from tests.oracles import losses as shared_oracles
from tests.oracles import view_losses as oracles
from tests.oracles.gradients import numerical_gradient
from tests.test_layers import called
from tests.test_layers_losses import fit, model_of, toy_views, views, weights_of
from tests.view_battery import SIDES, by_name, sides, value_and_gradients

DIMS, FACTORS = [1, 3, 4], [0.5, 2.0, 1.0]


def nested(loss, dims=DIMS, **options):
    return kc.losses.NestedDimensions(loss, dims, **options)


def summed(oracle, first, second, factors=(1.0, 1.0, 1.0)) -> float:
    return sum(
        factor * oracle(first[:, :d], second[:, :d]) for factor, d in zip(factors, DIMS)
    )


def mean_of(oracle):
    return lambda *args, **keywords: float(np.mean(oracle(*args, **keywords)[0]))


PAIRS = {
    "vicreg": (lambda: kc.losses.VICRegLoss(), oracles.vicreg),
    "barlow_twins": (lambda: kc.losses.BarlowTwinsLoss(), oracles.barlow_twins),
    "symmetric_info_nce": (
        lambda: kc.losses.SymmetricInfoNCELoss(0.2),
        mean_of(functools.partial(shared_oracles.symmetric_info_nce, temperature=0.2)),
    ),
    "sigmoid": (
        lambda: kc.losses.SigmoidLoss(5.0, -1.0),
        mean_of(functools.partial(shared_oracles.sigmoid, scale=5.0, bias=-1.0)),
    ),
}
every_pair_loss = pytest.mark.parametrize("name", PAIRS)


@every_pair_loss
def test_nested_pair_loss_is_the_sum_over_first_columns(name):
    make, oracle = PAIRS[name]
    both = sides()
    np.testing.assert_allclose(nested(make())(*both), summed(oracle, *both), rtol=1e-6)
    weighted = nested(make(), weights=FACTORS)
    np.testing.assert_allclose(
        weighted(*both), summed(oracle, *both, FACTORS), rtol=1e-6
    )
    assert weighted(*both).dtype == tf.float64


def test_gradient_of_a_nested_pair_loss_matches_the_oracle():
    both = dict(zip(SIDES, sides(dim=5)))  # the fifth column has no part
    loss = nested(kc.losses.VICRegLoss(), weights=FACTORS)
    _, gradients = value_and_gradients(by_name(loss), both)
    for side in SIDES:

        def total(moved, side=side):
            return summed(oracles.vicreg, **{**both, side: moved}, factors=FACTORS)

        expected = numerical_gradient(total, both[side])
        np.testing.assert_allclose(gradients[side], expected, **NUMERICAL)
        assert not np.any(gradients[side].numpy()[:, 4])


def test_stop_gradient_holds_at_every_width():
    loss = nested(kc.losses.CosinePredictionLoss())
    _, gradients = value_and_gradients(by_name(loss), dict(zip(SIDES, sides())))
    assert np.any(gradients["first"]) and not np.any(gradients["second"])


def test_keywords_and_further_embeddings_reach_every_width():
    both, negatives = sides(), np.random.default_rng(3).normal(size=(7, 4))
    ids = np.array([0, 1, 0, 2, -1])
    loss = nested(kc.losses.SymmetricInfoNCELoss(0.2))
    expected = sum(
        np.mean(
            shared_oracles.symmetric_info_nce(
                *(side[:, :d] for side in both),
                temperature=0.2,
                ids=ids,
                negatives=negatives[:, :d],
            )[0]
        )
        for d in DIMS
    )
    np.testing.assert_allclose(
        loss(*both, ids=ids, negatives=negatives), expected, **FLOAT64
    )


def test_sample_weight_weighs_the_rows_at_every_width():
    both, weights = sides(), np.array([0.0, 1.0, 3.0, 0.5, 2.0])

    def weighted(first, second):
        values, counts = oracles.cosine_prediction(first, second)
        return shared_oracles.reduced(values, counts, weights)

    loss = nested(kc.losses.CosinePredictionLoss())
    np.testing.assert_allclose(
        loss(*both, sample_weight=weights), summed(weighted, *both), **FLOAT64
    )
    with pytest.raises(ValueError, match=r"`sample_weight`"):
        nested(kc.losses.VICRegLoss())(*both, sample_weight=weights)


@every_pair_loss
@pytest.mark.parametrize("count", [2, 3])
def test_nested_pair_loss_is_a_pair_loss_in_the_loss_layer(name, count):
    make, oracle = PAIRS[name]
    rows = views(count)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    expected = np.mean([summed(oracle, rows[:, i], rows[:, j]) for i, j in pairs])
    total = called(kc.ContrastiveLossLayer(nested(make())), rows, np.arange(5))
    assert total == pytest.approx(expected, rel=1e-4)


def test_config_round_trip_keeps_loss_dims_and_weights():
    original = nested(kc.losses.VICRegLoss(2.0), weights=FACTORS, name="mine")
    config = original.get_config()
    assert list(config["dims"]) == DIMS and list(config["weights"]) == FACTORS
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(original)
    )
    assert type(copy) is type(original) and copy.get_config() == config
    np.testing.assert_array_equal(copy(*sides()), original(*sides()))


# ---- layers: every width has weights of its own


def by_width(layer) -> list[np.ndarray]:
    """The weights that a loss layer trains, the narrowest first."""
    weights = [weight.numpy() for weight in layer.trainable_weights]
    return sorted(weights, key=lambda weight: weight.shape[-1])


LAYERS = {
    "swav": (
        lambda: kc.losses.SwAVLoss(6, epsilon=0.3),
        lambda first, second, ids, w: np.mean(
            oracles.swav(first, second, prototypes=w, epsilon=0.3)[0]
        ),
    ),
    "arcface": (
        lambda: kc.losses.ArcFaceLoss(6, scale=8.0),
        lambda first, second, ids, w: shared_oracles.reduced(
            *class_losses.arcface(
                np.tile(ids, 2), np.concatenate([first, second]), weights=w, scale=8.0
            )
        ),
    ),
    "proxy_anchor": (
        lambda: kc.losses.ProxyAnchorLoss(6),
        lambda first, second, ids, w: class_losses.proxy_anchor(
            np.tile(ids, 2), np.concatenate([first, second]), proxies=w
        ),
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


@every_layer
def test_nested_layer_has_weights_for_every_width_and_is_their_sum(name):
    make, oracle = LAYERS[name]
    loss = nested(make(), weights=FACTORS)
    layer, rows, ids = kc.ContrastiveLossLayer(loss), views(2), np.arange(5)
    total = called(layer, rows, ids)
    # The loss that was handed over is none of them.
    weights = by_width(layer)
    assert [w.shape for w in weights] == [(6, d) for d in DIMS]
    expected = sum(
        factor * oracle(rows[:, 0, :d], rows[:, 1, :d], ids, w)
        for factor, d, w in zip(FACTORS, DIMS, weights)
    )
    assert total == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["swav", "arcface"])
def test_nested_layer_trains_saves_and_loads_in_a_model(name, tmp_path):
    data = tf.data.Dataset.from_tensors((toy_views(), np.arange(24) % 6))
    model = model_of(nested(LAYERS[name][0](), dims=[2, 4]))
    layer = model.loss_layer
    before = by_width(layer)  # made by the model's build, before the first step
    assert [w.shape for w in before] == [(6, 2), (6, 4)]
    for weight in layer.trainable_weights:
        assert any(weight is other for other in model.trainable_weights)
    found = fit(model, data, 5)["loss"]
    assert found[-1] < found[0]
    for old, new in zip(before, by_width(layer)):
        assert np.abs(new - old).max() > 0.005
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(weights_of(model), weights_of(loaded)):
        np.testing.assert_array_equal(one, other)
    assert fit(model, data, 1)["loss"] == fit(loaded, data, 1)["loss"]


@every_layer
def test_layer_config_round_trip_keeps_a_nested_loss_with_weights(name):
    layer = kc.ContrastiveLossLayer(nested(LAYERS[name][0](), weights=FACTORS))
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy.get_config() == layer.get_config()
    rows, ids = views(2), np.arange(5)
    for each in (layer, copy):
        each(rows, tf.constant(ids))
    copy.set_weights(layer.get_weights())
    assert called(copy, rows, ids) == called(layer, rows, ids)


def test_one_loss_wrapped_twice_shares_no_weights():
    inner, rows, ids = kc.losses.SwAVLoss(3), views(2), np.arange(5)
    one, other = (kc.ContrastiveLossLayer(nested(inner)) for _ in range(2))
    before = called(one, rows, ids), called(other, rows, ids)
    one.set_weights([-weight for weight in one.get_weights()])
    assert called(one, rows, ids) != before[0]
    assert called(other, rows, ids) == before[1]


# ---- errors


def test_class_losses_refuse_targets_and_queues_when_nested_too():
    loss = kc.losses.ArcFaceLoss(6)
    with pytest.raises(ValueError, match=r"`negatives`"):
        kc.ContrastiveLossLayer(nested(loss), negatives=kc.negatives.EmbeddingQueue(8))
    layer = kc.ContrastiveLossLayer(nested(loss))
    with pytest.raises(ValueError, match=r"`targets`"):
        layer(views(2), tf.constant(np.arange(5)), targets=views(2, seed=1))


def test_width_beyond_the_embeddings_is_refused_by_name():
    loss = nested(kc.losses.VICRegLoss(), dims=[2, 5])
    with pytest.raises(ValueError, match=r"`dims` .*Received: dims=.*5.*4\)"):
        loss(*sides())


def test_center_of_dino_has_the_width_and_moves_at_every_width():
    views = np.random.default_rng(0).normal(size=(6, 2, 4)).astype(np.float32)
    loss = kc.losses.NestedDimensions(
        kc.losses.DINOLoss(4, center_momentum=0.5), [2, 4]
    )
    layer = kc.ContrastiveLossLayer(loss)
    value = layer(views, np.arange(6), targets=views, training=True)
    assert np.isfinite(value)
    mean = views.reshape(12, 4).mean(axis=0)
    for part, dim in zip(loss.parts, (2, 4)):
        np.testing.assert_allclose(part.center, 0.5 * mean[:dim], atol=1e-6)


def test_compile_with_a_nested_loss_that_has_weights_is_refused_in_one_line():
    # Keras would train nothing that a loss holds: the weights would stay random.
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    loss = kc.losses.NestedDimensions(kc.losses.ArcFaceLoss(3), [2, 4])
    model.compile("sgd", loss=loss)
    with pytest.raises(
        ValueError, match=r"ArcFaceLoss has weights of its own.*ContrastiveLossLayer"
    ):
        model.fit(np.zeros((6, 4), np.float32), np.arange(6) % 3, verbose=0)


def test_miners_go_before_the_widths_or_within_them():
    ids, embeddings = (
        np.array([0, 0, 1, 1, 2, 2]),
        np.random.default_rng(0).normal(size=(6, 4)),
    )
    losses, mining = kc.losses, kc.losses.mining
    outside = losses.MinedLoss(
        losses.NestedDimensions(losses.NTXentLoss(0.5), [2, 4], [1.0, 0.5]),
        mining.TopKNegatives(1),
    )
    chosen = mining.TopKNegatives(1)(ids, embeddings)
    expected = sum(
        weight * losses.NTXentLoss(0.5)(ids, embeddings[:, :dim], **chosen)
        for dim, weight in ((2, 1.0), (4, 0.5))
    )
    np.testing.assert_allclose(outside(ids, embeddings), expected, rtol=1e-9)
    within = losses.NestedDimensions(
        losses.MinedLoss(losses.NTXentLoss(0.5), mining.TopKNegatives(1)), [2, 4]
    )
    expected = sum(
        losses.MinedLoss(losses.NTXentLoss(0.5), mining.TopKNegatives(1))(
            ids, embeddings[:, :dim]
        )
        for dim in (2, 4)
    )
    np.testing.assert_allclose(within(ids, embeddings), expected, rtol=1e-9)
