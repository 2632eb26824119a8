"""The draws: equal wherever they are made, and distributed as they should be."""

import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import _random

DRAWS = {
    "uniform": lambda key: _random.uniform(key, [1000], -1.0, 3.0),
    "integers": lambda key: _random.integers(key, [1000], 7),
    "normal": lambda key: _random.normal(key, [1000]),
    "fold": lambda key: _random.fold(key, 5),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_equal_eagerly_in_a_graph_under_xla_and_in_a_dataset(name):
    draw = DRAWS[name]
    key = _random.make_key(3, 11)
    expected = draw(key).numpy()
    mapped = tf.data.Dataset.from_tensors(key).map(draw)
    # XLA may contract the arithmetic on the drawn bits differently in the last place.
    for found in (
        tf.function(draw)(key),
        tf.function(draw, jit_compile=True)(key),
        next(iter(mapped)),
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-6, atol=2e-6)


def test_uniform_draws_fill_the_interval_evenly():
    draws = _random.uniform(_random.make_key(0, 0), [20000], 2.0, 5.0).numpy()
    counts, _ = np.histogram(draws, bins=10, range=(2, 5))
    # Each bin holds 2000 +- 42 (binomial); five of those.
    assert np.all(np.abs(counts - 2000) < 212)


def test_normal_draws_have_mean_zero_and_deviation_one():
    draws = _random.normal(_random.make_key(0, 0), [40000]).numpy()
    assert abs(draws.mean()) < 5 / 200  # the mean of 40000 draws deviates by 1 / 200
    assert abs(draws.std() - 1) < 5 / 283


def test_integers_are_below_the_limit_and_even():
    counts = np.bincount(_random.integers(_random.make_key(1, 2), [7000], 7).numpy())
    assert len(counts) == 7
    assert np.all(np.abs(counts - 1000) < 5 * 29.3)  # binomial: sqrt(7000 * 6 / 49)


def test_keys_of_other_steps_seeds_and_folds_draw_other_numbers():
    keys = [_random.make_key(0, 0), _random.make_key(0, 1), _random.make_key(1, 0)]
    keys += [_random.fold(keys[0], 0), _random.fold(keys[0], 1)]
    draws = {tuple(_random.uniform(key, [4]).numpy()) for key in keys}
    assert len(draws) == 5


@pytest.mark.parametrize("length", [1, 2, 3, 10, 1000])
def test_shuffled_positions_are_a_permutation_of_each_epoch(length):
    orders = [
        _random.shuffled(tf.range(length, dtype=tf.int64), length, 0, epoch).numpy()
        for epoch in range(3)
    ]
    for order in orders:
        assert sorted(order) == list(range(length))
    if length >= 10:
        assert not np.array_equal(orders[0], orders[1])
