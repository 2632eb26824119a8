"""Several workers: disjoint shares that are together what one worker would see, and equally many batches."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import data
from tests.test_data_batches import part_of, read
from tests.test_data_stream import of_arrays, of_bytes, of_shards

SOURCES = {
    "part": lambda: part_of(100),
    "stream": of_arrays,
    "bytes": of_bytes,
    "shards": of_shards,
}
PIPELINES = {
    "batches": data.batches,
    "pairs": data.pairs,
    "triplets": data.triplets,
    "triplets_by_label": lambda *args, **options: data.triplets(
        *args, by="label", **options
    ),
}
every_source = pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
every_pipeline = pytest.mark.parametrize("draw", PIPELINES.values(), ids=PIPELINES)


def context(workers, worker):
    return tf.distribute.InputContext(
        num_input_pipelines=workers,
        input_pipeline_id=worker,
        num_replicas_in_sync=workers,
    )


@every_source
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_share_every_global_batch(make, workers):
    alone = read(data.batches(make(), 4 * workers, seed=5))
    shares = [
        read(data.batches(make(), 4, seed=5, input_context=context(workers, worker)))
        for worker in range(workers)
    ]
    for column, whole in enumerate(alone):
        together = np.concatenate([share[column] for share in shares], axis=1)
        np.testing.assert_array_equal(together, whole)


@every_source
@every_pipeline
def test_workers_get_disjoint_shares_of_equally_many_batches(make, draw):
    shares = [
        read(draw(make(), 7, input_context=context(3, worker))) for worker in range(3)
    ]
    anchors = [images[:, :, 0] if images.ndim == 6 else images for images, _ in shares]
    assert len({len(images) for images in anchors}) == 1
    seen = np.concatenate([images.reshape(-1, images[0, 0].size) for images in anchors])
    assert len(np.unique(seen, axis=0)) == len(seen)


def test_workers_resume_where_they_were():
    options = {"seed": 2, "input_context": context(2, 1)}
    _, ids = read(data.batches(part_of(100), 8, **options))
    assert int(data.batches(part_of(100), 8, **options).cardinality()) == len(ids) == 6
    _, rest = read(data.batches(part_of(100), 8, step=2, **options))
    np.testing.assert_array_equal(rest, ids[2:])


def test_workers_of_class_balanced_batches_see_others():
    part = part_of(100)
    shares = [
        read(data.class_balanced(part, 5, 2, input_context=context(2, worker)))[0]
        for worker in range(2)
    ]
    assert len(shares[0]) == len(shares[1]) == 5
    both = np.concatenate(shares).reshape(-1, shares[0][0, 0].size)
    assert len(np.unique(both, axis=0)) == len(both)


def test_workers_under_a_strategy_get_their_shares():
    cpus = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in cpus[:1]])
    part = part_of(40)

    def dataset(context):
        size = context.get_per_replica_batch_size(8)
        return data.batches(part, size, input_context=context)

    shares = strategy.distribute_datasets_from_function(dataset)
    ids = np.concatenate([ids.numpy() for _, ids in shares])
    np.testing.assert_array_equal(np.sort(ids), np.arange(40))


def test_too_many_workers_and_wrong_contexts_are_refused():
    with pytest.raises(ValueError, match=r"Each of the 20 workers .* a batch of 8"):
        data.batches(part_of(100), 8, input_context=context(20, 0))
    with pytest.raises(ValueError, match=r"must be a tf.distribute.InputContext"):
        data.batches(part_of(100), 8, input_context=2)
