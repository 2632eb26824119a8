"""The queue of past embeddings."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc


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


def test_queue_round_trips_through_its_config():
    queue = kc.negatives.EmbeddingQueue(7)
    config = keras.saving.serialize_keras_object(queue)
    assert keras.saving.deserialize_keras_object(config).size == 7


def test_queue_of_no_slots_is_refused():
    with pytest.raises(ValueError, match="`size` must be an integer >= 1"):
        kc.negatives.EmbeddingQueue(0)
