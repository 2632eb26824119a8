"""`search.Index` and the product behind it against loops, a plain dict and closed forms."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_contrastive._numerics import top_k_columns
from keras_contrastive.search import Index
from tests.oracles import search as oracle

# Sums of 128 products of float32 unit rows: rounding stays below 5e-7.
CLOSE = 1e-6
LIBRARIES = ["faiss", "usearch"]


def normal(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def corners(n, *, seed=0) -> np.ndarray:
    """Corners of a cube: of length 4 in 16 dimensions, cosines are k / 8, exactly, in any order of the sums."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], (n, 16))


def clustered(n, *, seed=0, centres=40, dim=16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(99).normal(size=(centres, dim))
    rows = middle[rng.integers(0, centres, n)] + 0.3 * rng.normal(size=(n, dim))
    return rows.astype(np.float32)


def places(found, ids) -> np.ndarray:
    """Where each id found lies in `ids`."""
    ids = np.asarray(ids)
    order = np.argsort(ids)
    where = order[np.searchsorted(ids[order], found).clip(0, len(ids) - 1)]
    np.testing.assert_array_equal(ids[where], found)
    return where


def assert_scores_of(found, ids, cosines, tolerance=CLOSE) -> np.ndarray:
    """Largest first, no row twice, and each score the cosine of the row named. Gives the rows' places."""
    assert found.scores.dtype == np.float32
    assert found.ids.shape == found.scores.shape
    where = places(found.ids, ids)
    assert all(len(set(row)) == len(row) for row in where.tolist())
    assert (np.diff(found.scores, axis=1) <= 0).all()
    true = np.take_along_axis(cosines, where, axis=1)
    np.testing.assert_allclose(found.scores, true, rtol=0, atol=tolerance)
    return where


def assert_nearest(found, ids, rows, queries, k):
    """The nearest k in order: every score is that of its rank and of its row, so only near-ties may swap."""
    cosines = oracle.similarities(queries, rows)
    nearest, scores = oracle.neighbours(cosines, k)
    assert found.ids.shape == nearest.shape
    where = assert_scores_of(found, ids, cosines)
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=CLOSE)
    equal = np.diff(found.scores, axis=1) == 0
    assert (np.diff(where, axis=1)[equal] > 0).all()


def assert_same(found, expected):
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=CLOSE)


def assert_equal_indexes(index, expected):
    """A file's rows may be made unit rows once more, which moves last digits."""
    assert (index.dim, len(index)) == (expected.dim, len(expected))
    assert index.ids.dtype == expected.ids.dtype
    assert index.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(index.embeddings, expected.embeddings, atol=CLOSE)


def assert_refused(call, error=ValueError, *, match):
    """By one line that names the argument."""
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


# The nearest rows


@pytest.mark.parametrize(
    ("n", "dim"),
    [
        (1, 3),
        (2, 1),
        (31, 128),
        (32, 3),
        (33, 128),
        (64, 3),
        (65, 128),
        (1000, 1),
        (1000, 128),
        (5000, 3),
        (5000, 128),
    ],
)
def test_search_equals_loops(n, dim):
    rows, queries = normal(n, dim), normal(5, dim, seed=1)
    index = Index(rows)
    assert (len(index), index.dim) == (n, dim)
    for k in {1, 10, n, n + 7}:
        assert_nearest(index.search(queries, k), np.arange(n), rows, queries, k)


def test_search_of_more_rows_than_any_block_equals_loops():
    rows = normal(70_001, 4)
    rows[-1] = [1.0, 2.0, 3.0, 4.0]
    queries = np.stack([rows[-1], rows[0], normal(4, seed=1)])
    found = Index(rows).search(queries, 40)
    assert_nearest(found, np.arange(70_001), rows, queries, 40)
    assert found.ids[0, 0] == 70_000


def test_search_of_every_k_is_the_start_of_the_whole_ranking():
    index, queries = Index(normal(37, 6)), normal(3, 6, seed=1)
    whole = index.search(queries, 37)
    for k in (1, 2, 3, 7, 16, 31, 32, 33, 36, 37, 38, 64):
        found = index.search(queries, k)
        np.testing.assert_array_equal(found.ids, whole.ids[:, :k])
        np.testing.assert_allclose(found.scores, whole.scores[:, :k], atol=CLOSE)


def test_search_of_many_queries_is_that_of_each():
    rows, queries = normal(300, 8), normal(2500, 8, seed=1)
    found = Index(rows).search(queries, 3)
    assert_nearest(found, np.arange(300), rows, queries, 3)


@pytest.mark.parametrize("n", [1, 5, 33, 70])
def test_search_of_opposite_rows_gives_no_row_that_is_not_there(n):
    """All cosines are below 0: a zero that fills a block up would come first."""
    rows, queries = -1 - np.abs(normal(n, 4)), 1 + np.abs(normal(6, 4, seed=1))
    found = Index(rows).search(queries, n + 3)
    assert found.ids.shape == (6, n)
    assert found.scores.max() < -0.1
    assert_nearest(found, np.arange(n), rows, queries, n + 3)


def test_search_takes_ten_unless_told():
    assert Index(normal(20, 3)).search(normal(2, 3)).ids.shape == (2, 10)


def test_search_of_one_vector_is_that_of_its_row():
    index, queries = Index(normal(50, 6)), normal(3, 6, seed=1)
    one, all_three = index.search(queries[1], 4), index.search(queries, 4)
    assert one.ids.shape == one.scores.shape == (4,)
    np.testing.assert_array_equal(one.ids, all_three.ids[1])
    np.testing.assert_allclose(one.scores, all_three.scores[1], atol=CLOSE)


def test_search_of_no_queries_gives_no_rows():
    found = Index(normal(50, 6)).search(np.zeros((0, 6), np.float32), 4)
    assert found.ids.shape == found.scores.shape == (0, 4)
    assert (found.ids.dtype, found.scores.dtype) == (np.int64, np.float32)


def test_neighbours_are_unpacked_as_ids_and_scores():
    ids, scores = Index(normal(5, 3)).search(normal(2, 3), np.int64(2))
    assert (ids.dtype, scores.dtype) == (np.int64, np.float32)
    assert type(ids) is type(scores) is np.ndarray


# Ties, zeros, lengths


@pytest.mark.parametrize("n", [20, 700])
def test_search_of_equal_scores_gives_the_first_row(n):
    rows = corners(n)
    rows[n // 2 :] = rows[np.random.default_rng(1).integers(0, n // 2, n - n // 2)]
    queries = np.concatenate([rows[:4], corners(4, seed=2)])
    nearest, scores = oracle.neighbours(oracle.similarities(queries, rows), n)
    index = Index(rows)
    for k in (1, 5, 19, n):
        found = index.search(queries, k)
        np.testing.assert_array_equal(found.ids, nearest[:, :k])
        np.testing.assert_array_equal(found.scores, scores[:, :k])


def test_search_of_rows_that_are_all_equal_gives_them_in_order():
    index = Index(np.ones((200, 4)), ids=np.arange(200)[::-1])
    found = index.search([[2.0, 2.0, 2.0, 2.0], [-1.0, 0.0, 0.0, 0.0]], 150)
    np.testing.assert_array_equal(found.ids, np.tile(np.arange(199, 49, -1), (2, 1)))


def test_search_of_a_row_of_zeros_has_score_0():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    index = Index(rows)
    found = index.search([[3.0, 0.0], [0.0, 0.0]], 4)
    np.testing.assert_array_equal(found.ids, [[1, 0, 2, 3], [0, 1, 2, 3]])
    np.testing.assert_array_equal(found.scores, [[1, 0, 0, -1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(index.embeddings, rows)


def test_search_ignores_lengths():
    rng = np.random.default_rng(2)
    rows, queries = normal(200, 8), normal(5, 8, seed=1)
    lengths = 10.0 ** rng.uniform(-12, 30, (205, 1)).astype(np.float32)
    index = Index(rows * lengths[:200])
    np.testing.assert_allclose(np.linalg.norm(index.embeddings, axis=1), 1, atol=CLOSE)
    found = index.search(queries * lengths[200:], 10)
    assert_nearest(found, np.arange(200), rows, queries, 10)


def test_search_of_float64_rows_of_any_length_is_that_of_their_directions():
    rows = normal(9, 3).astype(np.float64)
    lengths = np.array([1e300, 1e39, 1e-60, 1, 1, 1, 1, 1e-300, 1e200])[:, None]
    found = Index(rows * lengths).search(rows[:3] * 1e250, 9)
    assert_nearest(found, np.arange(9), rows, rows[:3], 9)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8"])
def test_search_of_another_dtype_is_that_of_the_same_numbers(dtype):
    rows, queries = 50 + 20 * normal(60, 8), 50 + 20 * normal(4, 8, seed=1)
    rows, queries = rows.clip(1, 250).astype(dtype), queries.clip(1, 250).astype(dtype)
    index = Index(rows)
    assert index.embeddings.dtype == np.float32
    assert_nearest(index.search(queries, 5), np.arange(60), rows, queries, 5)


def test_search_takes_lists_and_tensors():
    rows, queries = normal(9, 3), normal(2, 3, seed=1)
    expected = Index(rows).search(queries, 4)
    assert_same(Index(rows.tolist()).search(queries.tolist(), 4), expected)
    assert_same(Index(tf.constant(rows)).search(tf.constant(queries), 4), expected)


def test_index_neither_changes_nor_follows_the_array_it_was_given():
    rows, queries = oracle.units(normal(40, 4)).astype(np.float32), normal(2, 4, seed=1)
    kept, ids = rows.copy(), np.arange(40) * 3
    index = Index(rows, ids)
    before = index.search(queries, 5)
    np.testing.assert_array_equal(rows, kept)
    rows[:], ids[:] = 0, 0
    assert_same(index.search(queries, 5), before)


# Ids


@pytest.mark.parametrize(
    "ids",
    [
        [2**62, -(2**63), 2**63 - 1, -1, 0, 7],
        np.array([9, 3, 200, 0, 1, 8], np.uint8),
        ["b", "a", "ä/ö 3.png", "", "b/" + "x" * 300, "1"],
        np.array(["f", "e", "d", "c", "bb", "aaa"]),
        np.array(["f", "e", "d", "c", "bb", "aaa"], object),
    ],
    ids=["huge", "uint8", "strings", "str array", "object array"],
)
def test_search_gives_the_ids_of_the_rows(ids):
    rows = normal(6, 5)
    index = Index(rows, ids)
    kind = np.asarray(ids).dtype.kind in "iu"
    assert (index.ids.dtype == np.int64) if kind else (index.ids.dtype.kind == "U")
    assert index.ids.tolist() == list(ids)
    found = index.search(rows, 2)
    assert found.ids.dtype.kind == index.ids.dtype.kind
    assert found.ids[:, 0].tolist() == list(ids)
    assert_nearest(found, index.ids, rows, rows, 2)


def test_ids_not_given_go_on_from_the_largest():
    index = Index(normal(3, 2))
    assert index.ids.tolist() == [0, 1, 2]
    index.add(normal(2, 2), ids=[50, 40])
    index.add(normal(2, 2))
    assert index.ids.tolist() == [0, 1, 2, 50, 40, 51, 52]
    index.remove([1, 40])
    index.add(normal(1, 2))
    assert sorted(index.ids.tolist()) == [0, 2, 50, 51, 52, 53]


def test_ids_not_given_go_on_from_negative_ones():
    index = Index(normal(2, 2), ids=[-5, -9])
    index.add(normal(2, 2))
    assert index.ids.tolist() == [-5, -9, -4, -3]


def test_ids_that_are_longer_than_those_before_are_kept_whole():
    index = Index(normal(2, 3), ids=["a", "b"])
    index.add(normal(2, 3, seed=1), ids=["train/" + "c" * 500, "d"])
    assert index.ids.tolist() == ["a", "b", "train/" + "c" * 500, "d"]
    assert index.search(normal(2, 3, seed=1), 1).ids[0, 0] == "train/" + "c" * 500


# Adding and removing


def test_adding_in_pieces_equals_adding_at_once():
    rows, queries = normal(700, 6), normal(4, 6, seed=1)
    index, start = Index(), 0
    assert (len(index), index.dim, index.ids.shape) == (0, None, (0,))
    for size in np.random.default_rng(3).integers(0, 40, 35):
        index.add(rows[start : start + size])
        start = min(start + size, 700)
    index.add(rows[start:])
    whole = Index(rows)
    np.testing.assert_array_equal(index.ids, whole.ids)
    np.testing.assert_allclose(index.embeddings, whole.embeddings, atol=CLOSE)
    np.testing.assert_allclose(index.embeddings, oracle.units(rows), atol=CLOSE)
    assert_nearest(index.search(queries, 20), np.arange(700), rows, queries, 20)


@pytest.mark.parametrize("named", [False, True], ids=["numbers", "names"])
def test_removed_rows_are_found_no_more(named):
    rows = normal(100, 6)
    ids = np.array([f"image {i}" for i in range(100)]) if named else np.arange(100) * 7
    index = Index(rows, ids)
    gone = np.random.default_rng(4).choice(100, 35, replace=False)
    index.remove(ids[gone])
    assert len(index) == len(index.ids) == len(index.embeddings) == 65
    assert set(index.ids) == set(np.delete(ids, gone))
    left = rows[places(index.ids, ids)]
    np.testing.assert_allclose(index.embeddings, oracle.units(left), atol=CLOSE)
    assert_nearest(index.search(rows, 70), index.ids, left, rows, 70)


def test_index_is_used_again_after_all_rows_were_removed():
    rows, queries = normal(70, 6), normal(3, 6, seed=1)
    index = Index(rows)
    index.remove(np.arange(70))
    assert len(index) == 0
    assert_refused(
        lambda: index.search(queries), match="(?i)empty|no embeddings|no row"
    )
    index.add(-rows[:40], ids=np.arange(40)[::-1])
    assert_nearest(
        index.search(queries, 50), np.arange(40)[::-1], -rows[:40], queries, 50
    )


def test_id_that_was_removed_may_come_back_with_another_row():
    index = Index(np.eye(4))
    index.remove([2])
    index.add([[1.0, 1.0, 0.0, 0.0]], ids=[2])
    assert index.search([1.0, 1.0, 0.0, 0.0], 1).ids.tolist() == [2]
    assert index.search([0.0, 0.0, 1.0, 0.0], 1).scores.tolist() == [0.0]


def test_adding_and_removing_nothing_changes_nothing():
    index = Index(normal(5, 3))
    index.add(np.zeros((0, 3)))
    index.add(np.zeros((0, 3)), ids=[])
    index.remove([])
    assert index.ids.tolist() == [0, 1, 2, 3, 4]
    assert_nearest(
        index.search(normal(2, 3), 9), index.ids, normal(5, 3), normal(2, 3), 9
    )


def assert_holds(index, model, queries, k=5):
    """The index has the rows of a dict, and finds the nearest of them."""
    assert sorted(index.ids.tolist()) == sorted(model)
    assert len(index) == len(model)
    if not model:
        return
    rows = np.array([model[i] for i in index.ids.tolist()])
    np.testing.assert_allclose(index.embeddings, oracle.units(rows), atol=CLOSE)
    exact = index.search(queries, k, exact=True)
    assert_nearest(exact, index.ids, rows, queries, k)
    found = index.search(queries, k)
    if index.is_approximate:
        assert found.ids.shape == exact.ids.shape
        assert_scores_of(found, index.ids, oracle.similarities(queries, rows), 1e-5)
    else:
        assert_same(found, exact)


def run(index, steps, *, seed=0):
    """Adds and removes rows of an index and of a dict. A step is (whether to add, how many)."""
    rng = np.random.default_rng(seed)
    model: dict = {}
    gone: list = []
    for adds, size in steps:
        if adds:
            new = set(rng.integers(-(2**63), 2**63 - 1, size).tolist()) | set(gone[:2])
            new = rng.permutation(np.array(sorted(new - set(model)), np.int64))
            rows = rng.normal(size=(len(new), 3))
            index.add(rows, new)
            model.update(zip(new.tolist(), rows))
        else:
            gone = rng.permutation(np.array(sorted(model), np.int64))[:size].tolist()
            index.remove(np.array(gone, np.int64))
            for i in gone:
                del model[i]
        assert_holds(index, model, rng.normal(size=(4, 3)))
    return model


@settings(
    max_examples=20,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 70)), max_size=8))
def test_index_holds_what_was_added_and_not_removed(steps):
    index = Index()
    model = run(index, steps)
    assert len(index) == len(model)
    assert not index.is_approximate


# Refusals


def state(index):
    return index.dim, index.ids.tolist(), np.array(index.embeddings).tolist()


BAD_ROWS = {
    "nan": [[0.0, 1.0, np.nan]],
    "inf": [[0.0, 1.0, 2.0], [0.0, -np.inf, 1.0]],
    "vector": [0.0, 1.0, 2.0],
    "rank 3": [[[0.0, 1.0, 2.0]]],
    "text": [["a", "b", "c"]],
    "ragged": [[0.0, 1.0, 2.0], [0.0, 1.0]],
    "complex": [[0j, 1j, 2j]],
}


@pytest.mark.parametrize("rows", BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_embeddings_are_refused_and_change_nothing(rows):
    match = "`embeddings`.*Received"
    assert_refused(lambda: Index(rows), (ValueError, TypeError), match=match)
    for index in (Index(), Index(normal(3, 3), ids=[4, 5, 6])):
        before = index.dim, len(index)
        assert_refused(lambda: index.add(rows), (ValueError, TypeError), match=match)  # noqa: B023
        assert (index.dim, len(index)) == before
    index.add(normal(1, 3))
    assert index.ids.tolist() == [4, 5, 6, 7]
    assert np.isfinite(index.search(normal(2, 3), 4).scores).all()


def test_embeddings_of_another_dim_are_refused():
    index = Index(normal(3, 3))
    before = state(index)
    assert_refused(lambda: index.add(normal(2, 4)), match="`embeddings`.*3.*4")
    assert state(index) == before


BAD_QUERIES = {
    **{name: rows for name, rows in BAD_ROWS.items() if name != "vector"},
    "another dim": [[1.0, 2.0]],
    "vector of another dim": [1.0, 2.0],
    "vector with nan": [1.0, np.nan, 2.0],
    "scalar": 1.0,
}


@pytest.mark.parametrize("queries", BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_bad_queries_are_refused(queries):
    index = Index(normal(3, 3))
    for search in (index.search, index.recall):
        assert_refused(
            lambda: search(queries, 2),  # noqa: B023
            (ValueError, TypeError),
            match="`queries`.*Received",
        )


BAD_IDS = {
    "there already": ([7, 5], "`ids`.*5"),
    "twice": ([7, 8, 7], "`ids`.*7"),
    "too few": ([7], "`ids`"),
    "rank 2": ([[7], [8]], "`ids`"),
    "names": (["a", "b"], "`ids`"),
    "floats": ([7.5, 8.5], "`ids`"),
    "whole floats": (np.array([7.0, 8.0]), "`ids`"),
    "beyond int64": (np.array([7, 2**63 + 1], np.uint64), "`ids`"),
    "booleans": ([True, False], "`ids`"),
    "None among them": ([7, None], "`ids`"),
    "a number and a name": ([7, "a"], "`ids`"),
}


@pytest.mark.parametrize(("ids", "match"), BAD_IDS.values(), ids=BAD_IDS)
def test_bad_ids_are_refused_and_nothing_is_added(ids, match):
    index = Index(normal(3, 3), ids=[4, 5, 6])
    before = state(index)
    rows = normal(len(ids) if match != "`ids`" else 2, 3, seed=1)
    assert_refused(lambda: index.add(rows, ids), (ValueError, TypeError), match=match)
    assert state(index) == before
    index.add(rows)  # nor are numbers used up
    assert index.ids.tolist()[3:] == [7 + i for i in range(len(rows))]


def test_refused_ids_are_named_by_the_first():
    index = Index(normal(3, 3), ids=["ant", "bee", "cat"])
    for ids, first in ((["x", "cat", "ant"], "cat"), (["p", "q", "q", "p"], "q")):
        rows = normal(len(ids), 3)
        assert_refused(lambda: index.add(rows, ids), match=f"`ids`.*'{first}'")  # noqa: B023
    assert index.ids.tolist() == ["ant", "bee", "cat"]


def test_ids_are_needed_beside_names():
    index = Index(normal(2, 3), ids=["a", "b"])
    assert_refused(lambda: index.add(normal(1, 3)), match="`ids`")
    assert_refused(lambda: index.add(normal(1, 3), [3]), match="`ids`")
    assert index.ids.tolist() == ["a", "b"]


def test_ids_not_given_do_not_pass_the_largest_integer():
    index = Index(normal(1, 3), ids=[2**63 - 2])
    index.add(normal(1, 3))
    assert index.ids.tolist() == [2**63 - 2, 2**63 - 1]
    assert_refused(lambda: index.add(normal(1, 3)), match="`ids`")
    assert len(index) == 2


@pytest.mark.parametrize(
    ("own", "unknown", "match"),
    [
        ([4, 5, 6], [4, 77, 88], "`ids`.*77"),
        ([4, 5, 6], ["4"], "`ids`"),
        (["a", "b", "c"], ["a", "z"], "`ids`.*z"),
        (["1", "2", "c"], [1], "`ids`"),
    ],
    ids=["number", "name for a number", "name", "number for a name"],
)
def test_unknown_ids_are_refused_and_nothing_is_removed(own, unknown, match):
    index = Index(normal(3, 3), own)
    before = state(index)
    assert_refused(lambda: index.remove(unknown), match=match)
    assert state(index) == before
    assert set(index.search(normal(1, 3), 3).ids[0]) == set(own)


@pytest.mark.parametrize("k", [0, -1, True, 2.0, "3", None])
def test_bad_k_is_refused(k):
    index = Index(normal(3, 3))
    assert_refused(lambda: index.search(normal(2, 3), k), match="`k`.*Received")
    assert_refused(lambda: index.recall(normal(2, 3), k), match="`k`.*Received")


@pytest.mark.parametrize("name", ["annoy", "FAISS", True, ""])
def test_unknown_approximate_is_refused(name):
    assert_refused(lambda: Index(approximate=name), match="`approximate`.*'usearch'")


def test_search_of_an_empty_index_is_refused():
    for index in (Index(), Index(approximate=None)):
        assert_refused(
            lambda: index.search([[1.0, 2.0]]),  # noqa: B023
            match="(?i)empty|no embeddings|no row",
        )


# Pairs


def wide_gap(cosines, about: int) -> float:
    """A threshold that no cosine is near, below about so many of them."""
    largest = np.sort(cosines)[::-1][about // 2 : about * 2]
    at = np.argmax(-np.diff(largest))
    assert largest[at] - largest[at + 1] > 1e-5
    return float(largest[at] + largest[at + 1]) / 2


def as_dict(pairs, ids) -> dict:
    """Cosine by places (i, j), i < j, after a look at the form."""
    assert pairs.first.shape == pairs.second.shape == pairs.scores.shape
    assert pairs.scores.dtype == np.float32
    assert (np.diff(pairs.scores) <= 0).all()
    both = np.sort(
        np.stack([places(pairs.first, ids), places(pairs.second, ids)], axis=1)
    )
    found = dict(zip(map(tuple, both.tolist()), pairs.scores.tolist()))
    assert len(found) == len(pairs.scores)  # no pair twice
    return found


def assert_groups(groups, expected, ids):
    found = [places(group, ids).tolist() for group in groups]
    assert all(len(set(group)) == len(group) for group in found)
    assert [len(group) for group in found] == [len(group) for group in expected]
    assert {frozenset(group) for group in found} == set(map(frozenset, expected))


@pytest.mark.parametrize("n", [33, 400])
def test_near_pairs_and_duplicates_equal_loops(n):
    rows = clustered(n, dim=6, centres=20)
    ids = np.random.default_rng(5).permutation(n) * 10
    every = np.array(list(oracle.near_pairs(rows, -2).values()))
    index = Index(rows, ids)
    for about in (4, n // 3, 3 * n):
        threshold = wide_gap(every, about)
        expected = oracle.near_pairs(rows, threshold)
        found = as_dict(index.near_pairs(threshold), ids)
        assert found == pytest.approx(expected, abs=CLOSE)
        groups = index.duplicates(threshold)
        assert all(group.dtype == np.int64 for group in groups)
        assert_groups(groups, oracle.groups(expected), ids)


def test_near_pairs_of_many_rows_are_the_copies():
    # A cosine of two random directions in 32 dimensions passes 0.95 once in 1e16.
    rows = normal(6000, 32)
    rows[5000:] = -2 * rows[:1000]
    rows[:1000] *= -1
    found = as_dict(Index(rows).near_pairs(0.95), np.arange(6000))
    assert found == pytest.approx({(i, 5000 + i): 1.0 for i in range(1000)}, abs=CLOSE)


@pytest.mark.parametrize("threshold", [1.0, 0.5, 0.0, -1.0])
def test_near_pairs_at_the_threshold_count(threshold):
    rows = np.concatenate([corners(40), np.zeros((2, 16))])
    rows[20:30] = rows[:10]
    rows[30:35] = -rows[:5]
    expected = oracle.near_pairs(rows, threshold)
    index = Index(rows)
    assert as_dict(index.near_pairs(threshold), np.arange(42)) == expected
    assert_groups(index.duplicates(threshold), oracle.groups(expected), np.arange(42))
    if threshold == -1:
        assert len(expected) == 42 * 41 / 2


def test_near_pairs_of_names_are_names():
    index = Index([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], ids=["a", "b", "image c"])
    pairs = index.near_pairs(0.9)
    assert {pairs.first[0], pairs.second[0]} == {"a", "image c"}
    assert pairs.scores.tolist() == [1.0]
    (group,) = index.duplicates(0.9)
    assert (set(group), group.dtype.kind) == ({"a", "image c"}, "U")


def test_near_pairs_leave_out_removed_rows():
    index = Index(np.eye(3)[[0, 1, 0, 0, 1]], ids=[10, 11, 12, 13, 14])
    index.remove([10, 11])
    assert set(as_dict(index.near_pairs(0.5), [12, 13, 14])) == {(0, 1)}
    assert [set(group) for group in index.duplicates(0.5)] == [{12, 13}]


def test_near_pairs_of_one_row_are_none():
    index = Index(normal(1, 3))
    assert [len(column) for column in index.near_pairs(-1.0)] == [0, 0, 0]
    assert index.duplicates(-1.0) == []


def test_duplicates_of_a_long_chain_are_one_group():
    """Neighbours on an arc have cosine 1 - 4.5e-6, the next but one 1 - 1.8e-5: 1999 links in a row."""
    angles = np.random.default_rng(6).permutation(2000) * 0.003
    index = Index(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert len(index.near_pairs(1 - 1e-5).scores) == 1999
    (group,) = index.duplicates(1 - 1e-5)
    assert sorted(group) == list(range(2000))


@pytest.mark.parametrize("threshold", [np.nan, "high", None])
def test_bad_threshold_is_refused(threshold):
    index = Index(normal(3, 3))
    for find in (index.near_pairs, index.duplicates):
        assert_refused(lambda: find(threshold), match="`threshold`.*Received")  # noqa: B023


# Recall


def test_recall_of_an_exact_index_is_1():
    index = Index(normal(100, 4))
    assert index.recall(normal(7, 4, seed=1)) == 1.0
    assert type(index.recall(normal(7, 4, seed=1), 200)) is float
    assert index.recall(normal(4, seed=1), 3) == 1.0


# Files


def saved(folder, **settings):
    index = Index(normal(40, 4), **settings)
    index.save(folder / "index.npz")
    return index


@pytest.mark.parametrize("named", [False, True], ids=["numbers", "names"])
def test_index_comes_back_from_its_file(tmp_path, named):
    ids = [f"ä {i}" for i in range(90)] if named else np.arange(90)[::-1] * 2**50
    rows, queries = normal(90, 5), normal(4, 5, seed=1)
    index = Index(rows, ids)
    index.remove(np.asarray(ids)[[3, 60, 89]])
    index.save(str(tmp_path / "index.npz"))
    loaded = Index.load(str(tmp_path / "index.npz"))
    assert_equal_indexes(loaded, index)
    assert_same(loaded.search(queries, 20), index.search(queries, 20))
    loaded.remove(loaded.ids[:5])
    loaded.add(rows[3:4], [ids[3]])
    left = rows[places(loaded.ids, ids)]
    assert_nearest(loaded.search(queries, 20), loaded.ids, left, queries, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["index.npz"]


def test_ids_go_on_after_a_file(tmp_path):
    saved(tmp_path, ids=np.arange(40) + 3)
    index = Index.load(tmp_path / "index.npz")
    index.add(normal(1, 4))
    assert index.ids[-1] == 43


def test_file_of_an_index_opens_in_numpy(tmp_path):
    index = saved(tmp_path, ids=[f"{i}.png" for i in range(40)])
    with np.load(tmp_path / "index.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["ids"], index.ids)
        np.testing.assert_array_equal(arrays["embeddings"], index.embeddings)
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_file_of_embeddings_and_ids_alone_opens_as_an_index(tmp_path):
    """What `scripts/embed.py` writes has other arrays beside them."""
    rows, ids = normal(50, 4), np.array([f"train/{i}" for i in range(50)])
    path = tmp_path / "embedded.npz"
    np.savez(path, embeddings=rows, ids=ids, labels=np.zeros(50, int), about="{}")
    index = Index.load(path)
    assert index.ids.tolist() == ids.tolist()
    assert not index.is_approximate
    assert_nearest(index.search(rows[:3], 5), ids, rows, rows[:3], 5)


def test_empty_index_comes_back_empty(tmp_path):
    index = saved(tmp_path)
    index.remove(np.arange(40))
    index.save(tmp_path / "index.npz")
    loaded = Index.load(tmp_path / "index.npz")
    assert len(loaded) == 0
    loaded.add(normal(3, 4))
    assert len(loaded) == 3


def test_file_is_written_anew(tmp_path):
    saved(tmp_path)
    other = Index(normal(3, 7), ids=["x", "y", "z"])
    other.save(tmp_path / "index.npz")
    assert_equal_indexes(Index.load(tmp_path / "index.npz"), other)


# NumPy 1.26 leaves its half-written archive to the garbage collector, which cannot close it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("there", [True, False], ids=["over a file", "a new file"])
def test_writer_that_fails_midway_leaves_what_was_there(tmp_path, there):
    resource = pytest.importorskip("resource")
    path = tmp_path / "index.npz"
    old = saved(tmp_path)
    if not there:
        path.unlink()
    large = Index(normal(5000, 16))  # 320,000 bytes of embeddings
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            large.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path] * there
    if there:
        assert_equal_indexes(Index.load(path), old)
    large.save(path)
    assert len(Index.load(path)) == 5000


def damage(path, kind):
    whole = path.read_bytes()
    rows, ids = np.eye(3), np.arange(3)
    files = {
        "of other arrays": {"x": rows},
        "without embeddings": {"ids": ids},
        "of too few ids": {"embeddings": rows, "ids": ids[:2]},
        "of one id twice": {"embeddings": rows, "ids": [0, 1, 1]},
        "of vectors": {"embeddings": rows[0], "ids": ids},
        "of nan": {"embeddings": rows * np.nan, "ids": ids},
        "of pickles": {"embeddings": rows, "ids": np.array(["a", "b", "c"], object)},
    }
    if kind in files:
        np.savez(path, **files[kind])
    elif kind == "of one array":
        with path.open("wb") as file:
            np.save(file, rows)
    else:
        contents = {
            "of text": b"epoch,loss\n1,0.5\n",
            "of nothing": b"",
            "cut at the end": whole[:-1],
            "cut in half": whole[: len(whole) // 2],
            "cut at the start": whole[:10],
        }
        path.write_bytes(contents[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "of text",
        "of nothing",
        "of one array",
        "of other arrays",
        "without embeddings",
        "of too few ids",
        "of one id twice",
        "of vectors",
        "of nan",
        "of pickles",
        "cut at the end",
        "cut in half",
        "cut at the start",
    ],
)
def test_file_that_is_no_index_is_refused_by_one_line(tmp_path, kind):
    saved(tmp_path)
    damage(tmp_path / "index.npz", kind)
    assert_refused(lambda: Index.load(tmp_path / "index.npz"), match=r"index\.npz")


def test_file_with_a_changed_byte_is_refused_by_one_line(tmp_path):
    index = saved(tmp_path)
    path = tmp_path / "index.npz"
    whole = path.read_bytes()
    at = whole.find(index.embeddings.tobytes())
    at = len(whole) // 2 if at < 0 else at + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert_refused(lambda: Index.load(path), match=r"index\.npz")


def test_file_that_is_missing_is_refused_by_one_line(tmp_path):
    for path in (tmp_path / "index.npz", tmp_path / "no" / "index.npz"):
        assert_refused(lambda: Index.load(path), OSError, match=r"index\.npz")  # noqa: B023
    assert_refused(lambda: Index.load(tmp_path), (OSError, ValueError), match="test_")


# Through a library


@pytest.fixture(params=LIBRARIES)
def library(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module")
def large():
    """By library: an index of 3000 rows in 40 clusters, under numbers of every kind. Not to be changed."""
    indexes: dict = {}

    def get(library):
        if library not in indexes:
            indexes[library] = Index(
                clustered(3000), LARGE_IDS, approximate=library, approximate_from=1000
            )
        return indexes[library]

    return get


# -1 is faiss's "none", and usearch's keys are unsigned.
LARGE_IDS = np.random.default_rng(7).permutation(
    np.concatenate([[-1, -(2**63), 2**63 - 1, 2**62, 0], np.arange(2995) * 10 - 9999])
)


def assert_found(index, model_rows, queries, k=10, *, recall=0.9):
    """Scores are cosines, no row comes twice, and most of the nearest are there."""
    cosines = oracle.similarities(queries, model_rows)
    nearest, _ = oracle.neighbours(cosines, k)
    found = index.search(queries, k)
    assert index.is_approximate
    assert found.ids.shape == nearest.shape
    where = assert_scores_of(found, index.ids, cosines, 1e-5)
    assert oracle.recall(where.tolist(), nearest.tolist()) >= recall
    return where, nearest


def test_approximate_search_finds_nine_of_ten(library, large):
    index, queries = large(library), clustered(60, seed=1)
    assert index.ids.tolist() == LARGE_IDS.tolist()
    where, nearest = assert_found(index, clustered(3000), queries)
    share = oracle.recall(where.tolist(), nearest.tolist())
    assert index.recall(queries) == pytest.approx(share, abs=1e-9)
    assert index.recall(queries, 1) >= 0.9


def test_exact_search_of_an_approximate_index_equals_loops(library, large):
    queries = clustered(10, seed=1)
    found = large(library).search(queries, 10, exact=True)
    assert_nearest(found, LARGE_IDS, clustered(3000), queries, 10)


def test_approximate_search_has_the_forms_of_exact_search(library, large):
    index, queries = large(library), clustered(3, seed=1)
    one = index.search(queries[1], 4)
    assert one.ids.shape == (4,)
    np.testing.assert_array_equal(one.ids, index.search(queries, 4).ids[1])
    none = index.search(queries[:0], 4)
    assert none.ids.shape == none.scores.shape == (0, 4)
    for bad in (queries[:, :3], queries * np.nan):
        assert_refused(lambda: index.search(bad), match="`queries`")  # noqa: B023
    assert_refused(lambda: index.search(queries, 0), match="`k`")


@pytest.mark.parametrize("k", [700, 3000, 3010])
def test_approximate_search_for_very_many_gives_them_all(library, large, k):
    """More than a few cells hold: no "none" of the library's may fill the rest."""
    queries = clustered(3, seed=1)
    assert_found(large(library), clustered(3000), queries, k)


def test_index_is_approximate_from_the_size_told(library):
    rows, queries = clustered(400), clustered(5, seed=1)
    index = Index(rows[:299], approximate=library, approximate_from=300)
    assert not index.is_approximate
    assert_nearest(index.search(queries, 5), index.ids, rows[:299], queries, 5)
    index.add(rows[299:300])
    assert index.is_approximate
    index.add(rows[300:])
    assert_found(index, rows, queries, 5, recall=0.8)  # 25 neighbours
    index.remove(np.arange(150))
    assert not index.is_approximate
    left = rows[index.ids]
    assert_nearest(index.search(queries, 5), index.ids, left, queries, 5)
    assert Index(rows, approximate=library).is_approximate is False
    assert Index(rows).is_approximate is False


def test_rows_added_to_an_approximate_index_are_found(library):
    index = Index(clustered(500), approximate=library, approximate_from=400)
    assert index.is_approximate
    new = clustered(300, seed=2)
    for start in range(0, 300, 60):
        index.add(new[start : start + 60])
    found = index.search(new, 1)
    assert np.mean(found.ids[:, 0] == np.arange(500, 800)) >= 0.95
    rows = np.concatenate([clustered(500), new])
    assert_found(index, rows, clustered(60, seed=1))


def test_approximate_index_that_grows_among_other_rows_still_finds(library):
    """Trained on few rows in one corner, then 20 times as many lie elsewhere."""
    rows = np.concatenate([clustered(200, centres=2), clustered(3800, seed=2)])
    index = Index(rows[:200], approximate=library, approximate_from=200)
    for start in range(200, 4000, 950):
        index.add(rows[start : start + 950])
    assert_found(index, rows, clustered(60, seed=1))


def test_rows_removed_from_an_approximate_index_never_come_back(library):
    rows = clustered(1200)
    index = Index(rows, approximate=library, approximate_from=300)
    gone = np.random.default_rng(8).choice(1200, 700, replace=False)
    for start in range(0, 700, 100):
        index.remove(gone[start : start + 100])
    left = rows[index.ids]
    assert len(left) == 500
    where, _ = assert_found(index, left, rows)  # the removed themselves among them
    assert not np.isin(index.ids[where], gone).any()
    index.add(-rows[gone], ids=gone)  # and under these ids now lie other rows
    assert_found(index, oracle_rows(index, rows, gone), rows[:100])
    again = index.search(-rows[gone], 1)
    assert np.mean(again.ids[:, 0] == gone) >= 0.95


def test_approximate_search_goes_through_the_library_after_removals_too(library):
    """Rows without clusters are hard to find: a recall of 1 would be the exact search in its place."""
    index = Index(normal(4000, 96), approximate=library, approximate_from=1000)
    index.remove(np.arange(2000))  # so that all rows that are left may move
    assert index.is_approximate
    assert 0.1 < index.recall(normal(60, 96, seed=1)) < 0.995


def oracle_rows(index, rows, turned) -> np.ndarray:
    sign = np.where(np.isin(index.ids, turned), -1, 1)[:, None]
    return sign * rows[index.ids]


def test_approximate_index_is_used_again_after_all_rows_were_removed(library):
    names = np.array([f"image {i}" for i in range(500)])
    rows = clustered(500)
    index = Index(rows, names, approximate=library, approximate_from=200)
    assert index.search(rows[3], 1).ids.tolist() == ["image 3"]
    index.remove(names)
    assert len(index) == 0
    assert_refused(lambda: index.search(rows), match="(?i)empty|no embeddings|no row")
    index.add(rows[::-1], names)
    assert_found(index, rows[::-1], clustered(40, seed=1))


def test_approximate_index_holds_what_was_added_and_not_removed(library):
    index = Index(approximate=library, approximate_from=60)
    rng = np.random.default_rng(9)
    steps = [(rng.random() < 0.6, int(rng.integers(1, 90))) for _ in range(25)]
    model = run(index, steps)
    assert index.is_approximate == (len(model) >= 60)


def test_refused_rows_and_ids_leave_an_approximate_index(library):
    rows, queries = clustered(300), clustered(5, seed=1)
    index = Index(rows, approximate=library, approximate_from=200)
    before, found = state(index), index.search(queries, 5)
    broken = np.where(np.arange(16) == 3, np.nan, rows[:5])
    assert_refused(lambda: index.add(broken), match="`embeddings`")
    assert_refused(lambda: index.add(rows[:2], [900, 7]), match="`ids`.*7")
    assert_refused(lambda: index.remove([7, 900]), match="`ids`.*900")
    assert state(index) == before
    assert_same(index.search(queries, 5), found)


def test_approximate_index_comes_back_from_its_file(library, tmp_path):
    rows, queries = clustered(800), clustered(20, seed=1)
    index = Index(rows, approximate=library, approximate_from=400)
    index.remove(np.arange(0, 800, 5))
    index.save(tmp_path / "index.npz")
    loaded = Index.load(tmp_path / "index.npz")
    assert loaded.is_approximate
    assert_equal_indexes(loaded, index)
    assert_same(loaded.search(queries, 10), index.search(queries, 10))
    with np.load(tmp_path / "index.npz", allow_pickle=False) as arrays:
        assert {"embeddings", "ids"} <= set(arrays.files)
        assert all(arrays[name].dtype != object for name in arrays.files)
    loaded.add(rows[:160:5] * 2, np.arange(0, 160, 5))
    loaded.remove([1, 2, 3])
    where, _ = assert_found(loaded, rows[loaded.ids], queries)
    assert not np.isin(loaded.ids[where], [1, 2, 3]).any()
    loaded.remove(loaded.ids[:300])
    assert not loaded.is_approximate  # 400 rows come back too


def test_index_below_its_size_is_approximate_after_its_file_too(library, tmp_path):
    saved(tmp_path, approximate=library, approximate_from=50)
    index = Index.load(tmp_path / "index.npz")
    assert not index.is_approximate
    index.add(normal(10, 4))
    assert index.is_approximate


def test_pairs_of_an_approximate_index_are_exact(library, large):
    pairs = large(library).near_pairs(0.997)
    expected = oracle.similarities(clustered(3000), clustered(3000))
    first, second = places(pairs.first, LARGE_IDS), places(pairs.second, LARGE_IDS)
    np.testing.assert_allclose(pairs.scores, expected[first, second], atol=CLOSE)
    above = np.triu(expected, 1)
    assert (above >= 0.997 + CLOSE).sum() <= len(pairs.scores)
    assert len(pairs.scores) <= (above >= 0.997 - CLOSE).sum()


@pytest.mark.parametrize(
    ("name", "package"), [("faiss", "faiss-cpu"), ("usearch", "usearch")]
)
def test_library_that_is_missing_is_named_with_its_package(monkeypatch, name, package):
    for module in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):  # so it is indeed missing
        importlib.import_module(name)
    errors = (ValueError, ImportError)
    match = f"pip install {package}"
    assert_refused(lambda: Index(approximate=name), errors, match=match)
    assert_refused(lambda: Index(normal(3, 3), approximate=name), errors, match=match)
    assert len(Index(normal(3, 3))) == 3


def test_file_of_an_index_whose_library_is_missing_names_it(
    monkeypatch, tmp_path, library
):
    saved(tmp_path, approximate=library, approximate_from=30)
    for module in [m for m in sys.modules if m.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    errors = (ValueError, ImportError)
    assert_refused(
        lambda: Index.load(tmp_path / "index.npz"), errors, match="pip install"
    )


# The product behind it


def top_function(mode, k, dim, capacity):
    """`top_k_columns` of fixed k as a function of the rest."""

    def find(queries, columns, count):
        return top_k_columns(queries, columns, count, k)

    if mode == "eager":
        return find
    if mode == "xla":
        return tf.function(find, jit_compile=True)
    signature = [  # any number of queries; the columns are an index's, of known shape
        tf.TensorSpec([None, dim], tf.float32),
        tf.TensorSpec([dim, capacity], tf.float32),
        tf.TensorSpec([], tf.int64),
    ]
    return tf.function(find, input_signature=signature)


MODES = ["eager", "graph", "xla"]


def assert_top_columns(found, queries, rows, k):
    """The best of `rows`, which are the columns that count; what is not there is -inf, at the end."""
    values, indices = (np.asarray(x) for x in found)
    assert values.shape == indices.shape == (len(queries), k)
    assert values.dtype == np.float32
    there = min(k, len(rows))
    assert (values[:, there:] == -np.inf).all()
    products = np.array([[q @ r for r in rows] for q in queries.astype(np.float64)])
    products = products.reshape(len(queries), len(rows))
    nearest, scores = oracle.neighbours(products, there)
    np.testing.assert_array_equal(indices[:, :there], nearest)
    np.testing.assert_allclose(values[:, :there], scores, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("capacity", "k"),
    [(32, 1), (32, 40), (128, 5), (128, 33), (1056, 3), (1056, 50)],
)
def test_top_k_columns_equals_loops_for_any_count(mode, capacity, k):
    """Products are -m / 16, so exact, with many ties, and all below 0; columns that do not count are the best."""
    rng = np.random.default_rng(10)
    rows = rng.integers(1, 5, (capacity, 4)) / 4
    queries = -(rng.integers(1, 5, (7, 4)) / 4)
    find = top_function(mode, k, 4, capacity)
    for count in (1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 1000, 1024, 1055, 1056):
        if count > capacity:
            break
        columns = np.where(np.arange(capacity) < count, rows.T, -9.0)
        found = find(
            tf.constant(queries, tf.float32),
            tf.constant(columns, tf.float32),
            tf.constant(count, tf.int64),
        )
        assert_top_columns(found, queries, rows[:count], k)


@pytest.mark.parametrize("mode", MODES)
def test_top_k_columns_of_random_numbers_equals_loops(mode):
    rows, queries = oracle.units(normal(5024, 24)), oracle.units(normal(6, 24, seed=1))
    found = top_function(mode, 7, 24, 5024)(
        tf.constant(queries, tf.float32),
        tf.constant(rows.T, tf.float32),
        tf.constant(5000, tf.int64),
    )
    assert_top_columns(found, queries, rows[:5000], 7)


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64], ids=["int32", "int64"])
def test_top_k_columns_takes_both_kinds_of_count(dtype):
    columns = tf.constant(np.tile([[1.0, 2.0]], (1, 32)), tf.float32)  # (1, 64)
    found = top_k_columns(tf.ones([1, 1]), columns, tf.constant(34, dtype), 3)
    np.testing.assert_array_equal(found[0], [[2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(found[1], [[1, 3, 5]])


def test_top_k_columns_of_no_queries_gives_no_rows():
    find = top_function("graph", 4, 3, 64)
    found = find(tf.zeros([0, 3]), tf.zeros([3, 64]), tf.constant(50, tf.int64))
    assert [tuple(x.shape) for x in found] == [(0, 4), (0, 4)]


def test_top_k_columns_of_no_columns_gives_minus_infinity():
    values, _ = top_k_columns(tf.ones([2, 3]), tf.ones([3, 32]), tf.constant(0), 4)
    np.testing.assert_array_equal(values, np.full((2, 4), -np.inf))


def test_top_k_columns_works_in_a_saved_model(tmp_path):
    rows = oracle.units(normal(96, 4)).astype(np.float32)
    module = tf.Module()
    module.columns = tf.Variable(rows.T)
    module.count = tf.Variable(70, dtype=tf.int64)
    module.find = tf.function(
        lambda queries: top_k_columns(queries, module.columns, module.count, 6),
        input_signature=[tf.TensorSpec([None, 4], tf.float32)],
    )
    tf.saved_model.save(module, str(tmp_path))
    queries = oracle.units(normal(5, 4, seed=1)).astype(np.float32)
    loaded = tf.saved_model.load(str(tmp_path))  # which its function does not keep
    found = loaded.find(tf.constant(queries))
    assert_top_columns(found, queries, rows[:70], 6)


def test_numbers_are_never_given_twice_even_in_an_emptied_index():
    index = Index(np.eye(3))
    index.remove([0, 1, 2])
    index.add(np.eye(1, 3), ids=[0])
    index.add(np.eye(1, 3))
    assert index.ids.tolist() == [0, 3]


def test_embeddings_of_other_dtypes_are_normalised_when_they_are_loaded(tmp_path):
    for dtype in (np.uint8, np.float16, np.float64):
        rows = np.array([[16, 1], [3, 4]], dtype)
        np.savez(tmp_path / "rows.npz", embeddings=rows)
        loaded = Index.load(tmp_path / "rows.npz").embeddings
        np.testing.assert_allclose(np.linalg.norm(loaded, axis=1), 1, atol=1e-6)


def test_ids_with_nul_are_refused():
    with pytest.raises(ValueError, match="`ids` must not hold the character NUL"):
        Index(np.eye(2), ids=["a", "a\0"])


def test_many_values_of_k_and_sizes_are_searched_without_a_warning(caplog):
    index = Index(np.random.default_rng(0).normal(size=(200, 4)))
    for k in range(1, 9):
        index.search(np.ones((1, 4)), k=k)
        index.add(np.random.default_rng(k).normal(size=(900, 4)))
    assert "retracing" not in caplog.text


def test_duplicates_of_very_many_equal_rows_are_one_group():
    rows = np.tile([[1.0, 2.0]], (9000, 1))
    rows[17] = [2.0, -1.0]
    (group,) = Index(rows).duplicates(0.999)
    np.testing.assert_array_equal(group, np.delete(np.arange(9000), 17))
