"""The libraries for approximate search, each behind the same few calls: keys and rows in, keys and scores out."""

from __future__ import annotations

import numpy as np

# How many rows are handed over at once while an index is built.
_CHUNK = 65_536
# The share of faiss' lists that are searched. Of the ten nearest among 119,488 embeddings of CIFAR-10 (SimCLR, dimension
# 256) 1/64 finds 98.8 %, 1/32 99.8 %, at a quarter of the time of 1/4. Of random rows, which lie in no clusters, 27 %.
_PROBED = 1 / 32


class Faiss:
    """Lists of the rows about each of 4 sqrt(n) centres; the lists of the centres nearest to a query are searched."""

    package = "faiss-cpu"

    def __init__(self, index):
        self.index = index

    @staticmethod
    def check() -> None:
        import faiss  # noqa: F401

    @classmethod
    def build(cls, columns) -> Faiss:
        import faiss

        lists = _num_lists(columns.count)
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(columns.dim),
            columns.dim,
            lists,
            faiss.METRIC_INNER_PRODUCT,
        )
        # faiss draws a sample of its own; of this size it takes seconds and gives lists as good.
        index.cp.max_points_per_centroid = 64
        index.cp.min_points_per_centroid = 1  # a warning of small sets alone
        index.nprobe = max(1, min(lists, round(_PROBED * lists)))
        index.train(columns.rows(0, columns.count))
        return cls(index)

    @property
    def shape(self) -> tuple[int, int]:
        return self.index.ntotal, self.index.d

    def outgrown(self, count: int) -> bool:
        """Whether the index holds four times the rows that it was trained on."""
        return _num_lists(count) >= 2 * self.index.nlist

    def add(self, rows, keys) -> None:
        self.index.add_with_ids(rows, keys)

    def remove(self, keys) -> None:
        self.index.remove_ids(keys)

    def search(self, queries, k: int):
        return self.index.search(queries, k)

    def dump(self) -> np.ndarray:
        import faiss

        return faiss.serialize_index(self.index)

    @classmethod
    def parse(cls, content: np.ndarray, dim: int) -> Faiss:
        import faiss

        return cls(faiss.deserialize_index(content))


class Usearch:
    """A graph of neighbours in layers (HNSW), which a search follows towards the query."""

    package = "usearch"

    def __init__(self, index):
        self.index = index

    @staticmethod
    def check() -> None:
        import usearch.index  # noqa: F401

    @classmethod
    def build(cls, columns) -> Usearch:
        return cls(_usearch_index(columns.dim))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.index), self.index.ndim

    def outgrown(self, count: int) -> bool:
        return False

    def add(self, rows, keys) -> None:
        self.index.add(keys, rows)

    def remove(self, keys) -> None:
        self.index.remove(keys)

    def search(self, queries, k: int):
        found = self.index.search(queries, k)
        distances = np.reshape(found.distances, (len(queries), -1))
        keys = np.reshape(found.keys, distances.shape)
        # Behind the neighbours that were found stands what happened to be in memory.
        counts = np.reshape(getattr(found, "counts", keys.shape[1]), (-1, 1))
        missing = np.arange(keys.shape[1]) >= counts
        room = [[0, 0], [0, k - keys.shape[1]]]
        distances = np.pad(
            np.where(missing, np.inf, distances), room, constant_values=np.inf
        )
        keys = np.where(missing, 0, keys).astype(np.int64)
        keys = np.pad(np.where(missing, -1, keys), room, constant_values=-1)
        return (1 - distances).astype(np.float32), keys

    def dump(self) -> np.ndarray:
        return np.frombuffer(bytes(self.index.save()), np.uint8)

    @classmethod
    def parse(cls, content: np.ndarray, dim: int) -> Usearch:
        index = _usearch_index(dim)
        index.load(content.tobytes())
        return cls(index)


LIBRARIES = {"faiss": Faiss, "usearch": Usearch}


def _num_lists(count: int) -> int:
    return int(min(max(4 * np.sqrt(count), 1), 65_536, count))


def _usearch_index(dim: int):
    from usearch.index import Index

    return Index(ndim=dim, metric="ip", dtype="f32")


class Approximate:
    """The rows of an index in a library. Rows move there, keys stay: each row has one of its own."""

    def __init__(self, name: str, columns):
        self.name = name
        self._build(columns)

    def _build(self, columns) -> None:
        self.library = LIBRARIES[self.name].build(columns)
        self.keys, self._next = np.zeros(0, np.int64), 0
        for start in range(0, columns.count, _CHUNK):
            self._add(columns.rows(start, min(start + _CHUNK, columns.count)))

    def _add(self, rows: np.ndarray) -> None:
        keys = np.arange(self._next, self._next + len(rows))
        self.library.add(rows, keys)
        self.keys = np.concatenate([self.keys, keys])
        self._next += len(rows)
        self._order = None

    def add(self, rows: np.ndarray, columns) -> None:
        """Take rows in that `columns` has already got."""
        if self.library.outgrown(columns.count):
            self._build(columns)
        else:
            self._add(rows)

    def remove(self, places, holes, movers) -> None:
        """Take rows out; those at `movers` are at `holes` afterwards."""
        self.library.remove(self.keys[places])
        kept = len(self.keys) - len(places)
        self.keys[holes] = self.keys[movers]
        self.keys = self.keys[:kept].copy()
        self._order = None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 `(m, k)`, largest first, and int64 places `(m, k)`; -1 where fewer were found."""
        scores, keys = self.library.search(queries, k)
        if self._order is None:
            self._order = np.argsort(self.keys, kind="stable")
        at = np.searchsorted(self.keys, keys, sorter=self._order)
        places = self._order[np.minimum(at, len(self.keys) - 1)]
        places = np.where(self.keys[places] == keys, places, -1)
        order = np.lexsort((places, -scores))
        return (
            np.take_along_axis(scores, order, axis=1),
            np.take_along_axis(places, order, axis=1),
        )

    def dump(self) -> dict[str, np.ndarray]:
        """What `parse` needs, as arrays."""
        return {
            "library": self.library.dump(),
            "library_keys": self.keys,
            "library_next_key": np.int64(self._next),
        }

    @classmethod
    def parse(cls, name: str, arrays, shape: tuple[int, int]) -> Approximate:
        """What `dump` gave, for rows of that shape.

        Raises:
            ValueError: It belongs to other rows.
        """
        new = cls.__new__(cls)
        new.name = name
        new.library = LIBRARIES[name].parse(arrays["library"], shape[1])
        new.keys = arrays["library_keys"].astype(np.int64)
        new._next, new._order = int(arrays["library_next_key"]), None
        if (len(new.keys), *new.library.shape) != (shape[0], *shape):
            raise ValueError(f"its part of {name} has other rows.")
        return new
