"""Pairs and triplets that somebody has put together: which belong together is not drawn, but given."""

from __future__ import annotations

import zlib

import numpy as np
import tensorflow as tf

from keras_contrastive.data.decoder import Unreadable
from keras_contrastive.data.files import DecodedExamples, read_into_memory
from keras_contrastive.data.part import Examples, host_tensor


class Given(DecodedExamples):
    """Given pairs (anchor, positive) or triplets (anchor, positive, negative) of examples.

    `data.batches(given, batch_size)` gives them as views, uint8 `(batch, 2 or 3, h, w, c)`. The ids of pairs,
    `(batch,)`, say which pairs belong together: those that share an example, directly or over others, so that
    no loss takes them for negatives. Those of triplets, `(batch, 3)`, are `(a, a, n)`, the numbers of anchor
    and negative among `examples`.

    Args:
        examples: The images: a `Part`, a `FilePart` or another.
        rows: Integers `(n, 2)` or `(n, 3)`, in 0..len(examples) - 1.

    Attributes:
        examples: As given.
        rows: int64 array.
        groups: int64 `(n,)`: pairs and triplets of one number are connected, by an example or over others.

    Raises:
        ValueError: `rows` have another shape, name an example that is not there, or a triplet's negative is its
            anchor or positive.
    """

    def __init__(self, examples: Examples, rows):
        rows = np.asarray(rows)
        if rows.ndim != 2 or rows.shape[1] not in (2, 3) or not len(rows):
            raise ValueError(
                "`rows` must be pairs (n, 2) or triplets (n, 3) of examples, n > 0. "
                f"Received: rows.shape={rows.shape}."
            )
        if rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(examples):
            raise ValueError(
                f"`rows` must be integers from 0 to {len(examples) - 1}, the numbers of examples. "
                f"Received: {rows.dtype}, {rows.min()} to {rows.max()}."
            )
        if rows.shape[1] == 3:
            wrong = np.flatnonzero((rows[:, 2:] == rows[:, :2]).any(axis=1))
            if len(wrong):
                raise ValueError(
                    "A triplet's negative must be neither its anchor nor its positive. "
                    f"Received: rows[{wrong[0]}]={rows[wrong[0]].tolist()}."
                )
        self.examples, self.rows = examples, rows.astype(np.int64)
        self.views = rows.shape[1]
        self.groups = _connected(self.rows, len(examples))
        self._ids = self.groups if self.views == 2 else self.rows[:, [0, 0, 2]]
        self._numbers = np.arange(len(rows))  # for messages, in sets taken of this one
        super().__init__(
            examples.image_shape,
            None,
            None,
            on_damage=getattr(examples, "on_damage", "skip"),
            skipped=examples.skipped,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices) -> Given:
        used, rows = np.unique(self.rows[indices], return_inverse=True)
        return self._over(
            self.examples.take(used), rows.reshape(-1, self.views), indices
        )

    def _over(self, examples, rows, of) -> Given:
        given = Given(examples, rows)
        given._numbers = self._numbers[of]
        return given

    def over(self, examples: Examples, kept: np.ndarray) -> Given:
        """The same pairs over what was kept of the examples: integers, in order."""
        place = np.full(len(self.examples), -1)
        place[kept] = np.arange(len(kept))
        rows = place[self.rows]
        whole = (rows >= 0).all(axis=1)
        if not whole.any():
            raise ValueError(
                "No pair or triplet is left of which every file can be read."
            )
        return self._over(examples, rows[whole], whole)

    def in_memory(self) -> Given:
        if isinstance(self.examples, DecodedExamples):
            return self.over(*read_into_memory(self.examples))
        return Given(self.examples.in_memory(), self.rows)

    @property
    def fingerprint(self) -> int:
        return zlib.crc32(self.rows.tobytes(), self.examples.fingerprint)

    def ids(self, rows, by):
        return tf.gather(host_tensor(self._ids), rows)

    def key(self, row: int):
        return row

    def name_of(self, row: int) -> str:
        return f"{'pair' if self.views == 2 else 'triplet'} {self._numbers[row]}"

    def settle(self, row: int, outcome) -> np.ndarray | None:
        # The file is listed already.
        return None if isinstance(outcome, Unreadable) else outcome

    def example(self, row: int) -> np.ndarray:
        members = self.rows[row].tolist()
        if not isinstance(self.examples, DecodedExamples):
            return self.examples.read(tf.constant(members, tf.int64))[0].numpy()
        images = [self.examples.try_example(member) for member in members]
        for member, image in zip(members, images):
            if image is None:
                raise Unreadable(f"'{self.examples.name_of(member)}' cannot be read")
        return np.stack(images)

    def attempt(self, rows):
        members = tf.gather(host_tensor(self.rows), rows)  # (m, views)
        if isinstance(self.examples, DecodedExamples):
            images, got = self.examples.attempt(tf.reshape(members, [-1]))
        else:
            images, _ = self.examples.read(tf.reshape(members, [-1]))
            got = tf.ones(tf.shape(images)[:1], tf.bool)
        shape = tf.concat([tf.shape(members), tf.shape(images)[1:]], axis=0)
        got = tf.reduce_all(tf.reshape(got, tf.shape(members)), axis=1)
        return tf.reshape(images, shape), got


def _connected(pairs: np.ndarray, count: int) -> np.ndarray:
    """For each pair or triplet, the smallest example that it is connected with. `(n,)`"""
    root = np.arange(count)
    while True:  # hand the smallest number on, and follow it, until nothing changes
        before = root.copy()
        low = root[pairs].min(axis=1)
        for column in pairs.T:
            np.minimum.at(root, column, low)
        root = root[root]
        if (root == before).all():
            return root[pairs[:, 0]]
