"""Unit rows, kept as columns in blocks on the device, and compared exactly."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf

from keras_contrastive._numerics import GROUP, top_k_columns

# Columns in a block. Odd multiples of GROUP throughout: the rows of a block whose length is a power of two fall into
# the same lines of the cache, and the product takes two to three times as long.
BLOCK = 4097 * GROUP
# How many scores there are at a time, 64 MiB of them.
_SCORES = 2**24
# Rows that are added few at a time wait for a search, or until there are so many: writing them copies a block.
_MAX_PENDING = 8192
# near_pairs: one product of so many queries and columns is cheap to call and fits in 32 MiB.
_TILE_QUERIES, _TILE_COLUMNS = 1008, 8160


class Columns:
    """`count` unit rows of one width; all blocks but the last are full.

    The blocks are tensors and made anew when something in them changes, in one pass. A variable could be changed in
    place, but TensorFlow copies the whole of it at every reading from then on.
    """

    def __init__(self, dim: int):
        self.dim = dim
        self.count = 0
        self._written: list[tf.Tensor] = []  # (dim, capacity) each
        self._pending: list[np.ndarray] = []  # (n, dim) each: rows for the next blocks

    @property
    def _blocks(self) -> list[tf.Tensor]:
        """The blocks, with all rows in them."""
        self._write()
        return self._written

    def append(self, rows: np.ndarray) -> None:
        """Put float32 rows `(n, dim)` behind the others. The array is kept: it must not change."""
        self._pending.append(rows)
        self.count += len(rows)
        if sum(map(len, self._pending)) >= _MAX_PENDING:
            self._write()

    def _write(self) -> None:
        if not self._pending:
            return
        rows = np.concatenate(self._pending)
        done = self.count - len(rows)
        while len(rows):
            number, column = divmod(done, BLOCK)
            part, rows = rows[: BLOCK - column], rows[BLOCK - column :]
            done += len(part)
            if number == len(self._written):
                self._written.append(tf.zeros((self.dim, 0)))
            block = self._written[number]
            capacity = max(_capacity(column + len(part)), block.shape[1])
            room = tf.zeros((self.dim, capacity - column - len(part)))
            self._written[number] = tf.concat([block[:, :column], part.T, room], axis=1)
        self._pending = []

    def remove(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take rows out; the last ones move into their places.

        Args:
            places: int64, ascending, no two equal.

        Returns:
            The places that are filled, and those that the rows there come from, in the same order.
        """
        self._write()
        kept = self.count - len(places)
        holes = places[places < kept]
        movers = np.setdiff1d(np.arange(kept, self.count), places, assume_unique=True)
        for start in range(0, len(holes), BLOCK // 8):  # the indices take memory
            some = slice(start, start + BLOCK // 8)
            self._put(holes[some], self._take(movers[some]))
        self.count = kept
        self._shrink()
        return holes, movers

    def _take(self, places: np.ndarray) -> tf.Tensor:
        parts = [
            tf.gather(self._blocks[number], columns, axis=1)
            for number, columns, _ in _by_block(places)
        ]
        return tf.concat(parts, axis=1)  # (dim, len(places))

    def _put(self, places: np.ndarray, values: tf.Tensor) -> None:
        for number, columns, where in _by_block(places):
            at = tf.stack(
                tf.meshgrid(tf.range(self.dim, dtype=tf.int64), columns, indexing="ij"),
                axis=-1,
            )  # (dim, n, 2)
            self._written[number] = tf.tensor_scatter_nd_update(
                self._written[number], at, values[:, where]
            )

    def _shrink(self) -> None:
        """Drop empty blocks, and what a block has too much of."""
        del self._written[-(-self.count // BLOCK) :]
        if self._written:
            block = self._written[-1]
            capacity = _capacity(self.count - BLOCK * (len(self._written) - 1))
            if 2 * capacity < block.shape[1]:
                self._written[-1] = block[:, :capacity]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """float32 `(stop - start, dim)`."""
        found = np.empty((stop - start, self.dim), np.float32)
        for number, columns, where in _by_block(np.arange(start, stop)):
            part = self._blocks[number][:, columns[0] : columns[-1] + 1]
            found[where] = part.numpy().T
        return found

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Inner products float32 `(m, k)`, largest first, and int64 places `(m, k)`, of equal ones the lowest first.

        Args:
            queries: float32 `(m, dim)`.
            k: Integer in 1..count.
        """
        blocks = self._blocks
        # One function for each k: of large ones few, since k ends at a growing count.
        traced_k = k if k <= 32 else 1 << (k - 1).bit_length()
        widest = max(block.shape[1] for block in blocks)
        batch = max(1, min(256, _SCORES // (widest + 4 * traced_k)))
        scores = np.empty((len(queries), k), np.float32)
        places = np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), batch):
            some = slice(start, start + batch)
            best = self._best(tf.constant(queries[some]), traced_k)
            scores[some], places[some] = (part.numpy()[:, :k] for part in best)
        return scores, places

    def _best(self, queries: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
        best = None
        for number, block in enumerate(self._blocks):
            start = number * BLOCK
            compare = _comparison(self.dim, block.shape[1], k)
            here = tf.constant(min(self.count - start, BLOCK), tf.int64)
            found = compare(queries, block, here, tf.constant(start, tf.int64))
            best = found if best is None else _merged(best, found, k)
        return best

    def pairs(self, threshold: float):
        """Yield all places i < j whose rows have at least that inner product: int64 i, int64 j, float32, tile by tile."""
        for column in range(0, self.count, _TILE_COLUMNS):
            end = min(column + _TILE_COLUMNS, self.count)
            columns = tf.constant(self.rows(column, end))
            for row in range(0, end, _TILE_QUERIES):
                queries = tf.constant(self.rows(row, min(row + _TILE_QUERIES, end)))
                at, scores = _alike(queries, columns, tf.constant(threshold))
                i, j = (at.numpy() + [row, column]).T
                once = i < j
                yield i[once], j[once], scores.numpy()[once]


def _capacity(needed: int) -> int:
    """The least capacity that has room: few of them, for each is compiled anew, and an eighth too large at most."""
    capacity = 33 * GROUP
    while capacity < needed:
        capacity = min((capacity // GROUP * 9 // 8 | 1) * GROUP, BLOCK)
    return capacity


def _by_block(places: np.ndarray):
    """Each block that ascending places are in: its number, the columns in it, and where in `places` they stand."""
    numbers = places // BLOCK
    for number in np.unique(numbers).tolist():
        where = slice(*np.searchsorted(numbers, [number, number + 1]).tolist())
        yield number, places[where] - number * BLOCK, where


@functools.lru_cache(maxsize=128)
def _comparison(dim: int, capacity: int, k: int):
    """The graph that compares any number of queries with one block."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, dim], tf.float32),
            tf.TensorSpec([dim, capacity], tf.float32),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([], tf.int64),
        ]
    )
    def compare(queries, columns, count, start):
        scores, indices = top_k_columns(queries, columns, count, k)
        return scores, indices + start

    # Called as a function it would be taken for one that is traced too often, and TensorFlow warns.
    return compare.get_concrete_function()


def _merged(first, second, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The k best of two lists; of equal ones those of the first list come first."""
    scores, places = (tf.concat(parts, axis=1) for parts in zip(first, second))
    scores, chosen = tf.math.top_k(scores, k)
    return scores, tf.gather(places, chosen, batch_dims=1)


@tf.function(
    input_signature=[
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([None, None], tf.float32),
        tf.TensorSpec([], tf.float32),
    ]
)
def _alike(queries, columns, threshold):
    scores = tf.matmul(queries, columns, transpose_b=True)
    at = tf.where(scores >= threshold)  # (found, 2)
    return at, tf.gather_nd(scores, at)
