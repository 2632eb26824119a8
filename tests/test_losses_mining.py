"""Miners: which pairs they leave, how they combine, and what they refuse."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from keras_contrastive.losses import mining
from tests.losses_battery import ANCHOR_IDS, LOSSES, PATTERNS, candidate_case, rows
from tests.oracles import mining as oracles

DISTANCES = ["cosine", "euclidean", "inner_product"]
CASES = [None, "plain", "self_index", "mask_of_pairs", "negative_only", "all_at_once"]


def batch(case: str | None):
    if case is None:
        return np.array(PATTERNS["groups"]), rows(), {}
    return ANCHOR_IDS, rows(5), candidate_case(case)


def kept(ids, embeddings, chosen: dict) -> list[set]:
    """The columns of each anchor, as sets."""
    return [set(np.flatnonzero(row)) for row in np.asarray(chosen["candidate_mask"])]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", CASES)
def test_miners_leave_the_pairs_of_the_oracles(distance, case):
    ids, embeddings, sets = batch(case)
    margin = {"cosine": 0.3, "euclidean": 0.5, "inner_product": 0.5}[distance]
    miners = [
        (mining.Hardest(distance=distance), oracles.hardest, {}),
        (
            mining.SemiHard(margin, distance=distance),
            oracles.semi_hard,
            {"margin": margin},
        ),
        (mining.TopKNegatives(2, distance=distance), oracles.top_k, {"k": 2}),
    ]
    for miner, oracle, options in miners:
        expected = [
            oracle(*pairs, **options)
            for pairs in oracles.seen(ids, embeddings, distance, sets)
        ]
        chosen = miner(ids, embeddings, **sets)
        assert kept(ids, embeddings, chosen) == expected, type(miner).__name__
        others = {k: v for k, v in chosen.items() if k != "candidate_mask"}
        assert others.keys() == sets.keys() - {"candidate_mask"}


@pytest.mark.parametrize("case", CASES)
def test_similar_drops_or_attracts_negatives_above_the_similarity(case):
    ids, embeddings, sets = batch(case)
    never = sets.get("negative_only", np.zeros(8, bool))
    dropped = mining.Similar(0.2)(ids, embeddings, **sets)
    attracted = mining.Similar(0.2, action="attract")(ids, embeddings, **sets)
    pairs = list(oracles.seen(ids, embeddings, "cosine", sets))
    false = [{j for j, d in negatives if 1 - d > 0.2} for _, negatives in pairs]
    assert any(false)
    everything = [{j for j, _ in p + n} for p, n in pairs]
    assert kept(ids, embeddings, dropped) == [a - f for a, f in zip(everything, false)]
    assert "positives" not in dropped
    gone = [{j for j in f if never[j]} for f in false]
    assert kept(ids, embeddings, attracted) == [a - g for a, g in zip(everything, gone)]
    weights = np.asarray(attracted["positives"])
    positives = [
        {j for j, _ in p} | (f - g) for (p, _), f, g in zip(pairs, false, gone)
    ]
    assert [set(np.flatnonzero(row)) for row in weights] == positives


def test_same_label_takes_false_negatives_by_a_label_beside_the_ids():
    # By instance, ids 0 to 2 with two views; images 0 and 1 show the same product; that of image 2 is unknown.
    ids = np.array([0, 1, 2, 0, 1, 2])
    labels = np.array([7, 7, -1, 7, 7, -1])
    dropped = mining.SameLabel()(ids, rows(), labels=labels)
    assert kept(ids, rows(), dropped)[:3] == [{2, 3, 5}, {2, 4, 5}, {0, 1, 3, 4, 5}]
    attracted = mining.SameLabel(action="attract")(ids, rows(), labels=labels)
    np.testing.assert_array_equal(
        attracted["positives"][0], [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    )
    # Attracted by the label, all are as if the labels were the ids.
    expected = kc.losses.nt_xent_loss(np.array([7, 7, 2, 7, 7, 2]), rows())
    values = kc.losses.nt_xent_loss(ids, rows(), **attracted)
    np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_same_label_among_candidates():
    sets = candidate_case("plain")
    labels = {
        "labels": np.arange(5),
        "candidate_labels": np.array([9, 9, 0, 1, 2, 3, 4, -1]),
    }
    chosen = mining.SameLabel()(ANCHOR_IDS, rows(5), **sets, **labels)
    everything = set(range(8))
    assert kept(ANCHOR_IDS, rows(5), chosen) == [everything - {j} for j in range(2, 7)]


@pytest.mark.parametrize("dim", [3, 16])
def test_distance_weighted_draws_by_the_inverse_density(dim):
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(9, dim))
    embeddings[1:] += 0.8 * embeddings[:1]  # some near, some far
    ids = np.arange(9)
    miner = mining.DistanceWeighted(cutoff=0.7, max_distance=1.5)
    draws = 3000
    choose = tf.function(
        lambda s: miner(ids, embeddings, draw=[0, s])["candidate_mask"][0]
    )
    counts = sum(choose(tf.constant(s)).numpy().astype(int) for s in range(draws))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = np.linalg.norm(unit[0] - unit[1:], axis=1)
    expected = draws * oracles.distance_weights(distances, dim, 0.7, 1.5)
    assert counts[0] == 0 and counts.sum() == draws
    np.testing.assert_array_equal(counts[1:][expected == 0], 0)
    there = expected > 0
    assert there.sum() >= 4
    chi_square = ((counts[1:] - expected)[there] ** 2 / expected[there]).sum()
    assert chi_square < 30  # seven degrees of freedom at most: 1e-4


def test_distance_weighted_draws_so_many_without_replacement_and_keeps_positives():
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    chosen = mining.DistanceWeighted(2)(ids, embeddings, draw=[3, 4])
    for (positives, negatives), columns in zip(
        oracles.seen(ids, embeddings, "cosine", {}), kept(ids, embeddings, chosen)
    ):
        assert columns >= {j for j, _ in positives}
        assert len(columns) == len(positives) + min(2, len(negatives))
        assert columns <= {j for j, _ in positives + negatives}


def test_distance_weighted_takes_far_negatives_where_there_are_no_others():
    embeddings = np.array([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-1.0, 0.1]])
    chosen = mining.DistanceWeighted()(np.array([0, 0, 1, 1]), embeddings, draw=[0, 0])
    assert [len(columns) for columns in kept(None, None, chosen)] == [2, 2, 2, 2]


MINERS = [
    mining.Hardest(),
    mining.SemiHard(0.4),
    mining.TopKNegatives(2, distance="euclidean"),
    mining.DistanceWeighted(2),
    mining.Similar(0.9),
    mining.Similar(0.3, action="attract"),
]
every_miner = pytest.mark.parametrize(
    "miner", MINERS, ids=lambda miner: f"{type(miner).__name__}{miner.get_config()}"
)
OF_EACH_CLASS = {
    loss.loss_class: loss for loss in LOSSES if loss.loss_class is not None
}


@every_miner
def test_every_loss_over_sets_takes_what_a_miner_chooses(miner):
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    draw = {"draw": [0, 1]} if "draw" in miner.keywords else {}
    chosen = miner(ids, embeddings, **draw)
    for loss in OF_EACH_CLASS.values():
        mined = kc.losses.MinedLoss(loss.make(), miner)
        more = draw if not loss.loss_class.draws else {**draw, "draw": [0, 1]}
        of_loss = {"draw": [0, 1]} if loss.loss_class.draws else {}
        expected = loss.make()(ids, embeddings, **chosen, **of_loss)
        assert mined.draws == bool(more)
        np.testing.assert_allclose(mined(ids, embeddings, **more), expected, rtol=1e-12)


@every_miner
def test_miner_gives_the_same_in_a_graph_of_unknown_size_and_of_half_precision(miner):
    ids, embeddings = np.array(PATTERNS["groups"]), rows(dtype=np.float32)
    draw = {"draw": [0, 1]} if "draw" in miner.keywords else {}
    specs = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, None], tf.float32)
    graph = tf.function(lambda i, z: miner(i, z, **draw), input_signature=specs)
    expected = miner(ids, embeddings, **draw)
    for name, value in graph(ids, embeddings).items():
        np.testing.assert_array_equal(value, expected[name])
    half = miner(ids, tf.cast(embeddings, tf.float16), **draw)
    np.testing.assert_array_equal(half["candidate_mask"], expected["candidate_mask"])


@every_miner
def test_degenerate_batches_are_mined(miner):
    draw = {"draw": [0, 1]} if "draw" in miner.keywords else {}
    loss = kc.losses.MinedLoss(kc.losses.NTXentLoss(0.1), miner)
    for ids, embeddings in (
        ([3], rows(1)),
        ([-1] * 6, rows()),
        ([4] * 6, rows()),
        (PATTERNS["no_positives"], rows()),
        (PATTERNS["pairs"], np.zeros((6, 4))),
        (PATTERNS["pairs"], np.repeat(rows(1), 6, axis=0)),
    ):
        embeddings = tf.constant(embeddings)
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(np.array(ids), embeddings, **draw)
        assert np.isfinite(value)
        gradient = tape.gradient(value, embeddings, unconnected_gradients="zero")
        assert np.isfinite(gradient).all()


def test_distance_weighted_without_a_seed_takes_every_negative():
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    assert mining.DistanceWeighted()(ids, embeddings) == {}
    plain = kc.losses.NTXentLoss(0.1)
    mined = kc.losses.MinedLoss(plain, mining.DistanceWeighted())
    np.testing.assert_array_equal(mined(ids, embeddings), plain(ids, embeddings))


def test_duplicates_are_no_more_similar_than_1():
    embeddings = np.repeat(rows(1, dtype=np.float32), 4, axis=0)
    chosen = mining.Similar(1.0)(np.arange(4), embeddings)["candidate_mask"]
    assert np.asarray(chosen).sum() == 12


def test_labels_of_another_length_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"`labels` must have one entry for each anchor.*\(4,\)"
    ):
        mining.SameLabel()(np.arange(5), rows(5), labels=np.arange(4))


def test_what_is_chosen_has_no_gradient():
    ids, embeddings = np.array(PATTERNS["groups"]), tf.constant(rows())
    miner = mining.Similar(0.3, action="attract")
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        weights = miner(ids, embeddings)["positives"]
    assert tape.gradient(weights, embeddings) is None


def test_miners_see_what_those_before_them_left():
    # Without the near duplicate, the next nearest negative is the hardest.
    ids = np.array([0, 0, 1, 2, 3])
    embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [1.0, 0.01], [0.9, 0.3], [0.0, 1.0]])
    miners = [mining.Similar(0.99), mining.TopKNegatives(1)]
    sets: dict = {}
    for miner in miners:
        sets = miner(ids, embeddings, **sets)
    assert kept(ids, embeddings, sets)[0] == {1, 3}
    both = kc.losses.MinedLoss(kc.losses.NTXentLoss(0.1), miners)
    expected = kc.losses.NTXentLoss(0.1)(ids, embeddings, **sets)
    np.testing.assert_allclose(both(ids, embeddings), expected, rtol=1e-12)


def test_labels_reach_the_miner_that_takes_them_and_no_other():
    ids, labels = np.array([0, 1, 2, 0, 1, 2]), np.array([7, 7, 8, 7, 7, 8])
    miners = [mining.TopKNegatives(3), mining.SameLabel()]
    loss = kc.losses.MinedLoss(kc.losses.NTXentLoss(0.1), miners)
    sets = miners[1](ids, rows(), labels=labels, **miners[0](ids, rows()))
    expected = kc.losses.NTXentLoss(0.1)(ids, rows(), **sets)
    np.testing.assert_allclose(loss(ids, rows(), labels=labels), expected, rtol=1e-12)


def test_mined_loss_round_trips_with_its_miners():
    loss = kc.losses.MinedLoss(kc.losses.SupConLoss(0.3, reduction="sum"), MINERS)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(loss)
    )
    assert copy.get_config() == loss.get_config()
    ids, embeddings = np.array(PATTERNS["groups"]), rows()
    value = loss(ids, embeddings, draw=[0, 1])
    np.testing.assert_array_equal(copy(ids, embeddings, draw=[0, 1]), value)


def test_mined_loss_trains_in_the_model_with_a_learned_temperature_and_a_queue():
    views = np.random.default_rng(0).normal(size=(32, 2, 8)).astype(np.float32)
    views[:, 1] = views[:, 0] + 0.3 * views[:, 1]
    loss = kc.losses.MinedLoss(
        kc.losses.NTXentLoss(0.5), [mining.DistanceWeighted(8), mining.Similar(0.95)]
    )
    layer = kc.ContrastiveLossLayer(
        loss, negatives=kc.negatives.EmbeddingQueue(64), learn_temperature=True
    )
    encoder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
    model = kc.ContrastiveModel(encoder, layer)
    model.compile(keras.optimizers.Adam(0.01))
    data = tf.data.Dataset.from_tensors((views, np.arange(32)))
    losses = model.fit(data, epochs=30, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert float(layer.temperature) != 0.5


@pytest.mark.parametrize(
    "call, match",
    [
        (
            lambda: mining.TopKNegatives(0),
            r"`k` must be an integer >= 1.*Received: k=0",
        ),
        (lambda: mining.SemiHard(0.0), r"`margin` must be .*> 0"),
        (
            lambda: mining.Hardest(distance="cosin"),
            r"`distance` must be one of.*'cosine'",
        ),
        (lambda: mining.Similar(1.5), r"`max_similarity` must be in -1..1"),
        (
            lambda: mining.Similar(action="keep"),
            r"`action` must be one of 'drop', 'attract'",
        ),
        (lambda: mining.DistanceWeighted(cutoff=1.5), r"`max_distance` must be"),
        (lambda: mining.SameLabel()([0], rows(1)), r"`labels` must be given"),
        (
            lambda: kc.losses.MinedLoss(kc.losses.VICRegLoss(), mining.Hardest()),
            r"`loss` must be a loss over sets",
        ),
        (
            lambda: kc.losses.MinedLoss(kc.losses.NTXentLoss(), "hard"),
            r"`miners` must be miners.*Received: 'hard'",
        ),
    ],
)
def test_wrong_argument_is_refused_in_one_line(call, match):
    with pytest.raises(ValueError, match=match) as refused:
        call()
    assert "\n" not in str(refused.value)
