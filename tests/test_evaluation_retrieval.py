"""`evaluation.retrieval` against loops, scikit-learn and closed forms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
    top_k_accuracy_score,
)
from sklearn.neighbors import KNeighborsClassifier

from keras_contrastive.evaluation import retrieval
from tests.oracles import evaluation as oracle

# Similarities are float32, good to 1e-7: in 50 rows no two neighbours swap, and each figure is a mean of
# ratios of small integers.
EXACT = 1e-6


@pytest.fixture
def blobs():
    """Four overlapping classes of different sizes in 5 dimensions, in random order: 53 rows."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2, 3], [20, 15, 11, 7]))
    rows = rng.normal(size=(4, 5))[labels] + 0.8 * rng.normal(size=(53, 5))
    return rows, labels


@pytest.fixture
def parts(blobs):
    """References, their labels, queries of the same classes and their labels."""
    rows, labels = blobs
    return rows[:33], labels[:33], rows[33:], labels[33:]


def assert_scores(got, expected, tolerance=EXACT):
    for name, value in expected.items():
        assert getattr(got, name) == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize("block", [1, 7, 53, 4096])
def test_retrieval_equals_loops_in_blocks_of_any_size(blobs, block):
    expected = oracle.retrieval(*blobs)
    assert 0.2 < expected["map_at_r"] < expected["r_precision"] < 0.9  # not trivial
    assert_scores(retrieval(*blobs, block=block), expected)


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_retrieval_of_queries_equals_loops(parts, block):
    rows, labels, queries, query_labels = parts
    expected = oracle.retrieval(
        rows, labels, queries=queries, query_labels=query_labels
    )
    got = retrieval(
        rows, labels, queries=queries, query_labels=query_labels, block=block
    )
    assert got.num_queries == 20
    assert_scores(got, expected)


def test_retrieval_equals_loops_beyond_the_default_block():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 1200)  # R is about 400, and the last block is shorter
    rows = rng.normal(size=(3, 4))[labels] + rng.normal(size=(1200, 4))
    # Of 1200 references some are nearer to each other than 1e-7 and may swap; a swap changes a query's
    # scores by less than 1e-3, and few queries have one.
    assert_scores(retrieval(rows, labels), oracle.retrieval(rows, labels), 1e-5)


def test_retrieval_of_many_queries_is_that_of_each_again(parts):
    rows, labels, queries, query_labels = parts
    once = retrieval(rows, labels, queries=queries, query_labels=query_labels)
    many = retrieval(
        rows,
        labels,
        queries=np.tile(queries, (300, 1)),  # 6000 queries
        query_labels=np.tile(query_labels, 300),
    )
    assert many.num_queries == 300 * once.num_queries
    assert_scores(many, {**once._asdict(), "num_queries": 6000})


@pytest.mark.parametrize("ks", [(1,), (3, 2), (1, 52, 53, 1000)])
def test_recall_has_one_value_for_each_k_asked_for(blobs, ks):
    got = retrieval(*blobs, ks=ks)
    assert got.recall_at_k == pytest.approx(
        oracle.retrieval(*blobs, ks=ks)["recall_at_k"]
    )
    assert all(got.recall_at_k[k] == 1.0 for k in ks if k >= 52)
    # Neither the ranks beyond max(ks) nor those before R may go lost.
    assert_scores(got, {**retrieval(*blobs)._asdict(), "recall_at_k": got.recall_at_k})


def test_retrieval_of_ks_as_numpy_integers_has_plain_keys(blobs):
    got = retrieval(*blobs, ks=np.array([1, 5]))
    assert got.recall_at_k == retrieval(*blobs, ks=(1, 5)).recall_at_k


def test_retrieval_gives_plain_numbers(blobs):
    got = retrieval(*blobs)
    for value in (got.precision_at_1, got.r_precision, got.map_at_r):
        assert type(value) is float
    assert type(got.mean_reciprocal_rank) is float
    assert type(got.num_queries) is int
    assert {type(k) for k in got.recall_at_k} == {int}
    assert {type(v) for v in got.recall_at_k.values()} == {float}


# scikit-learn


def test_map_at_r_is_the_average_precision_of_the_r_nearest(blobs):
    rows, labels = blobs
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    values = []
    for i in range(len(rows)):
        others = np.delete(np.arange(len(rows)), i)
        similarities, relevant = unit[others] @ unit[i], labels[others] == labels[i]
        nearest = np.argsort(-similarities)[: relevant.sum()]
        found = relevant[nearest].sum()
        if found:
            average = average_precision_score(relevant[nearest], similarities[nearest])
            values.append(average * found / relevant.sum())
        else:
            values.append(0.0)
    assert retrieval(*blobs).map_at_r == pytest.approx(np.mean(values), abs=EXACT)


def test_precision_at_1_is_the_accuracy_of_the_nearest_neighbour(parts):
    rows, labels, queries, query_labels = parts
    nearest = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
    expected = nearest.fit(rows, labels).score(queries, query_labels)
    got = retrieval(rows, labels, queries=queries, query_labels=query_labels)
    assert got.precision_at_1 == got.recall_at_k[1] == pytest.approx(expected)


def test_retrieval_of_one_reference_a_class_is_the_ranking_of_labels(blobs):
    """With R = 1, R-precision and MAP@R are the accuracy, recall is top-k, and 1 / rank is LRAP."""
    queries, query_labels = blobs
    rows = np.random.default_rng(2).normal(size=(4, 5)) + queries[:4]
    similarities = np.array([[oracle.cosine(q, r) for r in rows] for q in queries])
    got = retrieval(
        rows, np.arange(4), queries=queries, query_labels=query_labels, ks=(1, 2, 3)
    )
    top = {k: top_k_accuracy_score(query_labels, similarities, k=k) for k in (1, 2, 3)}
    assert got.recall_at_k == pytest.approx(top)
    assert (
        got.precision_at_1 == got.r_precision == got.map_at_r == pytest.approx(top[1])
    )
    assert got.mean_reciprocal_rank == pytest.approx(
        label_ranking_average_precision_score(np.eye(4)[query_labels], similarities)
    )


# Closed forms


@pytest.mark.parametrize("repeats", [2, 300])
def test_retrieval_of_perfect_embeddings_is_1(repeats):
    labels = np.repeat(np.arange(7), repeats)
    got = retrieval(np.eye(7)[labels], labels)
    assert got == (1.0, {1: 1.0, 5: 1.0, 10: 1.0}, 1.0, 1.0, 1.0, 7 * repeats)


def test_retrieval_of_the_worst_embeddings_ranks_the_class_last():
    # Each class is one row and its opposite; the other classes are orthogonal, so nearer: 4 of them, rank 5.
    rows = np.concatenate([np.eye(3), -np.eye(3)])
    got = retrieval(rows, [0, 1, 2, 0, 1, 2], ks=(1, 4, 5))
    assert got[:-2] == (0.0, {1: 0.0, 4: 0.0, 5: 1.0}, 0.0, 0.0)
    assert got.mean_reciprocal_rank == pytest.approx(0.2)


def test_map_at_r_of_a_ranking_worked_by_hand():
    # Musgrave et al., 2020, Fig. 3: R = 10 with hits at 1; at 1 and 10; at 1 and 2; all: 10, 12, 20, 100 %.
    angles = np.deg2rad(np.arange(1, 21))  # the references, from near to far
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for hits, expected in [
        ([1], 0.1),
        ([1, 10], 0.12),
        ([1, 2], 0.2),
        (range(1, 11), 1.0),
    ]:
        labels = np.zeros(20, int)
        labels[[hit - 1 for hit in hits]] = 1
        labels[len(labels) - (10 - len(hits)) :] = 1  # the others of the class are last
        got = retrieval(rows, labels, queries=[[1.0, 0.0]], query_labels=[1])
        assert got.map_at_r == pytest.approx(expected, abs=EXACT)
        assert got.r_precision == pytest.approx(len(hits) / 10, abs=EXACT)


def test_retrieval_of_one_class_is_1():
    rows = np.random.default_rng(3).normal(size=(9, 3))
    assert retrieval(rows, np.full(9, 4)) == (
        1.0,
        {1: 1, 5: 1, 10: 1},
        1.0,
        1.0,
        1.0,
        9,
    )


# Ties, and the query itself


@pytest.mark.parametrize("block", [2, 4096])
def test_retrieval_of_equal_rows_takes_them_in_order(block):
    """Ties go to the lower index: each query sees the rows as they lie, without itself."""
    labels = np.array([0, 1, 1, 0, 2, 1, 0])
    got = retrieval(np.ones((7, 4)), labels, ks=(1, 2, 3), block=block)
    # Each query of class 0 or 1, its ranking of matches from rank 1 on, R = 2:
    #   0: 1 1 0 2 1 0 -> ranks 3, 6      1: 0 1 0 2 1 0 -> 2, 5      2: 0 1 0 2 1 0 -> 2, 5
    #   3: 0 1 1 2 1 0 -> ranks 1, 6      5: 0 1 1 0 2 0 -> 2, 3      6: 0 1 1 0 2 1 -> 1, 4
    assert got.recall_at_k == pytest.approx({1: 2 / 6, 2: 5 / 6, 3: 1.0})
    assert got.r_precision == pytest.approx(0.5 * 5 / 6)
    assert got.map_at_r == pytest.approx((0.5 + 0.5 + 0.25 * 3) / 6)
    assert got.mean_reciprocal_rank == pytest.approx((1 + 1 + 0.5 * 3 + 1 / 3) / 6)
    assert got.num_queries == 6  # the one of class 2 has no other


@pytest.mark.parametrize("block", [3, 4096])
def test_retrieval_of_many_ties_equals_loops(block):
    # Corners of a cube in 16 dimensions: lengths are 4 and similarities k / 8, exactly. Each of 17 values is
    # that of many references.
    rng = np.random.default_rng(4)
    corners, labels = rng.choice([-1.0, 1.0], (120, 16)), rng.integers(0, 4, 120)
    corners[60:] = corners[rng.permutation(60)]  # and each query has a copy
    assert_scores(
        retrieval(corners, labels, block=block), oracle.retrieval(corners, labels)
    )


def test_retrieval_of_a_tie_at_the_last_place_keeps_the_lower_index():
    rows = [[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    for labels, hit in (([5, 5, 7, 7], 1.0), ([5, 7, 5, 5], 0.0)):
        got = retrieval(rows, labels, queries=[[1.0, 0.0]], query_labels=[5], ks=(1,))
        assert got.recall_at_k == {1: hit}


def test_retrieval_of_copies_counts_the_copy_but_not_the_query():
    rows = np.random.default_rng(5).normal(size=(10, 8))
    twice = np.concatenate([rows, rows])
    own_class = retrieval(twice, np.tile(np.arange(10), 2))
    assert own_class == (1.0, {1: 1.0, 5: 1.0, 10: 1.0}, 1.0, 1.0, 1.0, 20)
    # A class over both halves but never over a row and its copy: the copy is nearest, and wrong.
    labels = np.concatenate([np.arange(10), (np.arange(10) + 1) % 10])
    other_class = retrieval(twice, labels)
    assert other_class.precision_at_1 == other_class.map_at_r == 0.0
    assert other_class.mean_reciprocal_rank <= 0.5


def test_retrieval_of_given_queries_leaves_none_out(blobs):
    """Handed in as queries, the rows find themselves."""
    rows, labels = blobs
    got = retrieval(rows, labels, queries=rows, query_labels=labels)
    assert got.precision_at_1 == got.mean_reciprocal_rank == 1.0
    assert_scores(
        got, oracle.retrieval(rows, labels, queries=rows, query_labels=labels)
    )


def test_retrieval_of_equal_random_rows_takes_them_in_order():
    """Rows of the same numbers are equally near, wherever they lie in a matrix product."""
    rng = np.random.default_rng(6)
    rows, labels = np.repeat(rng.normal(size=(5, 37)), 23, axis=0), np.arange(115) % 3
    order = rng.permutation(115)
    got = retrieval(rows[order], labels[order])
    assert_scores(got, oracle.retrieval(rows[order], labels[order]))


# Which queries count


def test_unknown_labels_ask_nothing_and_match_nothing(blobs):
    rows, labels = blobs
    labels = np.where(np.arange(53) % 4 == 0, -1, labels)
    expected = oracle.retrieval(rows, labels)
    got = retrieval(rows, labels)
    assert got.num_queries == expected["num_queries"] == (labels >= 0).sum()
    assert_scores(got, expected)
    with_far = retrieval(  # they do take up places
        np.concatenate([rows, rows[labels >= 0]]),
        np.concatenate([labels, np.full((labels >= 0).sum(), -1)]),
    )
    assert with_far.precision_at_1 == 0.0


def test_unknown_query_labels_ask_nothing(parts):
    rows, labels, queries, query_labels = parts
    query_labels = np.where(np.arange(20) < 6, -1, query_labels)
    got = retrieval(
        rows,
        np.where(labels == 3, -1, labels),
        queries=queries,
        query_labels=query_labels,
    )
    kept = (query_labels >= 0) & (query_labels != 3)
    expected = retrieval(
        rows,
        np.where(labels == 3, 99, labels),
        queries=queries[kept],
        query_labels=query_labels[kept],
    )
    assert got.num_queries == kept.sum() < 14
    assert got == expected


def test_queries_without_a_reference_are_left_out(blobs):
    rows, labels = blobs
    lonely = np.concatenate([labels, [50, 51]])
    rows = np.concatenate([rows, rows[:2] + 0.1])
    got = retrieval(rows, lonely)
    assert got.num_queries == 53
    assert_scores(got, oracle.retrieval(rows, lonely))


@pytest.mark.parametrize("labels", [[0, 1, 2], [-1, -1, -1], [0, -1, 1]])
def test_retrieval_without_any_query_that_counts_is_refused(labels):
    with pytest.raises(ValueError, match=r"Received: "):
        retrieval(np.eye(3), labels)


# What must not matter


def test_retrieval_ignores_lengths_and_rotation(blobs):
    rows, labels = blobs
    rng = np.random.default_rng(7)
    expected = retrieval(rows, labels)
    lengths = 2.0 ** rng.integers(-20, 20, (53, 1))  # powers of two change no digit
    assert retrieval(rows * lengths, labels) == expected
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    assert_scores(retrieval(rows @ rotation, labels), expected._asdict())


def test_retrieval_ignores_the_order_of_rows(blobs):
    rows, labels = blobs
    order = np.random.default_rng(8).permutation(53)
    assert_scores(
        retrieval(rows[order], labels[order]), retrieval(rows, labels)._asdict()
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int32])
def test_retrieval_ignores_names_and_form_of_labels(blobs, dtype):
    rows, labels = blobs
    renamed = np.array([3, 200, 0, 77], dtype)[labels]
    expected = retrieval(rows, labels)
    assert retrieval(tf.constant(rows), renamed[:, None]) == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_retrieval_of_another_dtype_is_that_of_the_same_numbers(blobs, dtype):
    rows, labels = blobs
    assert_scores(
        retrieval(rows.astype(dtype), labels),
        oracle.retrieval(rows.astype(dtype).astype(np.float64), labels),
    )


def test_retrieval_of_pictures_is_that_of_their_flat_rows():
    rng = np.random.default_rng(9)
    images, labels = rng.integers(0, 256, (30, 4, 4, 3), np.uint8), np.arange(30) % 3
    flat = images.reshape(30, -1).astype(np.float64)
    assert retrieval(images, labels) == retrieval(flat, labels)


def test_retrieval_leaves_its_arguments_as_they_are(blobs):
    rows, labels = blobs
    rows = rows.astype(np.float32)
    before = rows.copy(), labels.copy()
    retrieval(rows, labels, queries=rows, query_labels=labels)
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(labels, before[1])


# Memory

GROWTH = """
import resource
import numpy as np
from keras_contrastive.evaluation import retrieval

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MB

rng = np.random.default_rng(0)
rows = rng.normal(size=(10_000, 32)).astype("float32")
retrieval(rows[:500], np.arange(500) % 2)
before = peak()
few = retrieval(rows, np.arange(10_000) // 10)
many = retrieval(
    rows, np.arange(10_000) % 2, queries=rows[:4000], query_labels=np.arange(4000) % 2
)
print(peak() - before, few.num_queries, many.num_queries)
"""


def test_memory_of_retrieval_is_that_of_blocks():
    """Similarities of all pairs alone are 400 MB in float32 with R = 9, then 160 MB with R = 5000."""
    found = subprocess.run(
        [sys.executable, "-c", GROWTH],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    grown, *num_queries = map(int, found.stdout.split())
    assert num_queries == [10_000, 4000]
    assert grown < 150


# Bad input


def test_retrieval_of_labels_of_another_length_is_refused(blobs):
    rows, labels = blobs
    with pytest.raises(ValueError, match=r"label for each row.*\(52,\).*\(53, 5\)"):
        retrieval(rows, labels[:-1])
    with pytest.raises(ValueError, match=r"label for each row.*\(52,\).*\(53, 5\)"):
        retrieval(rows, labels, queries=rows, query_labels=labels[:-1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_retrieval_of_numbers_that_are_not_finite_is_refused(blobs, value):
    rows, labels = blobs
    broken = rows.copy()
    broken[3, 1] = value
    with pytest.raises(ValueError, match=r"must be finite. Received: 1 of 53 rows"):
        retrieval(broken, labels)
    with pytest.raises(ValueError, match=r"`queries` must be finite. .*1 of 53 rows"):
        retrieval(rows, labels, queries=broken, query_labels=labels)


def test_retrieval_of_nothing_is_refused(blobs):
    rows, labels = blobs
    with pytest.raises(ValueError, match=r"at least one row.*\(0, 5\)"):
        retrieval(rows[:0], labels[:0])
    with pytest.raises(ValueError, match=r"at least one row.*\(0, 5\)"):
        retrieval(rows, labels, queries=rows[:0], query_labels=labels[:0])


def test_retrieval_of_queries_of_another_width_is_refused(blobs):
    rows, labels = blobs
    with pytest.raises(ValueError, match=r"same width.*Received: .*5.*4"):
        retrieval(rows, labels, queries=rows[:, :4], query_labels=labels)


@pytest.mark.parametrize("given", ["queries", "query_labels"])
def test_retrieval_of_queries_without_labels_or_the_reverse_is_refused(blobs, given):
    rows, labels = blobs
    value = {"queries": rows, "query_labels": labels}[given]
    with pytest.raises(ValueError, match=r"`queries`.*`query_labels`|`query_labels`"):
        retrieval(rows, labels, **{given: value})


@pytest.mark.parametrize(
    "options",
    [{"ks": (0,)}, {"ks": (1, 2.5)}, {"ks": (5, -1)}, {"block": 0}, {"block": 2.5}],
    ids=str,
)
def test_retrieval_of_an_option_out_of_range_is_refused(blobs, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}.* integer"):
        retrieval(*blobs, **options)
