"""The draws: equal wherever they are made, and distributed as they should be."""

import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import _random
from tests.test_data_sampling import assert_evenly_spread

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


def permuted_of_each(lengths, numbers, key=None):
    """Each row's whole permutation: a list of arrays, of `lengths[i]` for `numbers[i]`."""
    key = _random.make_key(0, 0) if key is None else key
    positions = np.concatenate([np.arange(length) for length in lengths])
    found = _random.permuted_each(
        tf.constant(positions),
        tf.constant(np.repeat(lengths, lengths)),
        key,
        tf.constant(np.repeat(numbers, lengths)),
    )
    return np.split(found.numpy(), np.cumsum(lengths)[:-1])


def test_permuted_each_permutes_every_length_by_its_own_number():
    lengths = [1, 2, 3, 7, 64, 1000, 1, 1000, 1000]
    numbers = [0, 0, 0, 0, 0, 5, 6, 7, 5]
    orders = permuted_of_each(lengths, numbers)
    for order, length in zip(orders, lengths):
        assert sorted(order) == list(range(length))
    np.testing.assert_array_equal(orders[5], orders[8])  # of one number
    # Two orders of 1000 agree at one place on average (Poisson): 8 or more has probability 1e-5.
    assert np.sum(orders[5] == orders[7]) < 8
    (again,) = permuted_of_each([1000], [5], _random.make_key(0, 1))
    assert np.sum(orders[5] == again) < 8


def test_permuted_each_at_one_position_is_that_of_the_whole():
    lengths, numbers = [5, 9, 9], [1, 2, 3]
    whole = permuted_of_each(lengths, numbers)
    for position in range(5):
        found = _random.permuted_each(
            tf.fill([3], tf.constant(position, tf.int64)),
            tf.constant(lengths, tf.int64),
            _random.make_key(0, 0),
            tf.constant(numbers, tf.int64),
        )
        assert found.numpy().tolist() == [order[position] for order in whole]


@pytest.mark.parametrize("length", [2, 5, 12])
def test_permuted_each_of_many_numbers_puts_every_value_everywhere_evenly(length):
    orders = np.stack(permuted_of_each([length] * 3000, np.arange(3000)))
    for position in range(length):
        assert_evenly_spread(np.bincount(orders[:, position], minlength=length))


def test_two_of_a_small_shuffle_come_first_equally_often():
    n, draws = 20, 20_000
    keys = np.random.default_rng(0).integers(-(2**62), 2**62, (draws, 2))
    first = [
        _random.permuted(tf.constant([0, 1], tf.int64), n, tf.constant(key)).numpy()
        for key in keys[:2000]
    ]
    counts = np.bincount([n * i + j for i, j in first], minlength=n * n)
    counts = counts.reshape(n, n)[~np.eye(n, dtype=bool)]
    # Chi-square of 380 equal counts: mean 379, standard deviation 27.5; TensorFlow's default gives some 480.
    chi_square = np.sum((counts - counts.mean()) ** 2 / counts.mean())
    assert abs(chi_square - 379) < 3 * 27.5
