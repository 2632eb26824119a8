"""An index of embeddings: add, remove, search, find duplicates, save."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_contrastive._checks import check_choice, check_finite, check_integer
from keras_contrastive.search._columns import Columns
from keras_contrastive.search._files import read_arrays, write_arrays
from keras_contrastive.search._inputs import as_array, as_ids, unit_embeddings
from keras_contrastive.search._libraries import LIBRARIES, Approximate

# Two equal rows have a cosine of 1 up to so much, in float32.
_ROUNDING = 1e-6
_ARRAYS = (
    *("embeddings", "ids", "largest_id", "approximate", "approximate_from"),
    *("library", "library_keys", "library_next_key"),
)


class Neighbours(NamedTuple):
    """What a search found, one row a query."""

    ids: np.ndarray
    """int64 or str `(queries, k)`: the nearest first."""
    scores: np.ndarray
    """float32 `(queries, k)`: their cosine similarity, -1..1 up to rounding."""


class Pairs(NamedTuple):
    """Pairs of rows that are alike, the most similar first."""

    first: np.ndarray
    """int64 or str `(pairs,)`."""
    second: np.ndarray
    """int64 or str `(pairs,)`: of each pair the id whose row comes later."""
    scores: np.ndarray
    """float32 `(pairs,)`: their cosine similarity."""


class Index:
    """Embeddings that are searched by cosine similarity, each under a number or a name.

    Exact unless `approximate` is given: every row is compared, in blocks, on the GPU if there is one. That takes the
    memory of the embeddings, dim * n floats, 64 MiB of scores at a time, and a Python dictionary of the ids.

    Args:
        embeddings: Numbers `(n, dim)` of any length, or None: the first rows, as `add` takes them.
        ids: `(n,)`, integers or strings, or None: their ids, as `add` takes them.
        approximate: None, "faiss" (an inverted file, `IndexIVFFlat`) or "usearch" (HNSW): the library that searches
            once there are `approximate_from` rows. It misses a few neighbours (`recall` says how many), keeps a
            second copy of the embeddings, and has to be installed.
        approximate_from: Integer >= 1. Below it the search is exact, and about as fast. faiss trains
            when the index has grown to it, and again whenever it has grown 4-fold.

    Raises:
        ImportError: The library of `approximate` is not installed.
        ValueError: As `add` does, or `approximate` or `approximate_from` is none of the allowed.

    Example:
        >>> index = Index([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]], ids=["east", "north", "between"])
        >>> index.search([[1.0, 0.1]], k=2).ids
        array([['east', 'between']], dtype='<U7')
    """

    def __init__(
        self,
        embeddings=None,
        ids=None,
        *,
        approximate: str | None = None,
        approximate_from: int = 200_000,
    ):
        check_choice("approximate", approximate, [None, *LIBRARIES])
        check_integer(1, approximate_from=approximate_from)
        if approximate is not None:
            _check_installed(approximate)
        self.approximate = approximate
        self.approximate_from = int(approximate_from)
        self._columns: Columns | None = None
        self._library: Approximate | None = None
        self._ids = np.zeros(0, np.int64)  # with room for more behind the last
        self._places: dict[int | str, int] = {}  # the row of each id
        self._next_id, self._numbered = 0, False  # True once it had numbers as ids
        if embeddings is not None:
            self.add(embeddings, ids)
        elif ids is not None:
            raise ValueError(
                "`ids` must come with `embeddings`. Received: embeddings=None."
            )

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._places)

    @property
    def dim(self) -> int | None:
        """The width of the rows; None while nothing was added."""
        return None if self._columns is None else self._columns.dim

    @property
    def ids(self) -> np.ndarray:
        """int64 or str `(n,)`: the id of each row. A copy."""
        return self._ids_of(np.arange(len(self)))

    @property
    def embeddings(self) -> np.ndarray:
        """float32 `(n, dim)`: the rows, of unit length (rows of zeros stayed), in the order of `ids`. A copy."""
        if self._columns is None:
            return np.zeros((0, 0), np.float32)
        return self._columns.rows(0, len(self))

    @property
    def is_approximate(self) -> bool:
        """Whether `search` goes through the library now."""
        return self._library is not None and len(self) >= self.approximate_from

    def add(self, embeddings, ids=None) -> None:
        """Add rows.

        Args:
            embeddings: Numbers `(n, dim)` of any length; only their direction is kept. A row of zeros has the cosine
                0 with all.
            ids: `(n,)`, integers that fit int64 or strings, of the kind that the index has got, none twice. None:
                numbers from the largest that the index has ever had on, from 0 in a new one.

        Raises:
            ValueError: `embeddings` are no finite numbers or of another width than the rows here, or `ids` are not as
                said above. Nothing is added then.

        Example:
            >>> index = Index()
            >>> index.add([[1.0, 0.0], [0.0, 1.0]])
            >>> index.ids
            array([0, 1])
        """
        rows = unit_embeddings(embeddings, "embeddings", self.dim)
        ids = self._new_ids(ids, len(rows))
        if len(rows):
            self._put(rows, ids)

    def _put(self, rows: np.ndarray, ids: np.ndarray, library=None) -> None:
        """Take in what was checked. A library that has the rows already comes with them."""
        self._append(rows, ids)
        if library is not None:
            self._library = library
        elif self._library is not None:
            self._library.add(rows, self._columns)
        elif self.approximate and len(self) >= self.approximate_from:
            self._library = Approximate(self.approximate, self._columns)

    def _new_ids(self, ids, count: int) -> np.ndarray:
        """The ids for so many new rows, checked."""
        if ids is None:
            if len(self) and self._ids.dtype == object:
                raise ValueError(
                    "`ids` must be given: the index has names, which no number follows. Received: ids=None."
                )
            if self._next_id + count > 2**63:
                raise ValueError(
                    f"`ids` must be given: no number follows {self._next_id - 1}. Received: ids=None."
                )
            return np.arange(self._next_id, self._next_id + count, dtype=np.int64)
        ids = as_ids(ids)
        if len(ids) != count:
            raise ValueError(
                "`ids` must hold one id for each row of `embeddings`. "
                f"Received: {len(ids)} ids, {count} rows."
            )
        if count and len(self) and ids.dtype != self._ids.dtype:
            kinds = "integers", "strings"
            has, got = kinds[:: -1 if self._ids.dtype == object else 1]
            raise ValueError(
                f"`ids` must be {has}, as those that the index has. Received: {got}."
            )
        self._check_new(ids.tolist())
        return ids

    def _check_new(self, ids: list) -> None:
        distinct = set(ids)
        if len(distinct) == len(ids) and self._places.keys().isdisjoint(distinct):
            return
        seen = set()
        for one in ids:
            if one in self._places:
                raise ValueError(
                    f"`ids` must be new. Received: {one!r}, which the index has already."
                )
            if one in seen:
                raise ValueError(f"`ids` must be unique. Received: {one!r} twice.")
            seen.add(one)

    def _append(self, rows: np.ndarray, ids: np.ndarray) -> None:
        count, total = len(self), len(self) + len(ids)
        if self._columns is None:
            self._columns = Columns(rows.shape[1])
        self._columns.append(rows)
        if not count:
            self._ids = self._ids[:0].astype(ids.dtype)
        if total > len(self._ids):
            longer = np.empty(max(total, len(self._ids) * 3 // 2), ids.dtype)
            longer[:count] = self._ids[:count]
            self._ids = longer
        self._ids[count:total] = ids
        if ids.dtype != object:
            largest = int(ids.max()) + 1
            self._next_id = max(self._next_id, largest) if self._numbered else largest
            self._numbered = True
        self._places.update(zip(ids.tolist(), range(count, total)))

    def remove(self, ids) -> None:
        """Remove rows. The last rows take their places: the order of the others is not kept.

        Args:
            ids: `(n,)`, or a single id.

        Raises:
            ValueError: The index has no such id. Nothing is removed then.

        Example:
            >>> index = Index([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"])
            >>> index.remove(["a"])
            >>> index.ids
            array(['b'], dtype='<U1')
        """
        single = isinstance(ids, str) or np.ndim(ids) == 0
        names = as_ids([ids] if single else ids).tolist()
        for one in names:
            if one not in self._places:
                raise ValueError(
                    f"`ids` must be ids of the index. Received: {one!r}, which it has not."
                )
        if not names:
            return
        places = np.unique(np.array([self._places[one] for one in names], np.int64))
        holes, movers = self._columns.remove(places)
        for one in names:
            self._places.pop(one, None)
        self._ids[holes] = self._ids[movers]
        self._places.update(zip(self._ids[holes].tolist(), holes.tolist()))
        if self._library is not None and len(self):
            self._library.remove(places, holes, movers)
        elif not len(self):
            self._library = None

    def search(self, queries, k: int = 10, *, exact: bool = False) -> Neighbours:
        """The k rows with the largest cosine similarity to each query.

        Args:
            queries: Numbers `(m, dim)` of any length, or one query `(dim,)`.
            k: Integer >= 1; of an index with fewer rows all come.
            exact: Compare every row even if the index is approximate.

        Returns:
            `Neighbours` of shapes `(m, k)`, or `(k,)` for one query; the nearest first, of equally similar rows the
            one that comes first in `ids`. An approximate search may miss some.

        Raises:
            ValueError: The index is empty, the queries are no finite numbers or of another width, or `k` is no
                integer >= 1.

        Example:
            >>> Index([[1.0, 0.0], [0.0, 1.0]]).search([0.0, 3.0], k=1)
            Neighbours(ids=array([1]), scores=array([1.], dtype=float32))
        """
        queries, single = self._queries(queries, k)
        places, scores = self._search(queries, k, exact)
        ids = self._ids_of(places)
        return Neighbours(ids[0], scores[0]) if single else Neighbours(ids, scores)

    def _queries(self, queries, k: int) -> tuple[np.ndarray, bool]:
        """Unit rows, and whether only one query was given, not in a row."""
        check_integer(1, k=k)
        if not len(self):
            raise ValueError("The index is empty: there is nothing to search in.")
        queries = as_array(queries, "queries")
        single = queries.ndim == 1
        if single:
            queries = queries[None]
        return unit_embeddings(queries, "queries", self.dim), single

    def _search(self, queries, k: int, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Places int64 `(m, k)` and scores."""
        k = min(int(k), len(self))
        if exact or not self.is_approximate or not len(queries):
            scores, places = self._columns.search(queries, k)
            return places, scores
        scores, places = self._library.search(queries, k)
        # Where the part that was searched has fewer than k rows.
        short = np.flatnonzero((places < 0).any(axis=1))
        if len(short):
            scores[short], places[short] = self._columns.search(queries[short], k)
        return places, scores

    def recall(self, queries, k: int = 10) -> float:
        """The share of the true k nearest rows that `search` finds: 1 unless the index is approximate.

        Args:
            queries: Numbers `(m, dim)`, m >= 1: such as will be searched for; a few hundred are enough.
            k: Integer >= 1.

        Returns:
            Float in 0..1, the mean over the queries. Of rows that are equally similar the other may have been found,
            which counts as missed.

        Raises:
            ValueError: As `search` does, or there are no queries.
        """
        queries, _ = self._queries(queries, k)
        if not len(queries):
            raise ValueError("`queries` must hold at least one row. Received: none.")
        if not self.is_approximate:
            return 1.0
        true, found = (self._search(queries, k, exact)[0] for exact in (True, False))
        hits = [len(np.intersect1d(*rows)) for rows in zip(true, found)]
        return float(np.sum(hits) / true.size)

    def near_pairs(self, threshold: float) -> Pairs:
        """All pairs of rows that are at least so similar: exact, each pair once.

        Compares every two rows, in blocks: the memory grows with the pairs that are found alone, 20 bytes for each,
        the time with the square of the rows.

        Args:
            threshold: Float, the least cosine similarity. Rounding, 1e-6, is allowed for: 1 finds equal rows.

        Returns:
            `Pairs`, the most similar first, of equally similar ones in the order of `ids`.

        Raises:
            ValueError: `threshold` is not finite.

        Example:
            >>> Index([[1.0, 0.0], [0.0, 1.0], [4.0, 3.0]]).near_pairs(0.7)
            Pairs(first=array([0]), second=array([2]), scores=array([0.8], dtype=float32))
        """
        none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        parts = zip(none, *self._pairs(threshold))
        first, second, scores = map(np.concatenate, parts)
        order = np.lexsort((second, first, -scores))
        return Pairs(
            self._ids_of(first[order]), self._ids_of(second[order]), scores[order]
        )

    def _pairs(self, threshold: float):
        check_finite(threshold=threshold)
        columns = Columns(1) if self._columns is None else self._columns
        return columns.pairs(float(threshold) - _ROUNDING)

    def duplicates(self, threshold: float) -> list[np.ndarray]:
        """Groups of rows that are alike: rows are in one group if a chain of `near_pairs` leads from one to the other.

        Args:
            threshold: Float, the least cosine similarity of a pair, as in `near_pairs`.

        Returns:
            The ids of each group of two or more, in the order of `ids`; the largest group first, of equally large
            ones that whose first id comes first.

        Raises:
            ValueError: `threshold` is not finite.

        Example:
            >>> Index([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], ids=["a", "b", "c"]).duplicates(0.99)
            [array(['a', 'c'], dtype='<U1')]
        """
        root = np.arange(len(self))
        for first, second, _ in self._pairs(threshold):
            root = _joined(root, first, second)
        order = np.argsort(root, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(root[order])) + 1)
        groups = [self._ids_of(group) for group in groups if len(group) > 1]
        return sorted(groups, key=len, reverse=True)

    def save(self, path) -> None:
        """Write the index to one .npz file: whole or not at all. A file of that name is replaced.

        `np.load` opens it as well: its arrays `embeddings` and `ids` are those of the index.

        Args:
            path: Where to; missing folders are made, and no ending is added.
        """
        arrays = {
            "embeddings": self.embeddings,
            "ids": self.ids,
            "largest_id": np.int64(self._next_id - 1),
            "approximate": np.array(self.approximate or ""),
            "approximate_from": np.int64(self.approximate_from),
        }
        if self._library is not None:
            arrays.update(self._library.dump())
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path) -> Index:
        """The index that `save` wrote, or one of any .npz file with the arrays `embeddings` and, if need be, `ids`.

        Args:
            path: The file. `scripts/embed.py` writes such ones.

        Returns:
            `Index`.

        Raises:
            FileNotFoundError: There is no such file.
            ImportError: The index is approximate, and its library is not installed.
            ValueError: The file is damaged, or no such file.
        """
        arrays = read_arrays(path, _ARRAYS)
        if "embeddings" not in arrays:
            raise ValueError(f"'{path}' is no index: it has no array `embeddings`.")
        try:
            return cls._of(arrays)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise ValueError(f"'{path}' is no index, or damaged: {error}") from error

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray]) -> Index:
        options = {}
        if "approximate" in arrays:
            options["approximate"] = str(arrays["approximate"]) or None
            options["approximate_from"] = int(arrays["approximate_from"])
        index = cls(**options)
        embeddings = arrays["embeddings"]
        if embeddings.shape != (0, 0):
            rows = unit_embeddings(embeddings, "embeddings", None)
            # Once more would change their last digits.
            if embeddings.dtype == np.float32:
                squared = np.einsum("nd,nd->n", embeddings, embeddings)
                ready = np.abs(squared - 1) < 1e-6
                rows[ready] = embeddings[ready]
            index._columns = Columns(rows.shape[1])
            ids = index._new_ids(arrays.get("ids"), len(rows))
            library = None
            if "library" in arrays:
                library = Approximate.parse(index.approximate, arrays, rows.shape)
            if len(rows):
                index._put(rows, ids, library)
        if "largest_id" in arrays:
            index._next_id = int(arrays["largest_id"]) + 1
            index._numbered = True
        return index

    def _ids_of(self, places: np.ndarray) -> np.ndarray:
        ids = self._ids[: len(self)][places]
        return ids.astype(str) if ids.dtype == object else ids


def _check_installed(approximate: str) -> None:
    library = LIBRARIES[approximate]
    try:
        library.check()
    except ImportError as error:
        raise ImportError(
            f"approximate={approximate!r} needs {approximate}: pip install {library.package}."
        ) from error


def _joined(root: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Put the groups of each pair together. `root` is the least place of each one's group, int64 `(n,)`."""
    while True:
        one, other = root[first], root[second]
        apart = one != other
        if not apart.any():
            return root
        first, second, one, other = (a[apart] for a in (first, second, one, other))
        # Every root takes the least root that a pair joins it to; then all take their root's root.
        least = root.copy()
        np.minimum.at(least, one, other)
        np.minimum.at(least, other, one)
        while True:
            shorter = least[least]
            if np.array_equal(shorter, least):
                break
            least = shorter
        root = least[root]
