"""Past embeddings as further candidates, and the masks that choose among candidates."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.oracles import losses as oracles
from tests.oracles.negatives import Past, below, hardest
from tests.test_model import dataset, small_model


def contents(queue):
    """Ids and first entries of the filled slots, in the order of their ids."""
    embeddings, ids, filled = (np.asarray(part) for part in queue.rows())
    order = np.argsort(ids[filled])
    return ids[filled][order].tolist(), embeddings[filled][order, 0].tolist()


def rows_of(ids):
    ids = np.array(ids)
    return tf.constant(np.stack([ids, -ids], axis=1), tf.float32), tf.constant(ids)


@pytest.mark.parametrize("batches", [[3, 3, 3], [5, 1], [7], [2, 9], [4, 4]], ids=str)
def test_queue_holds_the_last_rows_whatever_the_batch_sizes(batches):
    queue = kc.negatives.EmbeddingQueue(4)
    queue.build((None, 2))
    added = 0
    for count in batches:
        queue.add(*rows_of(range(added, added + count)))
        added += count
    last = list(range(max(0, added - 4), added))
    assert contents(queue) == (last, last)


def test_empty_queue_changes_nothing_in_the_loss():
    embeddings = tf.constant(
        np.random.default_rng(0).normal(size=(6, 2, 4)), tf.float32
    )
    ids = tf.range(6)
    plain = kc.ContrastiveLossLayer(kc.losses.NTXentLoss())
    queued = kc.ContrastiveLossLayer(
        kc.losses.NTXentLoss(), negatives=kc.negatives.EmbeddingQueue(10)
    )
    assert float(queued(embeddings, ids)) == pytest.approx(
        float(plain(embeddings, ids)), rel=1e-6
    )


def test_rows_of_the_anchors_own_id_are_left_out_of_its_candidates():
    layer = kc.ContrastiveLossLayer(
        kc.losses.NTXentLoss(), negatives=kc.negatives.EmbeddingQueue(12)
    )
    embeddings = tf.constant(
        np.random.default_rng(0).normal(size=(6, 2, 4)), tf.float32
    )
    first = float(layer(embeddings, tf.range(6), training=True))
    # The same ids again: each anchor now has the 10 rows of the 5 others once more, but not its own.
    again = float(layer(embeddings, tf.range(6), training=True))
    doubled = tf.concat([tf.reshape(embeddings, [12, 4])] * 2, axis=0)
    ids = np.repeat(np.arange(6), 2)
    expected = np.mean(
        [
            kc.losses.nt_xent_loss(
                tf.constant([ids[i]]),
                doubled[i : i + 1],
                candidates=doubled,
                candidate_ids=np.concatenate([ids, ids]),
                self_index=[i],
                candidate_mask=np.concatenate([np.ones(12, bool), ids != ids[i]]),
            )
            for i in range(12)
        ]
    )
    assert again == pytest.approx(expected, rel=1e-5)
    assert again > first


def test_unknown_ids_stay_unknown_in_the_queue():
    layer = kc.ContrastiveLossLayer(
        kc.losses.NTXentLoss(), negatives=kc.negatives.EmbeddingQueue(8)
    )
    layer(tf.ones([3, 2, 4]), tf.constant([-1, 5, -1]), training=True)
    _, ids, filled = (np.asarray(part) for part in layer.negatives.rows())
    assert sorted(ids[filled]) == [-1, -1, -1, -1, 5, 5]


# ---- several steps, against a list of all rows there ever were


def log_of_mean(positives, negatives) -> float:
    """Khosla et al. 2020, Eq. 3, of positives of weight 1."""
    logits = [logit for _, logit, _ in positives]
    mean = oracles.log_sum_exp(logits) - math.log(len(logits))
    return oracles.log_of_all(positives, negatives) - mean


LOSSES = {
    "nt_xent": (kc.losses.NTXentLoss(0.3), oracles.softmax_loss),
    "sup_con": (kc.losses.SupConLoss(0.3, position="in"), log_of_mean),
}
QUEUE, MEMORY = kc.negatives.EmbeddingQueue, kc.negatives.CrossBatchMemory
NEGATIVES = {
    "queue": (QUEUE, {}),
    "queue_top_k": (QUEUE, {"top_k": 3}),
    "queue_max_similarity": (QUEUE, {"max_similarity": 0.4}),
    "queue_both": (QUEUE, {"top_k": 2, "max_similarity": 0.4}),
    "queue_top_k_of_all": (QUEUE, {"top_k": 50}),
    "memory": (MEMORY, {}),
    "memory_start": (MEMORY, {"start": 12}),
    "memory_top_k": (MEMORY, {"top_k": 3}),
    "memory_all": (MEMORY, {"top_k": 2, "max_similarity": 0.4, "start": 7}),
}
SIZE = 9
# Of two views each: the queue wraps in mid-batch, and one batch is larger than it.
BATCHES = [3, 4, 2, 7, 4]


def steps(views=2):
    """Embeddings `(n, views, 4)` and ids `(n,)` of some steps; a third of the ids is unknown."""
    rng = np.random.default_rng(0)
    for n in BATCHES:
        rows = rng.normal(size=(n, views, 4)).astype(np.float32)
        yield rows, np.where(rng.random(n) < 0.3, -1, rng.integers(0, 3, n))


def seen_of_batch(rows, ids, past):
    """(weight, cosine) of the columns of each view of the batch: the other views, and past rows."""
    views = [
        (image, view) for image in range(len(rows)) for view in range(len(rows[0]))
    ]
    return [
        [
            (belongs(ids, a, b), oracles.cosine(rows[a][i], rows[b][j]))
            for b, j in views
            if (a, i) != (b, j)
        ]
        + past.seen_by(rows[a][i], ids[a])
        for a, i in views
    ]


def seen_of_targets(rows, targets, ids, past):
    """The same for every view i and the targets of every view j != i, a list for each (i, j)."""
    return [
        [
            [
                (belongs(ids, a, b), oracles.cosine(rows[a][i], targets[b][j]))
                for b in range(len(rows))
            ]
            + past.seen_by(rows[a][i], ids[a])
            for a in range(len(rows))
        ]
        for i in range(len(rows[0]))
        for j in range(len(targets[0]))
        if i != j
    ]


def belongs(ids, a, b) -> float:
    return float(a == b or ids[a] == ids[b] != -1)


def mean_loss(seen, loss, temperature=0.3) -> float:
    """The mean of `loss` over the anchors that have a positive."""
    anchors = [
        oracles.split([(w, cosine / temperature, cosine) for w, cosine in columns])
        for columns in seen
    ]
    return oracles.reduced(*oracles.per_anchor(loss, anchors))


def metrics_of(seen) -> dict[str, float]:
    """The metrics by definition, of the columns of every anchor."""
    seen = list(seen)
    near = [s for columns in seen for w, s in columns if w > 0]
    far = [s for columns in seen for w, s in columns if w == 0]
    hits = [
        max(s for w, s in columns if w > 0)
        > max([s for w, s in columns if w == 0], default=-math.inf)
        for columns in seen
        if any(w > 0 for w, _ in columns)
    ]
    means = {"positive_similarity": near, "negative_similarity": far, "accuracy": hits}
    return {name: np.mean(values) for name, values in means.items()}


def measured(layer) -> dict[str, float]:
    """The metrics since they were asked for last."""
    found = {metric.name: float(metric.result()) for metric in layer.metrics}
    found.pop("embedding_std")
    for metric in layer.metrics:
        metric.reset_state()
    return found


def layer_and_past(case, loss):
    kind, options = NEGATIVES[case]
    layer = kc.ContrastiveLossLayer(LOSSES[loss][0], negatives=kind(SIZE, **options))
    return layer, Past(SIZE, positives=kind is MEMORY, **options)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", NEGATIVES)
def test_steps_compare_with_the_past_as_a_list_of_all_rows_does(case, loss):
    layer, past = layer_and_past(case, loss)
    for rows, ids in steps():
        found = float(layer(tf.constant(rows), tf.constant(ids), training=True))
        seen = seen_of_batch(rows, ids, past)
        assert found == pytest.approx(mean_loss(seen, LOSSES[loss][1]), rel=1e-4)
        assert measured(layer) == pytest.approx(metrics_of(seen), abs=1e-5)
        past.add(rows.reshape(-1, 4), np.repeat(ids, 2))
    assert len(past.rows) > 4 * SIZE


@pytest.mark.parametrize("case", ["queue_both", "memory_all"])
@pytest.mark.parametrize("target_views", [1, 2])
def test_steps_with_targets_remember_the_targets(case, target_views):
    layer, past = layer_and_past(case, "nt_xent")
    for rows, ids in steps(views=2 + target_views):
        rows, targets = rows[:, :2], rows[:, 2:]
        found = layer(
            tf.constant(rows),
            tf.constant(ids),
            targets=tf.constant(targets),
            training=True,
        )
        seen = seen_of_targets(rows, targets, ids, past)
        expected = np.mean([mean_loss(pair, oracles.softmax_loss) for pair in seen])
        assert float(found) == pytest.approx(expected, rel=1e-4)
        assert measured(layer) == pytest.approx(
            metrics_of(itertools.chain(*seen)), abs=1e-5
        )
        past.add(targets.reshape(-1, 4), np.repeat(ids, target_views))


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("case", ["queue_both", "memory_all"])
def test_graph_of_unknown_batch_takes_the_same_steps(case, jit_compile):
    layer, past = layer_and_past(case, "nt_xent")
    layer.build((None, 2, 4))
    step = tf.function(
        lambda rows, ids: layer(rows, ids, training=True),
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec([None, 2, 4]), tf.TensorSpec([None], tf.int64)],
    )
    for rows, ids in itertools.islice(steps(), 3):  # each size compiles anew
        expected = mean_loss(seen_of_batch(rows, ids, past), oracles.softmax_loss)
        assert float(step(rows, tf.constant(ids))) == pytest.approx(expected, rel=1e-4)
        past.add(rows.reshape(-1, 4), np.repeat(ids, 2))


def test_evaluation_reads_the_memory_and_leaves_it():
    layer, past = layer_and_past("memory_top_k", "nt_xent")
    first, second, *_ = steps()
    layer(*map(tf.constant, first), training=True)
    past.add(first[0].reshape(-1, 4), np.repeat(first[1], 2))
    expected = mean_loss(seen_of_batch(*second, past), oracles.softmax_loss)
    for _ in range(2):
        found = float(layer(*map(tf.constant, second)))
        assert found == pytest.approx(expected, rel=1e-4)


def test_ids_of_each_view_are_remembered_with_their_targets():
    # Three views and the targets of the first two: a target has the id of its view.
    layer = kc.ContrastiveLossLayer(kc.losses.NTXentLoss(), negatives=MEMORY(6))
    rows = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4)), tf.float32)
    ids = tf.constant([[1, 2, 3], [4, 5, 6]], tf.int64)
    layer(rows, ids, targets=rows[:, :2], training=True)
    embeddings, remembered, filled = (
        np.asarray(part) for part in layer.negatives.rows()
    )
    assert remembered[filled].tolist() == [1, 2, 4, 5]
    np.testing.assert_array_equal(embeddings[filled], np.reshape(rows[:, :2], (4, 4)))


def test_plain_queue_has_one_mask_for_all_anchors():
    queue = QUEUE(5)
    queue.build((None, 2))
    queue.add(*rows_of([3, 4]))
    mask = queue.mask(*rows_of([3, 9, 9]))
    assert mask.numpy().tolist() == [True, True, False, False, False]


def test_gradient_passes_the_chosen_rows_alone():
    # An anchor moves by the row it is compared with: the nearer of two, of another id.
    layer = kc.ContrastiveLossLayer(
        kc.losses.NTXentLoss(1.0), negatives=QUEUE(2, top_k=1)
    )
    layer.build((None, 2, 3))

    def gradient(past):
        layer.negatives.added.assign(0)
        layer.negatives.add(tf.constant(past), tf.constant([7, 8]))
        rows = tf.constant([[[1.0, 0.0, 0.0], [1.0, 0.1, 0.0]]])
        with tf.GradientTape() as tape:
            tape.watch(rows)
            loss = layer(rows, tf.constant([0]))
        return tape.gradient(loss, rows).numpy()

    near, far, farther = [1.0, 1.0, 0.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, -1.0]
    expected = gradient([near, far])
    np.testing.assert_array_equal(gradient([near, farther]), expected)
    assert np.abs(gradient([[1.0, 0.0, 1.0], far]) - expected).max() > 0.01


# ---- configuration and files


@pytest.mark.parametrize("case", NEGATIVES)
def test_options_round_trip_through_the_config_of_the_layer(case):
    kind, options = NEGATIVES[case]
    layer = kc.ContrastiveLossLayer(
        kc.losses.NTXentLoss(), negatives=kind(7, name="past", **options)
    )
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    ).negatives
    assert type(copy) is kind
    assert copy.get_config() == layer.negatives.get_config()
    found = {name: getattr(copy, name) for name in ("size", "name", *options)}
    assert found == {"size": 7, "name": "past", **options}


@pytest.mark.parametrize("case", ["queue_both", "memory_all"])
def test_saved_model_goes_on_with_what_it_remembered(tmp_path, case):
    kind, options = NEGATIVES[case]
    layer = kc.ContrastiveLossLayer(
        kc.losses.NTXentLoss(0.5), negatives=kind(50, **options)
    )
    model = small_model(loss=layer)
    model.fit(dataset(), verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    past, again = model.loss_layer.negatives, loaded.loss_layer.negatives
    assert type(again) is kind
    assert int(again.added) == int(past.added) == 64  # 32 images of 2 views
    assert len(np.unique(past.ids)) > 20
    for found, expected in zip(again.rows(), past.rows()):
        np.testing.assert_array_equal(found, expected)
    first, second = (
        m.fit(dataset(), verbose=0, shuffle=False).history["loss"]
        for m in (model, loaded)
    )
    assert first == second


# ---- masks


def exact_rows():
    """Anchors and candidates whose cosines are exact in float32, most of them tied: entries are 0 or a power of 2."""
    axes = np.eye(4, dtype=np.float32)
    anchors = np.stack([axes[0] * 2, -axes[1], axes[2] * 4, np.zeros(4, np.float32)])
    candidates = np.stack([axes[1], axes[0], -axes[0], axes[0] * 8, axes[2], axes[0]])
    return anchors, candidates


def any_rows(n=5, m=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)), rng.normal(size=(m, 4)) * rng.uniform(
        0.1, 9, (m, 1)
    )


ROWS = {"tied": exact_rows, "any": any_rows}
MODES = {
    "eager": lambda function: function,
    "graph": lambda function: tf.function(function, input_signature=UNKNOWN),
    "xla": lambda function: tf.function(
        function, input_signature=UNKNOWN, jit_compile=True
    ),
}
UNKNOWN = [tf.TensorSpec([None, 4]), tf.TensorSpec([None, 4])]
every_mode = pytest.mark.parametrize("mode", MODES)
every_rows = pytest.mark.parametrize("rows", ROWS)


@every_mode
@every_rows
def test_hard_negative_mask_chooses_the_most_similar(mode, rows):
    anchors, candidates = ROWS[rows]()
    n, m = len(anchors), len(candidates)
    rng = np.random.default_rng(1)
    of_columns, of_pairs = rng.random(m) < 0.5, rng.random((n, m)) < 0.4
    cases = [(1, None), (m, None), (3, of_columns), (3, of_pairs), (m + 5, of_pairs)]
    for k, mask in [*cases, (2, np.zeros(m, bool))]:
        choose = MODES[mode](
            lambda a, c, k=k, mask=mask: kc.negatives.hard_negative_mask(
                a, c, k, mask=mask
            )
        )
        found = choose(*(tf.constant(r, tf.float32) for r in (anchors, candidates)))
        left = np.broadcast_to(True if mask is None else mask, (n, m))
        assert found.dtype == tf.bool
        np.testing.assert_array_equal(
            found, hardest(anchors, candidates, k, left), err_msg=f"{k}, {mask}"
        )


@every_mode
@every_rows
def test_false_negative_mask_leaves_out_what_is_too_similar(mode, rows):
    anchors, candidates = ROWS[rows]()
    for limit in (-1.0, -0.3, 0.0, 0.5, 1.0):
        choose = MODES[mode](
            lambda a, c, limit=limit: kc.negatives.false_negative_mask(a, c, limit)
        )
        found = choose(*(tf.constant(r, tf.float32) for r in (anchors, candidates)))
        np.testing.assert_array_equal(
            found, below(anchors, candidates, limit), err_msg=str(limit)
        )


def test_false_negative_mask_of_1_leaves_out_nothing():
    # The cosine of a row with itself may round to more than 1.
    rows = np.random.default_rng(0).normal(size=(300, 7))
    assert np.all(kc.negatives.false_negative_mask(rows, rows, 1.0))


def test_hard_negative_mask_of_half_precision_rows_computes_in_float32():
    anchors, candidates = (rows.astype(np.float16) for rows in any_rows())
    expected = hardest(
        *(r.astype(float) for r in (anchors, candidates)), 3, np.ones((5, 8))
    )
    np.testing.assert_array_equal(
        kc.negatives.hard_negative_mask(anchors, candidates, 3), expected
    )


# ---- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"`size` must be an integer >= 1.*size=0"),
        ({"size": 2.5}, "`size` must be an integer >= 1"),
        ({"top_k": 0}, r"`top_k` must be an integer >= 1.*top_k=0"),
        ({"top_k": 1.5}, "`top_k` must be an integer >= 1"),
        ({"max_similarity": 1.01}, r"`max_similarity` must be in -1..1.*1\.01"),
        ({"max_similarity": -1.5}, "`max_similarity` must be in -1..1"),
        ({"max_similarity": math.nan}, "`max_similarity` must be a finite number"),
        ({"max_similarity": "0.5"}, "`max_similarity` must be a finite number"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [QUEUE, MEMORY])
def test_option_out_of_its_range_is_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"size": 4, **options})


@pytest.mark.parametrize("start", [-1, 0.5, True])
def test_start_that_is_no_count_is_refused(start):
    with pytest.raises(ValueError, match="`start` must be an integer >= 0"):
        MEMORY(4, start=start)


@pytest.mark.parametrize(
    "negatives",
    [QUEUE(4, top_k=2), QUEUE(4, max_similarity=0.5), MEMORY(4)],
    ids=["top_k", "max_similarity", "memory"],
)
@pytest.mark.parametrize(
    "loss", [kc.losses.SymmetricInfoNCELoss, kc.losses.SigmoidLoss]
)
def test_loss_over_pairs_refuses_other_negatives_for_each_anchor(loss, negatives):
    message = (
        "of a loss over pairs must be an EmbeddingQueue without `top_k` and `max_similarity`. "
        f"Received: negatives={type(negatives).__name__}, loss={loss.__name__}"
    )
    with pytest.raises(ValueError, match=message):
        kc.ContrastiveLossLayer(loss(), negatives=negatives)


def test_masks_refuse_what_is_no_count_no_cosine_or_no_matrix():
    rows = tf.ones([2, 3])
    with pytest.raises(ValueError, match=r"`k` must be an integer >= 1.*k=0"):
        kc.negatives.hard_negative_mask(rows, rows, 0)
    with pytest.raises(ValueError, match="`anchors` must have rank 2"):
        kc.negatives.hard_negative_mask(rows[0], rows, 1)
    with pytest.raises(ValueError, match=r"`max_similarity` must be in -1..1.*=2"):
        kc.negatives.false_negative_mask(rows, rows, 2)
    with pytest.raises(ValueError, match="`candidates` must have rank 2"):
        kc.negatives.false_negative_mask(rows, rows[None], 0.5)
