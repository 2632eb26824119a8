"""Everything random of this library: stateless draws that are equal with and without XLA.

A *key* is an int64 tensor `[2]`. It comes from `make_key(seed, step)`, and `fold(key, number)` makes another,
independent one from it. The same key always gives the same numbers: eagerly, in a graph, in `tf.data`, under
`jit_compile`. TensorFlow's own float draws are not like that (plain kernels take the low bits of the
generator, XLA the high ones), so only its integer draws are used here, by the one algorithm both know.
"""

from __future__ import annotations

import math

import tensorflow as tf


def make_key(seed, step) -> tf.Tensor:
    """The key of a step (or an epoch) of a seed. Both are integers or integer scalars. Returns int64 `[2]`."""
    return tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])


def fold(key: tf.Tensor, number) -> tf.Tensor:
    """Another key, a function of `key` and the integer `number`. Returns int64 `[2]`."""
    return tf.random.experimental.stateless_fold_in(
        tf.cast(key, tf.int64), tf.cast(number, tf.int64), alg="philox"
    )


def _bits(key, shape) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, key, None, None, tf.uint32, alg="philox")


def uniform(key: tf.Tensor, shape, low=0.0, high=1.0) -> tf.Tensor:
    """float32 in [low, high), in 2^24 steps."""
    bits = tf.bitwise.right_shift(_bits(key, shape), tf.constant(8, tf.uint32))
    return between(tf.cast(bits, tf.float32) * 2.0**-24, low, high)


def units(key: tf.Tensor, n, count: int) -> list[tf.Tensor]:
    """`count` independent draws for each of n: float32 `[n]` each, in [0, 1). One draw, as each is long to compile."""
    return tf.unstack(uniform(key, [count, n]))


def between(unit: tf.Tensor, low, high) -> tf.Tensor:
    """A draw of `units` as one in [low, high)."""
    return low + (high - low) * unit


def below(unit: tf.Tensor, limit) -> tf.Tensor:
    """A draw of `units` as an integer in [0, limit), int64, for 0 < limit < 2^20. The bias is below limit / 2^24."""
    limit = tf.cast(limit, tf.int64)
    drawn = tf.cast(unit * tf.cast(limit, tf.float32), tf.int64)
    return tf.minimum(drawn, limit - 1)  # the product may round up


def integers(key: tf.Tensor, shape, limit) -> tf.Tensor:
    """int64 in [0, limit), for 0 < limit < 2^31. The bias is below limit / 2^32."""
    scaled = tf.cast(_bits(key, shape), tf.int64) * tf.cast(limit, tf.int64)
    return tf.bitwise.right_shift(scaled, tf.constant(32, tf.int64))


def normal(key: tf.Tensor, shape) -> tf.Tensor:
    """Standard normal float32, by Box and Muller."""
    radius = tf.sqrt(-2.0 * tf.math.log(1.0 - uniform(fold(key, 0), shape)))
    return radius * tf.cos(2.0 * math.pi * uniform(fold(key, 1), shape))


def shuffled(positions: tf.Tensor, length, seed, epoch) -> tf.Tensor:
    """What stands at `positions` when 0..length-1 are put into the order of (seed, epoch).

    A permutation that is computed where it is asked for: constant memory, any position at once. Does not
    compile under XLA (it belongs into `tf.data`).

    Args:
        positions: int64 `[...]`, each in [0, length).
        length: Integer > 0: how many there are.
        seed: Integer.
        epoch: Integer.

    Returns:
        int64, of the shape of `positions`.
    """
    return permuted(positions, length, make_key(seed, epoch))


def permuted(positions: tf.Tensor, length, key: tf.Tensor) -> tf.Tensor:
    """`shuffled`, in the order of a key."""
    positions = tf.cast(positions, tf.int64)
    numbers = tf.zeros_like(tf.reshape(positions, [-1]))
    lengths = numbers + tf.cast(length, tf.int64)
    flat = permuted_each(tf.reshape(positions, [-1]), lengths, key, numbers)
    return tf.ensure_shape(tf.reshape(flat, tf.shape(positions)), positions.shape)


def permuted_each(positions: tf.Tensor, lengths, key: tf.Tensor, numbers) -> tf.Tensor:
    """What stands at each position in a permutation of its own: of `lengths[i]`, in the order of (key, numbers[i]).

    Args:
        positions: int64 `[n]`, each in [0, lengths[i]).
        lengths: int64 `[n]`, > 0.
        key: int64 `[2]`.
        numbers: int64 `[n]`: equal numbers with equal lengths are one permutation.

    Returns:
        int64 `[n]`.
    """
    key = tf.cast(key, tf.int64)
    # Neighbouring seeds give related orders: each is mixed first.
    first = _mixed(tf.cast(numbers, tf.int64) + _mixed(key[0]))
    second = _mixed(first + key[1])
    seeds = tf.stack([first, second, _mixed(second)], axis=1)
    # What stands below `tf.random.experimental.index_shuffle`, which takes one seed alone, and whose 4 rounds are too
    # few: of 20, some two come first and second three times as often as they should.
    return tf.raw_ops.RandomIndexShuffle(
        index=tf.cast(positions, tf.int64),
        seed=seeds,
        max_index=tf.cast(lengths, tf.int64) - 1,
        rounds=8,
    )


def _mixed(number: tf.Tensor) -> tf.Tensor:
    """int64 to int64: the finaliser of SplitMix64 (Steele, Lea, Flood, 2014), every bit of which depends on all."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        number = _shifted_in(number, shift) * tf.constant(factor, tf.int64)
    return _shifted_in(number, 31)


def _shifted_in(number: tf.Tensor, by: int) -> tf.Tensor:
    unsigned = tf.bitcast(number, tf.uint64)
    shifted = tf.bitwise.right_shift(unsigned, tf.constant(by, tf.uint64))
    return tf.bitcast(tf.bitwise.bitwise_xor(unsigned, shifted), tf.int64)
